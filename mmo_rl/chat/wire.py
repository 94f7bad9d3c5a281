"""Wire format of chat completions: transports that send one request, the parsed reply, and errors in one line."""

from __future__ import annotations

import email.utils
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from mmo_rl.plain_text import storable

if TYPE_CHECKING:
    import openai

Messages = list[dict[str, str]]
Parameters = Mapping[str, object]
"""Parameters of the chat completions API beside the model and the messages."""

LINE = 320
"""The most characters of an error that a message holds."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Reply to one request.

    ``text`` is empty and ``finish_reason`` None where the endpoint gave none; ``reasoning`` holds the thoughts that a
    server keeps apart from the answer. Token counts are None where it did not count. Token ids (vLLM's
    ``return_token_ids``, or the names of tokens) and logprobs (``logprobs``, one a completion token) are None unless
    the request asked for them and the endpoint gave them whole.
    """

    text: str
    finish_reason: str | None
    refusal: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning: str = ""
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


class NotACompletion(Exception):
    """Error for a successful status without a chat completion in it, such as a proxy's login page."""


class Transport(Protocol):
    """Transport of one request, without retries; raises errors of the `openai` package (litellm's are among them)."""

    async def send(self, messages: Messages, parameters: Parameters) -> str: ...

    async def aclose(self) -> None: ...


class OpenAITransport:
    """Transport to an OpenAI-compatible endpoint."""

    def __init__(self, *, model: str, base_url: str, api_key: str, timeout_s: float) -> None:
        self._model = model
        self._settings = (base_url, api_key, timeout_s)
        self._client: openai.AsyncOpenAI | None = None

    async def send(self, messages: Messages, parameters: Parameters) -> str:
        if self._client is None:
            import openai

            from mmo_rl.chat.bounded import BoundedTransport

            base_url, api_key, timeout_s = self._settings
            # Retries are the caller's: the client's own would multiply with them and cannot be bounded in time.
            self._client = openai.AsyncOpenAI(
                api_key=api_key,
                base_url=base_url,
                timeout=timeout_s,
                max_retries=0,
                default_headers={"accept-encoding": "gzip, deflate"},
                http_client=openai.DefaultAsyncHttpxClient(transport=BoundedTransport()),
            )
        create: Any = self._client.chat.completions.with_raw_response.create  # its overloads take no mapping
        response = await create(model=self._model, messages=messages, **parameters)
        return str(response.text)

    async def aclose(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()


class LiteLLMTransport:
    """Transport to any endpoint that litellm knows: ``model`` names the provider (``anthropic/claude-sonnet-4-5``)."""

    def __init__(self, *, model: str, base_url: str | None, api_key: str, timeout_s: float) -> None:
        self._fixed: dict[str, object] = {
            "model": model,
            "api_base": base_url,
            "api_key": api_key,
            "timeout": timeout_s,
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": True,
        }

    async def send(self, messages: Messages, parameters: Parameters) -> str:
        import os

        # litellm fetches its price table at import unless told otherwise; what is installed is used here.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm

        litellm.suppress_debug_info = True
        response = await litellm.acompletion(messages=messages, **self._fixed, **parameters)
        return str(response.model_dump_json(warnings=False))

    async def aclose(self) -> None:
        """Does nothing: litellm keeps its connections for the process."""


def _or_none(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    """Gives None for a value of another form."""
    try:
        return handler(value)
    except ValidationError:
        return None


_Lenient = WrapValidator(_or_none)
_Count = Annotated[int, Field(ge=0, strict=True)]
_Ids = Annotated[tuple[_Count, ...], Field(min_length=1)]
_Text = Annotated[str | None, PlainValidator(lambda value: value if isinstance(value, str) else None)]  # any characters


class _Token(BaseModel):
    token: _Text = None
    logprob: Annotated[float | None, Field(strict=True, allow_inf_nan=False), _Lenient] = None


class _Logprobs(BaseModel):
    content: list[_Token] = []

    @property
    def of_all(self) -> tuple[float, ...] | None:
        """The logprobs of the chosen tokens, where every one has one."""
        found = tuple(token.logprob for token in self.content if token.logprob is not None)
        return found if found and len(found) == len(self.content) else None

    @property
    def named_ids(self) -> tuple[int, ...] | None:
        """The token ids, where tokens are named ``token_id:N``, as vLLM does with ``return_tokens_as_token_ids``."""
        names = [(token.token or "") for token in self.content]
        numbers = [name.removeprefix("token_id:") for name in names if name.startswith("token_id:")]
        if not names or len(numbers) != len(names) or not all(number.isdecimal() for number in numbers):
            return None
        return tuple(int(number) for number in numbers)


def _spoken(content: object) -> str | None:
    """Reads an answer that is text, or a list of parts: the text of its text parts, joined."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


class _Message(BaseModel):
    content: Annotated[str | None, PlainValidator(_spoken)] = None
    reasoning_content: _Text = None
    reasoning: _Text = None
    refusal: _Text = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: _Text = None
    token_ids: Annotated[_Ids | None, _Lenient] = None
    logprobs: Annotated[_Logprobs | None, _Lenient] = None


class _Usage(BaseModel):
    prompt_tokens: Annotated[_Count | None, _Lenient] = None
    completion_tokens: Annotated[_Count | None, _Lenient] = None


class _Completion(BaseModel):
    """Body of a chat completion, as far as it is read; what is optional and of another form is None."""

    choices: Annotated[
        list[_Choice],
        Field(min_length=1),
        BeforeValidator(lambda value: value[:1] if isinstance(value, list) else value),
    ]
    usage: Annotated[_Usage | None, _Lenient] = None
    prompt_token_ids: Annotated[_Ids | None, _Lenient] = None


def parse_reply(body: str) -> Reply:
    """Parses a response body. Raises `NotACompletion`."""
    try:
        completion = _Completion.model_validate(json.loads(body))
    except (ValueError, RecursionError) as error:
        start = " ".join(body.split())[:80]
        raise NotACompletion(f"the answer is not a chat completion: {start!r}") from error
    choice, usage = completion.choices[0], completion.usage or _Usage()
    logprobs = choice.logprobs or _Logprobs()
    return Reply(
        text=storable(choice.message.content or ""),
        finish_reason=choice.finish_reason,
        refusal=choice.message.refusal,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning=storable(choice.message.reasoning_content or choice.message.reasoning or ""),
        prompt_token_ids=completion.prompt_token_ids,
        token_ids=choice.token_ids or logprobs.named_ids,
        logprobs=logprobs.of_all,
    )


def retry_after_s(error: Exception, *, now: datetime) -> float | None:
    """Reads the server's ``Retry-After``, in seconds or as a date; None where it asks for nothing."""
    import openai

    asked = error.response.headers.get("retry-after") if isinstance(error, openai.APIStatusError) else None
    if asked is None:
        return None
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(asked)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def describe(error: BaseException | None, *, key: str | None = None) -> str:
    """Formats an error as one short line, with the server's own words and without the ``key``, which some quote."""
    told = _described(error)
    return " ".join((told.replace(key, "***") if key else told).split())[:LINE]


def _described(error: BaseException | None) -> str:
    """Formats an error; of a response, its status and message."""
    import openai

    if isinstance(error, openai.APIStatusError):
        body = error.body
        said = body.get("message") if isinstance(body, dict) else (error.response.text or error.message)
        return f"HTTP {error.status_code}: {said or error.response.reason_phrase}"
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return "no answer in time"
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        return f"{type(cause).__name__}: {cause}" if cause is not None and str(cause) else "the connection was cut off"
    return str(error)
