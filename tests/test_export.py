"""Exported force fields: the same numbers without the descriptor's source, and nothing but whole, known files is run."""

import hashlib
import importlib
import itertools
import json
import subprocess
import sys

import ase
import ase.units
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.verlet import VelocityVerlet
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from test_altered import altered_arrays, altered_headers

import mlff
from descriptors import inverse_distances
from mlff.potentials import exported as export

DESCRIPTOR = '''
import jax.numpy as jnp
import numpy as np

def screened_charges(positions, numbers, *, decay=1.0):
    """z_i z_j exp(−r_ij/decay)/r_ij of all pairs."""
    first, second = np.triu_indices(positions.shape[0], k=1)
    r = jnp.sqrt(jnp.sum((positions[first] - positions[second]) ** 2, axis=-1))
    z = jnp.asarray(numbers).astype(positions.dtype)
    return z[first] * z[second] * jnp.exp(-r / decay) / r
'''
ELSEWHERE = """
import sys
import numpy as np
import mlff
try:
    import temporary_descriptor
    sys.exit("the descriptor was found")
except ImportError:
    pass
try:
    mlff.load("model.mlff", trusted=("temporary_descriptor",))
    sys.exit("the model file was read without its descriptor")
except ValueError as error:
    assert "cannot be imported" in str(error)
positions = np.load("positions.npy")
force_field = mlff.load_export("model.exported", trusted=True)
distance = force_field.training_distance(positions[0])
results = {f"{name}_{m}": value for m in (1, 3, 7)
           for name, value in zip(("energy", "forces"), force_field.energy_and_forces(positions[:m]))}
energy, forces = force_field.energy_and_forces(positions[0])
assert type(energy) is float and "temporary_descriptor" not in sys.modules
np.savez("results.npz", distance=distance, energy=energy, forces=forces, hessian=force_field.hessian(positions[0]), **results)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a descriptor that only this process can import."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "source").mkdir()
    (folder / "source" / "temporary_descriptor.py").write_text(DESCRIPTOR)
    return folder


@pytest.fixture(scope="module")
def exported(folder, water):
    """Fit with that descriptor, save, load, export."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "source")
        descriptor = importlib.import_module("temporary_descriptor").screened_charges
        group = mlff.find_permutations(water)
        mlff.fit(mlff.GlobalKernel(descriptor, mlff.Matern52(lengthscale=5.0), group), water[:15]).save(
            folder / "model.mlff"
        )
        force_field = mlff.load(folder / "model.mlff", trusted=("temporary_descriptor",))
        force_field.export(folder / "model.exported")
        yield force_field
        sys.modules.pop("temporary_descriptor")


@pytest.fixture
def artifact(folder, exported, tmp_path):
    """A copy that a test may spoil."""
    (tmp_path / "model.exported").write_bytes((folder / "model.exported").read_bytes())
    return tmp_path / "model.exported"


