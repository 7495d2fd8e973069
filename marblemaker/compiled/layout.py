"""Layout: what the compiled loop is told, what it remembers, and the rows that it puts out.

Everything is a record with named fields of eight bytes, integers or doubles. An absent integer is
``NULL_WORD``, and so is, bit for bit, an absent double in a row of output: rows are copied from
a blank one, so that no arithmetic ever touches it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from msgspec.structs import fields
from numpy.typing import NDArray

from marblemaker.compiled.texts import EMPTY, NULL_WORD, Texts
from sinks.journal import DECISIONS_SCHEMA
from streams.events import Decision, OrderUpdate

__all__ = ["DECISION", "World", "new_world"]

Records = NDArray[Any]

NEVER: Final = 2**63 - 1

# Timers of the graph and the sink: each has one at a time.
AGE_SIGNAL: Final = 0
AGE_TARGET: Final = 1
SESSION_EDGE: Final = 2
SESSION_ANEW: Final = 3
RISK_OVER: Final = 4
THROTTLE_OVER: Final = 5
GIVE_UP: Final = 6
TIMERS: Final = 7

# Values that states are made of, by their place in ``World.values``.
SIGNAL: Final = 0
TARGET: Final = 1
SIGNAL_AGED: Final = 2
TARGET_AGED: Final = 3
ALONE: Final = 4
CLOSED: Final = 5
ALTERED: Final = 6
TRIPPED: Final = 7
KILLED: Final = 8
VALUES: Final = 9


def _record(integers: str, doubles: str = "") -> np.dtype[Any]:
    named = [(name, np.int64) for name in integers.split()]
    return np.dtype(named + [(name, np.float64) for name in doubles.split()])


PARAMETERS: Final = _record(
    # the strategy
    "tutorial fair_value tick_size lot_size trade_size max_position count_working stay_passive "
    "baseline half_life_ns has_basis has_schedule outside interval_ns retracts "
    "on_reject_resubmit on_cancel_resubmit "
    # risk; -1: no such limit
    "has_risk risk_position risk_orders risk_rejects cooldown_ns "
    # the order sink
    "replaces expire_ns flatten stop_ns max_batch "
    # the venue
    "cross maker_ns cancel_ns taker_ns maker_ppm taker_ppm min_base min_quote "
    # whether the operators' outputs are wanted, and all that reach requote
    "traced states_traced",
    "scale half_spread_bps inventory_skew_factor signal_skew_factor threshold basis_bps set_price "
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
    "spoke since heard refused waiting "
    # which of the values is the latest: the chain's, or the refusal of age
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
    "begun seq now next_due made venue_due disposed stopped full trouble before_ts before_kind ties "
    "at_signal at_target more_signal more_target notices_head notices_tail answers_head "
    "answers_tail "
    # session
    "is_open closed_ns "
    # what reached risk and the kill switch last: places in ``values``
    "signal_place target_place kill_signal kill_target "
    # risk
    "unjudged tripped tripped_reason until rejects_head rejects_tail killed "
    # inventory, as told
    "net buys sells told rejects resets "
    # requote
    "quoted seen_resets unmoved refused_by refused_reason refused_seq "
    # throttle
    "went went_ns has_sent has_held held_due unreported "
    # the order sink
    "position leaves_buy leaves_sell created working waiting commands batches stopping finished "
    "gave_up flattenings levels_assigned "
    # the venue
    "bid ask sent trades resting on_the_way next_expiry bid_high ask_low "
    # anomalies
    "late_cancels others position_left left_working "
    # how many rows of output there are
    "signal_rows target_rows state_rows wanted_rows decision_rows update_rows account_rows "
    "fill_rows order_rows",
    "last_anchor last_residual last_widening tripped_value tripped_limit",
)
"""What the loop remembers beside its tables."""

ORDER: Final = _record("n ts side px qty state filled ts_last cancel_asked cancels assigned acked")
"""An order that works or is in flight, as the order sink sees it."""

RESTING: Final = _record("n side px total filled expire_ts")
"""An order that rests at the venue."""

COMMAND: Final = _record("is_cancel n side px qty expire_ts due sent update")
"""What is sent to the venue; ``update`` is the place of the change it makes."""

LEVEL: Final = _record("side px qty")
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
ORDER_ROW: Final = _row(("n", "ts", "side", "px", "qty", "state", "filled", "ts_last"))

FEED_LINES: Final = 10
"""Fields of a Refusal, the longest of what a feed's chain puts out."""
STATE_LINES: Final = 20

_QUEUE: Final = 8_192
_ORDERS: Final = 1_024
SPARE: Final = 4_096
"""Rows that are kept free in each table: more than one input can lead to."""
_FEW: Final = 32_768


