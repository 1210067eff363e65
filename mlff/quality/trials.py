"""Kernels and recipes compared in this process: fitted to some of the frames, the better ones to more."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence

import numpy as np

from mlff.arguments import checked_seed, is_number
from mlff.data.dataset import Dataset
from mlff.kernels.kernels import Kernel
from mlff.potentials.errors import evaluate
from mlff.potentials.force_field import ForceField
from mlff.quality.comparison import Candidate, Comparison, Outcome, candidates, compared, geometry_seconds, sizes
from mlff.regression.exact import Progress
from mlff.regression.fitting import fit
from mlff.regression.recipes import RECIPES, recipe
from mlff.regression.tuning.tune import tune

logger = logging.getLogger(__name__)

SHARE = 0.8  # of the frames that are trained on at most, where no others are there to test on
LEAST = 5  # frames


def compare(
    models: Sequence | Mapping | None,
    data: Dataset,
    budget: float = 300.0,
    test: Dataset | None = None,
    labels: Sequence[str] = ("energy", "forces"),
    seed: int = 0,
    progress: Progress = lambda stage, fraction: None,
) -> Comparison:
    """Which of several models to take for some frames.

        comparison = mlff.compare({"mine": kernel, "sgdml": "sgdml"}, data, budget=600)
        print(comparison)  # a table
        comparison.best.candidate

    Each is fitted to a few frames, the better half to four times as many, and so on while the time lasts. Recipes that are sums are tuned.
    What is begun is not stopped, so that a model may take longer than the time that was left; `mlff compare` has each fitted by a
    process of its own, which can be.

    Arguments:
        models: names of recipes, or kernels by names of one's own with names of recipes among them; None for the recipes that fit the data.
        data: frames with forces.
        budget: seconds in all.
        test: frames to test on; without them a fifth of the data.
        labels: what kernels are fitted to; recipes have their own.
        seed: of the frames that are drawn.
        progress: called with a stage's name and how much of the time is over.
    Raises:
        ValueError: no data, too few frames, no forces to be tested on, no such recipe, or no time.
    """
    if not isinstance(data, Dataset):
        raise ValueError(f"data: expected a Dataset, received a {type(data).__name__}; compare(models, data)")
    if not is_number(budget) or not 0 < budget < float("inf"):
        raise ValueError(f"budget={budget!r:.40} must be a positive number of seconds")
    if any("forces" not in frame.labels for frame in test or data):
        raise ValueError(f"{(test or data).source}: frames without forces tell no errors; leave them out")
    if len(data) < LEAST:
        raise ValueError(f"{data.source}: {len(data)} frames are too few to compare models on; give at least {LEAST}")
    named = _candidates(models, data)
    most = len(data) if test is not None else int(SHARE * len(data))
    train, *left = data.split(most, *([] if test is not None else [len(data) - most]), seed=checked_seed(seed))
    trials = _Trials(train, left[0] if test is None else test, tuple(labels), seed, time.monotonic(), budget, progress)
    return compared(named, sizes(most, data, named), trials.run, budget)


def _candidates(models, data: Dataset) -> list[Candidate]:
    """What is compared; recipes first and with what suits the data, as `candidates` has them."""
    names = list(
        models.values() if isinstance(models, Mapping) else [models] if isinstance(models, str) else models or ()
    )
    for name in names:
        if isinstance(name, str) and name not in RECIPES:
            raise ValueError(
                f"models: there is no recipe {name!r:.60}; choose from {', '.join(RECIPES)}, or give a kernel by a name"
            )
        if not isinstance(name, (str, Kernel)) or (not isinstance(name, str) and not isinstance(models, Mapping)):
            raise ValueError(
                f"models: expected names of recipes, or kernels by name, {{'mine': kernel}}; received a {type(name).__name__}"
            )
    if not isinstance(models, Mapping):
        return candidates(data, names)
    found = []
    for name, model in models.items():
        (like,) = candidates(data, [model]) if isinstance(model, str) else [Candidate(name, kernel=model)]
        found.append(like)
    return found


@dataclasses.dataclass(frozen=True)
class _Trials:
    """Fits to the first of the training frames."""

    train: Dataset
    test: Dataset
    labels: tuple[str, ...]
    seed: int
    started: float
    budget: float
    progress: Progress

    def run(self, candidate: Candidate, frames: int, limit: float) -> Outcome:
        """What becomes of a model with some frames."""
        stage, begun = f"{candidate}, {frames} frames", time.monotonic()
        self.progress(stage, min(0.99, (begun - self.started) / self.budget))
        try:
            force_field = self._fitted(candidate, self.train[:frames])
            errors = evaluate(force_field, self.test)
        except ValueError as error:  # what a fit refuses, it refuses of this model alone
            logger.info("%s: %s", stage, error)
            return Outcome(candidate, frames, time.monotonic() - begun, failure=str(error))
        finally:
            self.progress(stage, 1.0)
        seconds, geometry = time.monotonic() - begun, geometry_seconds(force_field, self.test[0])
        energy = None if np.isnan(errors.energy_mae_per_atom) else errors.energy_mae_per_atom
        return Outcome(candidate, frames, seconds, energy, errors.forces_mae, None, geometry, tested=len(self.test))

    def _fitted(self, candidate: Candidate, train: Dataset) -> ForceField:
        if candidate.kernel is not None:
            return fit(candidate.kernel, train, self.labels, seed=self.seed)
        kernel, labels = recipe(candidate.recipe, train, seed=self.seed)
        if candidate.tuned:
            return fit(tune(kernel, train, labels, seed=self.seed), train)
        return fit(kernel, train, labels, seed=self.seed, inducing=candidate.inducing)
