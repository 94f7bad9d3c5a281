"""A component's constructor is its schema: keys, types, ranges and defaults are read from its signature.

A node is ``{_target_: mmo_rl.room.module.Class, key: value ...}``. Parameters of plain types (numbers, text, flags,
literals, lists and mappings of them, ``Annotated`` with pydantic's ``Field``) are keys; a parameter whose type is a
dataclass is a sub-node, whose keys are its fields; a parameter that holds a component is a nested node with a
``_target_`` of its own; ``parts`` are the collaborators that the composition root hands over, and no key.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from mmo_rl.config import extensions
from mmo_rl.config.hints import near, show
from mmo_rl.config.protocols import PROTOCOLS, made_by, misfit, types_of
from mmo_rl.errors import MmoRlError
from mmo_rl.types import Parts

TARGET = "_target_"
Node = Mapping[str, Any]
"""A node of a config as YAML has it: foreign values until they are checked."""
Checked = dict[str, Any]
"""Values of a node that were converted to the types of their parameters."""
ComponentClass = Callable[..., Any]
"""A class that a config may name; its signature is checked when it is called, not by a type checker."""

_PLAIN = {str, int, float, bool, type(None), Path, datetime, timedelta, list, tuple, dict, set, frozenset, Any, object}
_CONTAINERS = {list, tuple, dict, set, frozenset, abc.Mapping, abc.Sequence, abc.Collection, abc.Iterable, abc.Set}
_KEY_MODEL = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


@typing.runtime_checkable
class KeyRules(typing.Protocol):
    """A component class with rules over several keys."""

    def check_keys(self, **keys: Any) -> None:
        """Raises `ConfigError` or `ValueError` where keys contradict each other; a static method, called with the
        validated keys of a node before anything is made."""
        ...


@dataclass(frozen=True)
class Problem:
    """One mistake in the configuration: its key, and in one line what was found and what was expected."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


@dataclass(frozen=True)
class Parameter:
    """One constructor parameter. ``kind`` is that of its YAML: a ``key`` with a plain value, a ``node`` of fields of
    a dataclass, a ``component`` with a ``_target_`` of its own, or none (``parts``)."""

    name: str
    annotation: object
    default: object
    kind: Literal["key", "node", "component", "parts"]

    @property
    def is_key(self) -> bool:
        return self.kind == "key"

    def sub_node(self, fields: Node) -> object:
        """Makes the dataclass of a sub-node from its validated fields."""
        return typing.cast(ComponentClass, self.annotation)(**fields)

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Schema:
    """Parameters of one target: the keys and nodes that its YAML may hold."""

    target: ComponentClass
    parameters: Mapping[str, Parameter]

    @property
    def name(self) -> str:
        return getattr(self.target, "__name__", str(self.target))

    @property
    def keys(self) -> list[str]:
        """The names that people set, for messages."""
        return [name for name, p in self.parameters.items() if p.kind in ("key", "node")]

    @property
    def takes_parts(self) -> bool:
        """True where the composition root hands over collaborators."""
        return any(p.kind == "parts" for p in self.parameters.values())


def load(target: str) -> ComponentClass:
    """Imports the class that a dotted path names (`mmo_rl.config.extensions` says which may be named).

    A function of this package stands for the class that it makes. Raises `ValueError` with a message for people where
    it may not run, does not exist or is neither.
    """
    found = extensions.find(target)
    if not isinstance(found, type) and made_by(found) is None:
        raise ValueError(f"found {target!r}, expected a class")
    return typing.cast(ComponentClass, found)


@functools.cache
def schema_of(target: ComponentClass) -> Schema:
    """The parameters of a class's constructor or of a function (``context`` of a task is passed by position)."""
    constructor: object = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    namespace = getattr(constructor, "__globals__", vars(sys.modules[target.__module__]))
    parameters = {}
    for parameter in inspect.signature(target).parameters.values():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        annotation = _resolved(parameter.annotation, namespace)
        parameters[parameter.name] = Parameter(parameter.name, annotation, parameter.default, _kind(annotation))
    return Schema(target, parameters)


def check_node(node: Node, path: str, problems: list[Problem], kinds: tuple[type, ...] = ()) -> Checked:
    """Checks a node: its values are converted to the types of its target's signature, and mistakes go to ``problems``.
    The class has to be one of ``kinds``, else of what the config group ``path`` expects.

    Nothing is made: rules over several keys are the class's ``check_keys`` (`KeyRules`).
    """
    if not isinstance(node.get(TARGET), str):
        problems.append(Problem(f"{path}.{TARGET}", f"found {show(node.get(TARGET))}, expected the path of a class"))
        return dict(node)
    try:
        target = load(node[TARGET])
    except ValueError as error:
        problems.append(Problem(f"{path}.{TARGET}", str(error)))
        return dict(node)
    if wrong := misfit(target, kinds or PROTOCOLS.get(path, ()), node[TARGET]):
        problems.append(Problem(f"{path}.{TARGET}", wrong))
        return dict(node)
    schema, before = schema_of(target), len(problems)
    checked = check_keys(schema, {k: v for k, v in node.items() if k != TARGET}, path, problems)
    if len(problems) == before:
        problems.extend(_broken_rules(target, schema, checked, path))
    return {TARGET: node[TARGET], **checked}


