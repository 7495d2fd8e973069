"""Limits of an account at Lighter: how often it may send, what it may send, how many may rest.

One account is shared by all markets that it trades, so it is apart from their venues. Everything
is unlimited unless it is set; ``VenueAccount.of_tier`` has the published figures.
"""

from collections import Counter, deque
from typing import Final

from msgspec import Struct
from msgspec.structs import asdict

from streams.instrument import UNIT

__all__ = ["TIER_LIMITS", "Limits", "VenueAccount"]

# Lighter docs, "Rate limits" and "Volume quota", copies of Aug/Sep 2026.
REQUEST_WINDOW_NS: Final = 60_000_000_000
MAX_VOLUME_QUOTA: Final = 5_000_000
FREE_TRANSACTION_EVERY_NS: Final = 15_000_000_000
# Revisions of the docs say $10, then $7, $5 and last $3 of traded volume for each unit (uncertain).
QUOTA_UNIT_COSTS: Final = 3 * UNIT * UNIT
"""Traded volume that earns one unit of quota, 1e-18 quote currency."""


class Limits(Struct, frozen=True, kw_only=True):
    """What an account may do; ``None`` is unlimited."""

    transactions_per_minute: int | None = None
    """API requests in any 60 seconds."""
    volume_quota: int | None = None
    """Units of volume quota to start with."""
    orders_per_account: int | None = None
    """Live orders, in all markets together."""
    orders_per_market: int | None = None
    """Live orders in each market."""


# Requests and quota: Lighter docs, copies of Aug/Sep 2026; whether Plus has a quota is uncertain.
# Live orders: another copy of the docs of 2026 (uncertain); the current one says 1500 and 1000 for
# every tier.
TIER_LIMITS: Final = {
    "standard": Limits(
        transactions_per_minute=60,
        orders_per_account=250,
        orders_per_market=30,
    ),
    "plus": Limits(
        transactions_per_minute=8_000,
        volume_quota=1_000,
        orders_per_account=750,
        orders_per_market=250,
    ),
    "premium": Limits(
        transactions_per_minute=4_000,
        volume_quota=1_000,
        orders_per_account=1_500,
        orders_per_market=1_000,
    ),
}


class VenueAccount:
    """Counts what an account has used of its limits.

    Shape: instants never go back, over all markets of the account.

    >>> account = VenueAccount(transactions_per_minute=1)
    >>> account.request(0), account.request(59_999_999_999), account.request(60_000_000_000)
    (True, False, True)
    """

    def __init__(
        self,
        *,
        transactions_per_minute: int | None = None,
        volume_quota: int | None = None,
        orders_per_account: int | None = None,
        orders_per_market: int | None = None,
    ) -> None:
        """Open an account; ``None`` is unlimited. See ``Limits``."""
        self.quota_left = volume_quota
        """Units of volume quota that are left; ``None`` when the account has no quota."""
        self._transactions_per_minute = transactions_per_minute
        self._orders_per_account = orders_per_account
        self._orders_per_market = orders_per_market
        self._requests: deque[int] = deque()
        self._unearned = 0
        self._next_free_ns: int | None = None
        self._live: Counter[str] = Counter()

    @classmethod
    def of_tier(cls, tier: str) -> "VenueAccount":
        """Open an account with the published limits of its tier.

        Errors: KeyError for a tier that is none of ``TIER_LIMITS``.
        """
        return cls(**asdict(TIER_LIMITS[tier]))

    def request(self, ts: int) -> bool:
        """Admit an API request, or tell that there were too many in the 60 seconds up to ``ts``.

        A batch is one request. A refused one is not counted (uncertain: the venue may let a
        sender who goes on wait longer).
        """
        if self._transactions_per_minute is None:
            return True
        requests = self._requests
        while requests and requests[0] <= ts - REQUEST_WINDOW_NS:
            requests.popleft()
        if len(requests) >= self._transactions_per_minute:
            return False
        requests.append(ts)
        return True

    def spend(self, ts: int, *, single: bool) -> bool:
        """Pay for one create or modify, or tell that the volume quota is spent.

        Without quota a ``single`` transaction (no batch) is free every 15 seconds, the first at
        once (uncertain).
        """
        if self.quota_left is None:
            return True
        if self.quota_left > 0:
            self.quota_left -= 1
            return True
        if not single or (self._next_free_ns is not None and ts < self._next_free_ns):
            return False
        self._next_free_ns = ts + FREE_TRANSACTION_EVERY_NS
        return True

    def earn(self, px: int, qty: int) -> None:
        """Credit a fill of ours: a unit of quota for every $3, what is over counts on.

        Units: 1e-9 quote currency, 1e-9 base units.
        """
        if self.quota_left is None:
            return
        units, self._unearned = divmod(self._unearned + px * qty, QUOTA_UNIT_COSTS)
        self.quota_left = min(self.quota_left + units, max(self.quota_left, MAX_VOLUME_QUOTA))

    def refusal(self, market: str) -> str | None:
        """Why no further order may rest in ``market``; ``None`` when one may."""
        account, per_market = self._orders_per_account, self._orders_per_market
        # Which of the codes 21717 to 21722 is for which limit is uncertain.
        if account is not None and self._live.total() >= account:
            return "21717 too many orders of the account"
        if per_market is not None and self._live[market] >= per_market:
            return "21718 too many orders in the market"
        return None

    def hold(self, market: str) -> None:
        """Count an order that rests in ``market`` or is on its way there."""
        self._live[market] += 1

    def release(self, market: str) -> None:
        """Count an order no more."""
        self._live[market] -= 1
