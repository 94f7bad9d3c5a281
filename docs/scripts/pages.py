"""MkDocs hook: pages of the site that lie outside docs/, and links to them as GitHub reads them.

CONTRIBUTING.md, CHANGELOG.md and experiments/README.md become pages; keys.md is made of the YAML files in conf/.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "experiments/README.md": "experiments.md",
    "experiments/dropout.svg": "images/dropout.svg",
}
"""Files of the repository and their place in the site."""
PLACES = {**OUTSIDE, "conf": "keys.md"}
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside docs/ and the page of all keys."""
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text("utf-8")))
    files.append(File.generated(config, "keys.md", content=keys_page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites relative links so that they lead to the places of the site."""
    sources = {place: source for source, place in OUTSIDE.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return LINK.sub(lambda found: _link(found, source), markdown)


def keys_page() -> str:
    """A section for each config group, with every choice's YAML file as it is."""
    parts = [
        "# Every key",
        "Which keys does a choice have, with which defaults? The YAML files of `conf/`, as they are. A file that "
        "begins with `defaults:` holds only what differs from the choice that it names.",
        _section("The top", ROOT / "conf" / "config.yaml"),
    ]
    for folder in sorted(f for f in (ROOT / "conf").rglob("*") if f.is_dir() and any(f.glob("*.yaml"))):
        group = folder.relative_to(ROOT / "conf").as_posix()
        if group.startswith("hydra/") and group not in ("hydra/launcher", "hydra/sweeper"):
            continue
        parts.append(f"## {group}")
        parts += [_section(f"{group}={path.stem}", path, level=3) for path in sorted(folder.glob("*.yaml"))]
    return "\n\n".join(parts) + "\n"


def _section(title: str, path: Path, level: int = 2) -> str:
    return f"{'#' * level} {title}\n\n````yaml\n{path.read_text('utf-8').rstrip()}\n````"


def _link(found: re.Match[str], source: str) -> str:
    before, target, anchor, after = found.groups(default="")
    if "://" in target or target.startswith("mailto:"):
        return found.group(0)
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    place = PLACES.get(inside, inside.removeprefix("docs/"))
    return f"{before}{place}{anchor}{after}"
