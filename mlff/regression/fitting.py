"""The public fit: check the data, find what hyperparameters are missing, solve, say how it went."""

from __future__ import annotations

import logging
import numbers
import time
from collections.abc import Mapping, Sequence

import numpy as np

from mlff.arguments import LARGEST, checked_seed, is_number, unwrapped
from mlff.data.batches import LabelledFrames, arguments_of
from mlff.data.cells import volume
from mlff.data.dataset import Dataset
from mlff.data.hessian_checks import require_unprojected
from mlff.data.permutations import Permutations
from mlff.kernels.composed import Kernel, SumKernel
from mlff.kernels.exchange import check_symmetry
from mlff.kernels.radial import require_order
from mlff.operators import ENERGY, FORCES, HESSIAN, OPERATORS, STRESS, Operator, find_operator, order_of
from mlff.potentials.errors import compare
from mlff.potentials.expansion import Expansion, composition, constant_elements
from mlff.potentials.force_field import ForceField
from mlff.potentials.record import facts_of
from mlff.regression.exact import IndefiniteMatrix, Progress, solve
from mlff.regression.slopes import warn_of_slopes
from mlff.regression.validation import FACTOR, Trial, lacks_lengthscale, search_lengthscale, with_lengthscales
from mlff.units import atomic_numbers, symbols

logger = logging.getLogger(__name__)

RELATIVE_NOISE = 3e-5  # of the labels' root mean square, where no noise is given
UNSEEN_TOLERANCE = 1e-4  # share of the squared forces; a residual net force of a rough reference is smaller
SHORTENED = 4  # steps of the search that the final fit may go below the shortest length scale tried


def fit(
    model: Kernel,
    data: Dataset,
    labels: str | Operator | Sequence[str | Operator] = ("forces",),
    noise: float | np.floating | Mapping[str, float] | None = None,
    seed: int = 0,
    progress: Progress = lambda stage, fraction: None,
    atomic_energies: Mapping[str, float] | None = None,
) -> ForceField:
    """Fit a force field to reference frames, in closed form.

    Energies E(x) ~ GP(Σ_a c_{z_a}, k); labels y = L E + noise for any linear operators L of up to second order. With
    `labels=("forces",)` energies only fix the constants c; with ("energy", "forces") they are labels of their own.

    Arguments:
        model: the kernel. Without a length scale one is found by validation on held-out frames, and the final fit
            uses all frames; without an amplitude the prior variance of the forces is set to their mean square.
        data: frames; of one composition and order of atoms, unless the kernel is local.
        labels: names of labels that frames have: "energy", "forces", "stress", "hessian" (NaN for entries that are
            missing), "hessian_products" (H·v for the vectors of "hessian_product_vectors", shape (k, n, 3)), "curvatures"
            (v·H·w for the pairs of "curvature_vectors", (k, 2, n, 3)), or an `Operator`. A frame may lack some of them.
        noise: standard deviation of the labels in their unit (eV, eV/Å, …): a number for one kind of label, or a mapping
            by name; without it, 3e-5 of the labels' root mean square, which only keeps the matrix well-conditioned.
        seed: of the frames that the search holds out.
        progress: called with the name of a stage and the share of it that is done.
        atomic_energies: energies of isolated atoms by symbol, {"H": -13.6, …}, eV, for local kernels with energies among the
            labels; without them the constants are found by least squares.
    Returns:
        the force field; its `record` tells units, labels, noise, length scales tried, indices, hash and versions.
    Raises:
        ValueError: data, labels, noise and kernel that do not fit together, each with the remedy.
    """
    started = time.perf_counter()
    seed = checked_seed(seed)
    _require_kernel_and_data(model, data)
    operators = _operators(labels)
    labels = tuple(operators)
    frames = _labelled(model, data, operators)
    facts = facts_of(data, frames)
    kernel = model.completed(np.concatenate(frames.compositions))
    atoms = _atomic_energies(kernel, atomic_energies, labels)
    stated = _noise(noise, frames, operators)
    levels = {operators[name]: level for name, level in stated.items()}
    order = _highest_order(frames, operators)
    for radial in kernel.radials:
        require_order(radial, order, 1, f"a force field from {' and '.join(labels)}")
    if operators.get("hessian") is HESSIAN:
        require_unprojected(frames)
    trials = []
    ones = [1.0] * len(kernel.leaves)
    for part in with_lengthscales(kernel, ones).parts:
        if part.permutations_used is not None:
            check_symmetry(part, frames.batches[0])
    searched = kernel
    if lacks_lengthscale(kernel):
        kernel, trials = search_lengthscale(kernel, frames, levels, seed, atoms, progress)
    kernel, solution = _solve_or_shorten(searched, kernel, frames, levels, atoms, trials, progress)
    fitted = ForceField(
        model=_with_constant(solution.model, kernel, frames, labels),
        numbers=frames.numbers,
        kernel=_with_amplitudes(kernel, solution.amplitudes),
        record={
            **facts,
            "labels": list(labels),
            "own_operators": [name for name, operator in operators.items() if OPERATORS.get(name) is not operator],
            "noise": stated,
            "rows": solution.rows,
            "unseen": solution.unseen,
            "seed": seed,
            "lengthscales_tried": [
                [trial.lengthscale, trial.error if np.isfinite(trial.error) else None] for trial in trials
            ],
            "energy_constant": "energy" in frames.names,
            "fit_seconds": time.perf_counter() - started,
        },
    )
    progress("training errors", 0.0)
    examined = _examined(fitted, data)
    progress("training errors", 1.0)
    return examined


