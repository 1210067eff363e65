"""What a force field does not know: the covariance of any labels, and functions that the labels of the fit leave possible."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlff.data.batches import Batch, LabelledFrames, arguments_of
from mlff.operators import Operator
from mlff.potentials.potential import Potential
from mlff.potentials.sums import PotentialSum

OF_THE_FRAME = ("cell", "numbers")  # arguments of operators that every geometry has
WITHOUT = "this force field has no posterior; fit it with posterior=True"


class Uncertainty:
    """What a fit left open: all that a force field asks of it are covariances and samples."""

    def covariance(self, operator: Operator, frames: LabelledFrames) -> Float[np.ndarray, "labels labels"]:
        """Posterior covariance of all answers of an operator at some geometries, without noise, in its unit squared."""
        raise NotImplementedError

    def members(self, count: int, seed: int) -> list[Potential]:
        """A few samples of the difference between the truth and the model, as energies, that share what they can."""
        raise NotImplementedError

    def deviation(self, seed: int) -> Potential:
        """One sample."""
        (sample,) = self.members(1, seed)
        return sample


@dataclasses.dataclass(frozen=True)
class UncertaintySum(Uncertainty):
    """Of a sum of force fields that were fitted independently of each other.

    Attributes:
        terms: of each; factors: what standard deviations of each are multiplied by.
    """

    terms: tuple[Uncertainty, ...]
    factors: tuple[float, ...]

    def covariance(self, operator: Operator, frames: LabelledFrames) -> Float[np.ndarray, "labels labels"]:
        """The sum of all."""
        pairs = zip(self.terms, self.factors, strict=True)
        return sum(factor**2 * term.covariance(operator, frames) for term, factor in pairs)

    def members(self, count: int, seed: int) -> list[Potential]:
        """Sums of independent samples."""
        drawn = [term.members(count, seed + i) for i, term in enumerate(self.terms)]
        return [
            PotentialSum(tuple(one.scaled(factor) for one, factor in zip(of_one, self.factors, strict=True)))
            for of_one in zip(*drawn, strict=True)
        ]


def geometries(
    operator: Operator,
    positions: Float[np.ndarray, "m n 3"],
    numbers: np.ndarray,
    cells: np.ndarray | None,
    pbc: np.ndarray | None,
    arguments: Sequence,
) -> LabelledFrames:
    """Geometries of the same atoms, with what an operator takes beside them.

    Arguments:
        arguments: what it takes beside energy, positions, cell and numbers, the same for all geometries.
    Raises:
        ValueError: another number of arguments.
    """
    names = [name for name in operator.arguments if name not in OF_THE_FRAME]
    if len(arguments) != len(names):
        expected = ", ".join(names) or "none"
        raise ValueError(f"arguments: {operator.name} takes {expected} beside the geometry, received {len(arguments)}")
    count = len(positions)
    labels = {
        name: np.repeat(np.asarray(given, dtype=np.float64)[None], count, axis=0)
        for name, given in zip(names, arguments, strict=True)
    }
    cells = np.zeros((count, 3, 3)) if cells is None else cells
    pbc = np.zeros((count, 3), dtype=bool) if pbc is None else pbc
    return LabelledFrames((Batch(positions, numbers, cells, pbc, labels, np.arange(count)),))


def answer_shape(operator: Operator, frames: LabelledFrames) -> tuple[int, ...]:
    """The shape of what an operator answers of one geometry."""
    (batch,) = frames.batches
    first = batch.take(slice(0, 1))

    def answer(x, *arguments):
        def energy(y, strain=None):
            return jnp.sum(y) + (0.0 if strain is None else jnp.sum(strain))

        return operator.function(energy, x, *arguments)

    return jax.eval_shape(answer, *(array[0] for array in (first.positions, *arguments_of(first, operator)))).shape
