"""`simgap store`: make a bucket ready, check what the store holds, and collect what nobody names any more."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from simgap import check as checks
from simgap import garbage, progress, publishing
from simgap.errors import SimgapError
from simgap.store import Store

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.command()
def init(
    credentials: Annotated[
        Path, typer.Option(help="The folder of the users' keys, <role>.env; keys that are not there are made up.")
    ] = Path(".simgap/credentials"),
) -> None:
    """Make the bucket, its versioning and life-cycle rules, and a user for each role, with an administrator's keys."""
    from simgap import bucket

    for line in bucket.init(Store.from_environment(), credentials):
        print(line)


@app.command()
def check() -> None:
    """Read every committed run, and say which of its objects is gone or altered; exit code 2 if there is one."""
    store = Store.from_environment()
    wrong = 0
    for line in checks.check(store, lambda done, total: progress.report("store check", done, total, "bytes", "")):
        print(line)
        wrong += 1
    if wrong:
        raise SimgapError(f"{store.root}: {wrong:,} objects or tables are not what was committed")
    print(f"{store.root}: all is as it was committed")


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    grace_days: Annotated[int, typer.Option(min=0, help="Keep what was written in the last so many days.")] = 7,
) -> None:
    """Remove runs that no study names any more, and what lost tries left behind; asks first."""
    store, grace = Store.from_environment(), timedelta(days=grace_days)
    found = garbage.find(store, grace)
    _show(found)
    if dry_run or not found or not typer.confirm("remove them?"):
        return
    asked = {entry for part in found for entry in part.objects}
    again = [part for part in garbage.find(store, grace) if asked.issuperset(part.objects)]  # a study may have begun
    garbage.remove(store, again)
    publishing.publish(store)
    print(f"{sum(len(part.objects) for part in again):,} objects removed")


def _show(found: list[garbage.Garbage]) -> None:
    table = Table("run", "why", "objects", "bytes", box=None, pad_edge=False)
    for part in found:
        table.add_row(part.run, part.why, f"{len(part.objects):,}", decimal(part.bytes))
    if found:
        Console().print(table)
    print(f"{sum(len(part.objects) for part in found):,} objects, {decimal(sum(part.bytes for part in found))}, can go")
