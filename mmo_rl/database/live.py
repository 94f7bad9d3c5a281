"""Recording of a trajectory while it is played, step by step, by a game's own code."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self, SupportsFloat

from mmo_rl.clock import EPOCH, milliseconds
from mmo_rl.database.rows import to_json
from mmo_rl.errors import DatabaseError
from mmo_rl.messages import message_fault
from mmo_rl.types import Action, JsonDict, LLMCall, Message, Step, Trajectory, prompt_fields

log = logging.getLogger(__name__)


class LiveTrajectory:
    """Trajectory under way, made by `mmo_rl.database.recorder.TrajectoryRecorder.trajectory`; a context manager.

    Belongs to one task at a time. Everything handed over is copied at once: the game may go on changing its objects.
    """

    def __init__(
        self,
        *,
        trajectory_id: str,
        agent_id: str,
        window_of: Callable[[datetime], str],
        scenario_id: str | None,
        role: str | None,
        is_training_data: bool,
        is_evaluation: bool,
        now: Callable[[], datetime],
        store: Callable[[Trajectory], Awaitable[None]],
    ) -> None:
        self.trajectory_id = trajectory_id
        self.agent_id = agent_id
        self.window_id = ""
        self._window_of = window_of
        self._scenario_id = scenario_id
        self._role = role
        self._is_training_data = is_training_data
        self._is_evaluation = is_evaluation
        self._now = now
        self._store = store
        self._steps: list[Step] = []
        self._open: LiveStep | None = None
        self._start: datetime | None = None
        self._status: str | None = None
        self._final_pnl: float | None = None
        self._final_balance: float | None = None
        self._metrics: JsonDict = {}
        self._metadata: JsonDict = {}

    def step(self, *, environment_state: Mapping[str, object]) -> LiveStep:
        """Begins the next step: ``async with played.step(environment_state={...}) as step``.

        ``environment_state`` is the agent's view: ``agentBalance``, ``agentPnL``, ``openPositions`` and any other key.
        """
        return LiveStep(trajectory=self, environment_state=environment_state)

    def finish(
        self,
        *,
        final_pnl: SupportsFloat | None = None,
        final_balance: SupportsFloat | None = None,
        final_status: str | None = None,
        metrics: Mapping[str, object] | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Sets results of the whole trajectory, in game dollars; may be called at any time, the last value counts.

        The status is ``completed`` (``completed_with_errors`` where an action failed) where none is given.
        """
        self._final_pnl = self._final_pnl if final_pnl is None else float(final_pnl)
        self._final_balance = self._final_balance if final_balance is None else float(final_balance)
        self._status = final_status or self._status
        self._metrics |= _copy(metrics or {})
        self._metadata |= _copy(metadata or {})

    async def __aenter__(self) -> Self:
        if self._start is not None:
            raise RuntimeError(f"the trajectory {self.trajectory_id} was entered before: begin a new one")
        self._start = _moment(self._now())
        self.window_id = self._window_of(self._start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._steps:
            log.info("the trajectory %s has no step: nothing is stored", self.trajectory_id)
            return
        try:
            await self._store(self._to_trajectory(error))
        except DatabaseError as failure:
            if error is None:
                raise
            # The game's own exception is raised; the note on it says why its trajectory is missing.
            error.add_note(f"its trajectory {self.trajectory_id} could not be stored: {failure}")
            log.warning("the trajectory %s could not be stored: %s", self.trajectory_id, failure)

    def _to_trajectory(self, error: BaseException | None) -> Trajectory:
        assert self._start is not None
        failed = sum(not step.action.success for step in self._steps)
        if error is None:
            status = self._status or ("completed_with_errors" if failed else "completed")
        elif isinstance(error, TimeoutError):
            status = "timeout"
        else:
            status = "error" if isinstance(error, Exception) else "terminated"
        return Trajectory(
            trajectory_id=self.trajectory_id,
            agent_id=self.agent_id,
            window_id=self.window_id,
            start=self._start,
            end=max(_moment(self._now()), self._start),
            steps=tuple(self._steps),
            final_pnl=self._final_pnl,
            final_balance=self._final_balance,
            final_status=status,
            role=self._role,
            scenario_id=self._scenario_id,
            is_training_data=self._is_training_data,
            is_evaluation=self._is_evaluation,
            metrics={"errorCount": failed} | self._metrics,
            metadata=dict(self._metadata),
        )

    def _begin(self, step: LiveStep) -> tuple[int, datetime]:
        if self._start is None:
            raise RuntimeError("enter the trajectory first: async with recorder.trajectory(...) as played")
        if self._open is not None:
            raise RuntimeError(f"the trajectory {self.trajectory_id} has an open step: an agent takes one at a time")
        self._open = step
        return len(self._steps), _moment(self._now())

    def _end(self, step: Step | None) -> None:
        self._open = None
        if step is not None:
            self._steps.append(step)


class LiveStep:
    """One observation -> decision -> action; made by `LiveTrajectory.step`, an asynchronous context manager.

    It must be given an action. Where its block raises, it is kept if it has its action already and left out if not.
    """

    def __init__(self, *, trajectory: LiveTrajectory, environment_state: Mapping[str, object]) -> None:
        self._trajectory = trajectory
        self._state = _copy(environment_state)
        self._number = -1
        self._timestamp = EPOCH
        self._calls: list[LLMCall] = []
        self._accesses: list[JsonDict] = []
        self._action: Action | None = None
        self._reward: float | None = None

    def provider(self, name: str, data: object, *, purpose: str = "observe") -> None:
        """Records data that the agent looked up: market data, news... Prices in it become the window's outcomes."""
        access = {"providerName": name, "purpose": purpose, "data": data, "timestamp": self._milliseconds()}
        self._accesses.append(_copy(access))

    def llm_call(
        self,
        *,
        model: str,
        messages: Sequence[Message],
        response: str,
        purpose: str = "action",
        model_version: str | None = None,
        action_type: str | None = None,
        reasoning: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        top_p: float | None = None,
        latency_ms: int | None = None,
        prompt_token_ids: Sequence[int] | None = None,
        token_ids: Sequence[int] | None = None,
        logprobs: Sequence[float] | None = None,
        tool_calls: Sequence[Mapping[str, object]] | None = None,
        tools: Sequence[Mapping[str, object]] | None = None,
    ) -> None:
        """Records one call exactly as it was made; only calls with ``purpose`` "action" are trained on.

        Token ids and logprobs as the server gave them (one a completion token, the end token included) make training
        exact. An answer may be ``tool_calls``, with an empty ``response``; ``tools`` are those that were offered.
        Raises `ValueError` for no message, and for logprobs that do not match the tokens.
        """
        fault = next(filter(None, map(message_fault, messages)), None) if messages else "no message"
        if fault is not None:
            raise ValueError(f'messages must be one or more of {{"role": TEXT, "content": TEXT}}, and one is: {fault}')
        if token_ids is not None and logprobs is not None and len(token_ids) != len(logprobs):
            raise ValueError(f"{len(logprobs)} logprobs for {len(token_ids)} tokens: there must be one for each")
        self._calls.append(
            LLMCall(
                call_id=f"{self._trajectory.trajectory_id}-call-{self._number}-{len(self._calls)}",
                model=model,
                **prompt_fields([_copy(message) for message in messages]),
                response=response,
                purpose=purpose,
                model_version=model_version,
                action_type=action_type,
                reasoning=reasoning,
                temperature=temperature,
                max_tokens=max_tokens,
                top_p=top_p,
                latency_ms=latency_ms,
                prompt_token_ids=None if prompt_token_ids is None else tuple(prompt_token_ids),
                token_ids=None if token_ids is None else tuple(token_ids),
                logprobs=None if logprobs is None else tuple(logprobs),
                timestamp_ms=milliseconds(_moment(self._trajectory._now())),
                tool_calls=tuple(map(_copy, tool_calls)) if tool_calls else None,
                tools=tuple(map(_copy, tools)) if tools else None,
            )
        )

    def action(
        self,
        action_type: str,
        parameters: Mapping[str, object] | None = None,
        *,
        success: bool = True,
        result: Mapping[str, object] | None = None,
        error: str | None = None,
        reasoning: str | None = None,
        reward: SupportsFloat | None = None,
    ) -> None:
        """Records the agent's action and its immediate result; ``reward`` is the game's own, if it has one."""
        self._action = Action(
            action_type=action_type,
            parameters=_copy(parameters or {}),
            success=success,
            result=None if result is None else _copy(result),
            error=error,
            reasoning=reasoning,
        )
        self._reward = None if reward is None else float(reward)

    async def __aenter__(self) -> Self:
        self._number, self._timestamp = self._trajectory._begin(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        step = None
        if self._action is not None:
            step = Step(
                number=self._number,
                timestamp_ms=milliseconds(self._timestamp),
                environment_state=self._state,
                action=self._action,
                llm_calls=tuple(self._calls),
                provider_accesses=tuple(self._accesses),
                reward=self._reward,
            )
        self._trajectory._end(step)
        if step is None and error is None:
            raise ValueError(f"step {self._number} of {self._trajectory.trajectory_id} ends without step.action(...)")

    def _milliseconds(self) -> int:
        return round(milliseconds(self._trajectory._now()))


def _copy(values: Mapping[str, object]) -> JsonDict:
    """Copies values as JSON holds them, detached from the game's own objects."""
    copied: JsonDict = json.loads(to_json(dict(values)))
    return copied


def _moment(now: datetime) -> datetime:
    """Cuts a time to the millisecond, as the tables keep it. Raises `ValueError` where it has no zone."""
    if now.utcoffset() is None:
        raise ValueError("the recorder's clock must give times with a time zone: datetime.now(UTC)")
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
