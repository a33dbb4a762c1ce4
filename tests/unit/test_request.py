"""A request's key is what it asks for; its cut has every part once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgap.request import Input, cut
from simgap.requests import Embed, Ingest, Search, Selection, Shard, Split, Tower, from_document
from simgap.study import Random

words = st.text("abc", min_size=1, max_size=3)
shards = st.builds(
    Shard, path=words, uri=words, size=st.none() | st.integers(0, 9), etag=words, sha256=st.none() | words
)
ingests = st.builds(Ingest, name=words, role=st.sampled_from(["pool", "test"]), shards=st.lists(shards, max_size=3))


def search(**fields) -> Search:
    asked = {
        "name": "a-t1", "dataset": "a", "encoder": "e", "reference": "ref", "test_set": "t1",
        "vectors": Input(run="runs/embed/a-1", content="v"), "queries": Input(run="runs/embed/t1-1", content="q"),
    }  # fmt: skip
    return Search(**(asked | fields))


@given(ingests)
def test_the_same_fields_have_the_same_key_also_after_a_way_through_json(request_):
    assert from_document(request_.document()) == request_
    assert from_document(request_.document()).key == request_.key


@given(ingests, ingests)
def test_keys_differ_where_what_is_known_of_the_content_differs(one, other):
    def asked(request_):
        known = [(s.path, s.size, s.sha256 or (s.uri, s.etag)) for s in request_.shards]
        return request_.name, request_.role, known

    assert (one.key == other.key) == (asked(one) == asked(other))


def test_a_shard_with_a_checksum_is_known_by_it_wherever_it_lies():
    here = Shard(path="0.tar", uri="here/0.tar", size=3, etag="1", sha256="s")
    there = here.model_copy(update={"uri": "s3://there/0.tar", "etag": "2"})
    keys = {Ingest(name="a", role="pool", shards=[shard]).key for shard in (here, there)}
    assert len(keys) == 1


def test_an_inputs_run_is_no_part_of_the_key_but_its_content_is():
    asked = search()
    assert asked.key == search(vectors=Input(run="runs/embed/other-2", content="v")).key
    assert asked.key != search(vectors=Input(run="runs/embed/a-1", content="w")).key
    assert asked.key != search(thresholds=Input(run="r", content="t")).key
    assert asked.key != search(neighbours=3).key
    assert asked.key != search(name="other").key


def test_a_revision_is_part_of_the_key(monkeypatch):
    before = search().key
    monkeypatch.setattr(Search, "revision", Search.revision + 1)
    assert search().key != before


def test_inputs_are_found_wherever_they_are():
    selection = Selection(
        split="r", rule=Random(rule="random", like="p", seed=0), tests=[],
        like=Selection(split="p", rule=Random(rule="random", like="p", seed=0), tests=[],
                       proximity=[Input(run="deep", content="d")]),
    )  # fmt: skip
    request = Split(
        name="r", selection=selection, encoder=None, reference="ref", samples=[Input(run="s", content="s")],
        reference_samples=Input(run="r", content="r"), vectors=[],
    )  # fmt: skip
    assert request.inputs() == ["deep", "r", "s"]


def test_weights_are_known_by_their_checksum_wherever_they_lie():
    def embed(**fields):
        return Embed(name="a", samples=Input(run="r", content="c"), encoder=Tower(name="m/w", model="m", **fields))

    assert embed(pretrained="here/w.pt", sha256="s").key == embed(pretrained="there/w.pt", sha256="s").key
    assert embed(pretrained="here/w.pt", sha256="s").key != embed(pretrained="here/w.pt", sha256="z").key
    assert embed(pretrained="laion400m_e31").key != embed(pretrained="laion400m_e32").key


@given(st.lists(st.integers(0, 100), max_size=900), st.integers(1, 1000))
def test_a_cut_has_every_part_once_and_in_order(sizes, target):
    parts = {f"{n}.tar": size for n, size in enumerate(sizes)}
    units = cut(parts, target)
    assert [part for unit in units for part in unit.parts] == list(parts)
    assert [unit.number for unit in units] == list(range(len(units)))
    assert 1 <= len(units) <= max(1, len(sizes))


@pytest.mark.parametrize(("target", "units"), [(10, 10), (20, 5), (100, 1)])
def test_units_have_about_the_size_asked_for(target, units):
    assert len(cut({str(n): 10 for n in range(10)}, target)) == units
