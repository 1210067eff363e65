"""How likely labels are under a kernel: of several, what a handful of frames, of which none can be held out, say of length scales.

    log p(y) = −n/2 log A − ½ log|C| − ½ (y − Hc)ᵀ C⁻¹ (y − Hc)/A + …,     A = (y − Hc)ᵀ C⁻¹ (y − Hc)/n

Where it is tuned, the constants c are integrated out (n less their number, and − ½ log|HᵀC⁻¹H| in addition): with P as in `projected`

    ∂ log p = ⟨G, ∂C⟩,   G = ½ (P y yᵀP/A − P)

Source: Rasmussen, Williams, Gaussian Processes for Machine Learning (2006), section 5.4.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from mlff.data.batches import LabelledFrames
from mlff.kernels.kernels import Kernel
from mlff.regression.exact import IndefiniteMatrix, factorise
from mlff.regression.system.coefficients import find_weights
from mlff.regression.system.features import compute_features
from mlff.regression.system.linear_system import LinearSystem
from mlff.regression.system.observations import Noise
from mlff.regression.tuning.left_out import Assessment
from mlff.regression.tuning.projected import Projected
from mlff.regression.validation import with_lengthscales


def most_likely(kernel: Kernel, frames: LabelledFrames, noise: Noise, scales: Float[np.ndarray, " k"]) -> Kernel:
    """A kernel with one of several length scales, and its amplitude, eV²: those of the largest likelihood.

    Arguments:
        kernel: of one descriptor, completed with elements.
        noise: standard deviation of every kind of label.
        scales: ascending; ones under which the labels follow from each other to rounding are passed over.
    Raises:
        IndefiniteMatrix: that is so of all.
    """
    first = with_lengthscales(kernel, [float(scales[0])])
    features, best, largest, refused = compute_features(first, frames, noise), None, -np.inf, None
    for scale in scales:
        one = with_lengthscales(kernel, [float(scale)])
        system = LinearSystem.of(one, features.scaled(one), noise)
        try:
            factor = factorise(system)
        except IndefiniteMatrix as error:
            refused = error
            continue
        weights = find_weights(system, factor)
        missed = system.labels - system.design @ weights.constants
        amplitude = float(missed @ weights.rows) / len(missed)
        likelihood = -0.5 * len(missed) * np.log(amplitude) - np.sum(np.log(factor.tiles.diagonal()))
        if likelihood > largest:
            best, largest = one.with_amplitudes(tuple(amplitude * share for share in system.shares)), likelihood
    if best is None:
        raise refused
    return best


def unlikeliness(known: Projected, errors: dict[str, float], amplitude: float) -> Assessment:
    """−log p(y) a label.

    Arguments:
        errors: of frames left out, which are told beside it.
        amplitude: A, which the kernel and the noise are multiplied by; `known.scale` is the most likely one.
    """
    squares = known.scale * known.free / amplitude
    value = 0.5 * (known.free * np.log(2.0 * np.pi * amplitude) + known.volume + squares)
    cotangent = known.inverse - np.outer(known.weights, known.weights / amplitude)
    return Assessment(float(value) / known.free, errors, known.scale, (0.5 / known.free) * cotangent)
