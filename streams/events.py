"""Every type that flows: inputs, what operators make of them, and what they decide.

Timestamps are integer nanoseconds since the Unix epoch, UTC. Prices and sizes of the outside world
are integers of 1e-9; analytics are doubles in quote currency. Absent is ``None``; zero is a value.
"""

from typing import Final, Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "BUY",
    "NO_INVENTORY",
    "SELL",
    "SIDE_NAMES",
    "AccountEvent",
    "AccountKind",
    "Anchor",
    "Decision",
    "Feed",
    "Inventory",
    "Mid",
    "OrderUpdate",
    "OutOfOrderError",
    "Quote",
    "Refusal",
    "Residual",
    "Skewed",
    "Source",
    "Status",
    "StatusKind",
    "Trade",
]

BUY: Final = 1
SELL: Final = -1
SIDE_NAMES: Final = {BUY: "BUY", SELL: "SELL"}

Feed: TypeAlias = Literal["signal", "target"]

Source: TypeAlias = Literal["signal", "target", "session", "basis", "risk", "kill switch"]
"""What refused: one of the two feeds, or a guard on both together."""

AccountKind: TypeAlias = Literal[
    "ack", "reject", "fill", "cancel", "cancel_reject", "modify", "modify_reject", "expire",
    "position", "connect", "disconnect", "stop",
]  # fmt: skip

StatusKind: TypeAlias = Literal[
    "heartbeat", "sibling", "connect", "disconnect", "notice", "kill", "release"
]  # fmt: skip


class OutOfOrderError(ValueError):
    """A stream went back in time or in sequence."""


# ---------------------------------------------------------------- inputs


class Quote(Struct, frozen=True, gc=False):
    """Best bid and offer of one instrument at one instant."""

    seq: int
    """Place in the one order of all inputs; strictly increasing."""
    ts: int
    """When this process (or the collector of an import) first held it, ns."""
    ts_event: int | None
    """When the venue made it, ns; ``None`` when the venue does not say."""
    bid_px: int | None
    """Best bid, 1e-9 quote currency per base unit; ``None`` when there is no bid."""
    ask_px: int | None
    """Best ask, 1e-9 quote currency per base unit; ``None`` when there is no ask."""
    bid_sz: int | None
    """Size at the best bid, 1e-9 base units; ``None`` when not known."""
    ask_sz: int | None
    """Size at the best ask, 1e-9 base units; ``None`` when not known."""
    flags: int
    """Databento's record flags (128 last, 64 top of book, 32 snapshot, 8 bad ts_recv, 4 bad book);
    0 from feeds that have none."""


class AccountEvent(Struct, frozen=True, kw_only=True, gc=False):
    """What the venue said about our account: an input like any quote."""

    seq: int
    """Place in the one order of all inputs."""
    ts: int
    """When this process first held it, ns."""
    kind: AccountKind
    """What happened. ``cancel_reject`` and ``modify_reject``: the request was refused, the order's
    fate is another event. ``modify``: the order now has this ``px`` and ``qty`` (its new total).
    ``stop``: the operator (or the end of a recording) asked us to cancel everything and leave."""
    n: int | None = None
    """Our order number; ``None`` for events about the whole account."""
    venue_id: str | None = None
    """The venue's id: of the order, or for a fill of the trade (fills are counted once per id)."""
    px: int | None = None
    """Fill price, 1e-9."""
    qty: int | None = None
    """Filled size of this event, or for ``position`` the signed position; 1e-9 base units."""
    fee: int | None = None
    """Fee of this fill, 1e-9 quote currency; positive is paid."""
    liquidity: str | None = None
    """MAKER or TAKER, for fills."""
    reason: str | None = None
    """Why: the venue's code and text for a reject, ``requested`` for a cancel we asked for."""
    quota_left: int | None = None
    """Volume quota that is left to the account, as the venue told with this answer."""


