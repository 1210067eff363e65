"""Which model to take: rounds with more and more frames, within a time, and what is said of them."""

import json
import pathlib

import numpy as np
import pytest
from typer.testing import CliRunner

import mlff
from descriptors import inverse_distances
from mlff.cli import compare as cli_compare
from mlff.cli.main import app
from mlff.quality.comparison import (
    Candidate,
    Comparison,
    Outcome,
    candidates,
    compared,
    front_figure,
    geometry_seconds,
    sizes,
)
from mlff.quality.report import png
from mlff.regression.recipes import RECIPES, fitting

DATASETS = pathlib.Path(__file__).parents[1] / "datasets"
ETHANOL = DATASETS / "ethanol.extxyz"


class World:
    """Models of known errors and times, and a clock that their fits advance."""

    def __init__(self, laws):
        self.now, self.laws, self.begun = 0.0, laws, []

    def clock(self) -> float:
        return self.now

    def run(self, candidate, frames, limit):
        self.begun.append((candidate.recipe, frames))
        error, seconds = self.laws[candidate.recipe](frames)
        self.now += min(seconds, limit)
        if seconds > limit:
            return Outcome(candidate, frames, limit, failure="stopped")
        return Outcome(candidate, frames, seconds, 0.1 * error, error, 100.0, 1e-3 * seconds)


def race(laws, rounds, budget):
    world = World(laws)
    return world, compared([Candidate(name) for name in laws], rounds, world.run, budget, world.clock)


def test_rounds_end_with_all_frames_and_begin_with_enough_atoms():
    molecule = mlff.Dataset.read(ETHANOL, index=":3")
    exact, sparse = [Candidate("sgdml")], [Candidate("sgdml"), Candidate("soap-gap")]
    assert sizes(800, molecule, exact) == [50, 200, 800]
    assert sizes(800, molecule, sparse) == [200, 800]
    assert sizes(4000, molecule, [Candidate("fchl19-gpr", inducing=10)]) == [250, 1000, 4000]
    assert sizes(40, molecule, exact) == [40]


def test_the_better_half_goes_on_and_the_best_with_most_frames_is_taken():
    laws = {
        "early": lambda n: (1.0 / n**0.1, 1.0),  # good with few frames, and then others are better
        "late": lambda n: (1.5 / n**0.3, 1.0),
        "poor": lambda n: (9.0, 1.0),
        "worse": lambda n: (99.0, 1.0),
    }
    world, found = race(laws, [10, 100], 1000.0)
    assert world.begun == [(name, 10) for name in laws] + [("late", 100), ("early", 100)]
    assert (found.best.candidate, found.best.frames) == (Candidate("late"), 100)


def test_no_more_time_is_taken_than_there_is():
    laws = {name: lambda n, k=k: (k / n, 0.02 * n**1.5) for k, name in enumerate("abcdefgh", 1)}
    for budget in (0.5, 3.0, 10.0, 100.0, 1000.0):
        world, found = race(laws, [10, 40, 160], budget)
        assert world.now <= budget * (1 + 1e-9)
        begun = sum(outcome.seconds > 0 for outcome in found.outcomes)
        assert begun == len(world.begun)
        if budget == 1000.0:
            assert found.best.frames == 160
        if budget == 100.0:  # what cannot end is not begun
            missed = [outcome for outcome in found.outcomes if outcome.frames == 160 and outcome.failure]
            assert missed
            assert all(outcome.late and "needed" in outcome.failure for outcome in missed)


def test_what_time_is_left_the_best_one_has():
    """As many frames as it can be fitted to, where all of the next round are too many: of a sparse one in proportion to them."""
    for good, most in (("sgdml", 20), ("soap-gap", 41)):
        laws = {good: lambda n: (1.0 / n, 10.0 + n**2 / 10), "gdml": lambda n: (9.0 / n, 1.0)}
        if good == "soap-gap":
            laws[good] = lambda n: (1.0 / n, 10.0 + n)
        world, found = race(laws, [10, 1000], 100.0)
        assert (found.best.candidate.recipe, found.best.frames) == world.begun[-1] == (good, most)
        assert world.now <= 100.0
        few, _ = race(laws, [10, 1000], 45.0)  # not enough for many more
        assert few.begun == [(good, 10), ("gdml", 10)]


