"""Arrays that do not fit in memory: `open_rows` reads them by blocks of rows, and `BlockKMeans` clusters them so.

An array may be the path of an ``.npy`` file, a memory map, or anything with ``shape``, ``dtype`` and slices of rows,
such as arrays of Zarr, Dask and HDF5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from regroup_lib.inputs import check_matrix, check_whole


@dataclass(frozen=True)
class NpyRows:
    """Rows of an ``.npy`` file: a slice reads them.

    The pages of a memory map, by contrast, count as this process's memory until the system frees them.
    """

    path: str
    offset: int  # bytes before the first row
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def open(cls, path: str | Path) -> NpyRows:
        """Read a file's header; the error for a file that is missing, or holds no whole rows, names it."""
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} does not exist; give the path of an .npy file") from None
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path} is damaged or is not an .npy file of numbers ({error})") from error
        rows = cls.of(mapped) if isinstance(mapped, np.ndarray) else None
        if rows is None:
            raise ValueError(f"{path} does not hold one array in row order; save it with np.save, C-contiguous")
        return rows

    @classmethod
    def of(cls, array: np.ndarray) -> NpyRows | None:
        """Return the rows of the file behind a memory map or a part of one; None if there is no such file."""
        whole = array
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        if not isinstance(whole, np.memmap) or whole.mode == "c" or not array.flags.c_contiguous:
            return None
        addresses = [part.__array_interface__["data"][0] for part in (array, whole)]
        offset = whole.offset + addresses[0] - addresses[1]
        return cls(str(Path(whole.filename).absolute()), offset, array.shape, array.dtype)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return consecutive rows, or raise a ValueError where the file has become shorter."""
        start, stop, _ = rows.indices(self.shape[0])
        width = int(np.prod(self.shape[1:]))
        wanted = max(0, stop - start) * width
        offset = self.offset + start * width * self.dtype.itemsize
        found = np.fromfile(self.path, self.dtype, count=wanted, offset=offset)
        if len(found) != wanted:
            raise ValueError(f"{self.path} is shorter than its header says: rows {start} to {stop} are not whole")
        return found.reshape(-1, *self.shape[1:])


def open_rows(array: Any) -> Any:
    """Return an array that can be read by blocks: with ``shape``, ``dtype`` and slices of rows.

    Parameters
    ----------
    array : path, ndarray, memory map, or any object with ``shape``, ``dtype`` and slices of rows

    Raises
    ------
    ValueError
        If it is none of these, or sparse.
    """
    if isinstance(array, str | Path):
        return NpyRows.open(array)
    if sparse.issparse(array):
        raise ValueError("the array is sparse; only dense ones are read by blocks")
    if isinstance(array, np.ndarray):
        return NpyRows.of(array) or array
    if all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__")):
        return array
    raise ValueError(f"{type(array).__name__} cannot be read by blocks; expected shape, dtype and slices of rows")


@dataclass(frozen=True)
class Rows:
    """The rows of an array that a mask chooses, read by blocks."""

    array: Any  # the return value of `open_rows`, [n, d]
    mask: np.ndarray  # bool, one entry for each row of the array

    @classmethod
    def of(cls, array: Any) -> Rows:
        """Return all rows of features [n, d], which must be numbers that can be read by blocks."""
        if isinstance(array, Rows):
            return array
        array = open_rows(array)
        check_matrix(array)
        return cls(array, np.ones(array.shape[0], bool))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return int(np.count_nonzero(self.mask)), self.array.shape[1]

    def __getitem__(self, chosen: np.ndarray) -> Rows:
        """Return those of these rows that a mask, bool [n], chooses."""
        mask = self.mask.copy()
        mask[mask] = chosen
        return Rows(self.array, mask)

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield the rows in order as float32, read from `size` rows of the array at a time; all must be finite."""
        for start in range(0, len(self.mask), size):
            chosen = self.mask[start : start + size]
            if not chosen.any():
                continue
            block = np.asarray(self.array[start : start + len(chosen)], np.float32)
            block = block if chosen.all() else block[chosen]
            if not np.isfinite(np.vdot(block, block)):
                with np.errstate(over="ignore"):
                    bad = int((~np.isfinite(np.einsum("ij,ij->i", block, block))).sum())
                raise ValueError(
                    f"{bad or 'some'} rows of features from row {start} on hold NaN, infinite values or values "
                    "whose square exceeds float32; remove or scale them first"
                )
            yield block


# ---------------------------------------------------------------- k-means


