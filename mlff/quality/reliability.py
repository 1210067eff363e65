"""Whether error bars are as large as errors: shares within them, by bins of their size, and pictures.

Of errors that are normally distributed with the standard deviations σ that were predicted, 68 % lie within one σ and 95 % within two,
in every bin of σ and not only in all. The mean negative log-likelihood ½⟨(e/σ)² + ln 2πσ²⟩ rewards error bars that are right and small;
the rank correlation of σ and |e| over frames says how well they tell good predictions from bad.

Source: Levi, Gispan, Giladi, Fetaya, Sensors 22, 5540 (2022), doi 10.3390/s22155540; Tran, Neiswanger, Yoon, Zhang, Xing, Ulissi, Mach.
    Learn.: Sci. Technol. 1, 025006 (2020), doi 10.1088/2632-2153/ab7e1a.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy.special import erf
from scipy.stats import spearmanr

from mlff.data.dataset import Dataset, require_dataset
from mlff.operators import OPERATORS
from mlff.potentials.calibration import SMALLEST, Calibration, bin_count, shares, unknown
from mlff.potentials.errors import require_disjoint
from mlff.potentials.force_field import ForceField
from mlff.potentials.record import fingerprints_of
from mlff.potentials.uncertainty import WITHOUT

EXPECTED = (0.683, 0.954)
SHOWN = 1e3  # meV


@dataclasses.dataclass(frozen=True)
class ErrorBars:
    """Standard deviations and errors of one kind of label, frame by frame, (m,) arrays each."""

    stds: list[np.ndarray]
    errors: list[np.ndarray]

    @property
    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """Of all frames, without labels that symmetry fixes, as forces in a perfect crystal."""
        return unknown(np.concatenate(self.stds), np.concatenate(self.errors))

    def bins(self) -> list[dict[str, float]]:
        """By standard deviation, as many labels in each: their mean σ, RMSE, and shares of errors within σ and 2σ."""
        stds, errors = self.flat
        of_size = np.array_split(np.argsort(stds), bin_count(len(errors)))
        return [_with_std(stds[chosen], errors[chosen]) for chosen in of_size]

    def shares_within(self, multiples: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """Shares of the errors within multiples of their standard deviations; erf(q/√2) of q are expected."""
        stds, errors = self.flat
        ratios = np.sort(np.abs(errors) / np.maximum(stds, SMALLEST))
        return np.searchsorted(ratios, multiples, side="left") / len(ratios)

    def summary(self) -> dict:
        """The numbers, for JSON."""
        stds, errors = self.flat
        known = np.maximum(stds, SMALLEST)
        likelihood = 0.5 * np.mean((errors / known) ** 2 + np.log(2.0 * np.pi * known**2))
        return {
            **_with_std(stds, errors),
            "nll": float(likelihood),
            "rank_correlation": self._correlation(),
            "bins": self.bins(),
        }

    def _correlation(self) -> float | None:
        """Of root mean square σ and error of the frames; None of fewer than three, or where one of them is always the same."""
        sizes = [[np.sqrt(np.mean(np.square(array))) for array in arrays] for arrays in (self.stds, self.errors)]
        if len(self.stds) < 3 or any(np.ptp(size) == 0.0 for size in sizes):
            return None
        return float(spearmanr(*sizes).statistic)


def _with_std(stds: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    return {"std": float(np.sqrt(np.mean(stds**2))), **shares(stds, errors)}


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Error bars of energies and forces, by the name of the label, against errors."""

    kinds: Mapping[str, ErrorBars]

    def summary(self) -> dict:
        """The numbers, for JSON."""
        return {name: bars.summary() for name, bars in self.kinds.items()}

    def __str__(self) -> str:
        return "; ".join(reliability_texts(self.summary()))


def reliability_texts(summary: Mapping) -> list[str]:
    """A line for every kind of label."""
    lines = []
    for name, found in summary.items():
        unit = f"m{OPERATORS[name].unit}"
        correlation = found["rank_correlation"]
        lines.append(
            f"error bars of {name}: σ {SHOWN * found['std']:.3g} {unit} (RMSE {SHOWN * found['rmse']:.3g}), "
            f"{100 * found['within_one']:.0f} % of errors within σ and {100 * found['within_two']:.0f} % within 2σ (68 and 95 expected)"
            + ("" if correlation is None else f", rank correlation with the errors of frames {correlation:.2f}")
        )
    return lines


