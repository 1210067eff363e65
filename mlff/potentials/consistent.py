"""Whether the parts of a force field that was read belong together.

A file's digest tells damage, not intent: anybody can write a file anew. So everything in it is checked against the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import numpy as np

from descriptors.geometry import Neighbors
from mlff.data.neighbors import wants_list
from mlff.data.permutations import Permutations
from mlff.kernels.kernels import Kernel
from mlff.kernels.surroundings import reach_of
from mlff.potentials.arguments import require_atoms
from mlff.potentials.committee import Committee
from mlff.potentials.expansion import Channel, Curvature, Expansion, Part, constant_elements
from mlff.potentials.force_field import ForceField
from mlff.potentials.record import spanned_by_few
from mlff.potentials.sums import terms_of
from mlff.potentials.waves import RandomFunction, RandomTerms
from mlff.precision import double_precision

ROUNDING = 1e-11  # of |a||b|, to which scalar products a·b of features agree however they are summed


def require_consistent(force_field: ForceField) -> None:
    """Refuse a force field whose parts do not belong together; its record is checked before.

    Raises:
        ValueError: where, what was expected and what is there.
    """
    model, kernel, record, numbers = force_field.model, force_field.kernel, force_field.record, force_field.numbers
    if numbers is None and not force_field.transferable:
        raise ValueError("numbers are missing, which a potential of one molecule needs")
    if kernel is not None and not isinstance(model, Expansion):
        raise ValueError(f"kernel is there, and model is a {type(model).__name__}, which was fitted with none")
    for where, expansion, _ in expansions(force_field):
        _require_expansion(where, expansion)
    if force_field.posterior is not None:
        _require_committee(force_field.posterior, force_field)
    if kernel is not None:
        _require_fitted(model, kernel, numbers, record)
    elif numbers is not None:
        require_atoms(force_field, numbers, "numbers")


def expansions(force_field: ForceField) -> list[tuple[str, Expansion, Mapping]]:
    """The expansions in a force field, alone or as terms of a sum: where each stands, and its record."""
    model = force_field.model
    if isinstance(model, Expansion):
        return [("model", model, force_field.record)]
    terms = terms_of(model)
    records = force_field.record.get("terms", ())
    if len(records) != len(terms):  # of a sum that was not made of force fields
        records = [{}] * len(terms)
    return [
        (f"model.terms.{i}", term, record)
        for i, (term, record) in enumerate(zip(terms, records, strict=True))
        if isinstance(term, Expansion)
    ]


def _require_expansion(where: str, model: Expansion) -> None:
    """Refuse an expansion whose arrays do not belong together."""
    _require_parts(where, model, Channel, _require_channel)
    curved = any(channel.curvature is not None for part in model.parts for channel in part.channels)
    if curved != (model.label_order == 2):
        raise ValueError(
            f"{where}.label_order is {model.label_order}, and curvature is {'' if curved else 'not '}there"
        )


def _require_parts(where: str, model: Expansion, kind: type, require: Callable) -> None:
    """Refuse an expansion whose channels are not one of a kind for each element, or of which one is refused."""
    for i, part in enumerate(model.parts):
        elements = getattr(part.kernel, "elements", None)
        if len(part.channels) != (1 if elements is None else len(elements)):
            raise ValueError(f"{where}.parts.{i}: expected a channel for each element of its kernel, {elements}")
        for j, channel in enumerate(part.channels):
            of_channel = f"{where}.parts.{i}.channels.{j}"
            if not isinstance(channel, kind):
                raise ValueError(f"{of_channel}: expected {kind.__name__}, found a {type(channel).__name__}")
            require(of_channel, channel, part.sizes)
    elements = constant_elements([part.kernel for part in model.parts])
    if model.elements != elements or len(model.constants) != (1 if elements is None else len(elements)):
        raise ValueError(f"{where}.constants: expected one for each element of the kernel, {elements}")


def _require_committee(committee: Committee, force_field: ForceField) -> None:
    """Refuse a committee whose arrays do not belong together, or that is of other atoms."""
    committee.require_consistent()
    for i, term in enumerate(terms_of(committee.shared)):
        where = f"posterior.shared.terms.{i}"
        if isinstance(term, RandomFunction):
            _require_parts(where, term, RandomTerms, _require_terms)
        elif isinstance(term, Expansion):
            _require_expansion(where, term)
        else:
            raise ValueError(f"{where}: expected an expansion, found a {type(term).__name__}")
    if force_field.transferable and not committee.shared.transferable:
        raise ValueError("posterior.shared is of one molecule, the model of any")


def _require_terms(where: str, terms: RandomTerms, sizes: tuple[int, ...]) -> None:
    """Refuse random terms whose arrays do not belong together."""
    *shape, features = terms.points.shape
    if features != sum(sizes) or terms.phases.shape != tuple(shape) or len(terms.strengths) != shape[0]:
        raise ValueError(f"{where}: expected terms of {sum(sizes)} features, each with a strength")


def _require_fitted(model: Expansion, kernel: Kernel, numbers: np.ndarray | None, record: Mapping) -> None:
    """Refuse an expansion that is not one of its kernel and record."""
    if numbers is not None and not np.array_equal(numbers, record["geometry_numbers"]):
        raise ValueError("numbers and record.geometry_numbers are of different molecules")
    if len(model.parts) != len(kernel.parts):
        raise ValueError(f"model.parts are {len(model.parts)}, those of the kernel {len(kernel.parts)}")
    for i, (part, term) in enumerate(zip(model.parts, kernel.parts, strict=True)):
        where = f"model.parts.{i}"
        if term.amplitude is None or part.kernel.amplitude is not None:
            raise ValueError(f"amplitude of {where}: expected that of the kernel alone, and it is there")
        if not _same(part.kernel, term.bare()):
            raise ValueError(f"{where}.kernel is not the kernel that the force field was fitted with")
        _require_part(where, part, term, numbers, record)


def _same(one, other) -> bool:
    (ours, structure), (theirs, expected) = jax.tree.flatten(one), jax.tree.flatten(other)
    return _nodes(structure) == _nodes(expected) and all(map(np.array_equal, ours, theirs))


def _nodes(structure) -> tuple:
    """Classes and static fields of a tree; JAX's own comparison of structures leaves out the classes."""
    return structure.node_data(), tuple(map(_nodes, structure.children()))


