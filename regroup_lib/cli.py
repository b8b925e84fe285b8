"""The `regroup` command: data, runs, sweeps, records, the book.

Heavy packages are imported by the command that needs them.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from regroup_lib.book import parse_parameter
from regroup_lib.files import load_yaml_file

app = typer.Typer(help="Imbalanced classification by regrouping.", no_args_is_help=True, pretty_exceptions_enable=False)
data_app = typer.Typer(help="The data sets: what there is, where it comes from, whether it is sound.")
results_app = typer.Typer(invoke_without_command=True)
book_app = typer.Typer(help="Execute chapters and render the book.")
app.add_typer(data_app, name="data", no_args_is_help=True)
app.add_typer(results_app, name="results")
app.add_typer(book_app, name="book", no_args_is_help=True)
STOPPED = 75  # exit code of a sweep whose minutes were too few: the shell's for "try again"
# A pipe has no width: tables are written whole.
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 240)

Profile = Annotated[str, typer.Option(help="smoke, cpu or paper.")]
Seeds = Annotated[str, typer.Option(help="Comma-separated seeds.")]
Parameter = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE, as often as wanted; values are YAML.")
]
Label = Annotated[str | None, typer.Option(help="Of a table: the column with the classes; default: the last.")]
ImageSize = Annotated[
    int | None, typer.Option(help="Of image files: height and width in pixels that they are resized to.")
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Leave out images that cannot be read and rows without a label.")
]


def main() -> None:
    """Run the command; an error that has an explanation is one line, not a traceback."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        if "--debug" in sys.argv:
            raise
        Console(stderr=True, soft_wrap=True).print(Text.assemble(("error:", "red"), f" {error}"))
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
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


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError(f"seeds are {text!r}; expected whole numbers with commas between them, like 0,1,2") from error


def _assignments(pairs: list[str] | None) -> dict[str, Any]:
    """Return {"a": 1} for ["a=1"]."""
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
    from regroup_lib.data import EMBEDDED, SOURCES

    table = Table("name", "state", "publisher")
    for name, publisher in EMBEDDED.items():
        table.add_row(name, "embedded", publisher)
    for name, source in SOURCES.items():
        path = source.path()
        table.add_row(name, str(path) if path.exists() else f"missing: regroup data fetch {name}", source.publisher)
    console.print(table)


@data_app.command("fetch")
def data_fetch(name: str) -> None:
    """Download a data set from its publisher into the data directory.

    Example: regroup data fetch cifar10
    """
    from regroup_lib.data import fetch_data

    console.print(f"wrote {fetch_data(name)}")


@data_app.command("check")
def data_check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names, npz files, folders of images, tables; default: all here.")
    ] = None,
    label: Label = None,
    image_size: ImageSize = None,
    allow_missing: AllowMissing = False,
):
    """Load data sets, check them, and print shape, class counts and digest.

    Examples: regroup data check cifar10; regroup data check patients.csv --label outcome
    """
    from regroup_lib.data import EMBEDDED, SOURCES, load_data

    here = [*EMBEDDED, *(name for name, source in SOURCES.items() if source.path().exists())]
    for name in names or here:
        dataset = load_data(name, label=label, image_size=image_size, allow_missing=allow_missing)
        for split in dataset.splits:
            counts = dataset.class_counts(split)
            shape = " x ".join(str(size) for size in dataset.splits[split].inputs.shape)
            of = f"{len(counts)} classes of {min(counts)} to {max(counts)} {dataset.holds}"
            console.print(f"{name} {split}: {shape}, {of}")
        for note in dataset.notes:
            console.print(f"{name} {note}")
        console.print(f"{name} digest: {dataset.digest}")


@data_app.command("pack")
def data_pack(
    target: Annotated[Path, typer.Argument(help="The folder that the pieces go to.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Data sets, or what lies in the data directory; default: data sets, encoders, features."),
    ] = None,
) -> None:
    """Pack data, encoders and cached features into pieces below 60 MB, for the way to another machine.

    Examples: regroup data pack packed; regroup data pack packed cifar100 'features/cifar100-*'
    """
    from regroup_lib.packing import pack_data

    pieces = pack_data(target, names or ())
    console.print(f"wrote {len(pieces)} pieces to {target}, {sum(p.stat().st_size for p in pieces) / 1e6:.0f} MB")


