"""Broken, odd and hostile data through a whole study: used as open_clip's own reader uses them, or counted with a reason."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip_train.data
import pytest
import webdataset
from corpus import (
    CAPTIONS,
    FACTS,
    GOOD,
    KEYS,
    NO_JSON,
    NOT_UTF8,
    broken_tars,
    odd_pictures,
    odd_tars,
    pictured,
    unusable_pictures,
    with_part,
)
from making import AUDIT, Made, drawing, labelled, pair, pairs, put_pool, put_test_set, run_study, tar
from PIL import Image
from webdataset import tariterators

from simgap import catalog, requests, runs, show, worker
from simgap.shards import first_sample_id, position_of, read_samples
from simgap.stages.clip import load_pretrained
from simgap.stages.report.pictures import Place, thumbnails
from simgap.stages.stream import Plan, Shard, write_part
from simgap.store import Store
from simgap.study import Training

Samples = dict[int, tuple[Image.Image, str]]
STRICTER = ("too large: ", "too narrow: ", "grey of more than 8 bits", "duplicate key: ", "its name is not UTF-8")
"""Why a sample is not used that open_clip's reader would use."""
SHARDS = {
    **{f"odd {name}.tar": data for name, data in odd_tars().items()},
    **{f"broken {name}.tar": data for name, (data, _) in broken_tars().items()},
    "pictures.tar": tar(pictured(odd_pictures())),
    "unusable.tar": tar(pictured({name: image for name, (image, _) in unusable_pictures().items()})),
    "captions.tar": tar([m for key, text in (CAPTIONS | NOT_UTF8).items() for m in with_part(key, "txt", text)]),
    "facts.tar": tar(
        [m for key, (about, *_) in FACTS.items() for m in with_part(key, "json", about)]
        + [m for key, about in NO_JSON.items() for m in with_part(f"no-{key}", "json", about)]
    ),
    "keys.tar": tar([m for n, key in enumerate(KEYS) for m in pair(key, n)]),
    "keys again.tar": tar([m for n, key in enumerate(KEYS) for m in pair(key, n + 50)]),
}


def open_clip_groups(data: bytes) -> Iterator[dict[str, Any]]:
    """A shard's samples as open_clip groups them, as far as webdataset reads it."""
    files = tariterators.tar_file_iterator(io.BytesIO(data))  # pyright: ignore[reportArgumentType]
    yield from open_clip_train.data.group_by_keys_nothrow({**file, "__url__": ""} for file in files)


def open_clip_samples(data: bytes) -> Samples:
    """By position: what training by open_clip's own program would see, were its reader to lose nothing."""
    found: Samples = {}
    decode, rename = webdataset.decode("pilrgb"), webdataset.rename(image="jpg;png;jpeg;webp", text="txt")
    groups = enumerate(open_clip_groups(data))
    while True:
        try:
            position, sample = next(groups)
            if open_clip_train.data.filter_no_caption_or_no_image(sample):
                [seen] = rename(decode([sample]))
                found[position] = seen["image"], seen["text"]
        except StopIteration:
            return found
        except Exception:  # its reader logs whatever comes, and goes on
            continue


@dataclass
class Studied:
    """A study that was gone through, with data sets `a` and `b` of the corpus."""

    store: Store
    made: Made

    def rows(self, role: str, table: str) -> list[dict[str, Any]]:
        return runs.read(self.store, self.made.roles[role], table).to_pylist()

    def shards(self) -> dict[str, dict[str, Any]]:
        return {row["shard"]: row for row in self.rows("ingest/a", "shards")}

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in catalog.ask(self.store, statement, "audit").to_pylist()]


@pytest.fixture(scope="module")
def studied(tmp_path_factory, weights) -> Studied:
    folder = tmp_path_factory.mktemp("corpus")
    store = Store(f"file://{folder}/store")
    for name, data in SHARDS.items():
        store.put(f"a/{name}", data)
    store.put("b/keys.tar", SHARDS["keys.tar"])  # the same keys and the same images in another data set
    put_pool(store, "ref", pairs(5, 9))
    put_test_set(store, "t1", [*labelled([0, 1]), ("long.png", drawing("red circle", 1)), ("long.cls", b"1" * 5_000)])
    odd = [(name, data) for name, data in odd_pictures().items()]
    put_test_set(
        store, "t2", [m for name, data in odd for m in ((name, data), (f"{name.partition('.')[0]}.cls", b"1"))]
    )
    (folder / "audit.toml").write_text(AUDIT.replace("WEIGHTS", str(weights)))
    return Studied(store, run_study(store, folder / "audit.toml"))


@pytest.fixture(scope="module")
def expected() -> dict[str, Samples]:
    return {name: open_clip_samples(data) for name, data in SHARDS.items()}


