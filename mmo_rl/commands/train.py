"""The loop: collect, select, judge, train, publish; ``iterations`` times, then evaluate base against trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mmo_rl.clock import utc_now
from mmo_rl.loop.history import WARM_START, Iteration, Past, earnings, spending, spent, summed, warm_numbers
from mmo_rl.loop.judged import keep_judgments, refuse_if_poor
from mmo_rl.loop.publish import Publisher
from mmo_rl.loop.reasons import nothing_selected, nothing_to_imitate, refuse_if_none
from mmo_rl.loop.results import add_seconds, data_card, note_provenance, summarize, tell_checkpoint
from mmo_rl.plan.planned import note_plan
from mmo_rl.report.progress import Advance, Stages
from mmo_rl.sampler.select import select, used
from mmo_rl.types import Group, PolicyVersion, ScoredGroup, Selection, Trained

if TYPE_CHECKING:
    from mmo_rl.config.components import Context
    from mmo_rl.report.run_folder import RunFolder
    from mmo_rl.report.summary import Evaluations


async def run(context: Context) -> float | None:
    """Trains as the config says, or goes on where the run folder ends; returns the improvement in P&L, if measured."""
    from mmo_rl.config.settings import masked
    from mmo_rl.report.html import write_report
    from mmo_rl.report.selection import print_selection
    from mmo_rl.report.table import print_summary

    folder = context.run_folder
    assert folder is not None
    past = Past.of(folder)
    history = past.iterations
    _require_model(context)
    report = context.components.report()
    failed, exported = True, None
    try:
        report.start(masked(context.settings))
        note_provenance(context, folder, [done.selection for done in history])
        loop = await Loop.build(context, folder)
        await note_plan(context, folder)
        with Stages(console=context.console, iterations=context.settings.iterations, done=len(history)) as stages:
            policy = await loop.begin(past, stages)
            for iteration in range(len(history), context.settings.iterations):
                done = await loop.iterate(iteration, policy, past, stages)
                if done is None:
                    break
                history.append(done)
                policy = done.trained.policy
                await loop.prune(history, stages)
                loop.describe(history)
            exported = loop.describe(history)
            evaluations = await loop.evaluate(policy, stages)
            seconds = add_seconds([*(i.seconds for i in history), {"evaluate": stages.seconds.get("evaluate", 0.0)}])
        summary = summarize(context, folder, history, evaluations, seconds)
        if loop.publisher is not None:
            await loop.publisher.note_measured(history, summary)
        note_provenance(context, folder, [done.selection for done in history])
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
    tell_checkpoint(context, policy)
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
    publisher: Publisher | None  # None where nothing is trained
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
        report = components.report()
        run = f"{context.settings.name}-{folder.run_id()}"
        publisher = Publisher(trainer=trainer, registry=Registry(database=database), report=report, run=run)
        return cls(
            context=context,
            folder=folder,
            source=source,
            sampler=components.sampler(),
            judge=judge,
            trainer=trainer,
            evaluator=components.evaluator() if components.has("evaluate") and trains else None,
            collector=collector,
            publisher=publisher if trains else None,
            report=report,
            scenario_id=scenario_id,
            scenario_start=scenario_start,
        )

    @property
    def trains(self) -> bool:
        return self.publisher is not None

    async def begin(self, past: Past, stages: Stages) -> PolicyVersion:
        """What the next iteration starts from: the last version of the run's ``past``, else the warm start, else the
        base model. Iterations whose version is gone are forgotten, and come again."""
        from mmo_rl.trainer.base import LostVersion, WarmStarter

        warms = isinstance(self.trainer, WarmStarter) and self.trainer.imitated_share > 0
        while True:
            try:
                policy: PolicyVersion = await self.trainer.resume(past.version(nothing=-1 if warms else 0))
                break
            except LostVersion as lost:
                if not past.iterations:
                    raise
                stages.say(f"{lost.message}: iteration {past.iterations[-1].iteration + 1} is done again")
                past.forget_last(self.folder)
        if not warms or past.iterations:
            await self.prune(past.iterations, stages)
            return policy
        if past.warm is not None and policy.path == self.context.components.model().location():
            stages.say(f"the weights of the warm start are gone from {self.folder.path}: it is done again")
            past.forget_warm(self.folder)
        if past.warm is None:
            past.warm = await self._warm_start(policy, stages)
            self.folder.append("checkpoints", past.warm.row())
            policy = past.warm.trained.policy
        return policy

    async def _warm_start(self, policy: PolicyVersion, stages: Stages) -> Iteration:
        """Imitates the best of what was recorded before this run; without play of its own that is also what the first
        iteration trains on, judged once and paid once where judgments are kept."""
        from mmo_rl.judge.findings import since

        assert self.publisher is not None
        before, usage, tallies = dict(stages.seconds), self.judge.usage, self.judge.tallies
        with stages.stage("select", "select for the warm start"):
            selection = await select(self.source, self.sampler, iteration=0, used_windows=(), scenario_id=None)
        if not selection.used:
            raise nothing_to_imitate(selection, self.context.overrides)
        with stages.stage("judge", "judge for the warm start") as advance:
            scored = await self._scored(selection, advance)
            unscored, _ = self._judged(WARM_START, scored)
        with stages.stage("train", "warm start"):
            trained, answers = await self.publisher.warm_start(scored, policy)
        stages.say(
            f"warm start  the best {answers} answers of {selection.used} trajectories imitated, "
            f"{trained.gradient_steps} gradient steps"
        )
        return Iteration(
            iteration=WARM_START,
            selection=selection,
            trained=replace(trained, metrics={**trained.metrics, "answers": answers}),
            usage=spent(usage, self.judge.usage),
            tallies=since(tallies, self.judge.tallies),
            unscored=unscored,
            rejected={},
            seconds={k: v - before.get(k, 0.0) for k, v in stages.seconds.items()},
        )

    async def prune(self, history: Sequence[Iteration], stages: Stages) -> None:
        """Removes the checkpoints that the config does not ask to keep."""
        if self.publisher is None:
            return
        # Recorded play of others says nothing about this run's versions.
        earned = earnings(history, self.folder.read("metrics")) if self.collector is not None else {}
        if removed := await self.publisher.prune(history, earned):
            stages.say(f"checkpoints removed, as trainer.keep_last and keep_best say: {', '.join(map(str, removed))}")

    async def iterate(self, iteration: int, policy: PolicyVersion, past: Past, stages: Stages) -> Iteration | None:
        """One round; None when no unused window is left to train on."""
        from mmo_rl.judge.findings import since

        history = past.iterations
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
            scored = await self._scored(selection, advance)
            unscored, rows = self._judged(iteration, scored)
        with stages.stage("train") as advance:
            trained = await self._train(iteration, scored, selection, policy, history, advance)
        seconds = {k: v - before.get(k, 0.0) for k, v in stages.seconds.items()}
        usage = spent(usage, self.judge.usage)
        if iteration == 0 and past.warm is not None:  # what came before the first iteration is counted with it
            usage, seconds = summed([past.warm.usage, usage]), add_seconds([past.warm.seconds, seconds])
        done = Iteration(
            iteration=iteration,
            selection=selection,
            trained=trained,
            usage=usage,
            tallies=since(tallies, self.judge.tallies),
            unscored=unscored,
            rejected=dict(Counter(self.source.rejected) - rejected),
            seconds=seconds,
        )
        self._publish_numbers(done, past.warm if iteration == 0 else None, scored, rows, stages)
        return done

    async def _scored(self, selection: Selection, advance: Advance) -> list[ScoredGroup]:
        async with aclosing(self.source.groups(selection)) as groups:
            return [scored async for scored in _counted(self.judge, groups, selection, advance)]

    def _judged(self, iteration: int, scored: Sequence[ScoredGroup]) -> tuple[int, list[dict[str, Any]]]:
        """How many judgments could not be had, and the rows of judgments.jsonl; raises where they are not to be trained
        on."""
        overrides, seed = self.context.overrides, self.context.settings.seed
        rows = keep_judgments(self.report, self.judge, iteration, scored)
        unscored = refuse_if_none(scored, overrides)
        refuse_if_poor(self.judge, self.folder.read("judgments"), overrides, seed=seed)
        return unscored, rows

    async def _train(
        self,
        iteration: int,
        scored: list[ScoredGroup],
        selection: Selection,
        policy: PolicyVersion,
        history: Sequence[Iteration],
        advance: Advance,
    ) -> Trained:
        if self.publisher is None:
            from mmo_rl.policy_view import training_groups

            groups = training_groups(scored, self.trainer.assistant_turns)
            exported: Trained = await self.trainer.train(groups, iteration=iteration)
            return exported
        needs_signal = not any(done.trained.gradient_steps for done in history)
        return await self.publisher.train(
            iteration, scored, selection, policy, needs_signal=needs_signal, on_step=advance
        )

    def describe(self, history: Sequence[Iteration]) -> str | None:
        """Has an exporter note what its data are; None where the trainer trains."""
        return None if self.trains else self.trainer.describe(data_card(self.context, history))

    def _publish_numbers(
        self,
        done: Iteration,
        warm: Iteration | None,
        scored: list[ScoredGroup],
        rows: list[dict[str, Any]],
        stages: Stages,
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
        self.report.iteration(done.iteration, metrics | warm_numbers(warm))
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
        if self.trains and not done.trained.gradient_steps:
            did = "no group carries signal, the policy stays"
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
    from mmo_rl.lm.load import require_model

    able = context.components.trainer().capabilities
    if able.trains and not able.serves:
        require_model(context.components.model().location())


async def _counted(
    judge: Any, groups: AsyncIterator[Group], selection: Selection, advance: Advance
) -> AsyncIterator[ScoredGroup]:
    total = len(selection.windows)
    done = 0
    async for group in judge.score(groups):
        done += 1
        advance(done, total, spending(judge.usage))
        yield group
