"""Weights in training: all of a model's, or a LoRA adapter beside frozen ones, with their optimizer.

On CUDA matrices are multiplied in bfloat16. An update of a few millionths would be rounded away in weights of eight
bits of precision, so what is trained is kept in float32: all weights, or the adapter's, beside a base in bfloat16.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmo_rl.errors import PolicyError, TrainerError
from mmo_rl.lm.base import BaseModel
from mmo_rl.lm.fit import ADAPTER, require_adapter_fit, require_whole_files
from mmo_rl.lm.load import load_version

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STATE = "trainer_state.pt"
"""File of a checkpoint with the optimizer's state and torch's random state."""


@dataclass(frozen=True, slots=True)
class Lora:
    """Settings of a low-rank adapter (Hu et al. 2021): ``rank`` 0 is none; its output is scaled by ``alpha`` / rank.
    ``targets`` are the modules that get one: ``all-linear`` or names such as q_proj."""

    rank: int = 0
    alpha: int = 32
    targets: str | tuple[str, ...] = "all-linear"


class Weights:
    """A loaded version of the policy: ``model`` (transformers) and ``tokenizer``; ``bf16`` says how to multiply."""

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapted: PeftModel | None,
        base: PreTrainedModel | None,
        bf16: bool,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.bf16 = bf16
        self.optimizer = optimizer
        self._adapted = adapted
        self._base = base

    @classmethod
    def load(
        cls, folder: Path | None, *, base: BaseModel, device: str, lora: Lora, keep_base: bool, seed: int
    ) -> Weights:
        """Loads the checkpoint in ``folder``, None for the untrained ``base`` model, with the optimizer where it was.

        ``keep_base`` keeps a frozen copy of the base model at hand, which an adapter doesn't need: it is switched off
        instead. Raises `TrainerError` for a checkpoint of other LoRA settings, or one that is broken.
        """
        import torch

        location = base.location()
        if folder is not None:
            _require_same_adapter(folder, lora)
        adapted = frozen = None
        if lora.rank:
            model, tokenizer = load_version(location, base, device=device)
            adapted = _adapt(model, folder, lora, seed)
        else:
            whole = location if folder is None else str(folder)
            model, tokenizer = load_version(whole, base, device=device, dtype="float32")
            if keep_base:
                frozen = load_version(location, base, device=device)[0].requires_grad_(False)
        trained = [p for p in (adapted or model).parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.95), weight_decay=0.0)
        if folder is not None:
            try:
                state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
                optimizer.load_state_dict(state["optimizer"])
                torch.set_rng_state(state["rng"])
                if device.startswith("cuda") and len(state["cuda_rng"]) == torch.cuda.device_count():
                    torch.cuda.set_rng_state_all(state["cuda_rng"])
            except (OSError, EOFError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
                raise TrainerError(
                    f"{folder / STATE} is broken, or belongs to other weights than those trained here: "
                    f"{(str(error) or type(error).__name__).splitlines()[0]}",
                    hint="remove the run folder to start afresh",
                ) from error
        return cls(
            model=model,
            tokenizer=tokenizer,
            adapted=adapted,
            base=frozen,
            bf16=device.startswith("cuda"),
            optimizer=optimizer,
        )

    def trained(self) -> list[torch.nn.Parameter]:
        """Lists the parameters that the optimizer changes."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @contextmanager
    def base_model(self) -> Iterator[PreTrainedModel]:
        """Gives the model as it was before any training; the trained one is not to be used meanwhile."""
        if self._adapted is not None:
            with self._adapted.disable_adapter():
                yield self.model
        else:
            assert self._base is not None, "load with keep_base"
            yield self._base

    def save(self, folder: Path) -> None:
        """Writes the weights (of an adapter: it alone), the tokenizer and what `load` needs to go on."""
        import torch

        (self._adapted or self.model).save_pretrained(str(folder))
        if self._adapted is not None:
            self.model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        state = {
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.bf16 else [],
        }
        torch.save(state, folder / STATE)


def _require_same_adapter(folder: Path, lora: Lora) -> None:
    """Raises `TrainerError` where the checkpoint holds another adapter than is asked for, or one too many or few."""
    file = folder / ADAPTER
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    rank, alpha = found.get("r", 0), found.get("lora_alpha")
    if rank != lora.rank or (rank and alpha != lora.alpha):
        is_one = f"an adapter of rank {rank} and alpha {alpha}" if rank else "all weights"
        raise TrainerError(
            f"{folder} holds {is_one}, and model.lora_rank={lora.rank} trainer.lora_alpha={lora.alpha} were asked for",
            hint="ask for what it holds, or remove the run folder to start afresh",
        )


def _adapt(model: PreTrainedModel, folder: Path | None, lora: Lora, seed: int) -> PeftModel:
    """Returns ``model`` with the adapter in ``folder``, or with one that changes nothing yet; its base is frozen."""
    try:
        import peft
    except ImportError as error:
        raise TrainerError(
            "model.lora_rank above 0 needs peft, which isn't installed", hint="pip install 'mmo-rl[local]'"
        ) from error
    import torch

    if folder is not None:
        try:
            require_whole_files(folder)
            adapted = peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True)
            require_adapter_fit(folder, model)
            return adapted
        except PolicyError as error:
            raise TrainerError(error.message, hint="remove the run folder to start afresh") from error
        except (OSError, ValueError, RuntimeError) as error:
            raise TrainerError(
                f"{folder} holds no adapter of this model: {str(error).splitlines()[0]}",
                hint="remove the run folder to start afresh",
            ) from error
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, settings)
        except ValueError as error:
            raise TrainerError(
                f"no LoRA adapter fits: {str(error).splitlines()[0]}", hint="trainer.lora_targets=all-linear"
            ) from error
