"""Protocol of a base model, and its collaborators."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmo_rl.types import Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts(Parts):
    """Collaborators of a base model: ``cache`` is the folder for models that are unpacked once (None: none)."""

    cache: Path | None = None


class BaseModel(Protocol):
    """Base model and its limits; `mmo_rl.lm.model.ModelSpec` is one and documents the fields."""

    name: str
    base_model: str
    path: str | None
    context_length: int
    max_completion_tokens: int
    lora_rank: int
    active_parameters_b: float | None
    threads: int | None
    price_prompt_usd_per_mtok: float | None
    price_completion_usd_per_mtok: float | None
    price_training_usd_per_mtok: float | None
    price_date: str | None
    cache: Path | None

    def location(self) -> str:
        """Returns the folder, GGUF file or hub id of the weights. Raises `PolicyError` where it is not there."""
        ...
