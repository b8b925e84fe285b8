"""The one verdict rule: claims as contrasts, contrasts as intervals, intervals as words.

`paper_data/claims.yaml` has the claims and what decides each. A contrast is a weighted sum of one measure over groups
of records, minus its bound. It is *supported* where its interval lies above 0, and *contradicted* where the interval
lies below 0 or, for a difference in AP or BA, wholly within one point of 0; else it is *undecided*. A claim is
supported or contradicted where all its contrasts are, *mixed* where some are supported and some contradicted, *not
tested* where no records decide, else undecided.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import yaml
from scipy.stats import rankdata

from regroup_book import plans
from regroup_book.chapters import text
from regroup_book.chapters.ablations import by_number
from regroup_book.chapters.synchronous_learning import asynchrony, hidden_pace_gap, pace_gap
from regroup_book.differences import Groups, bootstrap_precisions, rates_above, scores_on_test
from regroup_book.show import encoder_label, space_accuracy, task_name
from regroup_lib.intervals import Interval, interval, minus
from regroup_lib.metrics import bootstrap_counts, decide
from regroup_lib.runs.methods import METHODS
from regroup_lib.runs.records import N_RESAMPLES, Record, rule_of

WORDS = ("supported", "contradicted", "mixed", "undecided", "not tested")
NEGLIGIBLE = 1.0  # points of AP or BA: a difference that lies within it is none
THRESHOLDS = np.linspace(0.005, 0.995, 199)
SETS = {
    "paper": plans.PAPER_METHODS,
    "no encoder": tuple(m for m in plans.PAPER_METHODS if m not in ("mlp", "rg", "rg-wce")),
}


Runs = dict[str, dict[str, list[Any]]]  # place -> group -> specs, one per seed

# ---------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Measure:
    """A number of a record that contrasts compare.

    `of` returns an array [B]: the value on the test set, then on resamples of it; one value where the test set has no
    part in it. `on_validation` returns the same on the validation split, where a contrast picks a group by it.
    `of_groups` replaces `of` for a number of all groups together: groups -> array [seeds, B]. A difference in `points`
    that is smaller than `NEGLIGIBLE` counts as none.
    """

    label: str
    of: Callable[[Record], np.ndarray]
    digits: int = 2
    unit: str = ""
    on_validation: Callable[[Record], float] | None = None
    of_groups: Callable[[Groups], np.ndarray] | None = None


def _counts(record: Record) -> np.ndarray:
    return bootstrap_counts(scores_on_test(record)[0], N_RESAMPLES)


def _precisions(record: Record, class_name: str | None = None) -> np.ndarray:
    classes = None if class_name is None else [list(_on(record, "test")["average_precision"]).index(class_name)]
    return bootstrap_precisions([record], classes)[0]


def _on(record: Record, split: str) -> dict[str, Any]:
    return record.metrics[rule_of(record)][split]


def _balanced_accuracies(record: Record) -> np.ndarray:
    labels, scores = scores_on_test(record)
    right = (decide(scores) == labels).astype(float)
    counts = _counts(record)
    recalls = [counts[:, labels == c] @ right[labels == c] / (labels == c).sum() for c in range(scores.shape[1])]
    return 100 * np.mean(recalls, axis=0)


def _precision_at_half(record: Record) -> np.ndarray:
    labels, scores = scores_on_test(record)
    called, counts = scores[:, 1] >= 0.5, _counts(record)
    hits = counts[:, called & (labels == 1)].sum(axis=1)
    return 100 * hits / np.maximum(counts[:, called].sum(axis=1), 1)


def _rates(record: Record, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = scores_on_test(record)
    return rates_above(labels == 1, scores[:, 1], thresholds, _counts(record))


def _leniency(record: Record) -> np.ndarray:
    """Return the share of thresholds at which BA is within 2 points of its best, percent."""
    true, false = _rates(record, THRESHOLDS)
    accuracy = (true + 1 - false) / 2
    return 100 * (accuracy >= accuracy.max(axis=1, keepdims=True) - 0.02).mean(axis=1)


def _separation(record: Record) -> np.ndarray:
    """Return the largest distance of the two classes' score distributions (Kolmogorov and Smirnov's), percent."""
    _, scores = scores_on_test(record)
    true, false = _rates(record, np.unique(np.quantile(scores[:, 1], np.linspace(0, 1, 500))))
    return 100 * (true - false).max(axis=1)


def _threshold_gain(record: Record) -> np.ndarray:
    """Return what the threshold with the best validation BA adds to the test BA at 0.5."""
    arrays = record.arrays()
    true, false = rates_above(arrays["val_labels"] == 1, arrays[f"val_scores_{rule_of(record)}"], THRESHOLDS)
    at_best, at_half = (_rates(record, np.array([at])) for at in (THRESHOLDS[(true - false).argmax()], 0.5))
    return 100 * ((at_best[0] - at_best[1]) - (at_half[0] - at_half[1]))[:, 0] / 2


def _one(of: Callable[[Record], float]) -> Callable[[Record], np.ndarray]:
    return lambda record: np.array([of(record)], float)


def _reconstruction(record: Record, name: str) -> np.ndarray:
    """Return a quality of the autoencoder's reconstructions of all test images, and of resamples of them."""
    arrays = record.arrays()
    counts = bootstrap_counts(np.zeros(len(arrays["squared_errors"]), int), N_RESAMPLES)
    error, around_mean = (counts @ arrays[key] for key in ("squared_errors", "squared_deviations"))
    n_values = counts.sum(axis=1) * np.prod(arrays["originals"].shape[1:])
    return 1 - error / around_mean if name == "explained_variance" else -10 * np.log10(error / n_values)


