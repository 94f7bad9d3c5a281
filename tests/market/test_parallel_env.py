import json
import re
from pathlib import Path
from typing import Any

import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

from mmo_rl.market.parallel_env import MarketEnv, parallel_env
from mmo_rl.market.spec import MarketSpec

RICH = MarketSpec(
    question_windows=3, impact=0.002, impact_decay=0.1, posts=3, max_leverage=10.0, funding_rate=0.01, questions=3
)


@pytest.mark.parametrize(("spec", "windows"), [(None, 1), (RICH, 3)], ids=["default", "everything on"])
def test_pettingzoos_own_tests_pass(spec: MarketSpec | None, windows: int) -> None:
    parallel_api_test(parallel_env(spec=spec, windows=windows), num_cycles=50)
    parallel_seed_test(lambda: parallel_env(spec=spec, windows=windows), num_cycles=30)


def test_the_documented_example_plays_a_window() -> None:
    page = Path(__file__).parents[2] / "docs" / "market.md"
    (example,) = (
        text for text in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL) if "MarketEnv" in text
    )
    scope: dict[str, Any] = {}
    exec(example, scope)
    assert all(scope["truncations"].values()) and set(scope["rewards"]) == {"agent0", "agent1"}


def test_rewards_of_a_window_sum_to_its_profit_and_all_agents_are_truncated() -> None:
    env = MarketEnv(agents=3, seed=5)
    observations, _ = env.reset()
    total = dict.fromkeys(env.agents, 0.0)
    while env.agents:
        ticker = observations["agent0"].splitlines()[1].split()[0]
        bets = {"agent0": f'{{"ticker":"{ticker}","action":"BUY","size":2}}', "agent1": "no idea"}
        observations, rewards, terminations, truncations, infos = env.step(bets)  # agent2 waits
        assert infos["agent1"]["error"] == "not JSON" and infos["agent2"]["success"]
        assert all(env.observation_space(a).contains(o) for a, o in observations.items())
        total = {agent: total[agent] + reward for agent, reward in rewards.items()}
    assert not any(terminations.values()) and all(truncations.values())
    assert total["agent0"] == pytest.approx(env.world.pnl(0)) and total["agent0"] != 0.0
    assert total["agent1"] == total["agent2"] == 0.0
    assert env.step({}) == ({}, {}, {}, {}, {})


def test_agents_read_each_others_posts_and_the_next_window_begins() -> None:
    env = MarketEnv(spec=RICH, agents=2, windows=2)
    env.reset(seed=1)
    post = json.dumps({"action": "CREATE_POST", "text": "NOVA will fall\nheld NOVA+3 é"})
    observations, *_ = env.step({"agent0": post})
    assert "post agent0: NOVA will fall held NOVA+3\n" in observations["agent1"]
    assert "post " not in observations["agent0"]
    for _ in range(RICH.ticks - 1):
        observations, *_ = env.step({})
    assert env.world.window == 1 and observations["agent1"].startswith("t0\n")


def test_resets_follow_the_seed() -> None:
    env, other = MarketEnv(seed=3), MarketEnv(seed=9)
    first, second = env.reset()[0], env.reset()[0]
    assert first != second
    assert env.reset(seed=3)[0] == first and other.reset(seed=3)[0] == first
    assert env.reset()[0] == second


def test_misuse_has_its_words() -> None:
    with pytest.raises(RuntimeError, match="reset"):
        _ = MarketEnv().world
    with pytest.raises(ValueError, match="at least 1 agent"):
        MarketEnv(agents=0)


def test_the_system_prompt_tells_what_the_market_allows() -> None:
    text = MarketEnv(spec=RICH).system_prompt
    assert "1 to 10" in text and "CREATE_POST" in text and '"size"' in text
    assert "CREATE_POST" not in MarketEnv().system_prompt
