"""Numbers in the rendered book come from its records: results tables are computed again, cell by cell, from the files.

The formulas here are written out over the JSON files; what needs the arrays, and the bootstrap, are the library's.
"""

import csv
import functools
import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup
from scipy.stats import rankdata, spearmanr
from scipy.stats import t as student

from regroup_lib import competition, longtail, multiclass, pace, report, table_report, tables, text_report
from regroup_lib.records import load_record

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
CHAPTERS = [e["file"] for e in TOC["chapters"] if (ROOT / "notebooks" / f"{e['file']}.ipynb").is_file()]
# What is on their pages: other chapters' records with links of their own, the paper's numbers, a benchmark's.
WITHOUT_RECORDS = ("scorecard", "discrepancies", "scale")
PAPER_TASKS = {
    "cifar100-worm": "cifar100-worm",
    "ham10000-bcc": "ham10000-binary",
    "ham10000-akiec": "ham10000-binary",
    "ham10000": "ham10000",
}


@functools.cache
def files():
    return {path.stem.rsplit("-", 1)[1]: path for path in (ROOT / "results").glob("*/*/*.json")}


@functools.cache
def raw(key):
    return json.loads(files()[key].read_text(encoding="utf-8"))


@functools.cache
def loaded(key):
    return load_record(files()[key])


@functools.cache
def paper():
    found = {}
    for number in (1, 2):
        with (ROOT / "regroup_lib" / "paper" / f"table{number}.csv").open(encoding="utf-8", newline="") as stream:
            for r in csv.DictReader(stream):
                found[r["task"], r["method"], r["measure"]] = (float(r["mean"]), float(r["std"]))
    return found


