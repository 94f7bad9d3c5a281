"""The viewer's pages as a folder of files, which needs no server: runs, the windows that they judged, trajectories."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from mmo_rl import files
from mmo_rl.report.runs import Listed
from mmo_rl.view.app import ASSETS, FOLDER
from mmo_rl.view.library import Library
from mmo_rl.view.pages import PER_PAGE, run_page, runs_page, trajectory_page, window_page, windows_page
from mmo_rl.view.places import Place, relative


async def write_static(library: Library, runs: Sequence[Listed], output: Path) -> AsyncIterator[Path]:
    """Writes the pages of ``runs``, each path as it is written; a page that there is already is replaced."""
    output.mkdir(parents=True, exist_ok=True)
    for name in ASSETS:
        shutil.copyfile(FOLDER / name, output / name)
        yield output / name
    places: dict[str, Place] = {}
    for listed in runs:
        run = (listed.name, listed.path.name)
        judged = list(dict.fromkeys(group.group_id for group in library.judged(library.folder(run))))
        for number in range(max(1, -(-len(judged) // PER_PAGE))):
            here = Place(run=run, page=number)
            yield _write(output, here, run_page(library, run, relative(here), page=number))
        for group in judged:
            seen = await library.judged_group(run, group)
            here = Place(run=run, group=group)
            places.setdefault(group, here)
            yield _write(output, here, window_page(library, seen, here, relative(here)))
            for member in seen.group.members:
                there = Place(run=run, group=group, trajectory=member.trajectory_id)
                yield _write(output, there, trajectory_page(library, seen, there, relative(there)))
    for number in range(max(1, -(-len(runs) // PER_PAGE))):
        here = Place(page=number)
        yield _write(output, here, runs_page(runs, relative(here), page=number))
    counts = await library.windows()
    for number in range(max(1, -(-len(counts) // PER_PAGE))):
        here = Place(listing="windows", page=number)
        page = windows_page(counts, library.rules, relative(here), page=number, places=places)
        yield _write(output, here, page)


def _write(output: Path, place: Place, page: str) -> Path:
    path = output / place.file()
    path.parent.mkdir(parents=True, exist_ok=True)
    return files.write_text(path, page)
