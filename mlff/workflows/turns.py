"""Turns of walkers that learn on the fly, and the model that they walk with."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from mlff.data.dataset import Dataset
from mlff.data.frames import Frame
from mlff.data.methods import require_calculator, said
from mlff.dynamics.calculator import Calculator, geometry
from mlff.dynamics.md import Settings, begin, integrate, thermalise
from mlff.dynamics.sampling import labelled
from mlff.kernels.kernels import Kernel
from mlff.potentials.force_field import ForceField
from mlff.potentials.room import with_room
from mlff.regression.exact import IndefiniteMatrix
from mlff.regression.fitting import fit
from mlff.regression.recipes import BOTH, FORCES, PLAIN, RECIPES, default_recipe, recipe
from mlff.regression.updates import continued
from mlff.workflows.ledger import Call, Ledger, Walker

logger = logging.getLogger(__name__)

FIRST = 6  # geometries that are labelled before there is a model
RATTLE = 0.05  # Å, standard deviation of their displacements
GROWTH = 1.25  # of the frames, after which all hyperparameters are found anew
INTERVAL = 20  # steps between looks at the error bars
TURN = 2000  # steps of a turn without a call
# Of the threshold that follows: after a stop in the first half of a turn, after a turn without one; the first and largest, of the forces.
RISE, FALL, BEGIN = 1.25, 0.8, 0.3
FAILURES = 5  # of the calculator, or walkers that get lost, one after the other, which end the work
DECIMALS = 8  # of positions in files

Progress = Callable[[str, float], None]


def made(calculator) -> BaseCalculator:
    """The calculator, or one that a function makes.

    Raises:
        ValueError: it is none.
    """
    if callable(calculator) and not isinstance(calculator, (BaseCalculator, type)):
        try:
            calculator = calculator()
        except Exception as error:  # of anybody's program
            raise ValueError(f"calculator: could not be made, {said(error)}") from error
    require_calculator(calculator, " or a function that makes one")
    return calculator


def described(calculator: BaseCalculator) -> str:
    """What tells one calculator from another: its name and the parameters that it says."""
    parameters = getattr(calculator, "parameters", None) or {}
    shown = ", ".join(f"{name}={value!r}" for name, value in sorted(parameters.items()))
    return f"{type(calculator).__name__}({shown:.400})"


def fresh(start: Atoms, temperature: float, seeds: tuple[int, ...], step: int = 0) -> Walker:
    """A walker at the start, with velocities of the temperature."""
    atoms = start.copy()
    thermalise(atoms, temperature, np.random.default_rng([*seeds, step]))
    return Walker(atoms.positions.copy(), atoms.get_momenta(), step)


def _model_for(model: str | Kernel | None, data: Dataset) -> tuple[Kernel, tuple[str, ...]]:
    """Kernel and labels for some frames: permutations are looked for in these."""
    if isinstance(model, Kernel):
        return model, BOTH if model.transferable else FORCES
    if model is None:
        model, _ = default_recipe(data)
        if RECIPES[model].summed:  # whose amplitudes want tuning, which takes longer than all else
            model = PLAIN
        if RECIPES[model].inducing is not None:  # whose factor takes no more rows
            model = "soap-gpr"
    return recipe(model, data)


def fitted(model: str | Kernel | None, data: Dataset, progress: Progress = lambda stage, share: None) -> ForceField:
    """A fit to some frames that can take more into its factor."""
    kernel, labels = _model_for(model, data)
    return fit(kernel, data, labels, progress=progress, posterior=True)


class _Unsure:
    """Ends a run where the largest standard deviation of a force component passes the threshold; what was there at the end."""

    def __init__(self, force_field: ForceField, threshold: float, since: int):
        self.force_field, self.threshold, self.since = force_field, threshold, since

    def ends(self, atoms: Atoms, step: int) -> bool:
        """Whether the run ends at this step: not at its first, whose geometry may have been labelled."""
        return step > self.since and float(stds(self.force_field, atoms).max()) > self.threshold


def stds(force_field: ForceField, atoms: Atoms) -> np.ndarray:
    """Standard deviations of the forces, eV/Å, (n, 3)."""
    return np.asarray(force_field.std("forces", **geometry(force_field, atoms)))


class Turns:
    """Turns of walkers, and the model that they walk with."""

    def __init__(self, calculator, starts: list[Atoms], model: str | Kernel | None, ledger: Ledger):
        self.calculator, self.starts, self.model, self.ledger = calculator, starts, model, ledger
        self._known: tuple[int, ForceField] | None = None

    def begin(self, progress: Progress) -> None:
        """Label the first geometries: the start, and copies with atoms displaced."""
        ledger = self.ledger
        while len(ledger.calls) < FIRST:
            ledger.save()
            k = len(ledger.calls)
            progress("first labels", k / FIRST)
            atoms = self.starts[k % len(self.starts)].copy()
            if k:
                generator = np.random.default_rng([ledger.settings["seed"], len(self.starts), k])
                atoms.set_positions(atoms.positions + RATTLE * generator.standard_normal(atoms.positions.shape))
            if not ledger.has_label:
                try:
                    ledger.add(self._label(atoms))
                except Exception as error:  # of anybody's program
                    raise ValueError(
                        f"calculator: {self._name} fails at the first geometries, {said(error)}; start elsewhere"
                    ) from error
            ledger.calls.append(Call(None, 0.0, None, None, None))
        if ledger.threshold is None:
            given = ledger.settings["threshold"]
            ledger.threshold = self._largest_threshold if given is None else given
            ledger.save()

    def advance(self) -> None:
        """One walker's turn: to its end, or to a geometry that is labelled."""
        ledger = self.ledger
        k = ledger.turn % len(ledger.walkers)
        if not ledger.pending:
            self._walk(k)
            if not ledger.pending:
                return
        walker, force_field = ledger.walkers[k], self.force_field(len(ledger.calls))
        atoms = self._atoms(k)
        if not ledger.has_label:
            try:
                ledger.add(self._label(atoms))
            except Exception as error:  # of anybody's program
                self._failed(k, f"calculator: {self._name} fails", error)
                return
        frame = ledger.frames[-1]
        spread = stds(force_field, atoms)
        missed = self._roomy(force_field).forces(**geometry(force_field, atoms)) - frame.labels["forces"]
        time = walker.step * ledger.settings["timestep"]
        call = Call(k, time, _size(spread), _size(missed), ledger.threshold)
        logger.info(
            "label %d: walker %d at %.0f fs, σ %.3g, error %.3g eV/Å, threshold %.3g",
            len(ledger.frames), k, call.time, call.std, call.error, call.threshold,
        )  # fmt: skip
        ledger.calls.append(call)
        ledger.pending, ledger.failed, ledger.turn, ledger.quiet = False, 0, ledger.turn + 1, 0
        ledger.save()

    def _walk(self, k: int) -> None:
        """Dynamics of a walker until it does not know, or its turn ends."""
        ledger = self.ledger
        settings, since = ledger.settings, ledger.walkers[k].step
        force_field = self.force_field(len(ledger.frames))
        atoms = self._atoms(k)
        atoms.calc = Calculator(self._roomy(force_field))
        atoms.calc.warned_at = np.inf  # error bars are looked at
        made = Settings(settings["timestep"], settings["temperature"], settings["friction"], INTERVAL, settings["seed"])
        noise = np.random.PCG64([settings["seed"], k, since]).state
        checkpoint = dataclasses.replace(begin(atoms, made), step=since, noise=noise)
        try:
            run = integrate(
                checkpoint, TURN, None, lambda stage, share: None, _Unsure(force_field, ledger.threshold, since)
            )
        except ValueError as error:  # an atom left, or forces are no numbers
            self._failed(k, "dynamics: a walker got lost", error)
            return
        stopped = run.stopped is not None
        ledger.walkers[k] = Walker(
            atoms.positions.copy(), atoms.get_momenta(), run.stopped if stopped else since + TURN
        )
        if settings["threshold"] is None:
            if not stopped:
                ledger.threshold *= FALL
            elif run.stopped - since <= TURN // 2:
                ledger.threshold = min(RISE * ledger.threshold, self._largest_threshold)
        ledger.pending = stopped
        if not stopped:
            ledger.turn, ledger.quiet = ledger.turn + 1, ledger.quiet + 1
        ledger.save()

    @functools.cached_property
    def _largest_threshold(self) -> float:
        """A share of the forces of the first labels, eV/Å: with errors of that size walkers still are where they should be."""
        return BEGIN * _size(np.concatenate([frame.labels["forces"] for frame in self.ledger.frames[:FIRST]]))

    def _atoms(self, k: int) -> Atoms:
        """A walker's atoms, without calculator."""
        atoms, walker = self.starts[k].copy(), self.ledger.walkers[k]
        atoms.set_positions(walker.positions, apply_constraint=False)
        atoms.set_momenta(walker.momenta, apply_constraint=False)
        return atoms

    def _again(self, k: int) -> Walker:
        """A walker back at its start."""
        settings, step = self.ledger.settings, self.ledger.walkers[k].step + TURN
        return fresh(self.starts[k], settings["temperature"], (settings["seed"], k), step)

    def _failed(self, k: int, who: str, error: Exception) -> None:
        """No label came of a turn: the walker starts again, unless that happens time after time."""
        ledger = self.ledger
        logger.warning("%s, %s; walker %d starts again", who, said(error), k)
        ledger.failed += 1
        if ledger.failed == FAILURES:
            ledger.failed = 0  # who mends it goes on here
            ledger.save()
            raise ValueError(f"{who}, {FAILURES} times in a row; {said(error)}") from error
        ledger.walkers[k] = self._again(k)
        ledger.pending, ledger.turn = False, ledger.turn + 1
        ledger.save()

    @property
    def _name(self) -> str:
        return self.ledger.settings["calculator"].partition("(")[0]

    def _label(self, atoms: Atoms) -> Frame:
        asked = atoms.copy()
        asked.calc = made(self.calculator)
        return labelled(asked, np.round(atoms.positions, DECIMALS))

    def force_field(self, count: int) -> ForceField:
        """The model of the first labels: of a fit when they had grown by a quarter, and of those since."""
        known, model = self._known or (0, None)
        if known > count:
            known = 0
        scheduled = refits(count)[-1]
        if known < scheduled:
            known, model = scheduled, fitted(self.model, self.ledger.data[:scheduled])
        while known < count:
            known, data = known + 1, self.ledger.data[: known + 1]
            try:
                model = continued(model, data)
            except IndefiniteMatrix:
                model = fitted(self.model, data)
        self._known = known, model
        return model

    def _roomy(self, force_field: ForceField) -> ForceField:
        """The forces alone, compiled for more points than there are."""
        periodic = {"periodic": force_field.record["periodic"]}
        return ForceField(with_room(force_field.model), force_field.numbers, record=periodic)


def refits(count: int) -> list[int]:
    """How many labels there were when hyperparameters were found anew."""
    found = [FIRST]
    while (following := max(found[-1] + 1, math.ceil(GROWTH * found[-1]))) <= count:
        found.append(following)
    return found


def _size(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
