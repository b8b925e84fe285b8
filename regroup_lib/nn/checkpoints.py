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
    resumed : int
        Epochs that were in the checkpoint which the run went on from.
    """

    traces: list[dict[str, Any]] = field(default_factory=list)
    status: str = "finished"
    resumed: int = 0

    @property
    def seconds(self) -> float:
        """Training time, without what `on_epoch` took."""
        return sum(trace["seconds"] for trace in self.traces)


class Draws:
    """A random generator as a part of a checkpoint."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.generator.set_state(state["state"].cpu())


def resume(path: Path, parts: dict[str, Any], device: torch.device) -> History:
    """Load a checkpoint into what goes on from it, each a part with ``state_dict``, and return the run's history.

    A damaged file is reported, and the parts stay as they are.
    """
    if not path.exists():
        return History()
    fresh = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        state = load_checkpoint(path, device)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return History(list(state["traces"]), state["status"], len(state["traces"]))
    except Exception as error:  # each defect raises a different class
        logger.warning("the checkpoint %s is damaged; the run starts again (%s)", path, error)
        for name, part in parts.items():
            part.load_state_dict(fresh[name])
        return History()


def remaining_epochs(
    n: int, history: History, parts: dict[str, Any], path: Path | None, deadline: float | None
) -> Iterator[int]:
    """Yield the numbers of the epochs that are left of `n`, and write the checkpoint after each.

    The caller appends a trace with ``seconds`` to the history. The last epoch is that whose trace has a true
    ``"stop"``, or that diverged. OutOfTime is raised if another does not fit into the time before the deadline.
    """
    traces, last = history.traces, history.traces[-1] if history.traces else {"seconds": 0.0}
    took = last["seconds"] + last.get("evaluate_seconds", 0.0)
    while len(traces) < n and history.status == "finished" and not (traces and traces[-1].get("stop")):
        began = time.monotonic()
        if deadline is not None and began + took > deadline:
            raise OutOfTime
        yield len(traces)
        if path is not None:
            state = {name: part.state_dict() for name, part in parts.items()}
            save_checkpoint(path, state | {"traces": traces, "status": history.status})
        took = time.monotonic() - began


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values in one step; where there is no room, the checkpoint before stays."""
    # Through memory, because torch's own write raises no error when the disk is full.
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_path(path) as partial:
        partial.write_bytes(content.getbuffer())


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote, its tensors on a device; nothing in the file is run."""
    with zipfile.ZipFile(path) as archive:  # torch.load compares no checksums
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
    return torch.load(path, map_location=device, weights_only=True)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, and what a process that was killed left half written."""
    for partial in path.parent.glob(f".{path.name}.*"):
        partial.unlink(missing_ok=True)
    path.unlink(missing_ok=True)  # last: while it is there, what an interruption leaves is removed the next time