def test_what_is_listed_is_done_or_failed_for_every_shard(studied):
    for role in (role for role in studied.made.roles if role.startswith("ingest/")):
        samples, failures = studied.rows(role, "samples"), studied.rows(role, "failures")
        for row in studied.rows(role, "shards"):
            assert row["listed"] == row["done"] + row["failed"]
            assert row["done"] == sum(sample["shard"] == row["shard"] for sample in samples)
            assert row["failed"] == sum(failure["shard"] == row["shard"] for failure in failures)


def test_samples_are_used_as_open_clip_uses_them_or_counted(studied, expected):
    samples, failures = (studied.rows("ingest/a", table) for table in ("samples", "failures"))
    for name, theirs in expected.items():
        ours = {position_of(row["sample_id"]): row["caption"] for row in samples if row["shard"] == name}
        assert ours.items() <= {position: text for position, (_, text) in theirs.items()}.items(), name
        reasons = [failure["reason"] for failure in failures if failure["shard"] == name]
        counted = [why for why in reasons if why.startswith((*STRICTER, "truncated or damaged shard"))]
        assert len(theirs) - len(ours) <= len(counted), name
        assert not any(name.startswith("odd") and why.startswith("truncated") for why in reasons), name


@pytest.mark.parametrize("name", odd_tars())
def test_whole_tars_are_grouped_as_open_clip_groups_them(name):
    data = odd_tars()[name]
    theirs = [
        (s["__key__"], {k: v for k, v in s.items() if k not in ("__key__", "__url__")}) for s in open_clip_groups(data)
    ]
    assert [(s.key, s.parts) for s in read_samples(io.BytesIO(data))] == theirs


@pytest.mark.parametrize("name", broken_tars())
def test_a_broken_tar_is_a_failure_that_says_why(studied, name):
    shard, told = f"broken {name}.tar", broken_tars()[name][1]
    [reason] = [
        row["reason"] for row in studied.rows("ingest/a", "failures") if row["shard"] == shard and row["key"] is None
    ]
    assert told in reason and len(reason) < 200 and "\n" not in reason
    keys = [row["key"] for row in studied.rows("ingest/a", "samples") if row["shard"] == shard]
    assert keys[:1] == (["a"] if SHARDS[shard].startswith(GOOD) else [])


def test_pictures_that_cannot_be_used_are_counted_with_the_reason(studied):
    failures = {
        row["key"]: row["reason"] for row in studied.rows("ingest/a", "failures") if row["shard"] == "unusable.tar"
    }
    assert failures.keys() == {name.partition(".")[0] for name in unusable_pictures()}
    for name, (_, reason) in unusable_pictures().items():
        assert failures[name.partition(".")[0]].startswith(reason)


def test_captions_that_are_no_text_and_facts_that_are_no_json_are_counted(studied):
    failures = {(row["shard"], row["key"]): row["reason"] for row in studied.rows("ingest/a", "failures")}
    assert {failures["captions.tar", key] for key in NOT_UTF8} == {"the caption is not UTF-8"}
    assert {failures["facts.tar", f"no-{key}"] for key in NO_JSON} == {"its .json is not JSON"}
    [(label,)] = studied.ask("select reason from failures where dataset = 't1'")
    assert label.startswith("unknown label '111") and len(label) < 100


def test_texts_come_back_from_the_catalog_as_they_were(studied):
    told = dict(studied.ask("select key, caption from samples where shard = 'captions.tar'"))
    assert told == {key: text.decode() for key, text in CAPTIONS.items()}
    facts = studied.ask("select key, source, licence from samples where shard = 'facts.tar'")
    assert {key: about for key, *about in facts} == {key: [s or "a", licence] for key, (_, s, licence) in FACTS.items()}
    for shard in ("keys.tar", "keys again.tar"):  # a key belongs to its shard
        assert {k for (k,) in studied.ask(f"select key from samples where (dataset, shard) = ('a', '{shard}')")} == set(
            KEYS
        )


