"""Labels of `Atoms` objects: what is written comes back, virials, two methods in one file, numbers that are no labels."""

import ase.build
import ase.io
import ase.units
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

import mlff

KCAL = ase.units.kcal / ase.units.mol


@pytest.fixture
def frames(water):
    return [frame.to_ase() for frame in water[:12]]


@pytest.fixture(scope="module")
def copper():
    """Strained and shaken cells with EMT's energies, forces and stresses."""
    rng, images = np.random.default_rng(4), []
    for _ in range(3):
        atoms = ase.build.bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.standard_normal((3, 3))), scale_atoms=True)
        atoms.rattle(0.05, rng=rng)
        atoms.calc = EMT()
        images.append(atoms)
    return images


def read(tmp_path, frames, **options):
    ase.io.write(tmp_path / "in.extxyz", frames, format="extxyz")
    return mlff.Dataset.read(tmp_path / "in.extxyz", **options)


# -- what goes in comes out ----------------------------------------------------------------------------------------


def test_every_label_comes_back(tmp_path, water, rng):
    """Matrices, stacks of them, and the numbers of operators of one's own."""
    frames = []
    for frame in water[:3]:
        vectors, pairs = rng.standard_normal((2, 3, 3)), rng.standard_normal((9, 2, 3, 3))
        hessian = rng.standard_normal((9, 9))
        labels = {
            **frame.labels, "hessian": hessian, "hessian_products": vectors @ np.eye(3), "hessian_product_vectors": vectors,
            "curvatures": rng.standard_normal(9), "curvature_vectors": pairs, "laplacian": np.array(1.5),
            "moments": rng.standard_normal((3, 3)), "nine": rng.standard_normal(9),
        }  # fmt: skip
        labels["stress"] = np.eye(3)
        cell = mlff.System(frame.positions, frame.numbers, 9.0 * np.eye(3), np.ones(3, bool))
        frames.append(mlff.Frame(cell, labels))
    data = read(tmp_path, [frame.to_ase() for frame in frames])
    for before, after in zip(frames, data, strict=True):
        assert set(after.labels) == set(before.labels)
        for name, value in before.labels.items():
            assert np.shape(after.labels[name]) == np.shape(value), name
            np.testing.assert_allclose(after.labels[name], value, atol=1e-8, err_msg=name)


def test_a_single_curvature_comes_back_with_its_axis(tmp_path, water, rng):
    pair = rng.standard_normal((1, 2, 3, 3))
    labels = {**water[0].labels, "curvatures": np.array([2.5]), "curvature_vectors": pair}
    data = read(tmp_path, [mlff.Frame(water[0].system, labels).to_ase()])
    np.testing.assert_array_equal(data[0].labels["curvatures"], [2.5])
    assert data[0].labels["curvature_vectors"].shape == (1, 2, 3, 3)


def test_products_written_to_a_file_are_fitted(tmp_path, water, water_model):
    """And those in kcal/mol mean the same."""
    frames = []
    for frame, v in zip(water[:4], np.random.default_rng(0).standard_normal((4, 2, 3, 3)), strict=True):
        products = water_model.hessian_vector_product(frame.positions, vectors=v)
        frames.append(
            mlff.Frame(frame.system, {**frame.labels, "hessian_products": products, "hessian_product_vectors": v})
        )
    data = read(tmp_path, [frame.to_ase() for frame in frames])
    kernel = water_model.kernel.replace(amplitude=None)
    fitted = mlff.fit(
        kernel, data, labels=("forces", "hessian_products"), noise={"forces": 1e-4, "hessian_products": 1e-4}
    )
    assert fitted.record["labels"] == ["forces", "hessian_products"]
    kcal = [frame.to_ase() for frame in data]
    for atoms in kcal:
        atoms.info["units"] = "kcal/mol"
        for name in ("energy", "hessian_products"):
            atoms.info[f"REF_{name}"] /= KCAL
        atoms.arrays["REF_forces"] /= KCAL
    again = read(tmp_path, kcal)
    for name in ("energy", "forces", "hessian_products", "hessian_product_vectors"):
        np.testing.assert_allclose(again.array(name), data.array(name), atol=1e-7, err_msg=name)


