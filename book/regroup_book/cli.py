"""The book's part of the `regroup` command: its sweeps, and `regroup book`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from regroup_lib.cli import INTERRUPTED, PLAIN, Profile, Seeds, app, assignments, say, seed_numbers

book_app = typer.Typer(help="Execute chapters and render the book.", **PLAIN)
app.add_typer(book_app, name="book", no_args_is_help=True)


STOPPED = 75  # exit code of a sweep that reached its time limit: EX_TEMPFAIL, try again


Parameter = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE, as often as wanted; values are YAML.")
]


@app.command()
def sweep(
    chapter: Annotated[str, typer.Argument(help="A chapter of the book, or all.")],
    profile: Profile = "cpu",
    seeds: Seeds = "0,1,2",
    workers: Annotated[int | None, typer.Option(help="Processes on this machine; default: this process.")] = None,
    recompute: Annotated[bool, typer.Option(help="Run again where there are records.")] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="Run on the workers of this Dask scheduler: its address.")
    ] = None,
    resource: Annotated[
        list[str] | None,
        typer.Option(help="NAME=NUMBER that a run takes from its worker, such as GPU=1; with --scheduler."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop within this many minutes, with exit code 75; the same command continues.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print runs and estimated minutes; start nothing.")
    ] = False,
) -> None:
    """Run what a chapter needs; runs with a record are skipped, killed ones continue.

    Examples: regroup sweep motivating-example --profile cpu --workers 2;
    regroup sweep all --profile paper --minutes 9;
    regroup sweep all --profile paper --scheduler tcp://10.0.0.1:8786 --resource GPU=1
    """
    start = time.monotonic()  # before the first import of a thread pool
    from regroup_book import plans
    from regroup_lib.runs import records, sweeps

    wanted = {"profile": profile, "seeds": seed_numbers(seeds)}
    specs = plans.chapter_specs(chapter, **wanted)
    todo = specs if recompute else [s for s in specs if not s.path().exists()]
    known = records.load_records(profile=profile)
    times = [plans.estimate_seconds(s, known) for s in todo]
    say(f"{chapter}, profile {profile}: {len(specs)} runs, {len(todo)} to do{_estimate(times, workers)}")
    if dry_run:
        for name, count in Counter(f"{s.task} {s.label}" for s in todo).items():
            say(f"  {count} x {name}")
        waiting = plans.undecided(chapter, **wanted)
        if waiting:
            say(f"and {waiting} more, whose settings the tuning on the validation split decides")
        return
    options = {"recompute": recompute, "workers": workers}
    if minutes is not None:
        spent = (time.monotonic() - start) / 60
        if minutes <= spent:
            raise ValueError(f"--minutes is {minutes:g}, and the start alone took {spent:.2g}; give more")
        options["minutes"] = minutes - spent
    with _client(scheduler) as client:
        options |= {"client": client, "resources": assignments(resource)}
        try:
            records = plans.run_chapter_specs(chapter, **wanted, **options)
        except sweeps.Unfinished as stopped:
            say(f"stopped after {minutes:g} minutes: {stopped}")
            raise typer.Exit(STOPPED) from None
        except KeyboardInterrupt:
            say("interrupted; the same command goes on where it stopped")
            raise typer.Exit(INTERRUPTED) from None
    diverged = [r for r in records if r.status != "finished"]
    say(f"{len(records)} records" + (f", {len(diverged)} of them diverged" if diverged else ""))


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
    if not known:
        return "; no record of such a run yet, so no estimate of the time" if times else ""
    unlike = f" and {len(times) - len(known)} runs unlike all recorded ones" if len(known) < len(times) else ""
    return f", about {sum(known) / 60 / (workers or 1):.0f} minutes{unlike}"


@book_app.command("run")
def book_run(
    chapter: str,
    parameter: Parameter = None,
    output: Annotated[Path | None, typer.Option(help="Where the executed notebook goes.")] = None,
) -> None:
    """Execute one chapter with papermill; a parameter that it does not have is refused.

    Example: regroup book run encoders -p profile=smoke -p 'seeds=[0,1,2]'
    """
    from regroup_book import build

    output = output or Path("_build") / "runs" / f"{chapter}.ipynb"
    seconds = build.run_chapter(chapter, assignments(parameter), output=output)
    say(f"{chapter}: {seconds:.0f} s, executed notebook in {output}")


@book_app.command("smoke")
def book_smoke() -> None:
    """Execute every chapter live on the embedded digits, with a fresh results directory."""
    from regroup_book import build

    build.smoke()


@book_app.command("build")
def book_build() -> None:
    """Render the book from the committed records."""
    from regroup_book import build

    build.build()


@book_app.command("pdf")
def book_pdf() -> None:
    """Print the rendered book to one PDF file, with Chromium."""
    from regroup_book import build

    say(f"the book as a PDF: {build.pdf()}")
