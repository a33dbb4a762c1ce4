"""The images of samples that ingest listed, streamed from the shards where they lie."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from simgap import runs
from simgap.errors import Changed, SimgapError
from simgap.request import Input
from simgap.shards import BrokenShard, first_sample_id, read_samples
from simgap.store import Store


@dataclass(frozen=True)
class ShardSamples:
    """A shard, and those of its samples that are wanted, by id."""

    dataset: str
    shard: str
    uri: str
    etag: str
    sha256: str
    sample_ids: list[int]


def shards_of(store: Store, samples: Input, only: tuple[str, ...] = ()) -> list[ShardSamples]:
    """An ingested data set's shards (all, or those named), each with the samples that ingest found usable."""
    table = runs.read(store, samples, "samples", ["shard", "sample_id"])
    rows = runs.read(store, samples, "shards").to_pylist()
    return [
        ShardSamples(row["dataset"], row["shard"], row["uri"], row["etag"], row["sha256"], _ids(table, row["shard"]))
        for row in rows
        if (not only or row["shard"] in only) and row["done"]
    ]


def read_images(store: Store, shard: ShardSamples) -> Iterator[tuple[int, bytes]]:
    """(sample_id, encoded image) in the shard's order, for each wanted sample.

    Raises SimgapError when the shard changed since it was ingested, or lacks a sample.
    """
    first, wanted = first_sample_id(shard.dataset, shard.shard), set(shard.sample_ids)
    with (
        as_ingested(store, shard.uri, shard.etag, shard.sha256) as file,
        suppress(BrokenShard),  # ingest took what lies before the break
    ):
        for sample in read_samples(file):
            if (sample_id := first + sample.position) in wanted:
                wanted.discard(sample_id)
                yield sample_id, sample.image or b""
    if wanted:
        raise SimgapError(f"{store.url(shard.uri)}: lacks {len(wanted)} samples that ingest found in it")


@contextmanager
def as_ingested(store: Store, uri: str, etag: str, sha256: str) -> Iterator[BinaryIO]:
    """A shard to read, of which every byte is of the version that was ingested.

    That version is known by its etag; where the shard has another one, as in a store that was moved, by its checksum.
    Raises SimgapError for another version, whether it was there before or comes while the shard is read.
    """
    try:
        with store.reader(uri, _version_of(store, uri, etag, sha256)) as file:
            yield file
    except Changed as error:
        raise SimgapError(f"{store.url(uri)}: changed since it was ingested; start the study again") from error


def _version_of(store: Store, uri: str, etag: str, sha256: str) -> str:
    """The etag here and now of what was ingested."""
    there = store.head(uri).etag
    if there != etag and store.sha256(uri, there) != sha256:
        raise Changed(f"{uri}: has another checksum")
    return there


def _ids(table: pa.Table, shard: str) -> list[int]:
    return table.filter(pc.field("shard") == shard)["sample_id"].to_pylist()
