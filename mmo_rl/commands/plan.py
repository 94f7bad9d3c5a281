"""What a run or a sweep would use and cost, before anything is spent: no judge is asked, nothing is played or written.

Windows, trajectories and judge calls are found by the run's own selection and the judge's own prompts. Where a run
plays its windows itself, they are played here without a model and in memory (`mmo_rl.plan.dry_play`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from mmo_rl.config.strategies import find_player
from mmo_rl.judge.base import AsksModel, JudgeParts
from mmo_rl.market.base import CollectorParts
from mmo_rl.plan.bill import BackendName, Plan, Prices, Rates
from mmo_rl.plan.count import Counts, Reckoner
from mmo_rl.sampler.base import RuleChanges

if TYPE_CHECKING:
    from rich.console import Console

    from mmo_rl.config.components import Context

DROPOUTS = (0.3, 0.5, 0.7)
"""Largest rates that are planned too where they would leave out more than the job does."""


async def run(
    context: Context,
    *,
    format: Literal["table", "json"] = "table",
    max_windows: Annotated[int, Field(ge=1)] = 200,
    changes: bool = True,
    cpu_tflops: Annotated[float, Field(gt=0)] = 0.05,
    gpu_tflops: Annotated[float, Field(gt=0)] = 150.0,
    gpu_usd_per_hour: Annotated[float, Field(ge=0)] | None = None,
    judge_call_s: Annotated[float, Field(gt=0)] = 6.0,
) -> Plan:
    """The plan of one job; `tell` prints it, with those of the other jobs of a sweep.

    At most ``max_windows`` windows are read and rendered, the others are taken to be like them. ``changes`` plans some
    cheaper variants too. The rates are what is achieved, not what is advertised: TFLOP/s, dollars an hour (None:
    unknown), seconds that a judge takes to answer. Raises `SourceError` where no window is ready.
    """
    rates = {
        "cpu_tflops": cpu_tflops,
        "gpu_tflops": gpu_tflops,
        "gpu_usd_per_hour": gpu_usd_per_hour,
        "judge_call_s": judge_call_s,
    }
    return await make_plan(context, format=format, max_windows=max_windows, changes=changes, rates=rates)


def tell(jobs: Sequence[tuple[str, Plan]], console: Console) -> None:
    """Prints the plans of one job or of all jobs of a sweep, by name."""
    from mmo_rl.plan.table import as_json, show

    if any(plan.format == "json" for _, plan in jobs):
        sys.stdout.write(json.dumps(as_json(jobs)) + "\n")
    else:
        show(jobs, console)


async def make_plan(
    context: Context,
    *,
    format: Literal["table", "json"] = "table",
    max_windows: int = 200,
    changes: bool = False,
    rates: Mapping[str, float | None] | None = None,
) -> Plan:
    """Plans the run that ``context`` describes."""
    from mmo_rl.config.components import build
    from mmo_rl.config.schema import TARGET, load
    from mmo_rl.plan.dry_play import DrySource
    from mmo_rl.plan.tokens import tokens_of_judge, tokens_of_model

    nodes, components = context.settings.nodes, context.components
    trainer, judge_node = (_needed(context, name) for name in ("trainer", "judge"))
    kind: Any = load(trainer[TARGET])
    backend = _backend(kind, trainer)
    trains = backend != "export"
    dry = DrySource() if components.has("collect") and trains else None
    warm_share = float(trainer.get("warm_start", 0.0))
    spec, arena = components.model(), components.arena()
    policy_tokens = tokens_of_model(spec.base_model, _location(spec))
    judge = build(judge_node, JudgeParts(cache=None))
    asking = judge if isinstance(judge, AsksModel) else None
    model = None if asking is None else asking.model
    judge_tokens = None if model is None else tokens_of_judge(model)
    reckoner = Reckoner(
        iterations=context.settings.iterations,
        source=await components.source() if dry is None or warm_share else None,
        collector=None
        if dry is None
        else build(_needed(context, "collect"), CollectorParts(arena=arena, recorder=dry, find_player=find_player)),
        dry=dry,
        arena=arena,
        evaluate=nodes["evaluate"] if trains else None,
        seed=context.settings.seed,
        epochs=int(trainer.get("epochs", 1)),
        assistant_turns=trainer.get("assistant_turns", "action"),
        warm_share=warm_share,
        warm_epochs=int(trainer.get("warm_start_epochs", 1)),
        identity={
            "first": {"market": nodes["market"], "model": nodes["model"], "collect": nodes["collect"]},
            "later": {"trainer": trainer, "judge": judge_node},
        },
        policy_tokens=policy_tokens,
        overrides=context.overrides,
        max_windows=max_windows,
    )
    sampler = components.sampler()
    counts = await reckoner.count(sampler, judge, judge_tokens)
    recorded = dry is None or warm_share > 0
    if recorded and counts.calls:
        counts = await _with_kept(context, counts)
    varied = []
    for change in _cheaper(counts) if changes else ():
        then = await reckoner.count(sampler.with_rules(**change), judge, judge_tokens)
        then = await _with_kept(context, then) if recorded and then.calls else then
        varied.append((" ".join(f"sampler.{key}={value}" for key, value in change.items()), then))
    given = {"cpu_tflops": 0.05, "gpu_tflops": 150.0, "gpu_usd_per_hour": None, "judge_call_s": 6.0} | dict(rates or {})
    price_date = None if asking is None else asking.price_date
    prices = Prices(prompt=None, answer=None, training=None, date=None)
    if kind.capabilities.model_prices:
        prices = Prices(
            prompt=spec.price_prompt_usd_per_mtok,
            answer=spec.price_completion_usd_per_mtok,
            training=spec.price_training_usd_per_mtok,
            date=spec.price_date,
        )
    return Plan(
        model=spec.name,
        judge=model,
        parameters_b=spec.active_parameters_b,
        backend=backend,
        counts=counts,
        prices=prices,
        rates=Rates(judge_concurrency=1 if asking is None else asking.concurrency, **given),  # type: ignore[arg-type]
        judge_price_date=price_date,
        judge_counted=judge_tokens is None or (judge_tokens.counted and dry is None),
        policy_counted=policy_tokens.counted and dry is None,
        format=format,
        changes=tuple(varied),
        notes=tuple(
            _notes(spec.name, prices, model, price_date, counts, [policy_tokens, judge_tokens], dry is not None)
        ),
    )


def _cheaper(counts: Counts) -> list[RuleChanges]:
    """Larger dropout, with a smaller target where the target is what keeps it down."""
    rates = [rate for rate in DROPOUTS if rate > counts.dropout_rate]
    if counts.capped:
        return [{"max_dropout": rate} for rate in rates]
    available = counts.available / counts.iterations
    return [{"max_dropout": rate, "target_trajectories": max(1, round(available * (1 - rate)))} for rate in rates]


def _needed(context: Context, name: str) -> Mapping[str, Any]:
    from mmo_rl.errors import ConfigError

    node = context.settings.nodes[name]
    if node is None:
        raise ConfigError(f"a plan needs a {name}, and {name}=none has none", hint=f"choose one: {name}=NAME")
    return node


def _backend(kind: Any, trainer: Mapping[str, Any]) -> BackendName:
    if not kind.capabilities.trains:
        return "export"
    if kind.capabilities.needs_network:
        return "serverless"
    return "own GPU" if kind.capabilities.needs_gpu or trainer.get("device") == "cuda" else "local CPU"


def _location(spec: Any) -> str:
    """Where the tokenizer may lie. A folder that is not there is no matter for a plan, which needs no weights."""
    from mmo_rl.errors import PolicyError

    try:
        return str(spec.location())
    except PolicyError:
        return str(spec.base_model)


async def _with_kept(context: Context, counts: Counts) -> Counts:
    """Marks the judgments that are in the database already."""
    from dataclasses import replace

    from mmo_rl.database.judgments import StoredJudgments

    if not context.components.has("database"):
        return counts
    cache = StoredJudgments(database=await context.components.database())
    known = await cache.known([call.key for call in counts.calls])
    calls = tuple(replace(call, kept=True) if call.key in known else call for call in counts.calls)
    return replace(counts, calls=calls)


def _notes(
    name: str,
    prices: Prices,
    judge: str | None,
    price_date: str | None,
    counts: Counts,
    tokens: Sequence[Any],
    dry: bool,
) -> list[str]:
    notes = ["tokens         " + "; ".join(t.how for t in tokens if t is not None)]
    if dry:
        notes.append(
            "               ~ because the play does not exist yet: the answers are made up, the market is real"
        )
    if counts.windows_read < counts.windows:
        read = f"{counts.windows_read} of {counts.windows} windows"
        notes.append(f"               {read} were read (plan.max_windows), the others are taken to be like them")
    if prices.date:
        notes.append(f"prices         {name}: as of {prices.date} (conf/model/{name}.yaml)")
    else:
        notes.append(f"prices         {name}: not known (model.price_*_usd_per_mtok)")
    if judge is not None:
        known = all(call.usd is not None for call in counts.calls)
        dated = f"as of {price_date} (conf/judge/ruler.yaml)" if price_date else "as set" if known else "not known"
        notes.append(f"               {judge}: {dated}" + ("" if known else " (judge.price_*_usd_per_mtok)"))
    return notes
