"""split: which samples a rule keeps. Each rule is sql/splits/<rule>.sql; this gives it its tables and stores its rows."""

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from simgap import duck, requests, schema, sql
from simgap.errors import SimgapError
from simgap.store import Store
from simgap.study import KeepLeastSimilar, KeepMostSimilar
from simgap.task import Task


def split(tasks: list[Task[requests.Split]], store: Store) -> None:
    """Writes tables members (by dataset and sample_id) and splits (one row)."""
    for task in tasks:
        _split(task, store)


def _split(task: Task[requests.Split], store: Store) -> None:
    request, rule = task.request, task.request.selection.rule
    with duck.connect(store) as connection:
        _make_pool(connection, store, request)
        kept = select(connection, store, request.selection)
        reference = (
            duck.rows_of(store, [request.reference_samples], "samples") if rule.with_reference else "pool where false"
        )
        members = connection.sql(
            f"select dataset, sample_id from kept union all (select dataset, sample_id from {reference}) order by all"
        ).to_arrow_table()
        [[candidates]] = connection.sql("select count(*) from pool").fetchall()
    name = pa.array([request.name] * members.num_rows, pa.string())
    members = members.add_column(0, "split", name)
    for dataset in members["dataset"].unique():
        task.write("members", members.filter(pc.field("dataset") == dataset))
    row = {
        "split": request.name, "rule": rule.rule, "parameters": rule.model_dump_json(exclude={"rule", "with_reference"}),
        "encoder": request.encoder, "reference": request.reference, "with_reference": rule.with_reference,
        "samples": members.num_rows, "of_samples": candidates + members.num_rows - kept.num_rows,
    }  # fmt: skip
    task.write("splits", schema.rows("splits", [row]))
    task.count(listed=row["of_samples"], done=row["of_samples"])


def select(connection: duckdb.DuckDBPyConnection, store: Store, selection: requests.Selection) -> pa.Table:
    """The pool's samples (dataset, sample_id) that a rule keeps of table `candidates`; left in the connection as `kept`."""
    rule = selection.rule
    if selection.like:
        connection.register("likes", select(connection, store, selection.like))
    proximity = (
        duck.rows_of(store, selection.proximity, "proximity") if selection.proximity else "(select 1 where false)"
    )
    connection.execute(f"create or replace view proximity as select * from {proximity}")
    connection.register("tests", pa.table({"test_set": pa.array(selection.tests, pa.string())}))
    connection.register(
        "parameters", pa.Table.from_pylist([rule.model_dump(include={"above", "count", "seed"}) or {"none": None}])
    )
    matched = ", ".join(f"'{column}', {column}" for column in getattr(rule, "match", []))
    connection.execute(
        f"create or replace view candidates as select *, json_object({matched})::varchar as stratum from pool"
    )
    kept = connection.sql(sql.text(f"splits/{rule.rule}")).to_arrow_table()
    connection.register("kept", kept)
    if isinstance(rule, KeepLeastSimilar | KeepMostSimilar) and kept.num_rows < rule.count:
        raise SimgapError(f"split {selection.split}: keeps {rule.count:,} samples, but the pool has {kept.num_rows:,}")
    return kept


def _make_pool(connection: duckdb.DuckDBPyConnection, store: Store, request: requests.Split) -> None:
    """Table `pool`: the samples that a rule draws from, which are those that were embedded, where it needs vectors."""
    embedded = (
        f"semi join {duck.rows_of(store, request.vectors, 'embeddings')} using (dataset, sample_id)"
        if request.vectors
        else ""
    )
    samples = (
        duck.rows_of(store, request.samples, "samples")
        if request.samples
        else f"(from {duck.rows_of(store, [request.reference_samples], 'samples')} where false)"
    )
    connection.execute(f"create table pool as select * from {samples} {embedded}")