def _require_part(where: str, part: Part, kernel, numbers: np.ndarray | None, record: Mapping) -> None:
    atoms = np.asarray(record["geometry_numbers"], dtype=np.int32)
    elements = getattr(kernel, "elements", None)
    shapes = _feature_shapes(part.kernel, atoms, np.array(record["geometry_pbc"]))
    environments = 1 if elements is None else len(atoms)
    if shapes != tuple((environments, size) for size in part.sizes):
        raise ValueError(f"{where}.sizes are {part.sizes}, the descriptor gives features of shapes {shapes}")
    group = kernel.permutations_used
    if group is not None:
        _require_group(f"{where}: permutations", group, atoms)
    images = 1 if group is None or part.images is not None else len(group)
    expected = [images] if elements is None else None if numbers is None else [np.sum(atoms == z) for z in elements]
    points = [len(channel.points) for channel in part.channels]
    chosen = spanned_by_few(record)
    if not chosen and expected is not None and points != [int(each) * record["n_train"] for each in expected]:
        raise ValueError(f"{where}.channels have {points} points, not those of {record['n_train']} training frames")
    if part.images is not None:
        _require_images(where, part.images, group, sum(part.sizes))
    valued = any(channel.values is not None for channel in part.channels)
    if not chosen and not record.get("own_operators") and valued != ("energy" in record["labels"]):
        raise ValueError(
            f"{where}: value weights are {'' if valued else 'not '}there, its labels are {record['labels']}"
        )


