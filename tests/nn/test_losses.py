"""Losses against written-out loops in float64, against each other in their limits, and what they promise to train."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from regroup_lib.nn.losses import (
    APLoss,
    AuxiliaryLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    SOAPLoss,
    weighted_cross_entropy,
)

COUNTS = [900, 70, 23, 5, 2]  # the first C of them are a training set of C classes


def random_batch(seed, n, n_classes, spread=2.0):
    """Return logits float64 [n, C] and targets in which each class occurs if there is room."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.concatenate([np.arange(n_classes), rng.integers(n_classes, size=n)])[:n])
    return rng.normal(scale=spread, size=(n, n_classes)), targets


@st.composite
def batches(draw, min_size=1):
    """Draw a batch of 2 to 5 classes; small ones miss classes."""
    n_classes, n = draw(st.integers(2, 5)), draw(st.integers(min_size, 12))
    return random_batch(draw(st.integers(0, 2**32 - 1)), n, n_classes, draw(st.sampled_from([0.3, 2.0, 20.0])))


def value_and_gradient(loss, logits, targets, dtype=torch.float64, **more):
    """Return a loss and its gradient by the logits, as a number and an array."""
    logits = torch.tensor(np.asarray(logits), dtype=dtype, requires_grad=True)
    value = loss(logits, torch.as_tensor(targets), **more)
    assert value.ndim == 0
    value.backward()
    return value.item(), logits.grad.double().numpy()


def softmax(row):
    return np.exp(row - row.max()) / np.exp(row - row.max()).sum()


def log_p(row, target):
    return row[target] - row.max() - math.log(np.exp(row - row.max()).sum())


def slow_cross_entropy(logits, targets, weights=None):
    total, mass = 0.0, 0.0
    for row, target in zip(logits, targets, strict=True):
        weight = 1.0 if weights is None else weights[target]
        total, mass = total - weight * log_p(row, target), mass + weight
    return total / mass


def usable_classes(targets, n_classes):
    """Return the classes of which a batch has positives and negatives; in a binary task the positive one."""
    candidates = [1] if n_classes == 2 else range(n_classes)
    return [c for c in candidates if 0 < (targets == c).sum() < len(targets)]


def step(x, delta):
    if x < -delta:
        return 0.0
    return 1.0 if x > delta else x / (2 * delta) + 0.5


def slow_ap(scores, targets, delta):
    """Return AP-loss and the error-driven gradient of scores [n, C]."""
    n, n_classes = scores.shape
    value, gradient = 0.0, np.zeros_like(scores)
    classes = usable_classes(targets, n_classes)
    for c in classes:
        positives = [i for i in range(n) if targets[i] == c]
        for i in positives:
            rank = 1.0
            for k in range(n):
                if k != i:
                    rank += step(scores[k, c] - scores[i, c], delta)
            for j in range(n):
                if targets[j] != c:
                    error = step(scores[j, c] - scores[i, c], delta) / rank / len(positives) / len(classes)
                    value += error
                    gradient[i, c] -= error
                    gradient[j, c] += error
    return value, gradient


def slow_log_odds(logits):
    """Return each class's log-odds against the rest, and the derivative [n, class, logit]."""
    n, n_classes = logits.shape
    scores, slopes = np.zeros((n, n_classes)), np.zeros((n, n_classes, n_classes))
    for i in range(n):
        for c in range(n_classes):
            others = [k for k in range(n_classes) if k != c]
            rest = logits[i, others]
            scores[i, c] = logits[i, c] - rest.max() - math.log(np.exp(rest - rest.max()).sum())
            slopes[i, c, c], slopes[i, c, others] = 1.0, -softmax(rest)
    return scores, slopes


def slow_soap(logits, targets, margin=1.0, gamma=0.9, index=None, averages=None):
    """Return SOAP's loss and gradient by the logits; `averages` (a dict: row -> (all, positives)) is updated."""
    n, n_classes = logits.shape
    scores = np.array([softmax(row) for row in logits])
    value, gradient = 0.0, np.zeros_like(scores)
    classes = usable_classes(targets, n_classes)
    before = dict(averages or {})
    for c in classes:
        positives = [i for i in range(n) if targets[i] == c]
        hinge = {i: [max(0.0, margin - (scores[i, c] - scores[j, c])) for j in range(n)] for i in positives}
        means = {}
        for i in positives:
            u_all = sum(h**2 for h in hinge[i]) / n
            u_pos = sum(hinge[i][j] ** 2 for j in positives) / n
            means[i] = np.array([u_all, u_pos])
        for i in positives:
            u = means[i]
            if index is not None:
                u = np.mean([means[copy] for copy in positives if index[copy] == index[i]], axis=0)
                if index[i] in before:
                    u = (1 - gamma) * before[index[i]] + gamma * u
                averages[index[i]] = u
            value += (1 - u[1] / u[0]) / len(positives) / len(classes)
            for j in range(n):
                p = (u[1] - u[0] * (targets[j] == c)) / u[0] ** 2
                slope = p * 2 * hinge[i][j] / n / len(positives) / len(classes)
                gradient[j, c] += slope
                gradient[i, c] -= slope
    chained = [s * (g - (g * s).sum()) for s, g in zip(scores, gradient, strict=True)]
    return value, np.array(chained)


