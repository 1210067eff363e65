"""Saddle points with exact Hessians and the ways down from them, through Sella."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import jax
import numpy as np
from ase import Atoms

from mlff.dynamics.motion import motions, moving_atoms
from mlff.precision import doubled
from mlff.properties.elastic_bands import Counted, Path, held
from mlff.properties.relaxation import relax
from mlff.properties.vibrations import require_hessian, wavenumbers

FLAT = 1e-6  # of the largest curvature: smaller negative ones are rounding
END = 1e-5  # eV/Å, at the minima where a reaction path ends


@dataclasses.dataclass(frozen=True)
class Saddle:
    """A transition state, its energy (eV), the frequency of its one unstable mode (1/cm, negative), that mode (Cartesian,
    of unit length, shape (n, 3)), and what the search took: steps, evaluations of energy with forces, exact Hessians."""

    atoms: Atoms
    energy: float
    frequency: float
    mode: np.ndarray
    steps: int
    evaluations: int
    hessians: int


def transition_state(atoms: Atoms, fmax: float = 1e-5, steps: int = 200, hessian_every: int = 1) -> Saddle:
    """The first-order saddle point near a geometry, by Sella's partitioned rational function optimisation.

    Sella estimates the Hessian from forces; a force field has the exact one, which makes the search a Newton iteration.

    Arguments:
        atoms: near the saddle (such as `band(…).highest`), with a calculator that has `get_hessian`; moved in place.
            Constraints may fix whole atoms, nothing else.
        fmax: largest force on an atom at the end, eV/Å.
        steps: of the search, at most.
        hessian_every: steps from one exact Hessian to the next; 0 for none but the one that checks the end.
    Raises:
        ValueError: no Hessian; not converged; at the end another number of unstable modes than one.
        ImportError: Sella is not installed.
    Source: Hermes, Sargsyan, Najm, Zádor, J. Chem. Theory Comput. 18, 6974 (2022), doi 10.1021/acs.jctc.2c00395.
    """
    require_hessian(atoms)
    moving_atoms(atoms, "transition_state")  # refuses other constraints before anything moves
    calculator = Counted(atoms.calc)
    search = atoms.copy()
    search.calc = calculator
    options = {"proj_rot": False} if atoms.constraints else {}  # Sella holds the rotation of fixed atoms as well
    if hessian_every:
        options |= {"hessian_function": calculator.get_hessian, "diag_every_n": hessian_every - 1 or -1}
    with _sella() as sella:
        optimizer = sella.Sella(search, order=1, logfile=None, **options)
        converged = optimizer.run(fmax=fmax, steps=steps)
    atoms.set_positions(search.positions, apply_constraint=False)
    if not converged:
        raise ValueError(
            f"atoms: no saddle point after steps={steps}, the largest force is "
            f"{np.linalg.norm(search.get_forces(), axis=1).max():.1e} eV/Å; start closer to it, from mlff.band(…).highest"
        )
    frequency, mode = _unstable_mode(search)
    return Saddle(
        atoms,
        search.get_potential_energy(),
        frequency,
        mode,
        optimizer.nsteps,
        calculator.evaluations,
        calculator.hessians,
    )


def reaction_path(saddle: Atoms, step: float = 0.1, fmax: float = 0.01, steps: int = 200) -> Path:
    """The intrinsic reaction coordinate: steepest descent in mass-weighted coordinates from a saddle to both sides, by Sella.

    A side ends where the energy no longer falls, less than a step from a minimum, which Newton steps then reach.

    Arguments:
        saddle: a transition state with a calculator that has `get_hessian`; not moved.
        step: between geometries, Å √u.
        fmax: largest force on an atom across the path, eV/Å.
        steps: of each side, at most.
    Returns:
        the path from one minimum over the saddle to the other; its coordinate grows along it.
    Raises:
        ValueError: no saddle; fixed atoms; a side that does not end within `steps`, or that cannot be followed.
        ImportError: Sella is not installed.
    Source: Fukui, Acc. Chem. Res. 14, 363 (1981), doi 10.1021/ar00072a001; Hermes et al. (2022), see `transition_state`.
    """
    require_hessian(saddle)
    if saddle.constraints:
        raise ValueError(
            "saddle: with fixed atoms; the path of steepest descent is that of free ones, remove the constraints"
        )
    calculator = Counted(saddle.calc)
    walker = saddle.copy()
    walker.calc = calculator
    walker.set_masses(saddle.get_masses())  # or else Sella takes those of the commonest isotopes
    _unstable_mode(walker)
    start = held(walker)
    with _sella() as sella:
        follower = sella.IRC(walker, logfile=None, dx=step, hessian_function=calculator.get_hessian)
        sides = [_side(follower, start, direction, fmax, steps) for direction in ("reverse", "forward")]
    return Path((*reversed(sides[0]), start, *sides[1]), calculator.evaluations, calculator.hessians)


def _side(follower, start: Atoms, direction: str, fmax: float, steps: int) -> list[Atoms]:
    """Geometries from the saddle downwards, the minimum last."""
    images = [start]
    walker = follower.atoms
    try:
        for ended in follower.irun(fmax=fmax, steps=steps, direction=direction):
            if follower.first:  # still at the saddle
                continue
            # Sella's own end wants positive curvatures, which rigid motions of the molecule may keep it from
            if ended or walker.get_potential_energy() >= images[-1].get_potential_energy():
                break
            images.append(held(walker))
        else:
            raise ValueError(
                f"steps={steps}: the {direction} side has not come to its end; give more, or a larger step"
            )
    except RuntimeError as error:  # Sella's IRCInnerLoopConvergenceFailure
        raise ValueError(
            f"step={follower.dx}: the {direction} side cannot be followed in such steps; take less"
        ) from error
    minimum = images[-1].copy()
    minimum.calc = walker.calc
    relax(minimum, fmax=END)
    return [*images[1:], held(minimum)]


def _unstable_mode(atoms: Atoms) -> tuple[float, np.ndarray]:
    """Frequency (1/cm, negative) and Cartesian direction of the one unstable mode.

    Raises:
        ValueError: none, or more than one.
    """
    roots = np.sqrt(np.repeat(atoms.get_masses(), 3))
    space = motions(atoms).internal.T
    values, vectors = np.linalg.eigh(space.T @ (atoms.calc.get_hessian(atoms) / np.outer(roots, roots)) @ space)
    frequencies = wavenumbers(values)
    if (unstable := int(np.sum(values < -FLAT * values[-1]))) != 1:
        raise ValueError(
            f"atoms: {unstable} unstable modes there, a transition state has one (lowest frequencies, 1/cm: "
            f"{', '.join(f'{value:.0f}' for value in frequencies[:3])}); start closer to it, from mlff.band(…).highest"
        )
    mode = (space @ vectors[:, 0] / roots).reshape(-1, 3)
    return float(frequencies[0]), mode / np.linalg.norm(mode)


@contextlib.contextmanager
def _sella() -> Iterator:
    """Sella, in the 64 bits that it wants, while its import's settings of JAX and of the environment are put back.

    Importing Sella switches JAX to 64 bits for the whole process, sets a folder for compiled programs in the user's home
    and keeps JAX to the CPU.
    """
    settings, environment = dict(jax.config.values), dict(os.environ)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = ""  # then it makes no folder
    try:
        import sella
    except ImportError as error:
        raise ImportError('sella is not installed, which finds transition states: pip install "mlff[sella]"') from error
    finally:
        _put_back(settings, environment)
    with doubled(), jax.numpy_dtype_promotion("standard"):
        yield sella


def _put_back(settings: dict, environment: dict) -> None:
    for name, value in settings.items():
        if jax.config.values[name] != value:
            jax.config.update(name, value)
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
