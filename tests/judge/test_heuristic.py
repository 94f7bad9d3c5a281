"""The hand-mixed baseline: cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from mmo_rl.config.project import shipped
from mmo_rl.errors import ConfigError
from mmo_rl.judge.heuristic import HeuristicJudge
from mmo_rl.types import Action, Group, Score, Step, Unscored
from tests.judge.conftest import make_group, stream


def played(group: Group, number: int, *, pnls: list[float], final: float | None, actions: int) -> Group:
    """``group`` with one member's running P&L, final P&L and number of actions set; the rest of its steps are idle."""
    member = group.members[number]
    steps = tuple(
        Step(n, group.window.start, {"agentPnL": pnl}, Action("BUY" if n < actions else "HOLD", {}, success=True))
        for n, pnl in enumerate(pnls)
    )
    changed = replace(member, steps=steps, final_pnl=final)
    return replace(group, members=(*group.members[:number], changed, *group.members[number + 1 :]))


async def judged(judge: HeuristicJudge, group: Group) -> dict[str, float | None]:
    [scored] = [s async for s in judge.score(stream(group))]
    return {i: j.value if isinstance(j, Score) else None for i, j in scored.judgments.items()}


async def test_half_profit_thirty_percent_wins_twenty_percent_activity() -> None:
    group = make_group([0.1, 0.2, 0.3])
    group = played(group, 0, pnls=[0.0, 5.0, 3.0], final=100.0, actions=2)  # best; up, down, up; 2 of 4
    group = played(group, 1, pnls=[0.0, -5.0], final=-100.0, actions=0)  # worst; down, down; none
    group = played(group, 2, pnls=[0.0] * 6, final=0.0, actions=6)  # half-way; never moved; more than enough
    found = await judged(HeuristicJudge(full_activity=4), group)
    assert found == pytest.approx({"t0": 0.5 + 0.3 * 2 / 3 + 0.2 * 0.5, "t1": 0.0, "t2": 0.25 + 0.15 + 0.2})


async def test_failed_actions_are_no_activity_and_equal_results_no_difference() -> None:
    group = make_group([0.1, 0.2])
    failed = Step(0, group.window.start, {}, Action("BUY", {}, success=False))
    members = tuple(replace(m, steps=(failed,), final_pnl=7.0) for m in group.members)
    assert await judged(HeuristicJudge(), replace(group, members=members)) == pytest.approx({"t0": 0.4, "t1": 0.4})


@pytest.mark.parametrize("pnl", [None, float("nan")])
async def test_without_a_final_pnl_there_is_no_score(pnl: float | None) -> None:
    group = played(make_group([0.1, 0.2]), 0, pnls=[0.0], final=pnl, actions=1)
    judge = HeuristicJudge()
    [scored] = [s async for s in judge.score(stream(group))]
    assert scored.judgments["t0"] == Unscored("t0", "no final P&L recorded")
    assert isinstance(scored.judgments["t1"], Score)
    assert judge.usage.calls == 0


def test_weights_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="all weights"):
        HeuristicJudge.check_keys(pnl_weight=0, win_weight=0, activity_weight=0)


async def test_the_outcome_preset_scores_profit_alone() -> None:
    preset = yaml.safe_load((shipped("conf") / "judge" / "outcome.yaml").read_text())
    group = make_group([0.1, 0.2, 0.3])
    group = played(group, 0, pnls=[0.0, 5.0, 9.0], final=10.0, actions=2)
    group = played(group, 1, pnls=[0.0, 50.0], final=-30.0, actions=0)
    group = played(group, 2, pnls=[0.0] * 6, final=0.0, actions=6)
    weights = {name: value for name, value in preset.items() if name != "defaults"}
    assert preset["defaults"] == ["heuristic", "_self_"]
    assert await judged(HeuristicJudge(**weights), group) == pytest.approx({"t0": 1.0, "t1": 0.0, "t2": 0.75})
