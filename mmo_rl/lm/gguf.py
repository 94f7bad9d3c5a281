"""Header of a GGUF file: its metadata, read in one pass, and a check that its model can be trained here.

The ``gguf`` package makes a numpy view of every token and merge, several times over: 10 s for 50,000 tokens, where this
takes a tenth of a second. Layout: github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmo_rl.errors import PolicyError
from mmo_rl.lm.fit import require_no_pointer

SUFFIX = ".gguf"
ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3moe")
"""Values of ``general.architecture`` whose weights transformers can read for training."""
PRE_TOKENIZERS = ("smollm", "qwen2", "llama-bpe", "gpt-2")
"""Values of ``tokenizer.ggml.pre``, which cuts text before byte-pair encoding, that `mmo_rl.lm.unpack` knows."""
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_FOLDER_HINT = "give the model as a folder in Hugging Face format: model.path=FOLDER"


@dataclass(frozen=True, slots=True)
class Header:
    """Header: ``metadata`` by its keys; ``parameters`` counts the weights of all tensors."""

    metadata: dict[str, Any]
    parameters: int


def is_gguf(location: str) -> bool:
    """Tells a GGUF file from a folder or a hub id, by its name."""
    return location.endswith(SUFFIX)


def read_gguf(location: str) -> Header:
    """Reads the header of a GGUF file.

    Raises `PolicyError` where there is no file, it is no GGUF file or a cut one, or its model or tokenizer is none that
    can be trained here; with what was found and what to give instead.
    """
    file = Path(location).expanduser()
    if not file.is_file():
        raise PolicyError(f"there is no file {location}", hint="check model.path")
    try:
        require_no_pointer(file)
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _parse(data)
    except OSError as error:
        raise PolicyError(f"{location} cannot be read: {error.strerror or error}", hint="check model.path") from None
    except (ValueError, struct.error, IndexError, KeyError) as error:
        raise PolicyError(
            f"{location} is no whole GGUF file of version 2 or 3 ({error})",
            hint=f"download it again, or {_FOLDER_HINT}",
        ) from None
    _require(location, header.metadata)
    return header


def _require(location: str, metadata: dict[str, Any]) -> None:
    """Raises `PolicyError` for a model or tokenizer that cannot be trained here."""
    pre = metadata.get("tokenizer.ggml.pre", "gpt-2")
    for what, found, known in (
        ("a model of the architecture", metadata.get("general.architecture"), ARCHITECTURES),
        ("a tokenizer of the kind", metadata.get("tokenizer.ggml.model"), ("gpt2",)),
        ("a tokenizer that cuts text like", pre, PRE_TOKENIZERS),
    ):
        if found not in known:
            raise PolicyError(
                f"{location} holds {what} {found}, expected {' or '.join(known)}",
                hint=_FOLDER_HINT,
            )
    if "tokenizer.chat_template" not in metadata:
        raise PolicyError(f"the tokenizer of {location} has no chat template", hint="choose an instruct model")
    if "tokenizer.ggml.eos_token_id" not in metadata:
        raise PolicyError(f"{location} does not say which token ends an answer", hint=_FOLDER_HINT)


class _Reader:
    """Cursor over the bytes of a file."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def scalars(self, form: str, count: int = 1) -> tuple[Any, ...]:
        """Reads ``count`` numbers of a `struct` format."""
        layout = struct.Struct(f"<{count}{form}")
        values = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return values

    def text(self) -> str:
        """Reads a string."""
        (length,) = self.scalars("Q")
        if length > len(self.data) - self.at:
            raise ValueError("it is cut")
        value = self.data[self.at : self.at + length].decode("utf-8", errors="replace")
        self.at += length
        return value

    def value(self, kind: int) -> Any:
        """Reads a value of a GGUF type."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = (*self.scalars("I"), *self.scalars("Q"))
            if count > len(self.data):
                raise ValueError("it is cut")
            if inner in (_STRING, _ARRAY):
                return [self.value(inner) for _ in range(count)]
            return list(self.scalars(_SCALARS[inner], count))
        return self.scalars(_SCALARS[kind])[0]


def _parse(data: mmap.mmap) -> Header:
    """Parses a header. Raises `ValueError` and errors of `struct` where it is broken."""
    if data[:4] != b"GGUF":
        raise ValueError(f"it begins with {bytes(data[:4])!r}")
    reader = _Reader(data)
    reader.at = 4
    (version,) = reader.scalars("I")
    if version not in (2, 3):
        raise ValueError(f"its version is {version}")
    tensors, keys = reader.scalars("Q", 2)
    metadata = {}
    for _ in range(keys):
        key = reader.text()
        metadata[key] = reader.value(*reader.scalars("I"))
    parameters = last = 0
    for _ in range(tensors):
        reader.text()
        (dimensions,) = reader.scalars("I")
        parameters += math.prod(reader.scalars("Q", dimensions))
        reader.scalars("I")
        (offset,) = reader.scalars("Q")
        last = max(last, offset)
    if reader.at + last >= len(data):
        raise ValueError("it is cut")
    return Header(metadata, parameters)