@functools.cache
def soup(name):
    return BeautifulSoup((HTML / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


# ---------------------------------------------------------------- cells, written out


def minus(text):
    return text.replace("-", "−")


def spread(values, digits=1):
    """Return mean ± standard deviation."""
    if np.isnan(values).any():
        return "nan ± nan"
    return minus(f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}")


def on_test(key, rule="max"):
    """Return what a record measured on the test set; None where it diverged."""
    metrics = raw(key)["metrics"]
    return (
        metrics.get(
            "none",
            metrics.get(rule),
        )["test"]
        if metrics
        else None
    )


def summary(key, measure, rule="max"):
    found = on_test(key, rule)
    return 100 * found["summary"][measure] if found else float("nan")


def percent(measure, rule="max"):
    return lambda row, table: spread([summary(key, measure, rule) for key in row])


def of_class(name):
    """Return a cell of the AP of a class; those of a binary task also go by negative and positive."""

    def cell(row, table):
        found = [on_test(key) for key in row]
        measured = [f["average_precision"] if f else {} for f in found]
        if not any(name in m for m in measured):
            position = ("negative", "positive").index(name)
            return spread([100 * list(m.values())[position] if m else float("nan") for m in measured])
        return spread([100 * m[name] if m else float("nan") for m in measured])

    return cell


def in_paper(measure):
    def cell(row, table):
        spec = raw(row[0])["spec"]
        number = paper().get((PAPER_TASKS[spec["task"]], spec["method"], measure))
        return "" if number is None else "{:.1f} ± {:.1f}".format(*number)

    return cell


def plain(number):
    """Return a cell of the mean of a number of each record."""
    return lambda row, table: f"{np.mean([number(key) for key in row]):.2f}"


def student_of_halves(number):
    """Return the difference of a row's first half of records and its second, with Student's interval over seeds."""

    def cell(row, table):
        found = [number(a) - number(b) for a, b in zip(row[: len(row) // 2], row[len(row) // 2 :], strict=True)]
        mean, error = statistics.fmean(found), statistics.stdev(found) / len(found) ** 0.5
        margin = student.ppf(0.975, len(found) - 1) * error
        return minus(f"{mean:+.1f} [{mean - margin:+.1f}, {mean + margin:+.1f}]")

    return cell


def student_difference(row, table):
    """Return the difference in AP to the table's first row that has no encoder and no groups, with its interval."""
    baseline = next(other for other in table if raw(other[0])["spec"]["method"] == "ce")
    if row == baseline:
        return ""
    return student_of_halves(lambda key: summary(key, "average_precision"))((*row, *baseline), table)


def gain(row, table):
    return student_difference(row, table).split(" ")[0]


def bootstrapped(method):
    def cell(row, table):
        baseline = next(other for other in table if raw(other[0])["spec"]["method"] == method)
        if row == baseline:
            return ""
        resampled = [competition.bootstrap_precisions([loaded(key) for key in keys]) for keys in (row, baseline)]
        interval = competition.bootstrap_difference(*resampled)
        means = [np.mean([summary(key, "average_precision") for key in keys]) for keys in (row, baseline)]
        assert interval.mean == pytest.approx(means[0] - means[1], abs=0.005, nan_ok=True)
        return str(interval)

    return cell


def starred(interval):
    return f"{interval}{' *' if interval.clear else ''}"


def difference(first, second):
    """Return the bootstrap difference of two groups' AP."""
    return competition.bootstrap_difference(
        *(competition.bootstrap_precisions([loaded(key) for key in keys]) for keys in (first, second))
    )


def of_halves(row, table):
    """Return the difference of a row's first half of records and its second."""
    return str(difference(row[: len(row) // 2], row[len(row) // 2 :]))


def ranks(numbers):
    """Return the place of each of some numbers, the highest first; what is missing comes last."""
    numbers = [-1 if np.isnan(n) else n for n in numbers]
    return [1 + sum(other > n for other in numbers) for n in numbers]


def rank(row, table):
    means = [np.mean([summary(key, "average_precision") for key in keys]) for keys in table]
    return str(ranks(means)[table.index(row)])


def ranks_by_seed(row, table):
    columns = [ranks([summary(keys[i], "average_precision") for keys in table]) for i in range(len(row))]
    return ", ".join(str(column[table.index(row)]) for column in columns)


@functools.cache
def resampled_ranks(table):
    means = np.stack([competition.bootstrap_precisions([loaded(k) for k in keys]).mean(axis=0) for keys in table])
    means = np.nan_to_num(means, nan=-1)
    return (means[None] > means[:, None]).sum(axis=1) + 1


def rank_interval(row, table):
    low, high = np.percentile(resampled_ranks(tuple(table))[table.index(row)], [2.5, 97.5]).astype(int)
    return f"{low} to {high}"


def first_in(row, table):
    return f"{(resampled_ranks(tuple(table))[table.index(row)] == 1).mean():.0%}"


def seconds(keys, steps=("regroup", "resample", "train")):
    return sum(raw(fastest(keys))["seconds"].get(step, 0) for step in steps)


def fastest(keys):
    return min(keys, key=lambda key: sum(raw(key)["seconds"].get(step, 0) for step in ("regroup", "resample", "train")))


def images(keys):
    return statistics.median(sum(epoch["images"] for epoch in raw(key)["traces"]) for key in keys)


def relative(measure):
    def cell(row, table):
        return f"{measure(row) / measure(next(t for t in table if raw(t[0])['spec']['method'] == 'ce')):.2f}"

    return cell


def contestant(name):
    method, rule = table_report.CONTESTANTS[name]

    def cell(row, table):
        found = [raw(key) for key in row if raw(key)["spec"]["method"] == method]
        if any(record["status"] != "finished" for record in found):
            return "n. a."
        return spread([100 * record["metrics"][rule]["test"]["summary"]["average_precision"] for record in found])

    return cell


def of_records(number, digits=2):
    """Return a cell of mean ± standard deviation of a number that the library computes from a record."""
    return lambda row, table: spread([number(loaded(key)) for key in row], digits)


def ends(row, table):
    gaps = np.mean([pace.pace_gap(loaded(key))[[0, -1]] for key in row], axis=0)
    return minus(" → ".join(f"{gap:+.2f}" for gap in gaps))


def validation(row, table):
    metrics = raw(row[0])["metrics"]
    return f"{100 * metrics.get('none', metrics.get('max'))['val']['summary']['average_precision']:.1f}"


# What a column holds, by its head.
COLUMNS = {
    "BA": percent("balanced_accuracy"),
    "BA (max)": percent("balanced_accuracy"),
    "BA (sum)": percent("balanced_accuracy", "sum"),
    "AP (max)": percent("average_precision"),
    "AP (sum)": percent("average_precision", "sum"),
    "AP": percent("average_precision"),
    "AP, positive": of_class("positive"),
    "AP, negative": of_class("negative"),
    "AP, neutral": of_class("neutral"),
    "calibrated AP": percent("calibrated_average_precision"),
    "BA (paper)": in_paper("balanced_accuracy"),
    "AP, positive (paper)": in_paper("average_precision_positive"),
    "AP, negative (paper)": in_paper("average_precision_negative"),
    "AP − binary": student_difference,
    "AP gain": gain,
    "AP − CE": bootstrapped("ce"),
    "AP − RG": bootstrapped("rg"),
    "rank": rank,
    "ranks by seed": ranks_by_seed,
    "95% of resamples": rank_interval,
    "first in": first_in,
    "images seen": relative(images),
    "of that preparing": lambda row, table: f"{seconds(row, ('regroup', 'resample')) / seconds(row):.0%}",
    "validation AP": validation,
    "d": lambda row, table: str(raw(row[0])["regrouping"]["dimension"]),
    "ARI": lambda row, table: spread([raw(key)["metrics"]["ari"] for key in row], 2),
    "learned": plain(lambda key: report.learned_share(loaded(key))),
    "spread": plain(lambda key: raw(key)["traces"][-1]["variation"][-1]),
    "recall": plain(lambda key: report.recall_and_precision(loaded(key))[0]),
    "precision": plain(lambda key: report.recall_and_precision(loaded(key))[1]),
    "A": of_records(pace.asynchrony),
    "g, mean": of_records(lambda r: pace.pace_gap(r).mean()),
    "g, first → last epoch": ends,
    "g, hidden classes": of_records(lambda r: pace.hidden_pace_gap(r).mean()),
} | {table_report.STYLES[name].label: contestant(name) for name in table_report.CONTESTANTS}


def agreement(measure):
    def cell(row, table):
        if raw(row[0])["spec"]["kind"] == "encoder":
            return spread([raw(key)["metrics"][measure] for key in row], 2)
        found = [raw(key)["regrouping"].get(measure) for key in row]
        return "" if None in found else f"{np.mean(found):.2f}"

    return cell


def of_groups(number):
    """Return a cell of what the records of a row that know their hidden classes say; others have none."""
    return lambda row, table: "" if any("purity" not in raw(k)["regrouping"] for k in row) else number(row)


def unevenness(key):
    """Return the largest over the smallest part of the divided classes."""
    parent, counts = (np.array(raw(key)["regrouping"][name]) for name in ("parent", "counts"))
    sizes = [n for c, n in zip(parent, counts, strict=True) if (parent == c).sum() > 1]
    return max(sizes) / min(sizes)


def neighbors(row, table):
    if raw(row[0])["spec"]["kind"] == "encoder":
        return f"{raw(row[0])['metrics']['neighbor_accuracy']:.2f}"
    return f"{np.mean([on_test(key)['neighbor_accuracy'] for key in row]):.2f}"


def time_taken(row, table):
    if raw(row[0])["spec"]["kind"] != "encoder":
        return relative(seconds)(row, table)
    return (
        f"{raw(row[0])['seconds']['encode']:.0f} + {statistics.median(raw(k)['seconds']['regroup'] for k in row):.0f}"
    )


COLUMNS |= {
    "purity": agreement("purity"),
    "NMI": agreement("nmi"),
    "5-NN": neighbors,
    "seconds": time_taken,
    "largest : smallest": of_groups(lambda row: f"{np.mean([unevenness(key) for key in row]):.1f}"),
    "clustering, s": of_groups(lambda row: f"{statistics.median(raw(k)['seconds']['regroup'] for k in row):.0f}"),
    "pseudo-classes": lambda row, table: str(len(raw(row[0])["regrouping"]["parent"])),
    "mean AP": percent("average_precision"),
    "epochs": lambda row, table: str(raw(row[0])["spec"]["epochs"]),
}


# ---------------------------------------------------------------- Table 2 and what stands beside it


def macro_f1(key):
    record = loaded(key)
    if record.status != "finished":
        return float("nan")
    labels, scores = competition.scores_on_test(record)
    decided, found = scores.argmax(axis=1), []
    for c in range(scores.shape[1]):
        hits = ((labels == c) & (decided == c)).sum()
        found.append(2 * hits / ((labels == c).sum() + (decided == c).sum()))
    return 100 * float(np.mean(found))


AVERAGES = {
    "mean AP": lambda key: summary(key, "average_precision"),
    "calibrated mean AP": lambda key: summary(key, "calibrated_average_precision"),
    "macro F1": macro_f1,
    "BA": lambda key: summary(key, "balanced_accuracy"),
}


def rank_by(number):
    return lambda row, table: str(ranks([np.mean([number(k) for k in keys]) for keys in table])[table.index(row)])


for average, number_of in AVERAGES.items():
    COLUMNS[f"rank, {average}"] = rank_by(number_of)
    COLUMNS.setdefault(average, lambda row, table, number_of=number_of: spread([number_of(key) for key in row]))
COLUMNS |= {name: of_class(name) for name in ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df")}


def split_by(row, split):
    return [key for key in row if (raw(key)["spec"]["split"] == "image") == (split == "by image")]


for average in ("mean AP", "BA"):
    for split in ("by lesion", "by image"):
        COLUMNS[f"{average}, {split}"] = lambda row, table, split=split, average=average: spread(
            [AVERAGES[average](key) for key in split_by(row, split)]
        )

    def inflation(row, table, average=average):
        means = [np.mean([AVERAGES[average](k) for k in split_by(row, s)]) for s in ("by image", "by lesion")]
        return f"{means[0] - means[1]:+.1f}"

    COLUMNS[f"{average}, inflated by"] = inflation
for position, exposure in enumerate(("seen", "new")):
    COLUMNS[f"recall, lesion {exposure}"] = lambda row, table, position=position: spread(
        [100 * multiclass.recall_by_exposure(loaded(key))[position] for key in split_by(row, "by image")]
    )

# ---------------------------------------------------------------- ablations, text, long tails


def accuracy(name):
    def cell(row, table):
        found = [100 * longtail.shot_accuracies(loaded(key))[name] for key in row]
        return "" if np.isnan(found).all() else spread(found)

    return cell


COLUMNS |= {f"accuracy, {name}": accuracy(name) for name in ("all", *longtail.SHOTS)}
COLUMNS["AP, points"] = of_halves
# Heads that mean something of their own in one table, by the head of its first column.
RATIOS, STEPS, COMPARED = "negatives : positives", "at equal steps", "difference in AP, points"


def with_method(method, row):
    return [key for key in row if raw(key)["spec"]["method"] == method]


def over_best_other(row, table):
    others = {title: with_method(title.lower(), row) for title in ("CE", "WCE", "ROS")}
    rival = max(others, key=lambda title: np.mean([summary(key, "average_precision") for key in others[title]]))
    return f"{starred(difference(with_method('rg', row), others[rival]))} ({rival})"


OF_TABLE = {
    (first, name): lambda row, table, name=name: percent("average_precision")(with_method(name.lower(), row), table)
    for first, names in ((RATIOS, ("CE", "WCE", "ROS", "RG")), (STEPS, ("ROS", "RG")))
    for name in names
}
OF_TABLE |= {
    (first, f"RG − {name}"): lambda row, table, name=name: str(
        difference(with_method("rg", row), with_method(name.lower(), row))
    )
    for first, name in ((RATIOS, "CE"), (STEPS, "ROS"))
}
OF_TABLE[RATIOS, "RG − best other"] = over_best_other
OF_TABLE["regrouped by", "AP − binary"] = bootstrapped("ce")


def called_positive(key):
    scores = loaded(key).arrays()
    return 100 * np.mean(scores.get("test_scores_max", scores.get("test_scores_none")) >= 0.5)


COLUMNS["called positive"] = lambda row, table: spread([called_positive(key) for key in row])
LONG_TRAINED = {"binary": "ce", "random, equal": "rg-random", "clusters": "rg", "true": "rg-true"}
LENGTHS = "trained epochs"
for label, method in LONG_TRAINED.items():
    OF_TABLE[LENGTHS, label] = lambda row, table, method=method: (
        percent("average_precision")(with_method(method, row), table) if with_method(method, row) else ""
    )
    OF_TABLE[LENGTHS, f"{label} − binary"] = lambda row, table, method=method: (
        str(difference(with_method(method, row), with_method("ce", row))) if with_method(method, row) else ""
    )
OF_TABLE["training set", "accuracy"] = student_of_halves(lambda key: summary(key, "balanced_accuracy"))
OF_TABLE["training set", "mean AP"] = student_of_halves(lambda key: summary(key, "average_precision"))


def on_text_task(head):
    def cell(row, table):
        specs = {key: raw(key)["spec"] for key in row}
        chosen = [
            key
            for key, spec in specs.items()
            if text_report.task_title((spec["task"], spec["imbalance"]), fine_tuned=spec["network"] == "minilm") == head
        ]
        return of_halves(chosen, table) if chosen else ""

    return cell


# ---------------------------------------------------------------- two profiles of one table


def in_profile(name, cell):
    """Return a cell of those records of each row that are of a profile."""

    def chosen(row):
        return tuple(key for key in row if raw(key)["spec"]["profile"] == name)

    return lambda row, table: cell(chosen(row), [chosen(other) for other in table])


for profile in ("cpu", "paper"):
    COLUMNS[f"AP, {profile}"] = in_profile(profile, percent("average_precision"))
    COLUMNS[f"over CE, {profile}"] = in_profile(profile, student_difference)

# ---------------------------------------------------------------- data in tables


def task_of(key):
    return raw(key)["spec"]["task"], raw(key)["spec"]["imbalance"]


def counted(key, parent):
    regrouping = raw(key)["regrouping"]
    return [n for n, p in zip(regrouping["counts"], regrouping["parent"], strict=True) if p == parent]


def labels_of(key):
    return loaded(key).arrays()["test_labels"]


COLUMNS |= {
    "rows": lambda row, table: f"{len(labels_of(row[0])):,}",
    "chance": lambda row, table: f"{100 * np.mean(labels_of(row[0]) == 1):.1f}",
    "training": lambda row, table: " : ".join(f"{sum(counted(row[0], parent)):,}" for parent in (0, 1)),
    "K": lambda row, table: str(len(counted(row[0], 0))),
}
COLUMNS |= {name: plain(lambda key, n=name: raw(key)["regrouping"]["before"][n]) for name in table_report.FORESEEN}


def mean_on_tasks(keys, contestant, measure="average_precision"):
    """Return by task the mean over seeds of a contestant's test results; NaN where it could not be used."""
    method, rule = table_report.CONTESTANTS[contestant]
    found = {}
    for key in keys:
        if raw(key)["spec"]["method"] == method:
            metrics = raw(key)["metrics"]
            value = metrics[rule]["test"]["summary"][measure] if metrics else float("nan")
            found.setdefault(task_of(key), []).append(value)
    return {task: float(np.mean(values)) for task, values in found.items()}


@functools.cache
def mean_ranks(table, measure, over_sources):
    """Return the mean rank of each contestant among those of a table's records."""
    keys = list(dict.fromkeys(key for row in table for key in row))
    methods = {raw(key)["spec"]["method"] for key in keys}
    names = [name for name, (method, _) in table_report.CONTESTANTS.items() if method in methods]
    means = [mean_on_tasks(keys, name, measure) for name in names]
    by_task = {task: rankdata([-np.nan_to_num(round(m[task], 10), nan=-1) for m in means]) for task in means[0]}
    if over_sources:
        by_source = {}
        for (task, _), found in by_task.items():
            by_source.setdefault(task.rsplit("-", 1)[0], []).append(found)
        by_task = {source: rankdata(np.mean(found, axis=0).round(10)) for source, found in by_source.items()}
    return dict(zip(names, np.mean(list(by_task.values()), axis=0), strict=True))


@functools.cache
def over_plain(row, table, name):
    """Return how often a contestant's AP is better, and worse, than that of the plain classifier."""
    keys = {}
    for key in (key for keys in table for key in keys):
        keys.setdefault((task_of(key), raw(key)["spec"]["method"]), []).append(key)
    method, rule = table_report.CONTESTANTS[name]
    better = worse = 0
    for (task, found), plain_keys in keys.items():
        if found == "plain":
            pair = [
                100 * np.array([table_report.resampled_precisions(loaded(k), r) for k in dict.fromkeys(group)])
                for group, r in ((keys[task, method], rule), (plain_keys, "none"))
            ]
            interval = competition.bootstrap_difference(*pair)
            better, worse = better + (interval.low > 0), worse + (interval.high < 0)
    return int(better), int(worse)


def of_contestant(title, cell):
    """Return a cell of a row that is named by its contestant: two of them share the records of a method."""
    (name,) = (name for name, style in table_report.STYLES.items() if style.label == title)
    return lambda row, table: cell(row, tuple(map(tuple, table)), name)


RANKED = {
    "mean rank": lambda row, table, name: f"{mean_ranks(table, 'average_precision', False)[name]:.1f}",
    "mean rank over sources": lambda row, table, name: f"{mean_ranks(table, 'average_precision', True)[name]:.1f}",
    "mean rank by BA": lambda row, table, name: f"{mean_ranks(table, 'balanced_accuracy', False)[name]:.1f}",
    "better than plain": lambda row, table, name: str(over_plain(row, table, name)[0]),
    "worse": lambda row, table, name: str(over_plain(row, table, name)[1]),
    "could not be used": lambda row, table, name: str(sum(map(np.isnan, mean_on_tasks(row, name).values())) or ""),
}


def best_classifier(contestant):
    return lambda row, table: tables.ESTIMATOR_TITLES[best_estimator(row, contestant)]


def best_estimator(row, contestant):
    found = {}
    for key in row:
        found.setdefault(raw(key)["spec"]["estimator"], []).append(key)
    return max(found, key=lambda e: next(iter(mean_on_tasks(found[e], contestant).values())))


def gain_of_the_best(row, table):
    resampled = []
    for name in ("rg", "plain"):
        method, rule = table_report.CONTESTANTS[name]
        chosen = [k for k in with_method(method, row) if raw(k)["spec"]["estimator"] == best_estimator(row, name)]
        resampled.append(100 * np.array([table_report.resampled_precisions(loaded(key), rule) for key in chosen]))
    return str(competition.bootstrap_difference(*resampled))


def correlation_with_gain(number):
    def cell(row, table):
        before = {}
        for key in with_method("rg", row):
            before.setdefault(task_of(key), []).append(raw(key)["regrouping"]["before"][number])
        regrouped, plainly = mean_on_tasks(row, "rg"), mean_on_tasks(row, "plain")
        pairs = [(np.mean(values), regrouped[task] - plainly[task]) for task, values in before.items()]
        return minus(f"{spearmanr(*zip(*pairs, strict=True)).statistic:+.2f}")

    return cell


COLUMNS |= {"best, plain": best_classifier("plain"), "best, regrouped": best_classifier("rg")}
OF_TABLE |= {("classifier", name): correlation_with_gain(name) for name in table_report.FORESEEN}
COLUMNS["AP, regrouped − plain"] = gain_of_the_best

# Columns of words, and of what the plan says.
WORDS = {"groups", "setting", "chosen", "settings tried", "difference", "contest", "compared"}


def column(head, rows, first_head, title):
    """Return what yields a row's cell of a column from the records of the row and of all rows."""
    if head in RANKED:
        return of_contestant(title, RANKED[head])
    if first_head == COMPARED:
        return on_text_task(head)
    found = OF_TABLE.get((first_head, head)) or COLUMNS.get(head)
    reference = [keys for keys, cells in rows if head == f"AP − {cells[0]}"]
    if found is None and reference:
        return lambda row, table: "" if row == reference[0] else str(difference(row, reference[0]))
    return found


def own_text(cell):
    """Return a cell's text without the paper's number below it."""
    return "".join(text for text in cell.strings if not text.find_parent(class_="paper"))


def results_tables(name):
    """Return the tables of a page whose rows name their records: heads, and (record keys, cells) by row."""
    tables = []
    for table in soup(name).select("table.results"):
        heads = [head.get_text() for head in table.select("thead th")]
        rows = [
            (tuple(row.select_one("a[data-records]")["data-records"].split()), [own_text(c) for c in row.select("td")])
            for row in table.select("tbody tr")
        ]
        tables.append((heads, rows))
    return tables


def wrong_cells(tables):
    """Return a line for each cell that is not what the records of its row say."""
    wrong = []
    for heads, rows in tables:
        keys = [key for key, _ in rows]
        for row, cells in rows:
            for head, cell in list(zip(heads, cells, strict=True))[1:-1]:
                if head in WORDS:
                    continue
                yields = column(head, rows, heads[0], cells[0])
                expected = f"no column is called {head}" if yields is None else yields(row, keys)
                if re.sub(r" \*+$", "", cell) != expected:
                    wrong.append(f"{heads[0]} {cells[0]}, {head}: {cell!r}, the records say {expected!r}")
    return wrong


@pytest.mark.browser
@pytest.mark.parametrize("name", CHAPTERS)
def test_each_cell_of_a_results_table_is_yielded_by_the_records_of_its_row(name):
    assert wrong_cells(results_tables(name)) == []


@pytest.mark.browser
@pytest.mark.skipif("multiclass" not in CHAPTERS, reason="Table 2 has no page")
def test_numbers_of_the_paper_below_ours_are_those_of_its_table_2():
    (table,) = (t for t in soup("multiclass").select("table.results") if t.select("td span.paper"))
    heads = [head.get_text() for head in table.select("thead th")]
    found = {}
    for row in table.select("tbody tr"):
        method = raw(row.select_one("a[data-records]")["data-records"].split()[0])["spec"]["method"]
        for head, cell in zip(heads, row.select("td"), strict=True):
            measure = "balanced_accuracy" if head == "BA" else f"average_precision_{head}"
            if cell.select("span.paper"):
                found["ham10000", method, measure] = cell.select_one("span.paper").get_text()
    assert found == {k: "{:.1f} ± {:.1f}".format(*v) for k, v in paper().items() if k[0] == "ham10000"}


@pytest.mark.browser
def test_a_number_that_no_record_yields_is_found():
    heads, rows = results_tables("motivating-example")[0]
    column = heads.index("AP (max)")
    (keys, cells), *others = rows
    changed = cells.copy()
    changed[column] = minus(f"{float(cells[column].split()[0]) + 0.1:.1f} ± {cells[column].split()[-1]}")
    (line,) = wrong_cells([(heads, [(keys, changed), *others])])
    assert "AP (max)" in line
    assert repr(cells[column]) in line
    (line,) = wrong_cells([([*heads[:-1], "luck", heads[-1]], [(keys, [*cells[:-1], "0.5", cells[-1]])])])
    assert "no column is called luck" in line


RECORDED = ["motivating-example", "encoders", "synchronous-learning", "binary", "multiclass", "tables", "text"]
RECORDED += ["ablations", "open-ends"]


@pytest.mark.browser
@pytest.mark.parametrize("name", RECORDED)
def test_chapters_of_records_have_results_tables(name):
    assert results_tables(name)


@pytest.mark.browser
@pytest.mark.parametrize("name", CHAPTERS)
def test_tables_with_measured_numbers_lead_to_records(name):
    """A table without records by row holds verdicts, counts or the paper's numbers, on a page that names its runs."""
    page = soup(name)
    measured = [t for t in page.select("table") if re.search(r"\d ± \d|\[[−+]\d", t.get_text())]
    if any("results" not in t.get("class", []) and not t.select("a") for t in measured):
        assert page.select_one(f"section#runs-behind-this-page a[href^='records.html#records-{name}']") or (
            name in WITHOUT_RECORDS
        )


@pytest.mark.browser
@pytest.mark.parametrize("name", CHAPTERS)
def test_page_says_which_runs_are_behind_it_and_each_figure_leads_there(name):
    page, listed = soup(name), soup("records").select_one(f"[id='records-{name}']")
    if listed is None:
        assert name in WITHOUT_RECORDS
        return
    said = page.select_one("section[id^='runs-behind-this-page']").get_text()
    section = listed if listed.name == "section" else listed.find_parent("section")
    keys = [link.get_text() for link in section.select("table.records td a")]
    records = [raw(key) for key in keys]
    for record in records:
        assert record["data_digest"][:12] in said
        assert record["spec"]["task"] in said
        assert f"profile {record['spec']['profile']}" in said
        assert f"{record['machine']['cores']} cores {record['machine']['architecture']}" in said
    captions = page.select("main figcaption")
    figures = [c for c in captions if not c.find_parent(class_="explore")]
    assert all(c.select_one("a[href^='#runs']") for c in figures)


@pytest.mark.browser
def test_front_page_repeats_numbers_of_results_tables():
    known = {
        re.sub(r" \*+$", "", c) for _, rows in results_tables("motivating-example") for _, row in rows for c in row
    }
    (table,) = (t for t in soup("index").select("table") if "test AP" in t.get_text())
    cells = [c.get_text() for row in table.select("tbody tr") for c in row.select("td")[1:]]
    assert len(cells) >= 10
    assert {cell for cell in cells if cell} <= known
