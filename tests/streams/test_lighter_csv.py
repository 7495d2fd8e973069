"""Lighter captures: decimal text becomes integers exactly, and a clock never goes back unseen."""

from __future__ import annotations

import csv
import datetime
import random
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from streams.instrument import Instrument
from streams.lighter_csv import MAX_BACK_NS, CsvQuotes, CsvTrades
from streams.recording import (
    QUOTE_SCHEMA,
    TRADES_SCHEMA,
    QuoteChecker,
    RecordingError,
    TradeChecker,
)

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "lighter-capture-2025-09-15"
TRADES_HEADER = "timestamp,price,size,side,trade_id,usd_amount"
HEADER = "timestamp,bid_price,bid_size,ask_price,ask_size,market_id"
FINE = Instrument(symbol="ETH", venue="LIGHTER")
ETH = Instrument(symbol="ETH", venue="LIGHTER", price_decimals=2, size_decimals=4)
BTC = Instrument(symbol="BTC", venue="LIGHTER", price_decimals=1, size_decimals=5)
T = "2025-09-15T22:56:16"
T_NS = 1_757_976_976 * 10**9  # date -u -d 2025-09-15T22:56:16 +%s


def capture(folder: Path, *lines: str, header: str | None = HEADER, end: str = "\n") -> Path:
    path = folder / "prices.csv"
    shown = [*([] if header is None else [header]), *lines]
    path.write_bytes(end.join([*shown, ""]).encode())
    return path


def read(quotes: CsvQuotes) -> pl.DataFrame:
    frames = list(quotes.batches())
    schema = pl.Schema({k: v for k, v in QUOTE_SCHEMA.items() if k != "seq"})
    for frame in frames:
        assert frame.schema == schema
    assert quotes.rows == sum(frame.height for frame in frames)
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)


def refusal(path: Path, instrument: Instrument = ETH, max_back_ns: int = MAX_BACK_NS) -> str:
    with pytest.raises(RecordingError) as caught:
        read(CsvQuotes(path, instrument, max_back_ns))
    assert str(path) in str(caught.value)
    return str(caught.value)


def one(folder: Path, line: str, instrument: Instrument = FINE) -> tuple[object, ...]:
    return read(CsvQuotes(capture(folder, line), instrument)).row(0)


# ---------------------------------------------------------------- values


def test_a_line_becomes_integers_of_a_billionth(tmp_path: Path) -> None:
    line = f"{T}.754596,4510.49,7.8173,4510.51,0.1637,0"

    assert one(tmp_path, line, ETH) == (
        T_NS + 754_596_000, None, 4_510_490_000_000, 4_510_510_000_000, 7_817_300_000,
        163_700_000, 0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("1e-05", 10_000),
        ("1.5E+2", 150 * 10**9),
        ("0.1", 100_000_000),
        ("0.000000001", 1),
        ("4503599.627370497", 4_503_599_627_370_497),  # past what a double holds
        ("9223372036.854775807", 2**63 - 1),
        ("999999999.999999999", 999_999_999_999_999_999),
        ("1.10000000000", 1_100_000_000),
        ("007", 7 * 10**9),
        ("0", 0),
        ("+2", 2 * 10**9),
        (" 2.50 ", 2_500_000_000),
    ],
)
def test_decimal_text_is_read_exactly(tmp_path: Path, text: str, units: int) -> None:
    assert one(tmp_path, f"{T},{text},{text},{text},{text}")[2:6] == (units,) * 4


