"""Datasets: splits, labels that are missing, mixed compositions."""

import re

import ase.io
import ase.units
import numpy as np
import pytest
from ase.constraints import FixAtoms

import mlff

KCAL = ase.units.kcal / ase.units.mol


@pytest.fixture
def frames(water):
    found = [frame.to_ase() for frame in water[:40]]
    for atoms in found:
        atoms.calc = None  # the REF_ keys alone
    return found


def test_index_and_split_keep_the_files_indices(datasets):
    data = mlff.Dataset.read(datasets / "water.extxyz", index="100:200:2")
    one, two = data.split(10, 20, seed=3)
    assert set(one.indices) <= set(range(100, 200, 2))
    assert not set(one.indices) & set(two.indices)
    assert not one.fingerprints() & two.fingerprints()
    again, _ = data.split(10, 20, seed=3)
    np.testing.assert_array_equal(one.indices, again.indices)
    assert one.hash() == again.hash()
    assert one.hash() != two.hash()
    other, _ = data.split(10, 20, seed=4)
    assert set(other.indices) != set(one.indices)


def test_labels_that_some_frames_lack(tmp_path, frames):
    del frames[7].arrays["REF_forces"]
    ase.io.write(tmp_path / "w.extxyz", frames)
    with pytest.raises(ValueError, match=r"frame 7 has no forces, 1 of 40"):
        mlff.Dataset.read(tmp_path / "w.extxyz")
    data = mlff.Dataset.read(tmp_path / "w.extxyz", labels=["energy", "forces"])
    assert data.label_names == ("energy",)
    with pytest.raises(ValueError, match="frame 7 has no forces"):
        data.array("forces")


def test_mixed_compositions_are_held_and_a_global_model_refuses_them(tmp_path, frames):
    heavy = frames[0].copy()
    heavy.numbers[0] = 16
    heavy.positions += 0.01
    swapped = frames[1].copy()[[1, 0, 2]]
    swapped.positions += 0.01
    for extra, word in ((heavy, "composition"), (swapped, "order of atoms")):
        ase.io.write(tmp_path / "w.extxyz", [*frames, extra])
        data = mlff.Dataset.read(tmp_path / "w.extxyz")
        assert len(data) == 41
        with pytest.raises(ValueError, match=rf"frame 40 .*differs in {word}"):
            data.uniform_numbers()


def test_a_dataset_is_a_sequence(water):
    assert water[0].positions.shape == (3, 3)
    assert len(water[2:5]) == 3
    assert len(water[[1, 4, 9]]) == 3
    assert "H2O" in repr(water)
    assert [f.positions[0, 0] for f in water][:2] == [water[0].positions[0, 0], water[1].positions[0, 0]]


def test_two_sets_together(water):
    """A geometry that both have becomes one frame with the labels of both."""
    hessians = [mlff.Frame(frame.system, {"hessian": np.eye(9)}) for frame in water[5:8]]
    both = water[:6] + mlff.Dataset(hessians, "hessians")
    assert len(both) == 8
    assert [sorted(frame.labels) for frame in both][4:7] == [
        ["energy", "forces"], ["energy", "forces", "hessian"], ["hessian"],
    ]  # fmt: skip
    assert both.source == "water.extxyz + hessians"
    with pytest.raises(
        ValueError, match=r"water\.extxyz: frame 25 repeats the geometry of frame 5 of .* both have energy, forces"
    ):
        water[:6] + water[5:7]


@pytest.mark.parametrize("labels", [None, ["forces"], ["energy", "forces"]])
def test_a_key_that_is_asked_for_and_not_there(tmp_path, frames, labels):
    ase.io.write(tmp_path / "w.extxyz", frames)
    message = r"w\.extxyz: no frame has energy; the file holds REF_energy, REF_forces; name the key with keys="
    with pytest.raises(ValueError, match=message):
        mlff.Dataset.read(tmp_path / "w.extxyz", units="eV", keys={"energy": "nope"}, labels=labels)
    for atoms in frames[:4]:
        atoms.info["mine"] = atoms.info["REF_energy"]
    ase.io.write(tmp_path / "w.extxyz", frames)
    with pytest.raises(ValueError, match=r"frame 4 has no energy, 36 of 40"):
        mlff.Dataset.read(tmp_path / "w.extxyz", units="eV", keys={"energy": "mine"})
    some = mlff.Dataset.read(tmp_path / "w.extxyz", units="eV", keys={"energy": "mine"}, labels=["energy", "forces"])
    assert sum("energy" in frame.labels for frame in some) == 4


