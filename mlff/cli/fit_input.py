"""What `mlff fit` begins with: the frames, the kernel that is asked for, and what does not go together."""

from __future__ import annotations

import pathlib

from mlff.cli.options import Radial, Reach, Recipe, search_here


def read(
    data: pathlib.Path, test: pathlib.Path | None, frames: str, train: int | None, seed: int, stated: dict, labels
):
    """Read training frames, and frames to test on or None."""
    from mlff.data.dataset import Dataset

    everything = Dataset.read(data, labels=labels, index=frames, **stated)
    held = None
    if train is not None:
        left = len(everything) - train
        if train < 1 or left < 0:
            raise ValueError(
                f"--train {train}: must be at least 1 and at most the {len(everything)} frames of {everything.source}"
            )
        everything, *rest = everything.split(train, *([left] if left and test is None else []), seed=seed)
        held = rest[0] if rest else None
    return everything, held if test is None else _test_frames(test, labels, stated)


def _test_frames(path: pathlib.Path, labels, stated: dict):
    """Of which some may lack what `labels` names, as training frames may; or all of them one label, such as the stress."""
    from mlff.data.dataset import Dataset

    try:
        return Dataset.read(path, labels=labels, **stated)
    except ValueError as lacking:
        if labels is None:
            raise
        try:
            return Dataset.read(path, **stated)
        except ValueError:
            raise lacking from None


def chosen_recipe(data, recipe: Recipe | None, descriptor: str | None, tune: bool | None, stated: bool):
    """What is asked for (None for a descriptor of the user's own), or the one for such frames, with what speaks for it; and whether to
    tune it: a sum that nobody named.

    Arguments:
        stated: whether hyperparameters of one kernel were typed, which a sum does not take.
    """
    from mlff.regression.recipes import PLAIN, RECIPES, default_recipe

    if recipe is not None or descriptor is not None:
        return recipe, None, bool(tune)
    name, reason = default_recipe(data)
    if stated and RECIPES[name].summed:
        name, reason = PLAIN, "what is stated of one kernel"
    return Recipe(name), reason, RECIPES[name].summed if tune is None else tune


def model_of(
    data,
    name: Recipe | None,
    descriptor: str | None,
    kernel: Radial | None,
    lengthscale: float | None,
    reach: Reach | None,
    settings: dict,
    seed: int,
    progress,
):
    """The kernel to fit, and its labels."""
    from mlff.kernels.radial import RADIALS
    from mlff.regression.recipes import RECIPES, descriptor_kernel, recipe

    classes = {cls.__name__.lower(): cls for cls in RADIALS.values()}
    cls = classes[(kernel or Radial.matern52).value.replace("-", "")]
    looked_for = (reach or Reach.dynamics).value
    if descriptor is not None:
        search_here()
        model, chosen = descriptor_kernel(descriptor, data, cls(lengthscale=lengthscale), looked_for, settings)
        if reach is not None and model.transferable:
            raise ValueError(
                f"--reach {reach}: {descriptor} describes atoms, whose order does not matter; leave --reach out"
            )
        return model, chosen
    if reach is not None and not RECIPES[name.value].symmetric:
        raise ValueError(f"--reach {reach}: recipe {name} takes no permutations; leave --reach out")
    radial = RECIPES[name.value].radial if kernel is None else cls()
    if lengthscale is not None:
        radial = radial.replace(lengthscale=lengthscale)
    return recipe(name.value, data, radial, None, looked_for, seed, progress, settings)


def require_drawn(seed: int | None, draws: bool, model, recipe: Recipe | None) -> None:
    """Refuse a seed of which nothing depends."""
    from mlff.regression.recipes import RECIPES
    from mlff.regression.validation import lacks_lengthscale

    drawn = draws or lacks_lengthscale(model) or (recipe is not None and RECIPES[recipe.value].drawn)
    if seed is not None and not drawn:
        raise ValueError(
            f"--seed {seed}: nothing is drawn here (no --train, no inducing points, and no length scale to search); leave --seed out"
        )


def require_exact(tune: bool, points: int | None) -> None:
    """Refuse to tune a sparse model."""
    if tune and points is not None:
        raise ValueError(
            "--tune: sparse models find their noise and keep their length scale; leave --tune or --inducing out"
        )


def require_comparable(model, training, held) -> None:
    """Refuse frames to test on that the model cannot be compared with, before the work and not after it."""
    import numpy as np

    from mlff.potentials.arguments import require_elements, require_same_order
    from mlff.potentials.errors import require_disjoint

    require_disjoint(training.fingerprints(), held)
    if not model.transferable:
        return require_same_order(training.uniform_numbers(), held.uniform_numbers(), held.source)
    elements = model.completed(np.concatenate([frame.numbers for frame in training])).leaves[0].elements
    for frame in held:
        require_elements(elements, frame.numbers, held.source)
