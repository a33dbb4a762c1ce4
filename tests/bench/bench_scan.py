"""What the exact scan costs beside the bare float32 matrix product: python tests/bench/bench_scan.py --rows 50000

Prints seconds and ratios to the bare product, measured in turns in one run. Not a test: nothing here is asserted.
"""

import argparse
import importlib
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch

from simgap.kernels.scan import QUERIES, ROWS, Scan


def vectors(rng: np.random.Generator, rows: int, dimensions: int, spread: float) -> np.ndarray:
    """Unit vectors around a common direction, float16; the smaller `spread`, the more similar they are."""
    drawn = spread * rng.standard_normal((rows, dimensions), np.float32) / np.sqrt(dimensions)
    drawn[:, 0] += 1
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)


def bare_product(samples: torch.Tensor, queries: torch.Tensor) -> None:
    for rows in samples.split(ROWS):
        for columns in queries.split(QUERIES):
            torch.mm(rows, columns.T)


def naive_pass(samples: torch.Tensor, queries: torch.Tensor, tau: torch.Tensor, k: int) -> None:
    """What one would write first: rough in every decision, and with the nearest samples of each block only."""
    for rows in samples.split(ROWS):
        similarity = rows @ queries.T
        similarity.max(dim=1)
        margin = similarity - tau
        margin.max(dim=1)
        (margin > 0).sum(dim=1)
        (margin > 0).sum(dim=0)
        for edge in range(10, 20):
            (similarity > edge / 20).sum(dim=0)
        similarity.topk(min(k, len(rows)), dim=0)


def exact_pass(samples: np.ndarray, queries: np.ndarray, tau: np.ndarray, k: int, block: int) -> Scan:
    scan = Scan(np.arange(len(queries)), queries, tau, k)
    for start in range(0, len(samples), block):
        rows = samples[start : start + block]
        scan.block(np.arange(start, start + len(rows)), rows)
    scan.neighbours()
    return scan


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=8192)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--neighbours", type=int, default=100)
    parser.add_argument("--spread", type=float, default=1.0)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    samples = vectors(rng, asked.rows, asked.dimensions, asked.spread)
    queries = vectors(rng, asked.queries, asked.dimensions, asked.spread)
    reference = Scan(np.arange(asked.queries), queries, None, 1)
    reference.block(np.arange(2000), vectors(rng, 2000, asked.dimensions, asked.spread))
    tau = reference.neighbours()["similarity"]
    wide_samples, wide_queries = torch.from_numpy(samples).float(), torch.from_numpy(queries).float()
    ways: dict[str, Callable[[], object]] = {
        "bare product": lambda: bare_product(wide_samples, wide_queries),
        "exact scan": lambda: exact_pass(samples, queries, tau, asked.neighbours, block=20_000),
        "naive pass": lambda: naive_pass(wide_samples, wide_queries, torch.from_numpy(tau).float(), asked.neighbours),
    }
    if find_spec("faiss"):
        faiss = importlib.import_module("faiss")
        ways["faiss.knn"] = lambda: faiss.knn(
            wide_queries.numpy(), wide_samples.numpy(), asked.neighbours, faiss.METRIC_INNER_PRODUCT
        )
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(asked.turns):
        for name, work in ways.items():
            best[name] = min(best[name], seconds(work))
    scan = exact_pass(samples, queries, tau, asked.neighbours, block=20_000)
    counts = scan.counts()
    pairs = asked.rows * asked.queries
    print(
        f"{asked.rows} x {asked.queries} x {asked.dimensions}, {torch.get_num_threads()} threads,"
        f" nominated {scan.nominated / pairs:.2%}, in the hull {counts['hull_count'].sum() / pairs:.2%},"
        f" above 0.5 {counts['above_50'].sum() / pairs:.0%}"
    )
    for name, value in best.items():
        print(f"{name:14s} {value:8.2f} s   {value / best['bare product']:5.2f}")


if __name__ == "__main__":
    main()
