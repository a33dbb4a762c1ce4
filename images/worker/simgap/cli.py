"""How much of a CLIP model's accuracy is explained by train-test similarity: runs, and the catalog of what they made.

The store is the folder or bucket that SIMGAP_STORE names (file:///path or s3://bucket/prefix), by default .simgap/store here.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import duckdb
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simgap import catalog, events, publishing, runs, show, sql, store_cli, worker
from simgap import lineage as graph
from simgap import register as register_
from simgap.again import again as do_again
from simgap.errors import SimgapError, StoreFailed
from simgap.store import Store

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(store_cli.app, name="store")
err = Console(stderr=True)
MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
RunFolder = Annotated[
    list[str], typer.Argument(metavar="REQUEST...", help="Run folders in the store: runs/<stage>/<name>-<key>.")
]


@app.command()
def run(
    requests: RunFolder,
    unit: Annotated[
        int | None, typer.Option(help="Do this unit alone; left out: all that is missing, then commit.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Do a committed run into a scratch folder and compare.")
    ] = False,
) -> None:
    """Do a run, or one unit of one or more runs of a stage. Doing it again costs nothing."""
    store, paths = Store.from_environment(), [_folder(request) for request in requests]
    if again and unit is not None:
        raise SimgapError("--again does a whole run; leave --unit out")
    if again:
        _show_again(store, paths)
    elif unit is not None:
        worker.do_unit(store, paths, unit)
    else:
        for path in paths:
            print(f"{path}: committed, {_done(store, path).counts.done:,} done")


@app.command(name="sql")
def sql_(
    query: Annotated[
        str | None, typer.Argument(help="A SELECT; `icons.scores` is study icons, `scores` all runs.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Read the query from a file, or from sql/questions by name.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="Ask within this study's latest finished run.")] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            "--as-of", formats=MOMENTS, help="With --study: as its latest run was that had finished by then, in UTC."
        ),
    ] = None,
    format: Annotated[show.Format, typer.Option(help="How to print the rows.")] = show.Format.table,
) -> None:
    """Ask the catalog, read-only."""
    if (query is None) == (file is None):
        raise SimgapError("give a query, or -f FILE; the canned questions are: " + ", ".join(sql.names("questions")))
    store = Store.from_environment()
    if query is None:
        query, study = _question(store, file, study)  # pyright: ignore[reportArgumentType]
    show.rows(catalog.ask(store, query, study, as_of and as_of.replace(tzinfo=UTC)), format)


@app.command()
def register(
    name: Annotated[str, typer.Argument(help="What the checkpoint is to be called: registered/NAME.")],
    weights: Annotated[str, typer.Argument(help="A file of weights, or a tag of open_clip's pretrained ones.")],
    model: Annotated[str, typer.Option(help="The open_clip model that they belong to.")],
) -> None:
    """Have a checkpoint from elsewhere evaluated with the others; in place of one that has this name."""
    made = register_.register(Store.from_environment(), name, model, weights)
    print(f"{made.run}: registered as {name}; the DAG reevaluate answers its cells")


@app.command(name="catalog")
def catalog_() -> None:
    """Make the catalog anew from what the store holds."""
    store = Store.from_environment()
    print(store.url(publishing.publish(store)))
    for path in publishing.left_out(store):
        err.print(f"left out, made by a revision that means something else: {path}")


@app.command()
def export(
    split: Annotated[str, typer.Argument(help="A split's name.")],
    study: Annotated[
        str | None, typer.Option(help="The study it belongs to; needed when several have one of this name.")
    ] = None,
    removed: Annotated[
        bool, typer.Option("--removed", help="The keys that the split leaves out, instead of those it keeps.")
    ] = False,
    format: Annotated[
        show.FileFormat, typer.Option(help="csv and parquet have dataset, shard, key, sample_id; txt has keys.")
    ] = show.FileFormat.csv,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; left out: <split>.<format> here.")
    ] = None,
) -> None:
    """Write the keys that a split keeps, or those it removed."""
    target = output or Path(f"{split}{'-removed' if removed else ''}.{format.value}")
    rows = catalog.keys_of(Store.from_environment(), split, study, removed=removed)
    show.write(rows, format, target)
    print(f"{target}: {rows.num_rows:,} keys")


@app.command()
def lineage(
    what: Annotated[
        str,
        typer.Argument(metavar="RUN|FILE|SPLIT|CHECKPOINT", help="A run's folder, a file in it, a shard, or a name."),
    ],
    down: Annotated[bool, typer.Option("--down", help="What was made from it, not what it was made from.")] = False,
    shards: Annotated[bool, typer.Option("--shards", help="Every shard of a data set, with its sha256.")] = False,
    study: Annotated[
        str | None, typer.Option(help="The study that a name belongs to; needed when several have it.")
    ] = None,
) -> None:
    """Show what a run was made from, back to the data, and by whom."""
    store = Store.from_environment()
    show.lineage(store, graph.resolve(store, what, study), down=down, shards=shards)


def main() -> None:
    """Runs a command; an error that a user can act on is one line, without a traceback.

    Exit code 2 says that trying again cannot help, 1 that it may.
    """
    try:
        app()
    except (SimgapError, OSError, duckdb.IOException) as error:
        err.print(Text.assemble(("error: ", "red"), str(error)), soft_wrap=True)
        sys.exit(2 if isinstance(error, SimgapError) and not isinstance(error, StoreFailed) else 1)


def _show_again(store: Store, paths: list[str]) -> None:
    differs = False
    for path in paths:
        table = Table("holds", "then", "now", "", title=path)
        done = do_again(store, path)
        for name, then, now in done.holds:
            differs |= then != now
            table.add_row(name, then[:12], now[:12], "same" if then == now else "[red]differs[/]")
        Console().print(table)
        for name, then, now in done.environment:
            err.print(f"{path}: {name} was {then}, is {now}", highlight=False, soft_wrap=True)
    if differs:
        raise SimgapError("done again, it does not hold the same")


def _done(store: Store, path: str) -> runs.Run:
    """A run, done as far as it was missing."""
    request = worker.load_request(store, path)
    if done := runs.find(store, path):
        return done
    with events.told(store, request):
        return worker.do_run(store, path)


def _folder(request: str) -> str:
    """A run's folder, also when its request.json was named."""
    return request.removesuffix("/").removesuffix("/request.json")


def _question(store: Store, file: Path, study: str | None) -> tuple[str, str | None]:
    """The statement in a file or of a canned question, and the study it is asked of; rows of several would be mixed up."""
    if file.is_file():
        return file.read_text(encoding="utf-8"), study
    if file.parent != Path():
        raise SimgapError(f"{file}: no such file")
    statement = sql.text(f"questions/{file.stem}")
    if study is None and not statement.startswith(sql.OVER_ALL):
        study = catalog.only_study(store)
    return statement, study
