"""A folder as the store."""

import io

import pytest

from simgap.errors import Missing, SimgapError
from simgap.store import Store


def test_what_was_put_is_there(store):
    store.put("a/b.txt", b"one")
    assert store.get("a/b.txt") == b"one"
    assert store.exists("a/b.txt") and not store.exists("a/c.txt")
    assert store.head("a/b.txt").size == 3
    store.delete("a/b.txt")
    assert not store.exists("a/b.txt")


def test_create_is_put_if_absent(store):
    assert store.create("x", b"first") is True
    assert store.create("x", b"second") is False
    assert store.get("x") == b"first"


def test_a_list_has_all_below_a_folder_by_path(store):
    for path in ("a/2", "a/1/z", "ab/1", "b"):
        store.put(path, b"12")
    assert [(entry.path, entry.size) for entry in store.list("a")] == [("a/1/z", 2), ("a/2", 2)]
    assert [entry.path for entry in store.list("")] == ["a/1/z", "a/2", "ab/1", "b"]
    assert store.list("nothing/here") == []


@pytest.mark.parametrize("name", ["a b.tar", "a%41.tar", "a#b?.tar", "é.tar", "2026-01-01T00:00:00+00:00/x"])
def test_names_are_taken_as_they_are(store, tmp_path, name):
    store.put(f"d/{name}", b"x")
    assert (tmp_path / "store" / "d" / name).read_bytes() == b"x"
    assert [entry.path for entry in store.list("d")] == [f"d/{name}"]
    assert store.reader(f"d/{name}").read() == b"x"


def test_an_etag_tells_that_an_object_changed(store):
    store.put("x", b"one")
    before = store.head("x").etag
    assert store.list("")[0].etag == before
    store.put("x", b"two!")
    assert store.head("x").etag != before


def test_a_reader_seeks_and_reads_in_parts(store):
    data = bytes(range(256)) * 9000  # more than is read ahead
    store.put("x", data)
    with store.reader("x") as file:
        assert file.read(10) == data[:10]
        assert file.tell() == 10
        file.seek(1_500_000)
        assert file.read(7) == data[1_500_000:1_500_007]
        file.seek(-5, io.SEEK_END)
        assert file.read() == data[-5:]
        assert file.read() == b""
        file.seek(0)
        assert file.read() == data


def test_files_go_up_and_down_whole(store, tmp_path):
    (tmp_path / "up").write_bytes(b"z" * 3_000_000)
    store.upload("x", tmp_path / "up")
    store.download("x", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == b"z" * 3_000_000


@pytest.mark.parametrize("read", ["get", "head", "reader", "delete"])
def test_a_missing_object_is_named_by_its_url(store, tmp_path, read):
    with pytest.raises(SimgapError) as missing:
        getattr(store, read)("no/such")
    assert str(missing.value) == f"file://{tmp_path}/store/no/such: no such object"


def test_a_missing_object_elsewhere_is_named_by_its_own_url(store, tmp_path):
    for read in (store.get, store.reader, lambda uri: store.download(uri, tmp_path / "x")):
        with pytest.raises(Missing) as missing:
            read(f"file://{tmp_path}/elsewhere/y")
        assert str(missing.value) == f"file://{tmp_path}/elsewhere/y: no such object"


def test_absolute_places_are_read_where_they_are(store, tmp_path):
    (tmp_path / "else where").mkdir()
    (tmp_path / "else where" / "0.tar").write_bytes(b"tar")
    [entry] = store.list(f"file://{tmp_path}/else where")
    assert entry.path == f"file://{tmp_path}/else where/0.tar"
    assert store.get(entry.path) == b"tar"
    assert store.reader(entry.path).read() == b"tar"


def test_a_url_within_the_store_is_the_stores(store):
    store.put("a/b", b"x")
    assert store.get(f"{store.root}/a/b") == b"x"
    assert store.url("a/b") == f"{store.root}/a/b"


@pytest.mark.parametrize("url", ["", "/plain/folder", "file://relative/folder", "http://host/bucket", "gs://bucket"])
def test_what_is_no_store_is_refused(url):
    with pytest.raises(SimgapError, match=r"a store is a folder, file:///path, or a bucket, s3://bucket/prefix"):
        Store(url)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SimgapError, match=f"file://{tmp_path}/file/store: .*Not a directory"):
        Store(f"file://{tmp_path}/file/store")


def test_the_default_is_a_folder_here_also_where_its_name_has_a_space(tmp_path, monkeypatch):
    (tmp_path / "my work").mkdir()
    monkeypatch.chdir(tmp_path / "my work")
    monkeypatch.delenv("SIMGAP_STORE", raising=False)
    Store.from_environment().put("x", b"1")
    assert (tmp_path / "my work/.simgap/store/x").exists()


def test_the_environment_names_a_store_by_url(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMGAP_STORE", (tmp_path / "a b").as_uri())
    Store.from_environment().put("x", b"1")
    assert (tmp_path / "a b/x").exists()
