"""`fit_regrouped`: regrouping for a PyTorch module, which clusters, trains and aggregates in one call.

Someone with a training loop of their own needs none of this: train on `Regrouping.pseudo_labels_`, and pass the
probabilities and ``parent_`` to `aggregate`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, TensorDataset, default_collate

from regroup_lib.files import atomic_path
from regroup_lib.inputs import check_labels, check_whole, for_sklearn, is_number
from regroup_lib.metrics import decide, selection_score
from regroup_lib.nn.checkpoints import History
from regroup_lib.nn.models import default_device
from regroup_lib.nn.training import TrainingOptions, Unaugmented, autocast, softmax, train
from regroup_lib.regroup import Regrouping, aggregate


@dataclass(frozen=True)
class RegroupedNetwork:
    """A network that was trained on pseudo-classes and answers in classes.

    Attributes
    ----------
    history : History
        Mean training loss of each epoch, and the average precision on validation data.
    """

    network: nn.Module  # from inputs of `dtype` to one logit per pseudo-class
    regrouping: Regrouping  # `classes_`, `parent_` and `pseudo_labels_` of the training set
    history: History
    dtype: torch.dtype = torch.float32  # or int64

    def predict_proba(self, inputs: Any, *, rule: str = "sum", batch_size: int = 1000) -> np.ndarray:
        """Return class probabilities, float64 [n, C], in the order of ``regrouping.classes_``.

        Parameters
        ----------
        inputs : array, tensor, Dataset or DataLoader [n, ...]
            As in training.
        rule : {"sum", "max"}
            See `aggregate`.
        batch_size : int
        """
        samples = _Samples(inputs, _device_of(self.network), self.dtype)
        self.network.eval()
        with torch.no_grad():
            logits = [
                _logits(self.network(samples.batch(slice(start, start + batch_size)))).float().cpu()
                for start in range(0, len(samples), batch_size)
            ]
        logits = torch.cat(logits)
        if bad := int((~logits.isfinite()).any(dim=1).sum()):
            raise ValueError(f"{bad} of {len(logits)} inputs have logits that are not finite; do they hold NaN?")
        return aggregate(softmax(logits.numpy()), self.regrouping.parent_, rule)

    def predict(self, inputs: Any, *, rule: str = "sum") -> np.ndarray:
        """Return the class with the largest probability [n]; of two classes a tie goes to the second."""
        return self.regrouping.classes_[decide(self.predict_proba(inputs, rule=rule))]

    def save(self, folder: str | Path) -> None:
        """Write ``regrouping.npz`` and ``network.safetensors`` into a folder: arrays and weights, no code.

        The second file holds a digest of both: `load` refuses a folder that was changed or half rewritten.
        """
        self.regrouping.save(Path(folder) / "regrouping.npz")
        weights = {name: value.detach().cpu().contiguous().clone() for name, value in self.network.state_dict().items()}
        about = {"dtype": str(self.dtype).removeprefix("torch."), "history": json.dumps(self.history.traces)}
        about["digest"] = _digest(weights, Path(folder))
        with atomic_path(Path(folder) / "network.safetensors") as partial:
            save_file(weights, partial, about)

    @classmethod
    def load(cls, folder: str | Path, build: Callable[[int], nn.Module]) -> RegroupedNetwork:
        """Read what `save` wrote; `build` is that of `fit_regrouped`.

        Raises
        ------
        FileNotFoundError, ValueError
            If a file is missing or damaged, or the module has other weights.
        """
        regrouping, path = Regrouping.load(Path(folder) / "regrouping.npz"), Path(folder) / "network.safetensors"
        try:
            with safe_open(path, "pt") as file:
                about, weights = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            history, dtype = History(json.loads(about["history"])), getattr(torch, about["dtype"])
            if about.get("digest") not in (None, _digest(weights, Path(folder))):  # the first files have none
                raise ValueError("it and regrouping.npz are not as they were written together")
        except (SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is damaged or was not written by RegroupedNetwork.save ({error})") from error
        network = build(len(regrouping.parent_))
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(f"{path} has other weights than the module that build makes: {error}") from error
        return cls(network, regrouping, history, dtype)


def _digest(weights: Mapping[str, torch.Tensor], folder: Path) -> str:
    return hashlib.sha256(save(dict(weights)) + (folder / "regrouping.npz").read_bytes()).hexdigest()


def fit_regrouped(
    build: Callable[[int], nn.Module],
    inputs: Any,
    labels: Sequence[Any] | None = None,
    *,
    features: np.ndarray | None = None,
    regrouping: Regrouping | None = None,
    loss: Callable[[np.ndarray], Callable[..., torch.Tensor]] | None = None,
    sample_weight: Sequence[float] | None = None,
    validation: Any = None,
    patience: int | None = None,
    epochs: int = 10,
    batch_size: int | None = None,
    optimizer: str | Callable[..., torch.optim.Optimizer] = "adam",
    schedule: str | Callable[..., torch.optim.lr_scheduler.LRScheduler] = "one-cycle",
    peak_lr: float = 1e-3,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> RegroupedNetwork:
    """Cluster the large classes, train a network on the pseudo-classes, and return one that answers in classes.

    Parameters
    ----------
    build : callable
        Called with the number of pseudo-classes; returns a module from a batch of inputs to that many logits, or to a
        mapping with ``"logits"`` or a tuple that begins with them. (That number is known only after the clustering, so
        a finished module would not fit.) Lazy modules are fine.
    inputs : array, tensor, Dataset or DataLoader [n, ...]
        Inputs of the network, float32; whole numbers are int64 where the module takes nothing else, as embeddings do.
        A Dataset is read anew in each epoch. Of a DataLoader, the dataset, batch size, collation and sampler are used.
    labels : sequence [n], optional
        Classes. Default: the second part of each of the Dataset's samples.
    features : array [n, d], optional
        Features to cluster, preferably those of a pre-trained encoder. Default: the inputs, flattened.
    regrouping : Regrouping, optional
        The clusterer, threshold and number of clusters to use; a copy is fitted. Default: the paper's.
    loss : callable, optional
        Called with the samples of each pseudo-class; returns a loss of (logits, targets):
        ``rg.losses.weighted_cross_entropy``, ``rg.losses.LogitAdjustedLoss``, ``lambda counts: FocalLoss()``.
        Default: cross-entropy.
    sample_weight : sequence of float [n], optional
        Weights of the samples in cross-entropy; the clustering ignores them.
    validation : (inputs, labels), Dataset or DataLoader, optional
        Held-out samples with their classes. After each epoch the average precision on them, aggregated to classes (of
        the smaller class if there are two, else the mean), joins the history; the weights of the best epoch are kept.
    patience : int, optional
        Stop after this many epochs without a better one on `validation`.
    epochs : int
    batch_size : int, optional
        Default: the DataLoader's, else 128.
    optimizer : "adam" (AdamW), "sgd" or callable
        Or a function of the parameters that returns an optimizer.
    schedule : "one-cycle", "constant" or callable
        Of the learning rate; or a function of the optimizer and the number of steps that returns a scheduler.
    peak_lr : float
        Top of the one-cycle schedule.
    seed : int
        Of clustering, weights and batches.
    device : torch.device or str, optional
        Default: the first GPU, else the processor.

    Raises
    ------
    ValueError
        If lengths differ, labels are refused by `inputs.check_labels`, an option is out of range, the module cannot
        read the inputs or does not return one logit per pseudo-class, or the training diverges.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, digit = load_digits(return_X_y=True)
    >>> fitted = fit_regrouped(lambda k: torch.nn.Linear(64, k), X / 16, digit == 3, epochs=3)
    >>> fitted.predict_proba(X[:2] / 16).shape, len(fitted.regrouping.parent_)
    ((2, 2), 10)
    """
    for name, value in (("build", build), *([] if loss is None else [("loss", loss)])):
        # PyTorch's loss classes take weights where the numbers of samples are passed.
        of_torch = isinstance(value, nn.Module) or getattr(value, "__module__", "") == nn.CrossEntropyLoss.__module__
        if of_torch or not callable(value):
            raise ValueError(f"{name} is {value}; pass a function that makes one for the pseudo-classes, lambda k: ...")
    if not is_number(peak_lr) or not 0 < peak_lr < float("inf"):
        raise ValueError(f"peak_lr is {peak_lr!r}; expected a number above 0")
    if not isinstance(regrouping, Regrouping | None):
        raise ValueError(f"regrouping is {regrouping}; expected a Regrouping(...)")
    if not (is_number(seed) and seed >= 0 and seed % 1 == 0):
        raise ValueError(f"seed is {seed}; it must be a whole number of at least 0")
    device = torch.device(device or default_device())
    batch_size = (inputs.batch_size if isinstance(inputs, DataLoader) else 128) if batch_size is None else batch_size
    check_whole(epochs=epochs, batch_size=batch_size, patience=1 if patience is None else patience)
    if sample_weight is not None and loss is not None:
        raise ValueError("sample_weight is for cross-entropy; weigh samples in the loss of your own, or leave loss out")
    if patience is not None and validation is None:
        raise ValueError(f"patience is {patience}, and there is nothing to stop by; pass validation=")
    samples = _Samples(inputs, device)
    labels = _labels_of(samples, labels)
    regrouping = Regrouping() if regrouping is None else regrouping
    fitted = Regrouping(
        **{"random_state": seed} | {k: v for k, v in regrouping.get_params(deep=False).items() if v is not None}
    )
    fitted.fit(samples.flattened() if features is None else features, labels)
    network = _built(build, samples, len(fitted.parent_), seed).to(device)
    if samples.dtype == torch.int64 and features is None:
        warnings.warn("token numbers have been clustered as if they were quantities; pass features=", stacklevel=2)
    watch = None
    if validation is not None:
        watch = _Validation(RegroupedNetwork(network, fitted, History(), samples.dtype), validation, patience)
    made_loss = _weighted(sample_weight, len(labels), device) if loss is None else loss(fitted.counts_)
    if loss is not None and not callable(made_loss):
        raise ValueError(f"loss makes {made_loss!r}; expected a function of logits and targets")
    options = {"epochs": int(epochs), "batch_size": int(batch_size), "peak_lr": peak_lr}
    history = train(
        _Logits(network),
        samples,
        fitted.pseudo_labels_,
        options=TrainingOptions(optimizer=optimizer, schedule=schedule, **options),
        seed=seed,
        loss=made_loss,
        sampler=_LoaderOrder(inputs) if isinstance(inputs, DataLoader) else None,
        on_epoch=watch,
    )
    if history.status == "diverged":
        raise ValueError(f"the training diverged in epoch {len(history.traces)}; lower peak_lr, or scale the inputs")
    if watch is not None:
        network.load_state_dict(watch.weights)
    return RegroupedNetwork(network, fitted, history, samples.dtype)


class _Samples(Unaugmented):
    """Inputs of any kind, by batches on the device, and the labels of a Dataset, which augments by itself."""

    def __init__(self, inputs: Any, device: torch.device, dtype: torch.dtype = torch.float32):
        self.device, self.dtype, self.collate = device, dtype, default_collate
        if isinstance(inputs, DataLoader):
            self.collate, inputs = inputs.collate_fn, inputs.dataset
        self.dataset = inputs if isinstance(inputs, Dataset) else None
        if isinstance(inputs, TensorDataset):
            inputs = inputs.tensors[0]
        elif self.dataset is not None:
            if not hasattr(inputs, "__len__"):
                raise ValueError(f"inputs are a {type(inputs).__name__} without a length; expected a Dataset with one")
            self.values = None
            return
        values = np.asarray(for_sklearn(inputs))
        if values.ndim < 2 or values.dtype.kind not in "fiub" or not len(values):
            raise ValueError(f"inputs are {values.dtype} of shape {values.shape}; expected numbers [n, ...]")
        self.values = torch.from_numpy(np.ascontiguousarray(values, np.float32 if values.dtype.kind == "f" else None))
        self.values = self.values.to(device)

    def __len__(self) -> int:
        return len(self.dataset if self.values is None else self.values)

    def batch(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Return inputs [b, ...]."""
        if self.values is not None:
            return self.values[index].to(self.dtype)
        rows = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        batch = self.collate([self.dataset[row] for row in rows])
        batch = batch[0] if isinstance(batch, list | tuple) else batch
        if not isinstance(batch, torch.Tensor):
            raise ValueError(f"a batch of the Dataset is a {type(batch).__name__}; expected a tensor, or several")
        return batch.to(self.device, self.dtype)

    def labels(self) -> Any:
        """Return the labels that a Dataset has."""
        if self.dataset is None:
            raise ValueError("labels are missing; only a Dataset or a DataLoader has its own")
        if self.values is not None and len(self.dataset.tensors) > 1:
            return self.dataset.tensors[1]
        samples = [self.dataset[row] for row in range(len(self))]
        if not all(isinstance(sample, list | tuple) and len(sample) > 1 for sample in samples):
            raise ValueError("the samples of the Dataset have no second part; pass labels=")
        return [label.item() if isinstance(label, torch.Tensor) else label for _, label, *_ in samples]

    def flattened(self) -> np.ndarray:
        """Return all inputs as rows, float32 [n, d]."""
        blocks = (self.batch(slice(start, start + 1000)) for start in range(0, len(self), 1000))
        return np.concatenate([block.flatten(1).float().cpu().numpy() for block in blocks])


