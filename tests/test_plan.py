"""Plans: the method that fits a budget, the same each time, and the fit that follows them."""

import json

import numpy as np
import pytest
from moments import moments

import mlff
from descriptors import inverse_distances
from mlff import batching
from mlff.potentials.model_files import load
from mlff.potentials.record import require_entries
from mlff.quality.description import described, description
from mlff.regression import fitting, iterative
from mlff.regression.planning import pilot, plan, sizes
from mlff.regression.planning.pilot import Pilot
from mlff.regression.planning.plan import Plan, budget_of, plan_fit
from mlff.regression.requests import Request
from mlff.regression.sparse.pilot import SparsePilot

KERNEL = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=10.0))
NOISE = 0.05


@pytest.fixture(autouse=True)
def small_pilots(monkeypatch):
    monkeypatch.setattr(pilot, "ROWS", 300)
    monkeypatch.setattr(pilot, "GEMM", 128)


@pytest.fixture
def counted(monkeypatch):
    """Memory that is counted alone, of small tiles: what a process has beside changes from test to test."""
    monkeypatch.setattr(plan, "_resident", lambda: 0)
    for name, value in {"OVERHEAD": 0, "UNCOMPILED": 0, "CHUNK": 0}.items():
        monkeypatch.setattr(plan, name, value)
    for name, value in {"CHUNK": 0, "TILE_ROWS": 128, "PIVOTS": 64}.items():
        monkeypatch.setattr(sizes, name, value)


@pytest.fixture
def no_pilot(monkeypatch):
    def refuse(*_):
        raise AssertionError("a pilot")

    monkeypatch.setattr(Pilot, "of", refuse)


def request_of(data, kernel=KERNEL, labels="forces", noise=NOISE) -> Request:
    return Request.of(kernel, data, labels, noise, None)


# -- the method -------------------------------------------------------------------------------------------------------------


def test_small_fits_are_exact_without_a_pilot(water, no_pilot):
    planned = plan_fit(request_of(water[:20]), measured=False)
    assert (planned.method, planned.frames, planned.rank) == ("exact", 20, None)
    assert planned.seconds is None
    assert planned.memory <= planned.budget
    with pytest.raises(AssertionError, match="a pilot"):
        plan_fit(request_of(water[:20]))


