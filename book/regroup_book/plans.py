"""The runs of each chapter, for the notebooks, the command line and the book's build.

A plan is a function of a profile and seeds that returns specs, in mappings and lists. Pages compare groups of specs,
named as in their tables, each with one run per seed. Settings that validation chooses are read from the records in
``REGROUP_RESULTS``; runs that depend on them appear in a plan only after the grid is recorded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from regroup_book import examples
from regroup_lib.data.sources import SOURCES, class_names_of
from regroup_lib.data.tasks import parse_task
from regroup_lib.files import data_directory
from regroup_lib.regroup import cluster_counts
from regroup_lib.runs import own, table_methods
from regroup_lib.runs.methods import METHODS
from regroup_lib.runs.records import Record, find_record, validation_precision
from regroup_lib.runs.specs import EncoderSpec, LookSpec, OwnData, Spec, TableSpec
from regroup_lib.runs.sweeps import sweep

AnySpec = Spec | EncoderSpec | TableSpec | LookSpec
Runs = dict[str, list[Spec]]
Looks = dict[Any, list[EncoderSpec]]
Settings = dict[str, Any]  # fields of a spec
T = TypeVar("T")


# ---------------------------------------------------------------- the tasks, methods and spaces of each profile


def _by_profile(smoke: T, cpu: T, paper: T | None = None) -> dict[str, T]:
    """Return a value for each profile; `paper` has that of `cpu` unless it is given."""
    return {"smoke": smoke, "cpu": cpu, "paper": cpu if paper is None else paper}


TASKS = _by_profile("digits-0", "cifar10-airplane")
INCEPTION = "onnx:inception_v3_mixed_8"
# The spaces that are clustered; the last, which is the best, is the default of "regrouped".
ENCODERS = _by_profile(("raw", "autoencoder", "pca"), ("raw", "autoencoder", INCEPTION))
COMPARED_ENCODERS = _by_profile(("raw", "pca", "autoencoder"), ("raw", "pca", "autoencoder", INCEPTION))
BINARY_TASKS = _by_profile(("digits-0",), ("cifar100-worm", "ham10000-bcc", "ham10000-akiec"))
MULTICLASS_TASKS = _by_profile(("digits-lt",), ("ham10000",))
ABLATION_TASKS = _by_profile(("digits-0",), ("cifar10-airplane", "cifar100-worm"))
USES_TASKS = _by_profile(("digits-0",), ("cifar10-airplane", "cifar100-worm", "ham10000-bcc", "ham10000-akiec"))
# Tasks whose images come in groups (lesions), so that they can be split by image or by group.
GROUPED_TASKS = ("ham10000", "ham10000-bcc", "ham10000-akiec")
# Table 1 in its order, then what this project adds.
PAPER_METHODS = ("ce", "wce", "focal", "ldam", "la", "rusc", "dsmt", "ros", "mlp", "rg", "rg-wce")
ADDED_METHODS = ("ldam-plain", "balanced-softmax", "ap-loss", "soap", "rus", "rg-la", "rg-ros")
TABLE_METHODS = _by_profile(PAPER_METHODS, (*PAPER_METHODS, *ADDED_METHODS))
# Images of each class in the training split, without the validation part, so that plans need no data.
TRAINING_COUNTS = {
    "digits-0": (1019, 112),
    "digits-lt": (112, 86, 67, 51, 40, 31, 24, 18, 14, 11),
    "cifar10-airplane": (40_500, 4500),
    "cifar100-worm": (44_550, 450),
    "ham10000": (4693, 780, 769, 359, 228, 99, 81),
    "ham10000-bcc": (6650, 359),
    "ham10000-akiec": (6781, 228),
}
# Clusters of the majority by the natural rule, ceil(n- / n+).
NATURAL_K = {task: max(cluster_counts(counts)) for task, counts in TRAINING_COUNTS.items() if len(counts) == 2}
THRESHOLD_FACTORS = _by_profile((1, 4), (1, 2, 4, 8, 16))  # of the natural threshold n', the smallest class
# Many small runs: the slim network, and fewer epochs than the motivating example's.
ABLATION_SETTINGS: dict[tuple[str, str], Settings] = {
    ("cpu", "cifar10-airplane"): {"network": "slim-resnet", "epochs": 5},
    ("smoke", "digits-0"): {"epochs": 3},
}


def _runs(
    profile: str, task: str, method: str, seeds: Sequence[int], *, times: float = 1, **settings: Any
) -> list[Spec]:
    """Return a run per seed, with `times` as many epochs, rounded up, and with the profile's best encoder if needed."""
    settings = {"trace_test": False} | settings
    if METHODS[method].needs_encoder:
        settings = {"encoder": ENCODERS[profile][-1]} | settings
    first = Spec(profile=profile, task=task, method=method, **settings)
    settings["epochs"] = math.ceil(times * first.epochs)
    return [Spec(profile=profile, task=task, method=method, seed=seed, **settings) for seed in seeds]


def _slim_runs(profile: str, task: str, method: str, seeds: Sequence[int], **settings: Any) -> list[Spec]:
    """Return `_runs` at the scale of the ablations."""
    return _runs(profile, task, method, seeds, **ABLATION_SETTINGS.get((profile, task), {}) | settings)


def _seeded(spec: Spec | None, seeds: Iterable[int]) -> list[Spec]:
    """Return a spec with each seed, or nothing if the spec is not chosen yet."""
    return [] if spec is None else [spec.model_copy(update={"seed": seed}) for seed in seeds]


def _flat(plan: Any) -> Iterator[AnySpec]:
    """Yield the specs of a plan, which may group them in mappings and lists."""
    for part in plan.values() if isinstance(plan, Mapping) else plan:
        yield from [part] if isinstance(part, AnySpec) else _flat(part)


