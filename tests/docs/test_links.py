"""Links of README and docs lead somewhere, on GitHub and in the site, and the site loads nothing from the network."""

from __future__ import annotations

import os
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmo_rl.config import extensions
from tests.docs.pages import PAGES, ROOT, blocks, inline_code, prose, text

LOADS = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?https?://")
EXAMPLE = re.compile(r"[A-Z]{3}|strict|Strict|bold")
"""Placeholders in capitals, and the names of the pages' own examples."""
ENTRY_POINTS = ("mmo_rl.conf", extensions.COMPONENTS, extensions.STRATEGIES)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_and_their_anchors_exist(page: str) -> None:
    for target, anchor in LINK.findall(prose(page)):
        if "://" in target:
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(path), f"{page} links to {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_paths_and_objects_named_in_prose_exist(page: str) -> None:
    named = [code for code in inline_code(page) if not EXAMPLE.search(code)]
    paths = [code for code in named if re.fullmatch(r"(mmo_rl|conf|tests|docs|experiments|benchmarks)/[\w./]*", code)]
    assert [path for path in paths if not (ROOT / path).exists() and not (ROOT / "example" / path).exists()] == []
    objects = [code for code in named if re.fullmatch(r"mmo_rl(\.\w+)+", code)]
    assert [name for name in objects if name not in ENTRY_POINTS and pydoc.locate(name) is None] == []


def test_the_readme_is_a_page() -> None:
    assert len(text("README.md").encode()) <= 10_000
    everyday = next(content for _, content, _ in blocks("README.md") if "mmo-rl --help" in content)
    assert sum("mmo-rl" in line for line in everyday.splitlines()[1:]) == 10


def test_pictures_are_small() -> None:
    assert {p.name for p in (ROOT / "docs" / "images").glob("*.png") if p.stat().st_size > 300_000} == set()


def test_the_site_builds_strictly_and_loads_nothing_from_the_network(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").glob("*.html"))
    assert len(pages) > 12
    for page in pages:
        loads = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(https?://[^\"\s>]+)", page.read_text()
        )
        assert not loads, page.name
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\([\"']?https?://|@import", style.read_text()), style.name


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", prose(str(path.resolve().relative_to(ROOT))), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
