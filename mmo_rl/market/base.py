"""Where policies play."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mmo_rl.database.base import Recorder
from mmo_rl.policy.base import Completion, Policy
from mmo_rl.types import GroundTruth, Message, Parts


@dataclass(frozen=True, slots=True)
class PlayedStep:
    """One tick of one agent. ``state`` and ``market`` are what the agent could see, as plain JSON values; ``action``
    is in the names of the recorded contract; money in game dollars."""

    tick: int
    state: dict[str, Any]
    market: dict[str, Any]
    messages: tuple[Message, ...]
    completion: Completion
    action_type: str
    parameters: dict[str, Any]
    success: bool
    result: dict[str, Any] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Episode:
    """A whole window of one market: ``steps[agent]`` in tick order, ``pnl[agent]`` and ``balance[agent]`` at its end,
    and what came true (its ``window_id`` is empty: the recorder names the window)."""

    ticks: int
    steps: tuple[tuple[PlayedStep, ...], ...]
    pnl: tuple[float, ...]
    balance: tuple[float, ...]
    truth: GroundTruth


OnWindow = Callable[[Sequence[Episode]], Awaitable[None]]
"""Told the episodes of one market so far, the newest last; questions are resolved in them as far as they are by now."""
Replay = Sequence[Sequence[Sequence[str]]]
"""Texts that were answered before, by window, tick and agent."""

Seat = str | None
"""Who sits in a market: a scripted strategy by name (``oracle`` and ``contrarian-oracle`` know the future), None for
the policy, or the name of one of several policies that play against each other (``rivals``)."""


class Arena(Protocol):
    """Plays whole windows of simulated markets, many side by side. A market is fixed by its seed alone, so the same
    seeds are the same markets for every policy. With ``windows`` each market goes on for so many windows, in which
    positions, prices and open questions carry over; its episodes follow each other in the result. ``replay``
    holds what was answered in the first windows of the only market: nobody is asked again. ``on_window`` is awaited as
    each window of it ends. `rules` are plain values: with the same ones a seed is the same market."""

    def rules(self) -> dict[str, Any]: ...

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
    ) -> list[Episode]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorParts(Parts):
    """Collaborators of a collector: the ``arena`` that policies play in and the ``recorder`` of their play."""

    arena: Arena
    recorder: Recorder
