"""What the clusters of one class contain: statistics of images, metadata, and how much of them the clusters explain."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regroup_lib.runs.looks import cluster_contents, explained_share, image_statistics


def test_explained_share_by_hand():
    # Two clusters with means 1 and 3 around 2: between 4, within 4, total 8; adjusted: 1 - (4/8)(3/2).
    assert explained_share([0, 0, 1, 1], [0.0, 2.0, 2.0, 4.0]) == pytest.approx(1 - 0.5 * 3 / 2)
    assert explained_share([0, 0, 1, 1], ["a", "a", "b", "b"]) == 1
    assert np.isnan(explained_share([0, 1, 2], ["a", "a", "a"]))
    assert np.isnan(explained_share([0, 1, 2], [1, 2, 3]))  # as many clusters as values
    assert np.isnan(explained_share([0, 1], ["unknown", ""]))


@given(st.integers(0, 10_000), st.integers(2, 8))
def test_explained_share_of_random_clusters_is_near_zero(seed, k):
    rng = np.random.default_rng(seed)
    clusters = rng.integers(k, size=2000)
    for known in (rng.normal(size=2000), rng.choice(["a", "b", "c"], 2000)):
        assert abs(explained_share(clusters, known)) < 0.02


def test_explained_share_leaves_out_what_is_unknown():
    known = explained_share([0, 0, 1, 1, 1], [1.0, 2.0, 5.0, 6.0, 7.0])
    assert explained_share([0, 0, 1, 1, 1, 0, 1], [1.0, 2.0, 5.0, 6.0, 7.0, np.nan, np.nan]) == pytest.approx(known)
    words = explained_share([0, 0, 1, 1, 1], ["a", "a", "b", "b", "a"])
    assert explained_share([0, 0, 1, 1, 1, 0], ["a", "a", "b", "b", "a", "unknown"]) == pytest.approx(words)


def test_categories_are_numbers_when_there_are_two():
    rng = np.random.default_rng(0)
    clusters, coin = rng.integers(3, size=50), rng.integers(2, size=50)
    assert explained_share(clusters, coin) == pytest.approx(explained_share(clusters, np.array(["x", "y"])[coin]))


def test_image_statistics_see_what_they_name():
    images = np.full((3, 16, 16, 3), 128, np.uint8)
    images[1, ..., 0] = 255
    images[2, :2, :2] = images[2, :2, -2:] = images[2, -2:, :2] = images[2, -2:, -2:] = 0
    found = image_statistics(images)
    assert found["redness"].argmax() == 1
    assert found["dark corners"].argmax() == 2
    assert found["contrast"][0] == pytest.approx(0, abs=1e-6)
    assert found["brightness"][0] == pytest.approx(128 / 255)
    assert "redness" not in image_statistics(images[..., :1])


def test_contents_count_a_lesion_once_and_its_pairs_together():
    clusters = np.array([0, 0, 1, 1, 1])
    columns = {
        "lesion_id": np.array(["a", "a", "b", "b", "c"]),
        "image_id": np.array(list("12345")),
        "sex": np.array(["male", "male", "female", "unknown", "male"]),
    }
    images = np.zeros((5, 4, 4, 3), np.uint8)
    contents = cluster_contents(clusters, images, columns)
    assert contents["n"] == 3
    assert contents["same_lesion"] == {"pairs": 2, "together": 1.0, "chance": pytest.approx(4 / 10)}
    assert contents["clusters"][0] == {
        "cluster": 0,
        "size": 2,
        "sex": ["male", 1.0],
        "brightness": 0.0,
        "contrast": 0.0,
        "dark corners": 0.0,
        "redness": 0.0,
    }
    assert contents["clusters"][1]["sex"][1] == 0.5
    assert "image_id" not in contents["explained"]
