"""Arena of the simulated market: many worlds side by side, so that one batch of prompts serves all of them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, replace
from functools import cache

from mmo_rl.concurrency import gather_ordered
from mmo_rl.errors import ConfigError
from mmo_rl.market.actions import contract_action
from mmo_rl.market.base import (
    Episode,
    MarketState,
    OnWindow,
    PlayedStep,
    QuestionQuote,
    Replay,
    Scripted,
    Seat,
    TickerQuote,
    Yardstick,
)
from mmo_rl.market.prompt import explain, market_lines, render
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.strategies import shipped
from mmo_rl.market.view import ActionResult, Observation
from mmo_rl.market.world import World
from mmo_rl.policy.base import Completion, Policy
from mmo_rl.rng import derive_seed, rng
from mmo_rl.types import Message

_log = logging.getLogger(__name__)

Asked = str | None
"""Policy that is asked for an answer: the name of a rival, or None for the policy."""


class MarketArena:
    """Arena for markets of one `MarketSpec`; every agent of a market answers before any of them acts."""

    def __init__(self, *, spec: MarketSpec) -> None:
        self._spec = spec

    @property
    def ticks(self) -> int:
        return self._spec.ticks

    def rules(self) -> Mapping[str, object]:
        """Returns the keys of the market's specification, and its class."""
        kind = type(self._spec)
        return {**asdict(self._spec), "class": f"{kind.__module__}.{kind.__qualname__}"}

    async def play(
        self,
        policy: Policy | None,
        *,
        market_seeds: Sequence[int],
        seats: Sequence[Seat],
        temperature: float,
        seed: int,
        on_tick: Callable[[int, int], None] | None = None,
        windows: int = 1,
        rivals: Mapping[str, Policy] | None = None,
        replay: Replay = (),
        on_window: OnWindow | None = None,
    ) -> list[Episode]:
        """Plays one episode a market, in order; every market has the same ``seats``.

        A seat that names one of the ``rivals`` is that policy's. ``temperature`` is the policies'; a policy is asked
        once a tick for all of its seats, and the seed it is given does not depend on which policy it is.
        ``on_tick(done, total)`` is called after every tick. With ``windows`` each market goes on for so many: its
        episodes follow each other in the list, and a question's outcome is filled in where it was resolved by the end.
        ``replay`` and ``on_window`` are for one market alone, see `Arena`. Raises `ConfigError` for an unknown
        strategy.
        """
        if self._spec.maker == "game_2025":
            _warn_of_unfair_maker()
        rivals = rivals or {}
        players: dict[Asked, Policy | None] = {None: policy}
        players.update(rivals)
        resolved = [seat if seat in players or not isinstance(seat, str) else shipped(seat) for seat in seats]
        tables = [
            _Table(World(spec=self._spec, seed=s, agents=len(seats)), resolved, rng(seed, "script", s))
            for s in market_seeds
        ]
        if (replay or on_window) and len(tables) != 1:
            raise ValueError(f"expected one market to play again or to report on, got {len(tables)}")
        total = windows * self._spec.ticks
        for tick in range(total):
            if tick and tick % self._spec.ticks == 0:
                for table in tables:
                    table.next_window()
            for table in tables:
                table.look()
            window, moment = divmod(tick, self._spec.ticks)
            known = replay[window][moment] if window < len(replay) else ()
            tick_seed = derive_seed(seed, "tick", tick)

            async def ask(who: Asked, tick_seed: int = tick_seed, known: Sequence[str] = known) -> Iterator[Completion]:
                prompts = [] if known else [prompt for table in tables for prompt in table.prompts(who)]
                if not prompts:
                    return iter(())
                player = players[who]
                assert player is not None, "a seat is the policy's, but there is no policy"
                return iter(await player.complete(prompts, temperature=temperature, seed=tick_seed))

            answers: dict[Asked, Iterator[Completion]] = {}
            async with aclosing(gather_ordered(players, ask, limit=len(players))) as asked:
                for who in players:
                    answers[who] = await anext(asked)
            for table in tables:
                table.act(answers, known)
            if on_window is not None and (tick + 1) % self._spec.ticks == 0:
                await on_window(tables[0].episodes())
            if on_tick is not None:
                on_tick(tick + 1, total)
        return [episode for table in tables for episode in table.episodes()]

    def example_prompt(self) -> tuple[Message, ...]:
        """Returns the messages that a policy is shown first in a market, that of seed 0."""
        table = _Table(World(spec=self._spec, seed=0, agents=1), [None], rng(0, "script", 0))
        table.look()
        return table.prompts(None)[0]


@cache
def _warn_of_unfair_maker() -> None:
    """Logs a warning about market.maker=game_2025, once a process."""
    _log.warning(
        "market.maker=game_2025 charges a dollar for a share that pays a dollar at even odds: even the winning side "
        "loses. For studies of recorded play only, never for training; market.maker=lmsr is fair."
    )


