"""The house rules are programs, and they run here."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("streams", "operators", "sinks", "sandbox", "marblemaker")


def _run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    _run("ruff", "check", ".")


def test_every_file_is_formatted() -> None:
    _run("ruff", "format", "--check", ".")


def test_mypy_strict_finds_nothing() -> None:
    _run("mypy")


def test_the_rooms_import_only_what_they_may() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("room", ["streams", "operators", "sinks"])
def test_no_decision_can_read_a_wall_clock_or_a_random_number(room: str) -> None:
    banned = re.compile(
        r"\b(time\.(time|monotonic|perf_counter|sleep)|datetime\.(now|utcnow|today)|import random"
        r"|uuid|os\.urandom|perf_counter)\b"
    )
    for path in (ROOT / room).rglob("*.py"):
        assert not banned.search(path.read_text()), path


def test_the_wheel_holds_every_room_and_the_bundled_recording() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    assert set(packed) == {*ROOMS, "recordings"}
    assert all((ROOT / room / "py.typed").exists() for room in ROOMS)


def test_every_command_in_the_readme_is_one_that_marble_knows() -> None:
    from marblemaker.cli import parser

    known = parser().format_help()
    readme = (ROOT / "README.md").read_text()
    used = set(re.findall(r"^(?:\$ )?marble ([a-z]+)", readme, flags=re.MULTILINE))
    assert used
    for command in used:
        assert f"    {command} " in known, command
