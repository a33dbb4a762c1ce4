"""Training's stream yields exactly a split's members, loudly; and going on from a checkpoint changes nothing."""

import io
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import NOTHING, Members, committed, pairs, put_pool

from simgap import requests, runs, study, worker
from simgap.errors import SimgapError
from simgap.kernels.order import pieces
from simgap.request import Input
from simgap.shards import read_samples
from simgap.stages.stream import Plan, Shard, record_path, write_part
from simgap.stages.train import arguments, make_plan
from simgap.store import Store
from simgap.task import Task

SHARDS, SAMPLES_A_SHARD = 3, 6
TRAINING = study.Training(
    model="test-tower", samples_seen=48, epochs=2, batch_size=8, learning_rate=1e-3, warmup_steps=1
)


def sample(key: str) -> Members:
    """A sample whose caption is its key; some have a member that training does not ask for."""
    extra = [(f"{key}.json", b"{}")] if int(key) % 3 == 0 else []
    return [(f"{key}.png", b"image " + key.encode()), (f"{key}.txt", key.encode()), *extra]


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Store:
    """Shards whose samples have the caption `<shard><position>`."""
    store = Store(f"file://{tmp_path_factory.mktemp('pool')}")
    put_pool(store, "pool", *([m for n in range(SAMPLES_A_SHARD) for m in sample(f"{s}{n}")] for s in range(SHARDS)))
    return store


def planned(store: Store, members: Iterable[tuple[int, int]], samples: int, seed: int = 0) -> Plan:
    """A plan over members (shard, position); one part an epoch, of so many samples."""
    by_shard = {s: sorted(p for shard, p in members if shard == s) for s in range(SHARDS)}
    uris = {s: f"pool/{s:05d}.tar" for s, positions in by_shard.items() if positions}
    return Plan(
        store=store.root, seed=seed, parts=1, samples_a_part=samples,
        shards=[Shard(uri, store.head(uri).etag, "", len(by_shard[s])) for s, uri in uris.items()],
        sample_ids=np.array([position for s in uris for position in by_shard[s]], np.int64),
    )  # fmt: skip


def written(plan: Plan, folder: Path, epoch: int = 0) -> bytes:
    out = io.BytesIO()
    write_part(plan, folder, epoch, 0, out)
    return out.getvalue()


def captions(data: bytes) -> list[str]:
    return [sample.parts["txt"].decode() for sample in read_samples(io.BytesIO(data))]


memberships = st.sets(st.tuples(st.integers(0, SHARDS - 1), st.integers(0, SAMPLES_A_SHARD - 1)), min_size=1)


@given(
    st.lists(st.integers(0, 5), min_size=1).filter(any),
    st.integers(0, 9),
    st.lists(st.integers(1, 12), min_size=1, max_size=6),
)
def test_stretches_hold_each_member_as_often_as_every_other(members, seed, lengths):
    seen, start = Counter({(s, n): 0 for s, count in enumerate(members) for n in range(count)}), 0
    for length in lengths:
        found = [(p.shard, n) for p in pieces(members, seed, start, start + length) for n in range(p.start, p.stop)]
        assert len(found) == length
        seen.update(found)
        start += length
    assert len(seen) == sum(members) and max(seen.values()) - min(seen.values()) <= 1


