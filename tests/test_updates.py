"""A fit extended by frames: against a fit of all of them."""

import functools

import numpy as np
import pytest

import mlff
from descriptors import inverse_distances, soap
from mlff.potentials.room import with_room
from mlff.regression.exact import IndefiniteMatrix
from mlff.regression.linalg.tiles import NotPositiveDefinite

NOISE = {"forces": 1e-2, "energy": 1e-3}
KERNEL = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=2.0))


@pytest.mark.parametrize("labels", [("forces",), ("energy", "forces")], ids=["forces", "both"])
def test_extended_is_the_fit_of_all_frames(water, labels):
    noise = {name: NOISE[name] for name in labels}
    first = mlff.fit(KERNEL, water[:20], labels, noise=noise, posterior=True)
    more = mlff.extended(mlff.extended(first, water[:21]), water[:27])
    whole = mlff.fit(first.kernel, water[:27], labels, noise=noise, posterior=True)
    x = np.stack([frame.positions for frame in water[30:35]])
    np.testing.assert_allclose(more.energy(x), whole.energy(x), rtol=0, atol=1e-8)
    np.testing.assert_allclose(more.forces(x), whole.forces(x), rtol=0, atol=1e-8)
    for operator in ("energy", "forces"):
        covariances = [each.replace(calibration=None).covariance(operator, x) for each in (more, whole)]
        np.testing.assert_allclose(*covariances, rtol=0, atol=1e-6 * np.abs(covariances[1]).max())
    assert more.calibration is first.calibration
    differing = {name for name in whole.record if more.record[name] != whole.record[name]}
    assert differing <= {"fit_seconds", "lengthscales_tried", "error_bars", "training", "unseen"}
    assert more.record["training"]["forces_rmse"] == pytest.approx(whole.record["training"]["forces_rmse"], rel=1e-5)
    np.testing.assert_array_equal(first.forces(x), mlff.fit(KERNEL, water[:20], labels, noise=noise).forces(x))


def test_extended_local_model_in_other_length_scales(silicon_model, silicon):
    """Atoms of a crystal, and a kernel whose length scale was found by a search, so that features are of another one."""
    frames = [_labelled(silicon, seed) for seed in range(8)]
    data = mlff.Dataset(frames)
    kernel = mlff.LocalKernel(functools.partial(soap, cutoff=3.5, n_max=2, l_max=2), mlff.RBF())
    noise = {"energy": 1e-3, "forces": 1e-2, "stress": 1e-3}
    first = mlff.fit(kernel, data[:6], tuple(noise), noise=noise, posterior=True)
    more, whole = mlff.extended(first, data), mlff.fit(first.kernel, data, tuple(noise), noise=noise)
    frame = _labelled(silicon, 9)
    where = (frame.positions, frame.cell, frame.system.pbc)
    np.testing.assert_allclose(more.forces(*where), whole.forces(*where), rtol=0, atol=1e-8)
    np.testing.assert_allclose(more.energy(*where), whole.energy(*where), rtol=0, atol=1e-8)


def _labelled(silicon, seed):
    atoms = silicon.copy()
    atoms.rattle(0.08, seed=seed)
    atoms.calc = silicon.calc
    labels = {
        "energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress(voigt=False),
    }  # fmt: skip
    return mlff.Frame(mlff.System.from_ase(atoms), labels)


def test_what_cannot_be_extended_is_refused(water, tmp_path):
    fitted = mlff.fit(KERNEL, water[:8], noise=1e-2, posterior=True)
    with pytest.raises(ValueError, match="others after them"):
        mlff.extended(fitted, water[:8])
    with pytest.raises(ValueError, match=r"first 8 frames .* are not those of the fit"):
        mlff.extended(fitted, water[1:12])
    with pytest.raises(ValueError, match="no factor"):
        mlff.extended(mlff.fit(KERNEL, water[:8], noise=1e-2), water[:9])
    fitted.save(tmp_path / "m.mlff")
    with pytest.raises(ValueError, match="no factor"):
        mlff.extended(mlff.load(tmp_path / "m.mlff"), water[:9])
    exact = mlff.fit(KERNEL, water[:8], noise=0.0, posterior=True)
    with pytest.raises(IndefiniteMatrix, match="raise noise"):
        mlff.extended(exact, mlff.Dataset([*water[:8], water[3]], water.source, [*range(9)]))


