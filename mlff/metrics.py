"""Errors of a force field on reference frames."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlff.dataset import Dataset
from mlff.force_field import ForceField
from mlff.units import symbols


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Errors on a data set: MAE and RMSE of energies (eV) and force components (eV/Å).

    Labels that the data lack give NaN, and so do energies of a model
    that was trained without any. `slope` is that of predicted against reference energies (1 when all is well,
    NaN when there are no energies); arrays of references and predictions are kept for plots.
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

    def summary(self) -> dict:
        """The numbers alone, for JSON; absent errors as None."""
        names = ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse", "slope")
        numbers = {name: None if np.isnan(getattr(self, name)) else getattr(self, name) for name in names}
        return {**numbers, "n_test": self.n_test, "forces_mae_by_element": self.forces_mae_by_element}

    def __str__(self) -> str:
        return (
            f"{self.n_test} frames: energy MAE {1e3 * self.energy_mae:.2f} meV, RMSE {1e3 * self.energy_rmse:.2f} meV; "
            f"forces MAE {1e3 * self.forces_mae:.2f} meV/Å, RMSE {1e3 * self.forces_rmse:.2f} meV/Å"
        )


def evaluate(force_field: ForceField, data: Dataset) -> Evaluation:
    """Predict every frame of a data set and compare.

    Raises:
        ValueError: the frames are of another molecule, or share geometries with the training frames.
    """
    numbers = data.uniform_numbers()
    require_same_atoms(force_field, numbers, data.source)
    require_disjoint(frozenset(force_field.record.get("fingerprints", ())), data)
    return compare(force_field, data)


def require_disjoint(fingerprints: frozenset[str], data: Dataset) -> None:
    """Refuse test frames that are among the training frames, whose fingerprints are given."""
    if shared := fingerprints & data.fingerprints():
        raise ValueError(
            f"{data.source}: {len(shared)} of its {len(data)} frames were trained on, so errors on them say nothing; "
            "give frames that were not (Dataset.split keeps them apart)"
        )


def compare(force_field: ForceField, data: Dataset) -> Evaluation:
    """As `evaluate`, on any frames of the molecule, training frames too."""
    numbers = data.uniform_numbers()
    cells = np.stack([frame.cell for frame in data])
    energies, forces = force_field.energy_and_forces(data.uniform_positions(), cells)
    empty = np.full_like(energies, np.nan), np.full_like(forces, np.nan)
    # a model of forces alone knows energies up to a constant only
    comparable = "energy" in data.label_names and force_field.record.get("energy_constant", True)
    reference_energies = data.array("energy") if comparable else empty[0]
    reference_forces = data.array("forces") if "forces" in data.label_names else empty[1]
    energy_error, force_error = energies - reference_energies, forces - reference_forces
    elements = {
        symbol: float(np.abs(force_error[:, numbers == number]).mean())
        for number, symbol in zip(np.unique(numbers), symbols(np.unique(numbers)), strict=True)
    }
    return Evaluation(
        energy_mae=float(np.abs(energy_error).mean()),
        energy_rmse=float(np.sqrt((energy_error**2).mean())),
        forces_mae=float(np.abs(force_error).mean()),
        forces_rmse=float(np.sqrt((force_error**2).mean())),
        slope=_slope(reference_energies, energies),
        n_test=len(data),
        forces_mae_by_element={} if np.isnan(reference_forces).all() else elements,
        energies=(reference_energies, energies),
        forces=(reference_forces, forces),
    )


def require_same_atoms(force_field: ForceField, numbers: np.ndarray, where: str) -> None:
    """Refuse atoms that differ from the force field's in number, kind or order."""
    require_same_order(force_field.numbers, numbers, where)


def require_same_order(expected: np.ndarray, numbers: np.ndarray, where: str) -> None:
    """Refuse atoms that differ from the expected ones in number, kind or order."""
    if not np.array_equal(numbers, expected):
        ours, theirs = "".join(symbols(expected)), "".join(symbols(numbers))
        raise ValueError(
            f"{where}: the force field is for {ours}, in this order of atoms, received {theirs}; "
            "reorder the atoms, or fit a force field for them"
        )


def _slope(reference: np.ndarray, predicted: np.ndarray) -> float:
    spread = reference - reference.mean()
    norm = float(spread @ spread)
    return float(spread @ (predicted - predicted.mean()) / norm) if norm > 0 else float("nan")
