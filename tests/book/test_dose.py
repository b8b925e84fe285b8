"""Dose and response: the least purity that helps, the table, and the curve, from made-up records."""

import pytest

from regroup_book.chapters import dose
from regroup_lib.runs.specs import Spec

LIFTS = {"binary": 2.0, "true": 4.0, "random 0.25": 3.5, "random 0.5": 3.2}
LIFTS |= {"brightness 0.25": 2.0, "brightness 0.5": 3.5}
PURITY = {"true": 1.0, "0.25": 0.78, "0.5": 0.55}


@pytest.fixture
def groups(binary_record):
    """Make two seeds of each set of groups; those that follow brightness help at the lower purity alone."""

    def make(name, seed):
        spec = Spec(profile="smoke", task="digits-0", method="ce" if name == "binary" else "rg-true", seed=seed)
        regrouping = {"parent": [0, 0, 1], "counts": [250, 250, 100], "purity": PURITY.get(name.split()[-1])}
        options = {"regrouping": regrouping} if spec.method == "rg-true" else {}
        return binary_record(spec, LIFTS[name], n=600, positives=100, **options)

    return {name: [make(name, seed) for seed in (0, 1)] for name in LIFTS}


def test_the_least_purity_is_the_end_of_an_unbroken_run_of_gains(groups):
    purity, gain = dose.least_purity(groups, "random")
    assert purity == 0.55
    assert gain.low > 0
    # The gain at 0.55 does not count, because the purer groups at 0.78 gain nothing.
    assert dose.least_purity(groups, "brightness")[0] == 1.0
    groups["true"] = groups["binary"]
    for record in groups["true"]:
        record.regrouping["purity"] = 1.0
    assert dose.least_purity(groups, "random") is None


def test_the_table_has_every_set_of_groups(groups):
    table = dose.dose_table(groups)
    assert table["purity"].tolist() == ["1.00", "0.78", "0.55", "0.78", "0.55"]
    assert table["AP − binary labels"].str.contains(r"\*").any()
    said = dose.dose_sentence(groups | {f"autoencoder {share}": groups[f"random {share}"] for share in (0.25, 0.5)})
    assert "regrouping clearly helps from 0.55 on if errors are random, from 1.00 on if errors follow brig" in said
    assert "at any" not in said
    worthless = groups | {"true": groups["binary"]}
    for record in worthless["true"]:
        record.regrouping["purity"] = 1.0
    assert dose.dose_sentence(worthless).startswith("Regrouping does not clearly help at any tested purity")


def test_real_encoders_are_placed_by_their_purity_and_gain(groups):
    """Random groups serve as an encoder's clusters; the others' AP is below that of the binary labels."""
    gain = dose.precision_difference(groups, "random 0.25", "binary").mean
    swapped = {"binary": groups["random 0.25"], "true": groups["true"]}
    said = dose.encoders_sentence(groups, {"pca": groups["random 0.25"], "raw": groups["random 0.5"]})
    assert said.startswith("The clusters of PCA and raw pixels have a purity of 0.55 to 0.78 and raise AP by ")
    lowered = dose.encoders_sentence(swapped, {"pca": groups["brightness 0.25"]})
    assert lowered.startswith("The clusters of PCA have a purity of 0.78 and lower AP by ")
    assert said.endswith(f"{gain:.1f} points.")
