"""What a sound catalog never has: rows, inputs and outputs that lead nowhere. Each statement of sql/checks finds one kind."""

from collections.abc import Iterator

import duckdb
import pyarrow as pa

from simgap import schema, sql

OF_A_TABLE = "row_without_run"
"""The check that is made of every table that has a run."""


def wrong(connection: duckdb.DuckDBPyConnection, listed: pa.Table) -> list[str]:
    """What is wrong with a catalog, a line for each row that is; empty: it is sound.

    `listed` has path (string) and bytes (int64) of every file in the store.
    """
    connection.register("listed", listed)
    return [line for check, statement in _statements() for line in _lines(connection, check, statement)]


def _statements() -> Iterator[tuple[str, str]]:
    for check in sql.names("checks"):
        statement = sql.text(f"checks/{check}")
        tables = [t.name for t in schema.tables() if "run" in t.columns] if check == OF_A_TABLE else [""]
        yield from ((check, statement.replace("$table", table)) for table in tables)


def _lines(connection: duckdb.DuckDBPyConnection, check: str, statement: str) -> Iterator[str]:
    told = check.replace("_", " ")
    try:
        rows = connection.sql(statement).to_arrow_table().to_pylist()
    except duckdb.Error as error:  # a view over a file that is gone or damaged
        yield f"{told}: cannot tell: {str(error).splitlines()[0]}"
        return
    for row in rows:
        yield f"{told}: " + ", ".join(f"{name} {value}" for name, value in row.items())
