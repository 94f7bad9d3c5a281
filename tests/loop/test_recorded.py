"""Evaluation on recorded play: the windows that are held out, and the answers that are scored."""

from __future__ import annotations

import json
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mmo_rl.lm.answers import AnswerScorer
from mmo_rl.lm.model import ModelSpec
from mmo_rl.loop.recorded import asked_to_measure
from mmo_rl.sampler.select import held_out
from mmo_rl.sampler.windows import WindowSampler
from mmo_rl.source.base import SourceParts
from mmo_rl.source.jsonl import JsonlSource
from mmo_rl.types import PolicyCall, PolicyVersion

NOW = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [((), False), (("evaluate=market",), True), (("+evaluate.markets=4",), True), (("evaluated=1", "seed=1"), False)],
)
def test_an_evaluation_is_asked_for_by_its_own_key(overrides: tuple[str, ...], asked: bool) -> None:
    assert asked_to_measure(overrides) is asked


async def test_held_out_windows_are_the_newest_that_nothing_was_trained_on(tmp_path: Path) -> None:
    rows = []
    for hour in range(10):
        start = datetime(2025, 6, 1, hour, tzinfo=UTC)
        for agent in range(2):
            step = {"stepNumber": 0, "timestamp": start.isoformat(), "action": {"actionType": "HOLD"}}
            end = (start + timedelta(minutes=5)).isoformat()
            own = {"trajectoryId": f"t{hour}-{agent}", "agentId": f"a{agent}", "startTime": start.isoformat()}
            rows.append(own | {"endTime": end, "steps": [step]})
    (tmp_path / "play.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sampler = WindowSampler(min_agents=2, min_actions=1, holdout=0.3, max_windows=2, seed=0)
    async with aclosing(JsonlSource(path=str(tmp_path), parts=SourceParts(now=lambda: NOW))) as source:
        for used, most, hours in (((), 9, [7, 8, 9]), (("2025-06-01T08:00",), 9, [7, 9]), ((), 2, [8, 9])):
            found = await held_out(source, sampler, used_windows=used, scenario_id=None, most=most)
            assert [window.window.start.hour for window in found.windows] == hours
            assert found.used == 2 * len(hours)


def test_answers_are_scored_whole_and_recorded_logprobs_count_for_their_tokens_alone() -> None:
    spec = ModelSpec(name="tiny", base_model="tiny", context_length=512, max_completion_tokens=24)
    scorer = AnswerScorer(PolicyVersion("tiny", 0, spec.location()), spec)
    prompt = ({"role": "user", "content": "NOVA 100"},)
    first, second = PolicyCall(prompt, "hold"), PolicyCall(prompt, "buy NOVA 10")
    long = PolicyCall(({"role": "user", "content": "NOVA 100 " * 600},), "hold")
    together = scorer.logprobs([first, long, second])
    assert together[1] is None
    assert [together[0], together[2]] == pytest.approx(
        [*scorer.logprobs([first]), *scorer.logprobs([second])], abs=1e-4
    )
    assert all(value is not None and value < 0 for value in (together[0], together[2]))
    ids = scorer._encoder(first).answer
    recorded = [
        PolicyCall(prompt, "hold", token_ids=ids, logprobs=(-0.5,) * len(ids)),
        PolicyCall(prompt, "hold", token_ids=ids, logprobs=(-0.5,)),
        PolicyCall(prompt, "hold", token_ids=ids, logprobs=(-9999.0,) * len(ids)),
        first,
    ]
    assert scorer.behaviour(recorded) == [-0.5 * len(ids), None, None, None]
