"""What faults do to runs and files, and what changes a number: the figures of the page "Can the numbers be trusted".

    python benchmarks/faults.py

writes the figures to results/trust/faults.json and, beside them, the tables that the page includes. Everything is
done to real files by real processes, on the embedded digits. The tests do the same, smaller.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import pickle
import platform
import random
import resource
import shutil
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from regroup_book import build
from regroup_lib import files
from regroup_lib.data.load import load_data
from regroup_lib.encoders.features import encode, make_encoder
from regroup_lib.files import load_yaml_file, read_npz, write_npz
from regroup_lib.nn import training
from regroup_lib.nn.models import build_network
from regroup_lib.nn.training import ResidentImages, TrainingOptions, train
from regroup_lib.runs.records import Record, checkpoint_path, load_record, load_records
from regroup_lib.runs.run import run
from regroup_lib.runs.specs import Spec, parse_spec
from regroup_lib.runs.sweeps import sweep
from regroup_lib.runs.verify import check_results

ROOT = Path(__file__).resolve().parents[1]
TIMES = ("seconds", "evaluate_seconds", "created", "digest")
# Processes that start from one that has imported the library already, and what an optimizer imports late.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["regroup_lib.runs.sweeps", "torch._dynamo"])


def smoke(**options: Any) -> Spec:
    """Return a spec that trains in a second."""
    return Spec(**{"profile": "smoke", "task": "digits-0", "method": "ce", "epochs": 3} | options)


def contents(folder: Path) -> dict[str, Any]:
    """Return all numbers and arrays of a results directory by key, without times."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in TIMES}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    return {
        r.key: (timeless(json.loads(r.path.read_text())), {n: a.tobytes() for n, a in r.arrays().items()})
        for r in load_records(folder)
    }


def one_thread() -> None:
    torch.set_num_threads(1)
    threadpool_limits(1)


# ---------------------------------------------------------------- kill -9


def _sweep(specs: list[Spec], folder: Path) -> None:
    one_thread()
    sweep(specs, results_dir=folder)


