"""Budget: what the venue still lets us send, how much wider that makes us, and when it is gone.

Two budgets: transactions in any minute, and Lighter's volume quota, which orders cost and fills
earn. The rule, in this order:

1. Below half of what there is the requote threshold widens, in proportion to how far below
   (``widening``), up to eightfold.
2. A target that costs more than there is waits at the throttle until it is there; of the minute a
   tenth is kept for cancels, which never wait.

The quota is paced: of what is left, no more may be spent per ``horizon_ns`` than all of it, in
portions of at most a tenth at once. So it lasts, whatever the market does.
"""

from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct
from reactivex import Observable, abc
from reactivex.disposable import CompositeDisposable

from operators.operator import Link
from streams.events import OrderUpdate

__all__ = [
    "Budget", "BudgetLimits", "Forecast", "accrued", "forecast", "gone_ns", "saved_after_ns",
    "usable_a_minute", "widening",
]  # fmt: skip

MINUTE_NS = 60 * 10**9
KEPT_FOR_CANCELS = 0.1
LOW = 0.5
WIDEST = 8.0
PORTION = 0.1
FORECAST_NS = 10 * MINUTE_NS
FAR_NS = 2**62


class BudgetLimits(Struct, frozen=True, kw_only=True):
    """What an account may send; ``None`` where there is no limit."""

    transactions_per_minute: int | None = None
    """Requests in any 60 s; a batch is one."""
    volume_quota: int | None = None
    """Units at the start; a create or modify costs one."""
    quota_per: int = 3 * 10**9
    """Traded value that earns a unit, 1e-9 quote currency."""
    max_quota: int = 5_000_000
    horizon_ns: int = 23_400 * 10**9
    """How long the quota shall last at least: a cash session of six and a half hours."""


def usable_a_minute(limit: int) -> int:
    """Transactions of a minute's limit that are not kept for cancels; a step."""
    return max(1, limit - max(1, int(limit * KEPT_FOR_CANCELS)))


def saved_after_ns(lacking: float, horizon_ns: int, quota: int) -> int:
    """How long it takes until ``lacking`` orders more are saved up; a step.

    Units: ns; a quota of orders lasts for the horizon.
    """
    return int(lacking * (horizon_ns / quota)) + 1


def widening(have: float, whole: float) -> float:
    """Factor on the requote threshold when ``have`` is left of ``whole``; a step.

    1 down to a half of it, then half of the whole / what is left, at most 8.
    """
    low = whole * LOW
    if have >= low:
        return 1.0
    if have * WIDEST <= low:
        return WIDEST
    return low / have


def accrued(tokens: float, left: int, elapsed_ns: int, horizon_ns: int, cap: float) -> float:
    """What may be spent now: what could be before, and the share of the time since; a step."""
    return min(cap, tokens + left * (elapsed_ns / horizon_ns))


def gone_ns(now_ns: int, left: int, spent: int, window_ns: int) -> int:
    """When ``left`` will be gone if it goes on as in the last ``window_ns``; 0 for never; a step.

    ``spent`` in it is net of what was earned meanwhile.
    """
    if spent <= 0:
        return 0
    return now_ns + window_ns * left // spent


