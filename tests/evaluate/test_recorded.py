"""Evaluation on recorded decisions: cases worked out by hand."""

from __future__ import annotations

import math

import pytest

from mmo_rl.evaluate.base import Change
from mmo_rl.evaluate.recorded import RecordedEvaluator


def changes(*rows: tuple[str, float, float, float | None]) -> list[Change]:
    return [Change(group.partition("#")[0], group, reward, change, weight) for group, reward, change, weight in rows]


def test_rank_agreement_and_margin_compare_inside_groups_only() -> None:
    """Between the groups the order is the other way round: only pairs of one group count."""
    verdict = RecordedEvaluator(seed=0).verdict(
        changes(("a#1", 0.9, 0.5, None), ("a#1", 0.1, -0.5, None), ("b", 0.3, 3.0, None), ("b", 0.2, 2.0, None))
    )
    assert verdict.rank_agreement is not None and verdict.margin is not None
    assert (verdict.windows, verdict.decisions) == (2, 4)
    assert verdict.rank_agreement.estimate == 1.0
    assert verdict.margin.estimate == pytest.approx(1.0)  # 1.0 in both


def test_a_policy_that_prefers_what_was_judged_badly_is_told_worse() -> None:
    rows = [(f"w{n}", reward, -reward, None) for n in range(8) for reward in (0.1, 0.5, 0.9)]
    verdict = RecordedEvaluator(seed=0).verdict(changes(*rows))
    assert verdict.rank_agreement is not None
    assert (verdict.rank_agreement.estimate, verdict.rank_agreement.high) == (-1.0, -1.0)


def test_importance_weights_give_the_reward_of_the_other_policy() -> None:
    """Twice as likely as recorded where the reward is 1, half as likely where it is 0: 2 / 2.5 against 1 / 2."""
    rows = [("w1", 1.0, 0.1, math.log(2)), ("w1", 0.0, -0.1, math.log(0.5))] * 40
    verdict = RecordedEvaluator(seed=0, min_effective=50).verdict(changes(*rows))
    assert verdict.reward_change is not None
    assert verdict.reward_change.estimate == pytest.approx(0.8 - 0.5)
    assert verdict.effective == pytest.approx((40 * 2.5) ** 2 / (40 * 4.25))


def test_an_estimate_of_few_effective_decisions_is_refused() -> None:
    rows = [("w1", 0.5, 0.0, 0.0)] * 99 + [("w1", 1.0, 0.0, 20.0)]
    verdict = RecordedEvaluator(seed=0).verdict(changes(*rows))
    assert verdict.reward_change is None
    assert verdict.effective == pytest.approx(1.0, abs=1e-5)
    assert verdict.refusal is not None and "100 decisions are worth 1.0" in verdict.refusal


@pytest.mark.parametrize("rows", [[], [("w", 0.5, 0.0, None), ("w", 0.6, 0.1, 0.0)]])
def test_unknown_behaviour_is_refused(rows: list[tuple[str, float, float, float | None]]) -> None:
    verdict = RecordedEvaluator(seed=0).verdict(changes(*rows))
    assert (verdict.reward_change, verdict.effective) == (None, None)
    assert verdict.refusal is not None and "log-probabilities" in verdict.refusal
