"""search: one exact pass over a data set's vectors for all test sets asked for; a reduce unit merges what the units found."""

import numpy as np
import pyarrow as pa

from simgap import requests, runs
from simgap.errors import SimgapError
from simgap.kernels.scan import Columns, Scan, merge_counts, merge_neighbours
from simgap.stages.device import device, environment
from simgap.stages.tables import with_constants
from simgap.stages.vectors import load_vectors, stream_vectors
from simgap.store import Store
from simgap.task import Task

SearchTask = Task[requests.Search]
FLOAT16_ERROR = 6e-5
"""What storing a vector in float16 may change of a similarity: a property of the vectors, reported beside."""


def search(tasks: list[SearchTask], store: Store) -> None:
    """Writes proximity (with thresholds), query_counts, neighbours, and for the reference thresholds.

    All tasks have one data set: its vectors are read once. Reduce units write the tables that span the data set.
    """
    scanning = [task for task in tasks if not task.unit.reduce]
    for parts in {task.unit.parts: None for task in scanning}:  # one cut, unless requests were begun by two versions
        _scan([task for task in scanning if task.unit.parts == parts], store)
    for task in tasks:
        if task.unit.reduce:
            _reduce(task)


def _scan(tasks: list[SearchTask], store: Store) -> None:
    scans = [_scan_for(task.request, store) for task in tasks]
    parts, done, close = tasks[0].unit.parts, 0, [0] * len(tasks)
    total = _rows(store, tasks[0])
    for sample_ids, vectors in stream_vectors(store, parts):
        for n, (task, scan) in enumerate(zip(tasks, scans, strict=True)):
            rows = scan.block(sample_ids, vectors)
            if "margin" in rows:
                task.write("proximity", _proximity(task.request, rows))
                close[n] += int((np.abs(rows["margin"]) <= FLOAT16_ERROR).sum())
        done += len(sample_ids)
        tasks[0].progress(done, total, of="vectors", note=f"against {len(tasks)} test sets")
    for task, scan, near in zip(tasks, scans, close, strict=True):
        task.write("_neighbours", pa.table(scan.neighbours()))
        task.write("_counts", pa.table(scan.counts()))
        task.count(listed=total, done=done)
        task.note(pairs_rechecked=scan.nominated, within_float16_of_threshold=near, **environment())


def _scan_for(request: requests.Search, store: Store) -> Scan:
    query_ids, queries = load_vectors(store, request.queries)
    tau = _thresholds(store, request, query_ids)
    return Scan(query_ids, queries, tau, request.neighbours, device())


def _thresholds(store: Store, request: requests.Search, query_ids: np.ndarray) -> np.ndarray | None:
    """tau, float64, in the order of the queries; None for a search of the reference itself."""
    if request.thresholds is None:
        return None
    table = runs.read(store, request.thresholds, "thresholds", ["query_id", "tau"]).sort_by("query_id")
    if not np.array_equal(table["query_id"].to_numpy(), query_ids):
        raise SimgapError(f"{request.path}: its thresholds are not those of its queries")
    return table["tau"].to_numpy().copy()  # torch wants arrays that it could write to


def _reduce(task: SearchTask) -> None:
    request = task.request
    found = merge_neighbours([_columns(part) for part in task.partials("_neighbours")], request.neighbours)
    names = {"of": request.dataset, "encoder": request.encoder, "test_set": request.test_set}
    task.write(
        "neighbours", with_constants(found | {"rank": found["rank"].astype(np.int32)}, **names, dataset=request.dataset)
    )
    counts = merge_counts([_columns(part) for part in task.partials("_counts")])
    if request.thresholds:
        task.write("query_counts", with_constants(counts, **_names(request)))
    else:
        task.write("thresholds", _nearest(request, found))


def _nearest(request: requests.Search, found: Columns) -> pa.Table:
    """A query's tau is the similarity of its nearest reference sample."""
    first = found["rank"] == 1
    columns = {
        "query_id": found["query_id"][first],
        "tau": found["similarity"][first],
        "sample_id": found["sample_id"][first],
    }
    return with_constants(columns, reference=request.dataset, encoder=request.encoder, test_set=request.test_set)


def _proximity(request: requests.Search, rows: Columns) -> pa.Table:
    return with_constants(rows, **_names(request))


def _names(request: requests.Search) -> dict[str, str]:
    return {
        "dataset": request.dataset,
        "encoder": request.encoder,
        "reference": request.reference,
        "test_set": request.test_set,
    }


def _columns(table: pa.Table) -> Columns:
    return {name: table[name].to_numpy() for name in table.column_names}


def _rows(store: Store, task: SearchTask) -> int:
    files = runs.load(store, task.request.vectors).tables["embeddings"]
    return sum(file.rows for file in files if file.path in task.unit.parts)
