"""Checkpoints of a fit: what it has come to, in a folder from which it goes on after it was killed.

What is kept is what took long: trials of hyperparameters, columns of a factor, pivots of a preconditioner, the state of
iterations. A fit that goes on takes these in place of its own work and does the rest as it would have done it, so that it
ends in the same model. Files are written whole or not at all, and so seldom that they take a twentieth of the time.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import pathlib
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mlff.files import write_whole

logger = logging.getLogger(__name__)

SHARE = 0.05  # of the time, that writing may take
BANDWIDTH = 300e6  # bytes a second, before the first file was written
_ABOUT = "fit.json"
_PLAIN = "plain.json"

Arrays = Mapping[str, np.ndarray]


class Checkpoint:
    """A folder that a fit is kept in; without one nothing is.

    Attributes:
        folder: it is there once something was written.
    """

    def __init__(self, folder: pathlib.Path | None = None, about: str = ""):
        """
        Arguments:
            about: what tells this fit from others, `fingerprint`.
        Raises:
            ValueError: the folder holds another fit, or something else.
        """
        self.folder, self._about, self._prefix = folder, about, ""
        self._waiting: list[tuple[str, Arrays]] = []
        self._since, self._bandwidth = time.monotonic(), BANDWIDTH
        self._plain: dict[str, Any] = {}
        if folder is not None and folder.exists():
            _require_same(folder, about)
            if (folder / _PLAIN).exists():
                self._plain = json.loads((folder / _PLAIN).read_text())

    def beneath(self, name: str) -> Checkpoint:
        """For a part of the fit, in names of its own."""
        part = copy.copy(self)
        part._prefix = f"{self._prefix}{name}_"
        return part

    def plain(self, name: str, compute: Callable[[], Any]) -> Any:
        """Plain data, as JSON has it, that was kept; else what is computed, and kept at once."""
        if name not in self._plain:
            self._plain[name] = compute()
            if self.folder is not None:
                self._write(_PLAIN, json.dumps(self._plain).encode())
        return self._plain[name]

    def read(self, name: str) -> dict[str, np.ndarray] | None:
        """Arrays that were kept; None where there are none."""
        if self.folder is None or not (self._file(name)).exists():
            return None
        try:
            with np.load(self._file(name), allow_pickle=False) as file:
                return dict(file)
        except (ValueError, zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{self._file(name)}: damaged; remove the folder and fit anew") from error

    def keep(self, name: str, arrays: Arrays) -> None:
        """Arrays that are final, and stay as they are: written when it is worth it, with those that wait."""
        if self.folder is None:
            return
        self._waiting.append((self._file(name).name, arrays))
        self._write_waiting(0)

    def replace(self, name: str, arrays: Arrays) -> None:
        """Arrays of a state that goes on: written in the place of the last, when it is worth it."""
        if self.folder is not None and self._write_waiting(_size(arrays)):
            self._write(self._file(name).name, lambda file: np.savez(file, **arrays))
            self._since = time.monotonic()

    def remove(self) -> None:
        """The fit is done."""
        if self.folder is not None and (self.folder / _ABOUT).exists():
            shutil.rmtree(self.folder)

    def _file(self, name: str) -> pathlib.Path:
        return self.folder / f"{self._prefix}{name}.npz"

    def _write_waiting(self, more: int) -> bool:
        """Whether what waits, and some more bytes, are worth their time now; what waits is written then."""
        size = sum(_size(arrays) for _, arrays in self._waiting) + more
        if time.monotonic() - self._since < size / self._bandwidth / SHARE:
            return False
        started = time.monotonic()
        while self._waiting:
            name, arrays = self._waiting[0]
            if not self._write(name, lambda file, arrays=arrays: np.savez(file, **arrays)):
                break
            self._waiting.pop(0)
        self._since = time.monotonic()
        if size > more and not self._waiting:
            self._bandwidth = (size - more) / max(1e-3, self._since - started)
        return not self._waiting

    def _write(self, name: str, content) -> bool:
        """Whether a file could be written; a full disk ends no fit."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / _ABOUT).exists():
                write_whole(self.folder / _ABOUT, json.dumps({"fit": self._about}).encode())
            write_whole(self.folder / name, content)
        except OSError as error:
            logger.warning(
                "checkpoint %s: could not be written (%s); the fit goes on, and tries again later",
                self.folder,
                error.strerror,
            )
            return False
        return True


NOWHERE = Checkpoint()  # of fits that are not kept


def fingerprint(*parts) -> str:
    """What tells one fit from another: a digest of trees of arrays, numbers and texts."""
    digest = hashlib.sha256()
    for part in parts:
        leaves, tree = jax.tree.flatten(part)
        # functions show where they lie in memory, which is another place each time
        digest.update(re.sub(r" at 0x[0-9a-f]+", "", str(tree)).encode())
        for leaf in leaves:
            array = np.asarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(str(leaf).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _require_same(folder: pathlib.Path, about: str) -> None:
    """Refuse a folder of another fit."""
    if not folder.is_dir():
        raise ValueError(f"checkpoint {folder}: is a file; name a folder")
    if not any(folder.iterdir()):
        return
    if not (folder / _ABOUT).exists():
        raise ValueError(f"checkpoint {folder}: holds no fit, but something else; name another folder")
    if json.loads((folder / _ABOUT).read_text())["fit"] != about:
        raise ValueError(
            f"checkpoint {folder}: holds another fit (other frames, model or settings); repeat that one, or remove the folder"
        )


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
