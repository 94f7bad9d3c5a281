"""A causal language model on this machine's CPU or GPU that answers many prompts at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from mmo_rl.errors import PolicyError
from mmo_rl.policy.base import Completion
from mmo_rl.policy.model import ModelSpec, find_checkpoint
from mmo_rl.types import Message, PolicyVersion

if TYPE_CHECKING:
    import torch

HUB_TIMEOUT_S = 10.0


def load_model(
    location: str, *, device: str = "cpu", threads: int | None = None, dtype: str | None = None
) -> tuple[Any, Any]:
    """The transformers model and its tokenizer; a folder that holds a LoRA adapter gives the base model that it names,
    with the adapter at work. Weights are kept in ``dtype`` (None: float32 on a CPU, bfloat16 on CUDA). ``threads`` of
    the processor compute from then on in this process, whatever the environment says (None: as it was).

    Raises `PolicyError` where they cannot be loaded or the tokenizer has no chat template.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise PolicyError(
            f"a model on this machine needs {error.name}, which isn't installed", hint="pip install 'mmo-rl[local]'"
        ) from error
    if threads is not None:
        torch.set_num_threads(threads)
    # The bars of transformers would break those of a run.
    disable_progress_bar()
    kept = getattr(torch, dtype or ("bfloat16" if device.startswith("cuda") else "float32"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
        model = AutoModelForCausalLM.from_pretrained(location, dtype=kept).to(device)
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"could not load the model {location}: {str(error).splitlines()[0]}",
            hint="check model.base_model, or give a folder with model.path=...",
        ) from error
    if tokenizer.chat_template is None:
        raise PolicyError(f"the tokenizer of {location} has no chat template", hint="choose an instruct model")
    return model.eval(), tokenizer


def require_model(location: str) -> None:
    """Finds out whether a model can be had, without loading or downloading its weights.

    Raises `PolicyError` where it is neither on this machine nor to be had from the Hugging Face hub.
    """
    try:
        import huggingface_hub
    except ImportError:  # then transformers is missing too, and `load_model` says what to install
        return
    if Path(location).is_dir() or huggingface_hub.try_to_load_from_cache(location, "config.json") is not None:
        return
    if (reason := _not_at_hub(location)) is not None:
        raise PolicyError(
            f"the weights of {location} are not on this machine, and {reason}",
            hint=f"download them where you can (hf download {location} --local-dir FOLDER) and type model.path=FOLDER; "
            "task=plan needs no weights",
        )


def _not_at_hub(location: str) -> str | None:
    """Why the hub does not give the model; None where it does."""
    import httpx
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        answer = httpx.head(
            huggingface_hub.hf_hub_url(location, "config.json"),
            headers=huggingface_hub.utils.build_hf_headers(),
            follow_redirects=True,
            timeout=HUB_TIMEOUT_S,
        )
    except httpx.HTTPError as error:
        return f"the hub cannot be reached ({error})"
    return f"the hub answers {answer.status_code}" if answer.is_error else None


def local_policy(
    *,
    model: ModelSpec,
    path: str | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    batch_size: Annotated[int, Field(ge=1)] = 256,
) -> LocalPolicy:
    """The base model, or the checkpoint at ``path`` (`find_checkpoint`). Raises `PolicyError` where it cannot be
    loaded."""
    version = PolicyVersion(model.name, 0, model.location()) if path is None else find_checkpoint(path, name=model.name)
    return open_policy(version, model, device=device, batch_size=batch_size)


def open_policy(version: PolicyVersion, spec: ModelSpec, *, device: str = "cpu", batch_size: int = 256) -> LocalPolicy:
    """A published version of ``spec``, ready to answer."""
    model, tokenizer = load_model(version.path, device=device, threads=spec.threads)
    return LocalPolicy(
        model=model,
        tokenizer=tokenizer,
        name=version.name,
        version=version.version,
        max_completion_tokens=spec.max_completion_tokens,
        batch_size=batch_size,
    )


class LocalPolicy:
    """Samples from a transformers model with a key-value cache, left-padded, ``batch_size`` prompts at a time.

    Recorded logprobs are those of the unscaled distribution (temperature 1), as a trainer expects them.
    """

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        name: str,
        version: int,
        max_completion_tokens: int,
        batch_size: int = 256,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.version = version
        self.max_completion_tokens = max_completion_tokens
        self.batch_size = batch_size

    async def complete(
        self, prompts: Sequence[Sequence[Message]], *, temperature: float, seed: int
    ) -> list[Completion]:
        """One completion a prompt, in order; ``temperature`` 0 is greedy."""
        return await asyncio.to_thread(self._complete, prompts, temperature, seed)

    def _complete(self, prompts: Sequence[Sequence[Message]], temperature: float, seed: int) -> list[Completion]:
        import torch

        ids = [self._encode(prompt) for prompt in prompts]
        generator = torch.Generator().manual_seed(seed)
        completions: list[Completion] = []
        for first in range(0, len(ids), self.batch_size):
            completions += self._generate(ids[first : first + self.batch_size], temperature, generator)
        return completions

    def _encode(self, prompt: Sequence[Message]) -> list[int]:
        text = self.tokenizer.apply_chat_template([dict(m) for m in prompt], tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _generate(self, prompts: list[list[int]], temperature: float, generator: torch.Generator) -> list[Completion]:
        import torch
        from transformers import DynamicCache

        rows, longest = len(prompts), max(map(len, prompts))
        device = self.model.device
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        tokens = torch.full((rows, longest), pad, dtype=torch.long)
        mask = torch.zeros((rows, longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        tokens, mask = tokens.to(device), mask.to(device)
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        cache = DynamicCache()
        answers: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        open_rows = torch.ones(rows, dtype=torch.bool)
        with torch.inference_mode():
            for _ in range(self.max_completion_tokens):
                output = self.model(
                    input_ids=tokens,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                logp = output.logits[:, -1].float().log_softmax(-1).cpu()
                if temperature == 0:
                    chosen = logp.argmax(-1)
                else:
                    chosen = torch.multinomial((logp / temperature).softmax(-1), 1, generator=generator)[:, 0]
                chosen_logp = logp.gather(1, chosen[:, None])[:, 0].tolist()
                for row in open_rows.nonzero()[:, 0].tolist():
                    answers[row].append(int(chosen[row]))
                    logprobs[row].append(chosen_logp[row])
                open_rows &= chosen != self.tokenizer.eos_token_id
                if not open_rows.any():
                    break
                tokens = chosen[:, None].to(device)
                mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
                positions = positions[:, -1:] + 1
        return [
            Completion(
                text=self.tokenizer.decode(answer, skip_special_tokens=True),
                prompt_token_ids=tuple(prompt),
                token_ids=tuple(answer),
                logprobs=tuple(logprob),
            )
            for prompt, answer, logprob in zip(prompts, answers, logprobs, strict=True)
        ]
