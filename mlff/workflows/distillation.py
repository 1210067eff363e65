"""A cheap method distilled: a model of it in its place, below a correction or with the correction in it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlff.arguments import checked_seed, require_positive, whole_number
from mlff.data.dataset import Dataset, require_dataset
from mlff.data.methods import Together
from mlff.data.methods import said as told
from mlff.dynamics.calculator import Calculator
from mlff.dynamics.sampling import bare, labelled, sampled
from mlff.kernels.kernels import LocalKernel
from mlff.kernels.reduction import reduced
from mlff.potentials.arguments import require_atoms, require_charge
from mlff.potentials.errors import compare
from mlff.potentials.force_field import ForceField
from mlff.potentials.record import fingerprints_of, records_of
from mlff.potentials.reference import Reference, references
from mlff.potentials.sums import PotentialSum, terms_of
from mlff.regression import recipes
from mlff.regression.fitting import fit
from mlff.regression.sparse.compression import compressed
from mlff.regression.validation import MIN_FRAMES
from mlff.units import formula

MOLECULES = ("soap-gpr", "sgdml-rbf")  # recipes: the better of them, where both can be fitted
BOTH, WORTH = "sgdml+soap", 0.8  # a sum takes the time of both: for errors of so much of the better one's
CRYSTALS, FEW = "soap-gap", "fchl19-gpr"  # the latter has a length scale, which so few frames do not tell
DROPPED = 1e-5  # of the variance of local features: SOAP of ethanol has 204 numbers in place of 855, and the same errors to 0.3 %
TRIED, COMPARED = 200, 100  # frames that recipes are tried on, and on which a model is held against the method

Progress = Callable[[str, float], None]


def distilled(
    method,
    data: Dataset,
    frames: int = 500,
    temperature: float = 500.0,
    points: int = 2000,
    seed: int = 0,
    recipe: str | None = None,
    progress: Progress = lambda stage, fraction: None,
) -> ForceField:
    """A force field of a cheap method around some frames: one to which a correction to a dear one is fitted, or of their sum.

        baseline = mlff.distilled("gfn2", train)
        force_field = mlff.fit(mlff.tune(kernel, train, baseline=baseline), train)

        corrected = mlff.fit(mlff.tune(kernel, train, baseline="gfn2"), train)
        force_field = mlff.distilled(corrected, train, frames=1000)

    Frames of Langevin dynamics with the method (`sampled`), and a model fitted to their energies and forces: of molecules in one order
    of atoms by `soap-gpr` or `sgdml-rbf`, whichever of the two tells more of frames left out when it is fitted to 200 of the
    others, or by `sgdml+soap` where the errors of the sum are a fifth smaller; local terms exact, in components and then
    `compressed`. Of several compositions it is `soap-gpr`, of fewer than five frames `fchl19-gpr`, of crystals `soap-gap`, a sparse
    one. Dynamics runs kernel models alone, with exact Hessians, and needs no program beside them. How far the model is from the
    method is measured on up to 100 of the frames of `data`, of which it has seen none: where that is most of the error, more frames
    are what helps.

    A corrected method distilled is one model instead of two, and its errors are not learnt by a second one: of rMD17 it is nearer to
    the method that it is of, and quicker, than a correction to a method distilled.

    Arguments:
        method: a name ("gfn2"), a `Reference` with its charge, one of ASE's calculators, or a force field, such as a correction to
            one of these.
        data: frames whose surroundings are sampled, with or without labels.
        frames: how many are labelled by the method, about 21 evaluations each.
        temperature: K, of the dynamics: no lower than that of what the force field is for.
        points: environments that the model is left with.
        seed: of the dynamics, and of what is drawn in the fit. A calculator that begins where it ended, as those that iterate
            do, makes two runs alike to its thresholds and not to bits.
        recipe: name of the model, in place of the better one.
        progress: called with the name of a stage and the share of it that is done.
    Returns:
        the force field; its record tells, under "distilled", method, frames, recipe and errors (eV, eV/Å).
    Raises:
        ValueError: no such method or recipe, frames of another charge, an atom that flies away, or labels that are not finite.
    """
    require_dataset(data)
    if not len(data):
        raise ValueError("data: expected frames whose surroundings are sampled, at least one")
    seed, points, frames = checked_seed(seed), whole_number("points", points), whole_number("frames", frames)
    require_positive("temperature", temperature)
    known = recipes.fitting(data)
    if recipe is not None and recipe not in known:
        raise ValueError(
            f"recipe={recipe!r:.60}: choose from those that can be fitted to these frames, {', '.join(known)}"
        )
    if recipe is not None and frames < MIN_FRAMES and recipes.RECIPES[recipe].radial.lengthscale is None:
        raise ValueError(f"frames={frames}: too few to tell the length scale of {recipe}; ask for {MIN_FRAMES} or more")
    method = _force_field(method)
    calculator = _calculator(method, data)
    truth = _by(calculator, data)  # what it cannot do is said before the work
    cheap = sampled(calculator, data, frames, temperature, seed=seed, progress=progress)
    recipe = _chosen(known, cheap, seed, progress) if recipe is None else recipe
    model = _fitted(recipe, cheap, seed, progress)
    exact = "inducing" not in model.record and any(part.local for part in model.model.parts)
    if exact and points < sum(len(frame.numbers) for frame in cheap):
        model = compressed(model, cheap, points, progress)
    errors = compare(model, truth).summary()
    said = {
        "method": method.model.label, "frames": len(cheap), "recipe": recipe,
        **{name: errors[name] for name in ("energy_mae", "forces_mae")}, "compared": errors["n_test"],
    }  # fmt: skip
    return model.replace(record={**model.record, **_inherited(model, method, data), "distilled": said})


def _force_field(method) -> ForceField:
    if isinstance(known := getattr(method, "force_field", method), ForceField):  # of a `Calculator`
        return known
    return ForceField.of(method if isinstance(method, Reference) else Reference(method))


def _calculator(method: ForceField, data: Dataset):
    """A calculator of a force field, of frames that it is for.

    Methods below it are called with their usual thresholds, and begin where they ended: three times as fast.

    Raises:
        ValueError: other atoms or another total charge than it takes.
    """
    programs = references(method.model)
    for i, frame in zip(data.indices, data, strict=True):
        where = f"{data.source}: frame {i}"
        require_atoms(method, frame.numbers, where)
        for reference in programs:
            reference.require_frame(frame, data.source)
        require_charge(method, frame.numbers, frame.stated_charge, f"{where} states")
    calculators = [reference.calculator() for reference in programs]
    if rest := tuple(term for term in terms_of(method.model) if not isinstance(term, Reference)):
        calculators.append(Calculator(ForceField.of(PotentialSum(rest), method.numbers)))
    return calculators[0] if len(calculators) == 1 else Together(calculators)


def _inherited(model: ForceField, method: ForceField, data: Dataset) -> dict:
    """What holds of a model because it holds of what it is a model of: charges, whether energies have a zero, training frames."""
    before = method.record
    charges = {term.charge for term in references(method.model) if term.of_one_charge}
    stated = {formula(frame.numbers): float(charge) for charge in charges for frame in data}
    for record in records_of(before):
        stated |= record.get("charges", {})
    return {
        "charges": {**model.record["charges"], **stated},
        "energy_constant": before.get("energy_constant", True),
        "inherited_fingerprints": sorted(fingerprints_of(before)),  # on these no test of it is one
    }


def _chosen(known: list[str], cheap: Dataset, seed: int, progress: Progress) -> str:
    """The recipe whose model of the first runs has the smallest errors of forces of the last ones."""
    if any(frame.system.pbc.any() for frame in cheap):
        return CRYSTALS
    if len(cheap) < MIN_FRAMES:
        return FEW
    names = [name for name in MOLECULES if name in known]
    apart = len(cheap) // 3
    if len(names) == 1 or len(cheap) - apart < MIN_FRAMES:
        return names[0]
    generator, errors = np.random.default_rng(seed), {}
    some, rest = (  # of different runs but for one: frames of a run are alike
        frames[np.sort(generator.permutation(len(frames))[:most])]
        for frames, most in ((cheap[:-apart], TRIED), (cheap[-apart:], COMPARED))
    )
    failed: list[ValueError] = []
    for name in (*names, *({BOTH} & set(known))):
        try:
            errors[name] = compare(_fitted(name, some, seed, progress), rest).forces_mae
        except ValueError as error:
            failed.append(error)
    if not errors:
        raise failed[0]
    return min(errors, key=lambda name: errors[name] / (WORTH if name == BOTH else 1.0))


def _fitted(name: str, cheap: Dataset, seed: int, progress: Progress) -> ForceField:
    kernel, labels = recipes.recipe(name, cheap, seed=seed, progress=progress)
    inducing = recipes.RECIPES[name].inducing
    if inducing is None and any(isinstance(leaf, LocalKernel) for leaf in kernel.leaves):
        kernel = reduced(kernel, cheap, DROPPED, seed)
    both = tuple(dict.fromkeys(("energy", *labels)))  # a method gives energies, and they cost nothing
    return fit(kernel, cheap, both, seed=seed, progress=progress, inducing=inducing)


def _by(calculator, data: Dataset) -> Dataset:
    """Some of the frames with the labels of a calculator.

    Raises:
        ValueError: it fails, and of which frame.
    """
    chosen = np.unique(np.linspace(0, len(data) - 1, min(len(data), COMPARED)).astype(int))
    found = []
    for i in chosen:
        atoms = bare(data[int(i)])
        atoms.calc = calculator
        try:
            found.append(labelled(atoms, atoms.positions))
        except Exception as error:  # of anybody's program
            raise ValueError(f"{data.source}: frame {data.indices[i]}: the method fails, {told(error)}") from error
    return Dataset(found, data.source, data.indices[chosen])
