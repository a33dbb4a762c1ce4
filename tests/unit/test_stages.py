"""The stages between ingest and training: what they make does not depend on how the work was cut."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from making import (
    AUDIT,
    CLASSES,
    NOTHING,
    committed,
    drawing,
    embedded,
    labelled,
    pair,
    put_data,
    put_pool,
    put_test_set,
    run_study,
    tar,
    unit_vectors,
)

from simgap import runs, worker
from simgap.errors import SimgapError
from simgap.request import Input
from simgap.requests import Evaluate, Search, Split, Train, Verify
from simgap.stages.clip import load_pretrained
from simgap.stages.evaluate import class_weights, rank
from simgap.store import Store
from simgap.study import Training

# Going through a study again, and with more in it


def test_a_second_pass_has_nothing_to_do(audit, audit_file):
    store, made = audit
    first = run_study(store, audit_file, "manual__2")
    assert set(first.busy) == {"ingest"}  # a copied store: its data are listed again
    second = run_study(store, audit_file, "manual__3")
    assert second.busy == {}
    assert second.roles == first.roles
    assert {r: run for r, run in second.roles.items() if "ingest" not in r} == {
        r: run for r, run in made.roles.items() if "ingest" not in r
    }


def test_one_more_test_set_redoes_only_what_depends_on_it(store, audit_file):
    put_data(store)
    before = run_study(store, audit_file, tests=["t1"])
    after = run_study(store, audit_file, "manual__2")
    assert after.busy == {
        "ingest": 1, "embed": 1, "search reference": 1, "search pool": 2,
        "split": 7,  # those that look at all tests
        "verify": 2,  # of those, the pruned ones
    }  # fmt: skip
    same = {role for role, run in before.roles.items() if after.roles[role] == run}
    assert {"embed/a", "search/a/t1", "split/t1-pruned", "split/everything", "verify/t1-pruned/t1"} <= same


def test_a_changed_shard_redoes_what_depends_on_its_data_set(audit, audit_file):
    store, _ = audit
    store.put("b/00000.tar", tar([*_members(b"new caption")]))
    busy = run_study(store, audit_file, "manual__2").busy
    assert busy["ingest"] >= 1 and busy["embed"] == 1 and busy["search pool"] == 1
    assert "search reference" not in busy


def test_one_more_split_or_another_parameter_redoes_only_what_depends_on_it(audit, audit_file, tmp_path):
    store, _ = audit
    run_study(store, audit_file, "manual__2")
    file = tmp_path / "audit.toml"
    file.write_text(audit_file.read_text() + 'near = { rule = "threshold", above = 0.5 }\n')
    assert run_study(store, file, "manual__3").busy == {"split": 1}
    file.write_text(audit_file.read_text().replace("above = 0.9", "above = 0.8"))
    assert run_study(store, file, "manual__4").busy == {"split": 1}


def test_one_more_pool_data_set_leaves_the_reference_alone_as_it_is(audit, audit_file, tmp_path):
    store, _ = audit
    before = run_study(store, audit_file, "manual__2")
    put_pool(store, "c", pair("0", 5))
    file = tmp_path / "audit.toml"
    file.write_text(audit_file.read_text().replace('shards = "b" }]', 'shards = "b" }, { name = "c", shards = "c" }]'))
    after = run_study(store, file, "manual__3")
    assert after.roles["split/alone"] == before.roles["split/alone"]
    assert after.roles["split/everything"] != before.roles["split/everything"]
    assert (after.busy["ingest"], after.busy["search pool"]) == (1, 1)


def test_shards_of_two_data_sets_that_would_share_ids_are_refused(audit, audit_file, monkeypatch):
    monkeypatch.setattr("simgap.steps.first_sample_id", lambda dataset, shard: dataset in "ab")
    with pytest.raises(SimgapError, match=r"^a/00000\.tar and a/00001\.tar would share sample ids; rename one$"):
        run_study(audit[0], audit_file, "manual__2")
    ids = iter([1, 2, 1])
    monkeypatch.setattr("simgap.steps.first_sample_id", lambda dataset, shard: next(ids))
    with pytest.raises(SimgapError, match=r"^a/00000\.tar and b/00000\.tar would share sample ids; rename one$"):
        run_study(audit[0], audit_file, "manual__3")


def test_encoders_of_one_name_and_other_weights_are_not_loaded_for_each_other(read_audit):
    store, made = read_audit
    one = worker.load_request(store, made.roles["embed/a"])
    other = one.model_copy(update={"encoder": one.encoder.model_copy(update={"sha256": "other"})})
    assert one.encoder.name == other.encoder.name and one.shares() != other.shares()


def test_a_stage_has_a_bounded_number_of_jobs_however_many_shards_there_are(store, audit_file, monkeypatch):
    put_data(store)
    put_pool(store, "a", *(pair(str(n), n) for n in range(40)))
    monkeypatch.setattr("simgap.requests.BYTES_A_UNIT", 1)
    monkeypatch.setattr("simgap.flow.PAIRS_AT_MOST", 20)
    made = run_study(store, audit_file, until="ingest")
    assert 10 < made.jobs["ingest", None] <= 20
    assert runs.load(store, made.roles["ingest/a"]).counts.done == 40


def _members(caption: bytes):
    return [
        (name, data)
        for n in range(5)
        for name, data in ((f"{n}.png", drawing(CLASSES[n], 50 + n)), (f"{n}.txt", caption))
    ]


# embed


def test_vectors_do_not_depend_on_the_cut_into_units(audit, audit_file, monkeypatch):
    store, made = audit
    shutil.rmtree(store.root.removeprefix("file://") + "/runs/embed")
    monkeypatch.setattr("simgap.requests.SAMPLES_A_UNIT", 1)
    again = run_study(Store(store.root), audit_file, "manual__2", until="embed")
    assert again.jobs["embed", None] == 2  # data set a has two units
    for dataset in ("a", "b"):
        then, now = (runs.load(Store(store.root), roles[f"embed/{dataset}"]) for roles in (made.roles, again.roles))
        assert then.content == now.content


def test_a_vector_does_not_depend_on_its_neighbours(weights):
    from simgap.stages.clip import load_pretrained

    clip = load_pretrained("test-tower", str(weights))
    images = [drawing(CLASSES[n % 6], n) for n in range(7)]
    [together] = clip.encode_images(images)
    alone = np.concatenate([vectors for image in images for vectors in clip.encode_images([image])])
    assert together.dtype == np.float32 and together.shape == (7, 16)
    assert np.array_equal(together, alone)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_weights_that_cannot_be_loaded_are_named(weights, tmp_path):
    (tmp_path / "odd.pt").write_bytes(b"no weights")
    with pytest.raises(SimgapError, match=r"odd\.pt: its weights cannot be loaded: "):
        load_pretrained("test-tower", str(tmp_path / "odd.pt"))
    with pytest.raises(SimgapError, match=r"^encoder test-tower/no-such-tag: its weights cannot be loaded: "):
        load_pretrained("test-tower", "no-such-tag")
    with pytest.raises(SimgapError, match=r"^model 'no-such-model': open_clip knows no such model"):
        load_pretrained("no-such-model", str(weights))


def test_embeddings_are_float16_unit_vectors_of_each_sample(read_audit):
    store, made = read_audit
    rows = runs.read(store, made.roles["embed/a"], "embeddings")
    assert rows.schema.field("vector").type == pa.list_(pa.float16(), 16)
    samples = runs.read(store, made.roles["ingest/a"], "samples", ["sample_id"])
    assert rows["sample_id"].to_pylist() == samples["sample_id"].to_pylist()


# search

IDS = np.arange(100, 160, dtype=np.int64)
VECTORS = unit_vectors(60, seed=1)
SIZES = [[60], [1, 59], [20, 20, 20], [7, 1, 30, 2, 20]]


def searched(store: Store, sizes: list[int], of_each_unit: int) -> tuple[runs.Run, ...]:
    """The search of a reference and of a pool of 60 vectors, in shards of these sizes, each a file of its own."""
    queries = embedded(store, "t1", [(np.arange(9, dtype=np.int64), unit_vectors(9, seed=2))])
    cuts = np.cumsum([0, *sizes])
    pool = embedded(store, "a", *([(IDS[i:j], VECTORS[i:j])] for i, j in pairwise(cuts)))
    reference = embedded(store, "ref", [(np.arange(900, 906, dtype=np.int64), unit_vectors(6, seed=3))])
    common = {"encoder": "e", "reference": "ref", "test_set": "t1", "queries": queries, "neighbours": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simgap.requests.VECTORS_A_UNIT", of_each_unit)
        first = done(store, Search(name="ref-t1", dataset="ref", vectors=reference, **common))
        return first, done(store, Search(name="a-t1", dataset="a", vectors=pool, thresholds=first.as_input(), **common))


def done(store: Store, request) -> runs.Run:
    runs.begin(store, request)
    return worker.do_run(store, request.path)


def test_a_search_finds_the_same_whatever_the_cut(tmp_path):
    contents, of_queries, units = set(), set(), set()
    for sizes in SIZES:
        for of_each_unit in (1, 25, 1000):
            _, run = searched(Store(f"file://{tmp_path}/{len(sizes)}-{of_each_unit}"), sizes, of_each_unit)
            contents.add((len(sizes), run.content))
            of_queries.add(tuple(runs.content_of({t: run.tables[t]}, {}) for t in ("neighbours", "query_counts")))
            units.add(len(run.who))
    assert len(contents) == len(SIZES)  # the units do not show, and neither, in what is said of queries, do the shards
    assert len(of_queries) == 1
    assert units == {2, 3, 4}


def test_rows_of_proximity_are_the_same_whatever_the_cut(tmp_path):
    found = []
    for sizes in SIZES:
        store = Store(f"file://{tmp_path}/{len(sizes)}")
        found.append(runs.read(store, searched(store, sizes, 1)[1].run, "proximity"))
    assert found[0]["sample_id"].to_pylist() == IDS.tolist()
    assert all(rows.equals(found[0]) for rows in found)
    assert 0 < sum(hits > 0 for hits in found[0]["hits"].to_pylist()) < 60


def test_thresholds_are_the_nearest_in_the_reference(store):
    first, second = searched(store, [60], 1000)
    rank_1 = [row for row in runs.read(store, first.run, "neighbours").to_pylist() if row["rank"] == 1]
    thresholds = runs.read(store, first.run, "thresholds").to_pylist()
    assert [(row["query_id"], row["tau"], row["sample_id"]) for row in thresholds] == [
        (row["query_id"], row["similarity"], row["sample_id"]) for row in rank_1
    ]
    assert "proximity" not in first.tables and "thresholds" not in second.tables
    assert second.facts[0]["pairs_rechecked"] > 0


def test_hits_of_samples_and_hull_counts_of_queries_are_the_same_pairs(store):
    _, run = searched(store, [60], 1000)
    hits, hulls = (
        runs.read(store, run.run, t)[c].to_pylist() for t, c in (("proximity", "hits"), ("query_counts", "hull_count"))
    )
    assert sum(hits) == sum(hulls) > 0


def test_thresholds_of_other_queries_are_refused(store):
    first, second = searched(store, [60], 1000)
    request = worker.load_request(store, second.run)
    other = embedded(store, "t2", [(np.arange(50, 59, dtype=np.int64), unit_vectors(9, seed=2))])
    mixed = request.model_copy(update={"name": "mixed", "queries": other})
    with pytest.raises(SimgapError, match=r"mixed-\w+: its thresholds are not those of its queries"):
        done(store, mixed)
    assert first


# split


def members(store: Store, made, split: str) -> set[tuple[str, int]]:
    rows = runs.read(store, made.roles[f"split/{split}"], "members").to_pylist()
    assert len({(row["dataset"], row["sample_id"]) for row in rows}) == len(rows)
    return {(row["dataset"], row["sample_id"]) for row in rows}


def of_pool(found: set[tuple[str, int]]) -> set[tuple[str, int]]:
    return {member for member in found if member[0] != "ref"}


def hull(store: Store, made, *tests: str) -> set[tuple[str, int]]:
    return {
        (row["dataset"], row["sample_id"])
        for dataset in "ab"
        for test in tests
        for row in runs.read(store, made.roles[f"search/{dataset}/{test}"], "proximity").to_pylist()
        if row["hits"] > 0
    }


def test_pruned_splits_are_the_pool_without_the_hulls_and_the_reference(read_audit):
    everything = members(*read_audit, "everything")
    assert 0 < len(hull(*read_audit, "t1")) < len(hull(*read_audit, "t1", "t2")) < 32
    assert members(*read_audit, "t1-pruned") == everything - hull(*read_audit, "t1")
    assert members(*read_audit, "pruned") == everything - hull(*read_audit, "t1", "t2")
    assert members(*read_audit, "pruned-bare") == of_pool(everything) - hull(*read_audit, "t1", "t2")


def test_splits_have_the_sizes_that_their_rules_say(read_audit):
    sizes = {
        name: len(of_pool(members(*read_audit, name)))
        for name in ("everything", "alone", "pruned", "random", "matched", "least", "most")
    }
    assert sizes["everything"] == 32 and sizes["alone"] == 0
    assert sizes["random"] == sizes["matched"] == sizes["pruned"] > 0
    assert sizes["least"] == sizes["most"] == 7
    assert len(members(*read_audit, "alone")) == 9


def test_a_matched_split_has_as_many_of_each_source(read_audit):
    store, made = read_audit
    source = {
        row["sample_id"]: row["source"]
        for d in "ab"
        for row in runs.read(store, made.roles[f"ingest/{d}"], "samples").to_pylist()
    }

    def sources(split):
        return sorted(source[i] for _, i in of_pool(members(store, made, split)))

    assert sources("matched") == sources("pruned")
    assert members(store, made, "matched") != members(store, made, "pruned")


def test_more_samples_than_there_are_cannot_be_kept(audit, audit_file, tmp_path):
    file = tmp_path / "audit.toml"
    file.write_text(audit_file.read_text().replace("count = 7", "count = 33", 1))
    with pytest.raises(SimgapError, match=r"^split least: keeps 33 samples, but the pool has 32$"):
        run_study(audit[0], file, "manual__2", until="split")


def test_the_table_of_splits_tells_what_was_asked(read_audit):
    store, made = read_audit
    [row] = runs.read(store, made.roles["split/least"], "splits").to_pylist()
    assert row == {
        "split": "least", "rule": "keep_least_similar", "parameters": '{"tests":null,"count":7}', "encoder": "test-tower/weights",
        "reference": "ref", "with_reference": False, "samples": 7, "of_samples": 32,
    }  # fmt: skip


# verify


def tampered(store: Store, made, change) -> Verify:
    """A request to verify split `pruned` for t1, of which some members were changed by hand."""
    split = worker.load_request(store, made.roles["split/pruned"])
    assert isinstance(split, Split)
    rows = runs.read(store, made.roles["split/pruned"], "members").to_pylist()
    changed = pa.Table.from_pylist(change(rows))
    found = committed(store, split.model_copy(update={"name": "tampered"}), {"members": [changed]})
    request = worker.load_request(store, made.roles["verify/pruned/t1"])
    return request.model_copy(update={"name": "tampered", "members": found})  # pyright: ignore[reportReturnType]


def test_a_pruned_split_has_a_certificate_that_holds(read_audit):
    store, made = read_audit
    for test, queries in (("t1", 12), ("t2", 6)):
        [row] = runs.read(store, made.roles[f"verify/pruned/{test}"], "certificates").to_pylist()
        assert (row["queries"], row["exceeding"], row["needlessly_removed"]) == (queries, 0, 0)
        assert row["mean_difference"] == 0.0 == row["largest_excess"]  # the reference is in the split
    [bare] = runs.read(store, made.roles["verify/pruned-bare/t1"], "certificates").to_pylist()
    assert bare["mean_difference"] > 0


def test_a_split_with_a_sample_of_the_hull_is_refused(audit):
    store, made = audit
    put_back = next(iter(hull(store, made, "t1")))
    request = tampered(
        store, made, lambda rows: [*rows, {"split": "pruned", "dataset": put_back[0], "sample_id": put_back[1]}]
    )
    with pytest.raises(
        SimgapError, match=r"split pruned is not what it says: for test set t1, [1-9]\d* of 12 queries have a nearer"
    ):
        done(store, request)
    assert runs.find(store, request.path) is None


def test_a_split_that_lacks_a_sample_without_need_is_refused(audit):
    store, made = audit
    request = tampered(
        store,
        made,
        lambda rows: [row for row in rows if row["dataset"] == "ref"] + [r for r in rows if r["dataset"] != "ref"][1:],
    )
    with pytest.raises(
        SimgapError, match=r"0 of 12 queries .* and 1 samples were removed without need; nothing was trained on it"
    ):
        done(store, request)


def test_a_split_with_a_sample_that_has_no_vector_is_refused(audit):
    store, made = audit
    request = tampered(store, made, lambda rows: [*rows, {"split": "pruned", "dataset": "a", "sample_id": 5}])
    with pytest.raises(SimgapError, match=r"split pruned: 1 of its 19 samples have no vector to verify it by"):
        done(store, request)


def test_the_neighbours_of_a_split_are_of_the_split(read_audit):
    store, made = read_audit
    rows = runs.read(store, made.roles["verify/pruned/t1"], "neighbours").to_pylist()
    assert {row["of"] for row in rows} == {"pruned"}
    assert {(row["dataset"], row["sample_id"]) for row in rows} <= members(store, made, "pruned")
    assert [(row["query_id"], row["rank"]) for row in rows] == sorted((row["query_id"], row["rank"]) for row in rows)
    assert max(row["rank"] for row in rows) == 5


# evaluate


def test_class_weights_are_the_mean_of_the_templates_normalised_embeddings(weights):
    clip = load_pretrained("test-tower", str(weights))
    templates, classes = ["a drawing of a {c}", "{c}", "two {c}s"], ["red circle", "blue square"]
    for column, name in enumerate(classes):
        texts = clip.tokenizer([template.replace("{c}", name) for template in templates])
        embedded = clip.network.encode_text(texts).detach().double().numpy()
        mean = (embedded / np.linalg.norm(embedded, axis=1, keepdims=True)).mean(axis=0)
        found = class_weights(clip, classes, templates)[:, column]
        np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-6)
    assert not np.allclose(
        class_weights(clip, classes, templates), class_weights(clip, classes, templates[:1]), atol=1e-3
    )


def test_ties_go_to_the_smaller_class():
    similarities = np.tile([0.5, 0.1], (2, 50))
    order, label_rank = rank(similarities, np.array([98, 1]))
    assert order.tolist() == [[*range(0, 100, 2), *range(1, 100, 2)]] * 2
    assert label_rank.tolist() == [50, 51]


def evaluated(store: Store, weights: Path, shards: int) -> list[dict]:
    """Predictions for one test set that lies in so many shards, by class and seed of the drawing."""
    seeds = list(range(700, 712))
    put_test_set(store, "t1", [])
    store.put("t1/test/nshards.txt", b"%d" % shards)
    for shard in range(shards):
        store.put(f"t1/test/{shard}.tar", tar(labelled(seeds[shard::shards])))
    file = Path(store.root.removeprefix("file://")) / "audit.toml"
    file.write_text(AUDIT.replace("WEIGHTS", str(weights)))
    put = run_study(store, file, tests=["t1"], splits=["everything"], until="ingest")
    settings = Training(model="test-tower", samples_seen=1, epochs=1, batch_size=1, learning_rate=1, warmup_steps=0)
    training = Train(name="x", split=NOTHING, split_name="x", samples=[], training=settings, seed=0)
    request = Evaluate(
        name="x-t1", checkpoint=committed(store, training, {}, final__pt=weights), checkpoint_name="x-0", model="test-tower",
        test_set="t1", samples=Input(**runs.load(store, put.roles["ingest/t1"]).as_input().model_dump()), protocol="zero_shot",
    )  # fmt: skip
    rows = runs.read(store, done(store, request).run, "predictions").to_pylist()
    samples = {
        row["sample_id"]: row["sha256"] for row in runs.read(store, put.roles["ingest/t1"], "samples").to_pylist()
    }
    assert sorted(row["query_id"] for row in rows) == sorted(samples)
    return sorted(({**row, "query_id": samples[row["query_id"]]} for row in rows), key=lambda row: row["query_id"])


def test_predictions_do_not_depend_on_which_images_come_together(tmp_path, weights):
    stores = [Store(f"file://{tmp_path}/{n}") for n in (1, 5)]
    for store in stores:
        put_data(store)
    once, cut = (evaluated(store, weights, shards) for store, shards in zip(stores, (1, 5), strict=True))
    assert once == cut
    assert len(once) == 12
    for row in once:
        assert row["predicted"] == row["top5"][0] and len(row["top5"]) == 5
        assert row["correct"] == (row["label_rank"] == 1) == (row["label"] == row["predicted"])
