"""Paired statistics against SciPy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dfm_core.comparison.statistics import Spread, log_ratio, verdict
from dfm_core.students_t import t_probability, t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 8, 13, 30, 99])
def test_the_t_distribution_is_scipy_s(degrees: int) -> None:
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)
    assert t_quantile(degrees, 0.5) == pytest.approx(stats.t.ppf(0.75, degrees), rel=1e-9)
    for t in (0.0, 0.3, 1.0, 4.0, 50.0):
        assert t_probability(t, degrees) == pytest.approx(1 - 2 * stats.t.sf(t, degrees), abs=1e-12)


def test_standard_errors_that_a_verdict_needs() -> None:
    assert round(t_quantile(2), 1) == 4.3  # three seeds
    assert round(t_quantile(4), 1) == 2.8  # five


def test_a_log_ratio_is_the_paired_t_test_s() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = generator.lognormal(size=5), generator.lognormal(size=5)
    ratio = log_ratio(dict(enumerate(ours)), dict(enumerate(theirs)))
    assert ratio is not None
    assert ratio.error is not None
    expected = stats.ttest_rel(np.log(ours), np.log(theirs))
    assert ratio.mean / ratio.error == pytest.approx(expected.statistic, rel=1e-12)
    assert ratio.mean == pytest.approx(np.log(ours / theirs).mean(), rel=1e-12)
    assert (verdict(ratio, "lower") == "open") == (expected.pvalue > 0.05)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_verdicts_agree_with_the_t_test(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    found = set()
    for _ in range(100):
        logs = generator.normal(generator.choice([-1.0, 0.0, 1.0]), 0.4, size=seeds)
        ratio = log_ratio(dict(enumerate(np.exp(logs))), dict.fromkeys(range(seeds), 1.0))
        said = verdict(ratio, "lower")
        if stats.ttest_1samp(logs, 0).pvalue > 0.05:
            assert said == "open"
        else:
            assert said == ("won" if logs.mean() < 0 else "lost")
            assert verdict(ratio, "higher") == ("lost" if logs.mean() < 0 else "won")
        found.add(said)
    assert found == {"won", "lost", "open"}


def test_only_seeds_that_both_have_are_paired() -> None:
    ratio = log_ratio({0: 2.0, 1: 8.0, 2: math.inf, 3: 0.0}, {0: 1.0, 1: 2.0, 2: 1.0, 3: 1.0, 4: 9.0})
    assert ratio is not None
    assert (ratio.count, ratio.mean) == (2, pytest.approx(1.5 * math.log(2)))
    assert log_ratio({0: 1.0}, {1: 1.0}) is None


def test_one_seed_says_nothing() -> None:
    ratio = log_ratio({0: 1.0}, {0: 100.0})
    assert ratio is not None
    assert (ratio.count, ratio.error) == (1, None)
    assert verdict(ratio, "lower") is None
    assert verdict(None, "lower") is None


def test_a_spread_is_numpy_s() -> None:
    spread = Spread.of([1.0, 2.0, 4.0])
    assert spread.deviation == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert spread.error == pytest.approx(stats.sem([1, 2, 4]))
