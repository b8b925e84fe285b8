"""Progress bars that appear only in a terminal or a notebook."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

# tqdm's own lock is a system semaphore, which a killed worker process would leave behind.
tqdm.set_lock(threading.RLock())

_silent: ContextVar[bool] = ContextVar("silent", default=False)


def progress_bar(**options: Any) -> tqdm:
    """Return a tqdm bar; it stays invisible without a terminal or notebook, and inside `silence`."""
    return tqdm(**options, disable=_silent.get() or not (sys.stderr.isatty() or _in_notebook()))


def _in_notebook() -> bool:
    # IPython may also be imported elsewhere, but only a notebook has a kernel.
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@contextmanager
def silence() -> Iterator[None]:
    """Hide the bars made inside; an outer bar covers them."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)