@pytest.mark.thorough  # updates of one composition and kernel are looked at too
def test_frames_of_another_composition_and_sums(water, datasets):
    """New frames need not have all elements of the old; sums of kernels have several kinds of environments."""
    ethanol, benzene = (mlff.Dataset.read(datasets / f"{name}.extxyz", index=":5") for name in ("ethanol", "benzene"))
    both = mlff.Dataset([*ethanol, *benzene[:2]], "both")
    small = functools.partial(soap, cutoff=3.0, n_max=2, l_max=1)
    noise = {"energy": 1e-2, "forces": 3e-2}
    local = mlff.fit(
        mlff.LocalKernel(small, mlff.RBF(lengthscale=1.0)), ethanol, tuple(noise), noise=noise, posterior=True
    )
    more, whole = mlff.extended(local, both), mlff.fit(local.kernel, both, tuple(noise), noise=noise)
    x = benzene[4].positions
    np.testing.assert_allclose(
        more.forces(x, numbers=benzene[4].numbers), whole.forces(x, numbers=benzene[4].numbers), atol=1e-7
    )
    with pytest.raises(ValueError, match="elements"):
        mlff.extended(
            mlff.fit(local.kernel.replace(elements=None), benzene, tuple(noise), noise=noise, posterior=True),
            mlff.Dataset([*benzene, *ethanol]),
        )
    total = mlff.SumKernel((KERNEL, mlff.LocalKernel(small, mlff.RBF(lengthscale=1.0))))
    first = mlff.fit(total, water[:6], tuple(noise), noise=noise, posterior=True)
    more, whole = mlff.extended(first, water[:8]), mlff.fit(first.kernel, water[:8], tuple(noise), noise=noise)
    np.testing.assert_allclose(more.forces(water[9].positions), whole.forces(water[9].positions), atol=1e-8)
    with pytest.raises(ValueError, match="atoms"):
        mlff.extended(mlff.fit(KERNEL, water[:6], noise=1e-2, posterior=True), mlff.Dataset([*water[:6], *ethanol]))


def test_bordered_factor(rng):
    from test_tiles import cut

    root = rng.standard_normal((30, 40))
    matrix = root @ root.T
    tiles = cut(matrix[:20, :20], [0, 7, 20])
    tiles.cholesky()
    more = tiles.bordered(matrix[:20, 20:], matrix[20:, 20:], most=4)
    assert more.tiles[1][0] is tiles.tiles[1][0]
    np.testing.assert_array_equal(more.offsets, [0, 7, 20, 24, 28, 30])
    expected = np.linalg.cholesky(matrix)
    for i, row in enumerate(more.tiles):
        for j, tile in enumerate(row):
            part = expected[more.offsets[i] : more.offsets[i + 1], more.offsets[j] : more.offsets[j + 1]]
            np.testing.assert_allclose(tile, part, atol=1e-11)
    with pytest.raises(NotPositiveDefinite) as refused:
        tiles.bordered(matrix[:20, :1], matrix[:1, :1], most=4)  # a row that is there
    assert refused.value.row == 20


def test_room_changes_no_energy(water_model, water):
    roomy = water_model.replace(model=with_room(water_model.model))
    assert roomy.model.size == 64 > water_model.model.size
    x = water[50].positions
    np.testing.assert_allclose(roomy.hessian(x), water_model.hessian(x), atol=1e-9)
    assert roomy.training_distance(x) == pytest.approx(water_model.training_distance(x))