def _require_kernel_and_data(model, data) -> None:
    """Refuse what `fit` is given in the wrong place or form."""
    if not isinstance(model, Kernel):
        descriptor = getattr(model, "__name__", "descriptor") if callable(model) else "descriptor"
        raise ValueError(
            f"model: expected a kernel, received {_kind(model)}; write fit(GlobalKernel({descriptor}, Matern52()), data)"
        )
    if not isinstance(data, Dataset):
        raise ValueError(
            f"data: expected a Dataset, received {_kind(data)}; Dataset.read(path) and Dataset(frames) make one"
        )


def _kind(value) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _solve_or_shorten(searched, kernel, frames, levels, atoms, trials: list[Trial], progress: Progress):
    """All frames may be too many for the length scale that some of them chose: take the next shorter one tried, or a step of
    the search less than the shortest."""
    try:
        return kernel, solve(kernel, frames, levels, atoms, progress)
    except IndefiniteMatrix:
        first = next((i for i, radial in enumerate(searched.radials) if radial.lengthscale is None), None)
        if first is None:
            raise
        now = kernel.radials[first].lengthscale
        tried = [trial.lengthscale for trial in trials]
        if now <= min(tried, default=np.inf) / FACTOR**SHORTENED * (1 + 1e-9):
            raise
        shorter = max((scale for scale in tried if scale < now * (1 - 1e-9)), default=now / FACTOR)
    logger.info("length scale %.4g: the matrix of all frames is not positive definite", now)
    scales = [radial.lengthscale for radial in kernel.radials]
    kernel = with_lengthscales(searched, scales, shorter / now)
    return _solve_or_shorten(searched, kernel, frames, levels, atoms, trials, progress)


def _with_amplitudes(kernel: Kernel, amplitudes: tuple[float, ...]) -> Kernel:
    """The kernel with the amplitudes that the solve found, one for every part."""
    if not isinstance(kernel, SumKernel):
        return kernel.replace(amplitude=amplitudes[0])
    return SumKernel(tuple(part.replace(amplitude=a) for part, a in zip(kernel.parts, amplitudes, strict=True)))


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


def _operators(labels) -> dict[str, Operator]:
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


def _highest_order(frames: LabelledFrames, operators: dict[str, Operator]) -> int:
    orders = []
    for name, operator in operators.items():
        orders += [order_of(operator, b.positions, arguments_of(b, operator)) for b in frames.having(name).batches]
    return max(orders)


def _labelled(model: Kernel, data: Dataset, operators: dict[str, Operator]) -> LabelledFrames:
    labels = tuple(operators)
    for name in labels:
        data.require_some(name)
    for i, frame in zip(data.indices, data, strict=True):
        for name in ("energy", "forces", "stress"):
            if not np.isfinite(frame.labels.get(name, 0.0)).all():
                raise ValueError(f"{data.source}: {name} of frame {i} is not finite; leave the label out of the frame")
        hessian = frame.labels.get("hessian", 0.0)  # NaN stands for entries that were not calculated
        if "hessian" in labels and (np.isinf(hessian).any() or np.isnan(hessian).all()):
            raise ValueError(
                f"{data.source}: hessian of frame {i} holds no number or an infinite one; leave it out of the frame"
            )
        if not set(labels) & set(frame.labels):
            raise ValueError(
                f"{data.source}: frame {i} has none of the labels that are fitted ({', '.join(labels)}); leave it out"
            )
    if not model.transferable:
        data.uniform_numbers()
    require_seen_cells(model, data)
    frames = LabelledFrames.of(data)
    if operators.get("stress") is STRESS:
        _require_stressed(data)
    if all(len(numbers) < 2 for numbers in frames.compositions):
        raise ValueError(f"{data.source}: a single atom has no internal coordinates to fit")
    for leaf in model.leaves:
        _require_fitting_group(getattr(leaf, "permutations", None), frames.compositions[0], data.source)
    return frames


