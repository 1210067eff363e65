"""The parts of the audit: places that are exactly what they are called, jumps of known size, motions that are named."""

import dataclasses
import functools
import re

import ase
import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from descriptors import inverse_distances
from descriptors.geometry import environments, lengths, pair_distances, smooth_cutoff
from mlff.data.system import System
from mlff.kernels.descriptor import Descriptor
from mlff.quality.audit import invariance, numerics, sight
from mlff.quality.audit.crossings import crossings, search
from mlff.quality.audit.findings import Finding, worst
from mlff.quality.audit.places import Line, Pairs, paths, places, shortest, through
from mlff.quality.audit.probes import Geometries, Probe


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def molecule(name: str, seed: int | None = None) -> System:
    atoms = ase.build.molecule(name)
    if seed is not None:
        atoms.rattle(0.05, seed=seed)
    return System.from_ase(atoms)


def silicon() -> System:
    atoms = ase.build.bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=3)
    return System.from_ase(atoms)


def probe(function, *systems: System) -> Probe:
    descriptor = Descriptor.wrap(function).completed(np.concatenate([system.numbers for system in systems]))
    return Probe(descriptor, Geometries.of(systems), tuple(f"frame {i}" for i in range(len(systems))))


def distances(system: System) -> np.ndarray:
    return np.linalg.norm(system.positions[:, None] - system.positions, axis=-1)


# -- places --------------------------------------------------------------------------------------------------------


def test_places_are_what_they_are_called():
    found = list(places(molecule("CH3CH2OH", 1), 5.0, "frame 0", seed=0))
    kinds = [line.kind for line in found]
    assert [kinds.count(kind) for kind in ("equal distances", "on a line", "cutoff")] == [3, 3, 3]
    assert kinds[9:] == ["a straight chain", "a plane", "a regular ring", "a cubic grid"]
    for line in found:
        r = distances(line.system)
        assert np.linalg.norm(line.direction) == pytest.approx(1.0)
        if line.kind == "equal distances":
            i, j, k = _atoms(line.name)
            assert abs(r[i, j] - r[i, k]) < 1e-14
        if line.kind == "on a line":
            j, i, k = _atoms(line.name)
            assert abs(r[j, i] + r[i, k] - r[j, k]) < 1e-14
            assert np.argwhere(line.direction.any(axis=1)).item() == i
            assert abs(line.direction[i] @ (line.system.positions[j] - line.system.positions[i])) < 1e-14
        if line.kind == "cutoff":
            i, j = _atoms(line.name)
            assert r[i, j] == pytest.approx(5.0, abs=1e-14)
        assert shortest(line.system) > 0.5
        rank = np.linalg.matrix_rank(line.system.positions - line.system.positions.mean(axis=0), tol=1e-10)
        assert rank == {"a straight chain": 1, "a plane": 2, "a regular ring": 2}.get(line.kind, 3)


def _atoms(name: str) -> list[int]:
    return [int(index) for index in re.findall(r"(\d+) \(", name)]


def test_places_of_a_crystal_count_images():
    found = list(places(silicon(), 4.0, "frame 0", seed=0))
    assert [line.kind for line in found] == ["equal distances", "on a line", "cutoff", "a regular grid"]
    cutoff = next(line for line in found if line.kind == "cutoff")
    i, j = _atoms(cutoff.name)
    pairs = Pairs.of(cutoff.system, 4.5)
    between = pairs.distances[(pairs.first == i) & (pairs.second == j)]
    assert np.abs(between - 4.0).min() < 1e-12


def test_paths_end_where_they_say_and_keep_atoms_apart():
    systems = [molecule("CH3CH2OH", seed) for seed in (1, 2)]
    found = list(paths(systems, ["frame 0", "frame 1"], seed=0))
    kinds = [next(k for k in ("way", "random", "exchange", "stretched") if k in line.name) for line in found]
    assert [kinds.count(kind) for kind in ("way", "exchange", "stretched")] == [1, 3, 2]
    assert 1 <= kinds.count("random") <= 4  # others bring atoms together
    for line in found:
        ends = [
            np.sort(distances(line.system.replace(positions=line.at(t)))[np.triu_indices(9, 1)])
            for t in (0.0, line.length)
        ]
        if "exchange" in line.name:
            np.testing.assert_allclose(*ends, atol=0.05)  # alike but for the distortion that alignment leaves
        if "stretched 1.7" in line.name:
            np.testing.assert_allclose(ends[1] / ends[0], 3.2 / 1.7)


# -- crossings -----------------------------------------------------------------------------------------------------


def kinked(positions):
    """max(1/r − 0.4, 0) with a kink at 2.5 Å."""
    return jax.nn.relu(1.0 / pair_distances(positions) - 0.4)