CLASSIFIERS = {
    "wce": (weighted_cross_entropy, lambda z, y, n: slow_cross_entropy(z, y, max(n) / n)),
    "focal": (lambda _: FocalLoss(), lambda z, y, n: slow_focal(z, y, 2)),
    "focal 0.5": (lambda _: FocalLoss(0.5), lambda z, y, n: slow_focal(z, y, 0.5)),
    "ldam": (LDAMLoss, lambda z, y, n: slow_ldam(z, y, n, 0.5, 30)),
    "ldam 2, 1": (lambda n: LDAMLoss(n, 2, 1), lambda z, y, n: slow_ldam(z, y, n, 2, 1)),
    "ldam later": (lambda n: LDAMLoss(n, deferred=0.5), lambda z, y, n: slow_ldam(z, y, n, 0.5, 30)),
    "ldam reweighted": (
        lambda n: LDAMLoss(n, deferred=0.0),
        lambda z, y, n: slow_ldam(z, y, n, 0.5, 30, (1 - 0.9999) / (1 - 0.9999**n)),
    ),
    "la": (LogitAdjustedLoss, lambda z, y, n: slow_cross_entropy(z + np.log(n / n.sum()), y)),
    "la 2": (lambda n: LogitAdjustedLoss(n, 2), lambda z, y, n: slow_cross_entropy(z + 2 * np.log(n / n.sum()), y)),
}


RANKING = {"ap": lambda c: APLoss(), "soap": lambda c: SOAPLoss(100)}
# Every loss for a number of classes.
LOSSES = {name: lambda c, make=make: make(np.array(COUNTS[:c])) for name, (make, _) in CLASSIFIERS.items()} | RANKING


def all_losses(kinds=LOSSES):
    return pytest.mark.parametrize("make", kinds.values(), ids=kinds.keys())


def slow_focal(logits, targets, gamma):
    terms = [(1 - math.exp(log_p(row, t))) ** gamma * -log_p(row, t) for row, t in zip(logits, targets, strict=True)]
    return sum(terms) / len(terms)


def slow_ldam(logits, targets, counts, max_margin, scale, weights=None):
    moved = logits.copy()
    for i, target in enumerate(targets):
        moved[i, target] -= max_margin * (min(counts) / counts[target]) ** 0.25
    return slow_cross_entropy(scale * moved, targets, weights)


@pytest.mark.parametrize(("make", "slow"), CLASSIFIERS.values(), ids=CLASSIFIERS)
@given(batch=batches())
def test_losses_are_their_definitions(make, slow, batch):
    logits, targets = batch
    counts = np.array(COUNTS[: logits.shape[1]])
    value, _ = value_and_gradient(make(counts).double(), logits, targets)
    assert value == pytest.approx(slow(logits, targets, counts), rel=1e-5, abs=1e-6)


DIFFERENTIABLE = {name: make for name, (make, _) in CLASSIFIERS.items() if name != "wce"}


