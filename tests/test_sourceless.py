"""Models of scripts, notebooks and lambdas in model files: their compiled programs stand for what has no name."""

import json
import logging
import os
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
from test_altered import opened, replaced, signed

import mlff
from descriptors import inverse_distances
from mlff.cli.main import show

SCREENED = """
def screened(positions, *, decay=2.0):
    return jnp.exp(-decay / inverse_distances(positions))
"""
SCRIPT = f"""import json, sys
import jax.numpy as jnp
import mlff
from descriptors import inverse_distances
{SCREENED}
data = mlff.Dataset.read(sys.argv[1], index="::5")
force_field = mlff.fit(mlff.GlobalKernel(screened, mlff.Matern52(lengthscale=0.3)), data[:4], noise=1e-3)
force_field.save("m.mlff")
x = data[50].positions
print(json.dumps([force_field.energy(x), force_field.forces(x).tolist(), force_field.training_distance(x)]))
"""
MARKED = "import pathlib\npathlib.Path('MARK').touch()\n"


@pytest.fixture(scope="module")
def script(tmp_path_factory, datasets):
    """The folder of a model file that a script wrote, and what its force field said of frame 50."""
    folder = tmp_path_factory.mktemp("script")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(datasets / "water.extxyz")],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.fixture(scope="module")
def screened():
    space = {"__name__": "__main__"}
    exec("import jax.numpy as jnp\nfrom descriptors import inverse_distances\n" + SCREENED, space)
    return space["screened"]


def test_what_a_script_fitted_comes_back_whole_with_its_function(script, screened, water):
    folder, (energy, forces, _) = script
    loaded = mlff.load(folder / "m.mlff", descriptors={"__main__:screened": screened})
    assert loaded.energy(water[50].positions) == pytest.approx(energy, abs=1e-12)
    np.testing.assert_allclose(loaded.forces(water[50].positions), forces, atol=1e-10)
    again = mlff.fit(loaded.kernel, water[:4], noise=1e-3)
    assert again.energy(water[50].positions) == pytest.approx(energy, abs=1e-9)
    with pytest.raises(ValueError, match="is not the one that the model was fitted with"):
        mlff.load(folder / "m.mlff", descriptors={"__main__:screened": inverse_distances})


def test_without_its_function_the_programs_are_what_is_left(script, screened, water, caplog, capsys, tmp_path):
    folder, (energy, forces, distance) = script
    x = water[50].positions
    with caplog.at_level(logging.WARNING):
        loaded = mlff.load(folder / "m.mlff", trusted=("__main__",))
    assert "m.mlff: read as compiled programs, as the source of '__main__:screened' is not at hand" in caplog.text
    whole = mlff.load(folder / "m.mlff", descriptors={"__main__:screened": screened})
    assert loaded.energy(x) == pytest.approx(energy, abs=1e-12)
    np.testing.assert_allclose(loaded.forces(x), forces, atol=1e-10)
    np.testing.assert_allclose(loaded.hessian(x), whole.hessian(x), atol=1e-9)
    assert loaded.training_distance(x) == pytest.approx(distance, abs=1e-9)
    assert {**loaded.record, "export": None} == {**whole.record, "export": None}
    with pytest.raises(
        ValueError, match="derivative of order 3, and the exported program holds energy, forces and Hessian"
    ):
        loaded.force_constants(x, np.eye(9).reshape(9, 3, 3), 3)
    with pytest.raises(ValueError, match=r"read as compiled programs.*copy the file.*descriptors="):
        loaded.save(tmp_path / "n.mlff")
    assert loaded.kernel is None  # so that a fit says that there is nothing to fit again
    show(folder / "m.mlff", ["__main__"])
    shown = capsys.readouterr().out
    assert "trained on 4 frames of water.extxyz" in shown
    assert "permutations" not in shown
    assert "program of ForceField(H2O, __main__:screened, Matérn-5/2, 4 points)" in shown
    atoms = mlff.Dataset([water[50]])[0].system.to_ase()
    atoms.calc = mlff.Calculator(folder / "m.mlff", trusted=("__main__",))
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-12)


@pytest.mark.parametrize("trusted", [(), ("other",), ("main",)])
def test_one_sentence_says_both_ways(trusted, script):
    ways = (
        r"m\.mlff: wants '__main__:screened' of a script.*descriptors=\{'__main__:screened': …\}.*code, "
        r"trusted=\('__main__',\) or --trust '__main__'"
    )
    with pytest.raises(ValueError, match=ways) as refused:
        mlff.load(script[0] / "m.mlff", trusted=trusted)
    assert "\n" not in str(refused.value)


