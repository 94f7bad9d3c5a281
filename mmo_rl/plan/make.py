"""Plans: windows, trajectories and judge calls of a run, found by its own selection and its judge's own prompts.

Where a run plays its windows itself, they are played here without a model and in memory (`mmo_rl.plan.dry_play`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from mmo_rl.config.composition import Components, compose_collector
from mmo_rl.config.recipe_differences import recipe_differences
from mmo_rl.config.settings import Settings
from mmo_rl.config.tasks import PlanOptions
from mmo_rl.errors import PolicyError
from mmo_rl.evaluate.base import Evaluator
from mmo_rl.judge.base import AsksModel, Judge
from mmo_rl.lm.base import BaseModel
from mmo_rl.plan.bill import BackendName, Plan, Prices, Rates
from mmo_rl.plan.count import AskedJudge, Counts, Reckoner
from mmo_rl.plan.dry_play import DryRun, DrySource
from mmo_rl.plan.tokens import Tokens, tokens_of_judge, tokens_of_model
from mmo_rl.sampler.base import RuleChanges
from mmo_rl.sampler.origins import origin_lines
from mmo_rl.trainer.base import Trainer
from mmo_rl.wording import counted

DROPOUTS = (0.3, 0.5, 0.7)
"""Largest dropout rates that are planned too where they would leave out more than the job does."""


async def make_plan(settings: Settings, components: Components, overrides: Sequence[str], options: PlanOptions) -> Plan:
    """Plans the run of these settings. Raises `SourceError` where no window is ready."""
    nodes, model, trainer = settings.nodes, components.model, components.trainer
    backend = _backend(trainer)
    trains = backend != "export"
    plays = components.collector is not None and trains
    dry = _dry_run(settings, components) if plays else None
    recorded = dry is None or trainer.rules.warm_start > 0
    evaluator = components.evaluator if trains and isinstance(components.evaluator, Evaluator) else None
    policy_tokens = tokens_of_model(model.base_model, _location(model))
    asked = _asked(components.judge)
    reckoner = Reckoner(
        iterations=settings.iterations,
        source=components.source if recorded else None,
        dry=dry,
        arena=components.arena,
        evaluator=evaluator,
        seed=settings.seed,
        rules=trainer.rules,
        assistant_turns=trainer.assistant_turns,
        identity={
            "first": {"market": nodes["market"], "model": nodes["model"], "collect": nodes["collect"]},
            "later": {"trainer": nodes["trainer"], "judge": nodes["judge"]},
        },
        policy_tokens=policy_tokens,
        overrides=overrides,
        max_windows=options.max_windows,
    )
    counts = await reckoner.count(components.sampler, components.judge, asked)
    if recorded and counts.calls:
        counts = await _with_kept(components, counts)
    changes = []
    for change in _cheaper(counts) if options.changes else ():
        changed = await reckoner.count(components.sampler.with_rules(**change), components.judge, asked)
        if recorded and changed.calls:
            changed = await _with_kept(components, changed)
        changes.append((" ".join(f"sampler.{key}={value}" for key, value in change.items()), changed))
    prices = _prices(model, trainer)
    price_date = None if asked is None else asked.judge.price_date
    return Plan(
        model=model.name,
        judge=None if asked is None else asked.judge.model,
        parameters_b=model.active_parameters_b,
        backend=backend,
        counts=counts,
        prices=prices,
        rates=Rates(
            cpu_tflops=options.cpu_tflops,
            gpu_tflops=options.gpu_tflops,
            gpu_usd_per_hour=options.gpu_usd_per_hour,
            judge_call_s=options.judge_call_s,
            judge_concurrency=1 if asked is None else asked.judge.concurrency,
        ),
        judge_price_date=price_date,
        judge_counted=asked is None or (asked.tokens.counted and dry is None),
        policy_counted=policy_tokens.counted and dry is None,
        format=options.format,
        changes=tuple(changes),
        plays_on=_plays_on(components, backend),
        notes=(
            *_notes(model.name, prices, asked, counts, policy_tokens, dry is not None),
            *([] if reckoner.first is None else await origin_lines(components.source, reckoner.first.windows)),
            *([f"recipe         {unlike}"] if (unlike := recipe_differences(settings)) else []),
        ),
    )


def _cheaper(counts: Counts) -> list[RuleChanges]:
    """Rules with larger dropout, with a smaller target where the target is what keeps it down."""
    rates = [rate for rate in DROPOUTS if rate > counts.dropout_rate]
    if counts.capped:
        return [{"max_dropout": rate} for rate in rates]
    available = counts.available / counts.iterations
    return [{"max_dropout": rate, "target_trajectories": max(1, round(available * (1 - rate)))} for rate in rates]


def _dry_run(settings: Settings, components: Components) -> DryRun:
    source = DrySource()
    collector = compose_collector(settings.node("collect"), arena=components.arena, recorder=source)
    return DryRun(collector, source)


def _asked(judge: Judge) -> AskedJudge | None:
    """The judge with the tokens of its model; None where it asks none."""
    if not isinstance(judge, AsksModel) or judge.model is None:
        return None
    return AskedJudge(judge, tokens_of_judge(judge.model))


def _backend(trainer: Trainer) -> BackendName:
    if not trainer.capabilities.trains:
        return "export"
    if trainer.capabilities.needs_network:
        return "serverless"
    return "own GPU" if trainer.capabilities.needs_gpu or trainer.rules.device == "cuda" else "local CPU"


def _plays_on(components: Components, backend: BackendName) -> Literal["cpu", "cuda"] | None:
    """The device that the policy plays on, where the trainer's backend does not answer and it is another than that
    device."""
    device = components.players.device
    trains = "cuda" if backend == "own GPU" else "cpu"
    return None if components.trainer.capabilities.serves or backend == "export" or device == trains else device


def _prices(model: BaseModel, trainer: Trainer) -> Prices:
    """The serverless prices of a model, unknown where they are not those of the trainer's backend."""
    if not trainer.capabilities.model_prices:
        return Prices(prompt=None, answer=None, training=None, date=None)
    return Prices(
        prompt=model.price_prompt_usd_per_mtok,
        answer=model.price_completion_usd_per_mtok,
        training=model.price_training_usd_per_mtok,
        date=model.price_date,
    )


