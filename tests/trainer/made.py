"""Collaborators of trainers for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmo_rl.lm.model import SHIPPED, ModelSpec
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.trainer.base import TrainerParts

TINY = str(SHIPPED / "tiny")


def model_spec(location: str = TINY, *, name: str = "tiny", **fields: Any) -> ModelSpec:
    """The base model at ``location``."""
    given = {"context_length": 512, "max_completion_tokens": 24, "base_model": location, "path": location} | fields
    return ModelSpec(name=name, **given)


def trainer_parts(checkpoints: Path, location: str = TINY, **fields: Any) -> TrainerParts:
    """Collaborators of a trainer of the model at ``location`` that publishes into the folder ``checkpoints``;
    ``fields`` are those of the model."""
    return TrainerParts(
        model=model_spec(location, **fields),
        checkpoints=checkpoints,
        folder=RunFolder(checkpoints.parent),
        experiment="default",
    )
