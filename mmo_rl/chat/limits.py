"""Rate limit of requests and tokens a minute: calls are spaced evenly, so that no minute holds more than its share."""

from __future__ import annotations

import asyncio


class RateLimit:
    """Limiter that lets calls through in the order they came.

    At most ``requests_per_minute`` and ``tokens_per_minute`` (None: no limit). A call's tokens are estimated before it
    and corrected after it.
    """

    def __init__(self, *, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        self._request_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._token_s = 60.0 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_request = 0.0
        self._next_token = 0.0
        self._paused_until = 0.0
        self._turn = asyncio.Lock()

    async def admit(self, tokens: int) -> None:
        """Waits until a call of ``tokens`` may be sent."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            while True:  # a pause may be asked for while this call waits
                wait_s = max(self._next_request, self._next_token, self._paused_until) - loop.time()
                if wait_s <= 0:
                    break
                await asyncio.sleep(wait_s)
            self._next_request = loop.time() + self._request_s
            self._next_token = loop.time() + tokens * self._token_s

    def correct(self, *, estimated: int, used: int) -> None:
        """Corrects the estimate of a call by the tokens that it used."""
        self._next_token += (used - estimated) * self._token_s

    def pause(self, seconds: float) -> None:
        """Holds all calls back for ``seconds``, as the server asked."""
        self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + seconds)
