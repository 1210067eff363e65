"""Methods outside of JAX as potentials: their own energies and forces, derivatives by differences, files that name them."""

import re

import ase.build
import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

import mlff
from descriptors import inverse_distances
from mlff.potentials.arguments import require_charge

LABELS = ("energy", "forces")
WAVENUMBERS = [1540, 3640, 3650]  # 1/cm, water by GFN2-xTB


class Counted(EMT):
    """Knows how often it was asked."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        self.calls += 1
        super().calculate(atoms, properties, system_changes)


class Broken(Calculator):
    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        raise RuntimeError("no convergence\nafter 250 iterations")


@pytest.fixture(scope="module")
def copper():
    atoms = ase.build.bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    deformed = atoms.cell.array @ (np.eye(3) + 0.03 * np.random.default_rng(0).normal(size=(3, 3)))
    atoms.set_cell(deformed, scale_atoms=True)
    return atoms


def of_emt(atoms):
    atoms = atoms.copy()
    atoms.calc = EMT()
    return atoms


def kernel():
    return mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=2.0))


def test_energies_forces_and_stress_are_the_methods_own(copper):
    force_field, known = mlff.ForceField.of(mlff.Reference("emt")), of_emt(copper)
    energy, forces, stress = force_field.energy_forces_and_stress(
        copper.positions, copper.cell.array, copper.pbc, copper.numbers
    )
    assert energy == pytest.approx(known.get_potential_energy(), abs=1e-12)
    np.testing.assert_allclose(forces, known.get_forces(), atol=1e-12)
    np.testing.assert_allclose(stress, known.get_stress(voigt=False), atol=1e-12)


def test_batches_lose_no_digits(water):
    """JAX calls from threads in which its 64-bit setting is another one."""
    force_field = mlff.ForceField.of(mlff.Reference("emt"), water[0].numbers)
    positions = np.stack([frame.positions for frame in water[:5]])
    energies, forces = force_field.energy_and_forces(positions)
    for i, frame in enumerate(water[:5]):
        known = of_emt(frame.system.to_ase())
        assert energies[i] == pytest.approx(known.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(forces[i], known.get_forces(), atol=1e-12)


def test_energy_and_forces_are_one_evaluation_and_a_hessian_six_an_atom(water):
    method = Counted()
    force_field = mlff.ForceField.of(mlff.Reference(method), water[0].numbers)
    force_field.energy_and_forces(water[0].positions)
    assert method.calls == 1
    hessian = force_field.hessian(water[0].positions)
    assert method.calls <= 2 + 18
    np.testing.assert_allclose(
        force_field.hessian(water[0].positions, memory=1)[:, :2], hessian[:, :2], atol=1e-12
    )  # in as many chunks as there are columns, and no evaluation more
    assert method.calls <= 4 + 18


def test_second_derivatives_are_those_of_forces_and_energies(water, copper):
    force_field = mlff.ForceField.of(mlff.Reference("emt"), water[0].numbers)
    x, step = water[0].positions, 1e-3 * np.random.default_rng(0).normal(size=(3, 3))
    product = force_field.hessian_vector_product(x, step)
    difference = (force_field.forces(x - step) - force_field.forces(x + step)) / 2
    np.testing.assert_allclose(product, difference, rtol=1e-3, atol=1e-5)

    crystal = mlff.ForceField.of(mlff.Reference("emt"), copper.numbers)
    pure, mixed = crystal.strain_derivatives(copper.positions, copper.cell.array, copper.pbc)

    def strained(size: float, row: int, column: int):
        strain = np.zeros((3, 3))
        strain[row, column] = strain[column, row] = size if row == column else size / 2
        atoms = of_emt(copper)
        atoms.set_cell(copper.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        return atoms.get_potential_energy()

    lowest = strained(0.0, 0, 0)
    for voigt, where in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        bend = (strained(2e-3, *where) + strained(-2e-3, *where) - 2 * lowest) / 4e-6
        assert pure[voigt, voigt] == pytest.approx(bend, rel=1e-3)
    assert np.isfinite(mixed).all()


def test_there_is_no_third_derivative(water):
    force_field = mlff.ForceField.of(mlff.Reference("emt"), water[0].numbers)
    with pytest.raises(ValueError, match="order 3, and effective medium theory has 2"):
        force_field.force_constants(water[0].positions, np.eye(9).reshape(9, 3, 3)[:2], 3)


def test_what_a_method_raises_is_one_sentence(water):
    force_field = mlff.ForceField.of(mlff.Reference(Broken()), water[0].numbers)
    x = water[0].positions
    for ask in (
        force_field.forces, lambda x: force_field.forces(np.stack([x, x])), force_field.hessian,
        lambda x: force_field.hessian_vector_product(x, x),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="Broken: RuntimeError, no convergence after 250 iterations"):
            ask(x)
    assert force_field.model.failure is not None


def test_a_correction_to_a_method(water, tmp_path):
    """By its name, as one of ASE's calculators, as a potential and in our own calculator: the same sum, which a file names."""
    train, frame = water[:6], water[30]
    sums = [
        mlff.fit(kernel(), train, LABELS, baseline=baseline)
        for baseline in (
            "emt",
            EMT(),
            mlff.Reference("emt"),
            mlff.Calculator(mlff.ForceField.of(mlff.Reference("emt"))),
        )
    ]
    for other in sums[1:]:
        np.testing.assert_allclose(other.forces(frame.positions), sums[0].forces(frame.positions), atol=1e-10)
    assert sums[0].record["training"]["forces_mae"] < 2e-3
    alone = mlff.fit(kernel(), mlff.Dataset([less_emt(frame) for frame in train]), LABELS)
    own = of_emt(frame.system.to_ase()).get_forces()
    np.testing.assert_allclose(sums[0].forces(frame.positions), alone.forces(frame.positions) + own, atol=1e-8)

    sums[0].save(tmp_path / "named.mlff")
    again = mlff.load(tmp_path / "named.mlff")
    np.testing.assert_array_equal(again.hessian(frame.positions), sums[0].hessian(frame.positions))
    with pytest.raises(
        ValueError, match="EMT is an object of one of ASE's calculators, which a model file cannot hold"
    ):
        sums[1].save(tmp_path / "object.mlff")
    with pytest.raises(ValueError, match="export: effective medium theory is computed outside"):
        sums[0].export(tmp_path / "program")
    assert [path.name for path in tmp_path.iterdir()] == ["named.mlff"]


