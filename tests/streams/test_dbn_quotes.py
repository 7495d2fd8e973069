"""DBN files: every record is a row, exactly, or is counted, and no file is read wrongly."""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import databento_dbn
import polars as pl
import pytest
import zstandard

from streams.dbn_quotes import IMPORT_SCHEMA, DbnQuotes
from streams.recording import RecordingError

dbn: Any = databento_dbn
"""Its stubs take the values of enums for the enums themselves."""

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "databento"
REAL = {
    "ESU4.GLBX.mbp-1.2024-07-01.dbn.zst": "ESU4",
    "NVDA.XNAS.mbp-1.2020-12-28.dbn.zst": "NVDA",
    "NVDA.XNAS.tbbo.2020-12-28.dbn.zst": "NVDA",
    "OPRA.cbbo-1s.dbn.zst": "AAPL  250221C00250000",
    "QQQ.EQUS-MINI.bbo-1s.dbn.zst": "QQQ",
    "QQQ.EQUS-MINI.mbp-1.2023-03-28.dbn.zst": "QQQ",
}

DAY = 86_400_000_000_000
MONDAY = 20_000 * DAY  # 2024-10-04, at midnight
NVDA, AMD = 11667, 11670
UNDEF = dbn.UNDEF_PRICE
CMBP, BBO, CBBO = {"cmbp-1": 177, "tcbbo": 194}, {"bbo-1s": 195, "bbo-1m": 196}, {
    "cbbo-1s": 192,
    "cbbo-1m": 193,
}  # fmt: skip
SCHEMAS = ["mbp-1", "tbbo", *CMBP, *BBO, *CBBO]


class Interval(NamedTuple):
    start_date: datetime.date
    end_date: datetime.date
    symbol: str


class Mapping(NamedTuple):
    raw_symbol: str
    intervals: list[Interval]


def day(number: int) -> datetime.date:
    return datetime.date(1970, 1, 1) + datetime.timedelta(days=number)


def mapped(name: str, *spans: tuple[int, int, int]) -> Mapping:
    """Map a symbol to ids from a day to before a day, counted from Monday."""
    first = MONDAY // DAY
    return Mapping(name, [Interval(day(first + a), day(first + b), str(i)) for i, a, b in spans])


ALWAYS = [mapped("NVDA", (NVDA, 0, 30)), mapped("AMD", (AMD, 0, 30))]


def header(
    schema: str | None = "mbp-1",
    mappings: Sequence[Mapping] = ALWAYS,
    version: int = 3,
    *,
    ts_out: bool = False,
    symbols: Sequence[str] = ("NVDA", "AMD"),
    dataset: str = "EQUS.MINI",
) -> bytes:
    metadata: bytes = dbn.Metadata(
        dataset=dataset,
        start=MONDAY,
        stype_in=None if schema is None else dbn.SType.RAW_SYMBOL,
        stype_out=dbn.SType.INSTRUMENT_ID,
        schema=None if schema is None else dbn.Schema.from_str(schema),
        symbols=list(symbols),
        mappings=list(mappings),
        ts_out=ts_out,
        version=version,
    ).encode()
    return metadata


def record(
    schema: str = "mbp-1",
    at: int = 0,
    bid: int = 180_010_000_000,
    ask: int = 180_020_000_001,
    sizes: tuple[int, int] = (300, 2**32 - 1),
    *,
    id: int = NVDA,
    flags: int = 128,
    ts_event: int | None = None,
    ts_recv: int | None = None,
    ts_out: int | None = None,
) -> bytes:
    ts = MONDAY + at if ts_recv is None else ts_recv
    common: dict[str, Any] = {
        "publisher_id": 95, "instrument_id": id, "ts_recv": ts, "price": 180_000_000_000,
        "ts_event": MONDAY + at - 7 if ts_event is None else ts_event, "size": 1,
        "side": dbn.Side.BID, "flags": flags,
    }  # fmt: skip
    if ts_out is not None:
        common["ts_out"] = ts_out
    pair = dbn.BidAskPair(bid, ask, *sizes, 1, 2)
    both = dbn.ConsolidatedBidAskPair(bid, ask, *sizes, 60, 2)
    if schema in CMBP:
        action = {"action": dbn.Action.ADD, "rtype": CMBP[schema]}
        return bytes(dbn.CMBP1Msg(**common, **action, levels=both))
    if schema in BBO:
        return bytes(dbn.BBOMsg(**common, rtype=BBO[schema], levels=pair))
    if schema in CBBO:
        return bytes(dbn.CBBOMsg(**common, rtype=CBBO[schema], levels=both))
    action = {"action": dbn.Action.TRADE if schema == "tbbo" else dbn.Action.ADD}
    return bytes(dbn.MBP1Msg(**common, **action, depth=0, ts_in_delta=5, sequence=9, levels=pair))