def test_what_fits_the_budget(counted, ethanol):
    """Exact, where there is room; else iterative; else sparse, of as many functionals as fit; else nothing."""
    frames = ethanol[:60]
    exact, iterated = (mlff.plan(KERNEL, frames, noise=NOISE, method=method) for method in ("exact", "iterative"))
    assert iterated.memory < exact.memory
    found = {
        budget: mlff.plan(KERNEL, frames, noise=NOISE, memory=budget)
        for budget in (exact.memory, exact.memory - 1, iterated.memory, iterated.memory // 3, iterated.memory // 4)
    }
    assert [each.method for each in found.values()] == ["exact", "iterative", "iterative", "sparse", "sparse"]
    for budget, each in found.items():
        assert each.budget == budget
        assert each.memory <= budget
    assert found[exact.memory - 1].rank >= plan.LEAST_RANK
    few, fewer = (found[iterated.memory // part] for part in (3, 4))
    assert plan.LEAST_RANK <= fewer.unknowns < few.unknowns < exact.unknowns
    assert "takes" in few.reason
    with pytest.raises(ValueError, match=r"memory: 0 MB are too few: this fit takes .* give more, or train on fewer"):
        mlff.plan(KERNEL, frames, noise=NOISE, memory=1)


def test_large_systems_that_are_solved_in_few_iterations_are_iterated(counted, ethanol, monkeypatch):
    """Though there is room for the factor; of small ones the factor is sooner there."""
    assert mlff.plan(KERNEL, ethanol[:60], noise=0.5).method == "exact"
    monkeypatch.setattr(plan, "CERTAIN", 1000)
    assert mlff.plan(KERNEL, ethanol[:60], noise=0.5).method == "iterative"
    assert mlff.plan(KERNEL, ethanol[:60], noise=1e-6).method == "exact"


def test_methods_that_are_asked_for(water):
    for method in ("exact", "iterative"):
        planned = mlff.plan(KERNEL, water[:20], noise=NOISE, method=method)
        assert (planned.method, planned.reason) == (method, "asked for")
    planned = mlff.plan(KERNEL, water[:20], noise=NOISE, method="sparse", inducing=12)
    assert (planned.method, planned.unknowns) == ("sparse", 12)
    for arguments, message in (
        ({"method": "cholesky"}, "method='cholesky' is none of exact, iterative, sparse"),
        ({"method": "sparse"}, "say with inducing how many"),
        ({"method": "exact", "inducing": 12}, "takes no inducing points"),
        ({"method": "iterative", "posterior": True}, "keeps no factor, and error bars need one"),
        ({"method": "iterative", "memory": 1000}, "the iterative fit of .* takes .* give more memory, another method"),
        ({"method": "exact", "memory": 1000}, "the exact fit of .* takes"),
        ({"method": "sparse", "inducing": 12, "memory": 1000}, "the sparse fit of 12 unknowns takes"),
    ):
        with pytest.raises(ValueError, match=message):
            mlff.plan(KERNEL, water[:20], noise=NOISE, **arguments)


def test_iterations_that_would_not_converge_are_refused(counted, ethanol, monkeypatch):
    for module in (plan, sizes):
        monkeypatch.setattr(module, "MOST", 20)
    with pytest.raises(ValueError, match=r"conjugate gradients would not converge in 20 iterations; .* raise noise"):
        mlff.plan(KERNEL, ethanol[:40], noise=1e-9, method="iterative")


def test_error_bars_want_the_factor(counted, ethanol):
    planned = mlff.plan(KERNEL, ethanol[:60], noise=NOISE, posterior=True)
    assert (planned.method, planned.reason) == ("exact", "error bars")
    assert planned.memory > mlff.plan(KERNEL, ethanol[:60], noise=NOISE, method="exact").memory
    with pytest.raises(ValueError, match="the exact fit of"):
        mlff.plan(KERNEL, ethanol[:60], noise=NOISE, posterior=True, memory=planned.memory // 2)


@pytest.mark.parametrize(
    ("count", "labels", "noise"),
    [(1, "forces", NOISE), (2, "energy", NOISE), (3, "energy", 0.0), (20, "forces", 0.0)],
    ids=["a frame", "two rows", "three rows", "no noise"],
)
def test_pilots_of_next_to_nothing(count, labels, noise, water):
    planned = mlff.plan(KERNEL, water[:count], labels, noise)
    assert (planned.method, planned.frames) == ("exact", count)
    json.dumps(planned.summary(), allow_nan=False)


# -- what a plan says -------------------------------------------------------------------------------------------------------


def test_the_same_plan_twice(counted, ethanol, monkeypatch):
    monkeypatch.setattr(plan, "CERTAIN", 1000)
    one, two = (mlff.plan(KERNEL, ethanol[:60], noise=0.5, seed=3) for _ in range(2))
    assert (one.method, one.rank, one.unknowns) == (two.method, two.rank, two.unknowns)
    assert one.method == "iterative"


@pytest.mark.parametrize("labels", ["forces", ("energy", "forces")])
def test_unknowns_are_the_rows_of_the_fit(labels, water):
    noise = {"energy": 1e-3, "forces": 1e-2} if isinstance(labels, tuple) else 1e-2
    planned = mlff.plan(KERNEL, water[:20], labels, noise)
    fitted = mlff.fit(KERNEL, water[:20], labels, noise)
    assert planned.unknowns == fitted.record["rows"]


def test_as_plain_data_and_back(water):
    searching = mlff.GlobalKernel(inverse_distances, mlff.Matern52())
    for planned in (
        mlff.plan(searching, water[:20], noise=NOISE, method="iterative"),
        plan_fit(request_of(water[:20]), measured=False),
    ):
        summary = planned.summary()
        assert Plan.of(json.loads(json.dumps(summary))) == planned
        assert summary["memory"] == max(stage["memory"] for stage in summary["stages"])
    assert str(planned).splitlines()[0].startswith("exact: 180 unknowns of 20 frames; ")


def test_a_plan_for_people(water):
    planned = mlff.plan(
        mlff.GlobalKernel(inverse_distances, mlff.Matern52()), water[:20], noise=NOISE, method="iterative"
    )
    head, *stages = str(planned).splitlines()
    assert f"iterative: 60 unknowns of 20 frames, preconditioner of rank {planned.rank}; " in head
    assert [line.split("  ")[1] for line in stages] == ["length scale", "descriptors", "iterate"]
    assert planned.seconds == pytest.approx(sum(stage.seconds for stage in planned.stages))


# -- memory -----------------------------------------------------------------------------------------------------------------


def test_budgets(monkeypatch):
    assert [budget_of(memory) for memory in (5, "2GB", "1.5 MiB")] == [5, 2 * 10**9, 3 * 2**19]
    for wrong in (0, -1, "much", 1.5, True):
        with pytest.raises(ValueError, match=r"memory=.* must be a size in bytes"):
            budget_of(wrong)
    monkeypatch.setattr(plan, "_resident", lambda: 1000)
    monkeypatch.setattr(plan, "free_memory", lambda: 500)
    assert budget_of(None) == 1000 + 0.8 * 500


def test_limits_of_a_container(monkeypatch, tmp_path):
    """What files are kept in memory goes when it is needed; `max` is no limit, nor is no container."""
    monkeypatch.setattr(batching, "CONTAINER", tmp_path)
    machine, free = batching.psutil.virtual_memory().total, batching.free_memory()
    assert batching.machine_memory() == machine
    assert 0 < free <= machine
    (tmp_path / "memory.max").write_text("1000000\n")
    assert batching.machine_memory() == 1_000_000
    (tmp_path / "memory.current").write_text("700000\n")
    assert batching.free_memory() == 300_000
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 150000\nactive_file 40000\n")
    assert batching.free_memory() == 450_000
    (tmp_path / "memory.current").write_text("2000000\n")
    assert batching.free_memory() == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert batching.machine_memory() == machine
    assert batching.free_memory() > 450_000


# -- the fit that follows ---------------------------------------------------------------------------------------------------


def test_the_search_fits_as_many_frames_as_are_planned(water, monkeypatch):
    def as_planned(*_, **__):
        return Plan("exact", 40, 120, None, 10**9, (plan.Stage("solve", 0, None),), "said", searched=7)

    seen = []
    search = fitting.search_lengthscale

    def seeing(kernel, frames, levels, seed, atoms, progress, most, kept, free):
        seen.append((most, free))
        return search(kernel, frames, levels, seed, atoms, progress, most, kept, free)

    monkeypatch.setattr(fitting, "plan_fit", as_planned)
    monkeypatch.setattr(fitting, "search_lengthscale", seeing)
    mlff.fit(mlff.GlobalKernel(inverse_distances, mlff.Matern52()), water[:40], noise=NOISE)
    assert seen == [(7, False)]  # noise is stated


def test_less_memory_searches_with_fewer_frames(counted, ethanol):
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52())
    whole = mlff.plan(kernel, ethanol, noise=0.5)
    assert whole.searched == 160
    tight = mlff.plan(kernel, ethanol, noise=0.5, memory=whole.memory // 2)
    assert tight.method == "iterative"
    assert tight.memory <= whole.memory // 2
    assert sizes.LEAST_SEARCHED * 3 // 4 <= tight.searched < whole.searched


def test_iterations_lead_where_the_factor_leads(ethanol, monkeypatch, tmp_path):
    """Forces of new frames, to a small part of the noise; said in the record, in the file, and in what people read of it."""
    train, test = ethanol.split(20, 10, seed=0)
    monkeypatch.setattr(iterative, "PIVOTS", 64)
    one, two = (mlff.fit(KERNEL, train, noise=NOISE, method=method) for method in ("exact", "iterative"))
    x = np.array([frame.positions for frame in test])
    difference = np.sqrt(np.mean((one.forces(x) - two.forces(x)) ** 2))
    assert 0 < difference < 0.1 * NOISE
    assert "iterations" not in one.record
    said = two.record["iterations"]
    assert 0 < said["iterations"] < 200
    assert 0 < said["residual_of_noise"] <= iterative.SHARE
    assert said["rank"] >= 40
    two.save(tmp_path / "m.mlff")
    again = load(tmp_path / "m.mlff")
    assert again.record["iterations"] == said
    assert f"{said['iterations']} iterations, preconditioner of rank {said['rank']}" in "\n".join(description(again))
    assert described(again)["iterations"] == said
    with pytest.raises(ValueError, match=r"record.iterations.rank .*-1"):
        require_entries("record", {**two.record, "iterations": {**said, "rank": -1}})


def test_what_fits_nothing_else_is_a_sparse_model(ethanol, monkeypatch, caplog):
    few = Plan("sparse", 30, 60, None, 10**9, (plan.Stage("sparse", 0, None),), "the exact fit takes 1000 TB")
    monkeypatch.setattr(fitting, "plan_fit", lambda *_, **__: few)
    with caplog.at_level("WARNING"):
        fitted = mlff.fit(KERNEL, ethanol[:30], noise=NOISE)
    assert "inducing" in fitted.record
    assert "a sparse model of 60 functionals, the exact fit takes 1000 TB" in caplog.text


def test_time_of_a_sparse_fit(water):
    """Of one that environments span; more frames and functionals take longer."""
    kernel = mlff.LocalKernel(moments, mlff.RBF(lengthscale=1.5))
    planned = mlff.plan(kernel, water[:20], inducing=12)
    assert planned.method == "sparse"
    assert 0.0 < planned.seconds < 600.0
    assert mlff.plan(kernel, water[:20], inducing=100_000).unknowns == 60  # environments, of which there are no more
    told = SparsePilot(compiled=1.0, chosen=0.1, frame=0.2, functional=1e-3, rows=60.0, speed=1e10)
    assert told.seconds(10, 100) > 1.0 + 10 * (0.1 + 0.2 + 0.1)
    assert told.seconds(20, 100) > told.seconds(10, 100)
    assert told.seconds(10, 200) > told.seconds(10, 100)