@pytest.mark.parametrize(
    "text",
    [
        "nan",
        "inf",
        "x",
        "1.0000000001",
        "1e10",
        "-1",
        "1_0",
        ".",
        "\uff11",
        "1.0000000000000000000000000000001",
        "9223372036.854775808",
        "1e",
    ],
)
@pytest.mark.parametrize("column", [1, 2, 3, 4])
def test_what_is_no_such_decimal_is_refused_with_its_line(
    tmp_path: Path, text: str, column: int
) -> None:
    fields = [T, "1", "1", "1", "1", "0"]
    fields[column] = text

    error = refusal(capture(tmp_path, f"{T},1,1,1,1,0", ",".join(fields)), FINE)

    assert "line 3: " in error


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (T, T_NS),
        (f"{T}Z", T_NS),
        (f"{T}+00:00", T_NS),
        (f"{T}.5", T_NS + 500_000_000),
        (f"{T}.839832", T_NS + 839_832_000),
        (f"{T}.123456789", T_NS + 123_456_789),
        (f"{T}.000000001Z", T_NS + 1),
        (f"{T}.000000010+00:00", T_NS + 10),
        (f"{T.replace('T', ' ')}.25", T_NS + 250_000_000),
        ("1970-01-01T00:00:00", 0),
        ("2024-02-29T23:59:59.999999999", 1_709_251_199_999_999_999),
    ],
)
def test_a_timestamp_is_utc_to_the_nanosecond(tmp_path: Path, text: str, ns: int) -> None:
    assert one(tmp_path, f"{text},1,1,2,1")[0] == ns


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "1757976976", f"{T}.1234567890", f"{T}+02:00", f"{T}-00:00", "2025-02-29T00:00:00",
        "2025-13-01T00:00:00", "2025-09-15T24:00:00", "2025-09-15T22:60:00", "1969-12-31T23:59:59",
        "2300-01-01T00:00:00", f"{T}.", f"{T} Z", "2025-09-15",
    ],
)  # fmt: skip
def test_what_is_no_utc_timestamp_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    error = refusal(capture(tmp_path, f"{T},1,1,1,1", f"{text},1,1,1,1"))

    assert "line 3: timestamp is" in error
    assert repr(text) in error


def test_an_empty_price_is_an_absent_side_and_an_empty_size_is_not_known(tmp_path: Path) -> None:
    lines = [f"{T},,5,2,1", f"{T},1,1,,", f"{T},,,,", f"{T},1,,2,0"]

    rows = read(CsvQuotes(capture(tmp_path, *lines), FINE)).select(
        "bid_px", "bid_sz", "ask_px", "ask_sz"
    )

    unit = 10**9
    assert rows.rows() == [
        (None, None, 2 * unit, unit),
        (unit, unit, None, None),
        (None, None, None, None),
        (unit, None, 2 * unit, 0),
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (f"{T},4510.491,1,4511,1", "bid_price is '4510.491', must be a multiple of 0.01"),
        (f"{T},4510,1,4511.001,1", "ask_price is '4511.001', must be a multiple of 0.01"),
        (f"{T},4510,1e-05,4511,1", "bid_size is '1e-05', must be a multiple of 0.0001"),
        (f"{T},4510,1,4511,0.00001", "ask_size is '0.00001', must be a multiple of 0.0001"),
    ],
)
def test_a_number_off_its_steps_is_refused_with_line_and_step(
    tmp_path: Path, line: str, what: str
) -> None:
    error = refusal(capture(tmp_path, f"{T},4510.49,0.0001,4511,1", line))

    assert f"line 3: {what}" in error
    assert "decimals" in error


# ---------------------------------------------------------------- lines


def test_rows_with_and_without_market_and_a_file_without_header_read_the_same(
    tmp_path: Path,
) -> None:
    lines = [f"{T},1,1,2,1,7", f"{T}.5,1,1,2,1"]
    plain = read(CsvQuotes(capture(tmp_path, *lines), FINE))

    for header, end in ((None, "\n"), (HEADER.rsplit(",", 1)[0], "\n"), (HEADER, "\r\n")):
        assert read(CsvQuotes(capture(tmp_path, *lines, header=header, end=end), FINE)).equals(
            plain
        )
    bom = tmp_path / "bom.csv"
    bom.write_bytes(b"\xef\xbb\xbf" + "\n".join([HEADER, *lines]).encode())
    assert read(CsvQuotes(bom, FINE)).equals(plain)


@pytest.mark.parametrize("line", [f"{T},1,1,1", f"{T},1,1,1,1,0,0", "x"])
def test_a_line_with_fields_missing_or_left_over_is_refused(tmp_path: Path, line: str) -> None:
    assert "line 3: the line is" in refusal(capture(tmp_path, f"{T},1,1,1,1", line))


def test_a_second_market_in_the_file_is_refused(tmp_path: Path) -> None:
    lines = [f"{T},1,1,2,1,7", f"{T},1,1,2,1", f"{T},1,1,2,1,8"]

    assert "line 4: market_id is '8', must be '7'" in refusal(capture(tmp_path, *lines))


