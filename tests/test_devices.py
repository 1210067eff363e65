"""Fits that devices share are those of one host: blocks, products, factor and model, on one device, eight, and in two processes."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shared_fit
from test_checkpoint import Killed
from test_cli import called
from test_gram import RADIALS
from test_linear_system import KERNELS, frames, system_of, whole
from test_second_order import labelled

import mlff
from descriptors import inverse_distances
from mlff.cli import machines
from mlff.data.batches import LabelledFrames
from mlff.precision import doubled
from mlff.regression import checkpoint
from mlff.regression.devices import blocks, shared_rows
from mlff.regression.devices.blocks import Points
from mlff.regression.devices.mesh import Devices
from mlff.regression.devices.sharded_tiles import Places, ShardedTiles
from mlff.regression.devices.shared_rows import SharedRows
from mlff.regression.exact import IndefiniteMatrix
from mlff.regression.planning import plan
from mlff.regression.system import gram, label_sums

assert frames  # a fixture
SCRIPT = pathlib.Path(shared_fit.__file__)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several columns of tiles, with frames that fill none of them."""
    monkeypatch.setattr(shared_rows, "TILE_ROWS", 24)


def of_first_order(side) -> Points:
    return Points(*map(jnp.asarray, (side.points, side.values, side.tangents)))


def random_side(rng, m, e, r, sizes) -> gram.Side:
    D = sum(sizes)
    shapes = (m, e, D), (m, e, r), (m, e, r, D), (m, e, 0, D), (m, r, 0)
    return gram.Side(*(rng.standard_normal(shape) for shape in shapes))


@pytest.mark.parametrize(
    "radials", [RADIALS[:1], RADIALS[2:3], [RADIALS[0], RADIALS[4]]], ids=["one", "Matérn", "product"]
)
def test_blocks_and_sums_are_those_of_the_host(radials, rng):
    sizes = (4, 3)[: len(radials)]
    radial = radials[0] if len(radials) == 1 else mlff.kernels.radial.Product(factors=tuple(radials))
    rows, columns = random_side(rng, 3, 2, 5, sizes), random_side(rng, 4, 3, 6, sizes)
    rows.points[0, 0] = columns.points[1, 2]  # coincident
    expected = gram.block(radial, rows, columns, sizes)
    with doubled():
        found = np.asarray(blocks.block(radial, of_first_order(rows), of_first_order(columns), sizes))
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-12 * np.abs(expected).max())
    weights = rng.standard_normal((4, 6, 1))
    summed = columns.summed(weights)
    expected = label_sums.product_of_first_order(radial, rows, summed, sizes)[..., 0]
    with doubled():
        flat = map(
            jnp.asarray,
            (summed.points.reshape(-1, sum(sizes)), summed.values.ravel(), summed.tangents.reshape(-1, sum(sizes))),
        )
        found = np.asarray(blocks.product(radial, of_first_order(rows), *flat, sizes))
    np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("name", KERNELS)
def test_factor_and_products_are_those_of_the_matrix(name, frames, rng):
    system = system_of(KERNELS[name], frames)
    shared = SharedRows.of(system.features, Devices.of(1))
    assert shared.places.count > 2
    matrix, vectors = whole(system), rng.standard_normal((system.shape[0], 2))
    product = shared.product(system.shares, vectors) + system.noise[:, None] * vectors
    np.testing.assert_allclose(product, matrix @ vectors, atol=1e-11 * np.abs(matrix).max())
    solved = shared.factorised(system).solve(vectors)
    rounding = 1e-14 * np.linalg.norm(matrix, 2) * np.abs(solved).max()
    np.testing.assert_allclose(matrix @ solved, vectors, atol=rounding)