@pytest.mark.parametrize("make", [*DIFFERENTIABLE.values(), lambda _: SOAPLoss(1)], ids=[*DIFFERENTIABLE, "soap"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_gradient_is_the_derivative(make, n_classes):
    logits, targets = random_batch(1, 8, n_classes, spread=0.3)
    logits, loss = torch.tensor(logits, requires_grad=True), make(np.array(COUNTS[:n_classes]))
    assert torch.autograd.gradcheck(lambda z: loss(z, torch.as_tensor(targets)), (logits,), atol=1e-4)


@pytest.mark.parametrize(("deferred", "epochs", "first"), [(0.8, 200, 160), (0.7, 20, 14), (0.0, 3, 0), (None, 8, 8)])
def test_deferred_reweighting_switches_at_its_epoch(deferred, epochs, first):
    loss = LDAMLoss([90, 10], deferred=deferred)
    for _ in range(2):  # a new run begins without
        for epoch in range(epochs):
            loss.begin_epoch(epoch / epochs)
            assert loss.reweighted == (epoch >= first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.01, 0.99, 2.0])
@pytest.mark.parametrize("lead", [1, 17, 1000])
def test_focal_has_a_gradient_where_the_target_is_certain(gamma, lead, dtype):
    value, gradient = value_and_gradient(FocalLoss(gamma), [[lead, 0.0]], [0], dtype)
    # CE = log1p(e^-lead) and 1 - p = e^-lead / (1 + e^-lead): both exact for any lead.
    others, ce = math.exp(-lead) / (1 + math.exp(-lead)), math.log1p(math.exp(-lead))
    assert value == pytest.approx(others**gamma * ce, rel=1e-3, abs=1e-7)
    assert np.isfinite(gradient).all()
    assert abs(gradient).max() <= others**gamma * (others + gamma * ce) * 1.001 + 1e-6


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 2), st.integers(1, 99))
def test_adjustment_after_training_cannot_change_a_binary_average_precision(seed, tau, n_positives):
    logits, targets = random_batch(seed, 50, 2)
    adjusted = logits - tau * LogitAdjustedLoss([100 - n_positives, n_positives]).adjustment.double().numpy()
    for scores in (lambda z: z[:, 1] - z[:, 0], lambda z: np.array([softmax(row)[1] for row in z])):
        assert average_precision_score(targets, scores(adjusted)) == average_precision_score(targets, scores(logits))


@given(batches(), st.sampled_from([0.1, 1.0, 4.0]))
def test_ap_loss_and_its_error_driven_gradient_are_the_definition(batch, delta):
    logits, targets = batch
    scores, slopes = slow_log_odds(logits)
    expected, by_score = slow_ap(scores, targets, delta)
    value, gradient = value_and_gradient(APLoss(delta), logits, targets)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert gradient == pytest.approx(np.einsum("ic,ick->ik", by_score, slopes), rel=1e-7, abs=1e-9)
    assert 0 <= value < 1
    classes = usable_classes(targets, logits.shape[1])
    if len(targets) > 2 and classes:  # with a steep step it is one minus the average precision
        exact = np.mean([1 - average_precision_score(targets == c, scores[:, c]) for c in classes])
        assert value_and_gradient(APLoss(1e-9), logits, targets)[0] == pytest.approx(exact, abs=1e-9)


def test_confident_scores_stay_apart_where_their_probabilities_are_equal():
    logits = [[60.0, 0, 0], [50.0, 0, 0], [0, 0, 50.0], [0, 9.0, 0]]  # in float32 the first two are both certain
    kept, _ = value_and_gradient(APLoss(), logits, [0, 0, 1, 1], torch.float32)
    exact, _ = slow_ap(slow_log_odds(np.array(logits))[0], np.array([0, 0, 1, 1]), 1.0)
    assert kept == pytest.approx(exact, rel=1e-5)
    right, _ = value_and_gradient(APLoss(), logits[:2] + logits[3:], [0, 1, 2], torch.float32)
    wrong, _ = value_and_gradient(APLoss(), logits[:2] + logits[3:], [1, 0, 2], torch.float32)
    assert right < wrong


@given(batches(), st.sampled_from([0.3, 1.0, 2.0]))
def test_soap_without_index_is_the_definition(batch, margin):
    loss = SOAPLoss(5, margin=margin)
    value, gradient = value_and_gradient(loss, *batch)
    expected, expected_gradient = slow_soap(*batch, margin)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert gradient == pytest.approx(expected_gradient, rel=1e-7, abs=1e-9)
    assert not loss.u_all.any()
    assert not loss.u_pos.any()


