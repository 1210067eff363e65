"""SOAP against integrals on a grid, and through the battery of properties."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import properties
import pytest
import scipy.linalg
import scipy.special

from descriptors.soap import soap, solid_harmonics
from mlff.data.neighbors import neighbor_lists

SMALL = {"cutoff": 4.0, "n_max": 2, "l_max": 2}
NUMBERS = np.array([6, 8, 1, 1])
ELEMENTS = (1, 6, 8)
FORMALDEHYDE_LIKE = np.array([[0.0, 0, 0], [1.2, 0.1, 0.05], [-0.6, 0.9, 0.1], [-0.55, -0.95, -0.2]])
LINE = np.array([[0.0, 0, -1.16], [0.0, 0, 0], [0.0, 0, 1.2]])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


compiled = jax.jit(soap, static_argnames=("elements", "n_max", "l_max", "cutoff_function"))


def molecule(positions, numbers=NUMBERS, **changed):
    return compiled(positions, numbers, elements=ELEMENTS, **{**SMALL, **changed})


def radial_functions(r, degree, n_max, radius):
    """Symmetric orthonormalisation of r^l exp(−α r²), overlaps by integration; shape (n, len(r)), of radius 5 Å."""
    reach = np.linspace(1, 5, n_max)
    alpha = -np.log(1e-3 / reach**degree) / reach**2
    nodes, weights = np.polynomial.legendre.leggauss(300)
    nodes, weights = 10 * (nodes + 1), 10 * weights
    primitive = nodes**degree * np.exp(-alpha[:, None] * nodes**2)
    mixing = scipy.linalg.inv(scipy.linalg.sqrtm((primitive * weights * nodes**2) @ primitive.T))
    x = r * 5 / radius
    return (5 / radius) ** 1.5 * mixing @ (x**degree * np.exp(-alpha[:, None] * x**2))


def on_a_grid(x, numbers, cutoff, radius, sigma, n_max, l_max, fade):
    """Power spectra p[i, zn, z′n′, l] by integrating the density over all space, with complex harmonics."""
    r, radial_weights = np.polynomial.legendre.leggauss(60)
    r, radial_weights = 4 * (r + 1), 4 * radial_weights * (4 * (r + 1)) ** 2
    polar, polar_weights = np.polynomial.legendre.leggauss(36)
    azimuth = np.arange(72) * 2 * np.pi / 72
    theta, phi = np.meshgrid(np.arccos(polar), azimuth, indexing="ij")
    directions = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
    points = r[:, None, None, None] * directions
    weights = radial_weights[:, None, None] * polar_weights[:, None] * np.full(72, 2 * np.pi / 72)
    spectra = np.zeros((len(x), len(ELEMENTS) * n_max, len(ELEMENTS) * n_max, l_max + 1))
    for i in range(len(x)):
        density = np.zeros((len(ELEMENTS), *weights.shape))
        for j in range(len(x)):
            distance = np.linalg.norm(x[j] - x[i])
            if distance < cutoff:
                gaussian = np.exp(-np.sum((points - (x[j] - x[i])) ** 2, axis=-1) / (2 * sigma**2))
                density[ELEMENTS.index(numbers[j])] += fade(distance / cutoff) * gaussian
        for degree in range(l_max + 1):
            along_r = np.einsum("zrtp,rtp,nr->znrtp", density, weights, radial_functions(r, degree, n_max, radius))
            shell = np.sum(along_r, axis=2).reshape(-1, *theta.shape)
            for m in range(-degree, degree + 1):
                harmonic = scipy.special.sph_harm_y(degree, m, theta, phi)
                c = np.sum(shell * harmonic.conj(), axis=(1, 2))
                spectra[i, :, :, degree] += np.pi * np.sqrt(8 / (2 * degree + 1)) * np.real(np.outer(c, c.conj()))
    return spectra


def as_features(spectra, n_max):
    """Rows of features, in the order that the docstring of `soap` promises."""
    columns = []
    for one, two in itertools.combinations_with_replacement(range(len(ELEMENTS)), 2):
        for degree in range(spectra.shape[-1]):
            for n, other in itertools.product(range(n_max), repeat=2):
                if one < two or n <= other:
                    twice = 1 if one == two and n == other else np.sqrt(2)
                    columns.append(twice * spectra[:, one * n_max + n, two * n_max + other, degree])
    return np.stack(columns, axis=1)


FADES = {
    "cosine": lambda x: (1 + np.cos(np.pi * x)) / 2,
    "smooth": lambda x: 1 - 35 * x**4 + 84 * x**5 - 70 * x**6 + 20 * x**7,
}


@pytest.mark.parametrize(
    ("cutoff_function", "cutoff", "radius", "sigma"), [("cosine", 1.5, 4.0, 0.6), ("smooth", 4.0, 5.0, 0.5)]
)
def test_integrals_over_the_density(cutoff_function, cutoff, radius, sigma):
    spectra = on_a_grid(FORMALDEHYDE_LIKE, NUMBERS, cutoff, radius, sigma, 3, 3, FADES[cutoff_function])
    expected = as_features(spectra, 3)
    changed = {"cutoff": cutoff, "sigma": sigma, "cutoff_function": cutoff_function, "basis_radius": radius}
    ours = molecule(FORMALDEHYDE_LIKE, n_max=3, l_max=3, **changed)
    assert ours.shape == (4, 9 * 10 // 2 * 4)
    np.testing.assert_allclose(ours, expected, atol=1e-10 * np.abs(expected).max())
    same = np.sum(spectra[0] * spectra[1])
    np.testing.assert_allclose(ours[0] @ ours[1], same, rtol=1e-9)


def test_basis_radius_is_the_cutoff_unless_given():
    other = molecule(FORMALDEHYDE_LIKE, basis_radius=5.0)
    np.testing.assert_allclose(molecule(FORMALDEHYDE_LIKE, basis_radius=4.0), molecule(FORMALDEHYDE_LIKE), rtol=1e-12)
    assert not np.allclose(other, molecule(FORMALDEHYDE_LIKE), rtol=1e-2)


def test_harmonics_are_those_of_the_sphere(rng):
    vectors = rng.standard_normal((5, 3))
    r = np.linalg.norm(vectors, axis=1)
    theta, phi = np.arccos(vectors[:, 2] / r), np.arctan2(vectors[:, 1], vectors[:, 0])
    for degree, ours in enumerate(solid_harmonics(jnp.asarray(vectors.T), jnp.asarray(r**2), 7)):
        for m in range(-degree, degree + 1):
            complex_one = (-1) ** m * scipy.special.sph_harm_y(degree, abs(m), theta, phi)
            part = complex_one.imag if m < 0 else complex_one.real
            expected = r**degree * part * (1 if m == 0 else np.sqrt(2))
            np.testing.assert_allclose(ours[degree + m], expected, atol=1e-12)


@pytest.mark.parametrize(("n_max", "l_max"), [(1, 0), (8, 8)])
def test_more_radial_functions_hold_more_of_the_density(n_max, l_max):
    """Σ_n c_n² of a density at the centre is at most its squared norm, and reaches it with enough functions."""
    lone = molecule(np.zeros((1, 3)), np.array([6]), n_max=n_max, l_max=l_max, cutoff=5.0)
    width = 3 * n_max
    assert lone.shape == (1, width * (width + 1) // 2 * (l_max + 1))
    held = np.linalg.norm(lone) / (np.pi * np.sqrt(8))  # of c cᵀ, a matrix of rank one
    whole = (np.pi * 0.5**2) ** 1.5  # ∫ exp(−x²/σ²) d³x
    assert held < whole * (1 + 1e-9)
    assert (held > 0.999 * whole) == (n_max == 8)


def test_more_radial_functions_than_are_independent():
    with pytest.raises(ValueError, match="n_max=16: so many radial functions are linearly dependent; take"):
        molecule(FORMALDEHYDE_LIKE, n_max=16)


def test_invariance():
    properties.assert_invariant(molecule, FORMALDEHYDE_LIKE)


def test_exchange_of_like_atoms_exchanges_their_rows():
    swap = np.array([0, 1, 3, 2])
    value = molecule(FORMALDEHYDE_LIKE)
    np.testing.assert_allclose(molecule(FORMALDEHYDE_LIKE[swap]), value[swap], atol=1e-13 * np.abs(value).max())
    assert not np.allclose(value[2], value[3])


def test_derivatives_to_third_order():
    properties.assert_derivatives(molecule, FORMALDEHYDE_LIKE, order=3)


def test_derivatives_at_the_cutoff():
    at_cutoff = float(np.linalg.norm(FORMALDEHYDE_LIKE[1] - FORMALDEHYDE_LIKE[3]))
    properties.assert_derivatives(
        functools.partial(molecule, cutoff=at_cutoff), FORMALDEHYDE_LIKE, order=3, tolerance=1e-3
    )


def test_jit_and_vmap(rng):
    batch = FORMALDEHYDE_LIKE + 0.05 * rng.standard_normal((3, 4, 3))
    single = np.stack([molecule(x) for x in batch])
    np.testing.assert_allclose(jax.vmap(molecule)(batch), single, atol=1e-13 * single.max())


def padded(positions, numbers, cell, periodic, width=0, **changed):
    """With a neighbour list, which has empty slots."""
    lists = neighbor_lists(positions[None], cell[None], np.array([[periodic] * 3]), changed.get("cutoff", 4.0), width)
    neighbors = type(lists)(lists.indices[0], lists.shifts[0])
    return functools.partial(molecule, numbers=numbers, cell=cell, neighbors=neighbors, **changed)


def test_a_list_with_empty_slots_changes_nothing():
    listed = padded(FORMALDEHYDE_LIKE, NUMBERS, np.zeros((3, 3)), False, width=6)
    value = molecule(FORMALDEHYDE_LIKE)
    np.testing.assert_allclose(listed(FORMALDEHYDE_LIKE), value, atol=1e-13 * np.abs(value).max())


def test_linear_molecules_with_empty_slots_have_three_derivatives():
    listed = padded(LINE, np.array([8, 6, 8]), np.zeros((3, 3)), False, width=4)
    properties.assert_derivatives(listed, LINE, order=3)


def test_crystal_supercell_and_nearest_images():
    cell = np.array([[4.5, 0, 0], [0.4, 4.4, 0], [-0.3, 0.2, 4.8]])
    one = padded(FORMALDEHYDE_LIKE, NUMBERS, cell, True)(FORMALDEHYDE_LIKE)
    doubled = np.concatenate([FORMALDEHYDE_LIKE, FORMALDEHYDE_LIKE + cell[0]])
    two = padded(doubled, np.tile(NUMBERS, 2), cell * [[2.0], [1], [1]], True)(doubled)
    np.testing.assert_allclose(two, np.tile(one, (2, 1)), atol=1e-12 * one.max())
    nearest = molecule(FORMALDEHYDE_LIKE, cell=cell, cutoff=2.1)
    listed = padded(FORMALDEHYDE_LIKE, NUMBERS, cell, True, cutoff=2.1)(FORMALDEHYDE_LIKE)
    np.testing.assert_allclose(listed, nearest, atol=1e-12 * nearest.max())
    assert not np.allclose(one, molecule(FORMALDEHYDE_LIKE))


def test_hyperparameters_can_be_differentiated_and_single_precision_stays_single():
    def summed(parameters):
        return jnp.sum(molecule(FORMALDEHYDE_LIKE, **parameters) ** 2)

    given = {"cutoff": jnp.asarray(4.0), "sigma": jnp.asarray(0.6), "basis_radius": jnp.asarray(3.7)}
    slopes = jax.grad(summed)(given)
    for name in given:
        near, far = (summed({**given, name: given[name] + step}) for step in (1e-5, -1e-5))
        np.testing.assert_allclose(slopes[name], (near - far) / 2e-5, rtol=1e-6)
    single, double = molecule(FORMALDEHYDE_LIKE.astype(np.float32)), molecule(FORMALDEHYDE_LIKE)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, atol=1e-4 * np.abs(double).max())
