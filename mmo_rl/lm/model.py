"""Specification of a base model, and the checkpoints that were trained from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from mmo_rl.errors import PolicyError
from mmo_rl.lm.base import BaseModel, ModelParts, Recipe
from mmo_rl.lm.gguf import is_gguf
from mmo_rl.lm.manifest import fault
from mmo_rl.lm.weights import STATE
from mmo_rl.types import PolicyVersion

SHIPPED = Path(__file__).parent / "models"


class ModelSpec:
    """Base model and its limits.

    ``base_model`` is the name of a model shipped with this package (``tiny``), a local folder in Hugging Face format,
    or a hub id; ``path`` overrides it with a folder or a GGUF file, which is unpacked in ``parts.cache`` once
    (`mmo_rl.lm.unpack`). ``context_length`` and ``max_completion_tokens`` in tokens;
    ``lora_rank`` 0 trains all weights. ``active_parameters_b`` in billions are those that a token passes through (fewer
    than all in a mixture of experts). ``threads`` of this machine's processor compute it (None: torch's choice, which
    depends on the machine and on the jobs beside this one; so do the last digits of sums, and with them which token is
    drawn). Prices are W&B's serverless ones, in US dollars a million tokens as they were on
    ``price_date``; None where unknown. ``recipe`` is for configs, which read it for other groups.
    """

    def __init__(
        self,
        *,
        name: str,
        base_model: str,
        path: str | None = None,
        context_length: Annotated[int, Field(ge=16)],
        max_completion_tokens: Annotated[int, Field(ge=1)],
        lora_rank: Annotated[int, Field(ge=0)] = 0,
        active_parameters_b: Annotated[float, Field(gt=0)] | None = None,
        threads: Annotated[int, Field(ge=1)] | None = None,
        price_prompt_usd_per_mtok: Annotated[float, Field(ge=0)] | None = None,
        price_completion_usd_per_mtok: Annotated[float, Field(ge=0)] | None = None,
        price_training_usd_per_mtok: Annotated[float, Field(ge=0)] | None = None,
        price_date: str | None = None,
        recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
        parts: ModelParts = ModelParts(),  # noqa: B008 (frozen)
    ) -> None:
        self.name = name
        self.base_model = base_model
        self.path = path
        self.context_length = context_length
        self.max_completion_tokens = max_completion_tokens
        self.lora_rank = lora_rank
        self.active_parameters_b = active_parameters_b
        self.threads = threads
        self.price_prompt_usd_per_mtok = price_prompt_usd_per_mtok
        self.price_completion_usd_per_mtok = price_completion_usd_per_mtok
        self.price_training_usd_per_mtok = price_training_usd_per_mtok
        self.price_date = price_date
        self.recipe = recipe
        self.cache = parts.cache

    def location(self) -> str:
        """Returns the folder, GGUF file or hub id that `mmo_rl.lm.load.load_model` loads. Raises `PolicyError` for one
        that isn't there."""
        if self.path is not None:
            folder = Path(self.path).expanduser()
            if is_gguf(folder.name):
                if not folder.is_file():
                    raise PolicyError(f"model.path={self.path} is not there", hint="check the path")
                return str(folder.resolve())
            if not (folder / "config.json").exists():
                raise PolicyError(
                    f"model.path={self.path} {_description(folder)}",
                    hint="give a folder in Hugging Face format or a GGUF file, or leave model.path out",
                )
            return str(folder)
        shipped = SHIPPED / self.base_model
        return str(shipped) if shipped.is_dir() else self.base_model


def _description(folder: Path) -> str:
    """Describes a ``model.path`` that is not a model, for a message."""
    if not folder.exists():
        return "is not there"
    if not folder.is_dir():
        return "is a file, and its name does not end in .gguf"
    files = sorted(file.name for file in folder.glob("*.gguf"))
    return f"is a folder without config.json; it has {files[0]}" if files else "holds no config.json"


def find_checkpoint(text: str, *, name: str) -> PolicyVersion:
    """Finds the weights at ``text``: a folder in Hugging Face format, or the last checkpoint in a run's folder.

    Its version is the number that its folder is named by, else 0. Raises `PolicyError` where there is none.
    """
    folder = Path(text).expanduser()
    found = folder
    if not (folder / "config.json").exists():
        numbered = sorted(f.parent for f in folder.glob("checkpoints/[0-9]*/config.json"))
        if not numbered:
            what = "holds no checkpoint" if folder.is_dir() else "is no folder"
            raise PolicyError(
                f"{text} {what}",
                hint="give a folder with config.json and weights, or a run folder such as runs/default/0123456789",
            )
        found = numbered[-1]
    return PolicyVersion(name, int(found.name) if found.name.isdecimal() else 0, str(found))


def require_whole(version: PolicyVersion, spec: BaseModel) -> None:
    """Raises `PolicyError` where a checkpoint is damaged or of another model than ``spec``."""
    base = spec.path or str(SHIPPED / spec.base_model)
    found = fault(Path(version.path), model=spec.name, base=base, needed=lambda name: name != STATE)
    if found is None:
        return
    hint = "choose another version of that run: the folders beside it"
    if found.other_model is not None and found.other_model != spec.name:
        hint = f"mmo-rl ... model={found.other_model}, or a checkpoint of {spec.name}"
    raise PolicyError(f"the checkpoint {version.path} cannot be used: {found.reason}", hint=hint)
