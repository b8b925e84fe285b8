"""Many runs: in this process, in worker processes of this machine, or on a Dask cluster.

A run is sent to a worker as its spec, some hundred bytes; data are read there, by path, and what comes back are the
record's two files. So a worker needs this package and a data directory, and no more. Where it also sees the results
directory of the sweep, a run whose worker dies goes on at its last epoch on another one.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
import traceback
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from threadpoolctl import threadpool_limits

from regroup_lib.checkpoints import OutOfTime
from regroup_lib.experiments import Busy, run
from regroup_lib.files import atomic_path, changed_environment, results_directory
from regroup_lib.progress import progress_bar, silence
from regroup_lib.records import CODE_VERSION, Record, checkpoint_path, load_record
from regroup_lib.specs import AnySpec

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

TRIES = 3
# Of a spec whose worker is lost before it can say that it started: the scheduler gives up after four each time.
MOST_RETURNS = 5
# Dask has workers give what is freed back to the system at once, and training frees its activations at every step:
# they come back as page faults, 4 of 10 seconds of a run. To glibc these say: keep up to 1 GB, in pieces up to 32 MB,
# in the main thread's arena. Runs are in another thread, whose own arena gives back whatever these say: an epoch of
# HAM10000 takes 4.0 s with it and 2.7 s without.
KEEPING_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}
STOPS_AT = 0.97  # of its minutes a sweep stops: what is left is for the stopping
CLOSING = 6.0  # seconds that it takes to end worker processes
BUSY_WAIT = 5.0  # seconds before a worker asks again for what another process computes
WARN_AFTER = 30.0  # seconds without a worker that a run could go to


class SweepError(RuntimeError):
    """Some runs of a sweep failed; the others are recorded.

    Attributes
    ----------
    tracebacks : dict of spec to str
        Where each failed, on the worker that it failed on.
    """

    def __init__(self, message: str, tracebacks: dict[Any, str]):
        super().__init__(message)
        self.tracebacks = tracebacks


class Unfinished(RuntimeError):
    """The minutes of a sweep are over; the same call goes on where it stopped."""


class LostWorkers(RuntimeError):
    """A run ended its worker again and again."""


def sweep(
    specs: Iterable[AnySpec],
    *,
    client: Client | None = None,
    workers: int | None = None,
    results_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    recompute: bool = False,
    minutes: float | None = None,
    time_limit: float | None = None,
    memory_limit: str | int | None = None,
    resources: Mapping[str, float] | None = None,
) -> list[Record]:
    """Run many specs and return their records in the order given.

    Parameters
    ----------
    specs : iterable of Spec, EncoderSpec or TableSpec
    client : distributed.Client, optional
        Run on the workers of its scheduler. They have this version of this package, and data of their own
        (``REGROUP_DATA`` there, where `data_dir` is not given).
    workers : int, optional
        Run in so many processes on this machine, the cores divided among them; default: in this process.
    results_dir, data_dir, recompute
        See `run`. On workers that do not see `results_dir`, the path is one of their own, and records come back over
        the network.
    minutes : float, optional
        Stop within so many minutes; the same call goes on at the last epoch. All that it needs for that lies in
        `results_dir`, hidden folders included, in files below 16 MB, and may be copied to another machine in between.
    time_limit : float, optional
        Seconds. A worker whose run takes longer is ended, and the run goes on from its checkpoint. Only with
        `workers`, or a client whose workers have one thread each.
    memory_limit : str or int, optional
        Of a worker process, such as ``"4 GB"``; beyond it the worker is ended. Only with `workers`: those of a client
        have the limit that they were started with.
    resources : mapping of str to float, optional
        What a run takes of a worker's resources, with a client. Of workers started as
        ``dask worker ADDRESS --nthreads 1 --resources GPU=1``, ``{"GPU": 1}`` is one run a GPU.

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

    On workers a run is tried three times. A try is one that raised (anything but a `ValueError`, which says that the
    spec or the data are wrong), or whose worker was lost before the next epoch was finished: one that loses its
    worker now and then and gets on in between is not given up. An interrupted sweep (Ctrl-C) takes back what has not
    started; start it again and it goes on.
    """
    named = list(specs)
    once = list(dict.fromkeys(named))
    options = {"results_dir": results_dir, "data_dir": data_dir, "recompute": recompute}
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; expected at least 1")
    if client is not None and workers is not None:
        raise ValueError("both a client and workers are given; name one of them")
    if client is None and workers is None and (time_limit or memory_limit):
        raise ValueError("a time limit and a memory limit are for workers; name their number or a client")
    if client is None and resources:
        raise ValueError("resources are those of a client's workers; name a client")
    if client is not None and memory_limit is not None:
        raise ValueError(
            "memory_limit is for workers on this machine; start a cluster's with dask worker --memory-limit"
        )
    if minutes is not None and not minutes > 0:
        raise ValueError(f"minutes is {minutes}; expected more than 0")
    if minutes is not None and client is not None:
        raise ValueError("minutes are for runs on this machine; leave them out, or name a number of workers")
    if minutes is not None and recompute:
        raise ValueError("recompute would begin again with every call; leave it out, or leave the minutes out")
    deadline = None if minutes is None else time.monotonic() + 60 * STOPS_AT * minutes
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"time_limit is {time_limit}; expected seconds above 0")
    if client is not None:
        records = _DaskSweep(client, once, options, time_limit, resources).records()
    elif workers is not None and once:
        with _local_client(workers, memory_limit) as local:
            threads = max(1, (os.cpu_count() or 1) // workers)
            late = None if deadline is None else deadline - CLOSING
            records = _DaskSweep(local, once, options, time_limit, None, threads=threads, deadline=late).records()
    else:
        records = _sweep_here(once, options, deadline)
    return [records[spec] for spec in named]


def _sweep_here(specs: Sequence[AnySpec], options: dict[str, Any], deadline: float | None) -> dict[Any, Record]:
    records, failures = {}, {}
    with suppress(OutOfTime), _interrupted_at(deadline):
        _run_one_by_one(specs, options | {"deadline": deadline}, records, failures)
    return _collected(specs, records, failures)


def _run_one_by_one(specs: Sequence[AnySpec], options: dict[str, Any], records: dict, failures: dict) -> None:
    waiting = deque(specs)
    with progress_bar(total=len(specs), desc="sweep", unit="run") as bar, silence():
        busy = 0
        while waiting:
            spec = waiting.popleft()
            bar.set_postfix_str(f"{spec.label} s{spec.seed}")
            try:
                records[spec] = run(spec, wait=False, **options)
            except Busy:
                waiting.append(spec)
                busy += 1
                if busy >= len(waiting):  # nothing else to do
                    time.sleep(0.5)
                continue
            except Exception as error:  # one bad run must not cost the others
                failures[spec] = _Failure.of(error)
            busy = 0
            bar.update()


@contextmanager
def _interrupted_at(deadline: float | None) -> Iterator[None]:
    """Raise `OutOfTime` in the block when a `time.monotonic` has come, whatever it is doing.

    Training stops by itself before; encoding, clustering and measuring do not. What they were at is lost.
    """
    # Python hands signals to the main thread alone; in another one training alone keeps the deadline.
    if deadline is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    # Again and again, as an exception raised in a destructor is lost.
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 1e-3), 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class _Failure:
    """Why a run failed, in words: an exception itself may not survive the way back from a worker."""

    what: str
    traceback: str
    explained: bool  # the message says what to mend
    final: bool  # another try would end in the same

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        what, text = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
        final = isinstance(error, ValueError | LostWorkers)
        return cls(what, text, explained=final or isinstance(error, OSError), final=final)


def _collected(specs: Sequence[Any], records: dict[Any, Record], failures: dict[Any, _Failure]) -> dict[Any, Record]:
    stopped = len(records) + len(failures) < len(specs)
    if not failures and not stopped:
        return records
    if stopped and not failures:
        raise Unfinished(f"{len(records)} of {len(specs)} runs are recorded; the same call goes on with the others")
    lines = [f"{len(failures)} of {len(specs)} runs failed, the others are recorded:"]
    lines += [f"{spec.task} {spec.label} seed {spec.seed}: {failure.what}" for spec, failure in failures.items()]
    # One traceback for all runs that failed at one place.
    shown = {failure.traceback: spec for spec, failure in failures.items() if not failure.explained}
    lines += [f"\n{spec.task} {spec.label} seed {spec.seed}:\n{text}" for text, spec in shown.items()]
    if stopped:
        raise Unfinished("\n".join(lines) + f"\n{len(specs) - len(records) - len(failures)} runs are left")
    raise SweepError("\n".join(lines), {spec: failure.traceback for spec, failure in failures.items()})


# ---------------------------------------------------------------- on workers


@contextmanager
def _local_client(workers: int, memory_limit: str | int | None) -> Iterator[Client]:
    """Start worker processes on this machine, which end with this process at the latest."""
    import dask
    from distributed import Client, LocalCluster

    # At its limit a worker is ended, and not paused: a run does not give memory back.
    settings: dict[str, Any] = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")}
    settings |= {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in KEEPING_MEMORY.items()}
    with (
        changed_environment(KEEPING_MEMORY),  # comes before the settings; an earlier cluster leaves its own
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            memory_limit=0 if memory_limit is None else memory_limit,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@dataclass(frozen=True)
class _Terms:
    """What a worker is told of the sweep."""

    topic: str
    code: str
    threads: int | None
    time_limit: float | None
    deadline: float | None


@dataclass(frozen=True)
class _Files:
    """A record's files, as they come back from a worker."""

    record: bytes
    arrays: bytes