def _average_precision(label: str, class_name: str | None = None) -> Measure:
    def on_validation(record: Record) -> float:
        if class_name is None:
            return _on(record, "val")["summary"]["average_precision"]
        return _on(record, "val")["average_precision"][class_name]

    return Measure(label, lambda record: _precisions(record, class_name), 1, "points", on_validation)


MEASURES = {
    "average_precision": _average_precision("AP"),
    "average_precision_df": _average_precision("AP of dermatofibroma", "df"),
    "average_precision_nv": _average_precision("AP of nevi", "nv"),
    "balanced_accuracy": Measure("BA", _balanced_accuracies, 1, "points"),
    "precision": Measure("precision at 0.5", _precision_at_half, 1, "percentage points"),
    "leniency": Measure("share of thresholds with a BA within 2 points of its best", _leniency, 0, "percentage points"),
    "separation": Measure("distance of the score distributions", _separation, 1, "percentage points"),
    "threshold_gain": Measure("BA gained by a threshold tuned on validation", _threshold_gain, 1, "points"),
    "neighbor_accuracy": Measure(
        "five-nearest-neighbor accuracy", _one(lambda r: 100 * space_accuracy(r)), 1, "percentage points"
    ),
    "nmi": Measure("NMI", _one(lambda record: record.metrics["nmi"])),
    "purity": Measure("purity", _one(lambda record: record.metrics["purity"])),
    "explained_variance": Measure("pixel variance kept", lambda r: _reconstruction(r, "explained_variance"), 3),
    "psnr": Measure("peak signal-to-noise ratio", lambda r: _reconstruction(r, "psnr"), 1, "dB"),
    "pace_gap": Measure("mean pace gap", _one(lambda record: pace_gap(record).mean())),
    "hidden_pace_gap": Measure("mean pace gap by hidden classes", _one(lambda record: hidden_pace_gap(record).mean())),
    "asynchrony": Measure("asynchrony", _one(asynchrony)),
    "clustering_share": Measure(
        "clustering's share of a run",
        _one(lambda record: record.seconds["regroup"] / (record.seconds["regroup"] + record.seconds["train"])),
    ),
    "encoding_cost": Measure(
        "encoding time over training time", _one(lambda record: record.seconds["encode"] / record.seconds["train"])
    ),
    "order_correlation": Measure(
        "rank correlation of BA and AP", _one(lambda _: np.nan), of_groups=lambda groups: _order_correlations(groups)
    ),
    "log_error": Measure("ln(1 − AP)", lambda record: np.log(1 - _precisions(record) / 100)),
}