class _Table:
    """World with its seats: the latest observation and prompt of each agent, and the steps played so far."""

    def __init__(self, world: World, seats: Sequence[Seat], draw: random.Random) -> None:
        self._world = world
        self._scripts = {
            agent: _answers(seat, world, agent, draw)
            for agent, seat in enumerate(seats)
            if seat is not None and not isinstance(seat, str)
        }
        self._asked: dict[int, Asked] = {
            agent: seat for agent, seat in enumerate(seats) if seat is None or isinstance(seat, str)
        }
        self._rules = explain(world.spec) if world.spec.prompt == "explained" else None
        self._agents = range(len(seats))
        self._seen: list[Observation] = []
        self._prompts: list[tuple[Message, ...]] = []
        self._public: MarketState = {"tick": 0, "tickers": {}, "questions": {}, "news": []}
        self._steps: list[list[PlayedStep]] = [[] for _ in seats]
        self._episodes: list[Episode] = []
        self._opening = self._equities()

    def _equities(self) -> list[float]:
        return [self._world.equity(agent) for agent in self._agents]

    def look(self) -> None:
        """Observes the market for every agent and renders its prompt."""
        self._seen = [self._world.observe(agent) for agent in self._agents]
        market = market_lines(self._seen[0])
        self._prompts = [render(observation, rules=self._rules, market=market) for observation in self._seen]
        self._public = _public(self._seen[0])

    def prompts(self, who: Asked) -> list[tuple[Message, ...]]:
        """Returns the prompts of the agents that one policy plays, in seat order."""
        return [self._prompts[agent] for agent, asked in self._asked.items() if asked == who]

    def act(self, answers: Mapping[Asked, Iterator[Completion]], known: Sequence[str] = ()) -> None:
        """Executes the answers of all agents, or the ``known`` ones of a recording. Scripts are called in either case,
        so that they draw the same randomness and remember the same observations."""
        scripted = {agent: Completion(answer(self._seen[agent])) for agent, answer in self._scripts.items()}
        if known:
            completions = [Completion(text) for text in known]
        else:
            completions = [
                scripted[agent] if agent in scripted else next(answers[self._asked[agent]]) for agent in self._agents
            ]
        results = self._world.step([completion.text for completion in completions])
        for agent, (completion, result) in enumerate(zip(completions, results, strict=True)):
            self._steps[agent].append(self._played(agent, completion, result))

    def _played(self, agent: int, answer: Completion, result: ActionResult) -> PlayedStep:
        observation, order = self._seen[agent], result.order
        action_type, parameters = contract_action(
            order, question=order is not None and self._world.is_question(order.ticker)
        )
        market = self._public
        if observation.posts:
            market = {**market, "posts": [str(post) for post in observation.posts]}
        paid: dict[str, object] | None = None
        if result.price is not None:
            paid = {"price": result.price, "amount": result.amount_usd}
            if result.pnl_usd is not None:
                paid["pnl"] = result.pnl_usd
        return PlayedStep(
            tick=observation.tick,
            state={
                "agentBalance": round(observation.cash_usd, 6),
                "agentPnL": round(observation.equity_usd - self._opening[agent], 6),
                "openPositions": len(observation.positions),
                "activeMarkets": len(observation.quotes) + len(observation.questions),
            },
            market=market,
            messages=self._prompts[agent],
            completion=answer,
            action_type=action_type,
            parameters=parameters,
            success=result.success,
            result=paid,
            error=answer.error or result.error,
        )

    def next_window(self) -> None:
        """Keeps the finished window's episode and begins the next window."""
        self._episodes.append(self._episode())
        self._world.next_window()
        self._steps = [[] for _ in self._agents]
        self._opening = self._equities()

    def _episode(self) -> Episode:
        return Episode(
            ticks=self._world.tick,
            steps=tuple(tuple(steps) for steps in self._steps),
            pnl=tuple(self._world.pnl(agent) for agent in self._agents),
            balance=tuple(self._equities()),
            truth=self._world.truth(""),
        )

    def episodes(self) -> list[Episode]:
        """Returns the episodes of all windows so far, with the outcomes of questions as far as they are known now."""
        played = [*self._episodes, self._episode()]
        return [replace(episode, truth=self._world.truth("", window=w)) for w, episode in enumerate(played)]


def _answers(player: Scripted, world: World, agent: int, draw: random.Random) -> Callable[[Observation], str]:
    """Seats a scripted player: returns the function of its observation that gives its answer."""
    if isinstance(player, Yardstick):
        return lambda observation: world.best_action(agent, contrary=player.contrary)
    strategy = player.new()

    def answer(observation: Observation) -> str:
        text = strategy(observation, draw)
        if not isinstance(text, str):
            raise ConfigError(
                f"strategy {player.name!r} answered with {type(text).__name__}, expected the text of an action",
                hint="""return '{"ticker": "NOVA", "action": "BUY", "size": 1}', see mmo_rl.market.strategies.order""",
            )
        return text

    return answer


def _public(observation: Observation) -> MarketState:
    """Returns the part of an observation that every agent of a market shares, as recordings hold it."""
    tickers: dict[str, TickerQuote] = {
        q.ticker: {"price": q.price, "changePct": q.change_pct} for q in observation.quotes
    }
    questions: dict[str, QuestionQuote] = {name: {"yesPrice": price} for name, price in observation.questions}
    news = [str(item) for item in observation.news]
    return {"tick": observation.tick, "tickers": tickers, "questions": questions, "news": news}
