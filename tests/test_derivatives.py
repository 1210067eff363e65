"""Derivatives of any order: against central differences of lower ones, and in how much memory."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import mlff
from descriptors import inverse_distances
from mlff.potentials.derivatives import symmetric_tensor, unordered_choices

SYNTHETIC = """
import functools, pathlib
import numpy as np
import mlff
from descriptors import acsf
from mlff.potentials.expansion import Channel, Expansion, Part

atoms, points = 100, 400
rng = np.random.default_rng(0)
grid = np.stack(np.meshgrid(*[np.arange(5)] * 3), axis=-1).reshape(-1, 3)[:atoms]
positions = 2.4 * grid + 0.1 * rng.standard_normal((atoms, 3))
numbers = np.full(atoms, 18)
descriptor = functools.partial(acsf, cutoff=4.0)
kernel = mlff.LocalKernel(descriptor, mlff.RBF(lengthscale=5.0)).completed(numbers)
features = 22
channel = Channel.build(
    *(rng.standard_normal((points, features)) for _ in range(2)), rng.standard_normal(points), (features,)
)
model = Expansion((Part(kernel.bare(), (channel,), None, (features,)),), np.zeros(1))
force_field = mlff.ForceField(model, numbers, kernel)
forces = force_field.forces(positions)
hessian = force_field.hessian(positions)
status = pathlib.Path("/proc/self/status").read_text()  # getrusage would count the parent
peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
d = rng.standard_normal(positions.shape)
step = 1e-4
numeric = (force_field.forces(positions - step * d) - force_field.forces(positions + step * d)).ravel() / (2 * step)
print(peak, np.abs(hessian @ d.ravel() - numeric).max() / np.abs(numeric).max())
"""


@pytest.fixture(scope="module")
def smooth(water):
    """A model of water that has derivatives of every order."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=1.5), mlff.find_permutations(water))
    return mlff.fit(kernel, water[:20], noise=0.02)


def test_products_are_force_differences(ethanol_model, ethanol, rng):
    x, vectors = ethanol[7].positions, rng.standard_normal((5, 9, 3))
    step = 1e-4
    numeric = [(ethanol_model.forces(x - step * v) - ethanol_model.forces(x + step * v)) / (2 * step) for v in vectors]
    products = ethanol_model.hessian_vector_product(x, vectors)
    np.testing.assert_allclose(products, numeric, atol=1e-6 * np.abs(numeric).max())
    np.testing.assert_allclose(ethanol_model.hessian_vector_product(x, vectors[3]), products[3], atol=1e-10)
    np.testing.assert_allclose(ethanol_model.hessian_vector_product(x, vectors, memory=1), products, atol=1e-10)
    assert products.dtype == np.float64


def test_the_block_of_some_atoms(ethanol_model, ethanol):
    x, moving = ethanol[7].positions, [5, 0, 3]
    rows = (3 * np.array(moving)[:, None] + np.arange(3)).ravel()
    expected = ethanol_model.hessian(x)[np.ix_(rows, rows)]
    for memory in (1, 2**18, 2**30):
        block = ethanol_model.hessian(x, moving=moving, memory=memory)
        np.testing.assert_allclose(block, expected, atol=1e-10)


@pytest.mark.parametrize("moving", [[], [9], [-1], [1, 1], [True, False]])
def test_no_such_atoms(ethanol_model, ethanol, moving):
    with pytest.raises(ValueError, match=r"moving: expected (indices of atoms|different atoms from 0 to 8)"):
        ethanol_model.hessian(ethanol[0].positions, moving=moving)


