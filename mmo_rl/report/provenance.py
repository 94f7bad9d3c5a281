"""Provenance of a run: code, packages, arguments, seeds and data, in provenance.json and git.patch."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType

from mmo_rl.clock import utc_now
from mmo_rl.report.mask import mask, mask_arguments, mask_patch
from mmo_rl.report.run_folder import RunFolder, jsonable
from mmo_rl.types import JsonDict

LOCK_FILES = ("*.lock", "constraints*.txt", "constraints/*.txt", "requirements*.txt")
PATCH_LIMIT = 2_000_000
UNTRACKED_LIMIT = 200
GIT_TIMEOUT_S = 20.0


def write_provenance(
    folder: RunFolder,
    *,
    project_root: Path,
    argv: Sequence[str],
    config: Mapping[str, object],
    seeds: Mapping[str, int],
    data: Mapping[str, object] | None = None,
    outside: Mapping[str, object] | None = None,
) -> JsonDict:
    """Writes provenance.json, and git.patch where tracked files differ from the commit; returns what was written.

    ``project_root`` is where git and lock files are looked for; neither need exist. ``seeds`` by purpose; ``data``
    is the fingerprint of what is trained on (`data_fingerprint`), None before it is known: call again then;
    ``outside`` is the record of code and choices from outside this package (None: there are none). Secrets are masked
    in all that is written; a patch that had one says so and no longer applies as it is.
    """
    here, patch = surroundings(project_root)
    if patch:
        masked = mask_patch(patch)
        here["git"] |= {"patch": "git.patch", "patch_masked": masked != patch}
        folder.write_text("git.patch", masked)
    provenance = {
        "written": utc_now().isoformat(timespec="seconds"),
        "argv": mask_arguments(argv),
        "config_sha256": resolved_config_sha256(config),
        "seeds": dict(seeds),
        "data": data,
        **({"outside": outside} if outside else {}),
        **here,
    }
    folder.write_provenance(provenance)
    return provenance


def repeat_command(folder: RunFolder) -> str:
    """Returns the command of a run as a line for a shell, with what it added to the search path (``--config-dir``)."""
    outside = (folder.provenance() or {}).get("outside") or {}
    return shlex.join(["mmo-rl", *outside.get("arguments", ()), *folder.overrides()])


def surroundings(project_root: Path) -> tuple[JsonDict, str]:
    """Present interpreter, packages, lock files and state of the code, and its difference from the commit as a patch
    (not masked; empty where there is none, or too much to keep)."""
    git, patch = _git(project_root)
    return {
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "git": git,
        "lock_sha256": _lock_files(project_root),
        "packages": dict(_packages()),
    }, patch


def resolved_config_sha256(config: Mapping[str, object]) -> str:
    """Hash of a resolved config: the same for the same values, whatever the order of its keys."""
    text = json.dumps(jsonable(config), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def data_fingerprint(trajectory_ids: Sequence[str], **facts: object) -> dict[str, object]:
    """Fingerprint of a run's data: the number of trajectories, the hash of their ids in the order of their use, and
    ``facts`` such as the schema version."""
    digest = hashlib.sha256("\n".join(trajectory_ids).encode()).hexdigest()
    return {"trajectories": len(trajectory_ids), "ids_sha256": digest, **facts}


SECRET_FILES = (
    *(".env*", ".netrc", ".pgpass", "id_rsa*", "id_ed25519*"),
    *("*.pem", "*.key", "*.p12", "*secret*", "*credential*"),
)
"""Names of files that hold secrets: their changes stay out of git.patch."""


def _git(root: Path) -> tuple[JsonDict, str]:
    """The state of the work tree, and its difference from the commit; ``unavailable`` says why there is none."""
    if shutil.which("git") is None:
        return {"unavailable": "git is not installed"}, ""
    inside = _run_git(root, "rev-parse", "--is-inside-work-tree")
    if isinstance(inside, OSError) or inside.strip() != "true":
        return {"unavailable": str(inside) if isinstance(inside, OSError) else "not a git work tree"}, ""
    commit = _run_git(root, "rev-parse", "--verify", "HEAD")
    left_out = [f":(exclude,icase,glob)**/{pattern}" for pattern in SECRET_FILES]
    patch = _run_git(root, "diff", "HEAD", "--no-ext-diff", "--no-color", "--binary", ".", *left_out)
    untracked = _run_git(root, "ls-files", "--others", "--exclude-standard", "-z", ".")
    if isinstance(commit, OSError):
        return {"unavailable": "no commit yet"}, ""
    if isinstance(patch, OSError) or isinstance(untracked, OSError):
        return {"commit": commit.strip(), "dirty": None, "unavailable": f"{patch!s:.200}"}, ""
    names = [name for name in untracked.split("\0") if name]
    state: JsonDict = {
        "commit": commit.strip(),
        "dirty": bool(patch or names),
        "untracked": [mask(name) for name in names[:UNTRACKED_LIMIT]],
        "untracked_count": len(names),
    }
    if patch:
        state["patch_sha256"] = hashlib.sha256(patch.encode()).hexdigest()
    if len(patch) > PATCH_LIMIT:
        return {**state, "patch": None, "unavailable": f"the patch has {len(patch)} characters"}, ""
    return state, patch


def _run_git(root: Path, *arguments: str) -> str | OSError:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return OSError(f"git {arguments[0]}: {error}")
    if done.returncode:
        return OSError(mask(done.stderr.decode(errors="replace").strip()) or f"git {arguments[0]} failed")
    return done.stdout.decode(errors="surrogateescape").encode(errors="replace").decode()


def _lock_files(root: Path) -> dict[str, str]:
    paths = sorted({path for pattern in LOCK_FILES for path in root.glob(pattern) if path.is_file()})
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@cache
def _packages() -> Mapping[str, str]:
    """Installed distributions by name; a broken one (no name in its metadata) is left out. They are read once a
    process: what it has imported stays what it was, and each look at a distribution parses its metadata anew."""
    from importlib.metadata import distributions

    told = (distribution.metadata for distribution in distributions())
    found = {str(one["Name"]): str(one["Version"]) for one in told if one["Name"]}
    return MappingProxyType(dict(sorted(found.items(), key=lambda item: item[0].lower())))
