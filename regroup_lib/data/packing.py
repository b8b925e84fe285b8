"""Data on the way to another machine: packed into pieces of some megabytes, unpacked there and verified.

A pack is a folder: pieces, which are the files one after the other, cut at every `PIECE_BYTES`, and a table of contents
with the digest of each piece and of each file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regroup_lib.data.sources import SOURCES
from regroup_lib.files import atomic_path, data_directory, digest_file
from regroup_lib.progress import progress_bar

PIECE_BYTES = 50_000_000
BLOCK = 2**20
CONTENTS = "contents.json"
PIECE_NAME = r"piece-\d{4}\.bin"
# Folders of the data directory beside the data sets; what can be made from these (`cache`) stays here.
FOLDERS = ("encoders", "features", "weights")


class _Part(BaseModel):
    """A piece, or a file below the data directory."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: str = Field(min_length=1)
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _Contents(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: int = Field(1, ge=1, le=1)
    files: list[_Part]
    pieces: list[_Part]


def pack_data(target: str | Path, names: Sequence[str] = (), *, data_dir: str | Path | None = None) -> list[Path]:
    """Pack data sets, encoders and cached features into pieces below 60 MB.

    Parameters
    ----------
    target : path
        A folder that is new, empty, or an older pack, which is replaced.
    names : sequence of str
        Data sets, or files and folders of the data directory, like ``"features"`` or ``"features/cifar100-*"``;
        default: all data sets that are here, encoders, features and weights.
    data_dir : path, optional
        See `load_data`.

    Returns
    -------
    list of Path
        The pieces.

    Raises
    ------
    ValueError
        If there is nothing of a name, or something else lies in `target`.
    """
    root, target = data_directory(data_dir), Path(target)
    files = _files(root, names)
    if target.exists() and not (target / CONTENTS).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is no pack and is not empty; name a new folder")
    target.mkdir(parents=True, exist_ok=True)
    (target / CONTENTS).unlink(missing_ok=True)  # half a pack is none
    for piece in target.glob("piece-*.bin"):
        piece.unlink()
    contents = _Contents(files=[], pieces=[])
    waiting = bytearray()
    with progress_bar(total=len(files), desc="packing", unit="file") as bar:
        for path in files:
            digest, size = hashlib.sha256(), 0
            for block in _blocks(path):
                digest.update(block)
                size += len(block)
                waiting += block
                while len(waiting) >= PIECE_BYTES:
                    contents.pieces.append(_write_piece(target, len(contents.pieces), waiting[:PIECE_BYTES]))
                    del waiting[:PIECE_BYTES]
            name = path.relative_to(root).as_posix()
            contents.files.append(_Part(path=name, size=size, sha256=digest.hexdigest()))
            bar.update()
    if waiting:
        contents.pieces.append(_write_piece(target, len(contents.pieces), waiting))
    with atomic_path(target / CONTENTS) as partial:
        partial.write_text(contents.model_dump_json(indent=1), encoding="utf-8")
    return [target / piece.path for piece in contents.pieces]


def unpack_data(source: str | Path, *, data_dir: str | Path | None = None) -> list[Path]:
    """Unpack what `pack_data` has packed into the data directory, each file in one step.

    Every piece is verified before anything is written, and every file before it is in its place. Files that are
    there already with the same content are left alone, others of the same name are replaced.

    Parameters
    ----------
    source : path
        The pack.
    data_dir : path, optional
        See `load_data`.

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    ValueError
        If pieces are missing or damaged (the message names them), or a file would lie outside the data directory.
    """
    source, root = Path(source), data_directory(data_dir)
    contents = _read_contents(source / CONTENTS)
    targets = [_inside(root, file.path, source) for file in contents.files]
    bad = [piece.path for piece in contents.pieces if not _is_as_said(source / piece.path, piece)]
    if bad:
        raise ValueError(f"{source}: missing or damaged: {', '.join(bad)}; copy them again")
    if sum(file.size for file in contents.files) != sum(piece.size for piece in contents.pieces):
        raise ValueError(f"{source / CONTENTS}: the files are not as long as the pieces; pack the data again")
    blocks = _Joined([source / piece.path for piece in contents.pieces])
    written = []
    with progress_bar(total=len(targets), desc="unpacking", unit="file") as bar:
        for file, target in zip(contents.files, targets, strict=True):
            if _is_as_said(target, file):
                blocks.skip(file.size)
            else:
                _write_file(target, file, blocks)
                written.append(target)
            bar.update()
    return written


def _files(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the files of the given names, sorted, each once."""
    here = [name for name, source in SOURCES.items() if source.path(root).exists()]
    found: dict[Path, None] = {}
    for name in names or [*here, *(folder for folder in FOLDERS if (root / folder).is_dir())]:
        pattern = SOURCES[name].published if name in SOURCES else name
        if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
            raise ValueError(f"{name!r} is outside the data directory {root}")
        paths = [path for top in sorted(root.glob(pattern)) for path in _below(top)]
        if not paths:
            raise ValueError(f"nothing is called {name!r} in the data directory {root}")
        found |= dict.fromkeys(paths)
    if not found:
        raise ValueError(f"the data directory {root} has no data sets, encoders or features")
    return list(found)


def _below(top: Path) -> Iterator[Path]:
    """Yield a file, or the files below a folder; hidden ones are half written ones and locks."""
    if top.is_file():
        yield top
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder) / name for name in sorted(files) if not name.startswith("."))


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            yield block


def _write_piece(target: Path, number: int, content: bytearray) -> _Part:
    path = target / f"piece-{number:04}.bin"
    with atomic_path(path) as partial:
        partial.write_bytes(content)
    return _Part(path=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def _read_contents(path: Path) -> _Contents:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; name the folder that `regroup data pack` has written")
    try:
        contents = _Contents.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is damaged ({error.errors()[0]['msg']}); copy it again") from error
    strange = [piece.path for piece in contents.pieces if not re.fullmatch(PIECE_NAME, piece.path)]
    if strange:
        raise ValueError(f"{path} names the piece {strange[0]!r}; expected names like piece-0000.bin")
    return contents


def _inside(root: Path, name: str, source: Path) -> Path:
    """Return where a file goes, if that is below the data directory, links on the way followed."""
    path = PurePosixPath(name)
    safe = not path.is_absolute() and ".." not in path.parts and path.parts and not re.search(r"[\\:\0]", name)
    if not safe or not (root / path).parent.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{source} has a file outside the data directory, {name!r}; nothing was written")
    return root / path


def _is_as_said(path: Path, part: _Part) -> bool:
    return path.is_file() and path.stat().st_size == part.size and digest_file(path) == part.sha256


class _Joined:
    """The bytes of several files, one after the other."""

    def __init__(self, paths: Sequence[Path]):
        self.bytes = (block for path in paths for block in _blocks(path))
        self.rest = b""

    def read(self, size: int) -> Iterator[bytes]:
        """Yield the next so many bytes, in blocks."""
        while size:
            block = self.rest or next(self.bytes)
            block, self.rest = block[:size], block[size:]
            size -= len(block)
            yield block

    def skip(self, size: int) -> None:
        """Pass over so many bytes."""
        for _ in self.read(size):
            pass


def _write_file(target: Path, file: _Part, blocks: _Joined) -> None:
    digest = hashlib.sha256()
    with atomic_path(target) as partial:
        with partial.open("wb") as stream:
            for block in blocks.read(file.size):
                digest.update(block)
                stream.write(block)
        if digest.hexdigest() != file.sha256:
            raise ValueError(f"{file.path} is not what was packed; pack the data again")