def less_emt(frame):
    atoms = of_emt(frame.system.to_ase())
    labels = {
        "energy": frame.labels["energy"] - atoms.get_potential_energy(),
        "forces": frame.labels["forces"] - atoms.get_forces(),
    }
    return mlff.Frame(frame.system, labels)


def test_a_method_is_the_same_in_tuning_and_fitting(water):
    tuned = mlff.tune(kernel(), water[:8], baseline="emt")
    mlff.fit(tuned, water[:8], baseline="emt")
    with pytest.raises(ValueError, match="the model was tuned with another"):
        mlff.fit(tuned, water[:8], baseline=EMT())


def test_geometries_are_relaxed_on_a_sum(water):
    """Newton steps with its Hessians end at a minimum, where frequencies are real."""
    atoms = water[0].system.to_ase()
    atoms.calc = mlff.Calculator(mlff.fit(kernel(), water[:30], LABELS, baseline="emt"))
    found = mlff.relax(atoms, fmax=1e-6)
    assert found.hessians > 0
    assert np.abs(atoms.get_forces()).max() < 1e-6
    np.testing.assert_allclose(mlff.frequencies(atoms), WAVENUMBERS, rtol=0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gfn3",), "method 'gfn3' is not known; choose from gfn2, gfn1, emt"),
        ((EMT,), "expected gfn2, gfn1, emt, gfnff, .*d4-r2scan, or one of ASE's calculators"),
        ((7,), "expected gfn2, gfn1, emt, gfnff, .*d4-r2scan, or one of ASE's calculators"),
        (("emt", 1), r"effective medium theory knows no charge \(\+1\)"),
        (("gfn2", 0, 0), "multiplicity=0 must be a whole number, 1 or more"),
        ((EMT(), 1), "state them to the calculator"),
    ],
)
def test_refusals(arguments, said):
    with pytest.raises(ValueError, match=said):
        mlff.Reference(*arguments)


def test_slabs_and_charges_are_refused(copper, water, water_model):
    force_field = mlff.ForceField.of(mlff.Reference("emt"), copper.numbers)
    with pytest.raises(ValueError, match="not about slabs and wires"):
        force_field.forces(copper.positions, copper.cell.array, [True, True, False])
    atoms = water[0].to_ase()
    atoms.info["charge"] = 1
    cation = mlff.Dataset([mlff.Frame(water[0].system, water[0].labels, atoms)])
    with pytest.raises(
        ValueError, match=r"has the total charge \+1, the baseline is effective medium theory of charge \+0"
    ):
        mlff.fit(kernel(), cation, LABELS, baseline="emt")
    neutral = water_model.replace(record={**water_model.record, "charges": {"H2O": 0.0}})
    with pytest.raises(ValueError, match=r"H2O has the total charge \+1, the training frames had \+0"):
        mlff.fit(kernel(), cation, LABELS, baseline=neutral)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tblite.ase", None)
    with pytest.raises(ValueError, match="GFN1-xTB needs tblite; pip install tblite"):
        mlff.Reference("gfn1")


