"""The compiled engine: a recording through the compiled loop, into a run folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import numba
import numpy as np
import polars as pl
from numba.core import event

from marblemaker.compiled.coverage import Asked, refuse_what_is_not_done
from marblemaker.compiled.layout import WORLD, new_world, spell
from marblemaker.compiled.loop import (
    BACKWARDS,
    DONE,
    FULL,
    MORE_ACCOUNT,
    MORE_OTHERS,
    MORE_SIGNAL,
    MORE_STATUS,
    MORE_TARGET,
    MORE_TRADES,
    TROUBLE,
    TWICE,
    Columns,
    make_run,
)
from marblemaker.compiled.read import AnyColumns, Feed, Others, kills_of
from marblemaker.compiled.spent import Spent
from marblemaker.compiled.texts import ANOMALIES, Texts
from marblemaker.compiled.told import told
from marblemaker.compiled.write import Output
from marblemaker.digest import warm_up_quotes
from marblemaker.kill import KillFile
from marblemaker.markouts import markouts
from marblemaker.replay import (
    Progress,
    ReplayError,
    bounds_of,
    manifest_of,
    new_run,
    quiet_collector,
    refuse_live_venue,
    refuse_part_of_budget,
    summary_of,
    takes_recorded,
)
from marblemaker.settings import Settings
from marblemaker.trace import Trace, finish_trace
from marblemaker.wiring import budget_of
from sinks.journal import Journal
from streams.instrument import UNIT
from streams.recording import (
    SIGNALS,
    FileEntry,
    Recording,
    RecordingError,
    schema_of,
    write_manifest,
)
from streams.row_groups import RowGroupWriter, load

__all__ = ["BATCH_ROWS", "compiled_run", "prepare", "replay_compiled"]

BATCH_ROWS: Final = 262_144
"""Rows of a feed that are read, and looped over, at a time."""

MERGED: Final = ("account", "status", "signal", "trades", "target")
"""Files of inputs, in the order of ties; the loop is given them in this order."""
_MORE: Final = {
    MORE_ACCOUNT: "account", MORE_STATUS: "status", MORE_SIGNAL: "signal", MORE_TRADES: "trades",
    MORE_TARGET: "target",
}  # fmt: skip

_ROOT: Final = Path(__file__).parents[2]
_SOURCES: Final = ("operators", "streams", "sinks", "marblemaker/compiled", "marblemaker/digest.py")


def _version() -> str:
    """A digest of all sources that may go into the compiled code."""
    digest = hashlib.sha256(numba.__version__.encode())
    for name in _SOURCES:
        path = _ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def compiled_run() -> Any:
    """The loop; compiled when it is first called, or taken from numba's cache."""
    return make_run(_version())


def prepare(note: Callable[[str], None] = lambda text: None, *, signals: int = 1) -> None:
    """Have the loop compiled, or loaded from the cache; ``note`` is told if it must be compiled.

    With several ``signals``, however many, it is another one.
    """
    if min(signals, 2) in _PREPARED:
        return
    world = np.zeros(1, WORLD)
    nothing = [
        Feed(name, None, None, {}, by_seq=False, batch_rows=1, ahead=_InTurn()).columns
        for name in MERGED
    ]
    others = Others(world[0], signals - 1, 1).columns
    with event.install_listener("numba:compile", _Told(note)):
        kinds: Callable[[Any], Any] = numba.typeof
        compiled_run().compile(tuple(map(kinds, (world, *nothing, others, False))))
    _PREPARED.add(min(signals, 2))


_PREPARED: Final[set[int]] = set()
"""Loops that this process has, by their signals: one, or two for several."""


