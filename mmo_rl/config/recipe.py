"""Recipe of a model preset: values that the groups trainer and market take where nothing else is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf


def from_recipe(key: str, default: object, *, _root_: DictConfig) -> object:
    """Reads a key of the recipe of the composed model, ``default`` where it has none: ``${mmo_rl.recipe:KEY,DEFAULT}``.
    The learning rate is that of an adapter where ``model.lora_rank`` is above 0."""
    model = OmegaConf.select(_root_, "model")
    return value_of(model if isinstance(model, DictConfig) else {}, key, default)


def value_of(model: Mapping[str, Any], key: str, default: object) -> object:
    """Returns a value of a model node's recipe, ``default`` where it has none."""
    recipe = model.get("recipe")
    if not isinstance(recipe, (dict, DictConfig)):
        return default
    if key == "learning_rate" and (model.get("lora_rank") or 0) > 0:
        key = "lora_learning_rate"
    value: object = recipe.get(key)
    return default if value is None else value
