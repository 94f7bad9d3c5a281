"""Building of components from validated nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mmo_rl.config.schema import TARGET, Node, is_named, load, schema_of
from mmo_rl.errors import ConfigError
from mmo_rl.types import Parts


def build(node: Node, parts: Parts | None = None) -> object:
    """Builds the component that a validated node describes, its nested components first; ``parts`` go to each that
    takes them.

    Raises `ConfigError` where a constructor refuses its keys.
    """
    return instance(load(str(node[TARGET])), {key: value for key, value in node.items() if key != TARGET}, parts)


def instance(target: Callable[..., object], keys: Mapping[str, object], parts: Parts | None = None) -> object:
    """Calls a component's class with validated ``keys``, as `build` does."""
    schema = schema_of(target)
    arguments: dict[str, object] = {}
    for key, value in keys.items():
        if isinstance(value, Mapping) and TARGET in value:
            arguments[key] = build(value, parts)
        elif isinstance(value, Mapping) and is_named(value):
            arguments[key] = {name: build(inner, parts) for name, inner in value.items()}
        elif isinstance(value, Mapping) and schema.parameters[key].kind == "node":
            arguments[key] = schema.parameters[key].sub_node(value)
        else:
            arguments[key] = value
    if schema.takes_parts:
        arguments["parts"] = parts
    try:
        return target(**arguments)
    except ValueError as error:
        raise ConfigError(f"{schema.name}: {error}") from error
