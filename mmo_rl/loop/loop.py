"""Training loop: collect, select, judge, train, publish, ``iterations`` times; then base and trained are measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast

from mmo_rl.clock import utc_now
from mmo_rl.config.composition import Components, Session
from mmo_rl.config.settings import Settings
from mmo_rl.database.worlds import reserve_hours
from mmo_rl.judge.findings import numbers
from mmo_rl.loop.collapse import KEY as FAILED_SHARE_KEY
from mmo_rl.loop.collapse import Collapse, CollapseWatch, failed_share
from mmo_rl.loop.history import WARM_START, Iteration, Past, earnings, summed, warm_numbers
from mmo_rl.loop.iteration_line import iteration_line
from mmo_rl.loop.judgments import keep_judgments, refuse_if_poor
from mmo_rl.loop.measure import Measurement
from mmo_rl.loop.meter import Meter
from mmo_rl.loop.publish import Publisher, with_company
from mmo_rl.loop.refusals import refuse_if_none
from mmo_rl.loop.results import add_seconds, data_card
from mmo_rl.loop.score import score
from mmo_rl.market.base import Collector
from mmo_rl.policy_view import training_groups
from mmo_rl.report.iteration import iteration_metrics
from mmo_rl.report.judging import quality
from mmo_rl.report.progress import Stages
from mmo_rl.report.run_folder import JudgmentRow, RunFolder
from mmo_rl.report.summary import Evaluations
from mmo_rl.sampler.origins import origin_lines
from mmo_rl.sampler.refusals import nothing_selected, nothing_to_imitate
from mmo_rl.sampler.select import select, used
from mmo_rl.terminal import Terminal
from mmo_rl.trainer.base import Exporter, LostVersion, WarmStarter
from mmo_rl.types import PolicyVersion, ScoredGroup, Selection, Trained
from mmo_rl.wording import counted


@dataclass(frozen=True, slots=True)
class World:
    """Scenario that a run plays in, and the start of the hours that it records."""

    scenario_id: str
    start: datetime


@dataclass(frozen=True, slots=True)
class Finished:
    """End of a loop: the last policy, its measurements, the sentence of an exporter (None where it trained), and the
    policy's collapse by these measurements (None: it has not)."""

    policy: PolicyVersion
    evaluations: Evaluations
    exported: str | None
    collapse: Collapse | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """One run: its components, its folder and its past. ``publisher`` is None where the trainer makes no policy,
    ``world`` and ``collector`` where the run plays nothing."""

    settings: Settings
    overrides: Sequence[str]
    components: Components
    session: Session
    folder: RunFolder
    past: Past
    stages: Stages
    collector: Collector | None
    measurement: Measurement
    publisher: Publisher | None
    world: World | None

    @classmethod
    async def open(
        cls,
        *,
        settings: Settings,
        overrides: Sequence[str],
        session: Session,
        folder: RunFolder,
        past: Past,
        stages: Stages,
        console: Terminal,
    ) -> Loop:
        """Opens what the run needs, so that faults of it are found before anything is spent."""
        components = session.components
        trains = components.trainer.capabilities.trains
        collector = components.collector if trains else None
        measurement = Measurement.of(session, folder=folder, stages=stages, overrides=overrides)
        present = {"collect": components.collector, "evaluate": components.evaluator}
        if not trains and (off := [name for name, component in present.items() if component is not None]):
            console.say(f"This trainer makes no policy; switched off: {', '.join(off)}")
        if (collector or measurement.evaluator) and (unused := components.players.unused_in_training()):
            console.say(unused)
        for database in components.databases:
            await database.open()
        await components.database.require_tables()
        await session.opened(components.judge)
        run = f"{settings.name}-{folder.run_id()}"
        world = None
        if collector is not None:
            hours = int(-(-settings.iterations * collector.windows * collector.window_hours // 1))
            start = await reserve_hours(components.database, scenario_id=run, hours=hours, now=utc_now())
            world = World(run, start)
        publisher = Publisher(
            trainer=components.trainer,
            registry=components.registry,
            report=components.report,
            run=run,
            moments=components.sampler.rules.moments,
        )
        return cls(
            settings=settings,
            overrides=overrides,
            components=components,
            session=session,
            folder=folder,
            past=past,
            stages=stages,
            collector=collector,
            measurement=measurement,
            publisher=publisher if trains else None,
            world=world,
        )

    async def run(self) -> Finished:
        """Runs the iterations that the past does not have yet, then measures."""
        policy = await self._begin()
        self._heed_collapse()
        for iteration in range(len(self.past.iterations), self.settings.iterations):
            meter = self._meter()
            player = await self._collect(policy, iteration)
            selection = await self._select(iteration)
            if not selection.used:
                break
            scored = await score(self.components, self.stages, selection, label="judge")
            rows, unscored = self._judged(iteration, scored)
            trained = await self._train(iteration, scored, selection, policy)
            self._record(meter.finished(iteration, selection, trained, unscored), scored, rows, player)
            policy = trained.policy
            await self._prune()
            self._describe()
            self._heed_collapse()
        selections = [done.selection for done in self.past.iterations]
        evaluations = await self.measurement.run(policy, selections, scenario_id=self._scenario_id)
        collapse = self._watch().at_the_end(base=evaluations.base, trained=evaluations.trained)
        return Finished(policy, evaluations, self._describe(), collapse)

    # --- before the first iteration --------------------------------------------------------------------------------

    async def _begin(self) -> PolicyVersion:
        """Resumes from the last version of the run's past, else from the warm start, else from the base model.
        Iterations whose version is gone are forgotten, and done again."""
        trainer = self.components.trainer
        warms = isinstance(trainer, WarmStarter) and trainer.imitated_share > 0
        while True:
            try:
                policy = await trainer.resume(self.past.version(nothing=-1 if warms else 0))
                break
            except LostVersion as lost:
                if not self.past.iterations:
                    raise
                self.stages.say(f"{lost.message}: iteration {self.past.iterations[-1].iteration + 1} is done again")
                self.past.forget_last(self.folder)
        if not warms or self.past.iterations:
            await self._prune()
            return policy
        if self.past.warm is not None and policy.path == self.components.model.location():
            self.stages.say(f"the weights of the warm start are gone from {self.folder.path}: it is done again")
            self.past.forget_warm(self.folder)
        if self.past.warm is None:
            self.past.warm = await self._warm_start(policy)
            self.folder.append("checkpoints", self.past.warm.row())
            policy = self.past.warm.trained.policy
        return policy

    async def _warm_start(self, policy: PolicyVersion) -> Iteration:
        """Imitates the best of what was recorded before this run. Without play of its own, the first iteration trains
        on the same windows, which are judged and paid once where judgments are kept."""
        assert self.publisher is not None
        meter = self._meter()
        with self.stages.stage("select", "select for the warm start"):
            source, sampler = self.components.source, self.components.sampler
            selection = await select(
                source, sampler, iteration=0, used_windows=(), scenario_id=None, simulated=self.world is not None
            )
        if not selection.used:
            raise nothing_to_imitate(selection, self.overrides)
        await self._tell_origin(selection)
        scored = await score(self.components, self.stages, selection, label="judge for the warm start")
        _, unscored = self._judged(WARM_START, scored)
        with self.stages.stage("train", "warm start"):
            trained, answers = await self.publisher.warm_start(scored, policy)
        self.stages.say(
            f"warm start  the best {counted(answers, 'answer')} of "
            f"{counted(selection.used, 'trajectory', 'trajectories')} imitated, "
            f"{counted(trained.gradient_steps, 'gradient step')}"
        )
        trained = replace(trained, metrics={**trained.metrics, "answers": answers})
        return replace(meter.finished(WARM_START, selection, trained, unscored), rejected={})

    # --- the stages of an iteration --------------------------------------------------------------------------------

    async def _collect(self, policy: PolicyVersion, iteration: int) -> str | None:
        """Plays the windows of an iteration; returns the name that the policy is recorded by, None without play."""
        if self.collector is None or self.world is None:
            return None
        with self.stages.stage("collect", f"collect {counted(self.collector.windows, 'window')}") as advance:
            player = await self.session.opened(self.components.players.published(policy))
            await self.collector.collect(
                player,
                iteration=iteration,
                scenario_id=self.world.scenario_id,
                start=self.world.start,
                on_tick=advance,
            )
        return player.name

    async def _select(self, iteration: int) -> Selection:
        """Selects the trajectories of an iteration. Raises `SourceError` where the first one has none; a later one
        without any ends the run."""
        with self.stages.stage("select"):
            selection = await select(
                self.components.source,
                self.components.sampler,
                iteration=iteration,
                used_windows=used([done.selection for done in self.past.iterations]),
                scenario_id=self._scenario_id,
            )
        if not selection.used:
            if not self.past.iterations:
                raise nothing_selected(selection, self.overrides)
            self.stages.say(f"iteration {iteration + 1}: every ready window has been used, the run ends here")
        elif self.world is None and not self.past.iterations and self.past.warm is None:
            await self._tell_origin(selection)
        return selection

    async def _tell_origin(self, selection: Selection) -> None:
        """Prints the origin of what is trained on."""
        for line in await origin_lines(self.components.source, selection.windows):
            self.stages.say(line)

    def _judged(self, iteration: int, scored: Sequence[ScoredGroup]) -> tuple[list[JudgmentRow], int]:
        """Keeps the judgments; returns their rows in judgments.jsonl and the number that could not be had. Raises
        `JudgeError` where nothing may be trained on them."""
        judge, seed = self.components.judge, self.settings.seed
        with self.stages.stage("judge"):
            rows = keep_judgments(
                self.components.report, judge, iteration, scored, vocabulary=self.components.vocabulary
            )
            unscored = refuse_if_none(scored, self.overrides)
            refuse_if_poor(judge, self.folder.read("judgments"), self.overrides, seed=seed)
        return rows, unscored

    async def _train(
        self, iteration: int, scored: list[ScoredGroup], selection: Selection, policy: PolicyVersion
    ) -> Trained:
        with self.stages.stage("train") as advance:
            if self.publisher is None:
                trainer = self.components.trainer
                groups = training_groups(scored, trainer.assistant_turns, self.components.sampler.rules.moments)
                return with_company(await trainer.train(groups, iteration=iteration), groups)
            needs_signal = not any(done.trained.gradient_steps for done in self.past.iterations)
            return await self.publisher.train(
                iteration, scored, selection, policy, needs_signal=needs_signal, on_step=advance
            )

    def _record(
        self, done: Iteration, scored: Sequence[ScoredGroup], rows: Sequence[JudgmentRow], player: str | None
    ) -> None:
        """Reports a finished iteration and appends its checkpoint row; the warm start is counted with the first.
        ``player`` is the name of the policy that played it."""
        warm = self.past.warm if done.iteration == 0 else None
        if warm is not None:
            seconds = add_seconds([warm.seconds, done.seconds])
            done = replace(done, usage=summed([warm.usage, done.usage]), seconds=seconds)
        seed = self.settings.seed
        metrics = iteration_metrics(
            selection=done.selection,
            scored=scored,
            judged=quality(rows, numbers(done.tallies), seed=seed),
            trained=done.trained,
            stage_seconds=done.seconds,
            seed=seed,
        )
        failed = None if player is None else failed_share(scored, model=player)
        metrics |= {} if failed is None else {FAILED_SHARE_KEY: failed}
        self.components.report.iteration(done.iteration, metrics | warm_numbers(warm))
        self.folder.append("checkpoints", done.row())
        self.past.iterations.append(done)
        line = iteration_line(done, metrics, iterations=self.settings.iterations, exports=self.publisher is None)
        self.stages.next_iteration(line)

    def _heed_collapse(self) -> None:
        """Raises `TrainerError` where the policy has collapsed, or says so, as ``trainer.stop_on_collapse`` asks."""
        if self.publisher is None or self.collector is None:
            return
        collapse = self._watch().in_play()
        if collapse is not None and self.components.trainer.rules.stop_on_collapse:
            raise collapse.error()
        if collapse is not None:
            self.stages.say(collapse.found)

    def _watch(self) -> CollapseWatch:
        return CollapseWatch(self.past.iterations, self.folder.read("metrics"), self._first_player())

    def _first_player(self) -> PolicyVersion:
        """Returns the version that the first iteration begins with."""
        if self.past.warm is not None:
            return self.past.warm.trained.policy
        return PolicyVersion(self.components.model.name, 0, self.components.model.location())

    async def _prune(self) -> None:
        """Removes the checkpoints that the config does not ask to keep."""
        if self.publisher is None:
            return
        # Recorded play of others says nothing about this run's versions.
        history = self.past.iterations
        earned = earnings(history, self.folder.read("metrics")) if self.collector is not None else {}
        if removed := await self.publisher.prune(history, earned):
            versions = ", ".join(map(str, removed))
            self.stages.say(f"checkpoints removed, as trainer.keep_last and keep_best say: {versions}")

    def _describe(self) -> str | None:
        """Has an exporter describe its data; None where the trainer trains."""
        if self.publisher is not None:
            return None
        card = data_card(self.settings, self.overrides, self.past.iterations)
        return cast(Exporter, self.components.trainer).describe(card)

    @property
    def _scenario_id(self) -> str | None:
        """The scenario of what the run recorded; None where it plays nothing."""
        return None if self.world is None else self.world.scenario_id

    def _meter(self) -> Meter:
        return Meter(self.components, self.stages)
