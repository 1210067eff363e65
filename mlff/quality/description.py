"""What a force field is, in a few lines or as JSON: molecule, potential, data, symmetry, errors, versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlff.potentials.errors import error_text
from mlff.potentials.force_field import ForceField
from mlff.potentials.record import frames_learnt
from mlff.quality.reliability import reliability_texts
from mlff.quality.report import (
    amplitude_text,
    compressed_text,
    distilled_text,
    error_bars_text,
    fit_summary,
    iterations_text,
    made_of,
    noise_text,
    scale_text,
    sparse_text,
    tuned_text,
)

FACTS = ("source", "units", "labels", "data_hash", "versions", "indices")


def described(force_field: ForceField) -> dict[str, Any]:
    """What `mlff show --json` prints; entries that this potential has."""
    record, kernel = force_field.record, force_field.kernel
    summary = {name: value for name, value in fit_summary(force_field, None).items() if value is not None}
    del summary["peak_memory_mb"]
    if (learnt := frames_learnt(record)) is not None:  # by all terms of a sum
        summary["n_train"] = learnt
    if kernel is None:
        parts = {"potential": force_field.model.label}
    else:
        parts = {
            "descriptor": ", ".join(leaf.descriptor.name for leaf in kernel.leaves),
            "kernel": ", ".join(type(radial).__name__ for radial in kernel.radials),
        }
    facts = {name: record[name] for name in FACTS if name in record}
    terms = [{name: each[name] for name in (*FACTS, "n_train") if name in each} for each in record.get("terms", ())]
    return {
        "formula": made_of(force_field), **parts, **summary, **facts, "symmetry": _symmetry(force_field),
        "test": record.get("test"), **{name: record[name] for name in ("compressed", "distilled") if name in record},
        **({"terms": terms} if terms else {}),
    }  # fmt: skip


def description(force_field: ForceField) -> list[str]:
    """What `mlff show` prints, line by line."""
    record, kernel = force_field.record, force_field.kernel
    lines = [f"{force_field}"]
    lines += _trained(record)
    for term, model in zip(record.get("terms", ()), getattr(force_field.model, "terms", ()), strict=False):
        lines.append(f"term {model.label}")
        lines += [f"  {line}" for line in (*_trained(term), *_made(term))]
    if kernel is not None:
        lines.append(
            f"length scale {scale_text(kernel)}, amplitude {amplitude_text(kernel)} eV², noise {noise_text(record)}"
        )
    lines += _made(record)
    if training := record.get("training"):
        lines.append(f"training: {error_text(training)}")
    if test := record.get("test"):
        lines.append(f"test on {test['n_test']} frames of {test['source']}: {error_text(test)}")
        lines += [f"  {line}" for line in reliability_texts(test.get("error_bars", {}))]
    elif frames_learnt(record) is not None:
        lines.append("test: none; mlff test makes one")
    symmetry = _symmetry(force_field)
    if kernel is not None:  # of other potentials nobody knows
        lines.append(f"permutations: order {symmetry['order']}")
    for generator in symmetry["generators"]:
        superposition = "" if generator["residual"] is None else f"  superposition {generator['residual']:.3f} Å"
        lines.append(f"  {generator['cycles']}{superposition}")
    if versions := record.get("versions"):
        lines.append("written with " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return lines


def _trained(record: Mapping) -> list[str]:
    if "n_train" not in record:
        return []
    return [
        f"trained on {record['n_train']} frames of {record['source']} ({record['units']}), data {record['data_hash'][:12]}"
    ]


def _made(record: Mapping) -> list[str]:
    """How the model came about, beside being fitted."""
    ways = {
        "inducing": ("spanned by", sparse_text),
        "iterations": ("solved by", iterations_text),
        "tuned": ("tuned:", tuned_text),
        "compressed": ("compressed to", compressed_text),
        "distilled": ("distilled from", distilled_text),
    }
    lines = [f"{said} {text(record)}" for name, (said, text) in ways.items() if name in record]
    return [*lines, error_bars_text(record)] if "error_bars" in record else lines


def _symmetry(force_field: ForceField) -> dict[str, Any]:
    group = force_field.permutations
    return {"order": 1, "generators": []} if group is None else group.certificate()