def test_total_charges_are_named_and_not_mixed(tmp_path, frames, water_model):
    for atoms in frames:
        atoms.info["charge"] = 1
    ase.io.write(tmp_path / "w.extxyz", frames)
    data = mlff.Dataset.read(tmp_path / "w.extxyz")
    assert data.charges() == {"H2O": 1.0}
    assert "H2O (charge +1)" in repr(data)
    kernel = water_model.kernel.replace(amplitude=None)
    assert mlff.fit(kernel, data[:20]).record["charges"] == {"H2O": 1.0}
    assert water_model.record["charges"] == {}
    with pytest.raises(ValueError, match=r"w\.extxyz: its H2O has the total charge \+1, the training frames had \+0"):
        mlff.evaluate(water_model.replace(record={**water_model.record, "fingerprints": []}), data)
    frames[7].info["charge"] = 0
    ase.io.write(tmp_path / "w.extxyz", frames)
    with pytest.raises(ValueError, match=r"frame 7 \(H2O\) has the total charge \+0, frame 0 has \+1; a force field"):
        mlff.fit(kernel, mlff.Dataset.read(tmp_path / "w.extxyz"))
    frames[3].info["charge"] = "much"
    ase.io.write(tmp_path / "w.extxyz", frames)
    with pytest.raises(ValueError, match=r"w\.extxyz: frame 3: charge is no number \('much'\)"):
        mlff.Dataset.read(tmp_path / "w.extxyz")
    frames[3].info["charge"] = 0.5
    ase.io.write(tmp_path / "w.extxyz", frames)
    with pytest.raises(ValueError, match=r"w\.extxyz: frame 3: charge is 0\.5, no whole number of elementary charges"):
        mlff.Dataset.read(tmp_path / "w.extxyz")
    frames[3].calc = mlff.Calculator(water_model)
    with pytest.raises(ValueError, match=r"charge is 0\.5, no whole number"):
        frames[3].get_potential_energy()


@pytest.mark.parametrize(("charges", "total"), [([-0.6, 0.8, 0.8], 1.0), ([-0.8, 0.4, 0.4], 0.0), ([0.3, 0, 0], 0.0)])
def test_charges_of_atoms_state_a_total_charge_if_it_is_an_integer(tmp_path, frames, charges, total):
    frames[0].set_initial_charges(charges)
    ase.io.write(tmp_path / "w.extxyz", frames[:1])
    assert mlff.Dataset.read(tmp_path / "w.extxyz")[0].charge == total


@pytest.mark.parametrize("key", ["charge", "Charge", "total_charge", "net_charge", "REF_charge", "CHARGE"])
def test_charges_are_stated_under_many_names(tmp_path, frames, key):
    frames[0].info[key] = -1
    ase.io.write(tmp_path / "w.extxyz", frames[:1])
    data = mlff.Dataset.read(tmp_path / "w.extxyz")
    assert data[0].stated_charge == -1.0
    assert data.charges() == {"H2O": -1.0}
    assert set(data[0].labels) == {"energy", "forces"}
    frames[0].info["total_Charge"] = 2
    ase.io.write(tmp_path / "w.extxyz", frames[:1])
    with pytest.raises(ValueError, match=r"frame 0: its total charges contradict each other \(.*-1, .*\+2\)"):
        mlff.Dataset.read(tmp_path / "w.extxyz")


def test_a_charge_of_zero_is_stated_and_none_is_not(frames):
    def read(atoms):
        return mlff.Dataset([mlff.Frame(mlff.System.from_ase(atoms), {}, atoms)])

    assert read(frames[0])[0].stated_charge is None
    assert read(frames[0]).charges() == {}
    frames[0].set_initial_charges([0, 0, 0])
    assert read(frames[0])[0].stated_charge is None
    frames[0].info["charge"] = 0
    assert read(frames[0])[0].stated_charge == 0.0
    assert read(frames[0]).charges() == {"H2O": 0.0}


