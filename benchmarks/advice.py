"""Regret of the advice on own data: AP of the best row of a comparison, minus that of the advised method.

The committed records of the tables chapter replace users' tables, and five small folders of pictures, which are made
from data at hand, replace users' folders. The advised method is chosen without the samples that are measured (by the
other folds of a table, by the validation split of pictures), so it has no advantage from the choice; the best row is
picked afterwards and has one.

    python benchmarks/advice.py    # writes advice.json, which the chapter on own data shows

The comparisons of pictures are those of ``regroup fit FOLDER --quick --epochs 10`` and take about 25 minutes on a
core. Folders and records are kept in ``advice/`` of the data directory, so a second call resumes.
"""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image

from regroup_book import examples, plans
from regroup_book.plans import INCEPTION
from regroup_lib.comparison import Comparison, compare
from regroup_lib.data.load import load_data
from regroup_lib.files import atomic_path, data_directory
from regroup_lib.runs.own import REGROUPED, TABLE_METHODS
from regroup_lib.runs.records import find_record


def comparison_of(task: str, imbalance: float | None) -> Comparison:
    """Return the records of a bundled table as a comparison on own data."""
    specs = [s for s in plans.tabular("cpu", (0, 1, 2)) if (s.task, s.imbalance) == (task, imbalance)]
    specs = [s for s in specs if s.method in TABLE_METHODS.values()]
    specs = [s for s in specs if s.estimator != "boosting" or s.method not in ("rg", "rg-weights")]
    records = [find_record(spec) for spec in specs]
    before = [record.regrouping["before"] for record in records if record.spec.method == "rg"]
    diagnosis = [{"class": "rest", "stability": np.mean([values["stability"] for values in before])}]
    spec = SimpleNamespace(holds="rows", encoder=None, task=f"own-{task}")
    return Comparison(SimpleNamespace(spec=spec, metrics={"diagnosis": diagnosis, "notes": []}), tuple(records))


def write_photographs(name: str, dataset: str, positive: str) -> Path:
    """Write 1,100 training images of CIFAR as a folder, 100 of them of a class."""
    data = load_data(dataset)
    train, label = data.train, data.class_names.index(positive)
    return _written(name, train.labels == label, (1000, 100), lambda row: Image.fromarray(train.inputs[row]))


def write_lesions(name: str, diagnosis: str) -> Path:
    """Write 600 pictures of HAM10000 as a folder, one per lesion, 100 of them of a diagnosis."""
    home = data_directory() / "ham10000"
    lesions = pd.read_csv(home / "HAM10000_metadata.csv").drop_duplicates("lesion_id")
    files = {path.stem: path for path in home.rglob("ISIC_*.jpg")}
    ids = lesions["image_id"].to_numpy()
    return _written(name, (lesions["dx"] == diagnosis).to_numpy(), (500, 100), lambda row: Image.open(files[ids[row]]))


def _written(name, positive, counts, picture) -> Path:
    """Write so many pictures of either side, drawn without replacement, unless they are there."""
    folder, rng = data_directory() / "advice" / name, np.random.default_rng(0)
    for side, count in zip((False, True), counts, strict=True):
        (folder / ("positive" if side else "rest")).mkdir(parents=True, exist_ok=True)
        for row in rng.choice(np.flatnonzero(positive == side), count, replace=False):
            path = folder / ("positive" if side else "rest") / f"{row:05}.png"
            if not path.exists():
                with atomic_path(path) as partial:
                    picture(row).save(partial, "png")
    return folder


# Name -> folder, positive class, encoder and side of the images, of folders of pictures. The rule by which methods are
# chosen was fixed after the first three and before the last two.
PICTURES = {
    "scans of an 8": (examples.write_digits, "8", "pca", None),
    "airplanes at 10:1": (partial(write_photographs, "airplanes", "cifar10", "airplane"), "positive", INCEPTION, None),
    "basal cell carcinoma at 5:1": (partial(write_lesions, "lesions", "bcc"), "positive", INCEPTION, 32),
    "worms at 10:1": (partial(write_photographs, "worms", "cifar100", "worm"), "positive", INCEPTION, None),
    "actinic keratoses at 5:1": (partial(write_lesions, "keratoses", "akiec"), "positive", INCEPTION, 32),
}


def regret(comparison: Comparison) -> tuple[str, float]:
    """Return the word of the advice, and its regret in points of AP."""
    rows = {row: comparison.scores(*row).precisions.mean() for row in comparison.groups}
    word = comparison.recommendation.word
    titles = {title for _, title in rows}
    advised = comparison.chosen(REGROUPED if word == "regroup" else titles.difference(REGROUPED))
    return word, 100 * (max(rows.values()) - advised.precisions.mean())


if __name__ == "__main__":
    found: dict[str, dict[str, float]] = {"tables": {}, "pictures": {}}
    for task, imbalance in plans.TABULAR_TASKS["cpu"]:
        name = task + (f" at {imbalance}:1" if imbalance else "")
        word, found["tables"][name] = regret(comparison_of(task, imbalance))
        print(f"{name}: {word}, regret {found['tables'][name]:+.2f}")
    for name, (write, positive, encoder, side) in PICTURES.items():
        options = {"positive": positive, "encoder": encoder, "image_size": side, "seeds": (0, 1), "epochs": 10}
        comparison = compare(write(), **options, results_dir=data_directory() / "advice" / "records")
        word, found["pictures"][name] = regret(comparison)
        print(f"{comparison.table}\n{name}: {word}, regret {found['pictures'][name]:+.2f}", flush=True)
    for kind, points in found.items():
        print(f"mean of {len(points)} {kind}: {np.mean(list(points.values())):+.2f} points of AP")
    rounded = {kind: {name: round(value, 4) for name, value in points.items()} for kind, points in found.items()}
    with atomic_path(Path(__file__).with_suffix(".json")) as partial:
        partial.write_text(json.dumps(rounded, indent=1) + "\n")
