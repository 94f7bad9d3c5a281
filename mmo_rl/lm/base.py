"""Protocol of a base model, and its collaborators."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field

from mmo_rl.types import Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts(Parts):
    """Collaborators of a base model: ``cache`` is the folder for models that are unpacked once (None: none)."""

    cache: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Values that a model trains and plays well with; the groups trainer and market take them where nothing else is
    said. ``learning_rate`` is that of all weights, ``lora_learning_rate`` that of an adapter; ``packed_tokens`` of a
    training row; ``prompt`` and ``lenient_answers`` are those of the market."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-4
    lora_learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-4
    packed_tokens: Annotated[int, Field(ge=16)] = 512
    prompt: Literal["compact", "explained"] = "compact"
    lenient_answers: bool = False


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
