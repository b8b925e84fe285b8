"""Many runs: in this process, in worker processes of this machine, or on a Dask cluster.

A worker receives a spec of some hundred bytes and reads the data by path; a cluster sends back the record's two files.
So a worker needs only this package and a data directory. If it also sees the results directory of the sweep, a run
whose worker dies continues on another worker from its last epoch.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
import uuid
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from regroup_lib.files import atomic_path, results_directory
from regroup_lib.nn.checkpoints import OutOfTime
from regroup_lib.progress import progress_bar, silence
from regroup_lib.runs.prepare import Busy
from regroup_lib.runs.records import CODE_VERSION, Record, checkpoint_path, load_record
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import AnySpec

if TYPE_CHECKING:
    from distributed import Client


logger = logging.getLogger(__name__)

TRIES = 3  # starts of a run that may end their worker before an epoch is finished
BUSY_WAIT = 0.5  # seconds before another look at a run that another process computes
STOPS_AT = 0.97  # share of its minutes after which a sweep begins to stop
CLOSING = 2.0  # seconds that a process has to stop by itself before it is killed
# Training frees its activations at every step. Without these settings glibc returns that memory to the system and takes
# it back as page faults: an epoch of HAM10000 then takes 4.0 s instead of 2.7 s. They keep up to 1 GB, in pieces up to
# 32 MB, in the main thread's arena.
KEEPING_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LOST = f"{TRIES} workers ended while they ran it, without finishing an epoch: "
LOST += "they crashed, were killed, or ran out of memory"


class SweepError(RuntimeError):
    """Some runs of a sweep failed; the others are recorded."""


class Unfinished(RuntimeError):
    """The time limit of a sweep was reached; the same call continues it."""


class LostWorkers(RuntimeError):
    """A run repeatedly ended its worker."""


def sweep(
    specs: Iterable[AnySpec],
    *,
    client: Client | None = None,
    workers: int | None = None,
    results_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    recompute: bool = False,
    minutes: float | None = None,
    resources: Mapping[str, float] | None = None,
) -> list[Record]:
    """Run many specs and return their records in the order given.

    Parameters
    ----------
    specs : iterable of Spec, EncoderSpec, TableSpec or LookSpec
    client : distributed.Client, optional
        Run on the workers of its scheduler (extra ``cluster``), one run per thread. They have this version of this
        package, and data of their own (``REGROUP_DATA`` there, where `data_dir` is not given).
    workers : int, optional
        Run in this many processes on this machine, the cores divided among them; default: in this process.
    results_dir, data_dir, recompute
        See `run`. On workers of a cluster that do not see `results_dir`, the path is one of their own, and records
        come back over the network.
    minutes : float, optional
        Stop within this many minutes; the same call continues at the last epoch. All that it needs for that is in
        `results_dir`, hidden folders included, in files below 16 MB, and may be copied to another machine in between.
        The runs are then in one process of their own, if no `workers` are given.
    resources : mapping of str to float, optional
        A run's share of a worker's resources, with a client. With workers started as
        ``dask worker ADDRESS --nthreads 1 --resources GPU=1``, ``{"GPU": 1}`` is one run per GPU.

    Raises
    ------
    SweepError
        At the end, if runs failed; the message names each with its error. All others are recorded.
    Unfinished
        If the minutes were too few for all runs; the message says how many are recorded.

    Notes
    -----
    A spec that is named twice is run once. Several sweeps may share a results directory: a spec that another process
    runs, or whose features it computes, is put last, and waited for.

    A run whose worker dies (killed, crashed, out of memory) continues at its last epoch on another one; other runs
    are unaffected. It is given up after three starts that ended its worker before the next epoch was finished. A sweep
    that is interrupted (Ctrl-C) ends its processes, or withdraws runs that a cluster has not started; the same call
    continues.
    """
    named = list(specs)
    once = list(dict.fromkeys(named))
    for wrong, what in (
        (workers is not None and workers < 1, f"workers is {workers}; expected at least 1"),
        (client is not None and workers is not None, "both a client and workers are given; name one of them"),
        (client is None and resources, "resources are those of a client's workers; name a client"),
        (minutes is not None and not minutes > 0, f"minutes is {minutes}; expected more than 0"),
        (minutes and client, "minutes are for runs on this machine; leave them out, or name a number of workers"),
        (minutes and recompute, "recompute would begin again with every call; leave it out, or leave the minutes out"),
    ):
        if wrong:
            raise ValueError(what)
    # The same paths for all workers, whatever directory they were started in.
    results, data = results_directory(results_dir).absolute(), data_dir and Path(data_dir).absolute()
    options = {"results_dir": results, "data_dir": data, "recompute": recompute}
    deadline = None if minutes is None else time.monotonic() + 60 * STOPS_AT * minutes
    if client is not None:
        place = _on_cluster(client, resources or {})
    elif workers is None and minutes is None:
        place = nullcontext((_submit_here, 1))
    else:
        place = _in_processes(workers or 1, deadline)
        options["deadline"] = deadline and deadline - CLOSING
    records: dict[AnySpec, Record] = {}
    failures: list[tuple[AnySpec, _Outcome]] = []
    with place as (submit, n_slots), progress_bar(total=len(once), desc="sweep", unit="run") as bar, silence():
        for spec, outcome in _outcomes(once, submit, n_slots, options):
            if outcome.state == "recorded":
                records[spec] = _received(spec.path(results), outcome.files)
            elif outcome.state == "failed":
                failures.append((spec, outcome))
            bar.update()
    _raise_failures(once, len(records), failures)
    return [records[spec] for spec in named]


class _Outcome(NamedTuple):
    """The outcome of a run; errors are text, because not every exception can be sent from a worker."""

    state: Literal["recorded", "failed", "busy", "stopped"]  # busy: another process runs it; stopped: time is over
    what: str = ""  # the record's path, or the error
    traceback: str = ""  # empty if the message explains the error
    files: tuple[bytes, ...] = ()  # the record and its arrays, where they come back from a cluster


def _failed(error: Exception) -> _Outcome:
    explained = isinstance(error, ValueError | OSError | LostWorkers)
    text = "" if explained else "".join(traceback.format_exception(error))
    return _Outcome("failed", f"{type(error).__name__}: {error}", text)


def _outcomes(
    specs: Sequence[AnySpec], submit: Callable[..., Future], n_slots: int, options: dict[str, Any]
) -> Iterator[tuple[AnySpec, _Outcome]]:
    """Run specs, `n_slots` at a time, and yield each with its final outcome."""
    waiting, lost = deque(specs), Counter()
    running: dict[Future, tuple[AnySpec, int]] = {}
    while waiting or running:
        while waiting and len(running) < n_slots:
            spec = waiting.popleft()
            epoch = _last_epoch(spec, options)
            recorded = spec.path(options["results_dir"]).exists() and not epoch and not options["recompute"]
            running[(_submit_here if recorded else submit)(spec, options)] = spec, epoch
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            spec, epoch = running.pop(future)
            try:
                outcome = future.result()
            except Exception as error:  # the worker is lost
                lost[spec] = lost[spec] + 1 if _last_epoch(spec, options) == epoch else 1
                if lost[spec] < TRIES:
                    waiting.appendleft(spec)
                    continue
                outcome = _failed(error)
            if outcome.state == "busy":
                waiting.append(spec)
            else:
                yield spec, outcome


def _last_epoch(spec: AnySpec, options: dict[str, Any]) -> int:
    """Return a number that changes when a run writes its checkpoint."""
    checkpoint = checkpoint_path(spec, options["results_dir"])
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0


def _attempt(spec: AnySpec, options: dict[str, Any]) -> _Outcome:
    """Run a spec in this process."""
    try:
        with silence():
            return _Outcome("recorded", str(run(spec, **options, wait=False).path))
    except OutOfTime:
        return _Outcome("stopped")
    except Busy:
        time.sleep(BUSY_WAIT)
        return _Outcome("busy")
    except Exception as error:  # one bad run must not cost the others
        return _failed(error)


def _submit_here(spec: AnySpec, options: dict[str, Any]) -> Future:
    """Run a spec in this process, or read its record, and return a finished future."""
    future: Future = Future()
    future.set_result(_attempt(spec, options))
    return future


def _received(path: Path, files: tuple[bytes, ...]) -> Record:
    """Return a record; files that came over the network are written first."""
    if files and not (path.exists() and path.read_bytes() == files[0]):
        for target, content in zip((path.with_suffix(".npz"), path), reversed(files), strict=True):
            with atomic_path(target) as written:
                written.write_bytes(content)
    return load_record(path)


def _raise_failures(specs: Sequence[AnySpec], n_recorded: int, failures: Sequence[tuple[AnySpec, _Outcome]]) -> None:
    left = len(specs) - n_recorded - len(failures)
    if left and not failures:
        raise Unfinished(f"{n_recorded} of {len(specs)} runs are recorded; the same call continues with the others")
    named = [(f"{spec.task} {spec.label} seed {spec.seed}:", failure) for spec, failure in failures]
    lines = [f"{len(failures)} of {len(specs)} runs failed, the others are recorded:"]
    lines += [f"{name} {failure.what}" for name, failure in named]
    # One traceback for all runs that failed in the same way.
    shown = {failure.traceback: name for name, failure in named if failure.traceback}
    lines += [f"\n{name}\n{text}" for text, name in shown.items()]
    if left:
        raise Unfinished("\n".join([*lines, f"{left} runs are left"]))
    if failures:
        raise SweepError("\n".join(lines))


# The function that starts a run somewhere, and how many runs are started at a time.
_Place = tuple[Callable[..., Future], int]


@contextmanager
def _in_processes(workers: int, deadline: float | None) -> Iterator[_Place]:
    """Run in processes of this machine, each a pool of one, so that one that dies takes no other run with it."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    environment = KEEPING_MEMORY | dict.fromkeys(THREADS, threads)
    pools: list[ProcessPoolExecutor] = []
    own = threading.local()
    # joblib replaces a process that has grown, and wrongly warns of a leak.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")

    def supervise(*arguments: Any) -> Any:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= CLOSING:
            return _Outcome("stopped")
        if getattr(own, "pool", None) is None:
            own.pool = ProcessPoolExecutor(1, env=environment, initializer=_end_with, initargs=(os.getpid(),))
            pools.append(own.pool)
        try:
            return own.pool.submit(_attempt, *arguments).result(left)
        except TimeoutError:  # unlike training, encoding, clustering and measuring have no deadline
            own.pool.shutdown(kill_workers=True)
            return _Outcome("stopped")
        except TerminatedWorkerError:
            own.pool = None
            raise LostWorkers(LOST) from None

    # A terminal sends Ctrl-C to all processes. It is blocked in the children, which this process ends.
    block = (signal.SIG_BLOCK, {signal.SIGINT})
    supervisors, interrupted = ThreadPoolExecutor(workers, "sweep", signal.pthread_sigmask, block), True
    try:
        yield partial(supervisors.submit, supervise), workers
        interrupted = False
    finally:
        for pool in pools:
            pool.shutdown(kill_workers=interrupted)
        supervisors.shutdown()


