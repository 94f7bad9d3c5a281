"""Conversion of a GGUF file to a folder in Hugging Face format: weights as float32, tokenizer and chat template."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmo_rl.errors import PolicyError
from mmo_rl.lm.fit import require_model_fit
from mmo_rl.lm.gguf import Header, read_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_log = logging.getLogger(__name__)

BYTES_A_PARAMETER = 4
SPARE_BYTES = 64 * 2**20
"""Room for the tokenizer, and some that stays free."""
CONTROL, USER_DEFINED = 3, 4
"""Values of ``tokenizer.ggml.token_type``."""
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def unpack(location: str, *, cache: Path) -> Path:
    """Returns the folder ``cache/<sha256 of the file>`` with the model of a GGUF file; makes it where it is missing.

    That takes a minute for 135 M parameters, and 4 bytes a parameter of disk and memory, for good: the folder is kept,
    and may be deleted at any time. It appears whole or not at all, and two processes that want it make it once.
    Raises `PolicyError` where the file cannot be used (`read_gguf`) or there is no room.
    """
    header = read_gguf(location)
    file = Path(location).expanduser().resolve()
    with file.open("rb") as opened:
        folder = cache / hashlib.file_digest(opened, "sha256").hexdigest()
    if _is_whole(folder):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_whole(folder):  # another process may have made it in the meantime
                _make(file, header, folder)
    except OSError as error:
        raise PolicyError(
            f"{file.name} could not be unpacked into {cache}: {error.strerror or error}",
            hint="make room or give permission there, or choose another place: MMO_RL_HOME=FOLDER",
        ) from error
    return folder


def _is_whole(folder: Path) -> bool:
    """Tells that the folder is there: it appears with all of its files."""
    return (folder / "config.json").exists()


def _make(file: Path, header: Header, folder: Path) -> None:
    """Converts the file into a temporary folder, and renames that."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    needed = header.parameters * BYTES_A_PARAMETER + SPARE_BYTES
    if (free := shutil.disk_usage(folder.parent).free) < needed:
        raise PolicyError(
            f"{file.name} takes {needed / 1e9:.1f} GB unpacked, and {folder.parent} has {free / 1e9:.1f} GB left",
            hint="make room there, or choose another place: MMO_RL_HOME=FOLDER",
        )
    _log.info("unpacking %s (%.0f M parameters) into %s, once", file.name, header.parameters / 1e6, folder)
    partial.mkdir()
    try:
        build_tokenizer(header.metadata).save_pretrained(partial)
        _save_weights(file, partial)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save_weights(file: Path, folder: Path) -> None:
    """Writes the weights and the model's config."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
    except (ValueError, RuntimeError, KeyError, NotImplementedError, ImportError) as error:
        raise PolicyError(
            f"transformers cannot read the weights of {file.name}: {str(error).splitlines()[0]}",
            hint="give the model as a folder in Hugging Face format: model.path=FOLDER",
        ) from error
    require_model_fit(str(file), info, model)
    # Not by save_pretrained: some versions take a model that came from a GGUF file for one that is still quantised. A
    # tied weight has one name among the parameters, and is written once.
    weights = {name: weight.detach().contiguous() for name, weight in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)


def build_tokenizer(metadata: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Builds the tokenizer that a GGUF file describes, with its own special tokens and chat template.

    transformers' own reader takes every Llama for one with Code Llama's tokenizer: answers would end at the wrong token
    and their end mark would be part of the text.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.get("tokenizer.ggml.merges", ())]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    pre = metadata.get("tokenizer.ggml.pre", "gpt-2")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("smollm", "gpt-2"))
    first: list[pre_tokenizers.PreTokenizer] = []
    if pre == "smollm":
        first = [pre_tokenizers.Digits(individual_digits=True)]
    elif pre in ("qwen2", "llama-bpe"):
        pattern = Regex(_QWEN2.replace("DIGITS", "1" if pre == "qwen2" else "3"))
        first = [pre_tokenizers.Split(pattern, behavior="isolated")]
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, bytes_only])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    defined = [token for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in defined])
    named = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    numbers = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in named.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        extra_special_tokens=control,
        chat_template=metadata["tokenizer.chat_template"],
        clean_up_tokenization_spaces=False,
        **{name: tokens[number] for name, number in numbers.items() if number is not None},
    )
