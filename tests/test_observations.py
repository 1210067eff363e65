"""Fits from any labels: each kind by itself teaches what it says, missing ones allowed."""

import functools

import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.morse import MorsePotential
from moments import moments

import mlff
from descriptors import inverse_distances
from mlff.data.batches import LabelledFrames
from mlff.regression.system import kernel_blocks
from mlff.regression.system.features import compute_features

KERNEL = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=1.5))
MINIMUM = np.array([[0.0, 0, 0.0], [0, 0.78, -0.58], [0, -0.78, -0.58]])


def potential(x):
    """Two Morse bonds and a bend, eV."""
    one, two = x[1] - x[0], x[2] - x[0]
    r, s = jnp.sqrt(jnp.sum(one**2)), jnp.sqrt(jnp.sum(two**2))
    bonds = sum(4.0 * (1.0 - jnp.exp(-2.0 * (d - 0.97))) ** 2 for d in (r, s))
    return bonds + 2.0 * (jnp.sum(one * two) / (r * s) + 0.25) ** 2


@pytest.fixture(scope="module")
def frames() -> list[mlff.Frame]:
    """Geometries around the minimum with all labels that there are."""
    rng = np.random.default_rng(2)
    made, first, second = [], jax.jit(jax.value_and_grad(potential)), jax.jit(jax.hessian(potential))
    for _ in range(30):
        x = MINIMUM + 0.08 * rng.standard_normal((3, 3))
        vectors, pairs = rng.standard_normal((2, 3, 3)), rng.standard_normal((4, 2, 3, 3))
        with jax.enable_x64(True):
            energy, gradient = first(x)
            hessian = np.asarray(second(x)).reshape(9, 9)
        products = np.array([hessian @ v.ravel() for v in vectors]).reshape(2, 3, 3)
        curvatures = np.array([v.ravel() @ hessian @ w.ravel() for v, w in pairs])
        labels = {
            "energy": float(energy), "forces": -np.asarray(gradient), "hessian": hessian,
            "hessian_products": products, "hessian_product_vectors": vectors,
            "curvatures": curvatures, "curvature_vectors": pairs, "laplacian": np.array(np.trace(hessian)),
        }  # fmt: skip
        system = mlff.System(x, np.array([8, 1, 1], np.int32), np.zeros((3, 3)), np.zeros(3, bool))
        made.append(mlff.Frame(system, labels))
    return made


def having(frames, *names) -> mlff.Dataset:
    return mlff.Dataset([mlff.Frame(f.system, {name: f.labels[name] for name in names}) for f in frames])


def errors(force_field, frames) -> tuple[float, float]:
    """RMS of forces (eV/Å) and Hessians (eV/Å²) relative to the labels'."""
    found = [(force_field.forces(f.positions), force_field.hessian(f.positions)) for f in frames]
    wanted = [(f.labels["forces"], f.labels["hessian"]) for f in frames]
    return tuple(
        np.linalg.norm([a[i] - b[i] for a, b in zip(found, wanted, strict=True)])
        / np.linalg.norm([b[i] for b in wanted])
        for i in range(2)
    )


LAPLACIAN = mlff.Operator("laplacian", lambda u, x: jnp.trace(jax.hessian(u)(x).reshape(x.size, x.size)), "eV/Å²")


@pytest.mark.parametrize(
    ("labels", "needed"),
    [
        (("hessian",), ()),
        (("forces", "hessian_products"), ("hessian_product_vectors",)),
        (("forces", "curvatures"), ("curvature_vectors",)),
        (("forces", LAPLACIAN), ()),
    ],
    ids=["hessian", "products", "curvatures", "laplacian"],
)
def test_every_kind_teaches(labels, needed, frames):
    names = [label if isinstance(label, str) else label.name for label in labels]
    train, test = frames[:8], frames[20:]
    noise = {name: 1e-4 for name in names}
    force_field = mlff.fit(KERNEL, having(train, *names, *needed), labels, noise)
    assert force_field.record["labels"] == names
    with_them = errors(force_field, test)
    if "forces" in names:
        without = errors(mlff.fit(KERNEL, having(train, "forces"), ("forces",), {"forces": 1e-4}), test)
        assert with_them[1] < 0.7 * without[1]
    else:
        assert with_them[1] < 0.2  # from second derivatives alone


