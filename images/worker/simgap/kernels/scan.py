"""One pass of a pool over a test set's queries: every decision, rank and similarity as if all were computed in float64.

A float32 matrix product nominates: a pair is computed again, exactly, if its rough similarity lies within the error bound of
anything that is decided: a sample's largest similarity or margin, a query's threshold or k-th neighbour, an edge of the
histogram. All other pairs are clear, and are only counted. Ties go to the smaller sample_id, then to the smaller query_id.
"""

from collections.abc import Iterable

import numpy as np
import torch

from simgap.errors import SimgapError
from simgap.kernels.rough import float32_error, pair_dots, unit, wide
from simgap.kernels.similarity import Vectors, cosines

Columns = dict[str, np.ndarray]

ROWS = 1024  # samples x queries of one float32 product: large enough for the product, small enough for the caches
QUERIES = 512
STEPS = 20  # the histogram has edges 0.05 = 1 / STEPS apart, from 0.50 to 0.95
EDGES = np.arange(10, 20) / STEPS
ROUNDINGS = 12  # of thresholds and differences below, in float32
LAST_ID = np.iinfo(np.int64).max


class Scan:
    """Streams samples past queries; its memory grows with queries x (dimensions + k), never with the pool.

    `query_ids` int64 [n], `queries` float16 [n, d], `tau` float64 [n] (None for a search of the reference itself: then there
    are no margins, hits or hull counts), `k` neighbours a query. `nominated` counts the pairs computed again in float64.
    Raises SimgapError without queries, and naming the query whose vector or threshold cannot be used.
    """

    def __init__(self, query_ids: np.ndarray, queries: np.ndarray, tau: np.ndarray | None, k: int, device: str = "cpu"):
        torch.set_float32_matmul_precision("highest")  # the error bound is float32's, not TF32's or bfloat16's
        if len(query_ids) == 0:
            raise SimgapError("a test set without queries cannot be searched")
        checked = Vectors.checked(query_ids, queries, of="query")
        _check_thresholds(query_ids, tau)
        self.device = device
        self.slack = float32_error(queries.shape[1], ROUNDINGS)
        cuts = [slice(start, start + QUERIES) for start in range(0, len(query_ids), QUERIES)]
        self.queries = [_Queries(checked[cut], None if tau is None else tau[cut], k, device) for cut in cuts]
        self.nominated = 0

    def block(self, sample_ids: np.ndarray, vectors: np.ndarray) -> Columns:
        """The samples' rows of `proximity`, in the order given, for any number of them.

        `sample_ids` int64 [b], `vectors` float16 [b, d]. Returns sample_id, max_similarity, nearest_query and, with
        thresholds, margin, margin_query, hits. Raises SimgapError naming the sample whose vector cannot be used.
        """
        cuts = [slice(start, start + ROWS) for start in range(0, max(len(sample_ids), 1), ROWS)]
        return _concatenated([self._rows(Vectors.checked(sample_ids[cut], vectors[cut])) for cut in cuts])

    def neighbours(self) -> Columns:
        """Rows of `neighbours`: query_id, rank (from 1), sample_id, similarity; by query_id, rank; min(k, pool) a query."""
        parts = [queries.nearest.columns(queries.vectors.ids) for queries in self.queries]
        return merge_neighbours(parts, self.queries[0].nearest.k)

    def counts(self) -> Columns:
        """Rows of `query_counts`, in the order of the queries: query_id, hull_count (with thresholds), above_50 ..."""
        return _concatenated([queries.counts() for queries in self.queries])

    def _rows(self, samples: Vectors) -> Columns:
        values = wide(samples, self.device)
        units = unit(samples, values)
        rows = _Rows(samples.ids, self.device, self.queries[0].tau is not None)
        for queries in self.queries:
            rough = units @ queries.units.T
            pairs = queries.nominate(rough, rows, self.slack)
            self.nominated += len(pairs)
            queries.count_clear(rough, pairs, rows)
            dots = pair_dots(values, queries.values(), pairs)
            row, query = np.divmod(pairs.cpu().numpy(), len(queries.vectors))
            exact = cosines(dots, samples.squared_norms[row], queries.vectors.squared_norms[query])
            queries.decide(row, query, exact, rows)
        return rows.columns()


class _Best:
    """Each row's largest value so far: in float32 as it was seen, in float64 as it was decided."""

    def __init__(self, rows: int, device: str):
        self.rough = torch.full((rows,), -torch.inf, device=device)
        self.value = np.full(rows, -np.inf)
        self.query_id = np.full(rows, LAST_ID)

    def excess(self, rough: torch.Tensor, slack: float) -> torch.Tensor:
        """Not negative where a value of `rough` [b, n] may be its row's largest."""
        self.rough = torch.maximum(self.rough, rough.amax(dim=1))
        return rough - (self.rough - 2 * slack)[:, None]

    def decide(self, row: np.ndarray, value: np.ndarray, query_id: np.ndarray) -> None:
        before = self.value.copy()
        np.maximum.at(self.value, row, value)
        self.query_id[self.value > before] = LAST_ID
        equal = value == self.value[row]
        np.minimum.at(self.query_id, row[equal], query_id[equal])


