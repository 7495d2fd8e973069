"""Texts of the compiled engine: numbers for words, and the words that digests have for them.

The loop knows no text. A reason is a number of ``REASONS``, a text in a row of output is the word
that ``marblemaker.digest`` makes of it, so that a row is what the digests are taken over.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from marblemaker.digest import NULL, fnv1a
from operators.books import CROSSED, FAULTS, LOCKED, ZERO_PRICE, ZERO_SIZE
from sinks.orders import ADOPTED, QUERIED
from streams.recording import RecordingError

__all__ = ["NULL_WORD", "Texts", "word"]


def word(text: str) -> int:
    """The word of a text as a signed integer of 64 bits."""
    unsigned = fnv1a(text)
    return unsigned - 2**64 if unsigned >= 2**63 else unsigned


NULL_WORD: Final = NULL
"""What stands for an absent integer, in inputs and in rows of output; it is a positive int64."""

# ---------------------------------------------------------------- who refuses, and why

BY_SIGNAL: Final = 0
BY_TARGET: Final = 1
BY_SESSION: Final = 2
BY_BASIS: Final = 3
BY_RISK: Final = 4
BY_KILL_SWITCH: Final = 5
SOURCES: Final = ("signal", "target", "session", "basis", "risk", "kill switch")

MISSING: Final = 0
# The faults of books keep their own numbers, 1 to 4.
NO_BID: Final = 5
NO_ASK: Final = 6
AHEAD: Final = 7
BEHIND: Final = 8
FROZEN: Final = 9
JUMP: Final = 10
SPLIT: Final = 11
QUIET: Final = 12
DEAD: Final = 13
DISCONNECTED: Final = 14
CLOSED: Final = 15
BEYOND: Final = 16
TOO_MUCH: Final = 17
TOO_MANY: Final = 18
STORM: Final = 19
TOO_DEAR: Final = 20
LOSS: Final = 21
FIRST_KILL: Final = 22
"""From here on the texts of the operator's kill commands."""
MOST_REASONS: Final = 256

REASONS: Final = (
    "missing",
    FAULTS[ZERO_PRICE],
    FAULTS[ZERO_SIZE],
    FAULTS[CROSSED],
    FAULTS[LOCKED],
    "no bid",
    "no ask",
    "event time in the future",
    "event time far behind",
    "frozen",
    "jump not confirmed",
    "looks like a split",
    "quiet",
    "dead",
    "disconnected",
    "closed",
    "beyond the limit",
    "position beyond the limit",
    "too many orders",
    "reject storm",
    "notional beyond the limit",
    "loss beyond the limit",
)
"""Reasons of refusals, in the words of the guards."""

# ---------------------------------------------------------------- decisions

EMPTY: Final = word("")
QUOTE: Final = word("quote")
WITHDRAW: Final = word("withdraw")
RETRACT: Final = word("retract")
REFUSE: Final = word("refuse")
HOLD: Final = word("hold")
CROSSED_AFTER: Final = word("crossed after rounding")
POSITION_LIMIT: Final = word("position limit")
NOTIONAL_LIMIT: Final = word("notional limit")
NO_POSITIVE: Final = word("no positive price")
CANCEL_DISTANCE: Final = word("cancel distance")
EDGE: Final = word("edge")
RELEASED: Final = word("throttle released")
THROTTLE: Final = word("throttle")
BUDGET: Final = word("budget")
TAKEN_AWAY: Final = word("taken away at once")

# ---------------------------------------------------------------- orders and the venue's answers

PENDING_NEW: Final = word("pending_new")
OPEN: Final = word("open")
PENDING_CANCEL: Final = word("pending_cancel")
PENDING_MODIFY: Final = word("pending_modify")
FILLED: Final = word("filled")
CANCELLED: Final = word("cancelled")
REJECTED: Final = word("rejected")
EXPIRED: Final = word("expired")

ACK: Final = word("ack")
REJECT: Final = word("reject")
FILL: Final = word("fill")
CANCEL: Final = word("cancel")
CANCEL_REJECT: Final = word("cancel_reject")
MODIFY: Final = word("modify")
MODIFY_REJECT: Final = word("modify_reject")
EXPIRE: Final = word("expire")
STOP: Final = word("stop")
POSITION: Final = word("position")
CONNECT: Final = word("connect")
DISCONNECT: Final = word("disconnect")

MAKER: Final = word("MAKER")
TAKER: Final = word("TAKER")
REQUESTED: Final = word("requested")
NOT_OPEN: Final = word("21709 not open")
TOO_MANY_IN_ACCOUNT: Final = word("21717 too many orders of the account")
TOO_MANY_IN_MARKET: Final = word("21718 too many orders in the market")
TOO_MANY_REQUESTS: Final = word("23000 too many requests")
QUOTA_EXHAUSTED: Final = word("23000 volume quota exhausted")
NOT_ACTIVE: Final = word("21715 not active")
DONE_ALREADY: Final = word("modified to what has filled")
MOVED_ACROSS: Final = word("canceled-post-only")
OFF_TICK: Final = word("21702 price off the tick")
OFF_LOT: Final = word("21701 size off the lot")
BELOW_BASE: Final = word("21706 below the minimum base amount")
BELOW_QUOTE: Final = word("21706 below the minimum quote amount")
WOULD_CROSS: Final = word("canceled-post-only: post-only would cross")
NO_LIQUIDITY: Final = word("canceled-not-enough-liquidity: no liquidity")
END_OF_RECORDING: Final = word("end of the recording")
ASKED_FOR: Final = word(QUERIED)
TAKEN_OVER: Final = word(ADOPTED)
OVER_LIMITS: Final = word("23")
"""Stands for the reasons that begin like this: a limit of the account is used up."""
UNKNOWN_ORDER: Final = word("21700 unknown order")

