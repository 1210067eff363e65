"""Errors of a force field on reference frames."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlff.dataset import Dataset
from mlff.force_field import ForceField
from mlff.identity import among
from mlff.labelled import LabelledFrames
from mlff.requests import require_atoms
from mlff.units import symbols


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Errors on a data set: MAE and RMSE of energies (eV) and force components (eV/Å), MAE of Hessians (eV/Å²).

    Labels that the data lack give NaN, and so do energies of a model that was trained without any. `slope` is that of
    predicted against reference energies (1 when all is well, NaN when there are no energies); arrays of references and
    predictions are kept for plots, forces flattened, frame after frame.
    """

    energy_mae: float
    energy_rmse: float
    forces_mae: float
    forces_rmse: float
    slope: float
    n_test: int
    forces_mae_by_element: dict[str, float]
    energies: tuple[np.ndarray, np.ndarray] = dataclasses.field(repr=False)
    forces: tuple[np.ndarray, np.ndarray] = dataclasses.field(repr=False)
    hessian_mae: float = float("nan")

    def summary(self) -> dict:
        """The numbers alone, for JSON; absent errors as None."""
        names = ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse", "slope", "hessian_mae")
        numbers = {name: None if np.isnan(getattr(self, name)) else getattr(self, name) for name in names}
        return {**numbers, "n_test": self.n_test, "forces_mae_by_element": self.forces_mae_by_element}

    def __str__(self) -> str:
        return (
            f"{self.n_test} frames: energy MAE {1e3 * self.energy_mae:.2f} meV, RMSE {1e3 * self.energy_rmse:.2f} meV; "
            f"forces MAE {1e3 * self.forces_mae:.2f} meV/Å, RMSE {1e3 * self.forces_rmse:.2f} meV/Å"
            + ("" if np.isnan(self.hessian_mae) else f"; Hessian MAE {self.hessian_mae:.4f} eV/Å²")
        )


def evaluate(force_field: ForceField, data: Dataset) -> Evaluation:
    """Predict every frame of a data set and compare.

    Raises:
        ValueError: the frames are of another molecule, or share geometries with the training frames.
    """
    for frame in data:
        require_atoms(force_field, frame.numbers, data.source)
    require_disjoint(frozenset(force_field.record.get("fingerprints", ())), data)
    return dataclasses.replace(compare(force_field, data), hessian_mae=_hessian_mae(force_field, data))


def _hessian_mae(force_field: ForceField, data: Dataset) -> float:
    """Over all entries that there are; NaN without any, or where the kernel has no second derivative to compare."""
    errors = []
    if "hessian" in force_field.record.get("own_operators", ()):
        return float("nan")  # projected ones, which the model's own are not
    for frame in data:
        if "hessian" in frame.labels and force_field.label_order + 2 <= min(
            r.order for r in force_field.kernel.radials
        ):
            numbers = frame.numbers if force_field.transferable else None
            found = force_field.hessian(frame.positions, frame.cell, frame.system.pbc, numbers)
            errors.append(np.abs(found - frame.labels["hessian"]).ravel())
    return float(np.nanmean(np.concatenate(errors))) if errors else float("nan")


def require_disjoint(fingerprints: frozenset[str], data: Dataset) -> None:
    """Refuse test frames that are among the training frames, whose fingerprints are given, to the rounding of either file."""
    if shared := int(among(data.frames, fingerprints).sum()):
        raise ValueError(
            f"{data.source}: {shared} of its {len(data)} frames were trained on, so errors on them say nothing; "
            "give frames that were not (Dataset.split keeps them apart)"
        )


def compare(force_field: ForceField, data: Dataset) -> Evaluation:
    """As `evaluate`, on any frames that the force field can take, training frames too."""
    energies, forces = _predict(force_field, data)
    absent = np.full(len(forces), np.nan)
    # a model of forces alone knows energies up to a constant only
    comparable = "energy" in data.label_names and force_field.record.get("energy_constant", True)
    reference_energies = np.array([f.labels["energy"] for f in data]) if comparable else np.full(len(data), np.nan)
    with_forces = "forces" in data.label_names
    reference_forces = np.concatenate([f.labels["forces"].ravel() for f in data]) if with_forces else absent
    energy_error, force_error = energies - reference_energies, forces - reference_forces
    atoms = np.repeat(np.concatenate([frame.numbers for frame in data]), 3)
    elements = {
        symbol: float(np.abs(force_error[atoms == number]).mean())
        for number, symbol in zip(np.unique(atoms), symbols(np.unique(atoms)), strict=True)
    }
    return Evaluation(
        energy_mae=float(np.abs(energy_error).mean()),
        energy_rmse=float(np.sqrt((energy_error**2).mean())),
        forces_mae=float(np.abs(force_error).mean()),
        forces_rmse=float(np.sqrt((force_error**2).mean())),
        slope=_slope(reference_energies, energies),
        n_test=len(data),
        forces_mae_by_element=elements if with_forces else {},
        energies=(reference_energies, energies),
        forces=(reference_forces, forces),
    )


def _predict(force_field: ForceField, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Energies, shape (m,), and forces of all frames in their order, flattened; frames of equal atoms go together."""
    energies, forces = np.empty(len(data)), [np.empty(0)] * len(data)
    for batch in LabelledFrames.of(data).batches:
        theirs = None if not force_field.transferable else batch.numbers
        energies[batch.index], found = force_field.energy_and_forces(batch.positions, batch.cells, batch.pbc, theirs)
        for i, force in zip(batch.index, found, strict=True):
            forces[i] = force.ravel()
    return energies, np.concatenate(forces)


def _slope(reference: np.ndarray, predicted: np.ndarray) -> float:
    spread = reference - reference.mean()
    norm = float(spread @ spread)
    return float(spread @ (predicted - predicted.mean()) / norm) if norm > 0 else float("nan")
