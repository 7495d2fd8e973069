"""Layout: what the compiled loop is told, what it remembers, and the rows that it puts out.

Everything is a record with named fields of eight bytes, integers or doubles. An absent integer is
``NULL_WORD``, and so is, bit for bit, an absent double in a row of output: rows are copied from
a blank one, so that no arithmetic ever touches it.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from msgspec.structs import fields
from numpy.typing import NDArray

from marblemaker.compiled.texts import (
    ANOMALIES,
    EMPTY,
    MOST_REASONS,
    NULL_WORD,
    SOURCES,
    Texts,
)
from sinks.journal import DECISIONS_SCHEMA
from streams.events import Decision, OrderUpdate
from streams.pump import MAX_SIGNALS

__all__ = ["DECISION", "WORLD", "World", "new_world", "spell"]

Records = NDArray[Any]
World = Any
"""A ``WORLD``, as the loop's functions are given it: numba knows its fields, mypy does not."""

NEVER: Final = 2**63 - 1

# Timers of the graph and the sink: each has one at a time.
# The ages' are as many as there may be feeds, and in their order.
AGE_SIGNAL: Final = 0
AGE_TARGET: Final = 1
SESSION_EDGE: Final = 8
SESSION_ANEW: Final = 9
RISK_OVER: Final = 10
THROTTLE_OVER: Final = 11
GIVE_UP: Final = 12
LOOK: Final = 13
TIMERS: Final = 14

# The feeds, and the values that states are made of, by their place in ``World.values``.
SIGNAL: Final = 0
TARGET: Final = 1
OTHERS: Final = 2
"""The second signal; the third is the next, and so on."""
FEEDS: Final = 8
SIGNAL_AGED: Final = 8
"""Age's refusal of a feed is this plus the feed."""
ALONE: Final = 16
CLOSED: Final = 17
ALTERED: Final = 18
TRIPPED: Final = 19
KILLED: Final = 20
WEIGHTED: Final = 21
"""What several signals make together."""
VALUES: Final = 22


def _record(integers: str, doubles: str = "") -> np.dtype[Any]:
    named = [(name, np.int64) for name in integers.split()]
    return np.dtype(named + [(name, np.float64) for name in doubles.split()])


PARAMETERS: Final = _record(
    # the strategy; ``others``: how many further signals there are
    "others tutorial fair_value tick_size lot_size trade_size max_position count_working "
    "stay_passive baseline half_life_ns has_basis has_schedule outside interval_ns retracts "
    "on_reject_resubmit on_cancel_resubmit only_changes without_own "
    # the ladder
    "ladder tick base_spread_ticks max_inventory num_levels least_edge reach "
    # risk; -1: no such limit
    "has_risk risk_position risk_orders risk_rejects risk_notional risk_loss cooldown_ns "
    "risk_scheduled "
    # the order sink
    "replaces expire_ns flatten stop_ns max_batch in_flight_ns "
    # whether the sink may have to ask what became of its orders; whether the venue's answers are
    # among the inputs
    "asks recorded "
    # the venue
    "fill_model maker_ns cancel_ns taker_ns maker_ppm taker_ppm min_base min_quote "
    "live_in_account live_in_market shadows "
    # budgets; -1: no such limit. ``paced``: the graph keeps to them, not only the venue
    "has_budget paced per_minute volume_quota quota_per max_quota horizon_ns "
    # whether the operators' outputs are wanted, and all that reach requote
    "traced states_traced "
    # how many rows of output lead back to who called
    "most_rows",
    "scale half_spread_bps inventory_skew_factor signal_skew_factor threshold basis_bps set_price "
    "threshold_bps "
    "widening",
)  # fmt: skip
"""What a run is told once; see ``marblemaker.compiled.told``."""

FEED_PARAMETERS: Final = _record(
    "event_time ahead_ns behind_ns frozen_ns locked collar confirm_ns split break_ns age limit_ns "
    "quiet_ns dead_ns outside_ns scheduled",
    "collar_bps",
)
"""Guards of one feed; ``frozen_ns``, ``quiet_ns``: -1 for none."""

