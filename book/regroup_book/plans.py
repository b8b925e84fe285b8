"""Which runs each chapter needs: the notebooks, the command line and the book's build all ask here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from regroup_lib import comparison
from regroup_lib.data.load import load_data
from regroup_lib.data.sources import class_names_of
from regroup_lib.files import data_directory
from regroup_lib.runs import table_methods
from regroup_lib.runs.differences import validation_precision
from regroup_lib.runs.methods import METHODS
from regroup_lib.runs.records import Record, find_record
from regroup_lib.runs.specs import EncoderSpec, LookSpec, OwnData, Spec, TableSpec
from regroup_lib.runs.sweeps import sweep

AnySpec = Spec | EncoderSpec | TableSpec | LookSpec

TASKS = {"smoke": "digits-0", "cpu": "cifar10-airplane", "paper": "cifar10-airplane"}
INCEPTION = "onnx:inception_v3_mixed_8"
# The spaces that are clustered, the best one last: it is the one that "regrouped" means without further words.
ENCODERS = {
    "smoke": ("raw", "autoencoder", "pca"),
    "cpu": ("raw", "autoencoder", INCEPTION),
    "paper": ("raw", "autoencoder", INCEPTION),
}
COMPARED_ENCODERS = {
    "smoke": ("raw", "pca", "autoencoder"),
    "cpu": ("raw", "pca", "autoencoder", INCEPTION),
    "paper": ("raw", "pca", "autoencoder", INCEPTION),
}
BINARY_TASKS = {
    "smoke": ("digits-0",),
    "cpu": ("cifar100-worm", "ham10000-bcc", "ham10000-akiec"),
    "paper": ("cifar100-worm", "ham10000-bcc", "ham10000-akiec"),
}
# Table 1 in its order, then what this project adds.
PAPER_METHODS = ("ce", "wce", "focal", "ldam", "la", "rusc", "dsmt", "ros", "mlp", "rg", "rg-wce")
ADDED_METHODS = ("ldam-plain", "balanced-softmax", "ap-loss", "soap", "rus", "rg-la", "rg-ros")
TABLE_METHODS = {
    "smoke": PAPER_METHODS,
    "cpu": (*PAPER_METHODS, *ADDED_METHODS),
    "paper": (*PAPER_METHODS, *ADDED_METHODS),
}
MULTICLASS_TASKS = {"smoke": ("digits-lt",), "cpu": ("ham10000",), "paper": ("ham10000",)}
# Clusters of the majority in the training split by the natural rule, ceil(n- / n+).
NATURAL_K = {"digits-0": 10, "cifar10-airplane": 9, "cifar100-worm": 99, "ham10000-bcc": 19, "ham10000-akiec": 30}
# Samples of the smallest class in the training split: the natural threshold n' of a multiclass task.
SMALLEST_CLASS = {"digits-lt": 11, "ham10000": 81}
# Training images of a set in which every class is as large as the largest, over those that there are.
OVERSAMPLED = {"digits-lt": 10 * 112 / 454, "ham10000": 7 * 4693 / 7009}
THRESHOLD_FACTORS = {"smoke": (1, 4), "cpu": (1, 2, 4, 8, 16), "paper": (1, 2, 4, 8, 16)}


# All 18 runs in minutes of one GPU; the profile's own schedule has 100 epochs.
MOTIVATING_SETTINGS: dict[str, dict[str, Any]] = {"paper": {"epochs": 10}}


def motivating_example(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[Spec]:
    """Return the label sets of Section 2.1, seed by seed: binary, true classes, random groups, regrouped.

    Nothing is selected on a validation split in this chapter, so beyond the smoke profile all training images
    are trained on.
    """
    label_sets = [("ce", None), ("rg-true", None), ("rg-random", None)]
    label_sets += [("rg", encoder) for encoder in reversed(ENCODERS[profile])]
    return [
        Spec(
            profile=profile,
            task=TASKS[profile],
            method=method,
            encoder=encoder,
            seed=seed,
            validation_fraction=0.1 if profile == "smoke" else 0.0,
            variation_samples=10_000,
            embedding=True,
            **MOTIVATING_SETTINGS.get(profile, {}),
        )
        for seed in seeds
        for method, encoder in label_sets
    ]


def encoders(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[EncoderSpec]:
    """Return one look at each encoder a seed (the seed moves k-means)."""
    return [
        EncoderSpec(profile=profile, task=TASKS[profile], encoder=encoder, seed=seed)
        for encoder in COMPARED_ENCODERS[profile]
        for seed in seeds
    ]


# ---------------------------------------------------------------- ablations

ABLATION_TASKS = {
    "smoke": ("digits-0",),
    "cpu": ("cifar10-airplane", "cifar100-worm"),
    "paper": ("cifar10-airplane", "cifar100-worm"),
}
# Many small runs: the slim network, and fewer epochs than the motivating example's.
ABLATION_SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("cpu", "cifar10-airplane"): {"network": "slim-resnet", "epochs": 5},
    ("smoke", "digits-0"): {"epochs": 3},
}
ABLATED_CLUSTERERS = (
    "kmeans",
    "minibatch-kmeans",
    "constrained-kmeans",
    "spectral",
    "gmm",
    "agglomerative",
    "random",
    "random-equal",
)
IMBALANCES = (10.0, 30.0, 100.0, 300.0)
# Multiples of the ablations' epochs, and the label sets that are trained for so long.
_LONG_TRAINED = ("binary", "random, equal", "clusters", "true")
TRAINING_LENGTHS: dict[str, dict[int, tuple[str, ...]]] = {
    "smoke": {1: _LONG_TRAINED, 2: ("binary", "clusters")},
    "cpu": {1: _LONG_TRAINED, 2: _LONG_TRAINED, 4: ("binary", "clusters")},
    "paper": {1: _LONG_TRAINED},
}


def ablation(section: str, task: str, profile: str, seeds: Sequence[int]) -> dict[str, list[Spec]]:
    """Return the runs of one section of the ablations, a run a seed, by the name that its figures use.

    Parameters
    ----------
    section : {"clusterer", "encoder", "loss", "clusters", "imbalance", "control", "length"}
    task, profile, seeds
        Sections that a task does not have are empty.
    """
    best = ENCODERS[profile][-1]

    def runs(method: str, encoder: str | None = None, **settings: Any) -> list[Spec]:
        common = {"profile": profile, "task": task, "trace_test": False}
        common |= ABLATION_SETTINGS.get((profile, task), {}) | settings
        return [Spec(method=method, encoder=encoder, seed=seed, **common) for seed in seeds]

    small = profile == "smoke" or task != "cifar10-airplane"
    natural = NATURAL_K[task]
    if section == "clusterer":
        names = ("kmeans", "constrained-kmeans", "spectral", "random") if small else ABLATED_CLUSTERERS
        return {name: runs("rg", best, clusterer=name) for name in names}
    if section == "encoder":
        names = () if small and profile != "smoke" else COMPARED_ENCODERS[profile]
        return {name: runs("rg", name) for name in names}
    if section == "loss":
        names = ("rg", "rg-wce") if small else ("rg", "rg-wce", "rg-focal", "rg-la")
        return {name: runs(name, best) for name in names}
    if section == "clusters":
        numbers = {math.ceil(natural / 4), math.ceil(natural / 2), natural, 2 * natural}
        numbers |= set() if small else {2, 4 * natural}
        natural_run = {natural: runs("rg", best)}
        return {str(k): natural_run.get(k) or runs("rg", best, n_clusters=k) for k in sorted(numbers)}
    if section == "imbalance":
        if small and profile != "smoke":
            return {}
        found = {}
        for ratio in IMBALANCES[:2] if profile == "smoke" else IMBALANCES:
            for method in ("ce", "wce", "ros", "rg"):
                found[f"{method} {ratio:g}"] = runs(method, best if method == "rg" else None, imbalance=ratio)
            for method in ("ce", "wce", "rg"):  # an epoch of ROS has nearly twice the steps
                longer = [spec.model_copy(update={"epochs": 2 * spec.epochs}) for spec in found[f"{method} {ratio:g}"]]
                found[f"{method}-longer {ratio:g}"] = longer
        return found
    if section == "control":
        return _controls(runs, best, small)
    if section == "length":
        if small and profile != "smoke":
            return {}
        controls = _controls(runs, best, small)
        return {
            f"{label} {factor * controls[label][0].epochs}": [
                spec.model_copy(update={"epochs": factor * spec.epochs}) for spec in controls[label]
            ]
            for factor, labels in TRAINING_LENGTHS[profile].items()
            for label in labels
        }
    raise ValueError(f"no section is called {section!r}")


ABLATION_SECTIONS = ("clusterer", "encoder", "loss", "clusters", "imbalance", "control", "length")


def _controls(runs: Callable[..., list[Spec]], best: str, small: bool) -> dict[str, list[Spec]]:
    """Return label sets that have more classes, balance and meaning one without the other."""
    found = {
        "binary": runs("ce"),
        "true": runs("rg-true"),
        "clusters": runs("rg", best),
        "clusters' sizes": runs("rg-shuffled", best),
        "equal clusters": runs("rg", best, clusterer="constrained-kmeans"),
        "random, equal": runs("rg-random", clusterer="random-equal"),
    }
    if not small:
        found |= {
            "random, halving": runs("rg-random", clusterer="random-halving"),
            "true, in 5": runs("rg-true", n_clusters=5),
            "true, in 3": runs("rg-true", n_clusters=3),
        }
    return found


def ablations(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[Spec]:
    """Return the runs of all ablations, those that several sections share once."""
    return [
        spec
        for task in ABLATION_TASKS[profile]
        for section in ABLATION_SECTIONS
        for group in ablation(section, task, profile, seeds).values()
        for spec in group
    ]


# ---------------------------------------------------------------- questions of this book (E1 to E7 of claims.yaml)

HEADLINE_SEEDS = {"smoke": range(3), "cpu": range(10), "paper": range(3)}


def headline(profile: str, seeds: Sequence[int] | None = None, results_dir: str | Path | None = None) -> list[Spec]:
    """Return the four label sets of the front page, with more seeds than the chapter on them."""
    shown = ("ce", "rg-true", "rg-random", f"rg-{ENCODERS[profile][-1]}")
    return [spec for spec in motivating_example(profile, HEADLINE_SEEDS[profile]) if spec.label in shown]


USES_TASKS = {
    "smoke": ("digits-0",),
    "cpu": ("cifar10-airplane", "cifar100-worm", "ham10000-bcc"),
    "paper": ("cifar10-airplane", "cifar100-worm", "ham10000-bcc"),
}
AUXILIARY_WEIGHTS = (1.0, 0.3, 3.0)


def encoder_uses(
    task: str, profile: str, seeds: Sequence[int], results_dir: str | Path | None = None
) -> dict[str, list[Spec]]:
    """Return the runs that use a pre-trained encoder in one way each, a run a seed, by method.

    The weight of a second head is chosen on the validation split with the first seed; a method that waits for that
    choice has its grid alone. RG and what learns its clusters have the clusters that were chosen for RG.
    """
    encoder = ENCODERS[profile][-1]
    clusters = None if task in TASKS.values() else select(tuning_specs(profile, task, "rg", seeds[0]), results_dir)
    common = {"profile": profile, "task": task, "trace_test": False}

    def runs(method: str, **settings: Any) -> list[Spec]:
        chosen = {"encoder": encoder} if METHODS[method].needs_encoder else {}
        if not METHODS[method].features:
            chosen |= ABLATION_SETTINGS.get((profile, task), {})
        if clusters is not None and METHODS[method].cluster_options:
            chosen |= {"n_clusters": clusters.n_clusters, "threshold": clusters.threshold}
        return [Spec(method=method, seed=seed, **common | chosen | settings) for seed in seeds]

    found = {method: runs(method) for method in ("ce", "rg", "probe", "knn", "mlp")}
    for method in ("aux-clusters", "distill"):
        weights = AUXILIARY_WEIGHTS[:1] if profile == "smoke" else AUXILIARY_WEIGHTS
        grid = [runs(method, auxiliary_weight=weight)[0] for weight in weights]
        choice = select(grid, results_dir)
        found[method] = grid if choice is None else [choice.model_copy(update={"seed": seed}) for seed in seeds]
    return found


def uses(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[Spec]:
    """Return the runs of the section on ways to use an encoder, the grids of its methods among them."""
    found = []
    for task in USES_TASKS[profile]:
        for method, runs in encoder_uses(task, profile, seeds, results_dir).items():
            weights = AUXILIARY_WEIGHTS if METHODS[method].auxiliary and profile != "smoke" else ()
            found += [runs[0].model_copy(update={"auxiliary_weight": weight}) for weight in weights]
            found += runs
    return list(dict.fromkeys(found))


MIXED_SHARES = {"smoke": (0.5,), "cpu": (0.25, 0.5, 0.75), "paper": (0.5,)}


def dose(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[Spec]:
    """Return the runs of the dose-response curve, and those of real encoders beside it."""
    groups = dose_runs(profile, seeds) | ablation("encoder", ABLATION_TASKS[profile][0], profile, seeds)
    return [spec for group in groups.values() for spec in group]


def dose_runs(profile: str, seeds: Sequence[int]) -> dict[str, list[Spec]]:
    """Return runs on true classes with a share re-assigned, by what that follows and the share: ``"random 0.5"``."""
    task = ABLATION_TASKS[profile][0]
    common = {"profile": profile, "task": task, "trace_test": False} | ABLATION_SETTINGS.get((profile, task), {})
    found = {name: ablation("control", task, profile, seeds)[name] for name in ("binary", "true")}
    for share in MIXED_SHARES[profile]:
        for name, encoder in (("random", None), ("brightness", None), ("features", "autoencoder")):
            settings = common | {"method": f"rg-mixed-{name}", "encoder": encoder, "mixed_share": share}
            label = "autoencoder" if name == "features" else name
            found[f"{label} {share:g}"] = [Spec(seed=seed, **settings) for seed in seeds]
    return found


LONG_EPOCHS = {"smoke": (), "cpu": (40, 80, 160), "paper": ()}
LONG_WORM_EPOCHS = {"smoke": (), "cpu": (24, 48, 96), "paper": ()}


def long_runs(profile: str, seeds: Sequence[int]) -> dict[str, list[Spec]]:
    """Return the runs on airplane that are trained to convergence, by label set and epochs: ``"binary 160"``."""
    task = ABLATION_TASKS[profile][0]
    controls = ablation("control", task, profile, seeds)
    return {
        f"{label} {epochs}": [spec.model_copy(update={"epochs": epochs}) for spec in controls[label]]
        for epochs in LONG_EPOCHS[profile]
        for label in ("binary", "clusters", "random, equal")
    }


def training_length(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[Spec]:
    """Return `long_runs`, and worm trained longer; an epoch of ROS has nearly twice the steps of the others."""
    found = [spec for group in long_runs(profile, seeds).values() for spec in group]
    for epochs in LONG_WORM_EPOCHS[profile]:
        chosen = select(tuning_specs(profile, "cifar100-worm", "rg", seeds[0]), results_dir)
        longer = {"trace_test": False, "profile": profile, "task": "cifar100-worm"}
        for seed in seeds:
            found.append(Spec(method="ce", seed=seed, epochs=epochs, **longer))
            found.append(Spec(method="ros", seed=seed, epochs=epochs // 2, **longer))
            if chosen is not None:
                found.append(chosen.model_copy(update={"seed": seed, "epochs": epochs}))
    return found


def ten_classes(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[Spec]:
    """Return the runs on ten classes of CIFAR-100 in worm's place, two seeds each."""
    return [spec for group in ten_class_runs(profile).values() for spec in group]


