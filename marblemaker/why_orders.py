"""Our orders around one instant of a run: what worked or was in flight, and what was sent."""

from __future__ import annotations

from typing import Final

import polars as pl
from msgspec import Struct

from marblemaker.why_run import Row, RunFolder
from operators.guards.risk import REJECT_WINDOW_NS
from operators.inventory import voids_last_quote
from streams.events import BUY, Inventory, OrderUpdate

__all__ = [
    "Moment",
    "fate_of",
    "inventory_before",
    "last_fill",
    "resets_between",
    "sent_by",
    "updates_before",
    "working_before",
]

_UPDATES: Final = "trace/orders"
_FIELDS: Final = OrderUpdate.__struct_fields__


class Moment(Struct, frozen=True):
    """When something was evaluated: an input, or a timer between two."""

    seq: int
    """Of the input; for a timer that of the latest quote it was made from."""
    ts: int
    trigger: str | None
    """The feed whose quote it was (``signal``, ``signal_2`` …, ``target``); ``None`` for a timer, a
    command of the operator or a change of our orders."""


def working_before(run: RunFolder, at: Moment) -> list[OrderUpdate]:
    """The latest news of each order that was open or in flight, oldest order first."""
    alive = run.rows(
        "orders",
        (pl.col("ts") <= at.ts) & ((pl.col("status") == "OPEN") | (pl.col("ts_last") >= at.ts)),
    )
    if not alive:
        return []
    numbers, since = [row["n"] for row in alive], min(row["ts"] for row in alive)
    told = run.rows(
        _UPDATES,
        (pl.col("ts") >= since) & (pl.col("ts") < at.ts) & pl.col("n").is_in(numbers),
    )
    latest: dict[int, OrderUpdate] = {}
    for row in [*told, *updates_before(run, at)]:
        latest[row["n"]] = _update(row)
    return [update for _, update in sorted(latest.items()) if update.leaves]


def last_fill(run: RunFolder, at: Moment) -> tuple[Row, Row] | None:
    """The last fill before the moment, as the venue told it, and the row of its order."""
    column, upto = ("ts", at.ts) if at.trigger is None else ("seq", at.seq)
    fills = run.last("account", column, upto, pl.col("kind") == "fill")
    orders = run.rows("orders", pl.col("n") == fills[0]["n"]) if fills else []
    return (fills[0], orders[0]) if orders else None


def inventory_before(run: RunFolder, at: Moment, *, money: bool = False) -> tuple[Inventory, int]:
    """What we held, and how many orders were rejected within the last minute.

    Cash and fees are summed only for ``money``; they take every fill of the run.
    """
    now = updates_before(run, at)
    net = run.parameters.position + sum(row["side"] * row["filled"] for row in now)
    scan = run.scan(_UPDATES)
    cash = fees = 0
    if scan is not None:
        past = scan.filter((pl.col("ts") < at.ts) & (pl.col("filled") > 0))
        net += past.select((pl.col("side") * pl.col("filled")).sum()).collect().item() or 0
        if money:
            columns = past.select("side", "filled", "fill_px", "fee").collect().rows()
            columns += [(r["side"], r["filled"], r["fill_px"], r["fee"]) for r in now]
            cash = -sum(side * filled * (px or 0) for side, filled, px, _ in columns if filled)
            fees = sum(fee for _, filled, _, fee in columns if filled)
    rejected = pl.col("state") == "rejected"
    recent = (pl.col("ts") > at.ts - REJECT_WINDOW_NS) & (pl.col("ts") < at.ts)
    rejects = len(run.rows(_UPDATES, recent, rejected))
    rejects += sum(row["state"] == "rejected" for row in now)
    working = working_before(run, at)
    buys = sum(update.leaves for update in working if update.side == BUY)
    sells = sum(update.leaves for update in working if update.side != BUY)
    return Inventory(net, buys, sells, len(working), cash, fees), rejects