def test_labels_that_nobody_can_convert_are_named(tmp_path, frames, caplog):
    for atoms in frames:
        atoms.info["REF_laplacian"], atoms.calc = 30.0, None
    assert "laplacian" in read(tmp_path, frames)[0].labels
    assert not caplog.text
    assert "laplacian" not in read(tmp_path, frames, units="kcal/mol")[0].labels
    assert "in.extxyz: REF_laplacian is no label here, as kcal/mol (as stated by the user) cannot be" in caplog.text
    assert caplog.text.count("REF_laplacian") == 1


def test_labels_of_own_operators(tmp_path, frames):
    """Are fitted from a file in eV and Å; in other units nobody can convert them, and they stay what they are."""
    for atoms in frames:
        atoms.info["REF_laplacian"] = 30.0
    data = read(tmp_path, frames)
    assert [float(frame.labels["laplacian"]) for frame in data] == [30.0] * 12
    operator = mlff.Operator("laplacian", lambda u, x: jnp.trace(jax.hessian(u)(x).reshape(x.size, x.size)), "eV/Å²")
    from descriptors import inverse_distances

    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0))
    assert mlff.fit(kernel, data[:3], labels=operator, noise=1e-3).record["labels"] == ["laplacian"]
    for atoms in frames:
        atoms.info["units"] = "kcal/mol"
    data = read(tmp_path, frames)
    assert "laplacian" not in data[0].labels
    assert data[0].to_ase().info["REF_laplacian"] == 30.0
    with pytest.raises(
        ValueError, match=r"labels: 'laplacian' is not known; .* in a file in eV and Å .* REF_laplacian"
    ):
        read(tmp_path, frames, labels=["energy", "laplacian"])


def test_atoms_come_out_whole(tmp_path, frames):
    """Masses, constraints, momenta, tags, charges, magnetic moments, and what is no label; in Å, and once."""
    atoms = frames[0]
    atoms.set_masses([16.0, 2.0, 2.0])
    atoms.set_constraint(FixAtoms([0]))
    atoms.set_tags([3, 4, 5])
    atoms.set_initial_charges([-0.5, 0.25, 0.25])
    atoms.set_initial_magnetic_moments([1.0, 0.0, 0.0])
    atoms.set_momenta(np.arange(9.0).reshape(3, 3), apply_constraint=False)
    atoms.info["config_type"], atoms.info["pressure"] = "dimer", 3.5
    atoms.new_array("my_column", np.arange(3.0))
    bohr = atoms.copy()
    bohr.set_positions(atoms.positions / ase.units.Bohr, apply_constraint=False)
    bohr.info["units"] = "eV/bohr"
    bohr.arrays["REF_forces"] = atoms.arrays["REF_forces"] * ase.units.Bohr
    for written in (atoms, bohr):
        found = read(tmp_path, [written])[0].to_ase()
        assert set(found.calc.results) == {"energy", "forces"}
        np.testing.assert_allclose(found.calc.results["forces"], atoms.arrays["REF_forces"], atol=1e-7)
        assert found.get_masses().tolist() == [16.0, 2.0, 2.0]
        assert found.constraints[0].index.tolist() == [0]
        assert found.get_tags().tolist() == [3, 4, 5]
        assert found.get_initial_charges().tolist() == [-0.5, 0.25, 0.25]
        assert found.get_initial_magnetic_moments().tolist() == [1.0, 0.0, 0.0]
        np.testing.assert_array_equal(found.arrays["momenta"], atoms.arrays["momenta"])
        assert (found.info["config_type"], found.info["pressure"]) == ("dimer", 3.5)
        assert found.arrays["my_column"].tolist() == [0, 1, 2]
        np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-7)
        np.testing.assert_allclose(found.arrays["REF_forces"], atoms.arrays["REF_forces"], atol=1e-7)
        twice = read(tmp_path, [found])[0]  # units are not applied again
        np.testing.assert_allclose(twice.positions, atoms.positions, atol=1e-7)
        np.testing.assert_allclose(twice.labels["energy"], atoms.info["REF_energy"])


