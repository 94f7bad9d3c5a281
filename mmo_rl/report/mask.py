"""Masking of secrets in everything that a run writes.

Three nets, because each alone has holes: values of environment variables whose names say that they are secret; shapes
that give a secret away (a password or key in a URL, the key formats of well-known services); and names in front of a
value (``judge.api_key=...``, ``password: ...``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

MASK = "***"
_SHORTEST = 6
_PUBLIC = frozenset({"postgres", "password", "changeme", "default", "example", "secret", "disabled", "offline"})
"""Stock values that protect nothing; masking them would blot out ordinary words of the text."""

_SECRET_WORDS = frozenset(
    {"key", "apikey", "token", "secret", "passwd", "password", "passphrase", "pgpassword"}
    | {"credential", "credentials", "dsn", "webhook"}
)
_NOT_THE_SECRET = ("_ENV", "_FILE", "_PATH", "_DIR", "_ID", "_NAME")

_WORD = (
    r"[\w-]*(?:password|passwd|passphrase|secret|credentials?|(?:api|access|private|secret|auth)[_-]?key|"
    r"(?<!pad_)(?<!eos_)(?<!bos_)(?<!unk_)token|dsn)"
)
_NAME = rf"(?:{_WORD}|\bkey)"
# Each part that may be tried at every place of a text has a bound: the time is linear in the length of any text.
_URL_PASSWORD = re.compile(
    r"""(?P<head>(?<=[a-z0-9+.-])://[^\s:/@'"]{0,512}:)(?:[^\s/'"]{0,512}|(?!\d+/)[^\s'"]{0,512})@""", re.IGNORECASE
)
_URL_PARAMETER = re.compile(
    r"""(?P<head>[?&](?:(?:api|access|subscription)[_-]?key|key|(?:access[_-]|auth[_-])?token|secret|sig(?:nature)?)=)"""
    r"""[^\s&#'"<>]{6,}""",
    re.IGNORECASE,
)
_KEY_SHAPES = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|"
    r"wandb_v\d_\w{16,}|eyJ[\w-]{10,512}\.[\w-]{10,}\.[\w-]+)"
)
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s,;&'"}]+)"""
_ASSIGNMENT = re.compile(rf"""(?P<head>(?<![\w-]){_NAME}['"]?\s?[=:]\s?){_VALUE}""", re.IGNORECASE)
_LITERAL = re.compile(
    rf"""(?P<head>(?<![\w-]){_WORD}['"]?\s*[=:]\s*)(?:"[^"\n]{{{_SHORTEST},}}"|'[^'\n]{{{_SHORTEST},}}')""",
    re.IGNORECASE,
)
_UNQUOTED = re.compile(
    rf"""^(?P<head>[+ -]?[ \t]{{0,80}}(?:export\s|set\s|-\s)?(?:\w{{1,40}}\.){{0,4}}{_NAME}"""
    r"""[ \t]{0,8}[=:][ \t]{0,8})"""
    r"""(?P<value>[^\s'"()\[\]{}<>,;]{8,512})(?P<end>[ \t]*(?:#.*)?)$""",
    re.IGNORECASE | re.MULTILINE,
)
"""A line of an environment file, a shell script or YAML."""
_NESTED = re.compile(
    rf"""(?P<head>(?<![\w-]){_WORD}\\?['"]\]?\s{{0,8}}[=:,]\s{{0,8}})(?P<quote>\\?['"])[^'"\\\n]{{{_SHORTEST},512}}(?P=quote)""",
    re.IGNORECASE,
)
"""A name and a value that are both texts of a program, or of a notebook's cell, which is a text itself."""
_HEADER = re.compile(
    r"""(?P<head>\b(?:authorization['"]?\s?[:=]\s?['"]?(?:bearer|basic|token)?|bearer|x-api-key['"]?\s?[:=])\s{0,8}['"]?)"""
    r"""(?=[^\s'"]{0,511}\d)[\w.~+/=-]{12,512}""",
    re.IGNORECASE,
)
_PRIVATE_KEY = re.compile(r"(?P<head>-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)(?:[^-]|-(?!----)){1,20000}")
_LOGIN = re.compile(
    r"(?P<head>\blogin\s+\S{1,100}\s+password\s+|\bwandb\s+login\s+(?:--\w{1,20}\s+)?)[^\s'\"]{8,}", re.IGNORECASE
)
_PGPASS = re.compile(r"^(?P<head>[+ -]?[^:\s]{1,200}:(?:\d{1,5}|\*):[^:\s]{1,100}:[^:\s]{1,100}:)\S{6,}$", re.MULTILINE)
_HEX_KEY = re.compile(r"\b[0-9a-f]{40}\b")
"""A key of W&B, or the hash of a commit: masked in the changed lines of a patch alone."""
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)


