"""Weights of the labels of an iterative fit, frame by frame: where one of more frames may begin."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from mlff.data.batches import Batch, LabelledFrames


@dataclasses.dataclass(frozen=True)
class LabelWeights:
    """a of E(x) = Σ_j L_j k(x, x_j) a_j.

    Attributes:
        of_frames: of the rows of every frame, by its geometry.
    """

    of_frames: Mapping[bytes, Float[np.ndarray, " rows"]]

    @classmethod
    def of(cls, frames: LabelledFrames, counts: np.ndarray, weights: Float[np.ndarray, " rows"]) -> LabelWeights:
        """Of frames that have so many rows each."""
        return cls(dict(zip(_geometries(frames), np.split(weights, np.cumsum(counts)[:-1]), strict=True)))

    def at(self, frames: LabelledFrames, counts: np.ndarray) -> Float[np.ndarray, " rows"]:
        """Those of other frames' rows; zero of frames that the fit did not have, or not with as many rows."""
        found = [self.of_frames.get(geometry, np.zeros(0)) for geometry in _geometries(frames)]
        return np.concatenate(
            [known if len(known) == count else np.zeros(count) for known, count in zip(found, counts, strict=True)]
        )


def _geometries(frames: LabelledFrames) -> list[bytes]:
    return [_geometry(batch, i) for batch in frames.batches for i in range(len(batch))]


def _geometry(batch: Batch, i: int) -> bytes:
    """What tells one frame from others, of its labels which it has too."""
    names = ",".join(sorted(batch.labels)).encode()
    return batch.positions[i].tobytes() + batch.numbers.astype(np.int32).tobytes() + batch.cells[i].tobytes() + names