def mapping_message(name: str, id: int, *, asked: str = "", parent: bool = False) -> bytes:
    kind = dbn.SType.PARENT if parent else dbn.SType.RAW_SYMBOL
    undef = dbn.UNDEF_TIMESTAMP
    return bytes(
        dbn.SymbolMappingMsg(
            0, id, MONDAY, kind, asked or name, dbn.SType.RAW_SYMBOL, name, undef, undef
        )
    )


def heartbeat() -> bytes:
    return bytes(dbn.SystemMsg(MONDAY, "Heartbeat", dbn.SystemCode.HEARTBEAT))


def gateway_error() -> bytes:
    code = dbn.ErrorCode.SKIPPED_RECORDS_AFTER_SLOW_READING
    return bytes(dbn.ErrorMsg(MONDAY, "Skipped records", is_last=True, code=code))


def file_of(folder: Path, *parts: bytes, name: str = "f.dbn", zstd: bool = False) -> Path:
    raw = b"".join(parts)
    path = folder / (name + ".zst" if zstd else name)
    path.write_bytes(zstandard.ZstdCompressor().compress(raw) if zstd else raw)
    return path


def read(quotes: DbnQuotes) -> pl.DataFrame:
    frames = list(quotes.batches())
    for frame in frames:
        assert frame.schema == IMPORT_SCHEMA
    counts = quotes.counts
    assert counts.records_in == counts.rows_out + sum(counts.refused.values())
    assert counts.rows_out == sum(frame.height for frame in frames)
    return pl.concat(frames) if frames else pl.DataFrame(schema=IMPORT_SCHEMA)


def independently(path: Path) -> list[tuple[Any, ...]]:
    """Read all quotes with the vendor's own decoder, one record at a time."""
    raw = path.read_bytes()
    if path.suffix == ".zst":
        raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)).read()
    decoder = dbn.DBNDecoder(upgrade_policy=dbn.VersionUpgradePolicy.AS_IS)
    decoder.write(raw)
    rows = []
    for message in decoder.decode()[1:]:
        if not hasattr(message, "levels"):
            continue
        m: Any = message
        level = m.levels[0]
        bid = (None, None) if level.bid_px == UNDEF else (level.bid_px, level.bid_sz * 10**9)
        ask = (None, None) if level.ask_px == UNDEF else (level.ask_px, level.ask_sz * 10**9)
        event = None if m.ts_event == dbn.UNDEF_TIMESTAMP else m.ts_event
        rows.append((m.ts_recv, event, bid[0], ask[0], bid[1], ask[1], int(m.flags)))
    return rows


def refusal(path: Path, symbol: str = "NVDA", schema: str | None = None) -> str:
    with pytest.raises(RecordingError) as caught:
        read(DbnQuotes(path, symbol, schema))
    assert str(path) in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- exactness


@pytest.mark.parametrize("zstd", [False, True])
@pytest.mark.parametrize("ts_out", [False, True])
@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_schema_and_version_reads_as_the_vendor_decoder_reads_it(
    tmp_path: Path, schema: str, version: int, ts_out: bool, zstd: bool
) -> None:
    out = MONDAY + 99 if ts_out else None
    path = file_of(
        tmp_path,
        header(schema, version=version, ts_out=ts_out),
        record(schema, 1, ts_out=out),
        record(schema, 2, bid=UNDEF, sizes=(0, 5), ts_out=out),
        record(schema, 3, ask=UNDEF, sizes=(5, 0), ts_event=dbn.UNDEF_TIMESTAMP, ts_out=out),
        record(schema, 3, bid=UNDEF, ask=UNDEF, sizes=(0, 0), flags=0, ts_out=out),
        record(schema, 4, bid=UNDEF - 1, ask=0, sizes=(0, 1), flags=255, ts_out=out),
        zstd=zstd,
    )

    quotes = DbnQuotes(path, "NVDA")

    rows = read(quotes).rows()
    assert rows == independently(path)
    assert len(rows) == 5
    assert rows[0] == (
        MONDAY + 1, MONDAY - 6, 180_010_000_000, 180_020_000_001, 300 * 10**9,
        (2**32 - 1) * 10**9, 128,
    )  # fmt: skip
    assert rows[3] == (MONDAY + 3, MONDAY - 4, None, None, None, None, 0)
    assert quotes.counts.noted == {"clear row": 1, "maybe bad book": 1, "bad ts_recv": 1}
    assert (quotes.version, quotes.schema, quotes.venue) == (version, schema, "EQUS")


