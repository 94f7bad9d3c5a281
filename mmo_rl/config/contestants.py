"""From what people write to who plays: ``base``, a checkpoint, an endpoint, a scripted strategy."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmo_rl.config.strategies import find_player, is_dotted, player_names
from mmo_rl.errors import ConfigError
from mmo_rl.market.base import Scripted

if TYPE_CHECKING:
    from mmo_rl.config.components import Context
    from mmo_rl.evaluate.pair import Contestant

NAMES = ("base", "policy")


async def contestant(context: Context, key: str, text: str, stack: AsyncExitStack) -> Contestant:
    """Who plays as ``text``, the value of the config key ``key``; what is opened is closed with ``stack``.

    - ``base``: the model of the group ``model``; ``policy``: whatever the group ``policy`` says
    - ``MODEL@URL``: an endpoint, with the settings of ``policy=endpoint`` where that is chosen, else its defaults
    - a scripted strategy by name, or by the path of one of your own (`mmo_rl.config.strategies`)
    - a folder of weights in Hugging Face format, or a run's folder (its last checkpoint)

    Raises `ConfigError` where it is none of these, `PolicyError` where the policy cannot be used.
    """
    from mmo_rl.evaluate.pair import Contestant

    if text == "base":
        return Contestant("base", policy=_local(context, None))
    if text == "policy":
        policy = await context.components.policy()
        return Contestant(policy.name, policy=policy)
    model, _, url = text.rpartition("@")
    if url.startswith(("http://", "https://")):
        return Contestant(text, policy=await stack.enter_async_context(_endpoint(context, model, url)))
    if not _is_path(text):
        return Contestant(text, strategy=_player(key, text))
    return Contestant(text, policy=_local(context, text))


def check(key: str, text: str) -> None:
    """Raises `ConfigError` where ``text`` names nobody who could play."""
    _, _, url = text.rpartition("@")
    if text not in NAMES and not url.startswith(("http://", "https://")) and not _is_path(text):
        _player(key, text)


def _is_path(text: str) -> bool:
    return text not in player_names() and Path(text).expanduser().exists()


def _player(key: str, text: str) -> Scripted:
    try:
        return find_player(text)
    except ConfigError as error:
        if is_dotted(text):
            raise ConfigError(
                f"{key}: found {text!r}, which is no folder here; {error.message}", hint=error.hint
            ) from None
        raise _unknown(key, text) from None


def _local(context: Context, path: str | None) -> Any:
    from mmo_rl.policy.base import PolicyParts
    from mmo_rl.policy.local import local_policy

    chosen = context.settings.nodes["policy"] or {}
    options = {name: chosen[name] for name in ("device", "batch_size") if name in chosen}
    return local_policy(path=path, **options, parts=PolicyParts(model=context.components.model()))


def _endpoint(context: Context, model: str, url: str) -> Any:
    from mmo_rl.config.schema import TARGET
    from mmo_rl.policy.endpoint import EndpointPolicy

    chosen = context.settings.nodes["policy"] or {}
    settings = dict(chosen) if str(chosen.get(TARGET, "")).endswith(".EndpointPolicy") else {}
    settings.pop(TARGET, None)
    return EndpointPolicy(**{**settings, "model": model, "base_url": url})


def _unknown(key: str, text: str) -> ConfigError:
    from mmo_rl.config.schema import near

    names = [*NAMES, *player_names()]
    return ConfigError(
        f"{key}: found {text!r}, which is no folder here and no name{near(text, names)}",
        hint=f"{key}=base, a folder of weights or of a run, MODEL@http://HOST:PORT/v1, or {', '.join(names[1:])}",
    )
