"""The similarity of two stored vectors: their cosine in float64, the same to the last bit however it is computed.

The product of two float16 numbers is a multiple of 2**-48, and by Cauchy-Schwarz no partial sum of a dot product exceeds
|a| |b|. While that is at most 32, every partial sum fits into a double's 53 bits: dot products and squared norms are exact,
in any order, on any machine. What is rounded after them (a product, a root, a quotient) is rounded as IEEE 754 says.
"""

import warnings
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from simgap.errors import SimgapError

LARGEST_SQUARED_NORM = 32.0
FLOAT32_UNIT = 2.0**-24  # half the distance from 1 to the next float32

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


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

    def wide(self, device: str) -> torch.Tensor:
        """The values as float64 [n, d]."""
        return torch.tensor(self.values).to(device).double()

    def unit(self, wide: torch.Tensor) -> torch.Tensor:
        """`wide` divided by the norms and rounded to float32 [n, d]."""
        return (wide / torch.from_numpy(np.sqrt(self.squared_norms)).to(wide)[:, None]).float()


def cosines(dots: np.ndarray, left_squared_norms: np.ndarray, right_squared_norms: np.ndarray) -> np.ndarray:
    """The definition, in float64: dot(a, b) / sqrt(|a|^2 |b|^2). The three arguments are broadcast."""
    return dots / np.sqrt(left_squared_norms * right_squared_norms)


def similarities(left: Vectors, right: Vectors) -> np.ndarray:
    """The similarity of every pair, float64 [len(left), len(right)]."""
    dots = left.values.astype(np.float64) @ right.values.astype(np.float64).T
    return cosines(dots, left.squared_norms[:, None], right.squared_norms)


def pair_dots(left: torch.Tensor, right: torch.Tensor, pairs: torch.Tensor) -> np.ndarray:
    """Dot products, float64 [p], of the pairs at the flat positions `pairs` int64 [p], ascending, in [n, m].

    `left` [n, d] and `right` [m, d] are float64. Few pairs cost by the pair, many no more than the matrix product.
    """
    shape = (len(left), len(right))
    if len(pairs) > len(left) * len(right) // 8:
        return (left @ right.T).flatten()[pairs].cpu().numpy()
    starts = torch.searchsorted(pairs, torch.arange(len(left) + 1, device=pairs.device) * len(right))
    zeros = torch.zeros(len(pairs), dtype=torch.float64, device=pairs.device)
    pattern = torch.sparse_csr_tensor(starts, pairs % len(right), zeros, size=shape, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0).values().cpu().numpy()


def float32_error(dimensions: int, more_roundings: int = 0) -> float:
    """Bound on |float32 dot product of `unit` vectors - similarity|, for any order of the sums.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1: gamma_n for n roundings of each term; here
    one for its product and at most d - 1 for sums, two for the vectors' rounding to float32, and one more is larger than all
    of float64's. `more_roundings` adds those of the caller, each of a number not above 1 in size.
    """
    roundings = dimensions + 3 + more_roundings
    return roundings * FLOAT32_UNIT / (1 - roundings * FLOAT32_UNIT)
