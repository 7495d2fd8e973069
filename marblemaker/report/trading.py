"""Trading: fills, position and money, requests against the budget, and the venue's answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from msgspec import Struct

from marblemaker.markouts import markouts
from marblemaker.report.feeds import latency_table
from marblemaker.report.grid import Grid, Series, thin
from operators.budget import MINUTE_NS, Budget, BudgetLimits
from sinks.journal import Ledger
from sinks.orders import ADOPTED, FILLED
from streams.events import BUY, SELL, OrderUpdate
from streams.instrument import UNIT, format_units

__all__ = ["Answers", "Requests", "Traded", "read_answers", "read_requests", "read_traded"]

MAX_FILLS: Final = 20_000
_SIDES: Final = {"BUY": BUY, "SELL": SELL}


class Traded(Struct):
    """What was traded, by the fills."""

    fills: pl.DataFrame
    """Rows of ``fills.parquet`` that are shown."""
    total: int
    position: Series
    """After each fill, base units."""
    money: dict[str, str]
    """``bought``, ``sold``, ``position`` …, ``pnl`` as decimal texts, exact."""
    markouts: dict[str, dict[str, Any]]


def read_traded(run: Path, first: int, mark: int | None) -> Traded:
    """Go through the fills with the same ledger as the run did.

    ``first``: when the run began; ``mark``: what its position is worth, 1e-9.
    """
    fills = pl.read_parquet(run / "fills.parquet")
    ledger = Ledger()
    ts, held = [first], [0.0]
    for row in _booked(fills, _adopted(run / "account.parquet")):
        if row["adopted"]:
            _adopt(ledger, row["ts"], row["qty"], row["px"])
        else:
            ledger.take(_SIDES[row["side"]], row["px"], row["qty"], row["fee"], row["liquidity"])
        ts.append(row["ts"])
        held.append(ledger.position / UNIT)
    position = Series(np.array(ts, dtype=np.int64), np.array(held))
    step = -(-fills.height // MAX_FILLS)
    return Traded(
        fills=fills.gather_every(step) if step > 1 else fills,
        total=fills.height,
        position=position,
        money=_money(ledger, mark),
        markouts=markouts(run) if (run / "target.parquet").is_file() else {},
    )


def _booked(fills: pl.DataFrame, adopted: pl.DataFrame) -> list[dict[str, Any]]:
    own = fills.with_columns(adopted=pl.lit(False))
    whole = pl.concat([adopted, own], how="diagonal") if adopted.height else own
    return whole.sort("ts", maintain_order=True).to_dicts()


def _adopted(account: Path) -> pl.DataFrame:
    if not account.is_file():
        return pl.DataFrame()
    taken = (pl.col("kind") == "position") & (pl.col("reason") == ADOPTED)
    rows = pl.scan_parquet(account).filter(taken).select("ts", "qty", "px")
    return rows.with_columns(adopted=pl.lit(True)).collect()


def _adopt(ledger: Ledger, ts: int, position: int, px: int | None) -> None:
    change = position - ledger.position
    if change:
        ledger.adopt(
            OrderUpdate(
                ts=ts, n=0, side=BUY if change > 0 else SELL, state=FILLED, leaves=0,
                filled=abs(change), fill_px=px or 0,
            )
        )  # fmt: skip


def _money(ledger: Ledger, mark: int | None) -> dict[str, str]:
    return {
        "bought": format_units(ledger.bought),
        "sold": format_units(ledger.sold),
        "position": format_units(ledger.position),
        "max_long": format_units(ledger.max_long),
        "max_short": format_units(ledger.max_short),
        "mark": "" if mark is None else format_units(mark),
        "fees": format_units(ledger.fees),
        "realised": format_units(ledger.realised // UNIT),
        "unrealised": format_units(ledger.unrealised(mark) // UNIT),
        "pnl": format_units(ledger.pnl(mark)),
    }


# ---------------------------------------------------------------- requests


class Requests(Struct):
    """What was sent to the venue, and what it lets through."""

    last_minute: Series
    """Requests of the 60 s up to each request, that one included; thinned."""
    total: int
    busiest: int
    quota: Series | None
    """Volume quota that was left after each change; ``None`` without a quota."""


def read_requests(orders: Path, limits: BudgetLimits | None, grid: Grid) -> Requests:
    """Count requests by the changes of our orders, ``trace/orders.parquet``, as the budget does."""
    changes = pl.read_parquet(orders)
    before = changes["batch"].cum_max().shift(1, fill_value=0)
    sent = changes.filter(changes["batch"] > before)["ts"].to_numpy()
    counts = np.arange(1, len(sent) + 1) - np.searchsorted(sent, sent - MINUTE_NS, side="right")
    frame = pl.DataFrame({"ts": sent, "n": counts}, schema={"ts": pl.Int64, "n": pl.Int64})
    kept = thin(frame, ["n"], grid) if frame.height > grid.keep else frame
    return Requests(
        last_minute=_falling(kept),
        total=len(sent),
        busiest=int(counts.max()) if len(sent) else 0,
        quota=_quota(changes, limits, grid),
    )


def _falling(frame: pl.DataFrame) -> Series:
    """The counts as steps: after a minute without a request there is none in the last one."""
    ts, n = frame["ts"].to_numpy(), frame["n"].cast(pl.Float64).to_numpy()
    at = np.flatnonzero(np.diff(ts) > MINUTE_NS) + 1
    ts, n = np.insert(ts, at, ts[at - 1] + MINUTE_NS), np.insert(n, at, 0.0)
    if len(ts):
        ts, n = np.append(ts, ts[-1] + MINUTE_NS), np.append(n, 0.0)
    return Series(ts, n)


def _quota(changes: pl.DataFrame, limits: BudgetLimits | None, grid: Grid) -> Series | None:
    if limits is None or limits.volume_quota is None:
        return None
    budget = Budget(limits, grid.first)
    listener = budget.listener()
    ts, left = [grid.first], [limits.volume_quota]
    for row in changes.iter_rows(named=True):
        listener(OrderUpdate(**row))
        if budget.quota_left is not None and budget.quota_left != left[-1]:
            ts.append(row["ts"])
            left.append(budget.quota_left)
    frame = pl.DataFrame({"ts": ts, "left": left})
    kept = thin(frame, ["left"], grid) if frame.height > grid.keep else frame
    return Series(kept["ts"].to_numpy(), kept["left"].cast(pl.Float64).to_numpy())


# ---------------------------------------------------------------- answers


class Answers(Struct):
    """How long the venue took from our order to its ack or reject, ns."""

    table: Mapping[str, float | int | None]
    delay: Series
    """By the time of the order, thinned."""
    rejects: int


def read_answers(run: Path, grid: Grid) -> Answers | None:
    """Match orders with the first answer to each; ``None`` if nothing was answered."""
    account, orders = run / "account.parquet", run / "orders.parquet"
    if not (account.is_file() and orders.is_file()):
        return None
    answered = (
        pl.scan_parquet(account)
        .filter(pl.col("kind").is_in(["ack", "reject"]) & pl.col("n").is_not_null())
        .group_by("n")
        .agg(answered=pl.col("ts").min(), kind=pl.col("kind").first())
    )
    both = (
        pl.scan_parquet(orders)
        .select("n", "ts")
        .join(answered, on="n")
        .select("ts", "kind", delay=pl.col("answered") - pl.col("ts"))
        .sort("ts")
        .collect()
    )
    if not both.height:
        return None
    kept = thin(both, ["delay"], grid) if both.height > grid.keep else both
    return Answers(
        table=latency_table(both.lazy(), pl.col("delay")),
        delay=Series(kept["ts"].to_numpy(), kept["delay"].cast(pl.Float64).to_numpy()),
        rejects=int((both["kind"] == "reject").sum()),
    )
