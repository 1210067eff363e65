"""Errors of a force field on reference frames, one for every kind of label that there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mlff.data.batches import LabelledFrames
from mlff.data.dataset import Dataset, require_dataset
from mlff.data.identity import among
from mlff.operators import ENERGY, FORCES, OPERATORS, STRESS, Operator, find_operator
from mlff.potentials.arguments import require_atoms, require_charge
from mlff.potentials.force_field import ForceField
from mlff.potentials.predictions import NOT_GIVEN, Predictions, first_order, predictions, require_comparable
from mlff.potentials.record import fingerprints_of
from mlff.units import GPA, formula, symbols

# units in which errors are read: factor, decimals, name
SHOWN = {
    "eV": (1e3, 2, "meV"), "eV/atom": (1e3, 2, "meV/atom"), "eV/Å": (1e3, 2, "meV/Å"), "eV/Å³": (1.0 / GPA, 4, "GPa"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LabelErrors:
    """Mean absolute and root mean square error of one kind of label, in its unit, over `count` numbers."""

    mae: float
    rmse: float
    unit: str
    count: int

    @classmethod
    def of(cls, reference: np.ndarray, predicted: np.ndarray, unit: str) -> LabelErrors:
        """Of what is predicted; references that are missing (NaN) do not count."""
        error = (predicted - reference)[~np.isnan(reference)]
        mae, rmse = (float(np.mean(np.abs(error))), float(np.sqrt(np.mean(error**2)))) if len(error) else (np.nan,) * 2
        return cls(mae, rmse, unit, len(error))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Errors on a data set: of every kind of label that it has, under `errors`; those of energies (eV, and eV an atom),
    force components (eV/Å) and Hessians (eV/Å²) also by names of their own.

    Labels that the data lack give NaN there. Labels that the data have and the force field cannot give are named in
    `not_compared`, with the reason: energies of a model that was trained without any, stresses of one without a cell.
    `slope` is that of predicted against reference energies (1 when all is well, NaN when there are no energies). Arrays of
    references and predictions are kept for plots, and `groups` has the errors of every group of frames (`config_type` or `group`
    in the file) where there are several: `values` of every kind that was compared, flattened; `energies` and
    `forces` of all frames, one after another, NaN where there is no reference; `sizes` are their numbers of atoms.
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
    energy_mae_per_atom: float = float("nan")
    energy_rmse_per_atom: float = float("nan")
    errors: Mapping[str, LabelErrors] = dataclasses.field(default_factory=dict)
    not_compared: Mapping[str, str] = dataclasses.field(default_factory=dict)
    values: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=dict, repr=False)
    sizes: np.ndarray | None = dataclasses.field(default=None, repr=False)
    groups: Mapping[str, Mapping[str, float | int]] = dataclasses.field(default_factory=dict)

    def summary(self) -> dict:
        """The numbers alone, for JSON; absent errors as None."""
        names = (
            "energy_mae", "energy_rmse", "energy_mae_per_atom", "energy_rmse_per_atom", "forces_mae", "forces_rmse", "slope",
            "hessian_mae",
        )  # fmt: skip
        numbers = {name: None if np.isnan(getattr(self, name)) else getattr(self, name) for name in names}
        return {
            **numbers, "n_test": self.n_test, "forces_mae_by_element": self.forces_mae_by_element,
            "errors": {name: dataclasses.asdict(errors) for name, errors in self.errors.items()},
            "not_compared": dict(self.not_compared),
            **({"groups": {name: dict(errors) for name, errors in self.groups.items()}} if self.groups else {}),
        }  # fmt: skip

    def __str__(self) -> str:
        left_out = "".join(f"; {name} not compared: {reason}" for name, reason in self.not_compared.items())
        return f"{self.n_test} frames: {error_text(self.summary())}{left_out}"


def error_rows(summary: Mapping) -> list[tuple[str, str, str, str]]:
    """(what, MAE, RMSE, unit) of what an `Evaluation.summary` holds, as they are read."""
    errors = {name: (found["mae"], found["rmse"], found["unit"]) for name, found in summary.get("errors", {}).items()}
    if not errors:  # as records of earlier versions have them
        errors = {
            name: (summary[f"{name}_mae"], summary[f"{name}_rmse"], operator.unit)
            for name, operator in (("energy", ENERGY), ("forces", FORCES))
            if summary.get(f"{name}_mae") is not None
        }
    if "energy" in errors and summary.get("energy_mae_per_atom") is not None:
        per_atom = (summary["energy_mae_per_atom"], summary["energy_rmse_per_atom"], "eV/atom")
        errors = {"energy": errors["energy"], "energy per atom": per_atom, **errors}
    rows = []
    for name, (mae, rmse, unit) in errors.items():
        factor, decimals, shown = SHOWN.get(unit, (1.0, 4, unit))
        rows.append((title_of(name), short(factor * mae, decimals), short(factor * rmse, decimals), shown))
    return rows


def group_texts(summary: Mapping) -> list[str]:
    """A line for every group of frames: its errors, as they are read."""
    lines = []
    for name, errors in summary.get("groups", {}).items():
        energy, forces = errors.get("energy_mae_per_atom"), errors.get("forces_mae")
        said = [] if energy is None else [f"energy MAE {short(1e3 * energy)} meV/atom"]
        said += [] if forces is None else [f"forces MAE {short(1e3 * forces)} meV/Å"]
        lines.append(f"{name}, {errors['frames']} frames: {', '.join(said) or 'no labels'}")
    return lines


def title_of(name: str) -> str:
    """A kind of label in words."""
    return name.replace("_", " ").replace("hessian", "Hessian")


def error_text(summary: Mapping) -> str:
    """Errors in a line: energy MAE 3.21 meV, RMSE 4.32 meV; …"""
    rows = error_rows(summary)
    return "; ".join(f"{what} MAE {mae} {unit}, RMSE {rmse} {unit}" for what, mae, rmse, unit in rows) or "no errors"


def short(value: float, decimals: int = 2) -> str:
    """A number as one reads it: some decimals, or of smaller ones two digits."""
    return f"{value:.{decimals}f}" if abs(value) >= 10.0 ** (1 - decimals) or value == 0 else f"{value:.2g}"


def evaluate(force_field: ForceField, data: Dataset, labels: Sequence[str | Operator] | None = None) -> Evaluation:
    """Predict the labels of every frame of a data set and compare.

    Arguments:
        force_field: what predicts.
        data: frames it was not trained on.
        labels: which kinds of label are compared, by name or as an `Operator` (of one's own kinds); without it all that
            the data have and that the force field can give, and the others are named in the result.
    Raises:
        ValueError: the frames are of another molecule, share geometries with the training frames, or have another charge;
            labels that are asked for and that no frame has, or that the force field cannot give.
    """
    require_dataset(data)
    for frame in data:
        require_atoms(force_field, frame.numbers, data.source)
    require_disjoint(fingerprints_of(force_field.record), data)
    _require_charges(force_field, data)
    if labels is not None:
        operators = [find_operator(label) for label in ([labels] if isinstance(labels, (str, Operator)) else labels)]
        for operator in operators:
            data.require_some(operator.name)
        found = compare(force_field, data, operators)
        if found.not_compared:
            name, reason = next(iter(found.not_compared.items()))
            raise ValueError(f"{data.source}: {name} cannot be compared: {reason}; leave {name} out of labels=")
        return found
    found = compare(force_field, data, tuple(OPERATORS.values()))
    have = {name for frame in data for name in frame.labels}
    own = have & set(force_field.record.get("own_operators", ())) - set(OPERATORS)
    return dataclasses.replace(found, not_compared={**found.not_compared, **dict.fromkeys(sorted(own), NOT_GIVEN)})


def require_disjoint(fingerprints: frozenset[str], data: Dataset) -> None:
    """Refuse test frames that are among the training frames, whose fingerprints are given, to the rounding of either file."""
    if shared := int(among(data.frames, fingerprints).sum()):
        raise ValueError(
            f"{data.source}: {shared} of its {len(data)} frames were trained on, so errors on them say nothing; "
            "give frames that were not (Dataset.split keeps them apart)"
        )


def _require_charges(force_field: ForceField, data: Dataset) -> None:
    """Refuse test frames that state another total charge than the training frames had."""
    charges = data.charges()
    for frame in data:
        kind = formula(frame.numbers)
        if kind in charges:
            require_charge(force_field, frame.numbers, charges.pop(kind), f"{data.source}: its {kind} has")


def compare(force_field: ForceField, data: Dataset, operators: Sequence[Operator] = (ENERGY, FORCES)) -> Evaluation:
    """As `evaluate`, on any frames that the force field can take, training frames too, and of given kinds of label."""
    frames = LabelledFrames.of(data)
    energies, forces, stresses = first_order(force_field, frames)
    values, units, reasons = {}, {}, {}
    for operator in operators:
        having = frames.having(operator.name)
        if not having.batches:
            continue
        try:
            require_comparable(force_field, having, operator)
            known = {ENERGY: energies, FORCES: forces, STRESS: stresses}.get(operator)
            known = known or predictions(force_field, having, operator)
            values[operator.name] = _pairs(data, operator.name, known)
            units[operator.name] = operator.unit
        except ValueError as error:
            reasons[operator.name] = str(error)
    reference, predicted = _everywhere(data, "energy", energies, "energy" in values)
    sizes = np.array([len(frame.numbers) for frame in data])
    errors = {name: LabelErrors.of(*pair, units[name]) for name, pair in values.items()}
    absent = LabelErrors(np.nan, np.nan, "", 0)
    energy, force, an_atom = (
        errors.get("energy", absent),
        errors.get("forces", absent),
        LabelErrors.of(reference / sizes, predicted / sizes, ""),
    )
    all_forces = _everywhere(data, "forces", forces, "forces" in values)
    return Evaluation(
        energy_mae=energy.mae, energy_rmse=energy.rmse, forces_mae=force.mae, forces_rmse=force.rmse,
        slope=slope_of(*values.get("energy", (np.zeros(1),) * 2)), n_test=len(data),
        forces_mae_by_element=_by_element(data, *all_forces), energies=(reference, predicted), forces=all_forces,
        hessian_mae=errors.get("hessian", absent).mae, energy_mae_per_atom=an_atom.mae, energy_rmse_per_atom=an_atom.rmse,
        errors=errors, not_compared=reasons, values=values, sizes=sizes,
        groups=_by_group(data, (reference, predicted), all_forces, sizes),
    )  # fmt: skip


def _pairs(data: Dataset, name: str, predicted: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """References and predictions of one kind of label, flattened, of the frames that have it."""
    having = [i for i, frame in enumerate(data) if np.size(frame.labels.get(name, ()))]
    references = np.concatenate([np.ravel(data[i].labels[name]) for i in having])
    if np.isnan(references).all():
        raise ValueError("all its entries are missing")
    return references, np.concatenate([np.ravel(predicted[i]) for i in having])


def _everywhere(data: Dataset, name: str, predicted: Predictions, comparable: bool) -> tuple[np.ndarray, np.ndarray]:
    """References and predictions of all frames, flattened; NaN where a frame has no reference, or none that can be compared."""
    found = [np.ravel(predicted[i]) for i in range(len(data))]
    references = [
        np.ravel(frame.labels[name]) if comparable and name in frame.labels else np.full(len(values), np.nan)
        for frame, values in zip(data, found, strict=True)
    ]
    return np.concatenate(references), np.concatenate(found)


def _by_element(data: Dataset, reference: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Mean absolute error of the force components on the atoms of each element."""
    known = ~np.isnan(reference)
    atoms = np.repeat(np.concatenate([frame.numbers for frame in data]), 3)[known]
    error = np.abs(predicted - reference)[known]
    present = np.unique(atoms)
    return {
        symbol: float(error[atoms == number].mean()) for number, symbol in zip(present, symbols(present), strict=True)
    }


def _by_group(data: Dataset, energies, forces, sizes: np.ndarray) -> dict[str, dict[str, float | int]]:
    """Number of frames and mean absolute errors of every group of frames; nothing where there is but one."""
    names = [frame.group or "no group" for frame in data]
    if len(set(names)) < 2:
        return {}
    energy = np.abs(energies[1] - energies[0]) / sizes
    of_frames = np.split(np.abs(forces[1] - forces[0]), np.cumsum(3 * sizes)[:-1])
    found = {}
    for name in sorted(set(names)):
        here = [i for i, each in enumerate(names) if each == name]
        errors = {"energy_mae_per_atom": energy[here], "forces_mae": np.concatenate([of_frames[i] for i in here])}
        known = {what: values[~np.isnan(values)] for what, values in errors.items()}
        found[name] = {"frames": len(here), **{what: float(v.mean()) for what, v in known.items() if len(v)}}
    return found


def slope_of(reference: np.ndarray, predicted: np.ndarray) -> float:
    """The slope of predictions against references by least squares; NaN where the references are all equal."""
    spread = reference - reference.mean()
    norm = float(spread @ spread)
    return float(spread @ (predicted - predicted.mean()) / norm) if norm > 0 else float("nan")
