"""A shard that is replaced, written to or deleted while a study runs: later stages read what ingest read, or say so."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from making import pair, put_pool, tar

from simgap import requests, runs, worker
from simgap.errors import Changed, Missing, SimgapError
from simgap.shards import read_samples
from simgap.stages.images import ShardSamples, read_images, shards_of
from simgap.stages.stream import Plan, Shard, write_part
from simgap.store import Store

SHARD = "a/00000.tar"
OLD, NEW = (tar([m for n in range(12) for m in pair(f"{n:03d}", n + seed)]) for seed in (0, 50))
CHANGED = r"a/00000\.tar: changed since it was ingested; start the study again$"


def replace(store: Store) -> None:
    store.put(SHARD, NEW)


def overwrite(store: Store) -> None:
    """In place: who has the file open sees it change."""
    with Path(store.url(SHARD).removeprefix("file://")).open("r+b") as file:
        file.write(NEW)


@pytest.fixture(autouse=True)
def read_in_small_parts(monkeypatch):
    monkeypatch.setattr("simgap.store.BLOCK_BYTES", 2048)
    monkeypatch.setattr("simgap.store.BUFFER_BYTES", 2048)


@pytest.fixture
def shard(store) -> ShardSamples:
    """Ingested as it is."""
    assert len(OLD) == len(NEW)
    put_pool(store, "a", [])
    store.put(SHARD, OLD)
    entry = store.head(SHARD)
    listed = requests.Shard(path="00000.tar", uri=SHARD, size=entry.size, etag=entry.etag)
    request = requests.Ingest(name="a", role="pool", shards=[listed])
    runs.begin(store, request)
    [shard] = shards_of(store, worker.do_run(store, request.path).as_input())
    return shard


def images_of(data: bytes, tmp_path: Path) -> list[bytes | None]:
    (tmp_path / "x.tar").write_bytes(data)
    with (tmp_path / "x.tar").open("rb") as file:
        return [sample.image for sample in read_samples(file)]


def until_refused(images: Iterator[tuple[int, bytes]], kind: type[SimgapError], told: str) -> list[bytes]:
    found: list[bytes] = []
    with pytest.raises(kind, match=told):
        found.extend(image for _, image in images)
    return found


@pytest.mark.parametrize("change", [replace, overwrite])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_images_are_of_what_was_ingested_until_a_change_is_told(store, shard, tmp_path, change: Callable, after: int):
    images, old = read_images(store, shard), images_of(OLD, tmp_path)
    found = [next(images)[1] for _ in range(after)]
    change(store)
    found += until_refused(images, SimgapError, CHANGED)
    assert found == old[: len(found)]


def test_a_shard_that_is_deleted_while_it_is_read_is_named(store, shard, tmp_path):
    images = read_images(store, shard)
    found = [next(images)[1]]
    store.delete(SHARD)
    found += until_refused(images, Missing, r"a/00000\.tar: no such object$")
    assert found == images_of(OLD, tmp_path)[: len(found)]


def test_a_change_in_between_the_check_and_the_read_is_told(store, shard, monkeypatch):
    head, seen = Store.head, []

    def replaced_after(self, uri):
        entry = head(self, uri)
        seen.append(replace(store))
        return entry

    monkeypatch.setattr(Store, "head", replaced_after)
    assert until_refused(read_images(store, shard), SimgapError, CHANGED) == [] and seen


def test_a_moved_shard_that_changes_after_its_checksum_was_found_right_is_told(store, shard):
    store.put(SHARD, OLD)
    assert store.head(SHARD).etag != shard.etag
    images = read_images(store, shard)
    found = [next(images)[1]]
    replace(store)
    assert len(found + until_refused(images, SimgapError, CHANGED)) < 12


class _Pipe:
    """Where a part of an epoch goes; something happens at its first bytes."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self.data, self._happens = b"", happens

    def write(self, data: bytes) -> int:
        if not self.data:
            self._happens()
        self.data += data
        return len(data)


@pytest.mark.parametrize("change", [replace, overwrite])
def test_training_ends_when_a_shard_changes_during_its_stream(store, shard, tmp_path, change):
    ids = np.array(shard.sample_ids)
    plan = Plan(
        store.root,
        [Shard(SHARD, shard.etag, shard.sha256, len(ids))],
        seed=0,
        parts=1,
        samples_a_part=12,
        sample_ids=ids,
    )
    out = _Pipe(lambda: change(store))
    with pytest.raises(SimgapError, match=CHANGED):
        write_part(plan, tmp_path, 0, 0, out)  # pyright: ignore[reportArgumentType]
    assert out.data and not (tmp_path / "yielded-0-0.npy").exists()


def test_ingest_never_takes_a_shard_that_changes_while_it_is_copied(store, tmp_path):
    store.put(SHARD, OLD)
    etag = store.head(SHARD).etag
    store.download(SHARD, tmp_path / "x", etag)
    assert (tmp_path / "x").read_bytes() == OLD
    replace(store)
    with pytest.raises(Changed):
        store.download(SHARD, tmp_path / "x", etag)


def test_a_file_written_to_while_it_is_copied_is_told(store):
    store.put(SHARD, OLD)
    with store.reader(SHARD, store.head(SHARD).etag) as file:
        assert file.read(1)
        overwrite(store)
        with pytest.raises(Changed, match=r"a/00000\.tar: changed while it was read"):
            file.read()


def test_a_rows_etag_is_of_the_bytes_that_ingest_read(store):
    store.put(SHARD, OLD)
    listed = requests.Shard(path="00000.tar", uri=SHARD, size=len(OLD), etag=store.head(SHARD).etag)
    replace(store)  # after the listing
    request = requests.Ingest(name="a", role="pool", shards=[listed])
    runs.begin(store, request)
    [shard] = shards_of(store, worker.do_run(store, request.path).as_input())
    assert shard.etag == store.head(SHARD).etag != listed.etag
    assert len(list(read_images(store, shard))) == 12