@pytest.mark.parametrize("form", ["traj", "json", "db", "extxyz"])
def test_labels_come_back_from_every_form_of_ases(tmp_path, copper, water, form, caplog):
    """Energy, forces and stress as a calculator's results, which ASE keeps where it drops other arrays."""
    frames = []
    for atoms in copper:
        labels = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False),
        }
        frames.append(mlff.Frame(mlff.System.from_ase(atoms), labels))
    for written in (frames, [*water[:3]]):
        (tmp_path / f"w.{form}").unlink(missing_ok=True)
        ase.io.write(tmp_path / f"w.{form}", [frame.to_ase() for frame in written])
        data = mlff.Dataset.read(tmp_path / f"w.{form}")
        assert len(data) == 3
        for before, after in zip(written, data, strict=True):
            assert set(after.labels) == set(before.labels)
            np.testing.assert_allclose(after.positions, before.positions, atol=1e-7)
            for name, value in before.labels.items():
                np.testing.assert_allclose(after.labels[name], value, atol=1e-8, err_msg=name)
    assert not caplog.text


# -- virials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "form"),
    [
        (key, form)
        for key in ("virials", "REF_virial", "REF_virials", "my_virial", "my_w")
        for form in ("3x3", "nine", "voigt")
    ]
    + [("virial", "3x3"), ("virial", "nine")],  # ASE's extxyz has no other form of virial
)
def test_virials_are_stresses(tmp_path, copper, key, form):
    """EMT's stress, from −V times it; in kcal/mol too."""
    frames = []
    for atoms in copper:
        virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
        rows = {"3x3": virial, "nine": virial.ravel(), "voigt": virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]}
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        bare.info = {"REF_energy": atoms.get_potential_energy() / KCAL, key: rows[form] / KCAL, "units": "kcal/mol"}
        bare.arrays["REF_forces"] = atoms.get_forces() / KCAL
        frames.append(bare)
    named = {"my_virial": {"stress": "my_virial"}, "my_w": {"virial": "my_w"}}
    data = read(tmp_path, frames, keys=named.get(key))
    for frame, atoms in zip(data, copper, strict=True):
        expected = atoms.get_stress(voigt=False)
        assert np.abs(expected - np.diag(np.diag(expected))).max() > 1e-3  # shear, so that an order could be wrong
        np.testing.assert_allclose(frame.labels["stress"], expected, atol=1e-8)
    assert key not in data[0].to_ase().info


def test_virial_and_stress_agree_or_one_is_named(tmp_path, copper):
    frames = []
    for atoms in copper:
        stress, bare = atoms.get_stress(voigt=False), atoms.copy()
        bare.calc = SinglePointCalculator(
            bare, energy=atoms.get_potential_energy(), forces=atoms.get_forces(), stress=atoms.get_stress()
        )
        bare.info["virial"] = -atoms.get_volume() * stress
        frames.append(bare)
    expected = [atoms.get_stress(voigt=False) for atoms in copper]
    np.testing.assert_allclose(read(tmp_path, frames).array("stress"), expected, atol=1e-8)
    for atoms in frames:
        atoms.info["virial"] = -atoms.info["virial"]
    with pytest.raises(ValueError, match=r"in\.extxyz: frame 0: stress and virial do not agree .* name the one"):
        read(tmp_path, frames)
    np.testing.assert_allclose(read(tmp_path, frames, keys={"stress": "stress"}).array("stress"), expected, atol=1e-8)
    np.testing.assert_allclose(
        read(tmp_path, frames, keys={"stress": "virial"}).array("stress"), np.negative(expected), atol=1e-8
    )
    assert read(tmp_path, frames, labels=["energy", "forces"]).label_names == ("energy", "forces")


