"""Players of a config: the policies and scripted strategies that take seats in markets, by the names people write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

from mmo_rl.config.building import build, instance
from mmo_rl.config.hints import near
from mmo_rl.config.schema import TARGET, Node, load
from mmo_rl.config.strategies import find_player, is_dotted, player_names
from mmo_rl.errors import ConfigError, PolicyError
from mmo_rl.evaluate.base import Contestant
from mmo_rl.lm.base import BaseModel
from mmo_rl.lm.load import require_device
from mmo_rl.market.base import Scripted
from mmo_rl.policy.base import Policy, PolicyParts
from mmo_rl.policy.endpoint import DEFAULT, EndpointPolicy
from mmo_rl.policy.local import LocalPolicy, local_policy, open_policy
from mmo_rl.trainer.base import ServingTrainer, Trainer
from mmo_rl.types import PolicyVersion

NAMES = ("base", "policy")


class Players:
    """Policies of one config. ``policy`` is the validated node of the group of that name."""

    def __init__(self, *, model: BaseModel, trainer: Trainer, policy: Node | None) -> None:
        self._model = model
        self._trainer = trainer
        self._node = policy
        self._served: dict[int, EndpointPolicy] = {}

    def chosen(self) -> Policy:
        """The policy of the group ``policy``. Raises `ConfigError` where it is none."""
        if self._node is None:
            raise ConfigError(
                "policy=none plays nothing", hint="policy=local, or policy=endpoint policy.endpoint.base_url=URL"
            )
        return cast(Policy, build(self._node, self._parts()))

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The device that policies on this machine play on: ``policy.device``, else that of the trainer."""
        chosen = cast(Literal["cpu", "cuda"] | None, self._of_local().get("device"))
        return chosen or self._trainer.rules.device

    def check_machine(self) -> None:
        """Raises `ConfigError` where what this run trains would play on a device that is not here."""
        if self._trainer.capabilities.serves:
            return
        try:
            require_device(self.device)
        except PolicyError as error:
            raise ConfigError(f"policy.device={self.device}: {error.message}", hint=f"policy.{error.hint}") from error

    def unused_in_training(self) -> str | None:
        """A sentence about a choice of the group ``policy`` that a training run does not use; None where there is
        none."""
        if self._node is None:
            return None
        local = load(str(self._node[TARGET])) is local_policy
        if not self._trainer.capabilities.serves and not local:
            return "The choice of policy is not used in training: the weights that are trained play, on this machine"
        if self._trainer.capabilities.serves and local and self._node.get("device") is not None:
            return "policy.device is not used: the backend of this trainer answers"
        return None

    def base(self) -> Policy:
        """The base model, as the run's trainer has it played."""
        return self.published(PolicyVersion(self._model.name, 0, self._model.location()))

    def published(self, version: PolicyVersion) -> Policy:
        """The policy of a version that this run's trainer published, or of its base model: weights on this machine, or
        the endpoint of the trainer's backend, asked as ``policy=endpoint`` says where that is chosen."""
        if not self._trainer.capabilities.serves:
            size = self._of_local().get("batch_size")
            options = {} if size is None else {"batch_size": cast(int, size)}
            return open_policy(version, self._model, device=self.device, **options)
        if version.version not in self._served:
            served = cast(ServingTrainer, self._trainer).served(version.version)
            self._served[version.version] = self._endpoint(
                {"base_url": served.base_url, "api_key_env": served.api_key_env},
                model=served.model,
                max_completion_tokens=self._model.max_completion_tokens,
                version=version.version,
            )
        return self._served[version.version]

    def contestant(self, key: str, text: str) -> Contestant:
        """The player that ``text``, the value of the config key ``key``, names:

        - ``base``: the model of the group ``model``; ``policy``: the policy of the group ``policy``
        - ``MODEL@URL``: an endpoint, with the settings of ``policy=endpoint`` where that is chosen, else its defaults
        - a scripted strategy by name, or by the path of one of your own (`mmo_rl.config.strategies`)
        - a folder of weights in Hugging Face format, or a run's folder (its last checkpoint)

        Raises `ConfigError` where it is none of these, `PolicyError` where the policy cannot be used.
        """
        if text == "base":
            return Contestant("base", policy=self._local(None))
        if text == "policy":
            policy = self.chosen()
            return Contestant(policy.name, policy=policy)
        model, _, url = text.rpartition("@")
        if url.startswith(("http://", "https://")):
            return Contestant(text, policy=self._endpoint({"base_url": url}, model=model))
        if _is_path(text):
            return Contestant(text, policy=self._local(text))
        return Contestant(text, strategy=_scripted(key, text))

    def _endpoint(self, endpoint: Mapping[str, object], **changes: object) -> EndpointPolicy:
        """Makes an endpoint with the keys of ``policy=endpoint``, where that is chosen, and ``changes`` to them;
        ``endpoint`` holds changes to its sub-node."""
        chosen: Mapping[str, object] = self._node or {}
        keys = dict(chosen) if TARGET in chosen and load(str(chosen[TARGET])) is EndpointPolicy else {}
        keys.pop(TARGET, None)
        of_endpoint = {**asdict(DEFAULT), **cast(Mapping[str, object], keys.get("endpoint", {})), **endpoint}
        return cast(EndpointPolicy, instance(EndpointPolicy, {**keys, "endpoint": of_endpoint, **changes}))

    def _local(self, path: str | None) -> LocalPolicy:
        return local_policy(path=path, **self._of_local(), parts=self._parts())

    def _of_local(self) -> dict[str, Any]:
        """The keys of ``policy=local``, but the path, where that is chosen."""
        chosen = self._node or {}
        if TARGET not in chosen or load(str(chosen[TARGET])) is not local_policy:
            return {}
        return {name: chosen[name] for name in ("device", "batch_size") if name in chosen}

    def _parts(self) -> PolicyParts:
        return PolicyParts(model=self._model, device=self._trainer.rules.device)


def check_contestant(key: str, text: str) -> None:
    """Raises `ConfigError` where ``text``, the value of the config key ``key``, names no player."""
    _, _, url = text.rpartition("@")
    if text not in NAMES and not url.startswith(("http://", "https://")) and not _is_path(text):
        _scripted(key, text)


def _is_path(text: str) -> bool:
    return text not in player_names() and Path(text).expanduser().exists()


def _scripted(key: str, text: str) -> Scripted:
    try:
        return find_player(text)
    except ConfigError as error:
        if is_dotted(text):
            raise ConfigError(
                f"{key}: found {text!r}, which is no folder here; {error.message}", hint=error.hint
            ) from None
        names = [*NAMES, *player_names()]
        raise ConfigError(
            f"{key}: found {text!r}, which is no folder here and no name{near(text, names)}",
            hint=f"{key}=base, a folder of weights or of a run, MODEL@http://HOST:PORT/v1, or {', '.join(names[1:])}",
        ) from None
