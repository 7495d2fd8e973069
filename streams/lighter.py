"""Lighter: quotes of one market from a collector's CSV capture, exactly and in bounded memory.

A capture has the columns ``timestamp,bid_price,bid_size,ask_price,ask_size[,market_id]``, with or
without that header line. **Naive timestamps are taken as UTC**: a capture does not say in which
zone its collector ran, so convert it first if that was another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

import polars as pl

from streams.instrument import UNIT, UNIT_DECIMALS, Instrument, format_units, to_units
from streams.recording import QUOTE_SCHEMA, RecordingError

__all__ = ["CSV_COLUMNS", "CsvQuotes"]

CSV_COLUMNS: Final = (
    "timestamp", "bid_price", "bid_size", "ask_price", "ask_size", "market_id",
)  # fmt: skip
"""Columns of a capture, in order; rows may lack ``market_id``."""

_BLOCK_BYTES: Final = 4 << 20
_SCHEMA: Final = pl.Schema({k: v for k, v in QUOTE_SCHEMA.items() if k != "seq"})
_NUMBERS: Final = {
    "bid_px": "bid_price", "ask_px": "ask_price", "bid_sz": "bid_size", "ask_sz": "ask_size",
}  # fmt: skip
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


class CsvQuotes:
    """Quotes in a Lighter BBO capture.

    Repeated quotes are kept and counted in ``repeats``; an empty price is an absent side.

    Units: ``ts`` is the collector's stamp, ns, naive stamps as UTC; prices and sizes 1e-9, read
        from decimal text (scientific too) without a float.
    Shape: a row out for each line in.
    Errors: RecordingError with line, value and rule for a line that is not a sound quote, lies off
        the instrument's steps, belongs to another market, or goes back in time.
    """

    def __init__(self, path: Path, instrument: Instrument, max_back_ns: int = MAX_BACK_NS) -> None:
        """Name the file, and how far its clock may step back (it then stands still instead)."""
        self.path = path
        self.rows = 0
        """Rows read so far, all of them kept."""
        self.repeats = 0
        """Rows whose prices and sizes are those of the row before."""
        self.clamped = 0
        """Rows that went back by at most ``max_back_ns`` and took the time of the row before."""
        self._instrument = instrument
        self._max_back_ns = max_back_ns
        self._last: pl.DataFrame | None = None
        self._market: str | None = None

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the quotes in frames, a block of the file at a time."""
        self.rows = self.repeats = self.clamped = 0
        self._last = self._market = None
        try:
            with self.path.open("rb") as stream:
                line = 1
                for block in _line_blocks(stream, self.path):
                    texts = self._decoded(block, line).split("\n")
                    yield from self._quotes(texts, line)
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

    def _quotes(self, texts: list[str], line: int) -> Iterator[pl.DataFrame]:
        rows = pl.DataFrame({"text": texts}, schema={"text": pl.String}).with_row_index(
            "line", line
        )
        if line == 1 and _is_header(texts[0], self.path):
            rows = rows[1:]
        rows = rows.filter(pl.col("text") != "")
        if not rows.height:
            return
        rows = self._split(rows)
        self._one_market(rows)
        frame = pl.DataFrame(
            {
                "ts": self._instants(rows),
                "ts_event": pl.repeat(None, rows.height, dtype=pl.Int64, eager=True),
                **{name: self._units(rows, name) for name in _NUMBERS},
                "flags": pl.repeat(0, rows.height, dtype=pl.UInt8, eager=True),
            },
            schema=_SCHEMA,
        )
        frame = self._in_order(frame, rows).with_columns(
            pl.when(pl.col(f"{side}_px").is_not_null())
            .then(pl.col(f"{side}_sz"))
            .alias(f"{side}_sz")
            for side in ("bid", "ask")
        )
        self._count(frame)
        yield frame

    def _split(self, rows: pl.DataFrame) -> pl.DataFrame:
        fields = pl.col("text").str.split(",")
        width = rows.select(fields.list.len().alias("n"))["n"]
        self._refuse_first(
            (width < len(CSV_COLUMNS) - 1) | (width > len(CSV_COLUMNS)),
            rows,
            "text",
            f"must have the fields {','.join(CSV_COLUMNS[:-1])} and may have {CSV_COLUMNS[-1]}; "
            f"repair or remove the line",
        )
        parts = fields.list.to_struct(fields=list(CSV_COLUMNS))
        return rows.select("line", "text", parts.alias("fields")).unnest("fields")

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
        source = _NUMBERS[name]
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
        last = ts[0] if self._last is None else max(ts[0], self._last["ts"][0])
        highest = ts.cum_max().clip(lower_bound=last)
        back = highest - ts
        wrong = back > self._max_back_ns
        if wrong.any():
            at = wrong.arg_max()
            assert at is not None
            self._refuse_back(rows, at, int(back[at]), int(highest[at]))
        self.clamped += int((back > 0).sum())
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

    def _count(self, frame: pl.DataFrame) -> None:
        values = frame.select(list(_NUMBERS))
        before = values.shift(1)
        if self._last is not None:
            before = pl.concat([self._last.select(list(_NUMBERS)), values[:-1]])
        same = pl.Series([True]).new_from_index(0, values.height)
        for name in _NUMBERS:
            same &= values[name].eq_missing(before[name])
        # A first row without any side equals the nothing before it, and is no repeat.
        self.repeats += int(same[1:].sum()) if self._last is None else int(same.sum())
        self.rows += frame.height
        self._last = frame[-1:]

    def _refuse_first(self, bad: pl.Series, rows: pl.DataFrame, source: str, rule: str) -> None:
        if bad.any():
            at = bad.fill_null(False).arg_max()
            assert at is not None
            what = "the line" if source == "text" else source
            self._refuse(rows, at, f"{what} is {rows[source][at]!r}, {rule}")

    def _refuse(self, rows: pl.DataFrame, at: int, what: str) -> NoReturn:
        raise RecordingError(f"{self.path}: line {rows['line'][at]}: {what}")


def _is_header(text: str, path: Path) -> bool:
    names = [name.strip() for name in text.split(",")]
    if names[0][:1].isdigit():
        return False
    if tuple(names) in (CSV_COLUMNS, CSV_COLUMNS[:-1]):
        return True
    raise RecordingError(
        f"{path}: line 1 is {text[:100]!r}, must be a quote or the header "
        f"{','.join(CSV_COLUMNS[:-1])}[,{CSV_COLUMNS[-1]}]; reorder or rename the columns"
    )


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
