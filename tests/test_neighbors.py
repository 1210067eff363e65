"""Neighbour lists against ASE's, their width, and the closest pairs of atoms."""

import ase
import ase.build
import numpy as np
import pytest
from ase.neighborlist import neighbor_list

from mlff.data.neighbors import closest_pairs, neighbor_lists, wants_list


def entries(lists, frame: int) -> list[tuple]:
    indices, shifts = lists.indices[frame], lists.shifts[frame]
    return sorted(
        (a, int(indices[a, k]), *map(int, shifts[a, k]))
        for a in range(indices.shape[0])
        for k in range(indices.shape[1])
        if indices[a, k] >= 0
    )


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, False)])
def test_lists_are_those_of_ase(pbc, rng):
    atoms = ase.build.bulk("Si", cubic=True)
    frames = []
    for _ in range(2):
        frame = atoms.copy()
        frame.positions += 0.2 * rng.standard_normal((8, 3))
        frame.pbc = pbc
        frames.append(frame)
    positions, cells = np.stack([f.positions for f in frames]), np.stack([f.cell.array for f in frames])
    lists = neighbor_lists(positions, cells, np.array([pbc, pbc]), 5.0)
    for i, frame in enumerate(frames):
        first, second, shifts = neighbor_list("ijS", frame, 5.0)
        expected = sorted((int(a), int(b), *map(int, s)) for a, b, s in zip(first, second, shifts, strict=True))
        assert entries(lists, i) == expected
    assert lists.indices.shape[2] % 4 == 0


def test_width_is_kept_and_grows_where_it_overflows():
    atoms = ase.build.bulk("Si", cubic=True)
    arguments = (atoms.positions[None], atoms.cell.array[None], atoms.pbc[None])
    assert neighbor_lists(*arguments, 3.0, width=12).indices.shape == (1, 8, 12)
    assert neighbor_lists(*arguments, 5.0, width=12).indices.shape[2] > 28
    alone = neighbor_lists(np.zeros((1, 1, 3)), np.zeros((1, 3, 3)), np.zeros((1, 3), bool), 3.0)
    assert (alone.indices == -1).all()


def test_a_periodic_direction_without_a_cell_vector():
    with pytest.raises(ValueError, match="direction 2 is periodic but its cell vector is zero"):
        neighbor_lists(np.zeros((1, 2, 3)), np.diag([5.0, 5.0, 0.0])[None], np.ones((1, 3), bool), 3.0)


def test_small_molecules_need_no_list():
    assert not wants_list(9, np.zeros(3, bool))
    assert wants_list(9, np.array([False, False, True]))
    assert wants_list(60, np.zeros(3, bool))


def test_closest_pairs():
    atoms = ase.Atoms("OHH", [[0, 0, 0], [0, 0, 0.9], [0, 1.1, 0]], cell=[3, 9, 9], pbc=[True, False, False])
    found = closest_pairs(atoms.positions[None], atoms.numbers, atoms.cell.array[None], atoms.pbc[None])
    assert found["H-O"] == pytest.approx(0.9)
    assert found["H-H"] == pytest.approx(np.hypot(0.9, 1.1))
    assert found["O-O"] == pytest.approx(3.0)
