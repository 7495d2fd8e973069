"""Fill models: what a quote or a trade fills, with the queue's arithmetic written beside it."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sinks.fills import Fill, FillModel, Fills, fill_model
from streams.events import BUY, SELL

PX = 1_000
SIDES = pytest.mark.parametrize("side", [BUY, SELL], ids=["buy", "sell"])
MODELS: tuple[FillModel, ...] = ("cross", "queue", "touch")
EVERY = pytest.mark.parametrize("name", MODELS)
UNKNOWN_TAKER = 0


class Book:
    """A fill model seen from one side: ``ours`` is the best of our side, ``theirs`` the other.

    Offsets are ticks from our price, positive towards the other side, so that one picture serves
    buys and sells.
    """

    def __init__(self, name: FillModel, side: int) -> None:
        self.fills: Fills = fill_model(name)
        self.side = side
        self.best: tuple[int | None, int | None] = (None, None)

    def rest(
        self, n: int, leaves: int, *, at: int = 0, ours: int | None = 0, size: int | None = None
    ) -> None:
        """Let an order rest ``at`` an offset, while our side's best is ``ours`` with ``size``."""
        bid, ask = self._px(ours), None
        if self.side == BUY:
            self.fills.add(n, BUY, PX + at, leaves, bid, ask, size, None)
        else:
            self.fills.add(n, SELL, PX - at, leaves, ask, bid, None, size)

    def ours(self, offset: int | None, size: int | None = None) -> list[Fill]:
        """Show our side's best."""
        return self.both(offset, size, None, None)

    def theirs(self, offset: int | None, size: int | None = None) -> list[Fill]:
        """Show the other side's best."""
        return self.both(None, None, offset, size)

    def both(
        self, ours: int | None, size: int | None, theirs: int | None, offered: int | None
    ) -> list[Fill]:
        if self.side == BUY:
            return self.fills.on_quote(self._px(ours), self._px(theirs), size, offered)
        return self.fills.on_quote(self._px(theirs), self._px(ours), offered, size)

    def trade(self, offset: int, qty: int, *, taker: int | None = None) -> list[Fill]:
        """Print a trade of ``taker``: as a rule the one who hits our side."""
        px = self._px(offset)
        assert px is not None
        return self.fills.on_trade(px, qty, -self.side if taker is None else taker)

    def _px(self, offset: int | None) -> int | None:
        return None if offset is None else PX + self.side * offset


# ---------------------------------------------------------------- whole fills


@SIDES
@pytest.mark.parametrize(
    ("name", "offset", "fills"),
    [
        ("touch", 1, False), ("touch", 0, True), ("touch", -1, True),
        ("cross", 1, False), ("cross", 0, False), ("cross", -1, True),
    ],
)  # fmt: skip
def test_touch_fills_whole_at_the_price_and_cross_only_through_it_by_quote_or_by_trade(
    side: int, name: FillModel, offset: int, fills: bool
) -> None:
    for taker in (-side, UNKNOWN_TAKER):
        traded = Book(name, side)
        traded.rest(1, 70)
        assert traded.trade(offset, 1, taker=taker) == [(1, 70)] * fills
    quoted = Book(name, side)
    quoted.rest(1, 70)
    assert quoted.theirs(offset, 1) == [(1, 70)] * fills
    assert quoted.theirs(offset, 1) == [], "what has filled does not fill again"


@SIDES
@EVERY
def test_a_taker_of_our_own_side_cannot_have_hit_us_however_far_the_price(
    side: int, name: FillModel
) -> None:
    book = Book(name, side)
    book.rest(1, 70)

    assert book.trade(-50, 1_000, taker=side) == []
    assert book.trade(-50, 1, taker=-side) == [(1, 70)]


@EVERY
def test_a_taker_of_unknown_side_can_have_hit_buys_and_sells_alike(name: FillModel) -> None:
    fills = fill_model(name)
    fills.add(1, BUY, PX + 10, 5, None, None, None, None)
    fills.add(2, SELL, PX - 10, 6, None, None, None, None)

    assert fills.on_trade(PX, 1, UNKNOWN_TAKER) == [(1, 5), (2, 6)]