class _Stopped:
    """In the place of a record: the run stopped at the deadline."""


class _Busy:
    """In the place of a record: another process does what the run needs."""


class _DaskSweep:
    """A sweep on the workers of a scheduler."""

    def __init__(
        self,
        client: Client,
        specs: Sequence[AnySpec],
        options: dict[str, Any],
        time_limit: float | None,
        resources: Mapping[str, float] | None,
        *,
        threads: int | None = None,
        deadline: float | None = None,
    ):
        self.client, self.specs = client, specs
        # The same paths for all workers, whatever directory they were started in.
        self.results = results_directory(options["results_dir"]).absolute()
        data = options["data_dir"]
        self.options = options | {"results_dir": self.results, "data_dir": data and Path(data).absolute()}
        self.priority = {spec: -i for i, spec in enumerate(specs)}
        self.terms = _Terms(f"regroup-sweep-{uuid.uuid4().hex}", CODE_VERSION, threads, time_limit, deadline)
        self.resources = dict(resources or {})
        self.running: dict[Any, Future] = {}
        self.raised, self.returned, self.busy = Counter(), Counter(), Counter()
        self.done: dict[Any, Record] = {}
        self.failures: dict[Any, _Failure] = {}

    def records(self) -> dict[Any, Record]:
        """Run all specs."""
        try:
            for spec in self.specs:
                self._submit(spec)
            self._wait()
        finally:
            # Runs that have not started are taken back when the sweep is interrupted.
            self.client.cancel(list(self.running.values()), force=True)
        return _collected(self.specs, self.done, self.failures)

    def _submit(self, spec: Any) -> None:
        attempt = self.raised[spec] + self.returned[spec] + self.busy[spec]
        self.running[spec] = self.client.submit(
            _run_on_worker,
            spec,
            self.options,
            self.terms,
            key=f"{self.terms.topic}-{spec.key}-{attempt}",
            pure=False,
            priority=self.priority[spec],
            resources=self.resources or None,
        )

    def _wait(self) -> None:
        idle_since = time.monotonic()
        with progress_bar(total=len(self.specs), desc="sweep", unit="run") as bar:
            while self.running and not self._is_late():
                ended = [spec for spec, future in self.running.items() if future.done()]
                for spec in ended:
                    self._take(spec, self.running.pop(spec))
                bar.update(len(self.done) + len(self.failures) - bar.n)
                if ended:
                    idle_since = time.monotonic()
                    continue
                if time.monotonic() - idle_since > WARN_AFTER:
                    self._warn_without_worker()
                    idle_since = time.monotonic()
                time.sleep(0.1)

    def _is_late(self) -> bool:
        return self.terms.deadline is not None and time.monotonic() >= self.terms.deadline

    def _take(self, spec: Any, future: Future) -> None:
        """Keep a run's record, or submit the run again, or give it up."""
        try:
            result = future.result()
        except Exception as error:
            # Its worker is lost, perhaps by another run's doing: on its next start the run sees how often it was.
            self._again(spec, _Failure.of(error), self.returned, MOST_RETURNS)
            return
        if isinstance(result, _Files):
            self.done[spec] = self._received(spec, result)
        elif isinstance(result, _Stopped):
            return
        elif isinstance(result, _Busy):
            self.busy[spec] += 1
            self.priority[spec] = -len(self.specs) - self.busy[spec]  # after all that has not been tried
            self._submit(spec)
        elif result.final:
            self.failures[spec] = result
        else:
            self._again(spec, result, self.raised, TRIES)

    def _again(self, spec: Any, failure: _Failure, counter: Counter, most: int) -> None:
        counter[spec] += 1
        if counter[spec] < most:
            self._submit(spec)
        else:
            self.failures[spec] = failure

    def _received(self, spec: Any, files: _Files) -> Record:
        """Write files that a worker has on a disk of its own, and read the record."""
        path = spec.path(self.results)
        if not path.exists() or path.read_bytes() != files.record:
            for target, content in ((path.with_suffix(".npz"), files.arrays), (path, files.record)):
                with atomic_path(target) as partial:
                    partial.write_bytes(content)
        return load_record(path)

    def _warn_without_worker(self) -> None:
        known = self.client.scheduler_info(n_workers=-1)["workers"].values()
        if not any(all(w["resources"].get(name, 0) >= n for name, n in self.resources.items()) for w in known):
            wanted = "".join(f" with {name}={n:g}" for name, n in self.resources.items())
            logger.warning("%d runs wait for a worker%s; the scheduler has none", len(self.running), wanted)


