"""What people are shown: rows in a terminal or a file, and a study's results."""

import json
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from simgap import catalog, dag_runs, runs, sql
from simgap import lineage as graph
from simgap.errors import SimgapError
from simgap.store import Store

ROWS_IN_A_TERMINAL = 100
A_LINE_EACH = 10_000
"""Columns, where no terminal says how many: nothing is wrapped."""


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"


class FileFormat(StrEnum):
    csv = "csv"
    parquet = "parquet"
    txt = "txt"


def rows(table: pa.Table, format: Format) -> None:
    """Prints rows: all of them as csv or json (one array), the first hundred as a table for the eye."""
    if format is Format.csv:
        pyarrow.csv.write_csv(_flat(table), sys.stdout.buffer)
    elif format is Format.json:
        print(json.dumps(table.to_pylist(), default=str, ensure_ascii=False))
    else:
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(_for_the_eye(table))
        if table.num_rows > ROWS_IN_A_TERMINAL:
            console.print(f"the first {ROWS_IN_A_TERMINAL} of {table.num_rows:,} rows; --format csv prints all")


def write(table: pa.Table, format: FileFormat, target: Path) -> None:
    """Writes rows to a file. Raises SimgapError when it cannot be written."""
    try:
        if format is FileFormat.parquet:
            pq.write_table(table, target)
        elif format is FileFormat.csv:
            pyarrow.csv.write_csv(table, target)
        else:
            target.write_text("".join(f"{key}\n" for key in table["key"].to_pylist()), encoding="utf-8")
    except OSError as error:
        raise SimgapError(f"{target}: {error.strerror or error}") from error


def results(store: Store, study: str, console: Console) -> None:
    """A study's results table, then where its report and the catalog are."""
    found = dag_runs.latest_of(store, study)
    question = "results" if found and "score" in found["runs"] else "gaps"
    console.print(_for_the_eye(catalog.ask(store, sql.text(f"questions/{question}"), study)))
    report = (
        runs.files(store, found["runs"]["report"]).get("report.html") if found and "report" in found["runs"] else None
    )
    if report:
        console.print(f"report   {_openable(store, report)}", soft_wrap=True, highlight=False)
    console.print(f"catalog  {_openable(store, catalog.PATH)}", soft_wrap=True, highlight=False)


def lineage(store: Store, path: str, *, down: bool, shards: bool) -> None:
    """Prints a run and all that it was made from, or all that was made from it, as a tree."""
    edges = graph.down(store, path) if down else graph.up(store, path)
    data_sets = graph.data_sets(store, edges, shards=shards)
    named_by = graph.named_by(store) if down else {}

    def grow(node: graph.Node, parent: Tree | None = None) -> Tree:
        data_set = data_sets.get(node.path, {})
        label = _run_label(store, node, data_set, named_by.get(node.path, {}))
        branch = parent.add(label) if parent else Tree(label)
        for shard in data_set.get("listed", ()) if node.next is not None else ():
            branch.add(Text(f"{shard['shard']}  sha256 {shard['sha256'] or '- (missing)'}  {shard['uri']}"))
        for other in node.next or ():
            grow(other, branch)
        return branch

    console = Console(width=None if sys.stdout.isatty() else A_LINE_EACH)
    console.print(grow(graph.tree(path, edges)), highlight=False)


def _run_label(store: Store, node: graph.Node, data_set: dict[str, Any], named_by: dict[str, list[str]]) -> Text:
    stage, folder = node.path.split("/")[1], Text(node.path)
    if node.next is None:
        return Text.assemble((stage, "bold"), "  ", folder, ("  (see above)", "dim"))
    run = runs.find(store, node.path)
    lines = [Text.assemble((stage, "bold"), "  ", folder)]
    lines.append(Text(_how_made(run), "dim") if run else Text("not in the store any more", "red"))
    if data_set:
        told = "{role} {dataset} · {uri} · shards {shards:,} · samples {samples:,} · sha256 {sha256}".format(**data_set)
        lines.append(Text(told))
    for study, ids in named_by.items():
        lines.append(Text(f"named by study {study}: {', '.join(ids)}"))
    return Text("\n").join(lines)


def _how_made(run: runs.Run) -> str:
    """By which code, where, when, in how long, and on whose order."""
    who = [_several(maker.get(name) for maker in run.who) for name in ("code_version", "image", "host")]
    device = _several(facts.get("device") for facts in run.facts)
    asked = " ".join(str(run.lineage[name]) for name in ("dag_id", "dag_run", "task_id") if name in run.lineage)
    when = f"{run.started:%Y-%m-%d %H:%M:%S} UTC, {run.seconds:,.1f} s"
    return " · ".join(filter(None, [*who, device, when, asked or "by simgap run"]))


def _several(values: Iterable[object]) -> str:
    return ", ".join(sorted({str(value) for value in values if value}))


def _openable(store: Store, path: str) -> str:
    return store.url(path).removeprefix("file://")


def _for_the_eye(table: pa.Table) -> Table:
    shown = Table(header_style="bold", box=None, pad_edge=False)
    for field in table.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        shown.add_column(field.name, justify="right" if number else "left")
    for row in table.slice(0, ROWS_IN_A_TERMINAL).to_pylist():
        shown.add_row(*(Text(_cell(value)) for value in row.values()))
    return shown


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _flat(table: pa.Table) -> pa.Table:
    """Lists as JSON text: csv has no lists."""
    for number, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            text = [json.dumps(value) for value in table.column(number).to_pylist()]
            table = table.set_column(number, field.name, pa.array(text, pa.string()))
    return table
