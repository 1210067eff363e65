"""Model files: the same numbers after a round trip, and nothing but whole, known files is read."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mlff
from descriptors import acsf, coulomb_spectrum, exponential_distances, mbdf
from mlff.archive import decode, encode
from mlff.kernels.descriptor import Descriptor
from mlff.potentials import model_files
from mlff.potentials.stored import REGISTRY


@pytest.fixture
def saved(tmp_path, water_model):
    water_model.save(tmp_path / "w.mlff")
    return tmp_path / "w.mlff"


def test_round_trip(saved, water_model, water):
    loaded = mlff.load(saved)
    x = water[60:].uniform_positions()
    np.testing.assert_array_equal(loaded.forces(x), water_model.forces(x))
    np.testing.assert_array_equal(loaded.hessian(x[0]), water_model.hessian(x[0]))
    assert loaded.kernel.permutations == water_model.kernel.permutations
    assert loaded.kernel.permutations.certificate() == water_model.kernel.permutations.certificate()
    assert loaded.record == water_model.record
    assert loaded.kernel.amplitude == water_model.kernel.amplitude


def test_round_trip_with_energies_arguments_and_lengthscales(tmp_path, water):
    kernel = mlff.GlobalKernel(
        functools.partial(exponential_distances, decay=1.2),
        mlff.RationalQuadratic(lengthscale=np.array([1.0, 1.0, 2.0]), alpha=2.0),
    )
    model = mlff.fit(kernel, water[:8], labels=("energy", "forces"), noise={"energy": 1e-3, "forces": 1e-3})
    model.save(tmp_path / "m.mlff")
    loaded = mlff.load(tmp_path / "m.mlff")
    np.testing.assert_array_equal(loaded.forces(water[9].positions), model.forces(water[9].positions))
    assert loaded.kernel.radial.alpha == 2.0
    assert loaded.kernel.descriptor.arguments == {"decay": 1.2}


def test_round_trip_of_cells(tmp_path, silicon, silicon_model):
    silicon_model.save(tmp_path / "si.mlff")
    descriptor = silicon_model.kernel.descriptor
    loaded = mlff.load(tmp_path / "si.mlff", descriptors={descriptor.name: descriptor.function})
    where = {"positions": silicon.positions, "cell": silicon.cell.array, "numbers": silicon.numbers}
    np.testing.assert_array_equal(loaded.forces(**where), silicon_model.forces(**where))


@pytest.mark.thorough  # products, and force fields for any composition, each have a round trip of their own
def test_round_trip_of_a_product_for_any_composition(tmp_path, water, ethanol):
    atoms = functools.partial(acsf, g2=((4.0, 1.0), (4.0, 2.0)), g4=(), g5=())
    factors = tuple(mlff.LocalKernel(atoms, mlff.RBF(lengthscale=scale)) for scale in (1.0, 2.0))
    model = mlff.fit(mlff.ProductKernel(factors), mlff.Dataset([*water[:2], *ethanol[:1]]), noise=1e-2)
    model.save(tmp_path / "m.mlff")
    loaded = mlff.load(tmp_path / "m.mlff")
    assert loaded.numbers is None
    x, numbers = water[9].positions, water[9].numbers
    np.testing.assert_array_equal(loaded.forces(x, numbers=numbers), model.forces(x, numbers=numbers))


@pytest.mark.parametrize(
    ("descriptor", "arguments"),
    [
        (acsf, {"g2": ((4.0, 1.0), (4.0, 2.0)), "g4": (), "g5": ((0.01, 1.0, -1.0),), "elements": [1, 8]}),
        (mbdf, {"powers": (3.0, 4.5), "decays": (1.5,)}),
        (coulomb_spectrum, {"powers": (1.0, 2.5), "scales": (0.5, 20.0)}),
    ],
)
def test_documented_tuples_are_hyperparameters(descriptor, arguments, water):
    """They come back from a file, and the features can be differentiated by them: finite differences agree."""
    wrapped = Descriptor.wrap(functools.partial(descriptor, **arguments)).completed(water[0].numbers)
    real = {name for name, value in arguments.items() if value and name != "elements"}
    assert set(wrapped.arguments) == real
    x, numbers = water[0].positions, water[0].numbers
    with jax.enable_x64(True):

        @jax.jit
        def total(values):
            return jnp.sum(jnp.sin(wrapped.replace(arguments=values)(jnp.asarray(x), jnp.asarray(numbers), None)))

        values = {name: jnp.asarray(value) for name, value in wrapped.arguments.items()}
        slopes = jax.jit(jax.grad(total))(values)
        for name in real:
            step = 1e-6 * jnp.ones_like(values[name])
            ahead, back = (total({**values, name: values[name] + sign * step}) for sign in (1, -1))
            assert float(jnp.sum(slopes[name])) == pytest.approx(float(ahead - back) / 2e-6, rel=1e-5)
            assert abs(float(jnp.sum(slopes[name]))) > 1e-6
        given = {**arguments, "elements": (1, 8)} if descriptor is acsf else arguments
        plain, same = (
            jax.jit(function)(x, numbers)
            for function in (functools.partial(descriptor, **given), lambda y, z: wrapped(y, z, None))
        )
        np.testing.assert_allclose(same, plain, rtol=1e-12)
    arrays = {}
    stored = json.loads(json.dumps(encode(wrapped, "descriptor", arrays, REGISTRY)))
    again = decode(stored, "descriptor", arrays, REGISTRY, {wrapped.name: descriptor})
    assert again.settings == wrapped.settings
    for name in real:
        np.testing.assert_array_equal(again.arguments[name], np.asarray(arguments[name], dtype=float))


def test_every_flipped_bit_is_noticed(saved):
    content = bytearray(saved.read_bytes())
    rng = np.random.default_rng(0)
    for position in [*rng.integers(0, len(content), 40), 9, len(content) - 1]:
        flipped = content.copy()
        flipped[position] ^= 1 << int(rng.integers(8))
        saved.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"w\.mlff: (no mlff model file|format|its content|its descriptor)"):
            mlff.load(saved)


def test_truncated_and_foreign_files(saved, tmp_path):
    content = saved.read_bytes()
    for part in (content[: len(content) // 2], b"", b"PK\x03\x04 no model"):
        saved.write_bytes(part)
        with pytest.raises(ValueError, match="no mlff model file, or a damaged one"):
            mlff.load(saved)
    save_file({"a": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no mlff model file"):
        mlff.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file"):
        mlff.load(tmp_path / "absent.mlff")


def test_foreign_version_says_who_wrote_it(saved, monkeypatch, water_model):
    monkeypatch.setattr(model_files, "VERSION", 99)
    water_model.save(saved)
    monkeypatch.undo()
    with pytest.raises(
        ValueError, match=r"version 99, this mlff reads 'mlff' versions 2 to 6; install the mlff that wrote it"
    ):
        mlff.load(saved)


FILES = pathlib.Path(__file__).parent / "files"
PREDICTED = json.loads((FILES / "predicted.json").read_text())


@pytest.mark.parametrize("name", PREDICTED)
def test_files_of_earlier_versions_give_the_numbers_that_were_written_with_them(name, water, tmp_path):
    predicted, x = PREDICTED[name], water[50].positions
    force_field = mlff.load(FILES / name)
    for _ in range(2):  # as it was read, and written anew
        energy, forces = force_field.energy_and_forces(x)
        assert energy == pytest.approx(predicted["energy"], abs=1e-10)
        np.testing.assert_allclose(forces, predicted["forces"], atol=1e-9)
        assert force_field.hessian(x)[0, 0] == pytest.approx(predicted["first of hessian"], abs=1e-8)
        assert force_field.record["n_train"] == 4
        force_field.save(tmp_path / name)
        force_field = mlff.load(tmp_path / name)


def test_header_is_json_and_arrays_are_safetensors(saved):
    assert set(load_file(saved)) >= {"model.parts.0.channels.0.points", "model.parts.0.channels.0.tangents", "numbers"}
    size = int.from_bytes(saved.read_bytes()[:8], "little")
    metadata = json.loads(saved.read_bytes()[8 : 8 + size])["__metadata__"]
    assert json.loads(metadata["header"])["units"] == {"energy": "eV", "length": "Å"}


def test_missing_descriptor_says_what_to_do(saved, water_model, tmp_path):
    script = tmp_path / "custom_descriptor.py"
    script.write_text(
        "from descriptors import inverse_distances\n\ndef mine(positions):\n    return inverse_distances(positions)\n"
    )
    fit = (
        "import mlff, custom_descriptor as c, sys\n"
        "data = mlff.Dataset.read(sys.argv[1], index=':10')\n"
        "mlff.fit(mlff.GlobalKernel(c.mine, mlff.Matern52(lengthscale=2.0)), data).save('custom.mlff')\n"
    )
    source = os.path.join(os.path.dirname(__file__), "..", "datasets", "water.extxyz")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, "-c", fit, source], cwd=tmp_path, check=True, env=environment)
    with pytest.raises(ValueError, match=r"custom_descriptor:mine cannot be imported.*put custom_descriptor\.py"):
        mlff.load(tmp_path / "custom.mlff", trusted=("custom_descriptor",))
    check = "import mlff; print(mlff.load('custom.mlff', trusted=('custom_descriptor',)).kernel.descriptor.name)"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=tmp_path, check=True, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "custom_descriptor:mine"