def test_the_same_numbers_in_a_process_without_the_descriptor(folder, exported, water):
    positions = water[60:67].uniform_positions()
    np.save(folder / "positions.npy", positions)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ELSEWHERE], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = np.load(folder / "results.npz")
    for m in (1, 3, 7):
        energies, forces = exported.energy_and_forces(positions[:m])
        np.testing.assert_allclose(results[f"energy_{m}"], energies, rtol=0, atol=1e-10)
        np.testing.assert_allclose(results[f"forces_{m}"], forces, rtol=0, atol=1e-10)
    atoms = ase.Atoms(water[0].numbers, positions[0], calculator=mlff.Calculator(exported))
    assert results["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    np.testing.assert_allclose(results["forces"], atoms.get_forces(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(results["hessian"], atoms.calc.get_hessian(atoms), rtol=0, atol=1e-9)
    distance = atoms.calc.force_field.training_distance(atoms.positions)
    assert results["distance"] == pytest.approx(distance, rel=1e-9)
    assert distance > 0.0
    assert np.abs(results["forces"]).max() > 0.1
    assert results["hessian"].shape == (9, 9)


def test_it_is_an_ase_calculator(artifact, exported, water, caplog):
    """Dynamics with exported programs go where those of the model go; what they do not hold is refused by name."""
    ends = []
    for force_field in (exported, mlff.load_export(artifact, trusted=True)):
        atoms = ase.Atoms(water[0].numbers, water[0].positions, calculator=mlff.Calculator(force_field))
        atoms.set_momenta(np.random.default_rng(2).standard_normal((3, 3)))
        VelocityVerlet(atoms, timestep=0.5 * ase.units.fs).run(50)
        ends.append(atoms)
    np.testing.assert_allclose(ends[1].positions, ends[0].positions, rtol=0, atol=1e-9)
    assert type(ends[1].get_potential_energy()) is float
    np.testing.assert_allclose(ends[1].calc.get_hessian(ends[1]), ends[0].calc.get_hessian(ends[0]), rtol=0, atol=1e-7)
    modes, of_exported = (mlff.lowest_modes(atoms, 2).frequencies for atoms in (ends[0], ends[1]))
    np.testing.assert_allclose(of_exported, modes, rtol=1e-6)
    with pytest.raises(ValueError, match="quartic"):
        mlff.anharmonic_frequencies(ends[1])
    with pytest.raises(PropertyNotImplementedError):
        ends[1].get_stress()
    with pytest.raises(ValueError, match=r"atoms: the force field is for OHH, in this order of atoms, received HOH"):
        mlff.Calculator(mlff.load_export(artifact, trusted=True)).get_potential_energy(ends[1][[1, 0, 2]])
    ends[1].positions = 0.8 * ends[1].positions
    ends[1].get_forces()
    assert "in the training frames the closest are" in caplog.text


def test_chunks_of_a_batch_and_single_geometries(artifact, exported, water):
    force_field = mlff.load_export(artifact, trusted=True)
    positions = water[:13].uniform_positions()
    energies, forces = force_field.energy_and_forces(
        positions, memory=4 * force_field.record["export"]["bytes_per_geometry"]
    )
    np.testing.assert_allclose(energies, exported.energy(positions), rtol=0, atol=1e-10)
    np.testing.assert_allclose(forces, exported.forces(positions), rtol=0, atol=1e-10)
    assert energies.shape == (13,)
    assert forces.dtype == np.float64
    assert force_field.energy(positions[5]) == pytest.approx(energies[5], abs=1e-10)
    np.testing.assert_allclose(force_field.forces(positions[5]), forces[5], rtol=0, atol=1e-10)


def test_the_file_says_what_it_is_and_how_long_it_lasts(artifact, exported):
    force_field = mlff.load_export(artifact, trusted=True)
    line = artifact.read_bytes().split(b"\n")[1]
    assert json.loads(line) == force_field.record["export"]
    assert "6 months" in force_field.record["export"]["lifetime"]
    assert force_field.record["export"]["versions"]["jax"] == jax.__version__
    assert force_field.record["export"]["platforms"] == ["cpu", "cuda"]
    assert force_field.record["export"]["units"] == {"energy": "eV", "length": "Å"}
    np.testing.assert_array_equal(force_field.numbers, exported.numbers)
    assert repr(force_field).startswith(
        "ForceField(H2O, program of ForceField(H2O, temporary_descriptor:screened_charges"
    )


def test_other_geometries_are_refused(artifact):
    force_field = mlff.load_export(artifact, trusted=True)
    expected = r"expected shape \(3, 3\) or \(m, 3, 3\) for H2O, received \(4, 3\)"
    with pytest.raises(ValueError, match=expected):
        force_field.forces(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="the Hessian takes one geometry"):
        force_field.hessian(np.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match="not all finite"):
        force_field.energy(np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="two atoms may coincide"):
        force_field.energy_and_forces(np.zeros((3, 3)))


def test_every_flipped_bit_is_noticed(artifact):
    content = artifact.read_bytes()
    rng = np.random.default_rng(0)
    for position in [0, 20, 90, len(content) - 1, *rng.integers(0, len(content), 40)]:
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(rng.integers(8))
        artifact.write_bytes(flipped)
        with pytest.raises(
            ValueError, match=r"^model\.exported: (no exported force field|its content).*export it again"
        ):
            mlff.load_export(artifact, trusted=True)


def test_truncated_foreign_and_absent_files(artifact, folder, tmp_path):
    content = artifact.read_bytes()
    for part in (content[: len(content) // 2], b"", b"PK\x03\x04 no artifact", (folder / "model.mlff").read_bytes()):
        artifact.write_bytes(part)
        with pytest.raises(ValueError, match=r"no exported force field|damaged"):
            mlff.load_export(artifact, trusted=True)
    with pytest.raises(FileNotFoundError, match="no such file"):
        mlff.load_export(tmp_path / "absent.exported", trusted=True)


@pytest.mark.parametrize(("name", "value"), [("minimum", 1000), ("maximum", 0)])
def test_an_expired_or_too_new_artifact_says_what_to_do(artifact, monkeypatch, name, value):
    monkeypatch.setattr(jax.export, f"{name}_supported_calling_convention_version", value)
    with pytest.raises(
        ValueError, match=r"cannot run what jax .* \(calling convention .*\); JAX promises to for 6 months, export it"
    ):
        mlff.load_export(artifact, trusted=True)


def test_programs_that_this_jax_cannot_read_say_what_to_do(artifact, monkeypatch):
    def deserialize(_):
        raise ValueError("unsupported serialization version")

    monkeypatch.setattr(jax.export, "deserialize", deserialize)
    with pytest.raises(ValueError, match=r"\(unsupported serialization version\).*export it again"):
        mlff.load_export(artifact, trusted=True)


def test_another_format_version(artifact, exported, monkeypatch):
    monkeypatch.setattr(export, "VERSION", 99)
    exported.export(artifact)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format version 99, this mlff reads 3; export it again"):
        mlff.load_export(artifact, trusted=True)


def test_a_lambda_and_a_kernel_without_a_hessian(water, tmp_path):
    force_field = mlff.fit(
        mlff.GlobalKernel(lambda positions: inverse_distances(positions), mlff.Matern32(lengthscale=3.0)), water[:3]
    )
    force_field.export(tmp_path / "m.exported")
    exported, x = mlff.load_export(tmp_path / "m.exported", trusted=True), water[9].positions
    np.testing.assert_allclose(exported.forces(x), force_field.forces(x), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="the Hessian does not exist for Matérn-3/2"):
        exported.hessian(x)


def shells(positions, numbers):
    """Σ_j z_j exp(−r_ij²/w) over the other atoms j, for three widths w."""
    squares = jnp.sum((positions[:, None] - positions[None]) ** 2, axis=-1)
    others = numbers.astype(positions.dtype) * (1.0 - jnp.eye(len(positions), dtype=positions.dtype))
    return jnp.stack([jnp.sum(others * jnp.exp(-squares / width), axis=1) for width in (0.5, 1.0, 2.0)], axis=1)


def test_local_kernels_are_exported_for_one_composition(tmp_path, water, ethanol):
    frames = mlff.Dataset([*water[:3], *ethanol[:2]])
    force_field = mlff.fit(mlff.LocalKernel(shells, mlff.Matern52(lengthscale=3.0)), frames)
    with pytest.raises(ValueError, match="several compositions; give the atomic numbers"):
        force_field.export(tmp_path / "m.exported")
    with pytest.raises(ValueError, match="not S"):
        force_field.export(tmp_path / "m.exported", numbers=[16, 1, 1])
    assert not list(tmp_path.iterdir())
    x, numbers = water[9].positions, water[9].numbers
    force_field.export(tmp_path / "m.exported", numbers=numbers)
    exported = mlff.load_export(tmp_path / "m.exported", trusted=True)
    np.testing.assert_allclose(exported.forces(x), force_field.forces(x, numbers=numbers), rtol=0, atol=1e-10)


def test_periodic_force_fields_are_refused(exported, tmp_path):
    periodic = exported.replace(record={**exported.record, "periodic": True})
    with pytest.raises(ValueError, match="only those of molecules can be exported"):
        periodic.export(tmp_path / "m.exported")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_trusted_is_not_run(artifact, monkeypatch):
    monkeypatch.setattr(jax.export, "deserialize", lambda _: pytest.fail("its programs were read"))
    for trusted in ({}, {"trusted": False}):
        with pytest.raises(ValueError, match=r"compiled programs, which are code.*load_export\(path, trusted=True\)"):
            mlff.load_export(artifact, **trusted)


def test_altered_headers_and_weights_are_refused_or_give_the_same_energies(artifact, exported, water):
    content = artifact.read_bytes().split(b"\n", 2)
    header, arrays, x = json.loads(content[1]), load_tensors(content[2]), water[50].positions
    expected, tried, sentences = exported.energy(x), 0, []
    weights = {name: array for name, array in arrays.items() if name.startswith("weights")}
    programs = {name: array for name, array in arrays.items() if name not in weights}
    cases = itertools.chain(
        ((what, free, other, arrays) for what, free, other in itertools.islice(altered_headers(header), 0, None, 5)),
        ((what, free, header, programs | other) for what, free, other in altered_arrays(weights)),
    )
    for what, free, other_header, other_arrays in cases:
        sign(artifact, other_header, other_arrays)
        tried += 1
        try:
            force_field = mlff.load_export(artifact, trusted=True)
            energy, _ = force_field.energy(x), repr(force_field)
            mlff.Calculator(force_field)
        except ValueError as error:
            sentences.append(str(error))
            continue
        assert free or energy == pytest.approx(expected, abs=1e-9), what
    assert tried > 150
    assert len(sentences) > 0.7 * tried
    assert not any("\n" in sentence for sentence in sentences)


def sign(path, header, arrays):
    rest = json.dumps(header).encode() + b"\n" + save_tensors({n: np.ascontiguousarray(a) for n, a in arrays.items()})
    path.write_bytes(export.MAGIC + b" " + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
