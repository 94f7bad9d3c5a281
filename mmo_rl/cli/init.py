"""``mmo-rl init [FOLDER]``: writes a project folder with an example of everything that one can add."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mmo_rl.config.project import shipped
from mmo_rl.errors import ConfigError
from mmo_rl.files import write_bytes

NAMES = {"gitignore": ".gitignore"}
"""Files that have another name in the example, where they would already have an effect."""


def init(arguments: Sequence[str]) -> str:
    """Copies the example into a folder (default: the working directory); returns what to type next.

    Raises `ConfigError` where a file of that name exists: nothing is written then.
    """
    if len(arguments) > 1 or any(argument.startswith("-") or "=" in argument for argument in arguments):
        raise ConfigError(f"found {shlex.join(['init', *arguments])}, expected a folder", hint="mmo-rl init my_market")
    folder = Path(*arguments).expanduser().resolve()
    example = shipped("example")
    files = {
        path: folder / path.relative_to(example).with_name(NAMES.get(path.name, path.name))
        for path in sorted(example.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    existing = [target for target in files.values() if target.exists()]
    if existing:
        raise ConfigError(
            f"{existing[0]} exists; nothing was written" + (f" ({len(existing)} files exist)" if existing[1:] else ""),
            hint="name a new folder: mmo-rl init my_market",
        )
    for path, target in files.items():
        write_bytes(target, path.read_bytes())
    listed = "\n".join(f"  {target.relative_to(folder)}" for target in files.values())
    enter = "" if folder == Path.cwd() else f"  cd {shlex.quote(str(folder))}\n"
    return f"Written to {folder}:\n{listed}\nNext:\n{enter}  mmo-rl +experiments=strict_judge"
