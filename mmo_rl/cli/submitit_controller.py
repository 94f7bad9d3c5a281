"""Controller process of a job that submitit runs on this machine: ends without a traceback when it is interrupted.

python -m mmo_rl.cli.submitit_controller FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

MODULE = "mmo_rl.cli.submitit_controller"
SUBMITITS = "submitit.local._local"
"""The module that submitit starts instead; its tracebacks would lie over the table of an interrupted sweep."""


def main(folder: Path) -> int:
    """Runs the job in ``folder`` as submitit does; returns the exit code."""
    from submitit.local.local import Controller

    try:
        Controller(folder).run()
    except KeyboardInterrupt:  # the job was interrupted too, and has recorded it
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
