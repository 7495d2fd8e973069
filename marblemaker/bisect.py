"""Bisect: the first output in which two runs differ, and where it came from on either side.

Digests tell which operators differ and between which checkpoints; only the values in between are
read. So it costs the same whether a run has a thousand events or ten million.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from msgspec import Struct

from marblemaker.digest import SEED, Rolling, words_of_frame
from marblemaker.trace import (
    BOOKS,
    DIGESTS,
    EVERY,
    FOLDER,
    operators_in_order,
    operators_of_refusals,
    read_proof,
)
from sinks.journal import DECISIONS_SCHEMA
from streams.instant import iso
from streams.instrument import format_units
from streams.recording import RecordingError, read_manifest, schema_of

__all__ = ["Difference", "Stage", "bisect", "comparable", "difference_lines", "stage_of"]

Row = dict[str, Any]

_FEW_ULPS: Final = 10**6

_REFUSED: Final = ("by", "reason", "value", "limit")
_REQUOTE: Final = (
    "action", "reason", "signal_seq", "target_seq", "position", "refused_bid_px", "refused_ask_px",
    "refused_bid_sz", "refused_ask_sz", "refused_value", "refused_limit", "threshold_bps",
    "unmoved",
)  # fmt: skip
_GUARDS: Final = ("event_time", "frozen", "collar", "split", "age")
_SKEW: Final = ("signal_shift", "inventory_shift", "shift")
_LADDER: Final = (
    "half_spread", "bid", "ask", "bid_px", "ask_px", "bid_levels", "ask_levels", "level_step",
    "qty", "bid_note", "ask_note",
)  # fmt: skip


class Stage(Struct, frozen=True, kw_only=True):
    """Where the outputs of one operator are kept."""

    file: str
    """Of the run folder."""
    columns: tuple[str, ...]
    """What the operator put out, beside ``seq`` and ``ts``."""
    only: pl.Expr | None = None
    """Which rows are its."""
    number: str = "seq"
    """The column that orders rows of one ``ts``."""


class Difference(Struct, frozen=True, kw_only=True):
    """The first output in which two runs differ."""

    operator: str
    ts: int
    """Instant of the output, ns: of the earlier one if the two have different ones."""
    seq: int
    """The input it was made from; for ``order_sink`` the order's number."""
    n: int
    """Which output of the operator it is, from 1."""
    a: Row | None
    """The output in the first run; ``None`` if it has none."""
    b: Row | None
    fields: tuple[str, ...]
    """Columns in which they differ."""
    lineage: tuple[tuple[str, Row | None, Row | None], ...]
    """What every operator put out last until then, in the order in which values flow."""
    others: tuple[str, ...]
    """Which other operators differ, there or later."""
    within: tuple[int, int] | None = None
    """First and last ``seq`` between which it lies, when no more than that can be told: an input's
    file was changed after the first run had ended."""


