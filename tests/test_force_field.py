"""Energy, forces, Hessian and stress of one function: against finite differences, multiprecision, and each other."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import mlff
from descriptors import inverse_distances
from mlff import batching


def central(function, x, step=1e-3):
    """Fourth-order central differences of an array function of x, shape (*value, x.size)."""
    columns = []
    for index in range(x.size):
        shift = np.zeros(x.size)
        shift[index] = step
        shift = shift.reshape(x.shape)
        near, far = (np.asarray(function(x + k * shift)) - np.asarray(function(x - k * shift)) for k in (1, 2))
        columns.append((8 * near - far) / (12 * step))
    return np.stack(columns, axis=-1)


def test_forces_are_energy_differences(ethanol_model, ethanol):
    for frame in ethanol[3:5]:
        forces = ethanol_model.forces(frame.positions)
        numeric = -central(ethanol_model.energy, frame.positions)
        np.testing.assert_allclose(forces.ravel(), numeric, atol=1e-6 * np.abs(forces).max())


def test_hessian_is_force_differences_at_random_geometries(ethanol_model, ethanol, rng):
    for frame in ethanol[10:12]:
        x = frame.positions + 0.02 * rng.standard_normal((9, 3))
        hessian = ethanol_model.hessian(x)
        numeric = -central(ethanol_model.forces, x).reshape(27, 27)
        np.testing.assert_allclose(hessian, numeric, atol=1e-6 * np.abs(hessian).max())
        np.testing.assert_array_equal(hessian, hessian.T)


@pytest.mark.parametrize(
    "radial", [mlff.Matern52(lengthscale=2.0), mlff.Matern72(lengthscale=2.0), mlff.RBF(lengthscale=1.0)]
)
def test_hessian_at_a_training_geometry_in_multiprecision(radial, water):
    """The model's own points and tangents, evaluated with 60 digits and differentiated there: s = 0 for one point."""
    kernel = mlff.GlobalKernel(inverse_distances, radial, mlff.Permutations.generate([[0, 2, 1]], [8, 1, 1]))
    force_field = mlff.fit(kernel, water[:3])
    model, x = force_field.model, water[1].positions
    shapes = {
        "Matern52": lambda s: (1 + mpmath.sqrt(5 * s) + 5 * s / 3) * mpmath.exp(-mpmath.sqrt(5 * s)),
        "Matern72": lambda s: (
            (1 + mpmath.sqrt(7 * s) + 14 * s / 5 + 7 * s * mpmath.sqrt(7 * s) / 15) * mpmath.exp(-mpmath.sqrt(7 * s))
        ),
        "RBF": lambda s: mpmath.exp(-s / 2),
    }
    f = shapes[type(radial).__name__]
    pairs = weighted_points(model)

    def energy(flat):
        atoms = [flat[3 * a : 3 * a + 3] for a in range(3)]
        phi = [
            1 / mpmath.sqrt(sum((p - q) ** 2 for p, q in zip(atoms[a], atoms[b], strict=True))) / radial.lengthscale
            for a, b in ((0, 1), (0, 2), (1, 2))
        ]
        total = mpmath.mpf(0)
        for point, tangent in pairs:
            # ∂₂κ·t as a derivative along t, with a step far below every digit kept
            h = mpmath.mpf(10) ** -25

            def value(sign, point=point, tangent=tangent, h=h):
                moved = [
                    mpmath.mpf(float(p)) + sign * h * mpmath.mpf(float(t)) for p, t in zip(point, tangent, strict=True)
                ]
                return f(sum((u - v) ** 2 for u, v in zip(phi, moved, strict=True)))

            total += (value(1) - value(-1)) / (2 * h)
        return total

    hessian = force_field.hessian(x)
    with mpmath.workdps(90):
        base = [mpmath.mpf(float(v)) for v in x.ravel()]
        h = mpmath.mpf(10) ** -12
        for i, j in ((0, 0), (1, 4), (2, 5), (7, 7)):
            total = mpmath.mpf(0)
            for si in (1, -1):
                for sj in (1, -1):
                    moved = list(base)
                    moved[i] += si * h
                    moved[j] += sj * h
                    total += si * sj * energy(moved)
            assert hessian[i, j] == pytest.approx(float(total / (4 * h * h)), abs=1e-6 * np.abs(hessian).max())


def test_hessian_of_matern32_is_refused(water):
    force_field = mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.Matern32(lengthscale=2.0)), water[:5])
    with pytest.raises(ValueError, match=r"Hessian does not exist for Matérn-3/2.*Matern52, Matern72 or RBF"):
        force_field.hessian(water[0].positions)


