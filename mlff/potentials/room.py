"""Room in an expansion: points of no weight, so that one that grows by a few points at a time compiles few times."""

from __future__ import annotations

import jax
import numpy as np

from mlff.potentials.expansion import Channel
from mlff.potentials.potential import Potential

LEAST = 4  # the least number of points with room is 2 to this power


def with_room(potential: Potential) -> Potential:
    """The same energy with points of no weight beside the others, up to a power of two of each species."""

    def widened(node):
        if not isinstance(node, Channel) or not len(node.points):
            return node
        count = len(node.points)
        more = (1 << max(LEAST, (count - 1).bit_length())) - count

        def filled(array, axis: int = 0):
            if array is None:
                return None
            return np.pad(array, [(0, more if i == axis else 0) for i in range(np.ndim(array))])

        points = np.concatenate([node.points, np.repeat(node.points[:1], more, axis=0)])
        offsets = filled(node.offsets, 2)
        offsets[:, 0, count:] = np.asarray(node.offsets)[:, 0, :1]
        return node.replace(points=points, tangents=filled(node.tangents), values=filled(node.values), offsets=offsets)

    return jax.tree.map(widened, potential, is_leaf=lambda node: isinstance(node, Channel))