def stage_of(operator: str) -> Stage:
    """Where an operator's outputs are kept.

    Errors: RecordingError for a name that no operator has.
    """
    head, _, name = operator.partition(" ")
    if head == "input":
        columns = tuple(c for c in schema_of(name) if c not in ("seq", "ts"))
        return Stage(file=f"{name}.parquet", columns=columns)
    feed, _, part = operator.partition(".")
    if part:
        return _of_feed(feed, part)
    refused = {"session": "session", "basis": "basis", "risk": "risk", "kill_switch": "kill switch"}
    if operator in refused:
        only = pl.col("by") == refused[operator]
        columns = _REFUSED
        if operator == "session":
            only, columns = only | (pl.col("widening") != 1.0), (*_REFUSED, "widening")
        return Stage(file=f"{FOLDER}/state.parquet", columns=columns, only=only.fill_null(False))
    wanted = {"requote": _REQUOTE, "skew": _SKEW, "ladder": _LADDER}
    if operator in wanted:
        return Stage(file=f"{FOLDER}/wanted.parquet", columns=wanted[operator])
    both = ("signal_seq", "target_seq")
    match operator:
        case "combine_latest":
            ours = pl.col("by").is_null() | pl.col("by").is_in(["signal", "target"])
            return Stage(file=f"{FOLDER}/state.parquet", columns=(*both, *_REFUSED), only=ours)
        case "fair_value":
            pairs = pl.col("by").is_null()
            return Stage(file=f"{FOLDER}/state.parquet", columns=(*both, "anchor"), only=pairs)
        case "weighted":
            columns = ("mid", "baseline", "residual", *_REFUSED)
            return Stage(file=f"{FOLDER}/weighted.parquet", columns=columns)
        case "throttle":
            columns = tuple(c for c in DECISIONS_SCHEMA if c not in ("seq", "ts"))
            return Stage(file="decisions.parquet", columns=columns)
        case "order_sink":
            columns = ("side", "state", "leaves", "px", "filled", "fill_px", "fee", "batch",
                       "quota_left", "requested")  # fmt: skip
            return Stage(file=f"{FOLDER}/orders.parquet", columns=columns, number="n")
    raise RecordingError(f"no operator is called {operator!r}")


def _of_feed(feed: str, part: str) -> Stage:
    file = f"{FOLDER}/{feed}.parquet"
    sound = pl.col("by").is_null()
    reasons = pl.col("reason").is_in(operators_of_refusals(part)).fill_null(False)
    if part == "residual":
        return Stage(file=file, columns=("baseline", "residual"), only=sound)
    if part == "anchor":
        return Stage(file=file, columns=("anchor",), only=sound)
    if part == "mid":
        px = ("bid_px", "ask_px") if feed == "target" else ()
        return Stage(file=file, columns=("mid", *px), only=sound)
    if part == BOOKS:
        guards = [r for p in _GUARDS for r in operators_of_refusals(p)]
        return Stage(file=file, columns=_REFUSED, only=~sound & ~pl.col("reason").is_in(guards))
    return Stage(file=file, columns=_REFUSED, only=reasons)


# ---------------------------------------------------------------- digests


def _checkpoints(run: Path) -> dict[str, list[tuple[int, int, int, int]]]:
    """(n, seq, ts, digest) of each operator, in order."""
    path = run / FOLDER / f"{DIGESTS}.parquet"
    if not path.is_file():
        raise RecordingError(
            f"{run} has no digests ({path.name}): it was made without a trace, by an older "
            f"version, or was killed. Replay it (marble replay {run}) and take that run"
        )
    try:
        rows = pl.read_parquet(path).rows()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RecordingError(f"{path} cannot be read: {error}") from error
    found: dict[str, list[tuple[int, int, int, int]]] = {}
    for operator, *checkpoint in rows:
        found.setdefault(operator, []).append(tuple(checkpoint))
    return found


class _Window(Struct, frozen=True):
    """Between which checkpoints an operator differs first."""

    operator: str
    n: int = 0
    """Outputs up to which both are the same."""
    ts: int = 0
    """Instant of the last of them."""
    digest: int = SEED
    """After the last of them."""
    until: int = 0
    """Outputs at the first checkpoint at which they differ, in the first run."""
    digest_until: int = 0


def _windows(
    a: Mapping[str, Sequence[tuple[int, int, int, int]]],
    b: Mapping[str, Sequence[tuple[int, int, int, int]]],
) -> list[_Window]:
    windows = []
    for operator in operators_in_order(sorted({*a, *b})):
        ours, theirs = a.get(operator, ()), b.get(operator, ())
        if ours == theirs:
            continue
        k = 0
        for one, other in zip(ours, theirs, strict=False):
            if (one[0], one[3]) != (other[0], other[3]):
                break
            k += 1
        n, _, ts, digest = ours[k - 1] if k else (0, 0, 0, SEED)
        until, _, _, digest_until = ours[k] if k < len(ours) else (n, 0, 0, digest)
        windows.append(_Window(operator, n, ts, digest, until, digest_until))
    return windows