def _labels_of(samples: _Samples, labels: Any) -> np.ndarray:
    labels = samples.labels() if labels is None else labels
    if len(samples) != len(labels):
        raise ValueError(f"{len(samples)} inputs but {len(labels)} labels; expected one for each sample")
    return check_labels(labels)


class _LoaderOrder:
    """The order in which a DataLoader draws its samples."""

    def __init__(self, loader: DataLoader):
        if type(loader.batch_sampler) is not BatchSampler:
            raise ValueError("the DataLoader has a batch_sampler of its own; expected batch_size and a sampler")
        self.sampler = loader.sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """Return the rows of an epoch; the sampler draws them from the seeded global state."""
        return torch.tensor(list(self.sampler), device=generator.device)


class _Logits(nn.Module):
    """A module whose output is its logits."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return _logits(self.network(batch))


def _logits(output: Any) -> torch.Tensor:
    """Return the logits in a module's output: those of this name, or the first of several tensors."""
    if not isinstance(output, torch.Tensor):
        named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
        output = next(iter(output.values() if isinstance(output, Mapping) else output)) if named is None else named
    return output


class _Validation:
    """Measures after each epoch, keeps the best weights, and says when to stop."""

    def __init__(self, result: RegroupedNetwork, validation: Any, patience: int | None):
        self.result, self.patience, self.best, self.best_epoch = result, patience, -1.0, 0
        self.inputs, labels = validation if isinstance(validation, tuple | list) else (validation, None)
        labels = _labels_of(_Samples(self.inputs, torch.device("cpu")), labels)
        classes = result.regrouping.classes_
        unknown = sorted(set(classes.tolist()) ^ set(labels.tolist()), key=str)
        if unknown:
            raise ValueError(f"validation and training labels have not the same classes: {unknown} are in one alone")
        self.labels = np.searchsorted(classes, labels)
        self.counts = np.bincount(result.regrouping.parent_, result.regrouping.counts_)

    def __call__(self, network: nn.Module, epoch: int) -> dict[str, Any]:
        found = selection_score(self.labels, self.result.predict_proba(self.inputs), self.counts)
        if found > self.best:
            self.best, self.best_epoch = found, epoch
            self.weights = copy.deepcopy(self.result.network.state_dict())
        stop = self.patience is not None and epoch - self.best_epoch >= self.patience
        return {"validation_average_precision": found, "stop": stop}


