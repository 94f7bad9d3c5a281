"""The loop: collect, select, judge, train, publish; ``iterations`` times, then evaluate base against trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mmo_rl.clock import utc_now
from mmo_rl.errors import TrainerError
from mmo_rl.tasks._history import Iteration, spending, spent
from mmo_rl.tasks._judged import keep_judgments, refuse_if_poor
from mmo_rl.tasks._planned import note_plan
from mmo_rl.tasks._progress import Advance, Stages
from mmo_rl.tasks._reasons import nothing_selected, refuse_if_none
from mmo_rl.tasks._results import add_seconds, data_card, note_provenance, summarize
from mmo_rl.tasks._select import select, used
from mmo_rl.types import Group, PolicyVersion, Score, ScoredGroup, Selection

if TYPE_CHECKING:
    from mmo_rl.config import Context
    from mmo_rl.report.run_folder import RunFolder
    from mmo_rl.report.summary import Evaluations


async def run(context: Context) -> float | None:
    """Trains as the config says, or goes on where the run folder ends; returns the improvement in P&L, if measured."""
    from mmo_rl.config import masked
    from mmo_rl.report.html import write_report
    from mmo_rl.report.selection import print_selection
    from mmo_rl.report.table import print_summary

    folder = context.run_folder
    assert folder is not None
    history = _finished_iterations(folder)
    _require_model(context)
    report = context.components.report()
    failed, exported = True, None
    try:
        report.start(masked(context.settings))
        note_provenance(context, folder, history)
        loop = await Loop.build(context, folder)
        await note_plan(context, folder)
        with Stages(console=context.console, iterations=context.settings.iterations, done=len(history)) as stages:
            policy = await loop.trainer.resume(history[-1].trained.policy.version if history else 0)
            for iteration in range(len(history), context.settings.iterations):
                done = await loop.iterate(iteration, policy, history, stages)
                if done is None:
                    break
                history.append(done)
                policy = done.trained.policy
                loop.describe(history)
            exported = loop.describe(history)
            if loop.trains and not any(i.trained.gradient_steps for i in history):
                raise TrainerError(
                    "no group of any iteration carried signal: nothing was trained", hint="mmo-rl task=check"
                )
            evaluations = await loop.evaluate(policy, stages)
            seconds = add_seconds([*(i.seconds for i in history), {"evaluate": stages.seconds.get("evaluate", 0.0)}])
        summary = summarize(context, folder, history, evaluations, seconds)
        note_provenance(context, folder, history)
        report.finish(summary)
        write_report(folder)
        failed = False
    finally:
        report.close(failed=failed)
    if exported is not None:
        print_selection(context.console, summary)
        context.console.print(f"Exported: {exported}", highlight=False, soft_wrap=True)
        return None
    print_summary(context.console, summary, folder.path)
    improvement = summary["eval/pnl_improvement"]
    return improvement if isinstance(improvement, float) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """The components of one run, and one iteration of the work they do together."""

    context: Context
    folder: RunFolder
    source: Any
    sampler: Any
    judge: Any
    trainer: Any
    evaluator: Any
    collector: Any
    registry: Any  # None where nothing is trained
    report: Any
    scenario_id: str | None
    scenario_start: datetime | None

    @classmethod
    async def build(cls, context: Context, folder: RunFolder) -> Loop:
        """Builds everything that the config names, so that what is wrong is found before anything is spent."""
        from mmo_rl.database.registry import Registry
        from mmo_rl.database.worlds import reserve_hours

        components = context.components
        trainer = components.trainer()
        trains = trainer.capabilities.trains
        off = [] if trains else [name for name in ("collect", "evaluate") if components.has(name)]
        if off:
            context.console.print(f"This trainer makes no policy; switched off: {', '.join(off)}", soft_wrap=True)
        plays = components.has("collect") and trains
        database = await components.database()
        await database.require_tables()
        collector = await components.collector() if plays else None
        source, judge = await components.source(), await components.judge()
        scenario_id = scenario_start = None
        if collector is not None:
            scenario_id = f"{context.settings.name}-{folder.run_id()}"
            hours = int(-(-context.settings.iterations * collector.windows * collector.window_hours // 1))
            scenario_start = await reserve_hours(database, scenario_id=scenario_id, hours=hours, now=utc_now())
        return cls(
            context=context,
            folder=folder,
            source=source,
            sampler=components.sampler(),
            judge=judge,
            trainer=trainer,
            evaluator=components.evaluator() if components.has("evaluate") and trains else None,
            collector=collector,
            registry=Registry(database=database) if trains else None,
            report=components.report(),
            scenario_id=scenario_id,
            scenario_start=scenario_start,
        )

    @property
    def trains(self) -> bool:
        return self.registry is not None

    async def iterate(
        self, iteration: int, policy: PolicyVersion, history: Sequence[Iteration], stages: Stages
    ) -> Iteration | None:
        """One round; None when no unused window is left to train on."""
        from mmo_rl.judge.findings import since

        before, rejected = dict(stages.seconds), Counter(self.source.rejected)
        usage, tallies = self.judge.usage, self.judge.tallies
        if self.collector is not None:
            with stages.stage("collect", f"collect {self.collector.windows} windows") as advance:
                await self.collector.collect(
                    await self.context.components.published(policy),
                    iteration=iteration,
                    scenario_id=self.scenario_id,
                    start=self.scenario_start,
                    on_tick=advance,
                )
        with stages.stage("select"):
            selection = await select(
                self.source,
                self.sampler,
                iteration=iteration,
                used_windows=used([done.selection for done in history]),
                scenario_id=self.scenario_id,
            )
        if not selection.used:
            if not history:
                raise nothing_selected(selection, self.context.overrides)
            stages.say(f"iteration {iteration + 1}: every ready window has been used, the run ends here")
            return None
        with stages.stage("judge") as advance:
            scored = [s async for s in _counted(self.judge, self.source.groups(selection), selection, advance)]
            unscored = refuse_if_none(scored, self.context.overrides)
            rows = keep_judgments(self.report, self.judge, iteration, scored)
            seed = self.context.settings.seed
            refuse_if_poor(self.judge, self.folder.read("judgments"), self.context.overrides, seed=seed)
        with stages.stage("train") as advance:
            trained = await self._train(iteration, scored, selection, policy, advance)
        seconds = {k: v - before.get(k, 0.0) for k, v in stages.seconds.items()}
        done = Iteration(
            iteration=iteration,
            selection=selection,
            trained=trained,
            usage=spent(usage, self.judge.usage),
            tallies=since(tallies, self.judge.tallies),
            unscored=unscored,
            rejected=dict(Counter(self.source.rejected) - rejected),
            seconds=seconds,
        )
        self._publish_numbers(done, scored, rows, stages)
        return done

    async def _train(
        self,
        iteration: int,
        scored: list[ScoredGroup],
        selection: Selection,
        policy: PolicyVersion,
        advance: Advance,
    ) -> Any:
        """Trains on the policy view alone and registers the new version with the trajectories it came from."""
        from mmo_rl.trainer.policy_view import training_groups

        groups = training_groups(scored)
        if self.registry is None:
            return await self.trainer.train(groups, iteration=iteration)
        batch_id = f"{self.context.settings.name}-{self.folder.run_id()}-{iteration:04d}"
        rewards = {i: j.value for s in scored for i, j in s.judgments.items() if isinstance(j, Score)}
        await self.registry.start_batch(
            batch_id, policy.name, str(policy.version), list(selection.trajectory_ids), rewards
        )
        options = {"on_step": advance} if self.trainer.capabilities.serves else {}
        try:
            trained = await self.trainer.train(groups, iteration=iteration, **options)
        except BaseException as error:
            await self.registry.fail_batch(batch_id, str(error) or type(error).__name__)
            raise
        await self.registry.publish(
            batch_id,
            trained.policy,
            dict(trained.metrics),
            list(selection.recorded_ids),
            self.report.tracking_id,
        )
        return trained

    def describe(self, history: Sequence[Iteration]) -> str | None:
        """Has an exporter note what its data are; None where the trainer trains."""
        return None if self.trains else self.trainer.describe(data_card(self.context, history))

    def _publish_numbers(
        self, done: Iteration, scored: list[ScoredGroup], rows: list[dict[str, Any]], stages: Stages
    ) -> None:
        from mmo_rl.judge.findings import numbers
        from mmo_rl.report.iteration import iteration_metrics
        from mmo_rl.report.judging import quality

        metrics = iteration_metrics(
            selection=done.selection,
            scored=scored,
            judged=quality(rows, numbers(done.tallies), seed=self.context.settings.seed),
            trained=done.trained,
            stage_seconds=done.seconds,
            seed=self.context.settings.seed,
        )
        self.report.iteration(done.iteration, metrics)
        self.folder.append("checkpoints", done.row())
        played = "".join(
            f"  {label} {metrics[key]:{form}}"
            for key, label, form in (
                ("play/pnl", "P&L", "+8.1f"),
                ("play/win_rate", "wins", "4.0%"),
                ("play/error_rate", "errors", "5.1%"),
            )
            if key in metrics
        )
        did = f"{done.trained.gradient_steps} gradient steps"
        if not self.trains:
            did = f"{done.trained.metrics['histories']:,.0f} histories"
        stages.next_iteration(
            f"iteration {done.iteration + 1:>2}/{self.context.settings.iterations}  "
            f"{len(done.selection.windows)} windows, {done.selection.used} trajectories{played}  "
            f"{did}, {sum(done.seconds.values()):.1f} s"
        )

    async def evaluate(self, policy: PolicyVersion, stages: Stages) -> Evaluations:
        """Base and trained policy on the same held-out markets, sampled and greedy; empty with ``evaluate=none``."""
        from mmo_rl.report.summary import Evaluations

        if self.evaluator is None:
            return Evaluations()
        components = self.context.components
        base = await components.published(PolicyVersion(policy.name, 0, components.model().location()))
        trained = await components.published(policy)
        measured = {}
        for key, player, decoding in (
            ("base", base, "sampled"),
            ("trained", trained, "sampled"),
            ("base_greedy", base, "greedy"),
            ("trained_greedy", trained, "greedy"),
        ):
            with stages.stage("evaluate", f"evaluate {key.replace('_', ' ')}") as advance:
                measured[key] = await self.evaluator.evaluate(player, decoding, on_tick=advance)
        with stages.stage("evaluate", "evaluate oracle"):
            measured["oracle"] = await self.evaluator.oracle()
        return Evaluations(**measured)


def _require_model(context: Context) -> None:
    """Weights that cannot be had are found missing before anything is played or paid."""
    from mmo_rl.policy.local import require_model

    able = context.components.trainer().capabilities
    if able.trains and not able.serves:
        require_model(context.components.model().location())


def _finished_iterations(folder: RunFolder) -> list[Iteration]:
    """The iterations that are whole; rows that a killed run wrote after them are taken back."""
    history = [Iteration.from_row(row) for row in folder.read("checkpoints")]
    last = history[-1].iteration if history else -1
    folder.truncate_after("metrics", last)
    folder.truncate_after("judgments", last)
    return history


async def _counted(
    judge: Any, groups: AsyncIterator[Group], selection: Selection, advance: Advance
) -> AsyncIterator[ScoredGroup]:
    total = len(selection.windows)
    done = 0
    async for group in judge.score(groups):
        done += 1
        advance(done, total, spending(judge.usage))
        yield group