@SIDES
@EVERY
def test_all_that_the_market_went_through_fills_in_order_of_arrival(
    side: int, name: FillModel
) -> None:
    book = Book(name, side)
    for n in (3, 1, 2):
        book.rest(n, 10 + n)
    book.fills.remove(3)
    book.rest(3, 13)  # back in the queue, as after a modify
    book.fills.add(9, side, PX - side * 500, 1, None, None, None, None)

    assert book.theirs(-1) == [(1, 11), (2, 12), (3, 13)]
    assert book.theirs(-1) == []
    assert book.theirs(-501) == [(9, 1)]


@SIDES
@EVERY
def test_an_order_that_was_removed_fills_no_more_and_an_unknown_one_is_no_error(
    side: int, name: FillModel
) -> None:
    book = Book(name, side)
    book.rest(1, 70)
    book.fills.remove(1)
    book.fills.remove(2)

    assert book.theirs(-5) == []
    assert book.trade(-5, 10) == []


def test_a_name_that_is_no_fill_model_is_an_error() -> None:
    with pytest.raises(KeyError, match="whole"):
        fill_model("whole")  # type: ignore[arg-type]


# ---------------------------------------------------------------- the queue


@SIDES
def test_a_trade_at_our_price_takes_what_stands_in_front_before_it_fills_us(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=100)

    assert book.trade(0, 30) == []  # 100 − 30 = 70 in front
    assert book.trade(0, 70) == []  # 0 in front
    assert book.trade(0, 20) == [(1, 20)]  # 50 − 20 = 30 left
    assert book.trade(0, 99) == [(1, 30)]
    assert book.trade(0, 99) == []


@SIDES
def test_one_trade_can_end_the_queue_and_fill_us_with_the_excess(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=100)

    assert book.trade(0, 101) == [(1, 1)]
    assert book.trade(0, 50) == [(1, 49)]


@SIDES
def test_a_trade_that_does_not_come_down_to_our_price_leaves_the_queue_alone(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=100)

    assert book.trade(1, 1_000) == []
    assert book.trade(0, 1_000, taker=side) == []
    assert book.trade(0, 100) == []
    assert book.trade(0, 7, taker=UNKNOWN_TAKER) == [(1, 7)]


@SIDES
def test_a_trade_through_our_price_fills_all_whatever_stands_in_front(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=100)

    assert book.trade(-1, 1) == [(1, 50)]


@SIDES
def test_nobody_stands_before_a_price_that_is_better_than_the_best(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, ours=-1, size=100)

    assert book.trade(0, 7) == [(1, 7)]


@SIDES
def test_who_comes_later_stands_behind_us_and_who_leaves_shortens_the_queue(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=100)

    assert book.ours(0, 500) == []  # 400 more, all of them behind
    assert book.ours(0, 60) == []  # at most 60 in front now
    assert book.ours(0, 90) == []  # again behind
    assert book.ours(0, None) == []  # a size that is not known says nothing
    assert book.trade(0, 61) == [(1, 1)]


@SIDES
def test_a_best_price_that_is_worse_than_ours_shows_that_nobody_is_in_front(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=100)

    assert book.ours(None) == []  # an absent side says nothing
    assert book.trade(0, 10) == []
    assert book.ours(-1, 80) == []
    assert book.ours(0, 500) == []  # who comes back stands behind us
    assert book.trade(0, 8) == [(1, 8)]


@SIDES
def test_the_queue_of_a_deeper_price_is_what_shows_when_it_first_becomes_the_best(
    side: int,
) -> None:
    book = Book("queue", side)
    book.rest(1, 50, ours=2, size=9)

    assert book.ours(1, 5) == []
    assert book.trade(0, 1_000_000) == [], "unknown is more than any trade takes away"
    assert book.ours(0, 40) == []
    assert book.trade(0, 43) == [(1, 3)]


@SIDES
@pytest.mark.parametrize(("ours", "size"), [(0, None), (None, None), (None, 5), (2, 0)])
def test_an_unknown_queue_waits_for_a_size_or_for_the_market_to_come(
    side: int, ours: int | None, size: int | None
) -> None:
    shown, touched, through = Book("queue", side), Book("queue", side), Book("queue", side)
    for book in (shown, touched, through):
        book.rest(1, 50, ours=ours, size=size)
        assert book.trade(0, 10**30) == []

    shown.ours(0, 3)
    assert shown.trade(0, 4) == [(1, 1)]
    assert touched.theirs(0) == [(1, 50)]
    assert through.theirs(-1, 1) == [(1, 50)]


