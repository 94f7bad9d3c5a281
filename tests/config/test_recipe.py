"""The recipe of a model preset: what trainer and market take from it, and what contradicts it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.config.project import shipped
from mmo_rl.config.recipe_differences import recipe_differences
from mmo_rl.lm.model import SHIPPED
from tests.harness.config import compose_settings

REAL = sorted(path.stem for path in (shipped("conf") / "model").glob("*.yaml") if path.stem != "tiny")


def taken(*overrides: str) -> tuple[Any, ...]:
    settings = compose_settings(*overrides)
    trainer, market = settings.node("trainer"), settings.node("market")
    return trainer["learning_rate"], trainer["packed_tokens"], market["prompt"], market["lenient_answers"]


def test_the_shipped_model_keeps_its_own() -> None:
    assert taken() == (5e-4, 512, "compact", False)
    assert taken("model.lora_rank=4") == (5e-4, 512, "compact", False)


@pytest.mark.parametrize("model", REAL)
def test_a_real_model_is_not_trained_as_the_tiny_one(model: str) -> None:
    rate, packed, prompt, lenient = taken(f"model={model}")
    assert rate <= 1e-4 and packed >= 2048 and (prompt, lenient) == ("explained", True)
    assert recipe_differences(compose_settings(f"model={model}")) is None


def test_the_rate_is_that_of_what_is_trained() -> None:
    assert taken("model=qwen2_5_0_5b")[0] == 1e-4
    assert taken("model=qwen2_5_0_5b", "model.lora_rank=0")[0] == 1e-5


def test_what_one_sets_counts_and_what_contradicts_the_recipe_is_said() -> None:
    mine = ("model=qwen2_5_0_5b", "trainer.learning_rate=5e-4", "market.prompt=compact")
    assert taken(*mine) == (5e-4, 4096, "compact", True)
    assert recipe_differences(compose_settings(*mine)) == (
        "Unlike the recipe of model=qwen2_5_0_5b: trainer.learning_rate=0.0005 (recipe: 0.0001), "
        "market.prompt=compact (recipe: explained)"
    )
    assert recipe_differences(compose_settings()) is None


def test_other_trainers_have_rates_of_their_own() -> None:
    settings = compose_settings("model=qwen3_14b", "trainer=serverless")
    assert settings.node("trainer")["learning_rate"] == 5e-6
    assert recipe_differences(settings) is None


def test_a_preset_without_a_recipe_is_trained_as_before(tmp_path: Path) -> None:
    assert taken("~model.recipe") == (5e-4, 512, "compact", False)
    assert taken("model.recipe.learning_rate=1e-3", "model.recipe.prompt=explained")[::2] == (1e-3, "explained")


def test_the_arms_of_the_experiment_on_base_models_differ_in_the_model_alone() -> None:
    arms = [compose_settings("+experiments=base_model", f"model={model}") for model in ("qwen2_5_0_5b", "qwen2_5_3b")]
    small, large = (
        {**arm.node("trainer"), **arm.node("market"), "rank": arm.node("model")["lora_rank"]} for arm in arms
    )
    assert small == large
    assert (small["learning_rate"], small["rank"], small["prompt"]) == (1e-4, 16, "explained")


def test_weights_of_another_model_under_the_tiny_preset_are_named(tmp_path: Path) -> None:
    """Who types model.path alone gets the preset of the default model."""
    shutil.copytree(SHIPPED / "tiny", tmp_path / "same")
    shutil.copytree(SHIPPED / "tiny", tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 896}))
    assert recipe_differences(compose_settings(f"model.path={tmp_path / 'same'}")) is None
    for key in (f"model.path={tmp_path / 'other'}", "model.base_model=Qwen/Qwen2.5-0.5B-Instruct", "model.path=x.gguf"):
        told = recipe_differences(compose_settings(key))
        assert told is not None and told.startswith(f"{key} is another model than tiny, and gets the recipe of tiny")
    assert recipe_differences(compose_settings("model=qwen2_5_0_5b", f"model.path={tmp_path / 'other'}")) is None
