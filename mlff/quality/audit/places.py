"""Places where descriptors go wrong, built from ordinary frames: awkward geometries, and lines that lead through them.

Every place is a geometry x and a direction d in which it is crossed, x + t d. Paths have a length besides; what they
meet on their way is not known beforehand.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist, squareform
from scipy.spatial.transform import Rotation

from mlff.data.neighbors import neighbor_lists
from mlff.data.system import System
from mlff.units import symbols

Index = int | np.integer

NEAREST = 0.6  # places bring no two atoms closer than this share of the frame's shortest distance
SIGHT = 6.0  # Å, how far pairs are looked for where the descriptor says nothing
PER_KIND = 3  # places of one kind from one frame
STRETCHED = 8.0  # Å, the least that the longest distance of a molecule is stretched to
BESIDE = 0.2  # Å, how far to either side of a place a path through it begins and ends
TRIES = 60  # candidates of one kind that are tried


@dataclasses.dataclass(frozen=True)
class Line:
    """The geometries x + t d.

    Attributes:
        system: x.
        direction: d, of unit length in the space of all coordinates, shape (n, 3).
        kind: what happens at t = 0.
        name: the same in words, with the atoms.
        length: of a path, Å; 0 for a place.
    """

    system: System
    direction: Float[np.ndarray, "n 3"]
    kind: str
    name: str
    length: float = 0.0

    def at(self, t: float) -> Float[np.ndarray, "n 3"]:
        return self.system.positions + t * self.direction


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of atoms, each both ways, images counted: first and second atom, vectors between them (Å), distances (Å)."""

    first: np.ndarray
    second: np.ndarray
    vectors: np.ndarray
    distances: np.ndarray

    @classmethod
    def of(cls, system: System, reach: float) -> Pairs:
        """All pairs closer than `reach`, Å, by distance."""
        x = system.positions
        if np.any(system.pbc):
            lists = neighbor_lists(x[None], system.cell[None], system.pbc[None], reach)
            first, slot = np.nonzero(lists.indices[0] >= 0)
            second = lists.indices[0][first, slot]
            vectors = x[second] + lists.shifts[0][first, slot] @ system.cell - x[first]
        else:
            first, second = np.nonzero(~np.eye(len(x), dtype=bool))
            vectors = x[second] - x[first]
        distances = np.linalg.norm(vectors, axis=1)
        order = np.argsort(distances, kind="stable")
        order = order[distances[order] < reach]
        return cls(first[order], second[order], vectors[order], distances[order])


def shortest(system: System) -> float:
    """The shortest distance between two atoms, Å; SIGHT where none are closer."""
    return float(min(Pairs.of(system, SIGHT).distances, default=SIGHT))


def places(system: System, cutoff: float | None, label: str, seed: int) -> Iterator[Line]:
    """Awkward geometries near a frame: equal distances, three atoms on a line, a distance equal to the cutoff; and the
    atoms arranged in a chain, a plane, a ring and a grid."""
    pairs = Pairs.of(system, SIGHT if cutoff is None else max(cutoff, SIGHT))
    least = NEAREST * shortest(system)
    for candidates in (_equal_distances(system, pairs), _collinear(system, pairs), _at_cutoff(system, cutoff)):
        kept: set[tuple] = set()  # elements that take part: one place each
        for elements, line in itertools.islice(candidates, TRIES):
            if len(kept) == PER_KIND:
                break
            if elements not in kept and shortest(line.system) >= least:
                kept.add(elements)
                yield dataclasses.replace(line, name=f"{line.name}, {label}")
    yield from _arrangements(system, label, np.random.default_rng(seed))


def named(system: System, *atoms: Index) -> str:
    """Atoms by index and element: "3 (H), 0 (C)"."""
    return ", ".join(f"{a} ({symbols([system.numbers[a]])[0]})" for a in atoms)


def _moved(system: System, atom: Index, by: np.ndarray) -> System:
    positions = system.positions.copy()
    positions[atom] += by
    return system.replace(positions=positions)


