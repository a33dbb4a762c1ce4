"""Makes the catalog: a DuckDB file, made from run.json files and studies/ alone.

Small tables are in it; large ones are views over the parquet files that run.json files name. The schema `main` has every
committed run; the schema of a study has the same tables, restricted to its latest finished DAG run.
"""

import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from simgap import catalog, dag_runs, duck, runs, schema, sql
from simgap.requests import BY_STAGE
from simgap.runs import Run
from simgap.store import Entry, Store
from simgap.study import REGISTERED

TRIES = 5
SEAL_BYTES = 32


def publish(store: Store) -> str:
    """Makes the catalog and puts it in its place; again when meanwhile something new was committed. Returns its path.

    Two publishers end with what both committed in it: each lists once more after its put.
    """
    for _ in range(TRIES):
        before = _sources(store)
        with tempfile.TemporaryDirectory(prefix="simgap-catalog-") as folder:
            file = _build(store, Path(folder), committed(store), dag_runs.recorded(store))
            seal(file)
            store.upload(catalog.PATH, file)
        if _sources(store) == before:
            break
    return catalog.PATH


def connect(store: Store, paths: Iterable[str]) -> duckdb.DuckDBPyConnection:
    """A catalog in memory of these runs alone."""
    connection = duck.connect(store)
    fill(connection, store, runs.load_all(store, paths), [])
    return connection


def fill(
    connection: duckdb.DuckDBPyConnection, store: Store, committed: list[Run], begun: list[dict[str, Any]]
) -> None:
    """Makes all tables of these runs in an empty database, and a schema for each study."""
    fitting = [run for run in committed if not outdated(run)]
    for table in schema.tables():
        _make(connection, store, table, fitting)
    _insert(connection, "runs", [_run_row(run) for run in committed])
    _insert(connection, "run_inputs", [{"run": run.run, "input": path} for run in committed for path in run.inputs])
    _insert(connection, "run_outputs", [row for run in committed for row in _output_rows(run)])
    _insert(connection, "studies", [{**d, "resolved": json.dumps(d["resolved"])} for d in begun])
    _insert(connection, "study_runs", [row for d in begun for row in _study_run_rows(d)])
    connection.execute(sql.text("catalog/datasets"))
    connection.execute(sql.text("catalog/checkpoints"))
    connection.execute(sql.text("catalog/score_history"))
    for study, dag_run in dag_runs.latest(begun).items():
        if study != REGISTERED:  # its DAG runs are a checkpoint each
            schema.restrict(connection, f'"{study}"', "main", study, dag_run["dag_run"])


def intact(store: Store) -> bool:
    """Whether the published catalog ends with the checksum of all before it."""
    data = store.get(catalog.PATH)
    return sha256(data[:-SEAL_BYTES]).digest() == data[-SEAL_BYTES:]


def stale(store: Store) -> list[str]:
    """The published catalog's tables that do not hold what the runs say, those left out that are newer than it."""
    [published] = [entry for entry in store.list(catalog.PATH.partition("/")[0]) if entry.path == catalog.PATH]
    older = {entry.path.rpartition("/")[0] for entry in _sources(store) if entry.modified <= published.modified}
    with tempfile.TemporaryDirectory(prefix="simgap-catalog-") as folder, catalog.open_for_reading(store) as found:
        older |= {run for (run,) in found.execute("select run from main.runs").fetchall()}
        known = [run for run in committed(store) if run.run in older]
        begun = [d for d in dag_runs.recorded(store) if f"studies/{d['study']}/{d['dag_run']}" in older]
        file = _build(store, Path(folder), known, begun)
        with duckdb.connect(str(file), read_only=True) as expected:
            return [table.name for table in schema.tables() if _holds(expected, table) != _holds(found, table)]


def _build(store: Store, folder: Path, committed: list[Run], begun: list[dict[str, Any]]) -> Path:
    file = folder / "simgap.duckdb"
    with duck.connect(store, str(file)) as connection:
        fill(connection, store, committed, begun)
    return file


