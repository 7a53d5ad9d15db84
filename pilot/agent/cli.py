"""The command ``pilot``: finds the command's module, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import signal
import sys

if os.getpid() == 1:
    # The kernel drops a TERM that PID 1 has no handler for, and the pod would wait for its KILL: until the
    # command has its own, leave at once.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))

import click

from pilot import __version__
from pilot.agent.logs import log_without_handler
from pilot.processes.child import close_to_others
from pilot.values.errors import PilotError, UsageError
from pilot.values.events import events
from pilot.values.printable import line
from pilot.values.redaction import Redactor

COMMANDS = {
    "run": "take jobs from a PanDA server and run them (the entrypoint of a pod)",
    "recover": "bring a job that a pilot has left in its journal to its end",
    "copy": "move files between storages and this machine, by hand",
    "probe": "tell what a job can be given here, or whether the pilot in this pod is alive",
    "try": "run one job here, with a server started for it",
    "tune": "run a hyper-parameter study here, likewise",
    "serve": "the embedded PanDA server",
    "submit": "give a job or a study to an embedded server",
    "status": "ask an embedded server what became of a job or a study",
}


class _Lazy(click.Group):
    """Imports a command's module when it is called: `pilot run` shall not wait for the others' imports."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"pilot.agent.commands.{cmd_name}_command")
        command = module.command
        if not isinstance(command, click.Command):
            raise TypeError(f"{module.__name__}.command is no click command")
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pilot")
def pilot() -> None:
    """Run PanDA jobs in Kubernetes pods, and try them on your own machine."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code. What a user did wrong is one line on stderr."""
    close_to_others()
    redactor = Redactor()
    log_without_handler(redactor)
    try:
        code = pilot.main(arguments, prog_name="pilot", standalone_mode=False, obj=redactor)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.ClickException, PilotError, KeyboardInterrupt, click.Abort) as error:
        message, code = _told(error)
        _complain(message, redactor)
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to be said
        sys.stderr.close()
        code = 1
    except Exception as error:  # noqa: BLE001 - main: a fault of ours is one line too, its traceback is in the log
        events(__name__).crash("the pilot failed", error)
        _complain(f"internal error: {type(error).__name__}: {error}", redactor)
        code = 1
    return code if isinstance(code, int) else 0


def _complain(message: str, redactor: Redactor) -> None:
    """The one line that a failure says."""
    print("pilot:", " ".join(line(redactor.clean(message)).split()), file=sys.stderr)  # noqa: T201


def _told(error: BaseException) -> tuple[str, int]:
    """What is said of an error, and the exit code that goes with it."""
    if isinstance(error, PilotError):
        return str(error), error.exit_code
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "pilot"
        return f"{error.format_message()} (see {where} --help)", UsageError.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), UsageError.exit_code
    return "interrupted", 130