def ten_class_runs(profile: str) -> dict[str, list[Spec]]:
    """Return them by method, class by class: every tenth class in alphabetical order, RG with worm's 50 clusters."""
    if profile != "cpu":
        return {}
    names = class_names_of("cifar100")[::10]

    def runs(method: str, **settings: Any) -> list[Spec]:
        common = {"profile": profile, "method": method, "trace_test": False}
        if METHODS[method].needs_encoder:
            common["encoder"] = ENCODERS[profile][-1]
        return [Spec(task=f"cifar100-{name}", seed=seed, **common | settings) for name in names for seed in (0, 1)]

    steps = Spec(profile=profile, task="cifar100-worm", method="ce").epochs
    return {
        "ce": runs("ce"),
        "ros": runs("ros", epochs=steps // 2),
        "rg": runs("rg", n_clusters=50),
        "mlp": runs("mlp"),
    }


FOLD_METHODS = ("ce", "ldam", "rg", "rg-wce")


def fold_runs(task: str, profile: str) -> dict[str, list[Spec]]:
    """Return the runs on the five folds by lesion, a fold each, with the settings chosen on the published split."""
    if profile != "cpu":
        return {}
    found = {}
    clusters = select(tuning_specs(profile, task, "rg", 0))
    for method in FOLD_METHODS:
        choice = select(_grid(profile, task, method, 0, clusters))
        folds = range(5) if choice is not None else ()
        found[method] = [choice.model_copy(update={"split": f"fold-{fold}", "seed": fold}) for fold in folds]
    return found


def folds(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[Spec]:
    """Return `fold_runs` of both binary tasks on skin lesions."""
    tasks = [task for task in BINARY_TASKS[profile] if task.startswith("ham10000")]
    return [spec for task in tasks for group in fold_runs(task, profile).values() for spec in group]


# ---------------------------------------------------------------- what the paper leaves as future work

# Task -> ratios of the largest class to the smallest, and thresholds n' of RG.
_CIFAR_LT = {
    "cifar10-lt": ((10.0, 100.0), (500.0, 1000.0, 2000.0)),
    "cifar100-lt": ((10.0, 100.0), (50.0, 100.0, 200.0)),
}
LONG_TAILS: dict[str, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "smoke": {"digits-lt": ((10.0,), (50.0,))},
    "cpu": _CIFAR_LT,
    "paper": _CIFAR_LT,
}
LONG_TAIL_SETTINGS: dict[str, dict[str, Any]] = {
    "cpu": {"network": "slim-resnet", "epochs": 15},
    "smoke": {"epochs": 3},
}
SELF_SUPERVISED_EPOCHS = {"smoke": (1, 3), "cpu": (2, 5, 10, 20), "paper": (20, 100, 400)}


def long_tail(task: str, ratio: float, profile: str, seeds: Sequence[int]) -> dict[str, list[Spec]]:
    """Return the runs on one long-tailed training set, a run a seed: that field's losses, and RG at each threshold."""
    common = {"profile": profile, "task": task, "imbalance": ratio, "trace_test": False}
    common |= LONG_TAIL_SETTINGS.get(profile, {})
    _, thresholds = LONG_TAILS[profile][task]
    encoder = ENCODERS[profile][-1]

    def runs(method: str, **settings: Any) -> list[Spec]:
        return [Spec(method=method, seed=seed, **common | settings) for seed in seeds]

    found = {"CE": runs("ce"), "LA": runs("la"), "LDAM-DRW": runs("ldam", deferred=True), "ROS": runs("ros")}
    for threshold in thresholds:
        found[f"RG, n' = {threshold:g}"] = runs("rg", encoder=encoder, threshold=threshold)
    middle = thresholds[len(thresholds) // 2]
    return found | {f"RG+LA, n' = {middle:g}": runs("rg-la", encoder=encoder, threshold=middle)}


def records_of(
    runs: dict[Any, list[AnySpec]], chapter: str, results_dir: str | Path | None = None
) -> dict[Any, list[Record]]:
    """Return the records of groups of runs.

    Raises
    ------
    ValueError
        If some are missing; the message says how to make them.
    """
    found = {name: [find_record(spec, results_dir) for spec in group] for name, group in runs.items()}
    missing = [str(name) for name, group in found.items() if None in group or not group]
    if missing:
        profile = next(spec.profile for group in runs.values() for spec in group)
        raise ValueError(
            f"records of {', '.join(missing)} are missing; run `regroup sweep {chapter} --profile {profile}`"
        )
    return found


def self_supervised_looks(profile: str, seeds: Sequence[int]) -> dict[int, list[EncoderSpec]]:
    """Return looks at the self-supervised encoder by its training length, a k-means a seed."""
    return {
        epochs: [
            EncoderSpec(profile=profile, task=TASKS[profile], encoder="simclr", encoder_epochs=epochs, seed=seed)
            for seed in seeds
        ]
        for epochs in SELF_SUPERVISED_EPOCHS[profile]
    }


def self_supervised_runs(profile: str, seeds: Sequence[int]) -> dict[str, list[Spec]]:
    """Return RG on the self-supervised encoder's clusters beside binary labels and other encoders, a run a seed."""
    task, epochs = ABLATION_TASKS[profile][0], SELF_SUPERVISED_EPOCHS[profile][-1]
    common = {"profile": profile, "task": task, "trace_test": False} | ABLATION_SETTINGS.get((profile, task), {})
    own = [Spec(method="rg", encoder="simclr", encoder_epochs=epochs, seed=seed, **common) for seed in seeds]
    return {
        "binary": ablation("control", task, profile, seeds)["binary"],
        "true classes": ablation("control", task, profile, seeds)["true"],
        **ablation("encoder", task, profile, seeds),
        "simclr": own,
    }


def open_ends(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[AnySpec]:
    """Return the runs of the chapter on what the paper leaves open."""
    runs: list[AnySpec] = [look for group in self_supervised_looks(profile, seeds).values() for look in group]
    runs += [spec for group in self_supervised_runs(profile, seeds).values() for spec in group]
    for task, (ratios, _) in LONG_TAILS[profile].items():
        for ratio in ratios:
            runs += [spec for group in long_tail(task, ratio, profile, seeds).values() for spec in group]
    return runs


# ---------------------------------------------------------------- the paper's tables: tuned on the validation split


def tuning_grid(task: str, method: str, profile: str) -> list[dict[str, Any]]:
    """Return the settings that are tried for a method, as fields of a spec; the first one is the default.

    Profile ``smoke`` tries two settings of focal loss alone: enough to run every step.
    """
    if profile == "smoke":
        return [{}, {"gamma": 1.0}] if method == "focal" else [{}]
    grids: dict[str, list[dict[str, Any]]] = {
        "focal": [{}, {"gamma": 1.0}, {"gamma": 5.0}],
        "la": [{}, {"tau": 0.5}, {"tau": 2.0}],
        "ldam": [{}, {"max_margin": 0.25}, {"deferred": True}, {"max_margin": 0.25, "deferred": True}],
        "rg": regroupings(task, profile),
    }
    return grids.get(method, [{}])


def regroupings(task: str, profile: str) -> list[dict[str, Any]]:
    """Return the ways to regroup that are tried, the natural one first: K in a binary task, n' in a multiclass one."""
    if task in SMALLEST_CLASS:
        others = (factor * SMALLEST_CLASS[task] for factor in THRESHOLD_FACTORS[profile][1:])
        return [{}, *({"threshold": float(threshold)} for threshold in others)]
    return [{}, *({"n_clusters": math.ceil(NATURAL_K[task] / part)} for part in (2, 4))]


def regrouping_grids(profile: str, seed: int) -> dict[str, list[Spec]]:
    """Return the numbers of clusters that were tried for RG, by task, the natural one first."""
    tasks = (*BINARY_TASKS[profile], *MULTICLASS_TASKS[profile])
    grids = {task: tuning_specs(profile, task, "rg", seed) for task in tasks}
    for task, imbalance in TEXT_TASKS[profile]:
        name = task if imbalance is None else f"{task}, {imbalance:g}:1"
        grids[name] = text_grid((task, imbalance), profile, seed)
    return {name: grid for name, grid in grids.items() if len(grid) > 1}


def tuning_specs(profile: str, task: str, method: str, seed: int, **fields: Any) -> list[Spec]:
    """Return the runs of a method's grid, all with one seed and the given fields."""
    encoder = ENCODERS[profile][-1]
    uses_encoder = METHODS[method].needs_encoder
    return [
        Spec(
            profile=profile,
            task=task,
            method=method,
            encoder=encoder if uses_encoder else None,
            seed=seed,
            trace_test=False,
            **fields,
            **settings,
        )
        for settings in tuning_grid(task, method, profile)
    ]


def select(specs: Sequence[Spec], results_dir: str | Path | None = None) -> Spec | None:
    """Return the spec with the best validation AP; the first of equals; None while one of several has no record.

    One spec alone is chosen without a look, as there is nothing to choose; of none, none is.
    """
    if len(specs) < 2:
        return specs[0] if specs else None
    records = [find_record(spec, results_dir) for spec in specs]
    if not all(records):
        return None
    return max(zip(specs, records, strict=True), key=lambda pair: validation_precision(pair[1]))[0]


def _grid(profile: str, task: str, method: str, seed: int, clusters: Spec | None) -> list[Spec]:
    """Return a method's grid; a composed one has the clusters chosen for RG, and is empty before that choice."""
    grid = tuning_specs(profile, task, method, seed)
    if not method.startswith("rg-"):
        return grid
    if clusters is None:
        return []
    chosen = {"n_clusters": clusters.n_clusters, "threshold": clusters.threshold}
    return [spec.model_copy(update=chosen) for spec in grid]


def _staged(
    tasks: Sequence[str], profile: str, seeds: Sequence[int], results_dir: str | Path | None = None
) -> list[Spec]:
    """Return each method's grid with the first seed, its chosen settings with the others.

    While a grid has no complete record nothing is chosen, and the other seeds of that method are not in the list. The
    composed methods (RG+WCE and the like) take the clusters that were chosen for RG.
    """
    first, *others = seeds
    tuned, chosen = [], []
    for task in tasks:
        clusters = select(tuning_specs(profile, task, "rg", first), results_dir)
        for method in TABLE_METHODS[profile]:
            grid = _grid(profile, task, method, first, clusters)
            choice = select(grid, results_dir)
            tuned += grid
            chosen += [choice.model_copy(update={"seed": seed}) for seed in others] if choice else []
    return [*tuned, *sorted(chosen, key=lambda spec: seeds.index(spec.seed))]


def binary(
    profile: str,
    seeds: Sequence[int],
    results_dir: str | Path | None = None,
    *,
    tasks: Sequence[str] | None = None,
) -> list[Spec]:
    """Return the runs of Table 1, on all binary tasks of the profile or on some."""
    known = BINARY_TASKS[profile]
    chosen = list(known if tasks is None else tasks)
    unknown = [task for task in chosen if task not in known]
    if unknown or not chosen:
        raise ValueError(f"tasks is {chosen}; expected some of {', '.join(known)} (profile {profile})")
    return _staged(chosen, profile, seeds, results_dir)


def recorded_tasks(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[str]:
    """Return the binary tasks all of whose runs have a record, those of the grids too."""
    found = []
    for task in BINARY_TASKS[profile]:
        specs = _staged([task], profile, seeds, results_dir)
        if not _waiting([task], specs, profile, seeds) and all(spec.path(results_dir).exists() for spec in specs):
            found.append(task)
    return found


def multiclass(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[AnySpec]:
    """Return the runs of Table 2, of the thresholds, of the split by image, and the looks at the clusters."""
    tasks = MULTICLASS_TASKS[profile]
    runs: list[AnySpec] = [look for task in tasks for look in cluster_looks(task, profile, seeds)]
    runs += _staged(tasks, profile, seeds, results_dir)
    for task in tasks:
        runs += [spec for group in threshold_runs(task, profile, seeds).values() for spec in group]
        runs += [spec for group in leaking_runs(task, profile, seeds).values() for spec in group]
        runs += equal_budget_runs(task, profile, seeds)
    return runs


def threshold_runs(task: str, profile: str, seeds: Sequence[int]) -> dict[float, list[Spec]]:
    """Return RG's runs at each threshold n', smallest first, a run a seed."""
    runs = {}
    for factor, settings in zip(THRESHOLD_FACTORS[profile], regroupings(task, profile), strict=True):
        natural = tuning_specs(profile, task, "rg", seeds[0])[0]
        runs[float(factor * SMALLEST_CLASS[task])] = [
            natural.model_copy(update=settings | {"seed": seed}) for seed in seeds
        ]
    return runs


def leaking_runs(task: str, profile: str, seeds: Sequence[int]) -> dict[str, list[Spec]]:
    """Return CE and RG trained and tested on a split by image; none where images come in no groups."""
    if not task.startswith("ham10000"):
        return {}
    return {
        method: [tuning_specs(profile, task, method, seed)[0].model_copy(update={"split": "image"}) for seed in seeds]
        for method in ("ce", "rg")
    }


def equal_budget_runs(task: str, profile: str, seeds: Sequence[int]) -> list[Spec]:
    """Return ROS trained for as many images as CE sees, rounded up to an epoch: its gain without its extra data."""
    repeated = OVERSAMPLED[task]
    runs = [tuning_specs(profile, task, "ros", seed)[0] for seed in seeds]
    return [run.model_copy(update={"epochs": math.ceil(run.epochs / repeated)}) for run in runs]


def cluster_looks(task: str, profile: str, seeds: Sequence[int]) -> list[EncoderSpec]:
    """Return one look at the largest class's clusters a seed, at the natural threshold."""
    # The record keeps the images that it shows: at 224 pixels they would be larger than all other records together.
    size = {"image_size": 64} if task == "ham10000" else {}
    encoder = ENCODERS[profile][-1]
    return [EncoderSpec(profile=profile, task=task, encoder=encoder, seed=seed, **size) for seed in seeds]


def competitors(
    task: str, profile: str, seeds: Sequence[int], results_dir: str | Path | None = None
) -> dict[str, list[Record]]:
    """Return each method's records with its chosen settings, a record a seed, in the order of the paper's tables.

    Raises
    ------
    ValueError
        If a record is missing; the message says how to make it.
    """
    clusters = select(tuning_specs(profile, task, "rg", seeds[0]), results_dir)
    groups = {}
    chapter = "multiclass" if task in SMALLEST_CLASS else "binary"
    for method in TABLE_METHODS[profile]:
        choice = select(_grid(profile, task, method, seeds[0], clusters), results_dir)
        specs = [choice.model_copy(update={"seed": seed}) for seed in seeds] if choice else []
        records = [find_record(spec, results_dir) for spec in specs]
        if not records or None in records:
            raise ValueError(f"{task}: {method} lacks records; run `regroup sweep {chapter} --profile {profile}`")
        groups[method] = records
    return groups


def settings_tried(task: str, profile: str) -> dict[str, int]:
    """Return how many settings the grid of each method has."""
    return {method: len(tuning_grid(task, method, profile)) for method in TABLE_METHODS[profile]}


def undecided(
    chapter: str, *, profile: str = "cpu", seeds: Sequence[int] = (0, 1, 2), results_dir: str | Path | None = None
) -> int:
    """Return how many runs of a chapter wait for a choice on the validation split."""
    waiting = 0
    for name, tasks in (("binary", BINARY_TASKS[profile]), ("multiclass", MULTICLASS_TASKS[profile])):
        if chapter in (name, "all"):
            waiting += _waiting(tasks, _staged(tasks, profile, seeds, results_dir), profile, seeds)
    if chapter in ("text", "all"):
        known, everything = (text(profile, seeds, results_dir, choose=choose) for choose in (select, _first))
        waiting += len(dict.fromkeys(everything)) - len(dict.fromkeys(known))
    return waiting


def _waiting(tasks: Sequence[str], staged: Sequence[Spec], profile: str, seeds: Sequence[int]) -> int:
    methods = TABLE_METHODS[profile]
    grids = sum(len(tuning_grid(task, method, profile)) for task in tasks for method in methods)
    return grids + len(tasks) * len(methods) * (len(seeds) - 1) - len(dict.fromkeys(staged))


def _first(specs: Sequence[Spec], results_dir: str | Path | None = None) -> Spec:
    return specs[0]


# ---------------------------------------------------------------- text

TextTask = tuple[str, float | None]  # a task, and its negatives a positive in training; None: as many as there are
# Ways to regroup that are tried: the natural one first, then a half and a quarter as many clusters.
_PHRASEBANK: dict[TextTask, list[dict[str, Any]]] = {
    ("phrasebank-negative", None): [{}, {"n_clusters": 4}, {"n_clusters": 2}],
    ("phrasebank-negative", 30.0): [{}, {"n_clusters": 15}, {"n_clusters": 8}],
    ("phrasebank", None): [{}, {"threshold": 846.0}, {"threshold": 1692.0}],
}
TEXT_TASKS: dict[str, dict[TextTask, list[dict[str, Any]]]] = {
    "smoke": {("descriptions-breast_cancer", None): [{}], ("descriptions", None): [{}]},
    "cpu": _PHRASEBANK,
    "paper": _PHRASEBANK,
}
# The spaces that are clustered, the best one first: it is the one that "RG" means without further words.
TEXT_ENCODERS = {"smoke": ("tfidf",), "cpu": ("minilm", "tfidf"), "paper": ("minilm", "tfidf")}
SCRATCH_NETWORKS = {"smoke": "tiny-text-cnn", "cpu": "text-cnn", "paper": "text-cnn"}
# Enough for every step to run; with its own 20 epochs the chapter takes most of the minutes of profile `smoke`.
TEXT_SETTINGS: dict[str, dict[str, Any]] = {"smoke": {"epochs": 4}}
# Fine-tuning takes ten times as long as training from scratch.
FINE_TUNED_TASKS: dict[str, tuple[TextTask, ...]] = {
    "smoke": (),
    "cpu": (("phrasebank-negative", None),),
    "paper": tuple(_PHRASEBANK),
}


def text_runs(
    task: TextTask,
    profile: str,
    seeds: Sequence[int],
    results_dir: str | Path | None = None,
    *,
    fine_tuned: bool = False,
    choose: Callable[..., Spec | None] = select,
) -> dict[str, list[Spec]]:
    """Return the runs on one text task, a run a seed, by the name that tables use.

    Parameters
    ----------
    task : tuple
        A key of `TEXT_TASKS`.
    profile, seeds, results_dir
    fine_tuned : bool
        Fine-tune the language model in place of training a small network from scratch.
    choose : callable
        What chooses among the runs of `text_grid`; while it returns None, what regroups is not in the list.
    """
    name, imbalance = task
    language_model, *other_encoders = TEXT_ENCODERS[profile]

    def runs(method: str, encoder: str | None = None, **settings: Any) -> list[Spec]:
        common = {"profile": profile, "task": name, "imbalance": imbalance, "trace_test": False}
        common |= TEXT_SETTINGS.get(profile, {})
        if method != "mlp":
            common["network"] = "minilm" if fine_tuned else SCRATCH_NETWORKS[profile]
        return [Spec(method=method, encoder=encoder, seed=seed, **common, **settings) for seed in seeds]

    found = {"CE": runs("ce"), "WCE": runs("wce")}
    if not fine_tuned:
        found |= {"Focal": runs("focal"), "LA": runs("la"), "ROS": runs("ros")}
        found |= {"encoder+MLP": runs("mlp", language_model)}
    choice = choose(text_grid(task, profile, seeds[0]), results_dir)
    if choice is None:
        return found
    clusters = {"n_clusters": choice.n_clusters, "threshold": choice.threshold}
    found |= {method: runs(method.lower().replace("+", "-"), language_model, **clusters) for method in ("RG", "RG+WCE")}
    if not fine_tuned:
        found |= {f"RG, {encoder}": runs("rg", encoder, **clusters) for encoder in other_encoders}
    if task == next(iter(TEXT_TASKS[profile])) and not fine_tuned:
        found |= {"random groups": runs("rg-random", **clusters), "true classes": runs("rg-true")}
    return found


def text_grid(task: TextTask, profile: str, seed: int) -> list[Spec]:
    """Return the runs that decide about the clusters of a text task: RG, trained from scratch."""
    name, imbalance = task
    common = {"profile": profile, "task": name, "imbalance": imbalance, "seed": seed, "trace_test": False}
    common |= {"method": "rg", "encoder": TEXT_ENCODERS[profile][0], "network": SCRATCH_NETWORKS[profile]}
    common |= TEXT_SETTINGS.get(profile, {})
    return [Spec(**common, **settings) for settings in TEXT_TASKS[profile][task]]


def text_looks(profile: str, seeds: Sequence[int]) -> dict[str, list[EncoderSpec]]:
    """Return looks at the clusters of the first text task's large class by encoder, a k-means a seed."""
    task = next(iter(TEXT_TASKS[profile]))[0]
    return {
        encoder: [EncoderSpec(profile=profile, task=task, encoder=encoder, seed=seed) for seed in seeds]
        for encoder in TEXT_ENCODERS[profile]
    }


def text(
    profile: str,
    seeds: Sequence[int],
    results_dir: str | Path | None = None,
    *,
    choose: Callable[..., Spec | None] = select,
) -> list[AnySpec]:
    """Return the runs of the chapter on text, fine-tuning last; `choose` as in `text_runs`.

    The number of clusters is chosen on the validation split with the first seed, as in `binary`.
    """
    looks = [look for group in text_looks(profile, seeds).values() for look in group]
    tuned = [spec for task in TEXT_TASKS[profile] for spec in text_grid(task, profile, seeds[0])]

    def by_seed(tasks: Iterable[TextTask], fine_tuned: bool) -> list[Spec]:
        groups = [
            group
            for task in tasks
            for group in text_runs(task, profile, seeds, results_dir, fine_tuned=fine_tuned, choose=choose).values()
        ]
        return [spec for runs in zip(*groups, strict=True) for spec in runs]

    return [*looks, *tuned, *by_seed(TEXT_TASKS[profile], False), *by_seed(FINE_TUNED_TASKS[profile], True)]


# Tasks on tables, each at its own ratio and with fewer positives in training: negatives a positive, None its own.
TABULAR_TASKS: dict[str, tuple[tuple[str, float | None], ...]] = {
    "smoke": (("iris-versicolor", 10), ("breast-cancer-malignant", 10)),
    "cpu": (
        *(("breast-cancer-malignant", ratio) for ratio in (None, 10)),
        *(("wine-1", ratio) for ratio in (None, 10)),
        *(("iris-versicolor", ratio) for ratio in (None, 10)),
        *(("digits-8", ratio) for ratio in (None, 20)),
        ("digits-3", None),
        *(("diabetes-high", ratio) for ratio in (None, 20)),
        ("ham10000-metadata-bcc", None),
    ),
}
TABULAR_TASKS["paper"] = TABULAR_TASKS["cpu"]  # the paper has no tables; there is nothing larger to run
TABULAR_ESTIMATORS = {
    "smoke": ("logreg",),
    "cpu": tuple(table_methods.ESTIMATORS),
    "paper": tuple(table_methods.ESTIMATORS),
}
# EasyEnsemble is for comparisons on data of one's own.
RECORDED_METHODS = tuple(method for method in table_methods.METHODS if method != "easy-ensemble")
TABULAR_METHODS = {
    "smoke": ("plain", "smote", "kmeans-smote", "rg", "rg-random"),
    "cpu": RECORDED_METHODS,
    "paper": RECORDED_METHODS,
}


def tabular(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[TableSpec]:
    """Return each method with each classifier that it goes with on each table, seed by seed."""
    return [
        TableSpec(profile=profile, task=task, imbalance=imbalance, seed=seed, method=method, estimator=estimator)
        for seed in seeds
        for task, imbalance in TABULAR_TASKS[profile]
        for estimator in TABULAR_ESTIMATORS[profile]
        for method in TABULAR_METHODS[profile]
        if estimator in table_methods.METHODS[method].estimators
    ]


# ---------------------------------------------------------------- own data

# KEEL's copy of UCI's page blocks; its records are found without it.
PAGE_BLOCKS_FILE = "page-blocks.csv"
PAGE_BLOCKS = OwnData(
    digest="09d05bccc98ff8a6ec4eb895f0c4d9df947256717b0c41b90d6523f09a2eff4d",
    classes=tuple("12345"),
    positive="5",
)


def your_data(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[AnySpec]:
    """Return the comparisons that the chapter on own data shows: in profile ``smoke`` on files written for it."""
    if profile != "smoke":
        own = PAGE_BLOCKS.model_copy(update={"path": str(data_directory() / PAGE_BLOCKS_FILE)})
        recorded = {"estimators": comparison.ESTIMATORS, "titles": ("CE", "WCE", "ROS", *comparison.REGROUPED)}
        return comparison.table_specs(own, "page-blocks", profile=profile, seeds=seeds, **recorded)
    runs: list[AnySpec] = []
    for name, positive in (("digit-scans", "8"), ("breast-cancer", "malignant")):
        path = comparison.write_example(name)
        dataset = load_data(path)
        own = comparison.own_data(dataset, positive, path)
        options = {"profile": profile, "seeds": seeds}
        if dataset.is_table:
            runs += comparison.table_specs(own, dataset.name, estimators=("logreg", "forest"), **options)
        else:
            runs += comparison.image_specs(own, dataset, **options)
    return runs


# Images whose gain is known and the encoders that clustered them; what `diagnose` says of each before training.
FORECAST_LOOKS = {
    "smoke": (),
    "cpu": (
        *(("cifar10-airplane", encoder) for encoder in ("raw", "pca", INCEPTION)),
        *((task, INCEPTION) for task in ("cifar100-worm", "ham10000-bcc", "ham10000-akiec")),
    ),
    "paper": (),
}


def forecast_looks(profile: str) -> list[LookSpec]:
    """Return a look at each task and encoder of `FORECAST_LOOKS`."""
    return [LookSpec(profile=profile, task=t, encoder=e, holds="images") for t, e in FORECAST_LOOKS[profile]]


def forecast(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[AnySpec]:
    """Return the plain and the regrouped classifiers on tables, and the looks at images."""
    own = [] if profile == "smoke" else your_data(profile, seeds)
    wanted = {"plain", "rg"}
    tables = [s for s in (*tabular(profile, seeds), *own) if isinstance(s, TableSpec) and s.method in wanted]
    return [*tables, *forecast_looks(profile)]


def explore(profile: str, seeds: Sequence[int], results_dir: str | Path | None = None) -> list[AnySpec]:
    """Return the runs that the interactive page shows: the motivating example's, and binary tasks once recorded."""
    runs: list[AnySpec] = [*encoders(profile, seeds[:1]), *motivating_example(profile, seeds)]
    tasks = recorded_tasks(profile, seeds, results_dir)
    return [*runs, *binary(profile, seeds, results_dir, tasks=tasks)] if tasks else runs


# Chapter (the notebook's name) -> the runs that it shows.
PLANS: dict[str, Callable[..., Iterable[AnySpec]]] = {
    "motivating-example": motivating_example,
    "encoders": encoders,
    "synchronous-learning": motivating_example,
    "binary": binary,
    "multiclass": multiclass,
    "ablations": ablations,
    "dose": dose,
    "open-ends": open_ends,
    "tables": tabular,
    "forecast": forecast,
    "text": text,
    "your-data": your_data,
    "explore": explore,
    # The first trains on small data as it is read; the others use the records of all chapters, the paper's own numbers
    # and those of a benchmark.
    "tutorial": lambda profile, seeds, results_dir=None: [],
    "scorecard": lambda profile, seeds, results_dir=None: [],
    "discrepancies": lambda profile, seeds, results_dir=None: [],
    "scale": lambda profile, seeds, results_dir=None: [],
}
# Runs that no chapter shows, and that "all" leaves out.
EXTRA_PLANS: dict[str, Callable[..., Iterable[AnySpec]]] = {
    "headline": headline,
    "encoder-uses": uses,
    "training-length": training_length,
    "ten-classes": ten_classes,
    "folds": folds,
}


def recorded_profile(
    chapter: str, *, seeds: Sequence[int] = (0, 1, 2), results_dir: str | Path | None = None
) -> Literal["cpu", "paper"]:
    """Return the profile that a chapter is shown in: ``"paper"`` where all its runs are recorded in it."""
    if chapter not in PLANS:  # it trains nothing
        return "cpu"
    options = {"profile": "paper", "seeds": seeds, "results_dir": results_dir}
    whole = chapter_specs(chapter, **options) and not missing_records(chapter, **options)
    return "paper" if whole else "cpu"


def chapter_specs(
    chapter: str,
    *,
    profile: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    results_dir: str | Path | None = None,
    tasks: Sequence[str] | None = None,
) -> list[AnySpec]:
    """Return the runs of a chapter, or of all chapters with ``"all"``, each once.

    `tasks` picks some tasks of chapter ``"binary"``; default: all that the profile has. A chapter that tunes on the
    validation split names its last runs only when the records of the tuning are there: ask again after running what
    was returned, until nothing new comes (`regroup sweep` does).

    Raises
    ------
    ValueError
        If there is no such chapter or profile, or no seed.
    """
    known = PLANS | EXTRA_PLANS
    if chapter != "all" and chapter not in known:
        raise ValueError(f"no chapter is called {chapter!r}; there are {', '.join(known)}, or all")
    if profile not in TASKS:
        raise ValueError(f"no profile is called {profile!r}; there are {', '.join(TASKS)}")
    if not list(seeds):
        raise ValueError("seeds is empty; give at least one")
    if tasks is not None:
        if chapter != "binary":
            raise ValueError(f"chapter {chapter} has no choice of tasks; leave tasks out, it is for binary")
        return list(dict.fromkeys(binary(profile, list(seeds), results_dir, tasks=tasks)))
    plans = list(PLANS.values()) if chapter == "all" else [known[chapter]]
    return list(dict.fromkeys(spec for plan in plans for spec in plan(profile, list(seeds), results_dir)))


def missing_records(
    chapter: str,
    *,
    profile: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    results_dir: str | Path | None = None,
    tasks: Sequence[str] | None = None,
) -> list[AnySpec]:
    """Return the runs of a chapter that have no record yet; the parameters are those of `chapter_specs`."""
    specs = chapter_specs(chapter, profile=profile, seeds=seeds, results_dir=results_dir, tasks=tasks)
    return [spec for spec in specs if not spec.path(results_dir).exists()]


def run_chapter_specs(
    chapter: str,
    *,
    profile: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    results_dir: str | Path | None = None,
    tasks: Sequence[str] | None = None,
    minutes: float | None = None,
    **options: Any,
) -> list[Record]:
    """Run or look up all that a chapter shows, what depends on tuning last, and return the records.

    Parameters
    ----------
    chapter, profile, seeds, tasks
        See `chapter_specs`.
    results_dir, minutes, **options
        See `sweeps.sweep`; the minutes are those of all sweeps together.
    """
    done: dict[AnySpec, Record] = {}
    start = time.monotonic()
    while True:
        specs = chapter_specs(chapter, profile=profile, seeds=seeds, results_dir=results_dir, tasks=tasks)
        new = [spec for spec in specs if spec not in done]
        if not new:
            return [done[spec] for spec in specs]
        if minutes is not None:
            options["minutes"] = max(minutes - (time.monotonic() - start) / 60, 1e-3)
        records = sweep(new, results_dir=results_dir, **options)
        done |= dict(zip(new, records, strict=True))