@SIDES
def test_no_size_shown_at_our_price_is_nobody_in_front(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=0)

    assert book.trade(0, 2) == [(1, 2)]


@SIDES
def test_our_orders_at_one_price_share_a_trade_in_order_of_arrival(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 5, size=10)
    book.rest(2, 8, size=15)

    # In front of 1 stand 10; between 1 and 2 stand 5 more.
    assert book.trade(0, 12) == [(1, 2)]  # leaves 15 − 10 of others in front of 2
    assert book.trade(0, 7) == [(1, 3)]  # its last 3, then 4 of the 5 in front of 2
    assert book.trade(0, 4) == [(2, 3)]  # the last one in front, then 3 of its 8
    assert book.trade(0, 99) == [(2, 5)]


@SIDES
def test_a_size_between_two_queues_shortens_the_longer_one(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 5, size=10)
    book.rest(2, 8, size=15)

    book.ours(0, 12)  # 10 stay in front of 1, 12 in front of 2
    assert book.trade(0, 15) == [(1, 5)]  # 10 of others, and 12 − 10 are left in front of 2
    assert book.trade(0, 3) == [(2, 1)]


@SIDES
def test_a_size_shortens_the_longer_queue_also_where_the_earlier_order_has_it(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 5, size=None)
    book.rest(2, 8, size=10)

    book.ours(0, 12)
    assert book.trade(0, 13) == [(1, 1), (2, 2)]  # 13 − 12; then 12 are left, and 12 − 10


@SIDES
def test_our_orders_share_one_trade_and_none_of_it_twice(side: int) -> None:
    book = Book("queue", side)
    for n in (1, 2, 3):
        book.rest(n, 10, size=0)

    assert book.trade(0, 25) == [(1, 10), (2, 10), (3, 5)]


@SIDES
def test_orders_at_several_prices_each_keep_a_queue_of_their_own(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=100)
    book.rest(2, 50, at=-1, ours=0, size=100)  # one tick deeper

    book.ours(0, 90)
    book.ours(-1, 30)  # nobody before 1, at most 30 before 2
    assert book.trade(0, 5) == [(1, 5)]
    assert book.trade(-1, 31) == [(1, 45), (2, 1)]


@SIDES
def test_an_opposite_best_that_reaches_us_fills_at_most_the_size_shown(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=100)

    assert book.theirs(0, 20) == [(1, 20)]
    assert book.trade(0, 1) == [(1, 1)], "nobody was left in front"
    assert book.theirs(0, None) == [(1, 29)], "all of it where the size is not known"


@SIDES
def test_what_we_took_of_a_size_shown_is_not_taken_again(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=100)
    book.rest(2, 50, size=100)

    assert book.theirs(0, 60) == [(1, 50), (2, 10)]
    assert book.theirs(0, 60) == []
    assert book.theirs(0, 45) == []  # of the 60 we took, 45 are still shown
    assert book.theirs(None) == []
    assert book.theirs(0, 48) == [(2, 3)]  # 3 more came
    assert book.theirs(1, 48) == []
    assert book.theirs(0, 6) == [(2, 6)]  # it went away and came again
    assert book.theirs(-1, 1) == [(2, 31)]


@SIDES
def test_a_side_that_is_absent_for_a_while_offers_us_nothing_anew(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=100)
    book.rest(2, 50, at=-1, ours=0, size=100)
    assert book.theirs(0, 20) == [(1, 20)]

    assert book.ours(-1, 7) == []  # theirs is absent
    assert book.theirs(0, 20) == []
    assert book.theirs(0, 21) == [(1, 1)]


@SIDES
def test_nothing_fills_from_a_touch_that_shows_no_size(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=100)

    assert book.theirs(0, 0) == []
    assert book.trade(0, 1) == [(1, 1)], "but the queue in front is gone"