def _by_seed(groups: Iterable[Sequence[T]]) -> list[T]:
    """Return the runs of groups seed by seed."""
    return [spec for runs in zip(*groups, strict=True) for spec in runs]


# ---------------------------------------------------------------- the motivating example

# All 18 runs in minutes of one GPU; the profile's own schedule has 100 epochs.
MOTIVATING_SETTINGS: dict[str, Settings] = _by_profile({"validation_fraction": 0.1}, {}, {"epochs": 10})


def label_sets(profile: str, seeds: Sequence[int]) -> Runs:
    """Return the label sets of Section 2.1, a run per seed: binary, true classes, random groups, regrouped.

    This chapter selects nothing on a validation split, so all training images are used (except in profile smoke).
    """
    label_sets: list[Settings] = [{"method": method} for method in ("ce", "rg-true", "rg-random")]
    label_sets += [{"method": "rg", "encoder": encoder} for encoder in reversed(ENCODERS[profile])]
    common = {"profile": profile, "task": TASKS[profile], "variation_samples": 10_000, "embedding": True}
    common |= {"validation_fraction": 0.0} | MOTIVATING_SETTINGS[profile]
    groups = [[Spec(**common, **labels, seed=seed) for seed in seeds] for labels in label_sets]
    return {group[0].label: group for group in groups}


def motivating_example(profile: str, seeds: Sequence[int]) -> list[Spec]:
    """Return the runs of `label_sets`, seed by seed."""
    return _by_seed(label_sets(profile, seeds).values())


def encoders(profile: str, seeds: Sequence[int]) -> Looks:
    """Return looks at the clusters in each encoder's space (a seed moves k-means)."""
    return _looks(profile, TASKS[profile], COMPARED_ENCODERS[profile], seeds)


def _looks(profile: str, task: str, names: Sequence[str], seeds: Sequence[int], **settings: Any) -> Looks:
    """Return looks at the clusters of a task's large class by encoder, one k-means per seed."""
    common = {"profile": profile, "task": task} | settings
    return {name: [EncoderSpec(**common, encoder=name, seed=seed) for seed in seeds] for name in names}


HEADLINE_SEEDS = _by_profile(range(3), range(10), range(3))


def headline(profile: str) -> list[Spec]:
    """Return the four label sets of the front page, with more seeds than the chapter on them."""
    found = label_sets(profile, HEADLINE_SEEDS[profile])
    return _by_seed(found[label] for label in ("ce", "rg-true", "rg-random", f"rg-{ENCODERS[profile][-1]}"))


# ---------------------------------------------------------------- ablations

ABLATION_SECTIONS = ("clusterer", "encoder", "loss", "clusters", "imbalance", "control", "length")
FEW_CLUSTERERS = ("kmeans", "constrained-kmeans", "spectral", "random")
ABLATED_CLUSTERERS = (
    *("kmeans", "minibatch-kmeans", "constrained-kmeans", "spectral"),
    *("gmm", "agglomerative", "random", "random-equal"),
)
IMBALANCES = (10.0, 30.0, 100.0, 300.0)
# Label sets that separate the effects of more classes, balance and meaning.
CONTROLS: dict[str, Settings] = {
    "binary": {"method": "ce"},
    "true": {"method": "rg-true"},
    "clusters": {"method": "rg"},
    "clusters' sizes": {"method": "rg-shuffled"},
    "equal clusters": {"method": "rg", "clusterer": "constrained-kmeans"},
    "random, equal": {"method": "rg-random", "clusterer": "random-equal"},
}
MORE_CONTROLS: dict[str, Settings] = {
    "random, halving": {"method": "rg-random", "clusterer": "random-halving"},
    "true, in 5": {"method": "rg-true", "n_clusters": 5},
    "true, in 3": {"method": "rg-true", "n_clusters": 3},
}
# Multiples of the ablations' epochs, and the label sets that are trained for them.
_LONG_TRAINED = ("binary", "random, equal", "clusters", "true")
TRAINING_LENGTHS: dict[str, dict[int, tuple[str, ...]]] = _by_profile(
    {1: _LONG_TRAINED, 2: ("binary", "clusters")},
    {1: _LONG_TRAINED, 2: _LONG_TRAINED, 4: ("binary", "clusters")},
    {1: _LONG_TRAINED},
)


def ablation(section: str, task: str, profile: str, seeds: Sequence[int]) -> Runs:
    """Return the runs of one of `ABLATION_SECTIONS` by the name that its figures use; none if a task lacks it."""
    first, natural = task == ABLATION_TASKS[profile][0], NATURAL_K[task]
    small = profile == "smoke" or not first
    numbers = {math.ceil(natural / 4), math.ceil(natural / 2), natural, 2 * natural}
    numbers |= set() if small else {2, 4 * natural}
    controls = CONTROLS | ({} if small else MORE_CONTROLS)
    sections: dict[str, dict[str, Settings]] = {
        "clusterer": {name: {"clusterer": name} for name in (FEW_CLUSTERERS if small else ABLATED_CLUSTERERS)},
        "loss": {name: {"method": name} for name in ("rg", "rg-wce", *(() if small else ("rg-focal", "rg-la")))},
        "clusters": {str(k): {} if k == natural else {"n_clusters": k} for k in sorted(numbers)},
        "control": controls,
    }
    if first:
        epochs = _slim_runs(profile, task, "ce", seeds)[0].epochs
        sections |= {
            "encoder": {name: {"encoder": name} for name in COMPARED_ENCODERS[profile]},
            "imbalance": _imbalances(IMBALANCES[: 2 if profile == "smoke" else None]),
            "length": {
                f"{label} {factor * epochs}": controls[label] | {"times": factor}
                for factor, labels in TRAINING_LENGTHS[profile].items()
                for label in labels
            },
        }
    if section not in ABLATION_SECTIONS:
        raise ValueError(f"no section is called {section!r}")
    named = sections.get(section, {}).items()
    return {label: _slim_runs(profile, task, seeds=seeds, **{"method": "rg"} | settings) for label, settings in named}


