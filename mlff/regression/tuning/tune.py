"""Hyperparameters by gradient: those with which frames left out are missed by least."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mlff.data.dataset import Dataset
from mlff.kernels.kernels import Kernel
from mlff.operators import Operator
from mlff.potentials.differences import baseline_of
from mlff.potentials.force_field import ForceField
from mlff.regression.checkpoint import Checkpoint, begun, fingerprint
from mlff.regression.exact import IndefiniteMatrix, Progress, factorise
from mlff.regression.planning.plans import Plan
from mlff.regression.tuning.descent import EVALUATIONS, REFINING, Minimum, descend, refined
from mlff.regression.tuning.hyperparameters import Hyperparameter, Model
from mlff.regression.tuning.problem import OBJECTIVES, Problem
from mlff.regression.tuning.task import STARTS, UNDEFINED, Task
from mlff.regression.validation import less_noise

logger = logging.getLogger(__name__)

SEARCHED = 0.3  # of the time
NEGLIGIBLE = 0.01  # by how much errors may rise without a term that can be dropped
AT_BOUND = 1.02  # a factor from a bound that counts as there
OF_LABELS = 0.5  # of the errors left out: noise that is more is the labels' own
# Of so many times the frames the largest eigenvalue is as many times as large, and with it the rounding below which noise is lost: what is
# taken for them is tried on those at hand, less by the root of that and by a margin.
MARGIN, LESS_BY = 2.0, 4


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A kernel with the hyperparameters that `tune` found; `fit` takes it in place of a kernel.

    Attributes:
        kernel: with length scales and amplitudes.
        noise: standard deviation of every kind of label, in its unit; of all frames of the data, though fewer were tuned on.
        labels: what it was tuned for.
        baseline: what it is a correction to.
        summary: which number went from where to where, errors of frames left out before and after (of every kind of label, in its
            unit), the terms, what share of the prior variance of the labels each has, the errors without it and nothing tuned anew,
            those that can be dropped so (no error rises by more than a hundredth), the objective, evaluations, frames, seconds, and the
            noise for all frames where fewer were drawn.
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
    objective: str = OBJECTIVES[0],
    arguments: Sequence[str] = (),
    checkpoint=None,
    memory=None,
) -> Tuned:
    """The hyperparameters of a kernel with which frames that are left out are predicted best.

        tuned = mlff.tune(kernel, data)
        force_field = mlff.fit(tuned, data)

        tuned = mlff.tune(kernel, data, objective="folds", arguments=("soap.sigma", "soap.cutoff"))

    Amplitudes of the terms of a sum, length scales and other numbers of radial functions, the noise of every kind of label, and those
    arguments of descriptors that are named, are tuned together, by L-BFGS. What is minimised:

        left-out    ln ⟨r²/variance of labels of its kind⟩ over all labels, r: what is missed of a frame by the fit to all others
        folds       the same, a fifth of the frames left out at a time
        evidence    −ln p(labels), the constants integrated out

    all in closed form, their gradients from the implicit function theorem: no frame is fitted twice. Errors left out rank models as test
    errors do, where evidence misleads; arguments of descriptors are told by folds rather than by single frames.

    Arguments:
        model: the kernel; length scales that it lacks start from the data's own scale.
        data: frames; of large sets as many as make 5000 linear equations are drawn, and a few of these lead most of the way.
        labels: what is fitted, as of `fit`.
        noise: standard deviations that stay as they are; without it, they are tuned.
        seed: of the frames that are drawn, and of the folds.
        progress: called with a stage's name and how much of it is done.
        atomic_energies: as of `fit`.
        group_noise: as of `fit`, which is to be given the same.
        baseline: as of `fit`.
        objective: "left-out", "folds" or "evidence".
        checkpoint: a folder that keeps what was evaluated, from which the same call goes on after it was killed; it goes at the end.
        arguments: of descriptors, by name, "sigma", "soap.sigma" or "fchl19.*" (as in a shell); those that are real numbers.
        memory: bytes that this process may take, or a text such as "8GB"; without it 80 % of what is free. Fewer frames are drawn where it
            is too little for 5000 equations, and what makes a step of local kernels faster is kept in a quarter of it at most.
    Raises:
        ValueError: fewer than 3 frames, too little memory, no positive definite matrix, or what `fit` refuses.
    """
    started, progress = time.perf_counter(), _rising(progress)
    baseline = baseline_of(baseline)
    given = model, data, labels, noise, atomic_energies, group_noise, baseline
    task = Task.of(*given, objective, arguments, seed, memory)
    request = task.request
    about = "" if checkpoint is None else fingerprint(*request.identity, task.identity)
    with begun(checkpoint, about) as kept:
        # one that goes on has the frames that it began with, whatever is free now
        drawn = task.drawn(kept.plain("rows", task.rows))
        if not task.in_steps(drawn):
            problem, before = task.problem(drawn, progress), []
            found = _searched(problem, progress, (0.0, 1.0), kept)
        else:
            before = _searched(task.problem(task.few, progress), progress, (0.0, SEARCHED), kept.beneath("few"))
            problem, told = task.problem(drawn), _told(progress, (SEARCHED, 1.0), REFINING)
            found = [refined(problem, min(before, key=lambda each: each.value), told, kept.beneath("refined"))]
            if found[0].last is None:  # no matrix of more frames is positive definite there
                found += _searched(problem, progress, (SEARCHED, 1.0), kept.beneath("many"))
    best = min(found, key=lambda each: each.value)
    progress("tune", 1.0)
    if best.last is None:
        raise ValueError(UNDEFINED)
    tuned = best.model if problem.sizes is None else best.model.scaled(best.last.scale)
    summary = {
        **_summary(problem, best, tuned),
        "objective": objective,
        "evaluations": sum(each.evaluations for each in (*before, *found)),
    }
    levels = _noise_of_all(problem, best, tuned, len(request.frames) / len(drawn)) if task.free else tuned.noise
    summary |= {"noise": levels, "seconds": time.perf_counter() - started}
    return Tuned(tuned.kernel, levels, tuple(request.operators.values()), summary, baseline)


def plan_tuning(
    model: Kernel,
    data: Dataset,
    labels: str | Operator | Sequence[str | Operator] = ("energy", "forces"),
    noise: float | Mapping[str, float] | None = None,
    seed: int = 0,
    progress: Progress = lambda stage, fraction: None,
    atomic_energies: Mapping[str, float] | None = None,
    group_noise: Mapping[str, float] | None = None,
    baseline=None,
    objective: str = OBJECTIVES[0],
    arguments: Sequence[str] = (),
    memory=None,
) -> Plan:
    """How `tune` would go about the same arguments: on how many frames, in what memory, and how long, from a step that is timed.

    Times are those of a machine as busy as it is now, of all steps that a search may make: most end before. Where none of a search finds a
    positive definite matrix, others follow, which are not counted.

    Arguments:
        model, …: as `tune` takes them.
    Raises:
        ValueError: as `tune` does.
    """
    given = model, data, labels, noise, atomic_energies, group_noise, baseline_of(baseline)
    return Task.of(*given, objective, arguments, seed, memory).plan(progress)


def _noise_of_all(problem: Problem, best: Minimum, tuned: Model, more: float) -> dict[str, float]:
    """Noise for so many times the frames that were tuned on: what stands for what a kernel cannot express is less then, by `less_noise`, or
    by as much as leaves a positive definite matrix.

    Measured: ethanol, the sum of three, tuned on 178 frames and fitted to 1000, meV/Å: 7.7 with their noise, 6.0 with 0.3 and 5.2 with 0.1
    times that, where the rule says 0.085; 0.03 leaves no positive definite matrix.
    """
    errors, least = best.last.errors, problem.request.noise  # which nobody stated
    falling = {name for name, level in tuned.noise.items() if level < OF_LABELS * errors[name]}
    if more <= 1.0 or not falling:
        return tuned.noise
    features = problem.carried(tuned.kernel)
    matrices = problem.matrices(features)
    for step in range(LESS_BY, 0, -1):
        factor = less_noise(more) ** (step / LESS_BY)
        levels = {**tuned.noise, **{n: min(tuned.noise[n], max(tuned.noise[n] * factor, least[n])) for n in falling}}
        tried = {name: level / (MARGIN * more**0.5) for name, level in levels.items()}
        try:
            factorise(problem.system(Model(tuned.kernel, tried), features, matrices))
            return levels
        except IndefiniteMatrix:
            continue
    return tuned.noise


def _searched(problem: Problem, progress: Progress, share: tuple[float, float], kept: Checkpoint) -> list[Minimum]:
    """Where it leads downhill from every start; from a share of the work done to another."""
    ends = np.linspace(*share, len(STARTS) + 1).tolist()
    return [
        descend(problem, start, _told(progress, (ends[k], ends[k + 1]), EVALUATIONS), kept.beneath(f"start {k}"))
        for k, start in enumerate(STARTS)
    ]


def _rising(progress: Progress) -> Progress:
    """Shares that never fall, as what is begun anew would have them."""
    reached = 0.0

    def tell(stage: str, fraction: float) -> None:
        nonlocal reached
        if stage == "tune":
            reached = fraction = max(reached, fraction)
        progress(stage, fraction)

    return tell


def _told(progress: Progress, share: tuple[float, float], most: int) -> Callable[[int], None]:
    """Tells of a search."""
    start, end = share
    return lambda evaluations: progress("tune", min(0.99, start + (end - start) * min(1.0, evaluations / most)))


def _summary(problem: Problem, best: Minimum, tuned: Model) -> dict:
    """What there is to say of the way to the best model, which has the scale of the labels now."""
    numbers = []
    for h in best.hyperparameters:
        value, reached = _value(tuned, h), _value(best.model, h)
        reached = h.start * reached / _value(best.start, h)  # of what is stretched as a whole, by how much
        bound = bool(reached / AT_BOUND <= h.bounds[0] or reached * AT_BOUND >= h.bounds[1])
        numbers.append({"name": _name(tuned.kernel, h), "from": _value(best.start, h), "to": value, "at_bound": bound})
        if bound and h.kind != "amplitude":
            logger.warning("tune: %s ended at %.4g, as far as it was looked for", numbers[-1]["name"], value)
    for h in best.idle:
        logger.warning("tune: %s changes nothing where the search begins, and stays", _name(tuned.kernel, h))
    traces = _variances(problem, tuned)
    without = problem.errors_without(tuned) if len(traces) > 1 else []
    names = [_term_name(part) for part in tuned.kernel.parts]
    return {
        "hyperparameters": numbers,
        "shares": [float(trace / sum(traces)) for trace in traces],
        "terms": names,
        "errors_without": without,
        "can_be_dropped": [
            name for name, errors in zip(names, without, strict=False) if _is_no_worse(errors, best.last.errors)
        ],
        "errors_before": best.first.errors,
        "errors": best.last.errors,
        "frames": len(problem.features.observations),
    }


def _value(model: Model, h: Hyperparameter) -> float:
    if h.kind == "noise":
        return float(model.noise[h.place])
    if h.kind == "amplitude":
        return float(model.kernel.parts[h.place].amplitude)
    if h.kind == "argument":
        return model.argument(h.place)
    value = getattr(model.kernel.leaves[h.place].radial, h.kind)
    return float(np.exp(np.mean(np.log(value))))  # of an array, the geometric mean


def _name(kernel: Kernel, h: Hyperparameter) -> str:
    if h.kind == "noise":
        return f"noise of {h.place}"
    if h.kind == "amplitude":
        return f"amplitude of term {h.place + 1}"
    if h.kind == "argument":
        leaf, name, k = h.place
        return f"{name}{'' if k is None else f'[{k}]'} of {kernel.leaves[leaf].descriptor.name.partition(':')[2]}"
    return f"{h.kind} of {kernel.leaves[h.place].descriptor.name.partition(':')[2]}"


def _term_name(part: Kernel) -> str:
    return "*".join(leaf.descriptor.function.__name__ for leaf in part.leaves)


def _is_no_worse(errors: dict[str, float] | None, others: dict[str, float]) -> bool:
    return errors is not None and all(errors[name] <= (1.0 + NEGLIGIBLE) * other for name, other in others.items())


def _variances(problem: Problem, model: Model) -> np.ndarray:
    """The prior variance of the telling labels, summed over them, that every term has."""
    system = problem.system(model, problem.carried(model.kernel))
    return system.shares * system.blocks.diagonals[:, system.telling].sum(axis=1)
