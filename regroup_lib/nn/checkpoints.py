"""Checkpoints: what a training run needs to go on, in one file that is renamed into place."""

from __future__ import annotations

import copy
import io
import logging
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from regroup_lib.files import atomic_path

logger = logging.getLogger(__name__)


class OutOfTime(BaseException):
    """The time for a run is over; its checkpoint is written. An interruption, as Ctrl-C is, and no error."""


@dataclass
class History:
    """What a training run leaves behind.

    Attributes
    ----------
    traces : list of dict
        One for each finished epoch: ``epoch``, ``train_loss``, ``images`` (seen), ``seconds``, and what the caller's
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
    """A run's history and checkpoint, and the time that it has left.

    A checkpoint that is there is loaded; a damaged one is reported, and the run starts from the beginning.

    Parameters
    ----------
    path : Path, optional
        The checkpoint; None: nothing is kept.
    deadline : float, optional
        A `time.monotonic` after which no epoch is to end.
    parts : dict of str to object
        What goes on from the checkpoint; each has ``state_dict`` and ``load_state_dict``.
    device : torch.device
        Of the tensors.

    Attributes
    ----------
    history : History
        The caller appends a trace with ``seconds`` for each epoch.
    """

    def __init__(self, path: str | Path | None, deadline: float | None, parts: dict[str, Any], device: torch.device):
        self.path, self.deadline, self.parts = None if path is None else Path(path), deadline, parts
        self.history = History()
        self.epoch = 0.0  # seconds that the last epoch took, with all that belongs to it
        if self.path is not None and self.path.exists():
            self._resume(device)

    def _resume(self, device: torch.device) -> None:
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
        if self.history.traces:
            last = self.history.traces[-1]
            self.epoch = last["seconds"] + last.get("evaluate_seconds", 0.0)

    def epochs(self, n: int) -> Iterator[int]:
        """Yield the numbers of the epochs that are left of `n`, and write the checkpoint after each.

        The last one is that whose trace has a true ``"stop"``, or that diverged.

        Raises
        ------
        OutOfTime
            If another epoch does not fit into the time that is left.
        """
        traces = self.history.traces
        while len(traces) < n and self.history.status == "finished" and not (traces and traces[-1].get("stop")):
            began = time.monotonic()
            if self.deadline is not None and began + self.epoch > self.deadline:
                raise OutOfTime
            yield len(traces)
            if self.path is not None:
                state = {name: part.state_dict() for name, part in self.parts.items()}
                save_checkpoint(self.path, state | {"traces": traces, "status": self.history.status})
            self.epoch = time.monotonic() - began


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values in one step.

    Raises
    ------
    DiskFullError
        If there is no room; the checkpoint that was there before is unchanged.
    """
    # Through memory: if the disk is full, Python's own write raises an error and torch's does not.
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_path(path) as partial:
        partial.write_bytes(content.getbuffer())


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, its tensors on a device.

    Raises
    ------
    Exception
        If the file is missing or damaged; each defect has a class of its own. Nothing in it is run.
    """
    with zipfile.ZipFile(path) as archive:  # torch.load compares no checksums
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
    return torch.load(path, map_location=device, weights_only=True)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, and what a process that was killed left half written."""
    for partial in path.parent.glob(f".{path.name}.*"):
        partial.unlink(missing_ok=True)
    path.unlink(missing_ok=True)  # last: while it is there, what an interruption leaves is removed the next time
