"""The record of a fit: what a force field keeps of how it came to be."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlff.operators import OPERATORS
from mlff.regression.requests import Request
from mlff.regression.solution import Solution
from mlff.regression.validation import Trial


def record_of(
    request: Request, facts: dict[str, Any], seed: int, trials: list[Trial], solution: Solution, seconds: float
) -> dict[str, Any]:
    """Labels, noise, length scales tried and what else `potentials.record` knows.

    Arguments:
        facts: of the frames.
        seconds: what the fit took.
    """
    groups = None if request.groups is None else request.groups.summary()
    said = {"inducing": solution.inducing, "iterations": solution.iterations, "group_noise": groups}
    said = {name: learnt for name, learnt in said.items() if learnt is not None}
    noise = request.noise if solution.noise is None else solution.noise
    users = [name for name, operator in request.operators.items() if OPERATORS.get(name) is not operator]
    return {
        **facts, "labels": list(request.labels), "own_operators": users, "noise": noise, **said,
        "rows": solution.rows, "unseen": solution.unseen, "seed": seed,
        "lengthscales_tried": [
            [trial.lengthscale, trial.error if np.isfinite(trial.error) else None] for trial in trials
        ],
        "energy_constant": "energy" in request.frames.names, "fit_seconds": seconds,
    }  # fmt: skip