def _location(model: BaseModel) -> str:
    """The place of the tokenizer. A folder that is missing does not matter here: a plan needs no weights."""
    try:
        return model.location()
    except PolicyError:
        return model.base_model


async def _with_kept(components: Components, counts: Counts) -> Counts:
    """Marks the judgments that are in the database already."""
    known = await components.judgments.known([call.key for call in counts.calls])
    calls = tuple(replace(call, kept=True) if call.key in known else call for call in counts.calls)
    return replace(counts, calls=calls)


def _notes(
    name: str, prices: Prices, asked: AskedJudge | None, counts: Counts, policy_tokens: Tokens, dry: bool
) -> list[str]:
    """Sentences about the way tokens were counted and the prices that are known."""
    tokens_of = [policy_tokens] if asked is None else [policy_tokens, asked.tokens]
    notes = ["tokens         " + "; ".join(tokens.how for tokens in tokens_of)]
    if dry:
        notes.append(
            "               ~ because the play does not exist yet: the answers are made up, the market is real"
        )
    if counts.windows_read < counts.windows:
        read = f"{counts.windows_read} of {counted(counts.windows, 'window')}"
        notes.append(f"               {read} were read (plan.max_windows), the others are taken to be like them")
    if prices.date:
        notes.append(f"prices         {name}: as of {prices.date} (conf/model/{name}.yaml)")
    else:
        notes.append(f"prices         {name}: not known (model.price_*_usd_per_mtok)")
    if asked is not None:
        price_date = asked.judge.price_date
        known = all(call.usd is not None for call in counts.calls)
        dated = f"as of {price_date} (conf/judge/ruler.yaml)" if price_date else "as set" if known else "not known"
        notes.append(
            f"               {asked.judge.model}: {dated}" + ("" if known else " (judge.prices.*_usd_per_mtok)")
        )
    return notes