# ---------------------------------------------------------------- values


def _rows(run: Path, stage: Stage, since: int, limit: int | None) -> pl.DataFrame | None:
    path = run / stage.file
    if not path.is_file():
        return None
    names = list(dict.fromkeys((stage.number, "ts", *stage.columns)))
    frames = pl.scan_parquet(path).filter(pl.col("ts") >= since)
    if stage.only is not None:
        frames = frames.filter(stage.only)
    frames = frames.select(names)
    return (frames if limit is None else frames.head(limit)).collect()


def _first_in(a: Path, b: Path, window: _Window) -> tuple[int, Row | None, Row | None] | None:
    """The first rows that differ within a window, and how many before them are the same."""
    stage = stage_of(window.operator)
    for limit in (4 * EVERY, None):
        ours, theirs = (_rows(run, stage, window.ts, limit) for run in (a, b))
        if ours is None and theirs is None:
            return None
        if ours is None or theirs is None:
            there = theirs if ours is None else ours
            assert there is not None
            row = there.row(0, named=True) if there.height else None
            return 0, *((None, row) if ours is None else (row, None))
        height = min(ours.height, theirs.height)
        same = pl.repeat(True, height, dtype=pl.Boolean, eager=True)
        for name in ours.columns:
            same &= _same(ours[name].head(height), theirs[name].head(height))
        at = int((~same).arg_max()) if not same.all() else height  # type: ignore[arg-type]
        if at < max(ours.height, theirs.height):
            rows = [f.row(at, named=True) if at < f.height else None for f in (ours, theirs)]
            return at, rows[0], rows[1]
        if limit is None or height < limit:
            return None
    return None


def _delivered(
    run: Path, window: _Window
) -> tuple[tuple[int, Row | None, Row | None] | None, tuple[int, int] | None]:
    """What was delivered instead of what an input's file holds now, as far as the digests tell.

    Inputs of one instant that changed places are found; of anything else only the window is known,
    from the first to the last ``seq``.
    """
    stage = stage_of(window.operator)
    rows = pl.read_parquet(run / stage.file).slice(window.n, window.until - window.n)
    if not rows.height:
        return None, None
    words = words_of_frame(rows)
    times, seqs = rows["ts"].to_list(), rows["seq"].to_list()
    for i in range(rows.height):
        for j in range(i + 1, rows.height):
            if times[j] != times[i]:
                break
            before = words.copy()
            before[1:, i], before[1:, j] = words[1:, j], words[1:, i]
            if _digest_after(window.digest, before, times) == window.digest_until:
                then, now = rows.row(j, named=True) | {"seq": seqs[i]}, rows.row(i, named=True)
                return (i, then, now), None
        for step in (-1, 1, -2, 2, -3, 3):  # it changed places with another feed's
            before = words.copy()
            before[0, i] = np.uint64(seqs[i] + step)
            if _digest_after(window.digest, before, times) == window.digest_until:
                now = rows.row(i, named=True)
                return (i, now | {"seq": seqs[i] + step}, now), None
    row = rows.row(0, named=True)
    return (0, row, row), (seqs[0], seqs[-1])


def _digest_after(digest: int, words: Any, times: Sequence[int]) -> int:
    rolling = Rolling(2**62)
    rolling.digest = digest
    every = np.arange(len(times))
    rolling.take(words, every, np.arange(len(words)), words[0], np.array(times, np.int64))
    return int(rolling.digest)


def _same(one: pl.Series, other: pl.Series) -> pl.Series:
    if one.dtype == pl.Float64:
        # The bits: -0.0 is not 0.0, and a NaN is itself.
        one, other = (s.reinterpret(signed=True) for s in (one, other))
    return one.eq_missing(other)


