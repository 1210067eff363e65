"""The record of a force field, how it came to be: what it says of the frames, and what each of its entries is."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlff.data.batches import Batch, LabelledFrames
from mlff.data.dataset import Dataset
from mlff.data.neighbors import closest_pairs
from mlff.expected import (
    COUNT,
    ELEMENT,
    FLAG,
    LEVEL,
    NUMBER,
    POSITIVE,
    TEXT,
    WHOLE,
    Expected,
    named,
    optional,
    require,
    require_known,
    several,
)
from mlff.operators import OPERATORS

ORDERS = {"energy": 0, "forces": 1, "stress": 1}  # of derivative; of every other label 2
PACKAGES = ("mlff", "jax", "jaxlib", "numpy", "scipy", "ase")
PAIR = Expected(
    "a length scale with its error", lambda value: several(optional(POSITIVE), 2).holds(value) and value[0] is not None
)
UNITS = {"energy": "eV", "length": "Å"}  # of everything that is written
VALUES, LABELS = "values of environments", "labels of frames"  # what a sparse model is spanned by
OBJECT = Expected("a JSON object", lambda value: isinstance(value, Mapping))
RECORD = {
    "labels": several(TEXT, least=1), "own_operators": several(TEXT), "noise": named(LEVEL), "units": TEXT, "source": TEXT,
    "n_train": COUNT, "rows": COUNT, "unseen": LEVEL, "periodic": FLAG, "closest": named(POSITIVE),
    "geometry": several(several(NUMBER, 3), least=1), "geometry_numbers": several(ELEMENT, least=1),
    "geometry_cell": several(several(NUMBER, 3), 3), "geometry_pbc": several(FLAG, 3),
    "indices": several(WHOLE), "seed": optional(WHOLE), "data_hash": TEXT, "fingerprints": several(TEXT),
    "inherited_fingerprints": several(TEXT),
    "lengthscales_tried": several(PAIR), "energy_constant": FLAG, "fit_seconds": optional(LEVEL),
    "inducing": OBJECT, "iterations": OBJECT, "compressed": OBJECT, "tuned": OBJECT, "group_noise": OBJECT, "distilled": OBJECT,
    "training": OBJECT, "test": OBJECT, "charges": named(NUMBER), "versions": named(TEXT),
}  # fmt: skip
MAY_LACK = (
    "own_operators",
    "inducing",
    "iterations",
    "compressed",
    "tuned",
    "distilled",
    "inherited_fingerprints",
    "group_noise",
    "unseen",
    "test",
    "charges",
)  # of models that others trained, untested, and of older files
FACTS = (  # what every record that is of frames says, `facts_of`
    "units", "source", "n_train", "periodic", "closest", "geometry", "geometry_numbers", "geometry_cell", "geometry_pbc",
    "indices", "data_hash", "fingerprints", "versions",
)  # fmt: skip
GEOMETRY = ("geometry", "geometry_numbers", "geometry_cell", "geometry_pbc", "periodic")
LATER_ERRORS = ("energy_mae_per_atom", "energy_rmse_per_atom", "hessian_mae")
EVALUATION = {
    **{name: optional(LEVEL) for name in ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse", *LATER_ERRORS)},
    "slope": optional(NUMBER), "n_test": COUNT, "forces_mae_by_element": named(LEVEL),
    "errors": named(OBJECT), "not_compared": named(TEXT), "groups": named(OBJECT),
}  # fmt: skip
GROUP_NOISE = {"factors": named(POSITIVE), "stated": named(POSITIVE)}
ITERATIONS = {"rank": WHOLE, "iterations": WHOLE, "residual_of_noise": LEVEL}
DISTILLED = {
    "method": TEXT, "frames": COUNT, "recipe": TEXT, "energy_mae": LEVEL, "forces_mae": LEVEL, "compared": COUNT,
}  # fmt: skip
ERRORS = {"mae": LEVEL, "rmse": LEVEL, "unit": TEXT, "count": WHOLE}


def spanned_by_few(record: Mapping) -> bool:
    """Whether the points of a model were chosen: of a sparse one, or of a `compressed` one."""
    return "inducing" in record or "compressed" in record


def facts_of(data: Dataset, frames: LabelledFrames) -> dict[str, Any]:
    """What a record says of the frames that a potential was made from, and of the software that made it.

    Raises:
        ValueError: frames of one composition state different charges.
    """
    return {
        "units": data.units,
        "charges": data.charges(),
        "source": data.source,
        "n_train": len(data),
        **start_geometry(frames),
        "periodic": any(bool(batch.pbc.any()) for batch in frames.batches),
        "closest": _closest(frames),
        "indices": [int(i) for i in data.indices],
        "data_hash": data.hash(),
        "fingerprints": sorted(data.fingerprints()),
        "versions": versions(),
    }


def joined(one: Mapping, other: Mapping) -> dict[str, Any]:
    """The record of a sum of potentials: those of its terms, and what simulations look for in the first that says it."""
    terms = [*records_of(one), *records_of(other)]
    start = next((record for record in terms if "geometry" in record), {})
    return {
        "terms": terms,
        "closest": {**other.get("closest", {}), **one.get("closest", {})},
        **{name: start[name] for name in GEOMETRY if name in start},
        "periodic": any(record.get("periodic", False) for record in terms),
        "energy_constant": all(record.get("energy_constant", True) for record in terms),
    }


def records_of(record: Mapping) -> list[Mapping]:
    """Of all terms of a sum, in their order; of a potential that is none its own."""
    return record.get("terms", [record])


def fingerprints_of(record: Mapping) -> frozenset[str]:
    """Those of the training frames of a potential, or of all terms of a sum, and of what these were distilled from."""
    return _prints(record, "fingerprints") | _prints(record, "inherited_fingerprints")


def _prints(record: Mapping, name: str) -> frozenset[str]:
    return frozenset(print for each in records_of(record) for print in each.get(name, ()))


def frames_learnt(record: Mapping) -> int | None:
    """How many frames a potential was trained on, or the terms of a sum in all, each frame counted once; None where none says."""
    return record.get("n_train", len(_prints(record, "fingerprints")) or None)


def start_geometry(frames: LabelledFrames) -> dict[str, Any]:
    """The geometry of `start_frame`, as a record has it."""
    best = start_frame(frames)
    return {
        "geometry": best.positions[0].tolist(),
        "geometry_numbers": [int(z) for z in best.numbers],
        "geometry_cell": best.cells[0].tolist(),
        "geometry_pbc": [bool(p) for p in best.pbc[0]],
    }


def start_frame(frames: LabelledFrames) -> Batch:
    """The frame of lowest energy an atom, or without energies the one of smallest forces: where to start a simulation."""
    best, lowest = None, np.inf
    for batch in frames.having("energy").batches or frames.batches:
        if "energy" in batch.labels:
            worth = batch.labels["energy"] / len(batch.numbers)
        else:
            worth = (
                np.mean(batch.labels["forces"] ** 2, axis=(1, 2)) if "forces" in batch.labels else np.zeros(len(batch))
            )
        i = int(np.argmin(worth))
        if worth[i] < lowest:
            best, lowest = batch.take([i]), worth[i]
    return best


def _closest(frames: LabelledFrames) -> dict[str, float]:
    """The smallest distance between two atoms of each pair of elements in the training frames, Å."""
    closest: dict[str, float] = {}
    for batch in frames.batches:
        for pair, distance in closest_pairs(batch.positions, batch.numbers, batch.cells, batch.pbc).items():
            closest[pair] = min(distance, closest.get(pair, np.inf))
    return closest


def versions() -> dict[str, str]:
    """Versions of the software that a model depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def require_record(record: Mapping, label_order: int) -> None:
    """Refuse a record of a fit of which an entry is missing, of another kind, or at odds with another; unknown entries are let
    pass.

    Raises:
        ValueError: which entry, what was expected and what is there.
    """
    require("record", record, RECORD, MAY_LACK)
    require_entries("record", record)
    if unknown := sorted(set(record["noise"]) - set(record["labels"])):
        raise ValueError(f"record.noise has {unknown[0]!r:.60}, which is no label of this force field")
    order = max(ORDERS.get(name, 2) for name in record["labels"])
    if "inducing" in record and label_order == 0:  # values of environments, whatever the labels are
        return
    order = 1 if "compressed" in record else order  # values and slopes, whatever the labels were
    if not record.get("own_operators") and label_order != order:
        raise ValueError(f"label_order is {label_order}, and {order} for the labels {', '.join(record['labels'])}")


