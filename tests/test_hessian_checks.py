"""Hessians against forces: exact ones pass, projected ones and gradients in place of forces are named."""

import numpy as np
import pytest

import mlff
from descriptors import inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.data.hessian_checks import require_unprojected

KERNEL = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=6.0))


@pytest.fixture(scope="module")
def hessians(datasets) -> mlff.Dataset:
    return mlff.Dataset.read(datasets / "ethanol_hessians.extxyz", index=":4")


def changed(data, change) -> LabelledFrames:
    return LabelledFrames.of(mlff.Dataset([mlff.Frame(frame.system, change(frame)) for frame in data]))


def projected(frame, masses):
    x = frame.positions
    weights = np.ones(len(x)) if masses is None else masses
    centred = x - np.average(x, axis=0, weights=weights)
    rigid = [np.tile(e, (len(x), 1)) for e in np.eye(3)] + [np.cross(e, centred) for e in np.eye(3)]
    basis, _ = np.linalg.qr(np.array([(m * np.sqrt(weights)[:, None]).ravel() for m in rigid]).T)
    root = np.repeat(np.sqrt(weights), 3)
    projector = (np.eye(len(root)) - basis @ basis.T) * root / root[:, None]
    return projector.T @ frame.labels["hessian"] @ projector


def test_exact_ones_pass(hessians):
    require_unprojected(LabelledFrames.of(hessians))


def projected_set(hessians, masses) -> mlff.Dataset:
    return mlff.Dataset(
        [mlff.Frame(f.system, {"forces": f.labels["forces"], "hessian": projected(f, masses)}) for f in hessians]
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_projected_ones_are_named(weighted, hessians):
    masses = hessians[0].to_ase().get_masses() if weighted else None
    with pytest.raises(ValueError, match=r"rotations were projected out.*mlff\.projected_hessian\(\)"):
        mlff.fit(KERNEL, projected_set(hessians, masses), ("forces", "hessian"))


def test_projected_ones_can_be_fitted_by_a_projected_model(hessians, datasets):
    masses = hessians[0].to_ase().get_masses()
    data, noise = projected_set(hessians, masses), {"forces": 1e-4, "hessian": 1e-3}
    right, wrong = (mlff.fit(KERNEL, data, ("forces", mlff.projected_hessian(m)), noise) for m in (masses, None))
    exact = mlff.fit(KERNEL, hessians, ("forces", "hessian"), noise)
    test = mlff.Dataset.read(datasets / "ethanol_hessians.extxyz", index="20:26")
    errors = [mlff.evaluate(force_field, test).forces_mae for force_field in (exact, right, wrong)]
    # nothing but what the forces say is lost with the rotations; a projection of another kind is another label
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
    assert errors[2] > 1.1 * errors[0]


def test_gradients_in_place_of_forces(hessians):
    frames = changed(hessians, lambda f: {"forces": -f.labels["forces"], "hessian": f.labels["hessian"]})
    with pytest.raises(ValueError, match="are they gradients"):
        require_unprojected(frames)


def test_asymmetric_ones(hessians):
    def skew(frame):
        hessian = frame.labels["hessian"].copy()
        hessian[3, 5] += 1.0
        return {"forces": frame.labels["forces"], "hessian": hessian}

    with pytest.raises(ValueError, match=r"frame 0 is not symmetric \(by 1 eV"):
        require_unprojected(changed(hessians, skew))


def test_near_a_stationary_point_nothing_is_said(hessians):
    frames = changed(hessians, lambda f: {"forces": 1e-5 * f.labels["forces"], "hessian": projected(f, None)})
    require_unprojected(frames)
