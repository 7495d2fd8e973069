"""Faults: what a stand-in does wrong on purpose, when and how often.

A server asks at each place where it could do something wrong: ``active`` for what lasts (a stall),
``take`` for what happens a number of times (a lost answer). Each server has ``Faults`` of its own.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias, get_args

from msgspec import Struct

__all__ = ["CONNECTION_KINDS", "GATEWAY_KINDS", "VENUE_KINDS", "Fault", "FaultKind", "Faults"]

FaultKind: TypeAlias = Literal[
    "drop", "rst", "stall", "delay", "duplicate", "reorder", "malformed", "gap", "refuse",
    "slow_reader", "session_restart",
    "http_429", "http_405", "http_5xx", "lost_ack", "late_fill", "nonce_rejected", "quota_spent",
    "shutdown", "token_expiry",
]  # fmt: skip
"""What can go wrong.

``drop``, ``rst``: every open connection is closed, with FIN or with RST. ``stall``: nothing is
sent, no heartbeat either; afterwards everything comes at once. ``delay``: everything is sent
``amount`` seconds late. ``duplicate``, ``gap``, ``malformed``: a message is sent twice, not at all,
or as rubbish. ``reorder``: a message is sent after the next one. ``refuse``: who connects is turned
away. ``slow_reader``: the server holds its client for one that reads too slowly.
``session_restart``: every open connection is closed, and what sessions number anew has other
numbers.

Of a venue: ``http_429``, ``http_405``, ``http_5xx``: the answer to a request. ``lost_ack``: a
transaction is executed and never answered. ``late_fill``: a fill is told ``amount`` seconds late.
``nonce_rejected``, ``quota_spent``: the refusal of a transaction. ``shutdown``: the venue announces
an end and leaves. ``token_expiry``: a token that was valid is no more.
"""

CONNECTION_KINDS: Final[tuple[FaultKind, ...]] = (
    "drop", "rst", "stall", "delay", "duplicate", "reorder", "malformed", "gap", "refuse",
)  # fmt: skip
"""What can go wrong with any connection."""

GATEWAY_KINDS: Final[tuple[FaultKind, ...]] = (*CONNECTION_KINDS, "slow_reader", "session_restart")
"""What the stand-in for the quote gateway does."""

VENUE_KINDS: Final[tuple[FaultKind, ...]] = (
    *CONNECTION_KINDS,
    "http_429", "http_405", "http_5xx", "lost_ack", "late_fill", "nonce_rejected", "quota_spent",
    "shutdown", "token_expiry",
)  # fmt: skip
"""What the stand-in for the venue may do."""

_LASTING: Final = ("stall", "delay", "slow_reader", "refuse")


class Fault(Struct, frozen=True):
    """One thing that goes wrong."""

    kind: FaultKind
    at: float | None = None
    """When, seconds of the wall after the playback's start; ``None``: when it is triggered."""
    for_secs: float = 0.0
    """How long it lasts, seconds. 0: what is counted stays due until it has happened ``count``
    times, and what lasts does not happen."""
    count: int | None = 1
    """How many times it happens at most; ``None``: as often as it is asked for in ``for_secs``."""
    amount: float = 0.0
    """How much, for kinds that have a size: seconds late."""
    text: str = ""
    """Details, for kinds that come in several forms; see the server."""

    def __post_init__(self) -> None:
        """Refuse what could never happen, or never end."""
        if self.kind not in get_args(FaultKind):
            raise ValueError(
                f"fault kind must be one of {', '.join(get_args(FaultKind))}, was {self.kind!r}"
            )
        if self.at is not None and not math.isfinite(self.at):
            raise ValueError(f"at of a fault must be seconds after the start, was {self.at!r}")
        if self.for_secs < 0 or self.amount < 0:
            raise ValueError(
                f"for_secs and amount of a fault must not be negative, were {self.for_secs!r} "
                f"and {self.amount!r}"
            )
        if self.count is None and not self.for_secs:
            raise ValueError(
                f"a fault without a count must say for how long, or {self.kind!r} never ends; "
                f"set for_secs or count"
            )
        if self.count is not None and self.count < 1:
            raise ValueError(f"count of a fault must be at least 1 or None, was {self.count}")