@pytest.mark.parametrize("header", ["ts,bid,ask", HEADER.replace("bid_price", "bid"), "", "{"])
def test_an_unknown_header_is_refused(tmp_path: Path, header: str) -> None:
    assert "line 1" in refusal(capture(tmp_path, f"{T},1,1,2,1", header=header))


def test_line_numbers_count_blank_lines_and_the_header(tmp_path: Path) -> None:
    path = capture(tmp_path, "", f"{T},1,1,2,1", "", "", f"{T},x,1,2,1", "")

    assert "line 6: " in refusal(path)


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    for content in (b"PAR1\xff\xfe\n", b"x" * (5 << 20), f"{T},1,1,2,1\n\xff,".encode("latin-1")):
        path.write_bytes(content)
        assert refusal(path)
    assert "cannot be read" in refusal(tmp_path / "none.csv")
    assert "cannot be read" in refusal(tmp_path)


# ---------------------------------------------------------------- order


def test_repeated_quotes_are_kept_and_counted_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"{T},1,1,2,1", f"{T},1,1,2,1", f"{T},1,1,2,2", f"{T},,,2,2", f"{T},,,2,2"]
    path = capture(tmp_path, *lines)
    for block_bytes in (10, 60, 100_000):
        monkeypatch.setattr("streams.lighter_csv._BLOCK_BYTES", block_bytes)
        if block_bytes == 10:
            assert "no line break" in refusal(path)
            continue
        quotes = CsvQuotes(path, FINE)
        assert read(quotes).height == 5
        assert quotes.repeats == 2
        assert read(quotes).height == 5
        assert quotes.repeats == 2


def test_a_first_quote_without_sides_repeats_nothing(tmp_path: Path) -> None:
    quotes = CsvQuotes(capture(tmp_path, f"{T},,,,", f"{T},,,,"), FINE)

    assert read(quotes).height == 2
    assert quotes.repeats == 1


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_a_clock_that_goes_back_is_refused_with_line_both_times_and_where_to_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr("streams.lighter_csv._BLOCK_BYTES", block_bytes)
    path = capture(tmp_path, f"{T}.5,1,1,2,1", f"{T}.5,1,1,2,1", f"{T}.499999999,1,1,2,1")

    error = refusal(path, max_back_ns=0)

    assert "line 4: the clock goes back by 1 ns" in error
    assert f"to {T}.499999999 after {T}.500000000" in error
    assert "head -n 3 prices.csv" in error
    assert "tail -n +4 prices.csv" in error


def test_small_steps_back_stand_still_and_are_counted(tmp_path: Path) -> None:
    lines = [f"{T}.{d},1,1,2,1" for d in ("5", "499", "4995", "6")]
    path = capture(tmp_path, *lines)

    quotes = CsvQuotes(path, FINE, max_back_ns=1_000_000)

    tenths = [500, 500, 500, 600]
    assert read(quotes)["ts"].to_list() == [T_NS + n * 1_000_000 for n in tenths]
    assert quotes.clamped == 2
    with pytest.raises(RecordingError, match="goes back by 1000000 ns"):
        read(CsvQuotes(path, FINE, max_back_ns=999_999))


# ---------------------------------------------------------------- the captures as found


def by_hand(path: Path) -> list[tuple[object, ...]]:
    """Read a capture with csv and Decimal, a line at a time."""
    epoch = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - naive is UTC here
    rows: list[tuple[object, ...]] = []
    with path.open() as stream:
        for fields in csv.reader(stream):
            if fields[0] == "timestamp":
                continue
            since = datetime.datetime.fromisoformat(fields[0]) - epoch
            ts = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
            numbers = [int(Decimal(text) * 10**9) for text in fields[1:5]]
            rows.append((ts, None, numbers[0], numbers[2], numbers[1], numbers[3], 0))
    return rows


@pytest.mark.parametrize(
    ("name", "instrument", "splits"), [("BTC", BTC, [3333]), ("ETH", ETH, [3267, 9013])]
)
def test_a_capture_as_found_is_refused_and_its_parts_read_exactly(
    tmp_path: Path, name: str, instrument: Instrument, splits: list[int]
) -> None:
    found = DATA / f"prices_{name}.csv"
    if not found.exists():
        pytest.skip("the capture is not here")
    lines = found.read_text().splitlines(keepends=True)
    starts = [1, *splits]
    for start, stop in zip(starts, [*splits, len(lines) + 1], strict=True):
        rest, part = tmp_path / "rest.csv", tmp_path / "part.csv"
        rest.write_text("".join(lines[start - 1 :]))
        part.write_text("".join(lines[start - 1 : stop - 1]))
        frame = read(CsvQuotes(part, instrument))
        assert frame.rows() == by_hand(part)
        QuoteChecker(part, instrument).check(frame)
        if stop <= len(lines):
            error = refusal(rest, instrument, max_back_ns=0)
            assert f"line {stop - start + 1}: the clock goes back" in error
            assert lines[stop - 1].partition(",")[0] in error
            assert lines[stop - 2].partition(",")[0] in error


