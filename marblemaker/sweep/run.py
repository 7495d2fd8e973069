"""Run: a sweep from its plan to its table."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl
from msgspec import Struct

from marblemaker.compiled.engine import prepare
from marblemaker.settings import Settings, SettingsError
from marblemaker.sweep.cluster import run_on_cluster
from marblemaker.sweep.local import run_local
from marblemaker.sweep.page import write_page
from marblemaker.sweep.plan import Plan, make_plan
from marblemaker.sweep.store import Store
from marblemaker.sweep.work import Engine, Task, replay_of
from streams.recording import Recording

__all__ = ["MOST_UNASKED", "SweepInterrupted", "Swept", "sweep"]

MOST_UNASKED: Final = 10_000
"""More replays than these are only made on ``--yes``."""
_PACE_SECONDS: Final = 2.0
_TRIED: Final = 100
"""Of a grid that is too large so many are looked at, to find one that runs."""

Progress = Callable[[int, int], None]


class SweepInterrupted(KeyboardInterrupt):
    """Stopped on the way: what is done is kept."""

    def __init__(self, done: int, total: int) -> None:
        """Tell how far it came."""
        super().__init__(
            f"interrupted; {done:,} of {total:,} replays are done and kept: run the same command "
            f"again to go on"
        )


class Swept(Struct, kw_only=True):
    """What a sweep did."""

    table: Path
    page: Path | None
    rows: int
    computed: int
    """Replays made now."""
    kept: int
    """Replays that an earlier run had made."""
    failed: int
    """Rows with an error."""
    seconds: float
    frame: pl.DataFrame
    swept: list[str]


def sweep(
    recordings: Sequence[Path | str],
    settings: Iterable[Mapping[str, Any]],
    out: Path | str,
    *,
    config: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
    engine: Engine = "compiled",
    fallback: bool = False,
    jobs: int | None = None,
    cluster: str | None = None,
    yes: bool = False,
    overwrite: bool = False,
    page: Path | bool = True,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Swept:
    """Replay every recording under every combination of settings; write one table.

    ``settings``: overrides by key, such as ``grid(...)`` and ``random_search(...)`` give, or any
    iterable of ``{"strategy.half_spread_bps": 10}``. They lie over ``overrides``, these over
    ``config``, that over the recording's own. ``out`` is a folder, or the table if it ends in
    ``.parquet``; what is there of the same sweep is not computed again, ``overwrite`` forgets it.
    ``jobs`` local processes (default: one a core), or the Dask ``cluster`` at that address. With a
    ``fallback`` the Rx engine takes what the compiled one does not do; it is refused otherwise.

    Shape: rows in the order of ``settings``, for each the recordings in theirs.
    Errors: SettingsError for a bad grid, before any work; RecordingError for a bad recording or an
        output that cannot be written; SweepError if workers cannot start; SweepInterrupted.
    """
    say = note if note is not None else _silent
    started = time.perf_counter()
    paths = [Path(one) for one in recordings]
    _require_few(paths, settings, config, list(overrides), yes=yes)
    if jobs is not None and jobs < 1:
        raise SettingsError(f"--jobs must be at least 1, was {jobs}")
    plan = make_plan(
        paths, settings, config=config, overrides=overrides, engine=engine, fallback=fallback
    )
    if plan.frame.height > MOST_UNASKED and not yes:
        raise SettingsError(_too_many(plan.frame.height, _pace(plan)))
    if plan.refused:
        say(
            f"{plan.refused:,} of {plan.frame.height:,} combinations contradict themselves: rows "
            f"with an error"
        )
    with Store(Path(out), plan, overwrite=overwrite) as store:
        done = store.done
        tasks = list(plan.tasks(done))
        if plan.fallback:
            say(f"{len(plan.fallback):,} settings are left to --engine rx")
        if done:
            say(f"{len(done):,} are done already, {len(tasks):,} are left")
        computed = _compute(plan, tasks, store, jobs, cluster, len(done), progress, say)
        frame = store.finish()
    shown: Path | None = None
    if page is not False:
        shown = store.table.with_suffix(".html") if page is True else page
        write_page(store.table, shown)
    return Swept(
        table=store.table,
        page=shown,
        rows=frame.height,
        computed=computed,
        kept=len(done),
        failed=frame.height - frame["error"].null_count(),
        seconds=round(time.perf_counter() - started, 3),
        frame=frame,
        swept=plan.swept,
    )


def _compute(
    plan: Plan,
    tasks: list[Task],
    store: Store,
    jobs: int | None,
    cluster: str | None,
    before: int,
    progress: Progress | None,
    say: Callable[[str], None],
) -> int:
    computed = 0

    def take(task: Task, row: dict[str, Any]) -> None:
        nonlocal computed
        store.put(task.key, row)
        computed += 1
        if progress is not None:
            progress(computed, len(tasks))

    if not tasks:
        return 0
    try:
        if cluster is not None:
            run_on_cluster(cluster, iter(tasks), take, say)
        else:
            if any(task.engine == "compiled" for task in tasks):
                _prepare(plan, say)  # once, not in every worker
            run_local(iter(tasks), min(jobs or _cores(), len(tasks)), take)
    except KeyboardInterrupt:
        raise SweepInterrupted(before + computed, before + len(tasks)) from None
    return computed


def _prepare(plan: Plan, say: Callable[[str], None]) -> None:
    """Have all loops compiled that the recordings need."""
    for signals in {min(Recording(one.path, one.manifest).signals, 2) for one in plan.sources}:
        prepare(say, signals=signals)


def _silent(_message: str) -> None:
    pass


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------- too many


def _require_few(
    recordings: Sequence[Path],
    settings: Iterable[Mapping[str, Any]],
    config: Mapping[str, Any] | None,
    overrides: Sequence[str],
    *,
    yes: bool,
) -> None:
    """Refuse a grid that is far too large by its size alone, before it is gone through."""
    size = len(settings) if isinstance(settings, Sized) else 0
    if yes or size * len(recordings) <= MOST_UNASKED:
        return
    some = islice(settings, _TRIED)
    plan = make_plan(recordings, some, config=config, overrides=overrides)
    raise SettingsError(_too_many(size * len(recordings), _pace(plan)))


def _too_many(replays: int, seconds_each: float) -> str:
    cores = _cores()
    return (
        f"{replays:,} combinations of settings and recordings are more than {MOST_UNASKED:,}: at "
        f"the measured {seconds_each:.2g} s each about {_duration(replays * seconds_each / cores)} "
        f"on {cores} cores here; say --yes to mean it, raise the steps, or draw with --random N"
    )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


class _EnoughError(Exception):
    """The pace is known."""


def _pace(plan: Plan) -> float:
    """Seconds that a replay takes on average, from the begin of one: never more than a moment."""
    source, task = plan.sources[0], next(plan.tasks(set()))
    if task.engine == "compiled":
        _prepare(plan, _silent)
    settings = msgspec.json.decode(task.settings, type=Settings)
    started, done = 0.0, 0

    def look(rows: int, total: int, ts: int) -> None:
        nonlocal done
        done = rows
        if time.perf_counter() - started > _PACE_SECONDS:
            raise _EnoughError

    # The first replay of a process takes longer, for loading; the second is what counts.
    for _ in range(2):
        started, done = time.perf_counter(), 0
        with tempfile.TemporaryDirectory(prefix="marble-pace-") as scratch, suppress(_EnoughError):
            replay_of(task.engine)(
                source.path, settings, Path(scratch) / "run", venue="simulated", bounds=True,
                trace=False, progress=look,
            )  # fmt: skip
            done = source.rows
    rows = sum(one.rows for one in plan.sources) / len(plan.sources)
    return (time.perf_counter() - started) / max(done, 1) * rows
