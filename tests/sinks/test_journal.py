"""The journal: rows in order, a digest of values alone, and money in whole numbers."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sinks.journal import (
    DECISIONS_SCHEMA,
    FILLS_SCHEMA,
    ORDERS_SCHEMA,
    Digest,
    Journal,
    Ledger,
)
from sinks.orders import Orders
from streams.events import BUY, SELL, AccountEvent, AccountKind, Decision
from streams.instrument import UNIT
from streams.recording import ACCOUNT_SCHEMA

PX = 207_100_000_000
INT, TEXT, FLOAT, COUNT = pl.Int64(), pl.String(), pl.Float64(), pl.UInt64()

ORDERS: dict[str, pl.DataType] = {
    "n": INT, "ts": INT, "side": TEXT, "type": TEXT, "px": INT, "qty": INT, "status": TEXT,
    "filled": INT, "ts_last": INT,
}  # fmt: skip
FILLS: dict[str, pl.DataType] = {
    "n": INT, "ts": INT, "side": TEXT, "px": INT, "qty": INT, "liquidity": TEXT, "fee": INT,
}  # fmt: skip
ACCOUNT: dict[str, pl.DataType] = {
    "seq": COUNT, "ts": INT, "kind": TEXT, "n": INT, "venue_id": TEXT, "px": INT, "qty": INT,
    "fee": INT, "liquidity": TEXT, "reason": TEXT, "quota_left": INT,
}  # fmt: skip
DECISIONS: dict[str, pl.DataType] = {
    "seq": COUNT, "ts": INT, "action": TEXT, "reason": TEXT,
    "signal_seq": COUNT, "signal_ts": INT, "signal_mid": FLOAT, "baseline": FLOAT,
    "residual": FLOAT, "target_seq": COUNT, "target_ts": INT, "target_mid": FLOAT,
    "target_bid_px": INT, "target_ask_px": INT, "anchor": FLOAT, "position": INT,
    "signal_shift": FLOAT, "inventory_shift": FLOAT, "shift": FLOAT,
    "half_spread": FLOAT, "bid": FLOAT, "ask": FLOAT, "bid_px": INT, "ask_px": INT,
    "bid_levels": INT, "ask_levels": INT, "level_step": INT, "qty": INT,
    "bid_note": TEXT, "ask_note": TEXT, "refused_bid_px": INT, "refused_ask_px": INT,
    "refused_bid_sz": INT, "refused_ask_sz": INT, "refused_value": FLOAT,
    "refused_limit": FLOAT, "threshold_bps": FLOAT, "unmoved": INT,
}  # fmt: skip
TABLES = {"orders": ORDERS, "fills": FILLS, "account": ACCOUNT, "decisions": DECISIONS}


class Book:
    """Orders and their journal, wired as a run wires them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.journal = Journal(folder)
        self.orders = Orders()

    def create(self, ts: int, side: int = BUY, px: int | None = PX, qty: int = 100) -> int:
        order, _ = self.orders.create(ts, side, px, qty)
        self.journal.order(order)
        return order.n

    def told(self, ts: int, kind: AccountKind, n: int, **values: Any) -> None:
        event = AccountEvent(seq=ts, ts=ts, kind=kind, n=n, **values)
        self.journal.account(event)
        update = self.orders.apply(event)
        if update is not None and update.filled:
            self.journal.fill(self.orders.find(n), event)

    def filled(self, ts: int, n: int, qty: int = 100) -> None:
        self.told(ts, "fill", n, venue_id=f"t{ts}", px=PX, qty=qty, fee=3, liquidity="MAKER")

    def close(self) -> str:
        self.journal.close()
        return self.journal.digest()

    def rows(self, table: str) -> list[dict[str, Any]]:
        return pl.read_parquet(self.folder / f"{table}.parquet").to_dicts()


def decision(ts: int = 1, **values: Any) -> Decision:
    fields: dict[str, Any] = {"seq": ts, "ts": ts, "action": "quote"}
    return Decision(**(fields | values))


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("empty", [True, False])
def test_every_table_has_exactly_its_documented_columns_even_without_a_row(
    tmp_path: Path, table: str, empty: bool
) -> None:
    book = Book(tmp_path)
    if not empty:
        book.journal.decision(decision())
        book.filled(2, book.create(1))

    entries = book.journal.close()

    frame = pl.read_parquet(tmp_path / f"{table}.parquet")
    assert list(frame.schema.items()) == list(TABLES[table].items())
    assert frame.height == entries[table].rows == (0 if empty else 1)
    assert set(entries) == set(TABLES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.parquet" for name in TABLES
    )


