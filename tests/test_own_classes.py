"""Classes of users in model files: saved by name, found again where the reader trusts them, and nothing else is."""

import os
import subprocess
import sys
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from test_altered import opened, replaced, signed

import mlff
from descriptors import inverse_distances
from mlff.archive import encode
from mlff.kernels.radial import Radial
from mlff.potentials.stored import REGISTRY

RADIAL = (("kernel", "radial"), ("model", "parts", 0, "kernel", "radial"))


class Cauchy(Radial):
    """f = w/(1 + s) + (1 − w) e^{−s/2}, with a share w, a shape that is no hyperparameter and a word."""

    share: float = 0.5
    weights: tuple[int, ...] = struct.field(pytree_node=False, default=(1,))
    word: str | None = struct.field(pytree_node=False, default=None)

    order: ClassVar[float] = np.inf
    label: ClassVar[str] = "Cauchy"

    def value(self, s):
        return self.share / (1.0 + s) + (1.0 - self.share) * jnp.exp(-0.5 * s)


class Steeper(mlff.Matern52):
    """An own class derived from one of the library's."""

    label: ClassVar[str] = "steeper"

    def value(self, s):
        return super().value(1.5 * s)


class Molecule(mlff.GlobalKernel):
    """An own kernel."""

    remark: str | None = struct.field(pytree_node=False, default=None)


class Stranger:
    """Derived from nothing that a model file holds."""

    def __init__(self, **fields):
        raise AssertionError("was made")


def fitted(radial, water, kernel=mlff.GlobalKernel, **fields):
    return mlff.fit(kernel(inverse_distances, radial, **fields), water[:3], noise=1e-3)


@pytest.fixture(scope="module")
def saved(water, tmp_path_factory):
    """A force field with a radial function of one's own, its file, header and arrays."""
    path = tmp_path_factory.mktemp("own") / "m.mlff"
    force_field = fitted(Cauchy(lengthscale=3.0, share=0.75, weights=(1, 2), word="ä"), water)
    force_field.save(path)
    return force_field, path, *opened(path)


def test_a_radial_function_of_ones_own_comes_back(saved, water):
    force_field, path, header, _ = saved
    name, x = f"{__name__}:Cauchy", water[50].positions
    assert header["kernel"]["radial"]["class"] == name
    for word in ({"trusted": (__name__,)}, {"descriptors": {name: Cauchy}}):
        loaded = mlff.load(path, **word)
        assert loaded.energy(x) == force_field.energy(x)
        np.testing.assert_array_equal(loaded.hessian(x), force_field.hessian(x))
        radial = loaded.kernel.radial
        assert (type(radial), radial.share, radial.weights, radial.word) == (Cauchy, 0.75, (1, 2), "ä")
    with pytest.raises(ValueError, match=rf"m\.mlff: wants {name}, and to import .* hand them over, descriptors="):
        mlff.load(path)


