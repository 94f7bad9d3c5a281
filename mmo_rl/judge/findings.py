"""Self-measurements of an LLM judge: effect of the place in the prompt, spread of repeats, canaries, condensed play."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mmo_rl.judge.condense import Play
from mmo_rl.types import Tallies


class Findings:
    """Running counts and means; ``numbers`` are flat, and a name is missing while nothing was observed for it.

    ======================  ============================================================================================
    position_effect         how much a score rises from the first place in a prompt to the last, in points of score, and
    position_effect_se      its standard error; least squares, with repeats within each member, else within each prompt
    repeat_spread           mean range (largest minus smallest) of a member's scores over ``judge.repeats``
    repeats_failed          repeats without a usable answer
    condensed               trajectories that were shortened; ``dropped_observations``, ``dropped_thoughts`` and
                            ``folded_steps`` count the steps that lost something
    canaries                copies of groups with a known-bad member; ``canaries_unscored`` got no usable answer
    canary_score            mean score of the known-bad member, and by kind ``canary_score/<kind>``
    canary_beat             mean share of real members that it beat, in [0, 1]
    canary_shift            mean distance of real members' scores with it in the group from those without it
    ======================  ============================================================================================
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._means: Counter[str] = Counter()
        self._xx = self._xy = self._yy = 0.0
        self._freedom = 0

    @property
    def numbers(self) -> Mapping[str, float]:
        return numbers(self.tallies)

    @property
    def tallies(self) -> Tallies:
        """The sums behind ``numbers``, which add up over parts of a run."""
        found: dict[str, tuple[float, ...]] = {name: (float(count),) for name, count in sorted(self._counts.items())}
        found |= {name: (self._sums[name], float(count)) for name, count in sorted(self._means.items())}
        if self._xx > 0:
            found["position_effect"] = (self._xx, self._xy, self._yy, float(self._freedom))
        return found

    def add_members(self, members: Sequence[Play]) -> None:
        """Counts members that are about to be shown in a prompt."""
        for member in members:
            if member.folded or member.observations or member.thoughts:
                self._counts["condensed"] += 1
                self._counts["folded_steps"] += member.folded
                self._counts["dropped_observations"] += member.observations
                self._counts["dropped_thoughts"] += member.thoughts

    def add_answers(self, rounds: Sequence[Mapping[str, tuple[int, float]]], *, repeats: int) -> None:
        """Adds one part's answers: for each answered repeat, place (from 0) and score of each member by id."""
        if repeats > 1:
            self._counts["repeats_failed"] += repeats - len(rounds)
        if len(rounds) > 1:
            by_member = [[answer[i] for answer in rounds] for i in rounds[0]]
            for seen in by_member:
                scores = [score for _, score in seen]
                self._mean("repeat_spread", max(scores) - min(scores))
                self._places(seen, len(rounds[0]))
        elif rounds:
            self._places(list(rounds[0].values()), len(rounds[0]))

    def add_canary(self, kind: str, score: float, real: Sequence[tuple[float, float]]) -> None:
        """Adds a canary's score, and for each real member its score without and with the canary."""
        self._counts["canaries"] += 1
        self._mean("canary_score", score)
        self._mean(f"canary_score/{kind}", score)
        self._mean("canary_beat", sum(with_it < score for _, with_it in real) / len(real))
        self._mean("canary_shift", sum(abs(with_it - without) for without, with_it in real) / len(real))

    def add_failed_canary(self) -> None:
        """Counts a canary without a usable answer."""
        self._counts["canaries_unscored"] += 1

    def _mean(self, name: str, value: float) -> None:
        """Adds a value to a mean."""
        self._sums[name] += value
        self._means[name] += 1

    def _places(self, seen: Sequence[tuple[int, float]], count: int) -> None:
        """Adds observations that share one unknown level, which their own mean takes out."""
        places = [place / (count - 1) for place, _ in seen]
        scores = [score for _, score in seen]
        place_mean, score_mean = sum(places) / len(places), sum(scores) / len(scores)
        for place, score in zip(places, scores, strict=True):
            self._xx += (place - place_mean) ** 2
            self._xy += (place - place_mean) * (score - score_mean)
            self._yy += (score - score_mean) ** 2
        self._freedom += len(seen) - 1


def numbers(tallies: Tallies) -> dict[str, float]:
    """Computes findings from their sums: of one number a count, of (sum, n) a mean, of (xx, xy, yy, freedom) a slope.

    The slope of the least-squares line is xy / xx, its standard error (under the same name with ``_se``)
    sqrt((yy - xy^2 / xx) / (freedom - 1) / xx).
    """
    found: dict[str, float] = {}
    for name, sums in tallies.items():
        if len(sums) == 1:
            found[name] = sums[0]
        elif len(sums) == 2:
            if sums[1]:
                found[name] = sums[0] / sums[1]
        else:
            xx, xy, yy, freedom = sums
            if xx > 0:
                found[name] = xy / xx
                if freedom > 1:
                    unexplained = max(0.0, yy - xy * xy / xx)
                    found[f"{name}_se"] = math.sqrt(unexplained / (freedom - 1) / xx)
    return found


def added(parts: Iterable[Tallies]) -> Tallies:
    """Adds up the sums of several parts of a run."""
    total: dict[str, tuple[float, ...]] = {}
    for part in parts:
        for name, sums in part.items():
            before = total.get(name, (0.0,) * len(sums))
            total[name] = tuple(a + b for a, b in zip(before, sums, strict=True))
    return total


def since(before: Tallies, now: Tallies) -> Tallies:
    """Returns the sums that came between two readings."""
    return {
        name: tuple(b - a for a, b in zip(before.get(name, (0.0,) * len(sums)), sums, strict=True))
        for name, sums in now.items()
    }
