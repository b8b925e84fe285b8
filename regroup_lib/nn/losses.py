"""Losses against class imbalance: weighted, focal, LDAM, logit-adjusted, and two that rank: AP-Loss and SOAP.

All take logits float [n, C] and targets int64 [n] and return a scalar. Half-precision logits are converted to float32.
Class statistics are buffers, so ``loss.to(device)`` moves them. An argument out of range, counts that are not whole
numbers of at least 1, and shapes that disagree raise a ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from regroup_lib.inputs import check_whole

# ---------------------------------------------------------------- cross-entropy and its relatives


def weighted_cross_entropy(class_counts: Sequence[int]) -> nn.CrossEntropyLoss:
    """Return cross-entropy with weights ``max(n) / n_c``, float32: inverse to the class size, 1 for the largest class.

    PyTorch divides by the sum of the weights in the batch, not by n. A batch of a single class therefore has the plain
    cross-entropy, and the scale of the loss does not depend on the class sizes.

    Parameters
    ----------
    class_counts : sequence of int [C]
        Training samples of each class, n_c; all at least 1, else a ValueError.

    Examples
    --------
    >>> weighted_cross_entropy([900, 100]).weight.tolist()
    [1.0, 9.0]
    """
    counts = _counts(class_counts)
    return nn.CrossEntropyLoss(weight=(counts.max() / counts).float())


class FocalLoss(nn.Module):
    """Cross-entropy with less weight on samples that are already classified well: the mean of (1 - p_t)^gamma CE.

    p_t is the softmax probability of the target. There is no class weight alpha: its usual value of 0.25 was made for
    the sigmoid form, and weights positives down. The loss does not use the class sizes: it favors samples that are
    hard, not those that are rare, and its probabilities are less confident than those of cross-entropy.

    Parameters
    ----------
    gamma : float
        Focusing exponent, finite and at least 0, else a ValueError; 0 gives cross-entropy.

    References
    ----------
    Lin, Goyal, Girshick, He & Dollár (2017), Focal loss for dense object detection, Equation 4, in softmax form.

    Examples
    --------
    >>> logits, targets = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    >>> round(FocalLoss()(logits, targets).item(), 3)
    0.826
    """

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        _require(0 <= gamma < math.inf, "gamma", gamma, "finite and at least 0")
        self.gamma = float(gamma)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of logits [n, C] and targets int64 [n]."""
        logits = _checked(logits, targets)
        log_p = -F.cross_entropy(logits, targets, reduction="none")
        # Below gamma = 1 the power has an infinite slope at p_t = 1; the clamp makes it 0 there, as the loss's is.
        others = (-torch.expm1(log_p)).clamp(min=torch.finfo(logits.dtype).tiny)
        return -(others**self.gamma * log_p).mean()