def test_a_virial_needs_a_volume(tmp_path, frames):
    for atoms in frames:
        atoms.info["virial"] = np.eye(3)
    with pytest.raises(ValueError, match=r"in\.extxyz: frame 0: has a virial, but no cell"):
        read(tmp_path, frames)
    assert "stress" not in read(tmp_path, frames, labels=["energy", "forces"])[0].labels


# -- two methods ---------------------------------------------------------------------------------------------------


def test_two_methods_in_one_file(tmp_path, frames):
    for atoms in frames[5:]:
        energy, forces = atoms.info.pop("REF_energy"), atoms.arrays.pop("REF_forces")
        atoms.calc = SinglePointCalculator(atoms, energy=energy + 1.0, forces=forces)
    with pytest.raises(
        ValueError, match=r"frame 0 has its (energy|forces) from REF_ keys, in\.extxyz: frame 5 from calculator results"
    ):
        read(tmp_path, frames)
    assert len(read(tmp_path, frames, index=":5")) == 5
    assert len(read(tmp_path, frames, index="5:")) == 7


def test_energies_of_one_method_beside_forces_of_another(tmp_path, frames):
    """A calculator whose energy is not REF_energy has forces of its own; one that has none may hold REF_energy's."""
    for atoms in frames:
        forces = atoms.arrays.pop("REF_forces")
        atoms.calc = SinglePointCalculator(atoms, forces=forces)
    assert read(tmp_path, frames).label_names == ("energy", "forces")
    for atoms in frames:
        atoms.calc.results["energy"] = atoms.info["REF_energy"] + 1.0
    with pytest.raises(
        ValueError, match=r"frame 0: forces would come from a calculator whose energy is not REF_energy"
    ):
        read(tmp_path, frames)
    named = read(tmp_path, frames, keys={"forces": "forces"})
    assert named.label_names == ("energy", "forces")


# -- no labels -----------------------------------------------------------------------------------------------------


def dump(path, frames):
    """As LAMMPS writes it: no energies."""
    lines = []
    for step, atoms in enumerate(frames):
        lines += ["ITEM: TIMESTEP", str(step), "ITEM: NUMBER OF ATOMS", str(len(atoms))]
        lines += ["ITEM: BOX BOUNDS ff ff ff", "-10 10", "-10 10", "-10 10"]
        lines += ["ITEM: ATOMS id type element x y z fx fy fz"]
        for i, (symbol, x, f) in enumerate(
            zip(atoms.symbols, atoms.positions, atoms.arrays["REF_forces"], strict=True)
        ):
            numbers = " ".join(f"{value:.10f}" for value in (*x, *f))
            lines.append(f"{i + 1} {1 if symbol == 'O' else 2} {symbol} {numbers}")
    path.write_text("\n".join(lines) + "\n")


def test_energies_of_a_lammps_dump_are_none(tmp_path, frames):
    dump(tmp_path / "run.lammpstrj", frames)
    assert ase.io.read(tmp_path / "run.lammpstrj", format="lammps-dump-text").get_potential_energy() == 0.0
    path = (tmp_path / "run.lammpstrj").rename(tmp_path / "run.dump")
    with pytest.raises(ValueError, match=r"run\.dump: frame 0: the units of a LAMMPS run are not stated; say units="):
        mlff.Dataset.read(path)
    with pytest.raises(
        ValueError, match=r"run\.dump: energies of 12 frames all equal 0 eV, and their forces differ; .*labels="
    ):
        mlff.Dataset.read(path, units="eV")
    data = mlff.Dataset.read(path, units="eV", labels=["forces"])
    assert data.label_names == ("forces",)
    np.testing.assert_allclose(data.array("forces"), [atoms.arrays["REF_forces"] for atoms in frames], atol=1e-8)


