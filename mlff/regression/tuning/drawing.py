"""Which frames of a large set hyperparameters are tuned on, and what that takes in memory."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlff.kernels.jets import block_sizes
from mlff.regression.planning.pilot import Work, images_of
from mlff.regression.planning.plans import text_of
from mlff.regression.requests import Request
from mlff.regression.system.kernel_blocks import TILE_ROWS
from mlff.regression.tuning.contracted import SUMMED
from mlff.regression.tuning.cotangents import FRAMES
from mlff.regression.validation import with_lengthscales
from mlff.threads import processors

MAX_ROWS = 5000  # of the linear system that is tuned on; larger sets are drawn from
LEAST = 3  # frames: one left out, two that tell of it
KEPT = 0.25  # of the room that there is, which products may take that make a step faster
OF_EACH = 5  # frames with every label and element among those that are drawn
MATRICES = 6  # of all rows: the inverse, the cotangent with what it is made of, blocks on their way


def fitting_rows(request: Request, seed: int, room: int, arguments: bool) -> int:
    """How many rows of the linear system there is room for.

    Arguments:
        arguments: whether those of descriptors are tuned.
    Raises:
        ValueError: fewer than the fewest frames make.
    """
    rows = MAX_ROWS
    while True:
        drawn = drawn_frames(request, rows, LEAST, seed)
        taken = bytes_of_tuning(part_of(request, drawn), arguments)
        if taken <= room:
            return rows
        rows = rows * 3 // 4
        if not rows:
            raise ValueError(
                f"memory: to tune on {len(drawn)} frames, beside what the program takes, {text_of(taken - room)} are missing; give so much "
                "more, or take the model as it is"
            )


def room_for_products(request: Request, room: int, arguments: bool) -> float:
    """Bytes that products may take which make a step faster, where tuning on all these frames takes some of the room."""
    return float(min(KEPT * room, room - bytes_of_tuning(request, arguments)))


def bytes_of_tuning(request: Request, arguments: bool) -> int:
    """What tuning on all these frames takes at most, but for products of `room_for_products`.

    Of their features with all tangents a trial has copies, as rows and as columns of a block (with all images of a molecule, and padded to
    the fullest frame), and where arguments of descriptors are tuned their cotangents; then there are every term's matrix and its change,
    the inverse with what becomes of it, and of a block distances and derivatives of the radial function for all pairs of environments.
    """
    kernel, frames = request.kernel, request.frames
    work = Work.of(kernel, frames, request.labels)
    block = min(1.0, TILE_ROWS / work.labels) * len(frames)  # frames
    labels = max(sum(b.labels[name][0].size for name in request.labels if name in b.labels) for b in frames.batches)
    sides = pairs = summed = 0.0
    parts = with_lengthscales(kernel, [1.0] * len(kernel.leaves)).parts
    for part, order in zip(parts, images_of(kernel), strict=True):
        of_frames = [np.bincount(part.channels(b.numbers), minlength=part.channel_count) for b in frames.batches]
        fullest = np.max(of_frames, axis=0)  # environments, of every channel
        of_label = sum(block_sizes(part, frames.batches[0])) * (2 * order if order > 1 else 1)
        sides = max(sides, block * labels * of_label * float(fullest.sum()))
        pairs = max(pairs, order * float(block * fullest.max()) ** 2)
        summed = max(summed, _of_cotangents(len(frames), labels * of_label * float(fullest.max())))
    taken = (5 if arguments else 2) * work.tangents + sides + (summed if arguments else 0.0)
    return int(8 * taken + 48 * pairs + 8 * (MATRICES + len(kernel.parts)) * work.labels**2)


def _of_cotangents(count: int, of_frame: float) -> float:
    """How many numbers cotangents take beside the frames themselves, of which each has so many in a channel: sides and what comes back of
    them, and for as many pairs of sides as are taken at a time copies, labels summed and what becomes of these."""
    side, groups = min(FRAMES, count) * of_frame, -(-count // FRAMES)
    calls = min(processors(), groups * (groups + 1) // 2)
    return 2 * groups * side + calls * (6 * side + 2 * min(max(SUMMED, side), min(FRAMES, count) * side))


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
