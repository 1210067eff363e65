"""The public fit: check the data, find what hyperparameters are missing, solve, say how it went."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from mlff.arguments import checked_seed
from mlff.data.batches import LabelledFrames
from mlff.data.dataset import Dataset
from mlff.kernels.kernels import Kernel
from mlff.operators import ENERGY, FORCES, STRESS, Operator
from mlff.potentials.calibration import Calibration
from mlff.potentials.differences import baseline_of, same_baseline
from mlff.potentials.errors import compare
from mlff.potentials.expansion import Expansion
from mlff.potentials.force_field import MEMBERS, ForceField
from mlff.potentials.label_weights import LabelWeights
from mlff.potentials.record import facts_of, records_of, start_geometry
from mlff.regression.checkpoint import Checkpoint, begun, fingerprint
from mlff.regression.constants import constants_mixing, energies_left
from mlff.regression.devices.mesh import Devices
from mlff.regression.devices.shared_rows import SharedRows
from mlff.regression.exact import IndefiniteMatrix, Progress
from mlff.regression.planning.plan import accelerators, plan_fit
from mlff.regression.planning.plans import Plan
from mlff.regression.requests import Request, operators_of, states_noise
from mlff.regression.slopes import warn_of_slopes
from mlff.regression.solution import Solution, solve_iteratively, solve_system
from mlff.regression.sparse.fit import fit_sparse, require_inducing, require_selection, sparse_lengthscale
from mlff.regression.system.features import compute_features
from mlff.regression.system.linear_system import LinearSystem
from mlff.regression.training_record import record_of
from mlff.regression.tuning.tune import Tuned
from mlff.regression.validation import (
    FACTOR,
    Search,
    Trial,
    lacks_lengthscale,
    search_lengthscale,
    with_lengthscales,
)

logger = logging.getLogger(__name__)

UNSEEN_TOLERANCE = 1e-4  # share of the squared forces; a residual net force of a rough reference is smaller
LOOKED_AT = 100  # frames left out whose errors tell how large error bars are
FEW = 10  # frames, fewer than tell how large error bars should be
TUNED_APART = 1e-3  # by how much numbers that several processes tuned may differ
SHORTENED = 4  # steps of the search that the final fit may go below the shortest length scale tried


def fit(
    model: Kernel | Tuned,
    data: Dataset,
    labels: str | Operator | Sequence[str | Operator] | None = None,
    noise: float | np.floating | Mapping[str, float] | None = None,
    seed: int = 0,
    progress: Progress = lambda stage, fraction: None,
    atomic_energies: Mapping[str, float] | None = None,
    inducing: int | Sequence[int] | None = None,
    group_noise: Mapping[str, float] | None = None,
    baseline=None,
    posterior: bool = False,
    method: str | None = None,
    memory=None,
    checkpoint=None,
    selection: str | None = None,
    devices=None,
    start: ForceField | None = None,
) -> ForceField:
    """Fit a force field to reference frames, in closed form.

    Energies E(x) ~ GP(Σ_a c_{z_a}, k); labels y = L E + noise for any linear operators L of up to second order. With
    `labels="forces"` energies only fix the constants c; with ("energy", "forces") they are labels of their own.

    Arguments:
        model: the kernel. Without a length scale one is found by validation on held-out frames, and the final fit
            uses all frames; without an amplitude the prior variance of the forces is set to their mean square. Or what `tune`
            returned, with its labels and noise.
        data: frames; of one composition and order of atoms, unless the kernel is local.
        labels: names of labels that frames have: "energy", "forces", "stress", "hessian" (NaN for entries that are
            missing), "hessian_products" (H·v for the vectors of "hessian_product_vectors", shape (k, n, 3)), "curvatures"
            (v·H·w for the pairs of "curvature_vectors", (k, 2, n, 3)), or an `Operator`. A frame may lack some of them.
            Without any, those that the model was tuned for, else forces.
        noise: standard deviation of the labels in their unit (eV, eV/Å, …): a number for one kind of label, or a mapping
            by name; without it, 3e-5 of the labels' root mean square, which only keeps the matrix well-conditioned, or 10, 100 or 1000
            times that, where a length scale is looked for and frames held out are predicted better so.
        seed: of the frames that the search holds out.
        progress: called with the name of a stage and the share of it that is done.
        atomic_energies: energies of isolated atoms by symbol, {"H": -13.6, …}, eV, for local kernels with energies among the
            labels; without them those that the file holds (`data.atomic_energies`), or constants found by least squares.
        inducing: for a sparse model, whose cost grows linearly with the frames: how many environments span it, chosen
            among those of the frames by `selection` (for global kernels, how many labels of whole frames), or the indices of frames
            whose labels do. Its noise, where none is given, is found by validation, of groups of frames (`config_type`) apart.
        group_noise: of groups of frames, which are what frames say under `config_type` or `group`: what the noise of all their labels
            is multiplied by, {"Surface": 2.0}, or the standard deviation of one kind in its unit, {"Surface:energy": 0.002}; where a
            sparse model finds its noise, that of an atom, σ√n of energies and σ√n/V of stresses, as GAP has it. Groups that are
            not named then have one noise.
        baseline: to which a correction is fitted, E = E₀ + δ, labels less its own: a force field, a method by its name or with
            its charge ("gfn2", `Reference`), or one of ASE's calculators. Where the model was tuned with one, that.
        posterior: keep what the fit does not know, for error bars; of an exact fit that is a factor as large as its matrix.
        method: "exact" (Cholesky), "iterative" (preconditioned conjugate gradients: the same model, of large sets in less memory
            and time, without error bars), or with `inducing` "sparse". Without it the fastest that fits `memory`.
        memory: bytes that this process may take, or a text such as "8GB"; without it 80 % of what is free. `plan` tells beforehand
            what is taken.
        selection: "farthest", environments that differ as much as can be (without it), or "cur", drawn by their leverage with `seed`:
            better on average with few points, by 2 % of the forces' errors with 300 to 500 of molybdenum or silicon; farthest points
            cover what is rare.
        devices: JAX devices that share matrix, products and factorisation: "all", how many, or the devices themselves. In
            processes that `jax.distributed` joined each calls this with "all" and the same arguments, and each gets the model.
            Without it GPUs, where JAX sees some, for large exact fits that their memory holds.
        start: an iterative fit of this process to some of the frames, from whose weights the iterations begin: they end as they would
            have, sooner where kernel and labels are those of the earlier fit (`start.kernel`), no sooner where they are others.
    Returns:
        the force field; its `record` tells units, labels, noise, length scales tried, indices, hash and versions.
    Raises:
        ValueError: data, labels, noise and kernel that do not fit together, each with the remedy.
    """
    started = time.perf_counter()
    seed, baseline = checked_seed(seed), baseline_of(baseline)
    tuned = model if isinstance(model, Tuned) else None
    request, baseline = _request(model, data, labels, noise, atomic_energies, group_noise, baseline)
    inducing = None if inducing is None else require_inducing(inducing, len(data))
    request = dataclasses.replace(request, selection=require_selection(selection, request.kernel, inducing))
    noise_stated = noise is not None or tuned is not None
    if start is not None:
        start, method = _started(start, method, inducing), "iterative"
    devices = Devices.of(devices) or accelerators(request, inducing, method, posterior)
    request = _agreed(request, devices, data, (inducing, method, posterior))
    about = "" if checkpoint is None else _about(request, seed, inducing, method, posterior, str(devices), start)
    with begun(checkpoint, about) as kept:
        planned = plan_fit(request, inducing, method, memory, posterior, seed, False, kept, devices)
        logger.info("%s", planned)
        frames = request.frames if baseline is None else LabelledFrames.of(data)  # with labels as they were given
        facts = facts_of(data, frames)
        if planned.method == "sparse" and inducing is None:
            logger.warning("fit: a sparse model of %d functionals, %s", planned.unknowns, planned.reason)
            inducing = planned.unknowns
        if inducing is None:
            free = not noise_stated and not states_noise(request)
            request, search = _hyperparameters(request, planned, free, seed, progress, kept, devices)
            kernel, solution = _solve_or_shorten(
                request, search, planned, seed, progress, posterior, kept, devices, start
            )
        else:
            request = request if planned.groups else dataclasses.replace(request, group_of={})
            search = sparse_lengthscale(request, inducing, noise_stated, seed, progress, kept)
            kernel, solution = (
                search.kernel,
                fit_sparse(request, search.kernel, inducing, noise_stated, seed, progress, posterior, kept),
            )
        if spanning := (solution.inducing or {}).get("frames"):
            facts |= start_geometry(frames.take(spanning))  # files are held against a frame that is in the model
        fitted = ForceField(
            model=with_constant(solution.model, request.frames, request.labels),
            numbers=request.frames.numbers,
            kernel=kernel.with_amplitudes(solution.amplitudes),
            weights=solution.weights,
            record={
                **record_of(request, facts, seed, search.trials, solution, time.perf_counter() - started),
                **({} if tuned is None else {"tuned": tuned.summary}),
            },
        )
        if posterior:
            fitted = _with_error_bars(fitted, solution, request, seed, progress)
        progress("training errors", 0.0)
        _warn_of_unseen(fitted)
        if baseline is not None:  # a function that is given: what it does not know of its own labels is not asked
            fitted = baseline.replace(posterior=None, calibration=None) + fitted
        fitted = examined(fitted, request.labels, data)
        progress("training errors", 1.0)
        return fitted


def _started(start: ForceField, method: str | None, inducing) -> LabelWeights:
    """The weights that an iterative fit begins from.

    Raises:
        ValueError: there are none, or another method is asked for.
    """
    if not isinstance(start, ForceField) or start.weights is None:
        raise ValueError(
            f"start={start!r:.60} holds no weights; a force field that this process made by method='iterative' does, one that was read "
            "does not"
        )
    if inducing is not None:
        raise ValueError("start: a sparse fit iterates nothing; leave start or inducing out")
    if method not in (None, "iterative"):
        raise ValueError(f"start: method={method!r} begins from nothing; leave start out, or take method='iterative'")
    return start.weights


def _about(
    request: Request, seed: int, inducing, method, posterior: bool, devices: str, start: LabelWeights | None
) -> str:
    """What tells this fit from others, of which nothing may be taken over."""
    stated = (seed, inducing, method, posterior, devices)
    stated += () if start is None else (list(start.of_frames.values()),)
    return fingerprint(*request.identity, stated)


def plan(
    model: Kernel | Tuned,
    data: Dataset,
    labels: str | Operator | Sequence[str | Operator] | None = None,
    noise: float | np.floating | Mapping[str, float] | None = None,
    seed: int = 0,
    atomic_energies: Mapping[str, float] | None = None,
    inducing: int | Sequence[int] | None = None,
    group_noise: Mapping[str, float] | None = None,
    baseline=None,
    posterior: bool = False,
    method: str | None = None,
    memory=None,
    selection: str | None = None,
    devices=None,
) -> Plan:
    """How `fit` would go about the same arguments: by which method, in what memory and time, from a pilot on a few frames.

    A pilot takes seconds. Times are those of a machine as busy as it is during the pilot.

    Arguments:
        model, …: as `fit` takes them.
    Raises:
        ValueError: as `fit` does; nothing fits the memory.
    """
    request, _ = _request(model, data, labels, noise, atomic_energies, group_noise, baseline_of(baseline))
    inducing = None if inducing is None else require_inducing(inducing, len(data))
    require_selection(selection, request.kernel, inducing)
    devices = Devices.of(devices) or accelerators(request, inducing, method, posterior)
    return plan_fit(request, inducing, method, memory, posterior, checked_seed(seed), devices=devices)


def _request(model, data, labels, noise, atomic_energies, group_noise, baseline) -> tuple[Request, ForceField | None]:
    """What is asked for, of a model as it is or tuned, and the baseline that it has."""
    if isinstance(model, Tuned):
        model, labels, noise, baseline = _as_tuned(model, labels, noise, baseline)
    labels = "forces" if labels is None else labels
    return Request.of(model, data, labels, noise, atomic_energies, group_noise, baseline), baseline


def _as_tuned(tuned: Tuned, labels, noise, baseline: ForceField | None) -> tuple:
    """Kernel, labels, noise and baseline of a model that was tuned."""
    if baseline is not None and not same_baseline(baseline, tuned.baseline):
        raise ValueError("baseline: the model was tuned with another, or with none; tune it with this one")
    if noise is not None:
        raise ValueError(
            "noise: what `tune` found goes with the other hyperparameters; leave noise out, or fit tuned.kernel"
        )
    known = operators_of(tuned.labels)
    asked = known if labels is None else operators_of(labels)
    if set(asked) != set(known):
        raise ValueError(
            f"labels: {' and '.join(asked)} were asked for, the model was tuned for {' and '.join(known)}; leave labels out, or "
            "tune it for them"
        )
    return tuned.kernel, tuned.labels, tuned.noise, tuned.baseline


def _hyperparameters(
    request: Request,
    planned: Plan,
    free: bool,
    seed: int,
    progress: Progress,
    kept: Checkpoint,
    devices: Devices | None,
) -> tuple[Request, Search]:
    """The kernel with all its length scales, searched where one is missing, and the request with the noise that was found there, where it
    is free; of several processes all take those of the first, as rounding may lead others to another trial."""
    if not lacks_lengthscale(request.kernel):
        return request, Search(request.kernel, [])
    atoms = request.atomic_energies
    search = search_lengthscale(
        request.kernel, request.frames, request.levels, seed, atoms, progress, planned.searched, kept, free
    )
    if devices is not None and devices.processes > 1:
        kernel, noisier = devices.agreed_numbers((search.kernel, search.noisier))
        search = dataclasses.replace(search, kernel=kernel, noisier=float(noisier))
    return dataclasses.replace(request, noise={n: search.noisier * level for n, level in request.noise.items()}), search


def _agreed(request: Request, devices: Devices | None, data: Dataset, stated: tuple) -> Request:
    """A request with the numbers of the first of several processes, of which all were asked for the same.

    What processes tuned apart may differ by rounding, but not what they were given.

    Raises:
        ValueError: in all of them, where they were not.
    """
    if devices is None or devices.processes == 1:
        return request
    structure = jax.tree.map(np.shape, request.kernel)
    devices.require_same(fingerprint(structure, request.labels, sorted(request.noise), data.hash(), stated))
    kernel, noise = devices.agreed_numbers((request.kernel, dict(request.noise)), TUNED_APART)
    return dataclasses.replace(request, kernel=kernel, noise=noise)


def _solve_or_shorten(
    request: Request,
    search: Search,
    planned: Plan,
    seed: int,
    progress: Progress,
    posterior: bool,
    kept: Checkpoint,
    devices: Devices | None,
    start: LabelWeights | None,
) -> tuple[Kernel, Solution]:
    """As planned. All frames may be too many for the length scale that some of them chose: take the next shorter one tried, or
    a step of the search less than the shortest."""
    kernel, features = search.kernel, search.features
    if features is None:
        features = compute_features(kernel, request.frames, request.levels, progress)
    while True:
        scaled = features.scaled(kernel)
        blocks = None if search.blocks is None else search.blocks.kept(scaled)
        shared = None if devices is None else SharedRows.of(scaled, devices)
        system = LinearSystem.of(kernel, scaled, request.levels, request.atomic_energies, blocks, shared)
        of_kernel = kept.beneath(fingerprint(kernel)[:16])
        try:
            if planned.method == "iterative":
                return kernel, solve_iteratively(system, planned.rank, seed, progress, of_kernel, start)
            return kernel, solve_system(system, progress, posterior, of_kernel, shared)
        except IndefiniteMatrix:
            kept.forget()
            shorter = _shorter(request.kernel, kernel, search.trials)
            if shorter is None:
                raise
            kernel = shorter


def _shorter(searched: Kernel, kernel: Kernel, trials: list[Trial]) -> Kernel | None:
    """The kernel with the next shorter length scale that was tried, or a step of the search less than the shortest; None
    where none was searched, or that leads too far."""
    first = next((i for i, radial in enumerate(searched.radials) if radial.lengthscale is None), None)
    if first is None:
        return None
    now = kernel.radials[first].lengthscale
    tried = [trial.lengthscale for trial in trials]
    if now <= min(tried, default=np.inf) / FACTOR**SHORTENED * (1 + 1e-9):
        return None
    shorter = max((scale for scale in tried if scale < now * (1 - 1e-9)), default=now / FACTOR)
    logger.info("length scale %.4g: the matrix of all frames is not positive definite", now)
    return with_lengthscales(searched, [radial.lengthscale for radial in kernel.radials], shorter / now)


def with_constant(model: Expansion, frames: LabelledFrames, labels: tuple[str, ...]) -> Expansion:
    """Without energies as labels, the constants fit the reference energies, where there are any."""
    if "energy" in labels or "energy" not in frames.names:
        return model
    having = frames.having("energy")
    left = energies_left(model, having)
    return model.shifted(constants_mixing(model.elements, having, left) @ left)


def _with_error_bars(
    fitted: ForceField, solution: Solution, request: Request, seed: int, progress: Progress
) -> ForceField:
    """With the posterior, and the factors by which frames left out say that its error bars are too small."""
    posterior, left_out = solution.posterior, solution.left_out
    if left_out is None:
        if "energy" not in request.labels and "energy" in request.frames.names:
            posterior = posterior.anchored(solution.model, request.frames)
        left_out = posterior.left_out(LOOKED_AT, seed, progress)
    if len(request.frames) < FEW:
        logger.warning(
            "error bars: %d frames hardly tell how large they should be; mlff.calibrated takes others",
            len(request.frames),
        )
    try:
        calibration = Calibration.of(left_out, MEMBERS)
    except ValueError as error:
        logger.warning("error bars: their size could not be checked on frames left out (%s)", error)
        return fitted.replace(posterior=posterior)
    return fitted.replace(
        posterior=posterior,
        calibration=calibration,
        record={**fitted.record, "error_bars": calibration.summary(left_out)},
    )


def _warn_of_unseen(fitted: ForceField) -> None:
    """A warning where forces are not of what the descriptor sees."""
    if not fitted.record["unseen"] <= UNSEEN_TOLERANCE:
        logger.warning(
            "%.2g of the squared forces lie outside what descriptor %s can express: net forces or torques in the "
            "reference, or motions that the descriptor does not see", fitted.record["unseen"], fitted.kernel.leaves[0].descriptor.name,
        )  # fmt: skip


def examined(fitted: ForceField, labels: tuple[str, ...], data: Dataset) -> ForceField:
    """Training errors into the record; a warning where they show that the labels do not fit together."""
    training = compare(fitted, data, (ENERGY, FORCES, STRESS) if fitted.takes_cell else (ENERGY, FORCES))
    # energies that are no labels are looked at too, and one of them has no slope
    looked_at = {*labels, "energy"} if len(data) > 1 else set(labels) - {"energy"}
    strained = [frame.group for frame in data if np.size(frame.labels.get("stress", ()))]
    *_, correction = records_of(fitted.record)  # to a baseline, or the force field itself
    warn_of_slopes(training, looked_at, strained, correction.get("inducing", {}).get("functionals"))
    return fitted.replace(record={**fitted.record, "training": training.summary()})
