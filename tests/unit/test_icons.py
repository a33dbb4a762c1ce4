"""fetch: icons of an npm package become shards and test sets, the same bytes each time."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simgap import requests, runs, study, worker
from simgap.errors import SimgapError
from simgap.kernels.icons import TONES, common_names, draw, read_set, to_svg, without_skin_tones
from simgap.request import Input
from simgap.shards import read_samples
from simgap.store import Store

PACKAGE = Path(__file__).parent.parent / "data" / "icons"
ASKED = study.Fetch(
    package=str(PACKAGE), size_px=24, most={"twemoji": 20, "openmoji": 20, "bi": 20},
    images={"emoji": ["twemoji", "openmoji"], "interface": ["bi"]},
    tests={"v2": "noto-v1"}, concepts=["noto", "noto-v1", "fluent-emoji-high-contrast"],
)  # fmt: skip
BODY = '<path d="M0 0h8v4H0z"/>'


def icon_set(icons: dict[str, dict], **others) -> dict:
    return {"prefix": "set", "info": {"license": {"spdx": "MIT"}}, "icons": icons} | others


def fetched(store: Store, asked: study.Fetch) -> Input:
    request = requests.Fetch(name="icons", icons=asked)
    runs.begin(store, request)
    return worker.do_run(store, request.path).as_input()


def read_file(store: Store, run: Input, name: str) -> bytes:
    return store.get(runs.files(store, run)[name])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Input]:
    store = Store(f"file://{tmp_path_factory.mktemp('icons')}")
    return store, fetched(store, ASKED)


def test_a_set_that_only_ends_in_a_tone_is_no_skin_tone():
    hands = [f"hand-{tone}" for tone in TONES]
    assert without_skin_tones(["hand", *hands, "acorn-light", "acorn", "hat-dark-skin-tone"]) == [
        "acorn",
        "acorn-light",
        "hand",
    ]


@given(st.sets(st.sampled_from(["a", "b", *(f"{base}-{tone}" for base in "ab" for tone in TONES)])))
def test_leaving_skin_tones_out_twice_changes_nothing(names):
    assert without_skin_tones(without_skin_tones(names)) == without_skin_tones(names)


def test_hidden_icons_and_aliases_stay_out():
    document = icon_set(
        {"a": {"body": BODY}, "old": {"body": BODY, "hidden": True}}, aliases={"b": {"parent": "a", "hFlip": True}}
    )
    assert [icon.name for icon in read_set(document)] == ["a"]


def test_at_most_so_many_are_the_same_names_in_every_set():
    names = {f"name-{n}": {"body": BODY} for n in range(50)}
    one, other = read_set(icon_set(names), 10), read_set(icon_set({**names, "zebra": {"body": BODY}}), 11)
    assert len(one) == 10 and {icon.name for icon in one} <= {icon.name for icon in other} | {"zebra"}


def test_common_names_stand_in_every_set():
    sets = [read_set(icon_set({name: {"body": BODY} for name in names})) for names in ("abc", "bcd", "cbx")]
    assert common_names(sets) == ["b", "c"]


def test_an_icon_is_centred_and_keeps_its_proportions():
    document = icon_set({"bar": {"body": BODY, "width": 8, "height": 4}})
    drawing = draw(to_svg(document, "bar"), 16)
    assert isinstance(drawing, bytes)
    pixels = Image.open(io.BytesIO(drawing)).convert("L")
    rows = [y for y in range(16) if pixels.tobytes()[16 * y + 8] < 128]
    assert pixels.size == (16, 16) and rows == list(range(4, 12))


def test_what_cannot_be_drawn_says_why():
    assert isinstance(draw("<svg", 16), str)


def test_samples_are_what_img2dataset_writes(made):
    samples = list(read_samples(io.BytesIO(read_file(*made, "emoji/00000.tar"))))
    about = [json.loads(sample.parts["json"]) for sample in samples]
    assert [sample.key for sample in samples] == [f"00000{n:04d}" for n in range(40)]
    assert all(
        sample.parts["txt"].decode() == a["caption"] and "-" not in a["caption"]
        for sample, a in zip(samples, about, strict=True)
    )
    assert {(a["source"], a["licence"]) for a in about} == {("twemoji", "CC-BY-4.0"), ("openmoji", "CC-BY-SA-4.0")}
    assert {Image.open(io.BytesIO(sample.image or b"")).size for sample in samples} == {(24, 24)}
    assert json.loads(read_file(*made, "emoji/00000_stats.json"))["successes"] == 40


def test_sources_are_mixed_in_a_shard(made):
    sources = [
        json.loads(s.parts["json"])["source"] for s in read_samples(io.BytesIO(read_file(*made, "emoji/00000.tar")))
    ]
    assert len(set(sources[:20])) == len(set(sources[20:])) == 2


def test_a_test_set_is_what_clip_benchmark_reads(made):
    classes = read_file(*made, "v2/classnames.txt").decode().splitlines()
    samples = list(read_samples(io.BytesIO(read_file(*made, "v2/test/0.tar"))))
    assert len(classes) == len(samples) == 32 and sorted(classes) == classes
    for sample in samples:
        assert classes[int(sample.parts["cls"])] == json.loads(sample.parts["json"])["caption"]
    assert read_file(*made, "v2/test/nshards.txt").strip() == b"1"
    assert b"{c}" in read_file(*made, "v2/zeroshot_classification_templates.txt")


def test_a_card_names_authors_and_licences(made):
    card = read_file(*made, "emoji/README.md").decode()
    assert "OpenMoji" in card and "CC-BY-SA-4.0" in card


def test_the_same_request_makes_the_same_bytes(made, store):
    assert fetched(store, ASKED).content == made[1].content


def test_a_wrong_checksum_is_refused(store):
    with pytest.raises(SimgapError, match="its integrity is sha512-"):
        fetched(store, ASKED.model_copy(update={"integrity": "sha512-AAAA"}))


def test_an_unknown_set_is_named(store):
    with pytest.raises(SimgapError, match="no icon set emojipedia"):
        fetched(store, ASKED.model_copy(update={"images": {"emoji": ["emojipedia"]}}))


def test_a_test_set_without_a_concept_is_refused(store):
    with pytest.raises(SimgapError, match="name the set in concepts"):
        fetched(store, ASKED.model_copy(update={"tests": {"v2": "bi"}}))


def test_an_icon_that_cannot_be_drawn_is_counted_and_told(tmp_path, store):
    (tmp_path / "json").mkdir()
    (tmp_path / "package.json").write_text('{"name": "broken", "version": "1.0.0"}')
    document = icon_set({"good": {"body": BODY}, "bad": {"body": "<path"}})
    document["info"] |= {"name": "Set", "author": {"name": "Nobody"}}
    (tmp_path / "json" / "set.json").write_text(json.dumps(document))
    asked = study.Fetch(package=str(tmp_path), images={"pool": ["set"]}, tests={}, concepts=["set"])
    run = fetched(store, asked)
    [failure] = runs.read(store, run, "failures").to_pylist()
    assert (failure["dataset"], failure["shard"]) == ("pool", "00000.tar") and "set:bad" in failure["reason"]
    counts = runs.load(store, run).counts
    assert (counts.listed, counts.done, counts.failed) == (2, 1, 1)
    assert [s.key for s in read_samples(io.BytesIO(read_file(store, run, "pool/00000.tar")))] in (
        ["000000000"],
        ["000000001"],
    )


def test_members_carry_no_time(made):
    with tarfile.open(fileobj=io.BytesIO(read_file(*made, "emoji/00000.tar"))) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in tar} == {(0, 0, 0, "")}


def test_a_pools_processes_end_with_a_parent_that_was_killed():
    killed = """
import multiprocessing, os, signal
from concurrent.futures import ProcessPoolExecutor
from simgap.stages.fetch import end_with_parent
if __name__ == "__main__":
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
        print(*pool.map(abs, [1, 2]), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", killed], stdout=subprocess.PIPE, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (-9, b"1 2\n")  # all that held the pipe have ended