@pytest.mark.parametrize("name", REAL)
def test_the_vendors_sample_files_come_in_whole(name: str) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip("the vendor's sample files are not here")
    quotes = DbnQuotes(path, REAL[name])

    assert read(quotes).rows() == independently(path)
    assert quotes.counts.refused == {}


def test_a_file_of_many_blocks_keeps_every_row_and_its_order(tmp_path: Path) -> None:
    count = 250_000  # 20 MB: two block borders, neither at the end of a record
    body = bytearray(record("mbp-1", 0) * count)
    ticks = memoryview(body)
    for n in range(count):
        ticks[n * 80 + 32 : n * 80 + 40] = (MONDAY + n).to_bytes(8, "little")
        ticks[n * 80 + 48 : n * 80 + 56] = (n * 7).to_bytes(8, "little")
    path = file_of(tmp_path, header(), bytes(body), zstd=True)

    quotes = DbnQuotes(path, "NVDA")
    frames = list(quotes.batches())

    assert len(frames) > 1
    frame = pl.concat(frames)
    assert frame["ts"].to_list() == list(range(MONDAY, MONDAY + count))
    assert frame["bid_px"].to_list() == list(range(0, 7 * count, 7))


def test_reading_twice_gives_the_same_rows_and_counts(tmp_path: Path) -> None:
    quotes = DbnQuotes(file_of(tmp_path, header(), record(at=5), record(at=6)), "NVDA")

    assert read(quotes).equals(read(quotes))
    assert quotes.counts.records_in == 2


def test_a_live_file_with_ts_out_does_not_change_how_the_next_file_is_read(tmp_path: Path) -> None:
    live = file_of(
        tmp_path,
        header(None, [], ts_out=True),
        bytes(
            dbn.SymbolMappingMsg(
                0, NVDA, MONDAY, dbn.SType.RAW_SYMBOL, "NVDA", dbn.SType.RAW_SYMBOL, "NVDA",
                dbn.UNDEF_TIMESTAMP, dbn.UNDEF_TIMESTAMP, ts_out=MONDAY,
            )
        ),
        record(at=1, ts_out=MONDAY + 1),
        name="live.dbn",
    )  # fmt: skip
    plain = file_of(tmp_path, header(), record(at=1), record(at=2))

    assert read(DbnQuotes(live, "NVDA")).rows() == independently(live)
    assert read(DbnQuotes(plain, "NVDA")).rows() == independently(plain)


# ---------------------------------------------------------------- symbols


def test_an_id_means_a_symbol_from_its_first_midnight_to_before_its_last(tmp_path: Path) -> None:
    mappings = [mapped("AMD", (7, 0, 1)), mapped("NVDA", (7, 1, 3), (8, 3, 4))]
    at = [DAY - 1, DAY, 3 * DAY - 1, 3 * DAY, 3 * DAY + 1, 4 * DAY]
    ids = [7, 7, 7, 7, 8, 8]
    rows = [record(at=t, id=i) for t, i in zip(at, ids, strict=True)]
    path = file_of(tmp_path, header(mappings=mappings), *rows)

    nvda, amd = DbnQuotes(path, "NVDA"), DbnQuotes(path, "AMD")

    assert read(nvda)["ts"].to_list() == [MONDAY + t for t in (DAY, 3 * DAY - 1, 3 * DAY + 1)]
    assert nvda.counts.refused == {"other instrument": 3}
    assert read(amd)["ts"].to_list() == [MONDAY + DAY - 1]


