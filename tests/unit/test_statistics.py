"""Statistics against published values, the definitions done the slow way, and what must always hold."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest

from simgap.kernels import statistics
from simgap.kernels.statistics import difference, explained_share, holm, mcnemar, wilson


def answers(images: int, *accuracies: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.random(images) < a for a in accuracies])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_wilson_gives_the_known_values():
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    for successes, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        estimate = wilson(successes, trials)
        assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(successes, trials):
    with pytest.raises(ValueError, match="no proportion"):
        wilson(successes, trials)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_value_and_mirrors(counts):
    k, n = counts
    estimate, mirrored = wilson(k, n), wilson(n - k, n)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((estimate.low, estimate.high))


def discordant(only_first: int, only_second: int, both: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """One seed's answers of two models with these counts."""
    first = np.repeat([True, False, True], [only_first, only_second, both])
    return first[None], np.repeat([False, True, True], [only_first, only_second, both])[None]


def test_mcnemar_gives_the_binomial_tail():
    assert mcnemar(*discordant(1, 9)) == pytest.approx(22 / 1024)
    assert mcnemar(*discordant(5, 5)) == pytest.approx(1)
    assert mcnemar(*discordant(0, 0)) == 1


@given(st.integers(0, 200), st.integers(0, 200))
def test_one_seed_is_the_exact_binomial_test(only_first, only_second):
    expected = binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1
    assert mcnemar(*discordant(only_first, only_second)) == pytest.approx(expected)


@given(arrays(np.bool_, st.tuples(st.just(2), st.integers(1, 3), st.integers(1, 8))))
def test_several_seeds_are_all_the_ways_to_swap_images(pair):
    difference = pair[0].sum(axis=0, dtype=int) - pair[1].sum(axis=0, dtype=int)
    signs = np.array(list(product([-1, 1], repeat=len(difference))))
    expected = (np.abs(signs @ difference) >= abs(difference.sum())).mean()
    assert mcnemar(*pair) == pytest.approx(expected)
    assert mcnemar(pair[1], pair[0]) == mcnemar(*pair)


def test_the_same_answers_again_under_another_seed_are_no_more_evidence():
    first, second = discordant(4, 15)
    assert mcnemar(np.repeat(first, 3, axis=0), np.repeat(second, 3, axis=0)) == pytest.approx(mcnemar(first, second))


def test_seeds_that_contradict_each_other_cancel():
    first, second = discordant(30, 2)
    assert mcnemar(np.concatenate([first, second]), np.concatenate([second, first])) == 1


def test_holm_gives_the_known_values():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert len(holm(np.empty(0))) == 0


@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
def test_holm_lies_between_the_p_and_bonferroni_and_keeps_the_order(p):
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(p * len(p), 1)).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


def test_resampling_patterns_is_resampling_images():
    models = [answers(40, 0.7, seed=1), answers(40, 0.4, seed=2)]
    by_pattern = statistics.resampled_accuracies(models, 20_000, rng())
    drawn = rng(1).integers(40, size=(20_000, 40))
    by_image = np.stack([m[0][drawn].mean(axis=1) for m in models], axis=1)
    assert by_pattern.mean(axis=0) == pytest.approx(by_image.mean(axis=0), abs=0.003)
    assert np.cov(by_pattern.T) == pytest.approx(np.cov(by_image.T), abs=2e-4)


def test_one_seed_value_gives_one_interval_and_another_gives_another():
    a, b = answers(300, 0.5, seed=1), answers(300, 0.4, seed=2)
    assert difference(a, b, 500, rng(7)) == difference(a, b, 500, rng(7))
    assert difference(a, b, 500, rng(7)) != difference(a, b, 500, rng(8))


@given(arrays(np.bool_, st.tuples(st.integers(1, 3), st.integers(1, 50))))
@settings(max_examples=30)
def test_a_model_does_not_differ_from_itself_over_images(model):
    one_seed = model[:1]
    assert difference(one_seed, one_seed, 50, rng()) == statistics.Estimate(0.0, 0.0, 0.0)


def test_the_interval_of_a_difference_covers_the_truth_about_as_often_as_it_says():
    held = 0
    for study in range(200):
        draws = rng(study).random((3, 400))
        shared = draws[2] < 0.3  # images that both have right: the models are correlated, as real ones are
        a, b = (shared | (draws[0] < 0.3))[None], (shared | (draws[1] < 0.2))[None]
        estimate = difference(a, b, 400, rng(study))
        held += estimate.low <= 0.7 * (0.3 - 0.2) <= estimate.high
    assert 0.90 <= held / 200 <= 0.985


def test_seeds_that_disagree_widen_the_interval():
    steady, restless = answers(2000, 0.4, 0.4, 0.4), answers(2000, 0.2, 0.4, 0.6)
    other = answers(2000, 0.3, 0.3, 0.3, seed=5)
    narrow, wide = difference(steady, other, 1000, rng()), difference(restless, other, 1000, rng())
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_explained_share_is_the_ratio_with_its_interval():
    everything, reference = answers(5000, 0.6, seed=1), answers(5000, 0.2, seed=2)
    control, pruned = answers(5000, 0.55, seed=3), answers(5000, 0.45, seed=4)
    found = explained_share([control, pruned, everything, reference], 1000, rng())
    assert found.share is not None
    assert found.share.value == pytest.approx(found.numerator.value / found.denominator.value)
    assert found.share.low < 0.25 < found.share.high
    assert not found.denominator.holds_zero


def test_explained_share_is_null_when_the_pool_is_not_known_to_add_anything():
    models = [answers(100, 0.3, seed=s) for s in range(4)]
    found = explained_share(models, 500, rng())
    assert found.denominator.holds_zero
    assert found.share is None


def test_draws_are_made_in_blocks_of_bounded_size(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS_AT_ONCE", 1)
    a, b = answers(60, 0.5, seed=1), answers(60, 0.4, seed=2)
    assert len(statistics.resampled_accuracies([a, b], 7, rng())) == 7
