"""Which frames of a large set hyperparameters are tuned on, and what that takes in memory."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlff.regression.planning.pilot import Work
from mlff.regression.planning.plans import text_of
from mlff.regression.requests import Request

MAX_ROWS = 5000  # of the linear system that is tuned on; larger sets are drawn from
LEAST = 3  # frames: one left out, two that tell of it
KEPT = 0.25  # of the room that there is, which products may take that make a step faster
OF_EACH = 5  # frames with every label and element among those that are drawn
MATRICES = 6  # of all rows: the inverse, the cotangent with what it is made of, blocks on their way


def fitting_frames(request: Request, seed: int, room: int) -> tuple[np.ndarray, int]:
    """Indices of the frames to tune on, as many as there is room for, and the bytes that these take."""
    rows = MAX_ROWS
    while True:
        drawn = drawn_frames(request, rows, LEAST, seed)
        taken = _bytes(part_of(request, drawn))
        if taken <= room:
            return drawn, taken
        rows = rows * 3 // 4
        if not rows:
            raise ValueError(
                f"memory: to tune on {len(drawn)} frames takes {text_of(taken)} beside what the program takes, and "
                f"{text_of(max(0, room))} are left of the budget; give more, or take the model as it is"
            )


def room_for_products(room: int, taken: int) -> float:
    """Bytes that products may take which make a step faster, where tuning itself takes some of the room."""
    return float(min(KEPT * room, room - taken))


def _bytes(request: Request) -> int:
    """What tuning on all these frames takes: their features and those of a trial, every term's matrix and its change, the inverse and
    what the gradient is made of."""
    work = Work.of(request.kernel, request.frames, request.labels)
    return 16 * work.tangents + (8 * MATRICES + 8 * len(request.kernel.parts)) * work.labels**2


def part_of(request: Request, frames: np.ndarray) -> Request:
    """The request of some of its frames."""
    return dataclasses.replace(request, frames=request.frames.take(frames))


def drawn_frames(request: Request, rows: int, least: int, seed: int) -> np.ndarray:
    """Indices of frames that make so many rows, and of no fewer frames than the least, some of them of every label and element."""
    sizes = sum(
        np.median([batch.labels[name][0].size for batch in request.frames.having(name).batches])
        for name in request.labels
    )
    order = np.random.default_rng(seed).permutation(request.frames.index)
    chosen = set(order[: max(least, int(rows // sizes))].tolist())
    for members in _with_each(request):
        chosen.update([i for i in order.tolist() if i in members][:OF_EACH])
    return np.array(sorted(chosen))


def _with_each(request: Request) -> list[set[int]]:
    """The frames that have a label, and those that have an element, of each."""
    found: dict[str | int, set[int]] = {}
    for batch in request.frames.batches:
        present = [name for name in request.labels if name in batch.labels] + np.unique(batch.numbers).tolist()
        for each in present:
            found.setdefault(each, set()).update(batch.index.tolist())
    return list(found.values())
