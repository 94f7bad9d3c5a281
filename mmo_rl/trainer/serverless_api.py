"""Client of W&B Training, through ART's own: requests bounded in time and retried, errors with what to type next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from mmo_rl.chat.wire import describe, retry_after_s
from mmo_rl.clock import utc_now
from mmo_rl.concurrency import Backoff, retry
from mmo_rl.errors import TrainerError
from mmo_rl.trainer.art_client import import_art

if TYPE_CHECKING:
    import art

_log = logging.getLogger(__name__)
T = TypeVar("T")

REFUSED = frozenset({408, 409, 425, 429})
"""Statuses below 500 of requests that were not carried out and may be sent again."""
UNCLEAR = frozenset({502, 504})
"""A gateway's statuses that leave open whether the server behind it has carried out the request."""


class Registered(Protocol):
    """Model at W&B Training."""

    id: str
    entity: str
    project: str
    name: str


class Event(Protocol):
    """Event of a training job."""

    id: str
    type: str
    data: Mapping[str, object]


class ApiError(TrainerError):
    """Failure of a request. ``transient``: the same request may succeed later. ``unclear``: the server may have carried
    it out."""

    def __init__(self, message: str, *, hint: str | None, transient: bool = False, unclear: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient
        self.unclear = unclear


class TrainingApi:
    """Client of W&B Training at ``base_url`` (None: W&B's own). ``api_key`` is never shown; ``key_name`` is the
    variable that holds it, for messages.

    A request is tried ``attempts`` times where it was limited (429), failed on the server's side (5xx) or was cut off;
    between two tries it waits as long as ``Retry-After`` asks, or ``backoff_s`` doubled each time, and never longer
    than ``max_backoff_s``. ``timeout_s`` is the deadline of each try. A job is never sent a second time where the first
    may have arrived. Raises `ApiError`.
    """

    def __init__(
        self,
        *,
        api_key: str,
        key_name: str,
        base_url: str | None,
        timeout_s: float,
        attempts: int,
        backoff_s: float,
        max_backoff_s: float,
    ) -> None:
        self._module = import_art("art.serverless.client")
        self._client = self._module.Client(api_key=api_key, base_url=base_url)
        # ART's client waits half a second or more, however long a run's own retries are meant to take.
        self._client.max_retries = 0
        # A line for every look at a job would fill a run's log.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self.base_url = str(self._client.base_url).rstrip("/")
        self._key, self._key_name = api_key, key_name
        self._timeout_s = timeout_s
        self._backoff = Backoff(first_s=backoff_s, longest_s=max_backoff_s, attempts=attempts)

    @property
    def training_options(self) -> frozenset[str]:
        """Options of a training job that the installed version of ART knows."""
        return frozenset(self._module.ExperimentalTrainingConfig.__annotations__)

    async def register(self, *, entity: str | None, project: str, name: str, base_model: str) -> Registered:
        """Registers a model under this name, or returns the one that has it."""
        registered: Registered = await self._call(
            f"register {base_model}",
            lambda: self._client.models.create(
                entity=entity, project=project, name=name, base_model=base_model, return_existing=True
            ),
        )
        return registered

    async def latest_checkpoint(self, model_id: str) -> tuple[int, dict[str, float]]:
        """Returns the step and metrics of the newest checkpoint; step 0 where nothing was trained."""

        async def first() -> tuple[int, dict[str, float]]:
            async for found in self._client.models.checkpoints.list(limit=1, order="desc", model_id=model_id):
                return found.step, dict(found.metrics or {})
            return 0, {}

        return await self._call("list the checkpoints", first)

    async def submit(
        self, *, model_id: str, groups: Sequence[art.TrajectoryGroup], options: Mapping[str, object]
    ) -> str:
        """Submits a training job; returns its id. Raises `ApiError` that is ``unclear`` where it may have arrived."""
        job = await self._call(
            "submit the training job",
            lambda: self._client.training_jobs.create(
                model_id=model_id, trajectory_groups=list(groups), experimental_config=dict(options)
            ),
            once=True,
        )
        return str(job.id)

    async def events(self, job_id: str, *, after: str | None) -> list[Event]:
        """Lists the events of a job after the one with the id ``after``."""
        more = {} if after is None else {"after": after}

        async def rest() -> list[Event]:
            return [e async for e in self._client.training_jobs.events.list(training_job_id=job_id, **more)]

        return await self._call(f"follow the training job {job_id}", rest)

    async def aclose(self) -> None:
        await self._client.close()

    # --- retries ------------------------------------------------------------------------------------------------------

    async def _call(self, action: str, request: Callable[[], Awaitable[T]], *, once: bool = False) -> T:
        """Sends a request and tries it again where that can help; with ``once`` not where it may have arrived."""
        import openai

        async def tried() -> T:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await request()
            except (openai.APIError, TimeoutError) as error:
                raise self._failure(action, error) from error

        return await retry(
            tried,
            self._backoff,
            transient=lambda failure: (
                isinstance(failure, ApiError) and failure.transient and not (once and failure.unclear)
            ),
            requested_s=lambda failure: retry_after_s(_cause(failure), now=utc_now()),
        )

    # --- failures -----------------------------------------------------------------------------------------------------

    def _failure(self, action: str, error: Exception) -> ApiError:
        """Translates an error of the client into one with what to type next."""
        import openai

        start = f"could not {action} at {self.base_url}"
        again = "run the same command again: it goes on where it is"
        if isinstance(error, openai.APIStatusError):
            status, said = error.status_code, describe(error, key=self._key)
            if status in {401, 403}:
                hint = f"export {self._key_name}=... with a key from https://wandb.ai/authorize"
                if status == 403:
                    hint += ", or name a team that it may use: trainer.entity=TEAM"
                return ApiError(f"{start}: the key in {self._key_name} was refused ({said})", hint=hint)
            if status == 404:
                return ApiError(f"{start}: {said}", hint="check trainer.base_url (it usually ends in /v1)")
            if status == 429:
                return ApiError(f"{start}: {said}", hint=f"wait for your limit, then {again}", transient=True)
            if status in REFUSED or status >= 500:
                return ApiError(f"{start}: {said}", hint=again, transient=True, unclear=status in UNCLEAR)
            return ApiError(
                f"{start}: {said}", hint="check model, trainer.entity and trainer.project against what it says"
            )
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            unclear = not _never_connected(error)
            return ApiError(
                f"{start}: no answer within {self._timeout_s:g} s",
                hint=f"raise trainer.timeout_s, check trainer.base_url, or {again}",
                transient=True,
                unclear=unclear,
            )
        if isinstance(error, openai.APIConnectionError):
            return ApiError(
                f"{start}: {describe(error, key=self._key)}",
                hint=f"check the network and trainer.base_url, then {again}",
                transient=True,
                unclear=not _never_connected(error),
            )
        return ApiError(f"{start}: {describe(error, key=self._key)}", hint="check trainer.base_url", unclear=True)


def _never_connected(error: BaseException) -> bool:
    """Tells that the request cannot have reached the server."""
    import httpx

    causes = httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol
    return isinstance(error.__cause__, causes)


def _cause(failure: Exception) -> Exception:
    """Returns the client's own error behind a failure."""
    return failure.__cause__ if isinstance(failure.__cause__, Exception) else failure
