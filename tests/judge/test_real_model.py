"""A real, small language model judges one window end to end, over HTTP on loopback. It is a poor judge of trading, and
the point is that its quality is measured all the same."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmo_rl.judge.findings import numbers
from mmo_rl.judge.oracle import oracle_scores
from mmo_rl.lm.load import load_model
from mmo_rl.report.base import ReportParts
from mmo_rl.report.html import render
from mmo_rl.report.judged_page import judged_sentence
from mmo_rl.report.judging import quality
from mmo_rl.report.local_report import LocalReport
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.types import Action, Group, Score
from tests.harness.endpoint import Endpoint, Reply, Request, completion
from tests.judge.conftest import make_group, make_judge, stream


class SmolLM2:
    """The instruct model of 135 M parameters on a CPU, greedy. As servers with guided decoding do for a JSON schema,
    the answer's form and ids are given and what the model chooses between them is its own: each score is 0. and the
    most likely digit at its place."""

    def __init__(self, weights: Path, cache: Path) -> None:
        self._model, self._tokenizer = load_model(str(weights), cache=cache)
        self.prompt_tokens: list[int] = []

    def answer(self, request: Request) -> str:
        import torch

        text = self._tokenizer.apply_chat_template(request.body["messages"], tokenize=False, add_generation_prompt=True)
        digits = [self._tokenizer(str(n), add_special_tokens=False)["input_ids"][-1] for n in range(10)]
        answer, unread, read = '{"scores": [', text + '{"scores": [', None
        for number, identity in enumerate(request.ids):
            entry = f'{", " if number else ""}{{"trajectory_id": "{identity}", "score": 0.'
            ids = self._tokenizer(unread + entry, add_special_tokens=False, return_tensors="pt")["input_ids"]
            if read is None:
                self.prompt_tokens.append(ids.shape[1])
            with torch.inference_mode():
                seen = self._model(ids, past_key_values=read, use_cache=True, logits_to_keep=1)
            read = seen.past_key_values
            chosen = int(seen.logits[0, -1, digits].argmax())
            unread = f'{chosen}, "explanation": "by likelihood"}}'
            answer += entry + unread
        return answer + "]}"


def trading(group: Group) -> Group:
    """Members that bought more or less of what rose, or sold it, so that the oracle tells them apart."""
    members = []
    for number, member in enumerate(group.members):
        side = "BUY" if number % 2 else "SELL"
        action = Action(side, {"ticker": "ACME", "size": 1 + number}, True, result={"price": 110.0})
        pnl = (1 + number) * (13.5 if side == "BUY" else -13.5)
        step = member.steps[0].__class__(0, member.steps[0].timestamp_ms, {}, action, member.steps[0].llm_calls)
        members.append(replace(member, steps=(step,), final_pnl=pnl))
    return replace(group, members=tuple(members))


@pytest.mark.slow
async def test_smollm2_judges_a_window_and_its_quality_is_told(
    endpoint: Endpoint, tmp_path: Path, smollm2: Path, smollm2_cache: Path
) -> None:
    model = await asyncio.to_thread(SmolLM2, smollm2, smollm2_cache)

    def script(request: Request, number: int) -> Reply:
        return completion(model.answer(request), usage=(1500, 100))

    endpoint.script = script
    judge = make_judge(
        endpoint,
        model="SmolLM2-135M-Instruct",
        repeats=2,
        canary_rate=1.0,
        context_tokens=8192,
        max_completion_tokens=512,
        concurrency=1,
        timeout_s=300,
        attempts=1,
    )
    group = trading(make_group([0.5] * 3))
    async with judge:
        (scored,) = [s async for s in judge.score(stream(group))]
    assert all(isinstance(j, Score) for j in scored.judgments.values()), scored.judgments
    assert len(endpoint.requests) == 3 and max(model.prompt_tokens) < 8192

    folder = RunFolder(tmp_path / "smollm2" / "k")
    oracle = oracle_scores(group)
    assert len(set(oracle.values())) == 3
    rows = LocalReport(parts=ReportParts(folder=folder)).judgments(0, [scored], oracle)
    told = quality(rows, numbers(judge.tallies), seed=0)
    for key in ("unscored_share", "zero_variance_share", "repeat_spread", "position_effect", "canary_shift"):
        assert f"judge/{key}" in told, told
    assert told["judge/unscored_share"] == 0 and told["judge/canaries"] == 1 and told["judge/windows_compared"] == 1
    flat = told["judge/zero_variance_share"] == 1
    assert flat or {"judge/oracle_tau", "judge/pnl_tau"} <= told.keys(), told
    folder.write_summary(told)
    assert "How good the judge is" in render(folder)
    print(judged_sentence(told), json.dumps({k: round(v, 3) for k, v in told.items()}))
