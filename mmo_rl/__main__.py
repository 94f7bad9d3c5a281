"""Entry point, ``mmo-rl`` and ``python -m mmo_rl``: composes the config, runs the job or the sweep, and turns any error
into one short message and an exit code."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType

import hydra
import hydra._internal.hydra as hydra_internals
from hydra.errors import HydraException

from mmo_rl.cli.hydra_keys import CheckedConfigs
from mmo_rl.cli.job import job, outcome
from mmo_rl.cli.swept_keys import for_each_job
from mmo_rl.config.project import shipped
from mmo_rl.config.renamed import renamed_overrides
from mmo_rl.errors import ConfigError, MmoRlError
from mmo_rl.plain_text import harmless, write_whatever_it_can
from mmo_rl.version import __version__

INTERRUPTED = 130
SPIN_COUNT = "1000"
"""So often torch's threads look for each other before they sleep (libgomp reads it when torch is loaded; its own choice
is 300000). Beside other jobs a thread that waits so long for one that has no processor takes a whole slice of time, at
every layer of the model. The results are the same."""


def main() -> int:
    """Runs the command line; returns 0 (done), 1 (failed), 2 (wrong configuration or command), 3 (not ready) or 130
    (interrupted)."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra then raises its errors instead of printing them and leaving with code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    if not sys.warnoptions:
        # What one of these announces to another is nothing that a user of both can act on.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\b")
    _interrupt_when_ended()
    for stream in (sys.stdout, sys.stderr):
        write_whatever_it_can(stream)
    try:
        if (answer := _answer_without_hydra(sys.argv[1:])) is not None:
            print(harmless(answer))
            return 0
        if {"--help", "-h"} & set(sys.argv[1:]):  # Hydra would compose the overrides first, and refuse those of a sweep
            sys.argv[1:] = ["--help", *_config_dir(sys.argv[1:])]
        _refuse_secrets(sys.argv[1:])
        _refuse_dashes(sys.argv[1:])
        if any("latest" in argument for argument in sys.argv[1:]):
            from mmo_rl.config.latest import with_latest

            sys.argv[1:] = with_latest(sys.argv[1:])
        _start()
        if outcome.error is not None:
            raise outcome.error
        # A task that returns a whole number from 1 to 3 chooses its exit code; a metric is a float.
        return outcome.result if type(outcome.result) is int and outcome.result in (1, 2, 3) else 0
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues where this one stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left: `mmo-rl --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 (the top: every error ends here as a message)
        from mmo_rl.config.explain import explain
        from mmo_rl.report.mask import mask

        if wants_traceback:
            import traceback

            print(harmless(mask("".join(traceback.format_exception(error)))), file=sys.stderr, end="")
        told = error if isinstance(error, MmoRlError) else explain(error, sys.argv[1:])
        print(harmless(mask(f"mmo-rl: {told}")), file=sys.stderr)
        return told.exit_code


def _answer_without_hydra(arguments: list[str]) -> str | None:
    """Answers ``--version``, ``--help TOPIC`` and ``init [FOLDER]``; None for every other command."""
    if "--version" in arguments:
        return f"mmo-rl {__version__}"
    if arguments[:1] == ["init"]:
        from mmo_rl.cli.init import init

        return init(arguments[1:])
    flag = next((a for a in arguments if a in ("--help", "-h")), None)
    topics = [a for a in arguments[arguments.index(flag) + 1 :] if not a.startswith("-")] if flag else []
    directory = _config_dir(arguments)
    topics = [topic for topic in topics if topic not in directory]
    if not topics:
        return None
    from mmo_rl.cli.help_topics import topic_text

    config_dir = Path(directory[1]).resolve() if directory else None
    width = shutil.get_terminal_size().columns
    return "\n\n".join(topic_text(topic, config_dir=config_dir, width=width) for topic in topics)


def _config_dir(arguments: list[str]) -> list[str]:
    """``--config-dir`` and its folder, where the command line has them."""
    for place, argument in enumerate(arguments):
        flag, equals, folder = argument.partition("=")
        if flag in ("--config-dir", "-cd") and (equals or place + 1 < len(arguments)):
            return ["--config-dir", folder if equals else arguments[place + 1]]
    return []


def _start() -> None:
    """Has Hydra compose the config and run the job; a command that Hydra refuses is tried again with former names of
    keys under their present ones, and with keys of swept choices set in each job alone."""
    hydra_internals.ConfigLoaderImpl = CheckedConfigs  # type: ignore[attr-defined]  # it takes a loader from nobody
    start = hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name="config")(job)
    try:
        start()
    except HydraException:
        changed = for_each_job(renamed_overrides(sys.argv[1:]))
        if changed == sys.argv[1:]:
            raise
        sys.argv[1:] = changed
        start()


def _refuse_dashes(arguments: list[str]) -> None:
    """Raises `ConfigError` for ``--seed=1``, as other programs take it and W&B's agent writes it."""
    dashed = [a for a in arguments if a.startswith("--")]
    if not dashed:
        return
    from hydra._internal.utils import get_args_parser

    flags = {flag for action in get_args_parser()._actions for flag in action.option_strings}
    unknown = [a for a in dashed if a != "--" and not any(f.startswith(a.partition("=")[0]) for f in flags)]
    if unknown:
        written = " ".join(f"{a.lstrip('-')}{'' if '=' in a else '=VALUE'}" for a in unknown)
        raise ConfigError(
            f"found {' '.join(unknown)}, and keys have no dashes",
            hint=f"write {written}; W&B's agent writes it so with ${{args_no_hyphens}} in the command of its sweep",
        )


def _interrupt_when_ended() -> None:
    """Termination and a closed terminal end a run as Ctrl-C does, unless they are ignored, as by nohup."""
    for name in ("SIGTERM", "SIGHUP"):
        ends = getattr(signal, name, None)  # Windows knows no closed terminals
        if ends is not None and signal.getsignal(ends) == signal.SIG_DFL:
            signal.signal(ends, _interrupt)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Ends a run as Ctrl-C does: cleanly, with its state recorded."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # shells start what scripts put into the background so
        raise KeyboardInterrupt
    os.kill(os.getpid(), signal.SIGINT)


def _refuse_secrets(arguments: list[str]) -> None:
    # The check needs what start-up does not: it is loaded only where something could be a secret.
    telling = ("pass", "secret", "token", "key")
    if any("://" in a or len(a) > 30 or any(t in a.partition("=")[0].lower() for t in telling) for a in arguments):
        from mmo_rl.config.settings import refuse_secrets

        refuse_secrets([a for a in arguments if "=" in a])


if __name__ == "__main__":
    sys.exit(main())
