"""Features that do not fit in memory: what is read, how much memory that takes, and k-means over it."""

import json
import subprocess
import sys
from pathlib import Path

import dask.array
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from regroup_lib.large import BlockKMeans, NpyRows, Rows, open_rows
from regroup_lib.regroup import Regrouping

ROOT = Path(__file__).resolve().parents[1]


def blobs(n=3000, k=12, d=8, *, seed=0, spread=0.5):
    """Clusters of unequal sizes, far from the origin."""
    rng = np.random.default_rng(seed)
    truth = np.sort(rng.choice(k, n, p=np.arange(1, k + 1) / (k * (k + 1) / 2)))
    rng.shuffle(truth)
    centers = 100 + 3 * rng.normal(size=(k, d))
    return (centers[truth] + spread * rng.normal(size=(n, d))).astype(np.float32), truth


def lloyd(features, centers, passes):
    """Lloyd's iteration written out, in float64: centers, labels, inertia."""
    features, centers = features.astype(np.float64), centers.astype(np.float64)

    def distances():
        return ((features[:, None] - centers) ** 2).sum(axis=2)

    for _ in range(passes):
        labels = distances().argmin(axis=1)
        for c in set(labels.tolist()):
            centers[c] = features[labels == c].mean(axis=0)
    return centers, distances().argmin(axis=1), distances().min(axis=1).sum()


class Sliced:
    """An array as Zarr's and HDF5's are: shape, dtype, slices of rows, and nothing else."""

    def __init__(self, path):
        self.path, array = path, np.load(path)
        self.shape, self.dtype, self.largest = array.shape, array.dtype, 0

    def __getitem__(self, rows):
        found = np.load(self.path)[rows]
        self.largest = max(self.largest, len(found))
        return found


@pytest.fixture(scope="module")
def features():
    return blobs()[0]


@pytest.fixture(scope="module")
def path(features, tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "features.npy"
    np.save(path, features)
    return path


@given(st.data())
def test_rows_of_a_file_are_those_of_the_array(path, features, data):
    n = len(features)
    outer = data.draw(st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted).map(lambda s: slice(*s)))
    inner = data.draw(st.tuples(st.integers(-n, n), st.integers(-n, n)).map(lambda s: slice(*s)))
    mapped = np.load(path, mmap_mode="r")[outer]
    rows = NpyRows.of(mapped)
    np.testing.assert_array_equal(rows[inner], features[outer][inner])


def test_a_map_whose_bytes_are_not_the_files_is_no_file(path):
    private = np.load(path, mmap_mode="c")
    assert NpyRows.of(private) is None
    assert NpyRows.of(np.load(path, mmap_mode="r").T) is None
    assert NpyRows.of(np.zeros((3, 2))) is None
    private[0] = -1  # only this process sees it, and so do its blocks
    assert next(Rows.of(private).blocks(10))[0, 0] == -1


@given(n=st.integers(1, 60), size=st.integers(1, 70), seed=st.integers(0, 99))
def test_blocks_have_every_chosen_row_once_and_in_order(n, size, seed):
    draw = np.random.default_rng(seed)
    array = np.arange(2.0 * n).reshape(n, 2)
    first = draw.random(n) < 0.7
    second = draw.random(int(first.sum())) < 0.7
    rows, expected = Rows.of(array)[first][second], array[first][second]
    assert rows.shape == expected.shape
    blocks = list(rows.blocks(size))
    assert all(len(block) <= size for block in blocks)
    np.testing.assert_array_equal(np.concatenate([np.empty((0, 2)), *blocks]), expected)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("broken.npy", r"broken\.npy is damaged or is not"),
        ("fortran.npy", r"fortran\.npy does not hold one array in row order"),
        ("several.npz", r"several\.npz does not hold one array"),
        ("objects.npy", r"objects\.npy is damaged or is not an \.npy file of numbers"),
        (sparse.eye_array(3, format="csr"), "sparse"),
        (3, "int cannot be read by blocks"),
        (np.zeros(4), r"features have shape \(4,\)"),
        (np.array([["a"]]), "expected numbers"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_named(tmp_path, path, features, source, message):
    (tmp_path / "broken.npy").write_bytes(path.read_bytes()[:-5])
    np.save(tmp_path / "fortran.npy", np.asfortranarray(features))
    np.savez(tmp_path / "several.npz", a=features)
    np.save(tmp_path / "objects.npy", np.array([[None]]))
    with pytest.raises(ValueError, match=message):
        Rows.of(tmp_path / source if isinstance(source, str) else source)


def test_files_that_vanish_or_shrink(tmp_path, features):
    path = tmp_path / "features.npy"
    with pytest.raises(FileNotFoundError, match=r"features\.npy does not exist; give the path of an \.npy file"):
        open_rows(path)
    np.save(path, features)
    rows = open_rows(path)
    np.save(path, features[:10])
    with pytest.raises(ValueError, match="shorter than its header says: rows 0 to 20"):
        rows[:20]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"No such file .*\.npy"):
        rows[:20]


