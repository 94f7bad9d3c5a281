"""PettingZoo ParallelEnv of the market: text observations (an agent's prompt), text actions (JSON)."""

from __future__ import annotations

import string

from gymnasium.spaces import Text
from pettingzoo import ParallelEnv

from mmo_rl.market.prompt import explain, render
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.view import Observation
from mmo_rl.market.world import World
from mmo_rl.rng import derive_seed

_CHARACTERS = string.printable
_MAX_OBSERVATION = 20_000
_MAX_ACTION = 1_000


class MarketEnv(ParallelEnv[str, str, str]):
    """Environment in which agents ``agent0``, ``agent1`` ... play ``windows`` windows of one market.

    - An observation is the user message of `mmo_rl.market.prompt`; `system_prompt` explains it and the answer's form.
    - An action is any text; ``{"ticker": "NOVA", "action": "BUY", "size": 1}`` is an order. Text that is no order, or
      one that cannot be carried out, does nothing and is reported in the agent's info: ``success``, ``error``, and
      the ``price`` and ``amount_usd`` of its execution.
    - A reward is the change of the agent's equity in game dollars since the last tick, fees included. Rewards of a
      window sum to its P&L.
    - The market never ends by itself: after the last tick all agents are truncated.

    ``reset(seed=...)`` makes the market of that seed; ``reset()`` the next one of a series that ``seed`` fixes.
    """

    metadata = {"name": "mmo_rl_market_v0", "render_modes": ["ansi"], "is_parallelizable": True}  # noqa: RUF012

    def __init__(
        self,
        *,
        spec: MarketSpec | None = None,
        agents: int = 4,
        windows: int = 1,
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        if agents < 1 or windows < 1:
            raise ValueError(f"expected at least 1 agent and 1 window, got {agents} and {windows}")
        self.spec = MarketSpec() if spec is None else spec
        self.windows = windows
        self.render_mode = render_mode
        self.possible_agents = [f"agent{i}" for i in range(agents)]
        self.agents: list[str] = []
        self.observation_spaces = {
            a: Text(min_length=0, max_length=_MAX_OBSERVATION, charset=_CHARACTERS) for a in self.possible_agents
        }
        self.action_spaces = {
            a: Text(min_length=0, max_length=_MAX_ACTION, charset=_CHARACTERS) for a in self.possible_agents
        }
        self._seed = seed
        self._resets = 0
        self._world: World | None = None
        self._equity: dict[str, float] = {}

    @property
    def system_prompt(self) -> str:
        """System prompt with the rules and the form of an answer, for language models."""
        return explain(self.spec)

    @property
    def world(self) -> World:
        """Market of the present reset. Raises `RuntimeError` before the first reset."""
        if self._world is None:
            raise RuntimeError("call reset() first")
        return self._world

    def observation_space(self, agent: str) -> Text:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Text:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, object] | None = None
    ) -> tuple[dict[str, str], dict[str, dict[str, object]]]:
        """Begins a market and returns observations and infos; ``options`` are ignored."""
        if seed is not None:
            self._seed, self._resets = seed, 0
        market_seed = self._seed if self._resets == 0 else derive_seed(self._seed, "reset", self._resets)
        self._resets += 1
        self.agents = list(self.possible_agents)
        self._world = World(spec=self.spec, seed=market_seed, agents=len(self.agents))
        seen = {a: self._world.observe(i) for i, a in enumerate(self.agents)}
        self._equity = {a: o.equity_usd for a, o in seen.items()}
        return {a: _text(o) for a, o in seen.items()}, {a: {} for a in self.agents}

    def step(
        self, actions: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, object]]]:
        """Plays one tick. An agent without an action waits."""
        world, agents = self.world, self.agents
        if not agents:
            return {}, {}, {}, {}, {}
        results = world.step([str(actions.get(agent, '{"action":"HOLD"}')) for agent in agents])
        over = world.done and world.window + 1 >= self.windows
        if world.done and not over:
            world.next_window()
        seen = {a: world.observe(i) for i, a in enumerate(agents)}
        rewards = {a: o.equity_usd - self._equity[a] for a, o in seen.items()}
        self._equity = {a: o.equity_usd for a, o in seen.items()}
        infos: dict[str, dict[str, object]] = {
            a: {"success": r.success, "error": r.error, "price": r.price, "amount_usd": r.amount_usd}
            for a, r in zip(agents, results, strict=True)
        }
        if over:
            self.agents = []
        return (
            {a: _text(o) for a, o in seen.items()},
            rewards,
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, over),
            infos,
        )

    def render(self) -> str:
        """Renders the market as the first agent sees it, and the equity of every account."""
        worth = "\n".join(f"{agent} {equity:.2f}" for agent, equity in self._equity.items())
        return f"{_text(self.world.observe(0))}\n{worth}"

    def state(self) -> str:
        """Joins the observations of all agents: their common knowledge."""
        return "\n\n".join(_text(self.world.observe(i)) for i in range(len(self.possible_agents)))


parallel_env = MarketEnv
"""`MarketEnv` under the name that PettingZoo's environments use."""


def _text(observation: Observation) -> str:
    return str(render(observation)[1]["content"])