def test_search_finds_a_kink_and_its_sides():
    far = System(np.array([[0, 0, 0], [0, 0, 1.0]]), np.array([1, 1], np.int32), np.zeros((3, 3)), np.zeros(3, bool))
    path = Line(far, np.array([[0, 0, 0], [0, 0, 1.0]]), "path", "apart", 3.0)
    subject = probe(kinked, far)
    place = min(search(subject, [path]), key=lambda line: abs(line.system.positions[1, 2] - 2.5))
    assert place.system.positions[1, 2] == pytest.approx(2.5, abs=1e-6)
    (crossing,) = crossings(subject, [place])
    np.testing.assert_allclose(crossing.sides, [[0, 0], [-0.16, 0], [0.128, 0], [-0.1536, 0]], atol=1e-6)
    np.testing.assert_allclose(crossing.jumps[1:] * subject.scales[1:, 0, 0, 0], [0.16, 0.128, 0.1536], rtol=1e-4)
    assert crossing.jumps[0] < 1e-9
    smooth = crossings(subject, [dataclasses.replace(path, length=0.0)])[0]
    assert max(smooth.jumps) < 1e-9
    assert max(smooth.errors) < 1e-6


def faded(positions, *, cutoff=3.0):
    return smooth_cutoff(pair_distances(positions), cutoff)


def test_a_jump_of_the_fourth_derivative_is_none_of_the_third():
    far = System(np.array([[0, 0, 0], [0, 0, 3.0]]), np.array([1, 1], np.int32), np.zeros((3, 3)), np.zeros(3, bool))
    near = far.replace(positions=np.array([[0, 0, 0], [0, 0, 1.5]]))
    direction = np.array([[0, 0, 0], [0, 0, 1.0]])
    for offset in (0.0, 3e-7):  # where the search is off by less than a step
        place = Line(far.replace(positions=far.positions + offset * direction), direction, "cutoff", "")
        (crossing,) = crossings(probe(faded, near), [place])
        assert max(crossing.jumps) < 1e-8
        assert max(crossing.errors) < 1e-6


def test_a_path_through_a_place():
    line = next(places(molecule("H2O"), None, "frame 0", seed=0))
    path = through(line)
    np.testing.assert_allclose(path.at(0.5 * path.length), line.system.positions)


# -- probes --------------------------------------------------------------------------------------------------------


def test_derivatives_along_a_line():
    """1/r of two atoms that part: −1/r², 2/r³, −6/r⁴, in more geometries than one batch."""
    r = np.linspace(1.0, 3.0, 150)
    positions = np.zeros((150, 2, 3))
    positions[:, 1, 2] = r
    pair = System(positions[0], np.array([1, 8], np.int32), np.zeros((3, 3)), np.zeros(3, bool))
    directions = np.broadcast_to([[0, 0, 0], [0, 0, 1.0]], positions.shape)
    subject = probe(inverse_distances, pair)
    found = subject.derivatives(Geometries.of(150 * [pair]).at(positions), directions)
    assert found.shape == (4, 150, 1, 1)
    np.testing.assert_allclose(found[:, :, 0, 0], [1 / r, -1 / r**2, 2 / r**3, -6 / r**4], rtol=1e-12)


# -- symmetry ------------------------------------------------------------------------------------------------------


def test_atoms_are_wrapped_by_whole_cell_vectors():
    crystal = Geometries.of([silicon()])
    outside = crystal.positions + [7.0, -3.0, 20.0]
    wrapped = invariance._wrapped(crystal, outside)
    whole = (outside - wrapped) @ np.linalg.inv(crystal.cells[0])
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-12)
    fractional = wrapped @ np.linalg.inv(crystal.cells[0])
    assert fractional.min() >= -1e-12
    assert fractional.max() < 1.0 + 1e-12
    assert np.abs(whole).max() >= 3
    free = Geometries.of([molecule("H2O")])
    assert invariance._wrapped(free, outside) is outside


def first_atom_differs(positions):
    """Environments, but the first atom counts double."""
    r2 = jnp.sum((positions[:, None] - positions[None]) ** 2, axis=-1)
    return jnp.exp(-r2).at[0].mul(2.0).sum(axis=1, keepdims=True)


def test_rows_must_follow_their_atoms():
    (finding,) = invariance.exchange(probe(first_atom_differs, molecule("N2", 0)))
    assert not finding.passed
    assert "row of an atom" in finding.text
    (finding,) = invariance.exchange(probe(first_atom_differs, molecule("HCl", 0)))
    assert finding.passed
    assert "no two like atoms" in finding.text


