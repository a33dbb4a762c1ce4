"""ingest on bad input: every failure is counted, with its reason, and listed = done + failed."""

import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import (
    AUDIT,
    CLASSES,
    Members,
    drawing,
    labelled,
    pair,
    pairs,
    put_data,
    put_pool,
    put_test_set,
    run_study,
    tar,
)
from PIL import Image

from simgap import flow, runs, worker
from simgap.errors import SimgapError
from simgap.requests import Ingest, Shard
from simgap.shards import first_sample_id
from simgap.stages import ingest
from simgap.stages.images import read_images, shards_of
from simgap.stages.ingest import Unusable, _decoded_size
from simgap.store import Store

IMAGE = drawing(CLASSES[0], 0)


@pytest.fixture
def study_file(tmp_path) -> Path:
    """AUDIT, of which these tests go no further than ingest."""
    path = tmp_path / "audit.toml"
    path.write_text(AUDIT)
    return path


def ingested(store: Store, study_file: Path, dataset: str = "a") -> runs.Run:
    made = run_study(store, study_file, until="ingest")
    run = runs.load(store, made.roles[f"ingest/{dataset}"])
    for row in rows(store, run, "shards"):
        assert row["listed"] == row["done"] + row["failed"]
    return run


def rows(store: Store, run: runs.Run, table: str) -> list[dict]:
    return runs.read(store, run.run, table).to_pylist()


def reasons(store: Store, run: runs.Run) -> list[tuple[str, str | None, str]]:
    return [(row["shard"], row["key"], row["reason"]) for row in rows(store, run, "failures")]


def with_pool(store: Store, *shards: Members) -> None:
    put_data(store)
    for number in range(2):
        store.delete(f"a/{number:05d}.tar")
    put_pool(store, "a", *shards)


def test_good_samples_are_listed_as_they_are(store, study_file):
    put_data(store)
    run = ingested(store, study_file)
    first, *_ = samples = rows(store, run, "samples")
    assert len(samples) == 24 == run.counts.done and run.counts.failed == 0
    assert first | {"sha256": ""} == {
        "dataset": "a", "sample_id": first_sample_id("a", "00000.tar"), "shard": "00000.tar", "key": "000000000",
        "caption": "red circle", "label": None, "width_px": 24, "height_px": 24, "sha256": "", "source": "x",
        "licence": "CC0-1.0",
    }  # fmt: skip
    assert [row["sample_id"] & 0xFFFFF for row in samples] == [*range(14), *range(10)]


def test_a_test_sets_caption_is_its_classs_name_and_its_texts_are_kept(store, study_file):
    put_data(store)
    run = ingested(store, study_file, "t2")
    assert [(row["label"], row["caption"]) for row in rows(store, run, "samples")][:2] == [
        (0, CLASSES[0]),
        (1, CLASSES[1]),
    ]
    assert sorted(run.files) == ["classnames.txt", "zeroshot_classification_templates.txt"]


def broken(image: bytes) -> bytes:
    return image[: len(image) // 2]


def grey16() -> bytes:
    out = io.BytesIO()
    Image.new("I;16", (8, 8), 30_000).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("x.png", broken(IMAGE)), ("x.txt", b"c")], r"^the image does not decode: "),
        ([("x.png", b"no image"), ("x.txt", b"c")], r"^the image does not decode: UnidentifiedImageError$"),
        ([("x.png", b""), ("x.txt", b"c")], r"^the image does not decode: "),
        ([("x.png", grey16()), ("x.txt", b"c")], r"^grey of more than 8 bits"),
        ([("x.png", IMAGE), ("x.txt", b"caf\xe9")], r"^the caption is not UTF-8$"),
        ([("x.png", IMAGE)], r"^no caption$"),
        ([("x.txt", b"c")], r"^no image$"),
        ([("x.gif", IMAGE), ("x.txt", b"c")], r"^no image$"),
        ([("x.png", IMAGE), ("x.txt", b"c"), ("x.json", b"{")], r"^its .json is not JSON$"),
        ([("x.png", IMAGE), ("x.txt", b"c"), ("x.json", b"\xff\xfe")], r"^its .json is not JSON$"),
    ],
)
def test_a_sample_that_cannot_be_used_is_counted_with_its_reason(store, study_file, members, reason):
    with_pool(store, [*pair("0"), *members, *pair("y")])
    run = ingested(store, study_file)
    [(shard, key, told)] = reasons(store, run)
    assert (shard, key) == ("00000.tar", "x") and re.search(reason, told)
    assert (run.counts.listed, run.counts.done, run.counts.failed) == (3, 2, 1)
    assert [row["sample_id"] & 0xFFFFF for row in rows(store, run, "samples")] == [0, 2]  # its position is counted


