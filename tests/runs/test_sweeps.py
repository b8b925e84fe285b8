"""Sweeps in real processes and on a real Dask scheduler, whose workers are killed and crash."""

import itertools
import os
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import psutil
import pytest
import torch
from conftest import wait_for
from filelock import FileLock
from test_runs import PROCESSES, ended, numbers, smoke

from regroup_book import plans
from regroup_lib import cli
from regroup_lib.files import read_npz
from regroup_lib.nn import checkpoints
from regroup_lib.nn.checkpoints import OutOfTime, load_checkpoint
from regroup_lib.runs import sweeps
from regroup_lib.runs.records import checkpoint_path, load_records
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import Spec
from regroup_lib.runs.sweeps import SweepError, Unfinished, sweep
from regroup_lib.runs.verify import check_results

# What a worker does with a seed, or with a run beside whose record is a file `.crash`, instead of training.
CRASHES, RAISES = 101, 103
PRELOAD = f"""
import os, signal
from pathlib import Path
from regroup_lib.runs import networks, sweeps
train = getattr(networks.train, "wraps", networks.train)
run = getattr(sweeps.run, "wraps", sweeps.run)

def patched(*args, seed, checkpoint, **options):
    folder, key = Path(checkpoint).parents[1], Path(checkpoint).stem
    with (folder / "tries").open("a") as stream:
        stream.write(f"{{key}}\\n")
    crash = folder / f"{{key}}.crash"
    if seed == {CRASHES} or crash.exists():
        crash.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == {RAISES}:
        raise RuntimeError("the loop is broken")
    return train(*args, seed=seed, checkpoint=checkpoint, **options)

def elsewhere(spec, results_dir, **options):
    theirs = Path(results_dir).with_name("theirs")  # where there is such a folder, the workers do not see the sweep's
    return run(spec, results_dir=theirs if theirs.exists() else results_dir, **options)

# A preload is executed more than once in a process.
patched.wraps, elsewhere.wraps = train, run
networks.train, sweeps.run, sweeps.TRIES = patched, elsewhere, 2
"""


@pytest.fixture(autouse=True)
def bound():
    """End a test that hangs; each takes seconds on a quiet machine."""

    def give_up(*_):
        raise TimeoutError("the test hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(600)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Return a client of a scheduler with two workers, processes of their own."""
    import dask
    from distributed import LocalCluster

    folder = tmp_path_factory.mktemp("cluster")
    (folder / "preload.py").write_text(PRELOAD)
    options = {"preload": str(folder / "preload.py"), "local_directory": str(folder), "resources": {"GPU": 1}}
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10 minutes"}),  # a busy machine starts one slowly
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", **options) as cluster,
        cluster.get_client() as client,
    ):
        yield client


def workers_of_this_process():
    """Return the worker processes of sweeps that this process runs."""
    found = []
    for process in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended a moment ago, or a zombie
            found += [process] if "popen_loky" in " ".join(process.cmdline()) else []
    return found


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory):
    """Return the numbers of each record of a sweep that nothing disturbed, by key, and its specs."""
    specs = [
        smoke(method, encoder, seed=s, epochs=4) for s in (0, 1) for method, encoder in (("ce", None), ("rg", "raw"))
    ]
    return specs, contents(sweep(specs, results_dir=tmp_path_factory.mktemp("unharmed")))


def contents(records):
    return {
        r.key: (numbers(r.path), {n: a.tobytes() for n, a in read_npz(r.path.with_suffix(".npz")).items()})
        for r in records
    }


def is_whole(folder, expected):
    """Check that a results directory has each record, as expected, once, and nothing else."""
    assert contents(load_records(folder)) == expected
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock" and p.name != "tries"]
    assert len(files) == 2 * len(expected)


@contextmanager
def interrupted_when(condition):
    """Interrupt the main thread, as Ctrl-C does, once a condition holds."""
    over = threading.Event()

    def interrupt():
        while not over.wait(0.05):
            if condition():
                time.sleep(0.5)  # by then the sweep waits for its runs
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                return

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def tries(folder, spec):
    return (folder / "tries").read_text().split().count(spec.key)


def test_on_a_cluster_a_run_that_crashes_its_worker_fails_alone_and_what_raises_fails_with_its_traceback(
    client, unharmed, tmp_path
):
    specs, expected = unharmed
    crashing, raising, wrong = smoke(seed=CRASHES), smoke(seed=RAISES), smoke(task="cifar10-cat")
    with pytest.raises(SweepError, match="3 of 7 runs failed, the others are recorded") as raised:
        sweep([crashing, raising, wrong, *specs], client=client, results_dir=tmp_path, data_dir=tmp_path)
    message = str(raised.value)
    assert f"digits-0 ce seed {CRASHES}: LostWorkers: " in message
    assert f"digits-0 ce seed {RAISES}: RuntimeError: the loop is broken" in message
    assert 'preload.py", line' in message  # where it happened, on the worker
    assert message.count("Traceback") == 1
    assert "cifar10-cat ce seed 0: DataError" in message  # which is explained, in one line
    assert [tries(tmp_path, spec) for spec in (crashing, raising, specs[0])] == [2, 1, 1]
    is_whole(tmp_path, expected)