class Trade(Struct, frozen=True, gc=False):
    """A public trade of the target."""

    seq: int
    ts: int
    """When this process first held it, ns."""
    ts_event: int | None
    """When the venue made it, ns."""
    px: int
    """1e-9 quote currency."""
    qty: int
    """1e-9 base units."""
    side: int
    """Who took: BUY or SELL; 0 when the venue does not say."""


class Status(Struct, frozen=True, gc=False):
    """What is known of a feed beside its quotes, or what the operator commands: an input."""

    seq: int
    ts: int
    source: str
    """``signal``, ``target`` or ``operator``."""
    kind: StatusKind
    """``heartbeat``: the feed's connection lives; ``sibling``: another stream of it brought data;
    ``connect``, ``disconnect``: of the feed; ``notice``: what people should know of it and the
    graph does not act on; ``kill``, ``release``: the operator's kill switch."""
    text: str = ""
    """Details, for people."""


# ---------------------------------------------------------------- analytics
# ``array_like``: what a trace writes down of every event is packed without its fields' names.


class Mid(Struct, frozen=True, gc=False):
    """Middle of a sound book."""

    seq: int
    ts: int
    mid: float
    """(bid + ask) / 2, quote currency."""
    bid_px: int
    """The book that it is the middle of, 1e-9."""
    ask_px: int


class Refusal(Struct, frozen=True, array_like=True):
    """Why nothing may be quoted, with the values that were judged."""

    seq: int
    """Sequence number of the refused quote; 0 when there was none yet."""
    ts: int
    """Instant of the refusal, ns."""
    by: Source
    reason: str
    """In the words of the guard, without its values; see ``docs/guards.md``."""
    bid_px: int | None = None
    ask_px: int | None = None
    bid_sz: int | None = None
    ask_sz: int | None = None
    value: float | None = None
    """What was judged, in the guard's unit."""
    limit: float | None = None
    """What it was judged against, in the same unit."""


class Residual(Struct, frozen=True, gc=False, array_like=True):
    """How far the signal's mid stands from its baseline."""

    seq: int
    """Of the signal quote; 0 when no signal has been seen (tutorial preset only)."""
    ts: int
    mid: float
    baseline: float
    residual: float
    """mid / baseline − 1, a fraction: 1e-4 is 1 bp."""


class Anchor(Struct, frozen=True, gc=False, array_like=True):
    """The price that our quotes are centred on before skew."""

    seq: int
    """Of the target quote."""
    ts: int
    mid: float
    """Target mid, quote currency."""
    price: float
    """The mid rounded to the price precision, halves away from zero; with ``fair_value`` the
    signal's."""
    bid_px: int
    """The target's best prices, 1e-9."""
    ask_px: int
    widening: float = 1.0
    """Factor on the half-spread: above 1 where the session guard widens."""


class Inventory(Struct, frozen=True, gc=False):
    """What we hold and what works or is in flight for us."""

    position: int = 0
    """Net position, 1e-9 base units, long positive."""
    working_buy: int = 0
    """Leaves quantity of all buy orders that are open or in flight, 1e-9 base units."""
    working_sell: int = 0
    """Leaves quantity of all sell orders that are open or in flight, 1e-9 base units."""
    working: int = 0
    """Number of orders that are open or in flight."""
    cash: int = 0
    """Money received minus paid for fills, 1e-18 quote currency; fees are apart."""
    fees: int = 0
    """Fees paid, 1e-9 quote currency."""
    rejects: int = 0
    """How many of our orders the venue rejected."""
    resets: int = 0
    """How many orders ended in a way that makes the last quote void: rejected, expired, and with
    ``on_cancel_resubmit`` cancelled by somebody else."""


NO_INVENTORY: Final = Inventory()


class Skewed(Struct, frozen=True, gc=False):
    """A signal and a target put together, with the shift of the quote centre they ask for."""

    signal: Residual
    anchor: Anchor
    inventory: Inventory
    signal_shift: float
    """signal_skew_factor × residual, quote currency."""
    inventory_shift: float
    """inventory_skew_factor × net position, quote currency; it is subtracted."""
    shift: float
    """signal_shift − inventory_shift."""