class _Told(event.Listener):
    """Says once that something is compiled."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note: Callable[[str], None] | None = note

    def on_start(self, _: Any) -> None:
        if self._note is not None:
            note, self._note = self._note, None
            note("compiling the engine: once, about half a minute; it is kept for the next start")

    def on_end(self, _: Any) -> None:
        pass


def replay_compiled(
    source: Path,
    settings: Settings,
    out: Path,
    *,
    venue: Literal["recorded", "simulated"] | None = None,
    bounds: bool = False,
    overwrite: bool = False,
    batch_rows: int = BATCH_ROWS,
    trace: bool = True,
    strict: bool = False,
    inputs: bool = True,
    threads: bool = True,
    progress: Progress | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Do as ``marblemaker.replay.replay``: the same run folder, an order of magnitude sooner.

    Without ``inputs`` the folder has the tables of what the run did, and no copy of what it read.
    Without ``threads`` it reads and writes in turn with the loop, for who has other work for the
    other cores.

    ``note`` is told if code must be compiled first.

    Errors: SettingsError that names what the compiled engine does not do (``coverage``);
        RecordingError for an unsound recording or an output that cannot be written; ReplayError if
        a number does not fit the loop. Nothing half-written is left.
    """
    recording = Recording.open(source)
    recorded = takes_recorded([recording], venue)
    refuse_what_is_not_done(Asked([recording], settings, strict))
    refuse_part_of_budget(recording, settings, recorded=recorded)
    # All that takes long to load, before the run's seconds are counted.
    prepare(note, signals=recording.signals)
    load()
    if trace:
        warm_up_quotes()
    with new_run(out, [source], overwrite=overwrite) as folder:
        run = _Run(
            recording, settings, folder, batch_rows=batch_rows, trace=trace, bounds=bounds,
            recorded=recorded, inputs=inputs, threads=threads,
        )  # fmt: skip
        with quiet_collector():
            return run.complete(progress)


