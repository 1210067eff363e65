"""Baselines distilled: a model of a method around some frames, how far it is from it, and what it is good for."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from test_cli import called
from test_sampling import Plain

import mlff
from descriptors import inverse_distances
from mlff.data.methods import Together
from mlff.workflows import distillation


@pytest.fixture(scope="module")
def baseline(water):
    return mlff.distilled("emt", water[:6], frames=30, temperature=200.0, points=60, recipe="fchl19-gpr")


def test_it_is_as_far_from_the_method_as_it_says(water, baseline):
    said, method = baseline.record["distilled"], mlff.ForceField.of(mlff.Reference(EMT()), water[0].numbers)
    differences = [baseline.forces(frame.positions) - method.forces(frame.positions) for frame in water[:6]]
    assert said["forces_mae"] == pytest.approx(np.mean(np.abs(differences)), rel=1e-6)
    assert (said["method"], said["frames"], said["compared"]) == ("effective medium theory", 30, 6)
    own = np.mean([np.mean(np.abs(method.forces(frame.positions))) for frame in water[:6]])
    assert said["forces_mae"] < 0.05 * own
    assert sum(len(channel.points) for part in baseline.model.parts for channel in part.channels) <= 61


def test_a_sum_with_it_is_kernels_alone(water, baseline, tmp_path):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=2.0))
    force_field = mlff.fit(kernel, water[:10], ("energy", "forces"), baseline=baseline)
    direct = mlff.fit(kernel, water[:10], ("energy", "forces"), baseline="emt")
    found, aim = (mlff.evaluate(each, water[20:60]).forces_mae for each in (force_field, direct))
    assert found < 1.3 * aim
    force_field.save(tmp_path / "sum.mlff")
    again = mlff.load(tmp_path / "sum.mlff")
    assert again.energy(water[30].positions) == force_field.energy(water[30].positions)
    force_field.require_derivative(4, "a quartic force constant")  # which the method has not


def test_a_corrected_method_becomes_one_model(water, tmp_path):
    """As near to the sum as it says, and without the program."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF())
    direct = mlff.fit(kernel, water[:40], ("energy", "forces"), baseline="emt")
    whole = mlff.distilled(direct, water[:6], frames=60, temperature=200.0, recipe="sgdml-rbf")
    said = whole.record["distilled"]
    differences = [whole.forces(frame.positions) - direct.forces(frame.positions) for frame in water[:6]]
    # EMT's lists of neighbours differ by what it was asked before
    assert said["forces_mae"] == pytest.approx(np.mean(np.abs(differences)), rel=1e-4)
    assert said["method"] == direct.model.label
    whole.require_derivative(4, "a quartic force constant")
    found, aim = (mlff.evaluate(each, water[60:90]).forces_mae for each in (whole, direct))
    assert found < 1.3 * aim
    whole.save(tmp_path / "whole.mlff")
    again = mlff.load(tmp_path / "whole.mlff")
    assert again.energy(water[30].positions) == whole.energy(water[30].positions)
    with pytest.raises(ValueError, match="5 of its 15 frames were trained on"):  # by the correction
        mlff.evaluate(again, water[35:50])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("names", "better"), [(("soap-gpr", "sgdml-rbf"), "sgdml-rbf"), (("soap-gpr", "gdml"), "sgdml+soap")]
)
def test_the_recipe_is_the_one_that_tells_more_of_frames_left_out(names, better, datasets, monkeypatch):
    """Of benzene the molecule as a whole, unless its permutations are not known: then a sum, which is much better than either."""
    monkeypatch.setattr(distillation, "MOLECULES", names)
    cheap = mlff.Dataset.read(datasets / "benzene.extxyz", index=":60")
    assert distillation._chosen(mlff.regression.recipes.fitting(cheap), cheap, 0, lambda stage, share: None) == better


def alone(*molecules):
    """A data set of geometries."""
    return mlff.Dataset([mlff.Frame(mlff.System.from_ase(atoms), {"energy": 0.0}, atoms) for atoms in molecules])


def test_every_composition_is_sampled():
    """One molecule of another kind among many."""
    data = alone(*[molecule("H2O") for _ in range(30)], molecule("CO2"))
    cheap = mlff.sampled(EMT(), data, frames=12, temperature=100.0, interval=2)
    assert {frame.system.to_ase().get_chemical_formula() for frame in cheap} == {"H2O", "CO2"}
    # so few frames tell no length scale
    assert distillation._chosen(["sgdml-rbf", "soap-gpr"], cheap[:4], 0, print) == "fchl19-gpr"


def test_what_holds_of_the_method_holds_of_the_model(water, baseline):
    """Its charge, and that energies have no zero."""
    ion = mlff.ForceField.of(mlff.Reference("gfn2", charge=1, multiplicity=2))
    assert distillation._inherited(baseline, ion, water[:2])["charges"] == {"H2O": 1.0}
    neutral = mlff.ForceField.of(mlff.Reference("gfn2"))
    assert distillation._inherited(baseline, neutral, water[:2])["charges"] == {"H2O": 0.0}
    trained = mlff.ForceField.of(mlff.PairRepulsion(cutoff=1.6)).replace(record={"terms": [{"charges": {"H2O": -1.0}}]})
    assert distillation._inherited(baseline, trained, water[:2])["charges"] == {"H2O": -1.0}
    with pytest.raises(ValueError, match="the total charge"):
        distillation._calculator(trained, alone(Atoms("OHH", water[0].positions, info={"charge": 1})))
    unsure = ion.replace(record={"energy_constant": False})
    assert not distillation._inherited(baseline, unsure, water[:2])["energy_constant"]


class Charged(EMT):
    """A calculator that reads the initial charges of the atoms, as some do."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        super().calculate(atoms, properties, system_changes)
        shift = 100.0 * atoms.get_initial_charges().sum()
        self.results["energy"] = self.results["free_energy"] = self.results["energy"] + shift


def test_frames_are_sampled_as_they_are_compared(water):
    """With all that they were read with, but for the labels."""
    atoms = water[0].system.to_ase()
    atoms.set_initial_charges([1.0, 0.0, 0.0])
    data = mlff.Dataset([mlff.Frame(mlff.System.from_ase(atoms), {"energy": 0.0, "hessian": np.zeros((9, 9))}, atoms)])
    (sampled,), (compared,) = mlff.sampled(Charged(), data, frames=1, interval=2), distillation._by(Charged(), data)
    for frame in (sampled, compared):
        assert frame.labels["energy"] > 50.0
        assert frame.stated_charge == 1.0
        assert "REF_hessian" not in frame.to_ase().info


def test_a_sum_of_programs_is_their_sum(water):
    atoms = water[0].system.to_ase()
    atoms.calc = Together([EMT(), Plain()])
    own = water[0].system.to_ase()
    own.calc = EMT()
    assert atoms.get_potential_energy() == pytest.approx(2.0 * own.get_potential_energy(force_consistent=True))
    np.testing.assert_allclose(atoms.get_forces(), 2.0 * own.get_forces())
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_what_is_no_method_is_refused_before_the_work(water):
    gold = alone(molecule("H2O"), molecule("SiH4"))
    with pytest.raises(ValueError, match=r"frame 1: the force field knows .*, not Si"):
        mlff.distilled("emt", gold)
    with pytest.raises(ValueError, match="points=0 must be a whole number"):
        mlff.distilled("emt", water[:2], points=0)
    with pytest.raises(ValueError, match="at least one"):
        mlff.distilled("emt", mlff.Dataset([]))
    with pytest.raises(ValueError, match="frames=3: too few to tell the length scale of soap-gpr"):
        mlff.distilled("emt", water[:2], frames=3, recipe="soap-gpr")
    with pytest.raises(ValueError, match="frames=1: there are 2 compositions"):
        mlff.distilled("emt", alone(molecule("H2O"), molecule("CO2")), frames=1)
    with pytest.raises(ValueError, match="recipe='mace': choose from those that can be fitted to these frames, gdml, "):
        mlff.distilled("emt", water[:2], recipe="mace")
    with pytest.raises(ValueError, match="method 'gfn7' is not known"):
        mlff.distilled("gfn7", water[:2])
    with pytest.raises(ValueError, match="frames=0 must be a whole number"):
        mlff.distilled("emt", water[:2], frames=0)


@pytest.mark.thorough  # what it does in Python other tests look at
def test_the_command(water, baseline, datasets, tmp_path, monkeypatch):
    """A method as it is, distilled, and a model that was saved: what is printed, what the file holds."""
    given = {}

    def told(reference, data, frames, **options):
        given.update(reference=reference, frames=frames, seed=options["seed"])
        return baseline

    monkeypatch.setattr(distillation, "distilled", told)
    data = ["fit", datasets / "water.extxyz", "--recipe", "gdml", "--labels", "both"]
    drawn, emt = ["--frames", "1:40", "--train", 10], ["--baseline", "emt", "--baseline-frames"]
    direct = json.loads(called(*data, *drawn, *emt, 0, "--tune", "--out", "d.mlff", "--json", cwd=tmp_path).stdout)
    assert direct["n_train"] == 10
    assert direct["forces_mae"] < 0.1
    assert not given
    assert "term effective medium theory" in called("show", "d.mlff", cwd=tmp_path).stdout
    text = called(*data, *drawn, *emt, 30, "--seed", 2, "--out", "s.mlff", "--report", "r", cwd=tmp_path).stdout
    assert given == {"reference": mlff.Reference("emt"), "frames": 30, "seed": 2}
    assert "baseline: distilled from 30 frames of effective medium theory by fchl19-gpr; " in text
    assert "10 training frames, 1 permutation" in text
    page = (tmp_path / "r" / "report.md").read_text()
    assert "A correction to descriptors.fchl19:fchl19" in page
    assert "10 training frames of `water.extxyz`" in page
    given.clear()
    distil = ["distil", "d.mlff", datasets / "water.extxyz"]
    assert "distilled from 30 frames" in called(*distil, "--seed", 4, cwd=tmp_path).stdout
    # a method has no third derivative
    assert (given["reference"].model.order, given["frames"], given["seed"]) == (2, 500, 4)
    assert "distilled from 30 frames" in called("show", "d-distilled.mlff", cwd=tmp_path).stdout
    assert "exists" in called(*distil, cwd=tmp_path, code=2).stderr
    file = ["--baseline", "s.mlff"]
    called(*data, "--frames", "50:60", *file, "--out", "t.mlff", cwd=tmp_path)
    for typed, said in (
        (["--baseline", "gfn9"], "--baseline gfn9: no such method (gfn2, gfn1, emt, gfnff, d3-pbe, "),
        (["--charge", 1], "--charge 1: there is no --baseline that it is about"),
        ([*file, "--charge", 1], "--charge 1: --baseline s.mlff is a model file"),
        (["--baseline", "emt", "--charge", 1], "effective medium theory knows no charge (+1)"),
        ([*emt, -1], "--baseline-frames -1: must be a number of frames"),
        (file, "of its 29 frames were trained on"),
        ([*emt, 30, "--recipe", "soap-gap", "--tune"], "--tune: sparse models"),
    ):  # fmt: skip
        message = called(*data[:2], *drawn, *typed, "--out", "no.mlff", cwd=tmp_path, code=2).stderr
        assert said in message
    assert not (tmp_path / "no.mlff").exists()
