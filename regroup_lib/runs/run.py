"""Execute one run: from a spec to its record."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from regroup_lib.files import results_directory, room_for
from regroup_lib.nn.checkpoints import remove_checkpoint
from regroup_lib.runs.looks import _run_encoder, _run_look
from regroup_lib.runs.networks import _run_table, _run_training
from regroup_lib.runs.prepare import Busy, _Means
from regroup_lib.runs.records import Record, checkpoint_path, is_whole, load_record, remove_leftovers, write_record
from regroup_lib.runs.specs import AnySpec

_RUNS = {"training": _run_training, "encoder": _run_encoder, "look": _run_look, "table": _run_table}


def run(
    spec: AnySpec,
    *,
    results_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    recompute: bool = False,
    wait: bool = True,
    deadline: float | None = None,
) -> Record:
    """Return the record of a spec: from disk, or by running it.

    Parameters
    ----------
    spec : Spec, EncoderSpec, TableSpec or LookSpec
    results_dir, data_dir : path, optional
        Default ``REGROUP_RESULTS`` and ``REGROUP_DATA``.
    recompute : bool
        Run again and replace the record.
    wait : bool
        When another process runs the same spec, or computes its features: wait for it (True) or raise `Busy`.
    deadline : float, optional
        A `time.monotonic` after which no epoch is to end, see `train`.

    Raises
    ------
    OutOfTime
        If the training stopped at its deadline: the same call continues from there.

    Notes
    -----
    A lock that dies with its process keeps two processes off one spec. A training run that was killed goes on
    from the checkpoint of its last epoch.
    """
    path, root = spec.path(results_dir), results_directory(results_dir)
    checkpoint = checkpoint_path(spec, results_dir)
    if path.exists() and not recompute and not checkpoint.exists():
        return load_record(path)
    with room_for(root):
        (root / ".locks").mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / ".locks" / f"{spec.key}.lock", timeout=-1 if wait else 0)
    try:
        with lock:
            # Written while this process waited, or just before another was killed.
            if not recompute and is_whole(path):
                remove_leftovers(path, checkpoint)
                return load_record(path)
            if recompute:
                remove_checkpoint(checkpoint)
            record, arrays = _RUNS[spec.kind](spec, _Means(data_dir, checkpoint, deadline, wait))
            write_record(record, arrays, path)
            remove_leftovers(path, checkpoint)
            return record
    except Timeout as error:
        raise Busy(f"{spec.label} (seed {spec.seed}) of {spec.task} is run by another process") from error