def _broken_rules(target: ComponentClass, schema: Schema, checked: Node, path: str) -> Iterator[Problem]:
    """Applies the rules of a class to its keys together, defaults included; a sub-node is given as its dataclass."""
    rules: object = target
    if not isinstance(rules, KeyRules):
        return
    keys = {name: p.default for name, p in schema.parameters.items() if p.kind in ("key", "node") and not p.required}
    keys |= {
        key: schema.parameters[key].sub_node(value) if schema.parameters[key].kind == "node" else value
        for key, value in checked.items()
    }
    try:
        rules.check_keys(**keys)
    except (MmoRlError, ValueError) as error:
        yield Problem(path, str(error))


def check_keys(schema: Schema, values: Node, path: str, problems: list[Problem]) -> Checked:
    """Checks the keys of one node against ``schema``; parts, which the composition root gives, may be missing."""
    nested: Checked = {}
    keys: Checked = {}
    for key, value in values.items():
        parameter = schema.parameters.get(key)
        if isinstance(value, Mapping) and TARGET in value and parameter is not None:
            nested[key] = check_node(value, f"{path}.{key}", problems, types_of(parameter.annotation))
        elif parameter is not None and parameter.kind == "node":
            nested[key] = _check_sub_node(parameter, value, f"{path}.{key}", problems)
        elif parameter is not None and parameter.kind == "component" and is_named(value):
            kinds = types_of(parameter.annotation)
            nested[key] = {
                name: check_node(node, f"{path}.{key}.{name}", problems, kinds) for name, node in value.items()
            }
        elif parameter is None or not parameter.is_key:
            if parameter is not None and value is None and not parameter.required:
                continue
            problems.append(Problem(f"{path}.{key}", _unknown(schema, path, key, value)))
        else:
            keys[key] = value
    for parameter in schema.parameters.values():
        if parameter.name in values or not parameter.required or parameter.kind == "parts":
            continue
        what = f"expected {describe(parameter.annotation)}" if parameter.is_key else "expected a component here"
        problems.append(Problem(f"{path}.{parameter.name}", f"missing, {what} ({schema.name})"))
    return nested | check_values({schema.parameters[k]: v for k, v in keys.items()}, path, problems)


def _check_sub_node(parameter: Parameter, value: object, path: str, problems: list[Problem]) -> Checked:
    schema = schema_of(parameter.annotation)
    if not isinstance(value, Mapping):
        problems.append(Problem(path, f"found {show(value)}, expected its keys: {', '.join(schema.keys)}"))
        return {}
    return check_keys(schema, value, path, problems)


def is_named(value: object) -> bool:
    """True where ``value`` holds components by name: ``{first: {_target_: ...}, second: {_target_: ...}}``."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(v, Mapping) and TARGET in v for v in value.values())
    )


def check_values(values: Mapping[Parameter, object], path: str, problems: list[Problem]) -> Checked:
    """Converts values to their parameters' types with pydantic; gives back those that fit."""
    good: Checked = {}
    for parameter, value in values.items():
        where = f"{path}.{parameter.name}" if path else parameter.name
        if isinstance(value, bool) and not _allows_bool(parameter.annotation):
            found = str(value).lower()
            problems.append(Problem(where, f"found {found}, expected {describe(parameter.annotation)}"))
            continue
        if changed := _changed_text(where, value, parameter.annotation):
            problems.append(changed)
            continue
        try:
            model = _model_of(parameter.name, parameter.annotation)
        except Exception as error:
            raise TypeError(f"{where}: the annotation {parameter.annotation!r} cannot be validated") from error
        try:
            good[parameter.name] = getattr(model.model_validate({"v": value}), "v")  # noqa: B009
        except ValidationError as error:
            problems.extend(_problems(error, where, parameter.annotation))
    return good


def _changed_text(where: str, value: object, annotation: object) -> Problem | None:
    """Finds a value that was not read as it was written: YAML and overrides make a number of ``1.10`` or ``12345e6``,
    also where a text is meant, and a text of ``007``, also where a number is."""
    kinds = set(_flat(annotation))
    values = value if isinstance(value, list | tuple) else [value]
    if str in kinds and not kinds & {float, Any, object}:
        for found in values:
            if isinstance(found, float):
                text = f"found the number {found}, expected text; quotes keep it as it is written: \"{where}='...'\""
                return Problem(where, text)
    if int in kinds and not kinds & {str, Any, object}:
        for found in values:
            if isinstance(found, str) and re.fullmatch(r"[+-]?0\d+", found):
                text = f"found {found!r}, expected {describe(annotation)}; write {where}={int(found)}"
                return Problem(where, text)
    return None


