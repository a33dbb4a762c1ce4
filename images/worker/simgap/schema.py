"""The catalog's tables, as sql/catalog/schema.sql declares them: what stages write and what people ask have the same columns."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa

from simgap import sql

ARROW_TYPES = {
    "varchar": pa.string(), "bigint": pa.int64(), "integer": pa.int32(), "double": pa.float64(), "boolean": pa.bool_(),
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of the catalog: SQL types by column."""

    name: str
    columns: dict[str, str]
    is_view: bool


@cache
def tables() -> tuple[Table, ...]:
    """The catalog's tables, in the order of schema.sql."""
    found = re.findall(r"^create table (\w+) \((.*)\);( -- view)?$", sql.text("catalog/schema"), re.MULTILINE)
    return tuple(Table(name, _columns(columns), bool(view)) for name, columns, view in found)


def table(name: str) -> Table:
    return next(table for table in tables() if table.name == name)


def rows(name: str, given: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows of a table as a stage writes them: of the declared types, without `run`, which the catalog adds."""
    columns = {column: type_ for column, type_ in table(name).columns.items() if column != "run"}
    schema = pa.schema([(column, ARROW_TYPES[type_]) for column, type_ in columns.items()])
    return pa.Table.from_pylist(list(given), schema)


def restrict(connection: duckdb.DuckDBPyConnection, name: str, main: str, study: str, dag_run: str) -> None:
    """Makes a schema of this name, with each table of schema `main` restricted to the runs of one DAG run of a study."""
    this_run = f"study = {_quoted(study)} and dag_run = {_quoted(dag_run)}"
    of_study = f"run in (select run from {main}.study_runs where {this_run})"
    connection.execute(f"create schema {name}")
    for table in tables():
        where = this_run if table.name in ("studies", "study_runs") else of_study
        connection.execute(f"create view {name}.{table.name} as select * from {main}.{table.name} where {where}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _columns(declared: str) -> dict[str, str]:
    pairs = [column.strip().rsplit(" ", 1) for column in declared.split(",")]
    return {name.strip('"'): type_ for name, type_ in pairs}
