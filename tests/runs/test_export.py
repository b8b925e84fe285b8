"""Records as lists: the index, exports that mix no settings, and names that stay text wherever they are written."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from regroup_lib.runs import records
from regroup_lib.runs.export import COLUMNS, indexed_rows, records_frame, rows_frame, write_frame
from regroup_lib.runs.records import load_records

COMMITTED = Path(__file__).resolve().parents[2] / "results"
MEASURED = {"balanced_accuracy", "average_precision", "calibrated_average_precision", "seconds", "status", "n_clusters"}


@pytest.fixture
def results(smoke_results, tmp_path):
    return shutil.copytree(smoke_results, tmp_path / "results")


def plain(frame):
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def test_the_index_gives_the_rows_of_the_records_and_reads_each_once(results, monkeypatch):
    expected = plain(records_frame(load_records(results)))
    assert plain(rows_frame(indexed_rows(results))) == expected
    with monkeypatch.context() as patch:
        patch.setattr(records, "load_record", lambda path: pytest.fail(f"read {path} again"))
        assert plain(rows_frame(indexed_rows(results))) == expected
    # A record that has changed is read again, one that is gone has no row, and a damaged index is made again.
    changed, gone = sorted(results.glob("smoke/digits-0/ce-*.json"))
    values = json.loads(changed.read_text())
    values["status"] = "diverged"
    del values["digest"]
    changed.write_text(json.dumps(values))
    gone.unlink()
    rows = indexed_rows(results)
    assert [row["status"] for row in rows if row["method"] == "ce"] == ["diverged"]
    (results / ".index" / "rows.json").write_text('{"version": 1, "records": []}')
    assert indexed_rows(results) == rows


def test_a_damaged_record_is_not_left_out_in_silence(results):
    path = next(results.glob("smoke/digits-0/ce-*.json"))
    path.write_text(path.read_text()[:-40])
    with pytest.raises(ValueError, match=f"the record {path} is damaged"):
        indexed_rows(results)


def test_no_two_committed_records_agree_in_all_columns_of_the_export():
    """So whoever groups by the columns, seeds aside, never mixes settings."""
    frame = records_frame(load_records(COMMITTED))
    settings = [name for name in frame if name not in MEASURED | {"key"} and not name.startswith("average_precision_")]
    assert {"split", "gamma", "tau", "max_margin", "deferred", "threshold", "imbalance", "estimator"} <= set(settings)
    assert not frame.duplicated(settings).any()
    assert set(frame.loc[frame.method == "rg-random", "clusterer"]) >= {"random", "random-equal"}


def test_the_long_form_has_one_metric_a_row(smoke_results):
    rows = indexed_rows(smoke_results)
    wide, long = rows_frame(rows), rows_frame(rows, long=True)
    metrics = [name for name in wide if name.endswith("accuracy") or "average_precision" in name]
    assert list(long.columns[-2:]) == ["metric", "value"]
    assert len(long) == len(metrics) * len(wide)
    key, rule = wide.loc[3, "key"], wide.loc[3, "aggregation"]
    found = long[(long.key == key) & (long.aggregation == rule)].set_index("metric")["value"]
    assert found.to_dict() == wide.loc[3, metrics].to_dict()


def test_no_records_are_a_table_without_rows(tmp_path):
    for long in (False, True):
        assert len(rows_frame(indexed_rows(tmp_path), long=long)) == 0
    assert list(rows_frame([])) == COLUMNS


HOSTILE = "a|b <i>&\\[x](y)\n`$_%#{}"


def test_names_are_text_in_every_format(tmp_path):
    frame = pd.DataFrame({HOSTILE: [HOSTILE]})
    write_frame(frame, tmp_path / "out.md", ".md")
    cell = "a\\|b &lt;i&gt;&amp;\\\\\\[x\\](y) \\`$_%#{}"
    assert (tmp_path / "out.md").read_text() == f"| {cell} |\n| --- |\n| {cell} |\n"
    write_frame(frame, tmp_path / "out.tex", ".tex")
    assert r"\&\textbackslash [x](y)" in (tmp_path / "out.tex").read_text()
    assert r"\$\_\%\#\{\}" in (tmp_path / "out.tex").read_text()