def mask(text: str, *, environ: Mapping[str, str] | None = None) -> str:
    """Masks ``text``: the passwords of URLs, known key formats and values of secret environment variables.

    Meant for any text, program code included: it leaves ``token = next(tokens)`` alone, and masks
    ``token = "literal"``.
    """
    return masker(environ=environ)(text)


def masker(*, environ: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """Returns `mask` for many texts: the environment is searched for secrets once, which takes most of the time."""
    secrets = _environment_secrets(os.environ if environ is None else environ)

    def masked(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, MASK)
        text = _URL_PASSWORD.sub(rf"\g<head>{MASK}@", text)
        text = _URL_PARAMETER.sub(rf"\g<head>{MASK}", text)
        text = _KEY_SHAPES.sub(MASK, text)
        text = _LITERAL.sub(rf"\g<head>{MASK}", text)
        text = _NESTED.sub(rf"\g<head>\g<quote>{MASK}\g<quote>", text)
        for shape in (_HEADER, _PRIVATE_KEY, _LOGIN, _PGPASS):
            text = shape.sub(rf"\g<head>{MASK}", text)
        return _UNQUOTED.sub(_without_value, text)

    return masked


def mask_patch(patch: str) -> str:
    """Masks a patch of git: as `mask`, and 40 hex digits in its changed lines."""
    lines = mask(patch).split("\n")
    return "\n".join(
        _HEX_KEY.sub(MASK, line) if line[:1] in ("+", "-", " ") and line[:4] not in ("+++ ", "--- ") else line
        for line in lines
    )


def _without_value(found: re.Match[str]) -> str:
    """Masks the value of an unquoted assignment where it is no word and no expression: it has letters and digits."""
    value = found["value"]
    literal = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    expression = re.fullmatch(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", value) is not None
    variable = value.startswith("$") or value == MASK
    return found[0] if variable or expression or not literal else f"{found['head']}{MASK}{found['end']}"


def mask_argument(text: str, *, environ: Mapping[str, str] | None = None) -> str:
    """Masks a command line argument or override, in which ``name=value`` is always literal: ``key=...``,
    ``password=...``, ``+judge.api_key=...`` lose their value. ``api_key_env=NAME`` names a variable and stays."""
    return _ASSIGNMENT.sub(rf"\g<head>{MASK}", mask(text, environ=environ))


def mask_arguments(arguments: Iterable[str], *, environ: Mapping[str, str] | None = None) -> list[str]:
    """Masks each argument as `mask_argument` does, with the value that follows a bare ``--api-key`` masked too."""
    masked: list[str] = []
    value_is_secret = False
    for argument in arguments:
        masked.append(MASK if value_is_secret else mask_argument(argument, environ=environ))
        value_is_secret = argument.startswith("--") and _SECRET_NAME.fullmatch(argument[2:]) is not None
    return masked


def mask_tree(value: Any, *, environ: Mapping[str, str] | None = None) -> Any:
    """Copies nested mappings and lists with every text masked, and every text under a secret name blotted out."""
    return _masked_tree(value, masker(environ=environ))


def _masked_tree(value: Any, masked: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {
            str(k): MASK if isinstance(v, str) and v and _SECRET_NAME.fullmatch(str(k)) else _masked_tree(v, masked)
            for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_masked_tree(v, masked) for v in value]
    return value


def _environment_secrets(environ: Mapping[str, str]) -> list[str]:
    """Values of secret variables, the longest first, so that a secret that contains another is masked whole."""
    found: set[str] = set()
    for name, value in environ.items():
        if _names_a_secret(name):
            found.add(value)
        if "://" in value and "@" in value:
            found.update(_url_password(value))
    return sorted((s for s in found if len(s) >= _SHORTEST and s.lower() not in _PUBLIC), key=len, reverse=True)


def _names_a_secret(name: str) -> bool:
    upper = name.upper()
    return not upper.endswith(_NOT_THE_SECRET) and not _SECRET_WORDS.isdisjoint(upper.lower().split("_"))


def _url_password(url: str) -> tuple[str, ...]:
    try:
        password = urlsplit(url).password
    except ValueError:
        return ()
    return () if password is None else (password, unquote(password))
