"""Sweeps in real processes and on a real Dask scheduler, whose workers are killed and crash."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psutil
import pytest
import torch
from filelock import FileLock
from test_runs import numbers, smoke, wait_for

from regroup_book import plans
from regroup_lib import cli
from regroup_lib.files import read_npz
from regroup_lib.nn.checkpoints import load_checkpoint, remove_checkpoint
from regroup_lib.runs import sweeps
from regroup_lib.runs.records import checkpoint_path, load_records
from regroup_lib.runs.specs import Spec
from regroup_lib.runs.sweeps import SweepError, Unfinished, sweep
from regroup_lib.runs.verify import check_results

pytestmark = pytest.mark.usefixtures("one_thread")

# What a worker of the cluster does with a seed, in the place of training; all others train.
CRASHES, RAISES = 101, 103
PRELOAD = f"""
import os, signal
from pathlib import Path
from regroup_lib import experiments, sweeps
train = getattr(experiments.train, "wraps", experiments.train)
run = getattr(sweeps.run, "wraps", sweeps.run)

def patched(*args, seed, checkpoint, **options):
    with (Path(checkpoint).parents[1] / "tries").open("a") as stream:
        stream.write(f"{{Path(checkpoint).stem}}\\n")
    if seed == {CRASHES}:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == {RAISES}:
        raise RuntimeError("the loop is broken")
    return train(*args, seed=seed, checkpoint=checkpoint, **options)

def elsewhere(spec, **options):
    own = os.environ.get("OWN_RESULTS")
    return run(spec, **options | ({{"results_dir": own}} if own else {{}}))

# A preload is executed more than once in a process.
patched.wraps, elsewhere.wraps = train, run
experiments.train, sweeps.run = patched, elsewhere
"""


@contextmanager
def started(arguments, log, **environment):
    """Run `dask` with arguments, and end it with all its children."""
    command = [sys.executable, "-m", "dask", *map(str, arguments)]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | environment)
    try:
        yield process
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=20)
        process.wait()


@contextmanager
def cluster(folder, *options, n_workers=2, **environment):
    """Start a scheduler and workers; yield the scheduler's address and a function that returns worker processes."""
    from distributed import Client

    preload, file = folder / "preload.py", folder / "scheduler.json"
    preload.write_text(PRELOAD)
    scheduler = ["scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", file]
    worker = ["worker", "--scheduler-file", file, "--nthreads", "1", "--nworkers", n_workers, "--no-dashboard"]
    worker += ["--preload", preload, "--local-directory", folder, *options]
    with (
        started(scheduler, folder / "scheduler.log"),
        started(worker, folder / "worker.log", **environment) as nanny,
        Client(scheduler_file=str(file), timeout=120) as client,
    ):
        client.wait_for_workers(n_workers, timeout=300)

        client.processes = lambda: workers_of(nanny.pid)
        yield client


