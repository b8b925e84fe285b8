"""Which runs each chapter needs: the notebooks, the command line and the book's build all ask here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regroup_lib.experiments import EncoderSpec, Spec

TASKS = {"smoke": "digits-0", "cpu": "cifar10-airplane", "paper": "cifar10-airplane"}
INCEPTION = "onnx:inception_v3_mixed_8"
# The spaces that are clustered, the best one last: it is the one that "regrouped" means without further words.
ENCODERS = {
    "smoke": ("raw", "autoencoder", "pca"),
    "cpu": ("raw", "autoencoder", INCEPTION),
    "paper": ("raw", "autoencoder", INCEPTION),
}
COMPARED_ENCODERS = {
    "smoke": ("raw", "pca", "autoencoder"),
    "cpu": ("raw", "pca", "autoencoder", INCEPTION),
    "paper": ("raw", "pca", "autoencoder", INCEPTION),
}


def motivating_example(profile: str, seeds: Sequence[int]) -> list[Spec]:
    """Return the label sets of Section 2.1, seed by seed: binary, true classes, random groups, regrouped.

    Nothing is selected on a validation split in this chapter, so beyond the smoke profile all training images
    are trained on.
    """
    label_sets = [("ce", None), ("rg-true", None), ("rg-random", None)]
    label_sets += [("rg", encoder) for encoder in reversed(ENCODERS[profile])]
    return [
        Spec(
            profile=profile,
            task=TASKS[profile],
            method=method,
            encoder=encoder,
            seed=seed,
            validation_fraction=0.1 if profile == "smoke" else 0.0,
            variation_samples=10_000,
            embedding=True,
        )
        for seed in seeds
        for method, encoder in label_sets
    ]


def encoders(profile: str, seeds: Sequence[int]) -> list[EncoderSpec]:
    """Return one look at each encoder a seed (the seed moves k-means)."""
    return [
        EncoderSpec(profile=profile, task=TASKS[profile], encoder=encoder, seed=seed)
        for encoder in COMPARED_ENCODERS[profile]
        for seed in seeds
    ]


# Chapter (the notebook's name) -> the runs that it shows.
PLANS = {
    "motivating-example": motivating_example,
    "encoders": encoders,
    "synchronous-learning": motivating_example,
}


def chapter_specs(chapter: str, *, profile: str = "cpu", seeds: Sequence[int] = (0, 1, 2)) -> list[Spec | EncoderSpec]:
    """Return the runs of a chapter, or of all chapters with ``"all"``, each once.

    Raises
    ------
    ValueError
        If there is no such chapter or profile, or no seed.
    """
    if chapter != "all" and chapter not in PLANS:
        raise ValueError(f"no chapter is called {chapter!r}; there are {', '.join(PLANS)}, or all")
    if profile not in TASKS:
        raise ValueError(f"no profile is called {profile!r}; there are {', '.join(TASKS)}")
    if not list(seeds):
        raise ValueError("seeds is empty; give at least one")
    plans = list(PLANS.values()) if chapter == "all" else [PLANS[chapter]]
    return list(dict.fromkeys(spec for plan in plans for spec in plan(profile, list(seeds))))


def missing_records(
    chapter: str,
    *,
    profile: str = "cpu",
    seeds: Sequence[int] = (0, 1, 2),
    results_dir: str | Path | None = None,
) -> list[Spec | EncoderSpec]:
    """Return the runs of a chapter that have no record yet."""
    return [s for s in chapter_specs(chapter, profile=profile, seeds=seeds) if not s.path(results_dir).exists()]
