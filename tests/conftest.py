"""What all tests share: hypothesis without a clock, a private data directory, CIFAR real or of the same shape."""

import http.server
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import settings
from threadpoolctl import threadpool_limits

from regroup_lib import cli
from regroup_lib.data.sources import CIFAR10_NAMES, CIFAR100_NAMES
from regroup_lib.files import digest_file, write_npz
from regroup_lib.metrics import evaluate
from regroup_lib.runs import looks, networks, run
from regroup_lib.runs.records import Record
from regroup_lib.runs.specs import EncoderSpec, Spec

# A shared machine makes single examples slow now and then; CI draws the same examples each time.
settings.register_profile("regroup", deadline=None, max_examples=50, derandomize="CI" in os.environ)
settings.load_profile("regroup")

BROWSER_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
]
# What says of a claim that it holds, in another word than the five of `regroup_book.evidence.WORDS`.
OTHER_VERDICTS = re.compile(
    r"holds? in part|do(es)? not hold\b|partly holds?|\bC\d+\b[^.|<\n]{0,40}\bholds?\b", re.IGNORECASE
)
REAL_DATA = Path(os.environ["REGROUP_DATA"]) if os.environ.get("REGROUP_DATA") else None
CIFAR = {"cifar10": (CIFAR10_NAMES, 5000, 1000), "cifar100": (CIFAR100_NAMES, 500, 100)}


def has_real(name):
    """Tell whether the data directory of the environment holds a real file."""
    return REAL_DATA is not None and (REAL_DATA / name).exists()


def pytest_report_header():
    state = ", ".join(f"{name} {'real' if has_real(f'{name}.npz') else 'all-zero images'}" for name in CIFAR)
    state += "".join(f", {name} {'real' if has_real(name) else 'made up'}" for name in ("ham10000", "phrasebank"))
    return f"REGROUP_DATA: {REAL_DATA or 'not set'} ({state})"


