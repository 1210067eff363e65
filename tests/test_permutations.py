"""Permutations: recovered groups of real molecules, and that what is no group is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import mlff
from mlff.data.permutations import cycles


def dataset_of(positions, numbers) -> mlff.Dataset:
    cell, pbc = np.zeros((3, 3)), np.zeros(3, bool)
    return mlff.Dataset(
        [mlff.Frame(mlff.System(x, np.array(numbers, dtype=np.int32), cell, pbc), {}) for x in positions]
    )


@pytest.mark.parametrize(
    ("name", "order", "graph"), [("ethanol", 6, 12), ("malonaldehyde", 2, 2), ("benzene", 12, 12), ("water", 2, 2)]
)
def test_groups_of_the_data_sets(datasets, name, order, graph):
    data = mlff.Dataset.read(datasets / f"{name}.extxyz", index="::4")
    found = mlff.find_permutations(data)
    assert len(found) == order
    assert len(mlff.find_permutations(data, reach="graph")) == graph
    closed = {tuple(p) for p in found}
    assert all(tuple(p[q]) in closed for p in found for q in found)
    assert (found.indices[0] == np.arange(found.indices.shape[1])).all()
    certificate = found.certificate()
    assert certificate["order"] == order
    assert 0 < certificate["largest_residual"] < 0.3
    assert all(generator["pairs"] > 0 for generator in certificate["generators"])
    regenerated = mlff.Permutations.generate(found.generators, data.uniform_numbers())
    assert {tuple(p) for p in regenerated} == closed


def test_ethanol_keeps_its_methyl_handed(datasets):
    """Two hydrogens of the methyl alone never change places; with the two of the methylene they do, by reflection."""
    data = mlff.Dataset.read(datasets / "ethanol.extxyz", index="::4")
    elements = {tuple(p) for p in mlff.find_permutations(data)}
    alone = tuple(range(9))
    exchanged = tuple(7 if a == 6 else 6 if a == 7 else a for a in alone)
    both = tuple(5 if a == 4 else 4 if a == 5 else exchanged[a] for a in alone)
    assert exchanged not in elements
    assert both in elements


def test_two_far_methyls_on_a_planar_molecule(rng):
    """Handedness of one methyl against another is all but invisible in distances; the superposition sees it.

    Planar skeleton with two distant methyls, both rotating, the whole reflected half of the time.
    """
    numbers = [6, 6, 6, 6, 6, 1, 1, 1, 1, 1, 1]
    skeleton = np.array([[-2.6, 0.75, 0], [-1.3, 0, 0], [0, 0.7, 0], [1.3, 0, 0], [2.6, 0.75, 0]])

    def methyl(centre, axis, angle):
        axis = axis / np.linalg.norm(axis)
        side = np.array([0, 0, 1.0])
        other = np.cross(axis, side)
        turns = angle + 2 * np.pi / 3 * np.arange(3)
        return centre + 0.36 * axis + 1.03 * (np.cos(turns)[:, None] * side + np.sin(turns)[:, None] * other)

    frames = []
    for _ in range(400):
        left = methyl(skeleton[0], np.array([-1.3, 0.75, 0]), rng.uniform(0, 2 * np.pi))
        right = methyl(skeleton[4], np.array([1.3, 0.75, 0]), rng.uniform(0, 2 * np.pi))
        x = np.concatenate([skeleton, left, right]) + 0.03 * rng.standard_normal((11, 3))
        frames.append(Rotation.random(rng=rng).apply(x))
    data = dataset_of(frames, numbers)
    # rotations 3 × 3, reflection in the plane (both methyls odd), exchange of the two ends
    assert len(mlff.find_permutations(data)) == 36
    assert len(mlff.find_permutations(data, reach="graph")) == 72


def test_labels_that_differ_are_told_apart(rng):
    """A molecule without symmetry, shuffled frames of which each exchanges two like atoms: exactly that exchange."""
    base = np.array([[0.0, 0, 0], [1.1, 0, 0], [0, 1.5, 0], [0, 0, 2.0], [1.3, 1.4, 0.2]])
    frames = [base + 0.02 * rng.standard_normal((5, 3)) for _ in range(60)]
    assert len(mlff.find_permutations(dataset_of(frames, [6, 1, 1, 1, 8]))) == 1
    exchanged = [x[[0, 2, 1, 3, 4]] if i % 2 else x for i, x in enumerate(frames)]
    found = mlff.find_permutations(dataset_of(exchanged, [6, 1, 1, 1, 8]))
    assert len(found) == 2
    assert cycles(found.generators[0]) == "(1 2)"


def placed(x, bond, length, angle, bend, dihedral, turn) -> np.ndarray:
    """An atom from its distance, angle and dihedral (degrees) with three others."""
    axis, side = x[bond] - x[angle], x[dihedral] - x[angle]
    axis /= np.linalg.norm(axis)
    side -= axis * (side @ axis)
    side /= np.linalg.norm(side)
    bend, turn = np.deg2rad(bend), np.deg2rad(turn)
    around = np.cos(turn) * side + np.sin(turn) * np.cross(axis, side)
    return x[bond] + length * (np.sin(bend) * around - np.cos(bend) * axis)


# number, bond, length, angle, bend, dihedral, turn, which free torsion is added
BUTYRIC_ACID = [
    (8, 0, 1.22, 1, 125, 2, 0, 0), (8, 0, 1.38, 1, 112, 2, 180, 0), (1, 4, 0.98, 0, 107, 1, 0, 1),
    (1, 1, 1.09, 0, 109, 2, 120, None), (1, 1, 1.09, 0, 109, 2, 240, None), (6, 2, 1.53, 1, 112, 0, 0, 2),
    (1, 2, 1.09, 1, 109, 0, 120, 2), (1, 2, 1.09, 1, 109, 0, 240, 2),
    (1, 8, 1.09, 2, 110, 1, 0, 3), (1, 8, 1.09, 2, 110, 1, 120, 3), (1, 8, 1.09, 2, 110, 1, 240, 3),
]  # fmt: skip


def butyric_acid(frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """C=O of 1.22 Å and C–OH of 1.38 Å, four torsions that turn freely, bonds that vibrate by 0.04 Å."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(frames):
        torsions = rng.uniform(0, 360, 4)
        x = [np.zeros(3), np.array([1.51, 0, 0]), np.array([2.08, 1.42, 0])]
        for _, bond, length, angle, bend, dihedral, turn, free in BUTYRIC_ACID:
            x.append(placed(x, bond, length, angle, bend, dihedral, turn + (0 if free is None else torsions[free])))
        found.append(np.array(x) + 0.03 * rng.standard_normal((len(x), 3)))
    return np.array(found), np.array([6, 6, 6] + [row[0] for row in BUTYRIC_ACID])


