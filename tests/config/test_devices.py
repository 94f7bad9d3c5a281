"""The policy plays where it trains; a device that is not here is found before anything is played."""

import math
from pathlib import Path

import pytest
import torch

from mmo_rl.config.composition import Components, compose
from mmo_rl.errors import ConfigError, PolicyError
from mmo_rl.plan.bill import Plan, Prices, Rates, bill
from mmo_rl.plan.count import Counts
from mmo_rl.policy.local import LocalPolicy
from mmo_rl.trainer.base import MachineChecker
from mmo_rl.types import PolicyVersion
from tests.harness.config import compose_settings

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def components_of(home: Path, *overrides: str) -> Components:
    return compose(compose_settings(f"home={home}", *overrides))


@pytest.mark.parametrize(
    ("overrides", "device"),
    [
        ((), "cpu"),
        (("trainer.device=cuda",), "cuda"),
        (("trainer.device=cuda", "policy.device=cpu"), "cpu"),
        (("policy.device=cuda",), "cuda"),
        (("task=evaluate", "evaluate=pair", "trainer.device=cuda"), "cuda"),
    ],
    ids=["default", "trainer", "policy", "policy alone", "evaluate"],
)
def test_the_policy_plays_where_the_trainer_trains_unless_it_is_told(
    tmp_path: Path, overrides: tuple[str, ...], device: str
) -> None:
    assert components_of(tmp_path, *overrides).players.device == device


@needs_no_gpu
def test_a_published_version_is_opened_on_that_device(tmp_path: Path) -> None:
    players = components_of(tmp_path, "trainer.device=cuda").players
    for play in (players.base, players.chosen, lambda: players.contestant("evaluate.a", "base")):
        with pytest.raises(PolicyError, match="there is no CUDA device here"):
            play()


def test_the_batch_size_of_the_policy_is_obeyed_in_training(tmp_path: Path) -> None:
    components = components_of(tmp_path, "policy.batch_size=3")
    version = PolicyVersion("tiny", 0, components.model.location())
    policy = components.players.published(version)
    assert isinstance(policy, LocalPolicy) and policy.batch_size == 3
    default = components_of(tmp_path).players.published(version)
    assert isinstance(default, LocalPolicy) and default.batch_size == 256


@needs_no_gpu
def test_a_device_that_is_not_here_is_found_before_anything_starts(tmp_path: Path) -> None:
    trainer = components_of(tmp_path, "trainer.device=cuda").trainer
    assert isinstance(trainer, MachineChecker)
    with pytest.raises(ConfigError, match=r"trainer\.device=cuda: there is no CUDA device here") as caught:
        trainer.check_machine()
    assert caught.value.hint == "trainer.device=cpu, or a machine with a GPU"
    with pytest.raises(ConfigError, match=r"policy\.device=cuda: there is no CUDA device here"):
        components_of(tmp_path, "policy.device=cuda").players.check_machine()
    components_of(tmp_path).players.check_machine()


def test_what_a_training_run_does_not_use_of_the_policy_is_refused_or_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"policy\.path: found 'runs/x', but task=train plays what it trains"
    ) as caught:
        compose_settings("policy.path=runs/x")
    assert "model.path=runs/x" in str(caught.value)
    compose_settings("policy.path=runs/x", "task=collect")
    assert components_of(tmp_path).players.unused_in_training() is None
    told = components_of(tmp_path, "policy=endpoint").players.unused_in_training()
    assert told is not None and told.startswith("The choice of policy is not used in training")


def counts(**tokens: int) -> Counts:
    zero = dict.fromkeys(Counts.__dataclass_fields__, 0)
    return Counts(**zero | {"calls": ()} | tokens)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "plays_on", "seconds"),
    [
        ("own GPU", None, 6e12 * 1e9 / 100e12 + 2e12 * 1e9 / 100e12),
        ("own GPU", "cpu", 6e12 * 1e9 / 100e12 + 2e12 * 1e9 / 0.1e12),
        ("local CPU", "cuda", 6e12 * 1e9 / 0.1e12 + 2e12 * 1e9 / 100e12),
    ],
)
def test_a_plan_reckons_playing_at_the_speed_of_the_device_that_plays(
    backend: str, plays_on: str | None, seconds: float
) -> None:
    plan = Plan(
        model="m",
        judge=None,
        parameters_b=1.0,
        backend=backend,  # type: ignore[arg-type]
        counts=counts(trained_tokens=10**12, play_answer_tokens=10**12),
        prices=Prices(prompt=None, answer=None, training=None, date=None),
        rates=Rates(cpu_tflops=0.1, gpu_tflops=100.0, gpu_usd_per_hour=None, judge_call_s=1.0, judge_concurrency=1),
        judge_price_date=None,
        judge_counted=True,
        policy_counted=True,
        format="table",
        changes=(),
        notes=(),
        plays_on=plays_on,  # type: ignore[arg-type]
    )
    assert math.isclose((bill(plan).hours or 0.0) * 3600, seconds)