def nearest_images(positions, numbers, cell, *, cutoff=4.0):
    """Environments that see one image of each atom, beyond half the cell."""

    def atom(environment):
        r = lengths(environment.vectors)
        return jnp.sum(jnp.exp(-r) * smooth_cutoff(r, cutoff))[None]

    return jax.vmap(atom)(environments(positions, numbers, cell, None, cutoff))


def test_one_image_is_not_enough():
    (finding,) = invariance.supercell(probe(nearest_images, silicon()))
    assert not finding.passed
    assert "all images" in finding.text
    assert list(invariance.supercell(probe(first_atom_differs, molecule("N2")))) == []


# -- sight ---------------------------------------------------------------------------------------------------------


def last_atom_unseen(positions):
    return inverse_distances(positions[:-1])


def test_the_unseen_motion_is_named():
    (finding,) = sight.rank(probe(last_atom_unseen, molecule("CH3CH2OH", 1)))
    assert finding.number == 3
    assert "unseen: 3 motions, one of them of atoms 8 (H) by 1.00;" in finding.text


def near_only(positions, numbers, cell=None, neighbors=None, *, cutoff=3.0):
    def atom(environment):
        r = lengths(environment.vectors)
        return jnp.stack([jnp.sum(r**power * smooth_cutoff(r, cutoff)) for power in (1, 2, 3)])

    return jax.vmap(atom)(environments(positions, numbers, cell, neighbors, cutoff))


@pytest.mark.parametrize(("apart", "motions"), [(20.0, 3 + 3), (None, 3)])
def test_fragments_that_do_not_see_each_other(apart, motions):
    """Two molecules of water beyond the cutoff: their relative motions are nobody's to see."""
    one = molecule("H2O", 1)
    system = one
    if apart is not None:
        positions = np.concatenate([one.positions, one.positions[:, [1, 2, 0]] + apart])
        system = one.replace(positions=positions, numbers=np.tile(one.numbers, 2))
    (finding,) = sight.rank(probe(near_only, system))
    assert finding.passed
    assert f"rank {motions} of {motions}" in finding.text


def test_what_symmetry_allows():
    for system, motions in ((molecule("H2"), 1), (molecule("CO2", 1), 3), (molecule("C6H6", 1), 30), (silicon(), 21)):
        assert np.linalg.matrix_rank(sight._rigidity(system, np.inf), tol=1e-6, hermitian=True) == motions
    two = Pairs.of(molecule("H2O", 1), 1.2)  # the oxygen sees both hydrogens, and so the angle between them
    assert len(two.first) == 4
    assert np.linalg.matrix_rank(sight._rigidity(molecule("H2O", 1), 1.2), tol=1e-6, hermitian=True) == 3


def test_a_few_constant_features_are_a_remark():
    (finding,) = sight.constants(probe(_padded, molecule("H2O")))
    assert finding.passed
    assert "2 of 5 features change with no atom (3, 4)" in finding.text


def _padded(positions):
    return jnp.concatenate([inverse_distances(positions), jnp.ones(2, positions.dtype)])


# -- numerics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "narrow"),
    [(float(np.float32(0.1)), True), (0.1, False), (0.5, False), (1e6, False), (3.0, False), (0.0, False), (np.inf, False),
     (np.linspace(0, 1, 7, dtype=np.float32).astype(float), True), (np.linspace(0, 1, 7), False), (2.0**-40, False)],
)  # fmt: skip
def test_numbers_that_were_rounded_to_single_precision(value, narrow):
    assert numerics._was_narrow(np.float64(value)) == narrow


def test_hyperparameters_are_no_constants():
    """An exponent that happens to be a single-precision number is the user's choice."""
    scaled = functools.partial(_scaled, factor=float(np.float32(0.1)))
    (finding,) = numerics.precision(probe(scaled, molecule("H2O")))
    assert finding.passed
    assert 0 < finding.number < 1e-6


def _scaled(positions, *, factor):
    return factor * inverse_distances(positions)


# -- findings ------------------------------------------------------------------------------------------------------


def test_the_worst_of_several():
    small, large, failed = (
        Finding.of("a", 1e-9, 1e-6, "x"),
        Finding.of("a", 1e-7, 1e-6, "y"),
        Finding.of("a", 2.0, 3.0, "z"),
    )
    other = Finding.of("b", np.nan, 1.0, "text", "cure")
    failed = dataclasses.replace(failed, number=0.0, passed=False)
    assert worst([small, large]) == (large,)
    assert worst([small, other, failed, large]) == (failed, other)
    assert not other.passed
    assert other.text == "text; cure"
    assert other.to_json() == {"name": "b", "number": None, "limit": 1.0, "text": "text; cure", "passed": False}
    assert small.row() == ("a", "passed", "1e-09", "1e-06", "x")
    assert Finding.of("c", 0.5, np.inf, "x").row()[3] == "—"