def test_places_of_tiles():
    """Every tile of the lower half is somewhere, nowhere are two, and there is room for little more."""
    for devices, count in [(1, 5), (3, 7), (8, 3), (4, 16)]:
        places = Places(devices, count, 2)
        taken = {(places.owner(i)[0], places.first(places.owner(i)[1]) + j) for i in range(count) for j in range(i + 1)}
        assert len(taken) == count * (count + 1) // 2
        assert max(place for _, place in taken) < places.tiles
        assert devices * places.tiles <= (count + devices) * (count + 2 * devices) / 2


def run(tmp_path, name, *arguments, devices=1) -> subprocess.Popen:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(tmp_path / name), *arguments],
        env={**os.environ, "XLA_FLAGS": flags}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors


def free_port() -> int:
    with contextlib.closing(socket.socket()) as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def test_eight_devices_and_two_processes_give_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_rows, "TILE_ROWS", shared_fit.ROWS)
    where = f"127.0.0.1:{free_port()}"
    ended(run(tmp_path, "eight.npz", devices=8))
    both = [run(tmp_path, f"{i}.npz", where, str(i), "2") for i in range(2)]
    for process in both:
        ended(process)
    eight, *two = (dict(np.load(tmp_path / name)) for name in ("eight.npz", "0.npz", "1.npz"))
    assert eight.pop("devices") == 8
    assert [each.pop("devices") for each in two] == [2, 2]
    one = {name: shared_fit.solved(KERNELS[name], 1) for name in shared_fit.NAMES} | {"fit": shared_fit.fitted()}
    assert np.abs(one["fit"]).max() > 0.1
    for found in (eight, *two):
        assert found.keys() == one.keys()
        for name, expected in one.items():
            np.testing.assert_allclose(found[name], expected, atol=1e-9 * np.abs(expected).max(), err_msg=name)


def test_a_model_is_that_of_the_host(ethanol):
    train = ethanol[:30]
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=8.0), mlff.find_permutations(train))
    alone, shared = (mlff.fit(kernel, train, noise=1e-3, devices=devices) for devices in (None, "all"))
    x = ethanol[50].system.positions
    np.testing.assert_allclose(shared.forces(x), alone.forces(x), atol=1e-8)
    iterative = mlff.fit(kernel, train, noise=1e-3, devices="all", method="iterative")
    np.testing.assert_allclose(iterative.forces(x), alone.forces(x), atol=1e-3)
    assert "iterations" in iterative.record