def workers_of(pid, module="spawn_main"):
    """Return the worker processes below a process: those of Dask, or those of joblib."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended a moment ago, or a zombie
            found += [process] if module in " ".join(process.cmdline()) else []
    return found


@pytest.fixture(scope="module")
def client(tmp_path_factory, one_thread):
    with cluster(tmp_path_factory.mktemp("cluster"), "--resources", "GPU=1") as client:
        yield client


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory, one_thread):
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


class Killer(threading.Thread):
    """Kill random worker processes at random moments until there were enough kills or the sweep is over."""

    def __init__(self, processes, kills, seed):
        super().__init__()
        self.processes, self.kills, self.random = processes, kills, random.Random(seed)
        self.over, self.killed = threading.Event(), 0

    def run(self):
        while self.killed < self.kills and not self.over.wait(self.random.uniform(0.2, 1.5)):
            there = self.processes()
            if there:
                self.random.choice(there).kill()
                self.killed += 1


def killed_sweep(client, unharmed, folder, kills, seed):
    specs, expected = unharmed
    killer = Killer(client.processes, kills, seed)
    killer.start()
    given_up = []
    try:
        # Three tries of one run may all be hit: the rest is recorded, and another sweep goes on.
        while len(given_up) < 20:
            try:
                records = sweep(specs, client=client, results_dir=folder)
                break
            except SweepError as error:
                given_up.append(str(error))
    finally:
        killer.over.set()
        killer.join()
    assert all("LostWorkers" in reason or "KilledWorker" in reason for reason in given_up)
    assert [record.spec for record in records] == specs
    is_whole(folder, expected)
    return killer.killed


def test_workers_that_are_killed_at_random_cost_no_record(client, unharmed, tmp_path):
    assert killed_sweep(client, unharmed, tmp_path, kills=3, seed=0) >= 1


def tries(folder, spec):
    return (folder / "tries").read_text().split().count(spec.key)


def test_a_run_that_crashes_its_worker_fails_alone_after_three_tries(client, unharmed, tmp_path):
    specs, expected = unharmed
    poisoned = smoke(seed=CRASHES)
    with pytest.raises(SweepError, match="1 of 5 runs failed, the others are recorded") as raised:
        sweep([poisoned, *specs], client=client, results_dir=tmp_path)
    assert f"digits-0 ce seed {CRASHES}: LostWorkers: 3 workers ended while they ran it" in str(raised.value)
    assert tries(tmp_path, poisoned) == 3
    is_whole(tmp_path, expected)


def test_what_raises_fails_at_once_with_its_traceback_and_what_is_explained_is_one_line(client, tmp_path):
    raising, wrong = smoke(seed=RAISES), smoke(task="cifar10-cat")
    with pytest.raises(SweepError, match=r"(?s)2 of 2 runs failed.*RuntimeError: the loop is broken") as raised:
        sweep([raising, wrong], client=client, results_dir=tmp_path, data_dir=tmp_path)
    assert 'preload.py", line' in str(raised.value)  # where it happened, on the worker
    assert "cifar10-cat ce seed 0: DataError" in str(raised.value)
    assert str(raised.value).count("Traceback") == 1
    assert tries(tmp_path, raising) == 1


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


def test_records_come_back_from_workers_with_a_disk_of_their_own(tmp_path):
    """Such a worker has another version of the results directory, and another version of the code is refused."""
    specs = [smoke(epochs=1), smoke("rg", "raw", epochs=1)]
    with cluster(tmp_path, n_workers=1, OWN_RESULTS=str(tmp_path / "theirs")) as client:
        records = sweep(specs, client=client, results_dir=tmp_path / "ours")
        assert [record.spec for record in records] == specs
        assert len(load_records(tmp_path / "theirs")) == 2
        assert check_results(tmp_path / "ours").defects == []
        assert contents(load_records(tmp_path / "ours")) == contents(load_records(tmp_path / "theirs"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(records, "CODE_VERSION", "9.9.9+000000000000")
            with pytest.raises(SweepError, match=r"the worker has regroup_lib .*, the sweep 9\.9\.9"):
                sweep([smoke(seed=5)], client=client, results_dir=tmp_path / "ours")


# ---------------------------------------------------------------- worker processes of this machine


@pytest.fixture
def two_cores(monkeypatch):
    """Two workers then have one thread each, as the sweep that is compared."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def running(spec, folder):
    """Return the worker processes that hold the lock of a run."""
    lock, found = str(folder / ".locks" / f"{spec.key}.lock"), []
    for process in workers_of(os.getpid(), "popen_loky"):
        with suppress(psutil.NoSuchProcess):
            found += [process] if lock in [file.path for file in process.open_files()] else []
    return found


def test_a_run_whose_process_is_killed_goes_on_and_one_that_always_is_fails_alone(unharmed, tmp_path, two_cores):
    specs, expected = unharmed
    poisoned, kills = smoke(epochs=10_000), []
    over = threading.Event()

    def kill():
        while not over.wait(0.05):
            for process in running(poisoned, tmp_path):
                # Before its first epoch is finished: a run that gets on in between is not given up.
                assert not checkpoint_path(poisoned, tmp_path).exists()
                process.kill()
                kills.append(process.pid)
            if not kills_of_others:
                for process in running(specs[0], tmp_path):
                    process.kill()
                    kills_of_others.append(process.pid)

    kills_of_others = []
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(SweepError, match="1 of 5 runs failed") as raised:
            sweep([poisoned, *specs], workers=2, results_dir=tmp_path)
    finally:
        over.set()
        killer.join()
    assert "digits-0 ce seed 0: LostWorkers: 3 workers ended while they ran it" in str(raised.value)
    assert len(kills) == 3
    assert len(kills_of_others) == 1
    is_whole(tmp_path, expected)


def test_worker_processes_keep_the_memory_that_a_run_frees_and_share_the_cores(tmp_path, two_cores):
    (tmp_path / ".locks").mkdir()
    held = smoke(epochs=1)
    with FileLock(tmp_path / ".locks" / f"{held.key}.lock") as lock, ThreadPoolExecutor(1) as pool:
        swept = pool.submit(sweep, [held], workers=2, results_dir=tmp_path)
        wait_for(lambda: workers_of(os.getpid(), "popen_loky"))
        environment = workers_of(os.getpid(), "popen_loky")[0].environ()
        lock.release()
        (record,) = swept.result()
    assert environment["MALLOC_ARENA_MAX"] == "1"
    assert environment["MALLOC_TRIM_THRESHOLD_"] == str(2**30)
    assert record.machine["threads"] == 1


def test_what_another_process_runs_does_not_keep_a_worker_from_other_runs(tmp_path):
    held, free = smoke(epochs=1), smoke(epochs=1, seed=1)
    (tmp_path / ".locks").mkdir()
    with FileLock(tmp_path / ".locks" / f"{held.key}.lock") as lock, ThreadPoolExecutor(1) as pool:
        swept = pool.submit(sweep, [held, free], workers=1, results_dir=tmp_path)
        wait_for(free.path(tmp_path).exists)
        assert not held.path(tmp_path).exists()
        lock.release()
        assert [record.spec for record in swept.result()] == [held, free]


