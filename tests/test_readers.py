"""Files into frames: keys, forms, units."""

import ase.io
import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.vibrations import VibrationsData

import mlff
from mlff.data.checks import force_energy_slope

KCAL = ase.units.kcal / ase.units.mol


@pytest.fixture
def frames(water):
    return [frame.to_ase() for frame in water[:40]]


def as_npz(path, water, names=("coords", "energies", "forces", "nuclear_charges"), **extra):
    position, energy, force, number = names
    arrays = {
        position: water.uniform_positions(), energy: water.array("energy") / KCAL,
        force: water.array("forces") / KCAL, number: water.uniform_numbers(),
    }  # fmt: skip
    np.savez(path, **arrays, **extra)
    return path


def test_round_trip_through_extxyz(tmp_path, frames, water):
    ase.io.write(tmp_path / "w.extxyz", frames)
    data = mlff.Dataset.read(tmp_path / "w.extxyz")
    np.testing.assert_allclose(data.uniform_positions(), water[:40].uniform_positions(), atol=1e-8)
    np.testing.assert_allclose(data.array("energy"), water[:40].array("energy"))
    np.testing.assert_allclose(data.array("forces"), water[:40].array("forces"), atol=1e-8)
    assert "ASE" in data.units


def test_calculator_results_are_read(tmp_path, frames):
    for atoms in frames:
        forces, energy = atoms.arrays.pop("REF_forces"), atoms.info.pop("REF_energy")
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    ase.io.write(tmp_path / "w.traj", frames)
    data = mlff.Dataset.read(tmp_path / "w.traj")
    assert data.label_names == ("energy", "forces")
    np.testing.assert_allclose(data[3].labels["forces"], frames[3].get_forces())


def test_reference_keys_win_over_calculator_results(tmp_path, frames):
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((3, 3)))
    ase.io.write(tmp_path / "w.extxyz", frames)
    data = mlff.Dataset.read(tmp_path / "w.extxyz")
    assert data.array("energy").max() < -100
    assert np.abs(data.array("forces")).min(axis=0).max() > 0
    # ASE's trajectories keep REF_energy and lose REF_forces: those of the calculator are another method's
    ase.io.write(tmp_path / "w.traj", frames)
    with pytest.raises(
        ValueError, match=r"w\.traj: frame 0: forces would come from a calculator whose energy is not REF"
    ):
        mlff.Dataset.read(tmp_path / "w.traj")


@pytest.mark.parametrize(
    ("names", "extra", "units"),
    [
        (("coords", "energies", "forces", "nuclear_charges"), {}, "kcal/mol"),
        (("R", "E", "F", "z"), {"e_unit": "kcal/mol", "r_unit": "Ang"}, None),
        (("R", "E", "F", "z"), {}, "kcal/mol/Ang"),
    ],
)
def test_npz_forms(tmp_path, water, names, extra, units):
    data = mlff.Dataset.read(as_npz(tmp_path / "w.npz", water, names, **extra), units=units)
    np.testing.assert_allclose(data.array("energy"), water.array("energy"), rtol=1e-7)
    np.testing.assert_allclose(data.array("forces"), water.array("forces"), rtol=1e-7)
    assert "stated" in data.units


def test_lengths_and_energies_are_converted_together(tmp_path, frames, water):
    bohr, hartree = 0.5291772105638411, 27.211386024367243
    for atoms in frames:
        atoms.positions /= bohr
        atoms.info["REF_energy"] /= hartree
        atoms.arrays["REF_forces"] /= hartree / bohr
    ase.io.write(tmp_path / "w.extxyz", frames)
    data = mlff.Dataset.read(tmp_path / "w.extxyz", units="hartree/bohr")
    np.testing.assert_allclose(data.uniform_positions(), water[:40].uniform_positions(), atol=1e-7)
    np.testing.assert_allclose(data.array("forces"), water[:40].array("forces"), atol=1e-6)
    assert force_energy_slope(data)[0] == pytest.approx(1.0, abs=0.02)


