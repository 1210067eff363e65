"""The public fit: check the data, find what hyperparameters are missing, solve, say how it went."""

from __future__ import annotations

import logging
import numbers
import time
from collections.abc import Mapping

import numpy as np

from mlff.archive import versions
from mlff.dataset import Dataset
from mlff.force_field import ForceField
from mlff.hyperparameters import search_lengthscale
from mlff.kernels import GlobalKernel, check_symmetry
from mlff.metrics import compare
from mlff.operators import OPERATORS
from mlff.radial import require_order
from mlff.solve import IndefiniteMatrix, LabelledFrames, Progress, solve

logger = logging.getLogger(__name__)

RELATIVE_NOISE = 3e-5  # of the labels' root mean square, where no noise is given
UNSEEN_TOLERANCE = 1e-4  # share of the squared forces; a residual net force of a rough reference is smaller
SLOPE_TOLERANCE = 0.1


def fit(
    model: GlobalKernel,
    data: Dataset,
    labels: str | tuple[str, ...] = ("forces",),
    noise: float | np.floating | Mapping[str, float] | None = None,
    seed: int = 0,
    progress: Progress = lambda stage, fraction: None,
) -> ForceField:
    """Fit a force field to reference frames, in closed form.

    Energies E(x) ~ GP(c, k); labels y = L E + noise. With `labels=("forces",)` energies only fix the constant c;
    with ("energy", "forces") they are labels of their own.

    Arguments:
        model: the kernel. Without a length scale one is found by validation on held-out frames, and the final fit
            uses all frames; without an amplitude the prior variance of the forces is set to their mean square.
        data: frames of one composition and order of atoms.
        labels: "energy", "forces" or both.
        noise: standard deviation of the labels in their unit (eV, eV/Å): a number for one kind of label, or a
            mapping; without it, 3e-5 of the labels' root mean square, which only keeps the matrix well-conditioned.
        seed: of the frames that the search holds out.
        progress: called with the name of a stage and the share of it that is done.
    Returns:
        the force field; its `record` tells units, labels, noise, length scales tried, indices, hash and versions.
    Raises:
        ValueError: data, labels, noise and kernel that do not fit together, each with the remedy.
    """
    started = time.perf_counter()
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    frames = _labelled(model, data, labels)
    levels = _noise(noise, frames, labels)
    order = max(OPERATORS[name].order for name in labels)
    require_order(model.radial, order, 1, f"a force field from {' and '.join(labels)}")
    kernel, trials = model, []
    if model.radial.lengthscale is None:
        _check_symmetry(model.replace(radial=model.radial.replace(lengthscale=1.0)), frames)
        lengthscale, trials = search_lengthscale(model, frames, levels, seed, progress)
        kernel = model.replace(radial=model.radial.replace(lengthscale=lengthscale))
    else:
        _check_symmetry(model, frames)
    kernel, solution = _solve_or_shorten(kernel, frames, levels, [trial.lengthscale for trial in trials], progress)
    fitted = ForceField(
        model=_with_constant(solution.model, kernel, frames, labels),
        numbers=frames.numbers,
        kernel=kernel.replace(amplitude=solution.amplitude),
        label_order=order,
        record={
            "labels": list(labels),
            "noise": levels,
            "units": data.units,
            "source": data.source,
            "n_train": len(data),
            "rows": solution.rows,
            "unseen": solution.unseen,
            "geometry": frames.positions[_lowest(frames)].tolist(),
            "indices": [int(i) for i in data.indices],
            "seed": seed,
            "data_hash": data.hash(),
            "fingerprints": sorted(data.fingerprints()),
            "lengthscales_tried": [
                [trial.lengthscale, trial.error if np.isfinite(trial.error) else None] for trial in trials
            ],
            "energy_constant": "energy" in data.label_names,
            "fit_seconds": time.perf_counter() - started,
            "versions": versions(),
        },
    )
    return _examined(fitted, data)


def _solve_or_shorten(kernel: GlobalKernel, frames: LabelledFrames, levels, tried: list[float], progress: Progress):
    """All frames may be too many for the length scale that some of them chose: take the next shorter one tried."""
    try:
        return kernel, solve(kernel, frames, levels, progress)
    except IndefiniteMatrix:
        shorter = [scale for scale in tried if scale < kernel.radial.lengthscale]
        if not shorter:
            raise
    logger.info("length scale %.4g: the matrix of all frames is not positive definite", kernel.radial.lengthscale)
    kernel = kernel.replace(radial=kernel.radial.replace(lengthscale=max(shorter)))
    return _solve_or_shorten(kernel, frames, levels, tried, progress)