_SPELLED: Final = (
    "", "quote", "withdraw", "retract", "refuse", "hold", "crossed after rounding",
    "position limit", "notional limit", "no positive price", "cancel distance", "edge",
    "throttle released", "throttle", "budget",
    "taken away at once", "pending_new", "open", "pending_cancel", "filled", "cancelled",
    "rejected", "expired", "ack", "reject", "fill", "cancel", "cancel_reject", "expire", "stop",
    "pending_modify", "modify", "modify_reject", "21715 not active",
    "modified to what has filled", "canceled-post-only",
    "21717 too many orders of the account", "21718 too many orders in the market",
    "23000 too many requests", "23000 volume quota exhausted",
    "MAKER", "TAKER", "requested", "21709 not open", "21702 price off the tick",
    "21701 size off the lot", "21706 below the minimum base amount",
    "21706 below the minimum quote amount", "canceled-post-only: post-only would cross",
    "canceled-not-enough-liquidity: no liquidity", "end of the recording",
    QUERIED, "21700 unknown order",
)  # fmt: skip

# ---------------------------------------------------------------- what does not fit

_OF_ORDERS: Final = (
    "ack", "reject", "cancel", "cancel_reject", "modify", "modify_reject", "expire", "fill",
)  # fmt: skip
OF_ORDERS: Final = tuple(word(kind) for kind in _OF_ORDERS)
"""What the venue says about an order."""

FINISHED: Final = 0
"""From here on anomalies by kind, in the order of ``OF_ORDERS``."""
UNKNOWN: Final = len(OF_ORDERS)
"""The same, of orders that are not known."""
TOLD_TWICE: Final = 2 * len(OF_ORDERS)
AFTER_THE_END: Final = TOLD_TWICE + 1
BEYOND_SIZE: Final = TOLD_TWICE + 2
OTHER_POSITION: Final = TOLD_TWICE + 3
DISCONNECTED_FROM_VENUE: Final = TOLD_TWICE + 4
REFUSED_AGAIN: Final = TOLD_TWICE + 5
ASKED_THE_VENUE: Final = TOLD_TWICE + 6
POSITION_LEFT: Final = TOLD_TWICE + 7
LEFT_WORKING: Final = TOLD_TWICE + 8

ANOMALIES: Final = (
    *(f"{kind} for a finished order" for kind in _OF_ORDERS),
    *(f"{kind} for an unknown order" for kind in _OF_ORDERS),
    "fill told twice",
    "fill after the end of its order",
    "filled beyond the order's size",
    "position by fills is not the venue's",
    "disconnected from the venue",
    "a cancel was refused again and again",
    "no answer in time: asked the venue",
    "position left open: the closing order was refused",
    "left working: not confirmed in time",
)
"""Anomalies in the words of the order sink."""


class Texts:
    """All texts that a run may put out, by their words."""

    def __init__(self, kills: Iterable[str] = ()) -> None:
        """Know the texts of ``kills`` as well, which are reasons from ``FIRST_KILL`` on."""
        self.kills: dict[str, int] = {}
        self._learn(tuple(kills))

    def add_kill(self, text: str) -> bool:
        """Know the text of one more kill command; tell whether it is new."""
        new = text not in self.kills
        if new:
            self._learn((*self.kills, text))
        return new

    def _learn(self, kills: tuple[str, ...]) -> None:
        if FIRST_KILL + len(kills) > MOST_REASONS:
            raise RecordingError(
                f"--engine compiled knows up to {MOST_REASONS - FIRST_KILL} different texts of "
                f"kill commands, there are {len(kills)}; use --engine rx"
            )
        # Readers hold this dictionary, so it stays the same one.
        self.kills.update({text: FIRST_KILL + k for k, text in enumerate(kills)})
        self.reasons = (*REASONS, *kills)
        self.by_word: dict[int, str] = {word(text): text for text in (*_SPELLED, *SOURCES)}
        self.by_word |= {word(reason): reason for reason in self.reasons}
        self.source_words = np.array([word(source) for source in SOURCES], np.int64)
        self.reason_words = np.array([word(reason) for reason in self.reasons], np.int64)
        decided = [[f"{source} {reason}" for reason in self.reasons] for source in SOURCES]
        self.by_word |= {word(text): text for line in decided for text in line}
        self.decided_words = np.array([[word(text) for text in line] for line in decided], np.int64)
        """What a decision gives as its reason, by source and reason of the refusal."""
