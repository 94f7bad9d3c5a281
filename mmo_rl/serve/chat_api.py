"""Schema of the chat completions API on the server's side: requests, answers and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmo_rl.serve.engine import Piece
from mmo_rl.types import Message

Json = dict[str, object]
"""Body of an answer, or part of one."""
_STRICT = ConfigDict(extra="forbid", strict=True)
_IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
)
"""Arguments that change no answer."""
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
}
"""Arguments that are taken only with these values: ignoring others would give another answer than was asked for."""


StopText = Annotated[str, Field(max_length=1000)]
GREEDY_BELOW = 1e-4
"""Temperatures below count as 0: logits divided by less leave the range of a float."""


class TextPart(BaseModel):
    """Part of a message's content."""

    model_config = _STRICT
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """Message of a chat."""

    model_config = _STRICT
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None

    def plain(self) -> Message:
        """Returns the message as chat templates read it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = _STRICT
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(BaseModel):
    """Request as OpenAI defines it, with two names of vLLM's: ``return_token_ids`` adds the ids of prompt and answer,
    ``return_tokens_as_token_ids`` writes the tokens of logprobs as ``token_id:N``."""

    model_config = _STRICT
    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, data: object) -> object:
        """Removes arguments that change no answer. Raises `ValueError` for one that would."""
        if not isinstance(data, dict):
            return data
        for name, neutral in _NEUTRAL.items():
            if name in data and data[name] not in neutral:
                raise ValueError(f"{name} is not supported by this server")
        return {k: v for k, v in data.items() if k not in _IGNORED and k not in _NEUTRAL}

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        """Raises `ValueError` for arguments that contradict each other."""
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream: true")
        if "" in self.stops():
            raise ValueError("a stop text is empty")
        return self

    def stops(self) -> tuple[str, ...]:
        """Lists the texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def characters(self) -> int:
        """Counts the characters of all messages."""
        return sum(len(message.plain()["content"]) for message in self.messages)

    def sampling_temperature(self) -> float:
        """Returns the temperature to sample at; 0 is greedy."""
        asked = 1.0 if self.temperature is None else self.temperature
        return 0.0 if asked < GREEDY_BELOW else asked

    def prompt(self) -> tuple[Message, ...]:
        """Returns the messages as chat templates read them."""
        return tuple(message.plain() for message in self.messages)


def error_body(message: str, *, kind: str, code: str | None = None, param: str | None = None) -> Json:
    """Returns OpenAI's form of an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Returns OpenAI's form of token counts."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def choice(asked: ChatRequest, index: int, piece: Piece) -> Json:
    """Returns one whole answer."""
    message = {"role": "assistant", "content": piece.text, "refusal": None}
    return _choice(asked, index, piece, {"message": message})


def delta(asked: ChatRequest, index: int, piece: Piece) -> Json:
    """Returns one part of a streamed answer."""
    return _choice(asked, index, piece, {"delta": {"content": piece.text} if piece.text else {}})


def _choice(asked: ChatRequest, index: int, piece: Piece, content: Json) -> Json:
    """Returns a choice with its ``content`` (message or delta), logprobs and token ids."""
    row: Json = {"index": index, **content, "logprobs": None, "finish_reason": piece.finish_reason}
    if asked.logprobs:
        row["logprobs"] = {"content": _logprobs(asked, piece), "refusal": None}
    if asked.return_token_ids:
        row["token_ids"] = list(piece.token_ids)
    return row


def _logprobs(asked: ChatRequest, piece: Piece) -> list[Json]:
    """Returns the logprobs of a piece's tokens, each with its likeliest alternatives."""
    places: Sequence[Sequence[tuple[int, float]]] = piece.top if asked.top_logprobs else [()] * len(piece.token_ids)
    return [
        {
            **_token(asked, piece, token, logprob),
            "top_logprobs": [_token(asked, piece, other, its) for other, its in place],
        }
        for token, logprob, place in zip(piece.token_ids, piece.logprobs, places, strict=True)
    ]


def _token(asked: ChatRequest, piece: Piece, token: int, logprob: float) -> Json:
    """Returns a token with its logprob."""
    if asked.return_tokens_as_token_ids:
        return {"token": f"token_id:{token}", "logprob": logprob, "bytes": None}
    text = piece.token_texts[token]
    # Part of a character has bytes that its text no longer tells.
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}
