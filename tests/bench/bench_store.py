"""What reading through the store costs beside obstore alone: make bench, with `minio` on the PATH.

Prints MB/s and ratios, measured in turns in one run, each with one request at a time. Not a test: nothing here is asserted.
"""

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from buckets import Bucket, Minio, found_program
from making import pair, tar
from obstore.store import from_url

from simgap.shards import Sample, read_samples
from simgap.stages.vectors import stream_vectors
from simgap.store import BLOCK_BYTES, Store

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=200, help="size of the shard")
    megabytes = parser.parse_args().mb
    with tempfile.TemporaryDirectory() as folder:
        server = Minio(found_program() or sys.exit("put `minio` on the PATH"), Path(folder))
        server.start()
        try:
            server.wait_until_ready()
            bucket = Bucket("bench", server.endpoint)
            bucket.create()
            os.environ.update(bucket.environment("x"))
            compare(Store(bucket.store("x")), megabytes)
        finally:
            server.kill()


def compare(store: Store, megabytes: int) -> None:
    alone = from_url(store.root, client_options={"allow_http": True})
    store.put("shard.tar", shard(megabytes))
    store.put("embeddings.parquet", embeddings(megabytes))

    def blocks(path: str) -> Iterator[memoryview]:
        """What obstore alone reads, a block at a time."""
        size = obstore.head(alone, path)["size"]
        for start in range(0, size, BLOCK_BYTES):
            yield memoryview(obstore.get_range(alone, path, start=start, end=min(start + BLOCK_BYTES, size)))

    def whole(path: str) -> io.BytesIO:
        return io.BytesIO(b"".join(blocks(path)))

    def read(path: str) -> int:
        with store.reader(path) as file:
            return sum(len(data) for data in iter(lambda: file.read(1 << 20), b""))

    def samples() -> int:
        with store.reader("shard.tar") as file:
            return sum_of(read_samples(file))

    def vectors() -> int:
        return sum(found.nbytes for _, found in stream_vectors(store, ("embeddings.parquet",)))

    def groups() -> int:
        parquet = pq.ParquetFile(whole("embeddings.parquet"))
        return sum(parquet.read_row_group(n)["vector"].nbytes for n in range(parquet.num_row_groups))

    show("a shard's bytes", lambda: sum(map(len, blocks("shard.tar"))), lambda: read("shard.tar"))
    show("a shard's samples", lambda: sum_of(read_samples(whole("shard.tar"))), samples)
    show("embeddings", groups, vectors)


def sum_of(samples: Iterable[Sample]) -> int:
    return sum(len(data) for sample in samples for data in sample.parts.values())


def show(what: str, alone: Callable[[], int], ours: Callable[[], int]) -> None:
    """The best of some rounds in turns, which other work on the machine disturbs least."""
    seconds, size = {"obstore alone": [], "the store": []}, 0
    for _ in range(ROUNDS):
        for measured, action in zip(seconds.values(), (alone, ours), strict=True):
            started = time.perf_counter()
            size = action()
            measured.append(time.perf_counter() - started)
    best = {name: min(measured) for name, measured in seconds.items()}
    speeds = " · ".join(f"{name} {size / 1e6 / s:,.0f} MB/s" for name, s in best.items())
    print(f"{what:20} {speeds} · ratio {best['obstore alone'] / best['the store']:.2f}")


def shard(megabytes: int) -> bytes:
    """A tar of samples of about 50 kB each, as photographs are."""
    noise = np.random.default_rng(0).bytes(50_000)
    return tar(
        [
            (name, noise if name.endswith(".png") else data)
            for n in range(megabytes * 20)
            for name, data in pair(f"{n:09d}")
        ]
    )


def embeddings(megabytes: int) -> bytes:
    """Row groups of 10,000 vectors with 512 dimensions, as table embeddings has them."""
    rng, out, rows, dimensions = np.random.default_rng(0), io.BytesIO(), 10_000, 512
    schema = pa.schema([("sample_id", pa.int64()), ("vector", pa.list_(pa.float16(), dimensions))])
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for n in range(max(1, megabytes // 10)):
            drawn = rng.standard_normal((rows, dimensions), np.float32).astype(np.float16)
            columns = [
                pa.array(np.arange(n * rows, (n + 1) * rows)),
                pa.FixedSizeListArray.from_arrays(pa.array(drawn.ravel()), dimensions),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=rows)
    return out.getvalue()


if __name__ == "__main__":
    main()
