"""Contradictions between a run and the recipe of its model, for messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mmo_rl.config.recipe import value_of
from mmo_rl.config.schema import TARGET, Node, load
from mmo_rl.config.settings import Settings
from mmo_rl.lm.manifest import shape
from mmo_rl.lm.model import SHIPPED
from mmo_rl.trainer.local import LocalTrainer


def recipe_differences(settings: Settings) -> str | None:
    """Describes the values of a run that contradict the recipe of its model, or weights that the recipe is not of; None
    where nothing does."""
    model = settings.nodes["model"]
    if model is None or not isinstance(model.get("recipe"), Mapping):
        return None
    if other := _other_weights(model):
        return other
    parts = [
        f"{key}={_shown(value)} (recipe: {_shown(wanted)})"
        for key, value, wanted in _compared(settings, model)
        if value != wanted
    ]
    return f"Unlike the recipe of model={model['name']}: {', '.join(parts)}" if parts else None


def _other_weights(model: Node) -> str | None:
    """Describes weights of another model under the preset of a shipped one: they get its recipe and its context."""
    name, path = str(model["name"]), model.get("path")
    key, place = ("model.base_model", model["base_model"]) if path is None else ("model.path", path)
    if not (SHIPPED / name).is_dir() or place == name:
        return None
    if path is not None and shape(Path(path).expanduser()) == shape(SHIPPED / name):
        return None
    return (
        f"{key}={place} is another model than {name}, and gets the recipe of {name} and its context of "
        f"{model['context_length']} tokens; its own preset: model=NAME {key}={place} (mmo-rl --help model lists them)"
    )


def _compared(settings: Settings, model: Node) -> Iterator[tuple[str, object, object]]:
    """Yields key, value and the recipe's value of everything that a recipe says something of."""
    trainer, market = settings.nodes["trainer"], settings.nodes["market"]
    kind = None if trainer is None else load(str(trainer[TARGET]))
    if trainer is not None and isinstance(kind, type) and issubclass(kind, LocalTrainer):
        for key in ("learning_rate", "packed_tokens"):
            if key in trainer:
                yield f"trainer.{key}", trainer[key], value_of(model, key, trainer[key])
    for key in ("prompt", "lenient_answers"):
        if market is not None and key in market:
            yield f"market.{key}", market[key], value_of(model, key, market[key])


def _shown(value: object) -> str:
    """Writes a value as it is typed."""
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