FEED: Final = _record(
    # frozen
    "frozen_since frozen_bid frozen_ask frozen_bid_sz frozen_ask_sz seen_one is_frozen "
    "refused_seq refused_ts "
    # collar, split
    "candidate_since judge_from "
    # baseline
    "following last_ts "
    # age
    "has_spoken since heard refused waiting "
    # which of the values is the latest: the chain's, or the refusal of age (by its place)
    "latest",
    "accepted candidate before first average last_mid",
)
"""What the guards of one feed remember."""

VALUE: Final = _record(
    "is_refusal seq ts bid_px ask_px bid_sz ask_sz by reason has_value has_limit",
    "mid level residual widening value limit",
)
"""A Residual (``level`` is its baseline), an Anchor (``level`` is its price), or a Refusal."""

STATE: Final = _record(
    # the pump and its clock
    "begun seq now next_due made venue_due disposed stopped full trouble before_ts before_kind "
    "ending "
    "ties "
    "at_signal at_target at_status at_trades more_signal more_target more_status more_trades "
    "at_account more_account other_key other_kind "
    "notices_head notices_tail answers_head answers_tail "
    # session
    "is_open closed_ns "
    # what reached risk and the kill switch last: places in ``values``
    "signal_place target_place kill_signal kill_target has_state "
    # risk
    "unjudged tripped tripped_reason until rejects_head rejects_tail killed "
    "mark opened edge pnl_at_open "
    # inventory, as told
    "net buys sells told rejects resets cash cash_rest fees "
    # the target's book without us
    "own others_bid others_ask "
    # requote
    "quoted seen_resets has_target unmoved refused_by refused_reason refused_seq "
    # throttle
    "went went_ns has_sent has_held held_due unreported "
    # the order sink
    "position leaves_buy leaves_sell created working waiting commands moves batches stopping "
    "finished gave_up flattenings levels_assigned disconnected doubtful look_ts ends seen "
    # the venue
    "bid ask bid_sz ask_sz trades arrived live resting on_the_way next_expiry bid_low bid_high "
    "ask_low ask_high queued bid_ahead ask_ahead buy_touched buy_taken sell_touched sell_taken "
    "ended "
    # how many rows of output there are
    "signal_rows target_rows state_rows wanted_rows decision_rows update_rows account_rows "
    "fill_rows order_rows bound_rows",
    "last_anchor last_residual last_widening tripped_value tripped_limit",
)
"""What the loop remembers beside its tables."""

AHEAD: Final = _record("at stop more")
"""How far the batch of a further signal is gone through, and whether more may be read."""

BUDGET: Final = _record(
    # transactions of the last minute: a ring, whose ends only go up
    "minute_head minute_tail sent busiest batch "
    "quota lowest_quota spent earned traded exhausted_ns first_ts last_ts quota_rows "
    # the venue's account
    "requests_head requests_tail account_quota unearned unearned_rest next_free_ns"
)
"""What is counted of the account's budgets."""

PACE: Final = _record("counted_ns round", "tokens")
"""What may be spent of the quota now; see ``operators.budget``."""

ORDER: Final = _record(
    "n ts side px qty size state filled ts_last cancel_asked cancels assigned acked "
    "asked_px asked_qty asked_size modifies_refused level_px level_qty last_seen "
    # what it takes to ask the venue
    "queries asked_ts suspect doubtful unanswered stale_answers overdue"
)
"""An order that works or is in flight, as the order sink sees it."""

PAST: Final = _record(
    "n ts side px qty state filled ts_last asked_qty cancel_asked last_seen ended"
)
"""An order that has ended, as the order sink remembers it; ``ended`` counts ends."""

SEEN: Final = _record("id before")
"""A trade that was counted, and the one before it of the same order."""

KNOWN: Final = _record("n where first last end ended")
"""An order as the venue remembers it for queries: its first and last trade, and its end."""

