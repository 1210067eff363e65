"""What is asked of a fit, checked and completed: the kernel, the labels with their noise, the constants that are given."""

from __future__ import annotations

import dataclasses
import logging
import numbers
from collections.abc import Mapping, Sequence

import numpy as np

from mlff.arguments import LARGEST, is_number, unwrapped
from mlff.data.batches import LabelledFrames, arguments_of
from mlff.data.dataset import Dataset, require_dataset
from mlff.data.group_noise import GroupNoise
from mlff.data.hessian_checks import require_unprojected
from mlff.kernels.exchange import check_symmetry
from mlff.kernels.jets import require_unit_length
from mlff.kernels.kernels import Kernel
from mlff.kernels.radial import require_order
from mlff.operators import FORCES, HESSIAN, Operator, find_operator, order_of
from mlff.potentials.differences import remaining
from mlff.potentials.expansion import composition, constant_elements
from mlff.potentials.force_field import ForceField
from mlff.regression.sparse.inducing import FARTHEST
from mlff.regression.training_frames import labelled_frames
from mlff.regression.validation import with_lengthscales
from mlff.units import atomic_numbers, symbols

logger = logging.getLogger(__name__)

RELATIVE_NOISE = 3e-5  # of the labels' root mean square, where no noise is given
LEFT = 0.3  # share of the squared forces that a baseline of any use leaves at most


