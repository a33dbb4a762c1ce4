"""Rows with columns that are the same in all of them."""

import numpy as np
import pyarrow as pa


def with_constants(columns: dict[str, np.ndarray], **constants: str | None) -> pa.Table:
    """A table of these columns, each constant a column before them."""
    rows = len(next(iter(columns.values())))
    same = {name: pa.array([value] * rows, pa.string()) for name, value in constants.items()}
    return pa.table(same | {name: pa.array(values) for name, values in columns.items()})
