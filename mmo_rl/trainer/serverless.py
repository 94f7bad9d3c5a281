"""GRPO on W&B's GPUs: ART's serverless backend (W&B Training), with jobs that survive the run that submitted them."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mmo_rl.errors import ConfigError, TrainerError
from mmo_rl.lm.base import BaseModel
from mmo_rl.trainer.art_client import has_tokens, recorded_group
from mmo_rl.trainer.base import AssistantTurns, Capabilities, OnStep, Served, TrainerParts, TrainingRules
from mmo_rl.trainer.batch import warn_no_logprobs, warn_unclipped
from mmo_rl.trainer.journal import Journal, TrainingJob, fingerprint
from mmo_rl.trainer.serverless_api import ApiError, Registered, TrainingApi
from mmo_rl.trainer.signal import with_signal
from mmo_rl.types import PolicyVersion, Trained, TrainingGroup
from mmo_rl.wording import counted

_log = logging.getLogger(__name__)

OFFERED = ("OpenPipe/Qwen3-14B-Instruct", "Qwen/Qwen3-30B-A3B-Instruct-2507")
"""Base models that W&B Training is known to train; its list changes, so others are tried with a warning."""
PAGE = "https://wandb.ai"


class ServerlessTrainer:
    """Trainer of a LoRA of ``model.base_model`` at W&B Training (``base_url`` None) or another server of its routes.

    The key is in the environment variable ``api_key_env``; ``entity`` None is the key's own. The model there is named
    by experiment and run. ``learning_rate``, ``loss`` and ``clip_epsilon`` (None: the server's own) are those of ART.
    The server needs token ids and logprobs as they were sampled: answers recorded without them are ``leave_out`` (and
    counted), trained as plain ``reinforce`` (newer versions of ART), or ``refuse`` ends the run.

    A job is looked at every ``poll_s`` and given up after ``deadline_s``; ``timeout_s``, ``attempts``, ``backoff_s``
    and ``max_backoff_s`` are those of one request (`TrainingApi`). Each job is noted in ``checkpoints/job-NNNN.json``
    before it is submitted and when it was accepted: a run that ends meanwhile, in whatever way, follows the same job
    when the same command is typed again. Only a run that ends in the midst of the submission itself cannot know whether
    it was accepted (W&B Training can be asked neither for a list of jobs nor to take one only once): where the model
    has a new checkpoint since, it is taken; else the run ends and says what to do.

    `check_machine` raises `ConfigError` where the key is missing or the model cannot be trained there.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(needs_network=True, serves=True)

    def __init__(
        self,
        *,
        learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-6,
        loss: Literal["cispo", "ppo"] = "cispo",
        clip_epsilon: Annotated[float, Field(gt=0, lt=1)] | None = None,
        missing_logprobs: Literal["leave_out", "reinforce", "refuse"] = "leave_out",
        assistant_turns: AssistantTurns = "action",
        stop_on_collapse: bool = True,
        base_url: str | None = None,
        api_key_env: Annotated[str, Field(min_length=1)] = "WANDB_API_KEY",
        entity: str | None = None,
        project: Annotated[str, Field(min_length=1)] = "mmo-rl",
        poll_s: Annotated[float, Field(gt=0, le=600)] = 2.0,
        deadline_s: Annotated[float, Field(gt=0)] = 14400.0,
        timeout_s: Annotated[float, Field(gt=0)] = 120.0,
        attempts: Annotated[int, Field(ge=1, le=20)] = 6,
        backoff_s: Annotated[float, Field(gt=0)] = 1.0,
        max_backoff_s: Annotated[float, Field(gt=0)] = 60.0,
        parts: TrainerParts,
    ) -> None:
        self._options = {
            "learning_rate": learning_rate,
            "ppo": loss == "ppo",
            "loss_fn": loss,
            "epsilon": clip_epsilon,
            "scale_rewards": True,
        }
        self._missing_logprobs = missing_logprobs
        self.assistant_turns: AssistantTurns = assistant_turns
        self.rules = TrainingRules(stop_on_collapse=stop_on_collapse)
        self._base_url = base_url
        self._api_key_env = api_key_env
        self._entity = entity
        self._project = project
        self._poll_s = poll_s
        self._deadline_s = deadline_s
        self._limits = {
            "timeout_s": timeout_s,
            "attempts": attempts,
            "backoff_s": backoff_s,
            "max_backoff_s": max_backoff_s,
        }
        self._base = parts.model
        self._run_folder = parts.folder
        self._experiment = parts.experiment
        self._journal = Journal(folder=parts.checkpoints)
        self._api: TrainingApi | None = None
        self._registered: Registered | None = None
        self._current = 0

    def check_machine(self) -> None:
        """Raises `ConfigError` where the key is not set, or the model has no hub id."""
        _key(self._api_key_env)
        _refuse_local(self._base)

    async def resume(self, version: int | None = None) -> PolicyVersion:
        """Registers the model with W&B Training, which shows that it can be reached, takes the key and offers the base
        model. Raises `TrainerError` where one of these is not so, or ``version`` was never trained."""
        self.check_machine()
        chosen = self._journal.newest() if version is None else version
        self._journal.step(chosen)
        if self._api is None:
            self._api = await asyncio.to_thread(self._open)
        if self._base.base_model not in OFFERED:
            _log.warning(
                "%s is not among the models that W&B Training is known to train (%s)",
                self._base.base_model,
                ", ".join(OFFERED),
            )
        # Two runs must never train the same model there.
        name = f"{self._experiment}-{self._run_folder.run_id()}"
        self._registered = await self._api.register(
            entity=self._entity, project=self._project, name=name, base_model=self._base.base_model
        )
        self._current = chosen
        return self._version(chosen)

    def served(self, version: int) -> Served:
        """Returns the address of a published version. Raises `TrainerError` where it was never trained."""
        assert self._api is not None, "resume comes first"
        return Served(self._version(version).path, self._api.base_url, self._api_key_env)

    async def train(self, groups: Sequence[TrainingGroup], *, iteration: int, on_step: OnStep | None = None) -> Trained:
        """Trains one iteration: submits its job, or follows one that was submitted already; publishes version
        ``iteration + 1``, or keeps the policy where no group carries signal.

        Raises `TrainerError`, and publishes nothing, where the job fails, does not end in time or trains nothing.
        """
        assert self._api is not None, "resume comes first"
        signal = with_signal(groups)
        answers = [call for group in groups for sample in group.samples for call in sample.calls]
        selected = sum(len(call.token_ids or ()) for call in answers) if all(map(has_tokens, answers)) else None
        unknown = sum(not has_tokens(call) for call in answers) / max(1, len(answers))
        unclipped = unknown if self._missing_logprobs == "reinforce" else 0.0
        job = self._journal.read(iteration)
        if job is None or job.failure is not None:
            if not signal:
                return Trained(self._version(self._current), 0, 0, len(groups), {}, selected)
            if unclipped:
                warn_unclipped(unclipped, iteration=iteration, instead="trainer.missing_logprobs=leave_out does not")
            job = await self._submit(signal, iteration)
        else:
            _log.info("training job %s of iteration %d was submitted before", job.job_id, iteration)
            if job.data != fingerprint(signal):
                _log.warning("iteration %d was submitted with other data than it has now", iteration)
        if job.job_id is None:
            job = await self._adopt(job)
        if job.step is None:
            job = await self._follow(job, on_step)
        self._current = iteration + 1
        return Trained(
            policy=self._version(self._current),
            gradient_steps=job.gradient_steps,
            tokens=job.tokens,
            groups_skipped_zero_variance=len(groups) - len(signal),
            metrics={**job.metrics, "unknown_logprobs_share": unknown, "unclipped_tokens_share": unclipped},
            tokens_selected=selected,
        )

    async def aclose(self) -> None:
        if self._api is not None:
            api, self._api = self._api, None
            await api.aclose()

    # --- one job ------------------------------------------------------------------------------------------------------

    async def _submit(self, groups: Sequence[TrainingGroup], iteration: int) -> TrainingJob:
        """Submits the job of an iteration, noted before and after."""
        assert self._api is not None
        assert self._registered is not None
        options, trainable = self._known_options(), self._trainable(groups)
        step_before, _ = await self._api.latest_checkpoint(self._registered.id)
        tokens = sum(len(c.token_ids or ()) for g in trainable for s in g.samples for c in s.calls)
        art_groups = [recorded_group(group) for group in trainable]
        job = TrainingJob(iteration=iteration, step_before=step_before, data=fingerprint(groups), tokens=tokens)
        self._journal.write(job)
        try:
            job_id = await self._api.submit(model_id=self._registered.id, groups=art_groups, options=options)
        except ApiError as error:
            if not error.unclear:
                self._journal.forget(iteration)
            raise
        job = replace(job, job_id=job_id)
        self._journal.write(job)
        _log.info("submitted iteration %d as training job %s", iteration, job_id)
        return job

    async def _adopt(self, job: TrainingJob) -> TrainingJob:
        """Finds the result of a job whose submission was cut off. Raises `TrainerError` where there is none yet."""
        assert self._api is not None
        assert self._registered is not None
        step, metrics = await self._api.latest_checkpoint(self._registered.id)
        if step <= job.step_before:
            where = f"{PAGE}/{self._registered.entity}/{self._registered.project}"
            raise TrainerError(
                f"the submission of iteration {job.iteration} was cut off, and W&B Training does not say whether it"
                " arrived",
                hint=f"look for a training job at {where}: where there is one, wait for its end and run the same"
                f" command again; where there is none, rm {self._journal.path(job.iteration)} and run it again",
            )
        _log.warning("the submission of iteration %d was cut off, but it arrived: step %d", job.iteration, step)
        # Its events cannot be asked for without its id; a checkpoint means one gradient step at least.
        job = replace(job, step=step, gradient_steps=1, metrics=_mean_metrics([metrics]))
        self._journal.write(job)
        return job

    async def _follow(self, job: TrainingJob, on_step: OnStep | None) -> TrainingJob:
        """Waits for the end of a job. Raises `TrainerError` where it fails, trains nothing or takes too long."""
        progress: list[Mapping[str, object]] = []
        tell = on_step or (lambda done, total, note: None)
        tell(0, 1, f"job {job.job_id}")
        try:
            async with asyncio.timeout(self._deadline_s):
                failure = await self._watch(str(job.job_id), progress, tell)
                if failure is None and not progress:
                    failure = "it ended without a gradient step, though there was signal"
                if failure is not None:
                    self._journal.write(replace(job, failure=failure))
                    raise TrainerError(
                        f"training job {job.job_id} of iteration {job.iteration} failed: {failure}",
                        hint="correct what it says and run the same command again: the iteration is submitted anew",
                    )
                step = await self._published(job)
        except TimeoutError as error:
            raise TrainerError(
                f"training job {job.job_id} has not ended within {self._deadline_s:g} s (trainer.deadline_s);"
                f" {counted(len(progress), 'gradient step')} so far",
                hint="run the same command again: it goes on waiting for the same job, nothing is submitted twice",
            ) from error
        counts = (data.get("num_trainable_tokens", data.get("train_tokens")) for data in progress)
        known = [count for count in counts if isinstance(count, int | float)]
        job = replace(
            job,
            step=step,
            gradient_steps=len(progress),
            tokens=round(sum(known)) or job.tokens,
            metrics=_mean_metrics(progress),
        )
        self._journal.write(job)
        return job

    async def _watch(self, job_id: str, progress: list[Mapping[str, object]], tell: OnStep) -> str | None:
        """Adds the data of every gradient step to ``progress`` until the job ends; returns the reason of a failure."""
        assert self._api is not None
        after: str | None = None
        total = 1
        while True:
            try:
                events = await self._api.events(job_id, after=after)
            except ApiError as error:
                if not error.transient:
                    raise
                # The job goes on without us: only the deadline ends the waiting.
                _log.warning("%s; still waiting for job %s", error.message, job_id)
                events = []
            for event in events:
                after = event.id
                if event.type == "training_started":
                    count = event.data.get("num_sequences")
                    total = max(1, round(count)) if isinstance(count, int | float) else 1
                elif event.type == "gradient_step":
                    progress.append(event.data)
                elif event.type == "training_ended":
                    return None
                elif event.type == "training_failed":
                    return str(event.data.get("error_message") or "the server gives no reason")
                tell(len(progress), max(total, len(progress)), f"job {job_id}")
            await asyncio.sleep(self._poll_s)

    async def _published(self, job: TrainingJob) -> int:
        """Waits for the job's checkpoint; returns its step."""
        assert self._api is not None
        assert self._registered is not None
        while True:
            try:
                step, _ = await self._api.latest_checkpoint(self._registered.id)
            except ApiError as error:
                if not error.transient:
                    raise
                _log.warning("%s; still waiting for its checkpoint", error.message)
                step = job.step_before
            if step > job.step_before:
                return step
            await asyncio.sleep(self._poll_s)

    # --- what is sent -------------------------------------------------------------------------------------------------

    def _trainable(self, groups: Sequence[TrainingGroup]) -> list[TrainingGroup]:
        """Returns the groups as they are sent: without answers that have no tokens, and groups that are flat then."""
        warn_no_logprobs(groups)
        unknown = sum(not has_tokens(c) for g in groups for s in g.samples for c in s.calls)
        if unknown == 0 or self._missing_logprobs == "reinforce":
            return list(groups)
        without = f"{counted(unknown, 'answer was', 'answers were')} recorded without token ids or logprobs"
        if self._missing_logprobs == "refuse":
            raise TrainerError(without, hint="trainer.missing_logprobs=leave_out trains the others")
        kept = []
        for group in groups:
            samples = [replace(s, calls=tuple(c for c in s.calls if has_tokens(c))) for s in group.samples]
            kept.append(replace(group, samples=tuple(s for s in samples if s.calls)))
        left = with_signal(kept)
        if not left:
            raise TrainerError(
                f"nothing can be trained: {without}, which W&B Training needs",
                hint="collect=simulated plays new windows and records them; trainer.missing_logprobs=reinforce sends"
                " plain text; trainer=local scores them itself",
            )
        _log.warning("%s; they are left out (trainer.missing_logprobs)", without)
        return left

    def _known_options(self) -> dict[str, object]:
        """Returns the options of a job that the installed version of ART knows."""
        assert self._api is not None
        known = self._api.training_options
        options: dict[str, object] = {
            name: value for name, value in self._options.items() if name in known and value is not None
        }
        if self._missing_logprobs == "reinforce":
            if "allow_training_without_logprobs" not in known:
                raise TrainerError(
                    "trainer.missing_logprobs=reinforce needs openpipe-art 0.5.23 or newer, which needs Python 3.12",
                    hint="trainer.missing_logprobs=leave_out, or install mmo-rl with Python 3.12",
                )
            options["allow_training_without_logprobs"] = True
        return options

    def _open(self) -> TrainingApi:
        """Opens the client of the training service."""
        return TrainingApi(
            api_key=_key(self._api_key_env),
            key_name=self._api_key_env,
            base_url=self._base_url,
            **self._limits,  # type: ignore[arg-type]
        )

    def _version(self, version: int) -> PolicyVersion:
        """Returns a published version, by the name that the inference endpoint knows."""
        assert self._registered is not None, "resume comes first"
        found, step = self._registered, self._journal.step(version)
        return PolicyVersion(
            self._base.name, version, f"wandb-artifact:///{found.entity}/{found.project}/{found.name}:step{step}"
        )


def _key(variable: str) -> str:
    """Reads the key. Raises `ConfigError` where it is not set."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"trainer=serverless needs a W&B key, and {variable} is not set",
            hint=f"export {variable}=... with a key from https://wandb.ai/authorize, or train on this machine:"
            " trainer=local",
        )
    return key


def _refuse_local(model: BaseModel) -> None:
    """Raises `ConfigError` for a model that has no hub id."""
    if model.path is not None or "/" not in model.base_model:
        what = f"model.path={model.path}" if model.path is not None else f"model={model.name}"
        raise ConfigError(
            f"trainer=serverless trains models by their hub id, and {what} is one of this machine",
            hint="model=qwen3_14b or model=qwen3_30b_a3b; trainer=local trains what is on this machine",
        )


def _mean_metrics(steps: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Returns the mean of every number over the gradient steps that have it, under the names of the other trainers."""
    names = {"policy_loss": "loss", "kl_div": "kl", "kl_policy_ref": "kl_reference"}
    values: dict[str, list[float]] = {}
    for data in steps:
        for key, value in data.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                values.setdefault(names.get(key.removeprefix("loss/"), key), []).append(float(value))
    return {name: sum(found) / len(found) for name, found in values.items()}
