"""The scan decides, ranks and computes as a brute-force search in float64 does, to the last bit, however it is cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simgap.errors import SimgapError
from simgap.kernels import scan as scan_module
from simgap.kernels.rough import float32_error, pair_dots, unit, wide
from simgap.kernels.scan import Scan, merge_counts, merge_neighbours
from simgap.kernels.similarity import Vectors

QUICK = settings(max_examples=40, deadline=None)


def unit_vectors(rng, rows, dimensions):
    vectors = rng.standard_normal((rows, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def crowded_vectors(rng, rows, dimensions, distinct):
    """Vectors of few kinds, so that many are equal, and close to each other, so that the histogram is full."""
    kinds = unit_vectors(rng, distinct, dimensions).astype(np.float64) + rng.choice([0, 2]) * np.eye(1, dimensions)
    kinds = (kinds / np.linalg.norm(kinds, axis=1, keepdims=True)).astype(np.float16)
    return kinds[rng.integers(0, distinct, rows)]


def oracle(samples, queries):
    """dot / sqrt(|a|^2 |b|^2) in float64, one sample at a time and without a matrix product."""
    wide = queries.astype(np.float64)
    rows = [(wide * a).sum(axis=1) / np.sqrt((a * a).sum() * (wide * wide).sum(axis=1)) for a in samples.astype(float)]
    return np.array(rows).reshape(len(samples), len(queries))


def expected_proximity(sample_ids, query_ids, similarity, tau):
    by_id = np.argsort(query_ids)
    ordered = similarity[:, by_id]
    margins = ordered - tau[by_id]
    return {
        "sample_id": sample_ids,
        "max_similarity": ordered.max(axis=1),
        "nearest_query": query_ids[by_id][ordered.argmax(axis=1)],
        "margin": margins.max(axis=1),
        "margin_query": query_ids[by_id][margins.argmax(axis=1)],
        "hits": (margins > 0).sum(axis=1),
    }


def expected_counts(query_ids, similarity, tau):
    above = {f"above_{edge}": (similarity > edge / 100).sum(axis=0) for edge in range(50, 100, 5)}
    return {"query_id": query_ids, "hull_count": (similarity > tau).sum(axis=0)} | above


def expected_neighbours(sample_ids, query_ids, similarity, k):
    rows = [
        (query_ids[query], rank, sample_ids[row], similarity[row, query])
        for query in np.argsort(query_ids)
        for rank, row in enumerate(np.lexsort((sample_ids, -similarity[:, query]))[:k], start=1)
    ]
    columns = list(zip(*rows, strict=True)) or [()] * 4
    return dict(zip(("query_id", "rank", "sample_id", "similarity"), map(np.array, columns), strict=True))


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name, strict=len(expected[name]) > 0)


def concatenated(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def scan_in_blocks(case, cuts=(), order=None):
    """(proximity in the order of the samples, neighbours, counts)."""
    order = np.arange(len(case["sample_ids"])) if order is None else order
    scan = Scan(case["query_ids"], case["queries"], case["tau"], case["k"])
    blocks = [scan.block(case["sample_ids"][rows], case["samples"][rows]) for rows in np.split(order, sorted(cuts))]
    proximity = concatenated(blocks)
    return {name: column[np.argsort(order)] for name, column in proximity.items()}, scan.neighbours(), scan.counts()


def assert_exact(case, found):
    similarity = oracle(case["samples"], case["queries"])
    proximity, neighbours, counts = found
    assert_same(proximity, expected_proximity(case["sample_ids"], case["query_ids"], similarity, case["tau"]))
    assert_same(neighbours, expected_neighbours(case["sample_ids"], case["query_ids"], similarity, case["k"]))
    assert_same(counts, expected_counts(case["query_ids"], similarity, case["tau"]))


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, queries, dimensions = draw(st.integers(1, 60)), draw(st.integers(1, 25)), draw(st.sampled_from([2, 3, 8, 65]))
    distinct = draw(st.integers(1, 80))
    samples = crowded_vectors(rng, rows, dimensions, distinct)
    test = crowded_vectors(rng, queries, dimensions, distinct)
    if draw(st.booleans()):
        test[: queries // 2] = samples[rng.integers(0, rows, queries // 2)]
    similarity = oracle(samples, test)
    tau = similarity[rng.integers(0, rows, queries), np.arange(queries)]  # ties: each is the similarity of some sample
    return {
        "sample_ids": rng.permutation(2**62 + np.arange(rows) * 2**20),
        "samples": samples,
        "query_ids": rng.permutation(2**62 + np.arange(queries)),
        "queries": test,
        "tau": np.where(rng.random(queries) < 0.7, tau, rng.uniform(-1, 1, queries)),
        "k": draw(st.integers(1, 12)),
        "cuts": draw(st.lists(st.integers(0, rows), max_size=4)),
        "order": rng.permutation(rows),
        "product": (draw(st.integers(1, 40)), draw(st.integers(1, 30))),
    }


@QUICK
@given(cases())
def test_any_cut_order_and_product_size_decides_as_float64_does(case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_module, "ROWS", case["product"][0])
        patch.setattr(scan_module, "QUERIES", case["product"][1])
        assert_exact(case, scan_in_blocks(case, case["cuts"], case["order"]))


@QUICK
@given(cases(), st.integers(1, 3))
def test_units_of_the_pool_merge_to_what_one_pass_finds(case, units):
    whole, neighbours, counts = scan_in_blocks(case)
    parts = [
        scan_in_blocks(case | {"sample_ids": case["sample_ids"][rows], "samples": case["samples"][rows]})
        for rows in np.array_split(case["order"], units)
        if len(rows)
    ]
    assert_same(concatenated([part[0] for part in parts]), {name: whole[name][case["order"]] for name in whole})
    assert_same(merge_neighbours([part[1] for part in parts], case["k"]), neighbours)
    assert_same(merge_counts([part[2] for part in parts]), counts)


@QUICK
@given(cases(), st.floats(0, 1))
def test_raising_thresholds_never_removes_more(case, raised):
    before, _, counts_before = scan_in_blocks(case)
    after, _, counts_after = scan_in_blocks(case | {"tau": np.minimum(case["tau"] + raised, 1.0)})
    assert not np.any((after["hits"] > 0) & (before["hits"] == 0))
    assert np.all(counts_after["hull_count"] <= counts_before["hull_count"])


@QUICK
@given(cases(), st.integers(0, 25))
def test_the_combined_hull_is_the_union_of_the_hulls(case, cut):
    combined, _, _ = scan_in_blocks(case)
    cut = min(cut, len(case["queries"]))
    sides = [slice(0, cut), slice(cut, None)]
    names = ("query_ids", "queries", "tau")
    hits = [
        scan_in_blocks(case | {name: case[name][side] for name in names})[0]["hits"]
        for side in sides
        if len(case["tau"][side])
    ]
    np.testing.assert_array_equal(combined["hits"] > 0, np.any(np.array(hits) > 0, axis=0))


@QUICK
@given(cases())
def test_a_margin_above_zero_and_hits_say_the_same(case):
    proximity, _, counts = scan_in_blocks(case)
    np.testing.assert_array_equal(proximity["margin"] > 0, proximity["hits"] > 0)
    assert proximity["hits"].sum() == counts["hull_count"].sum()


def thresholds(reference, queries, query_ids):
    scan = Scan(query_ids, queries, None, 1)
    scan.block(np.arange(len(reference)), reference)
    return scan.neighbours()["similarity"]


@QUICK
@given(cases())
def test_a_pool_that_is_the_reference_prunes_nothing(case):
    query_ids = np.sort(case["query_ids"])
    tau = thresholds(case["samples"], case["queries"], query_ids)
    proximity, _, counts = scan_in_blocks(case | {"query_ids": query_ids, "tau": tau})
    assert not proximity["hits"].any() and not counts["hull_count"].any() and proximity["margin"].max() == 0.0


@QUICK
@given(cases(), st.integers(1, 30))
def test_pruned_and_reference_together_are_as_near_as_the_reference(case, references):
    reference, query_ids = case["samples"][:references], np.sort(case["query_ids"])
    tau = thresholds(reference, case["queries"], query_ids)
    proximity, _, _ = scan_in_blocks(case | {"query_ids": query_ids, "tau": tau})
    split = np.concatenate([reference, case["samples"][proximity["hits"] == 0]])
    np.testing.assert_array_equal(thresholds(split, case["queries"], query_ids), tau)


def realistic_case(spread, k):
    """Vectors around a common direction, as trained encoders make them; one in fifty is a copy of another."""
    rng, rows, queries, dimensions = np.random.default_rng(5), 3000, 300, 64
    vectors = spread * rng.standard_normal((rows + queries, dimensions)) / np.sqrt(dimensions) + np.eye(1, dimensions)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    samples, test = vectors[:rows], vectors[rows:]
    samples[::50] = samples[1]
    case = {"sample_ids": rng.permutation(rows), "samples": samples, "query_ids": rng.permutation(queries)}
    return case | {"queries": test, "tau": np.sort(oracle(samples[:100], test), axis=0)[-9], "k": k}


@pytest.mark.parametrize(("spread", "threads"), [(0.5, 1), (1.0, 2), (3.0, 1)])
def test_a_pass_of_many_products_is_exact_with_any_number_of_threads(spread, threads, monkeypatch):
    monkeypatch.setattr(scan_module, "ROWS", 700)
    monkeypatch.setattr(scan_module, "QUERIES", 128)
    case, before = realistic_case(spread, 5), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = scan_in_blocks(case, [2345])
    finally:
        torch.set_num_threads(before)
    assert_exact(case, found)


def test_few_pairs_are_nominated():
    case = realistic_case(1.0, 5)
    scan = Scan(case["query_ids"], case["queries"], case["tau"], case["k"])
    scan.block(case["sample_ids"], case["samples"])
    assert scan.nominated < 0.03 * len(case["samples"]) * len(case["queries"])


def test_equal_vectors_everywhere_are_all_ties():
    rng = np.random.default_rng(0)
    vector = unit_vectors(rng, 1, 32)
    case = {
        "sample_ids": rng.permutation(3000),
        "samples": np.repeat(vector, 3000, axis=0),
        "query_ids": np.arange(40)[::-1].copy(),
        "queries": np.repeat(vector, 40, axis=0),
        "tau": np.ones(40),
        "k": 5,
    }
    proximity, neighbours, counts = scan_in_blocks(case, [100])
    assert set(proximity["max_similarity"]) == {1.0} and set(proximity["nearest_query"]) == {0}
    assert set(proximity["margin"]) == {0.0} and not proximity["hits"].any()
    np.testing.assert_array_equal(neighbours["sample_id"].reshape(40, 5), np.tile(np.arange(5), (40, 1)))
    assert set(counts["above_95"]) == {3000} and not counts["hull_count"].any()


@pytest.mark.parametrize("side", [-1, 1])
def test_a_threshold_one_bit_off_is_told_from_a_tie(side):
    rng = np.random.default_rng(1)
    sample, query = unit_vectors(rng, 1, 512), unit_vectors(rng, 1, 512)
    tau = np.nextafter(oracle(sample, query)[0], side)
    row = Scan(np.array([7]), query, tau, 3).block(np.array([9]), sample)
    assert row["hits"].tolist() == [1 if side < 0 else 0]
    assert (row["margin"][0] > 0) == (side < 0)


def test_an_empty_pool_has_no_rows():
    scan = Scan(np.arange(3), unit_vectors(np.random.default_rng(2), 3, 8), np.zeros(3), 4)
    rows = scan.block(np.empty(0, np.int64), np.empty((0, 8), np.float16))
    assert {name: len(column) for name, column in rows.items()} == dict.fromkeys(rows, 0)
    assert len(scan.neighbours()["rank"]) == 0
    assert scan.counts()["above_50"].tolist() == [0, 0, 0]


def test_a_search_of_the_reference_leaves_the_thresholds_out():
    rng = np.random.default_rng(3)
    scan = Scan(np.arange(2), unit_vectors(rng, 2, 8), None, 4)
    assert list(scan.block(np.arange(3), unit_vectors(rng, 3, 8))) == ["sample_id", "max_similarity", "nearest_query"]
    assert scan.neighbours()["rank"].tolist() == [1, 2, 3, 1, 2, 3]
    assert "hull_count" not in scan.counts()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 6.0])
def test_a_vector_that_is_no_unit_vector_is_refused_by_name(value):
    rng = np.random.default_rng(4)
    scan = Scan(np.arange(2), unit_vectors(rng, 2, 8), None, 1)
    vectors = unit_vectors(rng, 3, 8)
    vectors[1] = value
    with pytest.raises(SimgapError, match="sample 71"):
        scan.block(np.array([70, 71, 72]), vectors)
    with pytest.raises(SimgapError, match="query 71"):
        Scan(np.array([70, 71, 72]), vectors, None, 1)


def test_thresholds_that_are_no_similarities_and_no_queries_are_refused():
    queries = unit_vectors(np.random.default_rng(6), 2, 8)
    with pytest.raises(SimgapError, match="query 31"):
        Scan(np.array([30, 31]), queries, np.array([0.5, np.nan]), 1)
    with pytest.raises(SimgapError, match="without queries"):
        Scan(np.empty(0, np.int64), queries[:0], None, 1)


@QUICK
@given(st.integers(0, 2**32), st.sampled_from([1, 7, 512, 1024]))
def test_the_rough_similarity_is_within_its_bound(seed, dimensions):
    rng = np.random.default_rng(seed)
    left, right = (Vectors.checked(np.arange(20), unit_vectors(rng, 20, dimensions)) for _ in range(2))
    rough = (unit(left, wide(left, "cpu")) @ unit(right, wide(right, "cpu")).T).numpy()
    assert np.abs(rough - oracle(left.values, right.values)).max() <= float32_error(dimensions)


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_dots_of_few_and_of_many_pairs_are_the_same_exact_numbers(share):
    rng = np.random.default_rng(8)
    left, right = (wide(Vectors.checked(np.arange(50), unit_vectors(rng, 50, 300)), "cpu") for _ in range(2))
    pairs = np.flatnonzero(rng.random(2500) < share)
    exact = [sum(a * b for a, b in zip(left[p // 50].tolist(), right[p % 50].tolist(), strict=True)) for p in pairs]
    np.testing.assert_array_equal(pair_dots(left, right, torch.from_numpy(pairs)), exact)
