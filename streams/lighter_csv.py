"""Lighter: quotes and trades of one market from a collector's CSV captures, exactly.

A capture of quotes has the columns ``timestamp,bid_price,bid_size,ask_price,ask_size[,market_id]``,
one of trades ``timestamp,price,size,side,trade_id[,usd_amount]``, with or without that header line.
**Naive timestamps are taken as UTC**: a capture does not say in which zone its collector ran, so
convert it first if that was another. Files are read a block at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar, Final, NoReturn

import polars as pl

from streams.instrument import UNIT, UNIT_DECIMALS, Instrument, format_units, to_units
from streams.recording import QUOTE_SCHEMA, TRADES_SCHEMA, RecordingError, did_you_mean

__all__ = ["CSV_COLUMNS", "CSV_TRADE_COLUMNS", "MAX_BACK_NS", "CsvQuotes", "CsvTrades"]

CSV_COLUMNS: Final = (
    "timestamp", "bid_price", "bid_size", "ask_price", "ask_size", "market_id",
)  # fmt: skip
"""Columns of a capture of quotes, in order; rows may lack ``market_id``."""
CSV_TRADE_COLUMNS: Final = ("timestamp", "price", "size", "side", "trade_id", "usd_amount")
"""Columns of a capture of trades, in order; rows may lack ``usd_amount``, which is not read."""

_BLOCK_BYTES: Final = 4 << 20
_SIDES: Final = {"buy": "BUY", "sell": "SELL", "": None}
"""Who took; nothing when the capture does not say."""
# A time of day above 23:59:59 passes here and fails when it is parsed.
_INSTANT: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-2][0-9]:[0-5][0-9]:[0-5][0-9]"
    r"(?:\.[0-9]{1,9})?(?:Z|\+00:00)?$"
)
_PLAIN_DECIMAL: Final = r"^[0-9]{1,9}(?:\.[0-9]{1,9})?$"
_DECIMAL: Final = re.compile(r" *[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})? *")
_LONGEST_DECIMAL: Final = 28
MAX_BACK_NS: Final = 2_000_000
"""How far a collector's stamps may step back from row to row. Its tasks stamp side by side: the
largest such step in a real capture of 2025-09-15 is 1.035 ms. More is a clock that was set back."""

_SECONDS_CHARS: Final = len("2025-09-15T22:56:16")
_LAST_SECOND: Final = 2**63 // UNIT - 1


class _Capture:
    """A capture in CSV: lines, stamps and decimals, whatever they tell of."""

    _columns: ClassVar[tuple[str, ...]]
    """Columns of a line; the last may be missing."""
    _numbers: ClassVar[Mapping[str, str]]
    """Columns that are made of decimals, and the capture's columns of them."""
    _is_a: ClassVar[str]

    def __init__(self, path: Path, instrument: Instrument, max_back_ns: int = MAX_BACK_NS) -> None:
        """Name the file, and how far its clock may step back (it then stands still instead)."""
        self.path = path
        self.rows = 0
        """Rows read so far."""
        self.repeats = 0
        """Rows that repeat an earlier one."""
        self.clamped = 0
        """Rows that went back by at most ``max_back_ns`` and took the time of the row before."""
        self._instrument = instrument
        self._max_back_ns = max_back_ns
        self._highest_ts: int | None = None

    def _begin(self) -> None:
        self.rows = self.repeats = self.clamped = 0
        self._highest_ts = None

    def _frame(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Make of lines, split into their columns as text, what is to be recorded."""
        raise NotImplementedError

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield what the capture holds in frames, a block of the file at a time."""
        self._begin()
        try:
            with self.path.open("rb") as stream:
                line = 1
                for block in _line_blocks(stream, self.path):
                    texts = self._decoded(block, line).split("\n")
                    yield from self._frames(texts, line)
                    line += len(texts)
        except OSError as error:
            raise RecordingError(
                f"{self.path} cannot be read ({error.strerror}); give a CSV file that can be read"
            ) from error

    def _decoded(self, block: bytes, line: int) -> str:
        try:
            return block.decode("utf-8-sig" if line == 1 else "utf-8").replace("\r", "")
        except UnicodeDecodeError as error:
            at = line + block.count(b"\n", 0, error.start)
            raise RecordingError(
                f"{self.path}: line {at} is not text in UTF-8; a capture is a CSV file. "
                f"It is damaged, compressed or of another format"
            ) from error

    def _frames(self, texts: list[str], line: int) -> Iterator[pl.DataFrame]:
        rows = pl.DataFrame({"text": texts}, schema={"text": pl.String}).with_row_index(
            "line", line
        )
        if line == 1 and self._is_header(texts[0]):
            rows = rows[1:]
        rows = rows.filter(pl.col("text") != "")
        if not rows.height:
            return
        frame = self._frame(self._split(rows))
        self.rows += rows.height
        if frame.height:
            yield frame

    def _is_header(self, text: str) -> bool:
        names = [name.strip() for name in text.split(",")]
        if names[0][:1].isdigit():
            return False
        columns = self._columns
        if tuple(names) in (columns, columns[:-1]):
            return True
        raise RecordingError(
            f"{self.path}: line 1 is {text[:100]!r}, must be a {self._is_a} or the header "
            f"{','.join(columns[:-1])}[,{columns[-1]}]; reorder or rename the columns"
        )

    def _split(self, rows: pl.DataFrame) -> pl.DataFrame:
        columns = self._columns
        fields = pl.col("text").str.split(",")
        width = rows.select(fields.list.len().alias("n"))["n"]
        self._refuse_first(
            (width < len(columns) - 1) | (width > len(columns)),
            rows,
            "text",
            f"must have the fields {','.join(columns[:-1])} and may have {columns[-1]}; "
            f"repair or remove the line",
        )
        parts = fields.list.to_struct(fields=list(columns))
        return rows.select("line", "text", parts.alias("fields")).unnest("fields")

    def _instants(self, rows: pl.DataFrame) -> pl.Series:
        text = pl.col("timestamp")
        start = text.str.slice(0, _SECONDS_CHARS).str.replace(" ", "T", literal=True)
        seconds = start.str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="us", strict=False)
        digits = text.str.slice(_SECONDS_CHARS + 1, UNIT_DECIMALS).str.extract(r"^([0-9]+)", 1)
        nanos = digits.str.pad_end(UNIT_DECIMALS, "0").cast(pl.Int64).fill_null(0)
        found = rows.select(
            text.str.contains(_INSTANT).alias("sound"),
            seconds.dt.epoch("s").alias("seconds"),
            nanos.alias("nanos"),
        )
        whole = found["seconds"]
        self._refuse_first(
            ~found["sound"] | whole.is_null() | (whole < 0) | (whole > _LAST_SECOND),
            rows,
            "timestamp",
            "must be a UTC time such as 2025-09-15T22:56:16.839832, with at most 9 decimals and no "
            "offset but Z or +00:00; convert it",
        )
        ts: pl.Series = whole * UNIT + found["nanos"]
        return ts

    def _units(self, rows: pl.DataFrame, name: str) -> pl.Series:
        """Read a column of decimals as integers of 1e-9."""
        source = self._numbers[name]
        text = pl.col(source)
        whole = text.str.extract(r"^([0-9]+)", 1).cast(pl.Int64, strict=False)
        fraction = text.str.extract(r"\.([0-9]+)$", 1).str.pad_end(UNIT_DECIMALS, "0")
        units = whole * UNIT + fraction.cast(pl.Int64, strict=False).fill_null(0)
        plain = text.str.contains(_PLAIN_DECIMAL)
        values = rows.select(pl.when(plain).then(units).alias(name))[name]
        odd = values.is_null() & (rows[source] != "")
        if odd.any():
            exact = {at: self._odd_units(rows, at, source) for at in odd.arg_true().to_list()}
            values = values.scatter(list(exact), list(exact.values()))
        self._on_step(values, rows, source, is_price=name.endswith("px"))
        return values

    def _odd_units(self, rows: pl.DataFrame, at: int, source: str) -> int:
        text = rows[source][at]
        # Decimal also takes underscores and other scripts, and rounds at 28 digits.
        if len(text) > _LONGEST_DECIMAL or not _DECIMAL.fullmatch(text):
            self._refuse(
                rows,
                at,
                f"{source} must be a decimal number such as 0.050, was {text!r}; correct it",
            )
        try:
            units = to_units(text, source)
        except ValueError as error:
            self._refuse(rows, at, f"{error}; correct it")
        if units < 0:
            self._refuse(rows, at, f"{source} must not be negative, was {text!r}; correct it")
        return units

    def _on_step(
        self, values: pl.Series, rows: pl.DataFrame, source: str, *, is_price: bool
    ) -> None:
        on = self._instrument
        step, decimals, option = (
            (on.tick_size, on.price_decimals, "price_decimals")
            if is_price
            else (on.lot_size, on.size_decimals, "size_decimals")
        )
        if step > 1:
            self._refuse_first(
                values % step != 0,
                rows,
                source,
                f"must be a multiple of {format_units(step)} ({on.id} has {option} {decimals}); "
                f"correct {option} or the line",
            )

    def _in_order(self, frame: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
        ts = frame["ts"]
        last = ts[0] if self._highest_ts is None else max(ts[0], self._highest_ts)
        highest = ts.cum_max().clip(lower_bound=last)
        back = highest - ts
        wrong = back > self._max_back_ns
        if wrong.any():
            at = wrong.arg_max()
            assert at is not None
            self._refuse_back(rows, at, int(back[at]), int(highest[at]))
        self.clamped += int((back > 0).sum())
        self._highest_ts = highest[-1]
        return frame.with_columns(highest.alias("ts"))

    def _refuse_back(self, rows: pl.DataFrame, at: int, back: int, highest: int) -> NoReturn:
        line, now = rows["line"][at], rows["timestamp"][at]
        before = pl.Series([highest]).cast(pl.Datetime("ns")).dt.to_string("iso:strict")[0]
        name = self.path.name
        # Suggesting to bridge hours would turn a file of two captures into nonsense.
        bridge = (
            f". If the collector's stamps are merely out of order, --max-back-ns {back} lets such "
            f"rows take the time of the row before"
            if back <= UNIT
            else ""
        )
        self._refuse(
            rows,
            at,
            f"the clock goes back by {back} ns, to {now} after {before}; it must not. The file may "
            f"hold two captures, or its times may be of two zones: split it with "
            f"`head -n {line - 1} {name} > first.csv` and `tail -n +{line} {name} > second.csv` "
            f"and import each{bridge}",
        )

    def _refuse_first(self, bad: pl.Series, rows: pl.DataFrame, source: str, rule: str) -> None:
        if bad.any():
            at = bad.fill_null(False).arg_max()
            assert at is not None
            what = "the line" if source == "text" else source
            self._refuse(rows, at, f"{what} is {rows[source][at]!r}, {rule}")

    def _refuse(self, rows: pl.DataFrame, at: int, what: str) -> NoReturn:
        raise RecordingError(f"{self.path}: line {rows['line'][at]}: {what}")


class CsvQuotes(_Capture):
    """Quotes in a Lighter BBO capture.

    Repeated quotes are kept and counted in ``repeats``; an empty price is an absent side.

    Units: ``ts`` is the collector's stamp, ns, naive stamps as UTC; prices and sizes 1e-9, read
        from decimal text (scientific too) without a float.
    Shape: a row out for each line in.
    Errors: RecordingError with line, value and rule for a line that is not a sound quote, lies off
        the instrument's steps, belongs to another market, or goes back in time.
    """

    _columns = CSV_COLUMNS
    _numbers: ClassVar[Mapping[str, str]] = {
        "bid_px": "bid_price", "ask_px": "ask_price", "bid_sz": "bid_size", "ask_sz": "ask_size",
    }  # fmt: skip
    _is_a = "quote"
    _schema: ClassVar[pl.Schema] = pl.Schema({k: v for k, v in QUOTE_SCHEMA.items() if k != "seq"})

    _last: pl.DataFrame | None = None
    _market: str | None = None

    def _begin(self) -> None:
        super()._begin()
        self._last = self._market = None

    def _frame(self, rows: pl.DataFrame) -> pl.DataFrame:
        self._one_market(rows)
        frame = pl.DataFrame(
            {
                "ts": self._instants(rows),
                "ts_event": pl.repeat(None, rows.height, dtype=pl.Int64, eager=True),
                **{name: self._units(rows, name) for name in self._numbers},
                "flags": pl.repeat(0, rows.height, dtype=pl.UInt8, eager=True),
            },
            schema=self._schema,
        )
        frame = self._in_order(frame, rows).with_columns(
            pl.when(pl.col(f"{side}_px").is_not_null())
            .then(pl.col(f"{side}_sz"))
            .alias(f"{side}_sz")
            for side in ("bid", "ask")
        )
        self._count(frame)
        return frame

    def _one_market(self, rows: pl.DataFrame) -> None:
        named = rows.filter(pl.col("market_id").is_not_null())
        if not named.height:
            return
        market = self._market if self._market is not None else named["market_id"][0]
        self._market = market
        self._refuse_first(
            named["market_id"] != market,
            named,
            "market_id",
            f"must be {market!r} as in the lines before; "
            f"a capture holds one market. Split the file by market_id",
        )

    def _count(self, frame: pl.DataFrame) -> None:
        values = frame.select(list(self._numbers))
        before = values.shift(1)
        if self._last is not None:
            before = pl.concat([self._last.select(list(self._numbers)), values[:-1]])
        same = pl.Series([True]).new_from_index(0, values.height)
        for name in self._numbers:
            same &= values[name].eq_missing(before[name])
        # A first row without any side equals the nothing before it, and is no repeat.
        self.repeats += int(same[1:].sum()) if self._last is None else int(same.sum())
        self._last = frame[-1:]


class CsvTrades(_Capture):
    """Public trades in a Lighter capture.

    A line with a ``trade_id`` that came before is left out and counted in ``repeats``: collectors
    are told the last trades again when they reconnect. Lines without an id are all kept.

    Units: ``ts`` and ``ts_event`` are the capture's stamp, which is the venue's, ns, naive stamps
        as UTC; prices and sizes 1e-9, read from decimal text (scientific too) without a float.
    Shape: a row out for each line in but repeats. The ids of the file are held in memory.
    Errors: RecordingError with line, value and rule for a line that is not a sound trade, lies off
        the instrument's steps, or, being no repeat, goes back in time.
    """

    _columns = CSV_TRADE_COLUMNS
    _numbers: ClassVar[Mapping[str, str]] = {"px": "price", "qty": "size"}
    _is_a = "trade"
    _schema: ClassVar[pl.Schema] = pl.Schema({k: v for k, v in TRADES_SCHEMA.items() if k != "seq"})

    def _begin(self) -> None:
        super()._begin()
        self._ids: set[str] = set()

    def _frame(self, rows: pl.DataFrame) -> pl.DataFrame:
        ts = self._instants(rows)
        frame = pl.DataFrame(
            {
                "ts": ts,
                "ts_event": ts,
                **{name: self._positive(rows, name) for name in self._numbers},
                "side": self._sides(rows),
                "trade_id": rows["trade_id"].str.strip_chars(),
            },
            schema=self._schema,
        ).with_columns(pl.col("trade_id").replace("", None))
        # Before their times are looked at: what is told again is older than what came before.
        new = self._first_told(frame["trade_id"])
        self.repeats += int((~new).sum())
        frame, rows = frame.filter(new), rows.filter(new)
        return self._in_order(frame, rows) if frame.height else frame

    def _positive(self, rows: pl.DataFrame, name: str) -> pl.Series:
        units = self._units(rows, name)
        source = self._numbers[name]
        bad = units.fill_null(0) == 0
        self._refuse_first(bad, rows, source, "must be positive; repair or remove the line")
        return units

    def _sides(self, rows: pl.DataFrame) -> pl.Series:
        known: Sequence[str] = list(_SIDES)
        sides = rows["side"].str.strip_chars().str.to_lowercase()
        bad = ~sides.is_in(known)
        if bad.any():
            at = bad.arg_max()
            assert at is not None
            hint = did_you_mean(sides[at], [side for side in known if side])
            self._refuse_first(
                bad, rows, "side",
                f"must be buy or sell (of who took), or empty when not known{hint}; correct it",
            )  # fmt: skip
        return sides.replace_strict(_SIDES, return_dtype=pl.String)

    def _first_told(self, ids: pl.Series) -> pl.Series:
        seen = self._ids
        first: list[bool] = []
        for trade_id in ids:
            first.append(trade_id not in seen)
            if trade_id is not None:
                seen.add(trade_id)
        return pl.Series(first, dtype=pl.Boolean)


def _line_blocks(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield whole lines, in blocks without the last line break."""
    rest = b""
    while block := stream.read(_BLOCK_BYTES):
        block = rest + block
        end = block.rfind(b"\n")
        if end < 0:
            if len(block) >= _BLOCK_BYTES:
                raise RecordingError(
                    f"{path} has no line break in {len(block)} bytes; a capture is a CSV file of "
                    f"short lines. It is of another format"
                )
            rest = block
            continue
        yield block[:end]
        rest = block[end + 1 :]
    if rest:
        yield rest