def _imbalances(ratios: Sequence[float]) -> dict[str, Settings]:
    """Return methods at each ratio, all but ROS, whose epochs have nearly twice the steps, also for 2 × epochs."""
    found: dict[str, Settings] = {}
    for ratio in ratios:
        for method in ("ce", "wce", "ros", "rg"):
            found[f"{method} {ratio:g}"] = {"method": method, "imbalance": ratio}
        for method in ("ce", "wce", "rg"):
            found[f"{method}-longer {ratio:g}"] = {"method": method, "imbalance": ratio, "times": 2}
    return found


# ---------------------------------------------------------------- questions of this book (E1 to E8 of claims.yaml)

AUXILIARY_WEIGHTS = (1.0, 0.3, 3.0)


def encoder_uses(task: str, profile: str, seeds: Sequence[int], *, tried: bool = False) -> Runs:
    """Return the runs that use a pre-trained encoder in one way each, a run per seed, by method.

    The weight of a second head is chosen on the validation split with the first seed. Before that choice a method has
    only its grid, and `tried` adds the grids. A second head that learns clusters has those chosen for RG.
    """
    clusters = None if task in TASKS.values() else select(tuning_specs(profile, task, "rg", seeds[0]))

    def runs(method: str, seeds: Sequence[int] = seeds, **settings: Any) -> list[Spec]:
        if METHODS[method].cluster_options:
            settings |= _clusters_of(clusters)
        return (_runs if METHODS[method].features else _slim_runs)(profile, task, method, seeds, **settings)

    found = {method: runs(method) for method in ("ce", "rg", "probe", "knn", "mlp")}
    for method in ("aux-clusters", "distill"):
        weights = AUXILIARY_WEIGHTS[:1] if profile == "smoke" else AUXILIARY_WEIGHTS
        grid = [runs(method, seeds[:1], auxiliary_weight=weight)[0] for weight in weights]
        found[method] = _seeded(select(grid), seeds) or grid
        found |= {f"{method}, tried": grid} if tried else {}
    return found


def _clusters_of(chosen: Spec | None) -> Settings:
    """Return the clusters of a spec as settings of another one."""
    return {} if chosen is None else {"n_clusters": chosen.n_clusters, "threshold": chosen.threshold}


# The shares of the majority that are re-assigned, by the rule that chooses the new group.
_FEW_SHARES = (0.25, 0.5, 0.75)
_SHARES = dict.fromkeys(("random", "brightness"), (0.1, *_FEW_SHARES, 0.9, 1.0)) | {"autoencoder": _FEW_SHARES}
MIXED_SHARES: dict[str, dict[str, tuple[float, ...]]] = _by_profile(
    dict.fromkeys(_SHARES, (0.5,)), _SHARES, dict.fromkeys(_SHARES, (0.5,))
)


def dose_runs(profile: str, seeds: Sequence[int]) -> Runs:
    """Return runs on true classes with a share re-assigned, by rule and share: ``"random 0.5"``."""
    task = ABLATION_TASKS[profile][0]
    found = {name: ablation("control", task, profile, seeds)[name] for name in ("binary", "true")}
    follows: dict[str, Settings] = {
        "random": {"method": "rg-mixed-random"},
        "brightness": {"method": "rg-mixed-brightness"},
        "autoencoder": {"method": "rg-mixed-features", "encoder": "autoencoder"},
    }
    for name, shares in MIXED_SHARES[profile].items():
        for share in shares:
            found[f"{name} {share:g}"] = _slim_runs(profile, task, seeds=seeds, mixed_share=share, **follows[name])
    return found


LONG_EPOCHS: dict[str, tuple[int, ...]] = _by_profile((), (40, 80, 160), ())
LONG_WORM_EPOCHS: dict[str, tuple[int, ...]] = _by_profile((), (24, 48, 96), ())


def long_runs(profile: str, seeds: Sequence[int]) -> Runs:
    """Return the runs on airplane that are trained to convergence, by label set and epochs: ``"binary 160"``."""
    task, labels = ABLATION_TASKS[profile][0], ("binary", "clusters", "random, equal")
    return {
        f"{label} {epochs}": _slim_runs(profile, task, seeds=seeds, **CONTROLS[label] | {"epochs": epochs})
        for epochs in LONG_EPOCHS[profile]
        for label in labels
    }


