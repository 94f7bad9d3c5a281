"""Players that know nothing of this package: an agent on the `openai` client, and a small instruct model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import openai
import pytest

from mmo_rl.lm.load import load_model
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.parallel_env import parallel_env
from mmo_rl.market.spec import MarketSpec
from mmo_rl.policy.local import LocalPolicy
from tests.harness.endpoint import Endpoint, Reply, Request, completion


def reader(request: Request, number: int) -> Reply:
    """A model that has only read the prompt: it believes the sources that it was not told to doubt."""
    system, user = (message["content"] for message in request.body["messages"])
    assert '"action" is BUY, SELL, CLOSE or HOLD' in system and "cash in thousands of dollars" in " ".join(
        system.split()
    )
    news = re.search(r"^news (\w+) (\w+) @(wire|ledger)$", user, re.MULTILINE)
    paid = re.search(r"^cash \d+ order (\d+) bet \d+$", user, re.MULTILINE)
    assert paid is not None
    if news is None or paid.group(1) == "0":
        return completion('{"action": "HOLD"}')
    up = news.group(2) in {"soars", "beats", "rallies", "likely"}
    return completion(json.dumps({"ticker": news.group(1), "action": "BUY" if up else "SELL", "size": 1}))


def test_an_agent_on_the_openai_client_plays_by_the_prompt_alone(endpoint: Endpoint) -> None:
    endpoint.script = reader
    client = openai.OpenAI(base_url=endpoint.url, api_key="none", max_retries=0)
    earned, orders = 0.0, 0
    env = parallel_env(spec=MarketSpec(), agents=2, seed=3)
    for market in range(6):
        observations, _ = env.reset(seed=market)
        while env.agents:
            actions = {}
            for agent, text in observations.items():
                chat = [{"role": "system", "content": env.system_prompt}, {"role": "user", "content": text}]
                answer = client.chat.completions.create(model="any", messages=chat)  # type: ignore[arg-type]
                actions[agent] = answer.choices[0].message.content or ""
            observations, rewards, _, _, infos = env.step(actions)
            assert all(info["success"] for info in infos.values()), infos
            orders += sum(info["amount_usd"] is not None for info in infos.values())
            earned += sum(rewards.values())
    client.close()
    assert orders > 80 and earned > 0, "whoever follows the reliable sources earns"


@pytest.mark.slow
async def test_smollm2_plays_a_window(smollm2: Path, smollm2_cache: Path) -> None:
    """Zero-shot a model of 135 M parameters hardly trades, but whatever it says has a result."""
    model, tokenizer = load_model(str(smollm2), cache=smollm2_cache)
    policy = LocalPolicy(
        model=model, tokenizer=tokenizer, name="SmolLM2-135M-Instruct", version=0, max_completion_tokens=32
    )
    spec = MarketSpec(prompt="explained", lenient_answers=True, ticks=4)
    (episode,) = await MarketArena(spec=spec).play(
        policy, market_seeds=[1], seats=[None, None, "balanced"], temperature=0.7, seed=0
    )
    steps = [step for agent in (0, 1) for step in episode.steps[agent]]
    assert len(steps) == 8 and all(step.success or step.error for step in steps)
    for step in steps:
        ids, logprobs = step.completion.token_ids, step.completion.logprobs
        assert ids is not None and logprobs is not None and len(ids) == len(logprobs)
        assert tokenizer.decode(ids, skip_special_tokens=True) == step.completion.text
    valid = sum(step.success for step in steps)
    print(f"SmolLM2: {valid} of 8 actions valid, P&L {episode.pnl[:2]}, first answer {steps[0].completion.text!r}")