class LDAMLoss(nn.Module):
    """Label-distribution-aware margins: cross-entropy of ``scale * (z - margin at the target)``.

    Margins are proportional to n_c^(-1/4), so a rare class has to win by more. They are only meaningful beside logits
    of a known size: the paper's last layer is a cosine (`models.CosineHead`). Multiplied by `scale`, the unbounded
    logits of a plain linear layer easily make training diverge.

    Parameters
    ----------
    class_counts : sequence of int [C]
        Training samples of each class; all at least 1.
    max_margin : float
        Margin of the smallest class, at least 0.
    scale : float
        Factor of the logits, above 0. Probabilities are ``softmax(scale * z)``, without a margin.
    deferred : float, optional
        Deferred re-weighting (DRW): from this share of the training on, 0 <= deferred < 1, samples are weighted by
        the effective number of their class, (1 - beta) / (1 - beta^n_c) with beta = 0.9999, normalized to sum to C.
        The mean is then a weighted one, as in ``nn.CrossEntropyLoss``. The training loop calls `begin_epoch`, which
        switches the weights on. Default: never.

    Attributes
    ----------
    margins, effective_weights : Tensor of float32 [C]
    reweighted : bool
        Whether the weights are on.

    References
    ----------
    Cao, Wei, Gaidon, Arechiga & Ma (2019), Learning imbalanced datasets with label-distribution-aware margin loss,
    Section 3 and Algorithm 1 (DRW). The effective number: Cui, Jia, Lin, Song & Belongie (2019).

    Examples
    --------
    >>> loss = LDAMLoss([1600, 100], deferred=0.8)
    >>> loss.margins.tolist()
    [0.25, 0.5]
    >>> loss.begin_epoch(8 / 10)
    >>> loss.reweighted
    True
    """

    def __init__(
        self,
        class_counts: Sequence[int],
        max_margin: float = 0.5,
        scale: float = 30.0,
        *,
        deferred: float | None = None,
    ):
        super().__init__()
        counts = _counts(class_counts)
        _require(0 <= max_margin < math.inf, "max_margin", max_margin, "finite and at least 0")
        _require(0 < scale < math.inf, "scale", scale, "finite and above 0")
        _require(deferred is None or 0 <= deferred < 1, "deferred", deferred, "None or at least 0 and below 1")
        self.scale, self.deferred = float(scale), deferred
        self.register_buffer("margins", (max_margin * (counts.min() / counts) ** 0.25).float())
        # (1 - beta) cancels in the normalization.
        weights = -1 / torch.expm1(counts * math.log(0.9999))
        self.register_buffer("effective_weights", (weights * (len(counts) / weights.sum())).float())
        self.begin_epoch(0.0)

    def begin_epoch(self, progress: float) -> None:
        """Switch the re-weighting on or off, for the share of finished epochs: at least 0 and below 1."""
        self.reweighted = self.deferred is not None and progress >= self.deferred

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of logits [n, C] and targets int64 [n]."""
        logits = _checked(logits, targets, len(self.margins))
        margins = F.one_hot(targets, len(self.margins)) * self.margins.to(logits.dtype)
        weights = self.effective_weights.to(logits.dtype) if self.reweighted else None
        return F.cross_entropy(self.scale * (logits - margins), targets, weight=weights)


class LogitAdjustedLoss(nn.Module):
    """Cross-entropy of ``z + tau * log(pi)``, where pi is the share of each class in the training set.

    The adjustment accounts for the class sizes, so the bare logits predict for balanced classes; it is made in
    training only. With tau = 1 this is balanced softmax (Ren et al. 2020). Adjusting after an ordinary training
    instead (z - tau * log(pi)) moves the decision threshold of a binary task and cannot change its average precision,
    because the log-odds of all samples move by the same amount.

    Parameters
    ----------
    class_counts : sequence of int [C]
        Training samples of each class; all at least 1 (the logarithm of an empty class is infinite).
    tau : float
        Strength, finite and at least 0; 0 gives cross-entropy.

    References
    ----------
    Menon et al. (2021), Long-tail learning via logit adjustment, Equation 10. Ren et al. (2020), Balanced
    meta-softmax for long-tailed visual recognition.

    Examples
    --------
    >>> LogitAdjustedLoss([75, 25]).adjustment.exp().tolist()
    [0.75, 0.25]
    """

    def __init__(self, class_counts: Sequence[int], tau: float = 1.0):
        super().__init__()
        counts = _counts(class_counts)
        _require(0 <= tau < math.inf, "tau", tau, "finite and at least 0")
        self.tau = float(tau)
        self.register_buffer("adjustment", (tau * (counts / counts.sum()).log()).float())

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of logits [n, C] and targets int64 [n]."""
        logits = _checked(logits, targets, len(self.adjustment))
        return F.cross_entropy(logits + self.adjustment.to(logits.dtype), targets)


def _require(fits: bool, name: str, value: object, expected: str) -> None:
    """Raise a ValueError that names an argument, unless its value fits; comparisons with NaN are false."""
    if not fits:
        raise ValueError(f"{name} is {value}; it must be {expected}")


def _counts(class_counts: Sequence[int]) -> torch.Tensor:
    """Return class counts as float64 [C]; every class must have a sample."""
    counts = [float(count) for count in class_counts]
    if not counts or not all(count >= 1 and count.is_integer() for count in counts):  # also refuses NaN and infinity
        raise ValueError(f"class_counts is {counts}; expected a whole number of at least 1 for every class")
    return torch.tensor(counts, dtype=torch.float64)


