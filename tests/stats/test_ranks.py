"""Kendall's tau-b inside windows: cases worked out by hand, and scipy's of a single window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmo_rl.stats.ranks import RankPairs, rank_pairs, tau_interval


def test_pairs_are_counted_with_their_ties() -> None:
    # Pairs: (1,2) alike, (1,3) tied in the first, (2,3) reversed; a tie in both counts nowhere.
    assert rank_pairs([1, 2, 1], [1, 3, 4]) == (1, 1, 1, 0)
    assert rank_pairs([1, 1, 2], [5, 5, 5]) == (0, 0, 0, 2)
    assert rank_pairs([0.1 + 0.2, 0.3], [1, 2]) == (0, 0, 1, 0)


def test_tau_b_of_one_window_is_kendalls() -> None:
    # Kendall's own example with ties: 4 concordant, 1 discordant, 1 pair tied in the first only.
    found = tau_interval([rank_pairs([1, 2, 2, 3], [1, 2, 4, 3])], seed=0)
    assert found is not None and found.estimate == pytest.approx((4 - 1) / (5 * 6) ** 0.5)
    assert found.low == float("-inf"), "one window has no interval"
    assert tau_interval([RankPairs(tied_second=3)], seed=0) is None and tau_interval([], seed=0) is None
    few = tau_interval([RankPairs(10), RankPairs(9, 1), RankPairs(8, 2)], seed=0)
    assert few is not None
    assert few.low < 0.8 < few.high == 1.0, "a correlation is never above 1, however few the windows"


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=9))
def test_tau_b_of_one_window_is_that_of_scipy(members: list[tuple[int, int]]) -> None:
    first, second = zip(*members, strict=True)
    found = rank_pairs(first, second).tau_b
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.kendalltau(first, second).statistic)