def test_the_halves_of_a_capture_import_as_they_are_and_its_one_small_step_back_is_counted(
    tmp_path: Path,
) -> None:
    found = DATA / "prices_ETH.csv"
    if not found.exists():
        pytest.skip("the capture is not here")
    lines = found.read_text().splitlines(keepends=True)
    clamped = []
    for number, half in enumerate((lines[:3266], lines[3266:])):
        path = tmp_path / f"{number}.csv"
        path.write_text("".join(half))
        quotes = CsvQuotes(path, ETH)
        assert read(quotes)["ts"].is_sorted()
        clamped.append(quotes.clamped)
    assert clamped == [0, 1]
    assert "--max-back-ns" not in refusal(found, ETH), "hours are not bridged"


def test_random_decimals_are_read_as_decimal_reads_them(tmp_path: Path) -> None:
    chance = random.Random(20250915)
    lines = []
    for _ in range(5_000):
        texts = [
            str(Decimal(chance.randrange(10**9)).scaleb(-chance.randrange(10))) for _ in range(4)
        ]
        lines.append(f"{T}.{chance.randrange(10**6):06d}," + ",".join(texts))
    lines.sort()
    path = capture(tmp_path, *lines, header=None)

    assert read(CsvQuotes(path, FINE)).rows() == by_hand(path)


# ---------------------------------------------------------------- trades


def read_trades(trades: CsvTrades) -> pl.DataFrame:
    frames = list(trades.batches())
    schema = pl.Schema({k: v for k, v in TRADES_SCHEMA.items() if k != "seq"})
    for frame in frames:
        assert frame.schema == schema
    assert trades.rows == sum(frame.height for frame in frames) + trades.repeats
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)


def trades_refusal(path: Path, instrument: Instrument = ETH, **options: int) -> str:
    with pytest.raises(RecordingError) as caught:
        read_trades(CsvTrades(path, instrument, **options))
    assert str(path) in str(caught.value)
    return str(caught.value)


def tape(folder: Path, *lines: str, header: str | None = TRADES_HEADER) -> Path:
    return capture(folder, *lines, header=header)


def test_a_trade_becomes_integers_of_a_billionth_and_the_side_that_took(tmp_path: Path) -> None:
    lines = [f"{T}.604,4510.58,0.009,buy,123888277,40.59522", f"{T}.604,4510.5,1e-04,sell,5,0.45"]

    rows = read_trades(CsvTrades(tape(tmp_path, *lines), ETH)).rows()

    ts = T_NS + 604_000_000
    assert rows == [
        (ts, ts, 4_510_580_000_000, 9_000_000, "BUY", "123888277"),
        (ts, ts, 4_510_500_000_000, 100_000, "SELL", "5"),
    ]


def test_a_trade_may_lack_its_side_its_id_and_the_last_column(tmp_path: Path) -> None:
    lines = [f"{T},1,1,,7", f"{T},1,1,BUY,", f"{T},1,1, Sell ,,", f"{T},1,1,buy,"]
    trades = CsvTrades(tape(tmp_path, *lines, header=None), FINE)

    rows = read_trades(trades).select("side", "trade_id").rows()

    assert rows == [(None, "7"), ("BUY", None), ("SELL", None), ("BUY", None)]
    assert trades.repeats == 0


@pytest.mark.parametrize("block_bytes", [80, 1 << 20])
def test_a_trade_told_again_is_left_out_and_counted_however_late_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr("streams.lighter_csv._BLOCK_BYTES", block_bytes)
    told = [f"{T}.{n}00,{n + 1},1,buy,{100 + n},1" for n in range(5)]
    again = [told[1], told[4], told[4]]
    trades = CsvTrades(tape(tmp_path, *told, *again, f"{T}.9,9,1,sell,105,9"), FINE, max_back_ns=0)

    for _ in range(2):
        rows = read_trades(trades)
        assert rows["trade_id"].to_list() == ["100", "101", "102", "103", "104", "105"]
        assert (trades.rows, trades.repeats, trades.clamped) == (9, 3, 0)