def _checked(logits: torch.Tensor, targets: torch.Tensor, n_classes: int | None = None) -> torch.Tensor:
    """Return logits of at least single precision, if the shapes agree."""
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or n_classes not in (None, logits.shape[1]):
        shapes = f"logits have shape {list(logits.shape)} and targets {list(targets.shape)}"
        raise ValueError(f"{shapes}; expected [n, {'C' if n_classes is None else n_classes}] and [n]")
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class AuxiliaryLoss(nn.Module):
    """Cross-entropy of the task plus a second loss on further outputs, which learn each image's cluster or features.

    This is a way to use an encoder without regrouping. The first `n_classes` columns of the logits are the task's, the
    others belong to the second head. Its `targets` for each training row are clusters, int64 [n], trained by
    cross-entropy over its columns, or feature vectors, float32 [n, d], trained by one minus the cosine.
    """

    takes_index = True

    def __init__(self, n_classes: int, targets: np.ndarray, weight: float = 1.0):
        super().__init__()
        self.n_classes, self.weight = n_classes, weight
        self.register_buffer("targets", torch.from_numpy(targets), persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits [n, C + K or C + d] of the training rows `index`, int64 [n]."""
        task, second = logits[:, : self.n_classes], logits[:, self.n_classes :]
        wanted = self.targets[index]
        if wanted.dtype == torch.int64:
            added = F.cross_entropy(second, wanted)
        else:
            added = (1 - F.cosine_similarity(second, wanted)).mean()
        return F.cross_entropy(task, targets) + self.weight * added


# ---------------------------------------------------------------- losses that rank


class APLoss(nn.Module):
    """One minus the average precision of the batch, trained by the error-driven update.

    The score of a sample for class c is its log-odds against the rest, s = z_c - logsumexp of the other logits
    (binary: z_1 - z_0). With x_ij = s_j - s_i, H(x) rising linearly from 0 at -delta to 1 at delta, and P and N the
    positives and negatives of the batch,

    - rank(i) = 1 + sum of H(x_ij) over all j except i, L_ij = H(x_ij) / rank(i) for i in P and j in N;
    - the loss is the sum of all L_ij divided by the number of positives, within [0, 1);
    - the gradient is not its derivative, which is 0 for pairs further apart than delta, but the error itself:
      -sum_j L_ij for the score of a positive, +sum_i L_ij for that of a negative, divided by the number of positives.

    In a binary task class 1 is the positive one. With more classes the loss is the mean over the classes that have
    positives and negatives in the batch, each against the rest: an addition of this project.

    Parameters
    ----------
    delta : float
        Half the width of the linear piece of H, in units of the score; finite and above 0, else a ValueError.

    Notes
    -----
    - It ranks and does not calibrate: adding a constant to all scores changes nothing. Set the decision threshold, and
      with several classes the offset of each class, on the validation split.
    - A batch without positives (or without negatives) has no signal: the loss and its gradient are 0. A class of 1% is
      missing in 28% of all batches of 128, so draw stratified batches.
    - Its memory grows with positives times n, in a multiclass task with n^2. There is no second derivative.
    - AP is not interpolated, unlike in the paper.

    References
    ----------
    Chen et al. (2019), Towards accurate one-stage object detection with AP-Loss, Section 3: AP-loss, error-driven
    update, and the piecewise step function H.

    Examples
    --------
    >>> logits = torch.tensor([[0.0, 3.0], [0.0, 0.0], [0.0, 5.0]], requires_grad=True)
    >>> loss = APLoss()(logits, torch.tensor([1, 0, 0]))  # the only positive is second of three
    >>> loss.backward()
    >>> round(loss.item(), 3), logits.grad[:, 1].tolist()
    (0.5, [-0.5, 0.0, 0.5])
    """

    def __init__(self, delta: float = 1.0):
        super().__init__()
        _require(0 < delta < math.inf, "delta", delta, "finite and above 0")
        self.delta = float(delta)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits [n, C], C at least 2, and targets int64 [n]."""
        return _by_pairs(_log_odds(_rankable(logits, targets)), targets, self._errors)

    def _errors(
        self, rows: torch.Tensor, weights: torch.Tensor, difference: torch.Tensor, positive: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        above = (difference / (2 * self.delta) + 0.5).clamp(0, 1)
        rank = 0.5 + above.sum(1, keepdim=True)  # the sum has H(0) = 0.5 of the sample itself
        errors = weights[:, None] * (above / rank).masked_fill(positive, 0)
        return errors.sum(), errors


class SOAPLoss(nn.Module):
    """Stochastic optimization of average precision with moving averages for each positive sample.

    Scores are softmax probabilities of the class (binary: of class 1). With l_ij = max(0, margin - (s_i - s_j))^2 in
    place of "j is ranked above i", the precision of a positive is u_pos / u_all, the means of l_ij over the positives
    and over all samples j. A batch is too small to estimate these means, and the ratio of two estimates is biased, so
    each positive keeps moving averages of both: u <- (1 - gamma) u + gamma * (mean of the batch), and at the first
    visit the mean of the batch.

    - The loss is the mean of 1 - u_pos / u_all over the positives.
    - The gradient is that of the mean over i and j of p_ij * l_ij, where the constant p_ij is
      (u_pos_i - u_all_i * [j positive]) / u_all_i^2. Where u is the mean of the batch alone, this is the derivative.

    Parameters
    ----------
    n_samples : int
        Size of the training set.
    margin : float
        Margin of the squared hinge, above 0. Probabilities differ by 1 at most.
    gamma : float
        Weight of the newest batch, 0 < gamma <= 1; 1 keeps no history.

    Attributes
    ----------
    u_all, u_pos : Tensor of float32 [n_samples]
        The moving averages; 0 before the first visit. A sample is a positive of one class only, so one value per
        sample suffices. They belong to ``state_dict``: a resumed run continues from them.

    Notes
    -----
    Several classes are treated as in `APLoss`, whose notes hold here, too. A batch without signal updates nothing; in
    stratified batches the averages refer to the prevalence there. A sample that occurs twice in a batch moves its
    averages once, by the mean of its copies.

    References
    ----------
    Qi, Luo, Xu, Ji & Yang (2021), Stochastic optimization of areas under precision-recall curves with provable
    convergence, Algorithm 1, with the squared hinge as the surrogate.

    Examples
    --------
    >>> loss = SOAPLoss(n_samples=3)
    >>> logits, targets = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), torch.tensor([0, 1, 0])
    >>> round(loss(logits, targets, index=torch.arange(3)).item(), 3), loss.u_all.gt(0).tolist()
    (0.306, [False, True, False])
    """

    takes_index = True

    def __init__(self, n_samples: int, *, margin: float = 1.0, gamma: float = 0.9):
        super().__init__()
        check_whole(n_samples=n_samples)
        _require(0 < margin < math.inf, "margin", margin, "finite and above 0")
        _require(0 < gamma <= 1, "gamma", gamma, "above 0 and at most 1")
        self.margin, self.gamma = float(margin), float(gamma)
        self.register_buffer("u_all", torch.zeros(int(n_samples)))
        self.register_buffer("u_pos", torch.zeros(int(n_samples)))

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, index: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss of logits [n, C], C at least 2, and targets int64 [n], and update the moving averages.

        `index`, int64 [n], has the rows of the training set. Without it only the means of the batch are used, and
        nothing is updated.
        """
        scores = _rankable(logits, targets).softmax(1)
        if index is not None:
            self._check_index(index, targets)

        def precisions(rows, weights, difference, positive):
            hinge = (self.margin + difference).clamp(min=0)
            # Neither mean is 0: the sample itself is one of its positives, at margin^2.
            u_all, u_pos = (hinge**2).mean(1), (hinge**2 * positive).mean(1)
            if index is not None:
                u_all = self._averaged(self.u_all, index[rows], u_all)
                u_pos = self._averaged(self.u_pos, index[rows], u_pos)
            p = (u_pos[:, None] - u_all[:, None] * positive) / u_all[:, None] ** 2
            return (weights * (1 - u_pos / u_all)).sum(), weights[:, None] * p * 2 * hinge / len(scores)

        return _by_pairs(scores, targets, precisions)

    def _check_index(self, index: torch.Tensor, targets: torch.Tensor) -> None:
        if index.shape != targets.shape or index.dtype != torch.int64:
            got = f"{str(index.dtype).removeprefix('torch.')} of shape {list(index.shape)}"
            raise ValueError(f"index is {got}; expected int64 of shape {list(targets.shape)}, one row for each sample")
        if len(index) and (index.min() < 0 or index.max() >= len(self.u_all)):
            bounds = f"{int(index.min())} to {int(index.max())}"
            raise ValueError(f"index has rows {bounds}; n_samples is {len(self.u_all)}: expected 0 to n_samples - 1")

    def _averaged(self, average: torch.Tensor, index: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """Move the averages of some samples toward the means of the batch in place; return one for each sample."""
        samples, place = index.unique(return_inverse=True)
        mean = batch.new_zeros(len(samples)).scatter_reduce(0, place, batch, "mean", include_self=False)
        before = average[samples].to(mean.dtype)
        after = torch.where(before == 0, mean, (1 - self.gamma) * before + self.gamma * mean)
        average[samples] = after.to(average.dtype)
        return after[place]


def _rankable(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the logits of two classes or more, in at least single precision."""
    logits = _checked(logits, targets)
    if logits.shape[1] < 2:
        raise ValueError(f"logits have shape {list(logits.shape)}; a ranking loss needs two classes or more")
    return logits


def _by_pairs(
    scores: torch.Tensor, targets: torch.Tensor, measure: Callable[..., tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """Return a loss of scores [n, C] that is a sum over pairs.

    `measure` takes the rows of the positives [p], their weights [p], and for each pair of a positive i and a sample j
    the difference s_j - s_i in the class of i and whether j is of that class too, [p, n]. It returns the loss and its
    gradient by the differences [p, n].
    """
    with torch.no_grad():
        rows, weights = _positives(scores, targets)
        classes = targets[rows]
        difference = scores[:, classes].T - scores[rows, classes][:, None]
        value, by_pair = measure(rows, weights, difference, classes[:, None] == targets)
        chosen = F.one_hot(classes, scores.shape[1]).to(scores.dtype)
        # A product, because a GPU adds scattered values in no fixed order; not in bf16, even under autocast.
        with torch.autocast(scores.device.type, enabled=False):
            gradient = by_pair.T @ chosen
        gradient[rows] -= chosen * by_pair.sum(1, keepdim=True)
    return _WithGradient.apply(scores, value, gradient)


class _WithGradient(torch.autograd.Function):
    """The identity on `value`, with `gradient` as its gradient by `scores`."""

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


def _log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Return z_c - logsumexp of the other logits, [n, C]."""
    if logits.shape[1] == 2:
        return logits - logits.flip(1)
    # log(1 - p) loses its digits where p is nearly 1, which only the largest logit can reach; it has its own formula.
    largest = F.one_hot(logits.argmax(1), logits.shape[1]).bool()
    total = logits.logsumexp(1, keepdim=True)
    below_largest = logits.masked_fill(largest, -math.inf).logsumexp(1, keepdim=True)
    share = (logits - total).exp().masked_fill(largest, 0)
    return logits - torch.where(largest, below_largest, total + torch.log1p(-share))


def _positives(scores: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows [p] of the batch's positives, and their weights [p] in a mean over classes and positives.

    In a binary task the positives are those of class 1; with more classes each class has some, if the batch has
    samples of it and others.
    """
    n_classes = scores.shape[1]
    counts = torch.bincount(targets, minlength=n_classes)
    if len(counts) > n_classes:
        raise ValueError(f"targets go up to {len(counts) - 1}; {n_classes} columns of logits have 0 to {n_classes - 1}")
    usable = (counts > 0) & (counts < len(targets))
    if n_classes == 2:
        usable[0] = False
    rows = usable[targets].nonzero().squeeze(1)
    return rows, 1 / (counts * usable.sum())[targets[rows]].to(scores.dtype)
