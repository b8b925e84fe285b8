"""Atomic writing and safe reading of files, their digests, and the directories of data and records."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regroup_lib.extras import import_extra

if TYPE_CHECKING:
    import yaml


def data_directory(data_dir: str | Path | None = None) -> Path:
    """Return the data directory: the argument, else ``REGROUP_DATA``, else the user's cache directory."""
    chosen = data_dir or os.environ.get("REGROUP_DATA")
    return Path(chosen or import_extra("platformdirs").user_cache_dir("regroup"))


def results_directory(results_dir: str | Path | None = None) -> Path:
    """Return the directory of the records: the argument, else ``REGROUP_RESULTS``, else ``results``.

    The last is relative to the `checkout`, so that a notebook finds the committed records from any working directory;
    without a checkout it is relative to the working directory.
    """
    given = results_dir or os.environ.get("REGROUP_RESULTS")
    return Path(given) if given else (checkout() or Path()) / "results"


def checkout(start: str | Path | None = None) -> Path | None:
    """Return the root of the book's sources, upwards from `start`, else from the working directory or this package."""
    for place in [Path(start)] if start else [Path.cwd(), Path(__file__).parent]:
        for folder in (place.resolve(), *place.resolve().parents):
            if all((folder / name).exists() for name in ("_config.yml", "book/_toc.yml", "notebooks")):
                return folder
    return None


def record_paths(results_dir: str | Path | None = None, *, profile: str | None = None) -> list[Path]:
    """Return the files of all records of a results directory, or of one profile in it, in order."""
    root = results_directory(results_dir)
    # Hidden files belong to a process that is writing or was killed.
    return sorted(path for path in root.glob(f"{profile or '*'}/*/*.json") if not path.name.startswith("."))


MAX_YAML_DEPTH = 20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


UMASK = os.umask(0o77)  # of this process, which can be read only by setting it
os.umask(UMASK)


class DiskFullError(OSError):
    """The disk is too full for a file; the message names it."""


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn the error of a full or read-only disk inside the block into one that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in READ_ONLY and error.filename is not None:
            what = f"{path} cannot be written ({error.strerror}); set REGROUP_RESULTS (records) or REGROUP_DATA (data)"
            raise PermissionError(error.errno, f"{what} to a folder that can be written") from error
        if isinstance(error, DiskFullError) or error.errno not in NO_ROOM:
            raise
        what = f"there is no room on the disk for {path}; an older version is unchanged"
        raise DiskFullError(error.errno, f"{what}. Make room and start again") from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it to `path` when the block succeeds.

    A reader sees the old file or the new one, never a part; a block that raises leaves nothing behind.
    """
    path = Path(path)
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        partial = Path(name)
        try:
            yield partial
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.chmod(0o666 & ~UMASK)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_npz(path: str | Path, arrays: dict[str, np.ndarray], *, compress: bool = False) -> None:
    """Write `arrays` to an npz file, atomically; no array may need pickle."""
    with atomic_path(path) as partial:
        save_arrays(partial, arrays, compress=compress)


def save_arrays(path: Path, arrays: dict[str, np.ndarray], *, compress: bool) -> None:
    """Write `arrays` to a file that `atomic_path` has made."""
    with path.open("wb") as stream:
        (np.savez_compressed if compress else np.savez)(stream, allow_pickle=False, **arrays)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Read every array of an npz file, without pickle; every byte is verified by its checksum.

    A file that is damaged or holds Python objects is a ValueError, which names it.
    """
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            _check_size(archive)
            arrays = {name.removesuffix(".npy"): _read_member(archive, name) for name in archive.namelist()}
        _check_number_of_members(path, len(arrays))
        return arrays
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # zipfile raises a different class for each defect
        raise ValueError(f"{path} is damaged or is not an npz file of plain arrays ({error})") from error


def _read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Read an array to the end of its member: only there is the checksum compared."""
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        if version > (2, 0):
            raise ValueError(f"{name} is of npy format {version}")
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header[version](stream)
        said = stream.tell() + math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and said != archive.getinfo(name).file_size:  # before the memory is requested
            raise ValueError(f"{name} is not as long as its shape {shape} says")
    with archive.open(name) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):
            raise ValueError(f"{name} is longer than its array")
    return array


def _check_size(archive: zipfile.ZipFile) -> None:
    """Refuse an archive that would unpack to more than this machine's memory."""
    unpacked = sum(member.file_size for member in archive.infolist())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if unpacked > memory:
        raise ValueError(f"it unpacks to {unpacked:,} bytes, and this machine has {memory:,}")


def _check_number_of_members(path: str | Path, found: int) -> None:
    """Compare with the archive's own count, because zipfile silently stops at an entry of a wrong length."""
    with Path(path).open("rb") as stream:
        stream.seek(-22, os.SEEK_END)
        end = stream.read()
    said = int.from_bytes(end[10:12], "little")
    if end.startswith(b"PK\x05\x06") and said not in (found, 0xFFFF):
        raise ValueError(f"it lists {said} arrays and {found} can be read")


def load_yaml_file(path: Path) -> dict[str, Any]:
    """Read a YAML file of ``NAME: VALUE`` lines; if it holds anything else, a ValueError names the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error})") from error
    values = load_yaml(text, str(path))
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{path} does not hold FIELD: VALUE lines")
    return values


def load_yaml(text: str, source: str) -> Any:
    """Read plain values from YAML, without tags (which could create objects) and aliases (which could grow).

    The error, a ValueError, is one line that names the source.
    """
    yaml = import_extra("yaml")
    try:
        _check_yaml(yaml.parse(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{source} is not YAML of plain values: {' '.join(str(error).split())}") from error


def _check_yaml(events: Iterator[yaml.Event]) -> None:
    """Refuse aliases and deep nesting, whose memory or time is out of proportion to the text."""
    yaml, depth = import_extra("yaml"), 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has an alias (*name); write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise ValueError(f"it is nested more than {MAX_YAML_DEPTH} deep")


def digest_arrays(*arrays: np.ndarray) -> str:
    """Return the SHA-256 (hexadecimal) of the arrays' dtypes, shapes and values, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.data if array.dtype.kind != "U" else array.tobytes())
    return digest.hexdigest()


def check_regular(path: str | Path, *, at_most: float = math.inf) -> None:
    """Refuse with a ValueError a file that is too large, or not regular: a pipe or a device might never end."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file; remove it")
    if status.st_size > at_most:
        raise ValueError(f"{path} has {status.st_size:,} bytes; expected at most {at_most:,}")


def digest_file(path: str | Path) -> str:
    """Return the SHA-256 (hexadecimal) of a regular file."""
    check_regular(path)
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def parse_parameter(text: str) -> Any:
    """Read a parameter from the command line as YAML: ``3``, ``[0, 1]``, ``true``, ``null``, or text.

    >>> parse_parameter("[0, 1]"), parse_parameter("smoke"), parse_parameter("1e-3")
    ([0, 1], 'smoke', 0.001)
    """
    if re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)e[-+]?[0-9]+", text, re.IGNORECASE):
        return float(text)
    return load_yaml(text, repr(text))