def test_the_published_schemas_are_the_documented_ones() -> None:
    published = (ORDERS_SCHEMA, FILLS_SCHEMA, ACCOUNT_SCHEMA, DECISIONS_SCHEMA)

    for schema, documented in zip(published, TABLES.values(), strict=True):
        assert list(schema.items()) == list(documented.items())


@pytest.mark.parametrize("flush_rows", [1, 2, 16_384])
def test_orders_come_in_order_of_their_numbers_with_their_last_state_and_open_if_they_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush_rows: int
) -> None:
    monkeypatch.setattr("sinks.journal._FLUSH_ROWS", flush_rows)
    monkeypatch.setattr("sinks.journal.REMEMBERED", 1)
    book = Book(tmp_path)
    for ts, side in enumerate([BUY, SELL, BUY, SELL, BUY, SELL], start=1):
        book.create(ts, side, PX + ts)
        if ts == 3:  # out of order, while the first order still works
            book.told(11, "expire", 3)
            book.told(12, "cancel", 2)
    book.create(7, SELL, None)
    book.filled(13, 7)
    book.filled(14, 4, 30)
    book.orders.ask_cancel(15, book.orders.find(4))
    book.told(15, "reject", 5)
    book.told(16, "ack", 6)
    book.told(17, "ack", 1)
    book.told(18, "fill", 1, venue_id="x", px=PX, qty=100)

    book.close()

    assert [tuple(row.values()) for row in book.rows("orders")] == [
        (1, 1, "BUY", "LIMIT", PX + 1, 100, "FILLED", 100, 18),
        (2, 2, "SELL", "LIMIT", PX + 2, 100, "CANCELED", 0, 12),
        (3, 3, "BUY", "LIMIT", PX + 3, 100, "EXPIRED", 0, 11),
        (4, 4, "SELL", "LIMIT", PX + 4, 100, "OPEN", 30, 14),
        (5, 5, "BUY", "LIMIT", PX + 5, 100, "REJECTED", 0, 15),
        (6, 6, "SELL", "LIMIT", PX + 6, 100, "OPEN", 0, 16),
        (7, 7, "SELL", "MARKET", None, 100, "FILLED", 100, 13),
    ]
    assert {k: n for k, n in book.journal.counts.items() if k.startswith("orders")} == {
        "orders FILLED": 2, "orders CANCELED": 1, "orders EXPIRED": 1, "orders OPEN": 2,
        "orders REJECTED": 1,
    }  # fmt: skip