COMMAND = """
import sys
from regroup_lib import cli, plans
from regroup_lib.specs import Spec
plans.PLANS["long"] = lambda profile, seeds, results_dir=None: [
    Spec(profile=profile, task="digits-0", method="ce", epochs=10_000, seed=seed) for seed in seeds
]
sys.argv = ["regroup", "sweep", "long", "--profile", "smoke", "--seeds", "0,1", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize("options", [[], ["--workers", "2"]])
def test_control_c_ends_a_sweep_with_its_workers_and_says_in_one_line_how_to_go_on(tmp_path, options):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"REGROUP_RESULTS": str(tmp_path)},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    wait_for(lambda: list(tmp_path.rglob("*.pt")), seconds=600)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process gets it
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == ""
    assert out.splitlines()[-1] == "interrupted; the same command goes on where it stopped"
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    assert load_records(tmp_path) == []


# ---------------------------------------------------------------- what is refused, and the command


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


def test_the_command_sweeps_on_a_scheduler(client, tmp_path, monkeypatch, capsys):
    def small(profile, seeds, results_dir=None):
        return [Spec(profile=profile, task="digits-0", method="ce", epochs=1, seed=seed) for seed in seeds]

    monkeypatch.setitem(plans.PLANS, "small", small)
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path))
    address = client.scheduler.address
    arguments = ["sweep", "small", "--profile", "smoke", "--seeds", "0,1", "--scheduler", address]
    monkeypatch.setattr(sys, "argv", ["regroup", *arguments, "--resource", "GPU=1"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    assert "2 records" in capsys.readouterr().out
    assert (tmp_path / "tries").read_text().count("\n") == 2  # the workers trained, not this process


def test_a_scheduler_that_does_not_answer_is_one_line(monkeypatch, capsys):
    import dask

    monkeypatch.setattr(sys, "argv", ["regroup", "sweep", "encoders", "--scheduler", "tcp://127.0.0.1:1"])
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no scheduler answers at 'tcp://127.0.0.1:1'")


# ---------------------------------------------------------------- in slices


def sliced(specs, folder, minutes, **options):
    """Sweep in slices, each from a copy of the folder that the one before left.

    Return the records, the last folder, and the seconds of each slice that did not come to the end.
    """
    seconds = []
    while len(seconds) < 100:
        start = time.monotonic()
        try:
            records = sweep(specs, results_dir=folder, minutes=minutes, **options)
            return records, folder, seconds
        except Unfinished:
            seconds.append(time.monotonic() - start)
        moved = folder.with_name(f"slice-{len(seconds)}")
        shutil.copytree(folder, moved)
        shutil.rmtree(folder)
        folder = moved


def test_a_sweep_in_slices_that_move_from_folder_to_folder_ends_in_the_same_records(tmp_path):
    specs = [smoke(epochs=400), smoke("rg", "raw", epochs=400)]
    expected = contents(sweep(specs, results_dir=tmp_path / "whole", workers=1))  # also in a process of its own
    records, folder, seconds = sliced(specs, tmp_path / "slice-0", 0.3)
    assert [record.spec for record in records] == specs
    is_whole(folder, expected)
    assert len(seconds) >= 1
    assert max(seconds) < 18


def test_whatever_a_process_is_doing_it_is_ended_at_the_deadline(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "CLOSING", 0.0)
    start = time.monotonic()
    with pytest.raises(Unfinished, match="0 of 1 runs are recorded"):  # it is still starting, and importing
        sweep([smoke(epochs=1)], results_dir=tmp_path, minutes=0.01)
    assert time.monotonic() - start < 5
    assert workers_of(os.getpid(), "popen_loky") == []
    assert len(sweep([smoke(epochs=1)], results_dir=tmp_path)) == 1


def test_within_the_minutes_what_failed_is_said_and_the_next_call_goes_on(unharmed, tmp_path, two_cores):
    specs, expected = unharmed
    wrong, long = smoke(task="cifar10-cat"), smoke(epochs=10_000)
    for _ in range(10):  # on a busy machine half a minute goes into starting the processes
        start = time.monotonic()
        with pytest.raises(
            Unfinished, match=r"(?s)1 of 6 runs failed.*cifar10-cat ce seed 0: DataError.*runs are left"
        ):
            sweep([wrong, long, *specs], results_dir=tmp_path, data_dir=tmp_path, workers=2, minutes=1)
        assert time.monotonic() - start < 60
        if len(load_records(tmp_path)) == len(specs):
            break
    assert len(load_checkpoint(checkpoint_path(long, tmp_path), torch.device("cpu"))["traces"]) > 4
    remove_checkpoint(checkpoint_path(long, tmp_path))
    is_whole(tmp_path, expected)


def test_the_command_stops_with_a_code_of_its_own_and_says_how_far_it_came(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path))
    monkeypatch.setitem(plans.PLANS, "long", lambda profile, seeds, results_dir=None: [smoke(epochs=10_000)])
    arguments = ["regroup", "sweep", "long", "--profile", "smoke", "--seeds", "0", "--minutes", "0.05"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 75
    assert "stopped after 0.05 minutes: 0 of 1 runs are recorded; the same call goes on" in capsys.readouterr().out
