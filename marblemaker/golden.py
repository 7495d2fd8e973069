"""Goldens: the decisions and orders that a replay must repeat, kept small beside the tests.

A golden is a folder with ``decisions.parquet``, ``orders.parquet`` and ``golden.json``, which says
what they were made from, and why they were last renewed. A run that differs is told row by row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl
from msgspec import Struct

from marblemaker.settings import Settings, as_used
from marblemaker.versions import versions
from sinks.journal import DECISIONS_SCHEMA, ORDERS_SCHEMA
from streams.instant import iso
from streams.instrument import Instrument, format_units
from streams.recording import FILES, Manifest, RecordingError, read_manifest, scan_frames

__all__ = ["Counts", "Golden", "compare", "read_golden", "write_golden"]

FORMAT: Final = 1
_NOTE: Final = "golden.json"
_TABLES: Final = {"decisions": DECISIONS_SCHEMA, "orders": ORDERS_SCHEMA}
_NUMBERS: Final = ("seq", "signal_seq", "target_seq", "n")
"""Columns that count: one more answer of the venue shifts all that come after it."""
_ON_PATH: Final = (
    "action", "reason", "signal_mid", "baseline", "residual", "target_mid", "target_bid_px",
    "target_ask_px", "anchor", "position", "signal_shift", "inventory_shift", "shift",
    "half_spread", "bid", "ask", "bid_px", "ask_px",
)  # fmt: skip
"""Outputs of the operators in the order in which a decision is made of them."""
_AROUND: Final = 2
_SHOWN: Final = 10


class Counts(Struct, frozen=True):
    """How many rows of a table are as they were."""

    equal: int = 0
    changed: int = 0
    renumbered: int = 0
    """Equal but for the numbers of inputs and orders."""
    added: int = 0
    missing: int = 0

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.changed or self.renumbered or self.added or self.missing)

    def __str__(self) -> str:
        """In words; kinds that do not occur, but for equal ones, are left out."""
        told = [f"{self.equal:,} equal"]
        for name in ("changed", "renumbered", "added", "missing"):
            if getattr(self, name):
                told.append(f"{getattr(self, name):,} {name}")
        return ", ".join(told)


class Golden(Struct, kw_only=True):
    """``golden.json``: what a golden was made from, and why."""

    format: int = FORMAT
    reason: str
    """Why it was last renewed."""
    changed: dict[str, str] = {}
    """What that changed against the golden before: counts by table."""
    recording: str = ""
    inputs: dict[str, str] = {}
    """sha256 of the recording's files of inputs."""
    venue: str = ""
    settings: dict[str, Any] = {}
    """As used by the run."""
    versions: dict[str, str] = {}
    rows: dict[str, int] = {}


def read_golden(folder: Path) -> Golden:
    """Read what a golden says of itself.

    Errors: RecordingError if it is none, or a newer version wrote it.
    """
    path = folder / _NOTE
    try:
        golden = msgspec.json.decode(path.read_bytes(), type=Golden)
    except FileNotFoundError:
        raise RecordingError(f"{folder} is no golden: it has no {_NOTE}") from None
    except (msgspec.DecodeError, OSError) as error:
        raise RecordingError(f"{path} cannot be read: {error}; restore it, or renew it") from error
    if golden.format > FORMAT:
        raise RecordingError(
            f"{path} is of format {golden.format}, this version reads {FORMAT}; upgrade marblemaker"
        )
    return golden


