"""The Coulomb matrix, its spectrum and its sorted form: against NumPy, at degeneracies, and through the battery."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest

from descriptors.coulomb import coulomb_matrix, coulomb_spectrum, sorted_coulomb_matrix

FAMILY = [coulomb_matrix, coulomb_spectrum, sorted_coulomb_matrix]
NUMBERS = np.array([6, 8, 7, 1, 1])
FORMAMIDE_LIKE = np.array([[0.0, 0, 0], [1.1, 0.4, 0.1], [-1.2, 0.5, -0.2], [0.1, -1.0, 0.4], [-1.9, -0.2, 0.3]])
METHANE = 0.63 * np.array([[0.0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]), np.array([6, 1, 1, 1, 1])
RING = np.stack([np.cos(np.pi / 3 * np.arange(6)), np.sin(np.pi / 3 * np.arange(6)), np.zeros(6)], axis=1)
BENZENE = np.concatenate([1.39 * RING, 2.48 * RING]), np.array([6] * 6 + [1] * 6)
CARBON_DIOXIDE = np.array([[0.0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]]), np.array([8, 6, 8])
SYMMETRIC = {"methane": METHANE, "benzene": BENZENE, "carbon dioxide": CARBON_DIOXIDE}


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def by_loops(x, numbers, power=1):
    matrix = np.zeros((len(x), len(x)))
    for i, j in itertools.product(range(len(x)), repeat=2):
        charges = float(numbers[i]) * float(numbers[j])
        matrix[i, j] = 0.5 * numbers[i] ** 2.4 if i == j else charges / np.linalg.norm(x[i] - x[j]) ** power
    return matrix


def upper(matrix):
    return matrix[np.triu_indices(len(matrix))]


spectrum_of_one = functools.partial(coulomb_spectrum, powers=(1.0,))


def fourier(eigenvalues, scale):
    """Cosine and sine sums over the angles of eigenvalues."""
    orders, angles = np.arange(1, len(eigenvalues) + 1), 2 * np.arctan(eigenvalues / scale)
    sums = np.array([np.sum(np.exp(1j * k * angles)) / k for k in orders])
    return np.concatenate([sums.real, sums.imag])


@pytest.mark.parametrize("descriptor", FAMILY)
def test_invariance(descriptor):
    properties.assert_invariant(jax.jit(functools.partial(descriptor, numbers=NUMBERS)), FORMAMIDE_LIKE)


def test_derivatives_of_the_entries():
    properties.assert_derivatives(
        jax.jit(functools.partial(coulomb_matrix, numbers=NUMBERS)), FORMAMIDE_LIKE, order=4, tolerance=1e-5
    )


@pytest.mark.parametrize("descriptor", FAMILY)
def test_jit_and_vmap(descriptor, rng):
    batch = FORMAMIDE_LIKE + 0.05 * rng.standard_normal((3, 5, 3))
    properties.assert_jit_vmap_consistent(functools.partial(descriptor, numbers=NUMBERS), batch)


@pytest.mark.parametrize("descriptor", FAMILY)
def test_single_precision_stays_single(descriptor):
    compiled = jax.jit(descriptor)
    single = compiled(FORMAMIDE_LIKE.astype(np.float32), NUMBERS)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, compiled(FORMAMIDE_LIKE, NUMBERS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("descriptor", FAMILY)
def test_lone_atom(descriptor):
    value = jax.jit(descriptor)(np.zeros((1, 3)), np.array([6]))
    diagonal = 0.5 * 6**2.4
    spectrum = np.concatenate([fourier(np.array([diagonal]), c) for c in 3 * (0.5, 30.0)])
    np.testing.assert_allclose(value, spectrum if descriptor is coulomb_spectrum else [diagonal])


def test_entries():
    compiled = jax.jit(coulomb_matrix)
    np.testing.assert_allclose(compiled(FORMAMIDE_LIKE, NUMBERS), upper(by_loops(FORMAMIDE_LIKE, NUMBERS)), rtol=1e-14)
    water = compiled(np.array([[0.0, 0, 0], [0, 0, 1], [0, 2, 0]]), np.array([8, 1, 1]))
    np.testing.assert_allclose(water, [0.5 * 8**2.4, 8, 4, 0.5, 1 / np.sqrt(5), 0.5])


def test_exchange_of_like_atoms():
    """It rearranges the entries, and leaves the spectrum and the sorted matrix alone, however wide the sorting."""
    swapped = FORMAMIDE_LIKE[[0, 1, 2, 4, 3]]
    value, exchanged = (coulomb_matrix(x, NUMBERS) for x in (FORMAMIDE_LIKE, swapped))
    assert not np.allclose(value, exchanged)
    np.testing.assert_allclose(np.sort(value), np.sort(exchanged), rtol=1e-13)
    one, other = (coulomb_spectrum(x, NUMBERS) for x in (FORMAMIDE_LIKE, swapped))
    np.testing.assert_allclose(one, other, atol=1e-13)
    for width in (0.01, 1.0, 30.0):
        one, other = (sorted_coulomb_matrix(x, NUMBERS, width=width) for x in (FORMAMIDE_LIKE, swapped))
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_spectrum_is_that_of_numpy_where_eigenvalues_coincide(name):
    x, numbers = SYMMETRIC[name]
    powers, scales = (1.0, 2.5), (0.3, 4.0, 50.0)
    spectra = [np.linalg.eigvalsh(by_loops(x, numbers, power)) for power in powers]
    eigenvalues = spectra[0]
    degenerate = np.min(np.abs(np.diff(eigenvalues))) < 1e-10
    assert degenerate == (name != "carbon dioxide")
    expected = np.concatenate([fourier(values, scale) for values in spectra for scale in scales])
    found = jax.jit(functools.partial(coulomb_spectrum, powers=powers))(x, numbers, scales=np.array(scales))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert not np.allclose(found, np.concatenate([fourier(-values, scale) for values in spectra for scale in scales]))


def test_eigenvalues_can_be_recovered():
    """Newton's identities give the polynomial with the roots exp(iφ), whose angles are the eigenvalues'."""
    atoms, scale = len(NUMBERS), 2.0
    cosines, sines = np.asarray(jax.jit(spectrum_of_one)(FORMAMIDE_LIKE, NUMBERS, scales=np.array([scale]))).reshape(
        2, atoms
    )
    sums = (cosines + 1j * sines) * np.arange(1, atoms + 1)
    symmetric = [1.0 + 0j]
    for m in range(1, atoms + 1):
        symmetric.append(sum((-1) ** (i - 1) * symmetric[m - i] * sums[i - 1] for i in range(1, m + 1)) / m)
    roots = np.roots([(-1) ** m * value for m, value in enumerate(symmetric)])
    expected = np.linalg.eigvalsh(by_loops(FORMAMIDE_LIKE, NUMBERS))
    np.testing.assert_allclose(np.sort(scale * np.tan(np.angle(roots) / 2)), expected, rtol=1e-7)


@pytest.mark.parametrize("descriptor", [coulomb_spectrum, sorted_coulomb_matrix])
@pytest.mark.parametrize("name", SYMMETRIC)
def test_derivatives_at_coinciding_eigenvalues_and_equal_norms(descriptor, name):
    x, numbers = SYMMETRIC[name]
    # narrow ones and high powers are steep for differences
    gentle = {"width": 10.0} if descriptor is sorted_coulomb_matrix else {"powers": (1.0, 1.5)}
    function = jax.jit(functools.partial(descriptor, numbers=numbers, **gentle))
    properties.assert_derivatives(function, x, order=3, tolerance=1e-5)


def test_spectrum_varies_with_every_eigenvalue():
    """As many independent directions as eigenvalues, less one for their sum, which is constant."""
    jacobian = jax.jit(jax.jacfwd(spectrum_of_one))(FORMAMIDE_LIKE, NUMBERS)
    singular = np.linalg.svd(np.reshape(jacobian, (len(jacobian), -1)), compute_uv=False)
    assert singular[3] > 1e-3 * singular[0]
    assert singular[4] < 1e-12 * singular[0]


def test_three_spectra_see_every_motion():
    """3n − 6 independent directions, where one spectrum has n − 1."""
    jacobian = jax.jit(jax.jacfwd(coulomb_spectrum))(FORMAMIDE_LIKE, NUMBERS)
    singular = np.linalg.svd(np.reshape(jacobian, (len(jacobian), -1)), compute_uv=False)
    assert singular[8] > 1e-5 * singular[0]
    assert singular[9] < 1e-12 * singular[0]


def test_sorted_matrix_approaches_the_sorted_one():
    matrix = by_loops(FORMAMIDE_LIKE, NUMBERS)
    norms = np.linalg.norm(matrix, axis=1)
    order = np.argsort(-norms)
    assert not np.array_equal(order, np.arange(5))
    assert np.min(-np.diff(norms[order])) > 0.3
    hard, compiled = upper(matrix[np.ix_(order, order)]), jax.jit(sorted_coulomb_matrix)
    errors = [np.abs(np.asarray(compiled(FORMAMIDE_LIKE, NUMBERS, width=w)) - hard).max() for w in (1.0, 0.1, 0.03)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


def test_sorted_matrix_by_its_formula():
    matrix, width, atoms = by_loops(FORMAMIDE_LIKE, NUMBERS), 3.0, 5
    norms = np.linalg.norm(matrix, axis=1)
    weights = np.zeros((atoms, atoms))
    for i in range(1, atoms + 1):
        for j in range(atoms):
            spread = sum(width * np.log(2 * np.cosh((norms[j] - other) / width)) for other in norms)
            weights[i - 1, j] = np.exp(((atoms + 1 - 2 * i) * norms[j] - spread) / width)
        weights[i - 1] /= weights[i - 1].sum()
    found = jax.jit(sorted_coulomb_matrix)(FORMAMIDE_LIKE, NUMBERS, width=width)
    np.testing.assert_allclose(found, upper(weights @ matrix @ weights.T), rtol=1e-12)


@pytest.mark.parametrize(
    ("descriptor", "name", "value"),
    [
        (coulomb_spectrum, "scales", [0.7, 20.0]),
        (coulomb_spectrum, "powers", [1.0, 1.7]),
        (sorted_coulomb_matrix, "width", 2.0),
    ],
)
def test_hyperparameters_can_be_differentiated(descriptor, name, value):
    @jax.jit
    def summed(parameter):
        return jnp.sum(descriptor(FORMAMIDE_LIKE, NUMBERS, **{name: parameter}) ** 2)

    value = jnp.asarray(value)
    step = 1e-5 * np.ones(value.shape)
    numeric = (summed(value + step) - summed(value - step)) / 2e-5
    np.testing.assert_allclose(np.sum(jax.jit(jax.grad(summed))(value)), numeric, rtol=1e-6)