@pytest.mark.parametrize(
    ("trained", "stated", "refused"),
    [({"H2O": 1.0}, 0, True), ({"H2O": 1.0}, -1, True), ({"H2O": 0.0}, 1, True), ({}, 1, True), ({"H2O": 1.0}, 1, False),
     ({"H2O": 1.0}, None, False), ({}, 0, False), ({}, None, False)],
)  # fmt: skip
def test_stated_charges_of_test_frames_and_atoms_are_those_of_the_training_frames(
    water_model, water, trained, stated, refused
):
    model = water_model.replace(record={**water_model.record, "charges": trained})
    atoms = water[60].to_ase()
    if stated is not None:
        atoms.info["charge"] = stated
    data = mlff.Dataset([mlff.Frame(water[60].system, water[60].labels, atoms)])
    atoms.calc = mlff.Calculator(model)
    if not refused:
        assert mlff.evaluate(model, data).n_test == 1
        assert atoms.get_potential_energy() == pytest.approx(water[60].labels["energy"], abs=0.05)
        return
    unstated = "" if "H2O" in trained else ", as none of them stated another"
    said = re.escape(f"the total charge {stated:+d}, the training frames had {trained.get('H2O', 0.0):+g}{unstated};")
    with pytest.raises(ValueError, match="its H2O has " + said):
        mlff.evaluate(model, data)
    with pytest.raises(ValueError, match="atoms: state " + said):
        atoms.get_potential_energy()


def test_sets_of_different_charges_are_not_joined(water):
    def charged(frame, names, charge):
        atoms = frame.system.to_ase()
        atoms.info["charge"] = charge
        return mlff.Frame(frame.system, {name: frame.labels[name] for name in names}, atoms)

    cations = mlff.Dataset([charged(frame, ["forces"], 1) for frame in water[:4]], "cations")
    neutral = mlff.Dataset([charged(frame, ["energy"], 0) for frame in water[:4]], "neutral")
    with pytest.raises(
        ValueError, match=r"neutral: frame 0 has the geometry of frame 0 of cations and the total charge \+0, not \+1; "
    ):
        cations + neutral
    silent = mlff.Dataset([mlff.Frame(frame.system, {"energy": frame.labels["energy"]}) for frame in water[:4]])
    for both in (cations + silent, silent + cations):
        assert len(both) == 4
        assert both.charges() == {"H2O": 1.0}


def test_what_only_one_set_says_is_kept(water):
    said, more = water[0].system.to_ase(), water[0].system.to_ase()
    said.set_masses([16.0, 2.0, 2.0])
    said.set_constraint(FixAtoms([0]))
    said.info["method"], more.info["basis"] = "GFN2", "large"
    heavy = mlff.Dataset([mlff.Frame(water[0].system, {"energy": 1.0}, said)])
    for atoms in (more, None):
        other = mlff.Dataset([mlff.Frame(water[0].system, {"forces": np.zeros((3, 3))}, atoms)])
        for both in (heavy + other, other + heavy):
            found = both[0].to_ase()
            assert found.get_masses().tolist() == [16.0, 2.0, 2.0]
            assert found.constraints[0].index.tolist() == [0]
            assert found.info["method"] == "GFN2"
            assert found.info.get("basis") == (None if atoms is None else "large")
            assert set(both[0].labels) == {"energy", "forces"}
    assert more.info == {"basis": "large"}
    assert not more.constraints


def test_arguments_of_other_kinds(datasets, water, water_model):
    """One label as a text, an integer or a slice as index; sentences for what is no data."""
    path = datasets / "water.extxyz"
    for index, chosen in (
        (7, [7]),
        (-1, [499]),
        (slice(2, 5), [2, 3, 4]),
        (slice(None, None, 100), range(0, 500, 100)),
    ):
        assert mlff.Dataset.read(path, index=index).indices.tolist() == list(chosen)
    assert mlff.Dataset.read(path, labels="forces", index=":3").label_names == ("energy", "forces")
    for index in (True, slice(0, 5, 0)):
        with pytest.raises(ValueError, match=r"index=.* is not understood"):
            mlff.Dataset.read(path, index=index)
    with pytest.raises(ValueError, match="path=None is no path; name a file"):
        mlff.Dataset.read(None)
    with pytest.raises(ValueError, match=r"frames\[1\] is of Atoms, expected mlff\.Frame"):
        mlff.Dataset([water[0], water[1].to_ase()])
    assert len(water[[]]) == len(mlff.Dataset([])) == 0
    assert len(water[np.zeros(len(water), bool)]) == 0
    for call in (water[[]].uniform_positions, lambda: water[[]].array("energy")):
        with pytest.raises(ValueError, match=r"water\.extxyz: holds no frames; give some"):
            call()


def test_a_hessian_without_a_number_is_not_fitted(water, water_model):
    frames = [mlff.Frame(water[0].system, {**water[0].labels, "hessian": np.full((9, 9), np.nan)})]
    with pytest.raises(ValueError, match="hessian of frame 0 holds no number or an infinite one; leave it out"):
        mlff.fit(water_model.kernel, mlff.Dataset(frames), labels=("forces", "hessian"))
