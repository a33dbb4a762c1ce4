"""Samples of webdataset tars: grouped as webdataset groups them, and never half of one."""

import io
import tarfile
from hashlib import sha256

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from making import tar
from webdataset import tariterators

from simgap.shards import POSITION_BITS, BrokenShard, first_sample_id, position_of, read_samples

SAMPLES = [
    ("a.png", b"1" * 700),
    ("a.txt", b"one"),
    ("b.png", b"2" * 512),
    ("b.txt", b"two"),
    ("c.png", b""),
    ("c.txt", b"3"),
]
WHOLE = tar(SAMPLES)


def read(data: bytes) -> list[tuple[int, str, dict[str, bytes]]]:
    return [(s.position, s.key, s.parts) for s in read_samples(io.BytesIO(data))]


def until_broken(data: bytes) -> tuple[list[tuple[int, str, dict[str, bytes]]], str]:
    """The samples before the break, and what is said of it."""
    found: list[tuple[int, str, dict[str, bytes]]] = []
    with pytest.raises(BrokenShard) as broken:
        found.extend((s.position, s.key, s.parts) for s in read_samples(io.BytesIO(data)))
    return found, str(broken.value)


folders = st.sampled_from(["", "x/", "x.y/", "./z/"])
keys = st.text("ab1_", min_size=1, max_size=3)
suffixes = st.sampled_from(["png", "PNG", "txt", "json", "seg.png", "a.b", "cls"])
names = st.builds("{}{}.{}".format, folders, keys, suffixes) | st.sampled_from(["._a.png", "README"])


@given(st.lists(names, max_size=12, unique_by=str.lower))
def test_members_are_grouped_as_webdataset_groups_them(members):
    data = tar([(name, name.encode()) for name in members])
    files = tariterators.tar_file_iterator(io.BytesIO(data))
    grouped = tariterators.group_by_keys({**file, "__url__": ""} for file in files)
    expected = [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in grouped]
    assert [(key, parts) for _, key, parts in read(data)] == expected


def test_its_own_writers_tars_are_read_as_they_were_written(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as sink:
        for n in range(3):
            sink.write({"__key__": f"{n:04d}", "txt": f"caption {n}", "bin": b"%d" % n})
    assert read((tmp_path / "0.tar").read_bytes()) == [
        (n, f"{n:04d}", {"txt": f"caption {n}".encode(), "bin": b"%d" % n}) for n in range(3)
    ]


def test_a_suffix_that_comes_again_begins_a_new_sample():
    found = read(tar([("a.png", b"1"), ("a.txt", b"2"), ("a.png", b"3")]))
    assert found == [(0, "a", {"png": b"1", "txt": b"2"}), (1, "a", {"png": b"3"})]


def test_folders_and_links_are_no_samples_and_a_key_may_begin_with_underscores():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind in (("d", tarfile.DIRTYPE), ("__note__", tarfile.REGTYPE), ("d/__k.txt", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
    assert read(out.getvalue()) == [(0, "d/__k", {"txt": b""})]


def test_long_names_are_read():
    name = "d" * 120 + "/" + "k" * 120
    assert read(tar([(f"{name}.txt", b"x")])) == [(0, name, {"txt": b"x"})]


@pytest.mark.parametrize("length", range(0, len(WHOLE), 512))
def test_a_tar_cut_anywhere_breaks_after_whole_samples(length):
    whole = read(WHOLE)
    end = next(n for n in range(len(WHOLE), 0, -512) if WHOLE[n - 512 : n].strip(b"\0"))
    if length >= end + 1024:  # no more than padding after the end's two blocks is missing
        assert read(WHOLE[:length]) == whole
        return
    found, _ = until_broken(WHOLE[:length])
    assert found == whole[: len(found)]


@pytest.mark.parametrize("length", [100, 600, 1300, 2600])
def test_a_tar_cut_within_a_block_breaks(length):
    found, _ = until_broken(WHOLE[:length])
    assert found == read(WHOLE)[: len(found)]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "not a whole tar: empty file"),
        (b"no tar at all" * 100, "not a whole tar"),
        (tar(SAMPLES).rstrip(b"\0") + bytes(512), "the shard's end is missing"),
        (WHOLE[:1536] + b"x" * 512 + WHOLE[2048:], "the shard's end is missing"),
    ],
)
def test_why_a_tar_is_broken_is_told(data, told):
    _, why = until_broken(data)
    assert told in why


def test_an_archive_of_nothing_has_no_samples():
    assert read(tar([])) == []


@given(st.text(max_size=5), st.text(max_size=5), st.integers(0, 2**POSITION_BITS - 1))
def test_ids_are_43_bits_of_the_shard_and_20_of_the_position(dataset, shard, position):
    first = first_sample_id(dataset, shard)
    assert 0 <= first < 2**63
    assert first % 2**20 == 0
    assert position_of(first + position) == position


def test_ids_belong_to_the_data_set_and_the_shards_name():
    ids = {first_sample_id(dataset, shard) for dataset in "ab" for shard in ("0.tar", "1.tar")}
    assert len(ids) == 4
    assert first_sample_id("a", "0.tar") == int(sha256(b"a/0.tar").hexdigest(), 16) >> (256 - 43) << 20
