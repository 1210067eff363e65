"""The frames of a file one at a time, so that a file of millions of them takes the memory of one."""

from __future__ import annotations

import io
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import ase.io
from ase import Atoms
from ase.io.extxyz import read_xyz
from ase.io.formats import open_with_compression

from mlff.data.ase_labels import VIRIAL, find_labels
from mlff.data.frames import LABELS, Frame
from mlff.data.npz import frame_of, npz_arrays
from mlff.data.readers import (
    form_of,
    labelled,
    require_convertible,
    stated_units,
    statement,
    unreadable,
    xyz_blocks,
)

XYZ = "extxyz"  # the name that ASE has for both xyz forms


class FrameStream:
    """The frames of a file, read as they are asked for, in eV and Å.

    Of extended xyz files a frame is read at a time, of others what ASE's reader of their form reads at a time (of trajectories and
    data bases a frame). Arrays of npz files are read whole.

    Attributes:
        path: the file.
        doubts: by the name of a label why it cannot be trusted, in frames that were read so far.
        share: of the file that is read; 0 where nobody knows.

    Arguments:
        path, units, keys: as of `Dataset.read`.
    Raises:
        FileNotFoundError: no such file.
        ValueError: keys or units that files of this form do not take.
    """

    def __init__(self, path, units: str | None = None, keys: Mapping[str, str] | None = None):
        self.path, self.doubts, self.share = pathlib.Path(path), {}, 0.0
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        self._units, self._keys = units, dict(keys or {})
        self._origins: dict[str, str] = {}
        self._form = "npz" if self.path.suffix == ".npz" else form_of(self.path)
        if self._form == "npz":
            return
        require_convertible(self.path, self._form, units)
        if unknown := sorted(set(self._keys) - {*LABELS, VIRIAL}):
            raise ValueError(f"keys: {unknown[0]!r} is not known; there are {', '.join(LABELS)}, {VIRIAL}")

    def where(self, i: int) -> str:
        """The place of a frame, for messages."""
        return f"{self.path.name}: frame {i}"

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """The frames in their order.

        Arguments:
            start: the first that is wanted; those before are passed over.
        Raises:
            ValueError: naming file and frame; what cannot be read, labels of wrong shape, units that are not stated.
        """
        if self._form == "npz":
            yield from self._of_arrays(start)
            return
        stating = None
        for i, atoms in enumerate(self._images(start), start):
            inside = stated_units(atoms)
            if stating is not None and self._units is None and stating != (inside is not None):
                raise ValueError(
                    f"{self.where(i)} states {'its' if inside else 'no'} units, frames before it do {'not' if inside else ''}; state "
                    "them in every frame, or say units= for all"
                )
            stating = inside is not None
            yield self._frame(i, atoms)

    def _of_arrays(self, start: int) -> Iterator[Frame]:
        arrays, _, _ = npz_arrays(self.path, self._units, self._keys)
        count = len(arrays["positions"])
        for i in range(start, count):
            self.share = i / count
            yield frame_of(arrays, i)

    def _frame(self, i: int, atoms: Atoms) -> Frame:
        place = self.where(i)
        energy, length, _ = statement(place, atoms, self._form, self._units, self._keys)
        labels, doubts = find_labels(place, atoms, self._keys)
        for name, label in labels.items():
            if label.origin != self._origins.setdefault(name, label.origin):
                doubts.setdefault(
                    name, f"{place} has its {name} from {label.origin}, others from {self._origins[name]}"
                )
        self.doubts = {**doubts, **self.doubts}
        return labelled(atoms, labels, energy, length)

    def _images(self, start: int) -> Iterator[Atoms]:
        if self._form == XYZ:
            yield from self._of_xyz(start)
            return
        images = ase.io.iread(self.path, index=slice(start, None))
        for i in itertools.count(start):
            try:
                atoms = next(images)
            except StopIteration:
                return
            except Exception as error:  # ASE's readers raise whatever their parsers do
                raise unreadable(self.where(i), error) from error
            yield atoms

    def _of_xyz(self, start: int) -> Iterator[Atoms]:
        size = self.path.stat().st_size
        with open_with_compression(str(self.path), "rb") as file:
            for i, block in enumerate(xyz_blocks(self.path.name, file)):
                if i >= start:
                    self.share = min(file.tell() / size, 0.99)  # compressed files are longer than they are
                    yield xyz_frame(self.where(i), block)


def xyz_frame(where: str, block: Sequence[bytes]) -> Atoms:
    """A frame from its lines in the xyz form.

    Raises:
        ValueError: beginning with `where`; ASE cannot read it.
    """
    try:
        return next(read_xyz(io.StringIO(b"".join(block).decode()), index=0))
    except Exception as error:  # as above
        raise unreadable(where, error) from error
