"""How much a client may do at the Lighter stand-in: requests, connections, messages, windows."""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from sinks.limits import TIER_LIMITS, Limits

__all__ = ["WEIGHTS", "LighterLimits", "Window", "weight_of"]

_MINUTE_NS: Final = 60_000_000_000

# Lighter docs, "Rate limits", copies of Aug/Sep 2026; what is not named weighs 300.
WEIGHTS: Final = {
    "sendTx": 6, "sendTxBatch": 6, "nextNonce": 6, "accountInactiveOrders": 100, "apikeys": 150,
    "recentTrades": 600,
}  # fmt: skip
_OTHER_WEIGHT: Final = 300


class LighterLimits(Struct, frozen=True, kw_only=True):
    """What the venue allows; ``None`` is unlimited.

    Source: Lighter docs, "Rate limits", "Trading" and "API keys", copies of Aug/Sep 2026.
    """

    account: Limits = Limits()
    """Transactions, volume quota and live orders of each account."""
    requests_per_minute: int | None = None
    """REST requests of an address in any 60 seconds, weighted with ``weighted``."""
    weighted: bool = True
    """Count a request by its weight; without it by one, and transactions over the WebSocket count
    with the REST requests (the Standard tier)."""
    connections: int = 255
    connections_per_minute: int = 255
    subscriptions: int = 500
    """Of one connection."""
    messages_per_minute: int = 200
    """Of one connection, those that are no transactions."""
    batch: int = 15
    """Transactions of one batch; an older copy of the docs says 50 (uncertain)."""
    idle_secs: float = 120.0
    """A client that sends nothing for so long is disconnected."""
    ping_secs: float = 60.0
    """How often the venue asks for a pong (uncertain)."""
    pong_secs: float = 30.0
    """How long it waits for one (uncertain)."""
    backlog: int = 10_000
    """Frames that a slow reader may leave unread before it is disconnected (uncertain)."""
    token_secs: int = 8 * 3600
    """How far ahead a token may expire."""
    cancel_all_least_ms: int = 300_000
    cancel_all_most_ms: int = 15 * 86_400_000
    expiry_least_ms: int = 300_000
    expiry_most_ms: int = 30 * 86_400_000

    @classmethod
    def of_tier(cls, tier: str) -> LighterLimits:
        """Give the published limits of an account tier.

        Errors: KeyError for an unknown tier.
        """
        requests, weighted = _REQUESTS[tier]
        return cls(account=TIER_LIMITS[tier], requests_per_minute=requests, weighted=weighted)

    def without_rates(self) -> LighterLimits:
        """Give the same limits, with as many transactions, requests and messages as one likes."""
        return replace(
            self,
            account=replace(self.account, transactions_per_minute=None),
            requests_per_minute=None,
            connections_per_minute=1_000_000,
            messages_per_minute=1_000_000,
        )


_REQUESTS: Final = {"standard": (60, False), "plus": (120_000, True), "premium": (24_000, True)}


class Window:
    """Counts weights in a sliding minute.

    >>> window = Window(10)
    >>> window.admit(0, 6), window.admit(1, 6), window.admit(60_000_000_000, 6)
    (True, False, True)
    """

    def __init__(self, most: int | None) -> None:
        """Admit ``most`` in any 60 seconds; ``None`` is unlimited."""
        self._most = most
        self._seen: deque[tuple[int, int]] = deque()
        self._used = 0

    def admit(self, ts: int, weight: int = 1) -> bool:
        """Count ``weight``, or tell that it is too much; what is refused is not counted."""
        if self._most is None:
            return True
        while self._seen and self._seen[0][0] <= ts - _MINUTE_NS:
            self._used -= self._seen.popleft()[1]
        if self._used + weight > self._most:
            return False
        self._seen.append((ts, weight))
        self._used += weight
        return True


def weight_of(path: str) -> int:
    """Weight of a REST request by the last part of its path."""
    return WEIGHTS.get(path.rsplit("/", 1)[-1], _OTHER_WEIGHT)
