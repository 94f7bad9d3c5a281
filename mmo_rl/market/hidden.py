"""Hidden state of a market: events that move its prices, outcomes of its questions, and the news about both.

All of it is drawn window by window from the seed alone, independently of the agents. Two stories can be planted
(``market.event``), each about one ticker:

- ``pump_and_dump``: rumours praise it and it climbs by ``event_size`` until, in the second half of the window, it
  loses all of that and half as much again. Its true direction is down, and reliable sources say so.
- ``scandal``: without warning it falls by ``event_size`` in one tick, and by half as much again until the window ends.
  Rumours deny it beforehand, reliable sources report it once it has happened.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from mmo_rl.market.names import (
    DOWN_PHRASES,
    FIRST_QUESTIONS,
    QUESTIONS,
    RELIABLE_SOURCES,
    RUMOUR_SOURCES,
    TICKERS,
    UP_PHRASES,
)
from mmo_rl.market.spec import MarketSpec
from mmo_rl.market.view import NewsItem
from mmo_rl.rng import rng


@dataclass(slots=True)
class HiddenQuestion:
    """Question that opened at probability ``prior`` of YES and is resolved at the end of window ``due``."""

    outcome: bool
    prior: float
    due: int


@dataclass(slots=True)
class HiddenWindow:
    """Hidden state of one window: ``paths[ticker]`` are the prices at ticks 0 to ``ticks`` without the agents' own
    impact, ``news[tick]`` the lines for all agents, ``opened`` the questions that begin with this window."""

    drifts: dict[str, float] = field(default_factory=dict)
    paths: dict[str, list[float]] = field(default_factory=dict)
    opened: dict[str, HiddenQuestion] = field(default_factory=dict)
    news: list[tuple[NewsItem, ...]] = field(default_factory=list)
    event: tuple[str, int] | None = None
    """The planted story's ticker, and the tick at which it turns."""