def require_entries(where: str, record: Mapping) -> None:
    """Refuse a record of any potential, of which an entry is of another kind, or at odds with another.

    Raises:
        ValueError: which entry, what was expected and what is there.
    """
    require(where, record, RECORD if "n_train" in record else {}, set(RECORD) - set(FACTS))
    require(where, record, {**RECORD, "labels": several(TEXT), "terms": several(OBJECT)}, {*RECORD, "terms"})
    for stage in ("training", "test"):
        if stage in record:
            _require_evaluation(f"{where}.{stage}", record[stage])
    if "iterations" in record:
        require(f"{where}.iterations", record["iterations"], ITERATIONS)
    if "distilled" in record:
        require(f"{where}.distilled", record["distilled"], DISTILLED, {"recipe"})  # not in older files
    if "group_noise" in record:
        require(f"{where}.group_noise", record["group_noise"], GROUP_NOISE)
    for i, term in enumerate(record.get("terms", ())):
        require_known(f"{where}.terms.{i}", term, set(term) - {"terms"})
        require_entries(f"{where}.terms.{i}", term)
    if unknown := sorted(set(record.get("labels", ())) - {*OPERATORS, *record.get("own_operators", ())}):
        raise ValueError(f"{where}.labels has {unknown[0]!r:.60}, which is no label")
    if len(record.get("fingerprints", ())) > record.get("n_train", 0):
        raise ValueError(
            f"{where}.fingerprints are {len(record['fingerprints'])}, for {record.get('n_train', 0)} training frames"
        )
    if "geometry" in record:
        require(where, record, {name: RECORD[name] for name in GEOMETRY})
        _require_geometry(where, record)