def resets_between(run: RunFolder, one: Moment, other: Moment) -> list[OrderUpdate]:
    """Orders that ended between two moments in a way that made the last quote void."""
    p = run.parameters
    ended = pl.col("state").is_in(["expired", "rejected", "cancelled"])
    rows = run.rows(_UPDATES, (pl.col("ts") > one.ts) & (pl.col("ts") < other.ts), ended)
    first = run.rows(_UPDATES, pl.col("ts") == one.ts)[len(updates_before(run, one)) :]
    last = updates_before(run, other)
    if one.ts == other.ts:
        first, last = last[len(updates_before(run, one)) :], []
    return [
        update
        for update in map(_update, [*first, *rows, *last])
        if voids_last_quote(
            update,
            on_reject_resubmit=p.preset == "tutorial",
            on_cancel_resubmit=p.on_cancel_resubmit,
        )
    ]


def sent_by(run: RunFolder, at: Moment, until: Moment | None) -> list[OrderUpdate]:
    """What was sent to the venue from a decision until the next one that the sink acted on."""
    end = pl.lit(True) if until is None else pl.col("ts") <= until.ts
    rows = run.rows(_UPDATES, (pl.col("ts") >= at.ts) & end, pl.col("batch") > 0)
    before = {_key(row) for row in updates_before(run, at)}
    later: set[tuple[int, ...]] = set()
    if until is not None:
        whole = run.rows(_UPDATES, pl.col("ts") == until.ts)
        later = {_key(row) for row in whole[len(updates_before(run, until)) :]}
    return [_update(row) for row in rows if _key(row) not in before and _key(row) not in later]


def fate_of(run: RunFolder, numbers: list[int]) -> dict[int, Row]:
    """What became of orders, by number: their rows of ``orders.parquet``."""
    if not numbers:
        return {}
    low, high = min(numbers), max(numbers)
    rows = run.rows("orders", (pl.col("n") >= low) & (pl.col("n") <= high))
    return {row["n"]: row for row in rows if row["n"] in numbers}


def _key(row: Row) -> tuple[int, ...]:
    return row["ts"], row["n"], row["batch"]


def _update(row: Row) -> OrderUpdate:
    return OrderUpdate(**{name: row[name] for name in _FIELDS})


def updates_before(run: RunFolder, at: Moment) -> list[Row]:
    """Changes of this very instant that came before the moment.

    Answers of the venue are inputs and have their number; what the sink sent has none, and is told
    from what it sent for the decision of the moment by the prices.
    """
    rows = run.rows(_UPDATES, pl.col("ts") == at.ts)
    if not rows:
        return []
    if at.trigger is None:
        made = run.rows("decisions", pl.col("ts") == at.ts, pl.col("seq") == at.seq)
        if not any(row["action"] == "withdraw" for row in made):
            return []
        # A limit that an answer of the venue tripped: all but the cancels that followed.
        cut = next((i for i, row in enumerate(rows) if row["state"] == "pending_cancel"), None)
        return rows[:cut]
    answers = run.rows("account", pl.col("ts") == at.ts, pl.col("seq") < at.seq)
    end = taken = 0
    for i, row in enumerate(rows):
        if row["batch"]:
            continue
        match = next(
            (k for k in range(taken, len(answers)) if (answers[k]["n"] or 0) == row["n"]), None
        )
        if match is None:
            break
        end, taken = i + 1, match + 1
    batches: list[list[Row]] = []
    for row in rows[end:]:
        if not row["batch"]:
            break
        if not batches or batches[-1][0]["batch"] != row["batch"]:
            batches.append([])
        batches[-1].append(row)
    told = answers[taken - 1]["seq"] if taken else 0
    made = run.rows("decisions", pl.col("ts") == at.ts, pl.col("seq") > told)
    acting = [row for row in made if _acts(row)]
    before = rows[:end]
    for batch in batches:
        # Each decision sends one batch at most; one that fits none of them followed an answer.
        k = next((k for k, decision in enumerate(acting) if _fits(batch, decision)), None)
        if k is not None:
            if acting[k]["seq"] >= at.seq:
                break
            acting = acting[k + 1 :]
        before += batch
    return before


def _acts(row: Row) -> bool:
    return row["action"] in ("quote", "withdraw", "retract")


def _fits(batch: list[Row], decision: Row) -> bool:
    """Tell whether a batch creates nothing but what a decision wants."""
    wanted = set()
    for side, name in ((1, "bid"), (-1, "ask")):
        px = decision[f"{name}_px"]
        if px is not None:
            levels = range(max(decision[f"{name}_levels"], 1))
            wanted |= {px - side * i * decision["level_step"] for i in levels}
    return all(row["px"] in wanted for row in batch if row["state"] == "pending_new")
