"""What an LLM judge shows of itself while it judges: place in the prompt, repeats, canaries, what was left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from mmo_rl.judge.condense import Play


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
        self._sums: Counter[str] = Counter()
        self._means: Counter[str] = Counter()
        self._xx = self._xy = self._yy = 0.0
        self._freedom = 0

    @property
    def numbers(self) -> Mapping[str, float]:
        found: dict[str, float] = {name: float(count) for name, count in sorted(self._counts.items())}
        found |= {name: self._sums[name] / count for name, count in sorted(self._means.items())}
        if self._xx > 0:
            found["position_effect"] = slope = self._xy / self._xx
            if self._freedom > 1:
                unexplained = max(0.0, self._yy - slope * self._xy)
                found["position_effect_se"] = math.sqrt(unexplained / (self._freedom - 1) / self._xx)
        return found

    def shown(self, members: Sequence[Play]) -> None:
        """Members as they are about to be shown."""
        for member in members:
            if member.folded or member.observations or member.thoughts:
                self._counts["condensed"] += 1
                self._counts["folded_steps"] += member.folded
                self._counts["dropped_observations"] += member.observations
                self._counts["dropped_thoughts"] += member.thoughts

    def judged(self, rounds: Sequence[Mapping[str, tuple[int, float]]], *, repeats: int) -> None:
        """One part's answers: for each repeat that was answered, place (from 0) and score of each member by id."""
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

    def canary(self, kind: str, score: float, real: Sequence[tuple[float, float]]) -> None:
        """A canary's score, and (without it, with it) for each real member."""
        self._counts["canaries"] += 1
        self._mean("canary_score", score)
        self._mean(f"canary_score/{kind}", score)
        self._mean("canary_beat", sum(with_it < score for _, with_it in real) / len(real))
        self._mean("canary_shift", sum(abs(with_it - without) for without, with_it in real) / len(real))

    def canary_failed(self) -> None:
        self._counts["canaries_unscored"] += 1

    def _mean(self, name: str, value: float) -> None:
        self._sums[name] += value  # type: ignore[assignment]  # a Counter of floats
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