def _order_correlations(groups: Groups) -> np.ndarray:
    """Return the rank correlation of the paper's methods' BA and AP, [seeds, B]."""
    methods = [method for method in SETS["paper"] if method in groups]
    by_measure = [
        _diverged_last([_matrix(MEASURES[name], groups[method]) for method in methods])
        for name in ("balanced_accuracy", "average_precision")
    ]
    accuracy, precision = (rankdata(values, axis=0) for values in by_measure)
    accuracy, precision = (ranks - ranks.mean(axis=0) for ranks in (accuracy, precision))
    return (accuracy * precision).sum(axis=0) / np.sqrt((accuracy**2).sum(axis=0) * (precision**2).sum(axis=0))


def _matrix(measure: Measure, group: Sequence[Record]) -> np.ndarray:
    """Return a measure of a record per seed [seeds, B]; NaN where a run diverged."""
    rows = [measure.of(record) if record.status == "finished" else np.array([np.nan]) for record in group]
    width = max(len(row) for row in rows)
    return np.stack([np.broadcast_to(row, width) if len(row) == 1 else row for row in rows])


def difference(name: str, first: Sequence[Record], second: Sequence[Record]) -> Interval:
    """Return the difference of two groups in one of `MEASURES`; their seeds are in the same order."""
    return _interval(_matrix(MEASURES[name], first) - _matrix(MEASURES[name], second), first[0])


def _interval(matrix: np.ndarray, record: Record, bound: float = 0) -> Interval:
    """Return the interval of a number [seeds, B] minus its bound; a record with the test set is among its own."""
    if matrix.shape[1] == 1:
        return interval(matrix[:, 0] - bound)
    return interval(matrix[:, 0] - bound, matrix, n_units=_positives(record))


# ---------------------------------------------------------------- claims and their contrasts


@dataclass(frozen=True)
class Contrast:
    """One comparison that decides a claim, such as ``"worm (CIFAR-100), AP: RG − CE"``, and its word.

    The interval is that of the weighted sum, its bound subtracted; it lies above 0 if the claim is true.
    """

    text: str
    interval: Interval
    word: str
    digits: int
    unit: str

    def __str__(self) -> str:
        return f"{self.text}: {self.interval.text(self.digits)} {self.unit}".rstrip()


@dataclass(frozen=True)
class Verdict:
    """A claim with its contrasts, their word and the records behind them; `elsewhere` has those at another scale."""

    claim: str
    statement: str
    where: str
    paper: str
    chapters: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    word: str
    note: str
    records: tuple[Record, ...]
    elsewhere: tuple[Contrast, ...] = ()

    @property
    def measured(self) -> str:
        """The contrasts as one line, or why there are none."""
        return "; ".join(map(str, self.contrasts)) or self.note


@cache
def claims(part: str = "claims") -> tuple[dict[str, Any], ...]:
    """Return the paper's claims, or the book's own ``"questions"``, as `paper_data/claims.yaml` has them."""
    source = importlib.resources.files("regroup_book") / "paper_data" / "claims.yaml"
    return tuple(yaml.safe_load(source.read_text(encoding="utf-8"))[part])


def judge(difference: Interval, negligible: float | None = None) -> str:
    """Return the word of a contrast whose interval should lie above 0.

    An interval wholly within `negligible` of 0 contradicts, because the claim says that there is a difference.
    """
    if difference.low > 0:
        return "supported"
    small = negligible is not None and max(abs(difference.low), abs(difference.high)) < negligible
    return "contradicted" if difference.high < 0 or small else "undecided"


def combine(words: Sequence[str]) -> str:
    """Return the word of a claim from those of its contrasts."""
    if not words:
        return "not tested"
    found = set(words)
    if len(found) == 1:
        return found.pop()
    return "mixed" if {"supported", "contradicted"} <= found else "undecided"


