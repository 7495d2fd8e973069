"""Our compiled engine without its outputs: files are read and merged, and the loop decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from marblemaker import __version__
from marblemaker.bench.job import Job, Ran
from marblemaker.bench.sessions import part_of
from marblemaker.compiled import texts
from marblemaker.compiled.engine import BATCH_ROWS, _Run
from marblemaker.settings import Settings
from streams.recording import Recording

__all__ = ["prepare", "run"]

_TABLES = (
    "signal", "target", "state", "wanted", "decision", "update", "account", "fill", "order",
    "bound",
)  # fmt: skip


def prepare(recording: Path, folder: Path, job: Job, settings: Settings) -> Ran:
    """Keep some quotes aside, on which a run loads the compiled code before it is timed."""
    part_of(recording, 1_000, folder / "few")
    return Ran()


def run(recording: Path, folder: Path, job: Job, settings: Settings) -> Ran:
    """Run the loop over a recording, verified and read as a replay does; nothing is written."""
    ran = Ran(version=__version__)
    with ran.timed("load"):
        _Loop(folder / "few", settings, folder).go()
    with ran.timed("in_all"):
        loop = _Loop(recording, settings, folder)
        with ran.timed("loop"):
            loop.go()
    tally = loop.tally
    ran.quotes, ran.requotes = loop.rows, tally.requotes
    ran.orders, ran.fills = loop.orders, tally.fills
    return ran


class _Tally:
    """Stands where the engine's output is written: counts the rows and makes room for more."""

    def __init__(self) -> None:
        self.requotes = self.fills = 0

    def take(self, w: Any, *, last: bool) -> Callable[[], None]:
        s = w["state"][0]
        decisions = w["decision_out"][: s["decision_rows"]]
        self.requotes += int((decisions["action"] == texts.QUOTE).sum())
        self.fills += int(s["fill_rows"])
        for name in _TABLES:
            s[f"{name}_rows"] = 0
        s["full"] = 0
        return lambda: None


class _Loop(_Run):
    """A run that ends with the loop."""

    def __init__(self, recording: Path, settings: Settings, folder: Path) -> None:
        opened = Recording.open(recording)
        super().__init__(
            opened, settings, folder, batch_rows=BATCH_ROWS, trace=False, bounds=False,
            recorded=False, inputs=False,
        )  # fmt: skip
        self.tally = _Tally()
        self._output: Any = self.tally

    def go(self) -> None:
        try:
            self._loop(None)
        finally:
            self._reader.shutdown(wait=True, cancel_futures=True)
            self._inputs.stop()
            self._outputs.stop()

    def _write_inputs(self, feed: Any) -> None:
        feed.frame = None

    @property
    def rows(self) -> int:
        return sum(feed.rows for feed in self._feeds.values())

    @property
    def orders(self) -> int:
        return int(self._world[0]["state"][0]["created"])
