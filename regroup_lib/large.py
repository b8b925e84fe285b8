"""Arrays that do not fit in memory: read by blocks of rows, and clustered by k-means that way.

An array may be the path of an ``.npy`` file, a memory map, or anything with ``shape``, ``dtype`` and slices of rows,
such as arrays of Zarr, Dask and HDF5.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from distributed import Client


NUMBERS = "fiub"  # kinds of dtype


@dataclass(frozen=True)
class NpyRows:
    """Rows of an ``.npy`` file. A slice reads them; what is sent to another process is the path.

    A memory map would do, but its pages count as this process's memory for as long as the system likes.

    Parameters
    ----------
    path : str
    offset : int
        Bytes before the first row.
    shape : tuple of int
    dtype : dtype
    """

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def open(cls, path: str | Path) -> NpyRows:
        """Look at a file's header.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no file, or it is no ``.npy`` file of whole rows; the message names it.
        """
        path = Path(path)
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
        """Return the rows behind a memory map or a part of one; None where there is no file with these bytes."""
        whole = array
        while isinstance(whole, np.ndarray) and not isinstance(whole.base, mmap.mmap):
            whole = whole.base
        if not isinstance(whole, np.memmap) or whole.filename is None or whole.mode == "c":
            return None
        if not array.flags.c_contiguous or array.ndim == 0:
            return None
        offset = whole.offset + _address(array) - _address(whole)
        return cls(str(Path(whole.filename).absolute()), offset, array.shape, array.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return consecutive rows.

        Raises
        ------
        ValueError
            If the file has become shorter.
        """
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"rows {rows} are not consecutive; only those are read")
        width = int(np.prod(self.shape[1:]))
        wanted = max(0, stop - start) * width
        try:
            offset = self.offset + start * width * self.dtype.itemsize
            found = np.fromfile(self.path, self.dtype, count=wanted, offset=offset)
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.path} does not exist here; workers need it under the same path") from None
        if len(found) != wanted:
            raise ValueError(f"{self.path} is shorter than its header says: rows {start} to {stop} are not whole")
        return found.reshape(-1, *self.shape[1:])


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


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
        on_disk = NpyRows.of(array)
        return array if on_disk is None else on_disk
    if all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__")):
        return array
    raise ValueError(f"{type(array).__name__} cannot be read by blocks; expected shape, dtype and slices of rows")