@double_precision
def _feature_shapes(kernel, numbers: np.ndarray, pbc: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """What the descriptors give for some atoms, traced without being computed."""
    atoms = len(numbers)
    x, cell = (jax.ShapeDtypeStruct((rows, 3), np.float64) for rows in (atoms, 3))
    neighbors = None
    if reach_of(kernel.descriptors) and wants_list(atoms, pbc):
        neighbors = Neighbors(
            jax.ShapeDtypeStruct((atoms, 1), np.int32), jax.ShapeDtypeStruct((atoms, 1, 3), np.float64)
        )
    try:
        blocks = jax.eval_shape(kernel.feature_blocks, x, jax.ShapeDtypeStruct((atoms,), np.int32), cell, neighbors)
    except Exception as error:  # whatever a descriptor does with settings that are not its own
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"descriptor of {kernel.label} cannot be given its arguments and settings ({reason})"
        ) from error
    return tuple(block.shape for block in blocks)


def _require_channel(where: str, channel: Channel, sizes: tuple[int, ...]) -> None:
    points, tangents = channel.points, channel.tangents
    if points.shape[1] != sum(sizes) or len(channel.offsets) != len(sizes):
        raise ValueError(f"{where} has points of shape {points.shape}, expected blocks of {sizes} features")
    norms = np.linalg.norm(points, axis=1)
    if tangents is None and channel.values is None:
        raise ValueError(f"{where} has neither tangents nor values")
    slopes = np.zeros(len(points)) if tangents is None else np.linalg.norm(tangents, axis=1)
    size = np.stack([norms**2, norms * slopes])
    _require_close(f"{where}.offsets", channel.offsets, Channel.offsets_of(points, tangents, sizes), size)
    if channel.curvature is not None:
        _require_curvature(f"{where}.curvature", channel.curvature, points, sizes)


def _require_curvature(where: str, curvature: Curvature, points: np.ndarray, sizes: tuple[int, ...]) -> None:
    """Refuse second-order weights whose redundant arrays are not those of the first of the points."""
    count, _, width = curvature.vectors.shape
    if width != points.shape[1] or not 0 < count <= len(points) or len(curvature.traces) != len(sizes):
        raise ValueError(f"{where}.vectors have shape {curvature.vectors.shape}, the points {points.shape}")
    again = Curvature.build(points[:count], curvature.vectors, curvature.weights, sizes)
    lengths = np.linalg.norm(curvature.vectors, axis=-1)
    size = lengths * np.linalg.norm(points[:count], axis=1)[:, None]
    _require_close(f"{where}.offsets", curvature.offsets, again.offsets, size)
    size = np.sum(np.abs(curvature.weights) * lengths**2, axis=1)
    _require_close(f"{where}.traces", curvature.traces, again.traces, size)


def _require_close(where: str, stored: np.ndarray, again: np.ndarray, size: np.ndarray) -> None:
    if not (np.abs(stored - again) <= ROUNDING * size).all():
        raise ValueError(f"{where} are not what they are made from")


def _require_group(where: str, group: Permutations, numbers: np.ndarray) -> None:
    unmeasured = np.isnan(group.residuals)
    if (group.support < 0).any() or (unmeasured.any() and not (unmeasured.all() and not group.support.any())):
        raise ValueError(f"{where}: residuals and support are no distances and counts of pairs of frames")
    closure = Permutations.generate(group.generators, numbers, len(group.indices))
    if not np.array_equal(closure.indices, group.indices):
        raise ValueError(f"{where} are not the group that their generators generate")


def _require_images(where: str, images: np.ndarray, group: Permutations | None, width: int) -> None:
    """Refuse rearrangements π of features that do not follow the group: π_{p[q]} = π_p[π_q]."""
    if group is None or images.shape != (len(group), width):
        raise ValueError(f"{where}.images have shape {images.shape}, expected that of {width} features for its group")
    if not (np.sort(images, axis=1) == np.arange(width)).all():
        raise ValueError(f"{where}.images are no permutations of {width} features")
    place = {tuple(p): i for i, p in enumerate(group.indices)}
    for q in group.generators:
        products = [place[tuple(p[q])] for p in group.indices]
        if not np.array_equal(images[products], images[:, images[place[tuple(q)]]]):
            raise ValueError(f"{where}.images do not rearrange features as the permutations of the atoms do")