def training_length(profile: str, seeds: Sequence[int]) -> list[Any]:
    """Return `long_runs`, and worm trained longer; an epoch of ROS has nearly twice the steps of the others."""
    task, found = "cifar100-worm", [long_runs(profile, seeds)]
    for epochs in LONG_WORM_EPOCHS[profile]:
        chosen = select(tuning_specs(profile, task, "rg", seeds[0]))
        groups = {m: _runs(profile, task, m, seeds, epochs=n) for m, n in (("ce", epochs), ("ros", epochs // 2))}
        longer = None if chosen is None else chosen.model_copy(update={"epochs": epochs})
        found.append(groups | {"rg": _seeded(longer, seeds)})
    return found


def ten_class_runs(profile: str) -> Runs:
    """Return runs by method, class by class, two seeds each: every tenth class of CIFAR-100."""
    if profile != "cpu":
        return {}
    methods: dict[str, Settings] = {"ce": {}, "ros": {"times": 0.5}, "rg": {"n_clusters": 50}, "mlp": {}}
    tasks = [f"cifar100-{name}" for name in class_names_of("cifar100")[::10]]
    return {
        method: [spec for task in tasks for spec in _runs(profile, task, method, (0, 1), **settings)]
        for method, settings in methods.items()
    }


FOLD_METHODS = ("ce", "ldam", "rg", "rg-wce")


def fold_runs(task: str, profile: str) -> Runs:
    """Return one run for each of the five folds by lesion, with the settings chosen on the published split."""
    if profile != "cpu":
        return {}
    chosen = {method: select(_grid(profile, task, method, 0)) for method in FOLD_METHODS}
    return {
        method: [spec.model_copy(update={"split": f"fold-{spec.seed}"}) for spec in _seeded(choice, range(5))]
        for method, choice in chosen.items()
    }


# ---------------------------------------------------------------- future work of the paper

# Task -> ratios of the largest class to the smallest, and thresholds n' of RG.
LONG_TAILS: dict[str, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = _by_profile(
    {"digits-lt": ((10.0,), (50.0,))},
    {
        "cifar10-lt": ((10.0, 100.0), (500.0, 1000.0, 2000.0)),
        "cifar100-lt": ((10.0, 100.0), (50.0, 100.0, 200.0)),
    },
)
LONG_TAIL_SETTINGS: dict[str, Settings] = _by_profile({"epochs": 3}, {"network": "slim-resnet", "epochs": 15}, {})
SELF_SUPERVISED_EPOCHS = _by_profile((1, 3), (2, 5, 10, 20), (20, 100, 400))


def long_tails(profile: str, seeds: Sequence[int]) -> dict[tuple[str, float], Runs]:
    """Return the runs by long-tailed training set (a task and its ratio): the usual losses, and RG by threshold."""
    return {
        (task, ratio): _long_tail(task, ratio, thresholds, profile, seeds)
        for task, (ratios, thresholds) in LONG_TAILS[profile].items()
        for ratio in ratios
    }


def _long_tail(task: str, ratio: float, thresholds: Sequence[float], profile: str, seeds: Sequence[int]) -> Runs:
    middle = thresholds[len(thresholds) // 2]
    groups: dict[str, Settings] = {
        "CE": {"method": "ce"},
        "LA": {"method": "la"},
        "LDAM-DRW": {"method": "ldam", "deferred": True},
        "ROS": {"method": "ros"},
        **{f"RG, n' = {threshold:g}": {"method": "rg", "threshold": threshold} for threshold in thresholds},
        f"RG+LA, n' = {middle:g}": {"method": "rg-la", "threshold": middle},
    }
    common = {"imbalance": ratio} | LONG_TAIL_SETTINGS[profile]
    return {label: _runs(profile, task, seeds=seeds, **common, **settings) for label, settings in groups.items()}


def self_supervised_looks(profile: str, seeds: Sequence[int]) -> Looks:
    """Return looks at the self-supervised encoder by its training length, one k-means per seed."""
    lengths = SELF_SUPERVISED_EPOCHS[profile]
    return {n: _looks(profile, TASKS[profile], ("simclr",), seeds, encoder_epochs=n)["simclr"] for n in lengths}


def self_supervised_runs(profile: str, seeds: Sequence[int]) -> Runs:
    """Return RG on the self-supervised encoder's clusters beside binary labels and other encoders, a run per seed."""
    task, own = ABLATION_TASKS[profile][0], {"encoder": "simclr", "encoder_epochs": SELF_SUPERVISED_EPOCHS[profile][-1]}
    controls = ablation("control", task, profile, seeds)
    shown = {"binary": controls["binary"], "true classes": controls["true"]}
    return shown | ablation("encoder", task, profile, seeds) | {"simclr": _slim_runs(profile, task, "rg", seeds, **own)}


# ---------------------------------------------------------------- the paper's tables: tuned on the validation split


def tuning_grid(task: str, method: str, profile: str) -> list[Settings]:
    """Return the settings that are tried for a method, the default first; in ``smoke``, two of focal loss alone."""
    grids: dict[str, list[Settings]] = {
        "focal": [{}, {"gamma": 1.0}, {"gamma": 5.0}],
        "la": [{}, {"tau": 0.5}, {"tau": 2.0}],
        "ldam": [{}, {"max_margin": 0.25}, {"deferred": True}, {"max_margin": 0.25, "deferred": True}],
        "rg": regroupings(task, profile),
    }
    if profile == "smoke":
        grids = {"focal": grids["focal"][:2]}
    return grids.get(method, [{}])


def regroupings(task: str, profile: str) -> list[Settings]:
    """Return the ways to regroup that are tried, the natural one first: K in a binary task, n' in a multiclass one."""
    if task in NATURAL_K:
        return [{}, *({"n_clusters": math.ceil(NATURAL_K[task] / part)} for part in (2, 4))]
    smallest = min(TRAINING_COUNTS[task])
    return [{}, *({"threshold": float(factor * smallest)} for factor in THRESHOLD_FACTORS[profile][1:])]


def regrouping_grids(profile: str, seed: int) -> Runs:
    """Return the numbers of clusters that were tried for RG, by task, the natural one first."""
    tasks = (*BINARY_TASKS[profile], *MULTICLASS_TASKS[profile])
    grids = {task: tuning_specs(profile, task, "rg", seed) for task in tasks}
    for task, imbalance in TEXT_TASKS[profile]:
        name = task if imbalance is None else f"{task}, {imbalance:g}:1"
        grids[name] = text_grid((task, imbalance), profile, seed)
    return {name: grid for name, grid in grids.items() if len(grid) > 1}


def tuning_specs(profile: str, task: str, method: str, seed: int) -> list[Spec]:
    """Return the runs of a method's grid, all with one seed."""
    return [_runs(profile, task, method, [seed], **tried)[0] for tried in tuning_grid(task, method, profile)]


Choice = Callable[[Sequence[Spec]], Spec | None]


def select(specs: Sequence[Spec]) -> Spec | None:
    """Return the spec with the best validation AP, the first of equals; None if one of several has no record.

    A single spec needs no record.
    """
    if len(specs) < 2:
        return _first(specs)
    records = [find_record(spec) for spec in specs]
    if not all(records):
        return None
    return max(zip(specs, records, strict=True), key=lambda pair: validation_precision(pair[1]))[0]


def _first(specs: Sequence[Spec]) -> Spec | None:
    """Return the first spec, which has as many runs as the one that `select` would choose."""
    return specs[0] if specs else None


def _grid(profile: str, task: str, method: str, seed: int, choose: Choice = select) -> list[Spec]:
    """Return a method's grid; that of RG+LOSS has the clusters chosen for RG, and is empty before that choice."""
    grid = tuning_specs(profile, task, method, seed)
    if method == "rg" or METHODS[method].labels != "regrouped":
        return grid
    clusters = choose(tuning_specs(profile, task, "rg", seed))
    return [] if clusters is None else [spec.model_copy(update=_clusters_of(clusters)) for spec in grid]


def _staged(tasks: Sequence[str], profile: str, seeds: Sequence[int], choose: Choice = select) -> list[Spec]:
    """Return each method's grid with the first seed, its chosen settings with the others.

    Before the grid of a method is recorded, its other seeds are not in the list.
    """
    first, *others = seeds
    grids = [_grid(profile, task, method, first, choose) for task in tasks for method in TABLE_METHODS[profile]]
    chosen = [_seeded(choose(grid), others) for grid in grids]
    return [*_flat(grids), *_by_seed(filter(None, chosen))]


def binary(profile: str, seeds: Sequence[int], *, tasks: Sequence[str] | None = None) -> list[Spec]:
    """Return the runs of Table 1, on all binary tasks of the profile or on some."""
    known = BINARY_TASKS[profile]
    chosen = list(known if tasks is None else tasks)
    if not chosen or not set(chosen) <= set(known):
        raise ValueError(f"tasks is {chosen}; expected some of {', '.join(known)} (profile {profile})")
    return _staged(chosen, profile, seeds)


def recorded_tasks(profile: str, seeds: Sequence[int]) -> list[str]:
    """Return the binary tasks all of whose runs, including the grids, have a record."""
    return [task for task in BINARY_TASKS[profile] if _all_recorded(_staged([task], profile, seeds))]


def _all_recorded(specs: Iterable[AnySpec]) -> bool:
    return all(spec.path().exists() for spec in specs)


def multiclass(profile: str, seeds: Sequence[int]) -> list[Any]:
    """Return the runs of Table 2, of the thresholds, of the split by image, and the looks at the clusters."""
    tasks, further = MULTICLASS_TASKS[profile], (threshold_runs, leaking_runs, equal_budget_runs)
    looks = [cluster_looks(task, profile, seeds) for task in tasks]
    return [looks, _staged(tasks, profile, seeds), [runs(task, profile, seeds) for task in tasks for runs in further]]


def threshold_runs(task: str, profile: str, seeds: Sequence[int]) -> dict[float, list[Spec]]:
    """Return RG's runs at each threshold n', smallest first, a run per seed."""
    tried = zip(THRESHOLD_FACTORS[profile], regroupings(task, profile), strict=True)
    smallest = min(TRAINING_COUNTS[task])
    return {float(factor * smallest): _runs(profile, task, "rg", seeds, **settings) for factor, settings in tried}


def leaking_runs(task: str, profile: str, seeds: Sequence[int]) -> Runs:
    """Return CE and RG trained and tested on a split by image; none if images come in no groups."""
    methods = ("ce", "rg") if task in GROUPED_TASKS else ()
    return {method: _runs(profile, task, method, seeds, split="image") for method in methods}


def equal_budget_runs(task: str, profile: str, seeds: Sequence[int]) -> list[Spec]:
    """Return ROS trained for as many images as CE sees, rounded up to an epoch: its gain without its extra data."""
    counts = TRAINING_COUNTS[task]  # oversampled, every class is as large as the largest
    return _runs(profile, task, "ros", seeds, times=sum(counts) / (len(counts) * max(counts)))


def cluster_looks(task: str, profile: str, seeds: Sequence[int]) -> list[EncoderSpec]:
    """Return one look at the largest class's clusters per seed, at the natural threshold."""
    # The record keeps some images, which at 224 pixels would be larger than all other records together.
    size = {"image_size": 64} if task == "ham10000" else {}
    (looks,) = _looks(profile, task, ENCODERS[profile][-1:], seeds, **size).values()
    return looks


def competitors(task: str, profile: str, seeds: Sequence[int]) -> dict[str, list[Record]]:
    """Return each method's records with its chosen settings, a record per seed, in the order of the paper's tables.

    A missing record is an error, as in `records_of`.
    """
    chapter = "multiclass" if task in MULTICLASS_TASKS[profile] else "binary"
    grids = {method: _grid(profile, task, method, seeds[0]) for method in TABLE_METHODS[profile]}
    return records_of({method: _seeded(select(grid), seeds) for method, grid in grids.items()}, chapter)


def records_of(runs: Mapping[Any, Sequence[AnySpec]], chapter: str) -> dict[Any, list[Record]]:
    """Return the records of groups of runs; if some are missing, the error names the command that makes them."""
    found = {name: [find_record(spec) for spec in group] for name, group in runs.items()}
    missing = [str(name) for name, group in found.items() if None in group or not group]
    if missing:
        first = next(_flat(runs), None)  # there is none if all depend on a choice
        task, profile = (f"{first.task}: ", f" --profile {first.profile}") if first else ("", "")
        raise ValueError(f"{task}records of {', '.join(missing)} are missing; run `regroup sweep {chapter}{profile}`")
    return found


def undecided(chapter: str, *, profile: str = "cpu", seeds: Sequence[int] = (0, 1, 2)) -> int:
    """Return how many runs of a chapter depend on a choice that is not made yet."""
    tuned: dict[str, Callable[[Choice], Any]] = {
        "binary": lambda choose: _staged(BINARY_TASKS[profile], profile, seeds, choose),
        "multiclass": lambda choose: _staged(MULTICLASS_TASKS[profile], profile, seeds, choose),
        "text": lambda choose: text(profile, seeds, choose=choose),
    }
    asked = [plan for name, plan in tuned.items() if chapter in (name, "all")]
    return sum(len(set(_flat(plan(_first)))) - len(set(_flat(plan(select)))) for plan in asked)


# ---------------------------------------------------------------- text

TextTask = tuple[str, float | None]  # a task, and its negatives per positive in training; None: the natural ratio
# Settings of regrouping that are tried: the natural number of clusters, a half and a quarter of it.
_PHRASEBANK: dict[TextTask, list[Settings]] = {
    ("phrasebank-negative", None): [{}, {"n_clusters": 4}, {"n_clusters": 2}],
    ("phrasebank-negative", 30.0): [{}, {"n_clusters": 15}, {"n_clusters": 8}],
    ("phrasebank", None): [{}, {"threshold": 846.0}, {"threshold": 1692.0}],
}
TEXT_TASKS: dict[str, dict[TextTask, list[Settings]]] = _by_profile(
    {("descriptions-breast_cancer", None): [{}], ("descriptions", None): [{}]}, _PHRASEBANK
)
# Fine-tuning takes ten times as long as training from scratch.
FINE_TUNED_TASKS: dict[str, tuple[TextTask, ...]] = _by_profile(
    (), (("phrasebank-negative", None),), tuple(_PHRASEBANK)
)
# The spaces that are clustered; the first, which is the best, is the default of "RG".
TEXT_ENCODERS: dict[str, tuple[str, ...]] = _by_profile(("tfidf",), ("minilm", "tfidf"))
# With the method's own 20 epochs this chapter would take most of the time of profile `smoke`.
TEXT_SETTINGS: dict[str, Settings] = _by_profile({"epochs": 4}, {})
SCRATCH_NETWORKS = _by_profile("tiny-text-cnn", "text-cnn")


def _text_runs(
    task: TextTask, profile: str, method: str, seeds: Sequence[int], network: str | None = None, **settings: Any
) -> list[Spec]:
    """Return a run per seed on one text task; a method on features has a network of its own."""
    if not METHODS[method].features:
        settings["network"] = network or SCRATCH_NETWORKS[profile]
    if METHODS[method].needs_encoder:
        settings = {"encoder": TEXT_ENCODERS[profile][0]} | settings
    return _runs(profile, task[0], method, seeds, imbalance=task[1], **TEXT_SETTINGS[profile], **settings)


def text_runs(
    task: TextTask, profile: str, seeds: Sequence[int], *, fine_tuned: bool = False, choose: Choice | None = None
) -> Runs:
    """Return the runs on a key of `TEXT_TASKS`, a run per seed, by the name that tables use.

    They train a small network from scratch, or with `fine_tuned` the language model. `choose` picks one of the runs of
    `text_grid` (default: `select`); while it returns None, regrouped runs are left out.
    """
    choice = (choose or select)(text_grid(task, profile, seeds[0]))
    scratch, clusters = not fine_tuned, _clusters_of(choice)
    groups: dict[str, Settings] = {"CE": {"method": "ce"}, "WCE": {"method": "wce"}}
    if scratch:
        groups |= {"Focal": {"method": "focal"}, "LA": {"method": "la"}, "ROS": {"method": "ros"}}
        groups |= {"encoder+MLP": {"method": "mlp"}}
    if choice is not None:
        groups |= {"RG": {"method": "rg", **clusters}, "RG+WCE": {"method": "rg-wce", **clusters}}
    if choice is not None and scratch:
        if TEXT_ENCODERS[profile][1:]:
            groups["RG on TF-IDF"] = {"method": "rg", "encoder": "tfidf", **clusters}
        if task == next(iter(TEXT_TASKS[profile])):
            groups |= {"random groups": {"method": "rg-random", **clusters}, "true classes": {"method": "rg-true"}}
    common = {"seeds": seeds, "network": None if scratch else "minilm"}
    return {label: _text_runs(task, profile, **common, **settings) for label, settings in groups.items()}


def text_grid(task: TextTask, profile: str, seed: int) -> list[Spec]:
    """Return the runs among which the clusters of a text task are chosen: RG, trained from scratch."""
    return [_text_runs(task, profile, "rg", [seed], **tried)[0] for tried in TEXT_TASKS[profile][task]]


def text_looks(profile: str, seeds: Sequence[int]) -> Looks:
    """Return looks at the clusters of the first text task's large class by encoder, one k-means per seed."""
    return _looks(profile, next(iter(TEXT_TASKS[profile]))[0], TEXT_ENCODERS[profile], seeds)


def text_results(profile: str, seeds: Sequence[int], choose: Choice | None = None) -> dict[tuple[TextTask, bool], Runs]:
    """Return `text_runs` by task and whether they are fine-tuned, fine-tuned ones last."""
    wanted = [(t, False) for t in TEXT_TASKS[profile]] + [(t, True) for t in FINE_TUNED_TASKS[profile]]
    return {(t, tuned): text_runs(t, profile, seeds, fine_tuned=tuned, choose=choose) for t, tuned in wanted}


def text(profile: str, seeds: Sequence[int], *, choose: Choice | None = None) -> list[AnySpec]:
    """Return the runs of the chapter on text, fine-tuning last; `choose` as in `text_runs`."""
    grids = [text_grid(task, profile, seeds[0]) for task in TEXT_TASKS[profile]]
    results = text_results(profile, seeds, choose).items()
    parts = [[g for key, runs in results if key[1] == tuned for g in runs.values()] for tuned in (False, True)]
    return list(_flat([text_looks(profile, seeds), grids, *map(_by_seed, parts)]))


# ---------------------------------------------------------------- tables, own data, forecasts

# Tasks on tables, each at its own ratio and with fewer positives in training: negatives per positive, None its own.
TABULAR_TASKS: dict[str, tuple[tuple[str, float | None], ...]] = _by_profile(
    (("iris-versicolor", 10), ("breast-cancer-malignant", 10)),
    (
        *(("breast-cancer-malignant", None), ("breast-cancer-malignant", 10), ("wine-1", None), ("wine-1", 10)),
        *(("iris-versicolor", None), ("iris-versicolor", 10), ("digits-8", None), ("digits-8", 20), ("digits-3", None)),
        *(("diabetes-high", None), ("diabetes-high", 20), ("ham10000-metadata-bcc", None)),
    ),
)
TABULAR_ESTIMATORS = _by_profile(("logreg",), tuple(table_methods.ESTIMATORS))
# EasyEnsemble is only for comparisons on users' data.
TABULAR_METHODS = _by_profile(
    ("plain", "smote", "kmeans-smote", "rg", "rg-random"),
    tuple(method for method in table_methods.METHODS if method != "easy-ensemble"),
)


def tabular(profile: str, seeds: Sequence[int]) -> list[TableSpec]:
    """Return each method with each classifier that it goes with on each table, seed by seed."""
    return [
        TableSpec(profile=profile, task=task, imbalance=imbalance, seed=seed, method=method, estimator=estimator)
        for seed in seeds
        for task, imbalance in TABULAR_TASKS[profile]
        for estimator in TABULAR_ESTIMATORS[profile]
        for method in TABULAR_METHODS[profile]
        if estimator in table_methods.METHODS[method].estimators
    ]


# KEEL's copy of UCI's page blocks, which is not needed to find its records.
PAGE_BLOCKS_FILE = "page-blocks.csv"
PAGE_BLOCKS = OwnData(
    digest="09d05bccc98ff8a6ec4eb895f0c4d9df947256717b0c41b90d6523f09a2eff4d",
    classes=tuple("12345"),
    positive="5",
)


def your_data(profile: str, seeds: Sequence[int]) -> list[AnySpec]:
    """Return the comparisons that the chapter on own data shows: in profile ``smoke`` on files written for it."""
    options = {"profile": profile, "seeds": seeds}
    if profile != "smoke":
        blocks = PAGE_BLOCKS.model_copy(update={"path": str(data_directory() / PAGE_BLOCKS_FILE)})
        recorded = {"estimators": own.ESTIMATORS, "titles": ("CE", "WCE", "ROS", *own.REGROUPED)}
        return own.table_specs(blocks, "page-blocks", **options, **recorded)
    digits = own.plan(examples.write_digits(), positive="8", **options)
    tumors = own.plan(examples.write_tumors(), positive="malignant", estimators=("logreg", "forest"), **options)
    return [*digits.specs, *tumors.specs]


# Image tasks with a known gain, and their encoders, for which `diagnose` is run before training.
FORECAST_LOOKS: dict[str, tuple[tuple[str, str], ...]] = _by_profile(
    (),
    (
        *(("cifar10-airplane", encoder) for encoder in ("raw", "pca", INCEPTION)),
        *((task, INCEPTION) for task in ("cifar100-worm", "ham10000-bcc", "ham10000-akiec")),
    ),
    (),
)


def forecast_looks(profile: str) -> list[LookSpec]:
    """Return a look at each task and encoder of `FORECAST_LOOKS`."""
    return [LookSpec(profile=profile, task=t, encoder=e, holds="images") for t, e in FORECAST_LOOKS[profile]]


def forecast(profile: str, seeds: Sequence[int]) -> list[Any]:
    """Return the plain and the regrouped classifiers on tables, and the looks at images."""
    own = [] if profile == "smoke" else your_data(profile, seeds)
    tables = [s for s in (*tabular(profile, seeds), *own) if s.kind == "table" and s.method in ("plain", "rg")]
    return [tables, forecast_looks(profile)]


def explore(profile: str, seeds: Sequence[int]) -> list[Any]:
    """Return the runs that the interactive page shows: the motivating example's, and binary tasks once recorded."""
    tables = _staged(recorded_tasks(profile, seeds), profile, seeds)
    return [encoders(profile, seeds[:1]), motivating_example(profile, seeds), tables]


# ---------------------------------------------------------------- chapters


# Chapter (the notebook's name) -> the runs that it shows.
PLANS: dict[str, Callable[..., Any]] = {
    "motivating-example": motivating_example,
    "encoders": encoders,
    "synchronous-learning": motivating_example,
    "binary": binary,
    "multiclass": multiclass,
    "ablations": lambda p, seeds: [ablation(s, t, p, seeds) for t in ABLATION_TASKS[p] for s in ABLATION_SECTIONS],
    # The dose-response curve, and real encoders beside it.
    "dose": lambda p, seeds: [dose_runs(p, seeds), ablation("encoder", ABLATION_TASKS[p][0], p, seeds)],
    "open-ends": lambda *asked: [plan(*asked) for plan in (self_supervised_looks, self_supervised_runs, long_tails)],
    "tables": tabular,
    "forecast": forecast,
    "text": text,
    "your-data": your_data,
    "explore": explore,
    # Chapters that train on small data when they are executed, or use the records of other chapters.
    **dict.fromkeys(("tutorial", "scorecard", "discrepancies", "scale"), lambda profile, seeds: []),
}
# Runs that no chapter shows; "all" leaves them out.
EXTRA_PLANS: dict[str, Callable[..., Any]] = {
    "headline": lambda p, seeds: headline(p),
    "encoder-uses": lambda p, seeds: [encoder_uses(task, p, seeds, tried=True) for task in USES_TASKS[p]],
    "training-length": training_length,
    "ten-classes": lambda p, seeds: ten_class_runs(p),
    "folds": lambda p, seeds: [fold_runs(task, p) for task in BINARY_TASKS[p] if task in GROUPED_TASKS],
}


def recorded_profile(chapter: str, *, seeds: Sequence[int] = (0, 1, 2)) -> Literal["cpu", "paper"]:
    """Return the profile in which a chapter is shown: ``"paper"`` if all its runs are recorded in it."""
    specs = chapter_specs(chapter, profile="paper", seeds=seeds) if chapter in PLANS else []
    return "paper" if specs and _all_recorded(specs) else "cpu"


def chapter_specs(
    chapter: str, *, profile: str = "cpu", seeds: Sequence[int] = (0, 1, 2), tasks: Sequence[str] | None = None
) -> list[AnySpec]:
    """Return the runs of a chapter, or of all chapters with ``"all"``, each once.

    `tasks` picks some tasks of chapter ``"binary"``. The last runs of a chapter that tunes on the validation split
    depend on the records of the tuning: call this again after running the result, until nothing new is returned.
    """
    known = PLANS | EXTRA_PLANS
    if chapter != "all" and chapter not in known:
        raise ValueError(f"no chapter is called {chapter!r}; there are {', '.join(known)}, or all")
    if profile not in TASKS:
        raise ValueError(f"no profile is called {profile!r}; there are {', '.join(TASKS)}")
    if not list(seeds):
        raise ValueError("seeds is empty; give at least one")
    if tasks is not None and chapter != "binary":
        raise ValueError(f"chapter {chapter} has no choice of tasks; leave tasks out, it is for binary")
    chosen = {} if tasks is None else {"tasks": tasks}
    plans = PLANS.values() if chapter == "all" else [known[chapter]]
    return list(dict.fromkeys(_flat(plan(profile, list(seeds), **chosen) for plan in plans)))


def missing_records(chapter: str, **wanted: Any) -> list[AnySpec]:
    """Return the runs of a chapter that have no record yet; the parameters are those of `chapter_specs`."""
    return [spec for spec in chapter_specs(chapter, **wanted) if not spec.path().exists()]


def run_chapter_specs(
    chapter: str,
    *,
    profile: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    tasks: Sequence[str] | None = None,
    minutes: float | None = None,
    **options: Any,
) -> list[Record]:
    """Run or look up all runs of a chapter, those that depend on tuning last, and return the records.

    The runs are those of `chapter_specs`, the options those of `sweeps.sweep`; `minutes` is for all sweeps together.
    """
    done: dict[AnySpec, Record] = {}
    start = time.monotonic()
    while True:
        specs = chapter_specs(chapter, profile=profile, seeds=seeds, tasks=tasks)
        new = [spec for spec in specs if spec not in done]
        if not new:
            return [done[spec] for spec in specs]
        if minutes is not None:
            options["minutes"] = max(minutes - (time.monotonic() - start) / 60, 1e-3)
        done |= dict(zip(new, sweep(new, **options), strict=True))


def estimate_seconds(spec: AnySpec, records: Sequence[Record]) -> float | None:
    """Return how long a run will take, from the most similar recorded runs; None if there are none.

    Similar runs have the same profile and network, and, if there are any, the same task and method, or else the same
    task. Their time per training image and epoch is assumed to be equal.
    """

    def said(spec: AnySpec) -> tuple[Any, ...]:
        return spec.kind, spec.profile, spec.own is None, getattr(spec, "network", None), spec.task, spec.label

    wanted = said(spec)
    alike = [r for r in records if said(r.spec)[:4] == wanted[:4]]
    for n_same in (5, 6):
        alike = [r for r in alike if said(r.spec)[:n_same] == wanted[:n_same]] or alike
    if not alike:
        return None
    return float(np.median([r.own_seconds / _units(r.spec) for r in alike])) * _units(spec)


def _units(spec: AnySpec) -> float:
    """Return training images times epochs, where their number differs between runs that are otherwise alike."""
    if spec.kind != "training":
        return 1.0
    source = None if spec.own is not None else SOURCES.get(parse_task(spec.task)[0])
    counts = {"train": (1,)} if source is None else source.class_counts
    n_images = sum(counts["train"]) if "train" in counts else 0.7 * sum(counts["all"])  # split 70/10/20 here
    return float(n_images * spec.epochs)
