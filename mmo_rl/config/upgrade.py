"""Upgrade of config trees: former class paths and keys become the present ones.

A former key is taken for the present one only where the chosen class has no key of that name itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmo_rl.config.renamed import KEYS, TARGETS
from mmo_rl.config.schema import TARGET, is_named, load, schema_of

ADDED: Mapping[str, object] = {
    "vocabulary": {
        TARGET: "mmo_rl.vocabulary.Vocabulary",
        "actions": {},
        "instrument": [],
        "side": [],
        "size": [],
        "shares": [],
        "price": [],
    }
}
"""Groups that configs of former versions do not have, with the choice that means the same."""


def upgraded(tree: Mapping[str, object]) -> dict[str, object]:
    """Returns a config tree with old class paths and old keys under their new names, and the groups that it lacks."""
    return {name: node for name, node in ADDED.items() if name not in tree} | {
        name: _upgraded_node(node, KEYS.get(name, {})) if isinstance(node, Mapping) and TARGET in node else node
        for name, node in tree.items()
    }


def _upgraded_node(node: Mapping[str, object], keys: Mapping[str, str]) -> dict[str, object]:
    target = TARGETS.get(str(node[TARGET]), node[TARGET])
    upgraded_node: dict[str, object] = {TARGET: target}
    moved: dict[str, object] = {}
    own = _parameters(target)
    for key, value in node.items():
        if key == TARGET:
            continue
        new = keys.get(key)
        if new is not None and key not in own and new.partition(".")[0] in own:
            moved[new] = value
        elif isinstance(value, Mapping) and TARGET in value:
            upgraded_node[key] = _upgraded_node(value, keys)
        elif is_named(value) and isinstance(value, Mapping):
            upgraded_node[key] = {name: _upgraded_node(inner, keys) for name, inner in value.items()}
        else:
            upgraded_node[key] = value
    for new, value in moved.items():
        sub_node, _, key = new.partition(".")
        inside = upgraded_node.get(sub_node)
        upgraded_node[sub_node] = {**(inside if isinstance(inside, Mapping) else {}), key: value}
    return upgraded_node


def _parameters(target: object) -> Sequence[str]:
    try:
        return list(schema_of(load(str(target))).parameters)
    except ValueError:  # the check of the node says what is wrong with its class
        return ()