def test_hessians_and_stress_are_read_and_shaped(datasets, tmp_path):
    data = mlff.Dataset.read(datasets / "ethanol_hessians.extxyz", index=":3")
    assert data.array("hessian").shape == (3, 27, 27)
    atoms = Atoms("Si2", [[0, 0, 0], [1.3, 1.3, 1.3]], cell=[5, 5, 5], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((2, 3)), stress=[1, 2, 3, 4, 5, 6])
    ase.io.write(tmp_path / "s.extxyz", atoms)
    np.testing.assert_allclose(
        mlff.Dataset.read(tmp_path / "s.extxyz")[0].labels["stress"], [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    )


def test_hessians_in_npz(tmp_path, water, rng):
    hessians = rng.standard_normal((len(water), 9, 9))
    data = mlff.Dataset.read(as_npz(tmp_path / "w.npz", water, H=hessians / KCAL), units="kcal/mol")
    np.testing.assert_allclose(data.array("hessian"), hessians, rtol=1e-12)
    with pytest.raises(ValueError, match=r"w\.npz: H has shape .*, expected"):
        mlff.Dataset.read(as_npz(tmp_path / "w.npz", water, H=hessians[:, :8]), units="kcal/mol")


def test_units_in_some_frames_only(tmp_path, frames, water):
    """Those that say nothing would be taken for eV: −137.87 beside −5.98."""
    for atoms in frames[:3]:
        atoms.info["units"] = "kcal/mol"
        atoms.info["REF_energy"] /= KCAL
        atoms.arrays["REF_forces"] /= KCAL
    ase.io.write(tmp_path / "w.extxyz", frames)
    with pytest.raises(
        ValueError, match=r"w\.extxyz: frame 0 states its units \(kcal/mol\), frame 3 and 36 others do not"
    ):
        mlff.Dataset.read(tmp_path / "w.extxyz")
    with pytest.raises(ValueError, match=r"w\.extxyz: frame 0: states units 'kcal/mol', and units='eV' says otherwise"):
        mlff.Dataset.read(tmp_path / "w.extxyz", units="eV")
    for atoms in frames[3:]:
        atoms.info["units"] = "eV/Å"
    ase.io.write(tmp_path / "w.extxyz", frames)
    data = mlff.Dataset.read(tmp_path / "w.extxyz")  # each by its own
    np.testing.assert_allclose(data.array("energy"), water[:40].array("energy"))
    np.testing.assert_allclose(data.array("forces"), water[:40].array("forces"), atol=1e-8)
    assert data.units == "kcal/mol (as stated by the file); eV/Å (as stated by the file)"
    assert (
        mlff.Dataset.read(tmp_path / "w.extxyz", units="eV/Ang", index="3:").units == "eV/Ang (as stated by the user)"
    )


def test_files_that_ase_converts_take_no_other_units(tmp_path, frames):
    ase.io.write(tmp_path / "POSCAR", Atoms("He", cell=[9, 9, 9], pbc=True), format="vasp")
    with pytest.raises(ValueError, match="POSCAR: ASE converts files of the form vasp to eV and Å itself; leave units"):
        mlff.Dataset.read(tmp_path / "POSCAR", units="hartree/bohr")


@pytest.mark.parametrize(("count", "frame"), [(10**9, 0), (10**9, 1), (4, 1)])
def test_more_atoms_claimed_than_there_are(tmp_path, frames, count, frame):
    ase.io.write(tmp_path / "w.xyz", frames[:2], format="extxyz")
    lines = (tmp_path / "w.xyz").read_text().splitlines(keepends=True)
    lines[5 * frame] = f"{count}\n"
    (tmp_path / "w.xyz").write_text("".join(lines))
    held = 8 if frame == 0 else 3
    with pytest.raises(
        ValueError, match=rf"w\.xyz: frame {frame} claims {count} atoms, and the file ends after {held} of"
    ):
        mlff.Dataset.read(tmp_path / "w.xyz")


def test_frames_behind_a_blank_line(tmp_path, frames):
    """ASE reads nothing there."""
    for n in range(2):
        ase.io.write(tmp_path / f"{n}.xyz", frames[3 * n : 3 * n + 3], format="extxyz")
    one, two = ((tmp_path / f"{n}.xyz").read_text() for n in range(2))
    (tmp_path / "w.xyz").write_text(one + "\n\n")
    assert len(mlff.Dataset.read(tmp_path / "w.xyz")) == 3
    (tmp_path / "w.xyz").write_text(one + "\n" + two)
    assert len(ase.io.read(tmp_path / "w.xyz", ":", format="extxyz")) == 3
    with pytest.raises(ValueError, match=r"w\.xyz: goes on behind a blank line after frame 2; remove the blank line"):
        mlff.Dataset.read(tmp_path / "w.xyz")


@pytest.mark.parametrize(("number", "what"), [(0, "atomic number 0"), (None, "position of atom 1 is not finite")])
def test_atoms_that_are_none(tmp_path, frames, number, what):
    if number is None:
        frames[2].positions[1] = np.nan
    else:
        frames[2].numbers[1] = number
    ase.io.write(tmp_path / "w.extxyz", frames)
    with pytest.raises(ValueError, match=rf"w\.extxyz: frame 2: .*{what}"):
        mlff.Dataset.read(tmp_path / "w.extxyz")


def test_vibrations_of_ase(tmp_path, water, rng):
    """Rows of fixed atoms are missing; energies and forces are there if the atoms had them."""
    atoms = water[3].to_ase()
    hessian = rng.standard_normal((6, 6))
    VibrationsData.from_2d(atoms, hessian + hessian.T, indices=[0, 2]).write(tmp_path / "v.json")
    data = mlff.Dataset.read(tmp_path / "v.json")
    found = data[0].labels["hessian"]
    rows = [0, 1, 2, 6, 7, 8]
    np.testing.assert_allclose(found[np.ix_(rows, rows)], hessian + hessian.T)
    assert np.isnan(found[3:6]).all()
    assert np.isnan(found[:, 3:6]).all()
    assert "ASE" in data.units
    with pytest.raises(ValueError, match="VibrationsData are in eV and Å"):
        mlff.Dataset.read(tmp_path / "v.json", units="hartree")
    (tmp_path / "broken.json").write_text('{"__ase_objtype__": "vibrationsdata"')
    with pytest.raises(ValueError, match=r"broken\.json: no VibrationsData that ASE reads"):
        mlff.Dataset.read(tmp_path / "broken.json")


@pytest.mark.parametrize("form", ["traj", "json", "db"])
def test_ases_own_forms_are_in_ev_and_angstrom(tmp_path, water, form):
    atoms = water[0].system.to_ase()
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=np.ones((3, 3)))
    ase.io.write(tmp_path / f"w.{form}", atoms)
    for units in ("hartree/bohr", "kcal/mol"):
        with pytest.raises(ValueError, match=rf"w\.{form}: files of the form {form} are ASE's own, in eV and Å; leave"):
            mlff.Dataset.read(tmp_path / f"w.{form}", units=units)
    for units in (None, "eV"):
        data = mlff.Dataset.read(tmp_path / f"w.{form}", units=units)
        np.testing.assert_allclose(data[0].positions, water[0].positions, atol=1e-12)
        assert data[0].labels["energy"] == -3.0