def write_golden(folder: Path, run: Path, recording: Path, reason: str) -> dict[str, Counts]:
    """Make the run's decisions and orders the golden; tell what that changed, by table.

    A golden whose rows all stay is left as it is, but for one that did not exist.

    Errors: RecordingError if the folder holds something else than a golden; ValueError without a
        reason.
    """
    if not reason.strip():
        raise ValueError("a golden is renewed for a reason: say what made the decisions change")
    if folder.exists() and any(folder.iterdir()):
        read_golden(folder)
        counts = {name: compared.counts for name, compared in _compare_all(folder, run).items()}
        if not any(counts.values()):
            return counts
    else:
        counts = {name: Counts(added=_read(run, name).height) for name in _TABLES}
    manifest, source = read_manifest(run), read_manifest(recording)
    summary = json.loads((run / "summary.json").read_text())
    golden = Golden(
        reason=reason.strip(),
        changed={name: str(count) for name, count in counts.items()},
        recording=recording.resolve().name,
        inputs=_inputs(source),
        venue=str(summary.get("venue", "")),
        settings=manifest.settings,
        versions=versions(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name in _TABLES:
        rows = _read(run, name)
        golden.rows[name] = rows.height
        partial = folder / f".{name}.partial"
        rows.write_parquet(partial, compression="zstd", compression_level=19)
        partial.replace(folder / f"{name}.parquet")
    text = json.dumps(msgspec.to_builtins(golden), indent=2, sort_keys=False)
    (folder / _NOTE).write_text(text + "\n", encoding="utf-8")
    return counts


def compare(
    folder: Path, run: Path, recording: Path, settings: Settings, *, shown: int = _SHOWN
) -> list[str]:
    """Tell how a run differs from a golden, in lines for people; none if it does not.

    Every row counts, whatever its column; ``shown`` differing rows of each table are shown, each
    with those around it.

    Errors: RecordingError if the folder holds no golden, or it is damaged.
    """
    golden = read_golden(folder)
    compared = _compare_all(folder, run)
    if not any(table.counts for table in compared.values()):
        return []
    lines = [f"{name:10} {table.counts}" for name, table in compared.items()]
    lines += _made_otherwise(golden, recording, settings)
    target = settings.target_instrument
    for name, table in compared.items():
        if table.counts:
            lines += ["", *table.lines(name, target, shown)]
    return lines


def _inputs(manifest: Manifest) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in manifest.files.items() if name in FILES}


def _read(folder: Path, name: str) -> pl.DataFrame:
    """A table with all columns of this version: those that were not there yet are null."""
    frames = scan_frames(folder / f"{name}.parquet")
    found = frames.collect_schema()
    return frames.select(
        pl.col(column) if column in found else pl.lit(None, dtype=kind).alias(column)
        for column, kind in _TABLES[name].items()
    ).collect()


def _made_otherwise(golden: Golden, recording: Path, settings: Settings) -> Iterator[str]:
    """What else is not as when the golden was made: it may be why."""
    inputs = _inputs(read_manifest(recording))
    other = sorted(
        name for name in {*inputs, *golden.inputs} if inputs.get(name) != golden.inputs.get(name)
    )
    if other:
        yield f"the recording is another one: {', '.join(other)} changed since the golden"
    for section, body in as_used(settings).items():
        before = golden.settings.get(section, {})
        for key, value in body.items():
            if key in before and before[key] != value:
                yield f"settings     {section}.{key} was {before[key]!r}, now {value!r}"
    now = versions()
    changed = [
        f"{name} {version} → {now[name]}"
        for name, version in golden.versions.items()
        if name in now and now[name] != version
    ]
    if changed:
        yield f"versions     {', '.join(changed)}"
    yield f"golden       last renewed: {golden.reason}"


# ---------------------------------------------------------------- row by row


class _Pair(Struct, frozen=True):
    """A row of the golden and the one of the run at its place; one of them may be missing."""

    mark: str
    """``" "`` equal, ``~`` changed, ``#`` renumbered, ``+`` added, ``-`` missing."""
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @property
    def row(self) -> dict[str, Any]:
        row = self.after if self.before is None else self.before
        assert row is not None
        return row


class _Compared(Struct, frozen=True):
    pairs: list[_Pair]
    counts: Counts

    def lines(self, name: str, target: Instrument, shown: int) -> Iterator[str]:
        """The first rows that differ, each with those around it."""
        at = [i for i, pair in enumerate(self.pairs) if pair.mark not in " #"]
        # Rows that only have other numbers are told where there is nothing else to tell.
        at = at or [i for i, pair in enumerate(self.pairs) if pair.mark == "#"]
        near = {k for i in at[:shown] for k in range(i - _AROUND, i + _AROUND + 1)}
        shown_at = sorted(i for i in near if 0 <= i < len(self.pairs))
        rows = [_cells(name, self.pairs[i], target) for i in shown_at]
        heads = ("", "time (UTC)", "golden", "now", "Δ ticks", "first that differs")
        widths = [max(len(row[k]) for row in [heads, *rows]) for k in range(len(heads))]
        yield f"{name}, the first {min(shown, len(at))} of {len(at)} that differ:"
        yield _joined(heads, widths)
        last = None
        for i, row in zip(shown_at, rows, strict=True):
            if last is not None and i > last + 1:
                yield "  …"
            last = i
            yield _joined(row, widths)
        if len(at) > shown:
            yield f"  … and {len(at) - shown:,} more"


def _joined(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _compare_all(golden: Path, run: Path) -> dict[str, _Compared]:
    return {
        name: _compare(_read(golden, name), _read(run, name), exact=("side",) * (name == "orders"))
        for name in _TABLES
    }


def _compare(before: pl.DataFrame, after: pl.DataFrame, exact: Sequence[str]) -> _Compared:
    """Put the rows of one instant (and of one ``exact``) side by side, in their order."""
    key = ["ts", *exact]
    columns = [column for column in before.columns if column not in _NUMBERS]
    numbers = [column for column in before.columns if column in _NUMBERS]
    sides = []
    for frame, side in ((before, "before"), (after, "after")):
        place = pl.int_range(pl.len()).over(key).alias("place")
        sides.append(frame.with_columns(place).with_row_index(side).select([*key, "place", side]))
    joined = sides[0].join(sides[1], on=[*key, "place"], how="full", coalesce=True)
    # A row that is new stands where time puts it, after the rows of the golden.
    joined = joined.sort("ts", "place", "before", "after", nulls_last=True, maintain_order=True)
    both = joined.drop_nulls()
    left, right = before[both["before"]], after[both["after"]]
    differs = _differ(left, right, columns)
    renumbered = ~differs & _differ(left, right, numbers)
    marks = dict(
        zip(
            both["before"],
            ("~" if a else "#" if b else " " for a, b in zip(differs, renumbered, strict=True)),
            strict=True,
        )
    )
    old, new = before.to_dicts(), after.to_dicts()
    pairs = [
        _Pair(
            "+" if i is None else "-" if k is None else marks[i],
            None if i is None else old[i],
            None if k is None else new[k],
        )
        for i, k in zip(joined["before"], joined["after"], strict=True)
    ]
    counted = [pair.mark for pair in pairs]
    return _Compared(pairs, Counts(*(counted.count(mark) for mark in (" ", "~", "#", "+", "-"))))


def _differ(left: pl.DataFrame, right: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """Which rows differ in any of the columns, bit for bit."""
    found = pl.Series([False]).new_from_index(0, left.height)
    for column in columns:
        one, other = left[column], right[column]
        if one.dtype == pl.Float64:
            # By their bits: -0.0 is not 0.0, and a NaN is itself.
            one, other = one.reinterpret(signed=True), other.reinterpret(signed=True)
        found |= one.ne_missing(other)
    return found


def _cells(name: str, pair: _Pair, target: Instrument) -> tuple[str, ...]:
    tell, decimals = _decision if name == "decisions" else _order, target.price_decimals
    return (
        f"  {pair.mark}",
        iso(pair.row["ts"])[11:-1],
        "–" if pair.before is None else tell(pair.before, decimals),
        "" if pair.mark == " " else "–" if pair.after is None else tell(pair.after, decimals),
        _ticks(pair, ("bid_px", "ask_px") if name == "decisions" else ("px",), target.tick_size),
        _first(name, pair),
    )


def _decision(row: dict[str, Any], decimals: int) -> str:
    told: list[str] = [row["action"]]
    if row["bid_px"] is not None or row["ask_px"] is not None:
        told.append(f"{_px(row['bid_px'], decimals)} × {_px(row['ask_px'], decimals)}")
    return " ".join([*told, row["reason"]]).strip()


def _order(row: dict[str, Any], decimals: int) -> str:
    px = "market" if row["px"] is None else format_units(row["px"], decimals)
    return f"{row['n']} {row['side']} {format_units(row['qty'])} @ {px} {row['status']}"


def _px(units: int | None, decimals: int) -> str:
    return "–" if units is None else format_units(units, decimals)


def _ticks(pair: _Pair, columns: Sequence[str], tick: int) -> str:
    if pair.mark != "~" or pair.before is None or pair.after is None:
        return ""
    moves = []
    for column in columns:
        before, after = pair.before[column], pair.after[column]
        moves.append(None if before is None or after is None else (after - before) / tick)
    if all(move is None for move in moves):
        return ""
    return " × ".join("–" if move is None else f"{move:+g}" if move else "0" for move in moves)


def _first(name: str, pair: _Pair) -> str:
    """The first operator's output that differs, before and now."""
    if pair.before is None or pair.after is None:
        return {"+": "only now", "-": "only in the golden"}[pair.mark]
    if pair.mark == " ":
        return ""
    order = [*_ON_PATH, *_TABLES[name]] if name == "decisions" else list(_TABLES[name])
    for column in [*(c for c in order if c not in _NUMBERS), *_NUMBERS]:
        before, after = pair.before.get(column), pair.after.get(column)
        if repr(before) != repr(after):  # which tells -0.0 from 0.0
            return f"{column} {_told(column, before)} → {_told(column, after)}"
    return ""


def _told(column: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int) and (column.endswith(("_px", "px", "qty")) or column in _IN_UNITS):
        return format_units(value)
    if column in ("ts_last", "signal_ts", "target_ts"):
        return iso(value)[11:-1]
    return repr(value) if isinstance(value, str | float) else str(value)


_IN_UNITS: Final = ("position", "filled", "level_step", "refused_bid_sz", "refused_ask_sz")