def test_lambdas_and_classes_within_functions(water, tmp_path):
    class Local(mlff.RBF):
        label: ClassVar[str] = "local"

    kernel = mlff.GlobalKernel(lambda positions: inverse_distances(positions), Local(lengthscale=2.0))
    force_field, x = mlff.fit(kernel, water[:3], noise=1e-3), water[50].positions
    force_field.save(tmp_path / "m.mlff")
    function, name = kernel.descriptor.function, f"{__name__}:{Local.__qualname__}"
    given = {kernel.descriptor.name: function, name: Local}
    assert mlff.load(tmp_path / "m.mlff", descriptors=given).energy(x) == force_field.energy(x)
    program = mlff.load(tmp_path / "m.mlff", trusted=(__name__,))
    assert program.kernel is None
    assert program.energy(x) == pytest.approx(force_field.energy(x), abs=1e-12)
    with pytest.raises(ValueError, match=rf"wants '{name}'"):
        mlff.load(tmp_path / "m.mlff", descriptors={kernel.descriptor.name: function})


def test_where_no_program_can_stand_for_it_the_remedy_is_said(water, ethanol, silicon_model, tmp_path):
    def local(positions, numbers, cell=None, *, cutoff=0.0):
        raise AssertionError

    periodic = silicon_model.kernel.descriptor.replace(function=local)
    crystal = silicon_model.replace(kernel=silicon_model.kernel.replace(descriptor=periodic))
    several = crystal.replace(numbers=None, record={**crystal.record, "periodic": False})
    for force_field, reason in ((crystal, "periodic frames"), (several, "several compositions")):
        with pytest.raises(
            ValueError, match=rf"local.* cannot be found again.*{reason}; define it with def or class at the top"
        ):
            force_field.save(tmp_path / "m.mlff")
    assert not list(tmp_path.iterdir())


def altered(folder, path, **changes):
    header, arrays = opened(folder / "m.mlff")
    for place, value in changes.get("header", {}).items():
        header = replaced(header, place, value)
    signed(path, header, {**arrays, **changes.get("arrays", {})})


def test_programs_of_a_stranger_are_not_even_read(script, tmp_path):
    """Nor is anything imported; what is left of a damaged or foreign program is a sentence."""
    (tmp_path / "evil.py").write_text(MARKED)
    place = {(*where, "function"): {"function": "evil:<lambda>"} for where in
             (("kernel", "descriptor"), ("model", "parts", 0, "kernel", "descriptor"))}  # fmt: skip
    altered(script[0], tmp_path / "m.mlff", header=place, arrays={"program": np.zeros(9, np.uint8)})
    code = (
        "import sys, mlff, mlff.dynamics.calculator\nbefore = set(sys.modules)\n"
        "for trusted in ((), ('mine',), ('__main__',), ('evil',)):\n"
        "    try:\n        mlff.load('m.mlff', trusted=trusted)\n        sys.exit('loaded')\n"
        "    except ValueError as error:\n        print(error)\n"
        "assert set(sys.modules) == before, set(sys.modules) - before"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.startswith("m.mlff: wants 'evil:<lambda>' of a script") for line in lines] == [True] * 3 + [False]
    assert lines[3].startswith("m.mlff: no exported force field, or a damaged one")
    assert not (tmp_path / "MARK").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrays": {"program": np.zeros(4)}}, r"header\.program is .*expected a byte array"),
        ({"arrays": {"numbers": np.array([8, 1, 2])}}, "numbers and those of its program are of different molecules"),
        ({"header": {("program",): None}}, r"header\.program is None"),
        ({"header": {("program",): ...}}, "holds no program to stand for it"),
        ({"header": {("record",): {"n_train": -1}}}, "record has no units"),
        ({"header": {("more",): 1}}, "has 'more', which is not known"),
    ],
)
def test_altered_files_are_refused(changes, message, script, tmp_path):
    altered(script[0], tmp_path / "m.mlff", **changes)
    with pytest.raises(ValueError, match=rf"m\.mlff: .*{message}"):
        mlff.load(tmp_path / "m.mlff", trusted=("__main__",))


def test_names_that_nobody_checked_stay_on_one_line(script, tmp_path):
    place = {("kernel", "descriptor", "function"): {"function": "a:b\nerror: c\x1b[2K"}}
    altered(script[0], tmp_path / "m.mlff", header=place)
    with pytest.raises(ValueError, match=r"wants .*'a:b\\nerror: c\\x1b\[2K'") as refused:
        mlff.load(tmp_path / "m.mlff")
    assert str(refused.value).isprintable()


def test_a_module_that_holds_no_descriptors_is_trusted_for_nothing(script, tmp_path):
    place = {(*where, "function"): {"function": "os:<lambda>"} for where in
             (("kernel", "descriptor"), ("model", "parts", 0, "kernel", "descriptor"))}  # fmt: skip
    altered(script[0], tmp_path / "m.mlff", header=place)
    with pytest.raises(ValueError, match="trusted: os holds no descriptors"):
        mlff.load(tmp_path / "m.mlff", trusted=("os",))
