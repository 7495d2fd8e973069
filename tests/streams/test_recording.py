"""Recordings: every kind of input is written, checked and read back in the one order."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from streams.events import AccountEvent, Status, Trade
from streams.instrument import Instrument
from streams.pump import ACCOUNT, MAX_SIGNALS, SIGNAL, STATUS, TARGET, TRADE, Inputs
from streams.recording import (
    ACCOUNT_SCHEMA,
    FILES,
    QUOTE_SCHEMA,
    SIGNALS,
    STATUS_SCHEMA,
    TRADES_SCHEMA,
    FrameWriter,
    Manifest,
    Recording,
    RecordingError,
    checked_rows,
    rows_of,
    schema_of,
    write_manifest,
)

UNIT = 10**9
PERP = Instrument(symbol="NVDA-PERP", venue="LIGHTER", price_decimals=3)
Columns = dict[str, Any]

QUOTE: Columns = {"bid_px": 180 * UNIT, "ask_px": 181 * UNIT, "bid_sz": UNIT, "ask_sz": UNIT}
ROWS: dict[str, Columns] = {
    "account": {"kind": "ack", "n": 1},
    "status": {"source": "signal", "kind": "heartbeat"},
    **dict.fromkeys(SIGNALS, QUOTE),
    "trades": {"px": 180 * UNIT, "qty": UNIT},
    "target": QUOTE,
}
"""A sound row of each file, without its place in the order."""


def rows(name: str, *places: tuple[int, int], **columns: Any) -> pl.DataFrame:
    """Rows of one file at the given (seq, ts), alike but for ``columns``, a list or one value."""
    filled = {
        column: value if isinstance(value, list) else [value] * len(places)
        for column, value in {**ROWS[name], **columns}.items()
    }
    seqs, tss = [seq for seq, _ in places], [ts for _, ts in places]
    defaults = {"flags": [0] * len(places)}
    whole = {**defaults, **filled, "seq": seqs, "ts": tss}
    schema = schema_of(name)
    nothing = [None] * len(places)
    return pl.DataFrame({c: whole.get(c, nothing) for c in schema}, schema=schema)


def recording(folder: Path, **files: pl.DataFrame) -> Path:
    """Write a recording whose frames are taken as they are."""
    folder.mkdir()
    manifest = Manifest()
    for name, frame in files.items():
        writer = FrameWriter(folder, name, frame.schema)
        writer.append(frame)
        manifest.files[name] = writer.close()
    write_manifest(folder, manifest)
    return folder


def read(
    folder: Path, *, recorded: bool = False, batch_rows: int = 65_536
) -> list[tuple[Inputs, pl.DataFrame]]:
    return list(Recording.open(folder).inputs(PERP, recorded=recorded, batch_rows=batch_rows))


def order(folder: Path, **options: Any) -> list[tuple[int, int]]:
    """The (ts, kind) of all inputs in their order."""
    return [
        place
        for inputs, _ in read(folder, **options)
        for place in zip(inputs.ts, inputs.kind, strict=True)
    ]


def events(folder: Path, **options: Any) -> list[object]:
    return [event for inputs, _ in read(folder, **options) for event in inputs.events]


def unnumbered(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.drop("seq")


# ---------------------------------------------------------------- the files


def test_the_kinds_of_the_files_are_the_pumps_and_in_the_order_of_ties() -> None:
    assert len(SIGNALS) == MAX_SIGNALS
    assert (FILES["account"], FILES["status"], FILES["signal"]) == (ACCOUNT, STATUS, SIGNAL)
    assert (FILES["signal_2"], FILES["signal_7"]) == (SIGNAL + 1, SIGNAL + 6)
    assert (FILES["trades"], FILES["target"]) == (TRADE, TARGET)
    assert list(FILES.values()) == sorted(set(FILES.values()))


@pytest.mark.parametrize("name", FILES)
def test_rows_of_each_file_come_back_as_they_were_written(tmp_path: Path, name: str) -> None:
    full: dict[str, Columns] = {
        "account": {"kind": "fill", "px": 3, "qty": 4, "fee": -1, "venue_id": "t", "reason": "é",
                    "liquidity": "MAKER", "quota_left": [None, 2**63 - 1]},
        "status": {"kind": ["kill", "release"], "source": "operator", "text": ["", "why\n"]},
        "trades": {"ts_event": [None, 0], "side": ["BUY", "SELL"], "trade_id": ["1", None]},
    }  # fmt: skip
    written = rows(name, (1, 5), (2, 5), **full.get(name, {"flags": [0, 255], "bid_px": None}))
    writer = FrameWriter(tmp_path, name, schema_of(name))
    writer.append(written)

    assert writer.close().rows == 2
    (came,) = checked_rows(name, tmp_path / f"{name}.parquet")
    assert came.equals(written)
    assert came.schema == schema_of(name)


def test_an_account_file_without_the_quota_reads_as_if_the_venue_had_not_told_it(
    tmp_path: Path,
) -> None:
    account = rows("account", (3, 3), quota_left=7)
    quotes = {"signal": rows("signal", (1, 1)), "target": rows("target", (2, 2))}
    old = recording(tmp_path / "old", account=account.drop("quota_left"), **quotes)
    new = recording(tmp_path / "new", account=account, **quotes)

    assert list(ACCOUNT_SCHEMA)[-1] == "quota_left"
    assert events(old, recorded=True) == [AccountEvent(seq=3, ts=3, kind="ack", n=1)]
    assert events(new, recorded=True) == [AccountEvent(seq=3, ts=3, kind="ack", n=1, quota_left=7)]


def test_a_recording_tells_how_many_signals_and_whether_trades_it_has(tmp_path: Path) -> None:
    quotes = {name: rows(name, (n, n)) for n, name in enumerate(("signal", "target"), start=1)}
    plain = Recording.open(recording(tmp_path / "plain", **quotes))
    more = {name: rows(name, (9, 9)) for name in ("signal_2", "signal_3", "trades", "status")}
    rich = Recording.open(recording(tmp_path / "rich", **quotes, **more))

    assert (plain.signals, plain.has_trades, plain.rows) == (1, False, 2)
    assert (rich.signals, rich.has_trades, rich.rows) == (3, True, 6)


# ---------------------------------------------------------------- order


def all_kinds(*, at: int, seq: int) -> dict[str, pl.DataFrame]:
    """One row of each of six kinds at one instant, numbered against the order of ties."""
    names = ("account", "status", "signal", "signal_2", "trades", "target")
    return {name: rows(name, (seq + 5 - n, at)) for n, name in enumerate(names)}


TIES = [ACCOUNT, STATUS, SIGNAL, SIGNAL + 1, TRADE, TARGET]


def test_at_one_instant_without_numbers_the_order_is_that_of_the_kinds(tmp_path: Path) -> None:
    files = {name: unnumbered(frame) for name, frame in all_kinds(at=5, seq=1).items()}
    del files["account"]
    opened = Recording.open(recording(tmp_path / "rec", **files))

    ((inputs, _),) = opened.inputs(PERP, recorded=False)

    assert list(inputs.kind) == TIES[1:]
    assert opened.ties == 4
    assert inputs.seq is None


def test_with_numbers_they_are_the_order_also_at_one_instant(tmp_path: Path) -> None:
    folder = recording(tmp_path / "rec", **all_kinds(at=5, seq=1))
    opened = Recording.open(folder)

    inputs = [batch for batch, _ in opened.inputs(PERP, recorded=True)]

    assert [kind for batch in inputs for kind in batch.kind] == TIES[::-1]
    assert [seq for batch in inputs for seq in batch.seq or ()] == [1, 2, 3, 4, 5, 6]
    assert opened.ties == 0


def test_answers_are_read_only_when_asked_for_and_all_else_always(tmp_path: Path) -> None:
    folder = recording(tmp_path / "rec", **all_kinds(at=5, seq=1))

    assert [type(event) for event in events(folder)] == [Trade, Status]
    assert [type(event) for event in events(folder, recorded=True)] == [Trade, Status, AccountEvent]
    assert [kind for _, kind in order(folder)] == TIES[:0:-1]


@pytest.mark.parametrize("batch_rows", [1, 2, 7, 65_536])
def test_many_ties_of_all_kinds_merge_as_a_sort_would(tmp_path: Path, batch_rows: int) -> None:
    source = random.Random(9)
    times = {name: sorted(source.choices(range(12), k=25)) for name in FILES if name != "account"}
    times["signal_7"] = [11]
    files = {
        name: unnumbered(rows(name, *((0, ts) for ts in found))) for name, found in times.items()
    }
    folder = recording(tmp_path / "rec", **files)

    expected = sorted((ts, FILES[name]) for name, found in times.items() for ts in found)
    assert order(folder, batch_rows=batch_rows) == expected
    assert len(events(folder, batch_rows=batch_rows)) == 50


@pytest.mark.parametrize("batch_rows", [1, 3, 65_536])
def test_each_event_stands_at_its_row_in_every_batch(tmp_path: Path, batch_rows: int) -> None:
    source = random.Random(4)
    places: dict[str, list[tuple[int, int]]] = {name: [] for name in FILES}
    for seq in range(1, 400):
        places[source.choice(list(FILES))].append((seq, seq // 3))
    folder = recording(
        tmp_path / "rec", **{name: rows(name, *found) for name, found in places.items()}
    )

    kinds = {AccountEvent: ACCOUNT, Status: STATUS, Trade: TRADE}
    for inputs, frame in read(folder, recorded=True, batch_rows=batch_rows):
        assert inputs.seq is not None
        stand = [
            place
            for place in zip(inputs.seq, inputs.ts, inputs.kind, strict=True)
            if place[2] in kinds.values()
        ]
        assert [(event.seq, event.ts, kinds[type(event)]) for event in inputs.events] == stand
        assert frame.height == len(inputs.kind)


def test_what_is_no_quote_carries_its_values(tmp_path: Path) -> None:
    quotes = {"signal": rows("signal", (1, 1)), "target": rows("target", (2, 2))}
    sides = {"side": ["BUY", None, "SELL"], "ts_event": [None, 0, 4], "px": [UNIT, 2 * UNIT, 10**6]}
    folder = recording(
        tmp_path / "rec",
        **quotes,
        trades=rows("trades", (3, 3), (5, 5), (6, 5), qty=[1, 2, 3], **sides),
        status=rows("status", (4, 4), (7, 7), source="target", kind="disconnect", text=[None, "x"]),
    )

    assert events(folder) == [
        Trade(3, 3, None, UNIT, 1, 1),
        Status(4, 4, "target", "disconnect"),
        Trade(5, 5, 0, 2 * UNIT, 2, 0),
        Trade(6, 5, 4, 10**6, 3, -1),
        Status(7, 7, "target", "disconnect", "x"),
    ]


def test_quotes_are_not_disturbed_by_rows_of_other_kinds_between_them(tmp_path: Path) -> None:
    signal = rows("signal", (1, 1), (4, 1), bid_px=[None, 0], flags=[128, 4])
    target = rows("target", (3, 1), ts_event=2)
    trades = rows("trades", (2, 1), ts_event=1, px=7 * 10**6)
    files = {"signal": signal, "target": target, "trades": trades}
    folder = recording(tmp_path / "rec", **{n: unnumbered(frame) for n, frame in files.items()})

    ((inputs, _),) = read(folder)

    assert list(inputs.kind) == [SIGNAL, SIGNAL, TRADE, TARGET]
    assert list(inputs.bid_px) == [None, 0, None, 180 * UNIT]
    assert [inputs.ts_event[i] for i in (0, 1, 3)] == [None, None, 2]
    assert [inputs.flags[i] for i in (0, 1, 3)] == [128, 4, 0]


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("batch_rows", [2, 65_536])
def test_rows_taken_out_of_the_merged_frames_are_the_files_with_the_numbers_given(
    tmp_path: Path, batch_rows: int, numbered: bool
) -> None:
    files = all_kinds(at=5, seq=1) | {"signal_3": rows("signal_3", (7, 6))}
    files["target"] = pl.concat([files["target"], rows("target", (8, 9))])
    if not numbered:
        files = {name: unnumbered(frame) for name, frame in files.items() if name != "account"}
    folder = recording(tmp_path / "rec", **files)

    batches = read(folder, recorded=numbered, batch_rows=batch_rows)

    given, taken = 100, {name: [pl.DataFrame(schema=schema_of(name))] for name in FILES}
    for _, frame in batches:
        seqs = list(range(given, given + frame.height))
        given += frame.height
        for name, parts in taken.items():
            part = rows_of(frame, name, seqs)
            assert part.equals(rows_of(frame, name, pl.Series(seqs, dtype=pl.UInt64)))
            parts.append(part)
    assert given == 100 + sum(frame.height for frame in files.values())
    numbers: list[int] = []
    for name, parts in taken.items():
        whole = pl.concat(parts)
        assert whole.schema == schema_of(name)
        found = files.get(name, pl.DataFrame(schema=schema_of(name)))
        assert whole.drop("seq").equals(found.drop("seq", strict=False))
        numbers += whole["seq"].to_list()
    assert sorted(numbers) == list(range(100, given))


# ---------------------------------------------------------------- what is refused


def quoted() -> dict[str, pl.DataFrame]:
    return {"signal": rows("signal", (1, 1)), "target": rows("target", (2, 2))}


THREE = ((10, 10), (11, 11), (12, 12))


@pytest.mark.parametrize(
    ("name", "columns", "error"),
    [
        ("trades", {"px": [1, 0, -1]}, "row 1: px = 0 must be positive.* (1 more in this batch)"),
        ("trades", {"px": [None, 1, 1]}, "row 0: px = None must not be null"),
        ("trades", {"px": [10**6, 10**6, 1]}, "row 2: px = 1 is off the tick of 0.001"),
        ("trades", {"qty": [1, 1, 0]}, "row 2: qty = 0 must be positive"),
        ("trades", {"qty": [1, None, 1]}, "row 1: qty = None must not be null"),
        ("trades", {"side": ["BUY", "SEL", None]}, "row 1: unknown side 'SEL' (did you mean SELL"),
        ("trades", {"side": ["BUY", "SELL", ""]}, "row 2: unknown side ''; side must be one"),
        ("status", {"kind": "hartbeat"}, "row 0: unknown kind 'hartbeat' (did you mean heart"),
        ("status", {"kind": [*["kill"] * 2, None]}, "row 2: kind = None must not be null"),
        ("status", {"source": ["signal", "x", "operator"]}, "row 1: unknown source 'x'; source"),
        ("status", {"source": [None, "signal", "x"]}, "row 0: source = None must not be null"),
        ("account", {"kind": ["ack", "modify", "modfy"]}, "row 2: unknown kind 'modfy' (did you"),
        ("account", {"kind": ["ack", None, "ack"]}, "row 1: kind = None must not be null"),
        ("account", {"kind": "fill", "px": 1}, "row 0: the fill at seq 10 has n = 1, px"),
        ("account", {"kind": ["ack", "fill", "ack"], "px": 0, "qty": 1}, "row 1: the fill at seq"),
        ("account", {"kind": "fill", "px": 1, "qty": 1, "n": None}, "row 0: the fill at seq"),
        ("signal_2", {"bid_px": [1, -1, 1]}, "row 1: bid_px = -1 must not be negative"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_refused_with_its_row_and_rule(
    tmp_path: Path, name: str, columns: Columns, error: str
) -> None:
    folder = recording(tmp_path / "rec", **quoted(), **{name: rows(name, *THREE, **columns)})

    with pytest.raises(RecordingError) as caught:
        read(folder, recorded=name == "account")
    *heads, tail = error.split(".* ")
    assert all(part in str(caught.value) for part in (*heads, tail))
    assert f"{name}.parquet: row" in str(caught.value)


OTHERS = ("account", "status", "signal_2", "trades")


@pytest.mark.parametrize("batch_rows", [1, 65_536])
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    ("places", "error"),
    [
        ([(10, 9), (11, 10), (12, 8)], "row 2: ts 8 comes after 10 and is smaller; ts must not go"),
        ([(10, 9), (11, 10), (11, 10)], "row 2: seq 11 repeats 11; seq must rise"),
        ([(10, 9), (12, 10), (11, 10)], "row 2: seq 11 comes after 12"),
        ([(10, -1)], "row 0: ts = -1 must be ns since 1970"),
        ([(10, None)], "row 0: ts = None must not be null"),
        ([(10, 9), (None, 10)], "row 1: seq = None must not be null"),
        ([(2, 2)], "seq 2 occurs in two files"),
        ([(9, 1)], "the input with seq 9 has ts 1, before 2"),
    ],
)
def test_every_file_is_held_to_the_order_of_time_and_numbers(
    tmp_path: Path, name: str, places: list[tuple[int, int]], error: str, batch_rows: int
) -> None:
    folder = recording(tmp_path / "rec", **quoted(), **{name: rows(name, *places)})

    with pytest.raises(RecordingError) as caught:
        read(folder, recorded=name == "account", batch_rows=batch_rows)
    assert error in str(caught.value)


@pytest.mark.parametrize("name", OTHERS)
def test_either_every_file_is_numbered_or_none(tmp_path: Path, name: str) -> None:
    quotes = {feed: unnumbered(frame) for feed, frame in quoted().items()}
    half = recording(tmp_path / "half", **quotes, **{name: rows(name, *THREE)})
    with pytest.raises(RecordingError, match=r"signal.parquet has no column seq.*every file is"):
        read(half, recorded=name == "account")

    files = quoted() | {name: unnumbered(rows(name, *THREE))}
    lacking = recording(tmp_path / "lacking", **files)
    with pytest.raises(RecordingError, match=f"{name}.parquet has no column seq"):
        read(lacking, recorded=name == "account")


def test_answers_that_nobody_asks_for_do_not_make_a_recording_numbered(tmp_path: Path) -> None:
    quotes = {feed: unnumbered(frame) for feed, frame in quoted().items()}
    folder = recording(tmp_path / "rec", **quotes, account=rows("account", *THREE))

    assert order(folder) == [(1, SIGNAL), (2, TARGET)]


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("trades", lambda f: f.drop("px"), "column 'px' is missing; .*trades need ts, px, qty"),
        ("trades", lambda f: f.rename({"side": "sid"}), r"unknown column 'sid' \(did you mean"),
        ("trades", lambda f: f.with_columns(pl.col("px") * 1.0), "'px' is Float64, must be Int64"),
        ("trades", lambda f: f.with_columns(side=pl.lit(1.5)), r"'side' is Float64, .*\(text\)"),
        ("trades", lambda f: f.with_columns(px=None), "px = None must not be null"),
        ("status", lambda f: f.drop("source"), "status rows need ts, source, kind"),
        ("account", lambda f: f.drop("reason"), "column 'reason' is missing"),
        ("account", lambda f: f.with_columns(more=1), "unknown column 'more'"),
    ],
)  # fmt: skip
def test_columns_that_are_missing_unknown_or_of_another_type_are_refused(
    tmp_path: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame], error: str
) -> None:
    folder = recording(tmp_path / "rec", **quoted(), **{name: change(rows(name, *THREE))})

    with pytest.raises(RecordingError, match=error):
        read(folder, recorded=name == "account")


def test_columns_that_may_be_missing_and_integers_of_other_widths_are_read_exactly(
    tmp_path: Path,
) -> None:
    trades = rows("trades", (3, 3)).select(pl.all().exclude("ts_event", "side", "trade_id"))
    small = rows("trades", (4, 4)).with_columns(pl.col("qty").cast(pl.UInt32), trade_id=17)
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "c.parquet"]
    trades.write_parquet(paths[0])
    small.write_parquet(paths[1])
    rows("status", (5, 5), text="x").drop("text").write_parquet(paths[2])

    (first,), (second,) = (list(checked_rows("trades", path)) for path in paths[:2])
    (third,) = checked_rows("status", paths[2])

    assert first.equals(rows("trades", (3, 3)))
    assert second.equals(rows("trades", (4, 4), trade_id="17"))
    assert third.equals(rows("status", (5, 5)))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("damage", ["gone", "cut", "other bytes", "no parquet"])
def test_a_file_that_the_manifest_lists_must_be_there_and_unchanged(
    tmp_path: Path, name: str, damage: str
) -> None:
    folder = recording(tmp_path / "rec", **quoted(), **{name: rows(name, *THREE)})
    path = folder / f"{name}.parquet"
    raw = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        changed = {"cut": raw[:-20], "other bytes": raw[:-1] + b"?", "no parquet": b"ts,px\n"}
        path.write_bytes(changed[damage])

    with pytest.raises(RecordingError, match=f"{name}.parquet is (missing|not the file)"):
        Recording.open(folder)


def test_a_file_that_the_manifest_does_not_list_is_ignored(tmp_path: Path) -> None:
    folder = recording(tmp_path / "rec", **quoted())
    for name in ("trades", "signal_3", "status"):
        (folder / f"{name}.parquet").write_bytes(b"of somebody else")

    assert order(folder) == [(1, SIGNAL), (2, TARGET)]
    assert not Recording.open(folder).has_trades


def test_further_signals_are_numbered_from_2_without_a_gap_up_to_the_last(tmp_path: Path) -> None:
    every = {name: rows(name, (n, n)) for n, name in enumerate((*SIGNALS, "target"), start=1)}
    assert Recording.open(recording(tmp_path / "all", **every)).signals == MAX_SIGNALS

    gap = {name: frame for name, frame in every.items() if name != "signal_4"}
    with pytest.raises(RecordingError, match=r"has signal_5 but no signal_4; .* --as signal_4"):
        Recording.open(recording(tmp_path / "gap", **gap))
    for name in ("signal_8", "signal_1", "signal_02"):
        with pytest.raises(RecordingError, match=f"has {name}, further signals are signal_2 to"):
            Recording.open(recording(tmp_path / name, **every, **{name: every["signal"]}))


def test_a_file_without_rows_adds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "rec"
    manifest = Manifest()
    folder.mkdir()
    schemas = {"trades": TRADES_SCHEMA, "status": STATUS_SCHEMA, "signal_2": QUOTE_SCHEMA}
    for name, frame in quoted().items():
        writer = FrameWriter(folder, name, QUOTE_SCHEMA)
        writer.append(frame)
        manifest.files[name] = writer.close()
    for name, schema in schemas.items():
        manifest.files[name] = FrameWriter(folder, name, schema).close()
    write_manifest(folder, manifest)

    assert order(folder) == [(1, SIGNAL), (2, TARGET)]
    assert Recording.open(folder).signals == 2
