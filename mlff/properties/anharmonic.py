"""Anharmonic vibrations: second-order vibrational perturbation theory on cubic and quartic force constants.

With the dimensionless normal coordinates q_r, in which the harmonic potential is ½ Σ_r ω_r q_r², and N_r = n_r + ½:

    E(n) = χ_0 + Σ_r ω_r N_r + Σ_{r≤s} χ_rs N_r N_s

    χ_rr = φ_rrrr/16 − 1/32 Σ_s φ_rrs² [4/ω_s + P_rrs − I_rrs]
    χ_rs = φ_rrss/4 − 1/4 Σ_t φ_rrt φ_sst/ω_t − 1/8 Σ_t φ_rst² [P_rst + I_rts + I_str − I_rst]
           + Σ_α B_α (ζ^α_rs)² (ω_r/ω_s + ω_s/ω_r)
    χ_0  = Σ_r [φ_rrrr/64 − 7 φ_rrr²/(576 ω_r)] − 3/128 Σ_{r≠s} φ_rrs² [P_rrs − I_rrs]
           − 1/32 Σ_{r<s<t} φ_rst² [P_rst − I_rst − I_rts − I_str] − ¼ Σ_α B_α [1 + 2 Σ_{r<s} (ζ^α_rs)²]

with P_rst = 1/(ω_r + ω_s + ω_t) and I_rst = 1/(ω_r + ω_s − ω_t). Where ω_r + ω_s ≈ ω_t (a Fermi resonance) I_rst is left out:
deperturbed constants. These are the published sums in partial fractions, which is where single terms can be left out.

Source: Mills, in Molecular Spectroscopy: Modern Research (1972); Barone, J. Chem. Phys. 122, 014108 (2005),
doi 10.1063/1.1824881. The criterion of resonance: Martin et al., J. Chem. Phys. 103, 2589 (1995), doi 10.1063/1.469681.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from ase import Atoms
from jaxtyping import Float

from mlff.dynamics.calculator import located
from mlff.dynamics.motion import motions
from mlff.properties.vibrations import FREQUENCY_UNIT, require_relaxed
from mlff.units import INVERSE_CM

CLOSE = 200.0  # 1/cm, within which two levels can be in resonance
SHIFT = 1.0  # 1/cm, by which the perturbation theory of a resonance is wrong before it is left out


@dataclasses.dataclass(frozen=True)
class Resonance:
    """ω_r + ω_s ≈ ω_t, modes counted from 0; r = s is a Fermi resonance of the first type.

    modes: (r, s, t). gap: ω_r + ω_s − ω_t, 1/cm. coupling: φ_rst, 1/cm.
    """

    modes: tuple[int, int, int]
    gap: float
    coupling: float


@dataclasses.dataclass(frozen=True)
class Anharmonic:
    """Vibrational levels to second order, everything in 1/cm.

    harmonic: ω, ascending, shape (k,).
    fundamentals: ν_r = ω_r + 2 χ_rr + ½ Σ_{s≠r} χ_rs, shape (k,); of modes in `resonances` deperturbed ones.
    zero_point_energy: χ_0 + ½ Σ ω_r + ¼ Σ_{r≤s} χ_rs.
    constants: χ, symmetric, shape (k, k).
    resonances: those whose terms were left out.
    """

    harmonic: Float[np.ndarray, " k"]
    fundamentals: Float[np.ndarray, " k"]
    zero_point_energy: float
    constants: Float[np.ndarray, "k k"]
    resonances: tuple[Resonance, ...]


def anharmonic_frequencies(atoms: Atoms) -> Anharmonic:
    """Fundamentals and zero-point energy of a free molecule at its minimum (VPT2, deperturbed).

    Cubic and semi-diagonal quartic constants along the normal modes are exact derivatives of the force field; Coriolis
    coupling enters with the rotational constants. Degenerate modes of symmetric tops are treated as separate ones, which
    is right for their fundamentals, not for their overtones.

    Arguments:
        atoms: with `mlff.Calculator`, relaxed to forces below 1e-3 eV/Å, better 1e-5.
    Raises:
        ValueError: the kernel lacks fourth derivatives, no minimum, periodic or constrained atoms, or a linear molecule of
            more than two atoms, whose bends and rotations are not separate.
    """
    force_field, geometry = located(atoms, "anharmonic_frequencies")
    if atoms.pbc.any() or atoms.constraints:
        raise ValueError("atoms: anharmonic_frequencies takes a free molecule; no periodic cell and no constraints")
    free = motions(atoms)
    if len(free.rigid) == 5 and len(atoms) > 2:
        raise ValueError(
            "atoms: anharmonic_frequencies takes no linear molecule of more than two atoms, frequencies does"
        )
    force_field.require_derivative(4, "a quartic force constant")
    require_relaxed(atoms, "anharmonic_frequencies")
    energies, modes = _normal_modes(atoms, free.internal, force_field.hessian(**geometry))
    directions = modes / np.sqrt(atoms.get_masses())[:, None] * (FREQUENCY_UNIT / np.sqrt(energies))[:, None, None]
    cubic = force_field.force_constants(directions=directions, order=3, **geometry)
    pairs = np.array(list(itertools.combinations_with_replacement(range(len(energies)), 2)))
    quartic = np.empty((len(energies),) * 2)
    quartic[tuple(pairs.T)] = force_field.directional_derivatives(
        directions=directions[pairs[:, [0, 0, 1, 1]]], **geometry
    )
    quartic.T[tuple(pairs.T)] = quartic[tuple(pairs.T)]
    rotational, coriolis = (
        _rotation(atoms, modes) if len(free.rigid) == 6 else (np.zeros(3), np.zeros((3, *quartic.shape)))
    )
    return perturbed(*(array / INVERSE_CM for array in (energies, cubic, quartic)), rotational / INVERSE_CM, coriolis)


def perturbed(
    harmonic: Float[np.ndarray, " k"],
    cubic: Float[np.ndarray, "k k k"],
    quartic: Float[np.ndarray, "k k"],
    rotational: Float[np.ndarray, "3"] | None = None,
    coriolis: Float[np.ndarray, "3 k k"] | None = None,
) -> Anharmonic:
    """The perturbation theory itself, on constants from anywhere; everything in 1/cm.

    Arguments:
        harmonic: ω_r.
        cubic, quartic: φ_rst and φ_rrss, derivatives of the potential by the dimensionless normal coordinates.
        rotational: B_α about the principal axes of inertia; without it rotations take no part.
        coriolis: ζ^α_rs, antisymmetric in r and s.
    Raises:
        ValueError: a frequency that is not positive.
    """
    if not (harmonic > 0).all():
        raise ValueError(
            f"harmonic: frequencies must be positive, received {harmonic.min():.1f} 1/cm; start at a minimum"
        )
    resonances = find_resonances(harmonic, cubic)
    total = 1.0 / (harmonic[:, None, None] + harmonic[:, None] + harmonic)
    gaps = harmonic[:, None, None] + harmonic[:, None] - harmonic
    inverse = 1.0 / np.where(gaps == 0.0, np.inf, gaps)
    for r, s, t in (resonance.modes for resonance in resonances):
        inverse[r, s, t] = inverse[s, r, t] = 0.0
    turning, turning_zero = _coriolis_terms(harmonic, rotational, coriolis)
    constants = _constants(harmonic, cubic, quartic, total, inverse) + turning
    zero = _constant_term(harmonic, cubic, quartic, total, inverse) + turning_zero
    diagonal = np.diag(constants)
    fundamentals = harmonic + 1.5 * diagonal + 0.5 * constants.sum(axis=1)
    energy = zero + 0.5 * harmonic.sum() + 0.125 * (constants.sum() + diagonal.sum())
    return Anharmonic(harmonic, fundamentals, float(energy), constants, resonances)


def find_resonances(harmonic: Float[np.ndarray, " k"], cubic: Float[np.ndarray, "k k k"]) -> tuple[Resonance, ...]:
    """Pairs of levels ω_r + ω_s ≈ ω_t that perturbation theory cannot treat: closer than 200 1/cm, and wrong by more than
    1 1/cm: φ_rrt⁴/(256 |Δ|³), or φ_rst⁴/(64 |Δ|³) for r ≠ s, the next term of the two-level problem."""
    resonances = []
    for r, s in itertools.combinations_with_replacement(range(len(harmonic)), 2):
        for t in range(len(harmonic)):
            gap, coupling = harmonic[r] + harmonic[s] - harmonic[t], cubic[r, s, t]
            weight = 256.0 if r == s else 64.0
            if t not in (r, s) and abs(gap) < CLOSE and coupling**4 > SHIFT * weight * abs(gap) ** 3:
                resonances.append(Resonance((r, s, t), float(gap), float(coupling)))
    return tuple(resonances)


def _constants(harmonic, cubic, quartic, total, inverse) -> np.ndarray:
    """χ without rotations."""
    squares = cubic**2
    twice = np.einsum("rrs->rs", cubic)
    brackets = total + inverse.transpose(0, 2, 1) + inverse.transpose(2, 0, 1) - inverse
    chi = quartic / 4 - (twice / harmonic) @ twice.T / 4 - np.sum(squares * brackets, axis=2) / 8
    diagonal = 4 / harmonic + np.einsum("rrs->rs", total) - np.einsum("rrs->rs", inverse)
    np.fill_diagonal(chi, np.diag(quartic) / 16 - np.sum(twice**2 * diagonal, axis=1) / 32)
    return chi


def _constant_term(harmonic, cubic, quartic, total, inverse) -> float:
    """χ_0 without rotations."""
    zero = np.sum(np.diag(quartic) / 64 - 7 * np.einsum("rrr->r", cubic) ** 2 / (576 * harmonic))
    for r, s in itertools.permutations(range(len(harmonic)), 2):
        zero -= 3 / 128 * cubic[r, r, s] ** 2 * (total[r, r, s] - inverse[r, r, s])
    for r, s, t in itertools.combinations(range(len(harmonic)), 3):
        bracket = total[r, s, t] - inverse[r, s, t] - inverse[r, t, s] - inverse[s, t, r]
        zero -= cubic[r, s, t] ** 2 * bracket / 32
    return float(zero)


def _coriolis_terms(harmonic, rotational, coriolis) -> tuple[np.ndarray, float]:
    """What rotations add to χ and χ_0."""
    if rotational is None or coriolis is None:
        return np.zeros((len(harmonic),) * 2), 0.0
    ratio = harmonic[:, None] / harmonic
    strength = np.einsum("a,ars->rs", rotational, coriolis**2)
    return strength * (ratio + ratio.T), float(-(rotational.sum() + strength.sum()) / 4)


def _normal_modes(atoms: Atoms, internal: np.ndarray, hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Harmonic quanta ħω, eV, and mass-weighted normal modes, shape (k, n, 3).

    Raises:
        ValueError: one is imaginary.
    """
    roots = np.sqrt(np.repeat(atoms.get_masses(), 3))
    eigenvalues, vectors = np.linalg.eigh(internal @ (hessian / (roots[:, None] * roots)) @ internal.T)
    if not eigenvalues[0] > 0:
        raise ValueError(
            f"atoms: {np.sum(~(eigenvalues > 0))} imaginary frequencies, so this is no minimum; displace them along those modes "
            "and relax"
        )
    return FREQUENCY_UNIT * np.sqrt(eigenvalues), (vectors.T @ internal).reshape(len(eigenvalues), -1, 3)


def _rotation(atoms: Atoms, modes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotational constants ħ²/2I, eV, and ζ^α_rs = Σ_a (L_ar × L_as)_α about the principal axes."""
    inertia, axes = atoms.get_moments_of_inertia(vectors=True)
    crossed = np.cross(modes[:, None], modes[None]).sum(axis=2)
    return FREQUENCY_UNIT**2 / (2 * inertia), np.einsum("xi,rsi->xrs", axes, crossed)
