"""Data flows one way: wings import downwards, descriptors know nothing of mlff, JAX's settings stay the user's."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# floors of the house, from below; what stands on one floor does not know of its neighbours there
FLOORS = (
    ("data",), ("kernels",), ("potentials",), ("regression", "dynamics"), ("properties", "quality", "workflows"), ("cli",),
)  # fmt: skip
FLOOR = {wing: height for height, wings in enumerate(FLOORS, start=1) for wing in wings}
FOUNDATION = ""  # the files beside the wings, on which all of them stand
CALLED_LATER = {("potentials.force_field", "potentials.model_files"), ("potentials.force_field", "potentials.exported")}
MAY_IMPORT_ASE = {"units", "data", "dynamics", "properties", "quality", "workflows", "cli"}
DESCRIPTORS_MAY_IMPORT = {"jax", "numpy", "jaxtyping", "flax", "descriptors", *sys.stdlib_module_names}


def imported(path: pathlib.Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules() -> dict[str, pathlib.Path]:
    paths = (path.relative_to(ROOT / "mlff") for path in (ROOT / "mlff").rglob("*.py"))
    return {
        ".".join(path.with_suffix("").parts): ROOT / "mlff" / path
        for path in sorted(paths)
        if path.name not in ("__init__.py", "__main__.py")
    }


MODULES = modules()


def wing(module: str) -> str:
    return module.partition(".")[0] if "." in module else FOUNDATION


def uses(module: str) -> set[str]:
    """The modules of ours that a module imports."""
    return {other.removeprefix("mlff.") for other in imported(MODULES[module]) if other.startswith("mlff.")} & set(
        MODULES
    )


def test_every_folder_is_a_wing():
    folders = {path.name for path in (ROOT / "mlff").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FLOOR)


@pytest.mark.parametrize("module", MODULES)
def test_wings_import_downwards(module):
    for other in uses(module):
        here, there = wing(module), wing(other)
        if here != there:
            reached = 0 if there == FOUNDATION else FLOOR[there]
            assert reached < FLOOR.get(here, 0), f"{module} imports {other}, which lies above or beside it"


def test_there_is_no_circle():
    waiting = {
        module: {other for other in uses(module) if (module, other) not in CALLED_LATER} - {module}
        for module in MODULES
    }
    while free := {module for module, others in waiting.items() if not others & set(waiting)}:
        waiting = {module: others for module, others in waiting.items() if module not in free}
    assert not waiting, f"these import each other in a circle: {', '.join(waiting)}"


def test_ase_stays_at_the_edge():
    for module, path in MODULES.items():
        if any(other.split(".")[0] == "ase" for other in imported(path)):
            assert (wing(module) or module) in MAY_IMPORT_ASE, f"{module} imports ase"


def test_descriptors_know_nothing_of_us():
    for path in (ROOT / "descriptors").glob("*.py"):
        foreign = {name.split(".")[0] for name in imported(path)} - DESCRIPTORS_MAY_IMPORT
        assert not foreign, f"{path.name} imports {foreign}"


def test_importing_and_using_changes_no_jax_setting():
    code = f"""
import importlib, jax, numpy as np
before = dict(jax.config.values)
import mlff, descriptors
for name in {list(MODULES)!r}:
    importlib.import_module("mlff." + name)
for name in mlff.__all__:
    getattr(mlff, name)
data = mlff.Dataset.read({str(ROOT / "datasets" / "water.extxyz")!r}, index=":12")
force_field = mlff.fit(mlff.GlobalKernel(descriptors.inverse_distances, mlff.Matern52()), data)
energy, forces = force_field.energy_and_forces(data[0].positions)
assert forces.dtype == np.float64 and force_field.hessian(data[0].positions).dtype == np.float64
assert dict(jax.config.values) == before and not jax.config.jax_enable_x64
assert jax.numpy.ones(3).dtype == np.float32
print("untouched")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "untouched", done.stderr


def test_import_is_lazy():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, mlff; print('jax' in sys.modules, mlff.__version__)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("False ")