def test_one_that_does_not_end_leaves_time_for_the_others():
    laws = {"a": lambda n: (1.0, 1.0), "endless": lambda n: (1.0, 1e9), **{name: lambda n: (1.0, 1.0) for name in "bc"}}
    world, found = race(laws, [10], 20.0)
    assert [name for name, _ in world.begun] == list(laws)
    assert found.outcomes[1].failure == "stopped"
    assert len(found.succeeded) == 3


def test_the_front_is_what_nothing_beats_in_error_and_both_costs():
    def outcome(name, error, seconds, geometry, frames=10):
        return Outcome(Candidate(name), frames, seconds, error, error, 1.0, geometry)

    found = Comparison(
        (
            outcome("exact", 1.0, 9.0, 9.0),
            outcome("quick", 2.0, 1.0, 1.0),
            outcome("beaten", 2.0, 2.0, 1.0),
            outcome("others", 3.0, 9.0, 9.0, frames=20),
            Outcome(Candidate("broken"), 10, 1.0, failure="of something"),
        )
    )
    assert [found.on_front(each) for each in found.succeeded] == [True, True, False, True]
    assert png(front_figure(found)).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no model could be fitted; broken: of something"):
        _ = Comparison(found.outcomes[-1:]).best
    late = Outcome(Candidate("slow"), 10, 9.0, failure="stopped after 9 s", late=True)
    with pytest.raises(ValueError, match="slow: stopped after 9 s; give a larger --budget"):
        _ = Comparison((late,)).best


def test_recipes_fit_molecules_or_crystals():
    molecule = mlff.Dataset.read(ETHANOL, index=":3")
    assert fitting(molecule) == [name for name, each in RECIPES.items() if not each.drawn and each.inducing is None]
    atoms = molecule[0].to_ase()
    atoms.set_cell([9.0, 9.0, 9.0])
    atoms.pbc = True
    labels = dict(molecule[0].labels)
    crystal = mlff.Dataset([mlff.Frame(mlff.System.from_ase(atoms), labels)])
    other = mlff.Dataset([molecule[0], mlff.Frame(mlff.System.from_ase(atoms[:5]), {})])
    for data in (crystal, other):
        assert fitting(data) == ["fchl19-gpr", "soap-gpr", "soap-gap"]
    assert list(map(str, candidates(crystal))) == ["soap-gap", "fchl19-gpr, 1000 points", "soap-gpr, 1000 points"]
    assert [str(each) for each in candidates(molecule, ["sgdml+soap", "fchl19-gpr"])] == [
        "fchl19-gpr",
        "sgdml+soap, tuned",
    ]
    sparse = Candidate("soap-gpr", inducing=1000)
    assert sparse.options == ("--recipe", "soap-gpr", "--inducing", "1000")


def test_every_recipe_that_fits_crystals_takes_cells():
    for name, each in RECIPES.items():
        if each.whole or each.drawn:
            continue
        water = mlff.Dataset.read(DATASETS / "water.extxyz", index=":2")
        kernel, _ = mlff.recipe(name, water)
        assert all("cell" in descriptor.uses for descriptor in kernel.descriptors), name


def test_time_of_a_geometry(ethanol_model):
    frame = mlff.Dataset.read(ETHANOL, index=":1")[0]
    assert 1e-6 < geometry_seconds(ethanol_model, frame) < 1.0


@pytest.fixture(scope="module")
def ethanol_model() -> mlff.ForceField:
    data = mlff.Dataset.read(ETHANOL, index=":8")
    kernel, labels = mlff.recipe("sgdml", data, mlff.RBF(lengthscale=5.0), reach="none")
    return mlff.fit(kernel, data, labels)


