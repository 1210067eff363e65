"""What an exchange of identical atoms does to the features of a descriptor."""

from __future__ import annotations

import jax
import numpy as np

from mlff.compiling import jit
from mlff.data.batches import Batch
from mlff.kernels.composed import ProductKernel
from mlff.kernels.jets import block_sizes
from mlff.kernels.kernels import GlobalKernel
from mlff.kernels.surroundings import Surroundings, surroundings
from mlff.precision import double_precision


@double_precision
def check_symmetry(kernel: GlobalKernel | ProductKernel, batch: Batch) -> None:
    """Refuse a permutation sum that is no kernel.

    The one-sided sum is symmetric and invariant exactly when κ(φ(p x), φ(p x′)) = κ(φ(x), φ(x′)). That is
    tested on the first frame and its displacement by 0.05 Å a coordinate.

    Raises:
        ValueError: the descriptor (or a length scale per feature) breaks the permutations.
    """
    x, numbers, around = batch.positions[0], batch.numbers, _of_first(kernel, batch)
    displaced = x + 0.05 * np.random.default_rng(0).standard_normal(x.shape)
    one, two = np.asarray(_images(kernel.bare(), kernel.group(len(numbers)), numbers, np.stack([x, displaced]), around))
    squares = np.sum((one - two) ** 2, axis=(1, 2))
    worst = float(np.max(np.abs(squares / squares[0] - 1.0)))
    if not worst <= 1e-8:
        raise ValueError(
            f"permutations: exchanging atoms changes the distance between two descriptors of {kernel.leaves[0].descriptor.name} by "
            f"{worst:.1%}, so the permutation sum is no kernel; use a descriptor whose features the exchange permutes and "
            "one length scale (or the same one for exchanged features), or permutations=None"
        )


@jit
def _images(kernel, group, numbers, positions, around):
    """Features φ(p x) of all images of some geometries, shape (m, P, e, D)."""

    def image(x, permutation):
        return kernel.features(x[permutation], numbers, *around.exchanged(permutation))

    return jax.vmap(lambda x: jax.vmap(lambda permutation: image(x, permutation))(group))(positions)


def _of_first(kernel, batch: Batch) -> Surroundings:
    """Those of the first frame; a list is wide enough for atoms that moved a little or changed places."""
    return surroundings(kernel.descriptors, batch.take(slice(0, 1))).frame(0)


@double_precision
def feature_permutations(kernel: GlobalKernel | ProductKernel, batch: Batch) -> np.ndarray | None:
    """How the features of a permuted geometry are those of the geometry, rearranged: φ(p x) = φ(x)[π_p].

    A descriptor of atoms gives the rows of a permuted geometry in permuted order; any other is found by sorting the
    features of one displaced geometry. Either is confirmed on another geometry.

    Returns:
        π, shape (|P|, D); None for descriptors whose features an exchange of atoms does more to than rearrange.
    """
    rng = np.random.default_rng(1)
    x, numbers, around = batch.positions[0], batch.numbers, _of_first(kernel, batch)
    group = kernel.group(len(numbers))
    displaced = x + 0.05 * rng.standard_normal((2, *x.shape))
    here = np.asarray(_images(kernel.bare(), group, numbers, displaced, around))[:, :, 0]
    identity = int(np.flatnonzero((group == np.arange(len(numbers))).all(axis=1))[0])
    for arrangement in (_by_rows(kernel, batch, group), _by_order(here[0], here[0][identity])):
        if arrangement is not None and all(
            np.allclose(found, found[identity][arrangement], rtol=1e-10, atol=1e-13) for found in here
        ):
            return arrangement.astype(np.int32)
    return None


def _by_rows(kernel, batch: Batch, group: np.ndarray) -> np.ndarray | None:
    """The arrangement if every factor gives one row of features an atom."""
    atoms, start, pieces = len(batch.numbers), 0, []
    for size in block_sizes(kernel, batch):
        if size % atoms:
            return None
        width = size // atoms
        pieces.append(start + (group[:, :, None] * width + np.arange(width)).reshape(len(group), size))
        start += size
    return np.concatenate(pieces, axis=1)


def _by_order(images: np.ndarray, base: np.ndarray) -> np.ndarray | None:
    ordered = np.sort(base)
    if np.any(np.diff(ordered) <= 1e-10 * np.abs(ordered[1:])):
        return None  # equal features, such as those beyond a cutoff, do not say which of them went where
    ranks = np.argsort(images, axis=1)
    arrangement = np.empty_like(ranks)
    np.put_along_axis(arrangement, ranks, np.broadcast_to(np.argsort(base), ranks.shape), axis=1)
    return arrangement
