"""A causal language model on this machine's CPU or GPU that answers many prompts at once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mmo_rl.errors import PolicyError
from mmo_rl.lm.base import BaseModel
from mmo_rl.lm.decode import Batch, Row
from mmo_rl.lm.gguf import is_gguf, read_gguf
from mmo_rl.lm.memory import require_memory
from mmo_rl.lm.model import find_checkpoint, require_whole
from mmo_rl.lm.prefix_tree import attends
from mmo_rl.policy.base import Completion, PolicyParts, completion_seed
from mmo_rl.types import Message, PolicyVersion

HUB_TIMEOUT_S = 10.0
ADAPTER = "adapter_config.json"
"""A folder with this file holds a LoRA adapter, not a whole model."""


def load_model(
    location: str,
    *,
    device: str = "cpu",
    threads: int | None = None,
    dtype: str | None = None,
    cache: Path | None = None,
    base: str | None = None,
) -> tuple[Any, Any]:
    """The transformers model and its tokenizer.

    ``location`` is a folder, a hub id or a GGUF file; the last is unpacked into ``cache`` the first time (None: every
    time). A folder that holds a LoRA adapter gives the model at ``base`` with the adapter at work (None: at the place
    that the adapter names, from which it may have moved since). Weights are kept in ``dtype`` (None: float32 on a CPU,
    bfloat16 on CUDA). ``threads`` of the processor compute from then on in this process, whatever the environment says
    (None: as it was).

    Raises `PolicyError` where they cannot be loaded, are larger than what is free of this machine's memory, have layers
    that are not attention, or the tokenizer has no chat template.
    """
    if base is None:
        base = _base_of(Path(location))
    whole = location if base is None else base
    if is_gguf(whole):
        with tempfile.TemporaryDirectory(prefix="mmo_rl-") if cache is None else nullcontext(cache) as folder:
            whole = str(_unpacked(whole, Path(folder)))
            first, second = (whole, None) if base is None else (location, whole)
            return load_model(first, device=device, threads=threads, dtype=dtype, base=second)
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
    if device == "cpu":
        require_memory(whole, bytes_a_parameter=kept.itemsize)
    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
        model = AutoModelForCausalLM.from_pretrained(whole, dtype=kept)
        if base is not None:
            model.load_adapter(location)
        model = model.to(device)
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"could not load the model {location}: {str(error).splitlines()[0]}",
            hint="check model.base_model, or give a folder with model.path=...",
        ) from error
    except torch.OutOfMemoryError as error:
        raise PolicyError(
            f"the model {location} does not fit into the memory of {device}: {str(error).splitlines()[0]}",
            hint="choose a smaller model, or end what else uses that device",
        ) from error
    if tokenizer.chat_template is None:
        raise PolicyError(f"the tokenizer of {location} has no chat template", hint="choose an instruct model")
    if not attends(model):
        raise PolicyError(
            f"{type(model).__name__} keeps a state of what it has read that is not keys and values: many answers can't "
            "be written with it at once",
            hint="choose a transformer with attention in every layer, such as Llama, Qwen2, Qwen3, Mistral or Gemma",
        )
    return model.eval(), tokenizer


def _base_of(folder: Path) -> str | None:
    """The base model that the adapter in ``folder`` names; transformers does not always look for it there."""
    try:
        named = json.loads((folder / ADAPTER).read_text("utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return named if isinstance(named, str) else None


def _unpacked(location: str, cache: Path) -> Path:
    try:
        from mmo_rl.lm.unpack import unpacked

        return unpacked(location, cache=cache)
    except ImportError as error:
        raise PolicyError(
            f"a GGUF file needs {error.name}, which isn't installed", hint="pip install 'mmo-rl[local]'"
        ) from error


def require_model(location: str) -> None:
    """Finds out whether a model can be had, without loading or downloading its weights.

    Raises `PolicyError` where it is neither on this machine nor to be had from the Hugging Face hub, or where it is a
    GGUF file that cannot be used (`read_gguf`).
    """
    if is_gguf(location):
        read_gguf(location)
        return
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
    path: str | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    batch_size: Annotated[int, Field(ge=1)] = 256,
    parts: PolicyParts,
) -> LocalPolicy:
    """The base model, or the checkpoint at ``path`` (`find_checkpoint`). Raises `PolicyError` where it cannot be
    loaded, is damaged, or is of another model."""
    model = parts.model
    if path is None:
        version = PolicyVersion(model.name, 0, model.location())
    else:
        version = find_checkpoint(path, name=model.name)
        require_whole(version, model)
    return open_policy(version, model, device=device, batch_size=batch_size)


def open_policy(version: PolicyVersion, spec: BaseModel, *, device: str = "cpu", batch_size: int = 256) -> LocalPolicy:
    """A published version of ``spec``, ready to answer."""
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


def context_of(model: Any, limit: int) -> int:
    """The tokens of prompt and answer that a loaded model knows positions for, at most ``limit``."""
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(own or limit, limit)


def load_version(path: str, spec: BaseModel, *, device: str = "cpu") -> tuple[Any, Any]:
    """The weights at ``path``, the base model of ``spec`` or trained from it, as `load_model` gives them."""
    base = spec.location() if (Path(path) / ADAPTER).is_file() else None
    return load_model(path, device=device, threads=spec.threads, cache=spec.cache, base=None if base == path else base)


class LocalPolicy:
    """Answers with a transformers model on this machine, ``batch_size`` prompts at a time.

    Each prompt draws from a generator of its own, seeded as `policy=endpoint` seeds its requests (`completion_seed`),
    so that the same weights behind ``task=serve`` answer the same. Recorded logprobs are those of the unscaled
    distribution (temperature 1), as a trainer expects them. A prompt that leaves no room for an answer within
    ``context_length`` tokens (None: no limit) is not answered, and says so; as there, an answer ends where it does.
    """

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
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
        """One completion a prompt, in order; ``temperature`` 0 is greedy."""
        return await asyncio.to_thread(self._complete, prompts, temperature, seed)

    def fingerprint(self) -> str | None:
        """Of the weights, the tokenizer, the limits, and what else decides the last digits of a sum: libraries, device
        and threads. None for a tokenizer that cannot be written down."""
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
            text=self.tokenizer.decode(row.token_ids, skip_special_tokens=True),
            prompt_token_ids=tuple(row.prompt),
            token_ids=tuple(row.token_ids),
            logprobs=tuple(row.logprobs),
        )


def new_batch(model: Any, tokenizer: Any) -> Batch:
    """An empty batch of a loaded model; its answers end with the tokenizer's end token or one that the model's
    generation config names."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Batch(model=model, end_ids=ends, pad_id=pad)


def encode(tokenizer: Any, prompt: Sequence[Message]) -> list[int]:
    """The token ids of a chat, ready for an answer."""
    text = tokenizer.apply_chat_template([dict(m) for m in prompt], tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
