"""Each statement on tables small enough to see: <query>/<case>/ has a csv file for each table, and what to expect."""

import csv
from pathlib import Path

import duckdb
import pytest

from simgap import schema, sql

HERE = Path(__file__).parent
CASES = sorted(path.parent for path in HERE.glob("*/*/*/expect.csv"))
SAMPLE = {"dataset": "varchar", "sample_id": "bigint"}
OF_SPLITS = {
    "candidates": {**SAMPLE, "stratum": "varchar"},
    "likes": SAMPLE,
    "proximity": {**SAMPLE, "test_set": "varchar", "max_similarity": "double", "hits": "bigint"},
    "tests": {"test_set": "varchar"},
    "parameters": {"above": "double", "count": "bigint", "seed": "bigint"},
}
"""The tables of sql/splits, typed as the stage hands them over."""
OF_CATALOG = {table.name: table.columns for table in schema.tables()}
OF_CATALOG["listed"] = {"path": "varchar", "bytes": "bigint"}
"""What a store's listing hands to sql/checks."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: "/".join(case.relative_to(HERE).parts))
def test_a_statement_answers_as_expected(case):
    folder, query, _ = case.relative_to(HERE).parts
    with duckdb.connect() as connection:
        for file in case.glob("*.csv"):
            if file.stem != "expect":
                _make(connection, file, (OF_SPLITS if folder == "splits" else OF_CATALOG)[file.stem])
        found = connection.sql(sql.text(f"{folder}/{query}").replace("$table", "scores"))
        rows = [["" if value is None else str(value) for value in row] for row in found.fetchall()]
    with (case / "expect.csv").open(newline="") as file:
        head, *expected = csv.reader(file)
    assert found.columns == head
    assert (sorted(rows) if folder == "splits" else rows) == expected


def _make(connection: duckdb.DuckDBPyConnection, file: Path, types: dict[str, str]) -> None:
    with file.open(newline="") as opened:
        head = next(csv.reader(opened))
    columns = {name: types[name] for name in head}
    connection.execute(
        f"create table \"{file.stem}\" as from read_csv('{file}', header = true, delim = ',', columns = {columns})"
    )


@pytest.mark.parametrize("folder", ["splits", "questions", "checks"])
def test_every_rule_question_and_check_has_cases(folder):
    assert {case.relative_to(HERE).parts[1] for case in CASES if folder in case.parts} == set(sql.names(folder))
