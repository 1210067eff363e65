"""Model files of sGDML: its published formula, in plain loops, gives the same numbers; nothing else is read."""

import itertools
import subprocess
import sys

import ase
import ase.units
import numpy as np
import pytest

import mlff

AMMONIA = np.array([[0.0, 0.0, 0.1], [0.94, 0.0, -0.27], [-0.47, 0.81, -0.27], [-0.47, -0.81, -0.27]])
EXCHANGES = np.array([(0, *p) for p in itertools.permutations((1, 2, 3))])
KCAL = ase.units.kcal / ase.units.mol


def inverse_distances(x):
    """sGDML's features: the lower triangle, row by row. Complex positions give derivatives by complex steps."""
    return np.array([1.0 / np.sqrt(np.sum((x[i] - x[j]) ** 2)) for i in range(len(x)) for j in range(i)])


def exchanged_pairs(permutation):
    """Which features those of exchanged atoms are."""
    pairs = [(i, j) for i in range(len(permutation)) for j in range(i)]
    return [pairs.index(tuple(sorted((permutation[i], permutation[j]), reverse=True))) for i, j in pairs]


def linear_places(permutations, features):
    """The same of all permutations, as sGDML stores it: places in their copies one after the other, feature by feature."""
    places = np.array([exchanged_pairs(p) for p in permutations])
    return (places + features * np.arange(len(places))[:, None]).flatten("F")


def stored_model(seed=0, frames=5, unit=1.0, energies=False, **changes):
    """The fields of a model file, of random weights, for ammonia near its equilibrium in lengths of `unit` Å."""
    rng = np.random.default_rng(seed)
    geometries = (AMMONIA + 0.1 * rng.standard_normal((frames, 4, 3))) / unit
    features = np.array([inverse_distances(x) for x in geometries])
    fields = {
        "type": "m", "code_version": "1.0.3", "dataset_name": "ammonia", "dataset_theory": "none", "solver_name": "analytic",
        "z": np.array([7, 1, 1, 1], dtype=np.uint8), "idxs_train": np.arange(frames)[::-1], "md5_train": b"0123456789abcdef",
        "R_desc": features.T, "R_d_desc_alpha": rng.standard_normal((frames, 6)), "c": -35000.25, "std": 12.5, "sig": 3,
        "lam": 1e-10, "perms": EXCHANGES, "tril_perms_lin": linear_places(EXCHANGES, 6), "use_E": True,
        "r_unit": "Ang", "e_unit": "kcal/mol",
        "md5_test": None, "f_err": {"mae": np.nan, "rmse": np.nan},  # pickled, as sGDML does
    }  # fmt: skip
    if energies:
        fields["alphas_E"] = rng.standard_normal(frames)
    return {name: value for name, value in {**fields, **changes}.items() if value is not ...}


def published_energy(fields, x):
    """E = c + std Σ_frames Σ_permutations [5/(3σ²) (1 + √5 d/σ) e^{−√5 d/σ} Δ·τ + α f(d)], in the units of the file."""
    total, sigma = 0.0, fields["sig"]
    phi = inverse_distances(x)
    for k in range(fields["R_desc"].shape[1]):
        for permutation in fields["perms"]:
            places = exchanged_pairs(permutation)
            difference = phi - fields["R_desc"][:, k][places]
            r = np.sqrt(5.0 * np.sum(difference**2)) / sigma
            along = np.sum(difference * fields["R_d_desc_alpha"][k][places])
            total += 5.0 / (3.0 * sigma**2) * (1.0 + r) * np.exp(-r) * along
            if "alphas_E" in fields:
                total += fields["alphas_E"][k] * (1.0 + r + r**2 / 3.0) * np.exp(-r)
    return fields["std"] * total + fields["c"]


def published_forces(fields, x):
    forces = np.empty_like(x)
    for place in np.ndindex(x.shape):
        moved = x.astype(complex)
        moved[place] += 1e-30j
        forces[place] = -published_energy(fields, moved).imag / 1e-30
    return forces


@pytest.fixture
def write(tmp_path):
    def write(**options):
        fields = stored_model(**options)
        np.savez(tmp_path / "model.npz", **fields)
        return tmp_path / "model.npz", fields

    return write


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("sgdml") / "model.npz"
    np.savez(path, **stored_model())
    return mlff.load_sgdml(path)


@pytest.fixture
def elsewhere(rng):
    return AMMONIA + 0.15 * rng.standard_normal((3, 4, 3))


@pytest.mark.parametrize("energies", [False, True])
def test_energies_and_forces_are_those_of_the_published_formula(write, elsewhere, energies):
    path, fields = write(energies=energies)
    force_field = mlff.load_sgdml(path)
    found, forces = force_field.energy_and_forces(elsewhere)
    expected = np.array([published_energy(fields, x) for x in elsewhere])
    np.testing.assert_allclose((found / KCAL - fields["c"]), expected - fields["c"], atol=1e-9)
    np.testing.assert_allclose(forces / KCAL, [published_forces(fields, x) for x in elsewhere], rtol=1e-10, atol=1e-10)
    assert np.ptp(expected) > 0.1
    assert force_field.record["labels"] == (["energy", "forces"] if energies else ["forces"])