@pytest.mark.parametrize("seed", [6, 7])
def test_frames_far_apart_do_not_certify_unlike_bonds(seed):
    """Thirty frames fit an exchange of the two oxygens, the hydrogen left behind, as well as others: to 0.5 Å."""
    x, numbers = butyric_acid(30, seed)
    found = mlff.find_permutations(dataset_of(x, numbers))
    assert len(found) == 6
    assert (found.indices[:, 3] == 3).all()
    assert found.certificate()["largest_residual"] < 0.5


@pytest.mark.parametrize("count", [30, 60, 100])
def test_bonds_that_are_never_as_long_tell_like_graphs_apart(count):
    """Of the anion with unlike bonds the exchange fits to 0.1 Å and keeps the graph; their lengths alone forbid it."""
    x, numbers = butyric_acid(count, seed=1)
    kept = np.delete(np.arange(len(numbers)), 5)
    found = mlff.find_permutations(dataset_of(x[:, kept], numbers[kept]))
    assert len(found) == 6
    assert (found.indices[:, 3] == 3).all()
    assert len(mlff.find_permutations(dataset_of(x[:, kept], numbers[kept]), reach="graph")) > 6


def test_too_large_a_group_states_its_cost(rng):
    """Eight free argon atoms: 8! permutations of the bond graph; the message offers a way on."""
    frames = [rng.uniform(0, 20, (8, 3)) for _ in range(5)]
    with pytest.raises(ValueError, match=r"more than 20000 elements.*in proportion.*subgroup.*max_order"):
        mlff.find_permutations(dataset_of(frames, [18] * 8), reach="graph")


def test_max_order_is_the_users(datasets):
    data = mlff.Dataset.read(datasets / "benzene.extxyz", index="::10")
    with pytest.raises(ValueError, match="has 12 elements"):
        mlff.find_permutations(data, max_order=6)


def test_one_frame_has_only_the_identity(water):
    assert len(mlff.find_permutations(water[:1])) == 1


@given(st.permutations(range(5)), st.permutations(range(5)))
@settings(max_examples=30, deadline=None)
def test_generated_groups_are_groups(p, q):
    group = mlff.Permutations.generate([p, q], [1] * 5)
    elements = {tuple(g) for g in group}
    assert all(tuple(a[b]) in elements for a in group for b in group)
    assert all(tuple(np.argsort(a)) in elements for a in group)
    assert 120 % len(group) == 0
    assert mlff.Permutations.from_elements(group.indices, [1] * 5) == group


@pytest.mark.parametrize(
    ("given_permutations", "message"),
    [
        ([[0, 1, 1]], "no permutation"),
        ([[1, 0, 2]], "unlike atoms, 0 \\(O\\) and 1 \\(H\\)"),
        ([[0, 1]], "shape"),
        ([[0.0, 2.0, 1.0]], "integer"),
    ],
)
def test_refuses_what_is_no_permutation(given_permutations, message):
    with pytest.raises(ValueError, match=message):
        mlff.Permutations.generate(given_permutations, [8, 1, 1])


def test_refuses_what_is_no_group():
    with pytest.raises(ValueError, match=r"no group, \[0, 3, 1, 2\] is missing"):
        mlff.Permutations.from_elements([[0, 1, 2, 3], [0, 2, 3, 1]], [7, 1, 1, 1])


def test_cycle_notation():
    assert cycles([0, 1, 2]) == "()"
    assert cycles([1, 0, 3, 4, 2]) == "(0 1)(2 3 4)"