def test_a_run_takes_its_share_of_a_workers_resources(client, tmp_path, caplog):
    specs = [smoke(epochs=1), smoke("rg-true", epochs=1)]
    assert [r.spec for r in sweep(specs, client=client, results_dir=tmp_path, resources={"GPU": 1})] == specs
    # Where no worker has so many, that is said, and the sweep waits: a worker may come.
    with interrupted_when(lambda: caplog.records), pytest.raises(KeyboardInterrupt):
        sweep([smoke(seed=9)], client=client, results_dir=tmp_path, resources={"GPU": 2})
    assert "the runs wait for a worker with GPU=2; the scheduler has none yet" in caplog.text
    assert len(load_records(tmp_path)) == 2


def test_an_interrupted_sweep_takes_back_what_has_not_started_and_goes_on_when_started_again(
    client, unharmed, tmp_path
):
    specs, expected = unharmed
    with interrupted_when(lambda: load_records(tmp_path)), pytest.raises(KeyboardInterrupt):
        sweep(specs, client=client, results_dir=tmp_path)
    wait_for(lambda: not any(client.processing().values()))
    assert 1 <= len(load_records(tmp_path)) < len(specs)
    sweep(specs, client=client, results_dir=tmp_path)
    is_whole(tmp_path, expected)


def test_records_come_back_from_workers_with_a_disk_of_their_own_and_of_the_same_version(client, tmp_path, monkeypatch):
    specs, ours, theirs = [smoke(epochs=1), smoke("rg", "raw", epochs=1)], tmp_path / "ours", tmp_path / "theirs"
    theirs.mkdir()
    assert [record.spec for record in sweep(specs, client=client, results_dir=ours)] == specs
    assert len(load_records(theirs)) == 2
    assert check_results(ours).defects == []
    assert contents(load_records(ours)) == contents(load_records(theirs))
    monkeypatch.setattr(sweeps, "CODE_VERSION", "9.9.9+000000000000")
    with pytest.raises(SweepError, match=r"the worker has regroup_lib .*, the sweep 9\.9\.9"):
        sweep([smoke(seed=5)], client=client, results_dir=ours)


def test_a_run_whose_process_crashes_goes_on_and_one_that_always_crashes_fails_alone(unharmed, tmp_path, monkeypatch):
    specs, expected = unharmed
    crashing, wrong = smoke(seed=CRASHES), smoke(task="cifar10-cat")
    (tmp_path / f"{specs[0].key}.crash").touch()
    pool, environments = sweeps.ProcessPoolExecutor, []

    def preloaded(n, *, env, **options):
        environments.append(env)
        return pool(n, env=env, initializer=exec, initargs=(PRELOAD, {}))

    monkeypatch.setattr(sweeps, "ProcessPoolExecutor", preloaded)
    monkeypatch.setattr(sweeps, "TRIES", 2)  # each costs the start of a process
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # two workers then have one thread each, as the sweep compared
    with pytest.raises(SweepError, match="2 of 6 runs failed") as raised:
        sweep([crashing, wrong, *specs], workers=2, results_dir=tmp_path, data_dir=tmp_path)
    assert f"digits-0 ce seed {CRASHES}: LostWorkers: " in str(raised.value)
    assert "cifar10-cat ce seed 0: DataError" in str(raised.value)
    assert [tries(tmp_path, spec) for spec in (crashing, *specs)] == [2, 2, 1, 1, 1]
    is_whole(tmp_path, expected)
    assert {record.machine["threads"] for record in load_records(tmp_path)} == {1}  # the cores are divided
    assert environments[0].items() >= {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(2**30)}.items()


def test_what_another_process_runs_is_left_for_later(tmp_path):
    held, free = smoke(epochs=1), smoke(epochs=1, seed=1)
    (tmp_path / ".locks").mkdir()
    with FileLock(tmp_path / ".locks" / f"{held.key}.lock") as lock, ThreadPoolExecutor(1) as pool:
        swept = pool.submit(sweep, [held, free], results_dir=tmp_path)
        wait_for(free.path(tmp_path).exists)
        assert not held.path(tmp_path).exists()
        lock.release()
        assert [record.spec for record in swept.result()] == [held, free]


