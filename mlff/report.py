"""The report of a fit: numbers as JSON, a page to read, pictures to look at."""

from __future__ import annotations

import io
import json
import pathlib
import resource
import sys

import numpy as np
from matplotlib.figure import Figure

from mlff.archive import plain
from mlff.files import write_whole
from mlff.force_field import ForceField
from mlff.metrics import Evaluation
from mlff.selfcheck import Check
from mlff.units import formula, symbols

INK, ACCENT, GUIDE = "#1f2933", "#2468a2", "#9aa5b1"
MAX_POINTS = 20_000  # in a scatter plot


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def fit_summary(force_field: ForceField, evaluation: Evaluation | None) -> dict:
    """What `mlff fit --json` prints: errors in eV and eV/Å, sizes, time, memory."""
    record = force_field.record
    group = force_field.kernel.permutations_used
    lengthscales = [plain(radial.lengthscale) for radial in force_field.kernel.radials]
    errors = (evaluation.summary() if evaluation else {}) or dict.fromkeys(
        ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse", "n_test")
    )
    return {
        **errors,
        "n_train": record["n_train"],
        "permutations": 1 if group is None else len(group),
        "fit_seconds": record["fit_seconds"],
        "peak_memory_mb": peak_memory_mb(),
        "lengthscale": lengthscales[0] if len(lengthscales) == 1 else lengthscales,
        "lengthscales_tried": record["lengthscales_tried"],
        "noise": record["noise"],
        "amplitude": force_field.kernel.amplitude,
        "training": record["training"],
    }


def parity_figure(evaluation: Evaluation, title: str = "") -> Figure:
    """Predicted against reference energies and forces, and the distribution of the force errors."""
    figure = Figure(figsize=(11.0, 3.7), layout="constrained")
    axes = figure.subplots(1, 3)
    reference, predicted = evaluation.energies
    shift = np.nanmean(reference) if np.isfinite(reference).any() else 0.0
    panels = (
        (axes[0], reference - shift, predicted - shift, 1e3 * evaluation.energy_mae, "energy", "eV", "meV"),
        (axes[1], *(a.ravel() for a in evaluation.forces), 1e3 * evaluation.forces_mae, "force", "eV/Å", "meV/Å"),
    )
    for ax, x, y, error, name, unit, small in panels:
        _parity(ax, x, y, f"{name} ({unit})", f"MAE {error:.2f} {small}")
    errors = 1e3 * (evaluation.forces[1] - evaluation.forces[0]).ravel()
    if np.isfinite(errors).all():
        width = 4 * np.quantile(np.abs(errors), 0.9) or 1.0
        axes[2].hist(np.clip(errors, -width, width), bins=81, color=ACCENT)
        axes[2].set(
            xlabel="force error (meV/Å)", ylabel="components", title=f"RMSE {1e3 * evaluation.forces_rmse:.2f} meV/Å"
        )
        axes[2].title.set_fontsize(10)
    else:
        axes[2].set_axis_off()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    return figure