def kills(folder: Path, *, n_kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill a sweep at random moments, start it again until it is through, and compare with one that was let alone."""
    specs = [smoke(), smoke(method="rg", encoder="raw")]
    _sweep(specs, folder / "first")  # the first optimizer imports modules for seconds
    start = time.perf_counter()
    _sweep(specs, folder / "alone")
    duration, expected = time.perf_counter() - start, contents(folder / "alone")
    draw, killed, rounds, wrong = random.Random(seed), 0, 0, []
    while killed < n_kills:
        target = folder / f"killed-{rounds}"
        rounds += 1
        while True:
            process = PROCESSES.Process(target=_sweep, args=(specs, target), daemon=True)
            process.start()
            if killed < n_kills:
                process.join(draw.uniform(0, duration))
                process.kill()
            process.join()
            if process.exitcode == 0:
                break
            killed += 1
        files = [p for p in target.rglob("*") if p.is_file() and p.suffix != ".lock"]
        if contents(target) != expected or len(files) != 2 * len(specs):
            wrong.append(str(target))
    return {"kills": killed, "sweeps": rounds, "records": rounds * len(specs), "wrong": wrong}


# ---------------------------------------------------------------- a full disk


def _write_without_room(spec: Spec, folder: Path, ending: str, recompute: bool, answer: Any) -> None:
    """Run a spec; the first file whose name ends so may not grow beyond 100 bytes."""
    one_thread()
    make, write_text = tempfile.mkstemp, Path.write_text

    def limit(name: str) -> None:
        if name.endswith(ending):
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

    def limited_make(*args: Any, prefix: str = "", **options: Any) -> Any:
        if ending != ".json":  # the record's file is made before its arrays are written
            limit(prefix.rstrip("."))
        return make(*args, prefix=prefix, **options)

    def limited_text(self: Path, *args: Any, **options: Any) -> int:
        limit(self.name)
        return write_text(self, *args, **options)

    tempfile.mkstemp, Path.write_text = limited_make, limited_text
    try:
        run(spec, results_dir=folder / "results", data_dir=folder / "data", recompute=recompute)
        answer.send("it ran")
    except Exception as error:
        answer.send(f"{type(error).__name__}: {error}")


def full_disk(folder: Path) -> list[dict[str, Any]]:
    """Let the disk be full at each kind of file, with and without an earlier file there."""
    found = []
    spec = smoke(method="rg", encoder="pca", epochs=2)
    key, first = spec.key, folder / "first"
    run(spec, results_dir=first / "results", data_dir=first / "data")
    for what, ending in (("checkpoint", ".pt"), ("arrays", f"{key}.npz"), ("record", ".json"), ("cache", "pca.npz")):
        here = shutil.copytree(first, folder / what)
        if what == "cache":
            (cache,) = (here / "data" / "features").glob("*.npz")
            ending = cache.name
            cache.unlink()
        before = {p: p.read_bytes() for p in here.rglob("*") if p.is_file()}
        receiver, sender = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=_write_without_room, args=(spec, here, ending, True, sender), daemon=True)
        process.start()
        answer = receiver.recv()
        process.join()
        after = {p: p.read_bytes() for p in here.rglob("*") if p.is_file() and p.suffix not in (".pt", ".lock")}
        intact = all(after.get(p) == content for p, content in before.items() if p.suffix != ".lock")
        clear = "there is no room on the disk for" in answer and ending in answer
        again = run(spec, results_dir=here / "results", data_dir=here / "data", recompute=True)
        found.append({"file": what, "clear": clear, "intact": intact, "then": again.status, "answer": answer})
    return found


# ---------------------------------------------------------------- mutations


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return bytes with one thing wrong."""
    at = draw.randrange(len(content))
    length = draw.randint(1, max(1, len(content) // 4))
    return draw.choice(
        [
            lambda: content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :],
            lambda: content[:at],
            lambda: content[:at] + content[at + length :],
            lambda: content[:at] + bytes(length) + content[at + length :],
            lambda: content[:at] + content[at : at + length] + content[at:],
            lambda: content[:at] + "é\u202e😀\0".encode() + content[at:],
            lambda: content[:at] + b"NaN" + content[at + 3 :],
            lambda: content[:at] + b"9" * 400 + content[at:],
        ]
    )()


class Artefact:
    """A file, what is read from it, and how it is mutated."""

    def __init__(self, name: str, path: Path, read: Callable[[], Any], *more: Callable[[], None], valid: bool = False):
        self.name, self.path, self.read, self.more, self.valid = name, path, read, more, valid
        self.content, self.expected = path.read_bytes(), read()

    def outcome(self, draw: random.Random, number: int) -> str:
        """Mutate the file, read it, and put it back."""
        self.path.write_bytes(mutated(self.content, draw))
        if number < len(self.more):
            self.path.write_bytes(self.content)
            self.more[number]()
        try:
            value = self.read()
        except (ValueError, OSError) as error:
            named = self.path.name in str(error) or self.path.stem in str(error)
            return "refused by name" if named or self.valid else f"wrong: unnamed {error}"
        except Exception as error:
            return f"wrong: unexplained {type(error).__name__}: {error}"
        finally:
            self.path.write_bytes(self.content)
        if value == self.expected:
            return "result as before"
        return "another valid input" if self.valid else "wrong: another result"


def data_file(folder: Path) -> Artefact:
    draw, path = np.random.default_rng(0), folder / "own.npz"
    arrays = {}
    for split, n in (("train", 60), ("test", 30)):
        arrays[f"{split}_images"] = draw.integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 3).astype(np.int64)
    arrays["class_names"] = np.array(["a", "b", "ç"])
    write_npz(path, arrays)

    def wrong(**changes: Any) -> Callable[[], None]:
        return lambda: write_npz(path, {k: v for k, v in (arrays | changes).items() if v is not None})

    labels, images = arrays["train_labels"], arrays["train_images"]
    return Artefact(
        "data file",
        path,
        lambda: load_data(path).digest,
        wrong(train_labels=labels[:-1]),
        wrong(train_labels=labels - 1),
        wrong(train_labels=labels + 5),
        wrong(train_labels=labels.astype(float) + 0.5),
        wrong(train_labels=np.full(60, np.nan)),
        wrong(train_labels=None),
        wrong(train_images=images.astype(np.float32) / 255),
        wrong(train_images=np.full(images.shape, np.nan, np.float32)),
        wrong(train_images=images.astype(np.int64) * 1000),
        wrong(train_images=images[:0], train_labels=labels[:0]),
        wrong(train_images=images[..., None]),
        wrong(test_images=arrays["test_images"][:, :7]),
        wrong(class_names=np.array(["a"])),
        wrong(class_names=np.array(["a", "a", "b"])),
    )


def record_file(folder: Path) -> list[Artefact]:
    record = run(smoke(epochs=1), results_dir=folder / "results")

    def read() -> Any:
        found = load_record(record.path)
        return repr(found), {name: array.tobytes() for name, array in found.arrays().items()}

    values = json.loads(record.path.read_text())

    def changed(*keys: Any) -> list[Callable[[], None]]:
        def write(value: Any) -> None:
            copy = json.loads(json.dumps(values))
            part = copy
            for key in keys[:-1]:
                part = part[key]
            part[keys[-1]] = value
            record.path.write_text(json.dumps(copy))

        return [lambda value=value: write(value) for value in (None, "é😀", float("nan"), 1e308, -1, [], {}, 10**40)]

    metric = ("metrics", "none", "test", "balanced_accuracy")
    leaves = [*changed(*metric), *changed("status"), *changed("spec", "seed"), *changed("seconds", "train")]
    return [
        Artefact("record", record.path, read, *leaves),
        Artefact("arrays", record.path.with_suffix(".npz"), read),
    ]


def checkpoint_file(folder: Path) -> Artefact:
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    labels, path = np.arange(64) % 2, folder / "epoch.pt"

    def weights(*, stop: bool = False) -> bytes | None:
        def on_epoch(network: torch.nn.Module, epoch: int) -> dict[str, Any]:
            if stop and epoch == 2:
                raise KeyboardInterrupt
            return {}

        network = build_network("tiny-resnet", in_channels=1, n_classes=2, seed=0)
        options = TrainingOptions(epochs=2, batch_size=32, flip=False, shift=1)
        train(network, ResidentImages(images), labels, options=options, seed=0, on_epoch=on_epoch, checkpoint=path)
        return b"".join(value.numpy().tobytes() for value in network.state_dict().values())

    with suppress(KeyboardInterrupt):
        weights(stop=True)
    return Artefact("checkpoint", path, weights)


def cache_file(folder: Path) -> Artefact:
    dataset, encoder = load_data("digits"), make_encoder("pca")

    def features() -> dict[str, bytes]:
        encoded = encode(dataset, encoder, data_dir=folder / "data")
        return {name: array.tobytes() for name, array in encoded.splits.items()}

    features()
    (path,) = (folder / "data" / "features").glob("*.npz")
    arrays = read_npz(path)
    name = next(name for name in arrays if arrays[name].ndim == 2)

    def wrong(array: np.ndarray) -> Callable[[], None]:
        return lambda: write_npz(path, arrays | {name: array})

    return Artefact("feature cache", path, features, wrong(arrays[name][:-1]), wrong(arrays[name][:, :0]))


SPEC = """profile: smoke
task: digits-0
method: rg
encoder: pca
n_clusters: {not 0: 4}
seed: 3
peak_lr: 0.05
"""
VALUES = [
    *["[", "{", "&a [*a]", "!!python/object/apply:os.system ['true']", "é😀", "\x00", "\u202e", "1e999", ".nan"],
    *["-.inf", "9" * 5000, "2001-99-99", "[[[]]]", "{a: {b: c}}", "null", "true", "0x", "'", "* x", "? ?", "\ud800"],
    *["[" * 3000, "1_000", "on", "-0", "0.1", "!!binary x", "!!set {a}", "<<: {a: 1}", "%TAG ! x", "--- a\n--- b"],
]


def spec_file(folder: Path) -> Artefact:
    path = folder / "spec.yaml"
    path.write_text(SPEC)
    fields = ("seed", "peak_lr", "n_clusters", "method", "epochs")

    def wrong(field: str, value: str) -> Callable[[], None]:
        text = f"{SPEC}{field}: {value}\n" if field == "epochs" else SPEC
        text = "\n".join(f"{field}: {value}" if line.startswith(f"{field}:") else line for line in text.splitlines())
        return lambda: path.write_bytes(text.encode(errors="surrogatepass"))

    more = [wrong(field, value) for value, field in zip(VALUES, itertools.cycle(fields), strict=False)]
    return Artefact("spec", path, lambda: parse_spec(load_yaml_file(path)).key, *more, valid=True)


def parameter(folder: Path) -> Artefact:
    """The text of a parameter on the command line, instead of a file."""
    path = folder / "parameter"
    path.write_text("[0, 1]")

    def read() -> Any:
        value = files.parse_parameter(path.read_bytes().decode(errors="surrogateescape"))
        build.check_parameters("motivating-example", {"seeds": value})
        return repr(value)

    def wrong(value: str) -> Callable[[], None]:
        return lambda: path.write_bytes(value.encode(errors="surrogatepass"))

    return Artefact("notebook parameter", path, read, *map(wrong, VALUES), valid=True)


def mutations(folder: Path, *, n_mutations: int, seed: int = 0) -> dict[str, Any]:
    """Mutate one kind of file after the other, and count what comes of reading it."""
    one_thread()
    folder.mkdir(parents=True, exist_ok=True)
    artefacts = [data_file(folder), *record_file(folder), checkpoint_file(folder), cache_file(folder)]
    artefacts += [spec_file(folder), parameter(folder)]
    draw, slowest = random.Random(seed), (0.0, "")
    counts: dict[str, Counter] = {artefact.name: Counter() for artefact in artefacts}
    wrong = []
    for number in range(n_mutations):
        artefact = artefacts[number % len(artefacts)]
        start = time.perf_counter()
        outcome = artefact.outcome(draw, number // len(artefacts))
        slowest = max(slowest, (time.perf_counter() - start, artefact.name))
        counts[artefact.name][outcome.split(":")[0]] += 1
        if outcome.startswith("wrong"):
            wrong.append(f"{artefact.name} {number // len(artefacts)}: {outcome}"[:300])
    by_kind = {name: dict(counter) for name, counter in counts.items()}
    return {"mutations": n_mutations, "outcomes": by_kind, "slowest": slowest, "wrong": wrong}


# ---------------------------------------------------------------- hostile files


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def _zip_of(path: Path, name: str, content: bytes, *, claims: int | None = None) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    if claims is not None:  # the size in the directory at the end, in bytes 24 to 28 of its entry
        data = bytearray(path.read_bytes())
        entry = data.index(b"PK\x01\x02")
        data[entry + 24 : entry + 28] = claims.to_bytes(4, "little")
        path.write_bytes(data)


def _header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def hostile(folder: Path) -> list[dict[str, Any]]:
    """Offer files that would run code or fill memory; say of each whether it was refused and did nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    touched, found = folder / "touched", []

    def offer(name: str, read: Callable[[], Any]) -> None:
        start = time.perf_counter()
        try:
            read()
            answer = "read"
        except (ValueError, OSError) as error:
            answer = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - start
        refused = answer != "read" and not touched.exists() and seconds < 30
        found.append({"file": name, "refused": refused, "seconds": seconds, "answer": answer[:200]})

    path = folder / "pickle.npz"
    np.savez(path, train_images=np.array([_Touch(touched)], dtype=object))
    offer("npz with a pickled object", lambda: load_data(path))
    (folder / "raw.npz").write_bytes(pickle.dumps(_Touch(touched)))
    offer("pickle named npz", lambda: load_data(folder / "raw.npz"))
    _zip_of(folder / "long.npz", "train_images.npy", _header((10**13,)) + bytes(100))
    offer("npz whose header claims 10 TB", lambda: load_data(folder / "long.npz"))
    huge = 2**32 - 2
    _zip_of(folder / "claims.npz", "train_images.npy", _header((huge - 128,)) + bytes(100), claims=huge)
    offer("npz whose directory claims 4 GB", lambda: load_data(folder / "claims.npz"))
    for name, text in (
        ("YAML tag that calls a function", f"seed: !!python/object/apply:os.mkdir ['{touched}']"),
        ("YAML of nested aliases", "a: &a [1, 1]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(9))),
        ("YAML nested 3,000 deep", "n_clusters: " + "[" * 3000),
    ):
        (folder / "spec.yaml").write_text(text)
        offer(name, lambda: parse_spec(load_yaml_file(folder / "spec.yaml")))
    return [*found, _hostile_checkpoint(folder, touched)]


def _hostile_checkpoint(folder: Path, touched: Path) -> dict[str, Any]:
    """Put a pickle where a checkpoint was: the run starts again, and nothing in it is run."""
    spec = smoke(epochs=1)
    path = checkpoint_path(spec, folder / "results")
    path.parent.mkdir(parents=True)
    torch.save({"network": _Touch(touched)}, path)
    record = run(spec, results_dir=folder / "results")
    refused = record.status == "finished" and not touched.exists()
    return {"file": "checkpoint with a pickled object", "refused": refused, "seconds": 0.0, "answer": "trained again"}


# ---------------------------------------------------------------- the same numbers


def _train_with(spec: Spec, threads: int, precision: str, folder: Path) -> None:
    training.cpu_multiplies_bf16 = lambda: precision == "bf16"  # whatever this processor has
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    run(spec, results_dir=folder)


def _in_a_process(spec: Spec, threads: int, precision: str, folder: Path) -> dict[str, np.ndarray]:
    process = PROCESSES.Process(target=_train_with, args=(spec, threads, precision, folder), daemon=True)
    process.start()
    process.join()
    return load_record(spec.path(folder)).arrays() | {"ap": _precision(load_record(spec.path(folder)))}


def _precision(record: Record) -> Any:
    return record.metrics["max" if "max" in record.metrics else "none"]["test"]["summary"]["average_precision"]


def same_numbers(folder: Path, *, seeds: Iterable[int] = (0, 1, 2)) -> list[dict[str, Any]]:
    """Train in processes that differ in one thing, and compare scores of the test set and average precision."""
    found = []
    changes = {
        "another process": (1, "bf16"),
        "2 threads instead of 1": (2, "bf16"),
        "float32 instead of bf16": (1, "fp32"),
    }
    for method, encoder in (("ce", None), ("rg", "raw")):
        rule = "none" if method == "ce" else "max"
        specs = [smoke(method=method, encoder=encoder, seed=seed) for seed in seeds]
        first = [_in_a_process(spec, 1, "bf16", folder / "first") for spec in specs]
        spread = float(np.std([result["ap"] for result in first], ddof=1))
        for name, (threads, precision) in changes.items():
            other = [_in_a_process(spec, threads, precision, folder / name) for spec in specs]
            pairs = [(a[f"test_scores_{rule}"], b[f"test_scores_{rule}"]) for a, b in zip(first, other, strict=True)]
            found.append(
                {
                    "method": method,
                    "changed": name,
                    "bit_equal": all(np.array_equal(a, b) for a, b in pairs),
                    "largest_score_difference": max(float(np.abs(a - b).max()) for a, b in pairs),
                    "largest_ap_difference": max(abs(a["ap"] - b["ap"]) for a, b in zip(first, other, strict=True)),
                    "ap_std_over_seeds": spread,
                }
            )
    return found


# ---------------------------------------------------------------- the page


def check() -> dict[str, Any]:
    """Check the committed records."""
    start = time.perf_counter()
    report = check_results(ROOT / "results")
    return {
        "records": {kind: sum(counts.values()) for kind, counts in report.statuses.items()},
        "recomputed": dict(report.recomputed),
        "kept": dict(report.kept),
        "defects": len(report.defects),
        "seconds": time.perf_counter() - start,
    }


OUTCOMES = {
    "refused by name": "refused, with the cause named",
    "result as before": "with the same result as before",
    "another valid input": "still valid",
}
KINDS = {
    "encoder": "measures of an encoder",
    "look": "clusters before training",
    "spec": "specification",
    "table": "cross-validation of a table",
    "training": "training of a network",
}
LABELS = {"ce": "binary", "rg": "regrouped"}


def page(result: dict[str, Any]) -> str:
    """Return the tables of the page on trust."""
    machine = result["machine"]
    lines = ["% records", ""]
    checked = result["check"]
    lines += ["| kind of record | records | numbers computed again | numbers checked for their range |"]
    lines += ["|---|---|---|---|"]
    for kind, n in sorted(checked["records"].items()):
        again, kept = checked["recomputed"].get(kind, 0), checked["kept"].get(kind, 0)
        lines.append(f"| {KINDS[kind]} | {n:,} | {again:,} | {kept:,} |")
    lines += ["", f"Number of defects found: {checked['defects']}.", "", "% faults", ""]
    lines += [f"Measured on {result['date']} on {machine['cores']} cores, {machine['architecture']}.", ""]
    lines += ["| fault | trials | outcome | wrong results |", "|---|---|---|---|"]
    killed = result["kills"]
    came = f"all {killed['records']} records of {killed['sweeps']} sweeps equal those without a kill, none made twice"
    lines.append(f"| `kill -9` at a random moment of a sweep | {killed['kills']} | {came} | {len(killed['wrong'])} |")
    full = result["full_disk"]
    kinds = ", ".join(f["file"] for f in full)
    came = f"{sum(f['clear'] for f in full)} errors that name the file, {sum(f['intact'] for f in full)} times all"
    lines.append(
        f"| disk full while a file is written ({kinds}) | {len(full)} | {came} earlier files intact | "
        f"{sum(f['then'] != 'finished' for f in full)} |"
    )
    changed = result["mutations"]
    for name, outcomes in changed["outcomes"].items():
        came = ", ".join(f"{n} {OUTCOMES[what]}" for what, n in sorted(outcomes.items()) if what != "wrong")
        lines.append(
            f"| {KINDS.get(name, name)}, damaged | {sum(outcomes.values())} | {came} | {outcomes.get('wrong', 0)} |"
        )
    offered = result["hostile"]
    came = f"{sum(o['refused'] for o in offered)} refused, or made again without reading them"
    lines.append(f"| hostile file | {len(offered)} | {came} | {sum(not o['refused'] for o in offered)} |")
    lines += [
        "",
        "% numbers",
        "",
        "| labels | change | scores on the test set | largest change of a score | largest change of AP, points |",
    ]
    lines += ["|---|---|---|---|---|"]
    for row in result["same_numbers"]:
        equal = "equal bit for bit" if row["bit_equal"] else "differ"
        score, precision = row["largest_score_difference"], 100 * row["largest_ap_difference"]
        lines.append(f"| {LABELS[row['method']]} | {row['changed']} | {equal} | {score:.2g} | {precision:.2g} |")
    by_method = {row["method"]: 100 * row["ap_std_over_seeds"] for row in result["same_numbers"]}
    spread = " and ".join(f"{value:.2g} ({LABELS[method]})" for method, value in by_method.items())
    lines += ["", f"For comparison, the standard deviation of AP over seeds, in points: {spread}.", "", "% end", ""]
    return "\n".join(lines)


PARTS: dict[str, Callable[[Path, argparse.Namespace], Any]] = {
    "check": lambda folder, options: check(),
    "mutations": lambda folder, options: mutations(folder, n_mutations=options.mutations),
    "hostile": lambda folder, options: hostile(folder),
    "full_disk": lambda folder, options: full_disk(folder),
    "same_numbers": lambda folder, options: same_numbers(folder),
    "kills": lambda folder, options: kills(folder, n_kills=options.kills),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS), help="Default: all; others stay as they were.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--mutations", type=int, default=210)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "trust" / "faults.json")
    options = parser.parse_args()
    output = options.output
    result = json.loads(output.read_text()) if output.exists() else {}
    machine = {"cores": os.cpu_count(), "architecture": platform.machine(), "torch": torch.__version__}
    result |= {"date": time.strftime("%Y-%m-%d"), "machine": machine}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="regroup-faults-") as folder:
        for part in options.parts:
            result[part] = PARTS[part](Path(folder) / part, options)
            print(json.dumps({part: result[part]}, indent=1), flush=True)
            output.write_text(json.dumps(result, indent=1) + "\n")
            if set(PARTS) <= set(result):
                output.with_suffix(".md").write_text(page(result))


if __name__ == "__main__":
    main()
