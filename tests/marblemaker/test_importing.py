"""Imports: a foreign file becomes a feed whole and exactly, or leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import databento_dbn
import msgspec
import polars as pl
import pytest

from marblemaker import importing
from marblemaker.importing import Imported, import_databento, import_frames, import_lighter_csv
from streams.instrument import Instrument
from streams.recording import (
    FrameWriter,
    Manifest,
    Recording,
    RecordingError,
    read_manifest,
    write_manifest,
)

dbn: Any = databento_dbn
SHARED = Path(__file__).parents[2].parent / "shared" / "data"
DATABENTO = {
    "ESU4.GLBX.mbp-1.2024-07-01.dbn.zst": ("ESU4", "GLBX", 2288),
    "NVDA.XNAS.mbp-1.2020-12-28.dbn.zst": ("NVDA", "XNAS", 4),
    "NVDA.XNAS.tbbo.2020-12-28.dbn.zst": ("NVDA", "XNAS", 4),
    "OPRA.cbbo-1s.dbn.zst": ("AAPL  250221C00250000", "OPRA", 4),
    "QQQ.EQUS-MINI.bbo-1s.dbn.zst": ("QQQ", "EQUS", 4),
    "QQQ.EQUS-MINI.mbp-1.2023-03-28.dbn.zst": ("QQQ", "EQUS", 4),
}
UNIT = 10**9
START = (20_000 * 86_400 + 3_600) * UNIT  # an hour into 2024-10-04
INSTRUMENTS = {
    "signal": Instrument(symbol="NVDA", venue="EQUS", price_decimals=2),
    "target": Instrument(symbol="NVDA-PERP", venue="LIGHTER", price_decimals=3),
}


class Interval(NamedTuple):
    start_date: date
    end_date: date
    symbol: str


class Mapping(NamedTuple):
    raw_symbol: str
    intervals: list[Interval]


def dbn_file(folder: Path, *bids: int, name: str = "nvda.dbn", step: int = 1) -> Path:
    """Write a file of NVDA, with one more record of AMD at its end."""
    span = date(2024, 10, 4), date(2024, 10, 5)
    ids = {"NVDA": 1, "AMD": 2}
    mappings = [Mapping(k, [Interval(*span, str(v))]) for k, v in ids.items()]
    head = dbn.Metadata(
        dataset="EQUS.MINI", start=START, stype_in=dbn.SType.RAW_SYMBOL,
        stype_out=dbn.SType.INSTRUMENT_ID, schema=dbn.Schema.MBP_1, symbols=list(ids),
        mappings=mappings, version=3,
    ).encode()  # fmt: skip
    records = [
        dbn.MBP1Msg(
            95, id, START, bid, 1, dbn.Action.ADD, dbn.Side.BID, 0, START + n * step, 128, 0, 0,
            dbn.BidAskPair(bid, 190 * UNIT, 3, 4, 0, 0),
        )
        for n, (bid, id) in enumerate([*((bid, 1) for bid in bids), (UNIT, 2)])
    ]  # fmt: skip
    path = folder / name
    path.write_bytes(head + b"".join(map(bytes, records)))
    return path


def csv_file(folder: Path, *lines: str) -> Path:
    path = folder / "capture.csv"
    path.write_text("".join(f"2025-09-15T22:56:16.{line}\n" for line in lines))
    return path


def quotes(*ts: int, **columns: Any) -> pl.DataFrame:
    n = len(ts)
    base: dict[str, Any] = {
        "ts": list(ts), "bid_px": [180 * UNIT] * n, "ask_px": [181 * UNIT] * n,
        "bid_sz": [UNIT] * n, "ask_sz": [UNIT] * n,
    }  # fmt: skip
    return pl.DataFrame({**base, **columns})


def frame_files(folder: Path, signal: pl.DataFrame, target: pl.DataFrame) -> tuple[Path, Path]:
    paths = folder / "A.parquet", folder / "B.parquet"
    signal.write_parquet(paths[0])
    target.write_parquet(paths[1])
    return paths


def everything(folder: Path) -> dict[str, bytes]:
    """Return what is below a folder, so that any change shows."""
    return {
        str(path.relative_to(folder)): b"" if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def add_signal(folder: Path, out: Path, **options: Any) -> Imported:
    file = dbn_file(folder, 180 * UNIT, 181 * UNIT)
    return import_databento(file, "NVDA", "signal", out, **options)


def add_target(folder: Path, out: Path, **options: Any) -> Imported:
    file = csv_file(folder, "1,4510.49,1,4511,1,0", "2,4510.49,1,4511,1")
    return import_lighter_csv(file, "target", "ETH", 2, 4, out, **options)


# ---------------------------------------------------------------- what an import makes


def test_two_imports_make_a_recording_that_opens_and_replays(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "rec"

    signal = add_signal(tmp_path, out)
    target = add_target(tmp_path, out)

    recording = Recording.open(out)
    batches = list(recording.inputs(recording.manifest.instruments["target"], recorded=False))
    assert sum(frame.height for _, frame in batches) == 4
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.json", "signal.parquet", "target.parquet",
    ]  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["rec"]
    assert (signal.rows_in, signal.rows_out, signal.refused) == (3, 2, {"other instrument": 1})
    assert (signal.first_ts, signal.last_ts) == (START, START + 1)
    assert (target.rows_in, target.rows_out, target.noted) == (2, 2, {"repeat": 1})
    assert signal.path == target.path == out
    assert target.feeds == {"target": 2}


def test_the_manifest_says_what_came_from_where(tmp_path: Path) -> None:
    out = tmp_path / "rec"
    add_signal(tmp_path, out, price_decimals=0)
    add_target(tmp_path, out)

    manifest = read_manifest(out)

    assert manifest.mode == "import"
    assert manifest.instruments == {
        "signal": Instrument(symbol="NVDA", venue="EQUS", price_decimals=0),
        "target": Instrument(symbol="ETH", venue="LIGHTER", price_decimals=2, size_decimals=4),
    }
    assert manifest.sources["signal"] == {
        "kind": "databento",
        "file": "nvda.dbn",
        "sha256": hashlib.sha256((tmp_path / "nvda.dbn").read_bytes()).hexdigest(),
        "records_in": 3,
        "rows_out": 2,
        "refused": {"other instrument": 1},
        "noted": {},
        "dataset": "EQUS.MINI",
        "schema": "mbp-1",
        "dbn_version": 3,
        "symbol": "NVDA",
    }
    assert manifest.sources["target"]["kind"] == "lighter-csv"
    assert manifest.sources["target"]["clock"] == "naive timestamps taken as UTC"
    assert manifest.files["signal"].rows == 2
    assert (manifest.first_ts, manifest.last_ts) == (START, 1_757_976_976_200_000_000)
    assert str(tmp_path) not in (out / "manifest.json").read_text()


def test_the_imported_columns_are_the_quotes_without_seq(tmp_path: Path) -> None:
    out = tmp_path / "rec"
    add_signal(tmp_path, out)

    frame = pl.read_parquet(out / "signal.parquet")

    assert frame.columns == ["ts", "ts_event", "bid_px", "ask_px", "bid_sz", "ask_sz", "flags"]
    assert frame.rows() == [
        (START, START, 180 * UNIT, 190 * UNIT, 3 * UNIT, 4 * UNIT, 128),
        (START + 1, START, 181 * UNIT, 190 * UNIT, 3 * UNIT, 4 * UNIT, 128),
    ]


def test_the_result_can_be_written_as_json_and_progress_counts_rows(tmp_path: Path) -> None:
    seen: list[int] = []

    result = add_signal(tmp_path, tmp_path / "rec", progress=seen.append)

    document = json.loads(msgspec.json.encode(result, enc_hook=str))
    assert document["rows_out"] == 2
    assert seen == [2]


@pytest.mark.parametrize("name", DATABENTO)
def test_every_sample_of_the_vendor_imports_with_nothing_lost(tmp_path: Path, name: str) -> None:
    file = SHARED / "databento" / name
    if not file.exists():
        pytest.skip("the vendor's sample files are not here")
    symbol, venue, records = DATABENTO[name]

    result = import_databento(file, symbol, "signal", tmp_path / "rec")

    assert result.rows_in == records
    assert result.rows_in == result.rows_out + sum(result.refused.values())
    assert pl.read_parquet(tmp_path / "rec" / "signal.parquet").height == result.rows_out
    assert read_manifest(tmp_path / "rec").instruments["signal"].id == f"{symbol}.{venue}"


@pytest.mark.parametrize(
    ("name", "decimals", "line"), [("BTC", (1, 5), 3333), ("ETH", (2, 4), 3267)]
)
def test_a_capture_as_found_leaves_nothing_and_its_halves_import(
    tmp_path: Path, name: str, decimals: tuple[int, int], line: int
) -> None:
    found = SHARED / "lighter-capture-2025-09-15" / f"prices_{name}.csv"
    if not found.exists():
        pytest.skip("the capture is not here")
    lines = found.read_text().splitlines(keepends=True)
    halves = lines[: line - 1], lines[line - 1 :]

    with pytest.raises(RecordingError, match=f"line {line}: the clock goes back"):
        import_lighter_csv(found, "target", name, *decimals, tmp_path / "rec")
    assert everything(tmp_path) == {}
    rows = []
    for number, half in enumerate(halves):
        file = tmp_path / f"{number}.csv"
        file.write_text("".join(half))
        # The second ETH capture has one line that is 1.035 ms behind the line before it.
        back = 1_035_000 if (name, number) == ("ETH", 1) else 0
        out = tmp_path / f"rec-{number}"
        result = import_lighter_csv(file, "target", name, *decimals, out, max_back_ns=back)
        rows.append(result.rows_out)
        assert result.noted.get("clamped ts", 0) == (1 if back else 0)
    assert sum(rows) == len(lines) - 1


# ---------------------------------------------------------------- what is already there


def test_a_feed_that_is_there_is_kept_unless_replacing_was_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "rec"
    add_signal(tmp_path, out)
    add_target(tmp_path, out)
    before = everything(out)
    other = dbn_file(tmp_path, 5 * UNIT, name="other.dbn")

    with pytest.raises(RecordingError, match=r"already has signal quotes \(2 rows\)"):
        import_databento(other, "NVDA", "signal", out)
    assert everything(out) == before
    import_databento(other, "NVDA", "signal", out, replace=True)

    assert Recording.open(out).manifest.files["signal"].rows == 1
    assert pl.read_parquet(out / "signal.parquet")["bid_px"].to_list() == [5 * UNIT]
    assert everything(out)["target.parquet"] == before["target.parquet"]
    assert read_manifest(out).sources["signal"]["file"] == "other.dbn"
    assert read_manifest(out).sources["target"]["file"] == "capture.csv"


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "rec").mkdir()

    assert add_signal(tmp_path, tmp_path / "rec").rows_out == 2


def test_a_folder_of_other_things_or_a_file_is_not_written_to(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "note.txt").write_text("mine")
    file.write_text("mine")
    dbn_file(tmp_path, 180 * UNIT, 181 * UNIT)
    before = everything(tmp_path)

    for out, error in ((folder, "other things"), (file, "a file"), (file / "x", "cannot be")):
        with pytest.raises(RecordingError, match=error):
            add_signal(tmp_path, out)
    assert everything(tmp_path) == before


def test_feeds_are_not_added_to_a_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    write_manifest(out, Manifest(mode="live"))

    with pytest.raises(RecordingError, match="is a live run"):
        add_signal(tmp_path, out, replace=True)


def test_an_unnumbered_feed_is_not_added_to_a_numbered_one(tmp_path: Path) -> None:
    out = tmp_path / "rec"
    files = frame_files(tmp_path, quotes(1, seq=[1]), quotes(2, seq=[2]))
    import_frames(*files, INSTRUMENTS, out)
    before = everything(out)

    with pytest.raises(RecordingError, match="either every feed is numbered or none"):
        add_signal(tmp_path, out, replace=True)
    assert everything(out) == before


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    "break_at", ["close of the feed", "writing of the manifest", "move into place"]
)
def test_a_failure_at_any_step_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool, break_at: str
) -> None:
    out = tmp_path / "rec"
    if existing:
        add_signal(tmp_path, out)
        add_target(tmp_path, out)
    other = dbn_file(tmp_path, 5 * UNIT, name="other.dbn")
    before = everything(tmp_path)
    real_replace = os.replace

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    def full_for_manifest(source: Path, place: Path) -> None:
        if place == out or (place.name == "manifest.json" and place.parent == out):
            full()
        real_replace(source, place)

    if break_at == "move into place":
        monkeypatch.setattr(os, "replace", full_for_manifest)
    elif break_at == "close of the feed":
        monkeypatch.setattr(FrameWriter, "close", full)
    else:
        monkeypatch.setattr(importing, "write_manifest", full)

    with pytest.raises(RecordingError, match="No space left on device"):
        import_databento(other, "NVDA", "signal", out, replace=True)
    assert everything(tmp_path) == before


def test_an_interrupted_import_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_signal(tmp_path, tmp_path / "new" / "rec", progress=interrupt)
    assert list(everything(tmp_path)) == ["nvda.dbn"]


@pytest.mark.parametrize("existing", [False, True])
def test_a_refused_import_leaves_everything_as_it_was(tmp_path: Path, existing: bool) -> None:
    out = tmp_path / "a" / "rec"
    if existing:
        add_signal(tmp_path, out)
    late = csv_file(tmp_path, "5,1,1,2,1", "4,1,1,2,1")
    cut = dbn_file(tmp_path, 1, name="cut.dbn")
    cut.write_bytes(cut.read_bytes()[:-1])
    back = dbn_file(tmp_path, 1, 2, step=-1, name="back.dbn")
    off = dbn_file(tmp_path, 180 * UNIT + 1, name="off.dbn")
    text = csv_file(tmp_path, "5,1,1,2,1").rename(tmp_path / "c.csv")
    late = csv_file(tmp_path, "5,1,1,2,1", "4,1,1,2,1")
    before = everything(tmp_path)
    attempts: list[Callable[[], Imported]] = [
        lambda: import_lighter_csv(late, "target", "ETH", 2, 4, out),
        lambda: import_lighter_csv(late, "target", "ETH", 10, 4, out),
        lambda: import_lighter_csv(late, "target", "ETH", 2, 4, out, max_back_ns=-1),
        lambda: import_lighter_csv(tmp_path / "none", "target", "ETH", 2, 4, out),
        lambda: import_databento(cut, "NVDA", "target", out),
        lambda: import_databento(back, "NVDA", "target", out),
        lambda: import_databento(off, "NVDA", "target", out, price_decimals=2),
        lambda: import_databento(off, "TSLA", "target", out),
        lambda: import_databento(text, "NVDA", "target", out),
        lambda: import_databento(off, "NVDA", "both", out),
    ]

    for number, attempt in enumerate(attempts):
        with pytest.raises(RecordingError):
            attempt()
        assert everything(tmp_path) == before, number


def test_no_row_at_all_is_an_error_that_says_where_they_went(tmp_path: Path) -> None:
    negative = dbn_file(tmp_path, -UNIT, -UNIT)
    empty = tmp_path / "empty.csv"

    with pytest.raises(RecordingError, match="left out: 1 other instrument, 2 negative price"):
        import_databento(negative, "NVDA", "signal", tmp_path / "rec")
    for content in ("", "\n", "timestamp,bid_price,bid_size,ask_price,ask_size\n"):
        empty.write_text(content)
        with pytest.raises(RecordingError):
            import_lighter_csv(empty, "signal", "ETH", 2, 4, tmp_path / "rec")
    assert not (tmp_path / "rec").exists()


# ---------------------------------------------------------------- frames


def test_frames_come_in_exactly_and_ties_are_counted(tmp_path: Path) -> None:
    signal = quotes(1, 2, 2, ts_event=[None, 1, 2], flags=[0, 128, 255])
    target = quotes(2, 3, bid_px=[None, 0], bid_sz=[None, 2**63 - 1])
    files = frame_files(tmp_path, signal, target)

    result = import_frames(*files, INSTRUMENTS, tmp_path / "rec")

    assert (result.rows_in, result.rows_out, result.ties) == (5, 5, 1)
    assert result.feeds == {"signal": 3, "target": 2}
    assert (result.first_ts, result.last_ts) == (1, 3)
    came = pl.read_parquet(tmp_path / "rec" / "signal.parquet")
    assert came.select(signal.columns).rows() == signal.rows()
    came = pl.read_parquet(tmp_path / "rec" / "target.parquet")
    assert came.select(target.columns).rows() == target.rows()
    manifest = read_manifest(tmp_path / "rec")
    assert manifest.instruments == INSTRUMENTS
    assert manifest.sources["target"] == {
        "kind": "frames",
        "file": "B.parquet",
        "sha256": hashlib.sha256(files[1].read_bytes()).hexdigest(),
        "records_in": 2,
        "rows_out": 2,
        "refused": {},
    }


def test_numbered_frames_keep_their_numbers(tmp_path: Path) -> None:
    files = frame_files(tmp_path, quotes(5, 7, seq=[10, 12]), quotes(5, 6, seq=[9, 11]))

    assert import_frames(*files, INSTRUMENTS, tmp_path / "rec").ties == 0

    assert pl.read_parquet(tmp_path / "rec" / "signal.parquet")["seq"].to_list() == [10, 12]


GOOD = quotes(1, 2)
NUMBERED = quotes(1, 2, seq=[1, 3])


@pytest.mark.parametrize(
    ("signal", "target", "error"),
    [
        (GOOD, quotes(1, px=[1]), "unknown column 'px'"),
        (GOOD.drop("ask_sz"), GOOD, "column 'ask_sz' is missing"),
        (GOOD, quotes(1, bid_px=[180.5]), "column 'bid_px' is Float64"),
        (GOOD, quotes(1, bid_sz=[float("nan")]), "column 'bid_sz' is Float64"),
        (GOOD, quotes(1, bid_px=["180"]), "column 'bid_px' is String"),
        (quotes(1).with_columns(pl.col("ts").cast(pl.Datetime("ns"))), GOOD, "'ts' is Datetime"),
        (quotes(1).with_columns(pl.col("ts") * 1.0), GOOD, "column 'ts' is Float64"),
        (quotes(1, 2, ts=[1, None]), GOOD, "row 1: ts = None must not be null"),
        (quotes(1, ts=[-1]), GOOD, "row 0: ts = -1 must be ns since 1970"),
        (GOOD, quotes(1, 2, ask_sz=[0, -1]), "row 1: ask_sz = -1 must not be negative"),
        (GOOD, quotes(1, ask_px=[-UNIT]), "must not be negative"),
        (
            GOOD,
            quotes(1, ask_px=[UNIT + 1]),
            r"row 0: ask_px = 1000000001 is off the tick of 0.001",
        ),
        (quotes(1, bid_px=[10**6]), GOOD, "row 0: bid_px = 1000000 is off the tick of 0.01"),
        (quotes(2, 1), GOOD, "row 1: ts 1 comes after 2"),
        (quotes(1, flags=[256]), GOOD, "does not fit"),
        (quotes(1, ts=pl.Series([2**63], dtype=pl.UInt64)), GOOD, "does not fit"),
        (quotes(1, seq=pl.Series([2**63], dtype=pl.UInt64)), NUMBERED, "does not fit"),
        (quotes(1, seq=[-1]), NUMBERED, "does not fit"),
        (GOOD.clear(), GOOD, "gives no signal quotes"),
        (GOOD, GOOD.clear(), "gives no target quotes"),
        (pl.DataFrame(), GOOD, "is missing"),
        (NUMBERED, GOOD, r"B.parquet has no column seq, .*A.parquet has"),
        (GOOD, NUMBERED, r"A.parquet has no column seq, .*B.parquet has"),
        (quotes(1, 2, seq=[3, 3]), quotes(1, seq=[1]), "row 1: seq 3 repeats 3"),
        (quotes(1, 2, seq=[3, 2]), quotes(1, seq=[1]), "row 1: seq 2 comes after 3"),
        (quotes(1, 2, seq=[1, None]), NUMBERED, "seq = None must not be null"),
        (NUMBERED, quotes(1, 2, seq=[2, 3]), "seq 3 occurs in two files"),
        (NUMBERED, quotes(3, seq=[2]), "seq 3 has ts 2, before 3"),
    ],
)
def test_unsound_frames_are_refused_and_leave_nothing(
    tmp_path: Path, signal: pl.DataFrame, target: pl.DataFrame, error: str
) -> None:
    files = frame_files(tmp_path, signal, target)

    with pytest.raises(RecordingError, match=error) as caught:
        import_frames(*files, INSTRUMENTS, tmp_path / "rec")
    assert "partial" not in str(caught.value)
    assert sorted(everything(tmp_path)) == ["A.parquet", "B.parquet"]


def test_numbers_that_meet_at_the_border_of_a_batch_are_found(tmp_path: Path) -> None:
    # 65,536 rows are a batch; the shared number is the last of one and the first of the other.
    n = 65_536
    signal = quotes(*([1] * n), seq=list(range(1, n + 1)))
    target = quotes(1, 1, seq=[n, n + 1])
    files = frame_files(tmp_path, signal, target)

    with pytest.raises(RecordingError, match=f"seq {n} occurs in two files"):
        import_frames(*files, INSTRUMENTS, tmp_path / "rec")


def test_a_missing_truncated_or_foreign_file_of_frames_is_refused(tmp_path: Path) -> None:
    signal, target = frame_files(tmp_path, GOOD, GOOD)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(target.read_bytes()[:-30])
    for bad in (tmp_path / "none.parquet", cut, tmp_path):
        with pytest.raises(RecordingError):
            import_frames(signal, bad, INSTRUMENTS, tmp_path / "rec")
    with pytest.raises(RecordingError, match="name no target instrument"):
        import_frames(signal, target, {"signal": INSTRUMENTS["signal"]}, tmp_path / "rec")
    assert not (tmp_path / "rec").exists()


def test_frames_replace_both_feeds_only_when_asked_to(tmp_path: Path) -> None:
    out, files = tmp_path / "rec", frame_files(tmp_path, GOOD, GOOD)
    import_databento(dbn_file(tmp_path, UNIT), "NVDA", "signal", out)
    before = everything(out)

    with pytest.raises(RecordingError, match="already has signal"):
        import_frames(*files, INSTRUMENTS, out)
    assert everything(out) == before
    import_frames(*files, INSTRUMENTS, out, replace=True)

    assert Recording.open(out).rows == 4
    assert read_manifest(out).sources["signal"]["kind"] == "frames"


# ---------------------------------------------------------------- trades, further signals, status


def tape(folder: Path, *lines: str, name: str = "trades.csv") -> Path:
    path = folder / name
    path.write_text("".join(f"2025-09-15T22:56:16.{line}\n" for line in lines))
    return path


def add_trades(folder: Path, out: Path, symbol: str = "ETH", **options: Any) -> Imported:
    lines = ["1,4510.49,1,buy,7,1", "2,4511,0.5,sell,8,1", "1,4510.49,1,buy,7,1", "2,4511,1,,,1"]
    return import_lighter_csv(tape(folder, *lines), "trades", symbol, 2, 4, out, **options)


@pytest.mark.parametrize("trades_first", [False, True])
def test_trades_and_further_signals_join_a_recording_in_any_order(
    tmp_path: Path, trades_first: bool
) -> None:
    out = tmp_path / "rec"
    second = csv_file(tmp_path, "3,1,1,2,1").rename(tmp_path / "second.csv")
    steps: list[Callable[[], Imported]] = [
        lambda: add_signal(tmp_path, out),
        lambda: add_target(tmp_path, out),
        lambda: import_databento(tmp_path / "nvda.dbn", "AMD", "signal_3", out),
        lambda: import_lighter_csv(second, "signal_2", "BTC", 1, 5, out),
        lambda: add_trades(tmp_path, out),
    ]
    dbn_file(tmp_path, 180 * UNIT, 181 * UNIT)

    results = [step() for step in (reversed(steps) if trades_first else steps)]

    trades = results[0 if trades_first else -1]
    assert (trades.rows_in, trades.rows_out) == (4, 3)
    assert (trades.refused, trades.noted) == ({"repeated trade_id": 1}, {})
    assert trades.feeds == {"trades": 3}
    opened = Recording.open(out)
    assert (opened.signals, opened.has_trades, opened.rows) == (3, True, 9)
    manifest = opened.manifest
    assert set(manifest.instruments) == {"signal", "signal_2", "signal_3", "target"}
    assert manifest.instruments["signal_2"].id == "BTC.LIGHTER"
    assert manifest.instruments["signal_3"].id == "AMD.EQUS"
    source = manifest.sources["trades"]
    assert (source["instrument"], source["refused"]) == ("ETH.LIGHTER", {"repeated trade_id": 1})
    assert (source["records_in"], source["rows_out"]) == (4, 3)
    batches = list(opened.inputs(manifest.instruments["target"], recorded=False))
    assert sum(len(inputs.events) for inputs, _ in batches) == 3
    assert everything(out).keys() == {
        "manifest.json", "signal.parquet", "signal_2.parquet", "signal_3.parquet",
        "target.parquet", "trades.parquet",
    }  # fmt: skip


def test_trades_that_are_there_are_kept_unless_replacing_was_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "rec"
    add_trades(tmp_path, out)
    before = everything(out)

    with pytest.raises(RecordingError, match=r"already has trades \(3 rows\)"):
        add_trades(tmp_path, out)
    assert everything(out) == before
    other = tape(tmp_path, "5,1,1,buy,1,1", name="other.csv")
    import_lighter_csv(other, "trades", "ETH", 2, 4, out, replace=True)
    assert read_manifest(out).files["trades"].rows == 1


def test_trades_must_be_the_targets(tmp_path: Path) -> None:
    error = r"the trades are of .*, the target is .*--symbol"
    add_target(tmp_path, tmp_path / "a")
    add_trades(tmp_path, tmp_path / "b", "BTC")
    before = everything(tmp_path / "a"), everything(tmp_path / "b")

    with pytest.raises(RecordingError, match=error):
        add_trades(tmp_path, tmp_path / "a", "BTC")
    with pytest.raises(RecordingError, match=error):
        add_target(tmp_path, tmp_path / "b")

    assert (everything(tmp_path / "a"), everything(tmp_path / "b")) == before


def test_a_refused_capture_of_trades_leaves_everything_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "rec"
    add_target(tmp_path, out)
    late = tape(tmp_path, "5,1,1,buy,1,1", "4,1,1,buy,2,1", name="late.csv")
    nothing = tape(tmp_path, name="nothing.csv")
    quotes = csv_file(tmp_path, "5,1,1,2,1")
    before = everything(tmp_path)
    attempts: list[tuple[Callable[[], Imported], str]] = [
        (lambda: import_lighter_csv(late, "trades", "ETH", 2, 4, out), "line 2: the clock goes"),
        (lambda: import_lighter_csv(nothing, "trades", "ETH", 2, 4, out), "gives no trades; a"),
        (lambda: import_lighter_csv(quotes, "trades", "ETH", 2, 4, out), "side is '2'"),
        (lambda: import_lighter_csv(late, "trade", "ETH", 2, 4, out), "did you mean trades"),
        (lambda: import_lighter_csv(quotes, "signal_8", "ETH", 2, 4, out), "must be one of"),
        (lambda: import_databento(late, "ETH", "trades", out), "must be one of signal, signal_2"),
    ]

    for attempt, error in attempts:
        with pytest.raises(RecordingError, match=error):
            attempt()
        assert everything(tmp_path) == before


@pytest.mark.parametrize(("name", "decimals", "line"), [("BTC", (1, 5), 169), ("ETH", (2, 4), 167)])
def test_captured_trades_import_in_their_halves(
    tmp_path: Path, name: str, decimals: tuple[int, int], line: int
) -> None:
    found = SHARED / "lighter-capture-2025-09-15" / f"trades_{name}.csv"
    if not found.exists():
        pytest.skip("the capture is not here")
    lines = found.read_text().splitlines(keepends=True)
    with pytest.raises(RecordingError, match=f"line {line}: the clock goes back"):
        import_lighter_csv(found, "trades", name, *decimals, tmp_path / "rec")
    rows = 0
    for number, half in enumerate((lines[: line - 1], lines[line - 1 :])):
        file = tmp_path / f"{number}.csv"
        file.write_text("".join(half))
        result = import_lighter_csv(file, "trades", name, *decimals, tmp_path / f"rec-{number}")
        rows += result.rows_out
    assert rows == len(lines) - 1


def trade_rows(*ts: int, **columns: Any) -> pl.DataFrame:
    n = len(ts)
    base: dict[str, Any] = {"ts": list(ts), "px": [180 * UNIT] * n, "qty": [UNIT] * n}
    return pl.DataFrame({**base, **columns})


def status_rows(*ts: int, **columns: Any) -> pl.DataFrame:
    n = len(ts)
    base: dict[str, Any] = {"ts": list(ts), "source": ["signal"] * n, "kind": ["heartbeat"] * n}
    return pl.DataFrame({**base, **columns})


def extra_files(folder: Path, trades: pl.DataFrame, status: pl.DataFrame) -> dict[str, Any]:
    paths = {"trades": folder / "T.parquet", "status": folder / "S.parquet"}
    trades.write_parquet(paths["trades"])
    status.write_parquet(paths["status"])
    return paths


def test_frames_bring_trades_and_status_rows_with_them(tmp_path: Path) -> None:
    files = frame_files(tmp_path, GOOD, GOOD)
    trades = trade_rows(1, 2, side=["BUY", None], trade_id=["a", None])
    extra = extra_files(tmp_path, trades, status_rows(2, kind=["disconnect"], text=["lost"]))

    result = import_frames(*files, INSTRUMENTS, tmp_path / "rec", **extra)

    assert result.feeds == {"signal": 2, "target": 2, "trades": 2, "status": 1}
    assert (result.rows_in, result.rows_out, result.ties) == (7, 7, 5)
    came = pl.read_parquet(tmp_path / "rec" / "trades.parquet")
    assert came.select(trades.columns).rows() == trades.rows()
    manifest = read_manifest(tmp_path / "rec")
    assert manifest.instruments == INSTRUMENTS
    assert manifest.sources["trades"]["instrument"] == "NVDA-PERP.LIGHTER"
    assert manifest.sources["status"]["file"] == "S.parquet"


@pytest.mark.parametrize(
    ("trades", "status", "error"),
    [
        (trade_rows(1, px=[UNIT + 1]), status_rows(1), "row 0: px = 1000000001 is off the tick"),
        (trade_rows(1, qty=[0]), status_rows(1), "row 0: qty = 0 must be positive"),
        (trade_rows(2, 1), status_rows(1), "row 1: ts 1 comes after 2"),
        (trade_rows(1, seq=[1]), status_rows(1), "A.parquet has no column seq, .*T.parquet has"),
        (trade_rows(1), status_rows(1, kind=["x"]), "row 0: unknown kind 'x'"),
        (trade_rows(1), status_rows(1, sourc=["x"]), "unknown column 'sourc'"),
        (trade_rows(1).clear(), status_rows(1), "gives no trades"),
    ],
)
def test_unsound_trades_or_status_rows_are_refused_and_leave_nothing(
    tmp_path: Path, trades: pl.DataFrame, status: pl.DataFrame, error: str
) -> None:
    files = frame_files(tmp_path, GOOD, GOOD)
    extra = extra_files(tmp_path, trades, status)
    before = everything(tmp_path)

    with pytest.raises(RecordingError, match=error):
        import_frames(*files, INSTRUMENTS, tmp_path / "rec", **extra)
    assert everything(tmp_path) == before


def test_numbers_are_unique_over_all_files_of_frames(tmp_path: Path) -> None:
    files = frame_files(tmp_path, NUMBERED, quotes(1, seq=[2]))
    extra = extra_files(tmp_path, trade_rows(2, seq=[4]), status_rows(2, seq=[3]))

    with pytest.raises(RecordingError, match="seq 3 occurs in two files"):
        import_frames(*files, INSTRUMENTS, tmp_path / "rec", **extra)
    status_rows(2, seq=[5]).write_parquet(extra["status"])
    assert import_frames(*files, INSTRUMENTS, tmp_path / "rec", **extra).ties == 0


def test_unnumbered_trades_are_not_added_to_a_numbered_recording(tmp_path: Path) -> None:
    out = tmp_path / "rec"
    import_frames(*frame_files(tmp_path, NUMBERED, quotes(1, seq=[2])), INSTRUMENTS, out)
    before = everything(out)

    with pytest.raises(RecordingError, match="either every feed is numbered or none"):
        add_trades(tmp_path, out)
    assert everything(out) == before


def test_what_stays_in_a_recording_must_be_numbered_like_what_replaces_the_rest(
    tmp_path: Path,
) -> None:
    out = tmp_path / "rec"
    trades = extra_files(tmp_path, trade_rows(2, seq=[4]), status_rows(2))["trades"]
    numbered = frame_files(tmp_path, NUMBERED, quotes(1, seq=[2]))
    import_frames(*numbered, INSTRUMENTS, out, trades=trades)
    before = everything(out)

    with pytest.raises(RecordingError, match=r"trades.parquet has column seq, this import has no"):
        import_frames(*frame_files(tmp_path, GOOD, GOOD), INSTRUMENTS, out, replace=True)
    assert everything(out) == before


def test_the_commands_import_trades_further_signals_and_status_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from marblemaker.cli import main

    out = str(tmp_path / "rec")
    files = frame_files(tmp_path, GOOD, GOOD)
    extra = extra_files(tmp_path, trade_rows(1), status_rows(1))
    more = [f"--{name}={path}" for name, path in extra.items()]
    frames = ["import", "frames", f"--signal={files[0]}", f"--target={files[1]}", *more]
    capture = str(csv_file(tmp_path, "1,4510.49,1,4511,1"))
    decimals = ["--price-decimals=2", "--size-decimals=4", "--symbol=ETH", "--out", out]
    second = ["import", "lighter-csv", capture, "--as", "signal_2", *decimals]
    dbn = str(dbn_file(tmp_path, UNIT))
    third = ["import", "databento", dbn, "--as", "signal_3", "--symbol", "NVDA", "--out", out]
    other = ["import", "lighter-csv", str(tape(tmp_path, "1,1,1,buy,7,1")), "--as", "trades"]

    assert main([*frames, "--out", out]) == 0
    assert "2 target quotes, 1 trades, 1 status rows" in capsys.readouterr().out
    assert main(second) == 0
    assert main(third) == 0
    assert main([*other, *decimals]) == 1
    assert "already has trades" in capsys.readouterr().err
    assert main([*other, *decimals[:-1], str(tmp_path / "new")]) == 0
    assert "1 trades" in capsys.readouterr().out
    assert Recording.open(tmp_path / "rec").signals == 3
