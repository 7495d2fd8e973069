"""without_own(): the target's book less our own quotes. Sizes are single units."""

from typing import Any

import pytest
from msgspec.structs import replace

from operators.without_own import others_size, without_own
from streams.events import BUY, SELL, OrderUpdate, Quote
from streams.pump import Hot
from tests.marbles import subscribers


def book(bid: int | None, bid_sz: int | None, ask: int | None, ask_sz: int | None) -> Quote:
    return Quote(7, 70, 69, bid, ask, bid_sz, ask_sz, 128)


def order(
    n: int, side: int, px: int | None, leaves: int, state: str = "open", **other: Any
) -> OrderUpdate:
    return OrderUpdate(ts=0, n=n, side=side, state=state, leaves=leaves, px=px, **other)


class Rig:
    def __init__(self) -> None:
        self.source: Hot[Quote] = Hot()
        self.orders: Hot[OrderUpdate] = Hot()
        self.out: list[Any] = []
        self.ends: list[str] = []
        self.subscription = self.source.pipe(without_own(self.orders)).subscribe(
            self.out.append, lambda e: self.ends.append(str(e)), lambda: self.ends.append("|")
        )

    def rest(self, *updates: OrderUpdate) -> "Rig":
        for update in updates:
            self.orders.push(update)
        return self

    def sees(self, quote: Quote) -> tuple[int | None, int | None, int | None, int | None]:
        before = len(self.out)
        self.source.push(quote)
        assert len(self.out) == before + 1, "one out per quote"
        seen = self.out[-1]
        assert replace(
            seen, bid_px=quote.bid_px, ask_px=quote.ask_px, bid_sz=quote.bid_sz,
            ask_sz=quote.ask_sz,
        ) == quote  # fmt: skip
        return seen.bid_px, seen.bid_sz, seen.ask_px, seen.ask_sz


def test_without_an_order_of_ours_the_quote_is_the_same_object() -> None:
    rig, quote = Rig(), book(100, 5, 110, 6)
    rig.sees(quote)
    assert rig.out[0] is quote

    # Nor is it touched while ours rest elsewhere, or on the other side at that price.
    rig.rest(order(1, BUY, 99, 3), order(2, SELL, 111, 3), order(3, SELL, 100, 3)).sees(quote)

    assert rig.out[1] is quote


def test_where_others_rest_too_only_the_size_shrinks() -> None:
    rig = Rig().rest(order(1, BUY, 100, 2), order(2, SELL, 110, 1))

    assert rig.sees(book(100, 5, 110, 6)) == (100, 5 - 2, 110, 6 - 1)


def test_several_of_our_orders_at_a_price_count_together() -> None:
    rig = Rig().rest(order(1, BUY, 100, 2), order(2, BUY, 100, 1), order(3, BUY, 99, 9))

    assert rig.sees(book(100, 5, 110, 6)) == (100, 5 - 3, 110, 6)


def test_where_the_best_is_ours_alone_the_last_best_of_others_stands_in_without_a_size() -> None:
    rig = Rig()
    rig.sees(book(100, 5, 110, 6))
    rig.rest(order(1, BUY, 102, 2), order(2, SELL, 108, 1))

    assert rig.sees(book(102, 2, 108, 1)) == (100, None, 110, None)
    # Ours alone also where the book shows less than we believe rests there.
    assert rig.sees(book(102, 1, 108, 1)) == (100, None, 110, None)


def test_if_others_were_never_the_best_the_side_is_absent() -> None:
    rig = Rig().rest(order(1, BUY, 102, 2))

    assert rig.sees(book(102, 2, 108, 1)) == (None, None, 108, 1)


def test_the_best_of_others_is_the_last_one_whatever_ours_did_since() -> None:
    rig = Rig()
    rig.sees(book(100, 5, 110, 6))
    rig.rest(order(1, BUY, 102, 2))
    rig.sees(book(102, 2, 110, 6))
    assert rig.sees(book(102, 2, 112, 6)) == (100, None, 112, 6)

    # Others join at 102: that is their best from now on.
    assert rig.sees(book(102, 3, 112, 6)) == (102, 1, 112, 6)
    assert rig.sees(book(102, 2, 112, 6)) == (102, None, 112, 6)


def test_a_price_from_before_does_not_outlive_a_market_that_crossed_it() -> None:
    rig = Rig()
    rig.sees(book(100, 5, 110, 6))
    rig.rest(order(1, BUY, 90, 2))
    # The ask fell to 100 and below: others bid 100 no more.
    assert rig.sees(book(90, 2, 100, 6)) == (None, None, 100, 6)

    rig = Rig()
    rig.sees(book(100, 5, 110, 6))
    rig.rest(order(1, SELL, 120, 2))
    assert rig.sees(book(110, 2, 120, 2)) == (110, 2, None, None)


def test_a_price_from_before_that_was_better_than_ours_is_gone() -> None:
    # Had others still bid 100, the best would not be our 98.
    rig = Rig()
    rig.sees(book(100, 5, 110, 6))
    rig.rest(order(1, BUY, 98, 2), order(2, SELL, 112, 2))

    assert rig.sees(book(98, 2, 112, 2)) == (None, None, None, None)


