"""Help on a config group, ``mmo-rl --help judge``, and on a choice, ``mmo-rl --help judge=ruler``: the keys with their
comments from the YAML file, and types, ranges and defaults from the signature of the class."""

from __future__ import annotations

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import yaml  # type: ignore[import-untyped]
from pydantic.fields import FieldInfo

from mmo_rl.config.hints import near, show
from mmo_rl.config.project import choice_folders, project_root, searched, shipped
from mmo_rl.config.schema import TARGET, Parameter, describe, load, schema_of
from mmo_rl.config.tasks import TASKS
from mmo_rl.errors import ConfigError

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z_][\w.\-]*):(?P<rest>.*)$")
_COMMENT = re.compile(r"(?:^|\s)#\s?(?P<text>.*)$")
_RANGES = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "of length at least"}
_INDENT = "      "


@dataclass
class Commented:
    """A YAML file, or several merged: its first comment, its values, and the comment of each key by its path."""

    head: list[str] = field(default_factory=list)
    values: dict[str, object] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)


def topic_text(topic: str, *, config_dir: Path | None = None, width: int = 100) -> str:
    """Returns the help on a group, or on a choice of one. Raises `ConfigError` where there is none."""
    group, _, choice = topic.lstrip("+").partition("=")
    folders = _folders(group, config_dir)
    names = {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.yaml"))}
    if not names:
        known = sorted(
            {path.parent.relative_to(shipped("conf")).as_posix() for path in shipped("conf").glob("*/**/*.yaml")}
        )
        raise ConfigError(f"there is no group {group}{near(group, known)}", hint=f"groups: {', '.join(known)}")
    if not choice:
        return _group_text(group, names)
    if choice not in names:
        hint = near(choice, names, prefix=f"{group}=")
        raise ConfigError(f"Could not find '{group}/{choice}'{hint} (looked in {searched()})")
    return _choice_text(group, choice, names[choice], folders, width)


def _folders(group: str, config_dir: Path | None) -> list[Path]:
    """The folders of a group, the one that wins first."""
    if group == "experiments":
        return [project_root() / group, shipped(group)]
    tops = [*choice_folders(), shipped("conf"), *([config_dir] if config_dir is not None else [])]
    return [top / group for top in tops]


def _group_text(group: str, names: Mapping[str, Path]) -> str:
    width = max(map(len, names))
    lines = [f"{group}=NAME"]
    for name, path in sorted(names.items()):
        head = read(path).head
        mine = (
            "" if path.is_relative_to(shipped("conf")) or path.is_relative_to(shipped("experiments")) else f" [{path}]"
        )
        lines.append(f"  {name:<{width}}  {head[0] if head else ''}{mine}")
    return "\n".join([*lines, "", f"The keys of one: mmo-rl --help {group}={next(iter(sorted(names)))}"])


def _choice_text(group: str, choice: str, path: Path, folders: Sequence[Path], width: int) -> str:
    merged = _merged(path, folders)
    lines = [f"{group}={choice}    {path}", *(f"  {line}" for line in merged.head), ""]
    node = merged.values
    if group == "experiments":
        return "\n".join([*lines, path.read_text("utf-8").rstrip()])
    prefix = choice if group == "task" else group.replace("/", ".")
    target = node.get(TARGET)
    if group == "task":
        inner = node.get(choice)
        node = dict(inner) if isinstance(inner, dict) else {}
        parameters = schema_of(cast(Callable[..., object], TASKS[choice])).parameters if choice in TASKS else {}
        lines.append("Keys of the task:" if parameters else "The task has no keys of its own.")
    elif isinstance(target, str) and not group.startswith("hydra/"):
        lines.append(f"Keys, of {target}:")
        try:
            parameters = schema_of(load(target)).parameters
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None
    else:
        parameters = {}
    comments = merged.comments if group != "task" else {k.partition(".")[2]: v for k, v in merged.comments.items()}
    if parameters:
        lines += _parameter_lines(parameters, node, prefix, "", comments, width)
    else:
        for key, value in node.items():
            if not key.startswith("_"):
                lines += _key_lines(f"{prefix}.{key}", show(value), "", comments.get(key, ""), width)
    return "\n".join(lines)


def _parameter_lines(
    parameters: Mapping[str, Parameter],
    node: Mapping[str, object],
    prefix: str,
    below: str,
    comments: Mapping[str, str],
    width: int,
) -> Iterator[str]:
    for name, parameter in parameters.items():
        comment = comments.get(f"{below}{name}", "")
        value = node.get(name, parameter.default)
        if parameter.kind == "node":
            inner = value if isinstance(value, Mapping) else {}
            yield from _parameter_lines(
                schema_of(parameter.annotation).parameters,
                inner,
                f"{prefix}.{name}",
                f"{below}{name}.",
                comments,
                width,
            )
        elif parameter.kind == "key":
            empty = value is inspect.Parameter.empty or callable(value)
            default = ""
            if (
                name in node
                and not parameter.required
                and not callable(parameter.default)
                and value != parameter.default
            ):
                default = f"; default of the class {_shown(parameter.default)}"
            yield from _key_lines(
                f"{prefix}.{name}",
                "" if empty else _shown(value),
                f"{in_words(parameter.annotation)}{default}",
                comment,
                width,
            )
        elif parameter.kind == "component":
            yield from _key_lines(f"{prefix}.{name}", "", f"a choice: {prefix}/{name}=NAME", comment, width)


def _key_lines(key: str, value: str, kind: str, comment: str, width: int) -> Iterator[str]:
    yield f"  {key}={value}" + (f"    {kind}" if kind else "")
    yield from textwrap.wrap(comment, width, initial_indent=_INDENT, subsequent_indent=_INDENT)


def _shown(value: object) -> str:
    return show(list(value) if isinstance(value, tuple) else value).strip("'")


def in_words(annotation: object) -> str:
    """Returns a type with its range in words: ``a number at least 0 and below 1, or null``."""
    if typing.get_origin(annotation) is typing.Annotated:
        base, *metadata = typing.get_args(annotation)
        bounds = [b for m in metadata for b in (m.metadata if isinstance(m, FieldInfo) else [m])]
        parts = [f"{word} {getattr(b, name):g}" for b in bounds for name, word in _RANGES.items() if hasattr(b, name)]
        return f"{in_words(base)} {' and '.join(parts)}".rstrip()
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(in_words(a) for a in typing.get_args(annotation)))
    return describe(annotation)


