"""The record of a force field, how it came to be: what each of its entries is."""

from __future__ import annotations

from collections.abc import Mapping

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
    several,
)
from mlff.operators import OPERATORS

ORDERS = {"energy": 0, "forces": 1, "stress": 1}  # of derivative; of every other label 2
PAIR = Expected(
    "a length scale with its error", lambda value: several(optional(POSITIVE), 2).holds(value) and value[0] is not None
)
OBJECT = Expected("a JSON object", lambda value: isinstance(value, Mapping))
RECORD = {
    "labels": several(TEXT, least=1), "own_operators": several(TEXT), "noise": named(LEVEL), "units": TEXT, "source": TEXT,
    "n_train": COUNT, "rows": COUNT, "unseen": LEVEL, "periodic": FLAG, "closest": named(POSITIVE),
    "geometry": several(several(NUMBER, 3), least=1), "geometry_numbers": several(ELEMENT, least=1),
    "geometry_cell": several(several(NUMBER, 3), 3), "geometry_pbc": several(FLAG, 3),
    "indices": several(WHOLE), "seed": optional(WHOLE), "data_hash": TEXT, "fingerprints": several(TEXT),
    "lengthscales_tried": several(PAIR), "energy_constant": FLAG, "fit_seconds": optional(LEVEL),
    "training": OBJECT, "test": OBJECT, "charges": named(NUMBER), "versions": named(TEXT),
}  # fmt: skip
MAY_LACK = ("own_operators", "unseen", "test", "charges")  # of models that others trained, untested, and of older files
LATER_ERRORS = ("energy_mae_per_atom", "energy_rmse_per_atom", "hessian_mae")
EVALUATION = {
    **{name: optional(LEVEL) for name in ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse", *LATER_ERRORS)},
    "slope": optional(NUMBER), "n_test": COUNT, "forces_mae_by_element": named(LEVEL),
    "errors": named(OBJECT), "not_compared": named(TEXT),
}  # fmt: skip
ERRORS = {"mae": LEVEL, "rmse": LEVEL, "unit": TEXT, "count": WHOLE}


def require_record(record: Mapping, label_order: int) -> None:
    """Refuse a record of which an entry is missing, of another kind, or at odds with another; unknown entries are let pass.

    Raises:
        ValueError: which entry, what was expected and what is there.
    """
    require("record", record, RECORD, MAY_LACK)
    for stage in ("training", "test"):
        if stage in record:
            _require_evaluation(f"record.{stage}", record[stage])
    atoms, frames, own = len(record["geometry"]), record["n_train"], record.get("own_operators", ())
    if len(record["geometry_numbers"]) != atoms:
        raise ValueError(
            f"record.geometry_numbers are {len(record['geometry_numbers'])}, the geometry has {atoms} atoms"
        )
    if any(
        p and not (record["periodic"] and any(v))
        for p, v in zip(record["geometry_pbc"], record["geometry_cell"], strict=True)
    ):
        raise ValueError("record.geometry_pbc says periodic, where record.periodic or record.geometry_cell does not")
    if len(record["fingerprints"]) > frames:
        raise ValueError(f"record.fingerprints are {len(record['fingerprints'])}, for {frames} training frames")
    if unknown := sorted(set(record["labels"]) - {*OPERATORS, *own}):
        raise ValueError(f"record.labels has {unknown[0]!r:.60}, which is no label")
    if unknown := sorted(set(record["noise"]) - set(record["labels"])):
        raise ValueError(f"record.noise has {unknown[0]!r:.60}, which is no label of this force field")
    order = max(ORDERS.get(name, 2) for name in record["labels"])
    if not own and label_order != order:
        raise ValueError(f"label_order is {label_order}, and {order} for the labels {', '.join(record['labels'])}")


def _require_evaluation(where: str, summary: Mapping) -> None:
    """Refuse what is no summary of an evaluation, `Evaluation.summary`."""
    require(where, summary, EVALUATION, (*LATER_ERRORS, "errors", "not_compared"))
    for name, errors in summary.get("errors", {}).items():
        require(f"{where}.errors.{name:.60}", errors, ERRORS)
