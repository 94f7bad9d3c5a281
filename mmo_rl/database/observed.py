"""Market prices and questions in recorded play, as agents saw and traded them; pure functions.

Quotes are read by `mmo_rl.quotes`; a question may be ``{"id": "q", "question": "Will it?", "yesPrice": 0.4, "resolved":
true, "outcome": "YES"}``. A trade's own price counts only where nobody recorded a
quote. Ground truth that the game recorded (``action.correctness.actualOutcome``, ``gameKnowledge.actualOutcomes``)
resolves questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from mmo_rl.quotes import PRICES, QUESTIONS, TICKERS, YES_PRICES, number, seen_objects, text
from mmo_rl.types import Action, GroundTruth, QuestionOutcome, TickerOutcome, Trajectory, Window

RESOLVED = ("resolvedOutcome", "resolution", "actualOutcome")

Moment = tuple[datetime, int, str, int]
"""Time of a price: step time, step number, trajectory, place within the step."""


@dataclass(frozen=True, slots=True)
class _Price:
    at: Moment
    value: float


@dataclass
class Observed:
    """Prices and questions of one window. ``skipped`` counts by reason what cannot become an outcome."""

    window: Window
    skipped: Counter[str] = field(default_factory=Counter)
    _quotes: dict[str, list[_Price]] = field(default_factory=dict)
    _fills: dict[str, list[_Price]] = field(default_factory=dict)
    _chances: dict[str, list[_Price]] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)
    _answers: dict[str, set[str]] = field(default_factory=dict)

    def add(self, trajectory: Trajectory) -> None:
        """Adds the quotes and trades of a trajectory's steps in this window; other steps count for their own window."""
        for step in trajectory.steps:
            if not self.window.start <= step.timestamp < self.window.end:
                self.skipped["steps outside the window"] += 1
                continue
            place = 0
            for found in seen_objects(step):
                at = (step.timestamp, step.number, trajectory.trajectory_id, place)
                place += 1
                self._quote(found, at)
            self._trade(step.action, (step.timestamp, step.number, trajectory.trajectory_id, place))
        knowledge = trajectory.metadata.get("gameKnowledge")
        actual = knowledge.get("actualOutcomes") if isinstance(knowledge, Mapping) else None
        for name, answer in actual.items() if isinstance(actual, Mapping) else ():
            answer = answer.get("outcome") if isinstance(answer, Mapping) else answer
            self._resolve(str(name), answer)

    def truth(self) -> GroundTruth:
        """Derives the outcomes, by name; prices to the cent, as the game's tables hold them.

        A ticker seen only once has no change, and one below a cent no price: both are counted in ``skipped``.
        """
        skipped: Counter[str] = Counter()
        tickers = []
        for name in sorted(self._quotes.keys() | self._fills.keys()):
            seen = sorted(self._quotes.get(name) or self._fills[name], key=lambda price: price.at)
            first, last = seen[0], seen[-1]
            start, end = round(first.value, 2), round(last.value, 2)
            if first.at[:2] == last.at[:2]:
                skipped["tickers with one price only"] += 1
            elif start <= 0 or end <= 0:
                skipped["tickers below a cent"] += 1
            else:
                tickers.append(TickerOutcome(name, start, end))
        questions = []
        for name in sorted(self._chances.keys() | self._answers.keys()):
            answers = self._answers.get(name, set())
            if len(answers) > 1:
                skipped["questions resolved both ways"] += 1
            chances = sorted(self._chances.get(name, ()), key=lambda price: price.at)
            probability = chances[-1].value if chances else None
            if len(answers) != 1 and probability is None:
                continue
            outcome: Literal["YES", "NO", "UNRESOLVED"] = "UNRESOLVED"
            if len(answers) == 1:
                outcome = "YES" if "YES" in answers else "NO"
            questions.append(QuestionOutcome(name, self._texts.get(name, name), outcome, probability))
        self.skipped |= skipped  # a second call adds nothing
        return GroundTruth(self.window.id, tuple(tickers), tuple(questions))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _quote(self, found: Mapping[str, object], at: Moment) -> None:
        ticker, price = text(found, TICKERS), number(found, PRICES)
        if ticker is not None and price is not None and price > 0:
            self._quotes.setdefault(ticker, []).append(_Price(at, price))
            return
        question = text(found, QUESTIONS)
        if question is None:
            return
        asked = found.get("question") or found.get("title")
        chance = number(found, YES_PRICES)
        if isinstance(asked, str):
            self._texts[question] = asked
        elif chance is None:
            return  # any other object with an id
        if chance is not None and 0 <= chance <= 1:
            self._chances.setdefault(question, []).append(_Price(at, chance))
        status = str(found.get("status", "")).lower()
        settled = found.get("resolved") is True or status in ("resolved", "settled") or bool(found.get("resolvedAt"))
        if found.get("resolved") is not False:
            for key in (*RESOLVED, *(("outcome",) if settled else ())):
                self._resolve(question, found.get(key))

    def _trade(self, action: Action, at: Moment) -> None:
        if not action.success:
            return
        price = number(action.result or {}, PRICES)
        price = number(action.parameters, PRICES) if price is None else price
        ticker, question = text(action.parameters, TICKERS), text(action.parameters, QUESTIONS[:3])
        if ticker is not None and price is not None and price > 0:
            self._fills.setdefault(ticker, []).append(_Price(at, price))
        elif question is not None and action.correctness is not None:
            self._resolve(question, action.correctness.get("actualOutcome"))

    def _resolve(self, question: str, answer: object) -> None:
        """Adds an answer to a question; numbers are none: 0 is NO in one game and the first option, YES, in another."""
        if isinstance(answer, bool):
            self._answers.setdefault(question, set()).add("YES" if answer else "NO")
        elif isinstance(answer, str) and answer.strip().upper() in ("YES", "NO"):
            self._answers.setdefault(question, set()).add(answer.strip().upper())


def observe(window: Window, trajectories: Iterable[Trajectory]) -> Observed:
    """Collects prices and questions of a window from trajectories."""
    observed = Observed(window)
    for trajectory in trajectories:
        observed.add(trajectory)
    return observed
