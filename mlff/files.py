"""Files that are written: checked and locked before the work, then written whole or not at all, at once or piece by piece."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO

from filelock import FileLock, Timeout

HEAD = 2**16  # bytes of an existing file that are looked at
PNG = b"\x89PNG\r\n\x1a\n"  # how such files begin


def named_file(path) -> pathlib.Path:
    """The path of a file that the user named.

    Raises:
        ValueError: it is no path, or one of a folder.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"path={path!r:.60} must be the name of a file, 'model.mlff' or a pathlib.Path")
    if os.path.isdir(path):
        raise ValueError(f"{path}: is a folder; name a file in it")
    return pathlib.Path(path)


def write_whole(path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file so that its name never refers to half of it: a temporary neighbour, then an atomic rename.

    Arguments:
        content: its bytes, or what writes them to the file that it is given.
    Raises:
        OSError: it could not be written, with its name; what was there before is there still.
    """
    path = named_file(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is no regular file (a folder, a device or a pipe); name another file")
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as file:
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _put_in_place(partial, path)
    except BaseException as error:
        os.unlink(partial)
        if isinstance(error, OSError) and error.errno is not None:  # whose own name, if any, is that of the neighbour
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def partial_of(path: pathlib.Path) -> pathlib.Path:
    """Where a file grows that is written piece by piece."""
    return path.with_name(f".{path.name}.partial")


@contextlib.contextmanager
def written_in_pieces(path: pathlib.Path, kept: int = 0) -> Iterator[Callable[[bytes], None]]:
    """Write a reserved file piece by piece, beside its place first, which it takes at the end of a `with` block.

    When the block ends with an error, or the process dies, its name refers to what it did before, and the pieces that were written
    stay in `partial_of` it, to go on from.

    Arguments:
        kept: how many bytes of such pieces stay; what is behind them goes.
    """
    partial = partial_of(path)
    try:
        with open(partial, "r+b" if kept else "wb", buffering=0) as file:
            file.truncate(kept)
            file.seek(kept)

            def write(piece: bytes) -> None:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]

            yield write
            os.fsync(file.fileno())
        _put_in_place(partial, path)
    except BaseException:
        if partial.exists() and not partial.stat().st_size:
            partial.unlink()
        raise


def _put_in_place(partial, path: pathlib.Path) -> None:
    """Give a file that is whole its name, and the permissions that it would have had by it."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(partial, 0o666 & ~umask)
    os.replace(partial, path)


@contextlib.contextmanager
def reserved(
    outputs: Mapping[str, pathlib.Path | Sequence[pathlib.Path] | None],
    inputs: Sequence[pathlib.Path] = (),
    marks: Mapping[str, bytes] | None = None,
) -> Iterator[None]:
    """Keep output files for this process while it works: what cannot be written shows before the work, not after it.

    Arguments:
        outputs: files to be written, by the name under which the user gave them ("--out"), one or several; None for one
            that is not asked for.
        inputs: files that the work reads, which an output must not replace.
        marks: bytes by which an earlier output is known, by the name under which it was given or its own name ("report.md"):
            a file that is there and has them not near its beginning is somebody else's. An empty one is nobody's.
    Raises:
        ValueError: an output is a folder or a device, a file of another kind, an input or another output, its folder is
            missing or cannot be written to, or another process is writing it.
    """
    several = {
        option: [paths] if isinstance(paths, (str, os.PathLike)) else paths or () for option, paths in outputs.items()
    }
    taken = {_real(path): f"{path} is read" for path in inputs}
    with contextlib.ExitStack() as held:
        for option, path in ((option, pathlib.Path(path)) for option, paths in several.items() for path in paths):
            if path.is_dir():
                raise ValueError(f"{option} {path}: is a folder; name a file in it")
            if path.exists() and not path.is_file():
                raise ValueError(f"{option} {path}: is a device or a pipe, and would become a file; name another file")
            if not path.parent.is_dir():
                raise ValueError(f"{option} {path}: there is no folder {path.parent}; make it first")
            if (use := taken.setdefault(_real(path), f"{option} writes it")) != f"{option} writes it":
                raise ValueError(f"{option} {path}: would replace a file that is in use ({use}); name another file")
            _require_earlier_output(option, path, marks or {})
            held.enter_context(_locked(option, path))
        yield


def _require_earlier_output(option: str, path: pathlib.Path, marks: Mapping[str, bytes]) -> None:
    """Refuse to replace a file that is none of an earlier run."""
    mark = marks.get(option, marks.get(path.name))
    if mark is None or not path.is_file() or not os.access(path, os.R_OK):
        return
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if head and mark not in head:
        raise ValueError(f"{option} {path}: is there and was not written by mlff; move it, or name another file")


@contextlib.contextmanager
def made_folder(option: str, folder: pathlib.Path | None) -> Iterator[None]:
    """A folder that is there while the work goes on, made with those above it; if nothing is written to it, it goes again.

    Raises:
        ValueError: it cannot be made, or is a file.
    """
    missing = [] if folder is None else [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{option} {folder}: this folder cannot be made ({error.strerror}); name another one"
        ) from error
    try:
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):  # it holds something
                path.rmdir()


@contextlib.contextmanager
def _locked(option: str, path: pathlib.Path) -> Iterator[None]:
    """Hold the lock beside a file, which the system takes back when the process dies, however it does."""
    place = path.with_name(f".{path.name}.lock")
    try:
        open(place, "a").close()
    except OSError as error:
        raise ValueError(
            f"{option} {path}: cannot be written ({error.strerror}); choose a folder that you may write to"
        ) from error
    lock = FileLock(place, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"{option} {path}: another process is writing it; wait for it, or name another file"
        ) from error
    try:
        if path.exists() and not os.access(path, os.W_OK):
            raise ValueError(f"{option} {path}: cannot be written to; change its permissions, or name another file")
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            os.unlink(place)
        lock.release()


def _real(path) -> str:
    return os.path.realpath(path)
