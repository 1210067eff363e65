"""The report of a fit: numbers as JSON, a page to read, pictures to look at."""

from __future__ import annotations

import io
import json
import pathlib
import re
import sys

import numpy as np
from matplotlib.figure import Figure

from mlff.files import PNG, write_whole
from mlff.kernels.composed import SumKernel
from mlff.operators import OPERATORS, STRESS
from mlff.potentials.errors import SHOWN, Evaluation, error_rows, group_texts, short, title_of
from mlff.potentials.expansion import Expansion
from mlff.potentials.force_field import ForceField
from mlff.potentials.model_files import plain
from mlff.potentials.record import frames_learnt
from mlff.potentials.sums import terms_of
from mlff.quality.reliability import Reliability, reliability_figure, reliability_texts
from mlff.quality.self_check import Check
from mlff.units import GPA, formula, symbols

INK, ACCENT, GUIDE = "#1f2933", "#2468a2", "#9aa5b1"
MAX_POINTS = 20_000  # in a scatter plot
PICTURE, BARS = "parity.png", "error_bars.png"
FILES = {
    "report.md": b"# Force field of ",
    "report.json": b'"peak_memory_mb": ',
    PICTURE: PNG,
    BARS: PNG,
}  # with what they are known by


STATUS = pathlib.Path("/proc/self/status")  # of this process, where Linux tells it
MISSPECIFIED = 3.0  # a posterior so many times too small is worth saying


def peak_memory_mb() -> float | None:
    """Largest resident size of this process so far, in units of 10⁶ bytes, as budgets count; None on systems that do not tell."""
    # Linux, whose `ru_maxrss` begins at that of the process which started this one
    status = STATUS.read_text() if STATUS.exists() else ""
    if found := re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE):
        return int(found[1]) * 1024 / 1e6
    try:
        import resource  # which Windows lacks
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1024 if sys.platform != "darwin" else 1) / 1e6


def last_fitted(force_field: ForceField) -> ForceField:
    """What was fitted last: of a sum the correction, with a kernel that has no amplitude, or the force field itself."""
    terms, records = terms_of(force_field.model), force_field.record.get("terms", ())
    if len(terms) != len(records) or len(terms) < 2 or not isinstance(terms[-1], Expansion):
        return force_field
    kernels = tuple(part.kernel for part in terms[-1].parts)
    kernel = kernels[0] if len(kernels) == 1 else SumKernel(kernels)
    return ForceField(terms[-1], force_field.numbers, kernel, records[-1])


def fit_summary(force_field: ForceField, evaluation: Evaluation | None) -> dict:
    """What `mlff fit --json` prints: errors in eV and eV/Å, sizes, time, memory; of a sum those of its last term."""
    last = last_fitted(force_field)
    group = last.permutations
    fitted = {} if last.kernel is None else _of_the_fit(last)
    errors = (evaluation.summary() if evaluation else {}) or dict.fromkeys(
        ("energy_mae", "energy_rmse", "forces_mae", "forces_rmse", "n_test")
    )
    return {
        **errors,
        "n_train": frames_learnt(last.record),
        "permutations": 1 if group is None else len(group),
        "peak_memory_mb": peak_memory_mb(),
        **fitted,
        "training": force_field.record.get("training"),
    }


def _of_the_fit(force_field: ForceField) -> dict:
    """What a fit to a kernel found, and how long it took."""
    record = force_field.record
    lengthscales = [plain(radial.lengthscale) for radial in force_field.kernel.radials]
    return {
        "fit_seconds": record["fit_seconds"],
        "lengthscale": lengthscales[0] if len(lengthscales) == 1 else lengthscales,
        "lengthscales_tried": record["lengthscales_tried"],
        "noise": record["noise"],
        **{name: record[name] for name in ("group_noise", "inducing", "iterations", "tuned") if name in record},
        "amplitude": force_field.kernel.amplitude,
    }


