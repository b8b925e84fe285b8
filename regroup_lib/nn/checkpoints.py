"""Checkpoints: what a training run needs to go on, in files small enough to be carried from machine to machine.

A checkpoint is one file, or, where it is larger than `PIECE_BYTES`, one file that names numbered pieces beside it. The
pieces of a new checkpoint have other names than those of the old one, and the file that names them is renamed into
place last: whenever the writing is interrupted, the old checkpoint or the new one is there, whole.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from regroup_lib.files import atomic_path

logger = logging.getLogger(__name__)

PIECE_BYTES = 15_000_000
CHECKPOINT_SHARE = 0.05  # of the time that may go into checkpoints of more than a piece


class OutOfTime(BaseException):
    """The time for a run is over; its checkpoint is written. An interruption, as Ctrl-C is, and no error."""


@dataclass
class History:
    """What a training run leaves behind.

    Attributes
    ----------
    traces : list of dict
        One a finished epoch: ``epoch``, ``train_loss``, ``images`` (seen), ``seconds``, and what the caller's
        `on_epoch` returned.
    status : {"finished", "diverged"}
    """

    traces: list[dict[str, Any]] = field(default_factory=list)
    status: str = "finished"

    @property
    def seconds(self) -> float:
        """Training time, without what `on_epoch` took."""
        return sum(trace["seconds"] for trace in self.traces)


class Progress:
    """A run's checkpoint, and the time that it has left.

    Parameters
    ----------
    path : Path, optional
        The checkpoint; None: nothing is kept.
    deadline : float, optional
        A `time.monotonic` after which no epoch is to end.
    parts : dict of str to object
        What goes on from the checkpoint; each has ``state_dict`` and ``load_state_dict``.
    history : History
        Filled by `resume`; the caller appends a trace with ``seconds`` an epoch.
    writes : bool
        Whether this process writes the checkpoint: one of several that train together does.
    """

    def __init__(
        self,
        path: Path | None,
        deadline: float | None,
        parts: dict[str, Any],
        history: History,
        *,
        writes: bool = True,
    ):
        self.path, self.deadline, self.parts, self.history, self.writes = path, deadline, parts, history, writes
        self.saved_epochs, self.saved_at = 0, time.monotonic()
        self.saving = 0.0  # seconds that the last checkpoint took, if it was a large one
        self.epoch = 0.0  # seconds that the last epoch took, with all that belongs to it
        self.began: float | None = None

    def resume(self, device: torch.device) -> None:
        """Load a checkpoint where there is one; a damaged one is reported, and the run starts from the beginning."""
        if self.path is None or not self.path.exists():
            return
        fresh = {name: copy.deepcopy(part.state_dict()) for name, part in self.parts.items()}
        try:
            state = load_checkpoint(self.path, device)
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.history.traces, self.history.status = list(state["traces"]), state["status"]
        except Exception as error:  # each defect raises a different class
            logger.warning("the checkpoint %s is damaged; the run starts again (%s)", self.path, error)
            for name, part in self.parts.items():
                part.load_state_dict(fresh[name])
        self.saved_epochs = len(self.history.traces)
        if self.history.traces:
            last = self.history.traces[-1]
            self.epoch = last["seconds"] + last.get("evaluate_seconds", 0.0)

    def begin_epoch(self) -> None:
        """Stop the run if another epoch and a checkpoint do not fit into the time that is left."""
        self.began = time.monotonic()
        if self.deadline is not None and self.began + self.epoch + self.saving > self.deadline:
            if self.saved_epochs < len(self.history.traces):
                self._save()
            raise OutOfTime

    def end_epoch(self, *, last: bool) -> None:
        """Write the checkpoint, unless it is so large that its turn comes later."""
        now = time.monotonic()
        self.epoch = now - self.began
        if last or now - self.saved_at >= self.saving / CHECKPOINT_SHARE:
            self._save()

    def _save(self) -> None:
        if self.path is None or not self.writes:
            return
        start = time.monotonic()
        state = {name: part.state_dict() for name, part in self.parts.items()}
        n_bytes = save_checkpoint(self.path, state | {"traces": self.history.traces, "status": self.history.status})
        self.saved_epochs, self.saved_at = len(self.history.traces), time.monotonic()
        self.saving = self.saved_at - start if n_bytes > PIECE_BYTES else 0.0


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