def _parity(ax, x: np.ndarray, y: np.ndarray, label: str, title: str) -> None:
    if not np.isfinite(x).all():
        ax.set_axis_off()
        ax.text(0.5, 0.5, f"no reference\n{label}", ha="center", va="center", color=GUIDE, transform=ax.transAxes)
        return
    step = max(1, len(x) // MAX_POINTS)
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    ax.plot([low, high], [low, high], color=GUIDE, linewidth=1, zorder=1)
    ax.scatter(x[::step], y[::step], s=5, color=ACCENT, alpha=0.35, linewidths=0, zorder=2, rasterized=True)
    ax.set(xlabel=f"reference {label}", ylabel=f"predicted {label}", aspect="equal")
    ax.set_title(title, fontsize=10)


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def write_report(
    folder, force_field: ForceField, evaluation: Evaluation | None, checks: list[Check]
) -> list[pathlib.Path]:
    """Write report.md, report.json and, where there are test frames, parity.png into a folder.

    Returns:
        the files written.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    group = force_field.kernel.permutations_used
    summary = {
        **fit_summary(force_field, evaluation),
        "symmetry": group.certificate() if group is not None else {"order": 1, "generators": []},
        "self_check": [
            {
                "name": c.name,
                "value": c.value if np.isfinite(c.value) else None,
                "bound": c.bound,
                "unit": c.unit,
                "passed": c.passed,
            }
            for c in checks
        ],
        "versions": force_field.record["versions"],
        "source": force_field.record["source"],
        "units": force_field.record["units"],
    }
    contents = {"report.json": (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode()}
    if evaluation is not None:
        contents["parity.png"] = png(
            parity_figure(evaluation, f"{made_of(force_field)}, {evaluation.n_test} test frames")
        )
    contents["report.md"] = _page(force_field, evaluation, summary).encode()
    for name, content in contents.items():
        write_whole(folder / name, content)
    return [folder / name for name in contents]


def _page(force_field: ForceField, evaluation: Evaluation | None, summary: dict) -> str:
    record, kernel = force_field.record, force_field.kernel
    parts = [f"# Force field of {made_of(force_field)}\n"]
    parts.append(
        f"{record['n_train']} training frames of `{record['source']}` ({record['units']}), labels "
        f"{', '.join(record['labels'])}; {type(kernel).__name__} of {kernel.label}, "
        f"length scale {scale_text(kernel)}; noise "
        + ", ".join(f"{name} {value:.2g}" for name, value in record["noise"].items())
        + f"; {record['rows']} linear equations, {_seconds(record)}, peak memory "
        f"{summary['peak_memory_mb']:.0f} MB.\n"
    )
    rows = [_error_row("training", record["training"])]
    if evaluation is not None:
        rows.append(_error_row("test", evaluation.summary()))
    head = (
        "frames",
        "number",
        "energy MAE (meV)",
        "energy RMSE",
        "forces MAE (meV/Å)",
        "forces RMSE",
        "slope of energies",
    )
    parts.append("## Errors\n\n" + _table(head, rows))
    if evaluation is not None:
        parts.append("![Predicted against reference energies and forces, and the force errors](parity.png)\n")
        elements = [(symbol, f"{1e3 * error:.2f}") for symbol, error in evaluation.forces_mae_by_element.items()]
        if elements:
            parts.append("## Force errors by element\n\n" + _table(("element", "MAE (meV/Å)"), elements))
    parts.append(f"## Permutations of identical atoms\n\nOrder {summary['symmetry']['order']}, atoms counted from 0.\n")
    if generators := summary["symmetry"]["generators"]:
        rows = [
            (g["cycles"], "given" if g["residual"] is None else f"{g['residual']:.3f}", g["pairs"]) for g in generators
        ]
        parts.append(_table(("generator", "best superposition of two frames (Å)", "pairs of frames"), rows))
    rows = []
    for c in summary["self_check"]:
        measured = "flew apart" if c["value"] is None else f"{c['value']:.2e} {c['unit']}"
        rows.append((c["name"], measured, f"{c['bound']:g}", "yes" if c["passed"] else "**no**"))
    parts.append("## Self-check\n\n" + _table(("property", "measured", "bound", "holds"), rows))
    if record["lengthscales_tried"]:
        rows = [
            (f"{scale:.4g}", "not positive definite" if error is None else f"{error:.5g}")
            for scale, error in sorted(record["lengthscales_tried"])
        ]
        unit = "eV/Å" if "forces" in record["labels"] else "eV"
        parts.append("## Length scales tried\n\n" + _table(("length scale", f"RMSE on held-out frames ({unit})"), rows))
    return "\n".join(parts)


def _error_row(name: str, errors: dict) -> tuple:
    def milli(key: str) -> str:
        return "–" if errors[key] is None else f"{1e3 * errors[key]:.2f}"

    slope = "–" if errors["slope"] is None else f"{errors['slope']:.3f}"
    return (
        name,
        errors["n_test"],
        milli("energy_mae"),
        milli("energy_rmse"),
        milli("forces_mae"),
        milli("forces_rmse"),
        slope,
    )


def _table(head: tuple, rows: list[tuple]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def _seconds(record: dict) -> str:
    seconds = record["fit_seconds"]
    return "fitted elsewhere" if seconds is None else f"{seconds:.1f} s"


def scale_text(kernel) -> str:
    """The length scales of a kernel for people; of one per feature, their range."""
    texts = []
    for radial in kernel.radials:
        values = np.atleast_1d(radial.lengthscale)
        texts.append(f"{values[0]:.4g}" if len(values) == 1 else f"{values.min():.4g} to {values.max():.4g}")
    return ", ".join(texts)


def made_of(force_field: ForceField) -> str:
    """The molecule, or the elements that a model of many compositions knows."""
    if force_field.numbers is not None:
        return formula(force_field.numbers)
    return "-".join(symbols(force_field.model.elements))
