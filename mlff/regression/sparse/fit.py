"""The fit of a sparse model: functionals chosen, frames looked at, noise found where none is stated, solved."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mlff.arguments import is_number
from mlff.data.batches import LabelledFrames
from mlff.kernels.kernels import Kernel
from mlff.regression.checkpoint import NOWHERE, Checkpoint
from mlff.regression.constants import constants_mixing, energies_left
from mlff.regression.exact import IndefiniteMatrix, Progress
from mlff.regression.requests import Request
from mlff.regression.solution import Solution
from mlff.regression.sparse.inducing import CUR, FARTHEST, EnvironmentValues, FrameLabels, Inducing, farthest_frames
from mlff.regression.sparse.label_kinds import group_of, label_of
from mlff.regression.sparse.orthogonal import solved
from mlff.regression.sparse.posterior import SparsePosterior
from mlff.regression.sparse.sums import FOLDS, SparseFactor, SparseSystem
from mlff.regression.sparse.weights import (
    drawn_frames,
    errors_by_size,
    find_levels,
    folds_of,
    groups_apart,
    mean_error,
    of_kinds,
)
from mlff.regression.validation import (
    FACTOR,
    TIE,
    Search,
    Trial,
    data_scales,
    downhill,
    lacks_lengthscale,
    search_lengthscale,
    with_lengthscales,
)

ROUNDS = 4  # of a search for amplitudes beside noise that is stated
ENOUGH = 0.3  # a change of their logarithm that is none
LOOKED_AT = 40  # frames left out whose errors tell how large error bars are: of 20, few have the largest
SEARCH_ENVIRONMENTS, SEARCH_POINTS = 2500, 1000  # with which a length scale is looked for


def _silent(stage: str, fraction: float) -> None:
    """Tell nobody."""


def fit_sparse(
    request: Request,
    kernel: Kernel,
    inducing: int | Sequence[int],
    stated: bool,
    seed: int,
    progress: Progress,
    posterior: bool = False,
    checkpoint: Checkpoint = NOWHERE,
) -> Solution:
    """Solve in the span of inducing functionals.

    Arguments:
        kernel: the request's, with all length scales.
        inducing: how many, or the indices of frames whose labels they are.
        stated: whether the request's noise is the user's; else it is found by validation.
        posterior: keep the factor, and look at frames left out.
        checkpoint: keeps what was seen of the labels.
    """
    functionals = _functionals(request, kernel, inducing, seed, progress)
    folds = folds_of(request.frames, seed)
    if stated and not posterior:
        folds = dict.fromkeys(folds, 0)
    apart = {} if stated else groups_apart(request.group_of, len(functionals.whitening), len(request.labels))
    system = _system(request, functionals, kernel, request.frames, folds, stated, progress, checkpoint, apart)
    amplitudes = _amplitudes(system, kernel)
    noise, summary = request.noise, _summary(functionals, request.selection)
    if not stated:
        if system.stated and kernel.amplitude is None:
            amplitudes = _likely_amplitudes(system, amplitudes, progress)
        found = find_levels(system, amplitudes, progress)
        noise, amplitudes = found.levels, found.amplitudes
        table = errors_by_size(system, of_kinds(noise, found.factors), amplitudes)
        summary |= {"noise_of_an_atom": True, "noise_tried": found.tried, "held_out_rmse": table}
        summary |= {"group_factors": _factors_by_label(found.factors)} if found.factors else {}
        system = found.system
    progress("factorise", 0.0)
    solve = functools.partial(solved, system, operators=request.levels, progress=progress)
    factor = solve(request.frames, levels=noise, amplitudes=amplitudes)
    if not stated and kernel.amplitude is None and not system.stated:  # all noise is looked for
        likely = factor.evidence_scale()
        noise, amplitudes = {name: level * likely**0.5 for name, level in noise.items()}, amplitudes * likely
        factor = factor.scaled(likely)
    progress("factorise", 1.0)
    of_terms = functionals.amplitudes(amplitudes)
    kept = left_out = None
    if posterior:
        kept = _posterior(request, kernel, of_terms, factor, system)
        known_without = functools.partial(solve, levels=noise, amplitudes=amplitudes)
        left_out = _left_out(kept, request.frames, folds, known_without, seed, progress)
    return Solution(
        factor.model(kernel),
        of_terms,
        system.rows,
        system.unseen,
        noise=noise,
        inducing=summary,
        posterior=kept,
        left_out=left_out,
    )


def _posterior(
    request: Request, kernel: Kernel, amplitudes, factor: SparseFactor, system: SparseSystem
) -> SparsePosterior:
    """Of a system that was solved, with the energies that tell the constants where they are no labels."""
    known = "energy" in request.labels or system.given
    if known or "energy" not in request.frames.names:
        return SparsePosterior(kernel, amplitudes, factor, known)
    having, model = request.frames.having("energy"), factor.model(kernel)
    mixing = constants_mixing(model.elements, having, energies_left(model, having))
    return SparsePosterior(kernel, amplitudes, factor, known, having, mixing)


def _left_out(
    posterior: SparsePosterior,
    frames: LabelledFrames,
    fold_of: Mapping[int, int],
    known_without: Callable[..., SparseFactor],
    seed: int,
    progress: Progress,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Standard deviations, without noise, and errors of labels of frames by the model of others: of one fold after the other, until
    enough frames have been looked at, of any atoms.

    Arguments:
        known_without: the solution of some frames, without a fold.
    """
    pairs: dict[str, list] = {}
    most, looked_at = min(LOOKED_AT, len(frames)), 0
    drawn = np.random.default_rng(seed).permutation(list(fold_of))
    for fold in range(FOLDS):
        chosen = [i for i in drawn if fold_of[i] == fold][: most - looked_at]
        if not chosen:
            continue
        others = frames.take([i for i, other in fold_of.items() if other != fold])
        factor = known_without(others, without=fold)
        share = functools.partial(_share_of, progress, looked_at / most, len(chosen) / most)
        for name, pair in posterior.left_out(factor, others, frames.take(chosen), share).items():
            pairs.setdefault(name, []).append(pair)
        looked_at += len(chosen)
    return {name: tuple(map(np.concatenate, zip(*of_folds, strict=True))) for name, of_folds in pairs.items()}


