"""Endpoint of a language model: address, key and the manner of asking, as one sub-node of a component's YAML."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from mmo_rl.errors import ConfigError

OPENAI_BASE_URL = "https://api.openai.com/v1"
Provider = Literal["openai", "litellm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """OpenAI-compatible endpoint, or with ``provider`` litellm any that litellm knows by the model's prefix.

    ``base_url`` None is OpenAI's own, or the provider's. ``api_key_env`` names the environment variable that holds the
    key (None: no key). At most ``concurrency`` requests run at once, at most ``requests_per_minute`` and
    ``tokens_per_minute`` begin (None: unlimited). A request is tried ``attempts`` times, for at most ``timeout_s``
    each; between two tries it waits ``backoff_s``, doubled each time, at most ``max_backoff_s`` (`ChatClient`).
    """

    provider: Provider = "openai"
    base_url: str | None = None
    api_key_env: str | None = "OPENAI_API_KEY"
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    attempts: Annotated[int, Field(ge=1, le=10)] = 4
    backoff_s: Annotated[float, Field(gt=0)] = 1.0
    max_backoff_s: Annotated[float, Field(gt=0)] = 60.0

    @property
    def is_public(self) -> bool:
        """True where list prices apply: at OpenAI's own address, or the provider's."""
        return self.base_url in (None, OPENAI_BASE_URL)

    def api_key(self, *, node: str, instead: str) -> str | None:
        """Reads the key from the environment; None for an endpoint of one's own without one.

        Raises `ConfigError` where OpenAI's own endpoint would be asked without a key: ``node`` is the endpoint's config
        node (``judge.endpoint``), ``instead`` the way to do without an endpoint.
        """
        variable = self.api_key_env
        key = os.environ.get(variable, "").strip() if variable else ""
        if not key and self.base_url is None:
            raise ConfigError(
                f"{variable} is not set" if variable else f"{node}.api_key_env names no variable",
                hint=f"export {variable or 'OPENAI_API_KEY'}=...; or name another endpoint with {node}.base_url; "
                f"or {instead}",
            )
        return key or None