def test_texts_are_exported_as_they_were(studied, tmp_path, capfd):
    asked = "select key, caption from samples where shard in ('captions.tar', 'keys.tar') order by all"
    rows = catalog.ask(studied.store, asked, "audit")
    expected = [list(row.values()) for row in rows.to_pylist()]
    show.write(rows, show.FileFormat.csv, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        csv.field_size_limit(1 << 20)
        assert list(csv.reader(file))[1:] == expected
    show.rows(rows, show.Format.json)
    assert [list(row.values()) for row in json.loads(capfd.readouterr().out)] == expected
    show.rows(rows, show.Format.table)
    assert "astronaut" in capfd.readouterr().out
    kept = catalog.keys_of(studied.store, "everything", "audit", removed=False)
    assert set(KEYS) <= set(kept["key"].to_pylist())


def lossless(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def test_a_samples_vector_is_that_of_its_image(studied, expected, weights):
    rows = studied.rows("embed/a", "embeddings")
    places = {row["sample_id"]: row["shard"] for row in studied.rows("ingest/a", "samples")}
    assert [row["sample_id"] for row in rows] == list(places)
    images = [lossless(expected[places[i]][position_of(i)][0]) for i in places]
    vectors = np.concatenate(list(load_pretrained("test-tower", str(weights)).encode_images(images)))
    assert np.array_equal(np.array([row["vector"] for row in rows]), vectors.astype(np.float16))
    assert len(np.unique(vectors, axis=0)) > 40  # so that a step out of line would be seen


def test_a_samples_nearest_query_is_its_own_image(studied):
    queries = {row["key"]: row["sample_id"] for row in studied.rows("ingest/t2", "samples")}
    assert len(queries) == len(odd_pictures())
    keys = {r["sample_id"]: r["key"] for r in studied.rows("ingest/a", "samples") if r["shard"] == "pictures.tar"}
    near = {row["sample_id"]: row for row in studied.rows("search/a/t2", "proximity")}
    for sample_id, key in keys.items():
        assert near[sample_id]["nearest_query"] == queries[key]
        assert near[sample_id]["max_similarity"] > 0.999


def test_splits_hold_every_sample_once(studied):
    members = {(row["dataset"], row["sample_id"]) for row in studied.rows("split/everything", "members")}
    listed = {(d, row["sample_id"]) for d in ("a", "b", "ref") for row in studied.rows(f"ingest/{d}", "samples")}
    assert members == listed and len({sample_id for _, sample_id in members}) == len(members)
    pruned = {(row["dataset"], row["sample_id"]) for row in studied.rows("split/pruned", "members")}
    assert pruned < members


def test_every_usable_picture_can_be_shown(studied, expected):
    places = {name: Place(row["uri"], row["etag"], row["sha256"]) for name, row in studied.shards().items()}
    wanted = [(places[row["shard"]], row["sample_id"]) for row in studied.rows("ingest/a", "samples")]
    assert len(thumbnails(wanted, studied.store)) == len(wanted)


def test_training_sees_each_sample_as_open_clip_would(studied, expected, tmp_path):
    samples = studied.rows("ingest/a", "samples")
    used = [row for row in studied.shards().values() if row["done"]]
    plan = Plan(
        store=studied.store.root, seed=0, parts=1, samples_a_part=len(samples),
        shards=[Shard(row["uri"], row["etag"], row["sha256"], row["done"]) for row in used],
        sample_ids=np.array([row["sample_id"] for row in samples]),
    )  # fmt: skip
    out = io.BytesIO()
    write_part(plan, tmp_path, 0, 0, out)
    streamed = list(open_clip_samples(out.getvalue()).values())
    for index, (image, text) in zip(np.load(tmp_path / "yielded-0-0.npy"), streamed, strict=True):
        row = samples[index]
        theirs, caption = expected[row["shard"]][position_of(row["sample_id"])]
        assert text == caption and image.tobytes() == theirs.tobytes(), row["key"]


def test_a_model_is_trained_on_all_of_it(studied):
    store, roles = studied.store, studied.made.roles
    samples = [runs.load(store, roles[f"ingest/{name}"]).as_input() for name in ("a", "b", "ref")]
    count = len(studied.rows("split/everything", "members"))
    settings = Training(
        model="test-tower", samples_seen=count, epochs=1, batch_size=16, learning_rate=1e-3, warmup_steps=1
    )
    request = requests.Train(
        name="all-0", split=runs.load(store, roles["split/everything"]).as_input(), split_name="everything",
        samples=samples, training=settings, seed=0,
    )  # fmt: skip
    runs.begin(store, request)
    run = worker.do_run(store, request.path)
    assert (run.counts.listed, run.counts.done, run.counts.failed) == (count, count, 0)
    losses = [row["loss"] for row in runs.read(store, run.run, "training_log").to_pylist()]
    assert len(losses) > 3 and np.isfinite(losses).all()


def test_ids_are_told_apart_though_keys_and_images_are_the_same(studied):
    first = {d: first_sample_id(d, "keys.tar") for d in "ab"}
    vectors = {d: {r["sample_id"]: r["vector"] for r in studied.rows(f"embed/{d}", "embeddings")} for d in "ab"}
    for position in range(len(KEYS)):
        assert vectors["a"][first["a"] + position] == vectors["b"][first["b"] + position]
