"""Hyperparameters by gradient: those with which frames left out are missed by least."""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.optimize

from mlff.arguments import checked_seed
from mlff.batching import machine_memory
from mlff.data.dataset import Dataset
from mlff.kernels.kernels import Kernel
from mlff.operators import Operator
from mlff.potentials.differences import baseline_of
from mlff.potentials.force_field import ForceField
from mlff.regression.exact import Progress
from mlff.regression.features import Features, compute_features
from mlff.regression.hyperparameters import Hyperparameter, Model, sensitive
from mlff.regression.inner_products import ScalableBlocks, is_scalable, needed_bytes
from mlff.regression.kernel_blocks import KeptBlocks, KernelBlocks
from mlff.regression.left_out import LeftOut, left_out
from mlff.regression.linear_system import LinearSystem
from mlff.regression.requests import RELATIVE_NOISE, Request
from mlff.regression.validation import START, data_scale, with_lengthscales

logger = logging.getLogger(__name__)

MAX_ROWS = 5000  # of the linear system that is tuned on; larger sets are drawn from
EVALUATIONS = 40  # of the objective, from one start
# (length scale of global terms over START times the data's, share of the first term, noise over the labels' root mean square)
STARTS = ((2.0, None, 1e-2), (6.0, 0.97, 1e-3))
AT_BOUND = 1.02  # a factor from a bound that counts as there


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A kernel with the hyperparameters that `tune` found; `fit` takes it in place of a kernel.

    Attributes:
        kernel: with length scales and amplitudes.
        noise: standard deviation of every kind of label, in its unit.
        labels: what it was tuned for.
        baseline: what it is a correction to.
        summary: which number went from where to where, errors of frames left out before and after (of every kind of label, in its
            unit), what share of the prior variance of the labels each term has, evaluations, frames, seconds.
    """

    kernel: Kernel
    noise: dict[str, float]
    labels: tuple[Operator, ...]
    summary: dict
    baseline: ForceField | None = None


def tune(
    model: Kernel,
    data: Dataset,
    labels: str | Operator | Sequence[str | Operator] = ("energy", "forces"),
    noise: float | Mapping[str, float] | None = None,
    seed: int = 0,
    progress: Progress = lambda stage, fraction: None,
    atomic_energies: Mapping[str, float] | None = None,
    group_noise: Mapping[str, float] | None = None,
    baseline=None,
) -> Tuned:
    """The hyperparameters of a kernel with which frames that are left out are predicted best.

        tuned = mlff.tune(kernel, data)
        force_field = mlff.fit(tuned, data)

    Amplitudes of the terms of a sum, length scales and other numbers of radial functions, and the noise of every kind of label
    are tuned together, by L-BFGS on the logarithm of the mean squared leave-one-frame-out errors over the labels' variance, summed over
    kinds of labels. Errors come in closed form and their gradient from the implicit function theorem: no frame is fitted twice.
    Arguments of descriptors stay as they are.

    Arguments:
        model: the kernel; length scales that it lacks start from the data's own scale.
        data: frames; of large sets as many as make 5000 linear equations are drawn.
        labels: what is fitted, as of `fit`.
        noise: standard deviations that stay as they are; without it, they are tuned.
        seed: of the frames that are drawn.
        progress: called with a stage's name and how much of it is done.
        atomic_energies: as of `fit`.
        group_noise: as of `fit`, which is to be given the same.
        baseline: as of `fit`.
    Raises:
        ValueError: fewer than 3 frames, no positive definite matrix, or what `fit` refuses.
    """
    started = time.perf_counter()
    baseline = baseline_of(baseline)
    request = Request.of(model, data, labels, noise, atomic_energies, group_noise, baseline)
    _require_factors(request, noise)
    chosen = _drawn(request, len(data), checked_seed(seed))
    problem = Problem.of(dataclasses.replace(request, frames=request.frames.take(chosen)), noise is None, progress)
    found = [_minimised(problem, start, functools.partial(_told, progress, k)) for k, start in enumerate(STARTS)]
    progress("tune", 1.0)
    best = min(found, key=lambda each: each.objective)
    if not np.isfinite(best.objective):
        raise ValueError(
            "tune: no kernel matrix was positive definite; state a larger noise, or remove near-duplicate frames"
        )
    tuned = best.model if problem.sizes is None else best.model.scaled(best.last.scale)
    summary = {
        **_summary(problem, best, tuned),
        "evaluations": sum(each.evaluations for each in found),
        "seconds": time.perf_counter() - started,
    }
    return Tuned(tuned.kernel, tuned.noise, tuple(request.operators.values()), summary, baseline)


def _require_factors(request: Request, noise) -> None:
    """Refuse noise of groups that is stated, where that of the others is looked for."""
    if noise is None and any(len(b.noise_of(name).known) for b in request.frames.batches for name in b.labels):
        raise ValueError(
            "group_noise: states the noise of a label in a group, and that of the others is tuned; give factors, {'Surface': 2.0}, or "
            "noise"
        )


def _told(progress: Progress, k: int, evaluations: int) -> None:
    progress("tune", min(0.99, (k + min(1.0, evaluations / EVALUATIONS)) / len(STARTS)))


def _drawn(request: Request, count: int, seed: int) -> np.ndarray:
    """Indices of the frames that are tuned on."""
    if count < 3:
        raise ValueError(
            f"tune: {count} frames are too few to leave one out and learn from the others; give at least 3"
        )
    sizes = sum(
        np.median([batch.labels[name][0].size for batch in request.frames.having(name).batches])
        for name in request.labels
    )
    most = max(3, int(MAX_ROWS // sizes))
    if count <= most:
        return request.frames.index
    return np.sort(np.random.default_rng(seed).permutation(request.frames.index)[:most])


@dataclasses.dataclass(frozen=True)
class Problem:
    """Frames in descriptor space, whose matrix is wanted for many hyperparameters.

    Attributes:
        request: what is fitted to them.
        features: under length scales that are as good as any.
        products: of every term what its matrix is made of under any length scale; None where it is computed anew.
        sizes: root mean squares of the labels, where their noise is tuned; None where it stays.
        scales: the length scale of every leaf that the data suggest; those that are given stay.
    """

    request: Request
    features: Features
    products: list[ScalableBlocks | None]
    sizes: dict[str, float] | None
    scales: list[float]

    @classmethod
    def of(cls, request: Request, free: bool, progress: Progress) -> Problem:
        leaves, frames = request.kernel.leaves, request.frames
        scales = [START * data_scale(leaf, frames) if leaf.radial.lengthscale is None else 1.0 for leaf in leaves]
        kernel = with_lengthscales(request.kernel, scales)
        features = compute_features(kernel, frames, request.levels, progress)
        products = []
        for term in features.terms:
            alone = dataclasses.replace(features, terms=[term])
            room = needed_bytes(alone) <= machine_memory() / (4 * len(features.terms))
            products.append(ScalableBlocks.of(KernelBlocks(alone)) if is_scalable(term) and room else None)
        # noise that is not given is a small share of the labels' size
        sizes = {name: level / RELATIVE_NOISE for name, level in request.noise.items()} if free else None
        return cls(request, features, products, sizes, scales)

    def started(self, stretch: float, share: float | None, noise: float) -> Model:
        """A model to start from."""
        leaves = self.request.kernel.leaves
        stretches = [1.0 if leaf.transferable else stretch for leaf in leaves]  # local features know their scale
        kernel = with_lengthscales(self.request.kernel, np.multiply(self.scales, stretches).tolist())
        levels = self.request.noise if self.sizes is None else {name: noise * size for name, size in self.sizes.items()}
        if kernel.amplitude is None:
            amplitudes = np.array(self.system(Model(kernel, levels), None).amplitudes)
            if share is not None and len(amplitudes) > 1:
                others = np.full(len(amplitudes) - 1, (1.0 - share) / (len(amplitudes) - 1))
                amplitudes *= len(amplitudes) * np.append(share, others)
            kernel = kernel.with_amplitudes(amplitudes.tolist())
        return Model(kernel, levels)

    def matrices(self, kernel: Kernel, t: int, part: Kernel) -> KeptBlocks:
        """The matrix of one term, or of what is put in its place."""
        scaled = self.features.scaled(kernel)
        term = dataclasses.replace(scaled.terms[t], kernel=part)
        alone = dataclasses.replace(scaled, terms=[term])
        return KernelBlocks(alone).kept() if self.products[t] is None else self.products[t].kept(alone)

    def system(self, model: Model, matrices: list[KeptBlocks] | None) -> LinearSystem:
        """The linear system of a model, from the matrices of its terms."""
        levels = {self.request.operators[name]: level for name, level in model.noise.items()}
        before = self.request.noise
        factors = {name: level / before[name] for name, level in model.noise.items() if level != before[name]}
        features = self.features.scaled(model.kernel).with_noise(factors)
        blocks = None
        if matrices is not None:
            blocks = KeptBlocks(KernelBlocks(features), [each.matrices[0] for each in matrices])
        return LinearSystem.of(model.kernel, features, levels, self.request.atomic_energies, blocks)

    def objective(self, model: Model, hyperparameters: list[Hyperparameter]) -> tuple[LeftOut, np.ndarray]:
        """The error of frames left out, and the gradient of its logarithm by those of the hyperparameters."""
        kernel = model.kernel
        matrices = [self.matrices(kernel, t, part) for t, part in enumerate(kernel.parts)]
        system = self.system(model, matrices)
        result = left_out(system)
        gradient = np.zeros(len(hyperparameters))
        owner = [(t, i) for t, part in enumerate(kernel.parts) for i in range(len(part.leaves))]
        for k, h in enumerate(hyperparameters):
            if h.kind == "noise":
                of_kind = np.zeros(len(system.labels))
                of_kind[system.features.places[h.place]] = 1.0
                gradient[k] = result.along_diagonal(2.0 * system.noise * of_kind)
                continue
            if h.kind == "amplitude":
                t, change = h.place, matrices[h.place]
            else:
                t, leaf = owner[h.place]
                change = self.matrices(kernel, t, sensitive(kernel.parts[t], leaf, h.kind))
            offsets, share = system.offsets, system.shares[t]
            gradient[k] = share * sum(
                result.along(int(offsets[i]), int(offsets[j]), change.matrices[0].tiles[i][j])
                for j in range(len(offsets) - 1)
                for i in range(j, len(offsets) - 1)
            )
        return result, gradient


@dataclasses.dataclass(frozen=True)
class Minimum:
    """Where the descent from one start ended."""

    objective: float
    start: Model
    model: Model
    hyperparameters: list[Hyperparameter]
    first: LeftOut | None
    last: LeftOut | None
    evaluations: int


def _minimised(problem: Problem, start: tuple, told: Callable[[int], None]) -> Minimum:
    """Downhill from one start."""
    model = problem.started(*start)
    hyperparameters = model.hyperparameters(problem.sizes)
    seen: list[tuple[float, np.ndarray, LeftOut]] = []

    def function(logarithms: np.ndarray) -> tuple[float, np.ndarray]:
        told(len(seen))
        try:
            result, gradient = problem.objective(model.replaced(hyperparameters, np.exp(logarithms)), hyperparameters)
        except np.linalg.LinAlgError:
            return 1e3, np.zeros(len(logarithms))  # the search turns back
        seen.append((result.objective, logarithms.copy(), result))
        logger.info("tune: %s", ", ".join(f"{name} {value:.4g}" for name, value in result.errors.items()))
        return result.objective, gradient

    begin = np.log([h.start for h in hyperparameters])
    bounds = [tuple(np.log(h.bounds)) for h in hyperparameters]
    scipy.optimize.minimize(
        function, begin, jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxfun": EVALUATIONS, "maxiter": EVALUATIONS, "ftol": 1e-4, "maxls": 8},
    )  # fmt: skip
    if not seen:
        return Minimum(np.inf, model, model, hyperparameters, None, None, 0)
    objective, logarithms, last = min(seen, key=lambda each: each[0])
    return Minimum(
        objective,
        model,
        model.replaced(hyperparameters, np.exp(logarithms)),
        hyperparameters,
        seen[0][2],
        last,
        len(seen),
    )


def _summary(problem: Problem, best: Minimum, tuned: Model) -> dict:
    """What there is to say of the way to the best model, which has the scale of the labels now."""
    numbers = []
    for h in best.hyperparameters:
        value, reached = _value(tuned, h), _value(best.model, h)
        bound = bool(reached / AT_BOUND <= h.bounds[0] or reached * AT_BOUND >= h.bounds[1])
        numbers.append({"name": _name(tuned.kernel, h), "from": _value(best.start, h), "to": value, "at_bound": bound})
        if bound and h.kind != "amplitude":
            logger.warning("tune: %s ended at %.4g, as far as it was looked for", numbers[-1]["name"], value)
    traces = _variances(problem, tuned)
    return {
        "hyperparameters": numbers,
        "shares": [float(trace / sum(traces)) for trace in traces],
        "errors_before": best.first.errors,
        "errors": best.last.errors,
        "frames": len(problem.features.observations),
    }


def _value(model: Model, h: Hyperparameter) -> float:
    if h.kind == "noise":
        return float(model.noise[h.place])
    if h.kind == "amplitude":
        return float(model.kernel.parts[h.place].amplitude)
    value = getattr(model.kernel.leaves[h.place].radial, h.kind)
    return float(np.exp(np.mean(np.log(value))))  # of an array, the geometric mean


def _name(kernel: Kernel, h: Hyperparameter) -> str:
    if h.kind == "noise":
        return f"noise of {h.place}"
    if h.kind == "amplitude":
        return f"amplitude of term {h.place + 1}"
    return f"{h.kind} of {kernel.leaves[h.place].descriptor.name.partition(':')[2]}"


def _variances(problem: Problem, model: Model) -> np.ndarray:
    """The prior variance of the telling labels, summed over them, that every term has."""
    features = problem.features.scaled(model.kernel)
    system = LinearSystem.of(model.kernel, features, problem.request.levels, problem.request.atomic_energies)
    return system.shares * system.blocks.diagonals[:, system.telling].sum(axis=1)
