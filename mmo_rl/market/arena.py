"""Plays policies and scripts in worlds side by side, so that one batch of prompts serves all of them."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from mmo_rl.concurrency import gather_ordered
from mmo_rl.errors import ConfigError
from mmo_rl.market.base import Episode, OnWindow, PlayedStep, Replay, Seat
from mmo_rl.market.prompt import explain, market_lines, render
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.strategies import STRATEGIES
from mmo_rl.market.world import ActionResult, Observation, World
from mmo_rl.policy.base import Completion, Policy
from mmo_rl.rng import derive_seed, rng
from mmo_rl.types import GroundTruth, Message

YARDSTICKS = ("oracle", "contrarian-oracle")
"""Seats that know the future: the best order there is, and the other side of it."""


class MarketArena:
    """Worlds of one `MarketSpec` in lock-step; every agent of a world answers before any of them acts."""

    def __init__(self, *, spec: MarketSpec) -> None:
        self._spec = spec

    def rules(self) -> dict[str, Any]:
        """The market's specification, and by whose class it is read."""
        kind = type(self._spec)
        return {**vars(self._spec), "class": f"{kind.__module__}.{kind.__qualname__}"}

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
        """One episode a market, in order; every market has the same ``seats``. A seat that names one of the ``rivals``
        is that policy's. ``temperature`` is the policies'; a policy is asked once a tick for all of its seats, and the
        seed it is given does not depend on which policy it is. ``on_tick(done, total)`` is called after every tick.
        With ``windows`` each market goes on for so many: its episodes follow each other in the list, and a question's
        outcome is filled in where it was resolved by the end. ``replay`` and ``on_window`` are for one market alone,
        see `Arena`. Raises `ConfigError` for an unknown strategy."""
        rivals = rivals or {}
        _check([seat for seat in seats if seat not in rivals])
        players: dict[Seat, Policy | None] = {None: policy}
        players.update(rivals)
        tables = [
            _Table(World(spec=self._spec, seed=s, agents=len(seats)), seats, rng(seed, "script", s))
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

            async def ask(seat: Seat, tick_seed: int = tick_seed, known: Sequence[str] = known) -> Iterator[Completion]:
                prompts = [] if known else [prompt for table in tables for prompt in table.prompts(seat)]
                if not prompts:
                    return iter(())
                player = players[seat]
                assert player is not None, "a seat is the policy's, but there is no policy"
                return iter(await player.complete(prompts, temperature=temperature, seed=tick_seed))

            answers: dict[Seat, Iterator[Completion]] = {}
            async with aclosing(gather_ordered(players, ask, limit=len(players))) as asked:
                for seat in players:
                    answers[seat] = await anext(asked)
            for table in tables:
                table.act(answers, known)
            if on_window is not None and (tick + 1) % self._spec.ticks == 0:
                await on_window(tables[0].episodes())
            if on_tick is not None:
                on_tick(tick + 1, total)
        return [episode for table in tables for episode in table.episodes()]


def _check(seats: Sequence[Seat]) -> None:
    known = [*STRATEGIES, *YARDSTICKS]
    for seat in seats:
        if seat is not None and seat not in known:
            near = difflib.get_close_matches(seat, known, n=1)
            raise ConfigError(
                f"unknown strategy {seat!r}", hint=f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
            )


class _Table:
    """A world together with who sits at it, what they see and what they did."""

    def __init__(self, world: World, seats: Sequence[Seat], draw: random.Random) -> None:
        self._world = world
        self._seats = seats
        self._draw = draw
        self._rules = explain(world.spec) if world.spec.prompt == "explained" else None
        self._seen: list[Observation] = []
        self._prompts: list[tuple[Message, ...]] = []
        self._public: dict[str, Any] = {}
        self._steps: list[list[PlayedStep]] = [[] for _ in seats]
        self._episodes: list[Episode] = []
        self._opening = self._equities()

    def _equities(self) -> list[float]:
        return [self._world.equity(agent) for agent in range(len(self._seats))]

    def look(self) -> None:
        self._seen = [self._world.observe(agent) for agent in range(len(self._seats))]
        market = market_lines(self._seen[0])
        self._prompts = [render(observation, rules=self._rules, market=market) for observation in self._seen]
        self._public = _public(self._seen[0])

    def prompts(self, player: Seat) -> list[tuple[Message, ...]]:
        return [prompt for prompt, seat in zip(self._prompts, self._seats, strict=True) if seat == player]

    def act(self, answers: Mapping[Seat, Iterator[Completion]], known: Sequence[str] = ()) -> None:
        """Everybody acts as they answered, or as is ``known`` that they did; scripts draw their randomness anyway."""
        scripted = {
            agent: Completion(self._script(agent, seat))
            for agent, seat in enumerate(self._seats)
            if seat is not None and seat not in answers
        }
        if known:
            completions = [Completion(text) for text in known]
        else:
            completions = [scripted.get(agent) or next(answers[seat]) for agent, seat in enumerate(self._seats)]
        results = self._world.step([completion.text for completion in completions])
        for agent, (completion, result) in enumerate(zip(completions, results, strict=True)):
            self._steps[agent].append(self._played(agent, completion, result))

    def _script(self, agent: int, strategy: str) -> str:
        if strategy in YARDSTICKS:
            return self._world.best_action(agent, contrary=strategy != "oracle")
        return STRATEGIES[strategy](self._seen[agent], self._draw)

    def _played(self, agent: int, answer: Completion, result: ActionResult) -> PlayedStep:
        observation = self._seen[agent]
        action_type, parameters = _contract_action(result, self._world)
        market = self._public
        if observation.posts:
            market = market | {"posts": [str(post) for post in observation.posts]}
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
            result=None
            if result.price is None
            else {"price": result.price, "amount": result.amount_usd}
            | ({} if result.pnl_usd is None else {"pnl": result.pnl_usd}),
            error=answer.error or result.error,
        )

    def next_window(self) -> None:
        self._episodes.append(self._episode())
        self._world.next_window()
        self._steps = [[] for _ in self._seats]
        self._opening = self._equities()

    def _episode(self) -> Episode:
        agents = range(len(self._seats))
        return Episode(
            ticks=self._world.tick,
            steps=tuple(tuple(steps) for steps in self._steps),
            pnl=tuple(self._world.pnl(agent) for agent in agents),
            balance=tuple(self._world.equity(agent) for agent in agents),
            truth=self._world.truth(""),
        )

    def episodes(self) -> list[Episode]:
        """Of all windows so far, with what is known by now of how their questions came out."""
        played = [*self._episodes, self._episode()]
        return [replace(episode, truth=self._world.truth("", window=w)) for w, episode in enumerate(played)]


