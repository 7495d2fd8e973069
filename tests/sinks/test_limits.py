"""What an account may send: requests in a minute, volume quota, orders that live."""

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sinks.limits import TIER_LIMITS, Limits, VenueAccount
from streams.instrument import UNIT

SECOND = 10**9


# ---------------------------------------------------------------- requests


def test_an_account_without_limits_refuses_nothing() -> None:
    account = VenueAccount()

    assert all(account.request(0) for _ in range(10_000))
    assert all(account.spend(0, single=False) for _ in range(10_000))
    for _ in range(10_000):
        account.hold("A")
    assert account.refusal("A") is None
    account.earn(UNIT, 100 * UNIT)
    assert account.quota_left is None


def test_a_request_leaves_the_window_after_sixty_seconds_and_not_a_nanosecond_before() -> None:
    account = VenueAccount(transactions_per_minute=3)

    assert [account.request(ts) for ts in (0, 10, 10, 20)] == [True, True, True, False]
    assert not account.request(60 * SECOND - 1)
    assert account.request(60 * SECOND)
    assert not account.request(60 * SECOND + 9)
    assert [account.request(60 * SECOND + 10) for _ in range(3)] == [True, True, False]


def test_a_refused_request_does_not_count() -> None:
    account = VenueAccount(transactions_per_minute=1)
    assert account.request(0)
    assert not any(account.request(ts) for ts in range(1, 60 * SECOND, SECOND))

    assert account.request(60 * SECOND)


@hypothesis_settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 5), st.lists(st.integers(0, 20 * SECOND), max_size=60))
def test_no_sixty_seconds_ever_hold_more_accepted_requests_than_the_limit(
    limit: int, gaps: list[int]
) -> None:
    account, now, accepted = VenueAccount(transactions_per_minute=limit), 0, [-(10**15)]
    for gap in gaps:
        now += gap
        room = sum(ts > now - 60 * SECOND for ts in accepted) < limit
        assert account.request(now) == room, "neither too strict nor too lax"
        if room:
            accepted.append(now)
    for end in accepted:
        assert sum(end - 60 * SECOND < ts <= end for ts in accepted[1:]) <= limit


# ---------------------------------------------------------------- volume quota


def test_each_transaction_costs_one_unit_until_the_quota_is_spent() -> None:
    account = VenueAccount(volume_quota=2)

    assert [account.spend(0, single=False) for _ in range(3)] == [True, True, False]
    assert account.quota_left == 0


def test_without_quota_one_single_transaction_is_free_every_fifteen_seconds() -> None:
    account = VenueAccount(volume_quota=0)

    assert not account.spend(100, single=False)
    assert account.spend(100, single=True)
    assert not account.spend(100 + 15 * SECOND - 1, single=True)
    assert not account.spend(100 + 15 * SECOND, single=False)
    assert account.spend(100 + 15 * SECOND, single=True)
    assert not account.spend(100 + 30 * SECOND - 1, single=True)
    assert account.quota_left == 0


def test_a_transaction_that_the_quota_pays_for_does_not_delay_the_free_one() -> None:
    account = VenueAccount(volume_quota=1)
    assert account.spend(100, single=True)

    assert account.spend(101, single=True)
    assert not account.spend(102, single=True)


def test_every_three_dollars_of_volume_earn_a_unit_and_what_is_over_counts_on() -> None:
    account = VenueAccount(volume_quota=0)

    account.earn(2 * UNIT, UNIT)  # $2: no unit yet
    assert account.quota_left == 0
    account.earn(UNIT // 2, 2 * UNIT - 2)  # $0.999999999 more
    assert account.quota_left == 0
    account.earn(1, UNIT)  # $3 exactly
    assert account.quota_left == 1
    account.earn(100 * UNIT, UNIT)  # $103 in all: 34 units, $1 over
    assert account.quota_left == 34
    account.earn(2 * UNIT, UNIT)
    assert account.quota_left == 35


def test_the_quota_never_grows_beyond_five_million() -> None:
    account = VenueAccount(volume_quota=4_999_990)

    account.earn(60 * UNIT, UNIT)  # 20 units
    assert account.quota_left == 5_000_000
    assert account.spend(0, single=False)
    account.earn(3 * UNIT, UNIT)
    assert account.quota_left == 5_000_000


@hypothesis_settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 10**12), st.integers(1, 10**10)), max_size=30))
def test_quota_is_exact_for_any_fills(fills: list[tuple[int, int]]) -> None:
    account = VenueAccount(volume_quota=7)
    for px, qty in fills:
        account.earn(px, qty)

    volume = sum(Fraction(px, UNIT) * Fraction(qty, UNIT) for px, qty in fills)

    assert account.quota_left == min(7 + volume // 3, 5_000_000)


# ---------------------------------------------------------------- orders that live


def test_the_limit_of_a_market_counts_its_own_orders_and_that_of_the_account_counts_all() -> None:
    account = VenueAccount(orders_per_account=3, orders_per_market=2)
    account.hold("A")
    assert account.refusal("A") is None
    account.hold("A")

    assert account.refusal("A") == "21718 too many orders in the market"
    assert account.refusal("B") is None
    account.hold("B")
    assert account.refusal("A") == "21717 too many orders of the account"
    assert account.refusal("B") == "21717 too many orders of the account"
    account.release("A")
    assert account.refusal("A") is None
    assert account.refusal("B") is None


@pytest.mark.parametrize(
    ("limits", "refused"),
    [
        ({"orders_per_account": 0}, "21717 too many orders of the account"),
        ({"orders_per_market": 0}, "21718 too many orders in the market"),
    ],
)
def test_each_order_limit_works_alone_and_zero_is_a_limit(
    limits: dict[str, int], refused: str
) -> None:
    assert VenueAccount(**limits).refusal("A") == refused


# ---------------------------------------------------------------- tiers


def test_the_published_limits_of_each_tier() -> None:
    assert {
        "standard": Limits(
            transactions_per_minute=60, orders_per_account=250, orders_per_market=30
        ),
        "plus": Limits(
            transactions_per_minute=8_000, volume_quota=1_000,
            orders_per_account=750, orders_per_market=250,
        ),
        "premium": Limits(
            transactions_per_minute=4_000, volume_quota=1_000,
            orders_per_account=1_500, orders_per_market=1_000,
        ),
    } == TIER_LIMITS  # fmt: skip


@pytest.mark.parametrize("tier", TIER_LIMITS)
def test_an_account_of_a_tier_has_all_its_limits(tier: str) -> None:
    account, limits = VenueAccount.of_tier(tier), TIER_LIMITS[tier]

    def times(admits: Callable[[], bool], at_most: int) -> int:
        return next((i for i in range(at_most) if not admits()), at_most)

    def rest(account: VenueAccount, market: str) -> bool:
        account.hold(market)
        return account.refusal(market) is None

    assert account.quota_left == limits.volume_quota
    assert times(lambda: account.request(0), 10_000) == limits.transactions_per_minute
    assert times(lambda: rest(account, "A"), 10_000) + 1 == limits.orders_per_market
    other, markets = VenueAccount.of_tier(tier), map(str, range(10_000))
    assert times(lambda: rest(other, next(markets)), 10_000) + 1 == limits.orders_per_account


def test_a_tier_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError, match="gold"):
        VenueAccount.of_tier("gold")
