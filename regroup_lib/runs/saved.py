"""A model to take away: the classifier of one run, fitted, saved, read again and applied to new data.

Nothing in the files can run code: scikit-learn's estimators are skops files whose types must be on a list, the weights
of networks are safetensors, the rest is JSON.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import skops.io
import torch
from imblearn.pipeline import make_pipeline
from safetensors.torch import load_file, save_file
from sklearn.preprocessing import OneHotEncoder

from regroup_lib.data.bundled_tables import table_of
from regroup_lib.data.dataset import some_of
from regroup_lib.data.own_folders import gray_range, read_pictures
from regroup_lib.data.own_tables import MISSING, read_rows
from regroup_lib.encoders.base import normalized
from regroup_lib.encoders.features import make_encoder
from regroup_lib.nn.models import build_network
from regroup_lib.nn.training import predict, softmax
from regroup_lib.regroup import aggregate
from regroup_lib.runs import table_methods
from regroup_lib.runs.methods import METHODS
from regroup_lib.runs.networks import FROZEN_ESTIMATORS, _resident, make_trainer
from regroup_lib.runs.prepare import _Means
from regroup_lib.runs.specs import OwnData, Spec, TableSpec, parse_spec

ABOUT, ESTIMATOR, WEIGHTS = "model.json", "estimator.skops", "network.safetensors"
# Types beyond those that skops knows to be harmless.
TRUSTED = {
    "imblearn.ensemble._easy_ensemble.EasyEnsembleClassifier",
    "imblearn.ensemble._forest.BalancedRandomForestClassifier",
    "imblearn.over_sampling._random_over_sampler.RandomOverSampler",
    "imblearn.pipeline.Pipeline",
    "imblearn.under_sampling._prototype_selection._random_under_sampler.RandomUnderSampler",
    "numpy.dtype",
    "regroup_lib.estimator.RegroupClassifier",
    "regroup_lib.regroup.Regrouping",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
}


@dataclass(frozen=True)
class Model:
    """A fitted classifier of one class against the rest.

    Attributes
    ----------
    spec : Spec or TableSpec
        The run that the classifier is from.
    about : dict
        Of a table the kind of each column that is read, and the value of those that were constant; of images their
        shape, the range of gray values beyond 8 bits, the class of each pseudo-class.
    fitted : estimator or Module
    """

    spec: Spec | TableSpec
    about: dict[str, Any]
    fitted: Any

    def save(self, folder: str | Path) -> None:
        """Write the model to a new folder, complete or not at all; an existing one raises a FileExistsError."""
        folder = Path(folder)
        if folder.exists():
            raise FileExistsError(f"{folder} exists; name a new folder, or remove it")
        own = self.spec.own.model_dump(mode="json") | {"path": None}
        about = {"spec": self.spec.model_dump(mode="json") | {"own": own}, **self.about}
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            written = Path(scratch) / folder.name
            written.mkdir()
            if isinstance(self.fitted, torch.nn.Module):
                weights = {name: value.detach().cpu() for name, value in self.fitted.state_dict().items()}
                save_file({name: value.contiguous() for name, value in weights.items()}, written / WEIGHTS)
            else:
                skops.io.dump(self.fitted, written / ESTIMATOR)
            about["digest"] = _digest(about, written)
            (written / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            written.rename(folder)

    def predict(self, path: str | Path, *, data_dir: str | Path | None = None) -> pd.DataFrame:
        """Return the probability of the positive class of new samples, and the decision at 0.5.

        Parameters
        ----------
        path : str or Path
            A table with the columns of the training table, in any order and with or without others and those that
            were constant; or an image file or a folder of them, at any depth.
        data_dir : path, optional
            Where an ONNX encoder is looked up; default: see `data_directory`.

        Returns
        -------
        DataFrame
            ``row`` or ``file``, ``probability`` and ``class``, in the order of the file or of the names. Its
            ``attrs["notes"]`` list values that were missing, or unlike those of the training data.

        Raises
        ------
        DataError
            If the file cannot be read or lacks a column.
        """
        if isinstance(self.spec, TableSpec):
            rows = read_rows(Path(path), self.about["columns"], **self.about["reading"])
            notes = rows.attrs["notes"] + self._unlike_training(rows)
            for name, value in self.about["constant"].items():
                rows[name] = value
            rows = rows[list(self.fitted.feature_names_in_)]
            found, scores = {"row": rows.index.to_numpy()}, self.fitted.predict_proba(rows)[:, 1]
        else:
            files, scores, notes = self._of_images(Path(path), data_dir)
            found = {"file": files}
        positive = self.spec.own.positive
        decided = np.where(scores >= 0.5, positive, f"not {positive}")
        predictions = pd.DataFrame(found | {"probability": scores, "class": decided})
        predictions.attrs["notes"] = notes
        return predictions

    def _unlike_training(self, rows: pd.DataFrame) -> list[str]:
        """Return a note on missing values and one on categories that the training table did not have."""
        known = {}
        for _, encoder, columns in self.fitted[0].transformers_:
            if isinstance(encoder, OneHotEncoder) and columns:
                known |= dict(zip(columns, map(set, encoder.categories_), strict=True))
        absent = {name: column.isna() | (column == MISSING) for name, column in rows.items()}
        new = {name: ~(rows[name].isin(known[name]) | absent[name]) for name in rows if name in known}
        notes = []
        for what, found in (("missing values", absent), ("categories that the training table did not have", new)):
            if counts := [f"{hit.sum()} of {len(rows)} in {name}" for name, hit in found.items() if hit.any()]:
                notes.append(f"{what}: {some_of(counts)}")
        return notes

    def _of_images(self, path: Path, data_dir: str | Path | None) -> tuple[list[str], np.ndarray, list[str]]:
        shape, method, span = tuple(self.about["shape"]), METHODS[self.spec.method], self.about.get("range")
        if method.features:
            encoder = make_encoder(self.spec.encoder, data_dir=data_dir)
            side = encoder.image_size if self.spec.image_size else None
            files, images, notes = read_pictures(path, (side or shape[0], side or shape[1], shape[2]), span)
            inputs = encoder.transform(images)
            if "center" in self.about:  # that of the training images
                inputs = normalized(inputs, np.array(self.about["center"], np.float32))
        else:
            files, inputs, notes = read_pictures(path, shape, span)
        if self.spec.network in FROZEN_ESTIMATORS:
            return files, self.fitted.predict_proba(inputs)[:, 1], notes
        device = next(self.fitted.parameters()).device
        numbers = {k: torch.tensor(self.about.get(k, []), device=device) for k in ("mean", "scale")}
        logits, _ = predict(self.fitted, _resident(self.spec, inputs, SimpleNamespace(**numbers)))
        return files, aggregate(softmax(logits), self.about["parent"], "sum")[:, 1], notes


def fit_model(spec: Spec | TableSpec, own: OwnData, *, data_dir: str | Path | None = None) -> Model:
    """Fit the classifier of a run of a comparison on the user's data; `own` has their path.

    A table's classifier is fitted on all rows; a network on the training images, and the test images stay out, so that
    the measured average precision is that of this network.
    """
    spec = spec.model_copy(update={"own": own})
    if isinstance(spec, TableSpec):
        return _fit_table(spec, data_dir)
    with tempfile.TemporaryDirectory() as scratch:
        means = _Means(data_dir, Path(scratch) / "checkpoint.pt", None, True)
        trainer = make_trainer(spec, means, {})
        history = trainer.train(means.checkpoint, None)
    if history.status != "finished":
        raise ValueError(f"the training of {spec.label} diverged; nothing is saved")
    about = {"parent": trainer.labels.parent.tolist(), "shape": list(trainer.task.train.inputs.shape[1:])}
    about["range"] = gray_range(Path(own.path)) if Path(own.path).is_dir() else None
    if METHODS[spec.method].features and (encoder := make_encoder(spec.encoder, data_dir=data_dir)).normalize:
        size = spec.image_size and (encoder.image_size or spec.image_size)
        images = own.load(data_dir=data_dir, image_size=size).train.inputs
        about["center"] = encoder.transform(images).mean(axis=0, dtype=np.float64).tolist()
    if spec.network in FROZEN_ESTIMATORS:
        return Model(spec, about, trainer.estimator)
    for parameter in trainer.network.head.parameters():  # the outputs of a second head have served
        parameter.data = parameter.data[: len(trainer.labels.parent)]
    inputs = trainer.training.inputs
    about |= {"in_channels": inputs.width}
    about |= {name: getattr(inputs, name).tolist() for name in ("mean", "scale") if hasattr(inputs, name)}
    return Model(spec, about, trainer.network)


def _fit_table(spec: TableSpec, data_dir: str | Path | None) -> Model:
    table = table_of(spec.own.verified(data_dir=data_dir), spec.own.positive)
    fitted = make_pipeline(table_methods.make_preparation(), *steps_of(spec)).fit(table.features, table.labels)
    reading = {name: getattr(spec.own, name) for name in ("header", "missing", "decimal")}
    # No classifier uses a column that was constant, so new rows need not have it.
    constant = [name for name, column in table.features.items() if column.nunique() == 1]
    columns = {name: kind for name, kind in table.features.attrs["kinds"].items() if name not in constant}
    values = table.features[constant].mode().to_dict("records")
    return Model(spec, {"columns": columns, "constant": values[0] if values else {}, "reading": reading}, fitted)


def steps_of(spec: TableSpec) -> list[Any]:
    """Return a run's resampler, if it has one, and its classifier, unfitted, with the library's own defaults."""
    method = table_methods.METHODS[spec.method]
    # Of a comparison, which oversamples at random, so the number of positives does not matter.
    steps = [table_methods.RESAMPLERS[method.sampler](1, spec.seed)] if method.sampler else []
    options = {"seed": spec.seed, "threshold": spec.threshold, "encoder": spec.encoder}
    steps.append(table_methods.make_model(spec.method, spec.estimator, **options))
    if method.clusterer:
        steps[-1].set_params(aggregation="sum", min_cluster_size=2)
    return steps


def _digest(about: dict[str, Any], folder: Path) -> str:
    """Return the SHA-256 (hexadecimal) of a model's description, but for the digest itself, and of its other file."""
    said = json.dumps({name: value for name, value in about.items() if name != "digest"}, sort_keys=True)
    files = [path.read_bytes() for path in (folder / ESTIMATOR, folder / WEIGHTS) if path.is_file()]
    return hashlib.sha256(b"".join([said.encode(), *files])).hexdigest()


def load_model(folder: str | Path) -> Model:
    """Read a model that `Model.save` wrote; a file with a type that is not on the list of harmless ones is refused."""
    folder = Path(folder)
    if not (folder / ABOUT).is_file():
        raise FileNotFoundError(f"{folder} holds no model: {ABOUT} is missing; write one with `regroup fit --save`")
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        estimator = folder / ESTIMATOR
        if estimator.is_file() and (unknown := set(skops.io.get_untrusted_types(file=estimator)) - TRUSTED):
            raise ValueError(f"{estimator} holds types that no saved model has: {', '.join(sorted(unknown))}")
        if about.pop("digest", None) != _digest(about, folder):
            raise ValueError("a file is not as it was written")
        spec = parse_spec(about.pop("spec"))
        if estimator.is_file():
            return Model(spec, about, skops.io.load(estimator, trusted=sorted(TRUSTED)))
        sizes = {"in_channels": about["in_channels"], "n_classes": len(about["parent"])}
        network = build_network(spec.network, **sizes, seed=0, head=METHODS[spec.method].head)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:  # skops, zipfile, torch and safetensors raise a different class for each defect
        raise ValueError(f"{folder} is damaged or was not written by `regroup fit --save` ({error})") from error
    return Model(spec, about, network)
