"""Perturbation theory against closed solutions, against diagonalised Hamiltonians, and against GFN2-xTB's water."""

import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from ase.optimize import BFGS

import mlff
from descriptors import inverse_distances
from mlff.dynamics.motion import motions
from mlff.properties.anharmonic import find_resonances, perturbed
from mlff.properties.vibrations import FREQUENCY_UNIT
from mlff.units import INVERSE_CM


@pytest.fixture(scope="module")
def water_atoms(water):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=0.15), mlff.find_permutations(water))
    atoms = Atoms("OH2", water[0].positions)
    atoms.calc = mlff.Calculator(mlff.fit(kernel, water))
    BFGS(atoms, logfile=None).run(fmax=1e-6, steps=300)
    return atoms


def test_a_morse_oscillator_is_exact():
    """E_n = ω(n + ½) − ω²/4D (n + ½)²; of its energy function only the derivatives enter."""
    depth, width = 38000.0, 0.21

    def energy(q):
        return depth * (1 - jnp.exp(-width * q)) ** 2

    with jax.enable_x64(True):
        functions = [energy]
        for _ in range(4):
            functions.append(jax.grad(functions[-1]))
        omega, cubic, quartic = (np.array(float(f(0.0))) for f in functions[2:])
    found = perturbed(omega.reshape(1), cubic.reshape(1, 1, 1), quartic.reshape(1, 1))
    assert found.constants[0, 0] == pytest.approx(-(omega**2) / (4 * depth), rel=1e-10)
    assert found.fundamentals[0] == pytest.approx(omega - omega**2 / (2 * depth), rel=1e-12)
    assert found.zero_point_energy == pytest.approx(omega / 2 - omega**2 / (16 * depth), rel=1e-12)


def ladder(modes, size):
    """q and i·p of every mode in products of `size` harmonic oscillator functions."""
    lower = np.diag(np.sqrt(np.arange(1, size)), 1)
    single = {"q": (lower + lower.T) / np.sqrt(2), "ip": (lower - lower.T) / np.sqrt(2)}
    result = {}
    for name, r in itertools.product(single, range(modes)):
        result[name, r] = functools.reduce(np.kron, [single[name] if k == r else np.eye(size) for k in range(modes)])
    return result


def hamiltonian(omega, cubic, quartic, rotational=None, coriolis=None, size=7):
    """Watson's Hamiltonian without rotation, to the terms that the perturbation theory is made of."""
    k = len(omega)
    operators = ladder(k, size)
    q, ip = ([operators[name, r] for r in range(k)] for name in ("q", "ip"))
    levels = np.array(list(np.ndindex(*[size] * k))) + 0.5
    total = np.diag(levels @ omega)
    for r, s, t in np.ndindex(k, k, k):
        total = total + cubic[r, s, t] / 6 * (q[r] @ q[s] @ q[t])
    for r, s in np.ndindex(k, k):
        total = total + quartic[r, s] * (1 / 24 if r == s else 1 / 8) * (q[r] @ q[r] @ q[s] @ q[s])
    for axis in range(0 if coriolis is None else 3):
        turning = sum(coriolis[axis, r, s] * np.sqrt(omega[s] / omega[r]) * (q[r] @ ip[s]) for r, s in np.ndindex(k, k))
        total = total - rotational[axis] * (turning @ turning) - rotational[axis] / 4 * np.eye(len(total))
    return total, levels - 0.5


def random_constants(rng, k, scale):
    cubic = rng.standard_normal((k,) * 3)
    cubic = sum(cubic.transpose(p) for p in itertools.permutations(range(3))) / 6
    quartic = rng.standard_normal((k, k))
    coriolis = rng.standard_normal((3, k, k))
    return scale * cubic * 200, scale**2 * (quartic + quartic.T) * 100, (coriolis - coriolis.transpose(0, 2, 1)) / 2


def test_levels_of_three_coupled_modes(rng):
    """Second order in the anharmonicity is what remains of the exact levels as it goes to zero."""
    omega, rotational = np.array([700.0, 1130.0, 1790.0]), np.array([9.0, 14.0, 27.0])
    scale = 0.02
    cubic, quartic, coriolis = random_constants(rng, 3, scale)
    found = perturbed(omega, cubic, quartic, scale**2 * rotational, coriolis)
    assert not found.resonances
    matrix, quanta = hamiltonian(omega, cubic, quartic, scale**2 * rotational, coriolis)
    exact = np.linalg.eigvalsh(matrix)
    ground = exact[0]
    shifts = (exact - np.sort((quanta + 0.5) @ omega))[np.argsort(np.argsort((quanta + 0.5) @ omega))]
    fundamental = [shifts[np.flatnonzero((quanta == one).all(axis=1))[0]] - shifts[0] for one in np.eye(3)]
    np.testing.assert_allclose(found.fundamentals - omega, fundamental, atol=2e-3 * np.abs(fundamental).max())
    zero = found.zero_point_energy - omega.sum() / 2
    assert zero == pytest.approx(ground - omega.sum() / 2, abs=2e-3 * abs(zero))
    assert np.abs(fundamental).min() > 1e-4
    combination = shifts[np.flatnonzero((quanta == [1, 0, 1]).all(axis=1))[0]]
    numbers = np.array([1.5, 0.5, 1.5])
    chi = np.triu(found.constants)
    base = np.full(3, 0.5)
    expected = numbers @ chi @ numbers - base @ chi @ base
    assert combination - shifts[0] == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("second", [False, True])
