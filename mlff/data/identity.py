"""Whether two geometries are the same, to the rounding of the coarser of the files that hold them.

Files round coordinates, so that hashes of them tell nothing. A geometry is kept as eight weighted means of numbers x_j,

    s_b = Σ_j w_j x_j / Σ_j |w_j|,   j ≡ b (mod 8),   ½ ≤ |w_j| ≤ 3/2,

which change by no more than these numbers do. Of an isolated molecule they are distances between atoms that are near in the
order of the file, which a rigid motion and an inversion leave as they are; in a cell they are coordinates. Frames of a
trajectory differ in all eight means by much more than rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from scipy.spatial import cKDTree

from mlff.data.frames import Frame

ROUNDING = 1e-6  # Å; six digits after the point, or single precision of a molecule
COARSEST = 3  # digits after the point; fewer are no geometry to compare
_FINEST = 6
_TELLING = 20  # different coordinates that have to agree before a set counts as rounded
_BLOCKS = 8
_NEXT = 3  # distances to so many following atoms fix a molecule, but for its place and hand
_UNIT = 1e-8  # Å, of the means as integers
_MODULUS = 2**32  # at which they are wrapped
_KEY, _DIGITS = 8, 1  # characters


def fingerprints(frames: Sequence[Frame]) -> list[str]:
    """One text a geometry: a hash of atoms and periodic directions, the digits of the set, and the eight means."""
    digits = _digits(frames)
    return [f"{_key(frame)}{digits}" + "".join(f"{value:08x}" for value in _means(_numbers(frame))) for frame in frames]


def twins(frames: Sequence[Frame]) -> np.ndarray:
    """For every frame the index of the first one with the same geometry in the same place, its own where there is none before
    it. Forces of one are those of the other."""
    return _first(frames, _coordinates)


def copies(frames: Sequence[Frame]) -> np.ndarray:
    """As `twins`, of geometries that may have been moved, turned or inverted as a whole: forces turn with them."""
    return _first(frames, _numbers)


def _first(frames: Sequence[Frame], numbers: Callable[[Frame], np.ndarray]) -> np.ndarray:
    first = np.arange(len(frames))
    bound = _bound([_digits(frames)])
    means = np.array([_means(numbers(frame)) for frame in frames]).reshape(len(frames), _BLOCKS)
    for members in _groups([_key(frame) for frame in frames]):
        points, start, back = np.unique(means[members], axis=0, return_index=True, return_inverse=True)
        near = _near(points, points, bound, min(4, len(points)))
        earliest = np.append(start, len(frames))[near].min(axis=1)[back.ravel()]
        first[members] = members[earliest]
    for i in np.flatnonzero(first < np.arange(len(frames))):
        if not np.abs(numbers(frames[i]) - numbers(frames[first[i]])).max() <= bound:
            first[i] = i
    return first


def among(frames: Sequence[Frame], texts: Iterable[str]) -> np.ndarray:
    """Which frames have a geometry whose fingerprint is among some texts, shape (m,) of bool.

    Fingerprints of sixteen characters, which models of earlier versions hold, are hashes of exact coordinates.
    """
    texts = list(texts)
    hashes = {text for text in texts if len(text) == 16}
    present = np.array([hashes != set() and exact_hash(frame) in hashes for frame in frames], dtype=bool)
    texts = [text for text in texts if len(text) != 16]
    if not texts:
        return present
    bound = _bound([int(text[_KEY]) for text in texts] + [_digits(frames)])
    keys = [_key(frame) for frame in frames]
    for key in set(keys) & {text[:_KEY] for text in texts}:
        means_of_texts = np.array([_parsed(text) for text in texts if text.startswith(key)])
        members = np.flatnonzero(np.array(keys) == key)
        means_of_frames = np.array([_means(_numbers(frames[i])) for i in members])
        present[members] |= _near(means_of_texts, means_of_frames, bound, 1)[:, 0] < len(means_of_texts)
    return present


def exact_hash(frame: Frame) -> str:
    """A short hash of the coordinates as they are."""
    return hashlib.sha256(frame.fingerprint()).hexdigest()[:16]


def _near(points: np.ndarray, asked: np.ndarray, bound: float, count: int) -> np.ndarray:
    """Indices of the nearest points that are within the bound, shape (m, count); len(points) where there are none."""
    tree = cKDTree(points.astype(np.float64), boxsize=float(_MODULUS))
    limit = np.nextafter(bound / _UNIT + 1.0, np.inf)
    return tree.query(
        asked.astype(np.float64), k=list(range(1, count + 1)), p=np.inf, distance_upper_bound=limit
    )[1]  # fmt: skip


def _groups(keys: Sequence[str]) -> Iterator[np.ndarray]:
    names = np.array(keys)
    for key in dict.fromkeys(keys):
        yield np.flatnonzero(names == key)


def _key(frame: Frame) -> str:
    """A hash of the atoms in their order and of the periodic directions."""
    system = frame.system
    content = np.asarray(system.numbers, dtype=np.int32).tobytes() + np.asarray(system.pbc, dtype=bool).tobytes()
    return hashlib.sha256(content).hexdigest()[:_KEY]


def _numbers(frame: Frame) -> np.ndarray:
    """What a geometry is compared by, Å, of which nothing changes by more than coordinates do.

    In a cell coordinates; of a molecule the distances |x_i − x_(i+k)| / 2√3, k = 1, 2, 3, with indices modulo n: where coordinates
    change by r a distance changes by |Δx_i| + |Δx_(i+k)| ≤ 2√3 r.
    """
    if frame.system.pbc.any():
        return _coordinates(frame)
    x = np.asarray(frame.positions)
    distances = [np.linalg.norm(x - np.roll(x, -k, axis=0), axis=1) for k in range(1, _NEXT + 1)]
    return np.concatenate(distances) / (2.0 * np.sqrt(3.0))


def _coordinates(frame: Frame) -> np.ndarray:
    """Cartesian coordinates; in a cell fractional ones, of which periodic directions enter by sine and cosine, so that
    wrapping changes nothing, and the periodic cell vectors. In Å: nothing changes by more than atoms and vectors move."""
    positions, cell, pbc = (np.asarray(part) for part in (frame.positions, frame.cell, frame.system.pbc))
    if not pbc.any() or not np.linalg.norm(cell[pbc], axis=1).all():
        return positions.ravel()
    whole = _completed(cell)
    if not abs(np.linalg.det(whole)) > 0:
        return np.concatenate([positions.ravel(), cell.ravel()])
    inverse = np.linalg.inv(whole)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)
    angles = 2.0 * np.pi * (positions @ inverse)[:, pbc]
    waves = np.stack([np.cos(angles), np.sin(angles)]) * heights[pbc] / (2.0 * np.pi)
    return np.concatenate([waves.ravel(), ((positions @ inverse) * heights)[:, ~pbc].ravel(), cell[pbc].ravel()])


def _completed(cell: np.ndarray) -> np.ndarray:
    """Missing vectors replaced by unit vectors perpendicular to those that there are."""
    missing = ~cell.any(axis=1)
    whole = cell.astype(np.float64)
    whole[missing] = np.linalg.svd(whole)[2][3 - missing.sum() :]
    return whole


def _means(x: np.ndarray) -> np.ndarray:
    """The eight weighted means of numbers in Å, as integers below 2³²."""
    j = np.arange(len(x))
    # multiples of irrational numbers, modulo 1, lie evenly and never repeat
    sizes = 0.5 + (j * 0.6180339887498949) % 1.0
    signs = np.where((j * 0.4142135623730951) % 1.0 < 0.5, -1.0, 1.0)
    total = np.bincount(j % _BLOCKS, signs * sizes * x, minlength=_BLOCKS)
    weight = np.bincount(j % _BLOCKS, sizes, minlength=_BLOCKS)
    return np.round(total / np.where(weight > 0, weight, 1.0) / _UNIT).astype(np.int64) % _MODULUS


def _parsed(text: str) -> list[int]:
    start = _KEY + _DIGITS
    return [int(text[start + 8 * b : start + 8 * (b + 1)], 16) for b in range(_BLOCKS)]


def _digits(frames: Sequence[Frame]) -> int:
    """Digits after the point to which all coordinates of a set are rounded, of 3 to 6; 6 where they are finer."""
    values = np.concatenate([np.asarray(frame.positions).ravel() for frame in frames]) if frames else np.zeros(0)
    if len(np.unique(np.abs(values))) < _TELLING:
        return _FINEST
    for digits in range(COARSEST, _FINEST):
        if np.abs(values - np.round(values, digits)).max() < 1e-9:
            return digits
    single = np.array_equal(values, values.astype(np.float32))
    return _FINEST - 1 if single else _FINEST  # in single precision 100 Å have five digits


def _bound(digits: Iterable[int]) -> float:
    """How far two roundings of one geometry may lie apart, Å; twice that, for the fractional coordinates of a cell."""
    return 2.0 * max(ROUNDING, 0.5 * 10.0 ** -min(digits))