@pytest.mark.parametrize("kernel", [mlff.GlobalKernel, Molecule])
def test_classes_derived_from_those_of_the_library(kernel, water, tmp_path):
    fields = {"remark": "own"} if kernel is Molecule else {}
    force_field = fitted(Steeper(lengthscale=3.0), water, kernel, **fields)
    force_field.save(tmp_path / "m.mlff")
    loaded = mlff.load(tmp_path / "m.mlff", trusted=(__name__,))
    assert type(loaded.kernel) is kernel
    assert loaded.energy(water[50].positions) == force_field.energy(water[50].positions)


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:Popen", "mlff.kernels.radial:Product", "evil:Hostile", "evil.inner:Hostile"]
)
def test_classes_of_a_stranger_are_refused_and_nothing_runs(name, saved, tmp_path):
    """A class whose constructor, and whose module, leave a mark; one that runs commands."""
    _, _, header, arrays = saved
    mark = "import pathlib\npathlib.Path('MARK').touch()\n"
    (tmp_path / "evil.py").write_text(
        f"{mark}class Hostile:\n    def __init__(self, **_):\n        pathlib.Path('MARK').touch()\n"
    )
    for place in RADIAL:
        header = replaced(header, (*place, "class"), name)
        header = replaced(replaced(header, (*place, "args"), ["touch", "MARK"]), (*place, "share"), "touch MARK")
    signed(tmp_path / "m.mlff", header, arrays)
    script = (
        "import sys, mlff, mlff.dynamics.calculator\nbefore = set(sys.modules)\n"
        "for trusted in ((), ('mine',)):\n"
        "    try:\n        mlff.load('m.mlff', trusted=trusted)\n        sys.exit('loaded')\n"
        "    except ValueError as error:\n        print(error)\n"
        "assert set(sys.modules) == before, set(sys.modules) - before"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"m.mlff: wants {name}") == 2
    assert not (tmp_path / "MARK").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Stranger", "expected a class derived from one of Radial, GlobalKernel, LocalKernel, Potential"),
        ("Radial", "defines no class Radial"),
        ("fitted", "defines no class fitted"),
        ("absent", "defines no class absent"),
        ("Stranger.__init__", "which no module defines at its top level"),
        ("Molecule", r"radial is .*, expected Radial"),
    ],
)
def test_what_a_trusted_module_has_is_not_all_taken(name, message, saved, tmp_path):
    """Classes of another kind, imported ones, functions, and a kernel in the place of a radial function."""
    _, _, header, arrays = saved
    inner = {"lengthscale": 3.0}
    if name == "Molecule":
        inner = {**header["kernel"], "radial": {"class": "RBF", "lengthscale": 3.0}, "remark": None}
    for place in RADIAL:
        header = replaced(header, place, {**inner, "class": f"{__name__}:{name}"})
    signed(tmp_path / "m.mlff", header, arrays)
    with pytest.raises(ValueError, match=rf"m\.mlff: .*{message}"):
        mlff.load(tmp_path / "m.mlff", trusted=(__name__,))


@pytest.mark.parametrize("handed_over", [Stranger, fitted])
def test_what_is_handed_over_has_to_be_a_class_that_files_hold(handed_over, saved):
    with pytest.raises(ValueError, match="expected a class derived from one of Radial"):
        mlff.load(saved[1], descriptors={f"{__name__}:Cauchy": handed_over})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lengthscale", -3.0, "lengthscale is -3.0, expected a positive"),
        ("lengthscale", "3", "lengthscale is '3', expected a positive"),
        ("share", float("nan"), "share is nan, expected data: finite numbers"),
        ("share", [1.0, float("inf")], r"share is \(1.0, inf\), expected data"),
        ("weights", {"array": "model.constants"}, "which no model file holds"),
        ("word", ..., "has no word, expected data"),
        ("more", 1, "has 'more', which is not known"),
        ("__init__", 1, "has '__init__', which is not known"),
    ],
)
def test_hostile_fields_are_refused(field, value, message, saved, tmp_path):
    """Of a user's class as of the library's."""
    _, _, header, arrays = saved
    signed(tmp_path / "m.mlff", replaced(header, (*RADIAL[0], field), value), arrays)
    with pytest.raises(ValueError, match=rf"m\.mlff: kernel\.radial.*{message}"):
        mlff.load(tmp_path / "m.mlff", trusted=(__name__,))


@pytest.mark.parametrize(("field", "value"), [("lengthscale", -1.0), ("alpha", 1.0), ("value", "os:system")])
def test_hostile_fields_of_a_registered_name_are_refused(field, value, saved, tmp_path):
    _, _, header, arrays = saved
    radial = {"class": "RBF", "lengthscale": 3.0, field: value}
    signed(tmp_path / "m.mlff", replaced(header, RADIAL[0], radial), arrays)
    with pytest.raises(ValueError, match=rf"m\.mlff: kernel\.radial.*{field}"):
        mlff.load(tmp_path / "m.mlff", trusted=(__name__,))


@pytest.mark.parametrize("value", [object(), 1j, {1: 2.0}, {3.0}])
def test_what_no_file_can_hold_is_refused_in_a_sentence(value):
    with pytest.raises(ValueError, match=r"kernel\.share is .* which a model file cannot hold; expected numbers, text"):
        encode(Cauchy(lengthscale=1.0, share=value), "kernel", {}, REGISTRY)
