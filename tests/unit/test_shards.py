"""Samples of webdataset tars: grouped as webdataset groups them, and never half of one."""

import io
import tarfile
from contextlib import suppress
from hashlib import sha256

import pytest
import webdataset
from corpus import odd_tars
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
BEHIND = "more lies behind the tar's end, where no reader looks: another tar, or garbage"


def read(data: bytes) -> list[tuple[int, str, dict[str, bytes]]]:
    return [(s.position, s.key, s.parts) for s in read_samples(io.BytesIO(data))]


def until_broken(data: bytes) -> tuple[list[tuple[int, str, dict[str, bytes]]], str]:
    """The samples before the break, and what is said of it."""
    found: list[tuple[int, str, dict[str, bytes]]] = []
    with pytest.raises(BrokenShard) as broken:
        found.extend((s.position, s.key, s.parts) for s in read_samples(io.BytesIO(data)))
    return found, str(broken.value)


folders = st.sampled_from(["", "x/", "x.y/", "./z/", "x/.", "x/._", "y\nz/"])
keys = st.text("ab1_", min_size=1, max_size=3)
suffixes = st.sampled_from(["png", "PNG", "txt", "json", "seg.png", "a.b", "cls"])
names = st.builds("{}{}.{}".format, folders, keys, suffixes) | st.sampled_from(["._a.png", "README"])


@given(st.lists(names, max_size=12, unique_by=str.lower))
def test_members_are_grouped_as_webdataset_groups_them(members):
    data = tar([(name, name.encode()) for name in members])
    files = tariterators.tar_file_iterator(io.BytesIO(data))
    grouped = tariterators.group_by_keys({**file, "__url__": ""} for file in files)
    expected = [(s["__key__"], {k: v for k, v in s.items() if k not in ("__key__", "__url__")}) for s in grouped]
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


def laid_out(members: list[tuple[str, bytes]]) -> tuple[bytes, list[range]]:
    """A tar, and where its headers are; after the last one's data come the end's two blocks and padding."""
    headers, start = [], 0
    for _, data in members:
        headers.append(range(start, start + 512))
        start += 512 + -(-len(data) // 512) * 512
    return tar(members), [*headers, range(start, start + 1024)]


contents = st.binary(max_size=600) | st.sampled_from([b"", bytes(512), bytes(1024)])
tars = st.lists(st.tuples(names, contents), max_size=8).map(laid_out)


@given(tars, st.data())
def test_a_tar_cut_anywhere_yields_whole_samples_and_breaks(tar_and_headers, data):
    whole, headers = tar_and_headers
    length = data.draw(st.integers(0, len(whole)))
    if length >= headers[-1].stop:  # only padding after the end's two blocks is missing
        assert read(whole[:length]) == read(whole)
        return
    found, _ = until_broken(whole[:length])
    assert found == read(whole)[: len(found)]


@given(tars, st.data())
def test_a_flipped_byte_in_a_header_breaks_the_tar_there_and_one_in_contents_changes_them_alone(tar_and_headers, data):
    """A tar has checksums of its headers, not of what they lead to: ingest's sha256 of a shard is for those."""
    whole, headers = tar_and_headers
    place, flip = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    flipped = whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :]
    expected = read(whole)
    if place >= headers[-1].stop:
        assert until_broken(flipped) == (expected, BEHIND)
    elif any(place in header for header in headers):
        try:
            assert read(flipped) == expected  # a byte that says nothing, such as a blank after the checksum
        except BrokenShard:
            found, _ = until_broken(flipped)
            assert found == expected[: len(found)]
    else:
        shapes = [
            [(p, key, {k: len(v) for k, v in parts.items()}) for p, key, parts in s] for s in (read(flipped), expected)
        ]
        assert shapes[0] == shapes[1]


@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=20), st.sampled_from(sorted(odd_tars())))
def test_any_damage_ends_in_samples_or_a_broken_shard(changes, name):
    damaged = bytearray(odd_tars()[name])
    for place, value in changes:
        damaged[place] = value
    with suppress(BrokenShard):
        read(bytes(damaged))


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
