"""Which training frames a prediction rests on: by what it would change, and be less certain, without each of them."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Integer

from mlff.arguments import whole_number
from mlff.operators import Operator, find_operator
from mlff.potentials.force_field import ForceField
from mlff.regression.posterior import Posterior


@dataclasses.dataclass(frozen=True)
class Influence:
    """Frames of the fit, the one with the largest weight in the prediction first.

    Attributes:
        frames: indices in the file that the training frames came from, shape (k,).
        changes: by what the prediction would be less without the frame, (k, …) in the unit and shape of the prediction.
        std: standard deviation with all frames, in the shape of the prediction; without: that without the frame, (k, …).
    """

    frames: Integer[np.ndarray, " k"]
    changes: Float[np.ndarray, "k ..."]
    std: float | Float[np.ndarray, "..."]
    without: Float[np.ndarray, "k ..."]

    def __str__(self) -> str:
        changed = [
            f"frame {i}: {_size(c):.2g}, σ {_size(w):.2g}"
            for i, c, w in zip(self.frames, self.changes, self.without, strict=True)
        ]
        return f"with all frames σ {_size(self.std):.2g}; without {'; '.join(changed)}"


def influence(
    force_field: ForceField,
    positions,
    operator: str | Operator = "forces",
    most=10,
    cell=None,
    pbc=None,
    numbers=None,
    arguments: tuple = (),
) -> Influence:
    """What a prediction rests on, in closed form: nothing is fitted anew.

        print(mlff.influence(force_field, atoms.positions))

    Of energies that are no labels the constant is kept as all frames have it.

    Arguments:
        force_field: an exact fit with posterior=True, of this process: files hold no factor.
        positions: of one geometry, shape (n, 3), Å; cell, pbc, numbers and arguments as of `ForceField.std`.
        operator: what is predicted.
        most: frames that are looked at, those with the largest weights; n² multiply-adds of n training labels for each of theirs.
    Raises:
        ValueError: no such force field, more than one geometry, or as `ForceField.std`.
    """
    operator = find_operator(operator)
    if not isinstance(force_field.posterior, Posterior):
        raise ValueError(
            "force_field: holds no factor; that of an exact fit(…, posterior=True) of one kernel does, in the process that made it"
        )
    most = whole_number("most", most)
    if np.ndim(positions) != 2:
        raise ValueError(f"positions: expected one geometry, shape (n, 3), received {np.shape(positions)}")
    frames, shape = force_field.asked(operator, positions, cell, pbc, numbers, arguments)
    places, changes, variances = force_field.posterior.rests_on(operator, frames, most)
    scaled = force_field.calibrated(operator, np.sqrt(np.maximum(variances, 0.0)))
    index = np.asarray(force_field.record["indices"])[force_field.posterior.system.features.frames.index[places]]
    stds = scaled.reshape(-1, *shape)
    own_std = stds[0] if shape else float(stds[0])
    return Influence(index, changes.reshape(-1, *shape), own_std, stds[1:])


def _size(values: np.ndarray | float) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