def test_units_of_the_file_and_of_the_user(write, elsewhere):
    path, fields = write(unit=ase.units.Bohr, e_unit="Hartree", r_unit="bohr", sig=2)
    atomic = elsewhere / ase.units.Bohr
    force_field = mlff.load_sgdml(path)
    np.testing.assert_allclose(
        force_field.energy(elsewhere), [published_energy(fields, x) * ase.units.Hartree for x in atomic], rtol=1e-13
    )
    np.testing.assert_allclose(
        force_field.forces(elsewhere),
        [published_forces(fields, x) * ase.units.Hartree / ase.units.Bohr for x in atomic],
        rtol=1e-10, atol=1e-10,
    )  # fmt: skip
    assert force_field.record["units"] == "Hartree/bohr (as stated by the file)"
    silent, _ = write(unit=ase.units.Bohr, e_unit=..., r_unit=..., sig=2)
    with pytest.raises(ValueError, match=r"model\.npz: its units are not stated; say units='kcal/mol'"):
        mlff.load_sgdml(silent)
    told = mlff.load_sgdml(silent, units="hartree/bohr")
    np.testing.assert_array_equal(told.forces(elsewhere), force_field.forces(elsewhere))
    assert told.record["closest"]["H-N"] == pytest.approx(ase.units.Bohr / fields["R_desc"][[0, 1, 3]].max())
    assert 0.7 < np.linalg.norm(np.subtract(*told.record["geometry"][:2])) < 1.3
    assert told.record["noise"] == pytest.approx({"forces": 1e-5 * 12.5 * ase.units.Hartree / ase.units.Bohr})


def test_a_model_of_the_identity_alone(write, elsewhere):
    path, fields = write(perms=EXCHANGES[:1], tril_perms_lin=np.arange(6))
    np.testing.assert_allclose(
        mlff.load_sgdml(path).forces(elsewhere[0]) / KCAL, published_forces(fields, elsewhere[0]), rtol=1e-9, atol=1e-10
    )


def test_it_is_a_force_field_like_any_other(loaded, elsewhere, tmp_path):
    x = elsewhere[0]
    loaded.save(tmp_path / "m.mlff")
    again = mlff.load(tmp_path / "m.mlff")
    np.testing.assert_array_equal(again.forces(elsewhere), loaded.forces(elsewhere))
    assert again.record == loaded.record
    atoms = ase.Atoms("NH3", x, calculator=mlff.Calculator(again))
    assert atoms.get_potential_energy() == loaded.energy(x)
    hessian = atoms.calc.get_hessian(atoms)
    step = 1e-5 * np.eye(12).reshape(12, 4, 3)
    numerical = (loaded.forces(x - step) - loaded.forces(x + step)).reshape(12, 12) / 2e-5
    np.testing.assert_allclose(hessian, numerical, atol=1e-6 * abs(hessian).max())
    np.testing.assert_allclose(loaded.energy(x[[0, 2, 3, 1]]), loaded.energy(x), rtol=1e-14)
    assert len(loaded.kernel.permutations) == 6


def test_the_record_tells_what_the_file_does(loaded):
    fields, record = stored_model(), loaded.record
    apart = np.abs(fields["R_desc"].T - inverse_distances(np.array(record["geometry"]))).max(axis=1)
    assert apart.min() < 1e-12  # the geometry is one of the training frames, turned
    assert record["closest"] == pytest.approx(
        {"H-N": 1.0 / fields["R_desc"][[0, 1, 3]].max(), "H-H": 1.0 / fields["R_desc"][[2, 4, 5]].max()}
    )
    assert record["source"] == "model.npz (sGDML's, data set ammonia, none)"
    assert record["n_train"] == 5
    assert record["rows"] == 60
    assert record["indices"] == [4, 3, 2, 1, 0]
    assert record["data_hash"] == "0123456789abcdef"
    assert record["versions"]["sgdml"] == "1.0.3"
    assert record["energy_constant"] is True
    assert loaded.kernel.amplitude == pytest.approx(6 * (12.5 * KCAL) ** 2)


def as_sgdml(force_field, positions):
    """A model of three atoms of this library, whose features stand in sGDML's order, in the fields of its files."""
    channel, sigma = force_field.model.parts[0].channels[0], force_field.kernel.radial.lengthscale
    group = force_field.kernel.permutations.indices
    return {
        **stored_model(), "dataset_name": "water", "z": force_field.numbers, "sig": sigma, "std": 1.0,
        "c": float(force_field.model.constants[0]), "R_desc": np.array([inverse_distances(x) for x in positions]).T,
        "R_d_desc_alpha": channel.tangents * sigma, "perms": group, "tril_perms_lin": linear_places(group, 3),
        "e_unit": "eV",
    }  # fmt: skip


