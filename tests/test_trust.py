"""Names of functions in files: nothing is imported or run that the reader did not name."""

import functools
import json
import os
import pickle
import subprocess
import sys

import ase.io
import pytest
from test_altered import opened, replaced, signed

import mlff
from descriptors import inverse_distances
from mlff.trust import find_sources

WANTED = (
    "os:spawnvp",
    "mlff.potentials.model_files:os.system",
    "mlff.files:write_whole",
    "lying:f",
    "descriptors_more:f",
    "pathlib:Path.unlink",
)
MODULE = "import pathlib\npathlib.Path('MARK').touch()\ndef f(positions, **settings):\n    return positions.ravel()\n"
USES = {
    "load": "mlff.load('evil.mlff')",
    "calculator": "mlff.Calculator('evil.mlff')",
    "other module": "mlff.load('evil.mlff', trusted=('mine',))",
}


def naming(path, name, settings=()):
    """A model file that names a function and its settings, wherever it names one."""
    header, arrays = opened(path)
    for where in (("kernel", "descriptor"), ("model", "parts", 0, "kernel", "descriptor")):
        header = replaced(header, (*where, "function"), {"function": name})
        header = replaced(header, (*where, "settings"), list(settings))
    return header, arrays


@pytest.fixture
def evil(tmp_path, water_model):
    """A folder with modules that leave a mark when they are imported, and model files made to order."""
    for module in ("lying", "descriptors_more"):
        (tmp_path / f"{module}.py").write_text(MODULE)
    water_model.save(tmp_path / "m.mlff")

    def write(name, *settings):
        signed(tmp_path / "evil.mlff", *naming(tmp_path / "m.mlff", name, settings))
        return tmp_path

    return write


