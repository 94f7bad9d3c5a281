"""Incremental detokenization: text of an answer while it is written, without half characters or parts of stop texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"


class Detokenizer:
    """Text of one answer as it grows; ends before the first of the texts in ``stop``.

    Decoding goes on from a short way back, as vLLM does it: a token may read differently after another, and a
    character may need several.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._first_token = 0
        self._read_tokens = 0
        self._text = ""
        self._given = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """The whole text so far, with what `add` has not returned yet."""
        return self._text

    def add(self, token_ids: Sequence[int], *, ended: bool) -> str:
        """Returns the new text of the answer ``token_ids`` (all of its tokens) that later tokens cannot change; all of
        the rest once it has ``ended``."""
        before = self._decode(token_ids[self._first_token : self._read_tokens])
        now = self._decode(token_ids[self._first_token :])
        if ended or (len(now) > len(before) and not now.endswith(REPLACEMENT)):
            self._text += now[len(before) :]
            self._first_token, self._read_tokens = self._read_tokens, len(token_ids)
        ends = [place for stop in self._stop if (place := self._text.find(stop)) >= 0]
        if ends:
            self._text, self.stopped = self._text[: min(ends)], True
        end = len(self._text) - (0 if ended or self.stopped else self._possible_stop())
        new, self._given = self._text[self._given : end], max(end, self._given)
        return new

    def _possible_stop(self) -> int:
        """Counts the characters at the end that may be the beginning of a stop text."""
        for length in range(max(map(len, self._stop), default=1) - 1, 0, -1):
            if any(stop.startswith(self._text[-length:]) for stop in self._stop if len(stop) > length):
                return length
        return 0

    def _decode(self, token_ids: Sequence[int]) -> str:
        """Decodes tokens without the special ones."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))
