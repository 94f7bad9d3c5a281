"""Condensation of long play to a judge's context: idle runs folded, oldest observations dropped, decisions kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from mmo_rl.judge.prompt import Shown
from mmo_rl.judge.view import StepView, TrajectoryView

Render = Callable[[TrajectoryView], str]


@dataclass(frozen=True, slots=True)
class Play:
    """Rendered play of one member: its text, and for each step number in it the steps that this number stands for (a
    folded run has one number for all of its steps). Left out are ``folded`` steps, the ``observations`` of so many
    steps, and the ``thoughts`` of so many."""

    trajectory_id: str
    text: str
    steps: dict[int, tuple[int, ...]]
    folded: int = 0
    observations: int = 0
    thoughts: int = 0

    @property
    def tokens(self) -> int:
        return count_tokens(self.text)

    @property
    def shown(self) -> Shown:
        left_out = [
            (self.folded, "idle steps are folded into the first of their run, whose number stands for all of them"),
            (self.observations, "steps, the oldest, are shown without what the agent saw"),
            (self.thoughts, "steps, the oldest, are shown without what the agent thought"),
        ]
        note = "; ".join(f"{count} {what}" for count, what in left_out if count)
        return Shown(self.text, tuple(self.steps), note)


def count_tokens(text: str) -> int:
    """Estimates the tokens of a text from above: a third of its UTF-8 bytes. English and JSON take 3 to 4 bytes a token
    with the vocabularies in use, other scripts 3 and more; no model's own tokenizer is needed."""
    return -(-len(text.encode()) // 3)


def whole(trajectory_id: str, view: TrajectoryView, render: Render) -> Play:
    """Renders a member with nothing left out."""
    return Play(trajectory_id, render(view), {step.number: (step.number,) for step in view.steps})


def condense(trajectory_id: str, view: TrajectoryView, render: Render, *, limit: int) -> Play:
    """Renders a member in at most ``limit`` tokens, or as few as can be without leaving out a decision.

    First runs of idle steps are folded; then observations are dropped, the oldest first and no more than needed; then
    thoughts, likewise.
    """
    steps, covered = _fold(view.steps)
    folded = len(view.steps) - len(steps)

    def play(observations: int, thoughts: int) -> Play:
        kept = tuple(_without(step, observation=n < observations, thought=n < thoughts) for n, step in enumerate(steps))
        text = render(replace(view, steps=kept))
        return Play(trajectory_id, text, covered, folded, observations, thoughts)

    if play(len(steps), 0).tokens <= limit:
        return play(_fewest(len(steps), lambda n: play(n, 0).tokens <= limit), 0)
    return play(len(steps), _fewest(len(steps), lambda n: play(len(steps), n).tokens <= limit))


def share(sizes: Sequence[int], room: int) -> int:
    """Returns the largest limit a member with which all members together fit into ``room``: members below it keep their
    size and leave more to the others. Below 0 where nothing is left."""
    left = room
    for n, size in enumerate(sorted(sizes)):
        fair = left // (len(sizes) - n)
        if size > fair:
            return fair
        left -= size
    return max(sizes, default=room)


def _fold(steps: Sequence[StepView]) -> tuple[list[StepView], dict[int, tuple[int, ...]]]:
    """Folds each run of idle steps into its first; also returns the steps that each number stands for."""
    kept: list[StepView] = []
    covered: dict[int, tuple[int, ...]] = {}
    for idle, run in groupby(steps, key=lambda step: step.idle):
        members = list(run)
        if idle and len(members) > 1:
            first, last = members[0], members[-1]
            said = {"steps": len(members), "until_step": last.number, "until_minute": last.minute}
            kept.append(replace(first, parameters=said, calls=(), reasoning=None, result=None, state={}))
            covered[first.number] = tuple(step.number for step in members)
        else:
            kept += members
            covered |= {step.number: (step.number,) for step in members}
    return kept, covered


def _without(step: StepView, *, observation: bool, thought: bool) -> StepView:
    """Returns a step without its observation, its thought, or both."""
    calls = () if thought and observation else step.calls
    if observation:
        calls = tuple(replace(call, system=None, prompt=None) for call in calls)
    return replace(
        step, calls=calls, state={} if observation else step.state, reasoning=None if thought else step.reasoning
    )


def _fewest(most: int, fits: Callable[[int], bool]) -> int:
    """Returns the smallest n in [0, most] that fits, by bisection; ``most`` where none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low