def _holds(connection: duckdb.DuckDBPyConnection, table: schema.Table) -> pa.Table:
    """A table's rows; for a view, the files that it reads, also for each study."""
    if table.is_view:
        asked = "select schema_name, sql from duckdb_views() where view_name = ? and not internal order by all"
        return connection.execute(asked, [table.name]).to_arrow_table()
    return connection.execute(f"from main.{table.name} order by all").to_arrow_table()


def seal(file: Path) -> None:
    """Adds the file's own checksum at its end, where DuckDB, which counts its blocks, does not look."""
    with file.open("r+b") as opened:
        digest = file_digest(opened, "sha256").digest()
        opened.seek(0, io.SEEK_END)
        opened.write(digest)


def outdated(run: Run) -> bool:
    """Made by a revision of its stage whose rows mean something else than today's: left out of the tables."""
    kind = BY_STAGE.get(run.stage)
    return kind is None or kind.revision != run.revision


def left_out(store: Store) -> list[str]:
    """The committed runs that the catalog's tables leave out."""
    return [run.run for run in committed(store) if outdated(run)]


def committed(store: Store) -> list[Run]:
    paths = [entry.path.removesuffix("/run.json") for entry in store.list("runs") if entry.path.endswith("/run.json")]
    return runs.load_all(store, paths)


def _sources(store: Store) -> list[Entry]:
    kept = ("/run.json", "/study.json", "/runs.json")
    return [e for folder in ("runs", "studies") for e in store.list(folder) if e.path.endswith(kept)]


def _make(connection: duckdb.DuckDBPyConnection, store: Store, table: schema.Table, committed: list[Run]) -> None:
    files = [file.path for run in committed for file in run.tables.get(table.name, []) if file.rows]
    kind = "view" if table.is_view else "table"
    casts = ", ".join(f'cast("{name}" as {type_}) as "{name}"' for name, type_ in table.columns.items())
    if files:
        places = ", ".join(f"'{duck.place(store, path)}'" for path in files)
        run = "regexp_extract(filename, '(runs/[^/]+/[^/]+)/units/', 1) as run"
        source = f"(select *, {run} from read_parquet([{places}], filename = true, union_by_name = true))"
    else:
        source = "(select " + ", ".join(f'null as "{name}"' for name in table.columns) + " where false)"
    connection.execute(f"create {kind} {table.name} as select {casts} from {source}")


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: list[dict[str, Any]]) -> None:
    """Adds rows to a table, columns by name; a column that a row lacks is null."""
    if not rows:
        return
    columns = schema.table(table).columns
    given = pa.table({name: pa.array([row.get(name) for row in rows]) for name in columns})
    connection.register("given", given)
    casts = ", ".join(f'cast("{name}" as {type_})' for name, type_ in columns.items())
    connection.execute(f"insert into {table} select {casts} from given")
    connection.unregister("given")


def _run_row(run: Run) -> dict[str, Any]:
    who = run.who[0] if run.who else {}
    facts = run.facts[0] if run.facts else {}
    return {
        **{name: getattr(run, name) for name in ("run", "stage", "name", "key", "revision", "content", "seconds")},
        **run.counts.model_dump(),
        **{name: run.lineage.get(name) for name in ("dag_id", "dag_run", "task_id")},
        **{name: who.get(name) for name in ("map_index", "try_number", "image", "code_version", "host")},
        "device": facts.get("device"),
        "started": run.started.isoformat(),
        "ended": run.ended.isoformat(),
    }


def _output_rows(run: Run) -> Iterator[dict[str, Any]]:
    for name, parts in run.tables.items():
        for part in parts:
            yield {"run": run.run, "name": name, "kind": "table", **part.model_dump(exclude={"content"})}
    for name, file in run.files.items():
        yield {"run": run.run, "name": name, "kind": "file", **file.model_dump()}


def _study_run_rows(dag_run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for role, run in dag_run["runs"].items():
        yield {"study": dag_run["study"], "dag_run": dag_run["dag_run"], "role": role, "run": run}