def _run_on_worker(spec: AnySpec, options: dict[str, Any], terms: _Terms) -> _Files | _Failure | _Stopped | _Busy:
    """Run a spec on a worker and return its record's files, or why there are none."""
    try:
        _check_worker(terms)
        _note_start(spec, options, terms)
        if terms.threads is not None:
            torch.set_num_threads(terms.threads)
            threadpool_limits(terms.threads)
        with silence(), _ended_after(terms.time_limit):
            path = run(spec, **options, wait=False, deadline=terms.deadline).path
        return _Files(path.read_bytes(), path.with_suffix(".npz").read_bytes())
    except OutOfTime:
        return _Stopped()
    except Busy:
        _note(spec, terms, "busy")
        time.sleep(BUSY_WAIT)
        return _Busy()
    except Exception as error:
        return _Failure.of(error)


def _check_worker(terms: _Terms) -> None:
    from distributed import get_worker

    if terms.code != CODE_VERSION:
        raise ValueError(f"the worker has regroup_lib {CODE_VERSION}, the sweep {terms.code}; install one on both")
    if terms.time_limit is not None and get_worker().state.nthreads > 1:
        raise ValueError("a time limit needs workers with one thread: start them with dask worker --nthreads 1")


def _note_start(spec: AnySpec, options: dict[str, Any], terms: _Terms) -> None:
    """Tell the scheduler that a run starts, so that the next try knows of this one if this process dies."""
    from distributed import get_client

    checkpoint = checkpoint_path(spec, options["results_dir"])
    epoch = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    events = [event for _, event in get_client().get_events(terms.topic) if event["spec"] == spec.key]
    if len(events) >= TRIES and all(event["epoch"] == epoch for event in events[-TRIES:]):
        limit = "" if terms.time_limit is None else f", or took longer than {terms.time_limit:g} s"
        raise LostWorkers(
            f"{TRIES} workers ended while they ran it, and no epoch was finished between: "
            f"they crashed, were killed, ran out of memory{limit}"
        )
    _note(spec, terms, epoch)


def _note(spec: AnySpec, terms: _Terms, epoch: int | str) -> None:
    from distributed import get_client

    get_client().log_event(terms.topic, {"spec": spec.key, "epoch": epoch})


@contextmanager
def _ended_after(seconds: float | None) -> Iterator[None]:
    """End this process if the block takes longer, even where no Python code gets a turn any more.

    Where it was at that moment is written to the worker's log.
    """
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
