"""The similarity of two stored vectors: their cosine in float64, the same to the last bit however it is computed.

The product of two float16 numbers is a multiple of 2**-48, and by Cauchy-Schwarz no partial sum of a dot product exceeds
|a| |b|. While that is at most 32, every partial sum fits into a double's 53 bits: dot products and squared norms are exact,
in any order, on any machine. What is rounded after them (a product, a root, a quotient) is rounded as IEEE 754 says.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from simgap.errors import SimgapError

LARGEST_SQUARED_NORM = 32.0


@dataclass(frozen=True)
class Vectors:
    """Stored vectors whose similarities are exact: ids int64 [n], values float16 [n, d], squared_norms float64 [n]."""

    ids: np.ndarray
    values: np.ndarray
    squared_norms: np.ndarray

    @classmethod
    def checked(cls, ids: np.ndarray, values: np.ndarray, of: str = "sample") -> Self:
        """Vectors `values` float16 [n, d] of the samples `ids` int64 [n].

        Raises SimgapError, naming the first id, for a vector that is zero, not finite, or too long to be a unit vector.
        """
        if values.dtype != np.float16 or values.shape[:1] != ids.shape:
            raise ValueError(f"want float16 [{len(ids)}, d], not {values.dtype} {list(values.shape)}")
        wide = values.astype(np.float64)
        squared_norms = np.einsum("ij,ij->i", wide, wide)
        refused = ~((squared_norms > 0) & (squared_norms <= LARGEST_SQUARED_NORM))
        if refused.any():
            first = int(refused.argmax())
            raise SimgapError(
                f"{of} {ids[first]}: its vector has squared norm {squared_norms[first]:g}, not 1;"
                f" {refused.sum()} of {len(ids)} vectors cannot be used, embed them again"
            )
        return cls(ids, values, squared_norms)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> Self:
        return type(self)(self.ids[rows], self.values[rows], self.squared_norms[rows])


def cosines(dots: np.ndarray, left_squared_norms: np.ndarray, right_squared_norms: np.ndarray) -> np.ndarray:
    """The definition, in float64: dot(a, b) / sqrt(|a|^2 |b|^2). The three arguments are broadcast."""
    return dots / np.sqrt(left_squared_norms * right_squared_norms)


def similarities(left: Vectors, right: Vectors) -> np.ndarray:
    """The similarity of every pair, float64 [len(left), len(right)]."""
    dots = left.values.astype(np.float64) @ right.values.astype(np.float64).T
    return cosines(dots, left.squared_norms[:, None], right.squared_norms)