SAID: Final = _record("next px qty fee liquidity")
"""A fill as the venue said it, and the order's next one."""

RESTING: Final = _record("n side px total filled expire_ts leaves ahead arrived")
"""An order that rests at the venue."""

SHADOW: Final = _record("model orders buy_touched buy_taken sell_touched sell_taken")
"""Another fill model on the same orders; those stand in ``World.shadowed``."""

CREATE: Final = 0
CANCEL: Final = 1
MODIFY: Final = 2
QUERY: Final = 3

COMMAND: Final = _record("kind n side px qty expire_ts due")
"""What is sent to the venue: a create, a cancel, a modify or a query."""

LEVEL: Final = _record("side px qty")
OWN: Final = _record("n side px leaves")
LEFT: Final = _record("n leaves")


def _row(names: Any, doubles: Any = ()) -> np.dtype[Any]:
    return np.dtype([(name, np.float64 if name in doubles else np.int64) for name in names])


DECISION: Final = _row(
    DECISIONS_SCHEMA, {name for name, dtype in DECISIONS_SCHEMA.items() if dtype.is_float()}
)
UPDATE: Final = _row(OrderUpdate.__struct_fields__)
ACCOUNT: Final = _row(
    ("seq", "ts", "kind", "n", "venue_id", "px", "qty", "fee", "liquidity", "reason", "quota_left")
)
FILLED_ROW: Final = _row(("n", "ts", "side", "px", "qty", "liquidity", "fee"))
QUOTA_ROW: Final = _row(("ts", "spent"))
ORDER_ROW: Final = _row(("n", "ts", "side", "px", "qty", "state", "filled", "ts_last"))
BOUND_ROW: Final = _row(("model", "side", "px", "qty", "fee", "liquidity"))

FEED_LINES: Final = 10
"""Fields of a Refusal, the longest of what a feed's chain puts out."""
STATE_LINES: Final = 20

SESSIONS: Final = 8_192
"""Most opens and closes of a market that a run may have to know: some sixteen years."""
MOST_ROWS: Final = 131_072
"""Rows of a feed's output that the loop puts out before it comes back."""
SPARE: Final = 4_096
"""Rows that are kept free in each table: more than one input can lead to."""
FEW: Final = 32_768
"""Rows of the other tables that lead back to who called."""
_QUEUE: Final = 8_192
_ORDERS: Final = 1_024
SHADOWS: Final = 2
"""How many fill models there are beside the one that is asked for."""
RING: Final = 2**20
"""Transactions of a minute that are remembered."""
MEMORY: Final = 2**18
"""Numbers of orders that are told apart where orders that have ended are remembered."""
TRADES: Final = 2**17
"""Trades that are remembered with those orders."""


def _lines(name: str, shape: tuple[int, ...]) -> list[tuple[str, Any, int]]:
    """A table of words, a line a field, and the same memory as doubles, and how many fields."""
    *tables, _, rows = shape
    widths = (*tables, rows)
    return [
        (name, (np.int64, shape), 0),
        (f"{name}_doubles", (np.float64, shape), 8 * math.prod(shape)),
        (f"{name}_widths", (np.int64, widths), 8 * math.prod(widths)),
    ]


