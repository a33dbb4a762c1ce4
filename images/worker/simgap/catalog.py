"""The catalog as people ask it: read-only, and nothing but the store. `simgap.publishing` makes it."""

from datetime import datetime

import duckdb
import pyarrow as pa

from simgap import dag_runs, duck, schema, sql
from simgap.errors import SimgapError
from simgap.store import Store
from simgap.study import REEVALUATE, REGISTERED

PATH = "catalog/simgap.duckdb"


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
    names = sorted({d["study"] for d in dag_runs.recorded(store) if d["state"] == "success"} - {REEVALUATE, REGISTERED})
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
    succeeded = [d for d in dag_runs.recorded(store) if d["state"] == "success"]
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


def _schema_as_of(connection: duckdb.DuckDBPyConnection, study: str, as_of: datetime) -> str:
    """Makes a schema beside the catalog's, of the study's latest DAG run that had finished by then; returns its name."""
    asked = (
        "select arg_max(dag_run, ended) from simgap.main.studies where study = ? and state = 'success' and ended <= ?"
    )
    [(dag_run,)] = connection.execute(asked, [study, as_of]).fetchall()
    if dag_run is None:
        raise SimgapError(f"study {study!r}: none of its runs had finished by {as_of:%Y-%m-%dT%H:%M:%S%z}")
    schema.restrict(connection, "memory.then", "simgap.main", study, dag_run)
    return "memory.then"