@pytest.mark.parametrize("kills", [1, 2, 4])
def test_a_shared_fit_goes_on(kills, water, tmp_path, monkeypatch):
    """After any column; nothing that was kept is computed anew."""
    monkeypatch.setattr(checkpoint, "SHARE", 1e12)
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0))
    expected = mlff.fit(kernel, water[:60], noise=1e-3, devices=1)
    work, columns = ShardedTiles.factorise_column, []

    def dying(self, k, needed):
        if len(columns) == kills:
            raise Killed
        columns.append(k)
        work(self, k, needed)

    monkeypatch.setattr(ShardedTiles, "factorise_column", dying)
    with pytest.raises(Killed):
        mlff.fit(kernel, water[:60], noise=1e-3, devices=1, checkpoint=tmp_path / "kept")
    kills = -1
    found = mlff.fit(kernel, water[:60], noise=1e-3, devices=1, checkpoint=tmp_path / "kept")
    assert columns == list(range(max(columns) + 1))
    for a, b in zip(jax.tree.leaves(expected.model), jax.tree.leaves(found.model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not (tmp_path / "kept").exists()


def test_what_is_not_positive_definite_names_the_frame(water):
    """Of twice the same frame without noise, the second."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=0.3), amplitude=1.0)
    data = mlff.Dataset([*water[:15], water[3], *water[15:20]])
    system = system_of(kernel, LabelledFrames.of(data), {"forces": 1e-10})
    with pytest.raises(IndefiniteMatrix, match="training frame 15 of 21"):
        SharedRows.of(system.features, Devices.of(1)).factorised(system)


def test_what_devices_cannot_do(water, rng):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=3.0))
    for asked in (0, 99, "some", [], True, -1, "0", 1.5):
        with pytest.raises(ValueError, match=r"devices=.* must be 'all', a number up to \d+, which JAX sees here"):
            mlff.fit(kernel, water[:5], devices=asked)
    for further, said in ({"posterior": True}, "error bars need"), ({"inducing": 5}, "sparse models are fitted"):
        with pytest.raises(ValueError, match=f"devices: {said}"):
            mlff.fit(kernel, water[:5], devices="all", **further)
    second = labelled([water[0].system.positions + 0.1 * rng.standard_normal((3, 3)) for _ in range(3)])
    system = system_of(kernel, second, {"hessian": 1e-2, "forces": 1e-2})
    with pytest.raises(ValueError, match="labels of second order"):
        SharedRows.of(system.features, Devices.of(1))


def test_plan(water, monkeypatch):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=3.0))
    planned = mlff.plan(kernel, water[:20], devices="all")
    assert planned.method == "exact"
    assert "device" in planned.reason
    with pytest.raises(ValueError, match="memory: the exact fit"):
        mlff.plan(kernel, water[:20], devices="all", memory="10MB")
    monkeypatch.setattr(Devices, "memory", 1000)
    with pytest.raises(ValueError, match=r"unknowns take .* of each of"):
        mlff.plan(kernel, water[:20], devices="all")


def test_gpus_take_large_exact_fits_alone(water, monkeypatch):
    """Where JAX's devices are no processors."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=3.0))
    asked = mlff.regression.fitting._request(kernel, water[:20], None, None, None, None, None)[0]
    assert plan.accelerators(asked, None, None, False) is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert plan.accelerators(asked, None, None, False) is None  # small
    monkeypatch.setattr(plan, "WORTH", 100)
    assert plan.accelerators(asked, None, None, False).count == len(jax.devices())
    assert plan.accelerators(asked, None, "iterative", False) is None
    assert plan.accelerators(asked, 10, None, False) is None
    assert plan.accelerators(asked, None, None, True) is None
    monkeypatch.setattr(Devices, "memory", 1000)
    assert plan.accelerators(asked, None, None, False) is None


@pytest.mark.skipif(jax.default_backend() == "cpu", reason="JAX sees no GPU")
def test_a_gpu_gives_the_model_of_the_host(ethanol):
    train = ethanol[:250]
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=8.0), mlff.find_permutations(train))
    alone, shared = (mlff.fit(kernel, train, noise=1e-3, devices=d) for d in (jax.devices("cpu")[:1], None))
    x = ethanol[500].system.positions
    np.testing.assert_allclose(shared.forces(x), alone.forces(x), atol=1e-7)


def test_command_line(datasets, tmp_path):
    data = datasets / "water.extxyz"
    called("fit", data, "--train", "30", "--recipe", "sgdml", "--devices", "1", "--out", "a.mlff", cwd=tmp_path)
    assert (tmp_path / "a.mlff").exists()
    planned = called("fit", data, "--recipe", "sgdml", "--devices", "all", "--dry-run", cwd=tmp_path)
    assert "on 1 device" in planned.stdout


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((None, "a:1", None, 2), "--process: is missing"),
        ((None, None, 0, 2), "--coordinator: is missing"),
        ((None, "a:1", 2, 2), "must be one of 0"),
        ((None, "a:1", 0, 0), "must be one of 0"),
        (("2", "a:1", 0, 2), "--devices 2: joined processes share all"),
        ((None, "nowhere", 0, 2), "--coordinator nowhere: must be HOST:PORT"),
    ],
)
def test_processes_are_named_in_full(asked, said):
    with pytest.raises(ValueError, match=said):
        machines.joined(*asked)


def test_processes_that_are_not_named():
    assert machines.joined("all", None, None, None) == ("all", 0)