def test_an_order_that_nobody_has_answered_is_open_at_close(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.create(5)

    book.close()

    assert book.rows("orders") == [
        {"n": 1, "ts": 5, "side": "BUY", "type": "LIMIT", "px": PX, "qty": 100,
         "status": "OPEN", "filled": 0, "ts_last": 5},
    ]  # fmt: skip


def test_a_fill_is_written_with_its_order_and_booked_and_without_a_fee_it_was_free(
    tmp_path: Path,
) -> None:
    book = Book(tmp_path)
    book.create(1, SELL)
    book.told(2, "fill", 1, venue_id="a", px=PX - 1, qty=60, fee=4, liquidity="MAKER")
    book.told(3, "fill", 1, venue_id="a", px=PX - 1, qty=60, fee=4, liquidity="MAKER")
    book.told(4, "fill", 1, venue_id="b", px=PX + 1, qty=40)

    book.close()

    assert [tuple(row.values()) for row in book.rows("fills")] == [
        (1, 2, "SELL", PX - 1, 60, "MAKER", 4),
        (1, 4, "SELL", PX + 1, 40, None, 0),
    ]
    assert [row["venue_id"] for row in book.rows("account")] == ["a", "a", "b"]
    assert book.journal.ledger.position == -100
    assert book.journal.ledger.cash == (PX - 1) * 60 + (PX + 1) * 40
    assert book.journal.ledger.fees == 4
    assert book.journal.ledger.fills == {"SELL MAKER": 1, "SELL None": 1}


def test_decisions_and_answers_are_written_value_by_value(tmp_path: Path) -> None:
    book = Book(tmp_path)
    made = [
        decision(7, residual=-1e-4, bid_px=0, reason="", bid_note="limit"),
        decision(8, action="refuse", reason="no bid", refused_ask_sz=2**63 - 1, unmoved=3),
    ]
    said = AccountEvent(seq=2**63, ts=5, kind="reject", n=None, reason="é, 価格\x1f", quota_left=0)
    for each in made:
        book.journal.decision(each)
    book.journal.account(said)

    book.close()

    assert [Decision(**row) for row in book.rows("decisions")] == made
    assert [AccountEvent(**row) for row in book.rows("account")] == [said]
    assert book.journal.counts == {"quote": 1, "refuse": 1}
    assert book.journal.reasons == {"refuse: no bid": 1}
    assert book.journal.unmoved == 3


# ---------------------------------------------------------------- the digest


def _session(folder: Path, seed: int) -> Book:
    source = random.Random(seed)
    book = Book(folder)
    for ts in range(1, 150):
        values = {
            "residual": source.choice((None, 0.0, -0.0, source.random())),
            "bid_px": source.choice((None, 0, source.randrange(2**62))),
            "bid_note": source.choice((None, "", "limit", "é\x1f")),
            "reason": source.choice(("", "moved")),
        }
        book.journal.decision(decision(ts, **values))
        if source.random() < 0.5:
            book.create(ts, source.choice((BUY, SELL)), source.choice((None, PX)))
        if book.orders.working and source.random() < 0.5:
            n = source.choice(list(book.orders.working))
            if source.random() < 0.5:
                book.filled(ts, n, source.choice((30, 100)))
            else:
                book.told(ts, source.choice(("cancel", "reject", "expire")), n)
    return book


@pytest.mark.parametrize("seed", range(3))
def test_the_digest_and_all_tables_are_the_same_however_often_rows_are_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("sinks.journal.REMEMBERED", 3)
    digests, tables = set(), []
    for flush_rows in (1, 2, 7, 16_384):
        monkeypatch.setattr("sinks.journal._FLUSH_ROWS", flush_rows)
        book = _session(tmp_path / str(flush_rows), seed)
        digests.add(book.close())
        tables.append({name: book.rows(name) for name in TABLES})

    assert len(digests) == 1
    assert all(each == tables[0] for each in tables)
    assert len(tables[0]["orders"]) == book.orders.created > 50
    assert [row["n"] for row in tables[0]["orders"]] == list(range(1, book.orders.created + 1))


def test_a_late_fill_is_in_the_order_s_row_however_often_rows_are_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = []
    for flush_rows in (16_384, 1):
        monkeypatch.setattr("sinks.journal._FLUSH_ROWS", flush_rows)
        book = Book(tmp_path / str(flush_rows))
        book.create(1)
        book.told(2, "cancel", 1)
        book.create(3)
        book.filled(4, 1, 30)  # told after the cancel of the same order
        book.close()
        filled.append(book.rows("orders")[0]["filled"])

    assert filled == [30, 30]


def test_a_late_fill_is_in_the_row_as_long_as_the_order_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.journal._FLUSH_ROWS", 1)
    monkeypatch.setattr("sinks.journal.REMEMBERED", 2)
    book = Book(tmp_path)
    for n in (1, 2):
        book.create(n)
        book.told(n, "cancel", n)
    book.create(3)  # the first row is written now; the second order may still fill

    book.filled(5, 2, 30)
    book.close()

    assert [row["filled"] for row in book.rows("orders")] == [0, 30, 0]


def _other(value: Any) -> list[Any]:
    """Values that a column may hold beside this one, the nearest misses first."""
    if value is None:
        return []
    if isinstance(value, str):
        return [f"{value} ", f"{value}\x1f", value.swapcase(), "" if value else "x"]
    if isinstance(value, float):
        return [-value, value + 1e-12, 0.0, 1.0]
    return [value + 1, value ^ 2**40, 0, 1]


FULL = Decision(
    seq=5, ts=6, action="quote", reason="moved", signal_seq=3, signal_ts=4, signal_mid=207.5,
    baseline=207.25, residual=0.0012, target_seq=5, target_ts=6, target_mid=207.125,
    target_bid_px=PX - 5, target_ask_px=PX + 5, anchor=207.13, position=-50,
    signal_shift=0.066, inventory_shift=-0.025, shift=0.091,
    half_spread=0.062, bid=207.16, ask=207.28, bid_px=PX, ask_px=PX + 1,
    bid_levels=2, ask_levels=3, level_step=10, qty=50,
    bid_note="capped", ask_note="dropped", refused_bid_px=1, refused_ask_px=2, refused_bid_sz=3,
    refused_ask_sz=4, refused_value=61.5, refused_limit=60.0, threshold_bps=7.5, unmoved=9,
)  # fmt: skip
ALWAYS = {
    "seq", "ts", "action", "reason", "bid_levels", "ask_levels", "level_step", "unmoved",
}  # fmt: skip
NULLABLE = [name for name in DECISIONS if name not in ALWAYS]


def _digest_of(folder: Path, decisions: list[Decision]) -> str:
    folder.mkdir()
    journal = Journal(folder)
    for each in decisions:
        journal.decision(each)
    journal.close()
    return journal.digest()


@pytest.mark.parametrize("field", DECISIONS)
def test_the_digest_changes_with_any_single_value_of_a_decision(tmp_path: Path, field: str) -> None:
    value = getattr(FULL, field)
    variants = [value, *(v for v in _other(value) if v != value)]
    if field in NULLABLE:
        variants.append(None)
    digests = {
        _digest_of(
            tmp_path / f"{row}-{i}",
            [replace(FULL, **{field: v}) if at == row else FULL for at in range(3)],
        )
        for row in range(3)
        for i, v in enumerate(variants)
    }

    # All rows unchanged gives one digest for all three; every change gives one of its own.
    assert len(digests) == 1 + 3 * (len(variants) - 1)


@pytest.mark.parametrize("field", NULLABLE)
def test_the_digest_tells_nothing_from_zero_and_from_an_empty_text(
    tmp_path: Path, field: str
) -> None:
    zero = "" if isinstance(getattr(FULL, field), str) else type(getattr(FULL, field))(0)

    absent = _digest_of(tmp_path / "absent", [replace(FULL, **{field: None})])
    empty = _digest_of(tmp_path / "empty", [replace(FULL, **{field: zero})])

    assert absent != empty


@pytest.mark.parametrize(
    "change",
    [
        lambda book: book.create(2, SELL),
        lambda book: book.create(3, BUY),
        lambda book: book.create(2, BUY, PX + 1),
        lambda book: book.create(2, BUY, None),
        lambda book: book.create(2, BUY, PX, 101),
        lambda book: book.create(2, BUY) and book.told(2, "cancel", 2),
        lambda book: book.create(2, BUY) and book.told(2, "reject", 2),
        lambda book: book.create(2, BUY) and book.told(2, "expire", 2),
        lambda book: book.create(2, BUY) and book.told(3, "ack", 2),
        lambda book: book.create(2, BUY) and book.filled(2, 2, 1),
        lambda book: book.create(2, BUY) and book.filled(2, 2, 100),
        lambda book: book.create(2, BUY) and book.filled(2, 1, 1),
        lambda book: None,
        lambda book: book.create(2, BUY) and book.create(2, BUY),
    ],
)
def test_the_digest_changes_with_any_difference_in_an_order(
    tmp_path: Path, change: Callable[[Book], object]
) -> None:
    usual, other = Book(tmp_path / "usual"), Book(tmp_path / "other")
    usual.create(1)
    other.create(1)
    usual.create(2)
    change(other)

    assert usual.close() != other.close()


def test_the_digest_covers_orders_and_decisions_and_not_what_the_venue_called_things(
    tmp_path: Path,
) -> None:
    one, two = Book(tmp_path / "one"), Book(tmp_path / "two")
    for book, id in ((one, "a"), (two, "b")):
        book.create(1)
        book.told(2, "fill", 1, venue_id=id, px=PX, qty=100)

    assert one.close() == two.close()


def test_the_digest_of_an_empty_run_differs_from_that_of_any_row(tmp_path: Path) -> None:
    assert _digest_of(tmp_path / "none", []) != _digest_of(tmp_path / "one", [decision(0)])


WIDE = pl.Schema({"count": pl.UInt64(), "whole": pl.Int64(), "real": pl.Float64(), "text": TEXT})
ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(0, 2**64 - 1),
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(allow_nan=False),
        st.none() | st.text(st.sampled_from("ab\x1f\x00é"), max_size=3),
    ),
    min_size=1,
    max_size=8,
)


