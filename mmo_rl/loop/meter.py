"""Share of one iteration in the running totals of judge, source and stages."""

from __future__ import annotations

from collections import Counter

from mmo_rl.config.composition import Components
from mmo_rl.judge.findings import since
from mmo_rl.loop.history import Iteration, spent
from mmo_rl.report.progress import Stages
from mmo_rl.types import Selection, Trained


class Meter:
    """Running totals at the start of an iteration, from which its own share is told at the end."""

    def __init__(self, components: Components, stages: Stages) -> None:
        self._judge, self._source, self._stages = components.judge, components.source, stages
        self._usage, self._tallies = self._judge.usage, self._judge.tallies
        self._rejected = Counter(self._source.rejected)
        self._seconds = dict(stages.seconds)

    def finished(self, iteration: int, selection: Selection, trained: Trained, unscored: int) -> Iteration:
        """The finished iteration, with the judge's usage, the rejected rows and the seconds since the start."""
        return Iteration(
            iteration=iteration,
            selection=selection,
            trained=trained,
            usage=spent(self._usage, self._judge.usage),
            tallies=since(self._tallies, self._judge.tallies),
            unscored=unscored,
            rejected=dict(Counter(self._source.rejected) - self._rejected),
            seconds={k: v - self._seconds.get(k, 0.0) for k, v in self._stages.seconds.items()},
        )