def verdict(claim: Mapping[str, Any], profile: str, seeds: Sequence[int]) -> Verdict:
    """Return the verdict on an entry of `claims` by a profile's records, with profile ``"paper"`` beside it."""
    contrasts, records, missing = _contrasts(claim, profile, seeds)
    note = claim.get("not_tested", "" if contrasts else f"profile {profile} has no runs that test it")
    if missing:
        sweeps = {_sweep_of(name, claim["chapter"]) for part in claim["contrasts"] for name in part["runs"]}
        commands = " and ".join(f"regroup sweep {name} --profile {profile}" for name in sorted(sweeps))
        note = f"Not all runs are recorded ({', '.join(missing)}). To make them: {commands}"
        if combine([c.word for c in contrasts]) != "mixed":  # which further contrasts would not change
            contrasts = []
    elsewhere = _contrasts(claim, "paper", seeds)[0] if profile == "cpu" else []
    return Verdict(
        **{name: claim.get(name, "") for name in ("claim", "statement", "where", "paper")},
        chapters=tuple(claim["chapter"].split(", ")),
        contrasts=tuple(contrasts),
        word=combine([c.word for c in contrasts]),
        note=note,
        records=tuple({record.key: record for record in records}.values()),
        elsewhere=tuple(elsewhere),
    )


def _sweep_of(name: str, chapter: str) -> str:
    return SWEEPS.get(name) or SWEEPS.get(name.partition(" ")[0]) or chapter.split(", ")[0]


def _contrasts(
    claim: Mapping[str, Any], profile: str, seeds: Sequence[int]
) -> tuple[list[Contrast], list[Record], list[str]]:
    """Return a claim's contrasts, the records behind them, and the places where records are missing."""
    contrasts, records, missing = [], [], {}
    for part in claim.get("contrasts", ()):
        needed = None if {"best", "worst", "median"} & set(part) else set(part["terms"])
        for name in part["runs"]:
            for place, groups in groups_of(name, profile, seeds, needed).items():
                if groups is None:
                    missing[place] = True
                    continue
                found, used = contrast(part, groups, place)
                contrasts.append(found)
                records += used
    return contrasts, records, list(missing)


def verdicts(chapter: str, profile: str, seeds: Sequence[int]) -> list[Verdict]:
    """Return the verdicts on the claims, and then the questions, that a chapter tests."""
    asked = [*claims(), *claims("questions")]
    return [verdict(claim, profile, seeds) for claim in asked if chapter in claim["chapter"].split(", ")]


def contrast(part: Mapping[str, Any], groups: Groups, place: str) -> tuple[Contrast, list[Record]]:
    """Return one of a claim's ``contrasts`` on one set of runs, and the records that it compares.

    Each group has a record for each seed, in the same order in all groups; `place` names the task in the text.
    """
    measure, terms, bound = MEASURES[part["measure"]], part["terms"], float(part.get("above", 0))
    whole, picked = measure.of_groups is not None, _picked(part, groups, MEASURES[part["measure"]])
    members = {name: list(groups) if whole else picked.get(name, [name]) for name in terms}
    matrix = sum(
        weight * (measure.of_groups(groups) if whole else _middle(measure, [groups[m] for m in members[name]]))
        for name, weight in terms.items()
    )
    used = [record for names in members.values() for name in names for record in groups[name]]
    if part.get("over") == "task":  # each task has a test set of its own, so the spread over tasks has that part, too
        tasks = np.array([record.spec.task for record in groups[next(iter(members.values()))[0]]])
        matrix = np.array([[matrix[tasks == task, 0].mean()] for task in dict.fromkeys(tasks)])
    elif part.get("over") == "fold":
        matrix = matrix[:, :1]
    found = _interval(matrix, used[0], bound)
    differs = measure.unit == "points" and bound == 0 and sum(terms.values()) == 0
    titles = {name: title_of(of[0]) if len(of) == 1 else f"median of {len(of)} methods" for name, of in members.items()}
    titles = dict.fromkeys(terms, measure.label) if whole else titles
    formula = part["name"].format(**titles) if "name" in part else _formula(terms, titles, bound)
    text = f"{place}{'' if whole else f', {measure.label}'}: {formula}"
    return Contrast(text, found, judge(found, NEGLIGIBLE if differs else None), measure.digits, measure.unit), used