def test_the_date_is_the_one_of_ts_recv_not_of_ts_event(tmp_path: Path) -> None:
    mappings = [mapped("NVDA", (7, 1, 2))]
    row = record(at=DAY, id=7, ts_event=MONDAY + DAY - 1)

    assert read(DbnQuotes(file_of(tmp_path, header(mappings=mappings), row), "NVDA")).height == 1


def test_other_symbols_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [record(at=n, id=(NVDA, AMD, 5)[n % 3]) for n in range(9)]
    quotes = DbnQuotes(file_of(tmp_path, header(), *rows), "NVDA")

    assert read(quotes)["ts"].to_list() == [MONDAY, MONDAY + 3, MONDAY + 6]
    assert quotes.counts.refused == {"other instrument": 6}


def test_a_symbol_that_the_file_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    many = [mapped(f"S{n}", (n + 1, 0, 9)) for n in range(9)]
    error = refusal(file_of(tmp_path, header(mappings=many), record()), "NVDA")

    assert "'NVDA'" in error
    assert "it holds 9: S0, S1, S2, S3, S4, ..." in error


def test_a_symbol_may_be_given_with_its_venue_or_as_an_instrument_id(tmp_path: Path) -> None:
    path = file_of(tmp_path, header(), record(at=1), record(at=2, id=AMD))

    by_venue, by_id = DbnQuotes(path, "NVDA.EQUS"), DbnQuotes(path, str(AMD))

    assert by_venue.symbol == "NVDA"
    assert read(by_venue)["ts"].to_list() == [MONDAY + 1]
    assert read(by_id)["ts"].to_list() == [MONDAY + 2]


def test_without_mappings_only_the_one_symbol_asked_for_can_be_meant(tmp_path: Path) -> None:
    one = file_of(tmp_path, header(mappings=[], symbols=["NVDA"]), record())
    two = file_of(tmp_path, header(mappings=[]), record(), name="two.dbn")

    assert read(DbnQuotes(one, "NVDA")).height == 1
    assert "no symbol mappings" in refusal(two)


# ---------------------------------------------------------------- live recordings


def test_a_live_recording_maps_from_arrival_and_counts_what_is_no_quote(tmp_path: Path) -> None:
    trade = bytes(
        dbn.TradeMsg(95, NVDA, MONDAY, 1, 1, dbn.Action.TRADE, dbn.Side.BID, 0, MONDAY, 0, 0)
    )
    path = file_of(
        tmp_path,
        header(None, [], symbols=[]),
        heartbeat(),
        record(at=0),  # not mapped yet
        mapping_message("NVDA", NVDA),
        record(at=1),
        trade,
        record(at=2, id=AMD),
        gateway_error(),
        mapping_message("AMD", NVDA),  # the id changes its meaning
        record(at=3),
        mapping_message("NVDA", AMD),
        record(at=4),
        record(at=5, id=AMD),
    )
    quotes = DbnQuotes(path, "NVDA")

    assert read(quotes)["ts"].to_list() == [MONDAY + 1, MONDAY + 5]
    assert quotes.counts.refused == {
        "system message record": 1,
        "symbol mapping record": 3,
        "trade record": 1,
        "gateway error record": 1,
        "other instrument": 4,
    }


def test_a_version_1_live_recording_tells_mappings_from_quotes_of_one_length(
    tmp_path: Path,
) -> None:
    def control(rtype: int, id: int, body: bytes) -> bytes:
        head = bytes([20, rtype, 0, 0]) + id.to_bytes(4, "little") + bytes(8)
        return (head + body).ljust(80, b"\0")

    def name(text: bytes) -> bytes:
        return text.ljust(22, b"\0")

    path = file_of(
        tmp_path,
        header(None, [], version=1, symbols=[]),
        record(at=0),
        control(22, NVDA, name(b"NVDA") * 2),
        record(at=1),
        control(23, 0, b"Heartbeat"),
        record(at=2),
        control(22, AMD, name(b"NVDA") * 2),
        record(at=3),
        record(at=4, id=AMD),
    )
    quotes = DbnQuotes(path, "NVDA")

    assert read(quotes)["ts"].to_list() == [MONDAY + 1, MONDAY + 2, MONDAY + 4]
    assert quotes.counts.refused == {
        "symbol mapping record": 2, "system message record": 1, "other instrument": 2,
    }  # fmt: skip