def require_seen_cells(model: Kernel, data: Dataset) -> None:
    """Refuse periodic frames for descriptors that take no cell.

    Raises:
        ValueError: naming the first of the frames, and what takes a cell.
    """
    blind = next((leaf.descriptor.name for leaf in model.leaves if "cell" not in leaf.descriptor.uses), None)
    periodic = next((i for i, frame in zip(data.indices, data, strict=True) if frame.system.pbc.any()), None)
    if periodic is not None and blind is not None:
        raise ValueError(
            f"{data.source}: frame {periodic} is periodic, but descriptor {blind} takes no cell; use one that does (recipe "
            "soap-gpr or fchl19-gpr), or set pbc=False in the file if the molecule is isolated"
        )


def _require_stressed(data: Dataset) -> None:
    """Refuse stresses of frames that have none: no direction is periodic, or the cell has no volume."""
    for i, frame in zip(data.indices, data, strict=True):
        if "stress" in frame.labels and not (frame.system.pbc.any() and volume(frame.cell)):
            raise ValueError(
                f"{data.source}: frame {i} has a stress, but pbc={[bool(p) for p in frame.system.pbc]} and a cell of "
                f"{volume(frame.cell):.3g} Å³; set pbc and the cell in the file, or leave stress out of labels"
            )


def _require_fitting_group(group: Permutations | None, atomic: np.ndarray, source: str) -> None:
    if group is not None and group.indices.shape[1] != len(atomic):
        raise ValueError(
            f"permutations are of {group.indices.shape[1]} atoms, the frames of {source} have {len(atomic)}"
        )
    if group is not None and (atomic[group.indices] != atomic).any():
        raise ValueError(f"permutations exchange unlike atoms of {source}; find_permutations(data) gives fitting ones")


def _without_atoms(frames: LabelledFrames, energies: np.ndarray) -> np.ndarray:
    """The part of the energies that constants per element explain, by least squares."""
    elements = tuple(sorted({int(z) for numbers in frames.compositions for z in numbers}))
    design = np.concatenate(
        [np.tile(composition(elements, batch.numbers), (len(batch), 1)) for batch in frames.batches]
    )
    return design @ np.linalg.lstsq(design, energies, rcond=1e-10)[0]


def _noise(noise, frames: LabelledFrames, operators: dict[str, Operator]) -> dict[str, float]:
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


def _with_constant(model: Expansion, kernel: Kernel, frames: LabelledFrames, labels: tuple[str, ...]):
    """Without energies as labels, the constants fit the reference energies, where there are any."""
    if "energy" in labels or "energy" not in frames.names:
        return model
    design, missing = [], []
    for batch in frames.having("energy").batches:
        force_field = ForceField(model, batch.numbers, kernel)
        energies, _ = force_field.energy_and_forces(batch.positions, batch.cells, batch.pbc)
        missing.append(batch.labels["energy"] - energies)
        design.append(np.tile(composition(model.elements, batch.numbers), (len(batch), 1)))
    return model.shifted(np.linalg.lstsq(np.concatenate(design), np.concatenate(missing), rcond=1e-10)[0])


def _examined(fitted: ForceField, data: Dataset) -> ForceField:
    """Training errors into the record; a warning where they show that the labels do not fit together."""
    labels = fitted.record["labels"]
    training = compare(fitted, data, (ENERGY, FORCES, STRESS) if "stress" in labels else (ENERGY, FORCES))
    if not fitted.record["unseen"] <= UNSEEN_TOLERANCE:
        logger.warning(
            "%.2g of the squared forces lie outside what descriptor %s can express: net forces or torques in the "
            "reference, or motions that the descriptor does not see", fitted.record["unseen"], fitted.kernel.leaves[0].descriptor.name,
        )  # fmt: skip
    # energies that are no labels are looked at too, and one of them has no slope
    warn_of_slopes(training, {*labels, "energy"} if len(data) > 1 else set(labels) - {"energy"})
    return fitted.replace(record={**fitted.record, "training": training.summary()})
