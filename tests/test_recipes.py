"""Every recipe makes a kernel that learns."""

import functools

import ase.build
import numpy as np
import pytest

import mlff
from mlff.kernels.descriptor import import_descriptor
from mlff.regression.recipes import FEW, RECIPES, default_recipe, descriptor_kernel, recipe

# the descriptors, global kernels on atoms' descriptors, and the training of features have quick tests of their own
THOROUGH = ("global-fchl19", "schnet-kernel", "soap-gap")
NAMES = [name for name in RECIPES if name not in THOROUGH]


@pytest.mark.parametrize(
    "name", [*NAMES, *(pytest.param(name, marks=pytest.mark.thorough) for name in ("global-fchl19", "soap-gap"))]
)
def test_a_recipe_learns_water(name, water):
    radial = RECIPES[name].radial.replace(lengthscale=3.0)
    kernel, labels = recipe(name, water[:30], radial)
    assert (kernel.permutations_used is not None) == RECIPES[name].symmetric
    noise = {name: {"energy": 1e-3, "forces": 1e-2}[name] for name in labels}
    force_field = mlff.fit(kernel, water[:30], labels, noise)
    spread = np.abs(water.array("forces")).mean()
    assert mlff.evaluate(force_field, water[60:80]).forces_mae < 0.1 * spread


@pytest.mark.thorough
def test_learned_features_make_a_kernel(water, monkeypatch):
    """The recipe trains on the frames it is given; here for a moment only."""
    from mlff.regression import recipes

    monkeypatch.setattr(recipes, "train_schnet", functools.partial(recipes.train_schnet, features=8, steps=30))
    kernel, labels = recipe("schnet-kernel", water[:30], mlff.RBF(lengthscale=2.0))
    force_field = mlff.fit(kernel, water[:30], labels, {"energy": 1e-2, "forces": 3e-2})
    assert mlff.evaluate(force_field, water[60:80]).forces_mae < 0.5 * np.abs(water.array("forces")).mean()


def test_reach_none_leaves_the_identity(water):
    kernel, _ = recipe("sgdml", water[:10], reach="none")
    assert kernel.permutations_used is None


def test_the_shape_says_which_kernel(water):
    one, labels = descriptor_kernel("descriptors.distances:inverse_distances", water[:10], mlff.RBF())
    assert isinstance(one, mlff.GlobalKernel)
    assert labels == ("forces",)
    two, labels = descriptor_kernel("descriptors.fchl19:fchl19", water[:10], mlff.RBF())
    assert isinstance(two, mlff.LocalKernel)
    assert labels == ("energy", "forces")


@pytest.mark.parametrize("name", ["nothing", "no_such_module:f", "descriptors.fchl19:no_such"])
def test_descriptors_that_cannot_be_imported(name):
    with pytest.raises(ValueError, match=r"write package\.module:function|cannot be imported"):
        import_descriptor(name)


@pytest.mark.parametrize("name", ["sgdml", "sgdml-rbf", "sfchl19"])
def test_frames_for_a_local_recipe_are_told_so(name, water):
    """Periodic ones, and ones of several compositions: before permutations are looked for."""
    crystal = [mlff.Frame(f.system.replace(cell=9.0 * np.eye(3), pbc=np.ones(3, bool)), f.labels) for f in water[:5]]
    with pytest.raises(ValueError, match=r"frame 0 is periodic.*recipe soap-gpr or fchl19-gpr"):
        recipe(name, mlff.Dataset(crystal))
    lone = mlff.Frame(
        mlff.System(np.zeros((1, 3)), np.array([8], np.int32), np.zeros((3, 3)), np.zeros(3, bool)), {"energy": -1.0}
    )
    with pytest.raises(ValueError, match=r"frame 5 \(O\) differs.*take a local one \(recipe soap-gpr or fchl19-gpr\)"):
        recipe(name, mlff.Dataset([*water[:5], lone]))


def test_unknown_recipe_names_those_there_are(water):
    with pytest.raises(ValueError, match="choose from gdml, sgdml"):
        recipe("gap", water[:5])


def test_what_is_taken_where_nobody_says(water, datasets):
    """One for crystals, one for a few frames, one for many, one for several molecules; what is said goes with it."""
    crystal = mlff.Frame(mlff.System.from_ase(ase.build.bulk("Si")), {"energy": 0.0, "forces": np.zeros((2, 3))})
    ethanol = mlff.Dataset.read(datasets / "ethanol.extxyz", index=":2")
    swapped = mlff.Frame(
        mlff.System(water[0].positions[::-1], water[0].numbers[::-1], water[0].cell, water[0].system.pbc),
        water[0].labels,
    )
    silent = mlff.Frame(water[0].system, {"forces": water[0].labels["forces"]})
    many = mlff.Dataset([water[0]] * (FEW + 1))
    for frames, name in (
        ([crystal], "soap-gap"), (water[:FEW], "distances+soap+fchl19"), (many, "sgdml-rbf"), ([*water[:2], *ethanol], "fchl19-gpr"),
        ([water[0], swapped], "fchl19-gpr"), ([silent, water[1]], "sgdml-rbf"),
    ):  # fmt: skip
        assert default_recipe(mlff.Dataset(list(frames)))[0] == name
