"""Numbers and seeds: what is none is refused, by one function each."""

import numpy as np
import pytest

from descriptors import inverse_distances
from mlff import GlobalKernel, Matern52, RationalQuadratic
from mlff.arguments import checked_seed, is_number, require_positive
from mlff.fitting import _noise
from mlff.labelled import LabelledFrames
from mlff.operators import FORCES


@pytest.mark.parametrize("seed", [-1, True, 1.0, "1", None, 2**63, np.int64(-3)])
def test_what_is_no_seed(seed):
    with pytest.raises(ValueError, match=r"seed=.* must be an integer from 0 to 2\*\*63 - 1"):
        checked_seed(seed)


def test_seeds():
    assert [checked_seed(seed) for seed in (0, np.int64(5), 2**63 - 1)] == [0, 5, 2**63 - 1]


def test_truth_is_no_number():
    with pytest.raises(ValueError, match="lengthscale=True must be a positive number"):
        require_positive("lengthscale", True)
    assert [is_number(value) for value in (1, 1.5, np.float32(2), True, np.True_, "1", None)] == [True] * 3 + [
        False
    ] * 4


@pytest.mark.parametrize("value", [1e300, 1e-300, np.array([1.0, np.inf]), np.nan, -1.0])
def test_length_scales_amplitudes_and_exponents(value):
    with pytest.raises(ValueError, match=r"lengthscale=.* must be"):
        Matern52(lengthscale=value)
    if np.ndim(value) == 0:
        with pytest.raises(ValueError, match=r"amplitude=.* must be .*eV², or None"):
            GlobalKernel(inverse_distances, Matern52(), amplitude=value)
        with pytest.raises(ValueError, match=r"alpha=.* must be"):
            RationalQuadratic(lengthscale=1.0, alpha=value)


@pytest.mark.parametrize("level", [True, np.True_, 1e300, -1e-3, np.nan])
def test_noise(level, water):
    frames = LabelledFrames.of(water[:2])
    with pytest.raises(ValueError, match=r"noise: forces .* must be a standard deviation in eV/Å"):
        _noise(level, frames, {"forces": FORCES})
    with pytest.raises(ValueError, match=r"noise: forces .* must be a standard deviation in eV/Å"):
        _noise({"forces": level}, frames, {"forces": FORCES})
    assert _noise(0.1, frames, {"forces": FORCES}) == {"forces": 0.1}


def test_splits_take_no_other(water):
    with pytest.raises(ValueError, match="seed=-1 must be"):
        water.split(3, seed=-1)
