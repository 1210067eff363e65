"""npz files: units that they carry, cells, charges, and arrays that are none of what they should be."""

import time
import zipfile

import ase.units
import numpy as np
import pytest

import mlff

KCAL = ase.units.kcal / ase.units.mol


def arrays(water, **changes):
    held = {
        "R": water.uniform_positions(), "E": water.array("energy"), "F": water.array("forces"),
        "z": water.uniform_numbers(), **changes,
    }  # fmt: skip
    return {name: value for name, value in held.items() if value is not None}


def read(tmp_path, held, **options):
    np.savez(tmp_path / "w.npz", **held)
    return mlff.Dataset.read(tmp_path / "w.npz", **options)


@pytest.mark.parametrize(
    ("said", "energy", "length"),
    [
        ({"units": "A, eV, eV/A, float32"}, 1.0, 1.0),
        ({"units": "A, eV, eV/A, eV/A^2"}, 1.0, 1.0),
        ({"units": "kcal/mol, Ang"}, KCAL, 1.0),
        ({"unit": "au"}, ase.units.Hartree, ase.units.Bohr),
        ({"e_unit": "au", "r_unit": "au"}, ase.units.Hartree, ase.units.Bohr),
        ({"e_unit": "kcal/mol", "r_unit": "Ang", "units": "kcal/mol"}, KCAL, 1.0),
    ],
)
def test_units_that_the_file_carries(tmp_path, water, said, energy, length):
    held = arrays(
        water, R=water.uniform_positions() / length, E=water.array("energy") / energy,
        F=water.array("forces") * length / energy, **said,
    )  # fmt: skip
    data = read(tmp_path, held)
    np.testing.assert_allclose(data.uniform_positions(), water.uniform_positions(), atol=1e-12)
    np.testing.assert_allclose(data.array("energy"), water.array("energy"), rtol=1e-12)
    np.testing.assert_allclose(data.array("forces"), water.array("forces"), atol=1e-12)
    assert "as stated by the file" in data.units


@pytest.mark.parametrize(
    ("said", "given", "message"),
    [
        ({"units": "eV"}, "kcal/mol", r"w\.npz: states units 'eV', and units='kcal/mol' says otherwise"),
        ({"e_unit": "eV", "r_unit": "Ang"}, "hartree/bohr", r"w\.npz: states units 'eV/Ang', and units='hartree/bohr'"),
        ({"e_unit": "eV", "r_unit": "Ang", "units": "kcal/mol"}, None, r"w\.npz: its e_unit is 'eV', and units= or"),
        ({"r_unit": "bohr"}, "eV", r"w\.npz: its r_unit is 'bohr', and units= or"),
        ({"e_unit": "kcal/mol"}, "eV", r"w\.npz: its e_unit is 'kcal/mol', and units= or"),
        (
            {"units": "A, eV, kcal/mol/A"},
            None,
            r"w\.npz: units='A, eV, kcal/mol/A' states 2 units of energy and 1 of length",
        ),
        ({"units": "furlong"}, None, r"w\.npz: units 'furlong' are not known"),
        ({}, None, r"w\.npz: its units are not stated; say units="),
    ],
)
def test_units_that_contradict_each_other_or_say_nothing(tmp_path, water, said, given, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, arrays(water, **said), units=given)


def test_equal_statements_pass_and_words_that_are_not_known_have_a_remedy(tmp_path, water):
    assert "user" in read(tmp_path, arrays(water, units="A, eV, eV/A"), units="eV").units
    assert "user" in read(tmp_path, arrays(water, units="furlong"), units="eV").units


def test_cells_and_charges_are_kept(tmp_path, water, rng):
    cells = 9.0 * np.eye(3) + rng.standard_normal((len(water), 3, 3))
    data = read(tmp_path, arrays(water, cell=cells, charge=1), units="eV")
    np.testing.assert_array_equal([frame.cell for frame in data], cells)
    assert all(frame.system.pbc.all() for frame in data)
    assert data.charges() == {"H2O": 1.0}
    columns = read(tmp_path, arrays(water, lattice=cells[0].T), units="eV")  # sGDML's
    np.testing.assert_array_equal(columns[7].cell, cells[0])
    slab = read(tmp_path, arrays(water, cell=cells, pbc=np.array([True, True, False])), units="eV", index="3:5")
    assert [frame.system.pbc.tolist() for frame in slab] == [[True, True, False]] * 2
    np.testing.assert_array_equal(slab[0].cell, cells[3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"E": np.full(100, 1.0 + 2.0j)}, r"w\.npz: E is of complex128, expected real numbers as energy"),
        (
            {"z": np.array([8.7, 1, 1])},
            r"w\.npz: z holds 8\.7, which is no atomic number; expected integers from 1 to 118",
        ),
        ({"z": np.array([-8, 1, 1])}, r"z holds -8, which is no"),
        ({"z": np.array([8, 0, 1])}, r"z holds 0, which is no"),
        ({"z": np.array([8, 1, 200])}, r"z holds 200, which is no"),
        ({"z": np.array(["O", "H", "H"])}, r"z is of <U1, expected real numbers as numbers"),
        ({"F": np.zeros((100, 9))}, r"F has shape \(100, 9\), expected \(100, 3, 3\)"),
        ({"E": np.zeros((1, 100))}, r"E has shape \(1, 100\), expected \(100,\)"),
        ({"cell": np.eye(2)}, r"cell has shape \(2, 2\), expected \(100, 3, 3\)"),
    ],
)
def test_arrays_that_are_not_what_they_should_be(tmp_path, water, changes, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, arrays(water, **changes), units="eV")


