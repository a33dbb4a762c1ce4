"""The catalog: a DuckDB file made from run.json files and studies/ alone. Delete it, and `publish` makes the same rows.

Small tables are in it; large ones are views over the parquet files that run.json files name. The schema `main` has every
committed run; the schema of a study has the same tables, restricted to its latest finished DAG run.
"""

import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from simgap import duck, runs, schema, sql
from simgap.errors import SimgapError
from simgap.requests import BY_STAGE
from simgap.runs import Run
from simgap.store import Entry, Store
from simgap.study import REEVALUATE, REGISTERED

PATH = "catalog/simgap.duckdb"
PUBLISH_TRIES = 5
SEAL_BYTES = 32


def publish(store: Store) -> str:
    """Makes the catalog and puts it in its place; again when meanwhile something new was committed. Returns its path.

    Two publishers end with what both committed in it: each lists once more after its put.
    """
    for _ in range(PUBLISH_TRIES):
        before = _sources(store)
        with tempfile.TemporaryDirectory(prefix="simgap-catalog-") as folder:
            file = _build(store, Path(folder), committed(store), studies(store))
            seal(file)
            store.upload(PATH, file)
        if _sources(store) == before:
            break
    return PATH


def connect(store: Store, paths: Iterable[str]) -> duckdb.DuckDBPyConnection:
    """A catalog in memory of these runs alone."""
    connection = duck.connect(store)
    fill(connection, store, [runs.load(store, path) for path in paths], [])
    return connection


def open_for_reading(store: Store) -> duckdb.DuckDBPyConnection:
    """The published catalog for people's SQL: read-only, no file outside of the store, settings locked.

    Raises SimgapError when no catalog was published.
    """
    if not store.exists(PATH):
        raise SimgapError(f"{store.url(PATH)}: no catalog yet; `make study` or `simgap catalog` makes it")
    connection = duck.connect(store)
    connection.execute(f"attach '{duck.place(store, PATH)}' as simgap (read_only)")
    connection.execute("use simgap")
    connection.execute(f"set allowed_directories = ['{duck.place(store, '')}']")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def ask(store: Store, statement: str, study: str | None = None, as_of: datetime | None = None) -> pa.Table:
    """The rows of one query, over all runs or within a study's schema; with `as_of`, as that schema was then.

    Raises SimgapError with DuckDB's own words when it is refused.
    """
    if as_of is not None and study is None:
        raise SimgapError("--as-of: goes with --study; what all runs hold only grows")
    with open_for_reading(store) as connection:
        try:
            if study is not None:
                _refuse_unknown(study, connection)
                schema_ = _schema_as_of(connection, study, as_of) if as_of else f'simgap."{study}"'
                connection.execute(f"use {schema_}")
            _refuse_all_but_a_query(statement)
            return connection.sql(statement).to_arrow_table()
        except duckdb.Error as error:
            raise SimgapError(f"the query was refused: {error}") from error


def holds(store: Store, study: str, dag_run: str) -> bool:
    """Whether the published catalog has this DAG run; one that was killed before it published is not in it."""
    if not store.exists(PATH):
        return False
    with open_for_reading(store) as connection:
        asked = "select count(*) from main.studies where study = ? and dag_run = ? and state = 'success'"
        return connection.execute(asked, [study, dag_run]).fetchall() == [(1,)]


def only_study(store: Store) -> str | None:
    """The one study that has finished; None when there is none. Raises SimgapError when there are several."""
    names = sorted({d["study"] for d in studies(store) if d["state"] == "success"} - {REEVALUATE, REGISTERED})
    if len(names) > 1:
        raise SimgapError(f"the catalog has several studies; name one with --study: {', '.join(names)}")
    return next(iter(names), None)


def _refuse_unknown(study: str, connection: duckdb.DuckDBPyConnection) -> None:
    asked = "select distinct study from main.studies where state = 'success' and study <> ? order by 1"
    there = [name for (name,) in connection.execute(asked, [REGISTERED]).fetchall()]
    if study not in there:
        raise SimgapError(f"study {study!r}: none of the catalog's: {', '.join(there) or '(none)'}")


def _refuse_all_but_a_query(statement: str) -> None:
    """The store is an allowed directory, so COPY or ATTACH could write there. (A PIVOT creates a type of its own first.)"""
    kinds = [found.type for found in duckdb.extract_statements(statement)]
    if kinds[-1:] != [duckdb.StatementType.SELECT] or {*kinds[:-1]} - {duckdb.StatementType.CREATE}:
        raise SimgapError("the query was refused: it has to be one SELECT; nothing can be written here")


def keys_of(store: Store, split: str, study: str | None, *, removed: bool) -> pa.Table:
    """dataset, shard, key, sample_id of the samples that a split keeps, or that it removed.

    Raises SimgapError when no split has this name, or several studies have one and none was named.
    """
    succeeded = [d for d in studies(store) if d["state"] == "success"]
    ended = {d["study"]: d["runs"] for d in sorted(succeeded, key=lambda d: d["ended"])}
    having = sorted(name for name, roles in ended.items() if f"split/{split}" in roles)
    choices = having if study is None else [name for name in having if name == study]
    if len(choices) > 1:
        raise SimgapError(f"split {split!r}: it is in {', '.join(having)}; name the study with --study")
    if not choices:
        there = sorted({role.removeprefix("split/") for d in ended.values() for role in d if role.startswith("split/")})
        raise SimgapError(
            f"split {split!r}: not in the latest finished run of {study or 'any study'}; splits: {', '.join(there) or '(none)'}"
        )
    statement = sql.text("catalog/removed" if removed else "catalog/kept").replace("$study", f'"{choices[0]}"')
    with open_for_reading(store) as connection:
        return connection.execute(statement, {"split": split}).to_arrow_table()


