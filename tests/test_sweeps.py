"""Sweeps on a real scheduler with workers in processes of their own, which are killed, hang and crash."""

import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import psutil
import pytest
import torch
from filelock import FileLock
from test_experiments import numbers, smoke, wait_for

from regroup_lib import cli, experiments, plans, sweeps
from regroup_lib.checkpoints import load_checkpoint, remove_checkpoint
from regroup_lib.checks import check_results
from regroup_lib.files import read_npz
from regroup_lib.records import checkpoint_path, load_records
from regroup_lib.specs import Spec
from regroup_lib.sweeps import SweepError, Unfinished, sweep

pytestmark = pytest.mark.usefixtures("one_thread")

# What a worker does with a seed, in the place of training; all others train.
CRASHES, HANGS, RAISES, EATS, FLAKY = 101, 102, 103, 104, 105
PRELOAD = f"""
import os, signal, time
from pathlib import Path
from regroup_lib import experiments, sweeps
train = getattr(experiments.train, "wraps", experiments.train)
run = getattr(sweeps.run, "wraps", sweeps.run)

def note(checkpoint):
    log = Path(checkpoint).parents[1] / "tries"
    with log.open("a") as stream:
        stream.write(f"{{Path(checkpoint).stem}}\\n")
    return log.read_text().split().count(Path(checkpoint).stem)

def patched(*args, seed, checkpoint, **options):
    tries = note(checkpoint)
    if seed == {CRASHES}:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == {HANGS}:
        while True: pass
    if seed == {RAISES}:
        raise RuntimeError("the loop is broken")
    if seed == {EATS}:
        kept = []
        while True:
            kept.append(bytearray(os.urandom(2**20)) * 64)
            time.sleep(0.1)
    if seed == {FLAKY} and tries < 3:
        raise OSError("the disk was away")
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


def workers_of(pid):
    """Return the worker processes below a process."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended a moment ago, or a zombie
            found += [process] if "spawn_main" in " ".join(process.cmdline()) else []
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


@pytest.mark.slow
def test_fifty_killed_workers_cost_no_record(client, unharmed, tmp_path):
    total = 0
    for round_ in range(50):
        total += killed_sweep(client, unharmed, tmp_path / str(round_), kills=10, seed=round_)
        if total >= 50:
            return


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


def test_a_run_that_raises_is_tried_three_times_and_its_traceback_is_shown(client, tmp_path):
    raising, flaky = smoke(seed=RAISES), smoke(seed=FLAKY)
    with pytest.raises(SweepError, match=r"(?s)1 of 2 runs failed.*RuntimeError: the loop is broken") as raised:
        sweep([raising, flaky], client=client, results_dir=tmp_path)
    assert 'preload.py", line' in raised.value.tracebacks[raising]  # where it happened, on the worker
    assert raised.value.tracebacks[raising] in str(raised.value)
    assert [tries(tmp_path, spec) for spec in (raising, flaky)] == [3, 3]
    assert [record.spec for record in load_records(tmp_path)] == [flaky]


def test_what_is_wrong_with_a_spec_is_not_tried_again_and_is_one_line(client, tmp_path):
    with pytest.raises(SweepError, match="DataError") as raised:
        sweep([smoke(task="cifar10-cat")], client=client, results_dir=tmp_path, data_dir=tmp_path)
    assert "Traceback" not in str(raised.value)


def test_a_run_that_hangs_is_ended_at_its_time_limit(client, tmp_path):
    hanging, sound = smoke(seed=HANGS), smoke(epochs=1)
    sweep([sound], client=client, results_dir=tmp_path)  # it may take longer than that on a busy machine
    with pytest.raises(SweepError, match=r"1 of 2 runs .*\n.*LostWorkers: .* or took longer than 3 s"):
        sweep([hanging, sound], client=client, results_dir=tmp_path, time_limit=3)
    assert tries(tmp_path, hanging) == 3
    assert [record.spec for record in load_records(tmp_path)] == [sound]


def interrupting_clock(condition):
    """Return a clock whose sleep is interrupted, as by Ctrl-C, once a condition holds."""

    def sleep(seconds):
        if condition():
            raise KeyboardInterrupt
        time.sleep(seconds)

    return SimpleNamespace(sleep=sleep, monotonic=time.monotonic)


