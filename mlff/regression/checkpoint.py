"""Checkpoints of a fit: what it has come to, in a folder from which it goes on after it was killed.

What is kept is what took long: trials of hyperparameters, columns of a factor, pivots of a preconditioner, the state of
iterations. A fit that goes on takes these in place of its own work and does the rest as it would have done it, so that it
ends in the same model. Files are written whole or not at all, and so seldom that they take a twentieth of the time.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
import os
import pathlib
import re
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mlff.files import write_whole

logger = logging.getLogger(__name__)

SHARE = 0.05  # of the time, that writing may take
BANDWIDTH = 300e6  # bytes a second, before the first file was written
UNKNOWN, TELLING = 50_000_000, 10_000_000  # bytes of a state before it was first written; that tell the bandwidth
WORTH = 0.1  # s that plain data took, from which they are written at once, else with what comes next
_ABOUT = "fit.json"
_PARTS = (f".{_ABOUT}.*.partial", ".*.npz.*.partial")  # of files, of a process that was killed

Arrays = Mapping[str, np.ndarray]
Later = Callable[[], Arrays]  # what can be asked for once more, where it is not to be held twice


class Checkpoint:
    """A folder that a fit is kept in; without one nothing is.

    Attributes:
        folder: it is there once something was written.
    """

    def __init__(self, folder: pathlib.Path | None = None):
        self.folder, self._about, self._prefix = folder, "", ""
        self._waiting: list[tuple[str, Later, int]] = []
        self._since, self._bandwidth = time.monotonic(), BANDWIDTH
        self._plain: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}

    def begin(self, about: str) -> Checkpoint:
        """Take up what the folder holds of a fit.

        Arguments:
            about: what tells this fit from others, `fingerprint`.
        Raises:
            ValueError: the folder holds another fit, or something else.
        """
        if self.folder is not None:
            self._plain, self._about, self._since = _plain_kept(self.folder, about), about, time.monotonic()
        return self

    @contextlib.contextmanager
    def until_done(self) -> Iterator[Checkpoint]:
        """A block after which the folder goes: the fit is done, or cannot be, which trying again does not change."""
        try:
            yield self
        except ValueError:
            self.remove()
            raise
        self.remove()

    def beneath(self, name: str) -> Checkpoint:
        """For a part of the fit, in names of its own."""
        part = copy.copy(self)
        part._prefix = f"{self._prefix}{name}_"
        return part

    def plain(self, name: str, compute: Callable[[], Any]) -> Any:
        """Plain data, as JSON has it, that was kept; else what is computed, and kept at once where that took time."""
        if self.folder is None:
            return compute()
        name = f"{self._prefix}{name}"
        if name not in self._plain:
            started = time.monotonic()
            self._plain[name] = compute()
            if time.monotonic() - started >= WORTH:
                self._write(_ABOUT, self._about_it)
        return self._plain[name]

    def read(self, name: str) -> dict[str, np.ndarray] | None:
        """Arrays that were kept; None where there are none, or they are damaged."""
        if self.folder is None or not (self._file(name)).exists():
            return None
        try:
            with open(self._file(name), "rb") as file:  # which NumPy leaves open where it is damaged
                return dict(np.load(file, allow_pickle=False))
        except (ValueError, zipfile.BadZipFile, EOFError, OSError):
            logger.warning("%s: damaged; what it held is computed anew", self._file(name))
            return None

    def keep(self, name: str, arrays: Arrays) -> None:
        """Arrays that are final, and stay as they are: written when it is worth it, with those that wait."""
        self.keep_later(name, lambda: arrays, _size(arrays))

    def keep_later(self, name: str, arrays: Later, size: int) -> None:
        """Arrays that are final, fetched when they are written.

        Arguments:
            size: of them, bytes.
        """
        if self.folder is None:
            return
        self._waiting.append((self._file(name).name, arrays, size))
        self._write_waiting(0)

    def replace(self, name: str, arrays: Later) -> None:
        """A state that goes on: written in the place of the last, when that is worth it."""
        if self.folder is None or not self._write_waiting(self._sizes.get(name, UNKNOWN)):
            return
        state, started = arrays(), time.monotonic()
        self._sizes[name] = _size(state)
        self._write(self._file(name).name, lambda file: np.savez(file, **state))
        self._learn(self._sizes[name], started)

    def forget(self) -> None:
        """What still waits is not needed any longer, nor the memory that it takes."""
        self._waiting.clear()

    def remove(self) -> None:
        """The fit is at its end: its files go, and the folder, where nobody else put something there."""
        self.forget()
        if self.folder is None or not self._about:  # not begun: the folder is another fit's
            return
        written = (*_PARTS, "*.npz", _ABOUT) if (self.folder / _ABOUT).exists() else _PARTS
        with contextlib.suppress(OSError):  # no reason for a fit to fail
            for path in [path for pattern in written for path in self.folder.glob(pattern)]:
                path.unlink()
            self.folder.rmdir()

    @property
    def _about_it(self) -> bytes:
        return json.dumps({"fit": self._about, "plain": self._plain}).encode()

    def _file(self, name: str) -> pathlib.Path:
        return self.folder / f"{self._prefix}{name}.npz"

    def _write_waiting(self, more: int) -> bool:
        """Whether what waits, and some more bytes, are worth their time now; what waits is written then."""
        size = sum(each for _, _, each in self._waiting) + more
        if time.monotonic() - self._since < size / self._bandwidth / SHARE:
            return False
        started = time.monotonic()
        self._since = started
        while self._waiting:
            name, arrays, _ = self._waiting[0]
            if not self._write(name, lambda file, arrays=arrays: np.savez(file, **arrays())):
                break
            self._waiting.pop(0)
        if not self._waiting:
            self._learn(size - more, started)
        return not self._waiting

    def _learn(self, size: int, started: float) -> None:
        """How fast files are written, from one that was large enough to tell."""
        self._since = time.monotonic()
        if size > TELLING:
            self._bandwidth = size / max(1e-3, self._since - started)

    def _write(self, name: str, content) -> bool:
        """Whether a file could be written; a full disk ends no fit."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if name != _ABOUT and not (self.folder / _ABOUT).exists():
                write_whole(self.folder / _ABOUT, self._about_it)
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