def _lowest(frames: LabelledFrames) -> int:
    """The frame of lowest energy, or without energies the one of smallest forces: where to start a simulation."""
    if "energy" in frames.labels:
        return int(np.argmin(frames.labels["energy"]))
    return int(np.argmin(np.sum(frames.labels["forces"] ** 2, axis=(1, 2))))


def _labelled(model: GlobalKernel, data: Dataset, labels: tuple[str, ...]) -> LabelledFrames:
    if not labels or (unknown := sorted(set(labels) - set(OPERATORS))):
        raise ValueError(f"labels={labels!r}: {', '.join(unknown) if labels else 'nothing'} cannot be fitted; "
                         f"choose from {', '.join(OPERATORS)}")  # fmt: skip
    atomic, positions = data.uniform_numbers(), data.uniform_positions()
    cells = np.stack([frame.cell for frame in data])
    periodic = [i for i, frame in zip(data.indices, data, strict=True) if frame.system.pbc.any()]
    if periodic and "cell" not in model.descriptor.uses:
        raise ValueError(
            f"{data.source}: frame {periodic[0]} is periodic, but descriptor {model.descriptor.name} takes no cell; "
            "use one that does, or set pbc=False in the file if the molecule is isolated"
        )
    if len(atomic) < 2:
        raise ValueError(f"{data.source}: a single atom has no internal coordinates to fit")
    group = model.permutations
    if group is not None and group.indices.shape[1] != len(atomic):
        raise ValueError(
            f"permutations are of {group.indices.shape[1]} atoms, the frames of {data.source} have {len(atomic)}"
        )
    if group is not None and (atomic[group.indices] != atomic).any():
        raise ValueError(
            f"permutations exchange unlike atoms of {data.source}; find_permutations(data) gives fitting ones"
        )
    kept = {name: data.array(name) for name in dict.fromkeys((*labels, *data.label_names)) if name in OPERATORS}
    return LabelledFrames(positions, atomic, cells, kept)


def _noise(noise, frames: LabelledFrames, labels: tuple[str, ...]) -> dict[str, float]:
    if noise is None:
        levels = {}
        for name in labels:
            values = frames.labels[name]
            scale = float(np.sqrt(np.mean((values - (values.mean() if name == "energy" else 0.0)) ** 2)))
            levels[name] = RELATIVE_NOISE * scale or RELATIVE_NOISE
        return levels
    if isinstance(noise, numbers.Real):
        if len(labels) > 1:
            raise ValueError(
                f"noise={noise}: with labels {', '.join(labels)} give one each, {{'energy': …, 'forces': …}}"
            )
        noise = {labels[0]: noise}
    if set(noise) != set(labels):
        raise ValueError(f"noise is given for {', '.join(noise) or 'nothing'}, the labels are {', '.join(labels)}")
    for name, value in noise.items():
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(
                f"noise: {name} {value} must be a standard deviation in {OPERATORS[name].unit}, not negative"
            )
    return {name: float(noise[name]) for name in labels}


def _check_symmetry(kernel: GlobalKernel, frames: LabelledFrames) -> None:
    if kernel.permutations is not None:
        check_symmetry(kernel, frames.positions[0], frames.numbers, frames.cells[0])


def _with_constant(model, kernel: GlobalKernel, frames: LabelledFrames, labels: tuple[str, ...]):
    """Without energies as labels, the constant is the mean difference to the reference energies, where there are any."""
    if "energy" in labels or "energy" not in frames.labels:
        return model
    energies, _ = ForceField(model, frames.numbers, kernel, 1).energy_and_forces(frames.positions, frames.cells)
    return model.replace(constant=model.constant + float(np.mean(frames.labels["energy"] - energies)))


def _examined(fitted: ForceField, data: Dataset) -> ForceField:
    """Training errors into the record; a warning where they show that the labels do not fit together."""
    training = compare(fitted, data)
    if fitted.record["unseen"] > UNSEEN_TOLERANCE:
        logger.warning(
            "%.2g of the squared forces lie outside what descriptor %s can express: net forces or torques in the "
            "reference, or motions that the descriptor does not see", fitted.record["unseen"], fitted.kernel.descriptor.name,
        )  # fmt: skip
    if fitted.record["energy_constant"] and abs(training.slope - 1.0) > SLOPE_TOLERANCE:
        logger.warning(
            "predicted against reference energies of the training frames have slope %.3g, expected 1: %s",
            training.slope,
            "the forces point up the energy"
            if training.slope < 0
            else "energies and forces do not belong together "
            "(units, method), or the energies vary less than the model's error",
        )
    return fitted.replace(record={**fitted.record, "training": training.summary()})
