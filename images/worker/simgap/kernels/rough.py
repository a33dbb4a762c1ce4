"""The fast pass's arithmetic: float32 similarities with a bound on their error, and exact dot products of the pairs that need them."""

import warnings

import numpy as np
import torch

from simgap.kernels.similarity import Vectors

FLOAT32_UNIT = 2.0**-24  # half the distance from 1 to the next float32

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


def wide(vectors: Vectors, device: str) -> torch.Tensor:
    """The values as float64 [n, d]."""
    return torch.tensor(vectors.values).to(device).double()


def unit(vectors: Vectors, values: torch.Tensor) -> torch.Tensor:
    """`values`, which are `wide(vectors)`, divided by the norms and rounded to float32 [n, d]."""
    return (values / torch.from_numpy(np.sqrt(vectors.squared_norms)).to(values)[:, None]).float()


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