def test_deperturbed_levels_and_their_coupling_give_the_resonance_back(second):
    """2ω_0 ≈ ω_1, or ω_0 + ω_1 ≈ ω_2: with the resonant term left out, a 2 × 2 problem gives the exact pair of levels."""
    omega = np.array([800.0, 1300.0, 2110.0]) if second else np.array([800.0, 1612.0, 2900.0])
    modes, coupling = ((0, 1, 2), 60.0) if second else ((0, 0, 1), 60.0)
    cubic, quartic = np.zeros((3, 3, 3)), np.zeros((3, 3))
    for place in itertools.permutations(modes):
        cubic[place] = coupling
    found = perturbed(omega, cubic, quartic)
    (resonance,) = found.resonances
    assert resonance.modes == modes
    assert resonance.gap == pytest.approx(-10.0 if second else -12.0)
    assert resonance.coupling == coupling
    lower, upper = (np.bincount(part, minlength=3).astype(float) for part in (modes[:2], modes[2:]))
    chi, base = np.triu(found.constants), np.full(3, 0.5)
    levels = [
        n @ omega + (n + base) @ chi @ (n + base) - base @ chi @ base for n in (lower, upper)
    ]  # fmt: skip
    off = coupling / (2 * np.sqrt(2)) if second else coupling / 4
    pair = np.linalg.eigvalsh([[levels[0], off], [off, levels[1]]])
    exact = np.linalg.eigvalsh(hamiltonian(omega, cubic, quartic)[0])
    for level in pair:
        assert np.abs(exact - exact[0] - level).min() < 0.1
    bare = omega[modes[2]]
    assert np.abs(exact - exact[0] - bare).min() > 5.0


def test_what_counts_as_a_resonance():
    omega, cubic = np.array([1000.0, 2050.0]), np.zeros((2, 2, 2))
    cubic[0, 0, 1] = cubic[0, 1, 0] = cubic[1, 0, 0] = 70.0
    assert not find_resonances(omega, cubic)  # 70⁴ / (256 · 50³) = 0.75 1/cm
    assert find_resonances(omega, 1.1 * cubic)
    assert not find_resonances(np.array([1000.0, 2201.0]), 10 * cubic)


def test_imaginary_frequencies_are_refused():
    with pytest.raises(ValueError, match=r"harmonic: frequencies must be positive, received -50\.0"):
        perturbed(np.array([-50.0]), np.zeros((1, 1, 1)), np.zeros((1, 1)))


def by_differences(atoms, hessian, step=0.05):
    """The constants from Hessians at displaced geometries, of a molecule at its minimum, and its fundamentals."""
    roots = np.sqrt(np.repeat(atoms.get_masses(), 3))
    internal = motions(atoms).internal
    eigenvalues, vectors = np.linalg.eigh(internal @ (hessian(atoms) / np.outer(roots, roots)) @ internal.T)
    energies, modes = FREQUENCY_UNIT * np.sqrt(eigenvalues), vectors.T @ internal
    directions = modes / roots * (FREQUENCY_UNIT / np.sqrt(energies))[:, None]
    at = {}
    for mode, sign in itertools.product(range(len(energies)), (-1, 0, 1)):
        moved = atoms.copy()
        moved.positions += sign * step * directions[mode].reshape(-1, 3)
        at[mode, sign] = directions @ hessian(moved) @ directions.T
    k = range(len(energies))
    cubic = np.stack([at[t, 1] - at[t, -1] for t in k], axis=-1) / (2 * step)
    cubic = sum(cubic.transpose(p) for p in itertools.permutations(range(3))) / 6
    quartic = np.stack([np.diag(at[s, 1] + at[s, -1] - 2 * at[s, 0]) for s in k], axis=-1) / step**2
    inertia, axes = atoms.get_moments_of_inertia(vectors=True)
    shaped = modes.reshape(len(energies), -1, 3)
    crossed = np.array([[np.cross(a, b).sum(axis=0) for b in shaped] for a in shaped])
    constants = (energies, cubic, (quartic + quartic.T) / 2)
    found = perturbed(
        *(array / INVERSE_CM for array in constants), 16.857629 / inertia, np.einsum("xi,rsi->xrs", axes, crossed)
    )
    return found, np.einsum("xi,rsi->xrs", axes, crossed)


