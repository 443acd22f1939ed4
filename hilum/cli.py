"""The command ``hilum``: finds its sub-commands, and shows every failure as a readable message.

Exit codes: 0 success; 2 wrong usage, or an error that stopped the command; 3 partly done (see each
command); 70 a bug in hilum; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import click

from hilum import __version__, logs
from hilum.errors import HilumError, MissingExtraError
from hilum.errors.guarding import OUR_PACKAGES, place_of

log = logging.getLogger(__name__)

EXIT_USAGE: Final = 2
EXIT_PARTLY: Final = 3
EXIT_SOFTWARE: Final = 70  # sysexits.h EX_SOFTWARE
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT
EXIT_PIPE: Final = 141  # 128 + SIGPIPE: the reader closed stdout

# For `hilum --help`, which must not import the commands, because some are not installed.
_SUMMARIES: Final = {
    "score": "Score chest films from files, folders or S3.",
    "package": "Verify, inspect, compare, sign and pack model packages.",
    "recalibrate": "Make a new version of a package with another calibration.",
    "rethreshold": "Make a new version of a package with other operating points.",
    "doctor": "Check this machine, and say which engine it would use and why.",
    "engine": "Build, list and remove TensorRT plans for this machine's GPU.",
    "tune": "Measure the best number of threads and batch size on this machine.",
    "cache": "Manage the prepared-image cache.",
    "db": "Create and upgrade the SQL schema.",
    "jobs": "List, cancel and retry jobs, and release them from quarantine.",
    "feedback": "Export what readers said of findings.",
    "keys": "Manage the API keys of the gateway.",
    "audit": "Verify the audit of what operators and readers did.",
    "demo": "Start the whole system on this machine.",
    "settings": "Show the settings in force.",
    "worker": "Run an inference worker.",
    "gateway": "Run the HTTP gateway.",
    "train": "Train a model.",
    "cohort": "Generate the synthetic cohort.",
    "manifest": "Write the data-set table for training.",
    "export": "Make a model package from a checkpoint.",
    "import": "Make a model package from weights that others have trained.",
}
_EXTRAS: Final = {"worker": "serve", "gateway": "serve", "demo": "serve,embedded"} | dict.fromkeys(
    ("train", "cohort", "manifest", "export", "import", "recalibrate", "rethreshold"), "train"
)


_SERVICES: Final = ("gateway", "worker")  # read by machines; the others by people


class _ReaderGone(Exception):  # noqa: N818 - not an error: `| head` has read enough
    """The reader of stdout has closed it."""


class HilumGroup(click.Group):
    """A click group whose commands are entry points. Each is imported when it is used."""

    def __init__(self, *, entry_point_group: str, **extra: Any) -> None:
        super().__init__(**extra)
        self._entry_point_group = entry_point_group

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands, from the installed metadata."""
        return sorted(self._found())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command.

        Raises:
            MissingExtraError: a package that the command needs is not installed.
        """
        point = self._found().get(cmd_name)
        if point is None:
            return None
        try:
            command: click.Command = point.load()
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] in OUR_PACKAGES:
                raise
            extra = _EXTRAS.get(cmd_name, "serve")
            raise MissingExtraError(
                f"`hilum {cmd_name}` needs {error.name}: install `hilum[{extra}]`."
            ) from None
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands for ``--help``, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _SUMMARIES.get(name, "")) for name in self._found()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command; before anything of it is imported, say how this process logs."""
        _configure_log(args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and hide a closed pipe from click, which would exit with 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGone from None

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command, and exit the process with the exit code."""
        extra["standalone_mode"] = False
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A file name that the terminal cannot encode must not end the command.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            code = super().main(*args, **extra)
            sys.stdout.flush()  # raises here, and not at interpreter exit, if the reader is gone
        except HilumError as error:
            show_error(error)
            code = EXIT_USAGE
        except click.ClickException as error:
            if logs.is_json():
                logs.event(log, logging.ERROR, "command.failed", detail=error.format_message())
            else:
                error.show()
            code = error.exit_code
        except click.Abort:
            _say("Stopped.")
            code = EXIT_INTERRUPTED
        except (_ReaderGone, BrokenPipeError):
            # At exit the interpreter flushes stdout again, which would print an error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = EXIT_PIPE
        except Exception as error:
            if _debugging() and not logs.is_json():
                raise
            place = f"{type(error).__name__} in {place_of(error.__traceback__)}"
            _say(
                f"Internal error ({place}). This is a bug: please report it, with what hilum "
                "prints under HILUM_LOG_LEVEL=DEBUG."
            )
            code = EXIT_SOFTWARE
        sys.exit(code if isinstance(code, int) else 0)

    def _found(self) -> dict[str, EntryPoint]:
        points = entry_points(group=self._entry_point_group)
        return {point.name: point for point in sorted(points, key=lambda point: point.name)}


def show_error(error: HilumError) -> None:
    """Print the code, the detail and the next step on stderr."""
    body = error.body()
    if logs.is_json():
        logs.event(log, logging.ERROR, "command.failed", **body)
        return
    click.echo(f"Error [{body['code']}]: {body['detail']}\n{body['next_step']}", err=True)


def _say(text: str) -> None:
    if logs.is_json():
        log.error(text)
    else:
        click.echo(text, err=True)


def _configure_log(command: str) -> None:
    from hilum import settings  # noqa: PLC0415 - `hilum --help` imports none of it

    level, style = "INFO", "auto"
    with suppress(HilumError):  # the command says so, if it needs them
        loaded = settings.load()
        level, style = loaded.log_level, loaded.log_format
    if style == "auto":
        style = "json" if command in _SERVICES else "text"
    logs.configure(level, style="json" if style == "json" else "text")


def _debugging() -> bool:
    from hilum import settings  # noqa: PLC0415 - needed only after an error

    try:
        return settings.load().log_level == "DEBUG"
    except HilumError:
        return False


@click.group(
    cls=HilumGroup,
    entry_point_group="hilum.commands",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="hilum %(version)s")
def main() -> None:
    """Chest X-ray inference that a hospital can put into production."""