def _pass(rows: Rows, centers: np.ndarray, shift: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the nearest center of each row minus `shift`, int32 [n], the sums of each center's rows, and the inertia.

    The rows are read in pieces that fit in the cache.
    """
    weights, k = -2 * np.ascontiguousarray(centers.T), len(centers)
    norms = np.einsum("ij,ij->i", centers, centers)
    assigned, sums, inertia, filled = np.empty(rows.shape[0], np.int32), np.zeros(centers.shape), 0.0, 0
    piece = int(np.clip(2**19 // max(centers.shape), 256, 4096))
    for block in rows.blocks(size):
        for start in range(0, len(block), piece):
            shifted = block[start : start + piece] - shift
            distances = shifted @ weights
            distances += norms  # squared, without the row's own norm
            labels = distances.argmin(axis=1)
            nearest = distances[np.arange(len(labels)), labels] + np.einsum("ij,ij->i", shifted, shifted)
            inertia += float(np.maximum(nearest, 0).sum(dtype=np.float64))  # rounding can be below 0
            ones = np.ones(len(labels), np.float32)
            sums += sparse.csr_array((ones, labels, np.arange(len(labels) + 1)), shape=(len(labels), k)).T @ shifted
            assigned[filled : filled + len(labels)] = labels
            filled += len(labels)
    return assigned, sums, inertia


class BlockKMeans(ClusterMixin, BaseEstimator):
    """K-means on features that do not fit in memory: Lloyd's iteration over blocks of rows, from disk.

    scikit-learn's k-means on a random subsample gives the start; every pass after it reads all rows. Time is linear
    in n. In memory are a block as read and as float32, the subsample (three copies while it is clustered), and 5 bytes
    for each row: its label and its mask. The passes use one thread.

    Parameters
    ----------
    n_clusters : int
    block_rows : int
        Rows read at a time.
    n_fitted : int
        Rows of the subsample, at most.
    n_init : int
        Starts of k-means on the subsample.
    max_iter : int
        Passes over all rows, at most; one more assigns the labels.
    tol : float
        The passes end when the inertia falls by less than this share.
    random_state : int, optional

    Attributes
    ----------
    labels_ : ndarray of int32 [n]
    cluster_centers_ : ndarray of float32 [K, d]
    inertia_ : float
        Sum of squared distances to the nearest center.
    n_iter_ : int
        Passes that moved the centers.

    References
    ----------
    Lloyd (1982), Least squares quantization in PCM.

    Examples
    --------
    >>> features = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> labels = BlockKMeans(2, block_rows=2, random_state=0).fit_predict(features)
    >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
    True
    """

    reads_blocks = True  # `Regrouping` then passes features on unread

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        block_rows: int = 16_384,
        n_fitted: int = 200_000,
        n_init: int = 3,
        max_iter: int = 10,
        tol: float = 1e-4,
        random_state: int | None = None,
    ):
        self.n_clusters = n_clusters
        self.block_rows = block_rows
        self.n_fitted = n_fitted
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> BlockKMeans:
        """Find the clusters of features [n, d]: a path, a memory map, or any other array that `open_rows` takes.

        Raises
        ------
        ValueError
            If there are fewer rows than clusters, a row is not finite, or an option is below 1.
        """
        rows = Rows.of(X)
        names = ("n_clusters", "block_rows", "n_fitted", "n_init", "max_iter")
        check_whole(**{name: getattr(self, name) for name in names})
        if rows.shape[0] < self.n_clusters:
            raise ValueError(f"n_clusters is {self.n_clusters}; there are {rows.shape[0]} rows of features")
        with threadpool_limits(1):  # the products are small, and more threads add in another order
            sample = self._sample(rows)
            start = KMeans(self.n_clusters, n_init=self.n_init, random_state=self.random_state).fit(sample)
            shift = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
            del sample
            # Without the shift, float32 distances lose digits if all rows are far from the origin.
            centers, before = start.cluster_centers_ - shift, np.inf
            for passes in range(self.max_iter):
                labels, sums, inertia = _pass(rows, centers, shift, self.block_rows)
                counts, self.n_iter_ = np.bincount(labels, minlength=len(centers)), passes + 1
                del labels  # 4 bytes per row
                moved = counts > 0  # an empty cluster stays where it is
                centers[moved] = sums[moved] / counts[moved, None]
                if inertia >= (1 - self.tol) * before:
                    break
                before = inertia
            self.labels_, _, self.inertia_ = _pass(rows, centers, shift, self.block_rows)
        self.cluster_centers_ = centers + shift
        return self

    def _sample(self, rows: Rows) -> np.ndarray:
        """Return a random subsample, float32."""
        n = rows.shape[0]
        size = min(n, max(self.n_fitted, self.n_clusters))
        chosen = np.zeros(n, bool)
        chosen[np.random.default_rng(self.random_state).choice(n, size, replace=False, shuffle=False)] = True
        sample, filled = np.empty((size, rows.shape[1]), np.float32), 0
        for block in rows[chosen].blocks(self.block_rows):
            sample[filled : filled + len(block)] = block
            filled += len(block)
        return sample