@dataclass(frozen=True)
class Rows:
    """Rows of an array, read by blocks: the consecutive ones from `start` to `stop`, or those of a mask among them.

    Parameters
    ----------
    array
        What `open_rows` returned, [n, d].
    start, stop : int
    mask : ndarray of bool [stop - start], optional
    """

    array: Any
    start: int
    stop: int
    mask: np.ndarray | None = None

    @classmethod
    def of(cls, array: Any) -> Rows:
        """Return all rows of features [n, d].

        Raises
        ------
        ValueError
            If they are not two-dimensional or not numbers, or cannot be read by blocks.
        """
        if isinstance(array, Rows):
            return array
        array = open_rows(array)
        if len(array.shape) != 2:
            raise ValueError(f"features have shape {tuple(array.shape)}; expected [n, d]")
        if np.dtype(array.dtype).kind not in NUMBERS:
            raise ValueError(f"features are {array.dtype}; expected numbers")
        return cls(array, 0, array.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        n = self.stop - self.start if self.mask is None else int(np.count_nonzero(self.mask))
        return n, self.array.shape[1]

    @property
    def ndim(self) -> int:
        """Two, as of any features."""
        return 2

    @property
    def dtype(self) -> np.dtype:
        """That of the array."""
        return np.dtype(self.array.dtype)

    def where(self, chosen: np.ndarray) -> Rows:
        """Return those of these rows that a mask, bool [n], chooses."""
        if self.mask is None:
            return Rows(self.array, self.start, self.stop, chosen)
        mask = np.zeros(self.stop - self.start, bool)
        mask[self.mask] = chosen
        return Rows(self.array, self.start, self.stop, mask)

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield the rows in order, read from `size` rows of the array at a time.

        Raises
        ------
        ValueError
            If a row holds NaN, an infinite value or one whose square float32 cannot hold.
        """
        for start in range(self.start, self.stop, size):
            stop = min(start + size, self.stop)
            chosen = slice(None) if self.mask is None else self.mask[start - self.start : stop - self.start]
            if self.mask is not None and not chosen.any():
                continue
            block = np.asarray(self.array[start:stop], np.float32)[chosen]
            if not np.isfinite(np.vdot(block, block)):
                raise ValueError(_not_finite(block, start))
            yield block

    def parts(self, n_parts: int, size: int) -> list[Rows]:
        """Return the rows in at most so many parts of whole blocks of `size`."""
        step = -(-(self.stop - self.start) // (n_parts * size)) * size
        return [
            Rows(self.array, a, b, None if self.mask is None else self.mask[a - self.start : b - self.start])
            for a in range(self.start, self.stop, step)
            for b in [min(a + step, self.stop)]
        ]

    def __getstate__(self) -> dict[str, Any]:
        # A bit a row in the place of a byte: the mask is all that is sent to a worker beside the path.
        return self.__dict__ | {"mask": None if self.mask is None else np.packbits(self.mask)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["mask"] is not None:
            state["mask"] = np.unpackbits(state["mask"], count=state["stop"] - state["start"]).astype(bool)
        self.__dict__.update(state)


def _not_finite(block: np.ndarray, start: int) -> str:
    with np.errstate(over="ignore"):
        bad = int((~np.isfinite(np.einsum("ij,ij->i", block, block))).sum())
    what = f"{bad or 'some'} rows of features from row {start} on"
    return f"{what} hold NaN, infinite values or such as float32 cannot square; remove or scale them first"


# ---------------------------------------------------------------- k-means


@dataclass
class _Totals:
    """What one pass over some rows finds: sums [K, d] and counts [K] by cluster, and the inertia."""

    sums: np.ndarray
    counts: np.ndarray
    inertia: float

    def __add__(self, other: _Totals) -> _Totals:
        return _Totals(self.sums + other.sums, self.counts + other.counts, self.inertia + other.inertia)


def _assigned(
    rows: Rows, centers: np.ndarray, shift: np.ndarray, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Yield, in pieces that the processor's cache holds: rows less `shift`, their nearest centres, their inertia."""
    weights = -2 * np.ascontiguousarray(centers.T)
    norms = np.einsum("ij,ij->i", centers, centers)
    piece = int(np.clip(2**19 // max(centers.shape), 256, 4096))
    for block in rows.blocks(size):
        for start in range(0, len(block), piece):
            shifted = block[start : start + piece] - shift
            distances = shifted @ weights
            distances += norms  # squared ones, less the row's own norm
            labels = distances.argmin(axis=1)
            nearest = distances[np.arange(len(labels)), labels] + np.einsum("ij,ij->i", shifted, shifted)
            yield shifted, labels, float(np.maximum(nearest, 0).sum(dtype=np.float64))  # rounding can be below 0


def _totals(rows: Rows, centers: np.ndarray, shift: np.ndarray, size: int) -> _Totals:
    k, d = centers.shape
    found = _Totals(np.zeros((k, d)), np.zeros(k, np.int64), 0.0)
    for shifted, labels, inertia in _assigned(rows, centers, shift, size):
        ones = np.ones(len(labels), np.float32)
        members = sparse.csr_array((ones, labels, np.arange(len(labels) + 1)), shape=(len(labels), k))
        found.sums += members.T @ shifted
        found.counts += np.bincount(labels, minlength=k)
        found.inertia += inertia
    return found


def _labels(rows: Rows, centers: np.ndarray, shift: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    labels, inertia, filled = np.empty(rows.shape[0], np.int32), 0.0, 0
    for _, found, part in _assigned(rows, centers, shift, size):
        labels[filled : filled + len(found)] = found
        filled += len(found)
        inertia += part
    return labels, inertia


class BlockKMeans(ClusterMixin, BaseEstimator):
    """K-means on features that do not fit in memory: Lloyd's iteration over blocks of rows, from disk.

    scikit-learn's k-means on a random subsample gives the start; every pass after it reads all rows. Time is linear
    in n. In memory are a block as read and as float32, the subsample (three copies while it is clustered), and 5 bytes
    a row for its label and its mask. One thread computes; workers are the way to more.

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
    client : distributed.Client, optional
        Let the workers of its scheduler do the passes, each on a part of the rows. They read the rows by path, so
        features in memory are refused; sums, counts and labels come back. Default: this process.
    random_state : int, optional

    Attributes
    ----------
    labels_ : ndarray of int32 [n]
    cluster_centers_ : ndarray of float32 [K, d]
    inertia_ : float
        Sum of squared distances to the nearest centre.
    n_iter_ : int
        Passes that moved the centres.

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

    reads_blocks = True  # `Regrouping` then reads no features by itself

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        block_rows: int = 16_384,
        n_fitted: int = 200_000,
        n_init: int = 3,
        max_iter: int = 10,
        tol: float = 1e-4,
        client: Client | None = None,
        random_state: int | None = None,
    ):
        self.n_clusters = n_clusters
        self.block_rows = block_rows
        self.n_fitted = n_fitted
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.client = client
        self.random_state = random_state

    def __sklearn_clone__(self) -> BlockKMeans:
        return BlockKMeans(**self.get_params(deep=False))  # a client cannot be copied

    def fit(self, X: Any, y: None = None) -> BlockKMeans:
        """Find the clusters of features [n, d]: a path, a memory map, or what `open_rows` takes.

        Raises
        ------
        ValueError
            If there are fewer rows than clusters, a row is not finite, an option is below 1, or a client is given and
            the features are in memory.
        """
        rows = Rows.of(X)
        self._check(rows)
        with threadpool_limits(1):  # the products are small: threads wait for each other, and add in another order
            return self._fit(rows)

    def _fit(self, rows: Rows) -> BlockKMeans:
        sample = self._sample(rows)
        start = KMeans(self.n_clusters, n_init=self.n_init, random_state=self.random_state).fit(sample)
        shift = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        del sample
        # Distances of float32 are exact to few digits where all rows lie far from the origin.
        centers, before = start.cluster_centers_ - shift, np.inf
        for passes in range(self.max_iter):
            found = reduce(_Totals.__add__, self._map(_totals, rows, centers, shift))
            self.n_iter_ = passes + 1
            moved = found.counts > 0  # an empty cluster stays where it is
            centers[moved] = found.sums[moved] / found.counts[moved, None]
            if found.inertia >= (1 - self.tol) * before:
                break
            before = found.inertia
        parts = self._map(_labels, rows, centers, shift)
        self.labels_ = np.concatenate([labels for labels, _ in parts])
        self.inertia_ = sum(inertia for _, inertia in parts)
        self.cluster_centers_ = centers + shift
        return self

    def _check(self, rows: Rows) -> None:
        for name in ("n_clusters", "block_rows", "n_fitted", "n_init", "max_iter"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        n = rows.shape[0]
        if n < self.n_clusters:
            raise ValueError(f"n_clusters is {self.n_clusters}; there are {n} rows of features")
        if self.client is not None and isinstance(rows.array, np.ndarray):
            raise ValueError(
                "features are in memory, and workers read them by path: save them with np.save and give the path"
            )

    def _sample(self, rows: Rows) -> np.ndarray:
        """Return a random subsample, float32."""
        n = rows.shape[0]
        size = min(n, max(self.n_fitted, self.n_clusters))
        chosen = np.zeros(n, bool)
        chosen[np.random.default_rng(self.random_state).choice(n, size, replace=False, shuffle=False)] = True
        sample, filled = np.empty((size, rows.shape[1]), np.float32), 0
        for block in rows.where(chosen).blocks(self.block_rows):
            sample[filled : filled + len(block)] = block
            filled += len(block)
        return sample

    def _map(self, task: Callable[..., Any], rows: Rows, centers: np.ndarray, shift: np.ndarray) -> list[Any]:
        """Return a task's results over all rows, in order: in this process, or by part on the workers."""
        if self.client is None:
            return [task(rows, centers, shift, self.block_rows)]
        threads = sum(self.client.nthreads().values())
        if not threads:
            raise ValueError("the client's scheduler has no worker; start one with dask worker ADDRESS")
        parts = rows.parts(4 * threads, self.block_rows)
        shared = self.client.scatter((centers, shift), broadcast=True, hash=False)
        return self.client.gather(
            [self.client.submit(_on_worker, task, part, shared, self.block_rows, pure=False) for part in parts]
        )


def _on_worker(task: Callable[..., Any], rows: Rows, shared: tuple[np.ndarray, np.ndarray], size: int) -> Any:
    import dask

    # Slices of a Dask array are computed here, and not by other tasks that would wait for this one's thread.
    with dask.config.set(scheduler="synchronous"), threadpool_limits(1):
        return task(rows, *shared, size)