def _share_of(progress: Progress, done: float, part: float, stage: str, fraction: float) -> None:
    """Progress of a part of a stage."""
    progress(stage, done + part * fraction)


def require_inducing(inducing, frames: int) -> int | list[int]:
    """What is asked for: a number of functionals, or indices of frames.

    Raises:
        ValueError: neither.
    """
    if is_number(inducing) and float(inducing).is_integer():
        if inducing < 1:
            raise ValueError(f"inducing={inducing} must be at least 1: how many environments span the model")
        return int(inducing)
    if isinstance(inducing, (str, float)) or not np.iterable(inducing):
        raise ValueError(
            f"inducing={inducing!r:.60} must be a whole number, how many environments span the model, or indices of frames"
        )
    chosen = sorted({int(i) for i in inducing})
    if not chosen or chosen[0] < 0 or chosen[-1] >= frames:
        raise ValueError(f"inducing: expected indices of the {frames} frames, 0 to {frames - 1}, at least one")
    return chosen


def require_selection(selection: str | None, kernel: Kernel, inducing: int | list[int] | None) -> str:
    """How environments are chosen, where they are.

    Raises:
        ValueError: no way to choose them, or nothing to choose.
    """
    if selection is None:
        return FARTHEST
    if selection not in (FARTHEST, CUR):
        raise ValueError(f"selection={selection!r:.60} must be {FARTHEST!r} or {CUR!r}")
    if inducing is None or not _by_values(kernel, inducing):
        raise ValueError(
            f"selection={selection!r}: says how environments are chosen, of a sparse model of local kernels with inducing, their number; "
            "leave selection out"
        )
    return selection


