"""Intervals of differences: by hand, against scipy, and pooled over several methods."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from bridgeout_lite import stats
from bridgeout_lite.stats import Gap


def rows(levels=3, seeds=5, draws=0):
    rng = np.random.default_rng(draws)
    seed, level = rng.normal(0, 3, seeds), rng.normal(0, 1, levels)
    return pd.DataFrame(
        [
            {"seed": s, "method": f"m{k}", "q": float(k), "accuracy": 60 + seed[s] + level[k] + rng.normal()}
            for s in range(seeds)
            for k in range(levels)
        ]
    )


def test_a_gap_says_its_interval():
    gap = Gap(1.24, 0.31, 2.06, 3)
    assert f"{gap:+.1f}" == "+1.2 [+0.3, +2.1]" == stats.points(gap)
    assert gap.above and not gap.below and (gap * -1)[:3] == (-1.24, -2.06, -0.31)
    assert f"{gap * 100:.0f}" == "124 [31, 206]" and gap[:3] == (1.24, 0.31, 2.06)
    assert not stats.UNKNOWN.above and not stats.UNKNOWN.below


def test_pairs_are_those_of_scipy():
    frame = rows()
    gap = stats.paired(frame, "accuracy", "method", "m1", "m0")
    table = frame.pivot_table(index="seed", columns="method", values="accuracy")
    test = ttest_rel(table["m1"], table["m0"])
    low, high = test.confidence_interval()
    assert gap == pytest.approx((table["m1"].mean() - table["m0"].mean(), low, high, 5))
    assert stats.paired_difference(frame, "accuracy", 1.0, 0.0) == pytest.approx(gap)
    assert stats.advantage(frame.assign(amount=0.5), "m1", "m0", [0.5]) == pytest.approx(gap)


def test_what_is_missing_has_no_interval():
    assert stats.paired(rows(), "accuracy", "method", "m1", "none").n == 0
    one = stats.paired(rows(seeds=1), "accuracy", "method", "m1", "m0")
    assert one.n == 1 and math.isnan(one.low) and not math.isnan(one.mean)


def test_two_levels_pooled_are_a_pair():
    """Then the additive model has the spread of the differences, and nothing else."""
    frame = rows(levels=2)
    pooled = stats.pooled(frame, "accuracy", "method", "m0").iloc[0]
    gap = stats.paired(frame, "accuracy", "method", "m1", "m0")
    assert tuple(pooled[["mean", "low", "high", "n"]]) == pytest.approx(tuple(gap)) and pooled["degrees"] == 4


def test_pooling_uses_the_spread_of_all_levels():
    frame = rows(levels=6, seeds=3)
    pooled = stats.pooled(frame, "accuracy", "method", "m0").set_index("method")
    assert (pooled["degrees"] == (6 - 1) * (3 - 1)).all() and (pooled["n"] == 3).all()
    assert np.ptp(pooled["high"] - pooled["low"]) < 1e-9, "one spread for all"
    means = frame.groupby("method")["accuracy"].mean()
    for method, row in pooled.iterrows():
        assert row["mean"] == pytest.approx(means[method] - means["m0"])
    part = stats.pooled(frame[~((frame["method"] == "m1") & (frame["seed"] == 2))], "accuracy", "method", "m0")
    assert part.set_index("method")["n"].to_dict() == {"m1": 2, "m2": 3, "m3": 3, "m4": 3, "m5": 3}
    assert (part["degrees"] == 5 * 2 - 1).all() and np.isfinite(part["low"]).all()
    assert stats.pooled_gap(frame, "accuracy", "method", "m1", "m0").mean == pooled.loc["m1", "mean"]
    assert stats.pooled_gap(frame, "accuracy", "method", "m1", "other").n == 0


def test_pooled_intervals_hold_as_often_as_they_say():
    """Of 400 draws of five intervals each: a share outside of 90 to 99 % has a probability below 1e-6."""
    held = 0
    for draw in range(400):
        rng = np.random.default_rng(draw)
        frame = rows(levels=6, seeds=3, draws=draw).assign(accuracy=rng.normal(size=18))
        pooled = stats.pooled(frame, "accuracy", "method", "m0")
        held += ((pooled["low"] < 0) & (pooled["high"] > 0)).sum()
    assert 0.9 < held / 2000 < 0.99  # the five of a draw share m0, so they are not independent


def test_what_cannot_be_pooled_is_refused():
    with pytest.raises(ValueError, match="no rows with method='none' to compare with; there are"):
        stats.pooled(rows(), "accuracy", "method", "none")
    with pytest.raises(ValueError, match="3 values are too few"):
        stats.pooled(rows(seeds=1), "accuracy", "method", "m0")