def test_a_price_shared_with_others_stays_when_the_other_side_went_through_its_stand_in() -> None:
    # Our ask alone at 120 after others' 110, and a bid of 112 that we share: 110 is gone.
    rig = Rig()
    rig.sees(book(100, 5, 110, 6))
    rig.rest(order(1, BUY, 112, 2), order(2, SELL, 120, 1))

    assert rig.sees(book(112, 5, 120, 1)) == (112, 3, None, None)


def test_in_a_book_that_meets_itself_only_a_price_from_before_is_dropped() -> None:
    rig = Rig()
    rig.sees(book(100, 5, 110, 6))
    rig.rest(order(1, BUY, 100, 2))
    # Our bid alone in a locked book: others' 100 of before would meet the ask.
    assert rig.sees(book(100, 2, 100, 6)) == (None, None, 100, 6)
    # A bid that we share is there.
    assert rig.sees(book(100, 5, 100, 6)) == (100, 3, 100, 6)

    rig = Rig()
    rig.sees(book(90, 5, 100, 6))
    rig.rest(order(1, SELL, 100, 2))
    assert rig.sees(book(100, 5, 100, 2)) == (100, 5, None, None)
    assert rig.sees(book(100, 5, 100, 6)) == (100, 5, 100, 4)


def test_an_unknown_size_cannot_be_less_ours() -> None:
    rig = Rig().rest(order(1, BUY, 100, 2), order(2, SELL, 110, 2))

    assert rig.sees(book(100, None, 110, None)) == (100, None, 110, None)


def test_an_absent_side_stays_absent() -> None:
    rig = Rig().rest(order(1, BUY, 100, 2))

    assert rig.sees(book(100, 5, None, None)) == (100, 3, None, None)
    assert rig.sees(book(None, None, 110, 6)) == (None, None, 110, 6)
    assert rig.sees(book(None, None, None, None)) == (None, None, None, None)


@pytest.mark.parametrize("state", ["open", "pending_cancel", "pending_modify"])
def test_an_order_rests_while_the_venue_has_it(state: str) -> None:
    rig = Rig().rest(order(1, BUY, 100, 2, state))

    assert rig.sees(book(100, 5, 110, 6)) == (100, 3, 110, 6)


@pytest.mark.parametrize(
    "update",
    [
        order(1, BUY, 100, 2, "pending_new"),  # not there yet
        order(1, BUY, None, 2),  # a market order
        order(1, BUY, 100, 0, "filled"),
        order(1, BUY, 100, 0, "cancelled"),
    ],
)
def test_an_order_that_does_not_rest_is_not_taken_out(update: OrderUpdate) -> None:
    rig = Rig().rest(update)

    assert rig.sees(book(100, 5, 110, 6)) == (100, 5, 110, 6)


def test_what_is_taken_out_follows_fills_modifies_and_cancels() -> None:
    rig = Rig().rest(order(1, BUY, 100, 4))
    quote = book(100, 9, 110, 6)
    assert rig.sees(quote)[1] == 5

    rig.rest(order(1, BUY, 100, 3, filled=1, fill_px=100))
    assert rig.sees(quote)[1] == 6
    rig.rest(order(1, BUY, 99, 3))  # modified
    assert rig.sees(quote)[1] == 9
    assert rig.sees(book(99, 9, 110, 6))[1] == 6
    rig.rest(order(2, BUY, 99, 1), order(1, BUY, 99, 0, "cancelled", requested=True))
    assert rig.sees(book(99, 9, 110, 6))[1] == 8
    rig.rest(order(2, BUY, 99, 0, "filled", filled=1, fill_px=99))
    assert rig.sees(book(99, 9, 110, 6))[1] == 9


def test_what_others_show_is_never_below_zero() -> None:
    assert others_size(5, 2) == 3
    assert others_size(2, 2) == 0
    assert others_size(1, 2) == 0


def test_completion_and_errors_of_both_sources_travel() -> None:
    rig = Rig()
    rig.source.on_completed()
    assert rig.ends == ["|"]
    for failing in ("source", "orders"):
        rig = Rig()
        for observer in getattr(rig, failing)._observers:
            observer.on_error(ValueError(f"{failing} broke"))
        assert rig.ends == [f"{failing} broke"]


def test_disposing_unsubscribes_from_both() -> None:
    rig = Rig()
    assert subscribers(rig.source, rig.orders) == 2

    rig.subscription.dispose()

    assert subscribers(rig.source, rig.orders) == 0


def test_two_subscriptions_do_not_share_our_orders() -> None:
    rig = Rig().rest(order(1, BUY, 100, 2))
    late: list[Quote] = []
    rig.source.pipe(without_own(rig.orders)).subscribe(late.append)
    rig.source.push(book(100, 5, 110, 6))

    assert rig.out[-1].bid_sz == 3
    assert late[-1].bid_sz == 5
