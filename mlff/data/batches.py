"""What the fit needs of a data set: labelled geometries as arrays, batched by composition and by the labels they have."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mlff.data.dataset import Dataset
from mlff.data.group_noise import FrameNoise, GroupNoise
from mlff.operators import Operator


@dataclasses.dataclass(frozen=True)
class Batch:
    """Frames of one composition and one order of atoms, with the same labels.

    positions: (m, n, 3) Å; numbers: (n,); cells: (m, 3, 3) Å; pbc: (m, 3); labels: by name, energy (m,) eV,
    forces (m, n, 3) eV/Å, …; index: which of all the frames these are, (m,); noise: by the names of labels, of groups of frames that
    have their own; None where there are none.
    """

    positions: np.ndarray
    numbers: np.ndarray
    cells: np.ndarray
    pbc: np.ndarray
    labels: dict[str, np.ndarray]
    index: np.ndarray
    noise: dict[str, FrameNoise] | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, chosen) -> Batch:
        """The frames at some places of this batch."""
        labels = {name: values[chosen] for name, values in self.labels.items()}
        index, noise = self.index[chosen], self.noise and {name: each.take(chosen) for name, each in self.noise.items()}
        return Batch(self.positions[chosen], self.numbers, self.cells[chosen], self.pbc[chosen], labels, index, noise)

    def noise_of(self, name: str) -> FrameNoise:
        """What is said of the noise of one of the labels, frame by frame."""
        return FrameNoise.plain(len(self)) if self.noise is None else self.noise[name]

    def alike(self, other: Batch) -> bool:
        """Whether the other has the same atoms and labels, so that both can be one batch."""
        shapes, others = ({name: v.shape[1:] for name, v in b.labels.items()} for b in (self, other))
        unweighted = self.noise is None and other.noise is None
        return np.array_equal(self.numbers, other.numbers) and shapes == others and unweighted

    def followed_by(self, other: Batch) -> Batch:
        """With the frames of one that is `alike` after these."""
        arrays = [(getattr(self, n), getattr(other, n)) for n in ("positions", "cells", "pbc", "index")]
        positions, cells, pbc, index = map(np.concatenate, arrays)
        labels = {name: np.concatenate([values, other.labels[name]]) for name, values in self.labels.items()}
        return Batch(positions, self.numbers, cells, pbc, labels, index)


@dataclasses.dataclass(frozen=True)
class LabelledFrames:
    """Labelled geometries; frames of equal atoms in equal order with the same labels share a batch.

    Batches with the same labels are neighbours.
    """

    batches: tuple[Batch, ...]

    @classmethod
    def of(cls, data: Dataset, group_noise: GroupNoise | None = None) -> LabelledFrames:
        """The frames of a data set with their labels.

        Arguments:
            group_noise: of groups that have their own.
        """
        members: dict[tuple, dict[tuple, list[int]]] = {}
        for i, frame in enumerate(data):
            # labels that come in any number (curvatures along vectors) share an array where they are as many
            names = tuple((name, np.shape(value)) for name, value in sorted(frame.labels.items()) if np.size(value))
            kind = (np.asarray(frame.numbers, dtype=np.int32).tobytes(), names)
            members.setdefault(tuple(name for name, _ in names), {}).setdefault(kind, []).append(i)
        batches = []
        for index in (index for kinds in members.values() for index in kinds.values()):
            frames = [data[i] for i in index]
            names = tuple(name for name, value in frames[0].labels.items() if np.size(value))
            batches.append(
                Batch(
                    np.stack([np.asarray(frame.positions, dtype=np.float64) for frame in frames]), frames[0].numbers,
                    np.stack([np.asarray(frame.cell, dtype=np.float64) for frame in frames]),
                    np.stack([frame.system.pbc for frame in frames]),
                    {name: np.stack([frame.labels[name] for frame in frames]) for name in names}, np.array(index),
                    group_noise and group_noise.of_frames([frame.group for frame in frames], names),
                )
            )  # fmt: skip
        return cls(tuple(batches))

    @classmethod
    def uniform(cls, positions, numbers, labels, cells=None) -> LabelledFrames:
        """Frames of one molecule, from arrays."""
        count = len(positions)
        cells = np.zeros((count, 3, 3)) if cells is None else np.asarray(cells)
        pbc = np.any(cells != 0.0, axis=-1)
        return cls((Batch(np.asarray(positions), np.asarray(numbers), cells, pbc, dict(labels), np.arange(count)),))

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches)

    @property
    def names(self) -> tuple[str, ...]:
        """Labels that some frame has."""
        return tuple(dict.fromkeys(name for batch in self.batches for name in batch.labels))

    @property
    def numbers(self) -> np.ndarray | None:
        """Atomic numbers, where all frames have the same atoms in the same order."""
        first = self.batches[0].numbers
        return first if all(np.array_equal(batch.numbers, first) for batch in self.batches) else None

    @property
    def compositions(self) -> list[np.ndarray]:
        """Atomic numbers of each batch."""
        return [batch.numbers for batch in self.batches]

    def values(self, name: str) -> np.ndarray:
        """One label of all frames that have it, flattened, batch after batch."""
        return np.concatenate([batch.labels[name].ravel() for batch in self.having(name).batches])

    def having(self, name: str) -> LabelledFrames:
        """The frames that have a label."""
        return LabelledFrames(tuple(batch for batch in self.batches if name in batch.labels))

    def take(self, chosen: Sequence | np.ndarray) -> LabelledFrames:
        """The frames with some indices (as counted in the whole data set)."""
        wanted = set(int(i) for i in chosen)
        parts = [batch.take([k for k, i in enumerate(batch.index) if int(i) in wanted]) for batch in self.batches]
        return LabelledFrames(tuple(part for part in parts if len(part)))

    def followed_by(self, other: LabelledFrames) -> LabelledFrames:
        """With other frames after these, counted on from them; frames of one kind stay one batch where they meet."""
        later = [dataclasses.replace(batch, index=batch.index + len(self)) for batch in other.batches]
        if self.batches and later and self.batches[-1].alike(later[0]):
            later[0] = self.batches[-1].followed_by(later[0])
            return LabelledFrames((*self.batches[:-1], *later))
        return LabelledFrames((*self.batches, *later))

    @property
    def index(self) -> np.ndarray:
        """The index of every frame, in the order of the batches."""
        return np.concatenate([batch.index for batch in self.batches])


def arguments_of(batch: Batch, operator: Operator) -> tuple[np.ndarray, ...]:
    """What an operator is given beside the energy and the positions, each with one entry a frame.

    Raises:
        ValueError: frames lack an entry, naming the first of them.
    """
    available = {**batch.labels, "cell": batch.cells, "numbers": np.tile(batch.numbers, (len(batch), 1))}
    for name in operator.arguments:
        if name not in available:
            raise ValueError(
                f"labels: {operator.name} needs {name} beside it; frame {batch.index[0]} has {', '.join(batch.labels)}"
            )
    return tuple(available[name] for name in operator.arguments)