def _hash(rows: list[tuple[Any, ...]], *cuts: int) -> str:
    digest = Digest(WIDE)
    for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        digest.update(pl.DataFrame(rows[start:stop], schema=WIDE, orient="row"))
    return digest.hexdigest()


@hypothesis_settings(max_examples=200, deadline=None, derandomize=True)
@given(ROWS, st.data())
def test_the_digest_of_random_rows_ignores_batches_and_sees_each_single_change(
    rows: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    whole = _hash(rows)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    assert _hash(rows, *cuts) == whole

    at, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 3))
    other = data.draw(ROWS)[0][column]
    changed = list(rows)
    changed[at] = (*rows[at][:column], other, *rows[at][column + 1 :])
    same = repr(other) == repr(rows[at][column])  # repr tells -0.0 from 0.0 and from None
    assert (_hash(changed) == whole) == same


def test_the_digest_tells_texts_apart_that_hold_the_separator() -> None:
    one = [(0, 0, 0.0, "a\x1fb"), (0, 0, 0.0, "c")]
    two = [(0, 0, 0.0, "a"), (0, 0, 0.0, "b\x1fc")]

    assert _hash(one) != _hash(two)


# ---------------------------------------------------------------- the ledger


def test_a_round_trip_earns_the_difference_less_the_fees() -> None:
    ledger = Ledger()

    ledger.take(BUY, 100 * UNIT, 2 * UNIT, 7, "MAKER")
    ledger.take(SELL, 101 * UNIT, 2 * UNIT, 8, "TAKER")

    assert (ledger.position, ledger.cash, ledger.fees) == (0, 2 * UNIT * UNIT, 15)
    assert ledger.pnl(None) == ledger.pnl(5 * UNIT) == 2 * UNIT - 15
    assert (ledger.bought, ledger.sold) == (2 * UNIT, 2 * UNIT)
    assert (ledger.max_long, ledger.max_short) == (2 * UNIT, 0)
    assert ledger.fills == {"BUY MAKER": 1, "SELL TAKER": 1}


