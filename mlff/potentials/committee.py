"""A committee: a few samples of a posterior, whose spread is an error bar that costs little and fits into a model file.

The members differ in a few of their arrays (weights) and share all others (training points, wave vectors), so that what they are
asked is worked out for all of them at once. The spread of K samples is itself uncertain, by 1/√(2K) of it: what is known of the truth by
them is Student's t distribution of K degrees of freedom, whose variance is Σ_k δ_k²/(K − 2).

Source: Imbalzano, Zhuang, Kapil, Rossi, Engel, Grasselli, Ceriotti, J. Chem. Phys. 154, 074102 (2021), doi 10.1063/5.0036522.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from mlff.data.batches import LabelledFrames, arguments_of
from mlff.operators import Operator
from mlff.potentials.compiled import Prepared, arrived, on_device
from mlff.potentials.potential import Potential
from mlff.potentials.uncertainty import Uncertainty
from mlff.precision import Array, doubled
from mlff.trees import Tree


class Committee(Tree, Uncertainty):
    """Samples of the difference between the truth and a model.

    Attributes:
        shared: the first of them.
        varying: what differs from one to the other, by its place in the tree, with a leading axis of K members.
    """

    shared: Potential
    varying: dict[str, Float[Array, "..."]]

    @classmethod
    def of(cls, members: Sequence[Potential]) -> Committee:
        """Of three samples or more that have the same structure."""
        flattened = [jax.tree_util.tree_flatten_with_path(member)[0] for member in members]
        varying = {}
        for (path, first), *others in zip(*flattened, strict=True):
            if not all(np.array_equal(first, other) for _, other in others):
                varying[jax.tree_util.keystr(path)] = np.stack([first, *(other for _, other in others)])
        return cls(members[0], varying)

    def __getstate__(self) -> dict:
        """Without compiled functions, which another process makes anew."""
        return {name: value for name, value in self.__dict__.items() if name != "_leaves"}

    def __len__(self) -> int:
        return len(next(iter(self.varying.values())))

    def require_consistent(self) -> None:
        """Refuse arrays that do not belong to the tree of the first.

        Raises:
            ValueError: which.
        """
        leaves = {
            jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(self.shared)[0]
        }
        if not self.varying or len(self) < 3:
            raise ValueError("posterior.varying: a committee has three members or more, which differ")
        for place, array in self.varying.items():
            if place not in leaves or array.shape != (len(self), *np.shape(leaves[place])):
                raise ValueError(
                    f"posterior.varying: {place!r:.80} is of no array of the committee, or not of its shape"
                )

    def member(self, i: int) -> Potential:
        """One of them."""
        return _with(self.shared, {place: array[i] for place, array in self.varying.items()})

    def energies_and_forces(
        self, prepared: Prepared, positions: Float[np.ndarray, "N 3"], around
    ) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "K n 3"]]:
        """What every member adds to energy and forces of one geometry.

        Arguments:
            prepared: `shared`, for the atoms.
            positions, around: of its slots.
        """
        if prepared not in self._leaves:
            self._leaves[prepared] = self._with_axes(prepared)
        leaves, axes = self._leaves[prepared]
        with doubled():
            packed = arrived(prepared.functions.spread(leaves, prepared.numbers, positions, around, axes=axes))
        return packed[:, 0], prepared.of_atoms(packed[:, 1:].reshape(len(packed), *positions.shape))

    @functools.cached_property
    def _leaves(self) -> weakref.WeakKeyDictionary:
        return weakref.WeakKeyDictionary()

    def _with_axes(self, prepared: Prepared) -> tuple[list, tuple[int | None, ...]]:
        """The arrays of the arranged tree, those that vary with an axis of members, and which these are."""
        places = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(prepared.potential)[0]]
        varying = on_device(self.varying)
        leaves = [varying.get(place, leaf) for place, leaf in zip(places, prepared.leaves, strict=True)]
        return leaves, tuple(0 if place in varying else None for place in places)

    def covariance(self, operator: Operator, frames: LabelledFrames) -> Float[np.ndarray, "labels labels"]:
        """Of the t distribution, from the products of what all members answer."""
        answers = np.stack([self._answers(i, operator, frames) for i in range(len(self))])
        return answers.T @ answers.copy() / (len(self) - 2)

    def std(self, answers: Float[np.ndarray, "K ..."]) -> np.ndarray | float:
        """Standard deviations from the answers of all members."""
        return np.sqrt(np.sum(answers**2, axis=0) / (len(self) - 2))

    def _answers(self, i: int, operator: Operator, frames: LabelledFrames) -> Float[np.ndarray, " labels"]:
        """What one member says of all labels."""
        member, found = on_device(self.member(i)), []
        for batch in frames.batches:
            prepared, arguments = Prepared.of(member, batch.numbers), arguments_of(batch, operator)
            around = prepared.surroundings(batch)
            for k in range(len(batch)):
                where = prepared.leaves, prepared.numbers, batch.positions[k], *around.frame(k)
                given = tuple(argument[k] for argument in arguments)
                with doubled():
                    found.append(np.ravel(prepared.functions.applied(*where, given, None, function=operator.function)))
        return np.concatenate(found)

    def members(self, count: int, seed: int) -> list[Potential]:
        """The first of them."""
        if count > len(self):
            raise ValueError(f"error bars: the committee has {len(self)} members, {count} are asked for")
        return [self.member(i) for i in range(count)]

    def deviation(self, seed: int) -> Potential:
        """One of the members.

        Raises:
            ValueError: there are not so many.
        """
        if not 0 <= seed < len(self):
            raise ValueError(
                f"sample: a committee of {len(self)} has samples 0 to {len(self) - 1}, received {seed}; more come from the force "
                "field that fit(…, posterior=True) returns, before it is saved"
            )
        return self.member(seed)


def _with(potential: Potential, arrays: dict[str, Array]) -> Potential:
    """A potential with other arrays at some places of its tree."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: arrays.get(jax.tree_util.keystr(path), leaf), potential)