def describe(annotation: object) -> str:
    """A type in words: ``a number``, ``one of 'table', 'json'``."""
    if typing.get_origin(annotation) is typing.Annotated:
        return describe(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        return "one of " + ", ".join(show(v) for v in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(a) for a in typing.get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(show(m.value) for m in annotation)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    words |= {Path: "a path", dict: "a mapping", abc.Mapping: "a mapping", Any: "a value"}
    named = typing.get_origin(annotation) or annotation
    return next((word for kind, word in words.items() if kind is named), "a list")


@functools.lru_cache(maxsize=1024)
def _cached_model(annotation: object) -> type[BaseModel]:
    return create_model("Key", __config__=_KEY_MODEL, v=(typing.cast(Any, annotation), ...))


def _model_of(name: str, annotation: object) -> type[BaseModel]:
    try:
        return _cached_model(annotation)
    except TypeError:  # metadata that cannot be hashed
        return create_model(name, __config__=_KEY_MODEL, v=(typing.cast(Any, annotation), ...))


def _problems(error: ValidationError, where: str, annotation: object) -> list[Problem]:
    """One line a place; the alternatives of a union that did not fit are one line, too."""
    lines: dict[str, tuple[str, list[str]]] = {}
    for item in error.errors(include_url=False):
        inside = [str(part) for part in item["loc"][1:] if isinstance(part, int)]
        key = where + "".join(f"[{part}]" for part in inside)
        message = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        lines.setdefault(key, (show(item["input"]), []))[1].append(_plainer(message))
    return [
        Problem(key, f"found {found}, expected {' or '.join(dict.fromkeys(expected))}{_choices(annotation, found)}")
        for key, (found, expected) in lines.items()
    ]


def _plainer(message: str) -> str:
    message, _, why = message.partition(", ")
    for pydantic_words, ours in (
        ("a valid integer", "a whole number"),
        ("a valid number", "a number"),
        ("a valid string", "text"),
        ("a valid boolean", "true or false"),
        ("a valid list", "a list"),
        ("a valid tuple", "a list"),
        ("a valid dictionary", "a mapping"),
        ("an instance of Sequence", "a list"),
        ("None", "null"),
        ("a finite number", "a finite number"),
        ("greater than or equal to", "a number of at least"),
        ("less than or equal to", "a number of at most"),
        ("greater than", "a number above"),
        ("less than", "a number below"),
        ("String should match pattern", "text that matches"),
        ("String should have", "text of"),
    ):
        if message.startswith(pydantic_words):
            return ours + message.removeprefix(pydantic_words)
    return f"{message}, {why}" if why and "unable to parse" not in why and "fractional" not in why else message


def _choices(annotation: object, found: str) -> str:
    options = [v for v in _literals(annotation) if isinstance(v, str)]
    return near(found.strip("'"), options) if options else ""


def _unknown(schema: Schema, path: str, key: str, value: object) -> str:
    hint = near(key, schema.keys, prefix=f"{path}.")
    if not hint:
        hint = f"; its keys: {', '.join(schema.keys)}" if schema.keys else "; it has no keys"
    return f"found {show(value)}, but {schema.name} has no such key{hint}"


def _resolved(annotation: object, namespace: dict[str, object]) -> object:
    """The annotation as an object; None where it names what is imported for type checkers only, or is missing."""
    if annotation is inspect.Parameter.empty:
        return None
    if not isinstance(annotation, str):
        return annotation
    holder = types.SimpleNamespace(__annotations__={"v": annotation})
    try:
        return typing.get_type_hints(holder, globalns=namespace, include_extras=True)["v"]
    except (NameError, AttributeError):
        return None


def _flat(annotation: object) -> Iterable[object]:
    """The types that an annotation is made of."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _flat(typing.get_args(annotation)[0])
    elif origin is typing.Literal:
        yield from (type(v) for v in typing.get_args(annotation))
    elif origin is None:
        yield annotation
    else:
        if origin not in (typing.Union, types.UnionType):
            yield origin
        for argument in typing.get_args(annotation):
            if argument is not Ellipsis:
                yield from _flat(argument)


def _kind(annotation: object) -> Literal["key", "node", "component", "parts"]:
    if isinstance(annotation, type) and issubclass(annotation, Parts):
        return "parts"
    if isinstance(annotation, type) and is_dataclass(annotation):
        return "node"
    return "key" if annotation is not None and _is_plain(annotation) else "component"


def _is_plain(annotation: object) -> bool:
    return all(
        part in _PLAIN or part in _CONTAINERS or (isinstance(part, type) and issubclass(part, Enum))
        for part in _flat(annotation)
    )


def _allows_bool(annotation: object) -> bool:
    parts = set(_flat(annotation))
    return bool in parts or Any in parts or object in parts


def _literals(annotation: object) -> Iterable[object]:
    if typing.get_origin(annotation) is typing.Literal:
        yield from typing.get_args(annotation)
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        yield from (m.value for m in annotation)
    else:
        for argument in typing.get_args(annotation):
            yield from _literals(argument)
