"""Commands that are nearly right: each mistake is told with what to type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.cli.swept_keys import for_each_job
from mmo_rl.config.served import served_models
from mmo_rl.config.spelling import of_hub

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("--seed=1", "write seed=1"),
        ("--sampler.min_agents=4", "write sampler.min_agents=4"),
        ("--seed", "write seed=VALUE"),
        ("seed=0..3", "mmo-rl -m seed=0,1,2,3"),
        ("seed=0..30", "mmo-rl -m seed='range(0,31)'"),
        ("seed=[0,1]", "mmo-rl -m seed=0,1"),
        ("name=my run", "write name=my_run"),
        ("name=très", "write name=tres"),
        ("name=a/b", "write name=a_b"),
        ("model=Qwen/Qwen2.5-0.5B-Instruct", "model=qwen2_5_0_5b is that model"),
        ("model=someone/Model-7B", "model.base_model=someone/Model-7B"),
    ],
)
def test_what_to_type_instead(cli: Cli, typed: str, told: str, tmp_path: Path) -> None:
    ran = cli(typed)
    assert ran.code == 2 and told in ran.err
    assert not (tmp_path / "runs").exists()


def test_an_id_of_a_hub_has_an_owner_and_a_name() -> None:
    assert of_hub("tinny") is None and of_hub("a/b/c") is None
    assert of_hub("qwen/qwen2.5-3b-instruct") == "model=qwen2_5_3b is that model"


def test_a_run_to_serve_needs_no_list(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    node = {"_target_": "mmo_rl.lm.model.ModelSpec", "name": "m", "base_model": "tiny", "context_length": 64,
            "max_completion_tokens": 8}  # fmt: skip
    one = served_models(str(tmp_path / "weights"), node, home=tmp_path)
    assert (
        [m.name for m in one]
        == ["weights"]
        == [m.name for m in served_models([str(tmp_path / "weights")], node, home=tmp_path)]
    )


def test_keys_of_swept_choices_are_set_in_each_job() -> None:
    swept = ["-m", "judge=ruler,heuristic", "judge.model=m", "judge.budget.usd=5", "seed=0", "sampler.min_agents=4"]
    assert for_each_job(swept) == [
        "-m", "judge=ruler,heuristic", "judge.model=choice(m)", "judge.budget.usd=choice(5)", "seed=0",
        "sampler.min_agents=4",
    ]  # fmt: skip
    assert for_each_job(swept[1:]) == swept[1:]
    assert for_each_job(["-m", "+experiments=a,b", "judge.model=m"])[2] == "judge.model=choice(m)"
    assert for_each_job(["-m", "seed=0,1", "judge.model=m"])[2] == "judge.model=m"


def test_a_sweep_over_judges_may_set_what_the_default_judge_lacks(cli: Cli, train: Any) -> None:
    ran = train(lambda context: float(context.settings.nodes["judge"]["max_per_window"]))
    told = cli("-m", "judge=ruler,ruler", "judge/template=blind,outcome_only", "judge.repeats=2", "judge.model=m")
    assert told.code == 0, told.err
    assert len(ran) == 2 and "judge/template=blind" in told.out
    refused = cli("-m", "judge=ruler,oracle", "judge.repeats=2")
    assert refused.code == 2 and "judge=oracle judge.repeats=2" in refused.err and "no key" in refused.err
    assert "judge=ruler judge.repeats=2\n" not in refused.err
