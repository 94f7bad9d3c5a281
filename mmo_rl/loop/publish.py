"""Publication of trained policies: a version is entered in the registry whole or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace

from mmo_rl.database.base import Registry
from mmo_rl.errors import TrainerError
from mmo_rl.loop.history import WARM_START, Iteration
from mmo_rl.loop.refusals import no_signal
from mmo_rl.moments import SAME_MARKET, MomentRule
from mmo_rl.policy_view import decisions_without_company, training_groups
from mmo_rl.report.base import Report
from mmo_rl.report.progress import Advance
from mmo_rl.report.summary import Summary
from mmo_rl.trainer.base import Pruner, Trainer, WarmStarter
from mmo_rl.trainer.warm_start import best_answers
from mmo_rl.types import PolicyVersion, Score, ScoredGroup, Selection, Trained, TrainingGroup

ALONE = "decisions_without_company"
"""Metric of training: decisions that were compared within their window, for want of others at their moment."""


def with_company(trained: Trained, groups: Sequence[TrainingGroup]) -> Trained:
    """Adds the number of decisions that had no company at their moment to the metrics, where there are any."""
    alone = decisions_without_company(groups)
    return replace(trained, metrics={**trained.metrics, ALONE: alone}) if alone else trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """Trainer whose versions are registered, in this order: the version's folder (by the trainer), the registry's rows
    in one transaction, the run's own row (by the caller). A run that is killed in between does the iteration again,
    and ends with the same folders and rows."""

    trainer: Trainer
    registry: Registry
    report: Report
    run: str  # what its batches' ids begin with
    moments: MomentRule = SAME_MARKET

    def batch_id(self, iteration: int) -> str:
        return f"{self.run}-{'warm' if iteration == WARM_START else f'{iteration:04d}'}"

    async def train(
        self,
        iteration: int,
        scored: Sequence[ScoredGroup],
        selection: Selection,
        policy: PolicyVersion,
        *,
        needs_signal: bool,
        on_step: Advance | None = None,
    ) -> Trained:
        """One iteration's training on the policy view alone.

        Where no group carries signal the batch has failed and the policy stays; raises `TrainerError` then, if it
        ``needs_signal``."""
        groups = training_groups(scored, self.trainer.assistant_turns, self.moments)
        batch_id = self.batch_id(iteration)
        await self._start(batch_id, policy, selection.trajectory_ids, scored)
        training = self.trainer.train(groups, iteration=iteration, on_step=on_step)
        trained = with_company(await self._attempt(batch_id, training), groups)
        if trained.gradient_steps == 0:
            reason = no_signal(groups, scored, trained)
            await self.registry.fail_batch(batch_id, reason.message)
            if needs_signal:
                raise reason
            return trained
        await self._publish(batch_id, trained, selection.recorded_ids)
        return trained

    async def warm_start(self, scored: Sequence[ScoredGroup], policy: PolicyVersion) -> tuple[Trained, int]:
        """Has the trainer imitate the best of what was judged; also returns how many answers that were."""
        groups = training_groups(scored, self.trainer.assistant_turns, self.moments)
        if not groups:
            raise no_signal(groups, scored)
        assert isinstance(self.trainer, WarmStarter)
        best = best_answers(groups, share=self.trainer.imitated_share)
        ids = list(dict.fromkeys(sample.trajectory_id for group in best for sample in group.samples))
        batch_id = self.batch_id(WARM_START)
        await self._start(batch_id, policy, ids, scored)
        trained = await self._attempt(batch_id, self.trainer.warm_start(best))
        await self._publish(batch_id, trained, ids)
        return trained, sum(len(sample.calls) for group in best for sample in group.samples)

    async def prune(self, history: Sequence[Iteration], earned: Mapping[int, float]) -> list[int]:
        """Removes the versions that the config does not ask to keep, once they are entered as archived; what is
        deployed stays. Gives back which were removed."""
        if not isinstance(self.trainer, Pruner) or not (removable := self.trainer.removable(earned)):
            return []
        batches = {
            self.batch_id(done.iteration): done.trained.policy.version
            for done in history
            if done.trained.gradient_steps and done.trained.policy.version in removable
        }
        removed = sorted(batches[batch] for batch in await self.registry.archive(list(batches)))
        self.trainer.remove(removed)
        return removed

    async def note_measured(self, history: Sequence[Iteration], summary: Summary) -> None:
        """Adds what the evaluation measured to the model that was measured."""
        trained = [done for done in history if done.trained.gradient_steps]
        score = summary.get("eval/pnl_trained")
        if trained and isinstance(score, float):
            numbers = {k: v for k, v in summary.items() if k.startswith("eval/") and not isinstance(v, str)}
            await self.registry.note_measured(self.batch_id(trained[-1].iteration), score, numbers)

    async def _start(
        self, batch_id: str, policy: PolicyVersion, ids: Sequence[str], scored: Sequence[ScoredGroup]
    ) -> None:
        wanted = set(ids)
        rewards = {i: j.value for s in scored for i, j in s.judgments.items() if isinstance(j, Score) and i in wanted}
        await self.registry.start_batch(batch_id, policy.name, str(policy.version), list(ids), rewards)

    async def _attempt(self, batch_id: str, training: Awaitable[Trained]) -> Trained:
        try:
            return await training
        except BaseException as error:
            message = error.message if isinstance(error, TrainerError) else str(error)
            await self.registry.fail_batch(batch_id, message or type(error).__name__)
            raise

    async def _publish(self, batch_id: str, trained: Trained, ids: Sequence[str]) -> None:
        await self.registry.publish(batch_id, trained.policy, dict(trained.metrics), list(ids), self.report.tracking_id)
