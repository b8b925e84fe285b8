"""Checkpoints: what a training run needs to go on, in files small enough to be carried from machine to machine.

A checkpoint is one file, or, where it is larger than `PIECE_BYTES`, one file that names numbered pieces beside it. The
pieces of a new checkpoint have other names than those of the old one, and the file that names them is renamed into
place last: whenever the writing is interrupted, the old checkpoint or the new one is there, whole.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from regroup_lib.files import atomic_path

PIECE_BYTES = 15_000_000


def save_checkpoint(path: Path, state: dict[str, Any]) -> int:
    """Write tensors and plain values in one step, and return how many bytes they take.

    Raises
    ------
    DiskFullError
        If there is no room; the checkpoint that was there before is unchanged.
    """
    content = _packed(state)
    if len(content) <= PIECE_BYTES:
        _write(path, content)
        _remove_pieces(path)
        return len(content)
    digest = hashlib.sha256(content).hexdigest()
    starts = range(0, len(content), PIECE_BYTES)
    for number, start in enumerate(starts):
        _write(_piece(path, digest, number), content[start : start + PIECE_BYTES])
    _write(path, _packed({"digest": digest, "pieces": len(starts)}))
    _remove_pieces(path, but=digest)
    return len(content)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, its tensors on a device.

    Raises
    ------
    Exception
        If the file or a piece is missing or damaged; each defect has a class of its own. Nothing in it is run.
    """
    state = _unpacked(path.read_bytes(), device)
    if not isinstance(state, dict) or set(state) != {"digest", "pieces"}:
        return state
    pieces = [_piece(path, state["digest"], number) for number in range(state["pieces"])]
    content = b"".join(piece.read_bytes() for piece in pieces)
    if hashlib.sha256(content).hexdigest() != state["digest"]:
        raise ValueError(f"its pieces {pieces[0].name} to {pieces[-1].name} are not those that were written")
    return _unpacked(content, device)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint with its pieces, and what a process that was killed left half written."""
    _remove_pieces(path)
    for partial in path.parent.glob(f".{path.name}.*"):
        partial.unlink(missing_ok=True)
    path.unlink(missing_ok=True)  # last: while it is there, what an interruption leaves is removed the next time


def _packed(state: dict[str, Any]) -> memoryview:
    # Through memory: where the disk is full, Python's own write says so and torch's does not.
    content = io.BytesIO()
    torch.save(state, content)
    return content.getbuffer()


def _unpacked(content: bytes, device: torch.device) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch.load compares no checksums
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
    return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def _write(path: Path, content: memoryview) -> None:
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def _piece(path: Path, digest: str, number: int) -> Path:
    return path.with_name(f"{path.name}.{digest[:16]}-{number:03}")


def _remove_pieces(path: Path, *, but: str | None = None) -> None:
    for piece in path.parent.glob(f"{path.name}.*-*"):
        if but is None or not piece.name.startswith(f"{path.name}.{but[:16]}-"):
            piece.unlink(missing_ok=True)