def test_an_open_position_is_valued_at_the_mark() -> None:
    ledger = Ledger()

    ledger.take(SELL, 100 * UNIT, 3 * UNIT, 0, "MAKER")

    assert (ledger.position, ledger.max_long, ledger.max_short) == (-3 * UNIT, 0, -3 * UNIT)
    assert ledger.pnl(99 * UNIT) == 3 * UNIT
    assert ledger.pnl(101 * UNIT) == -3 * UNIT
    assert ledger.pnl(0) == ledger.pnl(None) == 300 * UNIT


@pytest.mark.parametrize(("side", "pnl"), [(SELL, 0), (BUY, -1)])
def test_profit_is_rounded_down_and_never_in_our_favour(side: int, pnl: int) -> None:
    ledger = Ledger()

    ledger.take(side, 1, 1, 0, None)  # 1e-18 of money

    assert ledger.pnl(None) == pnl


FILL = st.tuples(
    st.sampled_from((BUY, SELL)),
    st.integers(1, 2**63 - 1),
    st.integers(1, 2**63 - 1),
    st.integers(-(2**40), 2**63 - 1),
    st.sampled_from(("MAKER", "TAKER")),
)


@hypothesis_settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(FILL, max_size=12), st.integers(0, 2**63 - 1))
def test_the_ledger_is_exact_for_all_amounts_that_fit_64_bits(
    fills: list[tuple[int, int, int, int, str]], mark: int
) -> None:
    ledger = Ledger()
    for one in fills:
        ledger.take(*one)

    held = [0]
    for side, _, qty, _, _ in fills:
        held.append(held[-1] + side * qty)
    assert ledger.position == held[-1] == ledger.bought - ledger.sold
    assert (ledger.max_long, ledger.max_short) == (max(held), min(held))
    gain = sum(side * qty * (mark - px) for side, px, qty, _, _ in fills)  # 1e-18
    assert ledger.fees == sum(fee for *_, fee, _ in fills)
    assert ledger.pnl(mark) == gain // 10**18 * UNIT + gain % 10**18 // UNIT - ledger.fees
    assert sum(ledger.fills.values()) == len(fills)
    for side, name in ((BUY, "BUY"), (SELL, "SELL")):
        for how in ("MAKER", "TAKER"):
            count = sum(one[0] == side and one[4] == how for one in fills)
            assert ledger.fills[f"{name} {how}"] == count


def test_what_is_closed_is_realised_at_average_cost_and_the_rest_is_valued() -> None:
    ledger = Ledger()
    ledger.take(BUY, 100 * UNIT, UNIT, 0, "MAKER")
    ledger.take(BUY, 102 * UNIT, UNIT, 0, "MAKER")  # two at 101 on average
    ledger.take(SELL, 104 * UNIT, UNIT, 0, "MAKER")

    assert ledger.realised == 3 * UNIT * UNIT
    assert ledger.unrealised(105 * UNIT) == 4 * UNIT * UNIT

    ledger.take(SELL, 99 * UNIT, 2 * UNIT, 0, "MAKER")  # closes one at a loss of 2, opens a short

    assert ledger.realised == 1 * UNIT * UNIT
    assert ledger.position == -UNIT
    assert ledger.unrealised(98 * UNIT) == 1 * UNIT * UNIT
    assert ledger.pnl(98 * UNIT) == 2 * UNIT
    assert ledger.unrealised(None) == 0