class _Rows:
    """What is known of the samples of one block."""

    def __init__(self, sample_ids: np.ndarray, device: str, with_margin: bool):
        self.sample_ids = sample_ids
        self.nearest = _Best(len(sample_ids), device)
        self.margin = _Best(len(sample_ids), device) if with_margin else None
        self.hits = np.zeros(len(sample_ids), np.int64)

    def columns(self) -> Columns:
        columns = {
            "sample_id": self.sample_ids,
            "max_similarity": self.nearest.value,
            "nearest_query": self.nearest.query_id,
        }
        if self.margin:
            columns |= {"margin": self.margin.value, "margin_query": self.margin.query_id, "hits": self.hits}
        return columns


class _Queries:
    """Some of the queries, and what is known of their surroundings."""

    def __init__(self, vectors: Vectors, tau: np.ndarray | None, k: int, device: str):
        self.vectors, self.tau, self.device = vectors, tau, device
        self.units = unit(vectors, self.values())
        self.rough_tau = None if tau is None else torch.from_numpy(tau).to(device).float()
        self.nearest = _Nearest(len(vectors), k)
        self.hull_count = np.zeros(len(vectors), np.int64)
        self.above = np.zeros((len(EDGES), len(vectors)), np.int64)

    def values(self) -> torch.Tensor:
        return wide(self.vectors, self.device)

    def nominate(self, rough: torch.Tensor, rows: _Rows, slack: float) -> torch.Tensor:
        """Flat positions, ascending, of the pairs of `rough` float32 [b, n] that float64 must decide."""
        excess = self.nearest.excess(rough, slack)
        torch.maximum(excess, rows.nearest.excess(rough, slack), out=excess)
        if len(rough) and rows.nearest.rough.max() >= EDGES[0] - slack:
            torch.maximum(excess, _edge_excess(rough, slack), out=excess)
        if rows.margin and self.rough_tau is not None:
            margin = rough - self.rough_tau
            torch.maximum(excess, rows.margin.excess(margin, slack), out=excess)
            torch.maximum(excess, slack - margin.abs_(), out=excess)
        return _not_negative(excess)

    def count_clear(self, rough: torch.Tensor, pairs: torch.Tensor, rows: _Rows) -> None:
        """Counts the pairs that were not nominated. `rough` is used up."""
        rough.view(-1)[pairs] = -2.0  # below every threshold
        largest = rough.amax(dim=1)
        high = rough[largest > EDGES[0]]
        above = torch.empty_like(high)
        for edge in range(int((float(high.max()) > EDGES).sum()) if len(high) else 0):
            self.above[edge] += _counted(torch.gt(high, EDGES[edge], out=above), dim=0)
        if self.rough_tau is not None:
            hit = torch.gt(rough, self.rough_tau, out=rough)
            rows.hits += _counted(hit, dim=1)
            self.hull_count += _counted(hit, dim=0)

    def decide(self, row: np.ndarray, query: np.ndarray, exact: np.ndarray, rows: _Rows) -> None:
        """Takes in the similarities `exact` float64 [p] of the pairs (`row`, `query`) that were nominated."""
        size, query_id = len(self.vectors), self.vectors.ids[query]
        rows.nearest.decide(row, exact, query_id)
        self.nearest.decide(query, exact, rows.sample_ids[row])
        for count, edge in zip(self.above, EDGES, strict=True):
            count += np.bincount(query[exact > edge], minlength=size)
        if rows.margin and self.tau is not None:
            margin = exact - self.tau[query]
            rows.margin.decide(row, margin, query_id)
            rows.hits += np.bincount(row[margin > 0], minlength=len(rows.hits))
            self.hull_count += np.bincount(query[margin > 0], minlength=size)

    def counts(self) -> Columns:
        hull = {} if self.tau is None else {"hull_count": self.hull_count}
        above = {f"above_{round(100 * edge)}": count for edge, count in zip(EDGES, self.above, strict=True)}
        return {"query_id": self.vectors.ids} | hull | above