class _Run:
    """One run: the parts, wired."""

    def __init__(
        self,
        recording: Recording,
        settings: Settings,
        folder: Path,
        *,
        batch_rows: int,
        trace: bool,
        bounds: bool,
        recorded: bool,
        inputs: bool,
        threads: bool = True,
    ) -> None:
        refuse_live_venue([settings], recorded=recorded)
        self._recording, self._settings, self._folder = recording, settings, folder
        self._bounds, self._recorded = bounds and not recorded, recorded
        if recording.signals != len(settings.signal_instruments):
            raise RecordingError(
                f"{recording.folder} holds {recording.signals} signals, the settings name "
                f"{len(settings.signal_instruments)} (signal.instrument and signal.others); import "
                f"the missing ones, or change the settings"
            )
        self._journal = Journal(folder, writer=RowGroupWriter)
        fair_value = settings.strategy.preset == "fair_value"
        self._trace = None
        if trace:
            self._trace = Trace(
                folder, signals=recording.signals, fair_value=fair_value, writer=RowGroupWriter
            )
        paths = recording.paths(recorded=recorded)
        texts = Texts(kills_of(paths["status"]) if "status" in paths else ())
        self._spent = Spent(budget_of(settings))
        self._output = Output(self._journal, self._trace, texts, recording.signals)
        asked = told(
            settings, recording.manifest, traced=trace, most_rows=batch_rows,
            bounds=self._bounds, recorded=recorded,
        )  # fmt: skip
        self._world = new_world(
            *asked, texts, first_ts=recording.manifest.first_ts or 0, position=0
        )
        self._by_seq = recording.is_numbered(paths)

        def worker(name: str) -> Executor:
            return ThreadPoolExecutor(1, thread_name_prefix=name) if threads else _InTurn()

        self._reader = worker("marble-read")
        target = settings.target_instrument
        self._feeds = {
            name: Feed(
                name, paths.get(name), target if name in ("target", "trades") else None,
                texts.kills, by_seq=self._by_seq, batch_rows=batch_rows, ahead=self._reader,
            )
            for name in (*MERGED, *SIGNALS[1 : recording.signals])
        }  # fmt: skip
        self._texts = texts
        # The target's quotes, for markouts, where the folder is to hold none.
        self._target = None if inputs else paths.get("target")
        kill_file = settings.risk.kill_file
        self._kill = KillFile(Path(kill_file)) if kill_file and not recorded else None
        # A kill file may lead to rows that the recording does not have; answers are the journal's.
        kept = dict.fromkeys([*paths, *(["status"] if kill_file is not None else [])])
        kept.pop("account", None)
        self._writers = {
            name: RowGroupWriter(folder, name, schema_of(name)) for name in (kept if inputs else ())
        }
        self._before_kill: tuple[int, int, int] | None = None
        self._others = Others(self._world[0], recording.signals - 1, batch_rows)
        self._mark: int | None = None
        # The loop needs no lock of Python's: what it has put out is written beside it, inputs and
        # outputs each in their own order.
        self._inputs, self._outputs = Lane(worker("marble-inputs")), Lane(worker("marble-outputs"))

    def complete(self, progress: Progress | None) -> dict[str, Any]:
        """Run to the end, write the folder, and return the summary."""
        started = time.perf_counter()
        try:
            self._loop(progress)
            loop_seconds = time.perf_counter() - started
            files = self._close()
        finally:
            self._reader.shutdown(wait=True, cancel_futures=True)
            self._inputs.stop()
            self._outputs.stop()
        s = self._world[0]["state"][0]
        left = [int(n) for n in self._world[0]["orders"]["n"][: s["working"]]]
        manifest = manifest_of(self._recording, self._settings, files)
        summary = summary_of(
            manifest,
            self._settings,
            self._journal,
            recorded=self._recorded,
            mark=self._mark,
            ties=int(s["ties"]),
            anomalies=dict(zip(ANOMALIES, self._world[0]["anomalies"].tolist(), strict=True)),
            left_working=left,
            pnl_tick_value=self._pnl_tick_value(),
            bounds=self._bounds_told(),
            budget=self._spent.summary(self._world[0]),
        )
        summary["markouts"] = markouts(self._folder, self._target)
        if self._trace is not None:
            finish_trace(self._trace, self._folder, manifest, summary["digest"])
        seconds = time.perf_counter() - started
        summary["seconds"] = round(seconds, 3)
        summary["seconds_in_graph"] = round(loop_seconds, 3)
        inputs = sum(feed.rows for feed in self._feeds.values())
        summary["events_per_second"] = round(inputs / seconds) if seconds else 0
        write_manifest(self._folder, manifest)
        (self._folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return summary

    def _bounds_told(self) -> dict[str, Any] | None:
        if not self._bounds:
            return None
        # All that the model that was asked for fills is in the journal.
        own = {self._settings.venue.fill_model: self._journal.ledger}
        return bounds_of({**self._output.ledgers, **own}, self._mark)

    def _pnl_tick_value(self) -> float:
        """The ladder's P&L at the fair value of the last decision, in ticks times their value."""
        fair = self._output.fair_value
        pnl = self._journal.ledger.pnl(None if fair is None else round(fair * UNIT))
        return pnl / self._settings.ladder_tick * self._settings.tick_value

    def _loop(self, progress: Progress | None) -> None:
        run, w = compiled_run(), self._world[0]
        total = self._recording.rows
        s = w["state"][0]
        for feed in self._feeds.values():
            self._read(feed)
        if any(feed.rows for feed in self._feeds.values()):
            self._poll_kill_file()
        while True:
            columns = [self._feeds[name].columns for name in MERGED]
            came = run(self._world, *columns, self._others.columns, self._by_seq)
            if came == TROUBLE:
                raise self._trouble(int(s["trouble"]))
            if came in (FULL, DONE):
                self._spent.take(w)
                self._outputs.put(self._output.take(w, last=came == DONE))
            if came == DONE:
                break
            if came != FULL:
                name = SIGNALS[came - MORE_OTHERS + 1] if came >= MORE_OTHERS else _MORE[came]
                self._refill(self._feeds[name])
                self._poll_kill_file()
                if progress is not None:
                    done = sum(feed.rows for feed in self._feeds.values())
                    progress(done, total, int(s["now"]))
        for feed in self._feeds.values():
            self._write_inputs(feed)
        self._settle_disk()

    def _refill(self, feed: Feed) -> None:
        """Write what the loop has gone through, and read on."""
        self._write_inputs(feed)
        s = self._world[0]["state"][0]
        if feed.name == "status" and self._before_kill is not None:
            # Not a choice of order: this was no neighbour of other inputs.
            s["ties"], s["before_ts"], s["before_kind"] = self._before_kill
            self._before_kill = None
        self._read(feed)

    def _read(self, feed: Feed) -> None:
        """Give the loop a feed's next rows, or tell it that there are none."""
        s, more = self._world[0]["state"][0], feed.read()
        if feed.texts.keys() - self._texts.by_word.keys():
            self._texts.by_word.update(feed.texts)
            self._settle_disk()
            self._output.learn(feed.texts)
        if feed.name not in MERGED:
            self._others.take(SIGNALS.index(feed.name) - 1, feed.columns if more else None)
            return
        s[f"more_{feed.name}"] = more
        if more:
            s[f"at_{feed.name}"] = 0

    def _poll_kill_file(self) -> None:
        """Turn a change of the kill file into the next input."""
        if self._kill is None or self._before_kill is not None:
            return  # One change at a time: that before has not been delivered.
        change = self._kill.changed()
        if change is None:
            return
        kind, text = change
        if kind == "kill" and self._texts.add_kill(text):
            self._settle_disk()
            self._output.learn(self._texts.by_word)
            spell(self._world, self._texts)
        s, feed = self._world[0]["state"][0], self._feeds["status"]
        row = {"ts": [int(s["now"])], "source": ["operator"], "kind": [kind], "text": [text]}
        schema = {name: dtype for name, dtype in schema_of("status").items() if name != "seq"}
        number = feed.columns.number
        delivered = feed.put_first(int(s["at_status"]), pl.DataFrame(row, schema))
        if delivered is not None and delivered.height:
            columns = feed.columns._replace(number=number[: delivered.height])
            self._inputs.put(lambda: self._write_rows("status", delivered, columns))
        # The loop comes back as soon as it has gone through this one row.
        s["at_status"], s["more_status"] = 0, 1
        self._before_kill = int(s["ties"]), int(s["before_ts"]), int(s["before_kind"])

    def _settle_disk(self) -> None:
        """Wait until all that was given out is written."""
        self._inputs.finish()
        self._outputs.finish()

    def _write_inputs(self, feed: Feed) -> None:
        """Write a batch of a feed as it was delivered, with its sequence numbers."""
        frame, columns = feed.frame, feed.columns
        if feed.name not in MERGED:
            numbers = self._others.numbers(SIGNALS.index(feed.name) - 1)
            columns = columns._replace(number=numbers)
        feed.frame = None
        if frame is not None:
            # Answers of the venue go to the journal, as what the loop has put out does.
            lane = self._outputs if feed.name == "account" else self._inputs
            lane.put(lambda: self._write_rows(feed.name, frame, columns))

    def _write_rows(self, name: str, frame: pl.DataFrame, columns: AnyColumns) -> None:
        seqs = pl.Series("seq", columns.number.view(np.uint64))
        rows = frame.with_columns(seqs).select(list(schema_of(name)))
        if name == "account":
            self._output.answers(rows)
            return
        if name in self._writers:
            self._writers[name].append(rows)
        if self._trace is not None:
            if isinstance(columns, Columns):
                self._trace.quotes(name, (columns.number, columns.ts, *columns[3:]))
            else:
                self._trace.inputs(name, rows)
        if name == "target":
            both = rows.filter(pl.col("bid_px").is_not_null() & pl.col("ask_px").is_not_null())
            if both.height:
                self._mark = (both["bid_px"][-1] + both["ask_px"][-1]) // 2

    def _trouble(self, what: int) -> Exception:
        s = self._world[0]["state"][0]
        if what == BACKWARDS:
            return RecordingError(
                f"{self._recording.folder}: an input has a ts before {s['before_ts']}, that of the "
                f"one before it; along seq, ts must not go back"
            )
        if what == TWICE:
            return RecordingError(
                f"{self._recording.folder}: a seq occurs in two files after ts {s['before_ts']}; "
                f"seq must be unique over all feeds"
            )
        return ReplayError(
            f"--engine compiled cannot go on at {s['now']} ns (trouble {what}): a number or a "
            f"queue is larger than it counts with; use --engine rx"
        )

    def _close(self) -> dict[str, FileEntry]:
        """Finish all files, inputs and outputs beside each other."""
        entries: dict[str, FileEntry] = {}

        def close_inputs() -> None:
            entries.update({name: writer.close() for name, writer in self._writers.items()})

        self._inputs.put(close_inputs)
        if self._trace is not None:
            self._outputs.put(self._trace.finish_tables)
        answers = self._journal.close()
        self._settle_disk()
        return entries | answers


class _InTurn(Executor):
    """Does at once what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class Lane:
    """Writes what it is given one after the other; few things wait."""

    def __init__(self, thread: Executor) -> None:
        """Write on a thread."""
        self._thread = thread
        self._waiting: deque[Future[None]] = deque()

    def put(self, write: Callable[[], None]) -> None:
        """Have something written; an error of what was put before comes out here."""
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(write))

    def finish(self) -> None:
        """Wait until all is written."""
        while self._waiting:
            self._waiting.popleft().result()

    def stop(self) -> None:
        """End the thread; after an error, with what it does at the moment."""
        self._thread.shutdown(wait=True, cancel_futures=True)


_WAITING: Final = 2
