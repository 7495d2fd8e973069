"""A long live run with every connection cut again and again: nothing may pile up or go astray."""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest
from msgspec import Struct

from marblemaker.live import LiveRun
from marblemaker.sandboxed import Sandbox, sandboxed
from sandbox.faults import FaultKind, Faults
from sandbox.lighter_limits import LighterLimits
from streams.feed import Backoff
from streams.lighter import Pace
from tests.marblemaker.test_live import (
    assert_agrees_with_the_venue,
    assert_replays_to_the_same,
    chosen,
)

SECS: Final = float(os.environ.get("MARBLE_SOAK_SECS", "60"))
SESSION_SECS: Final = 23_400.0
CUT_EVERY_SECS: Final = 2.0
LEAST_SECS: Final = 12.0
RSS_BOUND: Final = 30 * 2**20
"""Growth allowed from the first third to the last, of this process with both stand-ins in it."""

_FDS: Final = Path("/proc/self/fd")
_STATM: Final = Path("/proc/self/statm")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Footprint(Struct, frozen=True):
    """What the process holds at one instant; 0 where the system does not tell."""

    tasks: int
    threads: int
    fds: int
    rss: int


def footprint() -> Footprint:
    return Footprint(
        tasks=len(asyncio.all_tasks()),
        # The loop's pool grows with use, up to a bound of its own.
        threads=sum(not each.name.startswith("asyncio_") for each in threading.enumerate()),
        fds=open_fds(),
        rss=int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if _STATM.exists()
        else 0,
    )


def open_fds() -> int:
    return len(os.listdir(_FDS)) if _FDS.exists() else 0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect within a third of a second and let the venue allow as many requests as that needs.

    With the backoff and the limits of a real run most of a soak would be spent waiting.
    """
    quick = partial(Backoff, 0.05, 0.3)
    monkeypatch.setattr("streams.databento.Backoff", quick)
    monkeypatch.setattr("streams.lighter.Backoff", quick)
    of_tier = LighterLimits.of_tier
    monkeypatch.setattr(LighterLimits, "of_tier", lambda tier: of_tier(tier).without_rates())


class Soak:
    """Cuts a run's connections by turns with RST and FIN, and takes a footprint before each."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.footprints: list[Footprint] = []
        self.cuts = 0
        self._sandbox = sandbox
        # Both stand-ins would share one list of faults, and each fault would happen to one of them.
        vars(sandbox.venue)["faults"] = Faults.none()

    async def cut_again_and_again(self) -> None:
        kinds: tuple[FaultKind, ...] = ("rst", "drop")
        while True:
            await asyncio.sleep(CUT_EVERY_SECS)
            self.footprints.append(footprint())
            kind = kinds[self.cuts % 2]
            self._sandbox.gateway.faults.trigger(kind)
            # One fault of the venue cuts the target's feed and the account's socket.
            self._sandbox.venue.faults.trigger(kind)
            self.cuts += 1

    def assert_nothing_grew(self) -> None:
        third = len(self.footprints) // 3
        early, late = self.footprints[:third], self.footprints[-third:]

        def median(of: list[Footprint], what: Callable[[Footprint], int]) -> float:
            return statistics.median(map(what, of))

        # Each may be one higher or lower while something is on its way; a leak grows with the cuts.
        assert median(late, lambda f: f.tasks) <= median(early, lambda f: f.tasks) + 2
        assert median(late, lambda f: f.threads) <= median(early, lambda f: f.threads)
        assert median(late, lambda f: f.fds) <= median(early, lambda f: f.fds) + 2
        assert median(late, lambda f: f.rss) - median(early, lambda f: f.rss) < RSS_BOUND


async def soak(sandbox: Sandbox, out: Path, secs: float) -> tuple[LiveRun, dict[str, Any], Soak]:
    soaked = Soak(sandbox)
    run = LiveRun(chosen(), out, mode="live", endpoints=sandbox.endpoints)
    # The pace of a real run allows some ten reconnections a minute.
    run._pace = Pace(1_000_000)
    cutting = asyncio.create_task(soaked.cut_again_and_again())
    try:
        summary = await run.run(for_secs=secs)
    finally:
        cutting.cancel()
        await asyncio.gather(cutting, return_exceptions=True)
    return run, summary, soaked


async def closed(before: int) -> int:
    """Descriptors that are open, once no more of them are than before, or 5 s later."""
    for _ in range(100):
        if open_fds() <= before:
            break
        await asyncio.sleep(0.05)
    return open_fds()


@pytest.mark.usefixtures("impatient")
def test_a_run_that_is_cut_off_every_two_seconds_leaks_nothing_and_agrees_and_replays(
    tmp_path: Path,
) -> None:
    """``MARBLE_SOAK_SECS`` sets how long it runs, 60 s when not set and 12 s at least.

    Above 390 s the market plays slower than sixtyfold, so that the recording lasts. The bounds of
    growth are those of the constants above; each is measured from the first third of the cuts to
    the last.
    """
    secs = max(SECS, LEAST_SECS)
    speed = min(60.0, SESSION_SECS / secs)

    async def main() -> tuple[LiveRun, dict[str, Any], Soak]:
        before = footprint()
        run, summary, soaked = await soak(sandbox, tmp_path / "run", secs)
        assert len(asyncio.all_tasks()) == before.tasks
        assert await closed(before.fds) <= before.fds + 2
        return run, summary, soaked

    with sandboxed(speed=speed, tier="premium", max_seconds=secs + 120.0) as sandbox:
        run, summary, soaked = asyncio.run(main())
        assert_agrees_with_the_venue(sandbox, run, summary)
    soaked.assert_nothing_grew()
    assert summary["fills"] > 0
    assert_cut(tmp_path / "run", soaked.cuts)
    assert_replays_to_the_same(tmp_path / "run", summary["digest"], tmp_path / "again")


def assert_cut(out: Path, cuts: int) -> None:
    """Each connection must have been lost nearly as often as it was cut."""
    status = pl.read_parquet(out / "status.parquet")
    lost = {
        source: status.filter(source=source, kind="disconnect").height
        for source in ("signal", "target")
    }
    lost["account"] = pl.read_parquet(out / "account.parquet").filter(kind="disconnect").height
    # The first cut and the last may come while nothing is connected.
    assert min(lost.values()) >= cuts - 2, (lost, cuts)
