"""Stored vectors as arrays."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simgap import runs
from simgap.request import Input
from simgap.store import Store


def load_vectors(store: Store, source: Input) -> tuple[np.ndarray, np.ndarray]:
    """All of a run's sample ids, int64 [n], and vectors, float16 [n, d], by id."""
    return sort_by_id(*to_arrays(runs.read(store, source, "embeddings", ["sample_id", "vector"])))


def stream_vectors(store: Store, paths: tuple[str, ...]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(sample ids, vectors) of one row group after another: memory does not depend on the pool's size."""
    for path in paths:
        with store.reader(path) as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                yield to_arrays(parquet.read_row_group(group, columns=["sample_id", "vector"]))


def to_arrays(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Sample ids, int64 [n], and vectors, float16 [n, d], of rows of table embeddings."""
    column = table["vector"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    return table["sample_id"].to_numpy(), values.reshape(table.num_rows, -1)


def sort_by_id(sample_ids: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(sample_ids)
    return sample_ids[order], vectors[order]