def parity_figure(evaluation: Evaluation, title: str = "") -> Figure:
    """Predicted against reference labels, a panel for each kind that was compared, and the distribution of the force errors.

    Energies are relative to the mean of the references, and an atom where frames have different numbers of atoms.

    Raises:
        ValueError: nothing was compared.
    """
    panels = _panels(evaluation)
    if not panels:
        raise ValueError("evaluation: nothing was compared, so there is nothing to draw")
    histogram = "forces" in evaluation.values
    count = len(panels) + histogram
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.7 * columns, 3.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        _parity(ax, *panel)
    if histogram:
        _histogram(axes[len(panels)], *evaluation.values["forces"], evaluation.forces_rmse)
    for ax in axes[:count]:
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[count:]:
        ax.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    return figure


def _panels(evaluation: Evaluation) -> list[tuple[np.ndarray, np.ndarray, str, str]]:
    """References, predictions, label of the axes and title of every kind that was compared."""
    texts = {what: f"MAE {mae} {unit}" for what, mae, _, unit in error_rows(evaluation.summary())}
    panels = []
    for name, (reference, predicted) in evaluation.values.items():
        what, unit = title_of(name), evaluation.errors[name].unit
        factor = 1.0
        if name == "energy":
            labelled = ~np.isnan(evaluation.energies[0])
            sizes = evaluation.sizes[labelled]
            if len(set(evaluation.sizes)) > 1:
                reference, predicted, what, unit = reference / sizes, predicted / sizes, "energy per atom", "eV/atom"
            shift = reference.mean()
            reference, predicted = reference - shift, predicted - shift
        elif unit == STRESS.unit:
            factor, unit = 1.0 / GPA, "GPa"
        labelled = ~np.isnan(reference)
        panels.append((factor * reference[labelled], factor * predicted[labelled], f"{what} ({unit})", texts[what]))
    return panels


