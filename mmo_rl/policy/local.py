"""Policy on this machine's CPU or GPU: a causal language model that answers many prompts at once."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mmo_rl.lm.base import BaseModel
from mmo_rl.lm.decode import Row, new_batch
from mmo_rl.lm.encode import encode
from mmo_rl.lm.load import context_of, load_version
from mmo_rl.lm.model import find_checkpoint, require_whole
from mmo_rl.policy.base import Completion, PolicyParts, completion_seed
from mmo_rl.types import Message, PolicyVersion

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def local_policy(
    *,
    path: str | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    batch_size: Annotated[int, Field(ge=1)] = 256,
    parts: PolicyParts,
) -> LocalPolicy:
    """Opens the base model, or the checkpoint at ``path`` (`find_checkpoint`), on ``device`` (None: that of ``parts``).
    Raises `PolicyError` where it cannot be loaded, is damaged, or is of another model."""
    model = parts.model
    if path is None:
        version = PolicyVersion(model.name, 0, model.location())
    else:
        version = find_checkpoint(path, name=model.name)
        require_whole(version, model)
    return open_policy(version, model, device=device or parts.device, batch_size=batch_size)


def open_policy(version: PolicyVersion, spec: BaseModel, *, device: str = "cpu", batch_size: int = 256) -> LocalPolicy:
    """Opens a published version of ``spec``."""
    model, tokenizer = load_version(version.path, spec, device=device)
    return LocalPolicy(
        model=model,
        tokenizer=tokenizer,
        name=version.name,
        version=version.version,
        max_completion_tokens=spec.max_completion_tokens,
        context_length=context_of(model, spec.context_length),
        batch_size=batch_size,
    )


class LocalPolicy:
    """Policy that answers with a transformers model on this machine, ``batch_size`` prompts at a time.

    Each prompt draws from a generator of its own, seeded as `policy=endpoint` seeds its requests (`completion_seed`),
    so that the same weights behind ``task=serve`` answer the same. Recorded logprobs are those of the unscaled
    distribution (temperature 1), as a trainer expects them. A prompt that leaves no room for an answer within
    ``context_length`` tokens (None: no limit) is not answered, and says so; as there, an answer ends where it does.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        version: int,
        max_completion_tokens: int,
        context_length: int | None = None,
        batch_size: int = 256,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.version = version
        self.max_completion_tokens = max_completion_tokens
        self.context_length = context_length
        self.batch_size = batch_size

    async def complete(
        self, prompts: Sequence[Sequence[Message]], *, temperature: float, seed: int
    ) -> list[Completion]:
        """Answers each prompt, in order; ``temperature`` 0 is greedy."""
        return await asyncio.to_thread(self._complete, prompts, temperature, seed)

    def fingerprint(self) -> str | None:
        """Hashes the weights, the tokenizer, the limits, and what else decides the last digits of a sum: libraries,
        device and threads. None for a tokenizer that cannot be serialised."""
        import platform

        import tokenizers
        import torch
        import transformers

        spelt = getattr(self.tokenizer, "backend_tokenizer", None)
        if spelt is None:
            return None
        here = {
            "machine": [platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
            "device": str(self.model.device),
            "versions": [module.__version__ for module in (torch, transformers, tokenizers)],
            "config": self.model.config.to_dict(),
            "ends": sorted(new_batch(self.model, self.tokenizer).end_ids),
            "chat_template": self.tokenizer.chat_template,
            "limits": [self.context_length, self.max_completion_tokens, self.batch_size],
        }
        digest = hashlib.sha256(json.dumps(here, sort_keys=True, default=str).encode())
        digest.update(spelt.to_str().encode())
        for name, value in self.model.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _complete(self, prompts: Sequence[Sequence[Message]], temperature: float, seed: int) -> list[Completion]:
        rows = [
            self._row(encode(self.tokenizer, prompt), temperature, completion_seed(seed, number))
            for number, prompt in enumerate(prompts)
        ]
        answered = [row for row in rows if row.max_tokens > 0]
        batch = new_batch(self.model, self.tokenizer)
        for first in range(0, len(answered), self.batch_size):
            batch.join(answered[first : first + self.batch_size])
            while batch.rows:
                batch.step()
        return [self._completion(row) for row in rows]

    def _row(self, prompt: list[int], temperature: float, seed: int) -> Row:
        room = self.max_completion_tokens
        if self.context_length is not None:
            room = min(room, self.context_length - len(prompt))
        return Row(prompt=prompt, max_tokens=room, seed=seed, temperature=temperature)

    def _completion(self, row: Row) -> Completion:
        if row.max_tokens < 1:
            error = f"the prompt has {len(row.prompt)} tokens, and the model's context {self.context_length}"
            return Completion("", error=f"{error} (model.context_length)")
        return Completion(
            text=self.tokenizer.decode(row.text_ids, skip_special_tokens=True),
            prompt_token_ids=tuple(row.prompt),
            token_ids=tuple(row.token_ids),
            logprobs=tuple(row.logprobs),
        )
