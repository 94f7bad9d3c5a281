"""Loads causal language models and their tokenizers: folders, hub ids, GGUF files, LoRA adapters."""

from __future__ import annotations

import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from mmo_rl.errors import PolicyError
from mmo_rl.lm.base import BaseModel
from mmo_rl.lm.fit import ADAPTER, require_adapter_fit, require_model_fit, require_whole_files
from mmo_rl.lm.gguf import is_gguf, read_gguf
from mmo_rl.lm.memory import require_memory
from mmo_rl.lm.prefix_tree import attends

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HUB_TIMEOUT_S = 10.0


def load_model(
    location: str,
    *,
    device: str = "cpu",
    threads: int | None = None,
    dtype: str | None = None,
    cache: Path | None = None,
    base: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a transformers model and its tokenizer.

    ``location`` is a folder, a hub id or a GGUF file; the last is unpacked into ``cache`` the first time (None: every
    time). A folder that holds a LoRA adapter gives the model at ``base`` with the adapter at work (None: at the place
    that the adapter names, from which it may have moved since). Weights are kept in ``dtype`` (None: float32 on a CPU,
    bfloat16 on CUDA). ``threads`` of the processor compute from then on in this process, whatever the environment says
    (None: as it was).

    Raises `PolicyError` where they cannot be loaded, are larger than what is free of this machine's memory, not finite,
    have layers that are not attention, or the tokenizer has no chat template.
    """
    if base is None:
        base = _base_of(Path(location))
    whole = location if base is None else base
    if is_gguf(whole):
        with tempfile.TemporaryDirectory(prefix="mmo_rl-") if cache is None else nullcontext(cache) as folder:
            whole = str(_unpack(whole, Path(folder)))
            first, second = (whole, None) if base is None else (location, whole)
            return load_model(first, device=device, threads=threads, dtype=dtype, base=second)
    try:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar, set_verbosity_error
    except ImportError as error:
        raise PolicyError(
            f"a model on this machine needs {error.name}, which isn't installed", hint="pip install 'mmo-rl[local]'"
        ) from error
    require_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    # The bars of transformers would break those of a run, and of its tables about weights we make errors.
    disable_progress_bar()
    set_verbosity_error()
    for folder in {whole, location}:
        require_whole_files(Path(folder))
    kept = getattr(torch, dtype or ("bfloat16" if device.startswith("cuda") else "float32"))
    if device == "cpu":
        require_memory(whole, bytes_a_parameter=kept.itemsize)
    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
        model, info = AutoModelForCausalLM.from_pretrained(
            whole, dtype=kept, output_loading_info=True, ignore_mismatched_sizes=True
        )
        require_model_fit(whole, info, model)
        if base is not None:
            _load_adapter(model, Path(location))
        model = model.to(device)
    except (OSError, ValueError, EOFError, UnpicklingError, SafetensorError) as error:
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
    _require_finite(model, location)
    return model.eval(), tokenizer


def _require_finite(model: PreTrainedModel, location: str) -> None:
    """Raises `PolicyError` where a weight is not a number: every answer would be noise, and look like a policy that
    plays badly."""
    broken = [name for name, weights in model.named_parameters() if not bool(weights.isfinite().all())]
    if broken:
        listed = ", ".join(broken[:3]) + (f" and {len(broken) - 3} more" if len(broken) > 3 else "")
        raise PolicyError(
            f"the weights at {location} are broken: NaN or infinity in {listed}",
            hint="an earlier version of that run, or the base model; a training that got there needs a lower "
            "trainer.learning_rate",
        )


def require_device(device: str) -> None:
    """Raises `PolicyError` where this machine lacks ``device``: cpu, cuda, or one of several, cuda:1."""
    if not device.startswith("cuda"):
        return
    try:
        import torch
    except ImportError as error:
        raise PolicyError(f"{device} needs torch, which isn't installed", hint="device=cpu") from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise PolicyError("there is no CUDA device here", hint="device=cpu, or a machine with a GPU")
    _, _, number = device.partition(":")
    if number.isdecimal() and int(number) >= count:
        raise PolicyError(f"there is no {device} here: {count} CUDA devices are", hint="cuda, or a lower number")


def _load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Puts the adapter in ``folder`` to work. Raises `PolicyError` where it is none of this model."""
    try:
        model.load_adapter(str(folder))
    except RuntimeError as error:  # its text names no tensor
        require_adapter_fit(folder, model)
        raise PolicyError(
            f"the adapter {folder} does not fit the model: {str(error).splitlines()[0]}",
            hint="give the base model that it was trained from: model=NAME or model.path=FOLDER",
        ) from error
    require_adapter_fit(folder, model)


def _base_of(folder: Path) -> str | None:
    """Returns the base model that the adapter in ``folder`` names; transformers does not always look for it there."""
    try:
        named = json.loads((folder / ADAPTER).read_text("utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return named if isinstance(named, str) else None


def _unpack(location: str, cache: Path) -> Path:
    """Returns the folder that a GGUF file is unpacked into."""
    try:
        from mmo_rl.lm.unpack import unpack

        return unpack(location, cache=cache)
    except ImportError as error:
        raise PolicyError(
            f"a GGUF file needs {error.name}, which isn't installed", hint="pip install 'mmo-rl[local]'"
        ) from error


def require_model(location: str) -> None:
    """Checks that a model can be had, without loading or downloading its weights.

    Raises `PolicyError` where it is neither on this machine nor to be had from the Hugging Face hub, where files of its
    folder are cut or pointers (`require_whole_files`), or where it is a GGUF file that cannot be used (`read_gguf`).
    """
    if is_gguf(location):
        read_gguf(location)
        return
    try:
        import huggingface_hub
        import safetensors  # noqa: F401
    except ImportError:  # then transformers is missing too, and `load_model` says what to install
        return
    if Path(location).is_dir():
        require_whole_files(Path(location))
        return
    if huggingface_hub.try_to_load_from_cache(location, "config.json") is not None:
        return
    if (reason := _not_at_hub(location)) is not None:
        raise PolicyError(
            f"the weights of {location} are not on this machine, and {reason}",
            hint=f"download them where you can (hf download {location} --local-dir FOLDER) and type model.path=FOLDER; "
            "task=plan needs no weights",
        )


def _not_at_hub(location: str) -> str | None:
    """Asks the Hugging Face hub for a model; returns the reason why it does not give it, None where it does."""
    import httpx
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        answer = httpx.head(
            huggingface_hub.hf_hub_url(location, "config.json"),
            headers=huggingface_hub.utils.build_hf_headers(),  # type: ignore[attr-defined, unused-ignore]
            follow_redirects=True,
            timeout=HUB_TIMEOUT_S,
        )
    except httpx.HTTPError as error:
        return f"the hub cannot be reached ({error})"
    return f"the hub answers {answer.status_code}" if answer.is_error else None


def context_of(model: PreTrainedModel, limit: int) -> int:
    """Returns the tokens of prompt and answer that a loaded model knows positions for, at most ``limit``."""
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(own or limit, limit)


def load_version(
    path: str, spec: BaseModel, *, device: str = "cpu", dtype: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads the weights at ``path``, the base model of ``spec`` or trained from it, as `load_model` does."""
    base = spec.location() if (Path(path) / ADAPTER).is_file() else None
    return load_model(
        path,
        device=device,
        threads=spec.threads,
        dtype=dtype,
        cache=spec.cache,
        base=None if base == path else base,
    )