def _end_with(parent: int) -> None:
    """End this process soon after its parent, so that no run survives a killed sweep."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _on_cluster(client: Client, resources: Mapping[str, float]) -> Iterator[_Place]:
    """Run on the workers of a scheduler, which receives all runs at once, so that it can request more workers."""
    known = client.scheduler_info(n_workers=-1)["workers"].values()
    if not any(all(worker["resources"].get(name, 0) >= n for name, n in resources.items()) for worker in known):
        wanted = "".join(f" with {name}={n:g}" for name, n in resources.items())
        logger.warning("the runs wait for a worker%s; the scheduler has none yet", wanted)
    executor = client.get_executor(pure=False, resources=dict(resources) or None)
    try:
        yield partial(executor.submit, _attempt_on_cluster, CODE_VERSION, f"sweep-{uuid.uuid4().hex}"), sys.maxsize
    finally:
        executor.shutdown(wait=False)  # withdraws runs that have not started


def _attempt_on_cluster(code: str, topic: str, spec: AnySpec, options: dict[str, Any]) -> _Outcome:
    """Run a spec on a worker and return its record's files, too.

    The scheduler does not know which run ended a worker. So each start is logged there, and a run that was started
    `TRIES` times without finishing an epoch fails.
    """
    from distributed import get_client

    if code != CODE_VERSION:
        what = f"the worker has regroup_lib {CODE_VERSION}, the sweep {code}; install one on both"
        return _failed(ValueError(what))
    start = [spec.key, _last_epoch(spec, options)]
    events = [list(event) for _, event in get_client().get_events(topic) if event[0] == spec.key]
    if events[-TRIES:] == TRIES * [start]:
        return _failed(LostWorkers(LOST))
    get_client().log_event(topic, start)
    outcome = _attempt(spec, options)
    if outcome.state == "busy":
        get_client().log_event(topic, [spec.key, outcome.state])
    if outcome.state != "recorded":
        return outcome
    path = Path(outcome.what)
    return outcome._replace(files=(path.read_bytes(), path.with_suffix(".npz").read_bytes()))