class _Nearest:
    """Each query's k nearest samples. What may be among them is gathered, and sorted when there is enough of it."""

    def __init__(self, queries: int, k: int):
        self.k = k
        self.floor = np.full(queries, -np.inf)  # the k-th largest similarity; there may be larger ones in `gathered`
        self.gathered = [(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))]
        self.size = 0

    def excess(self, rough: torch.Tensor, slack: float) -> torch.Tensor:
        """Not negative where a value of `rough` [b, n] may be among its column's k largest."""
        floor = torch.from_numpy(self.floor).to(rough) - slack
        of_each = len(rough) // self.k
        if of_each:  # k groups of rows have k different maxima: the k-th largest is not below the least of them
            groups = rough[: of_each * self.k].view(self.k, of_each, -1)
            floor = torch.maximum(floor, groups.amax(dim=1).amin(dim=0) - 2 * slack)
        return rough - floor

    def decide(self, query: np.ndarray, similarity: np.ndarray, sample_id: np.ndarray) -> None:
        near = similarity >= self.floor[query]
        self.gathered.append((query[near], similarity[near], sample_id[near]))
        self.size += int(near.sum())
        if self.size > self.k * len(self.floor):
            self._sort()

    def _sort(self) -> None:
        query, similarity, sample_id = (np.concatenate(arrays) for arrays in zip(*self.gathered, strict=True))
        order, rank = _nearest_first(query, similarity, sample_id, self.k)
        self.gathered, self.size = [(query[order], similarity[order], sample_id[order])], 0
        last = order[rank == self.k]
        self.floor[query[last]] = similarity[last]

    def columns(self, query_ids: np.ndarray) -> Columns:
        self._sort()
        query, similarity, sample_id = self.gathered[0]
        return {"query_id": query_ids[query], "sample_id": sample_id, "similarity": similarity}


def merge_neighbours(parts: Iterable[Columns], k: int) -> Columns:
    """The k nearest samples of each query from those of parts of the pool that share no sample, by query_id, then rank.

    A part has query_id, sample_id int64 and similarity float64; rank (from 1) is made anew.
    """
    merged = _concatenated([{name: part[name] for name in ("query_id", "sample_id", "similarity")} for part in parts])
    _, query = np.unique(merged["query_id"], return_inverse=True)
    order, rank = _nearest_first(query, merged["similarity"], merged["sample_id"], k)
    ranked = {name: column[order] for name, column in merged.items()}
    return {"query_id": ranked["query_id"], "rank": rank} | ranked


def merge_counts(parts: Iterable[Columns]) -> Columns:
    """The sum, column by column, of the counts of parts of the pool; all parts have the same queries in the same order."""
    first, *others = parts
    for other in others:
        if not np.array_equal(first["query_id"], other["query_id"]):
            raise ValueError("counts of different queries cannot be added")
    added = {name: np.sum([first[name], *(other[name] for other in others)], axis=0) for name in first}
    return added | {"query_id": first["query_id"]}


def _nearest_first(
    query: np.ndarray, similarity: np.ndarray, sample_id: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The order by (query, -similarity, sample_id) of each query's first k, and their ranks from 1."""
    key = 4.0 * query - similarity  # rounded, but never out of order: only equal keys need a second look
    order = np.argsort(key)
    same = np.diff(key[order]) == 0
    equal = np.zeros(len(order), bool)
    equal[1:] |= same
    equal[:-1] |= same
    tied = order[equal]
    order[equal] = tied[np.lexsort((sample_id[tied], -similarity[tied], query[tied]))]
    counts = np.bincount(query)
    rank = 1 + np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[rank <= k], rank[rank <= k]


def _edge_excess(rough: torch.Tensor, slack: float) -> torch.Tensor:
    """Not negative where a value lies within `slack` of an edge of the histogram."""
    steps = (rough * STEPS).add_(0.5).clamp_(min=STEPS * EDGES[0])  # at an edge, and half a step below the first
    return STEPS * slack - steps.frac_().sub_(0.5).abs_()


def _not_negative(excess: torch.Tensor) -> torch.Tensor:
    """Flat positions, ascending. On a CPU numpy finds them ten times as fast as torch."""
    if excess.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(excess.numpy() >= 0))
    return (excess >= 0).flatten().nonzero().flatten()


def _counted(ones: torch.Tensor, dim: int) -> np.ndarray:
    return ones.sum(dim=dim).cpu().numpy().astype(np.int64)


def _concatenated(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_thresholds(query_ids: np.ndarray, tau: np.ndarray | None) -> None:
    if tau is None:
        return
    if tau.shape != query_ids.shape or tau.dtype != np.float64:
        raise ValueError(f"want thresholds float64 [{len(query_ids)}], not {tau.dtype} {list(tau.shape)}")
    refused = ~(np.abs(tau) <= 1 + 1e-9)
    if refused.any():
        first = int(refused.argmax())
        raise SimgapError(
            f"query {query_ids[first]}: its threshold {tau[first]} is no similarity; search the reference again"
        )