def test_two_arrays_of_one_kind(tmp_path, water):
    held = arrays(water, energies=water.array("energy") + 5.0)
    with pytest.raises(
        ValueError, match=r"w\.npz: holds energies and E, which are names of energy; say which one, keys="
    ):
        read(tmp_path, held, units="eV")
    data = read(tmp_path, held, units="eV", keys={"energy": "energies"})
    np.testing.assert_array_equal(data.array("energy"), water.array("energy") + 5.0)


def test_numbers_as_floats_are_numbers(tmp_path, water):
    assert read(tmp_path, arrays(water, z=np.array([8.0, 1.0, 1.0])), units="eV")[0].numbers.tolist() == [8, 1, 1]


def test_a_key_that_is_not_there(tmp_path, water):
    with pytest.raises(ValueError, match=r"w\.npz: no energy \(looked for nope\); the file holds E, F, R, z"):
        read(tmp_path, arrays(water), units="eV", keys={"energy": "nope"})


def header(shape, dtype="<f8"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_arrays_that_are_not_needed_are_not_read(tmp_path, water):
    """A gigabyte of zeros in a megabyte: beside the labels it is left alone, as positions it is refused by its shape."""
    np.savez_compressed(tmp_path / "w.npz", **arrays(water))
    with (
        zipfile.ZipFile(tmp_path / "w.npz", "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("extra.npy", "w", force_zip64=True) as file,
    ):
        file.write(header((2**25,)))
        for _ in range(16):
            file.write(bytes(2**24))
    started = time.perf_counter()
    assert len(mlff.Dataset.read(tmp_path / "w.npz", units="eV")) == len(water)
    with pytest.raises(ValueError, match=r"extra has shape \(33554432,\), expected \(100, 3, 3\)"):
        mlff.Dataset.read(tmp_path / "w.npz", units="eV", keys={"forces": "extra"})
    assert time.perf_counter() - started < 5


def test_more_than_the_machine_holds_is_refused_before_it_is_read(tmp_path, water, monkeypatch):
    monkeypatch.setattr("mlff.data.npz.machine_memory", lambda: 4 * 10_000)
    with pytest.raises(
        ValueError, match=r"w\.npz: holds 1\.4e-05 GiB of labelled frames, more than a quarter of this machine"
    ):
        read(tmp_path, arrays(water), units="eV")


def test_an_array_that_claims_more_than_the_file_holds(tmp_path, water):
    np.savez(tmp_path / "w.npz", **arrays(water, R=None))
    with zipfile.ZipFile(tmp_path / "w.npz", "a") as archive:
        archive.writestr("R.npy", header((10**9, 3, 3)) + bytes(800))
    with pytest.raises(ValueError, match=r"w\.npz: cannot be read .*R\.npy claims the shape \(1000000000, 3, 3\)"):
        mlff.Dataset.read(tmp_path / "w.npz", units="eV")


def test_charges_of_atoms_are_no_total_charge(tmp_path, water):
    """Nor are atomic numbers of that name; one number, or one a frame, is."""
    count = len(water)
    for name in ("charges", "Q", "Charge", "net_charge"):
        for value in (-1, np.full(count, -1.0), np.full((count, 1), -1), np.array([-1])):
            assert read(tmp_path, arrays(water, **{name: value}), units="eV").charges() == {"H2O": -1.0}
    for value in (np.full((count, 3), 8), np.array([8, 1, 1])):
        assert read(tmp_path, arrays(water, charges=value), units="eV").charges() == {}
    with pytest.raises(ValueError, match=rf"charges has shape \(3,\), expected \({count},\)"):
        read(tmp_path, arrays(water, charges=np.array([8, 1, 1])), units="eV", keys={"charge": "charges"})


def test_stresses_have_another_place(tmp_path, water, caplog):
    held = arrays(water, stress=np.zeros((len(water), 3, 3)))
    assert read(tmp_path, held, units="eV").label_names == ("energy", "forces")
    assert (
        "w.npz: stress is not read, as npz files hold energy, forces, hessian for mlff; give other labels"
        in caplog.text
    )
    with pytest.raises(
        ValueError, match=r"w\.npz: no frame has stress; .*; give other labels in an extxyz file, as REF_"
    ):
        read(tmp_path, held, units="eV", labels=["stress"])
    with pytest.raises(
        ValueError, match=r"keys: 'stress' is not read from npz files, .*; give other labels in an extxyz"
    ):
        read(tmp_path, held, units="eV", keys={"stress": "stress"})


def test_words_as_bytes_and_directions_as_numbers(tmp_path, water):
    cells = 9.0 * np.eye(3)
    held = arrays(water, cell=cells, pbc=np.array([1, 1, 0]), e_unit=np.bytes_("kcal/mol"), r_unit=np.bytes_("Ang"))
    data = read(tmp_path, held)
    assert data[0].system.pbc.tolist() == [True, True, False]
    np.testing.assert_allclose(data.array("energy"), KCAL * water.array("energy"))
    with pytest.raises(ValueError, match=r"w\.npz: pbc is of float64, expected true or false as pbc"):
        read(tmp_path, arrays(water, pbc=np.array([1.0, 1.0, 0.0])), units="eV")
    with pytest.raises(ValueError, match=r"keys: 'energy' is given '', expected the name that w\.npz has for it"):
        read(tmp_path, held, keys={"energy": ""})
