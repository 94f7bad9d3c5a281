"""Token counts of texts: by the tokenizer of the model where its files are here, else estimated."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mmo_rl.errors import PolicyError
from mmo_rl.lm.gguf import is_gguf, read_gguf
from mmo_rl.messages import content_text, template_messages
from mmo_rl.types import Message

if TYPE_CHECKING:
    from tiktoken import Encoding
    from transformers import PreTrainedTokenizerBase

CHARACTERS_A_TOKEN = 3.4
"""Of the texts here (JSON, numbers, short sentences) in the byte-pair encodings of today's models."""
CHAT_TOKENS_A_MESSAGE = 4
"""The marks around a message, where the chat template is not known; OpenAI's are 3 and the role."""
CHAT_TOKENS_AT_THE_END = 3


class Tokens(Protocol):
    """``counted`` says whether a tokenizer counts; ``how`` says which, for people."""

    @property
    def counted(self) -> bool: ...

    @property
    def how(self) -> str: ...

    def prompts(self, prompts: Sequence[Sequence[Message]]) -> list[int]:
        """Of whole chats, the marks of the template included."""
        ...

    def answers(self, texts: Sequence[str]) -> list[int]:
        """Of answers, the end-of-sequence token included."""
        ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """No tokenizer at hand: by the number of characters."""

    how: str
    counted: bool = False

    def prompts(self, prompts: Sequence[Sequence[Message]]) -> list[int]:
        return [
            sum(_estimate(content_text(m.get("content"))) + CHAT_TOKENS_A_MESSAGE for m in prompt)
            + CHAT_TOKENS_AT_THE_END
            for prompt in prompts
        ]

    def answers(self, texts: Sequence[str]) -> list[int]:
        return [_estimate(text) + 1 for text in texts]


def _estimate(text: str) -> int:
    return round(len(text) / CHARACTERS_A_TOKEN)


@dataclass(frozen=True, slots=True)
class OpenAITokens:
    """OpenAI's own encoding; a message costs three tokens and its role, a reply is opened by three."""

    encoding: Encoding
    how: str
    counted: bool = True

    def prompts(self, prompts: Sequence[Sequence[Message]]) -> list[int]:
        return [
            sum(
                len(self.encoding.encode_ordinary(content_text(m.get("content")))) + CHAT_TOKENS_A_MESSAGE
                for m in prompt
            )
            + CHAT_TOKENS_AT_THE_END
            for prompt in prompts
        ]

    def answers(self, texts: Sequence[str]) -> list[int]:
        return [len(self.encoding.encode_ordinary(text)) for text in texts]


@dataclass(frozen=True, slots=True)
class ModelTokens:
    """The tokenizer and chat template of a model whose files are on this machine."""

    tokenizer: PreTrainedTokenizerBase
    how: str
    counted: bool = True

    def prompts(self, prompts: Sequence[Sequence[Message]]) -> list[int]:
        texts = [
            self.tokenizer.apply_chat_template(template_messages(prompt), tokenize=False, add_generation_prompt=True)
            for prompt in prompts
        ]
        return self._lengths(texts)

    def answers(self, texts: Sequence[str]) -> list[int]:
        return [length + 1 for length in self._lengths(texts)]

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]] if texts else []


@functools.cache
def tokens_of_model(base_model: str, location: str) -> Tokens:
    """Of a model that is trained or played: its files are looked for on this machine only, nothing is downloaded."""
    try:
        from transformers import AutoTokenizer

        from mmo_rl.lm.unpack import build_tokenizer
    except ImportError:
        return Estimate(f"{base_model}: estimated, transformers is not installed")
    try:
        if is_gguf(location):
            tokenizer = build_tokenizer(read_gguf(location).metadata)
        else:
            tokenizer = AutoTokenizer.from_pretrained(location, local_files_only=True)
    except (OSError, ValueError, PolicyError):
        return Estimate(f"{base_model}: estimated, its tokenizer is not on this machine")
    if tokenizer.chat_template is None:
        return Estimate(f"{base_model}: estimated, its tokenizer has no chat template")
    return ModelTokens(tokenizer, f"{base_model}: its own tokenizer")


@functools.cache
def tokens_of_judge(model: str) -> Tokens:
    """Of a judge that is asked over the network: OpenAI's encodings by name, else a tokenizer on this machine."""
    encoding = _openai_encoding(model)
    if encoding is not None:
        return OpenAITokens(encoding, f"{model}: OpenAI's encoding {encoding.name}")
    if "/" in model:
        return tokens_of_model(model, model)
    return Estimate(f"{model}: estimated, no tokenizer of it is known here")


def _openai_encoding(model: str) -> Encoding | None:
    import tiktoken

    try:
        name = tiktoken.encoding_name_for_model(model)
    except KeyError:
        return None
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    bundled = _bundled_encodings()
    try:
        if before is None and bundled is not None:
            os.environ["TIKTOKEN_CACHE_DIR"] = str(bundled)
        return tiktoken.get_encoding(name)
    except OSError:  # not bundled, and not to be had from the network
        return None
    finally:
        if before is None:
            os.environ.pop("TIKTOKEN_CACHE_DIR", None)


def _bundled_encodings() -> Path | None:
    """The folder of encodings that comes with litellm, so that nothing needs to be downloaded."""
    spec = importlib.util.find_spec("litellm")
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        folder = Path(place) / "litellm_core_utils" / "tokenizers"
        if folder.is_dir():
            return folder
    return None
