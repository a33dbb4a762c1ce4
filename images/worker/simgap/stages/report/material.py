"""What the report is made from: the study, its catalog, and the store that holds its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from simgap import sql
from simgap.store import Store
from simgap.study import Prune, Study

Row = dict[str, Any]


@dataclass(frozen=True)
class Material:
    """A study and a DuckDB connection that has the catalog's tables, restricted to the study's runs."""

    study: Study
    connection: duckdb.DuckDBPyConnection
    store: Store

    @property
    def splits(self) -> list[str]:
        return list(self.study.splits)

    @property
    def tests(self) -> list[str]:
        return [test.name for test in self.study.tests]

    def ask(self, question: str, **parameters: Any) -> list[Row]:
        """The rows that sql/report/<question>.sql gives; test sets and splits in the study's order."""
        found = self.connection.execute(sql.text(f"report/{question}"), parameters or None).to_arrow_table()
        return sorted(found.to_pylist(), key=self._place)

    def with_pruned_for(self) -> "Material":
        """The same, with the table pruned_for(split, test_set): what each pruned split was pruned for."""
        rows = [
            (s, t) for s, rule in self.study.splits.items() if isinstance(rule, Prune) for t in self.study.tests_of(s)
        ]
        splits, tests = ([row[i] for row in rows] for i in (0, 1))
        table = pa.table({"split": pa.array(splits, pa.string()), "test_set": pa.array(tests, pa.string())})
        self.connection.register("pruned_for", table)
        return self

    def _place(self, row: Row) -> tuple[int, ...]:
        names = (("test_set", self.tests), ("split", self.splits), ("pruned", self.splits), ("of", self.splits))
        return tuple(_index(order, row[key]) for key, order in names if key in row)


def panels(rows: Sequence[Row], *keys: str) -> list[Row]:
    """The rows with a `panel`: the test set's name, then those keys (encoder, protocol) that vary over the rows."""
    varying = [key for key in keys if len({row[key] for row in rows}) > 1]
    return [row | {"panel": " · ".join([row["test_set"], *(row[key] for key in varying)])} for row in rows]


def _index(order: list[str], name: str) -> int:
    return order.index(name) if name in order else -1
