"""Continuous batching: one thread computes, requests of any number of clients and versions join between two tokens."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from mmo_rl.errors import MmoRlError
from mmo_rl.lm.decode import Batch, Row, new_batch
from mmo_rl.lm.detokenize import Detokenizer
from mmo_rl.lm.encode import encode
from mmo_rl.lm.load import context_of
from mmo_rl.serve.versions import ServedVersion
from mmo_rl.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

PREFILL_TOKENS = 8192
"""Most prompt tokens, padding included, that are read at once: bounds the memory that reading takes."""
RATE_WINDOW_S = 10.0
CLIENT_SHARE = 0.75
"""Largest share of the queue that the requests of one client may take."""

Load = Callable[[ServedVersion], "tuple[PreTrainedModel, PreTrainedTokenizerBase]"]
Key = tuple[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of an answer: the tokens since the last piece, and the new text. The first one has the prompt's ids, the
    last one a ``finish_reason`` or a ``failure`` (HTTP status and message); ``token_texts`` are those of the tokens."""

    text: str = ""
    prompt_token_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    token_texts: dict[int, str] = field(default_factory=dict)
    finish_reason: str | None = None
    failure: tuple[int, str] | None = None

    @property
    def last(self) -> bool:
        """True for the last piece of an answer."""
        return self.finish_reason is not None or self.failure is not None


@dataclass(eq=False, slots=True)
class AnswerRequest:
    """Request for one answer to ``client``. ``deliver`` is called by the engine's thread: for every piece where
    ``stream``, else once. ``stop`` are texts that end the answer and are no part of it; ``max_tokens`` None: as many as
    the model gives. ``with_token_texts``: the pieces have the text of each token."""

    version: ServedVersion
    messages: tuple[Message, ...]
    deliver: Callable[[Piece], None]
    seed: int
    client: str = ""
    choice: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    top_logprobs: int = 0
    stop: tuple[str, ...] = ()
    stream: bool = False
    with_token_texts: bool = False
    cancelled: bool = False
    prompt: Future[list[int]] | None = None
    row: Row | None = None
    detokenizer: Detokenizer | None = None
    delivered: int = 0


class Overloaded(Exception):
    """Error of a full queue."""


@dataclass(eq=False, slots=True)
class _Loaded:
    """Version in memory, with the jobs that it answers; ``used`` is the number of its last use."""

    version: ServedVersion
    tokenizer: PreTrainedTokenizerBase
    batch: Batch
    context_length: int
    token_texts: dict[int, str] = field(default_factory=dict)
    jobs: list[AnswerRequest] = field(default_factory=list)
    used: int = 0


class EngineState(TypedDict):
    """Numbers of an engine: versions in memory, answers under way and waiting, speed, and counts since the start."""

    loaded: list[str]
    loading: str | None
    running: int
    queued: int
    tokens_per_s: float
    requests_total: int
    cancelled_total: int
    failed_total: int
    tokens_total: int