def test_a_parent_names_no_instrument_but_its_children_do(tmp_path: Path) -> None:
    path = file_of(
        tmp_path,
        header(None, [], symbols=[]),
        mapping_message("ESZ4", 1, asked="ES.FUT", parent=True),
        mapping_message("ESH5", 2, asked="ES.FUT", parent=True),
        record(at=1, id=1),
        record(at=2, id=2),
    )

    assert read(DbnQuotes(path, "ESZ4"))["ts"].to_list() == [MONDAY + 1]
    assert "it holds 2: ESH5, ESZ4" in refusal(path, "ES.FUT")


def test_a_continuous_symbol_follows_the_roll(tmp_path: Path) -> None:
    path = file_of(
        tmp_path,
        header(None, [], symbols=[]),
        mapping_message("ESZ4", 1, asked="ES.c.0"),
        record(at=1, id=1),
        mapping_message("ESH5", 2, asked="ES.c.0"),
        record(at=2, id=1),
        record(at=3, id=2),
    )

    assert read(DbnQuotes(path, "ES.c.0"))["ts"].to_list() == [MONDAY + 1, MONDAY + 3]


def test_a_live_recording_without_the_symbol_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path, header(None, []), mapping_message("AMD", AMD), record(id=AMD))

    assert "it holds 1: AMD" in refusal(path)


def test_two_kinds_of_quotes_in_a_live_recording_must_be_told_apart(tmp_path: Path) -> None:
    path = file_of(
        tmp_path,
        header(None, []),
        mapping_message("NVDA", NVDA),
        record(at=1),
        record("bbo-1s", 2),
        record(at=3),
    )
    chosen = DbnQuotes(path, "NVDA", "mbp-1")

    assert "bbo-1s and mbp-1 quotes of NVDA" in refusal(path)
    assert read(chosen)["ts"].to_list() == [MONDAY + 1, MONDAY + 3]
    assert chosen.counts.refused["other schema"] == 1


# ---------------------------------------------------------------- refused rows and files


def test_a_row_without_ts_recv_is_refused_and_counted(tmp_path: Path) -> None:
    undef = record(ts_recv=dbn.UNDEF_TIMESTAMP)
    beyond = record(at=2, ts_event=2**63)
    quotes = DbnQuotes(file_of(tmp_path, header(), record(at=1), undef, beyond), "NVDA")

    assert read(quotes)["ts"].to_list() == [MONDAY + 1]
    assert quotes.counts.refused == {"undefined ts_recv": 1, "impossible timestamp": 1}


def test_a_negative_price_is_refused_and_counted(tmp_path: Path) -> None:
    rows = [record(at=1, bid=-1), record(at=2, ask=-(2**63)), record(at=3, bid=0)]
    quotes = DbnQuotes(file_of(tmp_path, header(), *rows), "NVDA")

    assert read(quotes)["bid_px"].to_list() == [0]
    assert quotes.counts.refused == {"negative price": 2}


def test_time_that_goes_back_refuses_the_file_with_record_and_both_times(tmp_path: Path) -> None:
    rows = [record(at=9, id=AMD), record(at=5), record(at=5), record(at=4)]
    error = refusal(file_of(tmp_path, header(), *rows))

    assert "record 3 " in error
    assert f"ts_recv {MONDAY + 4}, before {MONDAY + 5}" in error


def test_time_that_goes_back_between_two_blocks_is_seen(tmp_path: Path) -> None:
    first_block = 8 * 2**20 // 80
    path = file_of(tmp_path, header(), record(at=1) * first_block, record(at=0))

    assert f"record {first_block} " in refusal(path)


def test_a_row_that_says_its_clock_is_bad_is_clamped_and_counted(tmp_path: Path) -> None:
    rows = [record(at=5), record(at=3, flags=128 | 8), record(at=4, flags=8), record(at=6, flags=8)]
    quotes = DbnQuotes(file_of(tmp_path, header(), *rows), "NVDA")

    assert read(quotes)["ts"].to_list() == [MONDAY + t for t in (5, 5, 5, 6)]
    assert quotes.counts.noted == {"clamped ts": 2, "bad ts_recv": 3}


