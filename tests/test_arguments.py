"""Numbers and seeds: what is none is refused, by one function each."""

import subprocess
import sys

import numpy as np
import pytest

from descriptors import inverse_distances
from mlff import GlobalKernel, Matern52, RationalQuadratic
from mlff.arguments import bytes_of, checked_seed, is_number, require_positive
from mlff.data.batches import LabelledFrames
from mlff.operators import FORCES
from mlff.regression.requests import noise_levels


@pytest.mark.parametrize("seed", [-1, True, 1.0, "1", None, 2**63, np.int64(-3)])
def test_what_is_no_seed(seed):
    with pytest.raises(ValueError, match=r"seed=.* must be an integer from 0 to 2\*\*63 - 1"):
        checked_seed(seed)


def test_seeds():
    assert [checked_seed(seed) for seed in (0, np.int64(5), 2**63 - 1)] == [0, 5, 2**63 - 1]


def test_truth_is_no_number():
    with pytest.raises(ValueError, match="lengthscale=True must be a positive number"):
        require_positive("lengthscale", True)
    assert [is_number(value) for value in (1, 1.5, np.float32(2), True, np.True_, "1", None)] == [True] * 3 + [
        False
    ] * 4


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("8GB", 8 * 10**9), ("500MB", 5 * 10**8), ("2GiB", 2**31), ("1.5 gib", 3 * 2**29), (" 64kB ", 64000), ("8G", 8 * 10**9),
        ("2Ti", 2**41), ("17", 17), ("17B", 17), (4096, 4096), (np.int64(5), 5), (2e9, 2 * 10**9), (".5k", 500),
    ],
)  # fmt: skip
def test_sizes(size, expected):
    found = bytes_of(size)
    assert found == expected
    assert type(found) is int


@pytest.mark.parametrize(
    "size", ["", "GB", "8 apples", "-1GB", "0", 0, -5, 1.5, "8iB", "1e9", True, None, np.inf, "nan"]
)
def test_what_is_no_size(size):
    with pytest.raises(ValueError, match=r"memory=.* must be a size in bytes, such as 8GB, 500MB, 2GiB"):
        bytes_of(size)


@pytest.mark.parametrize("value", [1e300, 1e-300, np.array([1.0, np.inf]), np.nan, -1.0])
def test_length_scales_amplitudes_and_exponents(value):
    with pytest.raises(ValueError, match=r"lengthscale=.* must be"):
        Matern52(lengthscale=value)
    if np.ndim(value) == 0:
        with pytest.raises(ValueError, match=r"amplitude=.* must be .*eV², or None"):
            GlobalKernel(inverse_distances, Matern52(), amplitude=value)
        with pytest.raises(ValueError, match=r"alpha=.* must be"):
            RationalQuadratic(lengthscale=1.0, alpha=value)


@pytest.mark.parametrize("level", [True, np.True_, 1e300, -1e-3, np.nan])
def test_noise(level, water):
    frames = LabelledFrames.of(water[:2])
    with pytest.raises(ValueError, match=r"noise: forces .* must be a standard deviation in eV/Å"):
        noise_levels(level, frames, {"forces": FORCES})
    with pytest.raises(ValueError, match=r"noise: forces .* must be a standard deviation in eV/Å"):
        noise_levels({"forces": level}, frames, {"forces": FORCES})
    assert noise_levels(0.1, frames, {"forces": FORCES}) == {"forces": 0.1}


def test_splits_take_no_other(water):
    with pytest.raises(ValueError, match="seed=-1 must be"):
        water.split(3, seed=-1)


