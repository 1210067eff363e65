"""What `mlff compress` and `mlff distil` share: a model file and frames in, another model file out."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from mlff.cli import terminal
from mlff.cli.options import parse_keys, parse_labels, parse_trust


def remade(
    model: pathlib.Path, data: pathlib.Path, out: pathlib.Path | None, ending: str, units, labels, key, trust, make: Callable
):  # fmt: skip
    """The model that was read, what was made of it, and the file that it was written to.

    Arguments:
        ending: of the file's name behind the model's, where `out` is not stated.
        make: (force field, frames, progress) → force field.
    Raises:
        ValueError: a file of that name exists.
    """
    from mlff.data.dataset import Dataset
    from mlff.files import reserved
    from mlff.potentials import model_files as archive

    target = out or pathlib.Path(f"{model.stem}-{ending}.mlff")
    if out is None and target.exists():
        raise ValueError(f"{target}: exists; name the model file with --out, the same to replace it")
    with reserved({"--out": target}, [model, data], {"--out": archive.MARK}), terminal.progress() as progress:
        progress("load", 0.0)
        force_field = archive.load(model, parse_trust(trust))
        progress("read", 0.0)
        frames = Dataset.read(data, units=units, labels=parse_labels(labels), keys=parse_keys(key))
        made = make(force_field, frames, progress)
        archive.save(made, target)
    return force_field, made, target
