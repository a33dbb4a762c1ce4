"""The certificate finds what the search finds, to the last bit, and tells a bad split from a good one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgap.errors import SimgapError
from simgap.kernels import certificate as certificate_module
from simgap.kernels.certificate import certify, nearest_neighbours, nearest_similarity, needlessly_removed
from simgap.kernels.scan import Scan

QUICK = settings(max_examples=40, deadline=None)


def vectors_of_few_kinds(rng, rows, dimensions, kinds):
    vectors = rng.standard_normal((kinds, dimensions)) + np.eye(1, dimensions)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    return vectors[rng.integers(0, kinds, rows)]


@st.composite
def studies(draw):
    """A pool, a reference and the queries of a test set, with many equal vectors."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dimensions, kinds = draw(st.sampled_from([2, 5, 64])), draw(st.integers(1, 60))
    sizes = {
        "pool": draw(st.integers(0, 50)),
        "reference": draw(st.integers(1, 20)),
        "queries": draw(st.integers(1, 20)),
    }
    study = {name: vectors_of_few_kinds(rng, size, dimensions, kinds) for name, size in sizes.items()}
    study["query_ids"] = np.arange(sizes["queries"]) * 3
    study["tau"] = nearest(study, study["reference"])
    return study


def nearest(study, vectors):
    blocks = [(np.arange(len(vectors)), vectors)]
    return nearest_similarity(nearest_neighbours(blocks, study["query_ids"], study["queries"], 1), study["query_ids"])


def hull(study):
    scan = Scan(study["query_ids"], study["queries"], study["tau"], 1)
    return scan.block(np.arange(len(study["pool"])), study["pool"])["hits"] > 0


def one_test_set(study):
    return (study["query_ids"], study["queries"], study["tau"])


@QUICK
@given(studies())
def test_a_pruned_split_with_the_reference_has_exactly_its_gap(study):
    split = np.concatenate([study["reference"], study["pool"][~hull(study)]])
    certificate = certify(nearest(study, split), study["tau"])
    assert (certificate.exceeding, certificate.largest_excess, certificate.mean_difference) == (0, 0.0, 0.0)


@QUICK
@given(studies())
def test_a_pruned_split_exceeds_nothing_and_lost_nothing_without_need(study):
    inside = hull(study)
    assert certify(nearest(study, study["pool"][~inside]), study["tau"]).exceeding == 0
    removed = [(np.flatnonzero(inside), study["pool"][inside])]
    assert needlessly_removed(removed, [one_test_set(study)]) == 0


@QUICK
@given(studies())
def test_a_sample_of_the_hull_left_in_is_found(study):
    inside = hull(study)
    certificate = certify(nearest(study, study["pool"]), study["tau"])
    assert (certificate.exceeding > 0) == inside.any()
    assert certificate.largest_excess is None or (certificate.largest_excess > 0) == inside.any()


@QUICK
@given(studies())
def test_a_sample_removed_without_need_is_found(study):
    everything = [(np.arange(len(study["pool"])), study["pool"])]
    assert needlessly_removed(everything, [one_test_set(study)]) == (~hull(study)).sum()


def test_a_sample_needed_by_one_of_two_test_sets_was_not_removed_needlessly():
    samples = np.eye(3, dtype=np.float16)
    tests = [(np.array([0]), samples[row : row + 1], np.array([0.5])) for row in (0, 1)]
    assert needlessly_removed([(np.arange(3), samples)], tests[:1]) == 2
    assert needlessly_removed([(np.arange(3), samples)], tests) == 1


def test_an_empty_split_exceeds_nothing_and_says_that_it_is_empty():
    queries = np.eye(2, dtype=np.float16)
    found = nearest_neighbours([], np.arange(2), queries, 3)
    certificate = certify(nearest_similarity(found, np.arange(2)), np.array([0.5, 0.5]))
    assert (certificate.queries, certificate.exceeding) == (2, 0)
    assert certificate.largest_excess is None and certificate.mean_difference is None


@QUICK
@given(studies(), st.integers(1, 8), st.integers(1, 5), st.integers(1, 200))
def test_neighbours_are_those_of_the_search_for_any_cut(study, k, cuts, pairs):
    ids = np.random.default_rng(0).permutation(len(study["pool"]))
    scan = Scan(study["query_ids"], study["queries"], None, k)
    scan.block(ids, study["pool"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificate_module, "PAIRS", pairs)
        blocks = zip(np.array_split(ids, cuts), np.array_split(study["pool"], cuts), strict=True)
        found = nearest_neighbours(blocks, study["query_ids"], study["queries"], k)
    expected = scan.neighbours()
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name, strict=True)


def test_a_zero_vector_in_a_split_is_refused_by_name():
    vectors = np.eye(3, dtype=np.float16)
    vectors[1] = 0
    with pytest.raises(SimgapError, match="sample 11"):
        nearest_neighbours([(np.array([10, 11, 12]), vectors)], np.arange(3), np.eye(3, dtype=np.float16), 1)