def test_labels_that_some_frames_lack(frames):
    """Energies of some, forces of others, two Hessians, one of them without the rows of an atom."""
    partial = frames[7].labels["hessian"].copy()
    partial[3:6], partial[:, 3:6] = np.nan, np.nan
    data = (
        having(frames[:3], "energy") + having(frames[3:6], "forces", "energy") + having(frames[6:7], "hessian")
        + mlff.Dataset([mlff.Frame(frames[7].system, {"hessian": partial})])
    )  # fmt: skip
    noise = {"energy": 1e-5, "forces": 1e-4, "hessian": 1e-3}
    force_field = mlff.fit(KERNEL, data, ("energy", "forces", "hessian"), noise)
    for frame in frames[:6]:
        assert force_field.energy(frame.positions) == pytest.approx(frame.labels["energy"], abs=1e-3)
    for frame in frames[3:6]:
        np.testing.assert_allclose(force_field.forces(frame.positions), frame.labels["forces"], atol=0.02)
    scale = np.abs(frames[6].labels["hessian"]).max()
    np.testing.assert_allclose(force_field.hessian(frames[6].positions), frames[6].labels["hessian"], atol=0.01 * scale)
    found = force_field.hessian(frames[7].positions)
    known = ~np.isnan(partial)
    np.testing.assert_allclose(found[known], partial[known], atol=0.01 * scale)
    assert force_field.model.label_order == 2
    with pytest.raises(ValueError, match="frame 0 has none of the labels that are fitted"):
        mlff.fit(KERNEL, data, ("hessian",), 1e-3)
    with pytest.raises(ValueError, match=r"curvatures needs curvature_vectors beside it; frame 0 has curvatures"):
        mlff.fit(KERNEL, having(frames[:2], "curvatures"), ("curvatures",), 1e-3)


def test_orders_that_a_kernel_lacks_are_refused(frames):
    data = having(frames[:3], "forces", "hessian")
    noise = {"forces": 1e-4, "hessian": 1e-3}
    rough = KERNEL.replace(radial=mlff.Matern32(lengthscale=1.5))
    with pytest.raises(ValueError, match="a force field from forces and hessian does not exist for Matérn-3/2"):
        mlff.fit(rough, data, ("forces", "hessian"), noise)
    smooth = mlff.fit(KERNEL.replace(radial=mlff.Matern52(lengthscale=1.5)), data, ("forces", "hessian"), noise)
    assert np.isfinite(smooth.hessian(MINIMUM)).all()  # labels of order 2 and a result of order 2: just so


def test_evaluation_with_hessians(frames):
    force_field = mlff.fit(KERNEL, having(frames[:5], "forces", "hessian"), ("forces", "hessian"))
    test = having(frames[20:24], "energy", "forces", "hessian")
    found = mlff.evaluate(force_field, test)
    wanted = np.mean([np.abs(force_field.hessian(f.positions) - f.labels["hessian"]) for f in test])
    assert found.hessian_mae == pytest.approx(wanted)
    assert f"Hessian MAE {wanted:.4f}" in str(found)
    assert found.summary()["hessian_mae"] == found.hessian_mae
    assert np.isnan(mlff.evaluate(force_field, having(frames[20:24], "forces")).hessian_mae)


def test_models_with_curvature_are_saved_and_loaded(frames, tmp_path):
    force_field = mlff.fit(KERNEL, having(frames[:3], "forces", "hessian"), ("forces", "hessian"))
    force_field.save(tmp_path / "w.mlff")
    again = mlff.load(tmp_path / "w.mlff")
    x = frames[9].positions
    assert again.energy(x) == force_field.energy(x)
    np.testing.assert_array_equal(again.hessian(x), force_field.hessian(x))
    force_field.export(tmp_path / "w.exported")
    np.testing.assert_allclose(
        mlff.load_export(tmp_path / "w.exported", trusted=True).forces(x), force_field.forces(x), atol=1e-10
    )