class _Entry:
    """A fault, and how much of it has happened."""

    __slots__ = ("fault", "triggered_at", "used")

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.triggered_at: float | None = None
        self.used = 0

    def age(self, now: float | None) -> float:
        """Seconds since it is due; negative before."""
        if self.triggered_at is not None:
            return time.monotonic() - self.triggered_at
        if self.fault.at is None or now is None:
            return -1.0
        return now - self.fault.at


class Faults:
    """A list of faults, and what of it has happened.

    ``now`` is always seconds of the wall since the playback's start, ``None`` before it
    (``Playback.elapsed_secs``). Thread-safe: ``trigger`` may be called from another thread than the
    server's.
    """

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        """Arm the faults. An instance serves one server once."""
        self._entries = [_Entry(fault) for fault in faults]
        self._lock = threading.Lock()

    @classmethod
    def none(cls) -> Faults:
        """A server that does nothing wrong, unless told with ``trigger``."""
        return cls()

    @classmethod
    def random(cls, seed: int, kinds: Sequence[FaultKind], span_secs: float, n: int) -> Faults:
        """Draw ``n`` faults of ``kinds`` over ``span_secs``; the same for the same arguments."""
        if n and not kinds:
            raise ValueError(f"{n} faults need at least one kind; give some of FaultKind")
        source = random.Random(seed)
        starts = sorted(source.uniform(0.0, span_secs) for _ in range(n))
        faults = []
        for at in starts:
            kind = source.choice(kinds)
            lasting = kind in _LASTING
            faults.append(
                Fault(
                    kind=kind,
                    at=at,
                    for_secs=source.uniform(0.05, max(0.05, span_secs / 10)) if lasting else 0.0,
                    count=1 if lasting else source.randint(1, 3),
                    amount=source.uniform(0.01, 0.5),
                )
            )
        return cls(faults)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What may happen or has happened."""
        with self._lock:
            return tuple(entry.fault for entry in self._entries)

    @property
    def happened(self) -> dict[FaultKind, int]:
        """How many times each kind was taken, or began."""
        with self._lock:
            counts: dict[FaultKind, int] = {}
            for entry in self._entries:
                if entry.used:
                    kind = entry.fault.kind
                    counts[kind] = counts.get(kind, 0) + entry.used
            return counts

    def trigger(
        self,
        kind: FaultKind,
        *,
        for_secs: float = 0.0,
        count: int | None = 1,
        amount: float = 0.0,
        text: str = "",
    ) -> Fault:
        """Let it happen now: the first waiting fault of this kind, or one as described here."""
        with self._lock:
            for entry in self._entries:
                waits = entry.fault.at is None and entry.triggered_at is None
                if waits and entry.fault.kind == kind:
                    break
            else:
                entry = _Entry(
                    Fault(kind=kind, for_secs=for_secs, count=count, amount=amount, text=text)
                )
                self._entries.append(entry)
            entry.triggered_at = time.monotonic()
            return entry.fault

    def active(self, kind: FaultKind, now: float | None) -> Fault | None:
        """The fault of this kind that lasts at ``now``, or none."""
        with self._lock:
            for entry in self._entries:
                if entry.fault.kind == kind and 0.0 <= entry.age(now) < entry.fault.for_secs:
                    entry.used = max(entry.used, 1)
                    return entry.fault
            return None

    def take(self, kind: FaultKind, now: float | None) -> Fault | None:
        """Use up one of a fault of this kind that is due at ``now``, or none is.

        One that lasts can be taken while it does; one that does not, until it is used up.
        """
        with self._lock:
            for entry in self._entries:
                fault = entry.fault
                if fault.kind != kind:
                    continue
                age = entry.age(now)
                in_time = age >= 0.0 and (not fault.for_secs or age < fault.for_secs)
                if in_time and (fault.count is None or entry.used < fault.count):
                    entry.used += 1
                    return fault
            return None
