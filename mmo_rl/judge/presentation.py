"""Presentation of a group: splits it into parts that fit into a prompt, and shuffles the members of each (seeded)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmo_rl.judge.condense import Play, condense, count_tokens, share, whole
from mmo_rl.judge.prompt import build_messages
from mmo_rl.judge.template import Template
from mmo_rl.judge.view import TrajectoryView
from mmo_rl.rng import rng
from mmo_rl.types import Credit, Group, Trajectory
from mmo_rl.wording import counted

CORRECTION_TOKENS = 2000
"""Room for the judge's first answer and what was wrong with it, which the second request also holds."""


@dataclass(frozen=True, slots=True)
class Part:
    """Members that are judged in one prompt, in their first order of presentation."""

    rubric: str
    context: str
    members: tuple[Play, ...]


@dataclass(frozen=True, slots=True)
class TooLong:
    """Members that cannot be compared within the judge's context, however much is left out."""

    members: tuple[str, ...]
    reason: str


class Presenter:
    """Splitter of a group into parts of at most ``max_members`` whose prompts take at most ``prompt_tokens``.

    The split and the order follow from ``seed`` and from the members' play, so the same play is the same prompt
    wherever and under whichever ids it was recorded.
    """

    def __init__(self, *, template: Template, seed: int, max_members: int, prompt_tokens: int, credit: Credit) -> None:
        self._template = template
        self._seed = seed
        self._max_members = max_members
        self._prompt_tokens = prompt_tokens
        self._credit: Credit = credit

    def parts(self, group: Group, members: Sequence[Trajectory]) -> list[Part | TooLong]:
        """Splits ``members`` into parts. Raises `ConfigError` where the template cannot show one of them."""
        rubric, context = self._template.shared(group)
        views = {m.trajectory_id: self._template.view(group, m) for m in members}
        plays = {i: whole(i, view, lambda v: self._template.member(group, v)) for i, view in views.items()}
        ids = split({i: play.text for i, play in plays.items()}, seed=self._seed, limit=self._max_members)
        return [
            fitted
            for part in ids
            for fitted in self._fit(group, Part(rubric, context, tuple(plays[i] for i in part)), views)
        ]

    def fit(self, group: Group, part: Part, views: Mapping[str, TrajectoryView]) -> Part | None:
        """Condenses ``part`` to the tokens that a prompt may take; None where that cannot be reached."""
        room = self._prompt_tokens - CORRECTION_TOKENS - self._overhead(part)
        if sum(play.tokens for play in part.members) <= room:
            return part
        limit = share([play.tokens for play in part.members], room)
        members = tuple(
            play
            if play.tokens <= limit
            else condense(
                play.trajectory_id,
                views[play.trajectory_id],
                lambda view: self._template.member(group, view),
                limit=limit,
            )
            for play in part.members
        )
        if sum(play.tokens for play in members) > room:
            return None
        return Part(part.rubric, part.context, members)

    def _fit(self, group: Group, part: Part, views: Mapping[str, TrajectoryView]) -> list[Part | TooLong]:
        """Condenses a part, and halves it where that is not enough."""
        fitted = self.fit(group, part, views)
        if fitted is not None:
            return [fitted]
        if len(part.members) < 4:
            return [
                TooLong(
                    tuple(play.trajectory_id for play in part.members),
                    f"too long for the judge: {counted(len(part.members), 'trajectory', 'trajectories')} of up to "
                    f"{max(play.tokens for play in part.members)} tokens, a prompt takes {self._prompt_tokens} "
                    "(judge.context_tokens)",
                )
            ]
        middle = len(part.members) // 2
        halves = (part.members[:middle], part.members[middle:])
        return [f for half in halves for f in self._fit(group, Part(part.rubric, part.context, half), views)]

    def _overhead(self, part: Part) -> int:
        """Counts the tokens of a part's prompt beside the members' play."""
        empty = build_messages(
            part.rubric,
            part.context,
            [Play("", "", play.steps, 1, 1, 1).shown for play in part.members],
            seed=self._seed,
            credit=self._credit,
        )
        return sum(count_tokens(message["content"]) + 10 for message in empty)


def split(texts: Mapping[str, str], *, seed: int, limit: int) -> list[list[str]]:
    """Shuffles the ids of ``texts``, by seed and texts alone, into parts of nearly equal size, at most ``limit``."""
    ordered = sorted(texts, key=lambda trajectory_id: (texts[trajectory_id], trajectory_id))
    rng(seed, "judge", "order", *sorted(texts.values())).shuffle(ordered)
    parts = -(-len(ordered) // limit)
    return [ordered[len(ordered) * i // parts : len(ordered) * (i + 1) // parts] for i in range(parts)]


def orders(count: int, repeats: int, *, seed: int) -> list[tuple[int, ...]]:
    """Returns ``repeats`` orders in which to present ``count`` members, the first as they are.

    The others are rotations of it, as far apart as they can be, so that each member is seen in as many places as there
    are repeats (a Latin square); after ``count`` of them the next ones rotate a new permutation.
    """
    found: list[tuple[int, ...]] = []
    base = list(range(count))
    while len(found) < repeats:
        cycle = min(count, repeats - len(found))
        if found:
            rng(seed, "judge", "repeat", len(found)).shuffle(base)
        found += [tuple(base[(n * count) // cycle :] + base[: (n * count) // cycle]) for n in range(cycle)]
    return found
