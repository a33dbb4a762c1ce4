"""What people are shown: rows in a terminal or a file, and a study's results."""

import json
import sys
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simgap import catalog, runs, sql
from simgap.errors import SimgapError
from simgap.store import Store

ROWS_IN_A_TERMINAL = 100


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
    found = catalog.latest_dag_run(store, study)
    question = "results" if found and "score" in found["runs"] else "gaps"
    console.print(_for_the_eye(catalog.ask(store, sql.text(f"questions/{question}"), study)))
    report = (
        runs.files(store, found["runs"]["report"]).get("report.html") if found and "report" in found["runs"] else None
    )
    if report:
        console.print(f"report   {_openable(store, report)}", soft_wrap=True, highlight=False)
    console.print(f"catalog  {_openable(store, catalog.PATH)}", soft_wrap=True, highlight=False)


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
