"""Intervals and tests for accuracies of models that saw the same test images.

An accuracy is a mean of booleans, so a bootstrap over images needs only how often each pattern of right and wrong
over the models occurs: drawing n images with replacement is one multinomial draw over the patterns. That is the same
distribution as drawing images one by one, at a cost that depends on the number of patterns and hardly on n.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
DRAWS_AT_ONCE = 1 << 22  # multinomial counts held in memory: 32 MiB of int64


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Share:
    """An explained share; `share` is None when the interval of the denominator holds 0."""

    share: Estimate | None
    numerator: Estimate
    denominator: Estimate


def wilson(successes: int, trials: int) -> Estimate:
    """A proportion with its 95 % score interval (Wilson 1927).

    Raises ValueError unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"no proportion: {successes} of {trials}")
    low, high = stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / trials, float(low), float(high))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """The exact two-sided McNemar p of two models, or of two sets of models, one for each seed.

    Both are bool (seeds, images). Where the two do not differ, an image's answers could as well have come the other
    way round: each image is swapped or not, its seeds together since they saw the same image, and the sum of the
    differences is compared with all that swapping can give. With one seed that is McNemar's exact (binomial) test.
    It speaks about these models on other images; whether other seeds would do the same, the interval says.
    """
    differences = first.sum(axis=0, dtype=np.int64) - second.sum(axis=0, dtype=np.int64)
    sizes, images = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    null = np.ones(1)  # probability of each sum of the sizes that point to `first`: symmetric about its middle
    for size, number in zip(sizes, images, strict=True):
        steps = np.zeros(size * number + 1)
        steps[::size] = stats.binom.pmf(np.arange(number + 1), number, 0.5)
        null = _trimmed(np.convolve(null, _trimmed(steps)))
    sums = 2 * np.arange(len(null)) - (len(null) - 1)
    return float(min(1.0, null[np.abs(sums) >= abs(differences.sum())].sum()))


def holm(p: np.ndarray) -> np.ndarray:
    """The p's of one family, float64 (tests,), adjusted by Holm's step-down procedure (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p), dtype=np.float64)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def resampled_accuracies(models: Sequence[np.ndarray], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap draws of the accuracy of several models, float64 (resamples, models).

    Each model is bool (seeds, images): its seeds' answers to the same images in the same order. A draw takes images
    with replacement, the same ones for all models, and, for each model by itself, seeds with replacement (the
    pigeonhole bootstrap: Owen 2007). With one seed the draws vary over images only.
    """
    patterns, counts = np.unique(np.concatenate(models).T, axis=0, return_counts=True)
    images = counts.sum()
    last_seed = np.cumsum([len(m) for m in models])[:-1]
    blocks = []
    for size in _blocks(resamples, len(patterns)):
        drawn = rng.multinomial(images, counts / images, size=size).astype(np.float64)
        accuracies = np.split(drawn @ patterns.astype(np.float64) / images, last_seed, axis=1)
        blocks.append(np.stack([_mean_of_resampled_seeds(a, rng) for a in accuracies], axis=1))
    return np.concatenate(blocks)


def difference(first: np.ndarray, second: np.ndarray, resamples: int, rng: np.random.Generator) -> Estimate:
    """Accuracy of `first` minus that of `second`, both bool (seeds, images), with a paired bootstrap interval."""
    draws = resampled_accuracies([first, second], resamples, rng)
    return _estimate(first.mean() - second.mean(), draws[:, 0] - draws[:, 1])


def explained_share(models: Sequence[np.ndarray], resamples: int, rng: np.random.Generator) -> Share:
    """(accuracy of control - pruned) / (everything - reference) with bootstrap intervals.

    The models are control, pruned, everything and reference, each bool (seeds, images).
    All four are drawn together, so what they share (the images) cancels as it should. The share is None when the
    interval of the denominator holds 0: then the pool is not known to add anything that could be explained.
    """
    c, p, e, r = (float(m.mean()) for m in models)
    draws = resampled_accuracies(models, resamples, rng)
    above, below = draws[:, 0] - draws[:, 1], draws[:, 2] - draws[:, 3]
    numerator, denominator = _estimate(c - p, above), _estimate(e - r, below)
    if denominator.holds_zero:
        return Share(None, numerator, denominator)
    return Share(_estimate((c - p) / (e - r), _ratio(above, below)), numerator, denominator)


def _trimmed(symmetric: np.ndarray) -> np.ndarray:
    """Symmetric probabilities without the ends below 1e-150, which no p shows and which make most of the work."""
    kept = np.flatnonzero(symmetric >= 1e-150)
    cut = min(kept[0], len(symmetric) - 1 - kept[-1])
    return symmetric[cut : len(symmetric) - cut]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Draws of a ratio; one whose denominator is 0 is infinitely far on its numerator's side, never missing."""
    with np.errstate(divide="ignore"):
        return np.where(below == 0, np.copysign(np.inf, above), above / np.where(below == 0, 1.0, below))


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    # an observed draw, not a blend of two: a draw may be infinite
    low, high = np.quantile(draws, [tail, 1 - tail], method="closest_observation")
    return Estimate(float(value), float(low), float(high))


def _blocks(resamples: int, patterns: int) -> Iterator[int]:
    at_once = max(1, DRAWS_AT_ONCE // patterns)
    for start in range(0, resamples, at_once):
        yield min(at_once, resamples - start)


def _mean_of_resampled_seeds(accuracies: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean over as many seeds, drawn with replacement for each row of float64 (draws, seeds)."""
    seeds = accuracies.shape[1]
    if seeds == 1:
        return accuracies[:, 0]
    chosen = rng.integers(seeds, size=accuracies.shape)
    return np.take_along_axis(accuracies, chosen, axis=1).mean(axis=1)
