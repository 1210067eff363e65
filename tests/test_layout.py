"""Molecules of any composition in slots of a few sizes: the same numbers, few compilations, one copy of the model."""

import ase.build
import jax
import numpy as np
import pytest
from ase.collections import g2
from moments import moments

import mlff
from mlff.potentials.compiled import Compiled, Prepared, on_device
from mlff.potentials.layout import ROOM, Layout, Members, room_for

COUNT = 50
ELEMENTS = (1, 6, 7, 8)


def compositions(count: int) -> list:
    """Molecules of the G2 set of hydrogen, carbon, nitrogen and oxygen, no two of one composition."""
    found = {}
    for name in g2.names:
        atoms = ase.build.molecule(name)
        if set(atoms.numbers) <= set(ELEMENTS) and len(atoms) > 1:
            found.setdefault(tuple(sorted(atoms.numbers)), atoms)
    return list(found.values())[:count]


@pytest.fixture(scope="module")
def model() -> mlff.ForceField:
    """Of a few shaken molecules, with forces that some other function has: nothing here is about accuracy."""
    rng, frames = np.random.default_rng(0), []
    for name in ("CH3CONH2", "CH3CH2OH", "HCOOH", "CH3NO2"):
        atoms = ase.build.molecule(name)
        for _ in range(3):
            x = atoms.positions + 0.05 * rng.standard_normal(atoms.positions.shape)
            labels = {"energy": rng.standard_normal(), "forces": rng.standard_normal(x.shape)}
            frames.append(mlff.Frame(mlff.System(x, atoms.numbers, np.zeros((3, 3)), np.zeros(3, bool)), labels))
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0), amplitude=1.0)
    return mlff.fit(kernel, mlff.Dataset(frames), ("energy", "forces"), noise={"energy": 0.1, "forces": 0.1})


@pytest.mark.parametrize(("count", "room"), [(0, 4), (1, 4), (5, 16), (17, 32), (33, 40), (48, 48), (200, 224)])
def test_room(count, room):
    assert room_for(count, ROOM) == room


def test_slots_show_every_atom_once_and_the_first_again():
    layout = Layout.of(5)
    np.testing.assert_array_equal(layout.shown, [0, 1, 2, 3, 4, 0, 0, 0])
    members = Members.of(np.array([8, 1, 6, 1, 1]), ELEMENTS, room=True)
    np.testing.assert_array_equal(members.places, [[1, 3, 4, 0], [2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(members.counted, [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])


def exact(model, atoms):
    """The same model with as many slots as atoms, compiled for this composition alone."""
    unpadded = mlff.ForceField(model.model, np.asarray(atoms.numbers), model.kernel, model.record)
    assert unpadded._entrance._fitted.layout is None
    return unpadded


@pytest.mark.thorough  # fifty compositions and crystals ask the same of energies and forces
def test_every_result_is_that_of_the_exact_arrangement(model, rng):
    atoms = ase.build.molecule("HCN")
    atoms = atoms[rng.permutation(len(atoms))]
    reference = exact(model, atoms)
    x = atoms.positions + 0.05 * rng.standard_normal(atoms.positions.shape)
    where = {"numbers": atoms.numbers}
    assert model._entrance.prepare(np.asarray(atoms.numbers, dtype=np.int32)).layout is not None
    np.testing.assert_allclose(model.energy(x, **where), reference.energy(x), rtol=1e-12)
    np.testing.assert_allclose(model.forces(x, **where), reference.forces(x), atol=1e-11)
    batch = np.stack([x, atoms.positions, x + 0.01])
    for padded, plain in zip(model.energy_and_forces(batch, **where), reference.energy_and_forces(batch), strict=True):
        np.testing.assert_allclose(padded, plain, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(model.hessian(x, **where), reference.hessian(x), atol=1e-10)
    block = [len(atoms) - 1, 0]
    np.testing.assert_allclose(model.hessian(x, **where, moving=block), reference.hessian(x, moving=block), atol=1e-10)
    v = rng.standard_normal((2, *x.shape))
    np.testing.assert_allclose(
        model.hessian_vector_product(x, v, **where), reference.hessian_vector_product(x, v), atol=1e-10
    )
    np.testing.assert_allclose(model.force_constants(x, v, 3, **where), reference.force_constants(x, v, 3), atol=1e-9)
    assert model.training_distance(x, **where) == pytest.approx(reference.training_distance(x))
    squares = mlff.Operator("squares", lambda u, y: (jax.grad(u)(y) * y).sum(axis=1), "eV")
    np.testing.assert_allclose(model.apply(squares, x, **where), reference.apply(squares, x), atol=1e-10)


def test_crystals_too(silicon_model, silicon, rng):
    cell = ase.build.bulk("Si", cubic=True, a=5.432) * (2, 1, 1)
    cell.rattle(0.05, rng=rng)
    del cell[3]
    where = {"cell": cell.cell.array, "pbc": cell.pbc}
    reference, numbers = exact(silicon_model, cell), cell.numbers
    x = cell.positions
    padded, plain = silicon_model.stress(x, **where, numbers=numbers), reference.stress(x, **where)
    np.testing.assert_allclose(padded, plain, atol=1e-12)
    for one, other in zip(
        silicon_model.strain_derivatives(x, **where, numbers=numbers),
        reference.strain_derivatives(x, **where),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-9)
    assert silicon_model.energy(x, **where, numbers=numbers) == pytest.approx(reference.energy(x, **where), rel=1e-12)


def test_fifty_compositions_compile_few_functions_and_keep_one_copy(model):
    molecules = compositions(COUNT)
    assert len(molecules) == COUNT
    fresh = model.replace()  # nothing prepared yet
    compiled, arrays = Compiled(jax.tree.structure(fresh._entrance._on_device.arranged([1], room=True))), set()
    for atoms in molecules:
        numbers = np.asarray(atoms.numbers, dtype=np.int32)
        prepared = fresh._entrance.prepare(numbers)
        prepared.functions = compiled
        assert np.isfinite(fresh.energy(atoms.positions, numbers=numbers))
        arrays |= {id(leaf) for leaf in jax.tree.leaves(prepared.potential.replace(members=None))}
    assert compiled.single._cache_size() <= 10, "compilations for fifty compositions"
    assert len(arrays) == len(jax.tree.leaves(fresh.model)), "copies of the model"


def test_descriptors_without_lists_are_not_padded(water):
    """An atom shown twice would be seen twice by one that takes all pairs."""

    def crowd(positions, numbers):
        apart = ((positions[:, None] - positions[None]) ** 2).sum(-1)
        return (1.0 / (1.0 + apart)).sum(axis=1)[:, None]

    kernel = mlff.LocalKernel(crowd, mlff.RBF(lengthscale=1.0))
    model = mlff.fit(kernel, water[:5], noise=0.1)
    assert not model.model.pads
    peroxide = ase.build.molecule("H2O2")
    prepared = Prepared.of(on_device(model.model), np.asarray(peroxide.numbers, dtype=np.int32), room=True)
    assert prepared.layout is None
    assert np.isfinite(model.energy(peroxide.positions, numbers=peroxide.numbers))