def test_what_another_process_runs_does_not_keep_a_worker_from_other_runs(tmp_path):
    held, free = smoke(epochs=1), smoke(epochs=1, seed=1)
    (tmp_path / ".locks").mkdir()
    with FileLock(tmp_path / ".locks" / f"{held.key}.lock") as lock, ThreadPoolExecutor(1) as pool:
        swept = pool.submit(sweep, [held, free], workers=1, results_dir=tmp_path)
        wait_for(free.path(tmp_path).exists)
        assert not held.path(tmp_path).exists()
        lock.release()
        assert [record.spec for record in swept.result()] == [held, free]


def test_a_run_takes_its_share_of_a_workers_resources(client, tmp_path, caplog, monkeypatch):
    specs = [smoke(epochs=1), smoke("rg-true", epochs=1)]
    assert [r.spec for r in sweep(specs, client=client, results_dir=tmp_path, resources={"GPU": 1})] == specs
    # Where no worker has so many, that is said, and the sweep waits: a worker may come.
    monkeypatch.setattr(sweeps, "WARN_AFTER", 0.2)

    monkeypatch.setattr(sweeps, "time", interrupting_clock(lambda: caplog.records))
    with pytest.raises(KeyboardInterrupt):
        sweep([smoke(seed=9)], client=client, results_dir=tmp_path, resources={"GPU": 2})
    assert "1 runs wait for a worker with GPU=2; the scheduler has none" in caplog.text
    assert len(load_records(tmp_path)) == 2


def test_an_interrupted_sweep_takes_back_what_has_not_started_and_goes_on_when_started_again(
    client, unharmed, tmp_path, monkeypatch
):
    specs, expected = unharmed
    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "time", interrupting_clock(lambda: load_records(tmp_path)))
        with pytest.raises(KeyboardInterrupt):
            sweep(specs, client=client, results_dir=tmp_path)
    wait_for(lambda: not any(client.processing().values()))
    before = len(load_records(tmp_path))
    assert 1 <= before < len(specs)
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
            patch.setattr(sweeps, "CODE_VERSION", "9.9.9+000000000000")
            with pytest.raises(SweepError, match=r"the worker has regroup_lib .*, the sweep 9\.9\.9"):
                sweep([smoke(seed=5)], client=client, results_dir=tmp_path / "ours")


# ---------------------------------------------------------------- worker processes of this machine


def test_a_worker_process_that_is_killed_is_started_again(unharmed, tmp_path, monkeypatch):
    specs, expected = unharmed
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # one thread, as in the sweep that is compared

    before = {p.pid for p in workers_of(os.getpid())}

    def workers():
        started = [p for p in workers_of(os.getpid()) if p.pid not in before]
        return started if list(tmp_path.rglob("*.pt")) else []

    killer = Killer(workers, 1, 0)
    killer.start()
    try:
        sweep(specs, workers=1, results_dir=tmp_path)
    finally:
        killer.over.set()
        killer.join()
    assert killer.killed == 1
    is_whole(tmp_path, expected)


SCRIPT = """
import os
from regroup_lib.specs import Spec
from regroup_lib.sweeps import sweep
if __name__ == "__main__":
    os.cpu_count = lambda: 1  # one thread
    spec = Spec(profile="smoke", task="digits-0", method="ce", epochs=10_000)
    sweep([spec], workers=1, results_dir={results!r})
"""


def test_control_c_ends_a_sweep_and_its_workers(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(results=str(tmp_path / "results")))
    command = [sys.executable, tmp_path / "script.py"]
    checkpoint = tmp_path / "results" / ".checkpoints" / f"{smoke(epochs=10_000).key}.pt"
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    wait_for(checkpoint.exists, seconds=600)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: every process gets it
    _, err = process.communicate(timeout=120)
    assert "\nKeyboardInterrupt\n" in err
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    assert load_records(tmp_path / "results") == []


def test_a_run_that_takes_more_memory_than_its_limit_ends_its_worker_and_not_the_others(tmp_path):
    with cluster(tmp_path, "--memory-limit", "1.2 GB", n_workers=1) as client:
        sound = smoke(epochs=1)
        with pytest.raises(SweepError, match=rf"digits-0 ce seed {EATS}: LostWorkers: .*ran out of memory"):
            sweep([smoke(seed=EATS), sound], client=client, results_dir=tmp_path / "results")
        assert [record.spec for record in load_records(tmp_path / "results")] == [sound]


