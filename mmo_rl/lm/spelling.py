"""From tokens to text while they come: never half a character, never part of a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

REPLACEMENT = "\ufffd"


class Speller:
    """The text of one answer as it grows; ends before the first of the texts in ``stop``.

    Decoding goes on from a short way back, as vLLM does it: a token may read differently after another, and a
    character may need several.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._from = 0
        self._read = 0
        self._seen = ""
        self._given = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """The whole text so far, what is held back included."""
        return self._seen

    def add(self, token_ids: Sequence[int], *, ended: bool) -> str:
        """What can be given out now of the answer ``token_ids`` (all of its tokens); the rest once it has ``ended``."""
        before, now = self._decode(token_ids[self._from : self._read]), self._decode(token_ids[self._from :])
        if ended or (len(now) > len(before) and not now.endswith(REPLACEMENT)):
            self._seen += now[len(before) :]
            self._from, self._read = self._read, len(token_ids)
        ends = [place for stop in self._stop if (place := self._seen.find(stop)) >= 0]
        if ends:
            self._seen, self.stopped = self._seen[: min(ends)], True
        upto = len(self._seen) - (0 if ended or self.stopped else self._held())
        given, self._given = self._seen[self._given : upto], max(upto, self._given)
        return given

    def _held(self) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        for length in range(max(map(len, self._stop), default=1) - 1, 0, -1):
            if any(stop.startswith(self._seen[-length:]) for stop in self._stop if len(stop) > length):
                return length
        return 0

    def _decode(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))