@data_app.command("unpack")
def data_unpack(source: Annotated[Path, typer.Argument(help="A folder that `regroup data pack` has written.")]) -> None:
    """Verify a pack and put its files into the data directory.

    Example: regroup data unpack packed
    """
    from regroup_lib.packing import unpack_data

    console.print(f"wrote {len(unpack_data(source))} files to the data directory")


@app.command()
def run(
    spec: Annotated[Path | None, typer.Argument(help="A YAML file with the spec's fields.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="FIELD=VALUE, as often as wanted.")] = None,
    recompute: Annotated[bool, typer.Option(help="Run again where there is a record.")] = False,
) -> None:
    """Run one spec, or look its record up.

    Example: regroup run --set task=digits-0 --set method=rg --set encoder=pca --set profile=smoke
    """
    from regroup_lib import experiments
    from regroup_lib.specs import parse_spec

    values = {} if spec is None else load_yaml_file(spec)
    record = experiments.run(parse_spec(values | _assignments(set_)), recompute=recompute)
    _print_records([record])
    console.print(f"record: {record.path}")


@app.command()
def fit(
    path: Annotated[Path, typer.Argument(help="A folder of images, an npz file, or a table (.csv, .tsv, .parquet).")],
    positive: Annotated[
        str | None, typer.Option(help="The class that is held against the rest; default: the smallest.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="What is clustered. Images: pca (default), raw, clip, onnx:STEM...; tables: pca.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Classes up to this size stay whole; default: the smaller class's size.")
    ] = None,
    label: Label = None,
    image_size: ImageSize = None,
    allow_missing: AllowMissing = False,
    estimator: Annotated[
        list[str] | None, typer.Option(help="Of a table: logreg, forest or boosting, as often as wanted; default: all.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of images; default: by their number, 5 to 40.")] = None,
    seeds: Seeds = "0,1,2",
    workers: Annotated[int | None, typer.Option(help="Processes on this machine; default: this one.")] = None,
    recompute: Annotated[bool, typer.Option(help="Run again where there are records.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the results to this .json or .csv file.")] = None,
) -> None:
    """Compare regrouping with plain and weighted training and oversampling on data of your own, and recommend.

    Runs leave records in the results directory; what has one is not run again.

    Examples: regroup fit photos/ --positive defect --image-size 64;
    regroup fit patients.csv --label outcome --output results.json
    """
    from regroup_lib import yourdata

    if output is not None:
        yourdata.check_output(output)
    comparison = yourdata.compare(
        path,
        positive=positive,
        encoder=encoder,
        threshold=threshold,
        label=label,
        image_size=image_size,
        allow_missing=allow_missing,
        estimators=estimator or yourdata.ESTIMATORS,
        epochs=epochs,
        seeds=_seeds(seeds),
        workers=workers,
        recompute=recompute,
    )
    _print_comparison(comparison)
    if output is not None:
        comparison.write(output)
        console.print(f"wrote {output}")


def _print_comparison(comparison: Any) -> None:
    for note in comparison.notes:
        console.print(note, markup=False)
    _print_frame(comparison.class_table.reset_index(), "samples")
    console.print(comparison.outlook, markup=False)
    title = f"{comparison.name}: percent, over seeds {', '.join(map(str, comparison.seeds))}; "
    _print_frame(comparison.table.reset_index(), title + f"AP by chance {100 * comparison.chance:.1f}")
    console.print(comparison.recommendation.text.replace("**", ""), markup=False)
    console.print(f"records: {comparison.look.path.parent}")


def _print_frame(frame: Any, title: str) -> None:
    table = Table(*map(str, frame.columns), title=title, title_justify="left")
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(str(value)) for value in row))
    console.print(table)


@app.command()
def sweep(
    chapter: Annotated[str, typer.Argument(help="A chapter of the book, or all.")],
    profile: Profile = "cpu",
    seeds: Seeds = "0,1,2",
    workers: Annotated[int | None, typer.Option(help="Processes on this machine; default: this one.")] = None,
    recompute: Annotated[bool, typer.Option(help="Run again where there are records.")] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="Run on the workers of this Dask scheduler: its address.")
    ] = None,
    resource: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER that a run takes of a worker's, like GPU=1; with --scheduler.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop within so many minutes, with exit code 75; the same command goes on.")
    ] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds a run; then its worker is ended.")] = None,
    memory_limit: Annotated[str | None, typer.Option(help="Of each process of --workers, like '4 GB'.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print runs and estimated minutes; start nothing.")
    ] = False,
) -> None:
    """Run what a chapter needs; runs that have a record are skipped, killed ones go on.

    Examples: regroup sweep motivating-example --profile cpu --workers 2;
    regroup sweep all --profile paper --minutes 9;
    regroup sweep all --profile paper --scheduler tcp://10.0.0.1:8786 --resource GPU=1
    """
    start = time.monotonic()  # what is loaded first counts
    from regroup_lib import plans, records, sweeps

    wanted = {"profile": profile, "seeds": _seeds(seeds)}
    specs = plans.chapter_specs(chapter, **wanted)
    todo = specs if recompute else [s for s in specs if not s.path().exists()]
    known = records.load_records(profile=profile)
    times = [records.estimate_seconds(s, known) for s in todo]
    console.print(f"{chapter}, profile {profile}: {len(specs)} runs, {len(todo)} to do{_estimate(times, workers)}")
    if dry_run:
        for name, count in Counter(f"{s.task} {s.label}" for s in todo).items():
            console.print(f"  {count} x {name}")
        waiting = plans.undecided(chapter, **wanted)
        if waiting:
            console.print(f"and {waiting} more, whose settings the tuning on the validation split decides")
        return
    options = {"recompute": recompute, "workers": workers, "time_limit": time_limit, "memory_limit": memory_limit}
    if minutes is not None:
        spent = (time.monotonic() - start) / 60
        if minutes <= spent:
            raise ValueError(f"--minutes is {minutes:g}, and the start alone took {spent:.2g}; give more")
        options["minutes"] = minutes - spent
    with _client(scheduler) as client:
        options |= {"client": client, "resources": _assignments(resource)}
        try:
            records = plans.run_chapter_specs(chapter, **wanted, **options)
        except sweeps.Unfinished as stopped:
            console.print(f"stopped after {minutes:g} minutes: {stopped}", markup=False)
            raise typer.Exit(STOPPED) from None
    diverged = [r for r in records if r.status != "finished"]
    console.print(f"{len(records)} records" + (f", {len(diverged)} of them diverged" if diverged else ""))