def sparse_lengthscale(
    request: Request,
    inducing: int | list[int],
    stated: bool,
    seed: int,
    progress: Progress,
    checkpoint: Checkpoint = NOWHERE,
) -> Search:
    """The length scale of a sparse model: of few points and frames, by the errors of labels left out.

    As `search_lengthscale` looks for that of an exact model, which is taken for models that labels of frames span. Several
    length scales keep the ratio of the data's scales.
    """
    kernel = request.kernel
    if not lacks_lengthscale(kernel):
        return Search(kernel, [])
    if not _by_values(kernel, inducing):
        atoms = request.atomic_energies
        return search_lengthscale(kernel, request.frames, request.levels, seed, atoms, progress, checkpoint=checkpoint)
    frames = drawn_frames(request.frames, seed, SEARCH_ENVIRONMENTS, 2 * FOLDS)
    starts = data_scales(kernel, frames)
    first = next(s for s, leaf in zip(starts, kernel.leaves, strict=True) if leaf.radial.lengthscale is None)
    tried: dict[int, Trial] = {}

    def error(k: int) -> float:
        if k not in tried:
            progress("length scale", min(0.95, len(tried) / 9))
            found = checkpoint.plain(f"length scale {k}", lambda: trial(with_lengthscales(kernel, starts, FACTOR**k)))
            tried[k] = Trial(first * FACTOR**k, found)
        return tried[k].error

    def trial(scaled: Kernel) -> float:
        functionals = EnvironmentValues.choose(
            scaled, frames, min(inducing, SEARCH_POINTS), seed, selection=request.selection
        )
        system = _system(request, functionals, scaled, frames, folds_of(frames, seed), stated)
        return float(_held_out(system, request, kernel, stated))

    best = downhill(error)
    progress("length scale", 1.0)
    good = min(k for k, trial in tried.items() if trial.error <= (1.0 + TIE) * error(best))
    return Search(with_lengthscales(kernel, starts, FACTOR**good), list(tried.values()))


def _held_out(system: SparseSystem, request: Request, kernel: Kernel, stated: bool) -> float:
    """The geometric mean of the errors of labels left out."""
    amplitudes = _amplitudes(system, kernel)
    try:
        if stated:
            return mean_error(system.errors(request.noise, amplitudes), system)
        return find_levels(system, amplitudes).error
    except IndefiniteMatrix:
        return np.inf


def _system(
    request: Request,
    functionals: Inducing,
    kernel,
    frames,
    folds,
    stated: bool,
    progress=_silent,
    checkpoint=NOWHERE,
    groups=None,
) -> SparseSystem:
    given, levels = request.atomic_energies, request.levels
    return SparseSystem.of(functionals, kernel, frames, levels, folds, given, not stated, progress, checkpoint, groups)


def _amplitudes(system: SparseSystem, kernel: Kernel) -> np.ndarray:
    """A of every part that the functionals tell apart: those given, or equal shares of the variance of the labels."""
    if kernel.amplitude is None:
        return system.amplitudes
    return system.inducing.given_amplitudes(np.array(np.atleast_1d(kernel.amplitude), dtype=float))


def _likely_amplitudes(system: SparseSystem, amplitudes: np.ndarray, progress: Progress) -> np.ndarray:
    """Amplitudes with which labels are as large as the prior says, where the noise of some is stated: errors left out tell ratios of noise
    and prior alone, which a number in eV means nothing beside."""
    for _ in range(ROUNDS):
        found = find_levels(system, amplitudes, progress)
        likely = found.system.solve(found.levels, found.amplitudes).evidence_scale()
        amplitudes = likely * found.amplitudes
        if abs(np.log(likely)) < ENOUGH:
            break
    return amplitudes


def _by_values(kernel: Kernel, inducing: int | list[int]) -> bool:
    return kernel.transferable and isinstance(inducing, int)


def _functionals(request: Request, kernel: Kernel, inducing, seed: int, progress: Progress) -> Inducing:
    if _by_values(kernel, inducing):
        return EnvironmentValues.choose(kernel, request.frames, inducing, seed, progress, request.selection)
    if isinstance(inducing, int):
        inducing = farthest_frames(kernel, request.frames, inducing, seed)
    return FrameLabels.of(kernel, request.frames.take(inducing), request.levels, progress)


def _factors_by_label(factors: dict[str, float]) -> dict[str, dict[str, float]]:
    """Factors of the noise of groups, by label and group."""
    found: dict[str, dict[str, float]] = {}
    for kind, factor in factors.items():
        found.setdefault(label_of(kind), {})[str(group_of(kind))] = factor
    return found


def _summary(functionals: Inducing, selection: str) -> dict:
    chosen = {"selection": selection} if isinstance(functionals, EnvironmentValues) else {}
    return {
        "functionals": len(functionals.whitening),
        "dependent": functionals.whitening.count - len(functionals.whitening),
        **functionals.summary(),
        **chosen,
    }
