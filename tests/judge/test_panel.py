"""Several judges over the same groups."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hydra import compose, initialize_config_dir

from mmo_rl.config.settings import validate
from mmo_rl.errors import ConfigError, JudgeError
from mmo_rl.judge.oracle import OracleJudge
from mmo_rl.judge.panel import PanelJudge
from mmo_rl.policy_view import training_groups
from mmo_rl.types import Credit, Group, JudgeUsage, Judgment, Score, ScoredGroup, Tallies, Unscored
from tests.harness.endpoint import Endpoint
from tests.judge.conftest import make_group, make_judge, make_long, stream


class Fixed:
    """Gives each member the next of ``values`` (None: unscored), again for each group; fails after ``lasts`` groups."""

    findings: Mapping[str, float] = {"noticed": 1.0}
    tallies: ClassVar[Tallies] = {"noticed": (1.0,)}
    min_agreement: float | None = None
    needs_truth = False

    def __init__(
        self, *values: float | None, cost: float | None = 0.5, lasts: int = 99, credit: Credit = "trajectory"
    ) -> None:
        self.credit: Credit = credit
        self.values, self.usage, self.lasts = values, JudgeUsage(calls=1, cost_usd=cost), lasts
        self.read = 0

    async def score(self, groups: AsyncIterator[Group]) -> AsyncGenerator[ScoredGroup, None]:
        async for group in groups:
            self.read += 1
            if self.read > self.lasts:
                raise JudgeError("broken")
            yield ScoredGroup(
                group,
                {m.trajectory_id: self._judge(m.trajectory_id, n) for n, m in enumerate(group.members)},
                self.credit,
            )

    def _judge(self, trajectory_id: str, n: int) -> Judgment:
        value = self.values[n]
        if value is None:
            return Unscored(trajectory_id, "cannot say")
        return Score(trajectory_id, value, "why", {0: value, n + 1: value} if self.credit == "decision" else None)

    async def aclose(self) -> None:
        pass


GROUPS = [make_group([0.1, 0.2], hour=hour) for hour in range(4)]


async def judged(panel: PanelJudge) -> list[ScoredGroup]:
    return [scored async for scored in panel.score(stream(*GROUPS))]


def values(scored: ScoredGroup) -> dict[str, float | None]:
    return {i: j.value if isinstance(j, Score) else None for i, j in scored.judgments.items()}


async def test_the_median_counts_and_disagreement_is_kept() -> None:
    judges = {"a": Fixed(0.1, 0.9), "b": Fixed(0.2, 0.8), "c": Fixed(0.7, 0.8)}
    for judge in judges.values():
        judge.credit = "decision"
    panel = PanelJudge(judges=judges)
    results = await judged(panel)
    assert [scored.group for scored in results] == GROUPS
    assert all(values(scored) == {"t0": 0.2, "t1": 0.8} for scored in results)
    first = results[0].judgments["t0"]
    assert isinstance(first, Score)
    assert first.spread == pytest.approx(0.6)
    assert first.decisions == {0: 0.2, 1: 0.2}
    assert first.explanation.startswith("a 0.10: why | b 0.20: why")
    assert panel.findings["panel_disagreement"] == pytest.approx((0.6 + 0.1) / 2)
    assert panel.findings["b/noticed"] == 1.0
    assert (panel.usage.calls, panel.usage.cost_usd) == (3, 1.5)


async def test_a_weighted_mean() -> None:
    panel = PanelJudge(judges={"a": Fixed(0.0, 1.0), "b": Fixed(1.0, 0.0)}, combine="mean", weights={"a": 3.0})
    assert values((await judged(panel))[0]) == {"t0": 0.25, "t1": 0.75}


def rewards(panel: PanelJudge, results: list[ScoredGroup]) -> dict[tuple[str, int | None], float]:
    """What the first group trains on, by trajectory and step."""
    assert all(scored.credit == panel.credit for scored in results)
    return {
        (sample.trajectory_id, sample.step): sample.reward
        for group in training_groups(results[:1])
        for sample in group.samples
    }


async def test_a_judge_with_all_the_weight_decides_the_reward_by_trajectory() -> None:
    oracle = Fixed(0.5, 0.5)
    panel = PanelJudge(
        judges={"first": Fixed(1.0, 0.0), "oracle": oracle}, combine="mean", weights={"first": 100.0, "oracle": 0.0}
    )
    assert rewards(panel, await judged(panel)) == {("t0", None): 1.0, ("t1", None): 0.0}
    # What a judge without weight leaves unscored is no loss, and it cannot score for one that has all of it.
    panel = PanelJudge(
        judges={"first": Fixed(1.0, 0.0), "oracle": Fixed(None, None)}, combine="mean", weights={"oracle": 0.0}
    )
    assert rewards(panel, await judged(panel)) == {("t0", None): 1.0, ("t1", None): 0.0}
    panel = PanelJudge(judges={"first": Fixed(1.0, None), "oracle": oracle}, combine="mean", weights={"oracle": 0.0})
    assert values((await judged(panel))[0]) == {"t0": 1.0, "t1": None}


async def test_decisions_are_weighted_too_and_those_that_one_judge_misses_are_unscored_and_counted() -> None:
    class Misses(Fixed):
        def _judge(self, trajectory_id: str, n: int) -> Judgment:
            judgment = super()._judge(trajectory_id, n)
            assert isinstance(judgment, Score) and judgment.decisions is not None
            return replace(judgment, decisions={2: 0.0} if n == 0 else {0: 0.0})

    group = make_long([0.1, 0.2], steps=3)  # step numbers 0, 1, 2
    panel = PanelJudge(
        judges={"a": Misses(0.4, 0.8, credit="decision"), "b": Fixed(0.0, 1.0, credit="decision")},
        combine="mean",
        weights={"a": 3.0},
    )
    (scored,) = [scored async for scored in panel.score(stream(group))]
    first, second = scored.judgments["t0"], scored.judgments["t1"]
    assert isinstance(first, Score) and isinstance(second, Score)
    # t0: a scored step 2 alone, b steps 0 and 1: none by both. t1: a step 0 (0.0), b steps 0 and 2 (1.0).
    assert first.decisions == {}
    assert second.decisions == {0: 0.25}
    assert scored.unscored_decisions == 5
    assert panel.findings["unscored_decisions"] == 5.0
    assert rewards(panel, [scored]) == {("t1", 0): 0.25}


def test_judges_of_different_credit_are_refused_with_what_to_type() -> None:
    with pytest.raises(ConfigError, match=r"judge\.judges\.third by decision") as caught:
        validate(composed("+judge@judge.judges.third=oracle"))
    assert "set judge.judges.third.credit=trajectory, or " in str(caught.value)
    assert "judge.judges.first.credit=decision judge.judges.second.credit=decision" in str(caught.value)
    validate(composed("+judge@judge.judges.third=oracle", "judge.judges.third.credit=trajectory"))
    with pytest.raises(ConfigError, match=r"judge\.judges\.own by decision"):  # a class without the key
        PanelJudge(judges={"a": Fixed(0.1), "own": Fixed(0.2, credit="decision")})


async def test_all_members_of_a_group_are_compared_by_the_same_judges() -> None:
    panel = PanelJudge(judges={"a": Fixed(0.1, 0.9), "b": Fixed(0.9, None)})
    assert values((await judged(panel))[0]) == {"t0": 0.1, "t1": 0.9}
    assert panel.findings["panel_left_out/b"] == 4
    both = PanelJudge(judges={"a": Fixed(0.1, None), "b": Fixed(0.3, None)})
    scored = (await judged(both))[0]
    assert values(scored) == {"t0": 0.2, "t1": None}
    assert scored.judgments["t1"] == Unscored("t1", "a: cannot say; b: cannot say")


async def test_an_unknown_cost_of_one_is_unknown_for_all() -> None:
    assert PanelJudge(judges={"a": Fixed(0.1), "b": Fixed(0.2, cost=None)}).usage.cost_usd is None


async def test_the_first_failure_ends_it() -> None:
    panel = PanelJudge(judges={"a": Fixed(0.1, 0.2), "b": Fixed(0.1, 0.2, lasts=2)})
    with pytest.raises(JudgeError, match="broken"):
        await judged(panel)


async def test_a_language_model_and_the_oracle(endpoint: Endpoint) -> None:
    async with PanelJudge(judges={"ruler": make_judge(endpoint), "oracle": OracleJudge(credit="trajectory")}) as panel:
        results = await judged(panel)
    assert [scored.group for scored in results] == GROUPS
    assert panel.usage.calls == 4
    assert panel.findings["panel_left_out/oracle"] == 4  # no price was recorded in these groups
    await panel.aclose()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judges": {"a": {}}}, "has 1 judge"),
        ({"weights": {"c": 1.0}, "combine": "mean"}, "names c, but the judges are a, b"),
        ({"weights": {"a": 1.0}}, "those of a mean"),
        ({"weights": {"a": 0.0, "b": 0.0}, "combine": "mean"}, "are 0"),
    ],
)
def test_a_panel_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PanelJudge.check_keys(**{"judges": {"a": {}, "b": {}}, **changes})


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base=None):
        return compose("config", overrides=["judge=panel", "home=/nowhere", *overrides])


def test_its_judges_are_components_by_name_and_checked_like_all_others() -> None:
    settings = validate(composed("+judge@judge.judges.third=oracle_trajectory", "judge.judges.third.error_penalty=0.5"))
    node = settings.nodes["judge"]
    assert node is not None
    assert list(node["judges"]) == ["first", "second", "third"]
    with pytest.raises(ConfigError) as caught:
        validate(composed("judge.judges.first.endpoint.concurrency=0", "+judge.judges.second.repeat=2"))
    assert "judge.judges.first.endpoint.concurrency" in str(caught.value)
    assert "did you mean judge.judges.second.repeats" in str(caught.value)