@contextlib.contextmanager
def begun(checkpoint, about: str) -> Iterator[Checkpoint]:
    """The checkpoint of a fit, from what a user gave: nothing, a folder that goes when the fit is done, or one that its owner
    removes.

    Raises:
        ValueError: it is no folder, or one of another fit.
    """
    if checkpoint is not None and not isinstance(checkpoint, (str, os.PathLike, Checkpoint)):
        raise ValueError(
            f"checkpoint={checkpoint!r:.60} must be the name of a folder, 'fit.checkpoint' or a pathlib.Path"
        )
    if checkpoint is None:
        yield NOWHERE
    elif isinstance(checkpoint, Checkpoint):
        yield checkpoint.begin(about)
    else:
        kept = Checkpoint(pathlib.Path(checkpoint)).begin(about)
        with kept.until_done():
            yield kept


def fingerprint(*parts) -> str:
    """What tells one fit from another: a digest of trees of arrays, numbers and texts."""
    digest = hashlib.sha256()
    for part in parts:
        leaves, tree = jax.tree.flatten(part)
        with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
            digest.update(_named(tree))
        for leaf in leaves:
            array = np.asarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(_named(leaf) if array.dtype == object else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _named(value) -> bytes:
    """As it shows itself, but for where it lies in memory, which is another place each time."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value)).encode()


def _plain_kept(folder: pathlib.Path, about: str) -> dict[str, Any]:
    """Plain data of an earlier process; a folder of another fit is refused."""
    if not folder.exists():
        return {}
    if not folder.is_dir():
        raise ValueError(f"checkpoint {folder}: is a file; name a folder")
    if all(any(path.match(pattern) for pattern in _PARTS) for path in folder.iterdir()):
        return {}
    try:
        kept = json.loads((folder / _ABOUT).read_text())
        same, plain = kept["fit"] == about, dict(kept["plain"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"checkpoint {folder}: holds no fit, but something else, or what is damaged; name another folder"
        ) from error
    if not same:
        raise ValueError(
            f"checkpoint {folder}: holds another fit (other frames, model or settings); repeat that one, or remove the folder"
        )
    return plain


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
