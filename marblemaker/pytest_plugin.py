"""The pytest plugin: replays against stored goldens, and marble diagrams as input.

Importing it costs next to nothing: whatever is large is imported by the fixtures. It asserts
nothing, so there is nothing for pytest to rewrite: PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pytest

if TYPE_CHECKING:
    from marblemaker.diagram import Diagram
    from marblemaker.session import Session
    from streams.events import Decision

__all__ = ["MarblePlay", "MarbleReplay", "marble_play", "marble_replay"]

_RENEWED = pytest.StashKey[list[str]]()


class MarbleReplay(Protocol):
    """What the fixture ``marble_replay`` is."""

    def __call__(
        self,
        recording: Path | str,
        *,
        golden: Path | str,
        settings: Iterable[str] = (),
        config: Path | str | None = None,
        venue: Literal["recorded", "simulated"] | None = None,
        rows: int = 10,
    ) -> Session:
        """Replay ``recording`` and fail unless decisions and orders are those of ``golden``.

        Relative paths count from pytest's root folder. ``settings`` are texts ``section.key=value``
        over the TOML file ``config``, over the recording's own. A failure shows the first ``rows``
        rows that differ. The run is returned, and stays in the test's temporary folder.
        """


class MarblePlay(Protocol):
    """What the fixture ``marble_play`` is."""

    def __call__(
        self,
        diagram: str | Diagram,
        settings: Iterable[str] = (),
        *,
        config: Path | str | None = None,
        venue: Literal["recorded", "simulated"] = "simulated",
    ) -> list[Decision]:
        """Run a marble diagram through the whole graph; return its decisions."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that renews goldens."""
    group = parser.getgroup("marblemaker")
    group.addoption(
        "--marble-regen",
        metavar="REASON",
        default=None,
        help="renew the goldens of marble_replay, and write down why",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to renew without a reason."""
    reason = config.getoption("--marble-regen")
    if reason is not None and not reason.strip():
        raise pytest.UsageError(
            "--marble-regen needs a reason, it was empty; say why the decisions may change: "
            '--marble-regen "half-spread from 25 to 20 bps"'
        )
    config.stash[_RENEWED] = []


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Tell which goldens were renewed."""
    for line in config.stash.get(_RENEWED, []):
        terminalreporter.write_line(line)


@pytest.fixture
def marble_replay(request: pytest.FixtureRequest, tmp_path: Path) -> MarbleReplay:
    """Replay a recording against a golden; see ``MarbleReplay``."""
    __tracebackhide__ = True
    root = request.config.rootpath
    reason: str | None = request.config.getoption("--marble-regen")
    renewed = request.config.stash[_RENEWED]
    runs = 0

    def check(
        recording: Path | str,
        *,
        golden: Path | str,
        settings: Iterable[str] = (),
        config: Path | str | None = None,
        venue: Literal["recorded", "simulated"] | None = None,
        rows: int = 10,
    ) -> Session:
        __tracebackhide__ = True
        nonlocal runs
        from marblemaker.golden import compare, write_golden
        from marblemaker.session import Session

        source, folder = Session.open(root / recording), root / golden
        if reason is None and not folder.exists():
            pytest.fail(
                f"there is no golden {folder} to compare with; make it, look at it and commit it:\n"
                f'    pytest {request.node.nodeid} --marble-regen "first golden"',
                pytrace=False,
            )
        runs += 1
        run = source.replay(
            tmp_path / f"run-{runs}",
            venue=venue,
            overrides=settings,
            config=root / config if config is not None else None,
        )
        if reason is not None:
            counts = write_golden(folder, run.path, source.path, reason)
            told = "; ".join(f"{name} {count}" for name, count in counts.items())
            what = "renewed" if any(counts.values()) else "unchanged"
            renewed.append(f"golden {what}: {folder}: {told}")
            return run
        lines = compare(folder, run.path, source.path, run.settings, shown=rows)
        if lines:
            table = "\n".join(lines)
            pytest.fail(
                f"{source.path} does not repeat the golden {folder}\n{table}\n\n"
                f"The run is {run.path}. If it is right now, renew the golden:\n"
                f'    pytest {request.node.nodeid} --marble-regen "why"',
                pytrace=False,
            )
        return run

    return check


@pytest.fixture
def marble_play(request: pytest.FixtureRequest) -> MarblePlay:
    """Run marble diagrams through the whole graph; see ``MarblePlay``."""
    root = request.config.rootpath

    def play(
        diagram: str | Diagram,
        settings: Iterable[str] = (),
        *,
        config: Path | str | None = None,
        venue: Literal["recorded", "simulated"] = "simulated",
    ) -> list[Decision]:
        from marblemaker.diagram_play import play_decisions

        file = root / config if config is not None else None
        return play_decisions(diagram, settings, config=file, venue=venue)

    return play