def test_atoms_that_are_too_near_are_named(tmp_path, water, caplog):
    """Positions in Å and forces in Ha/bohr: read as bohr, bonds shrink."""
    frames = [frame.to_ase() for frame in water[:12]]
    ase.io.write(tmp_path / "w.extxyz", frames)
    mlff.Dataset.read(tmp_path / "w.extxyz")
    assert "are the units right" not in caplog.text
    data = mlff.Dataset.read(tmp_path / "w.extxyz", units="hartree/bohr")
    distance = min(np.linalg.norm(data[0].positions[0] - data[0].positions[i]) for i in (1, 2))
    assert "w.extxyz: in 12 of 12 molecules atoms are nearer than a bond is long" in caplog.text
    assert f"(the first: O–H at {distance:.2f} Å, {distance / 0.97:.2f} of the sum" in caplog.text
    caplog.clear()
    for atoms in frames[:6]:
        atoms.positions *= 0.5
    ase.io.write(tmp_path / "w.extxyz", frames)
    mlff.Dataset.read(tmp_path / "w.extxyz")
    assert "are the units right" not in caplog.text  # half of them are no majority


@pytest.mark.parametrize("key", ["gradients", "REF_gradient", "dft_Grad"])
def test_gradients_become_forces(tmp_path, water, key):
    frames = []
    for frame in water[:4]:
        atoms = frame.system.to_ase()
        atoms.arrays[key] = -frame.labels["forces"]
        frames.append(atoms)
    ase.io.write(tmp_path / "w.extxyz", frames)
    data = mlff.Dataset.read(tmp_path / "w.extxyz", units="eV", keys={"forces": key}, labels=["forces"])
    np.testing.assert_allclose(data.array("forces"), water[:4].array("forces"), atol=1e-7)
    assert set(data[0].labels) == {"forces"}
    np.savez(
        tmp_path / "w.npz", R=water.uniform_positions(), z=water.uniform_numbers(), **{key: -water.array("forces")}
    )
    data = mlff.Dataset.read(tmp_path / "w.npz", units="eV", keys={"forces": key}, labels=["forces"])
    np.testing.assert_allclose(data.array("forces"), water.array("forces"))