def test_stress_labels():
    """Crystals that differ in their cells: with stresses the model follows them, with forces alone it does not."""
    rng = np.random.default_rng(4)
    frames = []
    for _ in range(24):
        atoms = ase.build.bulk("Cu", "sc", a=2.6)
        atoms = atoms.repeat((2, 1, 1))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.standard_normal((3, 3))), scale_atoms=True)
        atoms.positions += 0.05 * rng.standard_normal((2, 3))
        atoms.calc = MorsePotential(epsilon=0.3, r0=2.6, rho0=4.0, rcut1=3.4, rcut2=4.6)
        labels = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(voigt=False),
        }
        frames.append(mlff.Frame(mlff.System.from_ase(atoms), labels))
    kernel = mlff.LocalKernel(functools.partial(moments, cutoff=4.6), mlff.RBF(lengthscale=3.0))
    train, test = mlff.Dataset(frames[:5]), frames[16:]
    noise = {"energy": 1e-4, "forces": 1e-3, "stress": 1e-4}

    def error(labels):
        force_field = mlff.fit(kernel, train, labels, {label: noise[label] for label in labels})
        found = np.array([force_field.stress(f.positions, f.cell) for f in test])
        return np.linalg.norm(found - [f.labels["stress"] for f in test]) / np.linalg.norm(
            [f.labels["stress"] for f in test]
        )

    without, alone, together = (error(labels) for labels in (("forces",), ("stress",), ("forces", "stress")))
    assert together < 0.5 * without
    assert alone < 0.2


def test_lone_atoms_have_no_rows_of_forces(frames):
    """Isolated atoms beside molecules, forces alone fitted: they add nothing, and are no error."""
    lone = [
        mlff.Frame(
            mlff.System(np.zeros((1, 3)), np.array([z], np.int32), np.zeros((3, 3)), np.zeros(3, bool)),
            {"energy": -1.0, "forces": np.zeros((1, 3))},
        )
        for z in (1, 8)
    ]
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0))
    molecules = having(frames[:6], "forces")
    with_them = mlff.fit(kernel, mlff.Dataset([lone[0], *molecules, lone[1]]), ("forces",), 1e-4)
    without = mlff.fit(kernel, molecules, ("forces",), 1e-4)
    assert with_them.record["rows"] == without.record["rows"] == 6 * 3
    x, numbers = frames[20].positions, np.array([8, 1, 1])
    np.testing.assert_allclose(with_them.forces(x, numbers=numbers), without.forces(x), atol=1e-8)


def test_frames_of_unequal_numbers_of_labels_do_not_share_a_tile(frames):
    """One whole Hessian among frames with a few entries each: padding all of them to the fullest would be quadratic."""
    few = np.full((9, 9), np.nan)
    few[0, 0] = 1.0
    sparse = [
        mlff.Frame(f.system, {"hessian": np.where(np.isnan(few), np.nan, f.labels["hessian"])}) for f in frames[1:30]
    ]
    data = mlff.Dataset([mlff.Frame(frames[0].system, {"hessian": frames[0].labels["hessian"]}), *sparse])
    features = compute_features(KERNEL.completed([8, 1, 1]), LabelledFrames.of(data), {"hessian": 1e-3})
    assert features.row_counts[:3].tolist() == [9, 1, 1]
    for tile, most in ((4, 8), (2048, 4096)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel_blocks, "TILE_ROWS", tile)
            groups = kernel_blocks.groups_of(features)
        assert [i for group in groups for i in range(group.start, group.stop)] == list(range(30))
        for group in groups:
            sizes = features.row_counts[group]
            assert len(sizes) == 1 or len(sizes) * max(sizes) <= most


def test_labels_that_are_not_finite_are_named(frames):
    broken = mlff.Frame(frames[1].system, {**frames[1].labels, "energy": np.nan})
    with pytest.raises(ValueError, match="energy of frame 1 is not finite"):
        mlff.fit(KERNEL, mlff.Dataset([frames[0], broken]), ("forces",), 1e-3)


def test_empty_labels_and_vectors_that_are_zero(frames):
    """No curvature in one frame, and a zero vector in another, take nothing from the others."""
    labels = dict(frames[0].labels)
    labels["curvatures"], labels["curvature_vectors"] = np.zeros(0), np.zeros((0, 2, 3, 3))
    still = dict(frames[1].labels)
    still["curvatures"], still["curvature_vectors"] = np.zeros(4), np.zeros((4, 2, 3, 3))
    data = mlff.Dataset([mlff.Frame(frames[1].system, still), *frames[2:5], mlff.Frame(frames[0].system, labels)])
    force_field = mlff.fit(KERNEL, data, ("forces", "curvatures"), {"forces": 1e-4, "curvatures": 1e-4})
    assert force_field.record["rows"] == 5 * 3 + 3 * 4
    assert force_field.model.label_order == 2