@contextmanager
def _client(scheduler: str | None) -> Iterator[Any]:
    """Connect to a scheduler, if there is an address."""
    if scheduler is None:
        yield None
        return
    from distributed import Client

    try:
        client = Client(scheduler)
    except (OSError, ValueError) as error:
        expected = "expected the address that dask scheduler prints, like tcp://10.0.0.1:8786"
        raise ValueError(f"no scheduler answers at {scheduler!r} ({error}); {expected}") from error
    with client:
        yield client


def _estimate(times: list[float | None], workers: int | None) -> str:
    known = [seconds for seconds in times if seconds is not None]
    if not times:
        return ""
    if not known:
        return "; no record of such a run yet, so no estimate of the time"
    unlike = f" and {len(times) - len(known)} runs unlike all recorded ones" if len(known) < len(times) else ""
    return f", about {sum(known) / 60 / (workers or 1):.0f} minutes{unlike}"


OnlyTask = Annotated[str | None, typer.Option("--task", help="Only this task.")]
OnlyMethod = Annotated[str | None, typer.Option("--method", help="Only this method.")]
OnlyProfile = Annotated[str | None, typer.Option("--profile", help="Only this profile.")]


def _records(profile: str | None, task: str | None, method: str | None) -> list:
    """Load the records of a profile, a task and a method; a name that no record has is an error."""
    from regroup_lib.records import load_records
    from regroup_lib.specs import PROFILES

    if profile is not None and profile not in PROFILES:
        raise ValueError(f"no profile is called {profile!r}; there are {', '.join(PROFILES)}")
    records = load_records(profile=profile)
    for name, wanted in (("task", task), ("method", method)):
        known = sorted({value for record in records if (value := getattr(record.spec, name, None))})
        if wanted is not None and wanted not in known:
            raise ValueError(f"no record has the {name} {wanted!r}; there are {', '.join(known) or 'none'}")
        records = [r for r in records if wanted in (None, getattr(r.spec, name, None))]
    return records


