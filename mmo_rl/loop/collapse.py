"""Collapse of a policy in training: hardly any of its own actions is valid, iteration after iteration.

A run has collapsed where `FAILED_SHARE` of the policy's actions failed in each of the last `ITERATIONS` that it played
itself, or where the trained policy fails so at the end on held-out markets, and at most `SOUND_SHARE` of the base
model's actions do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmo_rl.errors import TrainerError
from mmo_rl.loop.history import Iteration
from mmo_rl.types import JsonDict, Measured, PolicyVersion, ScoredGroup

FAILED_SHARE = 0.95
ITERATIONS = 3
SOUND_SHARE = 0.75
"""Largest share of failed actions of a base model that a collapse at the end is told from."""
KEY = "play/policy_failed_share"
"""Metric of an iteration: the share of the policy's own actions that failed, without those of scripted seats."""
ON = "trainer.stop_on_collapse=false says so and goes on"


@dataclass(frozen=True, slots=True)
class Collapse:
    """Collapse of a run: a sentence about it, and the version that last played better (None: none did)."""

    found: str
    last_good: PolicyVersion | None

    def error(self) -> TrainerError:
        """Makes the error that ends the run."""
        if self.last_good is None:
            return TrainerError(
                f"{self.found}; no version of this run played better, the base model included",
                hint="market.prompt=explained market.lenient_answers=true tell the rules and read longer answers; "
                f"model.max_completion_tokens=N gives an answer more room; or another model; {ON}",
            )
        good = self.last_good
        return TrainerError(
            f"{self.found}; the last good version is {good.version}: {good.path}",
            hint=f"a lower trainer.learning_rate or trainer.kl_to_base=0.05 keeps the policy near what it could; {ON}",
        )


def failed_share(scored: Sequence[ScoredGroup], *, model: str) -> float | None:
    """Computes the share of failed actions among those that the policy ``model`` chose; None where it chose none."""
    members = {t.trajectory_id: t for group in scored for t in group.group.members}
    failed = [
        not step.action.success
        for trajectory in members.values()
        for step in trajectory.steps
        if any(call.model == model for call in step.llm_calls)
    ]
    return sum(failed) / len(failed) if failed else None


@dataclass(frozen=True, slots=True)
class CollapseWatch:
    """Watch of a run for a collapse: its iterations, the rows of its metrics.jsonl, and the version that played the
    first."""

    history: Sequence[Iteration]
    metrics: Sequence[JsonDict]
    start: PolicyVersion

    def in_play(self) -> Collapse | None:
        """Finds a collapse in the last iterations."""
        played = self._played()
        last = played[-ITERATIONS:]
        if len(last) < ITERATIONS or any(share < FAILED_SHARE for _, _, share in last):
            return None
        lowest = min(share for _, _, share in last)
        found = (
            f"the policy has collapsed: {lowest:.0%}{'' if lowest == 1 else ' or more'} of its actions failed in each "
            f"of iterations {last[0][0] + 1} to {last[-1][0] + 1}"
        )
        return Collapse(found, _last_good(played))

    def at_the_end(self, *, base: Measured | None, trained: Measured | None) -> Collapse | None:
        """Finds a collapse in the failed actions of base model and trained policy (None: not measured)."""
        if base is None or trained is None or base.error_rate > SOUND_SHARE or trained.error_rate < FAILED_SHARE:
            return None
        found = (
            f"the policy has collapsed: {trained.error_rate:.0%} of the trained policy's actions failed on the "
            f"held-out markets, and {base.error_rate:.0%} of the base model's"
        )
        return Collapse(found, _last_good(self._played()) or self.start)

    def _played(self) -> list[tuple[int, PolicyVersion, float]]:
        """Lists the iterations that the policy played, with the version that did and the share of its actions that
        failed."""
        shares = {row.get("iteration"): row.get(KEY) for row in self.metrics}
        player, played = self.start, []
        for done in self.history:
            share = shares.get(done.iteration)
            if share is not None:
                played.append((done.iteration, player, float(share)))
            player = done.trained.policy
        return played


def _last_good(played: Sequence[tuple[int, PolicyVersion, float]]) -> PolicyVersion | None:
    """Returns the newest version that played well enough and is still there."""
    good = [version for _, version, share in played if share < FAILED_SHARE]
    there = [v for v in good if not Path(v.path).is_absolute() or Path(v.path).is_dir()]
    return there[-1] if there else None