def test_the_command_line_takes_it(tmp_path, water, water_model):
    np.savez(tmp_path / "water.npz", **as_sgdml(water_model, water[:40].uniform_positions()))
    force_field = mlff.load_sgdml(tmp_path / "water.npz")
    x = water[60:].uniform_positions()
    np.testing.assert_allclose(force_field.forces(x), water_model.forces(x), atol=1e-9)
    force_field.save(tmp_path / "w.mlff")
    outputs = []
    for command in (["show", "w.mlff"], ["md", "w.mlff", "--steps", "20", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "mlff", *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert (
        "trained on 40 frames of water.npz (sGDML's, data set water, none) (eV/Ang (as stated by the file))"
        in outputs[0]
    )
    assert '"first_step": 0' in outputs[1]


SWAPPED = np.array([[0, 1, 2, 3], [0, 2, 1, 3]])
REFUSED = {
    "a data set": ({"type": "d"}, "is a data set; give the model file"),
    "a task": ({"type": b"t"}, "is a training task; give the model file"),
    "another npz": ({"type": ...}, "is no file of sGDML, or none of its models"),
    "a pickled type": ({"type": np.array(["m"], dtype=object)}, "type is no plain array .* nothing is unpickled"),
    "a pickled field": ({"sig": np.array(None)}, "sig is no plain array .* nothing is unpickled"),
    "periodic": ({"lattice": 9.0 * np.eye(3)}, r"is a periodic model \(lattice\)"),
    "unknown units": ({"e_unit": "cal"}, "units 'cal/Ang' are not known"),
    "a field missing": ({"perms": ..., "std": ...}, "has no perms, std; copy it again"),
    "no numbers": ({"z": np.array([7.0, 1, 1, 1])}, "z has shape .* expected atomic numbers"),
    "another molecule": ({"z": np.array([8, 1, 1])}, r"R_desc has shape \(6, 5\) of float64, expected \(3, 5\)"),
    "weights of other frames": ({"R_d_desc_alpha": np.zeros((4, 6))}, r"R_d_desc_alpha has shape \(4, 6\)"),
    "not finite": ({"R_d_desc_alpha": np.full((5, 6), np.nan)}, "R_d_desc_alpha is not finite"),
    "no length scale": ({"sig": -1}, "sig is -1.0, expected a positive number"),
    "no constant": ({"c": np.array([1.0, 2.0])}, r"c has shape \(2,\)"),
    "negative features": ({"R_desc": -np.ones((6, 5))}, "R_desc are no inverse distances"),
    "no geometry": ({"R_desc": np.array([[9.0], [1], [1], [1], [1], [0.1]]) * np.ones(5)}, "of 4 atoms in space"),
    "no group": ({"perms": EXCHANGES[:5]}, "perms: permutations: the 5 given are no group"),
    "unlike atoms exchanged": ({"perms": np.array([[0, 1, 2, 3], [1, 0, 2, 3]])}, "exchanges unlike atoms"),
    "a permutation twice": ({"perms": EXCHANGES[[0, 0]]}, "perms holds a permutation twice"),
    "other permutations": ({"perms": SWAPPED}, "perms and tril_perms_lin are not the same"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_whole_model_of_a_molecule_is_refused(write, changes, message):
    path, _ = write(**changes)
    with pytest.raises(ValueError, match=rf"^model\.npz: {'.*' if '^' not in message else ''}{message}"):
        mlff.load_sgdml(path)


def test_damaged_and_foreign_files(write, tmp_path):
    path, _ = write()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.npz: is no npz file; give the model file that sgdml wrote"):
        mlff.load_sgdml(path)
    place = content.index(b"R_d_desc_alpha.npy") + 300
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(ValueError, match=r"model\.npz: cannot be read as an npz file \(Bad CRC"):
        mlff.load_sgdml(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        mlff.load_sgdml(tmp_path / "absent.npz")


def test_zeros_that_were_compressed_are_not_unpacked(tmp_path, monkeypatch):
    """A small file cannot fill the memory: the sizes are looked at first."""
    fields = stored_model(R_desc=np.zeros((6, 10**6)))
    np.savez_compressed(
        tmp_path / "m.npz", **{name: fields[name] for name in fields if name not in ("md5_test", "f_err")}
    )
    assert (tmp_path / "m.npz").stat().st_size < 2**18
    read = np.lib.format.read_array
    monkeypatch.setattr(np.lib.format, "read_array", lambda *given, **options: _small(read(*given, **options)))
    with pytest.raises(ValueError, match=r"m\.npz: R_desc would take 46 MiB out of 0\.0"):
        mlff.load_sgdml(tmp_path / "m.npz")


def _small(array):
    assert array.nbytes < 2**20
    return array