def bisect(a: Path, b: Path) -> Difference | None:
    """Find the first output in which two runs differ; ``None`` if all digests are the same.

    First is what comes first in the graph's time, and of what happens at one instant of the same
    input what comes first along the flow of values.

    Errors: RecordingError if one of them has no digests, or theirs differ and no value that is
        kept does.
    """
    ours, theirs = _checkpoints(a), _checkpoints(b)
    windows = _windows(ours, theirs)
    if not windows:
        return None
    found = []
    only_within: dict[str, tuple[int, int] | None] = {}
    for place, window in enumerate(windows):
        first = _first_in(a, b, window)
        if first is None and window.operator.startswith("input "):
            first, only_within[window.operator] = _delivered(b, window)
        if first is None:
            continue
        at, one, other = first
        number = stage_of(window.operator).number
        ts = min(row["ts"] for row in (one, other) if row is not None)
        seq = min(row[number] for row in (one, other) if row is not None and row["ts"] == ts)
        # Orders have no place among the inputs of an instant: they come after what caused them.
        within = seq if number == "seq" else 2**63
        found.append(((ts, within, place), window, at, seq, one, other))
    if not found:
        names = ", ".join(window.operator for window in windows)
        raise RecordingError(
            f"the digests of {names} differ between {a} and {b}, the values that are kept do not: "
            f"files of one of them were changed after it had ended"
        )
    (ts, _, _), window, at, seq, one, other = min(found, key=lambda entry: entry[0])
    fields = tuple(
        name
        for name in (one or other or {})
        if one is None or other is None or _text(one[name]) != _text(other[name])
    )
    before = _count_before(a, window)
    return Difference(
        operator=window.operator,
        ts=ts,
        seq=seq,
        n=window.n - before + at + 1,
        a=one,
        b=other,
        fields=fields,
        lineage=tuple(_lineage(a, b, ts, sorted({*ours, *theirs}))),
        others=tuple(w.operator for w in windows if w.operator != window.operator),
        within=only_within.get(window.operator),
    )


def _count_before(run: Path, window: _Window) -> int:
    """How many rows of the window's first instant belong to the outputs before it."""
    if not window.n:
        return 0
    stage = stage_of(window.operator)
    frames = pl.scan_parquet(run / stage.file)
    frames = frames.filter(pl.col("ts") == window.ts)
    if stage.only is not None:
        frames = frames.filter(stage.only)
    number = stage.number
    rows = frames.select(number).collect()
    for checkpoint in _checkpoints(run)[window.operator]:
        if checkpoint[0] == window.n:
            return int((rows[number] == checkpoint[1]).arg_max() or 0) + 1 if rows.height else 0
    return 0


def _lineage(
    a: Path, b: Path, ts: int, operators: Sequence[str]
) -> Iterator[tuple[str, Row | None, Row | None]]:
    for operator in operators_in_order(operators):
        stage = stage_of(operator)
        yield operator, _last_until(a, stage, ts), _last_until(b, stage, ts)


def _last_until(run: Path, stage: Stage, ts: int) -> Row | None:
    """The last output at or before an instant."""
    path = run / stage.file
    if not path.is_file():
        return None
    names = list(dict.fromkeys((stage.number, "ts", *stage.columns)))
    # Near it first: only the row groups that hold those instants are read.
    for span in (10**9, 60 * 10**9, 3_600 * 10**9, ts):
        frames = pl.scan_parquet(path).filter(pl.col("ts").is_between(ts - span, ts))
        if stage.only is not None:
            frames = frames.filter(stage.only)
        rows = frames.select(names).tail(1).collect()
        if rows.height:
            return rows.row(0, named=True)
    return None


# ---------------------------------------------------------------- for people


def _ulps(one: float, other: float) -> int:
    """How many doubles lie from one to the other."""

    def place(x: float) -> int:
        bits: int = struct.unpack("<q", struct.pack("<d", x))[0]
        return bits if bits >= 0 else -(bits & 0x7FFF_FFFF_FFFF_FFFF)

    return place(other) - place(one)