@pytest.mark.parametrize(("n_classes", "gamma"), [(2, 0.1), (2, 1.0), (3, 0.9)])
@pytest.mark.parametrize("replacement", [False, True], ids=["distinct rows", "repeated rows"])
def test_soap_with_index_follows_the_moving_averages(n_classes, gamma, replacement):
    rng = np.random.default_rng(5)
    all_logits, all_targets = random_batch(5, 20, n_classes)
    loss, averages = SOAPLoss(20, gamma=gamma).double(), {}
    for _ in range(6):
        index = rng.choice(20, size=12, replace=replacement)
        logits, targets = all_logits[index] + rng.normal(size=(12, n_classes)), all_targets[index]
        value, gradient = value_and_gradient(loss, logits, targets, index=torch.tensor(index))
        expected, expected_gradient = slow_soap(logits, targets, gamma=gamma, index=index, averages=averages)
        assert value == pytest.approx(expected, rel=1e-9)
        assert gradient == pytest.approx(expected_gradient, rel=1e-7, abs=1e-10)
        stored = np.zeros((20, 2))
        for row, pair in averages.items():
            stored[row] = pair
        assert loss.u_all.numpy() == pytest.approx(stored[:, 0])
        assert loss.u_pos.numpy() == pytest.approx(stored[:, 1])
    assert 2 <= (loss.u_all > 0).sum() < 20 or n_classes > 2


@all_losses(RANKING)
@pytest.mark.parametrize(
    ("n_classes", "targets"), [(2, [0, 0, 0]), (2, [1, 1, 1]), (2, [0]), (2, [1]), (3, [2, 2, 2]), (3, [1]), (2, [])]
)
def test_a_batch_without_a_pair_has_no_signal(make, n_classes, targets):
    logits = torch.randn(len(targets), n_classes, requires_grad=True)
    loss = make(n_classes)
    more = {"index": torch.arange(len(targets))} if getattr(loss, "takes_index", False) else {}
    value = loss(logits, torch.tensor(targets, dtype=torch.int64), **more)
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()
    assert not any(buffer.any() for buffer in loss.buffers())


@all_losses()
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_have_a_finite_loss_and_gradient(make, n_classes, dtype):
    loss = make(n_classes)
    if dtype == torch.bfloat16 and isinstance(loss, torch.nn.CrossEntropyLoss):
        loss = loss.to(dtype)  # PyTorch's own wants weights of the logits' type
    sizes = [-1e4, 0.0, 1e4]
    logits = [[a, b] + [0.0] * (n_classes - 2) for a in sizes for b in sizes for _ in range(n_classes)]
    targets = list(range(n_classes)) * 9
    for rows in (slice(None), slice(0, 1)):
        value, gradient = value_and_gradient(loss, logits[rows], targets[rows], dtype)
        assert math.isfinite(value)
        assert np.isfinite(gradient).all()


@all_losses({name: make for name, make in LOSSES.items() if name != "wce"})
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_half_precision_logits_are_computed_with_in_float32(make, dtype, n_classes):
    logits, targets = random_batch(8, 30, n_classes)
    half = torch.tensor(logits).to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    value, expected = make(n_classes)(half, torch.tensor(targets)), make(n_classes)(full, torch.tensor(targets))
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    value.backward()
    expected.backward()
    assert half.grad.dtype == dtype
    assert torch.equal(half.grad, full.grad.to(dtype))