def _require_geometry(where: str, record: Mapping) -> None:
    """Refuse a geometry to start from where one entry is at odds with another."""
    atoms = len(record["geometry"])
    if len(record["geometry_numbers"]) != atoms:
        raise ValueError(
            f"{where}.geometry_numbers are {len(record['geometry_numbers'])}, the geometry has {atoms} atoms"
        )
    if any(
        p and not (record["periodic"] and any(v))
        for p, v in zip(record["geometry_pbc"], record["geometry_cell"], strict=True)
    ):
        raise ValueError(
            f"{where}.geometry_pbc says periodic, where {where}.periodic or {where}.geometry_cell does not"
        )


def _require_evaluation(where: str, summary: Mapping) -> None:
    """Refuse what is no summary of an evaluation, `Evaluation.summary`."""
    require(where, summary, EVALUATION, (*LATER_ERRORS, "errors", "not_compared", "groups"))
    for mae, rmse in ((name, name.replace("mae", "rmse")) for name in summary if "_mae" in name):
        if rmse in EVALUATION and (summary[mae] is None) != (summary.get(rmse) is None):
            raise ValueError(f"{where}.{mae} and {where}.{rmse} are not both there, or both nothing")
    for name, errors in summary.get("errors", {}).items():
        require(f"{where}.errors.{name:.60}", errors, ERRORS)
