"""The training frames of a fit, checked: what must hold of labels, cells and atoms before anything is computed."""

from __future__ import annotations

import numpy as np

from mlff.data.batches import LabelledFrames
from mlff.data.cells import volume
from mlff.data.dataset import Dataset
from mlff.data.group_noise import GroupNoise
from mlff.data.permutations import Permutations
from mlff.kernels.kernels import Kernel
from mlff.operators import STRESS, Operator


def labelled_frames(
    model: Kernel, data: Dataset, operators: dict[str, Operator], group_noise: GroupNoise | None = None
) -> LabelledFrames:
    """The frames with the labels that are fitted, which the kernel can take.

    Arguments:
        group_noise: of groups of frames that have their own.
    Raises:
        ValueError: labels that are missing or not finite, another composition, a cell that the descriptor does not take,
            permutations of other atoms.
    """
    labels = tuple(operators)
    for name in labels:
        data.require_some(name)
    _require_labels(data, labels)
    if not model.transferable:
        data.uniform_numbers()
    require_seen_cells(model, data)
    frames = LabelledFrames.of(data, group_noise)
    if operators.get("stress") is STRESS:
        _require_stressed(data)
    if all(len(numbers) < 2 for numbers in frames.compositions):
        raise ValueError(f"{data.source}: a single atom has no internal coordinates to fit")
    for leaf in model.leaves:
        _require_fitting_group(getattr(leaf, "permutations", None), frames.compositions[0], data.source)
    return frames


def _require_labels(data: Dataset, labels: tuple[str, ...]) -> None:
    """Refuse labels that are not finite, and frames that have none of those that are fitted."""
    for i, frame in zip(data.indices, data, strict=True):
        for name in ("energy", "forces", "stress"):
            if not np.isfinite(frame.labels.get(name, 0.0)).all():
                raise ValueError(f"{data.source}: {name} of frame {i} is not finite; leave the label out of the frame")
        hessian = frame.labels.get("hessian", 0.0)  # NaN stands for entries that were not calculated
        if "hessian" in labels and (np.isinf(hessian).any() or np.isnan(hessian).all()):
            raise ValueError(
                f"{data.source}: hessian of frame {i} holds no number or an infinite one; leave it out of the frame"
            )
        if not set(labels) & set(frame.labels):
            raise ValueError(
                f"{data.source}: frame {i} has none of the labels that are fitted ({', '.join(labels)}); leave it out"
            )


def require_seen_cells(model: Kernel, data: Dataset) -> None:
    """Refuse periodic frames for descriptors that take no cell.

    Raises:
        ValueError: naming the first of the frames, and what takes a cell.
    """
    blind = next((leaf.descriptor.name for leaf in model.leaves if "cell" not in leaf.descriptor.uses), None)
    periodic = next((i for i, frame in zip(data.indices, data, strict=True) if frame.system.pbc.any()), None)
    if periodic is not None and blind is not None:
        raise ValueError(
            f"{data.source}: frame {periodic} is periodic, but descriptor {blind} takes no cell; use one that does (recipe "
            "soap-gpr or fchl19-gpr), or set pbc=False in the file if the molecule is isolated"
        )


def _require_stressed(data: Dataset) -> None:
    """Refuse stresses of frames that have none: no direction is periodic, or the cell has no volume."""
    for i, frame in zip(data.indices, data, strict=True):
        if "stress" in frame.labels and not (frame.system.pbc.any() and volume(frame.cell)):
            raise ValueError(
                f"{data.source}: frame {i} has a stress, but pbc={[bool(p) for p in frame.system.pbc]} and a cell of "
                f"{volume(frame.cell):.3g} Å³; set pbc and the cell in the file, or leave stress out of labels"
            )


def _require_fitting_group(group: Permutations | None, atomic: np.ndarray, source: str) -> None:
    if group is not None and group.indices.shape[1] != len(atomic):
        raise ValueError(
            f"permutations are of {group.indices.shape[1]} atoms, the frames of {source} have {len(atomic)}"
        )
    if group is not None and (atomic[group.indices] != atomic).any():
        raise ValueError(f"permutations exchange unlike atoms of {source}; find_permutations(data) gives fitting ones")