@given(st.lists(st.integers(1, 5), min_size=1), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_the_order_does_not_depend_on_the_cut(members, start, first, second):
    def order(a: int, b: int) -> list[tuple[int, int]]:
        return [(p.shard, n) for p in pieces(members, 7, a, b) for n in range(p.start, p.stop)]

    middle, stop = start + first, start + first + second
    assert order(start, middle) + order(middle, stop) == order(start, stop)


@given(memberships, st.integers(1, 3))
def test_a_pass_yields_exactly_the_members(pool, tmp_path_factory, members, passes):
    folder = tmp_path_factory.mktemp("part")
    plan = planned(pool, members, len(members) * passes)
    found = Counter(captions(written(plan, folder)))
    assert found == {f"{shard}{position}": passes for shard, position in members}
    assert np.bincount(np.load(record_path(folder, 0, 0))).tolist() == [passes] * len(members)


def test_the_order_follows_from_seed_and_epoch(pool, tmp_path):
    everything = [(s, n) for s in range(SHARDS) for n in range(SAMPLES_A_SHARD)]
    plan, other = planned(pool, everything, 18), planned(pool, everything, 18, seed=4)
    assert written(plan, tmp_path, epoch=1) == written(plan, tmp_path, epoch=1)
    assert len({tuple(captions(written(p, tmp_path, epoch))) for p in (plan, other) for epoch in range(4)}) > 2


def test_a_plan_survives_being_stored(pool, tmp_path):
    plan = planned(pool, [(0, 1), (2, 5)], 5)
    plan.save(tmp_path)
    assert written(Plan.load(tmp_path), tmp_path) == written(plan, tmp_path)


@pytest.mark.parametrize("cut", [600, 512 * 17, -1024 - 512])
def test_a_truncated_shard_is_an_error(store, tmp_path, cut):
    put_pool(store, "pool", [m for n in range(SAMPLES_A_SHARD) for m in sample(f"0{n}")])
    store.put("pool/00000.tar", store.get("pool/00000.tar").rstrip(b"\0")[:cut])
    with pytest.raises(SimgapError, match=r"00000\.tar: .*(lost|ends before|no caption)"):
        written(planned(store, [(0, 0), (0, 5)], 2), tmp_path)


def test_a_shard_that_changed_is_an_error(store, tmp_path):
    put_pool(store, "pool", sample("00"))
    plan = planned(store, [(0, 0)], 1)
    put_pool(store, "pool", [*sample("00"), *sample("01")])
    with pytest.raises(SimgapError, match="changed since it was ingested"):
        written(plan, tmp_path)


def test_a_member_without_caption_is_an_error(store, tmp_path):
    put_pool(store, "pool", sample("00")[:1])
    with pytest.raises(SimgapError, match="sample 00 has no caption"):
        written(planned(store, [(0, 0)], 1), tmp_path)


def ingested(store: Store, name: str) -> Input:
    there = store.list(name)
    shards = [requests.Shard(path=e.path.removeprefix(f"{name}/"), uri=e.path, size=e.size, etag=e.etag) for e in there]
    request = requests.Ingest(name=name, role="pool", shards=shards)
    runs.begin(store, request)
    return worker.do_run(store, request.path).as_input()


def asked(store: Store, training: study.Training, left_out: int = 7) -> requests.Train:
    """A training on two data sets without every seventh sample."""
    put_pool(store, "a", pairs(0, 12), pairs(1, 9))
    put_pool(store, "b", pairs(2, 8))
    samples = [ingested(store, name) for name in "ab"]
    rows = pa.concat_tables(runs.read(store, s, "samples", ["dataset", "sample_id"]) for s in samples)
    kept = rows.filter(pa.array([n % left_out > 0 for n in range(len(rows))]))
    rule = requests.Selection(split="most", rule=study.Everything(rule="all"), tests=[])
    split = requests.Split(
        name="most", selection=rule, encoder=None, reference="b", samples=samples[:1], reference_samples=samples[1], vectors=[]
    )  # fmt: skip
    members = committed(store, split, {"members": [kept]})
    return requests.Train(name="most-0", split=members, split_name="most", samples=samples, training=training, seed=0)


def test_a_plans_shards_are_in_the_order_of_its_members(store):
    shards, each = 300, 2
    rows = [f"{n // each:05d}" for n in range(shards * each)]
    members = pa.table(
        {"dataset": ["a"] * len(rows), "shard": rows, "sample_id": range(len(rows)), "source": rows, "uri": rows}
        | {name: [sha256(row.encode()).hexdigest() for row in rows] for name in ("etag", "sha256")}
    )
    request = requests.Train(name="x", split=NOTHING, split_name="x", samples=[], training=TRAINING, seed=0)
    plan = make_plan(store, request, members)
    assert [(shard.uri, shard.members) for shard in plan.shards] == [(f"{n:05d}", each) for n in range(shards)]


def trained(store: Store, request: requests.Train) -> runs.Run:
    runs.begin(store, request)
    return worker.do_run(store, request.path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, weights) -> tuple[Store, runs.Run]:
    store = Store(f"file://{tmp_path_factory.mktemp('undisturbed')}")
    return store, trained(store, asked(store, TRAINING))


def test_training_goes_on_from_its_last_epoch_with_the_same_result(undisturbed, store, monkeypatch):
    progress = Task.progress

    def killed(self, done, total, of="images", note=""):
        if note == "epoch 2/2":
            raise KeyboardInterrupt
        progress(self, done, total, of, note)

    request = asked(store, TRAINING)
    monkeypatch.setattr(Task, "progress", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(store, request)
    monkeypatch.setattr(Task, "progress", progress)
    resumed = trained(store, request)
    assert resumed.facts[0]["resumed_after_epoch"] == 1
    assert resumed.content == undisturbed[1].content


def test_every_member_is_trained_on_and_the_tables_say_how_often(undisturbed):
    store, run = undisturbed
    rows = runs.read(store, run.run, "exposures").to_pylist()
    assert sum(row["samples"] for row in rows) == run.counts.done == run.counts.listed == 24
    assert sum(row["yielded"] for row in rows) == 48
    [checkpoint] = runs.read(store, run.run, "checkpoints").to_pylist()
    assert (checkpoint["samples_seen"], checkpoint["uri"]) == (48, "final.pt")
    log = runs.read(store, run.run, "training_log").to_pylist()
    assert [row["samples_seen"] for row in log] == [8, 16, 24, 32, 40, 48]
    assert (log[2]["distinct_samples"], log[-1]["distinct_samples"]) == (24, 24)


def test_data_workers_lose_nothing(store, weights):
    run = trained(store, asked(store, TRAINING.model_copy(update={"data_workers": 2})))
    rows = runs.read(store, run.run, "exposures").to_pylist()
    assert run.counts.failed == 0 and sum(row["yielded"] for row in rows) == 64
    assert all(2 * row["samples"] <= row["yielded"] <= 3 * row["samples"] for row in rows)


def test_samples_that_training_never_reached_are_counted(store, weights):
    run = trained(store, asked(store, TRAINING.model_copy(update={"samples_seen": 8, "epochs": 1})))
    assert (run.counts.listed, run.counts.done, run.counts.failed) == (24, 8, 16)
    assert "16 of 24" in runs.read(store, run.run, "failures").to_pylist()[0]["reason"]


@pytest.mark.parametrize("data_workers", [0, 1])
def test_a_shard_damaged_after_ingest_ends_the_training_in_one_line(store, weights, data_workers):
    request = asked(store, TRAINING.model_copy(update={"data_workers": data_workers}))
    store.put("a/00001.tar", store.get("a/00001.tar")[:2048])
    with pytest.raises(SimgapError, match=r"^\S+a/00001\.tar: changed since it was ingested.*$"):
        trained(store, request)


def test_an_image_that_does_not_decode_ends_the_training(pool, tmp_path, weights):
    from simgap.stages import open_clip_training

    plan = planned(pool, [(0, n) for n in range(6)], 8)
    plan.save(tmp_path)
    argv = arguments(TRAINING.model_copy(update={"epochs": 1}), plan, 0, tmp_path, None)
    with pytest.raises(Exception, match=r"cannot identify image|decod"):
        open_clip_training.train(argv, tmp_path, 0, lambda epoch: None, lambda epoch: None, lambda step, scalars: None)


def test_a_split_without_members_is_refused(store, weights):
    request = asked(store, TRAINING, left_out=1)
    with pytest.raises(SimgapError, match="has no members"):
        trained(store, request)


def test_a_split_that_wrote_no_members_is_refused(store, weights):
    request = asked(store, TRAINING)
    empty = committed(store, worker.load_request(store, request.split.run).model_copy(update={"name": "empty"}), {})
    with pytest.raises(SimgapError, match="has no members"):
        trained(store, request.model_copy(update={"split": empty}))


def test_an_unknown_model_is_refused(store, weights):
    with pytest.raises(SimgapError, match="open_clip knows no such model"):
        trained(store, asked(store, TRAINING.model_copy(update={"model": "ViT-Z"})))