WRONG = """
import numpy as np, jax.numpy as jnp, mlff
from descriptors import inverse_distances as f, acsf
from mlff import *
water = Dataset.read("{data}", index=":4")
kernel = GlobalKernel(f, Matern52(lengthscale=3.0))
local = LocalKernel(acsf, Matern52(lengthscale=3.0))
for wrong in {wrong!r}:
    try:
        eval(wrong)
        print("taken")
    except ValueError as error:
        print(error)
for noise in (np.array(1e-3), jnp.asarray(1e-3), {{"forces": np.array(1e-3)}}):
    print(fit(kernel, water, noise=noise).record["noise"])
"""
SENTENCES = {
    "fit(water, kernel)": "model: expected a kernel, received a Dataset",
    "fit(None, water)": "model: expected a kernel, received None; a force field read as compiled programs .* descriptors={",
    "fit(f, water)": "write fit(GlobalKernel(inverse_distances, Matern52()), data)",
    "fit(kernel, water.frames)": "data: expected a Dataset, received a ",
    "fit(kernel, 'water.extxyz')": "data: expected a Dataset, received a str; Dataset.read(path)",
    "recipe('sgdml', water[0].to_ase())": "data: expected a Dataset, received a Atoms; Dataset.read(path)",
    "find_permutations(water.frames)": "data: expected a Dataset, received a tuple",
    "distilled('emt', water[0].to_ase())": "data: expected a Dataset, received a Atoms",
    "reduced(local, water.frames)": "data: expected a Dataset, received a tuple",
    "evaluate(fit(kernel, water), water.frames)": "data: expected a Dataset, received a tuple",
    "inspect(water.frames)": "data: expected a Dataset, received a tuple",
    "sampled(mlff.Calculator(fit(kernel, water)), [])": "data: expected frames to start from",
    "sampled(mlff.Calculator(fit(kernel, water)), 3)": "data: expected frames to start from",
    "GlobalKernel(f, Matern52)": "radial: expected a radial function, .* received the class Matern52",
    "LocalKernel(acsf, None)": "radial: expected a radial function, .* received None",
    "GlobalKernel('inverse_distances', Matern52())": "descriptor='inverse_distances' must be a function of positions",
    "fit(kernel, water, noise='1e-3')": "noise='1e-3' must be a number, 0.001, or numbers by label, {'forces': 0.001}",
    "fit(kernel, water, noise=[1e-3])": "noise=[0.001] must be a number",
    "fit(kernel, water, noise=np.array([1e-3, 1.0]))": "noise=array([0.001, 1. ",
    "fit(kernel, water, noise={'forces': '1e-3'})": "noise: forces 1e-3 must be a standard deviation",
    "fit(kernel, water, labels=3)": "labels=3 must be names of labels",
    "fit(kernel, water, labels=(3,))": "labels: 3 is not known",
    "Matern52(lengthscale='5')": "lengthscale='5' must be a positive number",
    "Matern52(lengthscale=5+0j)": "lengthscale=(5+0j) must be a positive number",
    "Matern52(lengthscale=np.array(['5']))": "must be a positive number",
    "GlobalKernel(f, Matern52(), amplitude=np.array([1.0, 2.0]))": "amplitude=array([1., 2.]) must be one number, eV²",
    "GlobalKernel(f, Matern52(), amplitude='1')": "amplitude='1' must be a positive number, eV²",
    "GlobalKernel(f, Matern52(), 'abc')": "permutations='abc' must be index arrays",
    "GlobalKernel(f, Matern52(), [0, 2, 1])": "permutations: give index arrays of one length",
    "LocalKernel(acsf, Matern52(), elements=[1, 8, 200])": "elements=[1, 8, 200] must be atomic numbers",
    "LocalKernel(acsf, Matern52(), elements=8)": "elements=8 must be atomic numbers",
    "fit(local, water, 'energy', atomic_energies=[-13.0, -70.0])": "atomic_energies=[-13.0, -70.0] must be energies by symbol",
    "fit(local, water, 'energy', atomic_energies={'H': 1j, 'O': -70.0})": "atomic_energies: that of H is 1j; give a number",
    "fit(local, water, 'energy', atomic_energies={'H': '1', 'O': -70.0})": "atomic_energies: that of H is 1; give a number",
    "load(None)": "path=None must be the name of a file",
    "load('.')": ".: is a folder; name a file in it",
    "mlff.files.write_whole('.', b'')": ".: is a folder; name a file in it",
    "mlff.potentials.arguments.coordinates(water[0].to_ase())": "received Atoms; give atoms.positions",
}


def test_what_is_no_such_argument_is_one_sentence(datasets, tmp_path):
    """In a process of its own: the tests' own checks of signatures would be first."""
    program = WRONG.format(data=datasets / "water.extxyz", wrong=list(SENTENCES))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *said, zero, one, two = done.stdout.splitlines()
    for (wrong, expected), sentence in zip(SENTENCES.items(), said, strict=True):
        for part in expected.split(".* "):
            assert part in sentence, wrong
    assert zero == two == "{'forces': 0.001}"
    assert one.startswith("{'forces': 0.00100000")
