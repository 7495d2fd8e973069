"""Budget: transactions of the minute and the volume quota, with the arithmetic beside them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.budget import (
    MINUTE_NS,
    Budget,
    BudgetLimits,
    Forecast,
    accrued,
    forecast,
    gone_ns,
    widening,
)
from streams.events import BUY, OrderUpdate
from streams.pump import Hot
from tests.marbles import subscribers

SECOND = 1_000_000_000
UNIT = 1_000_000_000
HORIZON = 1_000 * SECOND


def update(ts: int, state: str = "pending_new", batch: int = 0, **other: Any) -> OrderUpdate:
    return OrderUpdate(ts=ts, n=1, side=BUY, state=state, leaves=1, px=UNIT, batch=batch, **other)


def fill(ts: int, size: int, px: int, **other: Any) -> OrderUpdate:
    return update(ts, "open", filled=size, fill_px=px, **other)


class Account:
    """A budget with one market that sends batch after batch."""

    def __init__(self, start_ns: int = 0, **limits: int) -> None:
        self.budget = Budget(BudgetLimits(**limits), start_ns)
        self.tell = self.budget.listener()
        self.batch = 0

    def send(self, ts: int, creates: int = 1, *, state: str = "pending_new") -> None:
        self.batch += 1
        for _ in range(creates):
            self.tell(update(ts, state, self.batch))

    def cancel(self, ts: int) -> None:
        self.send(ts, state="pending_cancel")


# ---------------------------------------------------------------- the formulas


@pytest.mark.parametrize(
    ("have", "factor"),
    [
        (1_000.0, 1.0),
        (501.0, 1.0),
        (500.0, 1.0),  # a half is enough
        (400.0, 500 / 400),
        (250.0, 2.0),
        (100.0, 5.0),
        (62.5, 8.0),
        (62.0, 8.0),  # never more than eightfold
        (0.0, 8.0),
        (-5.0, 8.0),
    ],
)
def test_below_a_half_the_threshold_widens_in_proportion(have: float, factor: float) -> None:
    assert widening(have, 1_000.0) == factor


def test_what_may_be_spent_grows_by_its_share_of_the_horizon_up_to_the_cap() -> None:
    # 1,000 left in 100 s: 10 a second.
    assert accrued(3.0, 1_000, 2 * SECOND, 100 * SECOND, 100.0) == 3 + 1_000 * 0.02
    assert accrued(90.0, 1_000, 2 * SECOND, 100 * SECOND, 100.0) == 100.0
    assert accrued(-5.0, 1_000, SECOND // 2, 100 * SECOND, 100.0) == 0.0
    assert accrued(5.0, 1_000, 0, 100 * SECOND, 100.0) == 5.0


def test_the_end_is_foretold_by_the_rate_of_the_window() -> None:
    # 20 in 10 s, 100 left: 50 s more.
    assert gone_ns(7 * SECOND, 100, 20, 10 * SECOND) == 57 * SECOND
    assert gone_ns(0, 100, 3, 10) == 333
    assert gone_ns(7, 100, 0, 10) == 0
    assert gone_ns(7, 100, -4, 10) == 0
    assert gone_ns(7, 0, 4, 10) == 7


# ---------------------------------------------------------------- transactions


def test_a_batch_is_one_transaction_whatever_is_in_it() -> None:
    account = Account(transactions_per_minute=10)
    account.send(0, creates=6)
    account.send(5)
    account.cancel(9)

    assert account.budget.sent == 3
    assert account.budget.in_last_minute(10) == 3
    assert account.budget.busiest == 3


def test_the_venues_answers_are_no_transactions() -> None:
    account = Account(transactions_per_minute=10, volume_quota=100)
    account.send(0)
    account.tell(update(5, "open"))
    account.tell(update(6, "cancelled"))

    assert (account.budget.sent, account.budget.quota_left) == (1, 99)


def test_a_transaction_counts_for_sixty_seconds_to_the_ns() -> None:
    account = Account(transactions_per_minute=10)
    account.send(7)
    account.send(8)

    assert MINUTE_NS == 60 * SECOND
    assert account.budget.in_last_minute(7 + MINUTE_NS - 1) == 2
    assert account.budget.in_last_minute(7 + MINUTE_NS) == 1
    assert account.budget.in_last_minute(8 + MINUTE_NS) == 0
    assert account.budget.busiest == 2


def test_the_busiest_minute_is_any_sixty_seconds() -> None:
    account = Account(transactions_per_minute=10)
    for second in (0, 50, 55, 60, 65, 70, 200):
        account.send(second * SECOND)

    # After 0 s up to 60 s, 50 to 70: five; the one of 0 s is out at 60 s.
    assert account.budget.busiest == 5


@pytest.mark.parametrize(
    ("limit", "usable"),
    [(100, 90), (60, 54), (10, 9), (11, 10), (5, 4), (2, 1), (1, 1)],
)
def test_a_tenth_of_the_minute_and_at_least_one_is_kept_for_cancels(
    limit: int, usable: int
) -> None:
    account = Account(transactions_per_minute=limit)
    for i in range(usable):
        assert account.budget.earliest_ns(i, 2) == i
        account.send(i)

    # All usable ones went: until the first of them is a minute old.
    assert account.budget.earliest_ns(usable, 2) == MINUTE_NS
    assert account.budget.earliest_ns(MINUTE_NS - 1, 2) == MINUTE_NS
    assert account.budget.earliest_ns(MINUTE_NS, 2) == MINUTE_NS


def test_cancels_push_a_target_back_to_when_enough_of_them_are_old() -> None:
    account = Account(transactions_per_minute=10)  # 9 usable
    for second in range(11):
        account.cancel(second * SECOND)

    # 11 sent: the third must be a minute old before 8 are left.
    assert account.budget.earliest_ns(10 * SECOND, 2) == 2 * SECOND + MINUTE_NS


def test_the_threshold_widens_with_the_minute() -> None:
    account = Account(transactions_per_minute=10)
    factors = []
    for i in range(11):
        factors.append(account.budget.factor(i))
        account.send(i)

    # 10, 9, 8, 7, 6, 5 of 10 are left: not below half. Then 5/4, 5/3, 5/2, 5/1 and 8.
    assert factors == [1.0] * 6 + [5 / 4, 5 / 3, 5 / 2, 5.0, 8.0]
    # Sent at 0 to 10 ns: at 60 s and 4 ns the last six count, one ns later five.
    assert account.budget.factor(MINUTE_NS + 4) == 5 / 4
    assert account.budget.factor(MINUTE_NS + 5) == 1.0


def test_without_limits_nothing_waits_and_nothing_widens() -> None:
    account = Account()
    for i in range(1_000):
        account.send(i, creates=5)

    assert account.budget.factor(1_000) == 1.0
    assert account.budget.earliest_ns(1_000, 99) == 1_000
    assert account.budget.quota_left is account.budget.lowest_quota is None
    assert account.budget.exhausted_ns is None
    assert account.budget.sent == 1_000


# ---------------------------------------------------------------- quota


def test_a_create_and_a_modify_cost_a_unit_and_a_cancel_nothing() -> None:
    account = Account(volume_quota=1_000)
    account.send(0, creates=3)
    account.send(1, state="pending_modify")
    account.cancel(2)

    assert account.budget.quota_left == account.budget.lowest_quota == 996
    assert account.budget.spent == 4


def test_fills_earn_and_what_is_short_of_a_unit_is_carried_over() -> None:
    # A unit per 3 of traded value: 2 * 2 = 4 is one and 1 over; 1 + 5 = 6 is two and nothing.
    account = Account(volume_quota=1_000, quota_per=3 * UNIT)
    account.tell(fill(0, 2 * UNIT, 2 * UNIT))
    assert (account.budget.earned, account.budget.quota_left) == (1, 1_001)

    account.tell(fill(1, UNIT, 5 * UNIT))
    assert (account.budget.earned, account.budget.quota_left) == (3, 1_003)
    account.tell(fill(2, UNIT, 3 * UNIT - 1))
    assert account.budget.earned == 3
    account.tell(fill(3, 1, UNIT))
    assert account.budget.earned == 4
    assert account.budget.lowest_quota == 1_000


def test_the_quota_never_exceeds_the_most_there_may_be() -> None:
    account = Account(volume_quota=10, max_quota=12, quota_per=UNIT)
    account.tell(fill(0, 50 * UNIT, UNIT))

    assert account.budget.quota_left == 12


def test_what_the_venue_tells_stands_above_our_own_count() -> None:
    account = Account(volume_quota=1_000)
    account.send(0, creates=5)
    account.tell(update(1, "open", quota_left=700))
    assert account.budget.quota_left == account.budget.lowest_quota == 700

    account.send(2)
    assert account.budget.quota_left == 699
    account.tell(fill(3, UNIT, 30 * UNIT, quota_left=900))
    assert account.budget.quota_left == 900
    assert account.budget.lowest_quota == 699
    account.tell(update(4, "pending_new", account.batch + 1, quota_left=0))
    assert (account.budget.quota_left, account.budget.exhausted_ns) == (0, 4)


def test_the_instant_when_the_quota_was_first_spent_is_kept() -> None:
    account = Account(volume_quota=2, quota_per=UNIT)
    account.send(5)
    assert account.budget.exhausted_ns != 5
    account.send(6)
    account.tell(fill(7, UNIT, UNIT))
    account.send(8)

    assert (account.budget.quota_left, account.budget.exhausted_ns) == (0, 6)
    assert account.budget.lowest_quota == 0


def test_what_is_sent_beyond_the_quota_costs_nothing() -> None:
    account = Account(volume_quota=2)
    account.send(5, creates=4)

    assert (account.budget.quota_left, account.budget.spent) == (0, 2)


def test_a_target_may_spend_a_tenth_of_the_quota_at_once_and_then_waits_for_its_pace() -> None:
    # 1,000 in 1,000 s: a portion of 100 at once.
    account = Account(volume_quota=1_000, horizon_ns=HORIZON)
    assert account.budget.earliest_ns(0, 100) == 0
    account.send(0, creates=100)

    # 900 left: 2 take 2/900 of the horizon, 2.22 s, and one ns to be on the safe side.
    assert account.budget.earliest_ns(0, 2) == int(2 * (HORIZON / 900)) + 1 == 2_222_222_223
    assert account.budget.earliest_ns(SECOND, 2) == pytest.approx(2_222_222_223, abs=2)
    assert account.budget.earliest_ns(2_222_222_225, 2) == 2_222_222_225


def test_what_accrues_stops_at_a_tenth() -> None:
    account = Account(volume_quota=1_000, horizon_ns=HORIZON)
    assert account.budget.earliest_ns(10 * HORIZON, 100) == 10 * HORIZON
    account.send(10 * HORIZON, creates=100)

    assert account.budget.earliest_ns(10 * HORIZON, 1) > 10 * HORIZON


def test_a_target_that_would_take_all_that_is_left_waits_for_ever() -> None:
    account = Account(volume_quota=8, horizon_ns=HORIZON)

    assert account.budget.earliest_ns(0, 7) == 0
    assert account.budget.earliest_ns(0, 8) > 10**18
    assert account.budget.earliest_ns(0, 9) > 10**18


@pytest.mark.parametrize("cost", [2, 8, 9, 10, 20])
def test_a_round_that_costs_more_than_a_tenth_of_the_quota_is_paid_for_in_the_end(
    cost: int,
) -> None:
    # 30 left: a tenth is 3, and a ladder of ten a side costs 20.
    account = Account(volume_quota=30, horizon_ns=HORIZON)
    now = account.budget.earliest_ns(0, cost)
    for _ in range(5):
        account.budget.factor(now)
        now = account.budget.earliest_ns(now, cost)

    assert account.budget.earliest_ns(now, cost) == now <= HORIZON


def test_the_threshold_widens_with_the_portion_of_the_quota() -> None:
    account = Account(volume_quota=1_000, horizon_ns=10**6 * HORIZON)
    account.send(0, creates=50)
    # 50 of a cap of 95, a tenth of 950: above a half.
    assert account.budget.factor(0) == 1.0

    account.send(0, creates=25)
    # 25 of 92.5: half of it is 46.25.
    assert account.budget.factor(0) == 46.25 / 25


def test_of_both_budgets_the_lower_one_counts() -> None:
    account = Account(transactions_per_minute=10, volume_quota=1_000, horizon_ns=HORIZON)
    for _ in range(7):
        account.send(0)
    assert account.budget.factor(0) == 5 / 3
    account.send(0, creates=93)
    assert account.budget.factor(0) == 8.0

    account.send(0)
    # Nine transactions: the next at 60 s; the quota's portion is back a little later or sooner.
    assert account.budget.earliest_ns(0, 1) == MINUTE_NS
    assert account.budget.earliest_ns(0, 90) > MINUTE_NS


def test_batches_of_several_markets_are_counted_apart_and_together() -> None:
    budget = Budget(BudgetLimits(transactions_per_minute=100, volume_quota=1_000), 0)
    one, two = budget.listener(), budget.listener()
    for market in (one, two):
        market(update(0, batch=1))
        market(update(0, batch=1))
        market(update(1, batch=2))

    assert (budget.sent, budget.spent, budget.quota_left) == (4, 6, 994)


# ---------------------------------------------------------------- forecast


def foretold(limits: BudgetLimits, *updates: OrderUpdate) -> list[Forecast]:
    source: Hot[OrderUpdate] = Hot()
    seen: list[Forecast] = []
    forecast(limits, [source]).subscribe(seen.append)
    for one in updates:
        source.push(one)
    return seen


def test_the_forecast_takes_the_rate_since_the_start_at_first() -> None:
    limits = BudgetLimits(volume_quota=100)

    seen = foretold(limits, *(update(i * SECOND, batch=i + 1) for i in range(3)))

    assert seen == [
        Forecast(0, 99, 1, 0, None),  # no time has passed
        Forecast(SECOND, 98, 2, SECOND, SECOND + 49 * SECOND),  # 2 in 1 s, 98 left
        Forecast(2 * SECOND, 97, 3, 2 * SECOND, 2 * SECOND + 2 * SECOND * 97 // 3),
    ]


def test_the_forecast_is_of_the_last_ten_minutes_and_net_of_what_fills_earned() -> None:
    limits = BudgetLimits(volume_quota=100, quota_per=UNIT)
    minute = MINUTE_NS
    seen = foretold(
        limits,
        update(0, batch=1),
        update(minute, batch=2),
        update(11 * minute, batch=3),
        fill(12 * minute, 3 * UNIT, UNIT),
        update(13 * minute, "open"),
    )

    assert [(one.quota_left, one.spent, one.window_ns // minute) for one in seen] == [
        (99, 1, 0),
        (98, 2, 1),
        (97, 1, 10),  # what was spent at 1 min is 10 min old and out
        (100, -2, 10),
        (100, -2, 10),
    ]
    assert [one.gone_ns for one in seen] == [
        None, minute + 49 * minute, (11 + 970) * minute, None, None,
    ]  # fmt: skip


def test_the_forecast_takes_what_the_venue_tells() -> None:
    seen = foretold(
        BudgetLimits(volume_quota=100), update(0, batch=1), update(SECOND, "open", quota_left=50)
    )

    assert seen[-1] == Forecast(SECOND, 50, 50, SECOND, 2 * SECOND)


def test_without_a_quota_there_is_nothing_to_foretell() -> None:
    assert foretold(BudgetLimits(transactions_per_minute=10), update(0, batch=1)) == []


def test_the_forecast_counts_the_batches_of_several_markets() -> None:
    one: Hot[OrderUpdate] = Hot()
    two: Hot[OrderUpdate] = Hot()
    seen: list[Forecast] = []
    subscription = forecast(BudgetLimits(volume_quota=100), [one, two]).subscribe(seen.append)
    one.push(update(0, batch=1))
    two.push(update(0, batch=1))
    one.push(update(SECOND, batch=2))
    assert [now.quota_left for now in seen] == [99, 98, 97]
    assert subscribers(one, two) == 2

    subscription.dispose()

    assert subscribers(one, two) == 0


def test_two_subscriptions_to_a_forecast_share_no_count() -> None:
    source: Hot[OrderUpdate] = Hot()
    foretelling = forecast(BudgetLimits(volume_quota=100), [source])
    early: list[Forecast] = []
    late: list[Forecast] = []
    foretelling.subscribe(early.append)
    source.push(update(0, batch=1))
    foretelling.subscribe(late.append)
    source.push(update(1, batch=2))

    assert [now.quota_left for now in early] == [99, 98]
    assert [now.quota_left for now in late] == [99]


def test_an_error_of_any_market_travels_to_the_forecast() -> None:
    one: Hot[OrderUpdate] = Hot()
    ends: list[str] = []
    forecast(BudgetLimits(volume_quota=100), [Hot(), one]).subscribe(
        on_error=lambda e: ends.append(str(e))
    )
    for observer in one._observers:
        observer.on_error(ValueError("broke"))

    assert ends == ["broke"]


# ---------------------------------------------------------------- whatever the market does


@settings(max_examples=150, deadline=None)
@given(
    wishes=st.lists(
        st.tuples(
            st.one_of(st.integers(0, 5 * SECOND), st.integers(0, 90 * SECOND)),
            st.integers(1, 12),
            st.integers(0, 9),
        ),
        max_size=150,
    ),
    transactions=st.integers(2, 60),
    quota=st.integers(1, 400),
    horizon=st.integers(SECOND, HORIZON),
)
def test_targets_that_wait_for_their_instant_never_spend_all_nor_pass_the_minutes_limit(
    wishes: list[tuple[int, int, int]], transactions: int, quota: int, horizon: int
) -> None:
    """Each wish comes after a while, is held until its instant, and replaces what is held.

    A withdrawal now and then cancels without waiting, out of the part that is kept for it.
    """
    account = Account(transactions_per_minute=transactions, volume_quota=quota, horizon_ns=horizon)
    budget = account.budget
    kept = max(1, int(transactions * 0.1))
    sent: list[int] = []
    cancels: list[int] = []
    now, held, spent = 0, 0, 0

    def within(times: list[int], end: int) -> int:
        return sum(1 for ts in times if end - MINUTE_NS < ts <= end)

    def go(at: int, cost: int) -> None:
        nonlocal spent
        assert budget.earliest_ns(at, cost) == at
        account.send(at, creates=cost)
        sent.append(at)
        spent += cost

    for wait, cost, withdraw in wishes:
        # What is held goes when it may, if that is before the next wish.
        until = now + wait
        while held:
            due = budget.earliest_ns(now, held)
            if due > until:
                break
            now = due
            if budget.earliest_ns(now, held) == now:
                go(now, held)
                held = 0
        now = until
        if withdraw == 0 and within(cancels, now) < kept:
            account.cancel(now)
            cancels.append(now)
            held = 0
        budget.factor(now)
        if budget.earliest_ns(now, cost) == now:
            go(now, cost)
            held = 0
        else:
            held = cost

        assert budget.quota_left == quota - spent > 0
        for end in (*sent[-3:], *cancels[-3:]):
            assert within(sent, end) + within(cancels, end) <= transactions

    assert budget.exhausted_ns is None
    assert budget.busiest <= transactions
    assert budget.spent == spent
    # Paced: at most all that was there per horizon, and the portions of the start and the end.
    if quota > 120:
        assert spent <= quota * (now / horizon) + 2 * max(quota * 0.1, 12)
