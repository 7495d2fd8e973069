"""A window of a run or recording, read from its files as the events that were there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl
from msgspec import Struct

from marblemaker.diagram import LANES, Diagram, DiagramError
from marblemaker.marbles import Event, OrderRow, OwnFill, duration
from marblemaker.settings import Settings, Strategy, as_used, load_settings, parse_duration_ns
from marblemaker.when import When, parse_when
from marblemaker.wiring import calendar_of
from streams.events import (
    BUY,
    SELL,
    AccountEvent,
    Anchor,
    Decision,
    OrderUpdate,
    Quote,
    Refusal,
    Residual,
    Status,
    Trade,
)
from streams.instant import iso
from streams.recording import FILES, SIGNALS, Manifest, RecordingError, read_manifest, scan_frames

__all__ = ["LANE_FILES", "decisions_of", "instant_of", "read_window", "window"]

LANE_FILES: Final[dict[str, str]] = {
    lane: f"{lane}.parquet" for lane in LANES if lane in FILES
} | {
    **{
        signal.replace("signal", "residual"): f"trace/{signal}.parquet" for signal in SIGNALS
    },
    "anchor": "trace/target.parquet",
    "wanted": "trace/wanted.parquet",
    "decisions": "decisions.parquet",
    "orders": "orders.parquet",
    "updates": "trace/orders.parquet",
    "fills": "fills.parquet",
}  # fmt: skip
"""Which file of a folder a lane is read from."""

_USUAL: Final = tuple(lane for lane in LANES if lane not in ("wanted", "updates"))
_WHEN_EMPTY: Final = (*SIGNALS, "target", "decisions")
"""Lanes that are drawn even when the window has nothing of theirs."""
_MOST_EVENTS: Final = 5_000
_WIDE: Final = 120
"""How many columns a diagram has at most whose step was not given."""
_SIDES: Final = {"BUY": BUY, "SELL": SELL}


def window(
    run: Path,
    t0: str | int,
    t1: str | int,
    *,
    step: str | int | None = None,
    lanes: Sequence[str] | None = None,
) -> Diagram:
    """Draw what happened from ``t0`` to ``t1``, both included, as a marble diagram.

    ``t0`` and ``t1`` are read as by ``parse_when`` (an int is ns), ``t1`` also as a span after
    ``t0`` such as ``+50ms``. ``step`` is what a column spans, a duration or ns; by default the
    finest that fits a screen. ``lanes`` are of ``LANES``; by default all but ``wanted`` and
    ``updates``, so far as the folder has their files and the window something of them.

    Errors: RecordingError if the folder is none or lacks a lane; DiagramError if the window ends
        before it begins, is empty or too large; WhenError for a time that cannot be read.
    """
    manifest = read_manifest(run)
    if manifest.markets:
        raise RecordingError(
            f"{run} holds several markets; draw one of them, such as {run / manifest.markets[0]}"
        )
    settings = load_settings(manifest=manifest)
    start_ns = instant_of(run, manifest, settings, t0)
    if isinstance(t1, str) and t1.strip().startswith("+"):
        end_ns = start_ns + parse_duration_ns(t1.strip()[1:], "the end of the window")
    else:
        end_ns = instant_of(run, manifest, settings, t1)
    if end_ns < start_ns:
        raise DiagramError(
            f"the window ends at {iso(end_ns)}, {duration(start_ns - end_ns)} before it begins at "
            f"{iso(start_ns)}; give the earlier time first"
        )
    if isinstance(step, str):
        step = parse_duration_ns(step, "step")
    if step is None:
        step = _step_for(end_ns - start_ns)
    if step <= 0:
        raise DiagramError(f"step must be at least 1ns, was {step}ns")
    # The width is refused before anything is read.
    empty = Diagram.of({}, start_ns=start_ns, end_ns=end_ns, step_ns=step)
    events = read_window(run, start_ns, end_ns, lanes)
    baseline = _baseline(events)
    return Diagram.of(
        events,
        start_ns=empty.start_ns,
        end_ns=end_ns,
        step_ns=step,
        title=_title(run, manifest, settings),
        overrides=_overrides(settings, baseline),
        notes=_notes(run, events, lanes),
    )


def instant_of(run: Path, manifest: Manifest, settings: Settings, when: str | int) -> int:
    """The instant that a text or a number of ns names, ns; of a seq that of its input.

    Errors: as of ``parse_when``; DiagramError if no input has that number.
    """
    if isinstance(when, int):
        return when
    parsed: When = parse_when(when, manifest, calendar_of(settings))
    if parsed.ts is not None:
        return parsed.ts
    for name in (*FILES, "decisions"):
        if name not in manifest.files:
            continue
        frames = scan_frames(run / f"{name}.parquet")
        if "seq" in frames.collect_schema():
            found = frames.filter(pl.col("seq") == parsed.seq).select("ts").head(1).collect()
            if found.height:
                return int(found["ts"][0])
    raise DiagramError(
        f"no input of {run} has seq {parsed.seq}; take one from decisions.parquet, or write a time"
    )


def read_window(
    run: Path, start_ns: int, end_ns: int, lanes: Sequence[str] | None = None
) -> dict[str, list[Any]]:
    """Read the events of each lane from ``start_ns`` to ``end_ns``, both included, in order.

    Errors: RecordingError if a lane that was asked for has no file; DiagramError if a lane is not
        known, or there are more events than a diagram can hold.
    """
    for lane in lanes or ():
        if lane not in LANES:
            raise DiagramError(f"there is no lane {lane!r}; the lanes are {', '.join(LANES)}")
        if not (run / LANE_FILES[lane]).is_file():
            raise RecordingError(
                f"{run} has no {LANE_FILES[lane]}, so the lane {lane} cannot be drawn; "
                f"`marble replay {run}` makes a run that has all of them"
            )
    found: dict[str, list[Any]] = {}
    total = 0
    for lane in _USUAL if lanes is None else (name for name in LANES if name in lanes):
        path = run / LANE_FILES[lane]
        if not path.is_file():
            continue
        frames = scan_frames(path).filter(pl.col("ts").is_between(start_ns, end_ns))
        rows = frames.head(_MOST_EVENTS + 1).collect()
        total += rows.height
        if total > _MOST_EVENTS:
            raise DiagramError(
                f"more than {_MOST_EVENTS:,} events are from {iso(start_ns)} to {iso(end_ns)}; "
                f"use a shorter window, or fewer --lanes"
            )
        if rows.height or lanes is not None or lane in _WHEN_EMPTY:
            found[lane] = [_event(lane, row) for row in rows.iter_rows(named=True)]
    return found


def decisions_of(run: Path) -> list[Decision]:
    """All decisions of a run, in order."""
    rows = scan_frames(run / "decisions.parquet").collect()
    return [_struct(Decision, row) for row in rows.iter_rows(named=True)]


def _event(lane: str, row: Mapping[str, Any]) -> Event:
    if lane in SIGNALS or lane == "target":
        return Quote(
            row.get("seq", 0), row["ts"], row["ts_event"], row["bid_px"], row["ask_px"],
            row["bid_sz"], row["ask_sz"], row["flags"],
        )  # fmt: skip
    if lane.startswith("residual") or lane == "anchor":
        if row["by"] is not None:
            return Refusal(
                row["seq"], row["ts"], row["by"], row["reason"], value=row["value"],
                limit=row["limit"],
            )  # fmt: skip
        if lane == "anchor":
            return Anchor(
                row["seq"], row["ts"], row["mid"], row["anchor"], row["bid_px"], row["ask_px"]
            )
        return Residual(row["seq"], row["ts"], row["mid"], row["baseline"], row["residual"])
    event: Event = _OTHERS[lane](row)
    return event


def _trade(row: Mapping[str, Any]) -> Trade:
    side = _SIDES.get(row["side"], 0)
    return Trade(row.get("seq", 0), row["ts"], row["ts_event"], row["px"], row["qty"], side)


def _status(row: Mapping[str, Any]) -> Status:
    return Status(row.get("seq", 0), row["ts"], row["source"], row["kind"], row["text"] or "")


def _reader(event_type: type[Struct]) -> Callable[[Mapping[str, Any]], Any]:
    return lambda row: _struct(event_type, row)


def _struct(event_type: type[Any], row: Mapping[str, Any]) -> Any:
    """A row as a struct; a column that an earlier version did not write has its default."""
    return event_type(
        **{
            field.name: row[field.name]
            for field in msgspec.structs.fields(event_type)
            if row.get(field.name) is not None or (field.required and field.name in row)
        }
    )


_OTHERS: Final[dict[str, Callable[[Mapping[str, Any]], Any]]] = {
    "trades": _trade,
    "status": _status,
    "account": _reader(AccountEvent),
    "wanted": _reader(Decision),
    "decisions": _reader(Decision),
    "orders": _reader(OrderRow),
    "updates": _reader(OrderUpdate),
    "fills": _reader(OwnFill),
}


# ---------------------------------------------------------------- what is told beside


def _step_for(span_ns: int) -> int:
    scale = 1
    while True:
        for factor in (1, 2, 5):
            if span_ns // (scale * factor) < _WIDE:
                return scale * factor
        scale *= 10


def _title(run: Path, manifest: Manifest, settings: Settings) -> str:
    return (
        f"{run.resolve().name}: {manifest.mode}, {settings.signal.instrument} → "
        f"{settings.target.instrument}, {settings.strategy.preset}"
    )


def _notes(
    run: Path, events: Mapping[str, Iterable[Event]], lanes: Sequence[str] | None
) -> list[str]:
    decided = (run / LANE_FILES["decisions"]).is_file()
    if lanes is None and decided and not (run / LANE_FILES["anchor"]).is_file():
        return ["without residual and anchor: the run has no trace; `marble replay` makes one"]
    return []


def _baseline(events: Mapping[str, Iterable[Any]]) -> float | None:
    """What the signal was measured against, where the window knows it and it was one."""
    known = {
        event.baseline
        for lane in ("decisions", "residual")
        for event in events.get(lane, ())
        if getattr(event, "baseline", None)
    }
    return known.pop() if len(known) == 1 else None


def _overrides(settings: Settings, baseline: float | None) -> list[str]:
    """Settings that are not the defaults, as ``--set`` takes them.

    A window begins without a past: the baseline that an earlier quote has set is named.
    """
    usual = as_used(Settings(strategy=Strategy(preset=settings.strategy.preset)))
    found: list[str] = []
    for section, body in as_used(settings).items():
        for key, value in body.items():
            if value == usual[section][key]:
                continue
            if value is None:
                found.append(f"{section}.{key}=off")
            else:
                text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
                found.append(f"{section}.{key}={text}")
    if baseline is not None and settings.strategy.signal_baseline in ("first", "session"):
        found = [one for one in found if not one.startswith("strategy.signal_baseline=")]
        found.append(f"strategy.signal_baseline={baseline!r}")
    return found
