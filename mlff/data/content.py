"""What a reader found in a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlff.data.frames import LABELS, Frame


class Content(NamedTuple):
    """Frames, and what is to be said of them.

    frames: those that were chosen; index: which of the file's they are; units: what they were, and who stated it; keys: names of
    what the file holds; doubts: by the name of a label why it cannot be trusted, for labels that are to be refused unless they
    are left out; readable: labels that files of this form can hold.
    """

    frames: list[Frame]
    index: np.ndarray
    units: str
    keys: list[str]
    doubts: dict[str, str]
    readable: Sequence[str] = LABELS