def _parity(ax, x: np.ndarray, y: np.ndarray, label: str, title: str) -> None:
    step = max(1, len(x) // MAX_POINTS)
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    ax.plot([low, high], [low, high], color=GUIDE, linewidth=1, zorder=1)
    ax.scatter(x[::step], y[::step], s=5, color=ACCENT, alpha=0.35, linewidths=0, zorder=2, rasterized=True)
    ax.set(xlabel=f"reference {label}", ylabel=f"predicted {label}", aspect="equal")
    ax.set_title(title, fontsize=10)


def _histogram(ax, reference: np.ndarray, predicted: np.ndarray, rmse: float) -> None:
    errors = 1e3 * (predicted - reference)
    width = 4 * np.quantile(np.abs(errors), 0.9) or 1.0
    ax.hist(np.clip(errors, -width, width), bins=81, color=ACCENT)
    ax.set(xlabel="force error (meV/Å)", ylabel="components")
    ax.set_title(f"RMSE {short(1e3 * rmse)} meV/Å", fontsize=10)


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def write_report(
    folder,
    force_field: ForceField,
    evaluation: Evaluation | None,
    checks: list[Check],
    bars: Reliability | None = None,
) -> list[pathlib.Path]:
    """Write report.md, report.json and, where there are test frames, parity.png and error_bars.png into a folder.

    Arguments:
        bars: error bars of a force field that has some, on the test frames.
    Returns:
        the files written.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    last = last_fitted(force_field)
    group = last.permutations
    summary = {
        **fit_summary(force_field, evaluation),
        **({} if bars is None else {"error_bars": bars.summary()}),
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
        **{name: last.record.get(name) for name in ("versions", "source", "units")},
    }
    contents = {"report.json": (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode()}
    if evaluation is not None and evaluation.values:
        figure = parity_figure(evaluation, f"{made_of(force_field)}, {evaluation.n_test} test frames")
        contents[PICTURE] = png(figure)
    if bars is not None:
        contents[BARS] = png(reliability_figure(bars))
    contents["report.md"] = _page(force_field, evaluation, summary).encode()
    for name, content in contents.items():
        write_whole(folder / name, content)
    return [folder / name for name in contents]


def _page(force_field: ForceField, evaluation: Evaluation | None, summary: dict) -> str:
    last = last_fitted(force_field)
    record = last.record
    parts = [f"# Force field of {made_of(force_field)}\n", _origin(last, summary["peak_memory_mb"])]
    if last is not force_field:
        below = ", ".join(term.label for term in terms_of(force_field.model)[:-1])
        parts.append(f"A correction to {below}; errors are those of the sum.\n")
    parts.append(_errors(summary["training"], evaluation))
    if "error_bars" in record or "error_bars" in summary:
        parts.append(_error_bars(record, summary.get("error_bars")))
    parts.append(f"## Permutations of identical atoms\n\nOrder {summary['symmetry']['order']}, atoms counted from 0.\n")
    if generators := summary["symmetry"]["generators"]:
        rows = [
            (g["cycles"], "given" if g["residual"] is None else f"{g['residual']:.3f}", g["pairs"]) for g in generators
        ]
        parts.append(_table(("generator", "best superposition of two frames (Å)", "pairs of frames"), rows))
    rows = []
    for c in summary["self_check"]:
        measured = "flew apart" if c["value"] is None else f"{c['value']:.2e} {c['unit']}"
        rows.append((c["name"], measured, f"{c['bound']:.2g}", "yes" if c["passed"] else "**no**"))
    parts.append("## Self-check\n\n" + _table(("property", "measured", "bound", "holds"), rows))
    parts.append("Bounds hold five standard deviations of the rounding of this model's own energies, as measured.")
    if "inducing" in record:
        parts.append(_sparse(record))
    if "tuned" in record:
        parts.append(f"## Hyperparameters tuned\n\n{tuned_text(record).capitalize()}.\n")
    if record.get("lengthscales_tried"):
        rows = [
            (f"{scale:.4g}", "not positive definite" if error is None else f"{error:.5g}")
            for scale, error in sorted(record["lengthscales_tried"])
        ]
        unit = "eV/Å" if "forces" in record["labels"] else "eV"
        parts.append("## Length scales tried\n\n" + _table(("length scale", f"RMSE on held-out frames ({unit})"), rows))
    return "\n".join(parts)


def sparse_text(record: dict) -> str:
    """What a sparse model is spanned by, for people."""
    said = record["inducing"]
    points = ", ".join(f"{count} {symbol}" for symbol, count in said.get("points", {}).items())
    left = f"; {said['dependent']} more follow from these to rounding" if said["dependent"] else ""
    drawn = ", drawn by leverage" if said.get("selection") == "cur" else ""
    return f"{said['functionals']} {said['kind']}" + (f" ({points})" if points else "") + drawn + left


def iterations_text(record: dict) -> str:
    """How conjugate gradients came to their end, for people."""
    said = record["iterations"]
    left = f"{said['residual_of_noise']:.2g} of the noise"
    return f"{said['iterations']} iterations, preconditioner of rank {said['rank']}; labels are fitted to {left}"


def compressed_text(record: dict) -> str:
    """What is left of the points of a compressed model, and what that changed, for people."""
    said = record["compressed"]
    points = ", ".join(f"{count} {symbol}" for symbol, count in said["points"].items())
    energies, forces = (1e3 * said["change"][f"{name}_mae"] for name in ("energy", "forces"))
    changed = f"energies changed by {energies:.2g} meV, forces by {forces:.2g} meV/Å"
    return f"{sum(said['points'].values())} points ({points}); {changed}, 0.05 Å beside training frames"


def distilled_text(record: dict) -> str:
    """What a baseline is a model of, and how far from it, for people."""
    said = record["distilled"]
    energies, forces = 1e3 * said["energy_mae"], 1e3 * said["forces_mae"]
    by = f" by {said['recipe']}" if "recipe" in said else ""  # files of earlier versions do not say
    return (
        f"{said['frames']} frames of {said['method']}{by}; {short(energies)} meV and {short(forces)} meV/Å from it on {said['compared']} "
        "frames that it has not seen"
    )


def error_bars_text(record: dict) -> str:
    """How large error bars were found to be by the frames that the fit left out."""
    found = record["error_bars"]
    factor, looked_at = found["factor"], found.get("forces") or found.get("energy")
    size = f"{factor:.3g} times" if factor >= 1.0 else f"1/{1.0 / factor:.3g} of"
    where = found.get("source") or "frames left out"
    within = (
        f"{100 * looked_at['within_one']:.0f} % of errors within σ, {100 * looked_at['within_two']:.0f} % within 2σ"
    )
    said = (
        "" if factor < MISSPECIFIED else ": the kernel alone would be far too sure, as it is smoother than the energy"
    )
    return (
        f"error bars: {size} the posterior's own, by {where} (RMSE there {1e3 * looked_at['rmse']:.3g} "
        f"meV{'/Å' if 'forces' in found else ''}, {within}){said}"
    )


def tuned_text(record: dict) -> str:
    """What was tuned, from where to where, and what it was good for, for people."""
    said = record["tuned"]
    numbers = ", ".join(
        f"{number['name']} {number['from']:.3g} → {number['to']:.3g}" for number in said["hyperparameters"]
    )
    errors = [_change(name, said["errors_before"][name], after) for name, after in said["errors"].items()]
    shares = ", ".join(f"{share:.1%}" for share in said["shares"])
    of_terms = f"; shares of the prior variance {shares}" if len(said["shares"]) > 1 else ""
    fewer, dropped = _frames_text(said, record.get("n_train", 0)), _dropped_text(said)
    return f"{numbers}{fewer}; RMSE of frames left out: {', '.join(errors)}{of_terms}{dropped}"


def _frames_text(said: dict, count: int) -> str:
    """That fewer than all frames were tuned on, and the noise for all, where it is another."""
    reached = {number["name"]: number["to"] for number in said["hyperparameters"]}
    levels = {f"noise of {name}": level for name, level in said.get("noise", {}).items()}
    less = [f"{name} {level:.3g}" for name, level in levels.items() if level < reached.get(name, level)]
    fewer = f"; tuned on {said['frames']} frames" if less or said["frames"] < count else ""
    return f"{fewer}, and fitted to all with {', '.join(less)}" if less else fewer


def _dropped_text(said: dict) -> str:
    """Which terms of a sum can be dropped, with the errors of frames left out with and without each, nothing else tuned anew."""
    texts = []
    for term, without in zip(said.get("terms", ()), said.get("errors_without", ()), strict=False):
        if term in said["can_be_dropped"]:
            errors = ", ".join(_change(name, said["errors"][name], after) for name, after in without.items())
            texts.append(f"; term {term} can be dropped: {errors} without it")
    return "".join(texts)


def _change(name: str, before: float, after: float) -> str:
    """An error of a kind of label before and after something, in the unit that people read."""
    unit = OPERATORS[name].unit if name in OPERATORS else ""
    factor, decimals, shown = SHOWN.get(unit, (1.0, 4, unit))
    return f"{name} {short(factor * before, decimals)} → {short(factor * after, decimals)} {shown}".rstrip()


def _sparse(record: dict) -> str:
    """The part of the page about what spans a sparse model."""
    parts = [f"## Inducing functionals\n\n{sparse_text(record).capitalize()}.\n"]
    if table := record["inducing"].get("held_out_rmse"):
        kinds = list(table[0][1])
        units = {"energy": "eV/√atom", "forces": "eV/Å", "stress": "virial, eV/√atom"}
        rows = [(count, *(f"{errors[kind]:.4g}" for kind in kinds)) for count, errors in table]
        parts.append(
            _table(("functionals", *(f"RMSE of {kind} left out ({units.get(kind, '')})" for kind in kinds)), rows)
        )
    return "\n".join(parts)


def _origin(force_field: ForceField, memory: float | None) -> str:
    """Where a force field comes from, in a sentence."""
    record, kernel = force_field.record, force_field.kernel
    frames = "" if "n_train" not in record else (
        f"{record['n_train']} training frames of `{record['source']}` ({record['units']}), labels "
        f"{', '.join(record['labels'])}; "
    )  # fmt: skip
    if kernel is None:
        return f"{frames}{force_field.model.label}.\n"
    peak = "" if memory is None else f", peak memory {memory:.0f} MB"
    return (
        f"{frames}{type(kernel).__name__} of {kernel.label}, length scale {scale_text(kernel)}; noise {noise_text(record)}"
        f"; {record['rows']} linear equations, {_seconds(record)}{peak}.\n"
    )


def _errors(training: dict | None, evaluation: Evaluation | None) -> str:
    """The part of the page about errors: a row for every kind of label and set of frames, the picture, the elements."""
    rows = []
    for name, summary in (("training", training), ("test", evaluation and evaluation.summary())):
        if summary:
            frames = f"{name}, {summary['n_test']}"
            rows += [(frames, what, f"{mae} {unit}", f"{rmse} {unit}") for what, mae, rmse, unit in error_rows(summary)]
            if summary["slope"] is not None:
                rows.append((frames, "slope of energies", f"{summary['slope']:.3f}", ""))
    parts = ["## Errors\n\n" + _table(("frames", "of", "MAE", "RMSE"), rows)]
    if evaluation is not None:
        parts += [f"Not compared: {name}, {reason}.\n" for name, reason in evaluation.not_compared.items()]
        if evaluation.values:
            parts.append(f"![Predicted against reference labels]({PICTURE})\n")
        if evaluation.groups:
            parts.append(
                "## Errors by group of frames\n\n"
                + "".join(f"- {line}\n" for line in group_texts(evaluation.summary()))
            )
        elements = [(symbol, short(1e3 * error)) for symbol, error in evaluation.forces_mae_by_element.items()]
        if elements:
            parts.append("## Force errors by element\n\n" + _table(("element", "MAE (meV/Å)"), elements))
    return "\n".join(parts)


def _error_bars(record: dict, found: dict | None) -> str:
    """The part of the page about error bars: how they were calibrated, how they fare on test frames, by bins of their size."""
    said = [error_bars_text(record)] if "error_bars" in record else []
    parts = ["## Error bars\n", *(f"- {line}" for line in [*said, *reliability_texts(found or {})]), ""]
    head = ("of", "σ by bins", "RMSE", "within σ", "within 2σ")
    rows = [
        (name, *(f"{1e3 * bin[key]:.3g} m{OPERATORS[name].unit}" for key in ("std", "rmse")),
         *(f"{100 * bin[key]:.0f} %" for key in ("within_one", "within_two")))
        for name, of_kind in (found or {}).items() for bin in of_kind["bins"]
    ]  # fmt: skip
    if rows:
        parts += [_table(head, rows), f"![Errors against their standard deviations]({BARS})\n"]
    return "\n".join(parts)


def _table(head: tuple, rows: list[tuple]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def _seconds(record: dict) -> str:
    seconds = record["fit_seconds"]
    return "fitted elsewhere" if seconds is None else f"{seconds:.1f} s"


def noise_text(record: dict) -> str:
    """The standard deviations of the labels, for people; those of an atom with what they are multiplied by in a frame of n."""
    of_an_atom = record.get("inducing", {}).get("noise_of_an_atom", False)
    counts = {"energy": " √n", "stress": " √n/V"} if of_an_atom else {}
    groups = record.get("group_noise", {"factors": {}, "stated": {}})
    levels = [(name, name, value) for name, value in record["noise"].items()]
    levels += [(name, name.rpartition(":")[2], value) for name, value in groups["stated"].items()]
    found = {label: _times(of) for label, of in record.get("inducing", {}).get("group_factors", {}).items()}
    texts = [f"{name} {value:.2g}{counts.get(label, '')}{found.get(name, '')}" for name, label, value in levels]
    return ", ".join([*texts, *(f"{group} times {factor:.3g}" for group, factor in groups["factors"].items())])


def _times(factors: dict[str, float]) -> str:
    """Factors of the noise of groups, behind that of all."""
    return f" ({', '.join(f'{group} times {factor:.2g}' for group, factor in factors.items())})"


def amplitude_text(kernel) -> str:
    """The amplitudes of the parts of a kernel, for people."""
    return ", ".join(f"{part.amplitude:.4g}" for part in kernel.parts)


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
    elements = force_field.model.elements
    return "any elements" if elements is None else "-".join(symbols(elements))