class Hidden:
    """Generator of the hidden windows of one market's life, one after the other."""

    def __init__(self, *, spec: MarketSpec, seed: int) -> None:
        self._spec = spec
        self._seed = seed
        self._window = -1
        self._prices: dict[str, float] = {}
        self._open: dict[str, HiddenQuestion] = {}
        self._asked: dict[str, int] = {}

    def next(self) -> HiddenWindow:
        """Draws the next window; tickers and first prices are drawn once, later prices go on from the last ones."""
        self._window += 1
        # A purpose's first generator has no window in its name, so that the length of a life changes no first window.
        when = () if self._window == 0 else (self._window,)
        draw, drawn = rng(self._seed, "hidden", *when), HiddenWindow()
        for name in self._prices or draw.sample(TICKERS, self._spec.tickers):
            drift = draw.choice((-1, 1)) * draw.uniform(self._spec.drift_low, self._spec.drift_high)
            drawn.drifts[name] = drift + self._spec.drift_bias
            start = self._prices[name] if name in self._prices else draw.uniform(40.0, 200.0)
            drawn.paths[name] = self._path(draw, start, drawn.drifts[name])
        story = rng(self._seed, "event", self._window)
        if self._spec.event != "none":
            drawn.event = self._plant(story, drawn)
        self._draw_questions(draw, drawn)
        drawn.news = self._draw_news(rng(self._seed, "news", *when), drawn)
        if drawn.event is not None:
            self._report_event(story, drawn)
        self._prices = {name: path[-1] for name, path in drawn.paths.items()}
        self._open = {name: question for name, question in self._open.items() if question.due > self._window}
        return drawn

    def _path(self, draw: random.Random, price: float, drift: float) -> list[float]:
        """Draws the prices at ticks 0 to ``ticks``: geometric Brownian motion around the hidden drift."""
        path, n = [price], self._spec.ticks
        for _ in range(n):
            price *= math.exp(drift / n + self._spec.noise / math.sqrt(n) * draw.gauss(0.0, 1.0))
            path.append(price)
        return path

    def _draw_questions(self, draw: random.Random, drawn: HiddenWindow) -> None:
        spec = self._spec
        lives = rng(self._seed, "lives", self._window)
        taken = {name.partition("-")[0] for name in self._open}
        free = [name for name in QUESTIONS[: max(FIRST_QUESTIONS, spec.questions)] if name not in taken]
        tickers = list(drawn.drifts)
        for base in draw.sample(free, spec.questions - len(self._open)):
            prior = draw.uniform(0.35, 0.65)
            outcome = draw.random() < prior
            if len(self._open) + len(drawn.opened) < spec.linked_questions:
                # The honest price: a hidden event's direction is a fair coin's, a planted story goes down.
                prior = 0.5 if drawn.event is None else 0.5 * (1.0 - 1.0 / len(tickers))
                outcome = drawn.drifts[tickers[len(drawn.opened)]] > spec.drift_bias
            count = self._asked[base] = self._asked.get(base, 0) + 1
            due = self._window + (lives.randint(1, spec.question_windows) if spec.question_windows > 1 else 1) - 1
            drawn.opened[base if count == 1 else f"{base}-{count}"] = HiddenQuestion(outcome, prior, due)
        self._open |= drawn.opened

    def _draw_news(self, draw: random.Random, drawn: HiddenWindow) -> list[tuple[NewsItem, ...]]:
        """Draws two lines a tick about two different instruments, in random order: one dispatch and one rumour."""
        truth = {name: drift > 0 for name, drift in drawn.drifts.items()}
        truth |= {name: question.outcome for name, question in self._open.items()}
        lines = []
        for _ in range(self._spec.ticks):
            subjects = draw.sample(list(truth), min(2, len(truth)))
            kinds = [(RELIABLE_SOURCES, self._spec.reliable_accuracy), (RUMOUR_SOURCES, self._spec.rumour_accuracy)]
            tick = []
            for subject, (sources, accuracy) in zip(subjects, kinds, strict=False):
                up = truth[subject] == (draw.random() < accuracy)
                tick.append(NewsItem(subject, draw.choice(UP_PHRASES if up else DOWN_PHRASES), draw.choice(sources)))
            draw.shuffle(tick)
            lines.append(tuple(tick))
        return lines

    # --- planted stories --------------------------------------------------------------------------------------------

    def _plant(self, draw: random.Random, drawn: HiddenWindow) -> tuple[str, int]:
        """Bends the path of one ticker to the story, and sets its hidden drift to the story's total move."""
        spec, name = self._spec, draw.choice(list(drawn.paths))
        pump = spec.event == "pump_and_dump"
        turn = draw.randint(-(-spec.ticks // 2), 3 * spec.ticks // 4) if pump else draw.randint(1, spec.ticks // 2)
        drift, n = drawn.drifts[name], spec.ticks
        for tick, price in enumerate(drawn.paths[name]):
            if pump and tick <= turn:
                bend = spec.event_size * tick / turn
            elif pump:
                bend = spec.event_size - 1.5 * spec.event_size * min(1.0, (tick - turn) / min(2, n - turn))
            elif tick < turn:
                bend = 0.0
            else:
                bend = -spec.event_size * (1.0 + 0.5 * (tick - turn) / (n - turn))
            drawn.paths[name][tick] = price * math.exp(bend - drift * tick / n)
        drawn.drifts[name] = -spec.event_size * (0.5 if pump else 1.5)
        return name, turn

    def _report_event(self, draw: random.Random, drawn: HiddenWindow) -> None:
        """Adds the story's news: rumours of praise before the turn, a reliable report of a scandal after it."""
        assert drawn.event is not None
        name, turn = drawn.event
        for tick, lines in enumerate(drawn.news):
            if tick < turn:
                loud = NewsItem(name, draw.choice(UP_PHRASES[:3]), draw.choice(RUMOUR_SOURCES))
                # News of a scandal before it happens can only be a guess, and reliable sources do not guess.
                known = self._spec.event == "pump_and_dump"
                drawn.news[tick] = (
                    loud,
                    *(i for i in lines if i.source in RELIABLE_SOURCES and (known or i.ticker != name)),
                )
            elif self._spec.event == "scandal" and (tick == turn or draw.random() < 0.5):
                report = NewsItem(name, draw.choice(DOWN_PHRASES[:3]), draw.choice(RELIABLE_SOURCES))
                drawn.news[tick] = (report, *(i for i in lines if i.source in RUMOUR_SOURCES and i.ticker != name))