@pytest.fixture(autouse=True, scope="session")
def private_data_directory(tmp_path_factory):
    """Keep feature caches out of the user's cache directory when no data directory is given."""
    with pytest.MonkeyPatch.context() as patch:
        if REAL_DATA is None:
            patch.setenv("REGROUP_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture
def empty_results(tmp_path, monkeypatch):
    """Return a results directory that is empty, and the one in use."""
    monkeypatch.setenv("REGROUP_RESULTS", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def close_figures():
    """Close what a test drew, where it drew."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="session")
def blank_cifar():
    """Return a function that makes arrays of CIFAR's full shape: the right labels, every image black."""

    def make(name):
        names, n_train, n_test = CIFAR[name]
        arrays = {"class_names": np.array(names)}
        for split, size in (("train", n_train), ("test", n_test)):
            arrays[f"{split}_labels"] = np.tile(np.arange(len(names), dtype=np.uint8), size)
            arrays[f"{split}_images"] = np.zeros((len(names) * size, 32, 32, 3), np.uint8)
        return arrays

    return make


@pytest.fixture(scope="session")
def cifar_directory(tmp_path_factory, blank_cifar):
    """Return a function from a name to a directory with that set: the real one where there is one."""
    made = {}

    def directory(name):
        if has_real(f"{name}.npz"):
            return REAL_DATA
        if name not in made:
            made[name] = tmp_path_factory.mktemp(f"blank-{name}")
            write_npz(made[name] / f"{name}.npz", blank_cifar(name), compress=True)
        return made[name]

    return directory


@pytest.fixture(scope="session")
def small_arrays():
    """Return a function that makes a small MedMNIST-style set: grey images, labels as a column, a val split."""

    def make(*, channels=None, counts=(12, 6, 9)):
        rng, arrays = np.random.default_rng(0), {}
        for split, count in zip(("train", "val", "test"), counts, strict=True):
            shape = (count, 8, 8) if channels is None else (count, 8, 8, channels)
            arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
            arrays[f"{split}_labels"] = (np.arange(count, dtype=np.uint8) % 3)[:, None]
        return arrays

    return make


@pytest.fixture
def measured_record(tmp_path):
    """Return a function that writes scores as a run does, and returns a record with what they measure."""

    def make(spec, labels, scores, class_names, *, arrays=None, **fields):
        """Take scores by rule and part; fields are the record's others."""
        stored, metrics = dict(arrays or {}), {}
        for rule, parts in scores.items():
            for part, values in parts.items():
                values = values.astype(np.float32)
                stored |= {f"{part}_labels": labels, f"{part}_scores_{rule}": values}
                result = evaluate(labels, values, class_names)
                metrics.setdefault(rule, {})[part] = result | {"summary": networks.summary(result)}
        # A number, as tests make several records of one spec.
        path = tmp_path / f"{len(list(tmp_path.glob('*.npz')))}-{spec.key}.json"
        write_npz(path.with_suffix(".npz"), stored)
        digest = digest_file(path.with_suffix(".npz"))
        made = {"status": "finished", "metrics": metrics, "data_digest": "d"} | fields
        return Record(spec=spec, path=path, arrays_digest=digest, **made)

    return make


@pytest.fixture
def binary_record(measured_record):
    """Return a function that makes a record of two classes whose positives score `lift` higher."""

    def make(spec, lift, *, validation=None, bias=-2.0, n=400, positives=40, rules=("max",), **fields):
        rng = np.random.default_rng([spec.seed, *spec.method.encode(), *spec.task.encode()])
        labels = (np.arange(n) < positives).astype(np.uint8)
        lifts = {"test": lift, "val": lift if validation is None else validation}
        scores = {part: 1 / (1 + np.exp(-(rng.normal(size=n) + up * labels + bias))) for part, up in lifts.items()}
        regroups = spec.method.startswith("rg")
        majority = [n - positives - 10, 10] if regroups else [n - positives]
        usual = {"traces": [{"train_loss": 0.1, "images": n}] * 2, "seconds": {"train": 9.0}}
        usual["regrouping"] = {"parent": [0] * len(majority) + [1], "counts": [*majority, positives]}
        lost = {} if fields.get("status", "finished") == "finished" else {"metrics": {}}
        scores = dict.fromkeys(rules if regroups else ("none",), scores)
        return measured_record(spec, labels, scores, ("not 0", "0"), **usual | fields | lost)

    return make


@pytest.fixture
def regroup(monkeypatch, capsys):
    """Return a function that runs the command in this process: exit code, output, errors."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["regroup", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in capsys.readouterr())  # colors, where CI has them
        return ended.value.code or 0, out, err

    return command


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def wait_for(condition, seconds=120):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def flip_bit(path):
    """Turn over one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Compute in one thread, here and in child processes: the networks here are too small to share out.

    Threads that wait for one another cost more than the work, above all where something else keeps a core busy, as
    the second process of the tests does.
    """
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def smoke_results(tmp_path_factory):
    """Return a results directory that `run` has filled: three methods and two encoders on digits, seeds 0 and 1.

    Tests read it; those that damage something copy it first.
    """
    folder, data = tmp_path_factory.mktemp("smoke-results"), tmp_path_factory.mktemp("smoke-data")
    common = {"profile": "smoke", "task": "digits-0"}
    training = {"epochs": 2, "variation_samples": 200}
    methods = {"ce": None, "rg": "raw", "rg-true": None}
    specs = [
        Spec(method=method, encoder=encoder, seed=seed, **common, **training)
        for method, encoder in methods.items()
        for seed in (0, 1)
    ]
    specs += [
        EncoderSpec(encoder="raw", seed=0, **common),
        EncoderSpec(encoder="autoencoder", seed=0, encoder_epochs=1, **common),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "EMBEDDED_POINTS", 100)  # t-SNE of all test digits takes seconds
        for spec in specs:
            run.run(spec, results_dir=folder, data_dir=data)
    return folder


@pytest.fixture
def server(monkeypatch):
    """Serve files over HTTP on this machine: its address, and a dict from "/path" to bytes or (status, bytes)."""
    answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.get(self.path, (404, b"not found"))
            status, content = answer if isinstance(answer, tuple) else (200, answer)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield SimpleNamespace(address=f"http://127.0.0.1:{listening.server_port}", answers=answers)
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser():
    """Start a headless Chromium; without one CI fails, and a laptop skips and says so."""
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        message = f"no browser: none of {', '.join(names)} is installed, so the rendered pages are not looked at"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=BROWSER_FLAGS)
        yield chromium
        chromium.close()
