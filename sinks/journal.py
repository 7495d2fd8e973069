"""The journal: what a run did, written as it happens.

``decisions``, ``orders``, ``fills`` and ``account`` go to Parquet files beside the inputs; the
digest over decisions and orders is the same for every batch size, engine and Parquet writer.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, Final

import polars as pl
from msgspec.structs import astuple

from sinks.orders import FINAL_STATES, REMEMBERED, STATUS, Order
from streams.events import SIDE_NAMES, AccountEvent, Decision, OrderUpdate
from streams.instrument import marked_pnl
from streams.recording import ACCOUNT_SCHEMA, FileEntry, FrameWriter, NewWriter

__all__ = ["DECISIONS_SCHEMA", "FILLS_SCHEMA", "ORDERS_SCHEMA", "Digest", "Journal", "Ledger"]

ORDERS_SCHEMA: Final = pl.Schema(
    {
        "n": pl.Int64(),
        "ts": pl.Int64(),
        "side": pl.String(),
        "type": pl.String(),
        "px": pl.Int64(),
        "qty": pl.Int64(),
        "status": pl.String(),
        "filled": pl.Int64(),
        "ts_last": pl.Int64(),
    }
)

FILLS_SCHEMA: Final = pl.Schema(
    {
        "n": pl.Int64(),
        "ts": pl.Int64(),
        "side": pl.String(),
        "px": pl.Int64(),
        "qty": pl.Int64(),
        "liquidity": pl.String(),
        "fee": pl.Int64(),
    }
)

_COLUMN_TYPES: Final[dict[str, pl.DataType]] = {
    "action": pl.String(), "reason": pl.String(), "bid_note": pl.String(), "ask_note": pl.String(),
    **{
        name: pl.Float64()
        for name in (
            "signal_mid", "baseline", "residual", "target_mid", "anchor", "signal_shift",
            "inventory_shift", "shift", "half_spread", "bid", "ask", "refused_value",
            "refused_limit", "threshold_bps",
        )
    },
    **{name: pl.UInt64() for name in ("seq", "signal_seq", "target_seq")},
}  # fmt: skip

DECISIONS_SCHEMA: Final = pl.Schema(
    {name: _COLUMN_TYPES.get(name, pl.Int64()) for name in Decision.__struct_fields__}
)
"""``decisions.parquet``: the fields of ``streams.events.Decision``, in their order."""

_FLUSH_ROWS: Final = 16_384
_SIDES: Final = {name: side for side, name in SIDE_NAMES.items()}


class Digest:
    """A sha256 over the values of a table, column by column: independent of batches and files."""

    def __init__(self, schema: pl.Schema) -> None:
        """Cover the columns of ``schema``."""
        self._columns = {name: (hashlib.sha256(), hashlib.sha256()) for name in schema}

    def update(self, batch: pl.DataFrame) -> None:
        """Take in the next rows."""
        for name, (nulls, values) in self._columns.items():
            series = batch[name]
            nulls.update(series.is_null().to_numpy().tobytes())
            if series.dtype == pl.String:
                texts = series.fill_null("")
                values.update("".join(f"{len(text)}:{text}" for text in texts).encode())
            else:
                values.update(series.fill_null(0).to_numpy().tobytes())

    def hexdigest(self) -> str:
        """The digest so far."""
        whole = hashlib.sha256()
        for name, (nulls, values) in self._columns.items():
            whole.update(f"{name}:{nulls.hexdigest()}:{values.hexdigest()}\n".encode())
        return whole.hexdigest()


class Ledger:
    """Cash, position and fees by fills, exact: every amount is an integer."""

    def __init__(self) -> None:
        """Start flat."""
        self.position = 0
        """1e-9 base units."""
        self.cash = 0
        """Money received minus paid for fills, 1e-18 quote currency; fees are apart."""
        self.cost = 0
        """What the open position cost at its average price, signed like it, 1e-18."""
        self.realised = 0
        """Profit of what was closed against its average cost, before fees, 1e-18."""
        self.fees = 0
        """Fees paid, 1e-9 quote currency."""
        self.fills: Counter[str] = Counter()
        """Number of fills by side and liquidity."""
        self.bought = 0
        self.sold = 0
        self.max_long = 0
        self.max_short = 0

    def take(self, side: int, px: int, qty: int, fee: int, liquidity: str | None) -> None:
        """Book one fill: what it closes is realised at average cost, what it opens is cost."""
        closed = min(qty, abs(self.position)) if side * self.position < 0 else 0
        if closed:
            # The rounding of the share stays in the cost, so that nothing is lost over time.
            share = self.cost * closed // abs(self.position)
            self.realised += -side * px * closed - share
            self.cost -= share
        self.cost += side * px * (qty - closed)
        self.position += side * qty
        self.cash -= side * px * qty
        self.fees += fee
        self.fills[f"{SIDE_NAMES[side]} {liquidity}"] += 1
        if side > 0:
            self.bought += qty
        else:
            self.sold += qty
        self.max_long = max(self.max_long, self.position)
        self.max_short = min(self.max_short, self.position)

    def adopt(self, update: OrderUpdate) -> None:
        """Take over a position at its worth: neither a fill nor a profit."""
        px = update.fill_px or 0
        self.position += update.side * update.filled
        self.cash -= update.side * px * update.filled
        self.cost += update.side * px * update.filled

    def unrealised(self, mark: int | None) -> int:
        """Profit of the open position at ``mark`` against its cost, 1e-18; 0 without a mark."""
        return 0 if mark is None else self.position * mark - self.cost

    def pnl(self, mark: int | None) -> int:
        """Profit after fees with the position valued at ``mark`` (1e-9), in 1e-9 quote currency.

        Rounded down. With a position a mark is needed; without one the value is left out.
        """
        if mark is None:
            return marked_pnl(self.cash, self.fees, 0, 0)
        return marked_pnl(self.cash, self.fees, self.position, mark)


class _Table:
    """Rows of one table, buffered and flushed in batches of columns."""

    def __init__(
        self,
        folder: Path,
        name: str,
        schema: pl.Schema,
        writer: NewWriter,
        *,
        digest: bool = False,
    ) -> None:
        self._schema = schema
        self._writer = writer(folder, name, schema)
        self._rows: list[tuple[Any, ...]] = []
        self.digest = Digest(schema) if digest else None

    def add(self, row: tuple[Any, ...]) -> None:
        self._rows.append(row)
        if len(self._rows) >= _FLUSH_ROWS:
            self.flush()

    def append(self, batch: pl.DataFrame) -> None:
        """Add rows that are in columns already, in the schema's order."""
        self.flush()
        if self.digest is not None:
            self.digest.update(batch)
        self._writer.append(batch)

    def flush(self) -> None:
        if not self._rows:
            return
        columns = zip(*self._rows, strict=True)
        batch = pl.DataFrame(
            [
                pl.Series(name, values, dtype=dtype, strict=True)
                for (name, dtype), values in zip(self._schema.items(), columns, strict=True)
            ]
        )
        self._rows.clear()
        self.append(batch)

    def close(self) -> FileEntry:
        self.flush()
        return self._writer.close()


