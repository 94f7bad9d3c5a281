"""Composition root: builds the components of a validated config and hands each its collaborators.

`compose` is the one place that knows which class a choice is. It wires by hand: every call below names the parts that a
room gets. Making components reads no file and opens no connection; `Session` opens those that a command uses and closes
all of them.
"""

from __future__ import annotations

import os
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeVar, cast

from mmo_rl.config.building import build
from mmo_rl.config.dropout_rules import find_rule
from mmo_rl.config.players import Players
from mmo_rl.config.schema import Node
from mmo_rl.config.settings import Settings
from mmo_rl.config.strategies import find_player
from mmo_rl.database.base import Database, OutcomesTracker, Recorder, Registry
from mmo_rl.database.database import Database as PostgresDatabase
from mmo_rl.database.judgments import StoredJudgments
from mmo_rl.database.outcomes import DerivedOutcomes
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.database.registry import ModelRegistry
from mmo_rl.evaluate.base import Evaluator, EvaluatorParts, PolicyComparer, RecordedComparer
from mmo_rl.judge.base import Judge, JudgeParts
from mmo_rl.lm.base import BaseModel, ModelParts
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.base import Arena, Collector, CollectorParts
from mmo_rl.market.spec import MarketSpec
from mmo_rl.report.base import Report, ReportParts
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.sampler.base import Sampler, SamplerParts
from mmo_rl.source.base import NoPool, ReadPool, Source, SourceParts
from mmo_rl.trainer.base import Trainer, TrainerParts
from mmo_rl.vocabulary import SHIPPED, Vocabulary

T = TypeVar("T")
Measurer = Evaluator | PolicyComparer | RecordedComparer


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Components of one config, under the protocols of their rooms. ``collector`` and ``evaluator`` are None where the
    config switches them off."""

    model: BaseModel
    arena: Arena
    players: Players
    database: Database
    recorder: Recorder
    registry: Registry
    outcomes: OutcomesTracker
    judgments: StoredJudgments
    source: Source
    vocabulary: Vocabulary
    sampler: Sampler
    judge: Judge
    trainer: Trainer
    collector: Collector | None
    evaluator: Measurer | None
    report: Report
    databases: tuple[Database, ...] = field(repr=False)


def compose(settings: Settings, *, run_folder: RunFolder | None = None) -> Components:
    """Builds every component of the config; ``run_folder`` is None for tasks that leave none.

    Raises `ConfigError` where a constructor refuses its keys.
    """
    home = settings.home
    # Only tasks with a run folder start what writes into it.
    folder = RunFolder(home / "run") if run_folder is None else run_folder
    rejected_to = (home if run_folder is None else run_folder.path) / "rejected.jsonl"
    settle_minutes = float((settings.nodes["source"] or {}).get("settle_minutes", 5.0))
    model = cast(BaseModel, build(settings.node("model"), ModelParts(cache=home / "models")))
    arena = MarketArena(spec=cast(MarketSpec, build(settings.node("market"))))
    database = cast(Database, build(settings.node("database")))
    source_database = _source_database(settings, database)
    pool = NoPool() if source_database is None else cast(ReadPool, source_database.read_only())
    node = settings.nodes["vocabulary"]
    vocabulary = SHIPPED if node is None else cast(Vocabulary, build(node))
    recorder = TrajectoryRecorder(database=database)
    judgments = StoredJudgments(database=database)
    trainer_parts = TrainerParts(
        model=model,
        checkpoints=folder.path / "checkpoints",
        folder=folder,
        experiment=settings.name,
    )
    measured = None if os.environ.get("MMO_RL_MEASURE") == "again" else home / "measured"
    trainer = cast(Trainer, build(settings.node("trainer"), trainer_parts))
    collect, evaluate = settings.nodes["collect"], settings.nodes["evaluate"]
    return Components(
        model=model,
        arena=arena,
        players=Players(model=model, trainer=trainer, policy=settings.nodes["policy"]),
        database=database,
        recorder=recorder,
        registry=ModelRegistry(database=database),
        outcomes=DerivedOutcomes(database=database, settle_minutes=settle_minutes),
        judgments=judgments,
        source=cast(Source, build(settings.node("source"), SourceParts(pool=pool, rejected_to=rejected_to))),
        sampler=cast(Sampler, build(settings.node("sampler"), SamplerParts(find_rule=find_rule))),
        vocabulary=vocabulary,
        judge=cast(Judge, build(settings.node("judge"), JudgeParts(cache=judgments, vocabulary=vocabulary))),
        trainer=trainer,
        collector=None if collect is None else compose_collector(collect, arena=arena, recorder=recorder),
        evaluator=None
        if evaluate is None
        else cast(Measurer, build(evaluate, EvaluatorParts(arena=arena, measured=measured))),
        report=cast(Report, build(settings.node("report"), ReportParts(folder=folder))),
        databases=tuple({id(d): d for d in (database, source_database) if d is not None}.values()),
    )


def compose_collector(node: Node, *, arena: Arena, recorder: Recorder) -> Collector:
    """Builds the collector of a validated node; a plan gives it a recorder that keeps play in memory."""
    return cast(Collector, build(node, CollectorParts(arena=arena, recorder=recorder, find_player=find_player)))


def compose_arena(node: Node) -> Arena:
    """Builds the arena of a validated ``market`` node."""
    return MarketArena(spec=cast(MarketSpec, build(node)))


def _source_database(settings: Settings, database: Database) -> Database | None:
    """Returns the database that the source reads: the written one where both are the same, None where it reads none."""
    if not settings.reads_database:
        return None
    if settings.reads_written_database:
        return database
    return PostgresDatabase(dsn_env=settings.node("source")["dsn_env"], home=settings.home)


class Session:
    """Lifetime of the components of one command: opens what it uses, and closes all of it in reverse order."""

    def __init__(self, components: Components) -> None:
        self.components = components
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for database in self.components.databases:
            self._stack.push_async_callback(database.close)
        for component in (self.components.source, self.components.judge, self.components.trainer):
            self._stack.push_async_callback(component.aclose)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    async def opened(self, component: T) -> T:
        """Enters a component that is an asynchronous context manager (an endpoint that is asked whether it answers);
        others are returned as they are."""
        if isinstance(component, AbstractAsyncContextManager):
            await self._stack.enter_async_context(component)
        return component
