"""Data sets and fitted models that several tests look at; nothing here is changed by a test."""

import os
import pathlib

os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"  # read when JAX is imported, here and in the tests' processes
# threads of GFN2-xTB that spin take 30 times as long beside another worker
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import gc
import tempfile

import ase.build
import jax
import jaxtyping
import numpy as np
import psutil
import pytest
from ase import Atoms
from ase.calculators.tersoff import Tersoff, TersoffParameters
from moments import moments

checked, known = jaxtyping.jaxtyped, set()


def checked_once(**options):
    """Annotations of a function inside of another are checked the first time that it is defined: checks that were made anew with every
    call of the outer one took a quarter of all time."""

    def decorated(defined):
        code = getattr(defined, "__code__", None)
        if code is not None and "<locals>" in defined.__qualname__:
            if (place := (code.co_filename, code.co_firstlineno)) in known:
                return defined
            known.add(place)
        return checked(**options)(defined)

    return decorated


jaxtyping.jaxtyped = checked_once  # before the library is imported

import mlff
from descriptors import inverse_distances
from mlff.compiling import UNOPTIMISED, known_options

CROWDED = 1.5e9  # bytes of a process, above which compiled functions are given up

DATASETS = pathlib.Path(__file__).parent.parent / "datasets"


def pytest_configure(config):
    """What workers and the processes that they start compile, they compile quickly, and once for all of them.

    Quickly is by the options that the library takes for most of its functions, and with as little optimisation as there is; thorough
    tests have each function compiled as users have it.
    """
    if not hasattr(config, "workerinput"):
        if "not thorough" in config.option.markexpr:
            add_flags(UNOPTIMISED)  # first: to ask what is known sets XLA up, in this process too
            add_flags(known_options())
        folder = tempfile.TemporaryDirectory(prefix="compiled-")
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


def add_flags(options: dict) -> None:
    flags = [f"--{name}={str(value).lower()}" for name, value in options.items()]
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Compiled functions of a module are rarely those of the next: without this a process grows to several gigabytes."""
    yield
    if psutil.Process().memory_info().rss > CROWDED:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def datasets() -> pathlib.Path:
    return DATASETS


@pytest.fixture(scope="session")
def ethanol() -> mlff.Dataset:
    return mlff.Dataset.read(DATASETS / "ethanol.extxyz", index="::10")


@pytest.fixture(scope="session")
def water() -> mlff.Dataset:
    return mlff.Dataset.read(DATASETS / "water.extxyz", index="::5")


@pytest.fixture(scope="session")
def ethanol_model(ethanol) -> mlff.ForceField:
    train, _ = ethanol.split(60, 100, seed=1)
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=10.0), mlff.find_permutations(ethanol))
    return mlff.fit(kernel, train)


@pytest.fixture(scope="session")
def water_model(water) -> mlff.ForceField:
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0), mlff.find_permutations(water))
    return mlff.fit(kernel, water[:40])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def silicon() -> Atoms:
    """Diamond-structured silicon at rest, two atoms, with Tersoff's potential.

    Source: Tersoff, Phys. Rev. B 38, 9902 (1988), doi 10.1103/PhysRevB.38.9902.
    """
    parameters = TersoffParameters(
        A=1830.8, B=471.18, lambda1=2.4799, lambda2=1.7322, lambda3=0.0, beta=1.1e-6, n=0.78734, c=1.0039e5, d=16.217,
        h=-0.59825, R=2.85, D=0.15, m=3.0, gamma=1.0,
    )  # fmt: skip
    atoms = ase.build.bulk("Si", a=5.432)
    atoms.calc = Tersoff({("Si", "Si", "Si"): parameters})
    return atoms


@pytest.fixture(scope="session")
def silicon_model(silicon) -> mlff.ForceField:
    """Of shaken and strained cells of eight atoms."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(20):
        atoms, strain = ase.build.bulk("Si", cubic=True, a=5.432), 0.02 * rng.standard_normal((3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.rattle(0.05, rng=rng)
        atoms.calc = silicon.calc
        system = mlff.System(atoms.positions, atoms.numbers, atoms.cell.array, np.ones(3, bool))
        frames.append(mlff.Frame(system, {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}))
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=3.0))
    noise = {"energy": 1e-3, "forces": 3e-3}
    return mlff.fit(kernel, mlff.Dataset(frames), labels=("energy", "forces"), noise=noise)