def _alone(system: System, atom: Index, vector: np.ndarray) -> np.ndarray:
    """The direction in which one atom moves along a vector."""
    direction = np.zeros_like(system.positions)
    direction[atom] = vector / np.linalg.norm(vector)
    return direction


def _equal_distances(system: System, pairs: Pairs):
    """Two neighbours j, k of an atom i; j is moved until r_ij = r_ik. The smallest moves come first."""
    gaps = []
    for i in range(len(system)):
        mine = np.flatnonzero((pairs.first == i) & (pairs.second != i))
        gaps += [(pairs.distances[q] - pairs.distances[p], p, q) for p, q in itertools.pairwise(mine)]
    for gap, p, q in sorted(gaps):
        i, j, k, unit = pairs.first[p], pairs.second[p], pairs.second[q], pairs.vectors[p] / pairs.distances[p]
        if j != k:
            elements = (system.numbers[i], *sorted((system.numbers[j], system.numbers[k])))
            name = f"equal distances of atom {named(system, i)} from atoms {named(system, j, k)}"
            yield elements, Line(_moved(system, j, gap * unit), _alone(system, j, unit), "equal distances", name)


def _collinear(system: System, pairs: Pairs):
    """An atom i between two of its four nearest neighbours j, k; k is moved until the angle is 180°, then i is moved across."""
    bends = []
    for i in range(len(system)):
        for p, q in itertools.combinations(np.flatnonzero((pairs.first == i) & (pairs.second != i))[:4], 2):
            opposite = -pairs.vectors[p] / pairs.distances[p] * pairs.distances[q]
            bends.append((np.linalg.norm(opposite - pairs.vectors[q]), i, p, q, opposite - pairs.vectors[q]))
    for _, i, p, q, by in sorted(bends, key=lambda item: item[:4]):
        j, k = pairs.second[p], pairs.second[q]
        if j != k:
            axis = pairs.vectors[p]
            across = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
            elements = (system.numbers[i], *sorted((system.numbers[j], system.numbers[k])))
            name = f"atoms {named(system, j, i, k)} on a line"
            yield elements, Line(_moved(system, k, by), _alone(system, i, across), "on a line", name)


def _at_cutoff(system: System, cutoff: float | None):
    """A pair i, j; j is moved along the line between them until r_ij is the cutoff. The smallest moves come first."""
    if cutoff is None:
        return
    pairs = Pairs.of(system, np.inf if not np.any(system.pbc) else cutoff + 1.0)
    for p in np.argsort(np.abs(pairs.distances - cutoff), kind="stable"):
        i, j, unit = pairs.first[p], pairs.second[p], pairs.vectors[p] / pairs.distances[p]
        if i != j:
            elements = (system.numbers[i], system.numbers[j])
            name = f"atoms {named(system, i, j)} {cutoff:g} Å apart, the cutoff"
            moved = _moved(system, j, (cutoff - pairs.distances[p]) * unit)
            yield elements, Line(moved, _alone(system, j, unit), "cutoff", name)


def _arrangements(system: System, label: str, rng: np.random.Generator) -> Iterator[Line]:
    """The atoms of a molecule in a chain, a plane, a ring and a grid, those of a crystal in a grid; crossed at random."""
    n = len(system)
    side = int(np.ceil(n ** (1 / 3)))
    # from one corner on, so that few atoms make no plane
    corner = sorted(itertools.product(range(side), repeat=3), key=sum)
    grid = np.array(corner[:n], dtype=float)
    shapes = {}
    if np.all(system.pbc):
        shapes = {"a regular grid": (grid / side) @ system.cell}
    elif n > 2 and not np.any(system.pbc):
        index = np.arange(n)
        unit = np.median(np.min(squareform(pdist(system.positions)) + 99.0 * np.eye(n), axis=1))
        angle = {"spiral": index * np.pi * (3 - np.sqrt(5)), "ring": 2 * np.pi * index / n}
        flat = {key: np.stack([np.cos(a), np.sin(a), 0 * a], axis=1) for key, a in angle.items()}
        shapes = {
            "a straight chain": np.outer(np.cumsum(1.0 + 0.07 * (index % 5)), [0, 0, unit]),
            "a plane": 0.8 * unit * np.sqrt(index + 1.0)[:, None] * flat["spiral"],
            "a regular ring": unit / (2 * np.sin(np.pi / n)) * flat["ring"],
            "a cubic grid": 1.2 * unit * grid,
        }
    for name, positions in shapes.items():
        turned = positions if np.any(system.pbc) else Rotation.random(rng=rng).apply(positions)
        direction = rng.standard_normal((n, 3))
        direction /= np.linalg.norm(direction)
        yield Line(system.replace(positions=turned), direction, name, f"all atoms in {name}, {label}")