def test_a_key_that_comes_again_is_a_failure(store, study_file):
    with_pool(store, [*pair("x", 1), *pair("y", 2), *pair("x", 3)])
    run = ingested(store, study_file)
    assert reasons(store, run) == [
        (
            "00000.tar",
            "x",
            "duplicate key: another sample of this shard has it, or its members do not follow each other",
        )
    ]
    assert run.counts.done == 2


def test_a_name_that_is_not_utf8_is_a_failure(store, study_file):
    half = os.fsdecode(b"caf\xe9")
    with_pool(store, [*pair("x"), (f"{half}.png", IMAGE), (f"{half}.txt", b"c"), *pair("y")])
    run = ingested(store, study_file)
    assert reasons(store, run) == [("00000.tar", "caf?", "its name is not UTF-8")]
    assert run.counts.done == 2


def test_facts_of_other_types_are_stored_as_text(store, study_file):
    about = json.dumps({"source": 7, "licence": ["CC0", "MIT"]}).encode()
    lone = b'{"source": "\\ud800", "license": {"spdx": "MIT"}}'
    with_pool(
        store, [*pair("x")[:2], ("x.json", about), *pair("y")[:2], ("y.json", lone), *pair("z")[:2], ("z.json", b"[]")]
    )
    found = [(row["source"], row["licence"]) for row in rows(store, ingested(store, study_file), "samples")]
    assert found == [("7", "['CC0', 'MIT']"), ("?", "{'spdx': 'MIT'}"), ("a", None)]


def test_samples_lost_on_their_way_are_noticed(store, study_file, monkeypatch):
    put_data(store)
    read = ingest._read

    def losing(local, dataset, shard, classes, samples, fail):
        seen = read(local, dataset, shard, classes, samples, fail)
        samples.pop()
        return seen

    monkeypatch.setattr(ingest, "_read", losing)
    with pytest.raises(SimgapError, match=r"^a/00000\.tar: 14 listed, but 13 done and 0 failed$"):
        ingested(store, study_file)


def test_a_shard_that_only_its_record_tells_of_is_a_failure(store, study_file):
    put_data(store)
    store.put("a/00002_stats.json", json.dumps({"successes": 2}).encode())
    run = ingested(store, study_file)
    lost = "img2dataset recorded more samples than there are in the shard"
    assert [reason for _, _, reason in reasons(store, run)] == ["no such shard: a/00002.tar", lost, lost]
    assert (run.counts.done, run.counts.failed) == (24, 3)