@SIDES
def test_one_quote_can_shorten_the_queue_of_one_order_and_fill_another(side: int) -> None:
    book = Book("queue", side)
    book.rest(1, 50, size=100)
    book.fills.add(2, -side, PX + side * 5, 7, None, None, None, None)

    # Ours stays best with 40; for the order of the other side it is not there yet.
    assert book.both(0, 40, 5, 1) == []
    assert book.both(5, 3, 9, 1) == [(2, 3)]
    assert book.trade(0, 41) == [(1, 1)]


@SIDES
@EVERY
def test_the_thresholds_let_a_quote_pass_exactly_when_it_cannot_matter(
    side: int, name: FillModel
) -> None:
    fills, book = fill_model(name), Book(name, side)
    assert (fills.bid_low, fills.ask_low) == (-1, -1)
    assert min(fills.bid_high, fills.ask_high) >= 2**63 - 1

    book.rest(1, 50, size=100)
    book.rest(2, 50, at=-1, ours=0, size=100)
    # From where the other side fills us, and from where our own side shows the queue.
    fills_at = PX - side if name == "cross" else PX
    assert (book.fills.ask_low if side == BUY else book.fills.bid_high) == fills_at
    if name == "queue":
        assert (book.fills.bid_low if side == BUY else book.fills.ask_high) == PX
        book.ours(0, 0)
        assert (book.fills.bid_low if side == BUY else book.fills.ask_high) == PX - side
        book.ours(-2)
    assert (book.fills.bid_low, book.fills.ask_high) == (-1, 2**63 - 1)


# ---------------------------------------------------------------- what always holds

Px = st.none() | st.integers(PX - 3, PX + 3)
Size = st.none() | st.integers(0, 12)
Events = st.lists(
    st.one_of(
        st.tuples(st.just("quote"), Px, Px, Size, Size),
        st.tuples(st.just("trade"), st.integers(PX - 3, PX + 3), st.integers(1, 20),
                  st.sampled_from([BUY, SELL, UNKNOWN_TAKER])),
        st.tuples(st.just("add"), st.sampled_from([BUY, SELL]), st.integers(PX - 2, PX + 2),
                  st.integers(1, 15)),
        st.tuples(st.just("remove"), st.integers(1, 6)),
    ),
    max_size=40,
)  # fmt: skip


class Twin:
    """A model that sees every quote, and one that sees only those its thresholds ask for."""

    def __init__(self, name: FillModel) -> None:
        self.whole, self.spared = fill_model(name), fill_model(name)
        self.filled: Counter[int] = Counter()

    def play(self, kind: str, details: tuple[Any, ...], n: int, book: tuple[Any, ...]) -> None:
        fills: list[Fill] = []
        spared: list[Fill] = []
        if kind == "quote":
            fills = self.whole.on_quote(*book)
            if not _quiet(self.spared, *book[:2]):
                spared = self.spared.on_quote(*book)
        elif kind == "trade":
            fills = self.whole.on_trade(*details)
            if not self.spared.ask_low < details[0] < self.spared.bid_high:
                spared = self.spared.on_trade(*details)
        elif kind == "add":
            self.whole.add(n, *details, *book)
            self.spared.add(n, *details, *book)
        else:
            self.whole.remove(*details)
            self.spared.remove(*details)
        assert fills == spared
        for number, qty in fills:
            assert qty > 0
            self.filled[number] += qty


def _quiet(fills: Fills, bid_px: int | None, ask_px: int | None) -> bool:
    return (bid_px is None or fills.bid_low < bid_px < fills.bid_high) and (
        ask_px is None or fills.ask_low < ask_px < fills.ask_high
    )


@hypothesis_settings(max_examples=1_500, deadline=None, derandomize=True)
@given(Events)
def test_for_each_order_at_every_instant_cross_fills_no_more_than_queue_and_queue_than_touch(
    events: list[tuple[Any, ...]],
) -> None:
    cross, queue, touch = (Twin(name) for name in MODELS)
    sizes: dict[int, int] = {}
    book: tuple[Any, ...] = (None,) * 4
    for kind, *details in events:
        if kind == "quote":
            book = tuple(details)
        elif kind == "add":
            sizes[len(sizes) + 1] = details[2]
        for twin in (cross, queue, touch):
            twin.play(kind, tuple(details), len(sizes), book)
        for n, size in sizes.items():
            assert 0 <= cross.filled[n] <= queue.filled[n] <= touch.filled[n] <= size