def _text(value: Any) -> str:
    return "–" if value is None else repr(value) if isinstance(value, float) else str(value)


def _shown(name: str, value: Any) -> str:
    if value is not None and name.endswith(
        ("_px", "_sz", "px", "qty", "position", "leaves", "fee")
    ):
        return format_units(value) if isinstance(value, int) else _text(value)
    return _text(value)


def difference_lines(difference: Difference, names: tuple[str, str]) -> list[str]:
    """Tell it to a person; ``names`` are those of the two runs."""
    d = difference
    what = "order" if d.operator == "order_sink" else "seq"
    lines = [
        f"first difference: {d.operator}, output {d.n:,}, {what} {d.seq}, at {iso(d.ts)}",
    ]
    if d.within is not None:
        lines = [
            f"first difference: {d.operator}, between seq {d.within[0]} and {d.within[1]}, from "
            f"{iso(d.ts)}",
            "  what was delivered there is not what the file holds now; it was changed since",
        ]
        names_told: tuple[str, ...] = ()
    else:
        names_told = names
    width = max(map(len, names))
    for name, row in zip(names_told, (d.a, d.b), strict=False):
        if row is None:
            lines.append(f"  {name:{width}}  has no such output")
            continue
        shown = d.fields if d.a is not None and d.b is not None else tuple(row)
        told = ", ".join(f"{field} {_shown(field, row[field])}" for field in shown
                         if row[field] is not None or field in d.fields)  # fmt: skip
        lines.append(f"  {name:{width}}  {told}")
    if d.a is not None and d.b is not None:
        for field in d.fields:
            one, other = d.a[field], d.b[field]
            if isinstance(one, float) and isinstance(other, float):
                apart = _ulps(one, other)
                if abs(apart) < _FEW_ULPS:
                    lines.append(f"  {field}: {apart:+,} units in the last place")
    lines += ["", "what every operator had put out last, until then"]
    for operator, one, other in d.lineage:
        if one == other:
            if one is not None:
                lines.append(f"    {operator:18} {_row_text(one)}")
            continue
        lines.append(f"  ≠ {operator:18} {names[0]}: {_row_text(one, other)}")
        lines.append(f"    {'':18} {names[1]}: {_row_text(other, one)}")
    if d.others:
        lines += ["", "there or later also differ: " + ", ".join(d.others)]
    return lines


def _row_text(row: Row | None, beside: Row | None = None) -> str:
    """An output in words; beside another one of the same input, what differs."""
    if row is None:
        return "nothing"
    number = "n" if "n" in row else "seq"
    alike = beside is not None and beside[number] == row[number]
    told = [f"{number} {row[number]}"]
    told += [
        f"{name} {_shown(name, value)}"
        for name, value in row.items()
        if name != number
        and (
            value != (beside or {}).get(name) if alike else name != "ts" and value not in (None, "")
        )
    ]
    return ", ".join(told)


def _is_told(name: str, value: Any) -> bool:
    return name != "ts" and value not in (None, "")


def comparable(a: Path, b: Path) -> list[str]:
    """What is known to be different of two runs before any value is looked at."""
    notes = []
    ours, theirs = read_manifest(a), read_manifest(b)
    for key in sorted({*flat(ours.settings), *flat(theirs.settings)}):
        one, other = flat(ours.settings).get(key), flat(theirs.settings).get(key)
        if one != other:
            notes.append(f"settings: {key} is {one!r} and {other!r}")
    for key in sorted({*ours.versions, *theirs.versions}):
        if ours.versions.get(key) != theirs.versions.get(key):
            notes.append(f"versions: {key} {ours.versions.get(key)} and {theirs.versions.get(key)}")
    proofs = [read_proof(run) for run in (a, b)]
    if all(proof is not None for proof in proofs):
        on = [proof.platform for proof in proofs if proof is not None]
        if on[0] != on[1]:
            notes.append(f"platform: {on[0]} and {on[1]}")
    return notes


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
