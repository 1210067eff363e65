"""What is to be tuned, on which frames, and what that takes."""

from __future__ import annotations

import dataclasses
import functools
import time

import numpy as np

from mlff.arguments import checked_seed
from mlff.regression.exact import Progress
from mlff.regression.planning.plan import budget_of, room_of
from mlff.regression.planning.plans import Plan, Stage
from mlff.regression.requests import Request, states_noise
from mlff.regression.system.inner_products import needed_bytes
from mlff.regression.tuning.descent import EVALUATIONS, NOISIER, REFINING
from mlff.regression.tuning.drawing import (
    LEAST,
    MAX_ROWS,
    bytes_of_tuning,
    drawn_frames,
    fitting_rows,
    part_of,
    room_for_products,
)
from mlff.regression.tuning.problem import OBJECTIVES, Problem

# Where there are twice as many frames as these make, the search is made on these first, and gone on with from where that ends: a step
# there takes a fifteenth to a fortieth of the time.
FEW_ROWS, FEW_FRAMES = 1500, 20
# (length scale of global terms over START times the data's, share of the first term, noise over the labels' root mean square)
STARTS = ((2.0, None, 1e-2), (6.0, 0.97, 1e-3))
REPEATS = 2  # of a step that is timed; the first compiles
MEASURED = "by label"  # how errors left out are averaged: values of one way do not go on in another
UNDEFINED = "tune: no kernel matrix was positive definite; state a larger noise, or remove near-duplicate frames"


@dataclasses.dataclass(frozen=True)
class Task:
    """A search for hyperparameters, before it begins.

    Attributes:
        request: what is fitted.
        free: whether noise is tuned.
        objective: one of `OBJECTIVES`.
        arguments: of descriptors, that are tuned.
        seed: of the frames that are drawn, and of the folds.
        budget: bytes that the process may take.
        room: those that are left of it for numbers.
    """

    request: Request
    free: bool
    objective: str
    arguments: tuple[str, ...]
    seed: int
    budget: int
    room: int

    @classmethod
    def of(
        cls,
        model,
        data,
        labels,
        noise,
        atomic_energies,
        group_noise,
        baseline,
        objective: str,
        arguments,
        seed: int,
        memory,
    ) -> Task:
        """From the arguments of `tune`.

        Raises:
            ValueError: an objective that there is not, noise of groups where that of the others is looked for, too few frames, or what
                `Request.of` refuses.
        """
        if objective not in OBJECTIVES:  # a baseline may take minutes for the labels of all frames
            raise ValueError(f"objective={objective!r:.60} is not known; choose from {', '.join(OBJECTIVES)}")
        arguments = (arguments,) if isinstance(arguments, str) else tuple(arguments)
        seed, budget = checked_seed(seed), budget_of(memory)
        request = Request.of(model, data, labels, noise, atomic_energies, group_noise, baseline)
        if noise is None and states_noise(request):
            raise ValueError(
                "group_noise: states the noise of a label in a group, and that of the others is tuned; give factors, {'Surface': 2.0}, or "
                "noise"
            )
        if len(request.frames) < LEAST:
            raise ValueError(
                f"tune: {len(request.frames)} frames are too few to leave one out and learn from the others; give at least {LEAST}"
            )
        return cls(request, noise is None, objective, arguments, seed, budget, room_of(memory))

    @property
    def identity(self) -> tuple:
        """What tells it from others on the same request, for `checkpoint.fingerprint`."""
        return MEASURED, self.free, self.objective, self.arguments, self.seed, MAX_ROWS, FEW_ROWS, FEW_FRAMES

    def rows(self) -> int:
        """How many rows of the linear system there is room for."""
        return fitting_rows(self.request, self.seed, self.room, bool(self.arguments))

    def drawn(self, rows: int) -> np.ndarray:
        """The frames that are tuned on, where there is room for so many rows."""
        return drawn_frames(self.request, rows, LEAST, self.seed)

    @functools.cached_property
    def few(self) -> np.ndarray:
        """The frames that the search is made on, of a large set."""
        return drawn_frames(self.request, FEW_ROWS, FEW_FRAMES, self.seed)

    def in_steps(self, drawn: np.ndarray) -> bool:
        """Whether so many frames are led to by few of them."""
        return len(drawn) >= 2 * len(self.few)

    def problem(self, frames: np.ndarray, tell: Progress = lambda stage, fraction: None) -> Problem:
        """Of some of the frames."""
        part = part_of(self.request, frames)
        products = room_for_products(part, self.room, bool(self.arguments))
        return Problem.of(part, self.free, tell, self.objective, self.arguments, self.seed, products)

    def plan(self, progress: Progress = lambda stage, fraction: None) -> Plan:
        """How long the search takes where it makes all steps that it may, and in what memory; one of them is timed.

        Raises:
            ValueError: too little memory, no positive definite matrix.
        """
        base, drawn = self.budget - self.room, self.drawn(self.rows())
        parts = [("search", drawn, len(STARTS) * EVALUATIONS)]
        if self.in_steps(drawn):
            parts = [("few frames", self.few, len(STARTS) * EVALUATIONS), ("refine", drawn, REFINING)]
        stages = []
        for k, (name, frames, steps) in enumerate(parts):
            progress("plan", k / (k + 1))
            stage, rows = self._stage(name, frames, steps, base)
            stages.append(stage)
        whole = len(self.request.frames)
        of = f"{len(drawn)} of {whole} frames" if len(drawn) < whole else "all frames"
        reason = f"where no search ends early; {of}"
        return Plan("tune", len(drawn), rows, None, self.budget, tuple(stages), reason)

    def _stage(self, name: str, frames: np.ndarray, steps: int, base: int) -> tuple[Stage, int]:
        """So many steps on some of the frames, the last of a few timed; with the rows that these make."""
        started = time.perf_counter()
        problem = self.problem(frames)
        built = time.perf_counter()
        step = _step(problem)
        kept = sum(needed_bytes(each.blocks.features) for each in problem.products if each is not None)
        memory = base + bytes_of_tuning(part_of(self.request, frames), bool(self.arguments)) + kept
        return Stage(name, memory, built - started + steps * step), int(problem.features.ends[-1])


def _step(problem: Problem) -> float:
    """Seconds of an evaluation with its gradient, where one of the starts has a matrix."""
    for stretch, share, _ in STARTS:
        model = problem.started(stretch, share, max(NOISIER))
        numbers = model.hyperparameters(problem.sizes, problem.limits)
        try:
            for _ in range(REPEATS):
                begun = time.perf_counter()
                problem.with_gradient(model, numbers)
        except (np.linalg.LinAlgError, FloatingPointError):
            continue
        return time.perf_counter() - begun
    raise ValueError(UNDEFINED)
