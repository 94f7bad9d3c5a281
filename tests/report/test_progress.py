"""Progress bars of a run: stages that belong together move one bar, which knows the time left."""

from __future__ import annotations

import io

from mmo_rl.report.progress import Stages
from mmo_rl.terminal import Terminal


def test_a_part_moves_with_every_tick_of_its_stages() -> None:
    out = io.StringIO()
    console = Terminal(file=out, width=120, force_terminal=True)
    with Stages(console=console, iterations=1) as stages, stages.part("evaluation", stages=2):
        seen = [stages.reached()]
        for label in ("base", "trained"):
            with stages.stage("evaluate", label) as advance:
                for tick in (1, 2, 3, 4):
                    advance(tick, 4)
                    seen.append(stages.reached())
            seen.append(stages.reached())
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.25, 1.5, 1.75, 2.0, 2.0]
    assert stages.reached() is None
    assert "evaluation" in out.getvalue() and "left" in out.getvalue()