def long_sweep_by_command(results_dir):
    """Run the command in a session of its own, as a terminal does, with its output in files."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "out"), (2, "err")):
        with (results_dir / name).open("w") as stream:
            os.dup2(stream.fileno(), number)
    os.environ["REGROUP_RESULTS"] = str(results_dir)
    plans.PLANS["long"] = lambda profile, seeds, results_dir=None: [smoke(epochs=10_000)]
    sys.argv = ["regroup", "sweep", "long", "--profile", "smoke", "--seeds", "0", "--workers", "1"]
    cli.main()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_interrupted_or_killed_ends_its_workers(tmp_path, ending):
    process = PROCESSES.Process(target=long_sweep_by_command, args=(tmp_path,))
    process.start()
    wait_for(lambda: list(tmp_path.rglob(".locks/*.lock")) or process.exitcode is not None)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    if ending == signal.SIGINT:
        os.killpg(process.pid, ending)  # as a terminal does: every process gets it
    else:
        process.kill()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
    assert ended(process) == (130 if ending == signal.SIGINT else -signal.SIGKILL)
    if ending == signal.SIGINT:
        assert (tmp_path / "err").read_text() == ""
        last = (tmp_path / "out").read_text().splitlines()[-1]
        assert last == "interrupted; the same command goes on where it stopped"
    assert load_records(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0; expected at least 1"),
        ({"minutes": 0}, "minutes is 0; expected more than 0"),
        ({"minutes": 1, "client": object()}, "minutes are for runs on this machine"),
        ({"minutes": 1, "recompute": True}, "recompute would begin again with every call"),
        ({"client": object(), "workers": 1}, "both a client and workers are given; name one of them"),
        ({"workers": 1, "resources": {"GPU": 1}}, "resources are those of a client's workers; name a client"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        sweep([smoke()], results_dir=tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_the_command_sweeps_on_a_scheduler(client, tmp_path, monkeypatch, regroup):
    def small(profile, seeds, results_dir=None):
        return [Spec(profile=profile, task="digits-0", method="ce", epochs=1, seed=seed) for seed in seeds]

    monkeypatch.setitem(plans.PLANS, "small", small)
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path))
    address = client.scheduler.address
    arguments = ["sweep", "small", "--profile", "smoke", "--seeds", "0,1", "--scheduler", address]
    code, out, _ = regroup(*arguments, "--resource", "GPU=1")
    assert code == 0
    assert "2 records" in out
    assert (tmp_path / "tries").read_text().count("\n") == 2  # the workers trained, not this process


def test_a_scheduler_that_does_not_answer_is_one_line(regroup):
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        code, _, err = regroup("sweep", "encoders", "--scheduler", "tcp://127.0.0.1:1")
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith("error: no scheduler answers at 'tcp://127.0.0.1:1'")


def test_a_run_in_slices_that_move_from_folder_to_folder_ends_in_the_same_record(unharmed, tmp_path, monkeypatch):
    specs, expected = unharmed
    clock = itertools.count()  # it moves whenever training looks at it: twice per epoch
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    folder, slices = tmp_path / "0", 0
    for spec in specs:
        while True:
            try:
                run(spec, results_dir=folder, deadline=next(clock) + 3)
                break
            except OutOfTime:
                slices += 1
                folder = folder.rename(tmp_path / str(slices))
    assert slices >= 2 * len(specs)
    is_whole(folder, expected)


def test_whatever_a_process_is_doing_the_command_ends_it_at_the_deadline_and_says_how_far_it_came(
    tmp_path, monkeypatch, regroup
):
    monkeypatch.setattr(sweeps, "CLOSING", 0.0)
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path))
    monkeypatch.setitem(plans.PLANS, "long", lambda profile, seeds, results_dir=None: [smoke(epochs=1)])
    # The process is still starting, and importing.
    code, out, _ = regroup("sweep", "long", "--profile", "smoke", "--seeds", "0", "--minutes", "0.01")
    assert code == 75
    assert "stopped after 0.01 minutes: 0 of 1 runs are recorded; the same call continues" in out
    assert workers_of_this_process() == []
    assert len(sweep([smoke(epochs=1)], results_dir=tmp_path)) == 1


class InThisProcess:
    """In the place of a pool of processes: a start and its imports would take most of the minutes."""

    def __init__(self, *_, **__):
        pass

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, **_):
        pass


def test_within_its_minutes_a_sweep_trains_and_says_what_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "ProcessPoolExecutor", InThisProcess)
    wrong, long = smoke(epochs=1), smoke(epochs=10_000)
    wrong.path(tmp_path).parent.mkdir(parents=True)
    wrong.path(tmp_path).write_text("{")
    with pytest.raises(Unfinished, match=r"(?s)1 of 2 runs failed.*digits-0 ce seed 0.*damaged.*1 runs are left"):
        sweep([wrong, long], results_dir=tmp_path, minutes=0.1)
    assert load_checkpoint(checkpoint_path(long, tmp_path), torch.device("cpu"))["traces"]
