"""What a prediction rests on: against fits without each of the frames."""

import numpy as np
import pytest

import mlff
from descriptors import inverse_distances

KERNEL = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0), amplitude=5.0)
NOISE = {"energy": 1e-3, "forces": 1e-2}


@pytest.mark.parametrize("labels", [("forces",), ("energy", "forces")], ids=["forces", "both"])
def test_influences_are_those_of_fits_without_the_frames(water, labels):
    noise = {name: NOISE[name] for name in labels}
    data = mlff.Dataset(water[:12].frames, water.source, np.arange(100, 112))
    whole = mlff.fit(KERNEL, data, labels, noise=noise, posterior=True)
    x = water[30].positions
    operators = ("forces", "energy") if "energy" in labels else ("forces",)
    for operator in operators:
        found = mlff.influence(whole, x, operator, most=5)
        weights = np.abs(found.changes).reshape(5, -1).max(axis=1)
        assert len(set(found.frames.tolist())) == 5
        assert weights.max() > 0
        for frame, change, std in zip(found.frames, found.changes, found.without, strict=True):
            rest = data[np.setdiff1d(np.arange(12), frame - 100)]
            without = mlff.fit(KERNEL, rest, labels, noise=noise, posterior=True)
            answers = [each.forces(x) if operator == "forces" else each.energy(x) for each in (whole, without)]
            np.testing.assert_allclose(change, answers[0] - answers[1], atol=1e-8)
            plain = without.replace(calibration=whole.calibration)
            np.testing.assert_allclose(std, plain.std(operator, x), rtol=1e-5)
        np.testing.assert_allclose(found.std, whole.std(operator, x))
        assert str(found).startswith("with all frames σ")


def test_a_copy_rests_on_the_frame_that_it_is_of(water):
    fitted = mlff.fit(KERNEL, water[:12], noise=1e-2, posterior=True)
    found = mlff.influence(fitted, water[4].positions, most=3)
    assert found.frames[0] == water[:12].indices[4]
    assert found.without[0].max() > 3 * found.std.max()


def test_what_has_no_factor_is_refused(water, tmp_path):
    fitted = mlff.fit(KERNEL, water[:12], noise=1e-2, posterior=True)
    with pytest.raises(ValueError, match="most=0"):
        mlff.influence(fitted, water[0].positions, most=0)
    with pytest.raises(ValueError, match="one geometry"):
        mlff.influence(fitted, np.stack([water[0].positions]))
    with pytest.raises(ValueError, match="holds no factor"):
        mlff.influence(mlff.fit(KERNEL, water[:12], noise=1e-2), water[0].positions)