def _middle(measure: Measure, groups: Sequence[Sequence[Record]]) -> np.ndarray:
    """Return the median of some groups' values [seeds, B]; of one group, its own. A run that diverged counts as -1."""
    matrices = [_matrix(measure, group) for group in groups]
    return matrices[0] if len(matrices) == 1 else np.median(_diverged_last(matrices), axis=0)


def _diverged_last(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Return matrices [seeds, B] as one array, -1 where a run diverged; a group that did so throughout has B = 1."""
    return np.nan_to_num(np.broadcast_arrays(*matrices), nan=-1)


def _positives(record: Record) -> int | None:
    """Return the size of the smallest class of a record's test set, where it has one."""
    arrays = record.arrays()
    return int(np.bincount(arrays["test_labels"]).min()) if "test_labels" in arrays else None


def _picked(part: Mapping[str, Any], groups: Groups, measure: Measure) -> dict[str, list[str]]:
    """Return which groups a name that a contrast makes of others stands for: the picked one, or those of a median."""

    def members(chosen: str | Sequence[str]) -> list[str]:
        if chosen == "all":
            return [name for name in groups if name != "natural"]
        if chosen == "not natural":
            natural = {record.key for record in groups["natural"]}
            return [name for name, group in groups.items() if not natural & {record.key for record in group}]
        return [name for name in (SETS[chosen] if isinstance(chosen, str) else chosen) if name in groups]

    def on_validation(name: str) -> float:
        return float(np.mean([measure.on_validation(r) if r.status == "finished" else -np.inf for r in groups[name]]))

    picks = {name: members(chosen) for name, chosen in part.get("median", {}).items()}
    for kind, choose in (("best", max), ("worst", min)):
        picks |= {name: [choose(members(c), key=on_validation)] for name, c in part.get(kind, {}).items()}
    return picks


def _formula(terms: Mapping[str, float], names: Mapping[str, str], bound: float) -> str:
    """Return a weighted sum and its bound as text: ``"RG − 2 × CE"``, ``"RUSC above 75"``, ``"RG below 0.5"``."""
    below = max(terms.values()) < 0  # a sum of negative terms exceeds -0.5 if that of positive ones is below 0.5
    text = ""
    for name, weight in sorted(terms.items(), key=lambda term: term[1] < 0):
        times = "" if abs(weight) == 1 else f"{abs(weight):g} × "
        sign = "" if not text else " − " if weight < 0 and not below else " + "
        title = f"({names[name]})" if ", " in names[name] else names[name]
        text += f"{sign}{times}{title}"
    end = f" below {-bound:g}" if below else f" above {bound:g}"
    return text + minus(end) if bound else text


# ---------------------------------------------------------------- where the runs of a contrast are

GROUP_TITLES = {
    "binary": "binary labels",
    "true": "true classes",
    "random": "random groups",
    "regrouped": "RG",
    "pre-trained": "pre-trained encoder",
    "rg-longer": "RG",
    "ce-longer": "CE",
    "wce-longer": "WCE",
}


def title_of(group: str) -> str:
    """Return how text names a group of records."""
    if group in METHODS:
        return METHODS[group].title
    return f"K = {group}" if group.isdecimal() else GROUP_TITLES.get(group, encoder_label(group))


def groups_of(
    name: str, profile: str, seeds: Sequence[int], needed: set[str] | None = None
) -> dict[str, Groups | None]:
    """Return the records that a contrast calls `name`, by place; None where some of the `needed` groups are missing.

    A profile that has no such runs gives no place.
    """
    kind, _, rest = name.partition(" ")
    if name in (*plans.BINARY_TASKS[profile], *plans.MULTICLASS_TASKS[profile]):
        return {task_name(name): _recorded(lambda: plans.competitors(name, profile, seeds))}
    found = {}
    for place, runs in RUNS[kind](rest, profile, seeds).items() if kind in RUNS else ():
        wanted = {group: specs for group, specs in runs.items() if needed is None or group in needed}
        complete = needed is None or needed <= set(wanted)
        if runs:
            found[place] = _recorded(lambda runs=wanted: plans.records_of(runs, kind)) if complete else None
    return found


def _example(rest: str, profile: str, seeds: Sequence[int]) -> Runs:
    labels = {"binary": "ce", "true": "rg-true", "random": "rg-random"}
    labels["regrouped"] = f"rg-{plans.ENCODERS[profile][-1]}"
    found = plans.label_sets(profile, plans.HEADLINE_SEEDS[profile] if rest == "ten" else seeds)
    groups = {name: found[label] for name, label in labels.items()}
    return {f"{task_name(plans.TASKS[profile])}{', ten seeds' if rest else ''}": groups}


def _encoders(rest: str, profile: str, seeds: Sequence[int]) -> Runs:
    groups = plans.encoders(profile, seeds)
    return {task_name(plans.TASKS[profile]): groups | {"pre-trained": groups[plans.ENCODERS[profile][-1]]}}


def _clusters(task: str, profile: str, seeds: Sequence[int]) -> Runs:
    groups = plans.ablation("clusters", task, profile, seeds) if task in plans.ABLATION_TASKS[profile] else {}
    return {task_name(task): groups | {"natural": groups[str(plans.NATURAL_K[task])]}} if groups else {}


def _imbalance(rest: str, profile: str, seeds: Sequence[int]) -> Runs:
    found = by_number(plans.ablation("imbalance", plans.ABLATION_TASKS[profile][0], profile, seeds))
    if rest == "trend":
        return {"300:1 against 10:1": _ends(found[min(found, key=float)], found[max(found, key=float)])}
    return {f"{rest}:1": found.get(rest, {})}


def _ends(first: dict[str, list[Any]], last: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the runs of the first and the last of several settings, by method and end."""
    return {f"{name} {end}": runs for end, at in (("first", first), ("last", last)) for name, runs in at.items()}


def _uses(task: str, profile: str, seeds: Sequence[int]) -> Runs:
    groups = plans.encoder_uses(task, profile, seeds) if task in plans.USES_TASKS[profile] else {}
    whole = all(len(specs) == len(seeds) and specs[0].method == specs[-1].method for specs in groups.values())
    return {task_name(task): groups if whole else {"waiting": []}}


def _dose(rest: str, profile: str, seeds: Sequence[int]) -> Runs:
    runs = plans.dose_runs(profile, seeds)
    names = {name: f"{name} {rest}" for name in ("random", "brightness", "autoencoder")}
    return {f"{float(rest):.0%} re-assigned": {name: runs[key] for name, key in names.items() if key in runs}}


def _length(rest: str, profile: str, seeds: Sequence[int]) -> Runs:
    names, runs = {"binary": "binary", "regrouped": "clusters"}, plans.long_runs(profile, seeds)
    if not runs:
        return {}
    longest = max(plans.LONG_EPOCHS[profile])
    long = {name: runs[f"{label} {longest}"] for name, label in names.items()}
    if rest != "trend":
        return {f"{longest} epochs": long}
    controls = plans.ablation("control", plans.ABLATION_TASKS[profile][0], profile, seeds)
    return {f"{longest} against 5 epochs": _ends({name: controls[label] for name, label in names.items()}, long)}


RUNS: dict[str, Callable[[str, str, Sequence[int]], Runs]] = {
    "example": _example,
    "encoders": _encoders,
    "clusters": _clusters,
    "imbalance": _imbalance,
    "text": lambda rest, *asked: text.titled(plans.text_results(*asked)),
    "self-supervision": lambda rest, p, seeds: {
        task_name(plans.ABLATION_TASKS[p][0]): plans.self_supervised_runs(p, seeds)
    },
    "uses": _uses,
    "dose": _dose,
    "length": _length,
    "ten": lambda rest, p, seeds: {"ten classes of CIFAR-100": plans.ten_class_runs(p)},
    "folds": lambda rest, p, seeds: {f"{task_name(rest)}, five folds": plans.fold_runs(rest, p)},
}
# What `regroup sweep` calls the runs of a place, where that is not the chapter of the claim.
SWEEPS = {
    "example ten": "headline",
    "uses": "encoder-uses",
    "length": "training-length",
    "ten": "ten-classes",
    "folds": "folds",
}


def _recorded(find: Callable[[], Groups]) -> Groups | None:
    try:
        return find()
    except ValueError:  # some runs have no record yet
        return None
