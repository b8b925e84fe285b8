"""Runs: from a spec to a record on disk, alone or in a sweep."""

from collections.abc import Sequence

NOT_AGGREGATED = "none"  # the aggregation rule, in records, of a method that makes no pseudo-classes


def rules_of(parent: Sequence[int]) -> tuple[str, ...]:
    """Return the aggregation rules to measure, from the class of each pseudo-class, int [K]."""
    return (NOT_AGGREGATED,) if len(parent) == max(parent) + 1 else ("max", "sum")
