"""Kinds of labels of a sparse fit, each of one noise: those of an operator, of a group of frames, or of stated noise, in its unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float

from mlff.data.batches import LabelledFrames
from mlff.data.cells import volume
from mlff.operators import ENERGY, STRESS, Operator
from mlff.regression.sparse.inducing import Inducing

_STATED, _GROUP = " (stated)", " of group "  # behind the name of the labels


def label_of(kind: str) -> str:
    """The name of the labels of a kind."""
    return kind.partition(_GROUP)[0].removesuffix(_STATED)


def group_of(kind: str) -> str | None:
    """The group of frames whose labels alone are of a kind; None where it is not one's."""
    return kind.partition(_GROUP)[2] or None


def ungrouped(kind: str) -> str:
    """The kind that one of a group is of with all others."""
    return kind.partition(_GROUP)[0]


@dataclasses.dataclass(frozen=True)
class LabelKinds:
    """What kind labels of frames are of, and in which unit they are taken, so that one number is the noise of all of a kind.

    The unit is the factor of the frame's group, or its noise over the smallest that is stated; where the noise is that of an atom, √n
    times that of energies and √n/V times that of stresses.

    Attributes:
        scales: kind, and one over the unit, of the labels of every frame by its index and their name.
        stated: noise of the kinds for which it is stated, and not looked for.
    """

    scales: dict[tuple[int, str], tuple[str, float]]
    stated: dict[str, float]

    @classmethod
    def of(
        cls,
        frames: LabelledFrames,
        operators: Mapping[Operator, float],
        extensive: bool,
        groups: Mapping[int, str] | None = None,
    ) -> LabelKinds:
        """Of the labels of frames.

        Arguments:
            operators: with their noise; any, where it is to be looked for.
            extensive: the noise is looked for, and that of an atom.
            groups: of frames whose labels are kinds of their own, by index.
        """
        units = (
            _smallest_stated(frames, operators) if extensive else {op.name: level for op, level in operators.items()}
        )
        scales, groups = {}, groups or {}
        for batch in frames.batches:
            root, volumes = np.sqrt(len(batch.numbers)), np.array([volume(cell) for cell in batch.cells])
            of_an_atom = {ENERGY: 1.0 / root, STRESS: volumes / root} if extensive else {}
            for operator in (op for op in operators if op.name in batch.labels):
                noise, name = batch.noise_of(operator.name), operator.name
                found = of_an_atom.get(operator, 1.0) / noise.relative(units.get(name, 1.0))
                apart = extensive & ~np.isnan(noise.stated)
                for i, scale, stated in zip(map(int, batch.index), found, apart, strict=True):
                    kind = name + _STATED if stated else name + _GROUP + groups[i] if i in groups else name
                    scales[i, name] = kind, float(scale)
        return cls(scales, {name + _STATED: level for name, level in units.items()} if extensive else {})

    @property
    def names(self) -> list[str]:
        """All kinds."""
        return list(dict.fromkeys(kind for kind, _ in self.scales.values()))

    def merged(self, factors: Mapping[str, float]) -> LabelKinds:
        """With the kinds of groups in one with those of the others, in units of some factors, by kind."""
        merged = {key: (ungrouped(kind), scale / factors.get(kind, 1.0)) for key, (kind, scale) in self.scales.items()}
        return LabelKinds(merged, self.stated)

    def __add__(self, other: LabelKinds) -> LabelKinds:
        return LabelKinds(self.scales | other.scales, self.stated)

    def rows(
        self, inducing: Inducing, frames: LabelledFrames, operators: Mapping[Operator, float], reference, constants: int
    ) -> Iterator[tuple[int, list[tuple[str, Float[np.ndarray, "r c"], Float[np.ndarray, " r"]]]]]:
        """The labels of frames, frame by frame: its index, and of every kind whitened rows with columns of constants behind, and the
        labels without those of a reference.

        Raises:
            ValueError: a descriptor is not finite.
        """
        for i, of_frame in inducing.rows(frames, operators):
            found = []
            for name, rows in of_frame.items():
                whitened = _finite(inducing.whitening.whitened(rows.kernel), i, name)
                kind, scale = self.scales[i, name]
                columns = np.concatenate([whitened, rows.design[:, :constants]], axis=1)
                found.append((kind, scale * columns, scale * (rows.labels - rows.design @ reference)))
            yield i, found


def _smallest_stated(frames: LabelledFrames, operators: Mapping[Operator, float]) -> dict[str, float]:
    """The smallest noise that is stated of labels, by their names."""
    found: dict[str, float] = {}
    for batch in frames.batches:
        for name in {operator.name for operator in operators} & set(batch.labels):
            known = batch.noise_of(name).known
            if len(known):
                found[name] = min(float(known.min()), found.get(name, np.inf))
    return found


def _finite(rows: np.ndarray, frame: int, name: str) -> np.ndarray:
    if not np.isfinite(rows).all():
        raise ValueError(
            f"the descriptor or its first derivative is not finite at training frame {frame} ({name}); guard its square roots, "
            "norms and divisions there"
        )
    return rows
