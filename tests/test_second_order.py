"""Kernel blocks and models of labels of second order against nested differentiation of the kernel's definition."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import properties
import pytest
from moments import mirrored
from test_features import Weighted
from test_gram import LINEAR, SWAP, WATER, system_matrix

import mlff
from descriptors import exponential_distances, inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.data.system import System
from mlff.potentials.expansion import Expansion
from mlff.regression.system.features import compute_features

CO2 = np.array([[0.0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]])
KINDS = ("energy", "forces", "hessian", "hessian_products", "curvatures")


def surroundings(positions, *, decay=0.7):
    """Two numbers an atom: how much is near it."""
    moved = positions[:, None] - positions + 10.0 * jnp.eye(len(positions))[..., None]  # no atom sees itself
    squares = jnp.sum(moved**2, axis=-1)
    return jnp.stack([jnp.sum(jnp.exp(-decay * squares), axis=1), jnp.sum(1.0 / (1.0 + squares), axis=1)], axis=1)


LOCAL = mlff.LocalKernel(surroundings, mlff.RBF(lengthscale=0.5), amplitude=1.5)
PRODUCT = (
    mlff.GlobalKernel(inverse_distances, mlff.Matern72(lengthscale=1.0), SWAP),
    mlff.GlobalKernel(exponential_distances, mlff.RationalQuadratic(lengthscale=0.7), SWAP),
)
KERNELS = {
    "global": mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=1.0), SWAP, amplitude=1.0),
    "Matérn-5/2": mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=1.0), SWAP, amplitude=1.0),
    "images computed anew": mlff.GlobalKernel(mirrored, mlff.RBF(lengthscale=1.0), SWAP, amplitude=1.0),
    "local": LOCAL,
    "product": mlff.ProductKernel(PRODUCT, amplitude=1.0),
    "product, local": mlff.ProductKernel(
        (
            mlff.LocalKernel(surroundings, mlff.RBF(lengthscale=0.5)),
            mlff.LocalKernel(functools.partial(surroundings, decay=0.2), mlff.Matern72(lengthscale=0.8)),
        ),
        amplitude=1.0,
    ),
    "sum": mlff.SumKernel((LOCAL, mlff.GlobalKernel(inverse_distances, mlff.Matern72(lengthscale=2.0), amplitude=0.5))),
}


def labelled(geometries, numbers=(8, 1, 1)) -> LabelledFrames:
    """Frames of one molecule with every kind of label, of no meaning."""
    rng = np.random.default_rng(3)
    x = np.array(geometries)
    m, n, _ = x.shape
    hessians = rng.standard_normal((m, 3 * n, 3 * n))
    labels = {
        "energy": rng.standard_normal(m), "forces": rng.standard_normal(x.shape),
        "hessian": hessians + hessians.transpose(0, 2, 1),
        "hessian_products": rng.standard_normal((m, 2, n, 3)), "hessian_product_vectors": rng.standard_normal((m, 2, n, 3)),
        "curvatures": rng.standard_normal((m, 3)), "curvature_vectors": rng.standard_normal((m, 3, 2, n, 3)),
    }  # fmt: skip
    return LabelledFrames.uniform(x, np.array(numbers), labels)


def coefficients(observed) -> np.ndarray:
    """Every row as one vector of weights of (u, ∇u, ∇∇u)."""
    matrices, rows = observed.basis.T @ observed.rows.matrices @ observed.basis, observed.rows
    count = len(matrices)
    return np.concatenate([rows.values[:, None], rows.directions, matrices.reshape(count, -1)], axis=1)


def taylor(function):
    """(u, ∇u, ∇∇u) of a function of one vector, one after the other."""

    def all_of_it(x):
        return jnp.concatenate([function(x)[None], jax.jacfwd(function)(x), jax.hessian(function)(x).ravel()])

    return all_of_it


def dense(kernel, frames, labels) -> np.ndarray:
    """The matrix between all rows by differentiating the kernel of two geometries four times."""
    (batch,) = frames.batches
    shape, cell = batch.positions[0].shape, batch.cells[0]
    kernel = Weighted(kernel)

    def k(x, y):
        return kernel.evaluate(*(System(z.reshape(shape), batch.numbers, cell, np.zeros(3, bool)) for z in (x, y)))

    def every(x, y):
        def of_second(z):
            return taylor(lambda w: k(w, z))(x)

        slopes, bends = jax.jacfwd(of_second)(y), jax.jacfwd(jax.jacfwd(of_second))(y)
        return jnp.concatenate([of_second(y)[:, None], slopes, bends.reshape(len(slopes), -1)], axis=1)

    with jax.enable_x64(True):
        every = jax.jit(every)
        own = [(x.ravel(), coefficients(label)) for x, label in zip(batch.positions, labels, strict=True)]
        return np.block([[p @ np.asarray(every(x, y)) @ q.T for y, q in own] for x, p in own])


def features_of(kernel, frames):
    return compute_features(kernel, frames, dict.fromkeys(KINDS, 1.0))


THOROUGH = ("product, local", "product", "sum")  # these are checked in first order too, by test_features.py


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if name in THOROUGH else name for name in KERNELS]
)
def test_blocks_and_expansion_match_nested_differentiation(name, rng):
    """Every pair of label operators, frames against themselves too; and the representer sum of random weights."""
    kernel = KERNELS[name].completed([8, 1, 1])
    frames = labelled([WATER, WATER + 0.1 * rng.standard_normal((3, 3))])
    features = features_of(kernel, frames)
    expected = dense(kernel, frames, features.observations)
    matrix, _ = system_matrix(kernel, frames, KINDS)
    properties.assert_matches_dense(matrix, expected, 1e-10)

    weights = rng.standard_normal(len(matrix))
    parts = [
        term.expand(features.observations, part.amplitude * weights)
        for term, part in zip(features.terms, kernel.parts, strict=True)
    ]
    model = Expansion(tuple(parts), np.zeros(1)).arranged([8, 1, 1])
    numbers, cell = frames.batches[0].numbers, np.zeros((3, 3))
    with jax.enable_x64(True):
        predict = jax.jit(taylor(lambda z: model.energy(z.reshape(3, 3), numbers, cell)))
        found = [
            coefficients(observed) @ predict(x.ravel())
            for observed, x in zip(features.observations, frames.batches[0].positions, strict=True)
        ]
    wanted = expected @ weights
    # the expansion's |a|² + |b|² − 2a·b costs a Matérn-5/2 half of its digits in the fourth derivative at coincidence
    tolerance = 1e-7 if name == "Matérn-5/2" else 1e-9
    np.testing.assert_allclose(np.concatenate(found), wanted, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize(("geometry", "numbers"), [(CO2, (8, 6, 8)), (LINEAR, (8, 1, 1))])
def test_linear_molecules(geometry, numbers, rng):
    """Bending modes live in the second derivative of the distances alone: they are labels like any other."""
    group = mlff.Permutations.generate([[2, 1, 0]], [8, 6, 8]) if numbers[0] == numbers[2] else SWAP
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=1.0), group, amplitude=1.0)
    kernel = kernel.completed(numbers)
    frames = labelled([geometry, geometry + 0.1 * rng.standard_normal((3, 3))], numbers)
    matrix, _ = system_matrix(kernel, frames, KINDS)
    properties.assert_matches_dense(matrix, dense(kernel, frames, features_of(kernel, frames).observations), 1e-10)


# -- coincident frames, in multiprecision ---------------------------------------------------------------------------------

PAIRS = np.random.default_rng(11).standard_normal((3, 2, 3, 3))
FORMS = {
    "Matérn-5/2": (mlff.Matern52, lambda r: (1 + r + r * r / 3) * mpmath.exp(-r), 5),
    "RBF": (mlff.RBF, lambda r: mpmath.exp(-r * r / 2), 1),
}


def in_multiprecision(form, scale, lengthscale, x):
    """∂_v∂_w ∂_v′∂_w′ k(x, x′) at x′ = x for all pairs, by differences with 60 digits more than their step."""
    mpmath.mp.dps, step = 160, mpmath.mpf(10) ** -30

    def features(y):
        return [
            1 / mpmath.sqrt(sum((a - b) ** 2 for a, b in zip(y[i], y[j], strict=True)))
            for i, j in ((0, 1), (0, 2), (1, 2))
        ]

    def moved(pair, signs):
        displaced = np.array([[mpmath.mpf(float(a)) for a in row] for row in x])
        for sign, direction in zip(signs, pair, strict=True):
            displaced += np.array([[sign * step * mpmath.mpf(float(d)) for d in row] for row in direction])
        return displaced

    signs = list(itertools.product((1, -1), repeat=2))
    points = [[features(moved(pair, s)) for s in signs] for pair in PAIRS]

    def k(one, two):
        return form(mpmath.sqrt(scale * sum((a - b) ** 2 for a, b in zip(one, two, strict=True))) / lengthscale)

    result = np.empty((len(PAIRS), len(PAIRS)))
    for i, j in np.ndindex(result.shape):
        total = mpmath.fsum(
            s[0] * s[1] * t[0] * t[1] * k(p, q)
            for s, p in zip(signs, points[i], strict=True)
            for t, q in zip(signs, points[j], strict=True)
        )
        result[i, j] = float(total / (16 * step**4))
    return result


@pytest.mark.parametrize("geometry", [WATER, CO2], ids=["bent", "linear"])
@pytest.mark.parametrize("name", FORMS)
def test_coincident_frames_in_multiprecision(name, geometry):
    """AD of the same rule proves nothing at x = x′, and differences in double precision give nothing of fourth order."""
    radial, form, scale = FORMS[name]
    kernel = mlff.GlobalKernel(inverse_distances, radial(lengthscale=0.8), amplitude=1.0).completed([8, 1, 1])
    labels = {"curvatures": np.zeros((1, 3)), "curvature_vectors": PAIRS[None]}
    frames = LabelledFrames.uniform(geometry[None], np.array([8, 1, 1]), labels)
    matrix, rows = system_matrix(kernel, frames, ("curvatures",))
    (label,) = compute_features(kernel, frames, {"curvatures": 1.0}).observations
    # the rows are an orthonormal mixture of the labels, which is undone by their coefficients
    wanted = np.array([0.5 * (np.outer(v, w) + np.outer(w, v)) for v, w in PAIRS.reshape(3, 2, 9)])
    mixture = np.linalg.lstsq(coefficients(label)[:, 10:].T, wanted.reshape(3, -1).T, rcond=None)[0].T
    found = mixture @ matrix @ mixture.T
    exact = in_multiprecision(form, scale, 0.8, geometry)
    assert len(rows) == 1
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-10 * np.abs(exact).max())


# -- planar benzene ---------------------------------------------------------------------------------------------------------

ANGLES = np.pi / 3 * np.arange(6)
RING = np.stack([np.cos(ANGLES), np.sin(ANGLES), np.zeros(6)], axis=1)
BENZENE, BENZENE_NUMBERS = np.concatenate([1.39 * RING, 2.48 * RING]), np.array(6 * [6] + 6 * [1])


def potential(flat):
    """Morse bonds, and squares of triple products that only motions out of the plane change; for benzene."""
    x = flat.reshape(12, 3)
    first, second = np.triu_indices(12, 1)
    r = jnp.sqrt(jnp.sum((x[first] - x[second]) ** 2, axis=1))
    bonds = jnp.sum((1.0 - jnp.exp(-0.7 * (r - 1.2))) ** 2)
    ring = x[:6]
    after, before = jnp.roll(ring, 1, axis=0), jnp.roll(ring, -1, axis=0)
    heights = jnp.sum(jnp.cross(after - ring, before - ring) * (x[6:] - ring), axis=1)
    return bonds + 0.8 * jnp.sum(heights**2)


def taylor_terms(flat):
    return potential(flat), jax.grad(potential)(flat), jax.hessian(potential)(flat)


def test_planar_benzene_keeps_its_modes_out_of_the_plane():
    """297 independent numbers, 66 of them in the second derivative of the distances alone, and every one is learnt."""
    with jax.enable_x64(True):
        flat = BENZENE.ravel()
        energy, gradient, hessian = map(np.asarray, jax.jit(taylor_terms)(flat))
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=2.0))
    system = System(BENZENE, BENZENE_NUMBERS.astype(np.int32), np.zeros((3, 3)), np.zeros(3, bool))
    frame = mlff.Frame(system, {"energy": float(energy), "forces": -gradient.reshape(12, 3), "hessian": hessian})
    noise = {"forces": 1e-6, "hessian": 1e-6}
    frames = LabelledFrames.of(mlff.Dataset([frame]))
    (label,) = compute_features(kernel.completed(BENZENE_NUMBERS), frames, noise).observations
    assert np.sum(label.rows.noise == 1e-6) == len(label.rows.labels) == 21 + 297
    force_field = mlff.fit(kernel, mlff.Dataset([frame]), ("forces", "hessian"), noise)
    found = force_field.hessian(BENZENE)
    np.testing.assert_allclose(found, hessian, atol=1e-4 * np.abs(hessian).max())
    upwards = np.zeros((12, 3))
    upwards[:6, 2] = [1, -1, 1, -1, 1, -1]
    assert upwards.ravel() @ hessian @ upwards.ravel() > 1.0


# -- crystals: strains beside displacements -------------------------------------------------------------------------------


SHIFTS = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))


def crowding(positions, cell, *, cutoff=0.0):
    """Eight numbers an atom of a crystal, from its images in the next cells; the nearest ones are not looked for."""
    vectors = positions[:, None, None] - positions[:, None] + SHIFTS @ cell
    squares = jnp.sum(vectors**2, axis=-1)
    return jnp.stack([jnp.sum(jnp.exp(-squares / w), axis=(1, 2)) for w in np.linspace(2.0, 20.0, 8)], axis=1)


def test_stresses_and_operators_of_ones_own_match_nested_differentiation(rng):
    """In displacements and the nine entries of a strain; an operator that mixes orders and depends on the geometry."""
    mixed = mlff.Operator(
        "mixed", lambda u, x: u(x) + x[0, 1] * jax.grad(u)(x)[1, 2] + jnp.trace(jax.hessian(u)(x)[0, :, 0]), "eV"
    )
    cells = np.array([np.diag([4.0, 4.2, 4.5]) + 0.3 * rng.standard_normal((3, 3)) for _ in range(2)])
    x = np.array([[0.1, 0.2, 0.0], [1.6, 1.3, 1.4]]) + 0.1 * rng.standard_normal((2, 2, 3))
    labels = {
        "energy": rng.standard_normal(2), "forces": rng.standard_normal((2, 2, 3)), "stress": rng.standard_normal((2, 3, 3)),
        "hessian": np.stack([np.eye(6)] * 2), "mixed": rng.standard_normal((2, 1)),
    }  # fmt: skip
    frames = LabelledFrames.uniform(x, np.array([14, 14]), labels, cells)
    kernel = mlff.LocalKernel(crowding, mlff.RBF(lengthscale=2.0), amplitude=1.0).completed([14, 14])
    noise = dict.fromkeys(("energy", "forces", "stress", "hessian", mixed), 1.0)
    features = compute_features(kernel, frames, noise)
    found, _ = system_matrix(kernel, frames, tuple(noise))
    (batch,) = frames.batches

    def k(i, j, p, q):
        systems = []
        for frame, y in ((i, p), (j, q)):
            deformation = jnp.eye(3) + y[6:].reshape(3, 3)
            moved = (jnp.asarray(x)[frame] + y[:6].reshape(2, 3)) @ deformation
            systems.append(System(moved, batch.numbers, jnp.asarray(cells)[frame] @ deformation, batch.pbc[0]))
        return kernel.evaluate(*systems)

    @jax.jit
    def every(i, j):
        def of_second(q):
            return taylor(lambda p: k(i, j, p, q))(jnp.zeros(15))

        q = jnp.zeros(15)
        slopes, bends = jax.jacfwd(of_second)(q), jax.jacfwd(jax.jacfwd(of_second))(q)
        return jnp.concatenate([of_second(q)[:, None], slopes, bends.reshape(len(slopes), -1)], axis=1)

    functionals = [coefficients(observed) for observed in features.observations]
    with jax.enable_x64(True):
        whole = [[functionals[i] @ np.asarray(every(i, j)) @ functionals[j].T for j in (0, 1)] for i in (0, 1)]
    properties.assert_matches_dense(found, np.block(whole), 1e-10)
    assert (
        len(functionals[0]) == 1 + 3 + 6 + 1 + 6
    )  # energy, relative forces, stresses, mixture, relative second derivatives
