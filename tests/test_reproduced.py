"""Descriptors that changed since the fit: a model file is refused where its features are not those of a training frame."""

import functools
import importlib
import json
import sys

import numpy as np
import pytest
from test_altered import opened, replaced, signed

import mlff
from descriptors import acsf, inverse_distances
from mlff.cli import terminal
from mlff.cli.main import app, show

SOURCE = """import jax.numpy as jnp
from descriptors import inverse_distances

def screened(positions, *, decay=DECAY):
    return jnp.exp(-decay / inverse_distances(positions))
"""
CHANGED = r"descriptor mine:screened is not the one that the model was fitted with"


@pytest.fixture
def screened(tmp_path, monkeypatch):
    """Writes mine.py with some default and imports it anew; the function."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(decay):
        (tmp_path / "mine.py").write_text(SOURCE.replace("DECAY", decay))
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        importlib.invalidate_caches()
        return importlib.import_module("mine").screened

    return write


def test_a_changed_default_of_a_descriptor_is_refused(screened, water, datasets, tmp_path, monkeypatch, capsys):
    mlff.fit(mlff.GlobalKernel(screened("2.0"), mlff.RBF(lengthscale=0.3)), water[:3], noise=1e-3).save("m.mlff")
    mlff.load("m.mlff", trusted=("mine",))
    changed = screened("2.00001")
    with pytest.raises(ValueError, match=rf"m\.mlff: {CHANGED}.*restore it, or fit again"):
        mlff.load("m.mlff", trusted=("mine",))
    with pytest.raises(ValueError, match=CHANGED):
        mlff.load("m.mlff", descriptors={"mine:screened": changed})
    arguments = ["mlff", "test", "m.mlff", str(datasets / "water.extxyz"), "--frames", "900:", "--trust", "mine"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        terminal.run(app)
    assert ended.value.code == 2
    assert "descriptor mine:screened is not the one" in capsys.readouterr().err
    mlff.load("m.mlff", descriptors={"mine:screened": screened("2.0")})


@pytest.fixture(scope="module")
def stored(tmp_path_factory, water):
    """Header and arrays of a model of a molecule with permutations."""
    path = tmp_path_factory.mktemp("stored") / "w.mlff"
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0), mlff.find_permutations(water))
    mlff.fit(kernel, water[:3]).save(path)
    return opened(path)


PART = ("model", "parts", 0)
LENGTHSCALES = (("kernel", "radial", "lengthscale"), (*PART, "kernel", "radial", "lengthscale"))


@pytest.mark.parametrize(
    ("places", "value", "message"),
    [
        ([(*PART, "kernel", "radial", "class")], "Matern72", r"parts\.0\.kernel is not the kernel"),
        ([(*PART, "kernel", "radial", "class")], "RBF", r"parts\.0\.kernel is not the kernel"),
        (LENGTHSCALES, 3.001, "inverse_distances is not the one"),
    ],
)
def test_another_radial_function_or_length_scale_is_refused(places, value, message, stored, tmp_path):
    header, arrays = stored
    for place in places:
        header = replaced(header, place, value)
    signed(tmp_path / "m.mlff", header, arrays)
    with pytest.raises(ValueError, match=message):
        mlff.load(tmp_path / "m.mlff")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.parts.0.images", lambda images: np.sort(images, axis=1), "inverse_distances is not the one"),
        ("model.parts.0.channels.0.origin", lambda origin: origin + 0.1, "inverse_distances is not the one"),
        ("model.parts.0.channels.0.origin", lambda origin: origin + 1e-6, "inverse_distances is not the one"),
        ("kernel.permutations.residuals", lambda found: np.where(found > 0, np.nan, found), "residuals and support"),
        ("kernel.permutations.support", lambda found: found - 10**4, "residuals and support"),
    ],
)
def test_other_arrays_are_refused(name, change, message, stored, tmp_path):
    header, arrays = stored
    signed(tmp_path / "m.mlff", header, {**arrays, name: change(arrays[name])})
    with pytest.raises(ValueError, match=message):
        mlff.load(tmp_path / "m.mlff")


def test_a_key_that_stands_twice_is_refused(stored, tmp_path, monkeypatch):
    header, arrays = stored
    written = json.dumps(header)
    monkeypatch.setattr(json, "dumps", lambda _: written.replace('"label_order"', '"label_order": 2, "label_order"', 1))
    signed(tmp_path / "m.mlff", header, arrays)
    with pytest.raises(ValueError, match="no mlff model file"):
        mlff.load(tmp_path / "m.mlff")


def test_environments_of_products_are_looked_for_block_by_block(water, tmp_path):
    """A small block beside a large one: its length scale changed by one part in a thousand."""
    atoms = functools.partial(acsf, g2=((4.0, 1.0), (4.0, 2.0)), g4=(), g5=())
    factors = tuple(mlff.LocalKernel(atoms, mlff.RBF(lengthscale=scale)) for scale in (1.0, 1e4))
    mlff.fit(mlff.ProductKernel(factors), water[:2], noise=1e-2).save(tmp_path / "m.mlff")
    header, arrays = opened(tmp_path / "m.mlff")
    mlff.load(tmp_path / "m.mlff")
    for place in (("kernel",), (*PART, "kernel")):
        header = replaced(header, (*place, "factors", 1, "radial", "lengthscale"), 1.001e4)
    signed(tmp_path / "m.mlff", header, arrays)
    with pytest.raises(ValueError, match="acsf is not the one"):
        mlff.load(tmp_path / "m.mlff")


def test_what_a_file_says_of_its_source_is_shown_on_one_line(stored, tmp_path, capsys):
    header, arrays = stored
    signed(tmp_path / "m.mlff", replaced(header, ("record", "source"), "w.xyz\npermutations: order 6\x1b[2K"), arrays)
    show(tmp_path / "m.mlff")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("permutations")] == ["permutations: order 2"]
    assert lines[1].startswith("trained on 3 frames of w.xyz permutations: order 6 [2K (")
