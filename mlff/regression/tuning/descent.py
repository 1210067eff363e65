"""Downhill from a model: L-BFGS on the logarithms of its hyperparameters, within their bounds."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import scipy.optimize

from mlff.regression.checkpoint import NOWHERE, Checkpoint
from mlff.regression.tuning.hyperparameters import Hyperparameter, Model
from mlff.regression.tuning.left_out import Assessment
from mlff.regression.tuning.problem import Problem

logger = logging.getLogger(__name__)

EVALUATIONS = 40  # of the objective, from one start
REFINING = 12  # from what few frames have found
RAISED = (
    1.0,
    3.0,
    10.0,
)  # what its noise is multiplied by, where the matrix of more frames is not positive definite with less
NOISIER = (3e-3, 1e-2, 3e-2)  # over the labels' root mean square, for a start whose matrix is not positive definite


@dataclasses.dataclass(frozen=True)
class Minimum:
    """Where the descent from one start ended.

    Attributes:
        start, model: where it began, and the best model.
        place: logarithms of the best model's hyperparameters.
        hyperparameters: with values at the start, and bounds.
        first, last: what the objective says of both; None where no matrix was positive definite.
        evaluations: how many there were.
        idle: the hyperparameters that change nothing where it began.
    """

    start: Model
    model: Model
    place: np.ndarray
    hyperparameters: list[Hyperparameter]
    first: Assessment | None
    last: Assessment | None
    evaluations: int
    idle: tuple[Hyperparameter, ...] = ()

    @property
    def value(self) -> float:
        """Of the objective."""
        return np.inf if self.last is None else self.last.value


class _Seen:
    """What was evaluated, and what stands for a matrix that is not positive definite.

    There the function is continued as the mirror image of its descent: the value of the iterate that the line search began at, and
    its slope reversed. The line search then halves its step.
    """

    def __init__(
        self,
        problem: Problem,
        model: Model,
        hyperparameters: list[Hyperparameter],
        told: Callable[[int], None],
        kept: Checkpoint,
    ):
        self.problem, self.model, self.hyperparameters, self.told = problem, model, hyperparameters, told
        self.kept = kept
        self.found: list[tuple[np.ndarray, Assessment, np.ndarray]] = []
        self.iterate: tuple[float, np.ndarray] | None = None
        self.calls = 0

    def at(self, logarithms: np.ndarray) -> Model:
        """The model with these hyperparameters."""
        return self.model.replaced(self.hyperparameters, np.exp(logarithms))

    def __call__(self, logarithms: np.ndarray) -> tuple[float, np.ndarray]:
        self.told(self.calls)
        self.calls += 1
        # the way is the same each time: a search that goes on asks for what it had asked for
        found = self.kept.plain(f"evaluation {self.calls}", lambda: self._evaluated(logarithms))
        if found is None:
            if self.iterate is None:
                raise np.linalg.LinAlgError("the first matrix is not positive definite")
            value, slope = self.iterate
            return value, -slope
        result, gradient = Assessment(found["value"], found["errors"], found["scale"]), np.array(found["gradient"])
        self.found.append((logarithms.copy(), result, gradient))
        logger.info("tune: %s", ", ".join(f"{name} {value:.4g}" for name, value in result.errors.items()))
        if self.iterate is None:
            self.iterate = result.value, gradient
        return result.value, gradient

    def _evaluated(self, logarithms: np.ndarray) -> dict | None:
        """The objective with its gradient, as plain data; None where the matrix is not positive definite."""
        try:
            result, gradient = self.problem.with_gradient(self.at(logarithms), self.hyperparameters)
        except (np.linalg.LinAlgError, FloatingPointError):
            return None
        return {**_as_plain(result), "gradient": gradient.tolist()}

    def reached(self, logarithms: np.ndarray) -> None:
        """The next iterate."""
        for place, result, gradient in reversed(self.found):
            if np.array_equal(place, logarithms):
                self.iterate = result.value, gradient
                return


def descend(problem: Problem, start: tuple, told: Callable[[int], None], checkpoint: Checkpoint = NOWHERE) -> Minimum:
    """Downhill from one start; from more noise, where its matrix is not positive definite.

    Arguments:
        start: of `Problem.started`.
        told: called with the number of evaluations.
        checkpoint: keeps these.
    """
    stretch, share, noise = start
    noises = [noise] if problem.sizes is None else [noise, *(more for more in NOISIER if more > noise)]
    for tried in noises:
        model = problem.started(stretch, share, tried)
        hyperparameters = model.hyperparameters(problem.sizes, problem.limits)
        seen = _Seen(problem, model, hyperparameters, told, checkpoint.beneath(f"noise {tried}"))
        if _minimise(seen, _starts(hyperparameters), EVALUATIONS):
            _, first, slope = seen.found[0]
            idle = tuple(h for h, along in zip(hyperparameters, slope, strict=True) if along == 0.0)
            return _lowest(seen, first, idle)
    return Minimum(model, model, _starts(hyperparameters), hyperparameters, None, None, len(noises))


def refined(problem: Problem, found: Minimum, told: Callable[[int], None], checkpoint: Checkpoint = NOWHERE) -> Minimum:
    """On from the minimum of another problem, of fewer of the same frames, within the same bounds.

    Arguments:
        told: called with the number of evaluations.
        checkpoint: keeps these.
    """
    seen = _Seen(problem, found.start, [_within(h, problem) for h in found.hyperparameters], told, checkpoint)
    highest = np.log([h.bounds[1] for h in seen.hyperparameters])
    noises = np.array([h.kind == "noise" for h in seen.hyperparameters])
    places = [
        np.minimum(found.place + noises * np.log(factor), highest) for factor in (RAISED if noises.any() else (1.0,))
    ]
    if found.last is None or not any(_minimise(seen, place, REFINING) for place in places):
        return dataclasses.replace(found, last=None, evaluations=seen.calls)
    _, begun, slope = seen.found[0]
    pairs = zip(seen.hyperparameters, slope, strict=True)
    stays = {(h.kind, h.place) for h, along in pairs if along == 0.0}
    idle = tuple(h for h in found.idle if (h.kind, h.place) in stays)
    before = checkpoint.plain("start", lambda: _before(problem, found.start))
    return _lowest(seen, begun if before is None else Assessment(**before), idle)


def _before(problem: Problem, model: Model) -> dict | None:
    """The objective of a model as plain data; None where the matrix is not positive definite."""
    try:
        return _as_plain(problem.assessed(model)[0])
    except (np.linalg.LinAlgError, FloatingPointError):
        return None


def _as_plain(found: Assessment) -> dict:
    errors = {name: float(error) for name, error in found.errors.items()}
    return {"value": float(found.value), "errors": errors, "scale": float(found.scale)}


def _within(h: Hyperparameter, problem: Problem) -> Hyperparameter:
    """Arguments of descriptors may go no further than these frames allow."""
    if h.kind != "argument":
        return h
    return dataclasses.replace(h, bounds=(h.bounds[0], min(h.bounds[1], max(h.start, problem.limits[h.place]))))


def _starts(hyperparameters: list[Hyperparameter]) -> np.ndarray:
    return np.log([h.start for h in hyperparameters])


def _lowest(seen: _Seen, first: Assessment, idle: tuple[Hyperparameter, ...]) -> Minimum:
    """The best of what was evaluated."""
    place, last, _ = min(seen.found, key=lambda each: each[1].value)
    return Minimum(seen.model, seen.at(place), place, seen.hyperparameters, first, last, seen.calls, idle)


def _minimise(seen: _Seen, start: np.ndarray, evaluations: int) -> bool:
    """Downhill; whether there was a matrix at the start."""
    try:
        scipy.optimize.minimize(
            seen, start, jac=True, method="L-BFGS-B", callback=seen.reached,
            bounds=[tuple(np.log(h.bounds)) for h in seen.hyperparameters],
            options={"maxfun": evaluations, "maxiter": evaluations, "ftol": 1e-4, "maxls": 12},
        )  # fmt: skip
    except (np.linalg.LinAlgError, FloatingPointError):  # of the start alone
        return False
    return True