@pytest.mark.parametrize("schema", ["mbo", "trades", "ohlcv-1s", "mbp-10", "definition"])
def test_a_schema_without_a_best_bid_and_offer_is_refused_by_name(
    tmp_path: Path, schema: str
) -> None:
    error = refusal(file_of(tmp_path, header(schema)))

    assert f"holds {schema} records" in error
    assert "mbp-1, tbbo" in error


@pytest.mark.parametrize("content", [b"", b"D", b"PAR1 something", b"\0" * 500, b"ts,bid\n1,2\n"])
@pytest.mark.parametrize("zstd", [False, True])
def test_what_is_no_dbn_file_is_refused(tmp_path: Path, content: bytes, zstd: bool) -> None:
    path = file_of(tmp_path, content, zstd=zstd)

    assert refusal(path)


def test_a_header_that_the_vendors_library_panics_at_is_refused(tmp_path: Path) -> None:
    cut = bytearray(header()[:110])
    cut[4:8] = (len(cut) - 8).to_bytes(4, "little")

    assert "has a header that cannot be decoded" in refusal(file_of(tmp_path, bytes(cut)))


def test_a_folder_a_missing_file_and_a_newer_version_are_refused(tmp_path: Path) -> None:
    newer = bytearray(header() + record())
    newer[3] = 4

    assert "cannot be opened" in refusal(tmp_path)
    assert "cannot be opened" in refusal(tmp_path / "none.dbn")
    assert "DBN version 4" in refusal(file_of(tmp_path, bytes(newer)))


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    sizeless = bytearray(record(at=1))
    sizeless[0] = 0
    short = bytearray(record(at=1)[:76])
    short[0] = 19

    assert "says that it is 0 bytes" in refusal(file_of(tmp_path, header(), bytes(sizeless)))
    assert "must be 80" in refusal(file_of(tmp_path, header(), record(), bytes(short)))
    with_out = record(at=1, ts_out=MONDAY)
    assert "must be 80" in refusal(file_of(tmp_path, header(), record(), with_out))
    alien = record("cmbp-1", 1)
    assert "record 1 is of kind cmbp-1" in refusal(file_of(tmp_path, header(), record(), alien))


def rows_or_refusal(path: Path) -> int | None:
    try:
        return read(DbnQuotes(path, "NVDA")).height
    except RecordingError:
        return None


def test_a_file_cut_anywhere_is_refused_unless_the_cut_is_between_records(tmp_path: Path) -> None:
    start = header()
    whole = start + record(at=1) + record(at=2) + record(at=3)
    between = {len(start) + 80 * n: n for n in range(4)}

    for cut in range(len(whole) + 1):
        path = tmp_path / "cut.dbn"
        path.write_bytes(whole[:cut])
        assert rows_or_refusal(path) == between.get(cut), cut


def compressed(parts: Iterable[bytes], *, checksum: bool) -> bytes:
    """Compress as live recorders do: one frame with a block for each part."""
    packer = zstandard.ZstdCompressor(write_checksum=checksum).compressobj()
    blocks = [
        packer.compress(part) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for part in parts
    ]
    return b"".join(blocks) + packer.flush()


@pytest.mark.parametrize("checksum", [False, True])
def test_a_compressed_file_cut_anywhere_is_refused(tmp_path: Path, checksum: bool) -> None:
    parts = [header(), record(at=1), record(at=2), bytes(record(at=3))]
    whole = compressed(parts, checksum=checksum)
    path = tmp_path / "cut.dbn.zst"

    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert rows_or_refusal(path) is None, cut
    path.write_bytes(whole)
    assert rows_or_refusal(path) == 3


def test_several_frames_and_skippable_ones_are_one_file_and_garbage_after_them_is_refused(
    tmp_path: Path,
) -> None:
    skippable = (0x184D2A51).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    head = zstandard.ZstdCompressor().compress(header() + record(at=1))
    tail = zstandard.ZstdCompressor().compress(record(at=2) + record(at=3))
    good, bad = tmp_path / "good.dbn.zst", tmp_path / "bad.dbn.zst"
    good.write_bytes(head + skippable + tail)
    bad.write_bytes(head + tail + b"garbage, no frame")

    assert rows_or_refusal(good) == 3
    assert "zstd frames" in refusal(bad)
