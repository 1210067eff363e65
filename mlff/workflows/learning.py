"""Learning on the fly: dynamics with a model that asks for a label where it does not know, and goes on with what it has learnt.

Walkers take turns. Where the standard deviation of a force component passes the threshold, the walker stops, a calculator labels its
geometry, the factor of the fit takes the label's rows (`continued`), and the next walker goes on. When the frames have grown by a
quarter, all hyperparameters are found anew. What a model says depends on the labels and the seed alone, so that whoever goes on after an
interruption comes to the same end.

Source: Li, Kermode, De Vita, Phys. Rev. Lett. 114, 096405 (2015), doi 10.1103/PhysRevLett.114.096405; Vandermause et al., npj Comput.
    Mater. 6, 20 (2020), doi 10.1038/s41524-020-0283-z (thresholds of a Gaussian process).
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from mlff.arguments import checked_seed, require_positive, whole_number
from mlff.data.dataset import Dataset
from mlff.data.frames import Frame
from mlff.data.identity import fingerprints
from mlff.data.system import System
from mlff.dynamics.md import Settings
from mlff.kernels.kernels import Kernel
from mlff.potentials.force_field import ForceField
from mlff.regression.recipes import RECIPES
from mlff.workflows import turns
from mlff.workflows.ledger import MODEL, Call, Ledger

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Learned:
    """What learning on the fly ended with.

    Attributes:
        force_field: fitted to all frames, with error bars.
        data: the frames with their labels.
        calls: of the calculator, in the order of the frames.
    """

    force_field: ForceField
    data: Dataset
    calls: tuple[Call, ...]


def learn(
    calculator,
    atoms: Atoms | Sequence[Atoms],
    folder=None,
    calls: int = 60,
    temperature: float = 500.0,
    threshold: float | None = None,
    walkers: int = 4,
    model=None,
    timestep: float = 0.5,
    friction: float = 0.02,
    patience: int = 20_000,
    seed: int = 0,
    progress: turns.Progress = lambda stage, share: None,
) -> Learned:
    """A force field from nothing but a calculator: dynamics that asks it where the model does not know.

        learned = mlff.learn(TBLite(method="GFN2-xTB", verbosity=0), ase.build.molecule("CH3CH2OH"), "ethanol", temperature=500)

    The first six labels are of the start and of displaced copies. Called again with the same folder, it goes on where it was, however it
    ended; with more calls it goes on to these.

    Arguments:
        calculator: any of ASE, of energy and forces, or a function without arguments that makes one for every label: programs that begin
            with their last solution give labels that depend on it within their convergence, and so does what is learnt.
        atoms: where walkers start, one geometry or several of the same atoms, with constraints.
        folder: for labels, state and model; made where it is missing. None keeps nothing.
        calls: of the calculator at most, failures not counted.
        temperature: of the dynamics, K: no lower than that of what the force field is for.
        threshold: the standard deviation of a force component that is too large, eV/Å. Without it, one that falls when walkers do not
            stop and rises when they stop at once, until all calls are used.
        walkers: runs that take turns.
        model: name of a recipe, or a kernel that is fitted exactly; left out, that of `mlff fit`, which is not tuned.
        timestep: fs; friction: of the thermostat, 1/fs.
        patience: with a threshold, steps that walkers make together without a stop before the work is done.
        seed: of first geometries, velocities and thermostats.
        progress: called with the name of a stage and the share of it that is done.
    Raises:
        ValueError: no calculator, or one that fails time after time; geometries of different atoms; numbers out of range; a folder
            that was begun with others.
    """
    starts = _starts(atoms, walkers)
    settings = _settings(calculator, starts, model, threshold, temperature, timestep, friction, seed)
    calls = whole_number("calls", calls, turns.FIRST)
    first = [turns.fresh(start, temperature, (seed, k)) for k, start in enumerate(starts)]
    with Ledger.held(folder, settings, first) as ledger:
        walking = turns.Turns(calculator, starts, model, ledger)
        if ledger.calls:
            logger.info("%s: goes on with %d labels", folder, len(ledger.calls))
        walking.begin(progress)
        quiet = math.inf if threshold is None else -(-patience // turns.TURN)
        while len(ledger.calls) < calls and ledger.quiet < quiet:
            progress("learn", len(ledger.calls) / calls)
            walking.advance()
        progress("learn", 1.0)
        force_field = turns.fitted(model, ledger.data, progress)
        if ledger.folder is not None:
            force_field.save(ledger.folder / MODEL)
        return Learned(force_field, ledger.data, tuple(ledger.calls))


def _starts(atoms: Atoms | Sequence[Atoms], walkers) -> list[Atoms]:
    """Where every walker starts."""
    given = [atoms] if isinstance(atoms, Atoms) else list(atoms)
    if given and len(given[0]) < 2:
        raise ValueError("atoms: a single atom has no internal coordinates to learn")
    if not given or any(not np.array_equal(one.numbers, given[0].numbers) for one in given):
        raise ValueError("atoms: expected one geometry, or several of the same atoms in the same order")
    return [given[k % len(given)].copy() for k in range(whole_number("walkers", walkers))]


def _settings(calculator, starts, model, threshold, temperature, timestep, friction, seed) -> dict:
    """What an interrupted run must agree in, as plain numbers and text.

    Raises:
        ValueError: what is out of range, or no calculator.
    """
    asked = turns.made(calculator)
    if threshold is not None:
        require_positive("threshold", threshold, ", eV/Å")
    require_positive("temperature", temperature, ", K")
    if isinstance(model, str) and model not in RECIPES:
        raise ValueError(f"model={model!r:.60} is not known; choose from {', '.join(RECIPES)}, or give a kernel")
    if not isinstance(model, (str, Kernel, type(None))):
        raise ValueError(f"model: expected the name of a recipe or a kernel, received {type(model).__name__}")
    Settings(timestep, temperature, friction, turns.INTERVAL, checked_seed(seed))  # refuses the others
    places = hashlib.sha256(
        "".join(fingerprints([Frame(System.from_ase(start), {}) for start in starts])).encode()
    ).hexdigest()[:16]
    return {
        "calculator": turns.described(asked), "start": places, "walkers": len(starts),
        "model": model.label if isinstance(model, Kernel) else model,
        "threshold": None if threshold is None else float(threshold), "temperature": float(temperature),
        "timestep": float(timestep), "friction": float(friction), "seed": int(seed),
    }  # fmt: skip
