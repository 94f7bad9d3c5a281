"""Former names of config keys and class paths, which keep working in commands, files and run folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

TARGETS: Mapping[str, str] = {"mmo_rl.policy.model.ModelSpec": "mmo_rl.lm.model.ModelSpec"}
"""Class paths by their old names."""

_ENDPOINT = ("base_url", "api_key_env", "concurrency", "timeout_s", "attempts", "backoff_s", "max_backoff_s")
KEYS: Mapping[str, Mapping[str, str]] = {
    "judge": {
        **{key: f"endpoint.{key}" for key in (*_ENDPOINT, "provider", "requests_per_minute", "tokens_per_minute")},
        "budget_usd": "budget.usd",
        "budget_calls": "budget.calls",
        "price_prompt_usd_per_mtok": "prices.prompt_usd_per_mtok",
        "price_completion_usd_per_mtok": "prices.completion_usd_per_mtok",
        "price_list": "prices.list",
        "price_date": "prices.date",
    },
    "policy": {key: f"endpoint.{key}" for key in _ENDPOINT},
}
"""Keys inside a group's node by their old names; those of a panel's judges are named alike below each of them."""
_OVERRIDE = re.compile(
    r"(?P<sign>[+~]{0,2})(?P<group>judge(?:\.judges\.[^.=]+)?|policy)\.(?P<key>\w+)(?P<rest>.*)", re.S
)


def renamed_overrides(overrides: Sequence[str]) -> list[str]:
    """Returns the overrides with old keys under their new names; others are left as they are."""
    return [_renamed(override) for override in overrides]


def former_key(key: str) -> str:
    """Returns the old name of a key, so that a command finds its run folder whichever name it uses."""
    group, _, rest = key.partition(".")
    for old, new in KEYS.get(group, {}).items():
        if rest == new or rest.endswith(f".{new}"):
            return f"{group}.{rest.removesuffix(new)}{old}"
    return key


def _renamed(override: str) -> str:
    found = _OVERRIDE.fullmatch(override)
    if found is None:
        return override
    new = KEYS[found["group"].partition(".")[0]].get(found["key"])
    return override if new is None else f"{found['sign']}{found['group']}.{new}{found['rest']}"