def test_a_truncated_shards_lost_samples_are_each_a_failure(store, study_file):
    put_data(store)
    whole = store.get("a/00001.tar")
    store.put("a/00001.tar", whole[: len(whole) // 2])
    store.put("a/00001_stats.json", json.dumps({"successes": 10}).encode())
    run = ingested(store, study_file)
    assert run.counts.listed == 24 + 1  # the shard's end itself is a failure
    assert run.counts.failed == len(rows(store, run, "failures"))


def test_data_that_were_moved_are_read_again_and_hold_the_same(store, study_file):
    put_data(store)
    before = ingested(store, study_file)
    for entry in store.list("a"):
        store.put(f"moved/{entry.path}", store.get(entry.path))
        store.delete(entry.path)
    study_file.write_text(AUDIT.replace("a/*.tar", "moved/a/*.tar"))
    after = ingested(store, study_file)
    assert after.content == before.content and after.run != before.run
    assert {row["uri"] for row in rows(store, after, "shards")} == {"moved/a/00000.tar", "moved/a/00001.tar"}


def test_a_missing_numbered_shard_is_a_failure(store, study_file):
    put_data(store)
    study_file.write_text(AUDIT.replace("a/*.tar", "a/{00000..00002}.tar"))
    run = ingested(store, study_file)
    assert reasons(store, run) == [("00002.tar", None, "no such shard: a/00002.tar")]
    assert (run.counts.done, run.counts.failed) == (24, 1)


def test_a_test_sets_missing_shard_is_known_from_nshards(store, study_file):
    put_data(store)
    store.put("t1/test/nshards.txt", b"2\n")
    store.put("t1/train/0.tar", tar(labelled([1, 2])))
    run = ingested(store, study_file, "t1")
    assert reasons(store, run) == [("test/1.tar", None, "no such shard: t1/test/1.tar")]
    assert {row["shard"] for row in rows(store, run, "samples")} == {"test/0.tar"}  # a training split is no test


def test_a_truncated_tar_is_read_up_to_its_last_whole_sample_and_is_a_failure(store, study_file):
    put_data(store)
    whole = store.get("a/00001.tar")
    store.put("a/00001.tar", whole[: len(whole) // 2])
    run = ingested(store, study_file)
    [(shard, key, reason)] = reasons(store, run)
    assert (shard, key) == ("00001.tar", None)
    assert reason.startswith("truncated or damaged shard, read up to its last whole sample: ")
    assert 14 < run.counts.done < 24
    for shard in shards_of(store, run.as_input()):  # and later stages read what there is
        assert [sample_id for sample_id, _ in read_images(store, shard)] == shard.sample_ids


@pytest.mark.parametrize("data", [b"", b"<html>404</html>" * 50])
def test_a_file_that_is_no_tar_is_a_failure(store, study_file, data):
    put_data(store)
    store.put("a/00001.tar", data)
    run = ingested(store, study_file)
    assert [shard for shard, _, _ in reasons(store, run)] == ["00001.tar"]
    assert run.counts.done == 14


@pytest.mark.parametrize("label", [b"6", b"-1", b"", b"cat", b"\xff"])
def test_an_unknown_label_is_a_failure(store, study_file, label):
    put_data(store)
    put_test_set(store, "t1", [*labelled([1]), ("x.png", IMAGE), ("x.cls", label)])
    [(_, key, reason)] = reasons(store, ingested(store, study_file, "t1"))
    assert key == "x"
    assert reason.startswith("unknown label '") and reason.endswith("': classnames.txt has 6 classes")


def test_samples_that_img2dataset_recorded_and_are_not_there_are_failures(store, study_file):
    put_data(store)
    for shard, successes in ((0, 17), (1, 10)):
        store.put(f"a/{shard:05d}_stats.json", json.dumps({"count": 20, "successes": successes}).encode())
    run = ingested(store, study_file)
    lost = ("00000.tar", None, "img2dataset recorded more samples than there are in the shard")
    assert reasons(store, run) == [lost] * 3
    assert [(row["listed"], row["done"], row["failed"]) for row in rows(store, run, "shards")] == [
        (17, 14, 3),
        (10, 10, 0),
    ]


@pytest.mark.parametrize("record", [b"{", b"[]", b"{}", b'{"successes": null}'])
def test_a_record_that_is_none_is_named(store, study_file, record):
    put_data(store)
    store.put("a/00000_stats.json", record)
    with pytest.raises(SimgapError, match=r"a/00000_stats.json: not img2dataset's record of a shard: "):
        ingested(store, study_file)


def refusal(store: Store, study_file: Path) -> str:
    """What ingesting the data, and planning the stage after it, is refused with."""

    def go() -> None:
        made = run_study(store, study_file, until="ingest")
        flow.plan(store, made.resolved, "embed", None, made.roles)

    with pytest.raises(SimgapError) as refused:
        go()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def with_weights(study_file: Path) -> None:
    (study_file.parent / "w.pt").touch()
    study_file.write_text(AUDIT.replace("WEIGHTS", str(study_file.parent / "w.pt")))


def test_a_data_set_without_shards_is_named(store, study_file):
    put_data(store)
    store.delete("ref/00000.tar")
    told = refusal(store, study_file)
    assert told.startswith(f"reference ref: no .tar under 'ref' in {store.root}; put its shards there")


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([], "its shards are empty"),
        ([("x.png", b"no image"), ("x.txt", b"c")], "1 failed, most of them: the image does not decode: "),
    ],
)
@pytest.mark.parametrize("dataset", ["ref", "b"])
def test_a_data_set_of_which_nothing_can_be_used_is_named(store, study_file, dataset, members, why):
    with_weights(study_file)
    put_data(store)
    put_pool(store, dataset, members)
    assert refusal(store, study_file).startswith(f"data set {dataset}: none of its samples can be used ({why}")


def test_a_split_for_the_encoder_is_refused_of_nothing(store, study_file):
    put_data(store)
    put_pool(store, "b", [])
    trained = 'encoder = { trained_on = "everything" }\ntrain = { model = "m", samples_seen = 1, epochs = 1, batch_size = 1,' \
        " learning_rate = 1, warmup_steps = 0, seeds = [0] }"  # fmt: skip
    study_file.write_text(re.sub("encoder = .*", trained, AUDIT))
    made = run_study(store, study_file, until="ingest")
    with pytest.raises(SimgapError, match=r"^data set b: none of its samples can be used"):
        flow.plan(store, made.resolved, "split", "encoder", made.roles)


@pytest.mark.parametrize("name", ["classnames.txt", "zeroshot_classification_templates.txt"])
def test_a_test_set_without_its_texts_is_named(store, study_file, name):
    put_data(store)
    store.delete(f"t1/{name}")
    told = refusal(store, study_file)
    assert told.startswith("test set t1: classnames.txt or zeroshot_classification_templates.txt is missing under 't1'")


def test_class_names_that_are_not_utf8_are_named(store, study_file):
    put_data(store)
    store.put("t1/classnames.txt", b"caf\xe9\n")
    assert "t1/classnames.txt: not UTF-8: " in refusal(store, study_file)


def test_a_number_of_shards_that_is_none_is_named(store, study_file):
    put_data(store)
    store.put("t1/test/nshards.txt", b"many")
    assert refusal(store, study_file).endswith("t1/test/nshards.txt: has to hold the number of shards, not 'many'")


def test_a_shard_changed_after_ingest_is_refused(store, study_file):
    put_data(store)
    first, *_ = shards_of(store, ingested(store, study_file).as_input())
    store.put("a/00000.tar", tar(pairs(0, 13)))
    with pytest.raises(SimgapError, match=r"a/00000.tar: changed since it was ingested; start the study again"):
        list(read_images(store, first))


def test_a_shard_that_is_gone_is_named(store, study_file):
    put_data(store)
    first, *_ = shards_of(store, ingested(store, study_file).as_input())
    store.delete("a/00000.tar")
    with pytest.raises(SimgapError, match=r"a/00000.tar: no such object"):
        list(read_images(store, first))


def test_a_shard_written_anew_with_the_same_bytes_is_the_same(store, study_file):
    put_data(store)
    first, *_ = shards_of(store, ingested(store, study_file).as_input())
    store.put("a/00000.tar", store.get("a/00000.tar"))
    assert store.head("a/00000.tar").etag != first.etag
    assert [sample_id for sample_id, _ in read_images(store, first)] == first.sample_ids


def test_a_store_that_was_moved_holds_the_same(store, study_file, tmp_path):
    put_data(store)
    run = ingested(store, study_file)
    shutil.copytree(tmp_path / "store", tmp_path / "moved", ignore=shutil.ignore_patterns("runs"))
    moved = ingested(Store(f"file://{tmp_path}/moved"), study_file)
    assert moved.content == run.content


def test_data_is_used_where_it_lies(store, study_file, tmp_path):
    put_data(store)
    content = ingested(store, study_file).content
    shutil.copytree(tmp_path / "store" / "a", tmp_path / "other place")
    study_file.write_text(AUDIT.replace("a/*.tar", f"file://{tmp_path}/other place/*.tar"))
    elsewhere = ingested(store, study_file)
    assert elsewhere.content == content
    assert rows(store, elsewhere, "shards")[0]["uri"] == f"file://{tmp_path}/other place/00000.tar"


def test_shards_that_would_share_ids_are_refused(store, monkeypatch):
    monkeypatch.setattr("simgap.stages.ingest.first_sample_id", lambda dataset, shard: 0)
    put_pool(store, "a", pair("x"), pair("y"))
    shards = [Shard(path=e.path, uri=e.path, size=e.size, etag=e.etag) for e in store.list("a")]
    request = Ingest(name="a", role="pool", shards=shards)
    runs.begin(store, request)
    with pytest.raises(SimgapError, match=r"a: a/00000.tar and a/00001.tar would share sample ids; rename one"):
        worker.do_run(store, request.path)


def test_the_content_does_not_depend_on_the_cut_into_units(tmp_path, study_file, monkeypatch):
    contents = set()
    for bytes_a_unit in (1 << 30, 1):
        monkeypatch.setattr("simgap.requests.BYTES_A_UNIT", bytes_a_unit)
        store = Store(f"file://{tmp_path}/{bytes_a_unit}")
        put_data(store)
        run = ingested(store, study_file)
        contents.add(run.content)
        assert len(run.who) == (2 if bytes_a_unit == 1 else 1)
    assert len(contents) == 1


def images() -> dict[str, bytes]:
    out = {}
    for kind in ("png", "jpeg", "webp"):
        file = io.BytesIO()
        Image.open(io.BytesIO(IMAGE)).save(file, kind)
        out[kind] = file.getvalue()
    return out


IMAGES = images()


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.sampled_from(sorted(IMAGES)),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.data(),
)
def test_damaged_images_decode_or_are_unusable_and_end_nothing(kind, changes, data):
    image = bytearray(IMAGES[kind])
    for place, value in changes:
        image[place % len(image)] = value
    length = data.draw(st.integers(0, len(image)))
    try:
        size = _decoded_size(bytes(image[:length]))
    except Unusable:
        return  # any other exception would end the unit
    assert all(side > 0 for side in size)