@pytest.mark.thorough  # the longest of a command whose parts other tests look at
def test_the_command_at_the_end_keeps_what_was_promised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    told = [
        "compare",
        str(ETHANOL),
        "--train",
        "20",
        "--recipe",
        "sgdml-rbf",
        "--recipe",
        "gdml",
        "--seed",
        "3",
        "--json",
    ]
    result = run(app, [*told, "--plot", "front.png"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.strip().splitlines()[-1])
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert [(row["model"], row["frames"]) for row in said["models"]] == [("sgdml-rbf", 20), ("gdml", 20)]
    assert said["command"] == f"mlff fit {ETHANOL} --train 20 --seed 3 --recipe {said['best']}"
    again = run(app, [*said["command"].split()[1:], "--out", "again.mlff", "--json"])
    assert again.exit_code == 0, again.output
    promised = next(row for row in said["models"] if row["model"] == said["best"])
    measured = json.loads(again.stdout.strip().splitlines()[-1])
    np.testing.assert_allclose(measured["forces_mae"], promised["forces_mae"], rtol=1e-6)
    assert promised["on_front"]
    assert promised["geometry_seconds"] > 0
    assert promised["peak_memory_mb"] > 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "0"], "must be a positive number of seconds"),
        (["--train", "1"], "must be at least 2 and at most"),
        (["--train", "9999"], "must be at least 2 and at most"),
        (["--plot", str(ETHANOL)], "--plot"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(options, message, monkeypatch):
    monkeypatch.setattr(cli_compare._Fit, "run", lambda *_: pytest.fail("a fit was begun"))
    result = CliRunner().invoke(app, ["compare", str(ETHANOL), *options])
    assert result.exit_code != 0
    assert message in str(result.exception)


def test_failures_are_told(tmp_path):
    """Frames without forces: no fit is possible, and the reason is that of the first."""
    data = mlff.Dataset.read(ETHANOL, index=":12")
    from ase.io import write

    write(tmp_path / "bare.xyz", [frame.to_ase() for frame in data], format="extxyz", columns=["symbols", "positions"])
    result = CliRunner().invoke(app, ["compare", str(tmp_path / "bare.xyz"), "--recipe", "sgdml"])
    assert result.exit_code != 0
    assert "forces" in str(result.exception)


def test_kernels_are_compared_with_recipes(water):
    """The best one's error is that of the same fit."""
    kernel = mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=3.0))
    stages = []
    found = mlff.compare(
        {"mine": kernel, "blind": mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=1e-3)), "gdml": "gdml"},
        water[:25], test=water[25:45], progress=lambda stage, share: stages.append(stage),
    )  # fmt: skip
    by_name = {str(outcome.candidate): outcome for outcome in found.outcomes}
    assert set(by_name) == {"mine", "blind", "gdml"} == {stage.partition(",")[0] for stage in stages}
    train, *_ = water[:25].split(25, seed=0)
    expected = mlff.evaluate(mlff.fit(kernel, train, ("energy", "forces")), water[25:45])
    assert by_name["mine"].forces == pytest.approx(expected.forces_mae, rel=1e-9)
    assert by_name["mine"].energy == pytest.approx(expected.energy_mae_per_atom, rel=1e-9)
    assert by_name["blind"].forces > 10.0 * by_name["mine"].forces
    header, *rows = str(found).splitlines()
    assert header.split()[:2] == ["frames", "model"]
    assert [row.split()[:2] for row in rows] == [["25", str(outcome.candidate)] for outcome in found.outcomes]
    assert sum(row.endswith("best") for row in rows) == 1


def test_a_kernel_that_cannot_be_fitted_is_said_in_the_table(water):
    stated = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=np.array([1.0, 2.0])))
    found = mlff.compare({"broken": stated}, water[:20], labels=("forces",))
    assert "lengthscale: 2 are given" in str(found)
    with pytest.raises(ValueError, match="no model could be fitted; broken"):
        found.best  # noqa: B018


@pytest.mark.parametrize(
    ("models", "frames", "stated", "match"),
    [
        (["sgdml2"], 20, {}, "models: there is no recipe 'sgdml2'; choose from"),
        (
            [mlff.GlobalKernel(inverse_distances, mlff.RBF())],
            20,
            {},
            "kernels by name, {'mine': kernel}; received a GlobalKernel",
        ),
        (["gdml"], 4, {}, "4 frames are too few to compare models on"),
        (["gdml"], 20, {"budget": 0.0}, "budget=0.0 must be a positive number"),
    ],
)
def test_refusals_of_comparisons(models, frames, stated, match, water):
    with pytest.raises(ValueError, match=match):
        mlff.compare(models, water[:frames], **stated)
