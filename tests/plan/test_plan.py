"""The plan: the run's own selection and prompts, real prices, nothing spent; and a run that then keeps to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.commands import collect
from mmo_rl.commands.base import Context
from mmo_rl.commands.plan import run
from mmo_rl.config.composition import Session, compose
from mmo_rl.config.tasks import Options, PlanOptions
from mmo_rl.errors import SourceError
from mmo_rl.lm.model import SHIPPED
from mmo_rl.plan.bill import Plan, bill, expected, savings, sharing
from mmo_rl.plan.table import as_json, row, show
from mmo_rl.plan.tokens import Estimate, tokens_of_judge, tokens_of_model
from mmo_rl.terminal import Terminal
from tests.harness.config import compose_settings
from tests.harness.project import Project

SMALL = ("iterations=2", "collect.windows=3", "evaluate.markets=4", "evaluate.agents=2")


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


async def plan_of(home: Path, *overrides: str, **options: Any) -> Plan:
    plan: Plan = await done(run, PlanOptions(**options), home, *overrides)
    return plan


async def done(task: Any, options: Options, home: Path, *overrides: str) -> Any:
    settings = compose_settings(f"home={home}", *overrides)
    console = Terminal()
    async with Session(compose(settings)) as session:
        context = Context(settings=settings, session=session, console=console, folder=None, overrides=overrides)
        return await task(context, options)


# --- what is counted --------------------------------------------------------------------------------------------------


async def test_a_simulated_run_is_planned_without_a_database_a_key_or_a_network(tmp_path: Path) -> None:
    plan = await plan_of(tmp_path, "judge=ruler", *SMALL)
    assert (plan.counts.iterations, plan.counts.windows, plan.counts.trajectories) == (2, 6, 48)
    due = bill(plan)
    assert (due.calls, due.paid) == (6, 6)  # eight members a window, eight in a call
    assert due.judge_usd == pytest.approx((due.judge_prompt_tokens * 0.4 + due.judge_answer_tokens * 1.6) / 1e6)
    assert due.judge_answer_tokens == 6 * 8 * 60
    assert plan.judge_price_date == "2026-03-21"
    assert list(tmp_path.iterdir()) == []


async def test_smaller_judged_groups_are_more_calls(tmp_path: Path) -> None:
    plan = await plan_of(tmp_path, "judge=ruler", "sampler.max_per_window=3", *SMALL)
    assert bill(plan).paid == 6 * 3


async def test_dropout_is_planned_as_it_will_be_drawn(tmp_path: Path) -> None:
    small = ("sampler.target_trajectories=12", "sampler.max_dropout=0.5", "sampler.min_agents=2", *SMALL)
    plan = await plan_of(tmp_path, *small)
    assert plan.counts.dropout_rate == 0.5  # 1 - 12 / 24
    assert 12 <= plan.counts.trajectories < 48
    assert (await plan_of(tmp_path, *small)).counts == plan.counts


async def test_what_is_not_read_is_taken_to_be_like_what_is(tmp_path: Path) -> None:
    all_read = await plan_of(tmp_path, "judge=ruler", *SMALL)
    some = await plan_of(tmp_path, "judge=ruler", *SMALL, max_windows=2)
    assert some.counts.windows_read == 2
    assert bill(some).paid == bill(all_read).paid
    for now, then in (
        (bill(some).judge_prompt_tokens, bill(all_read).judge_prompt_tokens),
        (some.counts.trained_tokens, all_read.counts.trained_tokens),
    ):
        assert now == pytest.approx(then, rel=0.05)


async def test_a_judge_without_a_language_model_costs_nothing(tmp_path: Path) -> None:
    due = bill(await plan_of(tmp_path, *SMALL))
    assert (due.calls, due.judge_usd, due.known_usd, due.unknown) == (0, 0.0, 0.0, ())


async def test_nothing_to_train_on_is_said_as_the_run_would_say_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="none of 3 windows is ready"):
        await plan_of(tmp_path, "sampler.min_actions=9", *SMALL)


async def test_a_warm_start_is_planned_with_the_judgments_that_it_pays_for(
    tmp_path: Path, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", migrated_url)
    read, warm = ("judge=ruler", "source=postgres"), "trainer.warm_start=0.5"
    here = (*read, *SMALL)
    with pytest.raises(SourceError, match="warm_start has nothing to imitate: no window"):
        await plan_of(tmp_path, *here, warm)
    await done(collect.run, Options(), tmp_path, *here, "collect.strategies=[informed,balanced]")
    without, plan = [await plan_of(tmp_path, *here, *more, changes=False) for more in ((), (warm,))]
    assert (bill(without).paid, bill(plan).paid) == (6, 9)  # the three windows that were recorded
    assert without.counts.warm_tokens == 0 < plan.counts.warm_tokens
    assert expected(plan)["train/tokens"] == expected(without)["train/tokens"]
    assert (bill(plan).hours or 0) > (bill(without).hours or 0)
    offline = await plan_of(tmp_path, *read, "collect=none", "evaluate=none", warm, changes=False)
    assert (bill(offline).paid, bill(offline).calls) == (3, 6)  # the first iteration has the same windows


# --- what it costs ----------------------------------------------------------------------------------------------------


async def test_an_unknown_price_is_unknown_and_not_nothing(tmp_path: Path) -> None:
    plan = await plan_of(tmp_path, "judge=ruler", "judge.model=some-model", "model=qwen2_5_3b", *SMALL)
    due = bill(plan)
    assert due.judge_usd is None
    assert due.unknown == ("judge",)
    serverless = due.backends[2]
    assert (serverless.training_usd, serverless.playing_usd) == (None, None)
    assert "unknown" in row("job", plan, due)
    assert "0.00 + unknown (judge)" in row("job", plan, due)
    assert as_json([("job", plan)])["total"]["usd_unknown"] == ["judge"]


@pytest.mark.parametrize(
    ("trainer", "backend", "dated"),
    [("serverless", "serverless", True), ("tinker", "serverless", False), ("art_local", "own GPU", True)],
)
async def test_trainers_elsewhere_are_planned_without_a_key_and_at_their_own_prices(
    tmp_path: Path, trainer: str, backend: str, dated: bool
) -> None:
    plan = await plan_of(tmp_path, f"trainer={trainer}", "model=qwen3_14b", *SMALL, changes=False)
    assert plan.backend == backend and (plan.prices.date is not None) == dated
    assert bill(plan).unknown == ({"serverless": (), "art_local": ("training",)}.get(trainer, ("training", "playing")))


async def test_the_formulas_are_those_that_are_told(tmp_path: Path) -> None:
    plan = await plan_of(tmp_path, "model=qwen3_14b", *SMALL, gpu_tflops=100.0, gpu_usd_per_hour=2.0)
    counts = plan.counts
    trained, played = (
        counts.trained_tokens + counts.context_tokens,
        counts.play_prompt_tokens + counts.play_answer_tokens,
    )
    hours = (6 * trained + 2 * played) * 14.8e9 / 100e12 / 3600
    gpu, serverless = bill(plan).backends[1:]
    assert gpu.hours == pytest.approx(hours)
    assert gpu.training_usd == pytest.approx(2 * hours)
    assert serverless.training_usd == 0.0  # free in the preview, and dated
    assert serverless.playing_usd == pytest.approx(
        (counts.play_prompt_tokens * 0.05 + counts.play_answer_tokens * 0.22) / 1e6
    )
    assert plan.prices.date is not None


async def test_jobs_share_the_judgments_of_equal_play_only(tmp_path: Path) -> None:
    base = await plan_of(tmp_path, "judge=ruler", *SMALL)
    other_rate = await plan_of(tmp_path, "judge=ruler", "trainer.learning_rate=1e-4", *SMALL)
    other_model = await plan_of(tmp_path, "judge=ruler", "model=qwen2_5_3b", *SMALL)
    saved = sharing([base, base])
    assert saved is not None
    assert (saved.calls, saved.share) == (6, 0.5)
    first_only = sharing([base, other_rate])  # after one update the policies differ
    assert first_only is not None
    assert first_only.calls == 3
    assert sharing([base, other_model]) is None


async def test_savings_are_planned_and_not_guessed(tmp_path: Path) -> None:
    dear = ("judge=ruler", "judge.model=gpt-4.1", "sampler.min_agents=2", *SMALL)
    plan = await plan_of(tmp_path, *dear)
    best = savings([plan])[0]
    again = await plan_of(tmp_path, *dear, *best.change.split(), changes=False)
    assert best.usd == pytest.approx(bill(plan).known_usd - bill(again).known_usd)
    assert best.usd > 0
    assert savings([replace(plan, changes=())]) == []


async def test_the_table_has_a_row_a_job_and_a_total(tmp_path: Path) -> None:
    plan = await plan_of(tmp_path, "judge=ruler", *SMALL)
    console = Terminal(width=200, record=True, quiet=False)
    show([("collect.strategies=[informed]", plan), ("collect.strategies=[balanced,noop]", plan)], console)
    printed = console.export_text()
    assert "strategies=[informed] " in printed and "strategies=[balanced,noop] " in printed
    told = as_json([("a", plan), ("b", plan)])
    assert [job["judge_calls"] for job in told["jobs"]] == [6, 0]
    assert told["total"]["judge_calls"] == 6
    assert told["total"]["judge_calls_free"] == 6


def test_a_sweep_is_one_table_and_leaves_nothing_behind(project: Project) -> None:
    small = ("judge=ruler", "iterations=1", "collect.windows=2", "evaluate=none", "plan.changes=false")
    swept = ("model=qwen2_5_3b,qwen3_14b", "sampler.max_dropout=0,0.3,0.7", "sampler.target_trajectories=8")
    ran = project.attempt("-m", "task=plan", *swept, *small)
    assert ran.code == 0, ran.err
    table = ran.out.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in table[:7]] == ["job", *["model=qwen2_5_3b"] * 3, *["model=qwen3_14b"] * 3]
    assert next(line for line in table[7:] if line.split()).startswith("total")
    assert project.root.is_dir() and not (project.root / "runs").exists()
    assert not (project.home / "postgres").exists()


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_judges_of_openai_are_counted_by_their_own_encoding() -> None:
    tokens = tokens_of_judge("gpt-4.1-mini")
    assert tokens.counted
    assert "o200k_base" in tokens.how
    assert tokens.prompts([[{"role": "user", "content": "hello world"}]]) == [2 + 4 + 3]


def test_prompts_with_tool_calls_are_counted_by_the_template() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "BUY", "arguments": "{}"}}
    prompt = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    tokens = tokens_of_model("tiny", str(SHIPPED / "tiny"))
    assert tokens.counted
    assert tokens.prompts([prompt])[0] > tokens.prompts([prompt[:1]])[0]


def test_an_unknown_tokenizer_is_an_estimate_and_says_so() -> None:
    for tokens in (tokens_of_judge("some-model"), tokens_of_model("Qwen/no-such-model", "Qwen/no-such-model")):
        assert isinstance(tokens, Estimate)
        assert "estimated" in tokens.how
        assert tokens.answers(["x" * 340]) == [101]


# --- the run keeps to it ----------------------------------------------------------------------------------------------


async def test_expected_has_the_keys_of_the_summary(tmp_path: Path) -> None:
    plan = await plan_of(tmp_path, "judge=ruler", *SMALL)
    planned = expected(plan)
    assert planned["judge/calls"] == 6
    assert planned["data/trajectories_used"] == 48
    assert planned["train/tokens"] == plan.counts.trained_tokens
