"""Which cell vectors of a geometry count: those of its periodic directions, and no others."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

FLAT = 1e-6  # of their largest singular value; cell vectors that span less than that lie in one plane or on one line


def stated(cell, pbc, count: int) -> tuple[Float[np.ndarray, "m 3 3"], Bool[np.ndarray, "m 3"]]:
    """Cells and periodic directions of `count` frames, from what a user gives for one or for each of them.

    Arguments:
        cell: shape (3, 3) or (m, 3, 3), Å; None for no cell.
        pbc: shape (3,) or (m, 3), or one for all directions; None for those directions that have a cell vector.
    Raises:
        ValueError: other shapes.
    """
    cells = np.zeros((3, 3)) if cell is None else np.asarray(cell, dtype=np.float64)
    if cells.shape not in ((3, 3), (count, 3, 3)):
        raise ValueError(
            f"cell: expected three cell vectors as rows, shape (3, 3) or ({count}, 3, 3), Å, received {cells.shape}"
        )
    cells = np.broadcast_to(cells, (count, 3, 3))
    if pbc is None:
        return cells, np.any(cells != 0.0, axis=-1)
    periodic = np.asarray(pbc)
    if periodic.shape not in ((), (3,), (count, 3)) or periodic.dtype.kind not in "bi":
        raise ValueError(f"pbc: expected which directions are periodic, shape (3,) or ({count}, 3), received {pbc!r}")
    return cells, np.broadcast_to(periodic.astype(bool), (count, 3))


def states_no_period(cell, pbc) -> bool:
    """Whether what a user gives says at a glance that nothing is periodic: the form in which it comes at every step of a
    molecule's dynamics, for which `stated` would take as long as the energy."""
    if pbc is None:
        return cell is None
    plain = isinstance(pbc, np.ndarray) and pbc.dtype == bool and pbc.shape == (3,) and not any(pbc)
    return plain and (cell is None or np.shape(cell) == (3, 3))


def periodic_vectors(
    cells: Float[np.ndarray, "m 3 3"], pbc: Bool[np.ndarray, "m 3"], index: np.ndarray | None = None
) -> Float[np.ndarray, "m 3 3"]:
    """The cells with zeros in place of the vectors of directions that are not periodic.

    Arguments:
        cells: cell vectors as rows, Å.
        pbc: which directions are periodic.
        index: which frames these are, for messages.
    Raises:
        ValueError: a periodic direction without a cell vector, vectors of periodic directions that are parallel (or three
            in one plane), or not finite.
    """
    counted = np.where(pbc[:, :, None], cells, 0.0)
    if not pbc.any():
        return counted
    names = np.arange(len(cells)) if index is None else index
    if not (finite := np.isfinite(counted).all(axis=(1, 2))).all():
        raise ValueError(f"cell of frame {names[np.argmin(finite)]} is not finite; give cell vectors as rows, Å")
    absent = pbc & ~counted.any(axis=2)
    if absent.any():
        frame, direction = np.argwhere(absent)[0]
        raise ValueError(
            f"cell of frame {names[frame]}: direction {direction} is periodic but its cell vector is zero; give the cell, "
            "or set pbc to False there"
        )
    spans = np.linalg.svd(counted, compute_uv=False)
    least = np.take_along_axis(spans, np.maximum(pbc.sum(axis=1) - 1, 0)[:, None], axis=1)[:, 0]
    flat = pbc.any(axis=1) & (least <= FLAT * spans[:, 0])
    if flat.any():
        frame = int(np.argmax(flat))
        raise ValueError(
            f"cell of frame {names[frame]}: the vectors of its periodic directions are parallel or lie in one plane, "
            f"{cells[frame][pbc[frame]].tolist()}; give independent ones, or set pbc to False where there is no period"
        )
    return counted


def volume(cell: Float[np.ndarray, "3 3"]) -> float:
    """|det cell|, Å³; zero for vectors that lie in one plane or on one line.

    Of slabs and wires that is the volume with the vacuum, as the cell states it.
    """
    size = float(np.prod(np.linalg.norm(cell, axis=1)))
    determinant = float(abs(np.linalg.det(cell)))
    return determinant if determinant > FLAT * size else 0.0