def fill(
    connection: duckdb.DuckDBPyConnection, store: Store, committed: list[Run], dag_runs: list[dict[str, Any]]
) -> None:
    """Makes all tables of these runs in an empty database, and a schema for each study."""
    fitting = [run for run in committed if not outdated(run)]
    for table in schema.tables():
        _make(connection, store, table, fitting)
    _insert(connection, "runs", [_run_row(run) for run in committed])
    _insert(connection, "run_inputs", [{"run": run.run, "input": path} for run in committed for path in run.inputs])
    _insert(connection, "run_outputs", [row for run in committed for row in _output_rows(run)])
    _insert(connection, "studies", [{**d, "resolved": json.dumps(d["resolved"])} for d in dag_runs])
    _insert(connection, "study_runs", [row for d in dag_runs for row in _study_run_rows(d)])
    connection.execute(sql.text("catalog/datasets"))
    connection.execute(sql.text("catalog/checkpoints"))
    connection.execute(sql.text("catalog/score_history"))
    for study, dag_run in latest(dag_runs).items():
        if study != REGISTERED:  # its DAG runs are a checkpoint each
            _make_schema(connection, f'"{study}"', "main", study, dag_run["dag_run"])


def intact(store: Store) -> bool:
    """Whether the published catalog ends with the checksum of all before it."""
    data = store.get(PATH)
    return sha256(data[:-SEAL_BYTES]).digest() == data[-SEAL_BYTES:]


def stale(store: Store) -> list[str]:
    """The published catalog's tables that do not hold what the runs say, those left out that are newer than it."""
    [published] = [entry for entry in store.list(PATH.partition("/")[0]) if entry.path == PATH]
    older = {entry.path.rpartition("/")[0] for entry in _sources(store) if entry.modified <= published.modified}
    with tempfile.TemporaryDirectory(prefix="simgap-catalog-") as folder, open_for_reading(store) as found:
        older |= {run for (run,) in found.execute("select run from main.runs").fetchall()}
        known = [run for run in committed(store) if run.run in older]
        dag_runs = [d for d in studies(store) if f"studies/{d['study']}/{d['dag_run']}" in older]
        file = _build(store, Path(folder), known, dag_runs)
        with duckdb.connect(str(file), read_only=True) as expected:
            return [table.name for table in schema.tables() if _holds(expected, table) != _holds(found, table)]


def _build(store: Store, folder: Path, committed: list[Run], dag_runs: list[dict[str, Any]]) -> Path:
    file = folder / "simgap.duckdb"
    with duck.connect(store, str(file)) as connection:
        fill(connection, store, committed, dag_runs)
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


def studies(store: Store) -> list[dict[str, Any]]:
    """The DAG runs of all studies, by start: study, dag_run, started, ended, state, resolved, and runs by role."""
    there = [entry.path for entry in store.list("studies")]
    folders = [path.removesuffix("study.json") for path in there if path.endswith("/study.json")]
    begun = [folder for folder in folders if folder + "runs.json" in set(there)]
    resolved = dict(zip(folders, store.get_all(folder + "study.json" for folder in folders), strict=True))
    ended = dict(zip(begun, store.get_all(folder + "runs.json" for folder in begun), strict=True))
    found = [_dag_run(folder, data, ended.get(folder, b"{}")) for folder, data in resolved.items()]
    return sorted(found, key=lambda d: (d["started"] or "", d["dag_run"]))


def latest_dag_run(store: Store, study: str) -> dict[str, Any] | None:
    """The last DAG run of a study that came to its end."""
    return latest(studies(store)).get(study)


def latest(dag_runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last DAG run of each study that came to its end, by the study's name."""
    ended = sorted((d for d in dag_runs if d["state"] == "success"), key=lambda d: d["ended"])
    last = {d["study"]: d for d in ended}
    return {study: last[study] for study in sorted(last)}


def _dag_run(folder: str, study_json: bytes, runs_json: bytes) -> dict[str, Any]:
    _, study, dag_run, _ = folder.split("/")
    known = json.loads(runs_json)
    return {
        "study": study,
        "dag_run": dag_run,
        "started": known.get("started"),
        "ended": known.get("ended"),
        "state": known.get("state", "unfinished"),
        "resolved": json.loads(study_json),
        "runs": known.get("runs", {}),
    }


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


def _schema_as_of(connection: duckdb.DuckDBPyConnection, study: str, as_of: datetime) -> str:
    """Makes a schema beside the catalog's, of the study's latest DAG run that had finished by then; returns its name."""
    asked = (
        "select arg_max(dag_run, ended) from simgap.main.studies where study = ? and state = 'success' and ended <= ?"
    )
    [(dag_run,)] = connection.execute(asked, [study, as_of]).fetchall()
    if dag_run is None:
        raise SimgapError(f"study {study!r}: none of its runs had finished by {as_of:%Y-%m-%dT%H:%M:%S%z}")
    _make_schema(connection, "memory.then", "simgap.main", study, dag_run)
    return "memory.then"


def _make_schema(connection: duckdb.DuckDBPyConnection, schema_: str, main: str, study: str, dag_run: str) -> None:
    """Each table restricted to the runs of one DAG run of a study."""
    this_run = f"study = {_quoted(study)} and dag_run = {_quoted(dag_run)}"
    of_study = f"run in (select run from {main}.study_runs where {this_run})"
    connection.execute(f"create schema {schema_}")
    for table in schema.tables():
        where = this_run if table.name in ("studies", "study_runs") else of_study
        connection.execute(f"create view {schema_}.{table.name} as select * from {main}.{table.name} where {where}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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
