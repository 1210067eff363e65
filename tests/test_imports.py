"""Data flows one way: nothing imports upwards, descriptors know nothing of mlff, JAX's settings stay the user's."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
ORDER = [
    "arguments", "files", "trust", "expected", "precision", "batching", "units", "cells", "system",
    "frames", "content", "ase_labels", "npz", "readers", "identity", "placeholders", "checks", "dataset", "labelled", "neighbors",
    "linalg.tiles", "linalg.threads",
    "bonds", "symmetry", "radial", "descriptor", "kernels", "images", "exchange", "operators", "rows",
    "expansion", "coverage", "gram", "second_order", "hessians", "labels", "terms", "carried", "solve", "functions",
    "derivatives", "prepared", "requests", "force_field", "record", "stored", "reproduced", "archive", "sgdml", "export",
    "hyperparameters", "predictions", "metrics", "slopes", "fitting",
    "calculator", "motion", "vibrations", "modes", "anharmonic", "elasticity", "phonons",
    "rounding", "relaxation", "responses", "thermochemistry", "bands", "reactions", "checkpoints", "md",
    "selfcheck", "report", "learned", "recipes",
    "auditing.findings", "auditing.probes", "auditing.places", "auditing.crossings", "auditing.invariance",
    "auditing.numerics", "auditing.sight", "auditing.smoothness", "auditing.audit",
    "stages", "wording", "terminal", "options", "cli_fit", "cli_md", "cli", "__main__",
]  # fmt: skip
CALLED_LATER = {("force_field", "archive"), ("force_field", "export")}
MAY_IMPORT_ASE = {
    "units",
    "system",
    "frames",
    "ase_labels",
    "npz",
    "readers",
    "checks",
    "dataset",
    "calculator",
    "motion",
    "vibrations",
    "modes",
    "anharmonic",
    "elasticity",
    "phonons",
    "relaxation",
    "responses",
    "thermochemistry",
    "bands",
    "reactions",
    "checkpoints",
    "md",
    "selfcheck",
    "cli_md",
}
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


def modules():
    for path in sorted((ROOT / "mlff").rglob("*.py")):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(ROOT / "mlff").with_suffix("").parts), path


def test_every_module_has_its_place():
    assert {name for name, _ in modules()} == set(ORDER)


def test_nothing_imports_upwards():
    for name, path in modules():
        for other in imported(path):
            target = other.removeprefix("mlff.")
            # archive and export are used by methods of ForceField, at call time
            if other.startswith("mlff.") and target in ORDER and (name, target) not in CALLED_LATER:
                assert ORDER.index(target) < ORDER.index(name), f"{name} imports {target}, which lies above it"


def test_ase_stays_at_the_edge():
    for name, path in modules():
        if any(other.split(".")[0] == "ase" for other in imported(path)):
            assert name in MAY_IMPORT_ASE, f"{name} imports ase"


def test_descriptors_know_nothing_of_us():
    for path in (ROOT / "descriptors").glob("*.py"):
        foreign = {name.split(".")[0] for name in imported(path)} - DESCRIPTORS_MAY_IMPORT
        assert not foreign, f"{path.name} imports {foreign}"


def test_importing_and_using_changes_no_jax_setting():
    code = f"""
import importlib, jax, numpy as np
before = dict(jax.config.values)
import mlff, descriptors
for name in {ORDER!r}:
    if name != "__main__":
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