def with_window(truth: GroundTruth, window_id: str) -> GroundTruth:
    """The same ground truth under a window's id."""
    return replace(truth, window_id=window_id)


def _public(observation: Observation) -> dict[str, Any]:
    """What every agent of a market sees at a tick, as plain JSON values."""
    return {
        "tick": observation.tick,
        "tickers": {q.ticker: {"price": q.price, "changePct": q.change_pct} for q in observation.quotes},
        "questions": {name: {"yesPrice": price} for name, price in observation.questions},
        "news": [str(item) for item in observation.news],
    }


def _contract_action(result: ActionResult, world: World) -> tuple[str, dict[str, object]]:
    """The action in the recorded contract's names."""
    order = result.order
    if order is None:
        return "INVALID", {}
    if order.verb == "HOLD":
        return "HOLD", {}
    if order.verb == "POST":
        return "CREATE_POST", {"content": order.text}
    question = world.is_question(order.ticker)
    if order.verb == "CLOSE":
        name = "SELL_PREDICTION_SHARES" if question else "CLOSE_PERP_POSITION"
        return name, {"marketId" if question else "ticker": order.ticker}
    long = order.verb == "BUY"
    if question:
        return "BUY_PREDICTION_SHARES", {
            "marketId": order.ticker,
            "side": "YES" if long else "NO",
            "size": order.size,
        }
    leverage = {} if order.leverage is None else {"leverage": order.leverage}
    side = "long" if long else "short"
    return "OPEN_PERP_POSITION", {"ticker": order.ticker, "side": side, "size": order.size} | leverage