def weighted_points(model):
    """Points and tangents of a global model, every permuted image of them."""
    (part,) = model.parts
    (channel,) = part.channels
    return [
        (point[image], tangent[image])
        for point, tangent in zip(channel.points + channel.origin, channel.tangents, strict=True)
        for image in part.images
    ]


def test_expansion_matches_the_definition_of_the_posterior(water_model, water):
    """Sum over training frames of L_j k(x, x_j) a_j straight from `kernel.evaluate`, no expansion in between."""
    kernel, model = water_model.kernel, water_model.model
    group = kernel.permutations.indices
    x = water[77].positions
    total = float(model.constants[0])
    with jax.enable_x64(True):
        pairs = weighted_points(model)
        for point, tangent in pairs:

            def along(epsilon, point=point, tangent=tangent):
                features = kernel.features(x, water_model.numbers, jnp.zeros((3, 3)))[0]
                return kernel.radial.value(jnp.sum((features - point - epsilon * tangent) ** 2))

            total += float(jax.grad(along)(0.0))
    assert water_model.energy(x) == pytest.approx(total, abs=1e-8)
    assert len(pairs) == 40 * len(group)


def test_invariances(ethanol_model, ethanol):
    x = ethanol[5].positions
    energy, forces = ethanol_model.energy_and_forces(x)
    turn = Rotation.random(rng=np.random.default_rng(1))
    turned_energy, turned_forces = ethanol_model.energy_and_forces(turn.apply(x))
    assert turned_energy == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(turned_forces, turn.apply(forces), atol=1e-8)
    for p in ethanol_model.kernel.permutations:
        exchanged_energy, exchanged_forces = ethanol_model.energy_and_forces(x[p])
        assert exchanged_energy == pytest.approx(energy, abs=1e-9)
        np.testing.assert_allclose(exchanged_forces, forces[p], atol=1e-8)
    far = ethanol_model.forces(x + 1e4)
    np.testing.assert_allclose(far, forces, atol=1e-6)
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(np.cross(x, forces).sum(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_batches_that_do_not_divide(ethanol_model, ethanol, count):
    x = ethanol[:count].uniform_positions()
    energies, forces = ethanol_model.energy_and_forces(x, memory=10 * ethanol_model.model.bytes_per_geometry)
    assert energies.shape == (count,)
    assert forces.shape == (count, 9, 3)
    single = [ethanol_model.energy_and_forces(y) for y in x]
    np.testing.assert_allclose(energies, [e for e, _ in single], atol=1e-9)
    np.testing.assert_allclose(forces, [f for _, f in single], atol=1e-9)
    np.testing.assert_allclose(ethanol_model.energy(x), energies, atol=1e-9)


def averaged_waves(positions):
    """Means of sin(kq) over 50 000 values of k: large inside, three features outside."""
    k = jnp.linspace(0.0, 1.0, 50_000, dtype=positions.dtype)
    return jnp.mean(jnp.sin(k[:, None] * inverse_distances(positions)), axis=0)


def test_a_batch_is_as_large_as_the_arrays_inside_the_descriptor_allow(water, monkeypatch):
    force_field = mlff.fit(mlff.GlobalKernel(averaged_waves, mlff.RBF(lengthscale=0.5)), water[:3], noise=0.1)
    sizes, original = [], batching.map_chunks

    def recorded(function, arrays, chunk):
        sizes.append(chunk)
        return original(function, arrays, chunk)

    monkeypatch.setattr("mlff.potentials.force_field.map_chunks", recorded)
    x = water[:40].uniform_positions()
    energies = force_field.energy(x)
    assert 4 <= sizes[0] <= 256 * 2**20 / (8 * 3 * 50_000)  # an array of this size lives at least
    np.testing.assert_allclose(energies, [force_field.energy(y) for y in x], atol=1e-9)


def test_results_are_double_whatever_the_users_setting(ethanol_model, ethanol):
    x = ethanol[0].positions
    reference = ethanol_model.forces(x)
    for setting in (False, True):
        with jax.enable_x64(setting):
            energy, forces = ethanol_model.energy_and_forces(x)
            assert isinstance(energy, float)
            assert isinstance(forces, np.ndarray)
            assert forces.dtype == np.float64
            np.testing.assert_array_equal(forces, reference)
            assert ethanol_model.hessian(x).dtype == np.float64


def test_hessian_in_small_memory(ethanol_model, ethanol):
    x = ethanol[0].positions
    np.testing.assert_allclose(ethanol_model.hessian(x, memory=1), ethanol_model.hessian(x), atol=1e-10)


def periodic_waves(positions, *, cell, cutoff=0.0):
    """Cosines of fractional coordinates: a descriptor of a periodic cell, ten lines, no derivative by hand."""
    fractional = jnp.linalg.solve(cell.T, positions.T).T
    difference = fractional[:, None] - fractional[None]
    first, second = np.triu_indices(len(positions), k=1)
    waves = jnp.cos(2 * jnp.pi * difference[first, second])
    return jnp.concatenate([waves.ravel(), jnp.linalg.norm(cell, axis=1) / 4])


def test_stress_is_energy_under_strain(rng):
    cell = np.array([[3.0, 0, 0], [0.2, 3.2, 0], [0.1, -0.3, 2.9]])
    frames = []
    for _ in range(6):
        positions = rng.uniform(0, 3, (3, 3))
        system = mlff.System(
            positions, np.array([8, 1, 1]), cell + 0.05 * rng.standard_normal((3, 3)), np.ones(3, bool)
        )
        frames.append(mlff.Frame(system, {"energy": 0.0, "forces": rng.standard_normal((3, 3))}))
    force_field = mlff.fit(
        mlff.GlobalKernel(periodic_waves, mlff.RBF(lengthscale=3.0)), mlff.Dataset(frames), noise=0.1
    )
    x, volume = frames[0].positions, abs(np.linalg.det(cell))

    def strained(strain):
        deformation = np.eye(3) + strain
        return force_field.energy(x @ deformation, cell @ deformation)

    stress = force_field.stress(x, cell)
    np.testing.assert_allclose(stress.ravel(), central(strained, np.zeros((3, 3))) / volume, atol=1e-8)
    assert np.abs(stress).max() > 1e-4
    atoms = mlff.Frame(mlff.System(x, np.array([8, 1, 1]), cell, np.ones(3, bool)), {}).to_ase()
    atoms.calc = mlff.Calculator(force_field)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), (stress + stress.T) / 2, atol=1e-12)


