"""The command itself: help without imports, plain words for every failure, exit codes."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, version

import click
import pytest
from click.testing import CliRunner

from hilum import cli
from hilum.cli import HilumGroup, main
from hilum.errors import ObjectMissingError


def test_help_lists_every_command_without_importing_any() -> None:
    heavy = "numpy|pydicom|onnxruntime|torch|boto3|sqlalchemy|celery|fastapi|pydantic|rich"
    code = (
        "import sys\nfrom hilum.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', [m for m in '{heavy}'.split('|') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    for name in ("score", "package", "worker", "gateway", "train", "export"):
        assert f"\n  {name} " in done.stdout
    assert "HEAVY []" in done.stdout


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"hilum {version('hilum')}\n"


def test_every_installed_command_has_a_summary() -> None:
    group = main
    assert isinstance(group, HilumGroup)
    names = set(group.list_commands(click.Context(group)))
    assert names <= set(cli._TABLE)


@pytest.mark.parametrize("arguments", [["nonsense"], ["score"], ["score", "--nonsense", "x"]])
def test_wrong_use_exits_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def group_with(command: click.Command) -> HilumGroup:
    group = HilumGroup(entry_point_group="hilum.commands.none", name="hilum")
    group.add_command(command)

    def get_command(_: click.Context, name: str) -> click.Command | None:
        return command if name == command.name else None

    group.get_command = get_command  # type: ignore[method-assign]
    return group


def failing_with(error: BaseException) -> HilumGroup:
    @click.command(name="fail")
    def fail() -> None:
        raise error

    return group_with(fail)


def test_a_typed_error_is_three_lines_and_exit_2() -> None:
    result = CliRunner().invoke(failing_with(ObjectMissingError("It is not there.")), ["fail"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error [storage.object_missing]: It is not there.\n")
    assert ObjectMissingError.next_step in result.stderr


def test_a_bug_shows_no_traceback_unless_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    group = failing_with(ValueError("about DOE^JANE"))
    result = CliRunner().invoke(group, ["fail"])
    assert result.exit_code == 70
    assert "ValueError" in result.stderr
    assert "JANE" not in result.stderr
    monkeypatch.setenv("HILUM_LOG_LEVEL", "DEBUG")
    assert isinstance(CliRunner().invoke(group, ["fail"]).exception, ValueError)


def test_ctrl_c_exits_130() -> None:
    result = CliRunner().invoke(failing_with(KeyboardInterrupt()), ["fail"])
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr


def test_the_code_a_command_asks_for_is_the_exit_code() -> None:
    @click.command(name="partly")
    @click.pass_context
    def partly(context: click.Context) -> None:
        context.exit(3)

    assert CliRunner().invoke(group_with(partly), ["partly"]).exit_code == 3


def test_a_missing_dependency_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint(name="train", value="trainer_needs:train", group="hilum.commands")
    monkeypatch.setattr(HilumGroup, "_found", lambda self: {"train": point})
    result = CliRunner().invoke(main, ["train"])
    assert result.exit_code == 2
    assert "[config.missing_extra]" in result.stderr
    assert "hilum[train]" in result.stderr


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    code = (
        "import sys, time, click\nfrom hilum.cli import HilumGroup\n"
        "group = HilumGroup(entry_point_group='none', name='hilum')\n"
        "@click.command(name='talk')\n"
        "def talk():\n"
        "    for i in range(100_000): sys.stdout.write(f'{i}\\n')\n"
        "group.get_command = lambda ctx, name: talk\n"
        "group.main(['talk'])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == "0\n"
    child.stdout.close()
    assert child.wait(60) == 141
    assert child.stderr.read() == ""
    child.stderr.close()