def reliability(
    force_field: ForceField, data: Dataset, progress: Callable[[str, float], None] = lambda stage, share: None
) -> Reliability:
    """Hold the error bars of a force field against its errors on frames that it was not fitted to.

        print(mlff.reliability(force_field, test))

    Arguments:
        force_field: fitted with posterior=True; its committee gives the standard deviations.
        data: frames with energies or forces.
    Raises:
        ValueError: a force field without a posterior, frames that it was fitted to, or without energies and forces.
    """
    if force_field.posterior is None:
        raise ValueError(WITHOUT)
    require_dataset(data)
    require_disjoint(fingerprints_of(force_field.record), data)
    kinds: dict[str, ErrorBars] = {}
    for i, frame in enumerate(data):
        progress("error bars", i / len(data))
        where = frame.positions, frame.cell, frame.system.pbc, frame.numbers if force_field.transferable else None
        predicted = dict(zip(("energy", "forces"), force_field.energy_and_forces(*where), strict=True))
        stds = dict(zip(("energy", "forces"), force_field.energy_and_forces_std(*where), strict=True))
        for name in ("forces", "energy"):
            if np.size(frame.labels.get(name, ())):
                bars = kinds.setdefault(name, ErrorBars([], []))
                bars.stds.append(np.ravel(stds[name]))
                bars.errors.append(np.ravel(frame.labels[name] - predicted[name]))
    kinds = {name: bars for name, bars in kinds.items() if len(bars.flat[0])}
    if not kinds:
        raise ValueError(
            f"{data.source or 'data'}: no frame has energies or forces that are not known beforehand to hold error bars against"
        )
    progress("error bars", 1.0)
    return Reliability(kinds)


def calibrated(
    force_field: ForceField, data: Dataset, progress: Callable[[str, float], None] = lambda stage, share: None
) -> ForceField:
    """The force field with error bars that have the right size on some frames, in place of what the fit found by leaving its own out.

    What the fit does is right for frames that are drawn as its own were; where they are not (hotter dynamics, other phases), error bars
    should be held against a few that were labelled there.

    Arguments:
        force_field: fitted with posterior=True.
        data: frames with energies or forces that it was not fitted to.
    Raises:
        ValueError: a force field without a posterior, frames that it was fitted to, or without energies and forces.
    """
    raw = reliability(force_field.replace(calibration=None), data, progress)
    pairs = {name: bars.flat for name, bars in raw.kinds.items()}
    calibration = Calibration.of(pairs)
    record = {**force_field.record, "error_bars": {**calibration.summary(pairs), "source": data.source}}
    return force_field.replace(calibration=calibration, record=record)


def reliability_figure(found: Reliability) -> Figure:
    """Errors against standard deviations, and shares of errors within multiples of them, with what both should be: a column for
    each kind of label."""
    figure = Figure(figsize=(4.2 * len(found.kinds), 7.6), layout="constrained")
    for (above, below), (name, bars) in zip(
        figure.subplots(2, len(found.kinds), squeeze=False).T, found.kinds.items(), strict=True
    ):
        _draw_sizes(above, name, bars)
        _draw_shares(below, name, bars)
    return figure


def _draw_sizes(axes, name: str, bars: ErrorBars) -> None:
    stds, errors = (SHOWN * array for array in bars.flat)
    drawn = np.random.default_rng(0).permutation(len(stds))[:5000]
    axes.loglog(stds[drawn], np.abs(errors[drawn]), ".", color="0.75", markersize=2, rasterized=True)
    middle, rmse = (SHOWN * np.array([found[key] for found in bars.bins()]) for key in ("std", "rmse"))
    ends = np.array([stds[stds > 0].min(), stds.max()])
    axes.loglog(ends, ends, "-", color="0.2", linewidth=1, label="as predicted")
    axes.loglog(ends, 2 * ends, ":", color="0.2", linewidth=1, label="twice that")
    axes.loglog(middle, rmse, "o-", color="C0", label="RMSE by bins")
    axes.set_ylim(np.quantile(np.abs(errors[errors != 0]), 0.01), 2 * np.abs(errors).max())
    unit = f"m{OPERATORS[name].unit}"
    within = bars.summary()
    axes.set(
        xlabel=f"σ of {name}, {unit}", ylabel=f"|error|, {unit}",
        title=f"{name}: {100 * within['within_one']:.0f} % within σ, {100 * within['within_two']:.0f} % within 2σ",
    )  # fmt: skip
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, fontsize=8)


def _draw_shares(axes, name: str, bars: ErrorBars) -> None:
    multiples = np.linspace(0.0, 3.0, 61)
    axes.plot([0, 1], [0, 1], "-", color="0.2", linewidth=1, label="as expected")
    axes.plot(erf(multiples / np.sqrt(2.0)), bars.shares_within(multiples), "-", color="C0", label="found")
    for multiple, text in ((1.0, "σ"), (2.0, "2σ")):
        axes.axvline(erf(multiple / np.sqrt(2.0)), color="0.85", linewidth=1, zorder=0)
        axes.annotate(text, (erf(multiple / np.sqrt(2.0)), 0.02), color="0.4", fontsize=8, ha="right")
    axes.set(xlabel="share expected within a multiple of σ", ylabel=f"share of errors of {name}", aspect="equal")
    axes.legend(frameon=False, fontsize=8)