# ---------------------------------------------------------------- decisions


class Decision(Struct, frozen=True, kw_only=True):
    """What the graph wants now, or why it wants nothing: one row of ``decisions.parquet``."""

    seq: int
    """Sequence number of the input it was made from, also when the throttle held it back since."""
    ts: int
    """Instant of the decision, ns; for a target that the throttle let go, the timer's due time."""
    action: Literal["quote", "withdraw", "retract", "refuse", "hold"]
    """``quote``: work these prices. ``withdraw``: work nothing. ``retract``: work no more than
    these, and create nothing. ``refuse``: an input was refused and what works is left alone.
    ``hold``: the throttle keeps this target back."""
    reason: str = ""
    """Why nothing (or only one side) is wanted, or what let a held target go."""
    signal_seq: int | None = None
    signal_ts: int | None = None
    signal_mid: float | None = None
    baseline: float | None = None
    residual: float | None = None
    target_seq: int | None = None
    target_ts: int | None = None
    target_mid: float | None = None
    target_bid_px: int | None = None
    """The target's best prices, 1e-9."""
    target_ask_px: int | None = None
    anchor: float | None = None
    position: int | None = None
    """Net position that the skew used, 1e-9 base units."""
    signal_shift: float | None = None
    inventory_shift: float | None = None
    shift: float | None = None
    half_spread: float | None = None
    bid: float | None = None
    """anchor − half_spread + shift, before rounding."""
    ask: float | None = None
    """anchor + half_spread + shift, before rounding."""
    bid_px: int | None = None
    """Wanted bid, of several levels the highest, 1e-9; ``None`` when no bid is wanted."""
    ask_px: int | None = None
    """Wanted ask, of several levels the lowest, 1e-9; ``None`` when no ask is wanted."""
    bid_levels: int = 0
    """Number of wanted bids; each is ``level_step`` below the one before."""
    ask_levels: int = 0
    """Number of wanted asks; each is ``level_step`` above the one before."""
    level_step: int = 0
    """Distance from level to level, 1e-9; 0 when there is one level."""
    qty: int | None = None
    """Size of each level, 1e-9 base units."""
    bid_note: str | None = None
    """Why there is no bid although the target has one side."""
    ask_note: str | None = None
    """Why there is no ask although the target has one side."""
    refused_bid_px: int | None = None
    """The refused book, when an input was refused."""
    refused_ask_px: int | None = None
    refused_bid_sz: int | None = None
    refused_ask_sz: int | None = None
    refused_value: float | None = None
    """What a guard judged, in its unit; see ``docs/guards.md``."""
    refused_limit: float | None = None
    """What it was judged against."""
    threshold_bps: float | None = None
    """Requote threshold in force: above the setting's when a budget runs low."""
    unmoved: int = 0
    """Evaluations since the previous decision that changed nothing: below the threshold."""


class OrderUpdate(Struct, frozen=True, kw_only=True, gc=False):
    """One order changed: the clean account of our own orders that the order sink publishes.

    Fills are in it once, whatever the venue repeats; orders appear when they are sent, before the
    venue has answered.
    """

    ts: int
    n: int
    side: int
    """BUY or SELL."""
    state: str
    """The state entered; see ``sinks.orders``."""
    leaves: int
    """Still open or in flight after this change, 1e-9 base units; 0 once finished."""
    px: int | None = None
    """Its limit price, 1e-9; ``None`` for a market order."""
    filled: int = 0
    """Filled by this change alone, 1e-9 base units."""
    fill_px: int | None = None
    """Price of that fill, 1e-9."""
    fee: int = 0
    """Fee of that fill, 1e-9 quote currency."""
    batch: int = 0
    """Number of the batch that it went to the venue with, 1, 2, 3 …; 0 for the venue's answers."""
    quota_left: int | None = None
    """Volume quota that is left, as the venue told with this change."""
    requested: bool = True
    """False when the order was cancelled by somebody else."""
