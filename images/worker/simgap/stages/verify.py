"""verify: a split against a test set by other code than the search, from the vectors of what training will read."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import cache, partial

import numpy as np
import pyarrow as pa

from simgap import requests, runs, schema
from simgap.errors import SimgapError
from simgap.kernels.certificate import Certificate, certify, nearest_neighbours, nearest_similarity, needlessly_removed
from simgap.request import Input
from simgap.stages.tables import with_constants
from simgap.stages.vectors import load_vectors, stream_vectors
from simgap.store import Store
from simgap.task import Task

Blocks = Iterator[tuple[np.ndarray, np.ndarray]]


def verify(tasks: list[Task[requests.Verify]], store: Store) -> None:
    """Writes the split's neighbours, and for a pruned split certificates.

    Raises SimgapError when a certificate does not hold: the study must not go on with such a split.
    """
    needless = cache(partial(_needlessly_removed, store))  # it is one number for all of a split's test sets
    for task in tasks:
        _verify(task, store, needless)


def _verify(task: Task[requests.Verify], store: Store, needless: Callable[..., int]) -> None:
    request = task.request
    members, ids = _members(store, request.members)
    query_ids, queries = load_vectors(store, request.queries)
    everything = [*request.vectors, request.reference_vectors]
    _refuse_unseen(request, ids, store, everything)
    found = nearest_neighbours(_blocks(store, everything, ids, inside=True), query_ids, queries, request.neighbours)
    task.write("neighbours", _neighbours(request, found, members))
    if request.pruned_for:
        tau = _tau(store, next(p for p in request.pruned_for if p.test_set == request.test_set))
        certificate = certify(nearest_similarity(found, query_ids), tau)
        removed = needless(request.members, tuple(request.vectors), tuple(request.pruned_for))
        _refuse(request, certificate, removed)
        row = {"split": request.split, "encoder": request.encoder, "reference": request.reference, "test_set": request.test_set,
               **asdict(certificate), "needlessly_removed": removed}  # fmt: skip
        task.write("certificates", schema.rows("certificates", [row]))
    task.count(listed=len(query_ids), done=len(query_ids))


def _members(store: Store, split: Input) -> tuple[pa.Table, np.ndarray]:
    """A split's members, and their ids, int64, sorted."""
    members = runs.read(store, split, "members", ["sample_id", "dataset"])
    return members, np.sort(members["sample_id"].to_numpy()) if members.num_columns else np.empty(0, np.int64)


def _needlessly_removed(
    store: Store, split: Input, vectors: tuple[Input, ...], pruned_for: tuple[requests.Pruned, ...]
) -> int:
    tests = [(*load_vectors(store, pruned.queries), _tau(store, pruned)) for pruned in pruned_for]
    return needlessly_removed(_blocks(store, vectors, _members(store, split)[1], inside=False), tests)


def _refuse(request: requests.Verify, certificate: Certificate, needless: int) -> None:
    if certificate.exceeding or needless:
        raise SimgapError(
            f"split {request.split} is not what it says: for test set {request.test_set}, {certificate.exceeding} of"
            f" {certificate.queries} queries have a nearer sample in it than in {request.reference} (largest excess"
            f" {certificate.largest_excess}), and {needless} samples were removed without need; nothing was trained on it"
        )


def _refuse_unseen(request: requests.Verify, ids: np.ndarray, store: Store, vectors: list[Input]) -> None:
    """A member without a vector would be trained on, and no certificate would see it."""
    seen = [runs.read(store, source, "embeddings", ["sample_id"])["sample_id"].to_numpy() for source in vectors]
    if unseen := len(np.setdiff1d(ids, np.concatenate(seen))):
        raise SimgapError(
            f"split {request.split}: {unseen:,} of its {len(ids):,} samples have no vector to verify it by"
        )


def _blocks(store: Store, vectors: Iterable[Input], ids: np.ndarray, *, inside: bool) -> Blocks:
    """The vectors of the samples that are (or are not) members; `ids` are sorted."""
    for source in vectors:
        paths = tuple(file.path for file in runs.load(store, source).tables.get("embeddings", []))
        for sample_ids, values in stream_vectors(store, paths):
            chosen = np.isin(sample_ids, ids) == inside
            yield sample_ids[chosen], values[chosen]


def _tau(store: Store, pruned: requests.Pruned) -> np.ndarray:
    return runs.read(store, pruned.thresholds, "thresholds", ["query_id", "tau"]).sort_by("query_id")["tau"].to_numpy()


def _neighbours(request: requests.Verify, found: dict[str, np.ndarray], members: pa.Table) -> pa.Table:
    """Rows of table neighbours; each sample's data set comes from the members."""
    names = {"of": request.split, "encoder": request.encoder, "test_set": request.test_set}
    rows = with_constants(found | {"rank": found["rank"].astype(np.int32)}, **names)
    if not members.num_columns:
        return rows.append_column("dataset", pa.nulls(rows.num_rows, pa.string()))
    joined = rows.join(members, "sample_id", join_type="left outer")
    return joined.sort_by([("query_id", "ascending"), ("rank", "ascending")]).combine_chunks()