# ---------------------------------------------------------------- what is refused, and the command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0; expected at least 1"),
        ({"minutes": 0}, "minutes is 0; expected more than 0"),
        ({"minutes": 1, "client": object()}, "minutes are for runs on this machine"),
        ({"minutes": 1, "recompute": True}, "recompute would begin again with every call"),
        ({"client": object(), "workers": 1}, "both a client and workers are given; name one of them"),
        ({"time_limit": 5}, "a time limit and a memory limit are for workers; name their number"),
        ({"memory_limit": "1 GB"}, "a time limit and a memory limit are for workers; name their number"),
        ({"workers": 1, "resources": {"GPU": 1}}, "resources are those of a client's workers; name a client"),
        ({"client": object(), "memory_limit": "1 GB"}, "start a cluster's with dask worker --memory-limit"),
        ({"workers": 1, "time_limit": 0}, "time_limit is 0; expected seconds above 0"),
        ({"workers": 1, "time_limit": float("nan")}, "time_limit is nan; expected seconds above 0"),
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
    monkeypatch.setattr(sys, "argv", ["regroup", *arguments, "--resource", "GPU=1", "--time-limit", "300"])
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


def test_a_sweep_in_slices_that_move_from_folder_to_folder_ends_in_the_same_records(unharmed, tmp_path, monkeypatch):
    specs, expected = unharmed
    trace = experiments._Trainer.trace

    def slow(trainer, network, epoch):
        time.sleep(0.5)
        return trace(trainer, network, epoch)

    monkeypatch.setattr(experiments._Trainer, "trace", slow)  # sixteen epochs, of which a slice has room for five
    records, folder, seconds = sliced(specs, tmp_path / "slice-0", 3 / 60)
    assert [record.spec for record in records] == specs
    is_whole(folder, expected)
    assert len(seconds) >= 2
    assert max(seconds) < 4  # an epoch that did not fit was not begun


def test_what_is_not_training_is_interrupted_at_the_deadline_too(tmp_path, monkeypatch):
    def endless(*args, **options):
        while True:
            time.sleep(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(experiments, "training_labels", endless)
        start = time.monotonic()
        with pytest.raises(Unfinished, match="0 of 1 runs are recorded"):
            sweep([smoke(epochs=1)], results_dir=tmp_path, minutes=0.02)
        assert time.monotonic() - start < 2.2
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert len(sweep([smoke(epochs=1)], results_dir=tmp_path)) == 1


def test_what_failed_is_said_where_the_minutes_are_over_too(tmp_path, monkeypatch):
    long = smoke(epochs=10_000)
    with pytest.raises(Unfinished, match=r"(?s)1 of 2 runs failed.*cifar10-cat ce seed 0: DataError.*1 runs are left"):
        sweep([smoke(task="cifar10-cat"), long], results_dir=tmp_path, data_dir=tmp_path, minutes=0.05)
    assert checkpoint_path(long, tmp_path).exists()


def test_worker_processes_stop_within_the_minutes_and_the_next_call_goes_on(unharmed, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # one thread each
    specs, expected = unharmed
    long = smoke(epochs=10_000)
    for _ in range(10):  # on a busy machine half a minute goes into starting the processes
        start = time.monotonic()
        with pytest.raises(Unfinished, match="of 5 runs are recorded"):
            sweep([long, *specs], results_dir=tmp_path, workers=2, minutes=1)
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told to keep memory")
def test_a_worker_keeps_the_memory_that_a_run_frees_and_takes_again(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")  # as a cluster that ran in this process leaves it

    def faults():  # within the test: it goes to the worker by value
        import resource

        import numpy as np

        found = []
        for _ in range(20):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            # 2 MB: 512 pages, and too small for huge ones. Together more than the 64 MB after which an arena other than
            # the main thread's gives back whatever it was told.
            [np.ones(2**18) for _ in range(60)]
            found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        return found

    with sweeps._local_client(1, None) as client:
        found = client.submit(faults).result()
    assert statistics.median(found) < 100
    assert os.environ["MALLOC_TRIM_THRESHOLD_"] == "65536"