class World(NamedTuple):
    """All that the loop works on."""

    parameters: Records
    feed_parameters: Records
    edges: NDArray[np.int64]
    """Opens and closes of the signal's market, ns."""
    opens: NDArray[np.int64]
    """Opens at which the session baseline starts anew, ns."""
    source_words: NDArray[np.int64]
    reason_words: NDArray[np.int64]
    decided_words: NDArray[np.int64]
    blank: Records
    state: Records
    feeds: Records
    values: Records
    due: NDArray[np.int64]
    """When each timer is due, ``NEVER`` when it is not out."""
    made: NDArray[np.int64]
    """When each was set, counted: the order of those that are due at one instant."""
    rejected: NDArray[np.int64]
    """Instants of rejects, oldest first."""
    left: Records
    """What each order has left, as the graph was told."""
    draft: Records
    """The decision in the making."""
    held: Records
    """What the throttle holds."""
    last_sent: Records
    """What the throttle let go last."""
    orders: Records
    """Orders that work or are in flight, oldest first."""
    waiting: Records
    """Levels that are wanted and that no order serves."""
    commands: Records
    changes: Records
    """Changes of orders that go with the commands."""
    on_the_way: Records
    """Commands that have not reached the venue, earliest first."""
    resting: Records
    """Orders that rest at the venue, in order of arrival."""
    answers: Records
    """What the venue said and has not been delivered."""
    notices: Records
    """Changes of our orders that have not been told."""
    signal_out: NDArray[np.int64]
    signal_doubles: NDArray[np.float64]
    signal_widths: NDArray[np.int64]
    target_out: NDArray[np.int64]
    target_doubles: NDArray[np.float64]
    target_widths: NDArray[np.int64]
    state_out: NDArray[np.int64]
    state_doubles: NDArray[np.float64]
    state_widths: NDArray[np.int64]
    wanted_out: Records
    decision_out: Records
    update_out: Records
    account_out: Records
    fill_out: Records
    order_out: Records


def new_world(
    parameters: Records,
    feed_parameters: Records,
    edges: NDArray[np.int64],
    opens: NDArray[np.int64],
    texts: Texts,
    *,
    first_ts: int,
    position: int,
    rows: int,
) -> World:
    """A world before the first input; ``rows``: how many rows of a feed's output it holds."""
    state = np.zeros(1, STATE)
    s = state[0]
    s["now"], s["next_due"], s["venue_due"] = first_ts, NEVER, NEVER
    s["before_ts"] = s["before_kind"] = -1
    s["net"] = s["position"] = position
    s["unjudged"], s["last_widening"], s["refused_by"] = 1, 1.0, -1
    s["bid"] = s["ask"] = NULL_WORD
    s["next_expiry"], s["bid_high"], s["ask_low"] = NEVER, NEVER, -1
    s["closed_ns"] = NULL_WORD
    values = np.zeros(VALUES, VALUE)
    values["widening"] = 1.0
    for place in (SIGNAL, TARGET):
        values[place]["is_refusal"], values[place]["by"] = 1, place
        for name in ("bid_px", "ask_px", "bid_sz", "ask_sz"):
            values[place][name] = NULL_WORD
    if parameters[0]["tutorial"]:
        # A residual of 0 stands in until the first signal: the flaw is copied on purpose.
        values[SIGNAL]["is_refusal"] = 0
    feeds = np.zeros(2, FEED)
    feeds["latest"] = (SIGNAL, TARGET)
    s["signal_place"], s["target_place"] = SIGNAL, TARGET
    s["kill_signal"], s["kill_target"] = SIGNAL, TARGET
    feeds["average"] = feeds["last_mid"] = feeds["first"] = np.nan
    rejects = max(int(parameters[0]["risk_rejects"]), 0) + _QUEUE
    states = rows if parameters[0]["states_traced"] else _FEW
    traced = rows + SPARE if parameters[0]["traced"] else SPARE
    signal_out = np.empty((FEED_LINES, traced), np.int64)
    target_out = np.empty((FEED_LINES, traced), np.int64)
    state_out = np.empty((STATE_LINES, states + SPARE), np.int64)
    few = _FEW + SPARE
    return World(
        parameters=parameters,
        feed_parameters=feed_parameters,
        edges=edges,
        opens=opens,
        source_words=texts.source_words,
        reason_words=texts.reason_words,
        decided_words=texts.decided_words,
        blank=_blank(),
        state=state,
        feeds=feeds,
        values=values,
        due=np.full(TIMERS, NEVER, np.int64),
        made=np.zeros(TIMERS, np.int64),
        rejected=np.zeros(rejects, np.int64),
        left=np.zeros(_ORDERS, LEFT),
        draft=_blank(),
        held=_blank(),
        last_sent=_blank(),
        orders=np.zeros(_ORDERS, ORDER),
        waiting=np.zeros(_ORDERS, LEVEL),
        commands=np.zeros(_QUEUE, COMMAND),
        changes=np.zeros(_QUEUE, UPDATE),
        on_the_way=np.zeros(_QUEUE, COMMAND),
        resting=np.zeros(_ORDERS, RESTING),
        answers=np.zeros(_QUEUE, ACCOUNT),
        notices=np.zeros(_QUEUE, UPDATE),
        signal_out=signal_out,
        signal_doubles=signal_out.view(np.float64),
        signal_widths=np.empty(traced, np.int64),
        target_out=target_out,
        target_doubles=target_out.view(np.float64),
        target_widths=np.empty(traced, np.int64),
        state_out=state_out,
        state_doubles=state_out.view(np.float64),
        state_widths=np.empty(states + SPARE, np.int64),
        wanted_out=np.empty(few, DECISION),
        decision_out=np.empty(few, DECISION),
        update_out=np.empty(few, UPDATE),
        account_out=np.empty(few, ACCOUNT),
        fill_out=np.empty(few, FILLED_ROW),
        order_out=np.empty(few, ORDER_ROW),
    )


def _blank() -> Records:
    """A decision in which all that may be absent is."""
    words = np.full((1, len(DECISION)), NULL_WORD, np.int64)
    blank = words.view(DECISION)[0]
    for field in fields(Decision):
        if field.default == 0:
            blank[field.name] = 0
        elif field.default == "":
            blank[field.name] = EMPTY
    return blank