# --- YAML with comments -----------------------------------------------------------------------------------------------


def read(path: Path) -> Commented:
    """Reads a YAML file with the comments of its keys: those at the end of a key's line, else those right above it."""
    text = path.read_text("utf-8")
    loaded = yaml.safe_load(text)
    found = Commented(values=loaded if isinstance(loaded, dict) else {})
    above: list[str] = []
    parents: list[tuple[int, str]] = []
    block: int | None = None
    started = False
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip(" "))
        if block is not None and (not line.strip() or indent > block):
            continue
        block = None
        stripped = line.strip()
        if stripped.startswith("#"):
            if not stripped.startswith("# @package"):
                (above if started else found.head).append(stripped.removeprefix("#").removeprefix(" "))
            continue
        match = _KEY.match(line)
        started = started or bool(stripped)
        if match is None:
            above = []
            continue
        while parents and parents[-1][0] >= indent:
            parents.pop()
        rest = match["rest"]
        comment = _COMMENT.search(_without_quoted(rest))
        key = ".".join([*(name for _, name in parents), match["key"]])
        told = rest[comment.start("text") :].strip() if comment is not None else " ".join(above)
        if told:
            found.comments[key] = told
        above = []
        value = rest[: comment.start()].strip() if comment is not None else rest.strip()
        if value.startswith(("|", ">")):
            block = indent
        elif not value:
            parents.append((indent, match["key"]))
    return found


def _without_quoted(text: str) -> str:
    """Replaces quoted parts by blanks of the same length."""
    return re.sub(r"\"[^\"]*\"|'[^']*'", lambda quoted: " " * len(quoted[0]), text)


def _merged(path: Path, folders: Sequence[Path]) -> Commented:
    """Reads a choice and the choices of its group that it builds upon; its own values and comments win."""
    own = read(path)
    merged = Commented(head=own.head)
    defaults = own.values.pop("defaults", ["_self_"])
    names = defaults if isinstance(defaults, list) else []
    for name in [*names, *(["_self_"] if "_self_" not in names else [])]:
        if name == "_self_":
            part: Commented | None = own
        else:
            file = next((f / f"{name}.yaml" for f in folders if (f / f"{name}.yaml").is_file()), None)
            part = None if not isinstance(name, str) or file is None or file == path else _merged(file, folders)
        if part is not None:
            merged.values = _deep(merged.values, part.values)
            merged.comments |= part.comments
    return merged


def _deep(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    merged = dict(below)
    for key, value in above.items():
        before = merged.get(key)
        merged[key] = _deep(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged
