"""Labels that contradict each other are told by the slopes of predictions against references, kind by kind."""

import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from moments import moments

import mlff
from descriptors import inverse_distances

GPA = 160.21766  # eV/Å³


def copper(change, count=10, size=0.02, group=None) -> mlff.Dataset:
    """Strained and shaken cells with EMT's energies and forces, and stresses that were changed."""
    rng, frames = np.random.default_rng(4), []
    for _ in range(count):
        atoms, strain = ase.build.bulk("Cu", cubic=True), size * rng.standard_normal((3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.rattle(0.05, rng=rng)
        atoms.calc = EMT()
        system = mlff.System(atoms.positions, atoms.numbers, atoms.cell.array, np.ones(3, bool))
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.info["config_type"] = group
        frames.append(mlff.Frame(system, {**labels, "stress": change(atoms.get_stress(voigt=False))}, atoms))
    return mlff.Dataset(frames)


def cycled(stress):
    """xx yy zz xy yz xz where yz xz xy is meant."""
    other = np.diag(np.diag(stress))
    for (a, b), (c, d) in (((1, 2), (0, 1)), ((0, 2), (1, 2)), ((0, 1), (0, 2))):
        other[a, b] = other[b, a] = stress[c, d]
    return other


def fitted(data, caplog, noise=1e-3):
    """A fit whose stresses give way, or with less noise of them the energies."""
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=3.0))
    noise = {"energy": 4e-3, "forces": 1e-2, "stress": noise}
    model = mlff.fit(kernel, data, labels=("energy", "forces", "stress"), noise=noise)
    return model, caplog.text


def test_right_stresses_are_no_warning_and_have_training_errors(caplog):
    data = copper(lambda stress: stress)
    model, said = fitted(data, caplog)
    assert "slope" not in said
    x = [model.stress(f.positions, f.cell, f.system.pbc, f.numbers) - f.labels["stress"] for f in data]
    assert model.record["training"]["errors"]["stress"]["mae"] == pytest.approx(np.mean(np.abs(x)), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "noise", "word"),
    [
        (lambda stress: -stress, 0.1, "the sign of stress is the other one"),
        (lambda stress: GPA * stress, 10.0, "1 GPa is 0.00624"),
        (cycled, 1e-3, "is their order xx yy zz yz xz xy"),
    ],
    ids=["sign", "unit", "order"],
)
def test_wrong_stresses_are_a_warning_with_the_cause(change, noise, word, caplog):
    _, said = fitted(copper(change), caplog, noise)
    assert "predicted against reference stresses of the training frames have slope" in said
    assert word in said


def exchanged(stress):
    """xz where yz is meant, and yz where xz is."""
    order = [1, 0, 2]
    other = stress[np.ix_(order, order)]
    return other - np.diag(np.diag(other)) + np.diag(np.diag(stress))


@pytest.mark.parametrize(("change", "warned"), [(exchanged, True), (lambda stress: stress, False)])
def test_a_group_of_small_shears_in_another_order_is_named(change, warned, caplog):
    """Large stresses that fit would hide it: the slope of all shears is 1 either way."""
    data = copper(lambda stress: stress, 8, 0.04, "strained") + copper(change, 6, 0.01, "shaken")
    _, said = fitted(data, caplog)
    assert ("6 training frames of group shaken would follow the reference if" in said) == warned
    assert "of group strained" not in said
    assert ("xz is what is called yz, yz is what is called xz" in said) == warned


@pytest.mark.parametrize("change", [lambda stress: -stress, lambda stress: GPA * stress], ids=["sign", "unit"])
def test_where_energies_give_way_stress_is_named(change, caplog):
    _, said = fitted(copper(change), caplog)
    assert "predicted against reference energies of the training frames have slope" in said
    assert "or it is stress that does not fit: its sign (tension is positive), its unit (eV/Å³)" in said


def test_wrong_forces_are_a_warning(water, caplog):
    """Gradients beside energies."""
    frames = [mlff.Frame(f.system, {**f.labels, "forces": -f.labels["forces"]}) for f in water[:6]]
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0))
    mlff.fit(kernel, mlff.Dataset(frames), ("energy", "forces"), {"energy": 1e-4, "forces": 1.0})
    assert "predicted against reference forces of the training frames have slope -" in caplog.text
    assert "Change their sign" in caplog.text


def test_a_stress_that_is_not_symmetric_is_refused(tmp_path):
    data = copper(lambda stress: stress)
    lopsided = data[1].labels["stress"] + 0.01 * np.eye(3)[[1, 2, 0]]
    frames = [data[0], mlff.Frame(data[1].system, {**data[1].labels, "stress": lopsided}), *data[2:]]
    ase.io.write(tmp_path / "c.extxyz", [frame.to_ase() for frame in frames], format="extxyz")
    with pytest.raises(ValueError, match=r"c\.extxyz: frame 1: stress is not symmetric .*differ by 0\.01 eV"):
        mlff.Dataset.read(tmp_path / "c.extxyz")


def test_too_few_points_are_a_cause_too(caplog):
    """What one environment spans follows no labels, and their units are not to blame alone; of a sign that is wrong they are no cause."""
    kernel, right = mlff.LocalKernel(moments, mlff.RBF(lengthscale=3.0)), copper(lambda stress: stress, 5)
    twice = [mlff.Frame(f.system, {name: 2.0 * label for name, label in f.labels.items()}) for f in right]
    for data, baseline in ((right, None), (mlff.Dataset(twice), "emt")):
        caplog.clear()
        mlff.fit(kernel, data, labels=("energy", "forces", "stress"), inducing=1, baseline=baseline)
        assert "or the inducing functionals are too few (1)" in caplog.text
    caplog.clear()
    mlff.fit(kernel, right, labels=("energy", "forces", "stress"), inducing=60)
    assert "too few" not in caplog.text
    caplog.clear()
    noise = {"energy": 4e-3, "forces": 1e-2, "stress": 0.1}
    mlff.fit(kernel, copper(lambda stress: -stress, 5), labels=("energy", "forces", "stress"), noise=noise, inducing=60)
    assert "the sign of stress is the other one" in caplog.text
    assert "too few" not in caplog.text