def test_a_new_trade_from_the_past_is_refused_or_takes_the_time_before_it_within_limits(
    tmp_path: Path,
) -> None:
    path = tape(tmp_path, f"{T}.5,1,1,buy,1,1", f"{T}.499,1,1,buy,2,1")

    assert "line 3: the clock goes back by 1000000 ns" in trades_refusal(path, max_back_ns=999_999)
    trades = CsvTrades(path, FINE, max_back_ns=1_000_000)
    rows = read_trades(trades)
    assert rows["ts"].to_list() == [T_NS + 500_000_000] * 2
    assert rows["ts_event"].to_list() == [T_NS + 500_000_000, T_NS + 499_000_000]
    assert trades.clamped == 1


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (f"{T},0,1,buy,1,1", "line 3: price is '0', must be positive"),
        (f"{T},,1,buy,1,1", "line 3: price is '', must be positive"),
        (f"{T},1,0.0,buy,1,1", "line 3: size is '0.0', must be positive"),
        (f"{T},-1,1,buy,1,1", "line 3: price must not be negative"),
        (f"{T},1,nan,buy,1,1", "line 3: size must be a decimal number"),
        (f"{T},1.001,1,buy,1,1", "line 3: price is '1.001', must be a multiple of 0.01"),
        (f"{T},1,1e-05,buy,1,1", "line 3: size is '1e-05', must be a multiple of 0.0001"),
        (f"{T},1,1,by,1,1", "line 3: side is 'by', must be buy or sell"),
        (f"{T}+02:00,1,1,buy,1,1", "line 3: timestamp is"),
        (f"{T},1,1,buy", "line 3: the line is"),
        (f"{T},1,1,buy,1,1,1", "line 3: the line is"),
    ],
)
def test_a_line_that_is_no_sound_trade_is_refused_with_what_is_wrong(
    tmp_path: Path, line: str, what: str
) -> None:
    assert what in trades_refusal(tape(tmp_path, f"{T},1,1,buy,0,1", line))


def test_quotes_and_trades_are_not_taken_for_each_other(tmp_path: Path) -> None:
    quotes = capture(tmp_path, f"{T},1,1,2,1,0")
    assert "must be a trade or the header timestamp,price,size" in trades_refusal(quotes)
    bare = capture(tmp_path, f"{T},1,1,2,1,0", header=None)
    assert "side is '2'" in trades_refusal(bare)
    trades = tape(tmp_path, f"{T},1,1,buy,1,1")
    assert "must be a quote or the header timestamp,bid_price" in refusal(trades)


def trades_by_hand(path: Path) -> list[tuple[object, ...]]:
    """Read a capture of trades with csv and Decimal, a line at a time."""
    epoch = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - naive is UTC here
    rows: list[tuple[object, ...]] = []
    with path.open() as stream:
        for fields in csv.reader(stream):
            if fields[0] == "timestamp":
                continue
            since = datetime.datetime.fromisoformat(fields[0]) - epoch
            ts = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
            px, qty = (int(Decimal(text) * 10**9) for text in fields[1:3])
            rows.append((ts, ts, px, qty, fields[3].upper(), fields[4]))
    return rows


@pytest.mark.parametrize(("name", "instrument", "split"), [("BTC", BTC, 169), ("ETH", ETH, 167)])
def test_captured_trades_as_found_are_refused_and_their_halves_read_exactly(
    tmp_path: Path, name: str, instrument: Instrument, split: int
) -> None:
    found = DATA / f"trades_{name}.csv"
    if not found.exists():
        pytest.skip("the capture is not here")
    assert f"line {split}: the clock goes back" in trades_refusal(found, instrument)
    lines = found.read_text().splitlines(keepends=True)
    for half in (lines[: split - 1], lines[split - 1 :]):
        part = tmp_path / "part.csv"
        part.write_text("".join(half))
        trades = CsvTrades(part, instrument, max_back_ns=0)
        frame = read_trades(trades)
        assert frame.rows() == trades_by_hand(part)
        assert trades.repeats == 0
        TradeChecker(part, instrument).check(frame)
