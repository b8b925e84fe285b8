"""Checkpoints: the state from which a training run continues, in one file that is renamed into place."""

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
    """The time limit of a run was reached, and its checkpoint is written. Like Ctrl-C, this is no error."""


@dataclass
class History:
    """Traces and status of a training run.

    Attributes
    ----------
    traces : list of dict
        One for each finished epoch: ``epoch``, ``train_loss``, ``images`` (seen), ``seconds``, and the return
        value of `on_epoch`.
    status : {"finished", "diverged"}
    resumed : int
        Epochs in the checkpoint from which the run continued.
    """

    traces: list[dict[str, Any]] = field(default_factory=list)
    status: str = "finished"
    resumed: int = 0

    @property
    def seconds(self) -> float:
        """Training time, without that of `on_epoch`."""
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
    """Load a checkpoint into `parts`, objects with a ``state_dict``, and return the run's history.

    A damaged file is logged and changes nothing.
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
    """Yield the numbers of the remaining epochs of `n`, and write the checkpoint after each.

    The caller appends a trace with ``seconds`` to the history. An epoch that diverged, or whose trace has a true
    ``"stop"``, is the last. OutOfTime is raised if another epoch would end after the deadline.
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
    """Write tensors and plain values in one step; if the disk is full, the previous checkpoint is kept."""
    # Through memory, because torch's own write raises no error when the disk is full.
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_path(path) as partial:
        partial.write_bytes(content.getbuffer())


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a file of `save_checkpoint`, with its tensors on a device; nothing in the file is executed."""
    with zipfile.ZipFile(path) as archive:  # torch.load compares no checksums
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
    return torch.load(path, map_location=device, weights_only=True)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and the partial files of a killed process."""
    for partial in path.parent.glob(f".{path.name}.*"):
        partial.unlink(missing_ok=True)
    path.unlink(missing_ok=True)  # last, so that an interrupted removal is repeated the next time
