"""The labels of a frame as rows of the linear system: functionals of the energy carried to descriptor space, those of them
that it sees in an orthonormal basis.

By the chain rule L u = v u + d·∇u + W:∇∇u acts on a function g of the descriptor as

    L g = v g + t·∇g + S:∇∇g,    t = J d + D²φ:W,    S = J W Jᵀ

Labels of one kind in one frame have independent noise of one size, so an orthonormal change of their basis changes nothing.
In the left-singular basis of (v, t, S) those with no singular value act on no function of the descriptor: they are noise,
and are left out. Of forces 3n − 6 or fewer rows remain, of a Hessian those of span{J ⊗ J, D²φ}, which off equilibrium hold
rotations, and at planar or linear geometries the modes that the first derivative misses.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mlff.operators import Functionals

RANK_CUTOFF = 1e-8  # of the largest singular value
_TALL = 2  # rows a column from which a triangle is factorised in place of the whole


class Rows(NamedTuple):
    """Labels of one frame as functionals L u = v u + d·∇u + W:∇∇u of the energy.

    values: v, shape (rows,); directions: d, (rows, c) in the c coordinates of the frame; matrices: W, (rows, k, k) in some
    basis of coordinates, k = 0 where no label is of second order; labels: (rows,); noise: standard deviations, (rows,).
    """

    values: Float[np.ndarray, " rows"]
    directions: Float[np.ndarray, "rows c"]
    matrices: Float[np.ndarray, "rows k k"]
    labels: Float[np.ndarray, " rows"]
    noise: Float[np.ndarray, " rows"]

    def mixed(self, basis: Float[np.ndarray, "kept rows"]) -> Rows:
        """The labels, of one noise, in another orthonormal basis or a part of one."""
        matrices = np.tensordot(basis, self.matrices, 1)
        return Rows(
            basis @ self.values, basis @ self.directions, matrices, basis @ self.labels, self.noise[: len(basis)]
        )


def asked(functionals: Functionals, frame: int) -> Rows:
    """All answers of one operator at one frame, in their order, without labels."""
    values, directions, matrices = _of_frame(functionals, frame)
    return Rows(values, directions, matrices, np.zeros(len(values)), np.zeros(len(values)))


def _of_frame(functionals: Functionals, frame: int) -> list[np.ndarray]:
    """Values, directions and matrices; of operators of first order these are of no coordinates."""
    return [
        np.zeros((*functionals.values[frame].shape, 0, 0)) if array is None else array[frame] for array in functionals
    ]


def measured(functionals: Functionals, frame: int, labels: Float[np.ndarray, " rows"], noise: float) -> Rows:
    """The labels of one operator and frame that are there; NaN stands for one that is missing.

    Several measurements of one functional (both triangles of a Hessian) are one label, their mean, with a smaller noise:
    scaled to the noise of the others, label and functional grow by the square root of their number.
    """
    values, directions, matrices = _of_frame(functionals, frame)
    coefficients = np.concatenate([values[:, None], directions, matrices.reshape(len(values), -1)], axis=1)
    size = np.abs(coefficients).max(initial=0.0) or 1.0
    kinds: dict[bytes, list[int]] = {}
    for i in np.flatnonzero(~np.isnan(labels)):
        functional = hashlib.sha256(((coefficients[i] / size).round(12) + 0.0).tobytes()).digest()
        kinds.setdefault(functional, []).append(int(i))
    first = [members[0] for members in kinds.values()]
    weights = np.sqrt([len(members) for members in kinds.values()])
    means = np.array([labels[members].mean() for members in kinds.values()])
    return Rows(
        weights * values[first], weights[:, None] * directions[first], weights[:, None, None] * matrices[first],
        weights * means, np.full(len(first), noise),
    )  # fmt: skip


def span(parts: list[Rows]) -> Float[np.ndarray, "k c"]:
    """Orthonormal coordinates in which all matrices of a frame can be written."""
    coordinates = parts[0].directions.shape[1]
    stacked = [part.matrices.reshape(-1, coordinates) for part in parts if part.matrices.shape[1]]
    if not stacked:
        return np.zeros((0, coordinates))
    basis = _row_space(np.concatenate(stacked))
    return np.eye(coordinates) if len(basis) == coordinates else basis


def restricted(rows: Rows, basis: Float[np.ndarray, "k c"]) -> Rows:
    """The same labels with their matrices in a basis that spans them."""
    if not rows.matrices.shape[1]:
        return rows._replace(matrices=np.zeros((len(rows.values), len(basis), len(basis))))
    return rows._replace(matrices=basis @ rows.matrices @ basis.T)


def seen_coordinates(curved: list[Float[np.ndarray, "_ k _"]]) -> Float[np.ndarray, "s k"]:
    """Orthonormal combinations of the coordinates of a basis that the first derivatives of all parts see."""
    k = curved[0].shape[1]
    if not k:
        return np.zeros((0, 0))
    return _row_space(np.concatenate([part.transpose(0, 2, 1).reshape(-1, k) for part in curved]))


def visible_labels(rows: Rows, tangents: list[Float[np.ndarray, "_ rows _"]], inner: Float[np.ndarray, "s k"]):
    """The orthonormal basis of the labels of one operator that descriptors can answer, shape (kept, rows).

    Arguments:
        tangents: t of every label, of every part of the kernel.
        inner: what `seen_coordinates` returned.
    """
    count = len(rows.values)
    curvatures = pack(inner @ rows.matrices @ inner.T, np.sqrt(2.0))
    blocks = [rows.values[:, None], np.concatenate([t.transpose(1, 0, 2).reshape(count, -1) for t in tangents], axis=1)]
    answers = np.concatenate([_normalised(block) for block in (*blocks, curvatures)], axis=1)
    return _row_space(answers.T)


def orders(rows: Rows) -> Float[np.ndarray, " rows"]:
    """The highest derivative in every row."""
    second, first = (
        np.any(array != 0.0, axis=tuple(range(1, array.ndim))) for array in (rows.matrices, rows.directions)
    )
    return np.where(second, 2.0, np.where(first, 1.0, 0.0))


def strains_alone(rows: Rows, displacements: int) -> Bool[np.ndarray, " rows"]:
    """Which rows are first derivatives by strains and not by displacements, the first of the coordinates: stresses."""
    return (orders(rows) == 1.0) & ~rows.directions[:, :displacements].any(axis=1)


def stack(parts: list[Rows]) -> Rows:
    """All the labels of one frame below each other."""
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def pack(matrices: Float[np.ndarray, "*rows k k"], weight: float) -> Float[np.ndarray, "*rows pairs"]:
    """The upper triangles of symmetric matrices in a row, off-diagonal entries times a weight."""
    first, second = pairs(matrices.shape[-1])
    return matrices[..., first, second] * np.where(first == second, 1.0, weight)


def pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the upper triangle, row by row."""
    return tuple(np.triu_indices(k))


def _normalised(block: np.ndarray) -> np.ndarray:
    """Blocks of different units are given one size before their singular values are compared."""
    size = np.linalg.norm(block)
    return block / size if size > 0 else block[:, :0]


def _row_space(matrix: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the rows, as rows; cut at 1e-8 of the largest singular value."""
    if len(matrix) > _TALL * matrix.shape[1]:
        matrix = np.linalg.qr(matrix, mode="r")  # the same right-singular vectors
    _, singular, vectors = np.linalg.svd(matrix, full_matrices=False)
    return vectors[singular > RANK_CUTOFF * singular[0]] if len(singular) and singular[0] > 0 else vectors[:0]