def _world() -> np.dtype[Any]:
    """Lay all tables one after the other; the doubles of a table lie on the table itself."""
    few = FEW + SPARE
    tables: list[tuple[str, Any, int]] = []

    def add(name: str, kind: Any, rows: int) -> None:
        tables.append((name, (kind, (rows,)), np.dtype(kind).itemsize * rows))

    for name, kind, rows in (
        ("parameters", PARAMETERS, 1),
        ("feed_parameters", FEED_PARAMETERS, FEEDS),
        # Opens and closes of the signal's market, then NEVER.
        ("edges", np.int64, SESSIONS),
        # Opens at which the session baseline starts anew, then NEVER.
        ("opens", np.int64, SESSIONS),
        ("source_words", np.int64, len(SOURCES)),
        ("reason_words", np.int64, MOST_REASONS),
        ("decided_words", (np.int64, (len(SOURCES),)), MOST_REASONS),
        ("blank", DECISION, 1),
        ("state", STATE, 1),
        ("feeds", FEED, FEEDS),
        # Of further signals, and the weights and latest residuals of all.
        ("ahead", AHEAD, MAX_SIGNALS - 1),
        ("weights", np.float64, MAX_SIGNALS),
        ("residuals", np.float64, MAX_SIGNALS),
        ("other_rows", np.int64, MAX_SIGNALS),
        ("values", VALUE, VALUES),
        # When each timer is due (NEVER: it is not out), and when it was set, counted.
        ("due", np.int64, TIMERS),
        ("made", np.int64, TIMERS),
        # Instants of rejects, oldest first.
        ("rejected", np.int64, _QUEUE),
        # What each order has left, as the graph was told.
        ("left", LEFT, _ORDERS),
        # Our orders that rest, as the graph was told.
        ("own", OWN, _ORDERS),
        # The decision in the making, what the throttle holds, and what it let go last.
        ("draft", DECISION, 1),
        ("wanted", DECISION, 1),
        ("held", DECISION, 1),
        ("last_sent", DECISION, 1),
        # What requote let through last, where equal targets are only counted.
        ("last_target", DECISION, 1),
        # Orders that work or are in flight, oldest first; levels that none of them serves.
        ("orders", ORDER, _ORDERS),
        ("waiting", LEVEL, _ORDERS),
        # Commands of the next batches, and the changes of orders that go with them.
        ("commands", COMMAND, _QUEUE),
        ("changes", UPDATE, _QUEUE),
        # Modifies go after all cancels of a batch, and wait here for those.
        ("moves", COMMAND, _ORDERS),
        ("moved", UPDATE, _ORDERS),
        # Commands that have not reached the venue, earliest first; what rests there, in order of
        # arrival or of the last modify.
        ("on_the_way", COMMAND, _QUEUE),
        ("resting", RESTING, _ORDERS),
        # What is remembered where the venue may be asked, by number modulo the table's length.
        ("past", PAST, MEMORY),
        ("seen", SEEN, TRADES),
        ("known", KNOWN, MEMORY),
        ("said", SAID, TRADES),
        ("anomalies", np.int64, len(ANOMALIES)),
        # The other fill models, if they are asked for; what rests under each, in the same order.
        ("shadows", SHADOW, SHADOWS),
        ("shadowed", RESTING, _ORDERS),
        # What the venue said, and changes of our orders, that have not been delivered.
        ("answers", ACCOUNT, _QUEUE),
        ("notices", UPDATE, _QUEUE),
        ("budget", BUDGET, 1),
        ("paces", PACE, 2),
        # Instants of transactions, as the graph counts them, and of requests that were admitted.
        ("minute", np.int64, RING),
        ("requests", np.int64, RING),
        ("quota_out", QUOTA_ROW, few),
        ("wanted_out", DECISION, few),
        ("decision_out", DECISION, few),
        ("update_out", UPDATE, few),
        ("account_out", ACCOUNT, few),
        ("fill_out", FILLED_ROW, few),
        ("order_out", ORDER_ROW, few),
        # What the other fill models filled.
        ("bound_out", BOUND_ROW, few),
    ):
        if name == "decided_words":
            tables.append(
                (name, (np.int64, (len(SOURCES), MOST_REASONS)), 8 * len(SOURCES) * MOST_REASONS)
            )
        elif name == "shadowed":
            size = SHADOWS * rows * RESTING.itemsize
            tables.append((name, (RESTING, (SHADOWS, rows)), size))
        else:
            add(name, kind, rows)
    for name in ("signal_out", "target_out"):
        tables += _lines(name, (FEED_LINES, MOST_ROWS + SPARE))
    # Of the further signals, and last of what all of them make together.
    tables += _lines("others_out", (MAX_SIGNALS, FEED_LINES, MOST_ROWS + SPARE))
    tables += _lines("state_out", (STATE_LINES, FEW + SPARE))
    names, kinds, offsets, at = [], [], [], 0
    for name, kind, size in tables:
        names.append(name)
        kinds.append(kind)
        offsets.append(at)
        at += size
    return np.dtype({"names": names, "formats": kinds, "offsets": offsets, "itemsize": at})


