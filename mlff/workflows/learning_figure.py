"""A picture of learning on the fly: how far the model was off at every label, and how far it thought that it might be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from mlff.workflows.ledger import Call


def learning_figure(calls: Sequence[Call]) -> Figure:
    """Errors, standard deviations and thresholds along the calls, and errors against standard deviations.

    Raises:
        ValueError: no call that a model had said something of.
    """
    told = [(k, call) for k, call in enumerate(calls, start=1) if call.std is not None]
    if not told:
        raise ValueError("calls: no model has been asked yet, there is nothing to show")
    place = np.array([k for k, _ in told])
    stds, errors, limits = np.array([(call.std, call.error, call.threshold) for _, call in told]).T
    figure = Figure(figsize=(8.4, 3.9), layout="constrained")
    along, against = figure.subplots(1, 2)
    along.semilogy(place, limits, "-", color="0.8", drawstyle="steps", label="threshold of the largest σ")
    along.semilogy(place, stds, ".-", color="C0", label="σ, root mean square")
    along.semilogy(place, errors, ".", color="C1", label="error, root mean square")
    along.set(xlabel="label", ylabel="forces, eV/Å", title="before each label was learnt")
    along.set_ylim(top=3.0 * max(limits.max(), errors.max()))  # room for the legend
    along.legend(frameon=False, fontsize=8)
    ends = np.array([min(stds.min(), errors.min()), max(stds.max(), errors.max())])
    against.loglog(ends, ends, "-", color="0.2", linewidth=1, label="as predicted")
    points = against.scatter(stds, errors, c=place, s=14, cmap="viridis")
    against.set(xlabel="σ, eV/Å", ylabel="error, eV/Å", title="forces, root mean square of a geometry")
    against.xaxis.set_minor_formatter(NullFormatter())
    against.legend(frameon=False, fontsize=8)
    figure.colorbar(points, label="label")
    return figure