@dataclasses.dataclass(frozen=True)
class Request:
    """What a fit is to do.

    Attributes:
        kernel: completed with the elements of the frames; a length scale may be missing.
        frames: with their labels.
        operators: what is fitted, by the names of the labels.
        noise: standard deviation of every kind of label, by name.
        atomic_energies: constants that are given, by atomic number, eV; None where they are found.
        order: the highest derivative among the labels.
        groups: the noise of groups of frames that have their own; None without.
        group_of: the groups of frames, by index, whose noise may be found; none where noise is stated.
        selection: how environments that span a sparse model are chosen.
    """

    kernel: Kernel
    frames: LabelledFrames
    operators: dict[str, Operator]
    noise: dict[str, float]
    atomic_energies: dict[int, float] | None
    order: int
    groups: GroupNoise | None = None
    group_of: dict[int, str] = dataclasses.field(default_factory=dict)
    selection: str = FARTHEST

    @classmethod
    def of(cls, model, data, labels, noise, atomic_energies, group_noise=None, baseline=None) -> Request:
        """From the arguments of `fit`.

        Raises:
            ValueError: data, labels, noise and kernel that do not fit together, each with the remedy.
        """
        _require_kernel_and_data(model, data)
        operators = operators_of(labels)
        data.charges()  # refuses those that differ
        if baseline is not None:
            data = _less_baseline(data, baseline, operators, atomic_energies)
        groups = None if group_noise is None else GroupNoise.of(group_noise, data, tuple(operators))
        frames = labelled_frames(model, data, operators, groups)
        kernel = model.completed(np.concatenate(frames.compositions))
        if atomic_energies is None:
            atomic_energies = _energies_in_data(kernel, data, operators)
        atoms = _atomic_energies(kernel, atomic_energies, tuple(operators))
        levels = noise_levels(noise, frames, operators)
        order = _highest_order(frames, operators)
        for radial in kernel.radials:
            require_order(radial, order, 1, f"a force field from {' and '.join(operators)}")
        require_unit_length(kernel, frames.batches[0])
        if operators.get("hessian") is HESSIAN:
            require_unprojected(frames)
        for part in with_lengthscales(kernel, [1.0] * len(kernel.leaves)).parts:
            if part.permutations_used is not None:
                check_symmetry(part, frames.batches[0])
        named = noise is None and group_noise is None
        of_groups = {i: frame.group for i, frame in enumerate(data) if frame.group is not None} if named else {}
        return cls(kernel, frames, operators, levels, atoms, order, groups, of_groups)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of what is fitted."""
        return tuple(self.operators)

    @property
    def identity(self) -> tuple:
        """What tells it from others, for `checkpoint.fingerprint`."""
        batches = [(b.positions, b.numbers, b.cells, b.pbc, dict(b.labels), b.noise) for b in self.frames.batches]
        return self.kernel, self.labels, batches, (self.noise, self.atomic_energies, self.selection)

    @property
    def levels(self) -> dict[Operator, float]:
        """The noise by operator, as the solve takes it."""
        return {self.operators[name]: level for name, level in self.noise.items()}


def _require_kernel_and_data(model, data) -> None:
    """Refuse what `fit` is given in the wrong place or form."""
    if model is None:
        raise ValueError(
            "model: expected a kernel, received None; a force field read as compiled programs has none, nor has one that was not "
            "fitted: hand its functions over, mlff.load(path, descriptors={…}), to fit it again"
        )
    if not isinstance(model, Kernel):
        descriptor = getattr(model, "__name__", "descriptor") if callable(model) else "descriptor"
        raise ValueError(
            f"model: expected a kernel, received {_kind(model)}; write fit(GlobalKernel({descriptor}, Matern52()), data)"
        )
    require_dataset(data)


def _kind(value) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def operators_of(labels) -> dict[str, Operator]:
    """The operators of what the user asked for, by the names of their labels."""
    if not isinstance(labels, (str, Operator)) and not np.iterable(labels):
        raise ValueError(
            f"labels={labels!r:.60} must be names of labels; give 'forces', or several, ('energy', 'forces')"
        )
    chosen = [labels] if isinstance(labels, (str, Operator)) else list(labels)
    if not chosen:
        raise ValueError("labels: nothing is to be fitted; give 'forces', or several, ('energy', 'forces')")
    operators = {operator.name: operator for operator in map(find_operator, chosen)}
    if len(operators) < len(chosen):
        raise ValueError(f"labels: {', '.join(operators)} are asked for more than once")
    return operators


def _less_baseline(data: Dataset, baseline: ForceField, operators: dict[str, Operator], atomic_energies) -> Dataset:
    """The frames with what a baseline leaves of the labels that are fitted."""
    if atomic_energies is not None:
        raise ValueError("atomic_energies: with a baseline they are those of neither; leave them out")
    rest = remaining(data, baseline, tuple(operators.values()))
    left, whole = (
        sum(float(np.sum(np.square(frame.labels["forces"]))) for frame in frames if "forces" in frame.labels)
        for frames in (rest, data)
    )
    if FORCES.name in operators and left > LEFT * whole:
        logger.warning(
            "baseline: %.0f %% of the squared forces are left to be learnt; it knows nothing of such frames. Take another, or where it was "
            "fitted to others, fit it to some around these (mlff.sampled)", 100.0 * left / whole,
        )  # fmt: skip
    return rest


def _highest_order(frames: LabelledFrames, operators: dict[str, Operator]) -> int:
    orders = []
    for name, operator in operators.items():
        orders += [order_of(operator, b.positions, arguments_of(b, operator)) for b in frames.having(name).batches]
    return max(orders)


def _energies_in_data(kernel: Kernel, data: Dataset, operators: dict[str, Operator]) -> dict[str, float] | None:
    """Energies of isolated atoms that the file holds, where they are wanted and none is missing."""
    elements = constant_elements(kernel.parts)
    if not data.atomic_energies or elements is None or "energy" not in operators:
        return None
    if missing := [symbol for symbol in symbols(elements) if symbol not in data.atomic_energies]:
        logger.warning(
            "%s: holds energies of isolated atoms, but not of %s; the constants are found by least squares",
            data.source, ", ".join(missing),
        )  # fmt: skip
        return None
    return data.atomic_energies


def _atomic_energies(kernel: Kernel, given, labels: Sequence[str]) -> dict[int, float] | None:
    elements = constant_elements(kernel.parts)
    if given is None:
        return None
    if elements is None:
        raise ValueError("atomic_energies: a global kernel has one constant for the molecule; use a local kernel")
    if not isinstance(given, Mapping):
        raise ValueError(f"atomic_energies={given!r:.60} must be energies by symbol, {{'H': -13.6}}, eV")
    if unknown := [symbol for symbol in given if symbol not in atomic_numbers]:
        raise ValueError(f"atomic_energies: {unknown[0]!r} is no element; write {{'H': -13.6}}")
    energies = {symbol: unwrapped(energy) for symbol, energy in given.items()}
    if broken := [symbol for symbol, energy in energies.items() if not (is_number(energy) and np.isfinite(energy))]:
        raise ValueError(f"atomic_energies: that of {broken[0]} is {given[broken[0]]}; give a number, eV")
    known = {atomic_numbers[symbol]: float(energy) for symbol, energy in energies.items()}
    if missing := sorted(set(elements) - set(known)):
        raise ValueError(f"atomic_energies: those of {', '.join(symbols(missing))} are missing, eV")
    if "energy" not in labels:
        raise ValueError(
            f"atomic_energies: the labels {', '.join(labels)} say nothing of the energy that molecules have beside their atoms; "
            "fit 'energy' too, labels=('energy', 'forces'), or leave atomic_energies out"
        )
    return {z: known[z] for z in elements}


def states_noise(request: Request) -> bool:
    """Whether the noise of a label of some frames is stated as a number, as of groups."""
    return any(len(b.noise_of(name).known) for b in request.frames.batches for name in b.labels)


def noise_levels(noise, frames: LabelledFrames, operators: dict[str, Operator]) -> dict[str, float]:
    """The standard deviation of every kind of label, by name: what is stated, or a small share of the labels' size."""
    labels = tuple(operators)
    if noise is None:
        levels = {}
        for name in labels:
            values = frames.values(name)
            if name == "energy":
                values = values - _without_atoms(frames.having(name), values)
            scale = float(np.sqrt(np.nanmean(values**2)))
            levels[name] = RELATIVE_NOISE * scale or RELATIVE_NOISE
        return levels
    noise = unwrapped(noise)
    if isinstance(noise, numbers.Real):
        if len(labels) > 1:
            raise ValueError(
                f"noise={noise}: with labels {', '.join(labels)} give one each, noise={{'energy': …, 'forces': …}}"
            )
        noise = {labels[0]: noise}
    if not isinstance(noise, Mapping):
        example = ", ".join(f"'{name}': 0.001" for name in labels)
        raise ValueError(f"noise={noise!r:.60} must be a number, 0.001, or numbers by label, {{{example}}}")
    noise = {
        find_operator(label).name if label not in operators else label: unwrapped(level)
        for label, level in noise.items()
    }
    if set(noise) != set(labels):
        raise ValueError(f"noise is given for {', '.join(noise) or 'nothing'}, the labels are {', '.join(labels)}")
    for name, value in noise.items():
        if not (is_number(value) and 0 <= float(value) <= LARGEST):
            raise ValueError(
                f"noise: {name} {value} must be a standard deviation in {operators[name].unit}, not negative and finite "
                f"(at most {LARGEST:g})"
            )
    return {name: float(noise[name]) for name in labels}


def _without_atoms(frames: LabelledFrames, energies: np.ndarray) -> np.ndarray:
    """The part of the energies that constants per element explain, by least squares."""
    elements = tuple(sorted({int(z) for numbers in frames.compositions for z in numbers}))
    design = np.concatenate(
        [np.tile(composition(elements, batch.numbers), (len(batch), 1)) for batch in frames.batches]
    )
    return design @ np.linalg.lstsq(design, energies, rcond=1e-10)[0]
