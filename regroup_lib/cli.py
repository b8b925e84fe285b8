"""The `regroup` command: data, runs, records, your own data; other packages add commands of theirs.

Every command imports its modules itself, so that `--help` and lists answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

from regroup_lib.extras import explained, printable

try:
    import typer
except ModuleNotFoundError as missing:
    sys.exit(f"error: {explained(missing)}")

PLAIN: dict[str, Any] = {"rich_markup_mode": None}  # loading rich takes longer than the rest of `--help`
app = typer.Typer(
    help="Imbalanced classification by regrouping.", no_args_is_help=True, pretty_exceptions_enable=False, **PLAIN
)
data_app = typer.Typer(help="The data sets: list them, download them, check them.", **PLAIN)
results_app = typer.Typer(invoke_without_command=True, **PLAIN)
app.add_typer(data_app, name="data", no_args_is_help=True)
app.add_typer(results_app, name="results")
INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it

Profile = Annotated[str, typer.Option(help="smoke, cpu or paper.")]
Seeds = Annotated[str, typer.Option(help="Comma-separated seeds.")]
OnlyTask = Annotated[str | None, typer.Option("--task", help="Only this task.")]
OnlyMethod = Annotated[str | None, typer.Option("--method", help="Only this method.")]
OnlyProfile = Annotated[str | None, typer.Option("--profile", help="Only this profile.")]
# How data of your own are read.
Label = Annotated[str | None, typer.Option(help="For a table: the column with the classes; default: the last.")]
ImageSize = Annotated[int | None, typer.Option(help="For image files: resize them to this height and width in pixels.")]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Leave out images that cannot be read and rows without a label.")
]
Group = Annotated[
    str | None,
    typer.Option(
        help="Samples that belong together share a value of this column; for images, a level of folders or a pattern."
    ),
]
NoHeader = Annotated[bool, typer.Option("--no-header", help="For a table: its first line is data, not names.")]
Missing = Annotated[list[str] | None, typer.Option(help="For a table: a marker of missing values; may be repeated.")]
Decimal = Annotated[str | None, typer.Option(help="For a table: its decimal mark, a point or a comma.")]


def _lines(value: object) -> str:
    return "\n".join(map(printable, str(value).split("\n")))


def say(value: object) -> None:
    """Print a value as lines of text, with escape codes in place of control characters."""
    print(_lines(value))


def _print_table(columns: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Print a table, its columns as wide as their longest cell; rich takes seconds for the rows of all records."""
    cells = [[printable(str(cell).replace("\n", " ")) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    """Run the command; an error that has an explanation is one line, not a traceback."""
    try:
        app()
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        if "--debug" in sys.argv:
            raise
        message = explained(error) if isinstance(error, ModuleNotFoundError) else error
        typer.echo(typer.style("error:", fg="red") + f" {_lines(message)}", err=True)
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        print(f"regroup {metadata.version('regroup-lib')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Imbalanced classification by regrouping."""


def seed_numbers(text: str) -> list[int]:
    """Return [0, 1] for "0,1"."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(f"seeds are {text!r}; expected whole numbers with commas between them, like 0,1,2") from error


def assignments(pairs: list[str] | None) -> dict[str, Any]:
    """Return {"a": 1} for ["a=1"]."""
    from regroup_lib.files import parse_parameter

    values = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"{pair!r} is not of the form NAME=VALUE")
        values[name] = parse_parameter(value)
    return values


@data_app.command("list")
def data_list() -> None:
    """List the data sets, whether they are here, and who publishes them."""
    from regroup_lib.data.sources import EMBEDDED, SOURCES

    rows = [(name, "embedded", source.publisher) for name, source in EMBEDDED.items()]
    for name, source in SOURCES.items():
        state = source.path() if source.path().exists() else f"missing: regroup data fetch {name}"
        rows.append((name, state, source.publisher))
    _print_table(("name", "state", "publisher"), rows)


@data_app.command("fetch")
def data_fetch(name: str) -> None:
    """Download a data set from its publisher into the data directory.

    Example: regroup data fetch cifar10
    """
    from regroup_lib.data.load import fetch_data

    say(f"wrote {fetch_data(name)}")


@data_app.command("check")
def data_check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names, npz files, folders of images, tables; default: all here.")
    ] = None,
    label: Label = None,
    image_size: ImageSize = None,
    allow_missing: AllowMissing = False,
    group: Group = None,
    no_header: NoHeader = False,
    missing: Missing = None,
    decimal: Decimal = None,
):
    """Load data sets, check them, and print shape, class counts and digest.

    Examples: regroup data check cifar10; regroup data check patients.csv --label outcome
    """
    from regroup_lib.data.load import load_data
    from regroup_lib.data.sources import EMBEDDED, SOURCES

    here = [*EMBEDDED, *(name for name, source in SOURCES.items() if source.path().exists())]
    for name in names or here:
        reading = {"header": not no_header, "missing": missing or (), "decimal": decimal, "group": group}
        dataset = load_data(name, label=label, image_size=image_size, allow_missing=allow_missing, **reading)
        for split in dataset.splits:
            counts = dataset.class_counts(split)
            shape = " x ".join(str(size) for size in dataset.splits[split].inputs.shape)
            of = f"{len(counts)} classes of {min(counts)} to {max(counts)} {dataset.holds}"
            say(f"{name} {split}: {shape}, {of}")
        for note in dataset.notes:
            say(f"{name} {note}")
        say(f"{name} digest: {dataset.digest}")


@app.command()
def run(
    spec: Annotated[Path | None, typer.Argument(help="A YAML file with the spec's fields.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE; may be repeated.")] = None,
    recompute: Annotated[bool, typer.Option(help="Run again where there is a record.")] = False,
) -> None:
    """Run one spec, or look up its record.

    Example: regroup run --set task=digits-0 --set method=rg --set encoder=pca --set profile=smoke
    """
    from regroup_lib.files import load_yaml_file
    from regroup_lib.runs import run
    from regroup_lib.runs.export import record_rows
    from regroup_lib.runs.specs import parse_spec

    values = {} if spec is None else load_yaml_file(spec)
    record = run.run(parse_spec(values | assignments(set_)), recompute=recompute)
    _print_rows(record_rows(record))
    say(f"record: {record.path}")


@app.command()
def fit(
    path: Annotated[Path, typer.Argument(help="A folder of images, an npz file, or a table (.csv, .tsv, .parquet).")],
    positive: Annotated[
        str | None, typer.Option(help="The class that is compared with the rest; default: the smallest.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Space of the clusters: for images pca (default), raw, clip or onnx:STEM; for tables pca."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Classes up to this size are not split; default: the smaller class's size.")
    ] = None,
    label: Label = None,
    image_size: ImageSize = None,
    allow_missing: AllowMissing = False,
    group: Group = None,
    no_header: NoHeader = False,
    missing: Missing = None,
    decimal: Decimal = None,
    estimator: Annotated[
        list[str] | None, typer.Option(help="For a table: logreg, forest or boosting; may be repeated; default: all.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="For images; default: by their number, 5 to 40.")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Comma-separated seeds; default: 0,1,2, with --quick 0,1, with --thorough 0 to 4."),
    ] = None,
    thorough: Annotated[
        bool | None, typer.Option("--thorough/--quick", help="More seeds; or fewer, and no boosting for tables.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes on this machine; default: this process.")] = None,
    recompute: Annotated[bool, typer.Option(help="Run again where there are records.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the results to this .json or .csv file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a report to this .html file.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Fit the recommended classifier and save it in this new folder.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print runs, estimated minutes and memory; start nothing.")
    ] = False,
) -> None:
    """Compare regrouping with the usual remedies for imbalance on data of your own, and recommend.

    A first answer comes after the first seed. Runs leave records in the results directory; a run that has a record is
    not repeated.

    Examples: regroup fit photos/ --positive defect --image-size 64;
    regroup fit patients.csv --label outcome --save model --report report.html
    """
    from regroup_lib.comparison import check_output, compare
    from regroup_lib.data.load import load_data
    from regroup_lib.data.own_folders import NO_SPLIT
    from regroup_lib.report import write_report
    from regroup_lib.runs.own import plan
    from regroup_lib.runs.trial import estimate

    check_output(output, report, save)
    reading = {"label": label, "image_size": image_size, "allow_missing": allow_missing, "group": group}
    reading |= {"header": not no_header, "missing": missing or (), "decimal": decimal}
    if thorough is False and not estimator and load_data(path, **reading).is_table:
        estimator = ["logreg", "forest"]
    chosen = seed_numbers(seeds or {None: "0,1,2", False: "0,1", True: "0,1,2,3,4"}[thorough])
    options = {"positive": positive, "encoder": encoder, "threshold": threshold, "epochs": epochs}
    options |= {"estimators": estimator, **reading}
    if dry_run:
        planned = plan(path, **options, seeds=chosen)
        # The rows of a table are scored by cross-validation, however `load_data` divides them.
        unsaid = NO_SPLIT if planned.dataset.is_table else ()
        notes = [note for note in planned.dataset.notes if not note.startswith(unsaid)]
        say("\n".join([*notes, estimate(planned, workers=workers)]))
        return
    options["workers"] = workers
    if len(chosen) > 1:
        first = compare(path, **options, seeds=chosen[:1], recompute=recompute)
        _print_frame(first.table.reset_index(), f"first answer, seed {chosen[0]} of {len(chosen)} seeds, percent:")
    comparison = compare(path, **options, seeds=chosen, recompute=recompute and len(chosen) == 1)
    _print_comparison(comparison)
    for file, write in ((output, comparison.write), (report, lambda file: write_report(comparison, file))):
        if file is not None:
            write(file)
            say(f"wrote {file}")
    if save is not None:
        comparison.fit().save(save)
        say(f"wrote {save}; regroup predict {save} NEW applies it")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A folder that regroup fit --save wrote.")],
    path: Annotated[Path, typer.Argument(help="A table with the same columns; an image file, or a folder of them.")],
    output: Annotated[Path | None, typer.Option(help="Write the predictions to this .csv file.")] = None,
) -> None:
    """Apply a saved model to new data: the probability of the positive class, and the decision at 0.5.

    Example: regroup predict model new-patients.csv --output predictions.csv
    """
    from regroup_lib.files import atomic_path
    from regroup_lib.runs.saved import load_model

    if output is not None and output.is_dir():
        raise ValueError(f"{output} is a folder; name a file")
    found = load_model(model).predict(path)
    for note in found.attrs["notes"]:
        say(note)
    if output is None:
        _print_frame(found.assign(probability=found["probability"].map("{:.4f}".format)))
        return
    with atomic_path(output) as partial:
        found.to_csv(partial, index=False)
    say(f"wrote {len(found)} predictions to {output}")


def _print_comparison(comparison: Any) -> None:
    from regroup_lib.plots import shortened

    for note in comparison.notes:
        say(note)
    _print_frame(comparison.class_table.reset_index(), "samples")
    say(comparison.outlook)
    title = f"{shortened(comparison.name, 80)}: percent, over seeds {', '.join(map(str, comparison.seeds))}; "
    _print_frame(comparison.table.reset_index(), title + f"AP by chance {100 * comparison.chance:.1f}")
    say(comparison.recommendation.text.replace("**", ""))
    say(f"records: {comparison.look.path.parent}")


def _print_frame(frame: Any, title: str = "") -> None:
    from regroup_lib.plots import shortened

    if title:
        say(title)
    if "class" in frame:  # a name of hundreds of characters would break the lines
        frame = frame.assign(**{"class": frame["class"].map(shortened)})
    _print_table(frame.columns, frame.itertuples(index=False))


def _rows(profile: str | None, task: str | None, method: str | None) -> list[dict[str, Any]]:
    """Return the rows of a profile, a task and a method; names must occur in the records."""
    from regroup_lib.runs.export import indexed_rows

    rows = indexed_rows()
    for name, wanted in (("profile", profile), ("task", task), ("method", method)):
        known = sorted({row[name] for row in rows})
        if wanted is not None and wanted not in known:
            raise ValueError(f"no record has the {name} {wanted!r}; there are {', '.join(known) or 'none'}")
        rows = [row for row in rows if wanted in (None, row[name])]
    return rows


@results_app.callback()
def results(ctx: typer.Context, profile: OnlyProfile = None, task: OnlyTask = None, method: OnlyMethod = None) -> None:
    """List, compare and export the records of finished runs.

    Example: regroup results --task ham10000-bcc --method rg
    """
    if ctx.invoked_subcommand is None:
        _print_rows(_rows(profile, task, method))


@results_app.command("compare")
def results_compare(task: str, profile: OnlyProfile = None) -> None:
    """Compare the methods of one task: mean ± standard deviation over seeds, the best AP first.

    Each setting of a method has its own row.

    Example: regroup results compare cifar10-airplane
    """
    from regroup_lib.runs.export import compared_frame
    from regroup_lib.runs.records import load_records

    _rows(profile, task, None)
    records = [record for record in load_records(profile=profile) if record.spec.task == task]
    _print_frame(compared_frame(records))


@results_app.command("check")
def results_check(profile: OnlyProfile = None) -> None:
    """Verify every record: spec, key, digests, arrays, and metrics computed again from the stored scores.

    Prints one line for each kind of record and for each defect; the exit code is 1 if there is a defect.

    Example: regroup results check
    """
    from regroup_lib.runs.verify import check_results

    report = check_results(profile=profile)
    for line in (*report.summary, *report.defects):
        say(line)
    n_records = sum(sum(counts.values()) for counts in report.statuses.values())
    say(f"{n_records} records read, {len(report.defects)} defects")
    if report.defects:
        raise typer.Exit(1)


@results_app.command("export")
def results_export(
    file: Annotated[Path, typer.Argument(help="A .csv, .md or .tex file.")],
    profile: OnlyProfile = None,
    task: OnlyTask = None,
    method: OnlyMethod = None,
    long: Annotated[bool, typer.Option("--long", help="One row for each metric, not one column.")] = False,
) -> None:
    """Write one row for each record and aggregation rule to a CSV, Markdown or LaTeX file.

    Each setting that varies between runs has a column.

    Examples: regroup results export results.csv --long; regroup results export airplane.tex --task cifar10-airplane
    """
    from regroup_lib.files import atomic_path
    from regroup_lib.runs.export import rows_frame, write_frame

    frame = rows_frame(_rows(profile, task, method), long=long)
    with atomic_path(file) as partial:
        write_frame(frame, partial, file.suffix)
    say(f"wrote {len(frame)} rows to {file}")


def _print_rows(rows: list[dict[str, Any]]) -> None:
    columns = ("profile", "task", "method", "encoder", "rule", "seed", "BA", "AP", "seconds", "status")
    digits = {"balanced_accuracy": 4, "average_precision": 4, "seconds": 0}
    cells = []
    for row in rows:
        method = f"{row['method']} ({row['estimator']})" if "estimator" in row else row["method"]
        numbers = ["" if row[name] is None else f"{row[name]:.{n}f}" for name, n in digits.items()]
        run = [row["profile"], row["task"], method, row["encoder"], row["aggregation"], row["seed"]]
        cells.append([*run, *numbers, row["status"]])
    _print_table(columns, cells)


# The book's sweeps and `regroup book`, where its package is installed.
for entry in entry_points(group="regroup.commands"):
    entry.load()
