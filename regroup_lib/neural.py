"""Regrouping for a PyTorch module: cluster, train, aggregate in one call.

Someone with a training loop of their own needs none of this: train on `Regrouping.pseudo_labels_`, and pass the
probabilities and ``parent_`` to `aggregate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from regroup_lib.encoders import default_device
from regroup_lib.metrics import decide
from regroup_lib.regroup import Regrouping, aggregate
from regroup_lib.training import History, ResidentFeatures, TrainingOptions, autocast, softmax, train


@dataclass(frozen=True)
class RegroupedNetwork:
    """A network that was trained on pseudo-classes and answers in classes.

    Attributes
    ----------
    network : Module
        From inputs to one logit a pseudo-class.
    regrouping : Regrouping
        ``classes_``, ``parent_`` and ``pseudo_labels_`` of the training set.
    history : History
        Mean training loss of each epoch, and whether the training diverged.
    """

    network: nn.Module
    regrouping: Regrouping
    history: History

    def predict_proba(self, inputs: Any, *, rule: str = "max", batch_size: int = 1000) -> np.ndarray:
        """Return class probabilities, float64 [n, C], in the order of ``regrouping.classes_``.

        Parameters
        ----------
        inputs : array or tensor [n, ...]
            As in training.
        rule : {"max", "sum"}
            See `aggregate`.
        batch_size : int
        """
        values = _numbers(inputs)
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        self.network.eval()
        logits = []
        with torch.no_grad():
            for start in range(0, len(values), batch_size):
                batch = torch.from_numpy(values[start : start + batch_size]).to(device)
                logits.append(self.network(batch).float().cpu())
        return aggregate(softmax(torch.cat(logits).numpy()), self.regrouping.parent_, rule)

    def predict(self, inputs: Any, *, rule: str = "max") -> np.ndarray:
        """Return the class with the largest probability [n]; of two classes a tie goes to the second."""
        return self.regrouping.classes_[decide(self.predict_proba(inputs, rule=rule))]


def fit_regrouped(
    build: Callable[[int], nn.Module],
    inputs: Any,
    labels: Sequence[Any],
    *,
    features: np.ndarray | None = None,
    regrouping: Regrouping | None = None,
    loss: Callable[[np.ndarray], Callable[..., torch.Tensor]] | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    optimizer: str = "adam",
    peak_lr: float = 1e-3,
    seed: int = 0,
    device: torch.device | None = None,
) -> RegroupedNetwork:
    """Cluster the large classes, train a network on the pseudo-classes, and return one that answers in classes.

    Parameters
    ----------
    build : callable
        Called with the number of pseudo-classes; returns a module from a batch of inputs to so many logits. (That
        number is known only after the clustering, so a finished module would not fit.)
    inputs : array or tensor [n, ...]
        What the network sees; kept as float32 on the device.
    labels : sequence [n]
        Classes.
    features : array [n, d], optional
        What is clustered: best the features of a pre-trained encoder. Default: the inputs, flattened.
    regrouping : Regrouping, optional
        The clusterer, threshold and number of clusters to use; a copy is fitted. Default: the paper's.
    loss : callable, optional
        Called with the samples of each pseudo-class; returns a loss of (logits, targets):
        ``rg.losses.weighted_cross_entropy``, ``rg.losses.LogitAdjustedLoss``, ``lambda counts: FocalLoss()``.
        Default: cross-entropy.
    epochs, batch_size, optimizer, peak_lr : optional
        Of the training loop: one-cycle schedule, ``"adam"`` (AdamW) or ``"sgd"``.
    seed : int
        Of clustering, weights and batches.
    device : torch.device, optional
        Default: the first GPU, else the processor.

    Returns
    -------
    RegroupedNetwork

    Raises
    ------
    ValueError
        If lengths differ, an option is out of range, or the module does not return a logit a pseudo-class.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, digit = load_digits(return_X_y=True)
    >>> fitted = fit_regrouped(lambda k: torch.nn.Linear(64, k), X / 16, digit == 3, epochs=3)
    >>> fitted.predict_proba(X[:2] / 16).shape, len(fitted.regrouping.parent_)
    ((2, 2), 10)
    """
    values, labels = _numbers(inputs), np.asarray(labels)
    if len(values) != len(labels):
        raise ValueError(f"{len(values)} inputs but {len(labels)} labels; expected one a sample")
    regrouping = Regrouping() if regrouping is None else regrouping
    fitted = Regrouping(
        **{"random_state": seed} | {k: v for k, v in regrouping.get_params(deep=False).items() if v is not None}
    )
    fitted.fit(values.reshape(len(values), -1) if features is None else features, labels)
    n_outputs = len(fitted.parent_)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(n_outputs)
    resident = ResidentFeatures(values, device=device or default_device())
    _check_outputs(network.to(resident.device), resident, n_outputs)
    options = TrainingOptions(epochs=epochs, batch_size=batch_size, optimizer=optimizer, peak_lr=peak_lr)
    made = None if loss is None else loss(fitted.counts_)
    history = train(network, resident, fitted.pseudo_labels_, options=options, seed=seed, loss=made)
    return RegroupedNetwork(network, fitted, history)


def _numbers(inputs: Any) -> np.ndarray:
    """Return inputs as float32 [n, ...]."""
    values = inputs.detach().cpu().numpy() if isinstance(inputs, torch.Tensor) else np.asarray(inputs)
    if values.ndim < 2 or values.dtype.kind not in "fiub":
        raise ValueError(f"inputs are {values.dtype} of shape {values.shape}; expected numbers [n, ...]")
    return np.ascontiguousarray(values, dtype=np.float32)


@torch.no_grad()
def _check_outputs(network: nn.Module, resident: ResidentFeatures, n_outputs: int) -> None:
    """Refuse a module with another number of outputs before the training, where the loss would say it obscurely."""
    network.eval()
    with autocast("fp32", resident.device):
        shape = tuple(network(resident.batch(slice(0, 2))).shape[1:])
    if shape != (n_outputs,):
        raise ValueError(
            f"the module returns {shape} for each input, expected {n_outputs} logits; use the number that build gets"
        )