def through(line: Line) -> Line:
    """A path through a place, to find what is near it."""
    start = line.system.replace(positions=line.at(-BESIDE))
    return dataclasses.replace(line, system=start, kind="path", name=f"a way past {line.name}", length=2.0 * BESIDE)


def paths(systems: Sequence[System], labels: Sequence[str], seed: int) -> Iterator[Line]:
    """Paths on which distances, and whatever features are sorted by, cross: from frame to frame, in random directions, from a
    frame to itself with two like atoms exchanged; and apart, until every cutoff has been passed."""
    rng = np.random.default_rng(seed)
    least = NEAREST * min(shortest(system) for system in systems)
    isolated = not any(np.any(system.pbc) for system in systems)
    chosen: list[Line] = []
    for (system, label), (following, following_label) in itertools.pairwise(zip(systems, labels, strict=True)):
        if isolated and np.array_equal(system.numbers, following.numbers):
            end = _aligned(following.positions, system.positions)
            chosen.append(_between(system, end, f"the way from {label} to {following_label}"))
    for system, label in list(zip(systems, labels, strict=True))[:2]:
        for _ in range(2):
            end = system.positions + 0.4 * rng.standard_normal(system.positions.shape)
            chosen.append(_between(system, end, f"a random displacement of {label}"))
    first, label = systems[0], labels[0]
    clear = [line for line in chosen if line.length > 0 and _clear(line, least)][: 2 * PER_KIND]
    if isolated and len(first) > 1:
        clear += list(itertools.islice((p for p in _exchanges(first, label) if _clear(p, least)), PER_KIND))
        centre = first.positions.mean(axis=0)
        apart = max(3.2, STRETCHED / Pairs.of(first, np.inf).distances.max())
        for start, end in ((0.9, 1.7), (1.7, apart)):
            name = f"{label} stretched {start:g} to {end:g} times"
            system = first.replace(positions=centre + start * (first.positions - centre))
            clear.append(_between(system, centre + end * (first.positions - centre), name))
    yield from clear


def _between(system: System, end: np.ndarray, name: str) -> Line:
    by = end - system.positions
    length = float(np.linalg.norm(by))
    return Line(system, by / length if length > 0 else by, "path", name, length)


def _clear(line: Line, least: float) -> bool:
    """Whether no two atoms come too close on a path."""
    steps = np.linspace(0.0, line.length, 16)
    return all(shortest(line.system.replace(positions=line.at(t))) >= least for t in steps)


def _aligned(positions: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Positions moved onto others by a translation and a rotation or reflection."""
    centre, target = positions.mean(axis=0), onto.mean(axis=0)
    turn, _ = orthogonal_procrustes(positions - centre, onto - target)
    return (positions - centre) @ turn + target


def _exchanges(system: System, label: str) -> Iterator[Line]:
    """Paths to the geometry with two like atoms exchanged, the shortest first: on each, all that orders the two must cross."""
    x, exchanges = system.positions, []
    for j, k in itertools.islice(itertools.combinations(range(len(x)), 2), 2000):
        if system.numbers[j] == system.numbers[k]:
            exchanged = x.copy()
            exchanged[[j, k]] = x[[k, j]]
            exchanges.append(
                _between(system, _aligned(exchanged, x), f"exchange of atoms {named(system, j, k)}, {label}")
            )
    yield from sorted((line for line in exchanges if line.length > 1e-6), key=lambda line: line.length)