class Engine:
    """Engine that answers jobs, with at most ``max_loaded`` versions in memory (the one unused for longest makes room)
    and ``max_batch`` answers of a version written at once; at most ``max_queue`` jobs wait.

    ``load`` opens a version (in a thread of its own, so that the others go on); ``max_completion_tokens`` limits every
    answer, None: each model by its own. A context manager: leaving it ends the thread and fails what is not answered.
    """

    def __init__(
        self,
        *,
        load: Load,
        max_batch: int,
        max_loaded: int,
        max_queue: int,
        max_completion_tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._max_batch = max_batch
        self._max_loaded = max_loaded
        self._max_queue = max_queue
        self._max_completion_tokens = max_completion_tokens
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[AnswerRequest] = deque()
        self._loaded: dict[Key, _Loaded] = {}
        self._loading: tuple[ServedVersion, Future[tuple[PreTrainedModel, PreTrainedTokenizerBase]]] | None = None
        self._stopping = False
        self._uses = 0
        self._served: dict[str, int] = {}  # number of the last use by each client
        self._recent: deque[tuple[float, int]] = deque()
        self._counts = {"requests": 0, "cancelled": 0, "failed": 0, "tokens": 0}
        # A long prompt takes seconds to tokenise: the answers of others go on meanwhile.
        self._tokenizing = ThreadPoolExecutor(max_workers=4, thread_name_prefix="tokenize")
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load-model")
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._loader.shutdown()
        self._tokenizing.shutdown(cancel_futures=True)

    def submit(self, *jobs: AnswerRequest) -> None:
        """Hands in jobs of one client, all or none. Raises `Overloaded`, also where the client would have more than
        its share of the queue."""
        with self._changed:
            if self._stopping or len(self._waiting) + len(jobs) > self._max_queue:
                raise Overloaded(f"{len(self._waiting)} answers are waited for already; try again in a moment")
            own = sum(job.client == jobs[0].client for job in self._waiting) if jobs else 0
            if own + len(jobs) > math.ceil(self._max_queue * CLIENT_SHARE):
                raise Overloaded(f"{own} of your answers are waited for already; try again in a moment")
            self._waiting.extend(jobs)
            self._counts["requests"] += len(jobs)
            self._changed.notify_all()

    def cancel(self, job: AnswerRequest) -> None:
        """Cancels a job; its place is free from the next token on."""
        with self._changed:
            job.cancelled = True
            self._changed.notify_all()

    def state(self) -> EngineState:
        """Returns the numbers of ``/health``."""
        with self._changed:
            now = self._clock()
            recent = sum(count for moment, count in self._recent if now - moment <= RATE_WINDOW_S)
            loaded = sorted(self._loaded.values(), key=lambda one: -one.used)
            return {
                "loaded": [one.version.id for one in loaded],
                "loading": self._loading[0].id if self._loading else None,
                "running": sum(len(one.jobs) for one in loaded),
                "queued": len(self._waiting),
                "tokens_per_s": round(recent / RATE_WINDOW_S, 1),
                "requests_total": self._counts["requests"],
                "cancelled_total": self._counts["cancelled"],
                "failed_total": self._counts["failed"],
                "tokens_total": self._counts["tokens"],
            }

    # --- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Computes tokens while there are jobs, until the engine stops."""
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                if self._stopping:
                    break
                self._drop_cancelled()
                self._finish_loading()
                joining = self._admit()
            for one in list(self._loaded.values()):
                if one.jobs or joining.get(_key(one.version)):
                    self._advance(one, joining.get(_key(one.version), []))
        for job in [*self._waiting, *(job for one in self._loaded.values() for job in one.jobs)]:
            self._fail(job, 503, "The server is stopping.")

    def _has_work(self) -> bool:
        """Tells that the thread has something to do."""
        if self._stopping or any(one.jobs for one in self._loaded.values()):
            return True
        if any(job.cancelled for job in self._waiting):
            return True
        if self._loading is not None:
            return self._loading[1].done() or any(
                _key(job.version) in self._loaded and (job.prompt is None or job.prompt.done()) for job in self._waiting
            )
        return any(job.prompt is None or job.prompt.done() for job in self._waiting)

    def _drop_cancelled(self) -> None:
        """Removes cancelled jobs."""
        gone = [job for job in self._waiting if job.cancelled]
        for job in gone:
            self._waiting.remove(job)
        for one in self._loaded.values():
            for job in [job for job in one.jobs if job.cancelled]:
                one.jobs.remove(job)
                gone.append(job)
                if job.row is not None:
                    job.row.finish_reason = "cancelled"
        self._counts["cancelled"] += len(gone)

    def _finish_loading(self) -> None:
        """Takes a version that has been loaded, or fails the jobs that wait for it."""
        if self._loading is None or not self._loading[1].done():
            return
        version, future = self._loading
        self._loading = None
        try:
            model, tokenizer = future.result()
            batch = new_batch(model, tokenizer)
            tokenizer("")  # settles its truncation and padding, which must not change while other threads use it
        except Exception as error:  # noqa: BLE001 (answered to every request for this version)
            _log.warning("%s could not be loaded", version.id, exc_info=error)
            reason = str(error) if isinstance(error, MmoRlError) else f"{type(error).__name__}: {error}"
            for job in [job for job in self._waiting if _key(job.version) == _key(version)]:
                self._waiting.remove(job)
                self._fail(job, 500, f"The model '{version.id}' could not be loaded: {reason}")
            return
        _use_threads(version.spec.threads)
        context = context_of(model, version.spec.context_length)
        self._loaded[_key(version)] = _Loaded(version, tokenizer, batch, context, used=self._use())

    def _admit(self) -> dict[Key, list[AnswerRequest]]:
        """Takes the jobs that can be answered now from the queue: clients in turn, the requests of each first come
        first served. Starts loading the first version that is asked for and not in memory."""
        joining: dict[Key, list[AnswerRequest]] = {}
        wanted: ServedVersion | None = None
        for job in self._in_turn():
            one = self._loaded.get(_key(job.version))
            if one is None:
                wanted = wanted or job.version
            elif wanted is not None and one is self._leaving():
                continue  # else a version that is always asked for would never make room
            elif not self._tokenized(one, job):
                continue
            elif len(one.jobs) + len(joining.get(_key(job.version), [])) < self._max_batch:
                joining.setdefault(_key(job.version), []).append(job)
                self._waiting.remove(job)
                one.used = self._served[job.client] = self._use()
        if not self._waiting:
            self._served.clear()
        if wanted is not None and self._loading is None:
            leaving = self._leaving()
            if leaving is not None and not leaving.jobs and not joining.get(_key(leaving.version)):
                del self._loaded[_key(leaving.version)]
                leaving = None
            if leaving is None:
                future = self._loader.submit(self._load, wanted)
                self._loading = (wanted, future)
                future.add_done_callback(lambda _: self._wake())
        return joining

    def _in_turn(self) -> list[AnswerRequest]:
        """Orders the waiting jobs: the first of every client, then the second, jobs at work counted as earlier ones; of
        those that are equal the one whose client was served longest ago."""
        if len({job.client for job in self._waiting}) < 2:
            return list(self._waiting)
        count = Counter(job.client for one in self._loaded.values() for job in one.jobs)
        turns = []
        for job in self._waiting:
            turns.append((count[job.client], self._served.get(job.client, 0)))
            count[job.client] += 1
        return [job for _, job in sorted(zip(turns, self._waiting, strict=True), key=lambda pair: pair[0])]

    def _tokenized(self, one: _Loaded, job: AnswerRequest) -> bool:
        """Tells that the prompt of a job has been tokenised; the first call begins it."""
        if job.prompt is None:
            job.prompt = self._tokenizing.submit(encode, one.tokenizer, job.messages)
            job.prompt.add_done_callback(lambda _: self._wake())
        return job.prompt.done()

    def _leaving(self) -> _Loaded | None:
        """Returns the version that makes room for another; None where there is room."""
        if len(self._loaded) < self._max_loaded:
            return None
        return min(self._loaded.values(), key=lambda one: one.used)

    def _use(self) -> int:
        """Returns the number of a new use."""
        self._uses += 1
        return self._uses

    def _wake(self) -> None:
        """Wakes the thread."""
        with self._changed:
            self._changed.notify_all()

    # --- one version -------------------------------------------------------------------------------------------------

    def _advance(self, one: _Loaded, joining: list[AnswerRequest]) -> None:
        """Computes the next token of every unfinished answer, and the first of those that join."""
        coming = deque(joining)
        try:
            one.batch.step()
            rows: list[Row] = []
            while coming:
                if (row := self._row(one, coming[0])) is not None:
                    rows.append(row)
                    one.jobs.append(coming[0])
                coming.popleft()
            for portion in _portions(rows):
                one.batch.join(portion)
            self._deliver(one)
        except Exception as error:  # noqa: BLE001 (answered to every waiting request for this version)
            _log.exception("answering with %s failed", one.version.id)
            with self._changed:
                self._loaded.pop(_key(one.version), None)
                for job in [*one.jobs, *coming]:
                    self._fail(job, 500, f"The model '{one.version.id}' failed: {type(error).__name__}: {error}")

    def _row(self, one: _Loaded, job: AnswerRequest) -> Row | None:
        """Makes the row of a job; fails the job and returns None where its messages cannot be answered."""
        from jinja2 import TemplateError

        try:
            assert job.prompt is not None
            prompt = job.prompt.result()
        except (TemplateError, TypeError, ValueError) as error:
            self._fail(job, 400, f"The chat template of '{one.version.id}' refuses these messages: {error}")
            return None
        room = one.context_length - len(prompt)
        if room < 1:
            self._fail(
                job,
                400,
                f"This model's maximum context length is {one.context_length} tokens, and the messages are "
                f"{len(prompt)} tokens. Shorten the messages.",
            )
            return None
        limit = self._max_completion_tokens or one.version.spec.max_completion_tokens
        job.row = Row(
            prompt=prompt,
            max_tokens=min(room, limit, job.max_tokens or limit),
            seed=job.seed,
            choice=job.choice,
            temperature=job.temperature,
            top_p=job.top_p,
            top_logprobs=job.top_logprobs,
        )
        if job.stream or job.stop:
            job.detokenizer = Detokenizer(one.tokenizer, job.stop)
        return job.row

    def _deliver(self, one: _Loaded) -> None:
        """Delivers the new tokens of a version's answers, and removes those that are finished."""
        tokens = 0
        for job in list(one.jobs):
            assert job.row is not None
            tokens += 1
            text = ""
            if job.detokenizer is not None:
                text = job.detokenizer.add(job.row.text_ids, ended=job.row.finish_reason is not None)
                if job.detokenizer.stopped:
                    job.row.finish_reason = "stop"
            if job.row.finish_reason is not None:
                one.jobs.remove(job)
                if job.detokenizer is None or not job.stream:
                    text = job.detokenizer.text if job.detokenizer else self._decode(one, job.row.text_ids)
                job.deliver(self._piece(one, job, text))
            elif job.stream and text:
                job.deliver(self._piece(one, job, text))
        with self._changed:
            now = self._clock()
            self._counts["tokens"] += tokens
            self._recent.append((now, tokens))
            while now - self._recent[0][0] > RATE_WINDOW_S:
                self._recent.popleft()

    def _piece(self, one: _Loaded, job: AnswerRequest, text: str) -> Piece:
        """Makes a piece of the tokens that were not delivered yet."""
        assert job.row is not None
        first, job.delivered = job.delivered, len(job.row.token_ids)
        ids, top = job.row.token_ids[first:], [tuple(place) for place in job.row.top[first:]]
        texts = {}
        if job.with_token_texts:
            for token in {*ids, *(token for place in top for token, _ in place)}:
                if token not in one.token_texts:
                    one.token_texts[token] = str(one.tokenizer.decode([token]))
                texts[token] = one.token_texts[token]
        return Piece(
            text=text,
            prompt_token_ids=() if first else tuple(job.row.prompt),
            token_ids=tuple(ids),
            logprobs=tuple(job.row.logprobs[first:]),
            top=tuple(top),
            token_texts=texts,
            finish_reason=job.row.finish_reason,
        )

    def _decode(self, one: _Loaded, token_ids: list[int]) -> str:
        """Decodes a whole answer."""
        return str(one.tokenizer.decode(token_ids, skip_special_tokens=True))

    def _fail(self, job: AnswerRequest, status: int, message: str) -> None:
        """Delivers a failure."""
        with self._changed:
            self._counts["failed"] += 1
        job.deliver(Piece(failure=(status, message)))


def _key(version: ServedVersion) -> Key:
    """Returns the identity of a version's weights."""
    return version.path, version.stamp


def _portions(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yields the rows in order, padded to no more than `PREFILL_TOKENS` a portion."""
    portion: list[Row] = []
    for row in rows:
        if portion and (len(portion) + 1) * max(len(r.prompt) for r in [*portion, row]) > PREFILL_TOKENS:
            yield portion
            portion = []
        portion.append(row)
    if portion:
        yield portion


def _use_threads(threads: int | None) -> None:
    """Sets torch's threads, which it counts for each thread that computes."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