@results_app.callback()
def results(ctx: typer.Context, profile: OnlyProfile = None, task: OnlyTask = None, method: OnlyMethod = None) -> None:
    """List, compare and export the records of finished runs.

    Example: regroup results --task ham10000-bcc --method rg
    """
    if ctx.invoked_subcommand is None:
        _print_records(_records(profile, task, method))


@results_app.command("compare")
def results_compare(task: str, profile: OnlyProfile = None) -> None:
    """Compare the methods of one task: mean ± standard deviation over seeds, the best AP first.

    Settings of one method have a row each.

    Example: regroup results compare cifar10-airplane
    """
    from regroup_lib.listings import compared_frame

    _print_frame(compared_frame(_records(profile, task, None)), "")


@results_app.command("check")
def results_check(profile: OnlyProfile = None) -> None:
    """Verify every record: spec, key, digests, arrays, and metrics computed again from the stored scores.

    Prints a line a kind of record and a line a defect; the exit code is 1 where there is a defect.

    Example: regroup results check
    """
    from regroup_lib.checks import check_results

    report = check_results(profile=profile)
    for line in (*report.summary, *report.defects):
        console.print(Text(str(line)))
    n_records = sum(sum(counts.values()) for counts in report.statuses.values())
    console.print(f"{n_records} records read, {len(report.defects)} defects")
    if report.defects:
        raise typer.Exit(1)


@results_app.command("export")
def results_export(
    file: Annotated[Path, typer.Argument(help="Its suffix says how: .csv, .md or .tex.")],
    profile: OnlyProfile = None,
    task: OnlyTask = None,
    method: OnlyMethod = None,
) -> None:
    """Write one row a record (and aggregation rule) to a CSV, Markdown or LaTeX file.

    Examples: regroup results export results.csv; regroup results export airplane.tex --task cifar10-airplane
    """
    from regroup_lib.files import atomic_path
    from regroup_lib.listings import records_frame, write_frame

    frame = records_frame(_records(profile, task, method))
    with atomic_path(file) as partial:
        write_frame(frame, partial, file.suffix)
    console.print(f"wrote {len(frame)} rows to {file}")


def _print_records(records: list) -> None:
    from regroup_lib.listings import records_frame

    frame = records_frame(records)
    table = Table("profile", "task", "method", "encoder", "rule", "seed", "BA", "AP", "seconds", "status")
    for row in frame.itertuples():
        table.add_row(
            row.profile,
            row.task,
            f"{row.method} ({row.estimator})" if isinstance(getattr(row, "estimator", None), str) else row.method,
            row.encoder,
            row.aggregation,
            str(row.seed),
            f"{row.balanced_accuracy:.4f}",
            f"{row.average_precision:.4f}",
            f"{row.seconds:.0f}",
            row.status,
        )
    console.print(table)


@book_app.command("run")
def book_run(
    chapter: str,
    parameter: Parameter = None,
    output: Annotated[Path | None, typer.Option(help="Where the executed notebook goes.")] = None,
) -> None:
    """Execute one chapter with papermill; a parameter that it does not have is refused.

    Example: regroup book run encoders -p profile=smoke -p 'seeds=[0,1,2]'
    """
    from regroup_lib import book

    output = output or Path("_build") / "runs" / f"{chapter}.ipynb"
    seconds = book.run_chapter(chapter, _assignments(parameter), output=output)
    console.print(f"{chapter}: {seconds:.0f} s, executed notebook in {output}")


@book_app.command("smoke")
def book_smoke() -> None:
    """Execute every chapter live on the embedded digits, with a fresh results directory."""
    from regroup_lib import book

    book.smoke()


@book_app.command("build")
def book_build() -> None:
    """Render the book from the committed records."""
    from regroup_lib import book

    book.build()


@book_app.command("pdf")
def book_pdf() -> None:
    """Print the rendered book to one PDF file, with Chromium."""
    from regroup_lib import book

    console.print(f"the book as a PDF: {book.pdf()}")
