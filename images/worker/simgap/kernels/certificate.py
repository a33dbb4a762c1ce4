"""A split checked again, by other code than the search: plain float64 matrix products, and no candidates.

Only the definition of the similarity is shared with the search, so that equal means equal to the last bit.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from simgap.kernels.similarity import Vectors, similarities

PAIRS = 2**22  # of one float64 product: 32 MiB


@dataclass(frozen=True)
class Certificate:
    """A split against a test set; all similarities are float64. None stands for 'the split has no sample'.

    exceeding: queries whose nearest sample in the split is more similar than their threshold; largest_excess: the largest
    of s_i - tau_i; mean_difference: the mean of tau_i - s_i, exactly 0.0 if the reference is in a pruned split.
    """

    queries: int
    exceeding: int
    largest_excess: float | None
    mean_difference: float | None


def certify(nearest_similarity: np.ndarray, tau: np.ndarray) -> Certificate:
    """Compares each query's nearest similarity in a split, float64 [n], with its threshold, float64 [n].

    For a split without samples `nearest_similarity` is empty.
    """
    if len(nearest_similarity) == 0:
        return Certificate(len(tau), 0, None, None)
    excess = nearest_similarity - tau
    return Certificate(len(tau), int((excess > 0).sum()), float(excess.max()), float(np.mean(tau - nearest_similarity)))


def nearest_similarity(neighbours: dict[str, np.ndarray], query_ids: np.ndarray) -> np.ndarray:
    """s_i, float64 in the order of `query_ids`, from what `nearest_neighbours` returned; empty for an empty split."""
    first = neighbours["rank"] == 1
    similarity = dict(
        zip(neighbours["query_id"][first].tolist(), neighbours["similarity"][first].tolist(), strict=True)
    )
    return np.array([similarity[query] for query in query_ids.tolist()] if similarity else [], np.float64)


def nearest_neighbours(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], query_ids: np.ndarray, queries: np.ndarray, k: int
) -> dict[str, np.ndarray]:
    """Each query's k nearest samples in a split: query_id, rank (from 1), sample_id, similarity; by query_id, then rank.

    `blocks`: (sample ids int64 [b], vectors float16 [b, d]) of the split, in any cut and order; `query_ids` int64 [n];
    `queries` float16 [n, d]. Ties go to the smaller sample_id. Fewer than k for a smaller split. Raises SimgapError, naming
    the id, for a vector that is zero or not finite.
    """
    checked = Vectors.checked(query_ids, queries, of="query")
    query, sample, found = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    least = np.full(len(query_ids), -np.inf)
    for samples in _small(blocks, len(query_ids)):
        computed = similarities(samples, checked)
        row, column = np.nonzero(computed >= least)
        query = np.concatenate([query, column])
        sample = np.concatenate([sample, samples.ids[row]])
        found = np.concatenate([found, computed[row, column]])
        kept = np.lexsort((sample, -found, query))
        kept = kept[_ranks(query[kept]) <= k]
        query, sample, found = query[kept], sample[kept], found[kept]
        last = _ranks(query) == k
        least[query[last]] = found[last]
    columns = {"query_id": query_ids[query], "rank": _ranks(query), "sample_id": sample, "similarity": found}
    by_id = np.argsort(columns["query_id"], kind="stable")
    return {name: column[by_id] for name, column in columns.items()}


def needlessly_removed(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], tests: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> int:
    """How many of the removed samples are above no query's threshold in any of the test sets they were removed for.

    `blocks`: (sample ids int64 [b], vectors float16 [b, d]) of what was removed; `tests`: for each test set
    (query ids int64 [n], queries float16 [n, d], tau float64 [n]). Counts of parts add up.
    """
    checked = [(Vectors.checked(ids, queries, of="query"), tau) for ids, queries, tau in tests]
    needless = 0
    for samples in _small(blocks, max((len(queries) for queries, _ in checked), default=1)):
        needed = np.zeros(len(samples), bool)
        for queries, tau in checked:
            needed |= (similarities(samples, queries) > tau).any(axis=1)
        needless += int((~needed).sum())
    return needless


def _small(blocks: Iterable[tuple[np.ndarray, np.ndarray]], queries: int) -> Iterator[Vectors]:
    """The blocks, cut so that one product with the queries has about PAIRS numbers."""
    rows = max(PAIRS // max(queries, 1), 1)
    for ids, vectors in blocks:
        for start in range(0, len(ids), rows):
            yield Vectors.checked(ids[start : start + rows], vectors[start : start + rows])


def _ranks(ordered: np.ndarray) -> np.ndarray:
    """1, 2, ... anew for each run of equal values."""
    return 1 + np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