@pytest.mark.parametrize("block_rows", [1, 7, 1000, 10**6])
def test_passes_are_lloyds_iteration(features, block_rows):
    """From the same start, with the same number of passes, whatever the blocks."""
    passes, sampled = 4, 300
    model = BlockKMeans(6, block_rows=block_rows, n_fitted=sampled, n_init=1, max_iter=passes, tol=-1, random_state=3)
    model.fit(features[:1500])
    chosen = np.sort(np.random.default_rng(3).choice(1500, sampled, replace=False, shuffle=False))
    start = KMeans(6, n_init=1, random_state=3).fit(features[chosen]).cluster_centers_
    centers, labels, inertia = lloyd(features[:1500], start, passes)
    assert model.n_iter_ == passes
    np.testing.assert_allclose(model.cluster_centers_, centers, rtol=1e-5)
    np.testing.assert_array_equal(model.labels_, labels)
    assert model.inertia_ == pytest.approx(inertia, rel=1e-4)


def test_a_center_without_rows_stays():
    features = np.repeat(np.float32([[0], [1], [5]]), [50, 50, 1], axis=0)
    with pytest.warns(UserWarning, match="distinct clusters"):
        model = BlockKMeans(5, random_state=0).fit(features)
    assert np.isfinite(model.cluster_centers_).all()
    assert model.inertia_ == pytest.approx(0, abs=1e-5)


def test_one_answer_whatever_holds_the_features(tmp_path, path, features):
    options = {"n_fitted": 500, "block_rows": 100, "max_iter": 2, "random_state": 0}
    expected = BlockKMeans(5, **options).fit(features)
    sliced = Sliced(path)
    mapped = np.load(path, mmap_mode="r")
    for array in (path, str(path), mapped, sliced, dask.array.from_array(mapped, chunks=(333, 8))):
        found = BlockKMeans(5, **options).fit(array)
        np.testing.assert_array_equal(found.labels_, expected.labels_)
        assert found.inertia_ == expected.inertia_
    assert sliced.largest <= 100
    np.save(tmp_path / "bytes.npy", np.arange(40, dtype=np.uint8).reshape(20, 2))
    assert len(np.unique(BlockKMeans(2, random_state=0).fit_predict(tmp_path / "bytes.npy"))) == 2


def test_regrouping_by_blocks_is_regrouping_in_memory(path, features):
    labels = (np.arange(len(features)) % 10 == 0).astype(int)
    clusterer = BlockKMeans(n_fitted=300, block_rows=500)
    here = Regrouping(clusterer, random_state=0).fit(path, labels)
    in_memory = Regrouping(clusterer, random_state=0).fit(features, labels)
    np.testing.assert_array_equal(here.pseudo_labels_, in_memory.pseudo_labels_)
    assert here.parent_.tolist() == [0] * 9 + [1]
    assert (here.parent_[here.pseudo_labels_] == labels).all()
    # A class's clusters are those of its rows alone.
    alone = BlockKMeans(9, n_fitted=300, random_state=0).fit_predict(features[labels == 0])
    assert adjusted_rand_score(alone, here.pseudo_labels_[labels == 0]) == 1


def test_features_by_blocks_are_checked_as_others_are(tmp_path, path, features):
    with pytest.raises(ValueError, match="3000 rows of features but labels of shape"):
        Regrouping(BlockKMeans()).fit(path, [0, 1])
    with pytest.raises(ValueError, match="n_clusters is 5; there are 3 rows"):
        BlockKMeans(5).fit(features[:3])
    with pytest.raises(ValueError, match="block_rows is 0; it must be a whole number of at least 1"):
        BlockKMeans(2, block_rows=0).fit(features)
    for value in (np.nan, np.inf, 1e30):
        damaged = features.copy()
        damaged[1234, 3] = value
        np.save(tmp_path / "damaged.npy", damaged)
        with pytest.raises(ValueError, match="1 rows of features from row 1200 on hold NaN, infinite"):
            BlockKMeans(2, n_fitted=100, block_rows=100, random_state=0).fit(tmp_path / "damaged.npy")


MEASURE = """
import json, re, resource, sys
from pathlib import Path
import numpy as np
from regroup_lib.large import BlockKMeans
options = dict(n_fitted=5000, block_rows=4096, max_iter=2, n_init=1, random_state=0)
BlockKMeans(4, **options).fit(np.random.rand(5000, 8))
def peak():
    # On Linux a new process takes over its parent's ru_maxrss; VmHWM is its own.
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
BlockKMeans(4, **options).fit(np.load(sys.argv[1], mmap_mode="r"))
print(json.dumps((peak() - before) / 1024))
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    """A process of its own clusters 256 MB, and its resident memory, pages of the file included, grows by a tenth."""
    path = tmp_path / "large.npy"
    array = np.lib.format.open_memmap(path, "w+", np.float32, (2**20, 64))
    for start in range(0, len(array), 2**16):
        array[start : start + 2**16] = np.random.default_rng(start).random((2**16, 64), np.float32)
    del array
    command = [sys.executable, "-c", MEASURE, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=300)
    assert json.loads(done.stdout) < 26  # labels and masks are 10 of them