def test_water_by_differences_of_its_own_hessians(water_atoms):
    found = mlff.anharmonic_frequencies(water_atoms)
    force_field = water_atoms.calc.force_field
    expected, coriolis = by_differences(water_atoms, lambda atoms: force_field.hessian(atoms.positions), step=0.02)
    np.testing.assert_allclose(found.fundamentals, expected.fundamentals, atol=0.05)
    np.testing.assert_allclose(found.constants, expected.constants, atol=0.05)
    assert found.zero_point_energy == pytest.approx(expected.zero_point_energy, abs=0.05)
    np.testing.assert_allclose(found.harmonic, mlff.frequencies(water_atoms), rtol=1e-9)
    # of a planar triatomic molecule modes couple about the axis of the largest moment of inertia alone, and ζ² sum to 1
    np.testing.assert_allclose(np.sum(coriolis**2, axis=(1, 2)) / 2, [0, 0, 1], atol=1e-6)


def test_waters_fundamentals_are_gfn2_xtbs(water_atoms, datasets, monkeypatch):
    pytest.importorskip("tblite", reason="GFN2-xTB itself")
    monkeypatch.setattr(sys, "path", [str(datasets), *sys.path])
    import generate

    calculator = generate.reference(accuracy=0.001)
    atoms = water_atoms.copy()
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=1e-5, steps=100)
    expected, _ = by_differences(atoms, lambda moved: generate.hessian(moved, calculator))
    found = mlff.anharmonic_frequencies(water_atoms)
    np.testing.assert_allclose(found.fundamentals, expected.fundamentals, atol=5.0)
    assert np.abs(found.fundamentals - found.harmonic).max() > 100.0


def test_what_is_refused(water_atoms, water_model):
    rough = water_atoms.copy()
    rough.calc = mlff.Calculator(water_model)
    with pytest.raises(ValueError, match=r"quartic force constant does not exist for Matérn-5/2.*use Matern72 or RBF"):
        mlff.anharmonic_frequencies(rough)
    moved = water_atoms.copy()
    moved.calc = water_atoms.calc
    moved.positions[0, 0] += 0.01
    with pytest.raises(ValueError, match="needs a minimum of the energy, and the largest force is"):
        mlff.anharmonic_frequencies(moved)
    moved.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="takes a free molecule"):
        mlff.anharmonic_frequencies(moved)
    moved.set_constraint()
    moved.positions = [[0, 0, 0], [0, 0, 0.96], [0, 0, -0.96]]
    with pytest.raises(ValueError, match="takes no linear molecule of more than two atoms"):
        mlff.anharmonic_frequencies(moved)


def test_a_saddle_is_refused(water_atoms, monkeypatch):
    hessian = mlff.ForceField.hessian
    monkeypatch.setattr(mlff.ForceField, "hessian", lambda *args, **kwargs: -hessian(*args, **kwargs))
    with pytest.raises(ValueError, match="3 imaginary frequencies"):
        mlff.anharmonic_frequencies(water_atoms)


def test_a_diatomic_molecule_fitted_to_a_morse_potential():
    """Hydrogen chloride: the closed solution ω − ω²/2D, with ω = ħ a √(2D/μ)."""
    depth, width, length = 4.6, 1.87, 1.275  # eV, 1/Å, Å
    frames = []
    for r in np.linspace(1.0, 1.75, 60):
        decay = np.exp(-width * (r - length))
        force = -2 * depth * width * decay * (1 - decay)
        system = mlff.System(np.array([[0, 0, 0], [0, 0, r]]), np.array([17, 1]), np.zeros((3, 3)), np.zeros(3, bool))
        forces = np.array([[0, 0, -force], [0, 0, force]])
        frames.append(mlff.Frame(system, {"energy": depth * (1 - decay) ** 2, "forces": forces}))
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=0.4))
    atoms = Atoms("ClH", [[0, 0, 0], [0, 0, length]])
    atoms.calc = mlff.Calculator(mlff.fit(kernel, mlff.Dataset(frames), noise=1e-5))
    BFGS(atoms, logfile=None).run(fmax=1e-7, steps=100)
    mass = 1 / np.sum(1 / atoms.get_masses())
    omega = 521.4709 * width * np.sqrt(2 * depth / mass)
    found = mlff.anharmonic_frequencies(atoms)
    assert found.harmonic[0] == pytest.approx(omega, rel=1e-4)
    assert found.fundamentals[0] == pytest.approx(omega - omega**2 / (2 * depth * 8065.544), abs=1.0)
    assert found.zero_point_energy == pytest.approx(omega / 2 - omega**2 / (16 * depth * 8065.544), abs=1.0)
