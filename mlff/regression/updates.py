"""A fit with more frames: its factor takes their rows below it, and nothing else is found anew.

With L of C = L Lᵀ and the covariances B and D of the new labels with the old ones and each other,

    [L          ]
    [(L⁻¹B)ᵀ  L′],   L′ L′ᵀ = D − Bᵀ C⁻¹ B

takes n² m multiply-adds of n old and m new labels, where a fit takes (n + m)³/3 and its search for a length scale more.
"""

from __future__ import annotations

import time

import numpy as np

from mlff.data.batches import LabelledFrames
from mlff.data.dataset import Dataset
from mlff.operators import find_operator
from mlff.potentials.force_field import ForceField
from mlff.potentials.record import facts_of
from mlff.regression.exact import Factor, Progress
from mlff.regression.fitting import examined, with_constant
from mlff.regression.posterior import Posterior
from mlff.regression.requests import Request
from mlff.regression.system.coefficients import expand, find_weights
from mlff.regression.system.features import Features, compute_features
from mlff.regression.system.kernel_blocks import kernel_between
from mlff.regression.system.linear_system import LinearSystem


def extended(force_field: ForceField, data: Dataset, progress: Progress = lambda stage, share: None) -> ForceField:
    """A force field of more frames, with hyperparameters, noise and calibration as they are: what `fit` makes of all frames with
    these, in a fraction of its time.

        force_field = mlff.fit(kernel, data, posterior=True)
        more = mlff.extended(force_field, data + frames)

    The factor's tiles are those of the force field that it began with; both can be used on.

    Arguments:
        force_field: an exact fit with posterior=True, of this process: files hold no factor.
        data: all frames, of which the first are those of the fit, in their order.
        progress: called with the name of a stage and the share of it that is done.
    Raises:
        ValueError: no such force field; other frames at the beginning, or none after them; labels or elements that the fit lacks.
        IndefiniteMatrix: the new labels follow from the old ones to rounding.
    """
    started = time.perf_counter()
    posterior = _require_factor(force_field)
    _require_continued(force_field, data)
    more = continued(force_field, data, progress)
    system, labels = more.posterior.system, tuple(find_operator(label).name for label in posterior.system.levels)
    frames = LabelledFrames.of(data)
    kept = more.posterior if posterior.anchor is None else more.posterior.anchored(more.model, frames)
    unseen = float(np.mean([frame.unseen for frame in system.features.observations]))
    facts = {**facts_of(data, frames), "rows": len(system.labels), "unseen": unseen}
    record = {**force_field.record, **facts, "fit_seconds": time.perf_counter() - started}
    model = with_constant(more.model, system.features.frames, labels)
    return examined(more.replace(model=model, posterior=kept, record=record), labels, data)


def continued(force_field: ForceField, data: Dataset, progress: Progress = lambda stage, share: None) -> ForceField:
    """The forces of `extended`: without constants from energies that are no labels, and with the record of the first fit.

    Arguments:
        force_field: of an exact fit that has its factor.
        data: all frames, of which the first are those of the fit.
    """
    posterior, kernel = force_field.posterior, force_field.kernel
    old = posterior.system
    count = len(old.features.frames)
    levels = {find_operator(label): level for label, level in old.levels.items()}
    noise = {operator.name: level for operator, level in levels.items()}
    request = Request.of(kernel, data, tuple(levels), noise, None)  # checks the new frames together with the old
    species = [[part.elements for part in each.parts if part.transferable] for each in (kernel, request.kernel)]
    if species[0] != species[1]:
        raise ValueError(f"data: {data.source} has elements that the fit lacks; fit all frames anew")
    added = compute_features(kernel, LabelledFrames.of(data[count:]), levels, progress)
    given = None if old.given is None else dict(zip(old.elements, old.given, strict=True))
    system = LinearSystem.of(kernel, old.features.scaled(kernel).followed_by(added), levels, given)
    factor = _factor(posterior, system, added, progress)
    weights = find_weights(system, factor)
    kept = Posterior(system, factor, weights)
    return force_field.replace(model=expand(system, weights), numbers=system.features.frames.numbers, posterior=kept)


def _factor(posterior: Posterior, system: LinearSystem, added: Features, progress: Progress) -> Factor:
    """That of the whole system, whose amplitudes are given: C of the old one in their unit is C/A."""
    progress("factorise", 0.0)
    across = kernel_between(posterior.system.features, added, system.shares)
    corner = kernel_between(added, added, system.shares)
    corner.flat[:: len(corner) + 1] += system.noise[-len(corner) :]
    factor = posterior.factor.scaled(posterior.system.scale).extended(system, across, corner)
    progress("factorise", 1.0)
    return factor


def _require_factor(force_field: ForceField) -> Posterior:
    """The posterior of an exact fit.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(force_field.posterior, Posterior):
        raise ValueError(
            "force_field: holds no factor to extend; that of an exact fit(…, posterior=True) of one kernel does, in the process that made "
            "it. Fit all frames anew"
        )
    if force_field.kernel is None or force_field.kernel.amplitude is None:
        raise ValueError("force_field: a sum with a baseline cannot be extended; fit all frames anew")
    return force_field.posterior


def _require_continued(force_field: ForceField, data: Dataset) -> None:
    """Refuse frames that do not begin with those of the fit."""
    count = len(force_field.posterior.system.features.frames)
    if not isinstance(data, Dataset) or len(data) <= count:
        raise ValueError(f"data: expected the {count} frames of the fit and others after them")
    if data[:count].hash() != force_field.record["data_hash"]:
        raise ValueError(
            f"data: the first {count} frames of {data.source} are not those of the fit, in their order; write data = old + new"
        )
    if any(batch.noise is not None for batch in force_field.posterior.system.features.frames.batches):
        raise ValueError("force_field: was fitted with group_noise; fit all frames anew")
