"""Assignments of every component to its protocol: the type checker reads this module too, and a rename breaks it.

A function takes the classes that implement a protocol and returns the protocol, which is an error of types as soon as
one of them differs from it.
"""

from __future__ import annotations

import pydoc
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from omegaconf import OmegaConf

import mmo_rl.database.base as database_base
import mmo_rl.database.database
from mmo_rl.config.project import shipped
from mmo_rl.database.judgments import StoredJudgments
from mmo_rl.database.outcomes import DerivedOutcomes
from mmo_rl.database.recorder import TrajectoryRecorder
from mmo_rl.database.registry import ModelRegistry
from mmo_rl.database.write_back import ScoreWriter
from mmo_rl.evaluate.base import Evaluator, RecordedComparer
from mmo_rl.evaluate.market import MarketEvaluator
from mmo_rl.evaluate.pair import PairEvaluator
from mmo_rl.evaluate.recorded import RecordedEvaluator
from mmo_rl.judge.base import AsksModel, Judge, JudgmentCache
from mmo_rl.judge.heuristic import HeuristicJudge
from mmo_rl.judge.oracle import OracleJudge
from mmo_rl.judge.panel import PanelJudge
from mmo_rl.judge.recorded import RecordedJudge
from mmo_rl.judge.ruler import RulerJudge
from mmo_rl.lm.base import BaseModel
from mmo_rl.lm.model import ModelSpec
from mmo_rl.market.arena import MarketArena
from mmo_rl.market.base import Arena, Collector
from mmo_rl.market.collect import SimulatedCollector
from mmo_rl.policy.base import Fingerprinted, Policy
from mmo_rl.policy.endpoint import EndpointPolicy
from mmo_rl.policy.local import LocalPolicy
from mmo_rl.report.base import Report
from mmo_rl.report.local_report import LocalReport
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.report.wandb_report import WandbReport
from mmo_rl.sampler.base import Sampler
from mmo_rl.sampler.windows import WindowSampler
from mmo_rl.source.base import Play, RejectionLog, Source, Traceable
from mmo_rl.source.jsonl import JsonlSource
from mmo_rl.source.postgres import PostgresSource
from mmo_rl.trainer.art_backend import ArtLocalTrainer, TinkerTrainer
from mmo_rl.trainer.base import Exporter, Folder, Pruner, ServingTrainer, Trainer, WarmStarter
from mmo_rl.trainer.export import ExportTrainer
from mmo_rl.trainer.local import LocalTrainer
from mmo_rl.trainer.serverless import ServerlessTrainer

# --- components, by their group of the configuration ------------------------------------------------------------------


def model(component: ModelSpec) -> BaseModel:
    return component


def policy(component: LocalPolicy | EndpointPolicy) -> Policy:
    return component


def source(component: PostgresSource | JsonlSource) -> Source:
    return component


def database(component: mmo_rl.database.database.Database) -> database_base.Database:
    return component


def sampler(component: WindowSampler) -> Sampler:
    return component


def judge(component: OracleJudge | HeuristicJudge | PanelJudge | RecordedJudge | RulerJudge) -> Judge:
    return component


def trainer(
    component: LocalTrainer | ArtLocalTrainer | TinkerTrainer | ServerlessTrainer | ExportTrainer,
) -> Trainer:
    return component


def collect(component: SimulatedCollector) -> Collector:
    return component


def evaluate(component: MarketEvaluator | RecordedEvaluator) -> Evaluator | RecordedComparer:
    return component


def report(component: LocalReport | WandbReport) -> Report:
    return component


# --- capabilities, and collaborators from other rooms -----------------------------------------------------------------


def traceable(component: PostgresSource | JsonlSource) -> Traceable:
    return component


def asks_model(component: RulerJudge | PanelJudge) -> AsksModel:
    return component


def fingerprinted(component: LocalPolicy) -> Fingerprinted:
    return component


def pruner(component: LocalTrainer) -> Pruner:
    return component


def warm_starter(component: LocalTrainer) -> WarmStarter:
    return component


def exporter(component: ExportTrainer) -> Exporter:
    return component


def serving_trainer(component: ServerlessTrainer | ArtLocalTrainer | TinkerTrainer) -> ServingTrainer:
    return component


def play(component: PostgresSource | JsonlSource) -> Play:
    return component


def rejection_log(component: PostgresSource | JsonlSource) -> RejectionLog:
    return component.rejections


def arena(component: MarketArena) -> Arena:
    return component


def recorder(component: TrajectoryRecorder) -> database_base.Recorder:
    return component


def registry(component: ModelRegistry) -> database_base.Registry:
    return component


def outcomes_tracker(component: DerivedOutcomes) -> database_base.OutcomesTracker:
    return component


def write_back(component: ScoreWriter) -> database_base.WriteBack:
    return component


def judgment_cache(component: StoredJudgments) -> JudgmentCache:
    return component


def folder(component: RunFolder) -> Folder:
    return component


# --- tests ------------------------------------------------------------------------------------------------------------

GROUPS = (model, policy, source, database, sampler, judge, trainer, collect, evaluate, report)
WITHOUT_PROTOCOL = {PairEvaluator}
"""Used by one command alone, as the class that it is."""


@pytest.mark.parametrize("assignment", GROUPS, ids=lambda function: function.__name__)
def test_every_choice_is_assigned_to_its_protocol(assignment: Any) -> None:
    """The classes that conf/ names for a group are those that the type checker compares with the protocol."""
    files = (shipped("conf") / assignment.__name__).glob("*.yaml")
    targets = {OmegaConf.select(OmegaConf.load(file), "_target_") for file in files} - {None}
    classes = {found for found in map(pydoc.locate, targets) if isinstance(found, type)} - WITHOUT_PROTOCOL
    annotation = get_type_hints(assignment)["component"]
    union = get_origin(annotation) in (Union, UnionType)
    assert targets and classes <= set(get_args(annotation) if union else [annotation])
