"""The simulated venue: resting orders against recorded books, answers as inputs.

It sees what was recorded, not what our orders would have changed. A fill in it is a claim about
the model, not about the market: ``touch`` is optimistic, ``cross`` pessimistic.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Literal

from msgspec import Struct

from sinks.venue import Cancel, Command, Create
from streams.clock import NEVER
from streams.events import BUY, AccountEvent
from streams.instrument import UNIT, Instrument

__all__ = ["TIER_FEES_PPM", "FillModel", "SimulatedVenue", "fee_of"]

FillModel = Literal["touch", "cross"]

# Lighter fee schedule by account tier (maker, taker) in millionths; copies of August/September
# 2026. Standard trades free; Premium's first step without staked LIT.
TIER_FEES_PPM: Final = {"standard": (0, 0), "plus": (50, 50), "premium": (40, 280)}

_NO_BUY: Final = -1
_NO_SELL: Final = NEVER


class _Resting(Struct):
    create: Create
    crosses_at: int
    """The opposite best price that fills it."""


def fee_of(px: int, qty: int, fee_ppm: int) -> int:
    """Fee of a fill in 1e-9 quote currency, rounded up: the venue never rounds in our favour."""
    return int(-(-px * qty * fee_ppm // (UNIT * 1_000_000)))


class SimulatedVenue:
    """Matches post-only limit orders, whole and at their price, against the recorded BBO.

    On each target quote it matches, then expires, in order of arrival. ``touch`` fills a resting
    order when the opposite best reaches its price; ``cross`` when it goes through it. With a
    latency, a command takes effect that much later and is answered at that instant.
    """

    def __init__(
        self,
        instrument: Instrument,
        answer: Callable[[AccountEvent], None],
        *,
        fill_model: FillModel = "touch",
        latency_ns: int = 0,
        tier: str = "standard",
    ) -> None:
        """Open the venue; ``answer`` queues an account event as an input."""
        self.next_due_ns = NEVER
        self.counts: Counter[str] = Counter()
        """Commands taken and refused, by kind."""
        self._instrument = instrument
        self._answer = answer
        # A buy fills when ask <= px; strictly through the price is ask <= px − 1.
        self._through = 1 if fill_model == "cross" else 0
        self._latency_ns = latency_ns
        self._maker_ppm, self._taker_ppm = TIER_FEES_PPM[tier]
        self._bid: int | None = None
        self._ask: int | None = None
        self._resting: dict[int, _Resting] = {}
        self._best_buy = _NO_BUY
        self._best_sell = _NO_SELL
        self._next_expiry = NEVER
        self._on_the_way: list[tuple[int, int, Command]] = []
        self._sent = 0
        self._trades = 0

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        """Take a batch of commands at ``ts``."""
        if not self._latency_ns:
            for command in commands:
                self._take(ts, command)
            return
        for command in commands:
            self._sent += 1
            heapq.heappush(self._on_the_way, (ts + self._latency_ns, self._sent, command))
        self.next_due_ns = self._on_the_way[0][0]

    def advance(self, until_ns: int) -> None:
        """Let the commands take effect that arrive at or before ``until_ns``."""
        while self._on_the_way and self._on_the_way[0][0] <= until_ns:
            due, _, command = heapq.heappop(self._on_the_way)
            self._take(due, command)
        self.next_due_ns = self._on_the_way[0][0] if self._on_the_way else NEVER

    def on_quote(self, ts: int, bid_px: int | None, ask_px: int | None) -> None:
        """Match resting orders against a new BBO, then expire what is due."""
        self._bid, self._ask = bid_px, ask_px
        if (
            (ask_px is not None and ask_px <= self._best_buy)
            or (bid_px is not None and bid_px >= self._best_sell)
            or ts >= self._next_expiry
        ):
            self._match(ts)

    def _match(self, ts: int) -> None:
        bid, ask = self._bid, self._ask
        for n, resting in list(self._resting.items()):
            if resting.create.side == BUY:
                fills = ask is not None and ask <= resting.crosses_at
            else:
                fills = bid is not None and bid >= resting.crosses_at
            if fills:
                del self._resting[n]
                create = resting.create
                assert create.px is not None
                self._fill(ts, create, create.px, "MAKER", self._maker_ppm)
        for n, resting in list(self._resting.items()):
            if resting.create.expire_ts is not None and resting.create.expire_ts <= ts:
                del self._resting[n]
                self._say(ts, "expire", n)
        self._refresh()

    def _take(self, ts: int, command: Command) -> None:
        if isinstance(command, Cancel):
            self.counts["cancel"] += 1
            if self._resting.pop(command.n, None) is None:
                self._say(ts, "cancel_reject", command.n, "not open")
            else:
                self._say(ts, "cancel", command.n, "requested")
                self._refresh()
            return
        self.counts["create"] += 1
        refusal = self._refusal(command)
        if refusal:
            self._say(ts, "reject", command.n, refusal)
            return
        self._say(ts, "ack", command.n)
        if command.is_market:
            px = self._ask if command.side == BUY else self._bid
            assert px is not None
            self._fill(ts, command, px, "TAKER", self._taker_ppm)
            return
        assert command.px is not None
        through = self._through if command.side == BUY else -self._through
        self._resting[command.n] = _Resting(command, command.px - through)
        self._refresh()

    def _refusal(self, create: Create) -> str | None:
        opposite = self._ask if create.side == BUY else self._bid
        if create.px is None:
            return "no liquidity" if opposite is None else None
        if create.px <= 0 or create.px % self._instrument.tick_size:
            return "price off the tick"
        if create.qty < self._instrument.min_base_amount:
            return "below the minimum base amount"
        if create.px * create.qty < self._instrument.min_quote_amount * UNIT:
            return "below the minimum quote amount"
        if opposite is not None and create.side * (create.px - opposite) >= 0:
            return "post-only would cross"
        return None

    def _fill(self, ts: int, create: Create, px: int, liquidity: str, fee_ppm: int) -> None:
        self._trades += 1
        self._answer(
            AccountEvent(
                seq=0, ts=ts, kind="fill", n=create.n, venue_id=str(self._trades), px=px,
                qty=create.qty, fee=fee_of(px, create.qty, fee_ppm), liquidity=liquidity,
            )
        )  # fmt: skip

    def _say(
        self,
        ts: int,
        kind: Literal["ack", "reject", "cancel", "cancel_reject", "expire"],
        n: int,
        reason: str | None = None,
    ) -> None:
        self._answer(AccountEvent(seq=0, ts=ts, kind=kind, n=n, reason=reason))

    def _refresh(self) -> None:
        """Recompute the prices and the instant at which a quote must be looked at closely."""
        self._best_buy, self._best_sell, self._next_expiry = _NO_BUY, _NO_SELL, NEVER
        for resting in self._resting.values():
            if resting.create.side == BUY:
                self._best_buy = max(self._best_buy, resting.crosses_at)
            else:
                self._best_sell = min(self._best_sell, resting.crosses_at)
            if resting.create.expire_ts is not None:
                self._next_expiry = min(self._next_expiry, resting.create.expire_ts)


class SilentVenue:
    """Takes commands and answers nothing: the answers are in the recording."""

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        """Ignore the batch."""