def test_force_constants_are_differences_of_hessians(smooth, water, rng):
    x, directions, step = water[30].positions, rng.standard_normal((4, 3, 3)), 5e-4
    flat = directions.reshape(4, 9)

    def quadratic(y):
        return flat @ smooth.hessian(y) @ flat.T

    np.testing.assert_allclose(smooth.force_constants(x, directions, 2), quadratic(x), rtol=1e-9, atol=1e-9)
    at = {
        (a, b, j, k): quadratic(x + step * (a * directions[j] + b * directions[k]))
        for a in (-1, 0, 1) for b in (-1, 0, 1) for j in range(4) for k in range(j + 1)
    }  # fmt: skip
    third = np.stack([at[1, 0, k, 0] - at[-1, 0, k, 0] for k in range(4)], axis=-1) / (2 * step)
    cubic = smooth.force_constants(x, directions, 3)
    np.testing.assert_allclose(cubic, third, atol=2e-5 * np.abs(cubic).max())
    fourth = np.empty((4, 4, 4, 4))
    for j in range(4):
        for k in range(j + 1):
            plus, minus = at[1, 1, j, k] + at[-1, -1, j, k], at[1, -1, j, k] + at[-1, 1, j, k]
            fourth[:, :, j, k] = fourth[:, :, k, j] = (plus - minus) / (4 * step**2)
    quartic = smooth.force_constants(x, directions, 4, memory=1)
    np.testing.assert_allclose(quartic, fourth, atol=2e-4 * np.abs(quartic).max())
    for order in ((1, 0, 2, 3), (3, 1, 2, 0), (0, 3, 1, 2)):
        np.testing.assert_array_equal(quartic, quartic.transpose(order))
    assert np.abs(quartic).max() > 1.0


def test_derivatives_along_other_directions_each(smooth, water, rng):
    """The mixed derivative of a choice is the contraction of the tensor."""
    x, directions = water[30].positions, rng.standard_normal((3, 3, 3))
    cubic = smooth.force_constants(x, directions, 3)
    chosen = np.array([[0, 1, 2], [2, 0, 0], [1, 1, 1]])
    along = smooth.directional_derivatives(x, directions[chosen])
    np.testing.assert_allclose(along, cubic[tuple(chosen.T)], rtol=1e-9)
    slope = smooth.directional_derivatives(x, directions[:, None])
    np.testing.assert_allclose(slope, -np.einsum("cna,na->c", directions, smooth.forces(x)), rtol=1e-9)


def test_orders_that_the_kernel_lacks(water_model, water):
    """Matérn-5/2 from forces: cubic constants exist, quartic ones do not."""
    x, directions = water[0].positions, np.eye(9).reshape(9, 3, 3)
    assert water_model.force_constants(x, directions, 3).shape == (9, 9, 9)
    with pytest.raises(ValueError, match=r"order 4 does not exist for Matérn-5/2.*use Matern72 or RBF"):
        water_model.force_constants(x, directions, 4)
    with pytest.raises(ValueError, match=r"order 4 does not exist"):
        water_model.directional_derivatives(x, directions[:4][None])
    with pytest.raises(ValueError, match="order=5 must be 2, 3 or 4"):
        water_model.force_constants(x, directions, 5)
    rough = mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.Matern32(lengthscale=2.0)), water[:5])
    with pytest.raises(ValueError, match=r"Hessian does not exist.*Matern52, Matern72 or RBF"):
        rough.hessian_vector_product(x, x)


def test_directions_of_another_shape_are_refused(water_model, water):
    x = water[0].positions
    with pytest.raises(ValueError, match=r"vectors: expected shape \(3, 3\) or \(k, 3, 3\), received \(2, 2, 3, 3\)"):
        water_model.hessian_vector_product(x, np.ones((2, 2, 3, 3)))
    with pytest.raises(ValueError, match=r"directions: expected shape \(k, 3, 3\), received \(0, 3, 3\)"):
        water_model.force_constants(x, np.ones((0, 3, 3)), 3)
    with pytest.raises(ValueError, match="vectors: not all finite"):
        water_model.hessian_vector_product(x, np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="takes one geometry"):
        water_model.hessian_vector_product(x[None], x[None])


def test_symmetric_tensor_of_a_product():
    vector = np.array([2.0, -1.0, 3.0])
    chosen = unordered_choices(3, 2)
    assert chosen.tolist() == [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]]
    values = np.prod(vector[chosen], axis=1)[:, None] * vector
    np.testing.assert_array_equal(symmetric_tensor(chosen, values), np.einsum("i,j,k->ijk", vector, vector, vector))


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.thorough  # a bound on memory alone; its numbers are those of the Hessians above
def test_a_hessian_of_100_atoms_stays_below_a_gigabyte():
    """Symmetry functions of 100 atoms: peak of a process that does nothing else, and a product against differences."""
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", SYNTHETIC], capture_output=True, text=True, check=False, cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    peak, deviation = map(float, done.stdout.split())
    assert peak < 1024
    assert deviation < 1e-5