@pytest.mark.parametrize(("symbol", "structure", "shear", "right"), [
    ("Cu", "fcc", 0.0, True), ("Cu", "fcc", 0.02, True), ("Si", "diamond", 0.0, True), ("Si", "diamond", 0.02, False),
])  # fmt: skip
def test_forces_that_symmetry_makes_zero_are_labels(tmp_path, symbol, structure, shear, right):
    """Of perfect crystals under strain; not of diamond's, whose atoms move when it is sheared."""
    frames = []
    for strain in (-0.01, 0.0, 0.01):
        atoms = ase.build.bulk(symbol, structure, cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) * (1.0 + strain) + shear * np.eye(3, k=1)), scale_atoms=True)
        atoms.calc = SinglePointCalculator(atoms, energy=strain**2 - 1.0, forces=np.zeros((len(atoms), 3)))
        frames.append(atoms)
    if right:
        assert not np.any([frame.labels["forces"] for frame in read(tmp_path, frames)])
        return
    with pytest.raises(ValueError, match=r"forces of 3 frames are all zero"):
        read(tmp_path, frames)


@pytest.mark.parametrize("name", ["forces", "stress", "hessian"])
def test_labels_that_are_all_zero_are_none(tmp_path, copper, name):
    frames = []
    for atoms in copper:
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        bare.info = {"REF_energy": atoms.get_potential_energy(), "REF_stress": atoms.get_stress(voigt=False)}
        bare.info["REF_hessian"] = np.eye(12)
        bare.arrays["REF_forces"] = atoms.get_forces()
        held = bare.arrays if name == "forces" else bare.info
        held[f"REF_{name}"] = np.zeros_like(held[f"REF_{name}"])
        frames.append(bare)
    with pytest.raises(ValueError, match=rf"in\.extxyz: {name} of 3 frames are all zero, at geometries that differ"):
        read(tmp_path, frames)
    assert name not in read(tmp_path, frames, labels=["energy"])[0].labels


def test_equal_energies_by_symmetry_are_labels(tmp_path, frames):
    """A geometry turned about: other forces of equal size."""
    turned = frames[0].copy()
    turned.rotate(90, "z", center=(0, 0, 0))
    turned.arrays["REF_forces"] = frames[0].arrays["REF_forces"] @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    turned.info["REF_energy"] = frames[0].info["REF_energy"]
    assert len(read(tmp_path, [frames[0], turned])) == 2
    assert len(read(tmp_path, frames[:1])) == 1
    for atoms in frames:
        atoms.info["REF_energy"] = -137.0
    with pytest.raises(ValueError, match="energies of 12 frames all equal -137 eV, and their forces differ"):
        read(tmp_path, frames)


@pytest.mark.parametrize("value", [1.0 + 2.0j, "much", True, [1.0, 2.0]])
def test_energies_that_are_no_numbers(value):
    from mlff.data.ase_labels import find_labels

    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], info={"REF_energy": value})
    with pytest.raises(
        ValueError, match=r"frame 3: energy (is no array of real numbers|has shape \(2,\), expected \(\))"
    ):
        find_labels("frame 3", atoms, {})


def test_matrices_in_another_order_are_refused(water, rng):
    """(n, n, 3, 3), as phonopy has it, holds as many numbers as (3n, 3n), in another order."""
    from mlff.data.ase_labels import find_labels

    atoms = water[0].to_ase()
    atoms.info["REF_hessian"] = rng.standard_normal((3, 3, 3, 3))
    with pytest.raises(ValueError, match=r"hessian has shape \(3, 3, 3, 3\), expected \(9, 9\)"):
        find_labels("frame 0", atoms, {})
