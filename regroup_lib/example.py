"""What the records of the paper's motivating example say of its claims C2 to C9 (Section 2.1, Figures 3 to 6).

Each claim is put as one or more differences, taken seed by seed, that are above 0 if it is true.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regroup_lib.pace import asynchrony, hidden_pace_gap, pace_gap
from regroup_lib.pictures import reconstructed_share
from regroup_lib.records import Record
from regroup_lib.report import (
    AVERAGE_PRECISION,
    PAPER_RULE,
    Evidence,
    Verdict,
    encoder_label,
    evidence,
    measured,
    result_on_test,
    space_accuracy,
)

WELL_RECONSTRUCTED = 0.9  # share of the pixel variance that a good reconstruction keeps
IN_STEP = 0.5  # asynchrony below which classes are called in step: a factor of 1.4


def encoder_verdicts(
    records: Sequence[Record], encoder: str, *, well_reconstructed: float = WELL_RECONSTRUCTED
) -> tuple[Verdict, Verdict]:
    """Return the verdicts on C2 and C3, about the spaces of the encoders.

    Parameters
    ----------
    records : sequence of Record
        Looks at the raw pixels, the autoencoder and `encoder`, one a seed.
    encoder : str
        The pre-trained one.
    well_reconstructed : float
        Share of the pixel variance from which on a reconstruction is called good.
    """
    nmi: dict[str, list[float]] = {}
    for record in records:
        nmi.setdefault(record.spec.encoder, []).append(record.metrics["nmi"])
    purity = [r.metrics["purity"] for r in records if r.spec.encoder == encoder]
    best = encoder_label(encoder)

    def below_half(name: str) -> Evidence:
        text = f"half the NMI of {best} − NMI of {encoder_label(name)}"
        return evidence(text, np.array(nmi[encoder]) / 2, nmi[name], scale=1, digits=2)

    # The autoencoder and its reconstructions are the same for all seeds.
    autoencoder = next(r for r in records if r.spec.encoder == "autoencoder")
    kept = [reconstructed_share(autoencoder)] * len(nmi["autoencoder"])
    reconstructs = evidence(
        f"share of pixel variance kept − {well_reconstructed}", kept, well_reconstructed, scale=1, digits=3
    )
    pure = evidence(f"purity of {best} − 0.5", purity, 0.5, scale=1, digits=2)
    return (
        Verdict(
            "C2",
            f"Raw pixels and autoencoder codes do not group the classes; {best} does.",
            (below_half("raw"), below_half("autoencoder"), pure),
        ),
        Verdict(
            "C3",
            "The autoencoder reconstructs well and does not group the classes, so reconstruction is not the reason.",
            (reconstructs, below_half("autoencoder")),
        ),
    )


def label_set_verdicts(records: Sequence[Record], encoder: str, rule: str = PAPER_RULE) -> tuple[Verdict, ...]:
    """Return the verdicts on C4, C5 and C6, about what a network learns from each label set.

    Parameters
    ----------
    records : sequence of Record
        Binary labels, true classes, random groups and labels regrouped by `encoder`, one a seed.
    encoder : str
        The pre-trained one.
    rule : {"max", "sum"}
        Aggregation behind the AP.
    """
    best = f"rg-{encoder}"
    space = measured(records, space_accuracy)
    ap = measured(records, lambda r: result_on_test(r, AVERAGE_PRECISION, rule))
    nearer = 2 * space[best] - space["ce"]
    return (
        Verdict(
            "C4",
            "A network trained on regrouped labels arranges images more as one trained on the true classes does "
            "than as one trained on binary labels does.",
            (
                evidence("5-NN accuracy, regrouped − binary", space[best], space["ce"]),
                evidence("(regrouped − binary) − (true − regrouped)", nearer, space["rg-true"]),
            ),
        ),
        Verdict(
            "C5",
            f"Labels regrouped by {encoder_label(encoder)} give a higher test AP than binary labels.",
            (evidence("AP, regrouped − binary", ap[best], ap["ce"]),),
        ),
        Verdict(
            "C6",
            "Random groups do worse than regrouped ones and no better than binary labels, so balance alone is not "
            "the cause.",
            (
                evidence("AP, regrouped − random", ap[best], ap["rg-random"]),
                evidence("AP, binary − random", ap["ce"], ap["rg-random"]),
            ),
        ),
    )


def pace_verdicts(records: Sequence[Record], encoder: str, *, in_step: float = IN_STEP) -> tuple[Verdict, ...]:
    """Return the verdicts on C7, C8 and C9, about the pace at which classes concentrate.

    Parameters
    ----------
    records, encoder
        See `label_set_verdicts`.
    in_step : float
        Asynchrony below which classes are called in step.
    """
    best = f"rg-{encoder}"
    gap = measured(records, lambda r: pace_gap(r).mean())["ce"]
    hidden = measured(records, lambda r: hidden_pace_gap(r).mean())["ce"]
    pace = measured(records, asynchrony)
    return (
        Verdict(
            "C7",
            "With binary labels the majority concentrates before the minority.",
            (
                evidence("mean pace gap, binary labels", gap, 0, scale=1, digits=2),
                evidence("the same by hidden classes", hidden, 0, scale=1, digits=2),
            ),
        ),
        Verdict(
            "C8",
            "With true classes, minority and majority concentrate at a like pace.",
            (
                evidence(f"{in_step} − A, true classes", -pace["rg-true"], -in_step, scale=1, digits=2),
                evidence("A, binary − true classes", pace["ce"], pace["rg-true"], scale=1, digits=2),
            ),
        ),
        Verdict(
            "C9",
            f"Regrouping by {encoder_label(encoder)} keeps the classes in step; random groups do not.",
            (
                evidence(f"{in_step} − A, regrouped", -pace[best], -in_step, scale=1, digits=2),
                evidence(f"A − {in_step}, random", pace["rg-random"], in_step, scale=1, digits=2),
                evidence("A, random − regrouped", pace["rg-random"], pace[best], scale=1, digits=2),
            ),
        ),
    )