def python(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_names_of_a_stranger_are_refused_and_nothing_runs(evil):
    command = [["mode", 0], ["file", "touch"], ["args", ["touch", "MARK"]]]
    for name in WANTED:
        folder = evil(name, *command)
        uses = "\n".join(
            f"try:\n    {use}\n    sys.exit('loaded')\nexcept ValueError as error:\n    print(error)"
            for use in USES.values()
        )
        modules = "import sys, mlff, mlff.dynamics.calculator\nbefore = set(sys.modules)\n"
        done = python(folder, "-c", f"{modules}{uses}\nassert set(sys.modules) == before, set(sys.modules) - before")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("evil.mlff: ") == len(USES)
        assert done.stdout.count(name) >= len(USES)
        assert not (folder / "MARK").exists()


@pytest.mark.parametrize("command", [["show"], ["md", "--steps", "1"], ["test"]])
def test_the_commands_refuse_them_too(evil, command, datasets):
    folder = evil("lying:f")
    data = [str(datasets / "water.extxyz")] if command == ["test"] else []
    done = python(folder, "-m", "mlff", command[0], "evil.mlff", *data, *command[1:])
    assert done.returncode == 2
    assert "error: evil.mlff: wants lying:f, and to import a function runs the module" in done.stderr
    assert "trusted=('lying',) or --trust lying" in done.stderr
    assert not (folder / "MARK").exists()


def test_all_names_are_listed(evil):
    folder = evil("lying:f")
    header, arrays = opened(folder / "evil.mlff")
    signed(folder / "evil.mlff", {**header, "more": {"function": "other.place:g"}}, arrays)
    with pytest.raises(ValueError, match=r"wants lying:f, other\.place:g.*trusted=\('lying', 'other'\)"):
        mlff.load(folder / "evil.mlff")


def test_what_a_trusted_module_does_not_define_is_refused(tmp_path, monkeypatch):
    source = (
        "from os import system\nfrom descriptors import inverse_distances\nimport os\nclass C:\n    pass\nnumber = 1\n"
    )
    (tmp_path / "borrowing.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("system", "inverse_distances", "os", "C", "number", "absent"):
        with pytest.raises(ValueError, match=f"module borrowing defines no function {name}"):
            find_sources([f"borrowing:{name}"], [], ("borrowing",))
    for name in ("borrowing:os.system", "borrowing", "borrowing:", ":f", "a b:c", "..x:f"):
        with pytest.raises(ValueError, match=r"no package\.module:function"):
            find_sources([name], [], ("borrowing",))


def test_trust_is_a_tuple_of_modules_of_ones_own():
    with pytest.raises(ValueError, match=r"trusted=\('mine',\)"):
        find_sources([], [], "mine")
    for name in ("os", "mlff", "mlff.files"):
        with pytest.raises(ValueError, match=f"trusted: {name} holds no descriptors"):
            find_sources([], [], (name,))
    with pytest.raises(ValueError, match="no name of a module"):
        find_sources([], [], ("mine:f",))


def test_settings_are_checked_against_the_function(tmp_path, water_model):
    water_model.save(tmp_path / "m.mlff")
    function = {"function": "descriptors.soap:soap"}
    cases = {
        "has no argument 'file'": ["file", "x"],
        "comes from the frames": ["positions", 1],
        "expected a list": ["power", function],
    }
    for message, setting in cases.items():
        signed(tmp_path / "x.mlff", *naming(tmp_path / "m.mlff", "descriptors.distances:powered_distances", [setting]))
        with pytest.raises(ValueError, match=message):
            mlff.load(tmp_path / "x.mlff")


def mine(positions, *, scale=1.0):
    return scale * inverse_distances(positions)


def test_functions_handed_over_and_modules_named(tmp_path, water):
    force_field = mlff.fit(mlff.GlobalKernel(functools.partial(mine, scale=2.0), mlff.RBF(lengthscale=2.0)), water[:3])
    force_field.save(tmp_path / "m.mlff")
    name, x = f"{__name__}:mine", water[50].positions
    for word in ({"descriptors": {name: mine}}, {"trusted": (__name__,)}):
        assert mlff.load(tmp_path / "m.mlff", **word).energy(x) == force_field.energy(x)
        atoms = ase.Atoms(water[0].numbers, x, calculator=mlff.Calculator(tmp_path / "m.mlff", **word))
        assert atoms.get_potential_energy() == force_field.energy(x)
    with pytest.raises(ValueError, match=f"wants {name}"):
        mlff.load(tmp_path / "m.mlff", trusted=("other",))


def test_a_folder_of_the_same_name_is_not_ours(tmp_path, water_model):
    water_model.save(tmp_path / "m.mlff")
    (tmp_path / "descriptors").mkdir()
    (tmp_path / "descriptors" / "__init__.py").write_text(MODULE)
    done = python(tmp_path, "-m", "mlff", "show", "m.mlff")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "MARK").exists()


def test_the_console_script_finds_what_the_user_typed(tmp_path, datasets):
    """Where the current folder is no place for modules, a name that the user typed is found in it; one in a file is not."""
    (tmp_path / "mine.py").write_text(
        "from descriptors import inverse_distances\n\ndef screened(positions):\n    return inverse_distances(positions)\n"
    )
    data = str(datasets / "water.extxyz")
    script = "import sys\nfrom mlff.cli.main import main\nsys.argv[0] = 'mlff'\nassert '' not in sys.path\nmain()"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mlff").write_text(script)

    def command(*arguments):
        return python(tmp_path, "bin/mlff", *arguments)

    fit = command(
        "fit",
        data,
        "--frames",
        ":6",
        "--descriptor",
        "mine:screened",
        "--lengthscale",
        "2",
        "--out",
        "m.mlff",
        "--reach",
        "none",
    )
    assert fit.returncode == 0, fit.stderr
    assert "wants mine:screened" in command("show", "m.mlff").stderr
    shown = command("show", "m.mlff", "--json", "--trust", "mine")
    assert json.loads(shown.stdout)["descriptor"] == "mine:screened", shown.stderr
    audited = command("audit", "mine:screened", data, "--frames", ":2")
    assert audited.stdout.startswith("mine:screened on "), audited.stderr


class Mark:
    """Leaves a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("suffix", ["py", "pckl", "pickle", "traj", "db", "json", "npz", "bundle", "gpw", "xyz"])
def test_data_sets_run_nothing(tmp_path, suffix):
    mark, path = tmp_path / "MARK", tmp_path / f"x.{suffix}"
    pickled = pickle.dumps(Mark(mark))
    for content in (f"import os\nos.system('touch {mark}')\n".encode(), pickled, b"PickleTrajectory" + pickled):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"x\.{suffix}"):
            mlff.Dataset.read(path)
        assert not mark.exists()