class Budget:
    """Keeps count of what was sent, told by the changes of our orders."""

    def __init__(self, limits: BudgetLimits, start_ns: int) -> None:
        """Start with everything there is."""
        self.limits = limits
        self.quota_left = limits.volume_quota
        """Units that are left; ``None`` without a quota."""
        self.lowest_quota = self.quota_left
        self.spent = 0
        """Units spent since the start."""
        self.earned = 0
        self.sent = 0
        """Transactions since the start."""
        self.busiest = 0
        """Most transactions in any minute."""
        self.exhausted_ns: int | None = None
        """When the quota was first spent; ``None`` while it never was."""
        self._minute: deque[int] = deque()
        self._traded = 0
        self._round = 8
        self._tokens = self._cap()
        self._counted_ns = start_ns

    def listener(self) -> Callable[[OrderUpdate], None]:
        """Make a listener for one market's changes; batches are numbered by market."""
        latest = 0

        def on_update(update: OrderUpdate) -> None:
            nonlocal latest
            if update.batch > latest:
                latest = update.batch
                self._count(update.ts)
            quota = self.quota_left
            if quota is None:
                return
            before = quota
            if update.batch and update.state in ("pending_new", "pending_modify"):
                self._accrue(update.ts)
                self._tokens -= 1.0
                if quota:  # What is sent beyond the quota costs nothing: the venue refuses it.
                    self.spent += 1
                    quota -= 1
            if update.filled and update.fill_px is not None:
                whole = self._traded + update.filled * update.fill_px // 10**9
                units, self._traded = divmod(whole, self.limits.quota_per)
                self.earned += units
                quota = min(self.limits.max_quota, quota + units)
            if update.quota_left is not None:
                quota = update.quota_left
            if quota != before:
                self._accrue(update.ts)
                self.quota_left = quota
                assert self.lowest_quota is not None
                self.lowest_quota = min(self.lowest_quota, quota)
                if not quota and self.exhausted_ns is None:
                    self.exhausted_ns = update.ts

        return on_update

    def factor(self, now_ns: int) -> float:
        """By how much the requote threshold is widened now."""
        factor = 1.0
        limit = self.limits.transactions_per_minute
        if limit is not None:
            self._forget(now_ns)
            factor = widening(limit - len(self._minute), limit)
        if self.quota_left is not None:
            self._accrue(now_ns)
            factor = max(factor, widening(self._tokens, self._cap()))
        return factor

    def earliest_ns(self, now_ns: int, cost: int) -> int:
        """When a target that creates ``cost`` orders may go; ``now_ns`` if now."""
        earliest = now_ns
        limit = self.limits.transactions_per_minute
        if limit is not None:
            self._forget(now_ns)
            over = len(self._minute) - usable_a_minute(limit)
            if over >= 0:
                earliest = self._minute[over] + MINUTE_NS
        left = self.quota_left
        if left is not None:
            self._round = max(self._round, cost)
            self._accrue(now_ns)
            if left <= cost:
                return now_ns + FAR_NS
            lacking = cost - self._tokens
            if lacking > 0.0:
                wait = saved_after_ns(lacking, self.limits.horizon_ns, left)
                earliest = max(earliest, now_ns + wait)
        return earliest

    def in_last_minute(self, now_ns: int) -> int:
        """Transactions of the last 60 s."""
        self._forget(now_ns)
        return len(self._minute)

    def _count(self, ts: int) -> None:
        self.sent += 1
        if self.limits.transactions_per_minute is not None:
            self._forget(ts)
            self._minute.append(ts)
            self.busiest = max(self.busiest, len(self._minute))

    def _forget(self, now_ns: int) -> None:
        minute = self._minute
        while minute and minute[0] <= now_ns - MINUTE_NS:
            minute.popleft()

    def _cap(self) -> float:
        # Never below one round of quotes: a portion that cannot pay for one would wait for ever.
        return max((self.quota_left or 0) * PORTION, float(self._round))

    def _accrue(self, now_ns: int) -> None:
        assert self.quota_left is not None
        elapsed, self._counted_ns = now_ns - self._counted_ns, now_ns
        self._tokens = accrued(
            self._tokens, self.quota_left, elapsed, self.limits.horizon_ns, self._cap()
        )


class Forecast(Struct, frozen=True):
    """When the quota will be gone at the rate of the last ten minutes."""

    ts: int
    quota_left: int
    spent: int
    """Net of what fills earned, within ``window_ns``."""
    window_ns: int
    gone_ns: int | None
    """``None`` when it does not shrink."""


def forecast(
    limits: BudgetLimits, orders: Sequence[Observable[OrderUpdate]]
) -> Observable[Forecast]:
    """Foretell, with every change of our orders, when the volume quota will be gone.

    Shape: one out per update while there is a quota, synchronous; none without one.
    """

    def subscribe(
        observer: abc.ObserverBase[Forecast], scheduler: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        budget: Budget | None = None
        history: deque[tuple[int, int]] = deque()
        first_ns = 0
        subscriptions = CompositeDisposable()
        listeners: dict[int, Callable[[OrderUpdate], None]] = {}

        def listen(market: int) -> Callable[[OrderUpdate], None]:
            def on_update(update: OrderUpdate) -> None:
                nonlocal budget, first_ns
                ts = update.ts
                if budget is None:
                    budget, first_ns = Budget(limits, ts), ts
                if market not in listeners:
                    listeners[market] = budget.listener()
                before = budget.quota_left
                listeners[market](update)
                left = budget.quota_left
                if before is None or left is None:
                    return
                if left != before:
                    history.append((ts, before - left))
                while history and history[0][0] <= ts - FORECAST_NS:
                    history.popleft()
                window = min(ts - first_ns, FORECAST_NS)
                spent = sum(change for _, change in history)
                gone = gone_ns(ts, left, spent, window) if window else 0
                observer.on_next(Forecast(ts, left, spent, window, gone or None))

            return on_update

        for i, changes in enumerate(orders):
            subscriptions.add(changes.subscribe(listen(i), observer.on_error, scheduler=scheduler))
        return subscriptions

    return Link(subscribe)