@all_losses(RANKING)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_autocast_does_not_round_a_ranking(make, n_classes):
    logits, targets = random_batch(10, 40, n_classes)
    expected = value_and_gradient(make(n_classes), logits, targets, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(make(n_classes), logits, targets, torch.float32)
    assert value == expected[0]
    assert np.array_equal(gradient, expected[1])


@all_losses(RANKING)
def test_a_ranking_gradient_repeats_bit_for_bit_and_scales(make):
    torch.set_num_threads(2)
    logits, targets = random_batch(11, 400, 10)
    _, first = value_and_gradient(make(10), logits, targets, torch.float32)
    _, second = value_and_gradient(lambda z, y: 4 * make(10)(z, y), logits, targets, torch.float32)
    torch.set_num_threads(1)
    assert np.array_equal(4 * first, second)


@all_losses()
def test_logits_that_are_not_a_number_show_in_the_loss(make):
    logits = torch.tensor([[math.nan, math.nan], [0.0, 1.0], [0.0, 2.0]])
    assert math.isnan(make(2)(logits, torch.tensor([1, 0, 1])).item())


NAN, INF = math.nan, math.inf
ARGUMENTS = [
    (FocalLoss, "gamma", [-0.1, NAN, INF], "finite and at least 0"),
    (lambda **options: LDAMLoss([9, 1], **options), "max_margin", [-0.5, NAN, INF], "finite and at least 0"),
    (lambda **options: LDAMLoss([9, 1], **options), "scale", [0, -30, NAN], "finite and above 0"),
    (lambda **options: LDAMLoss([9, 1], **options), "deferred", [1, -0.1, NAN], "None or at least 0 and below 1"),
    (lambda **options: LogitAdjustedLoss([9, 1], **options), "tau", [-1, NAN, INF], "finite and at least 0"),
    (APLoss, "delta", [0, -1, NAN, INF], "finite and above 0"),
    (SOAPLoss, "n_samples", [0, -3, 2.5, NAN, INF], "a whole number of at least 1"),
    (lambda **options: SOAPLoss(5, **options), "margin", [0, NAN, INF], "finite and above 0"),
    (lambda **options: SOAPLoss(5, **options), "gamma", [0, 1.1, NAN], "above 0 and at most 1"),
]


@pytest.mark.parametrize(("make", "name", "values", "expected"), ARGUMENTS)
def test_arguments_out_of_range(make, name, values, expected):
    for value in values:
        with pytest.raises(ValueError, match=re.escape(f"{name} is {value}; it must be {expected}")):
            make(**{name: value})


@pytest.mark.parametrize("make", [weighted_cross_entropy, LDAMLoss, LogitAdjustedLoss])
@pytest.mark.parametrize("counts", [[], [5, 0], [5, -1], [5, 2.5], [5, math.nan], [5, math.inf]])
def test_counts_that_are_not_counts(make, counts):
    shown = re.escape(str([float(count) for count in counts]))
    with pytest.raises(ValueError, match=f"class_counts is {shown}; expected a whole number of at least 1 for every"):
        make(counts)


@all_losses({name: make for name, make in LOSSES.items() if name != "wce"})
@pytest.mark.parametrize(("logits", "targets"), [((4, 2), (3,)), ((4,), (4,)), ((4, 2), (4, 1)), ((4, 2, 1), (4,))])
def test_shapes_that_disagree(make, logits, targets):
    expected = rf"logits have shape \[{', '.join(map(str, logits))}\] and targets .*; expected \[n, [C2]\] and \[n\]"
    with pytest.raises(ValueError, match=expected):
        make(2)(torch.zeros(logits), torch.zeros(targets, dtype=torch.int64))
    if any(buffer.shape == (2,) for buffer in make(2).buffers()):  # statistics of each class
        with pytest.raises(ValueError, match=r"logits have shape \[5, 4\] .*; expected \[n, 2\] and \[n\]"):
            make(2)(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64))


@all_losses(RANKING)
def test_what_cannot_be_ranked(make):
    with pytest.raises(ValueError, match="a ranking loss needs two classes or more"):
        make(1)(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="targets go up to 2; 2 columns of logits have 0 to 1"):
        make(2)(torch.zeros(3, 2), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 1], r"index is int64 of shape \[2\]; expected int64 of shape \[3\], one row for each sample"),
        ([[0], [1], [2]], r"index is int64 of shape \[3, 1\]"),
        ([0.0, 1.0, 2.0], "index is float32 of shape"),
        ([0, 1, 5], "index has rows 0 to 5; n_samples is 5"),
        ([-1, 1, 4], "index has rows -1 to 4; n_samples is 5"),
    ],
)
def test_index_errors(index, message):
    loss = SOAPLoss(5)
    with pytest.raises(ValueError, match=message):
        loss(torch.randn(3, 2), torch.tensor([0, 1, 1]), torch.tensor(index))
    assert not loss.u_all.any()


@pytest.mark.parametrize("weight", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("kind", ["clusters", "features"])
def test_a_second_head_adds_its_weighted_loss_over_columns_of_its_own(kind, weight):
    """Two classes; behind their columns those of 4 clusters, or of 3 features, of the training rows of the batch."""
    rng, rows = np.random.default_rng(0), np.array([7, 0, 3])
    of_all = rng.integers(4, size=9) if kind == "clusters" else rng.normal(size=(9, 3)).astype(np.float32)
    logits, targets = rng.normal(size=(3, 2 + (4 if kind == "clusters" else 3))), np.array([0, 1, 1])
    loss = AuxiliaryLoss(2, of_all, weight)
    found, gradient = value_and_gradient(loss, logits, targets, index=torch.as_tensor(rows))
    wanted, second = of_all[rows], logits[:, 2:]
    if kind == "clusters":
        added = slow_cross_entropy(second, wanted)
    else:
        cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(second, wanted, strict=True)]
        added = 1 - np.mean(cosines)
    assert found == pytest.approx(slow_cross_entropy(logits[:, :2], targets) + weight * added, rel=1e-6)
    _, alone = value_and_gradient(F.cross_entropy, logits[:, :2], targets)
    np.testing.assert_allclose(
        gradient[:, :2], alone, atol=1e-12
    )  # the second head leaves the first one's outputs alone