def test_no_stress_without_a_cell(water_model, water):
    with pytest.raises(ValueError, match="takes no cell"):
        water_model.stress(water[0].positions, np.eye(3))


def compilations(caplog, action) -> int:
    caplog.clear()
    with jax.log_compiles(True), caplog.at_level("WARNING"):
        action()
    return sum("Finished XLA compilation" in record.message for record in caplog.records)


def with_kernel(model, **changes):
    """A model of one part with something else in its kernel."""
    (part,) = model.parts
    return model.replace(parts=(part.replace(kernel=part.kernel.replace(**changes)),))


def test_nothing_compiles_anew(caplog, water, rng):
    """Other positions: nothing. Another molecule of as many atoms and points, and another length scale: nothing."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0))
    first, second = (mlff.fit(kernel, water[a : a + 11]) for a in (0, 20))
    x = water[90].positions
    first.energy_and_forces(x), first.hessian(x), first.energy_and_forces(water[:5].uniform_positions())
    assert compilations(caplog, lambda: first.energy_and_forces(x + 0.01)) == 0
    other = second.replace(
        numbers=np.array([16, 1, 1], dtype=np.int32),
        model=with_kernel(second.model, radial=mlff.Matern52(lengthscale=3.0)),
    )

    def use():
        other.energy_and_forces(x), other.hessian(x), other.energy_and_forces(water[:7].uniform_positions())

    assert compilations(caplog, use) == 0
    third = mlff.fit(kernel, water[:12])
    assert compilations(caplog, lambda: third.energy_and_forces(x)) > 0, "the counter counts nothing"


def test_hyperparameters_of_the_descriptor_are_differentiable(water):
    from descriptors import powered_distances

    kernel = mlff.GlobalKernel(functools.partial(powered_distances, power=-1.5), mlff.Matern52(lengthscale=2.0))
    model = mlff.fit(kernel, water[:5]).model
    x, numbers, cell = water[9].positions, water[9].numbers, water[9].cell
    with jax.enable_x64(True):

        @jax.jit
        def energy(power):
            descriptor = kernel.descriptor.replace(arguments={"power": power})
            return with_kernel(model, descriptor=descriptor).energy(x, numbers, cell)

        slope = float(jax.grad(energy)(-1.5))
        numeric = (float(energy(-1.5 + 1e-5)) - float(energy(-1.5 - 1e-5))) / 2e-5
    assert slope == pytest.approx(numeric, rel=1e-5)
    assert abs(slope) > 1e-3


def test_travels_to_other_processes(water_model, water):
    import pickle

    x = water[0].positions
    forces = water_model.forces(x)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(water_model)).forces(x), forces)


def test_an_empty_batch_is_empty(water_model):
    energies, forces = water_model.energy_and_forces(np.zeros((0, 3, 3)))
    assert energies.shape == (0,)
    assert forces.shape == (0, 3, 3)