def _weighted(
    sample_weight: Sequence[float] | None, n: int, device: torch.device
) -> Callable[..., torch.Tensor] | None:
    """Return cross-entropy with weights whose mean is 1."""
    if sample_weight is None:
        return None
    weights = np.asarray(for_sklearn(sample_weight))
    sound = weights.shape == (n,) and weights.dtype.kind in "fiub" and (weights >= 0).all()
    if not sound or not 0 < weights.sum() < np.inf:
        found = f"{weights.dtype} of shape {weights.shape}"
        raise ValueError(f"sample_weight is {found}; expected {n} finite weights of at least 0, not all zero")
    weights = torch.as_tensor(weights / weights.mean(), dtype=torch.float32, device=device)

    def loss(logits: torch.Tensor, targets: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return (weights[index] * F.cross_entropy(logits, targets, reduction="none")).mean()

    loss.takes_index = True
    return loss


def _device_of(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def _built(build: Callable[[int], nn.Module], samples: _Samples, n_outputs: int, seed: int) -> nn.Module:
    """Return a module that has read a batch: lazy ones are whole then, and an error comes before the training."""
    failed: Exception | None = None
    for samples.dtype in (torch.float32, torch.int64):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            network = build(n_outputs)
            if not isinstance(network, nn.Module):
                raise ValueError(f"build makes {type(network).__name__}; expected a module with {n_outputs} logits")
            network.eval()
            batch = samples.batch(slice(0, 2)).to(_device_of(network))
            try:
                with autocast("fp32", batch.device):
                    output = _logits(network(batch))
            except (RuntimeError, TypeError, IndexError, StopIteration) as error:
                failed = failed or error
                continue
        shape = tuple(getattr(output, "shape", ()))[1:]
        if shape != (n_outputs,):
            raise ValueError(
                f"the module returns {shape} for each input, expected {n_outputs} logits, the number that build gets"
            )
        if bool((output >= 0).all() and ((output.sum(dim=1) - 1).abs() < 0.01).all()):
            raise ValueError("the module returns probabilities; expected logits, so leave its softmax out")
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise ValueError("no parameter of the module can be trained; leave some of them with requires_grad=True")
        return network
    raise ValueError(f"the module cannot read a batch of inputs of shape {tuple(batch.shape)}: {failed}") from failed