class Journal:
    """Writes what the graph, the sink and the venue did."""

    def __init__(
        self,
        folder: Path,
        *,
        account: bool = True,
        writer: NewWriter = FrameWriter,
    ) -> None:
        """Write into ``folder``; without ``account`` the venue's answers are recorded elsewhere.

        ``writer`` writes the tables; the usual one loses nothing when the process is killed.
        """
        self.ledger = Ledger()
        self.counts: Counter[str] = Counter()
        """Decisions by action, orders by status."""
        self.reasons: Counter[str] = Counter()
        """Withdrawals, refusals and holds by reason."""
        self.unmoved = 0
        """Evaluations that changed nothing, so far as decisions told."""
        self._decisions = _Table(folder, "decisions", DECISIONS_SCHEMA, writer, digest=True)
        self._orders = _Table(folder, "orders", ORDERS_SCHEMA, writer, digest=True)
        self._fills = _Table(folder, "fills", FILLS_SCHEMA, writer)
        self._account = _Table(folder, "account", ACCOUNT_SCHEMA, writer) if account else None
        self._pending: dict[int, Order] = {}

    def decision(self, decision: Decision) -> None:
        """Log a decision or refusal."""
        self.counts[decision.action] += 1
        self.unmoved += decision.unmoved
        if decision.reason:
            self.reasons[f"{decision.action}: {decision.reason}"] += 1
        self._decisions.add(astuple(decision))

    def order(self, order: Order) -> None:
        """Follow a new order; its row is written once it and all before it are past late fills.

        That is after ``REMEMBERED`` newer orders; what is told even later is in ``fills`` only.
        """
        self._pending[order.n] = order
        if len(self._pending) >= REMEMBERED + _FLUSH_ROWS:
            self._write_finished(keep=REMEMBERED)

    def fill(self, order: Order, event: AccountEvent) -> None:
        """Log a fill that was counted."""
        assert event.px is not None
        assert event.qty is not None
        fee = event.fee or 0
        self.ledger.take(order.side, event.px, event.qty, fee, event.liquidity)
        self._fills.add(
            (order.n, event.ts, SIDE_NAMES[order.side], event.px, event.qty, event.liquidity, fee)
        )

    def account(self, event: AccountEvent) -> None:
        """Log an answer of the venue: an input."""
        if self._account is not None:
            self._account.add(astuple(event))

    def append(
        self, *, decisions: pl.DataFrame, orders: pl.DataFrame, fills: pl.DataFrame,
        account: pl.DataFrame,
    ) -> None:  # fmt: skip
        """Log what an engine has in columns already; the same as one by one.

        ``orders`` are those that nothing can change any more, by number without a gap.
        """
        for action, n in decisions["action"].value_counts().iter_rows():
            self.counts[action] += n
        self.unmoved += int(decisions["unmoved"].sum())
        told = decisions.filter(pl.col("reason") != "").group_by("action", "reason").len()
        for action, reason, n in told.iter_rows():
            self.reasons[f"{action}: {reason}"] += n
        for status, n in orders["status"].value_counts().iter_rows():
            self.counts[f"orders {status}"] += n
        for _, _, side, px, qty, liquidity, fee in fills.iter_rows():
            self.ledger.take(_SIDES[side], px, qty, fee, liquidity)
        assert self._account is not None
        for table, batch in (
            (self._decisions, decisions), (self._orders, orders), (self._fills, fills),
            (self._account, account),
        ):  # fmt: skip
            if batch.height:
                table.append(batch)

    def flush(self) -> None:
        """Put on disk what is buffered, so that it outlives the process.

        Neither the digest nor the files at the end depend on when, or how often. An order has a row
        only once it and all before it are past late fills, or at the end.
        """
        for table in (self._account, self._decisions, self._orders, self._fills):
            if table is not None:
                table.flush()

    def close(self) -> dict[str, FileEntry]:
        """Finish all tables; orders that still work are written as OPEN."""
        self._write_finished()
        tables = {
            "account": self._account,
            "decisions": self._decisions,
            "orders": self._orders,
            "fills": self._fills,
        }
        return {name: table.close() for name, table in tables.items() if table is not None}

    def digest(self) -> str:
        """The sha256 over decisions and orders; call it after ``close``."""
        assert self._decisions.digest is not None
        assert self._orders.digest is not None
        decisions, orders = self._decisions.digest.hexdigest(), self._orders.digest.hexdigest()
        return hashlib.sha256(f"decisions:{decisions}\norders:{orders}\n".encode()).hexdigest()

    def _write_finished(self, *, keep: int = 0) -> None:
        for n, order in list(self._pending.items()):
            if keep and (len(self._pending) <= keep or order.state not in FINAL_STATES):
                break
            del self._pending[n]
            status = STATUS[order.state]
            self.counts[f"orders {status}"] += 1
            self._orders.add(
                (
                    n, order.ts, SIDE_NAMES[order.side], "MARKET" if order.px is None else "LIMIT",
                    order.px, order.qty, status, order.filled, order.ts_last,
                )
            )  # fmt: skip
