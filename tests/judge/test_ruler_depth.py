"""Repeats in different orders, credit by decision, prompts that fit, canaries: what the ruler does beyond one call."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from mmo_rl.errors import ConfigError
from mmo_rl.judge.canary import KINDS
from mmo_rl.judge.presentation import orders
from mmo_rl.judge.ruler import RulerJudge
from mmo_rl.types import Group, Score, ScoredGroup, Unscored
from tests.harness.endpoint import Endpoint, Reply, Request, completion
from tests.judge.conftest import by_skill, honest, make_group, make_judge, make_long, run, scores

SKILLS = [0.1, 0.9, 0.4, 0.6]


def values(scored: ScoredGroup) -> dict[str, float | None]:
    return {i: j.value if isinstance(j, Score) else None for i, j in scored.judgments.items()}


# --- order and repeats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "repeats"), [(2, 1), (2, 5), (8, 3), (8, 8), (3, 7)])
def test_repeats_present_everybody_in_different_places(count: int, repeats: int) -> None:
    found = orders(count, repeats, seed=0)
    assert found[0] == tuple(range(count))
    assert all(sorted(order) == list(range(count)) for order in found)
    first = found[:count]
    for member in range(count):
        places = [order.index(member) for order in first]
        assert len(set(places)) == len(places)
    assert found == orders(count, repeats, seed=0)


async def test_the_median_of_the_repeats_counts_and_their_range_is_kept(endpoint: Endpoint) -> None:
    """Three answers that are off by -0.1, 0 and +0.3: the median is right, the spread 0.4."""

    def script(request: Request, number: int) -> Reply:
        return scores([(i, s / 2 + (-0.1, 0.0, 0.3)[number] + 0.1) for i, s in by_skill(request).items()])

    endpoint.script = script
    judge = make_judge(endpoint, repeats=3, concurrency=1)
    [scored] = await run(judge, make_group(SKILLS))
    assert len({tuple(re.findall(r"skill=[0-9.]+", r.user)) for r in endpoint.requests}) == 3
    for n, skill in enumerate(SKILLS):
        judgment = scored.judgments[f"t{n}"]
        assert isinstance(judgment, Score)
        assert judgment.value == pytest.approx(skill / 2 + 0.1)
        assert judgment.spread == pytest.approx(0.4)
    assert judge.findings["repeat_spread"] == pytest.approx(0.4)
    assert judge.usage.calls == 3


async def test_one_repeat_has_no_spread(endpoint: Endpoint) -> None:
    judge = make_judge(endpoint)
    [scored] = await run(judge, make_group(SKILLS))
    assert {j.spread for j in scored.judgments.values() if isinstance(j, Score)} == {None}
    assert "repeat_spread" not in judge.findings


async def test_a_failed_repeat_is_counted_and_the_others_stand(endpoint: Endpoint) -> None:
    endpoint.script = lambda request, number: completion("no") if number < 2 else honest(request, number)
    judge = make_judge(endpoint, repeats=3, concurrency=1)
    [scored] = await run(judge, make_group(SKILLS))
    assert values(scored) == {f"t{n}": skill for n, skill in enumerate(SKILLS)}
    assert judge.findings["repeats_failed"] == 1


async def test_more_repeats_than_orders_are_calls_of_their_own(endpoint: Endpoint) -> None:
    await run(make_judge(endpoint, repeats=5), make_group([0.2, 0.7]))
    assert len({json.dumps(request.body) for request in endpoint.requests}) == 5


@pytest.mark.parametrize("repeats", [1, 4])
async def test_the_position_effect_is_found(endpoint: Endpoint, repeats: int) -> None:
    """A judge that gives 0.2 more to the last place than to the first."""
    noise = random.Random(0)

    def script(request: Request, number: int) -> Reply:
        last = len(request.ids) - 1
        return scores(
            [(i, s + 0.2 * n / last + noise.gauss(0, 0.01)) for n, (i, s) in enumerate(by_skill(request).items())]
        )

    endpoint.script = script
    # With one repeat what members differ in is noise to the estimate: here they differ by little.
    skills = [0.2, 0.4, 0.6, 0.7] if repeats > 1 else [0.40, 0.41, 0.42, 0.43]
    judge = make_judge(endpoint, repeats=repeats)
    await run(judge, *(make_group([s + hour / 1000 for s in skills], hour=hour) for hour in range(12)))
    assert judge.findings["position_effect"] == pytest.approx(0.2, abs=0.03)
    assert 0 < judge.findings["position_effect_se"] < 0.02


async def test_an_unbiased_judge_has_no_position_effect(endpoint: Endpoint) -> None:
    judge = make_judge(endpoint, repeats=4)
    await run(judge, make_group(SKILLS))
    assert judge.findings["position_effect"] == pytest.approx(0.0, abs=1e-9)


# --- credit -----------------------------------------------------------------------------------------------------------


def decided(request: Request, change: Any = lambda entry: entry) -> Reply:
    """Scores each decision with its step number / 100 plus the id / 1000."""
    asked = {
        i: [int(s) for s in steps.split(", ")]
        for i, steps in re.findall(r"- trajectory (\d+): ([\d, ]+)", request.system)
    }
    entries = [
        {
            "trajectory_id": i,
            "explanation": "",
            "score": s,
            "decisions": [{"step": n, "score": n / 100 + int(i) / 1000} for n in asked[i]],
        }
        for i, s in by_skill(request).items()
    ]
    return completion(json.dumps({"scores": [change(entry) for entry in entries]}))


async def test_each_decision_is_scored_in_the_same_call(endpoint: Endpoint) -> None:
    endpoint.script = lambda request, number: decided(request)
    group = make_long([0.1, 0.9, 0.4], steps=5)
    [scored] = await run(make_judge(endpoint, credit="decision", template="decision_quality"), group)
    assert len(endpoint.requests) == 1
    places = {text.split("skill=")[1][:3]: int(i) for i, text in endpoint.requests[0].texts.items()}
    for judgment in scored.judgments.values():
        assert isinstance(judgment, Score)
        place = places[str(judgment.value)]
        assert judgment.decisions == pytest.approx({n: n / 100 + place / 1000 for n in range(5)})
    schema = endpoint.requests[0].body["response_format"]["json_schema"]["schema"]
    assert "decisions" in schema["$defs"]["TrajectoryScore"]["required"]


DECISION_FAULTS = {
    "missing": (lambda entry: {**entry, "decisions": entry["decisions"][1:]}, "no score for step 0"),
    "repeated": (
        lambda entry: {**entry, "decisions": [*entry["decisions"], {"step": 1, "score": 0}]},
        "step 1 appears",
    ),
    "unknown": (lambda entry: {**entry, "decisions": [*entry["decisions"], {"step": 9, "score": 0}]}, "unknown step 9"),
    "too high": (lambda entry: {**entry, "decisions": [{"step": 0, "score": 7}]}, "the score of step 0 is 7"),
    "no list": (lambda entry: {**entry, "decisions": None}, "there is no list of them"),
    "not objects": (lambda entry: {**entry, "decisions": [0.5, 0.5]}, "unknown step null"),
}


@pytest.mark.parametrize("case", DECISION_FAULTS)
async def test_decisions_that_do_not_bind_are_asked_for_again(endpoint: Endpoint, case: str) -> None:
    change, expected = DECISION_FAULTS[case]
    endpoint.script = lambda request, number: decided(request, change) if number == 0 else decided(request)
    [scored] = await run(make_judge(endpoint, credit="decision"), make_long([0.1, 0.9], steps=3))
    assert expected in endpoint.requests[1].body["messages"][3]["content"]
    assert None not in values(scored).values()

    endpoint.script = lambda request, number: decided(request, change)
    [scored] = await run(make_judge(endpoint, credit="decision", seed=1), make_long([0.1, 0.9], steps=3))
    assert all(isinstance(j, Unscored) and expected in j.reason for j in scored.judgments.values())


async def test_a_folded_run_is_one_decision_and_its_score_belongs_to_all_of_it(endpoint: Endpoint) -> None:
    endpoint.script = lambda request, number: decided(request)
    group = make_long([0.1, 0.9], steps=30, idle=range(3, 28), observation=200)
    judge = make_judge(endpoint, credit="decision", context_tokens=6000, max_completion_tokens=1000)
    [scored] = await run(judge, group)
    assert "- trajectory 1: 0, 1, 2, 3, 28, 29" in endpoint.requests[0].system
    judgment = scored.judgments["t0"]
    assert isinstance(judgment, Score)
    assert judgment.decisions is not None
    assert sorted(judgment.decisions) == list(range(30))
    assert len({judgment.decisions[n] for n in range(3, 28)}) == 1


# --- size -------------------------------------------------------------------------------------------------------------


def test_a_fair_share_leaves_to_the_large_what_the_small_do_not_need() -> None:
    from mmo_rl.judge.condense import share

    assert share([10, 20, 30], 100) == 30
    assert share([10, 20, 100], 60) == 30
    assert share([50, 50], 60) == 30
    assert share([], 5) == 5


async def test_a_prompt_fits_into_the_context_and_no_decision_is_left_out(endpoint: Endpoint) -> None:
    group = make_long([0.1, 0.9, 0.4, 0.6], steps=60, observation=600)
    judge = make_judge(endpoint, context_tokens=24_000, max_completion_tokens=1000)
    [scored] = await run(judge, group)
    [request] = endpoint.requests
    assert values(scored) == {f"t{n}": skill for n, skill in enumerate([0.1, 0.9, 0.4, 0.6])}
    assert sum(len(message["content"]) for message in request.body["messages"]) / 3 <= 23_000
    for text in request.texts.values():
        assert [int(n) for n in re.findall(r"^step (\d+),", text, re.MULTILINE)] == list(range(60))
        seen = [int(n) for n in re.findall(r"news of minute (\d+)", text)]
        assert seen
        assert seen == list(range(60 - len(seen), 60))  # the oldest were dropped
    assert "Trajectory 1 is shortened: " in request.user
    assert judge.findings["condensed"] == 4
    assert judge.findings["dropped_observations"] == 4 * 60 - sum(
        len(re.findall("news of minute", text)) for text in request.texts.values()
    )


async def test_small_members_are_not_shortened_for_a_large_one(endpoint: Endpoint) -> None:
    short, long = make_long([0.1, 0.9], steps=2), make_long([0.4], steps=60, observation=900, prefix="long")
    group = Group(short.group_id, short.window, (*short.members, *long.members), short.truth)
    judge = make_judge(endpoint, context_tokens=16_000, max_completion_tokens=1000)
    [scored] = await run(judge, group)
    assert values(scored) == {"t0": 0.1, "t1": 0.9, "long0": 0.4}
    assert judge.findings["condensed"] == 1


async def test_what_does_not_fit_together_is_split(endpoint: Endpoint) -> None:
    group = make_long([n / 10 for n in range(1, 9)], steps=60)
    judge = make_judge(endpoint, context_tokens=15_000, max_completion_tokens=1000)
    [scored] = await run(judge, group)
    assert values(scored) == {f"t{n}": (n + 1) / 10 for n in range(8)}
    assert sorted({len(request.ids) for request in endpoint.requests}) in ([2], [4], [2, 4])


async def test_what_cannot_fit_is_unscored_with_the_reason(endpoint: Endpoint) -> None:
    [scored] = await run(
        make_judge(endpoint, context_tokens=5_000, max_completion_tokens=1000), make_long([0.1, 0.9], steps=200)
    )
    reasons = {j.reason for j in scored.judgments.values() if isinstance(j, Unscored)}
    assert len(reasons) == 1
    assert "judge.context_tokens" in reasons.pop()
    assert endpoint.requests == []


def test_no_room_for_a_prompt_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="leaves 904 for the prompt") as caught:
        RulerJudge.check_keys(model="m", context_tokens=5000)
    assert "judge.max_completion_tokens" in str(caught.value)


# --- canaries ---------------------------------------------------------------------------------------------------------


def gullible(request: Request, number: int) -> Reply:
    """Gives 1.0 to whoever mentions it, and then 0.2 less to the others."""
    fooled = {i for i, text in request.texts.items() if "INVALID" in text}
    skills = {i: float((re.findall(r"skill=([0-9.]+)", text) or ["0"])[0]) for i, text in request.texts.items()}
    return scores([(i, 1.0 if i in fooled else max(0.0, s - (0.2 if fooled else 0.0))) for i, s in skills.items()])


async def test_canaries_show_a_gullible_judge_and_touch_no_score(endpoint: Endpoint) -> None:
    endpoint.script = gullible
    groups = [make_group([0.3, 0.5 + hour / 100, 0.9], hour=hour) for hour in range(20)]
    judge = make_judge(endpoint, canary_rate=1.0)
    results = await run(judge, *groups)
    assert [values(s) for s in results] == [{"t0": 0.3, "t1": 0.5 + hour / 100, "t2": 0.9} for hour in range(20)]
    found = judge.findings
    assert found["canaries"] == 20
    assert found["canary_score"] == 1.0
    assert found["canary_beat"] == 1.0
    assert found["canary_shift"] == pytest.approx(0.2)
    kinds = {name.partition("/")[2] for name in found if name.startswith("canary_score/")}
    assert kinds <= set(KINDS)
    assert len(kinds) >= 3
    assert judge.usage.calls == 40


async def test_a_judge_that_reads_is_not_moved(endpoint: Endpoint) -> None:
    def script(request: Request, number: int) -> Reply:
        return scores([(i, float((re.findall(r"skill=([0-9.]+)", t) or ["0"])[0])) for i, t in request.texts.items()])

    endpoint.script = script
    judge = make_judge(endpoint, canary_rate=1.0)
    await run(judge, make_group(SKILLS))
    assert judge.findings["canary_score"] == judge.findings["canary_beat"] == judge.findings["canary_shift"] == 0.0


async def test_canaries_come_at_their_rate_and_stay_in_their_fence(endpoint: Endpoint) -> None:
    endpoint.script = gullible
    judge = make_judge(endpoint, canary_rate=0.25)
    await run(judge, *(make_group([0.3, 0.5 + hour / 1000], hour=hour % 24) for hour in range(80)))
    assert 8 <= judge.findings["canaries"] <= 34
    for request in endpoint.requests:
        assert request.user.count("<") == request.user.count(">") == 2 * len(request.ids) + 2


async def test_a_canary_without_an_answer_is_counted(endpoint: Endpoint) -> None:
    endpoint.script = lambda request, number: completion("no") if "INVALID" in request.user else honest(request, number)
    judge = make_judge(endpoint, canary_rate=1.0)
    [scored] = await run(judge, make_group(SKILLS))
    assert None not in values(scored).values()
    assert judge.findings["canaries_unscored"] == 1
