"""Progress bars that show themselves to a person and to nobody else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

# tqdm's own lock is a semaphore of the system, which a worker process that is ended would leave behind.
tqdm.set_lock(threading.RLock())

_silent: ContextVar[bool] = ContextVar("silent", default=False)


def progress_bar(**options: Any) -> tqdm:
    """Return a tqdm bar; it stays invisible without a terminal or notebook, and inside `silence`."""
    return tqdm(**options, disable=_silent.get() or not (sys.stderr.isatty() or _in_notebook()))


def _in_notebook() -> bool:
    # IPython is imported in a notebook, and in other places too: a kernel runs in a notebook alone.
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@contextmanager
def silence() -> Iterator[None]:
    """Hide the bars made inside: an outer bar speaks for them."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)