def test_against_tblite_itself(water):
    """The data set was made with it."""
    pytest.importorskip("tblite")
    force_field = mlff.ForceField.of(mlff.Reference("gfn2"), water[0].numbers)
    energy, forces = force_field.energy_and_forces(water[0].positions)
    assert energy == pytest.approx(water[0].labels["energy"], abs=1e-5)
    np.testing.assert_allclose(forces, water[0].labels["forces"], atol=1e-4)


@pytest.mark.parametrize(
    ("charge", "multiplicity", "said"),
    [
        (12, 1, "charge +12 has -4 valence electrons, which it cannot"),
        (-30, 1, "which it cannot"),
        (1, 1, "has 7 valence electrons, and so a multiplicity of 2, 4, …, not 1"),
        (0, 2, "has 8 valence electrons, and so a multiplicity of 1, 3, …, not 2"),
        (0, 11, "a multiplicity of 1, 3"),
    ],
)
def test_electrons_that_are_not_there(charge, multiplicity, said, water):
    """Of the first a program may die without a word, and of the third it takes another multiplicity."""
    pytest.importorskip("tblite")
    method = mlff.Reference("gfn2", charge, multiplicity)
    for ask in (
        lambda: mlff.ForceField.of(method, water[0].numbers).energy(water[0].positions),
        lambda: mlff.fit(kernel(), water[:4], LABELS, baseline=method),
        lambda: mlff.distilled(method, water[:4], frames=2),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            ask()


def test_a_hessian_is_of_the_calculator_as_it_is(water):
    method = LennardJones()
    force_field = mlff.ForceField.of(mlff.Reference(method), water[0].numbers)
    before = force_field.hessian(water[0].positions)
    method.set(epsilon=2.0)
    np.testing.assert_allclose(force_field.hessian(water[0].positions), 2.0 * before, rtol=1e-6)


def test_what_is_no_baseline_is_refused(water):
    for given in ("model.mlff", 3):
        with pytest.raises(ValueError, match=r"baseline=.*expected a force field \(mlff.load\(path\) of a file\)"):
            mlff.fit(kernel(), water[:4], LABELS, baseline=given)
    with pytest.raises(ValueError, match=r"water.extxyz: frame 0: the method fails, RuntimeError: no convergence"):
        mlff.distilled(Broken(), water[:2], frames=2)
    with pytest.raises(ValueError, match=r"frames=2.5 must be a whole number"):
        mlff.sampled(EMT(), water[:2], 2.5)
    slab = mlff.System(water[0].positions, water[0].numbers, np.eye(3) * 9, np.array([True, True, False]))
    with pytest.raises(ValueError, match="not about slabs and wires"):
        mlff.distilled("emt", mlff.Dataset([mlff.Frame(slab, water[0].labels)]), frames=2)


@pytest.mark.parametrize(
    ("below", "trained", "charge", "refused"),
    [
        (1, {}, 1, None), (1, {}, 0, "the method has +1"), (1, {"H2O": 1.0}, 1, None), (0, {"H2O": 0.0}, -1, "the training frames had +0"),
        (None, {"H2O": 1.0}, 0, "the training frames had +1"), (None, {}, -1, "the training frames had +0, as none of them stated another"),
        (None, {}, 0, None),
        (1, {"H2O": 0.0}, 1, "the training frames had +0"), ("gfnff", {}, -1, "the method has +0"),
    ],
)  # fmt: skip
def test_a_sum_is_for_the_charge_of_its_terms(below, trained, charge, refused, water_model, water):
    """Of a method below a correction, whose frames may state none, or of the frames of any term."""
    pytest.importorskip("gfnff" if below == "gfnff" else "tblite")
    method = mlff.Reference(*{None: ("emt",), "gfnff": ("gfnff",), 0: ("gfn2", 0, 1), 1: ("gfn2", 1, 2)}[below])
    correction = water_model.replace(record={**water_model.record, "charges": trained})
    force_field = mlff.ForceField.of(method) + correction
    asked = (force_field, water[0].numbers, float(charge), "atoms: state")
    if refused is None:
        return require_charge(*asked)
    with pytest.raises(
        ValueError, match=re.escape(f"atoms: state the total charge {charge:+d}, {refused}; a force field")
    ):
        require_charge(*asked)


def test_what_no_frame_stated_counts_as_neutral(water):
    """Of a model for any composition, where it is known that it was trained on this one."""
    transferable = mlff.ForceField.of(mlff.PairRepulsion(cutoff=1.6))
    assert transferable.transferable
    trained = transferable.replace(record={"charges": {}, "geometry_numbers": [8, 1, 1]})
    with pytest.raises(ValueError, match=r"the training frames had \+0, as none of them stated another"):
        require_charge(trained, water[0].numbers, 1.0, "atoms: state")
    require_charge(trained, water[0].numbers, 0.0, "atoms: state")
    require_charge(trained, np.array([6, 8]), 1.0, "atoms: state")  # of which nothing is known