WORLD: Final = _world()
"""All that the loop works on: its tables, one after the other."""


def new_world(
    parameters: Records,
    feed_parameters: Records,
    edges: NDArray[np.int64],
    opens: NDArray[np.int64],
    weights: NDArray[np.float64],
    texts: Texts,
    *,
    first_ts: int,
    position: int,
) -> Records:
    """A world before the first input, an array of one ``WORLD``."""
    world = np.zeros(1, WORLD)
    w = world[0]
    w["parameters"], w["feed_parameters"] = parameters, feed_parameters
    for name, instants in (("edges", edges), ("opens", opens)):
        w[name] = NEVER
        w[name][: len(instants)] = instants
    w["weights"][: len(weights)] = weights
    w["source_words"] = texts.source_words
    spell(world, texts)
    w["due"] = NEVER
    for name in ("blank", "draft", "wanted", "held", "last_sent", "last_target"):
        w[name] = _blank()
    p, s = w["parameters"][0], w["state"][0]
    s["now"], s["next_due"], s["venue_due"] = first_ts, NEVER, NEVER
    s["before_ts"] = s["before_kind"] = -1
    s["net"] = s["position"] = position
    s["unjudged"], s["last_widening"], s["refused_by"] = 1, 1.0, -1
    s["bid"] = s["ask"] = NULL_WORD
    s["next_expiry"], s["bid_high"], s["ask_high"] = NEVER, NEVER, NEVER
    s["look_ts"] = NEVER
    s["bid_low"] = s["ask_low"] = -1
    for name in ("bid_sz", "ask_sz", "buy_touched", "sell_touched", "mark"):
        s[name] = NULL_WORD
    s["closed_ns"] = s["others_bid"] = s["others_ask"] = NULL_WORD
    shadows = w["shadows"]
    shadows["model"] = [model for model in range(SHADOWS + 1) if model != p["fill_model"]]
    shadows["buy_touched"] = shadows["sell_touched"] = NULL_WORD
    s["signal_place"], s["target_place"] = SIGNAL, TARGET
    s["kill_signal"], s["kill_target"] = SIGNAL, TARGET
    values = w["values"]
    values["widening"] = 1.0
    for place in (*range(FEEDS), WEIGHTED):
        values[place]["is_refusal"] = 1
        values[place]["by"] = TARGET if place == TARGET else SIGNAL
        for name in ("bid_px", "ask_px", "bid_sz", "ask_sz"):
            values[place][name] = NULL_WORD
    if p["tutorial"]:
        # A residual of 0 stands in until the first signal: the flaw is copied on purpose.
        values[SIGNAL]["is_refusal"] = 0
    feeds = w["feeds"]
    feeds["latest"] = range(FEEDS)
    feeds["average"] = feeds["last_mid"] = feeds["first"] = np.nan
    if p["baseline"] == 0:
        # A baseline that was set is what the first mid is judged against for a split.
        feeds["before"] = p["set_price"]
    return world


def spell(world: Records, texts: Texts) -> None:
    """Tell a world the words of all reasons there are."""
    w, known = world[0], len(texts.reason_words)
    w["reason_words"][:known] = texts.reason_words
    w["decided_words"][:, :known] = texts.decided_words


def _blank() -> Records:
    """A decision in which all that may be absent is."""
    words = np.full((1, len(DECISION.names or ())), NULL_WORD, np.int64)
    blank = words.view(DECISION)[0]
    for field in fields(Decision):
        if field.default == 0:
            blank[field.name] = 0
        elif field.default == "":
            blank[field.name] = EMPTY
    return blank
