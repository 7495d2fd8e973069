"""The order sink: the fewest transactions, within the limit at every moment, none left behind."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import pytest
from msgspec import Struct

from sinks.order_sink import OrderSink, ReplacePolicy
from sinks.orders import FINAL_STATES, Order
from sinks.venue import Cancel, Command, Create, Modify, Query
from streams.clock import Clock
from streams.events import BUY, SELL, AccountEvent, AccountKind, Decision, OrderUpdate

BID, ASK = 207_000_000_000, 207_200_000_000
TICK = 1_000_000
QTY = 50_000_000
LIMIT = 2 * QTY
PATIENCE, STOP = 1_000, 20_000
SIZES = (50, 50, 50, 37, 100)


class Batches:
    """A venue that notes what it is sent."""

    def __init__(self) -> None:
        self.all: list[tuple[int, list[Command]]] = []

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        self.all.append((ts, list(commands)))

    def take(self) -> list[tuple[int, list[Command]]]:
        """What was sent since the last time."""
        batches, self.all = self.all, []
        return batches


class Desk:
    """A sink with everything around it written down."""

    def __init__(
        self,
        *,
        max_position: int = LIMIT,
        replace: ReplacePolicy = "cancel_create",
        flatten: bool = False,
        position: int = 0,
        expire_ns: int | None = None,
        timed: bool = False,
        max_batch: int = 15,
    ) -> None:
        self.venue = Batches()
        self.clock = Clock()
        self.updates: list[OrderUpdate] = []
        self.created: list[Order] = []
        self.fills: list[tuple[int, int | None]] = []
        self.decisions: list[Decision] = []
        self.sink = OrderSink(
            self.venue,
            max_position=max_position,
            expire_ns=expire_ns,
            replace=replace,
            flatten=flatten,
            position=position,
            clock=self.clock if timed else None,
            in_flight_ns=PATIENCE,
            stop_ns=STOP,
            max_batch=max_batch,
            notify=self.updates.append,
            on_order=self.created.append,
            on_fill=lambda order, event: self.fills.append((order.n, event.qty)),
            on_decision=self.decisions.append,
        )

    def quote(self, ts: int, bid: int | None, ask: int | None, qty: int = QTY) -> None:
        self.sink.on_next(decision("quote", ts, bid, ask, qty))

    def levels(
        self, ts: int, bids: int, asks: int, *, bid: int = BID, ask: int = ASK, qty: int = QTY
    ) -> None:
        self.sink.on_next(
            Decision(
                seq=1, ts=ts, action="quote", bid_px=bid if bids else None, bid_levels=bids,
                ask_px=ask if asks else None, ask_levels=asks, level_step=TICK, qty=qty,
            )
        )  # fmt: skip

    def answered(
        self, kind: AccountKind, n: int, *, px: int | None = None, qty: int | None = None,
        reason: str | None = None, ts: int = 50,
    ) -> None:  # fmt: skip
        self.sink.on_account(
            AccountEvent(seq=0, ts=ts, kind=kind, n=n, px=px, qty=qty, reason=reason)
        )

    def rests(self, n: int, px: int = BID, qty: int = QTY, ts: int = 50) -> None:
        """The answer to a question: the order rests."""
        self.answered("ack", n, px=px, qty=qty, reason="queried", ts=ts)

    def state(self, n: int) -> str:
        return self.sink.orders.find(n).state

    def told(self, kind: AccountKind, *numbers: int, ts: int = 50) -> None:
        for n in numbers:
            self.sink.on_account(AccountEvent(seq=0, ts=ts, kind=kind, n=n))

    def filled(self, n: int, qty: int, id: str = "a", ts: int = 50) -> None:
        self.sink.on_account(
            AccountEvent(
                seq=0, ts=ts, kind="fill", n=n, venue_id=id, px=BID, qty=qty, fee=0,
                liquidity="MAKER",
            )
        )  # fmt: skip

    def stop(self, ts: int = 90) -> None:
        self.sink.on_account(AccountEvent(seq=0, ts=ts, kind="stop"))

    def sent(self) -> list[Command]:
        """What was sent since the last time, in one row."""
        return [command for _, batch in self.venue.take() for command in batch]


def decision(
    action: Literal["quote", "withdraw", "refuse", "hold"],
    ts: int = 1,
    bid: int | None = None,
    ask: int | None = None,
    qty: int | None = None,
) -> Decision:
    return Decision(seq=1, ts=ts, action=action, bid_px=bid, ask_px=ask, qty=qty)


def bid(n: int, px: int = BID, qty: int = QTY, expire: int | None = None) -> Create:
    return Create(n, BUY, px, qty, expire)


def ask(n: int, px: int = ASK, qty: int = QTY, expire: int | None = None) -> Create:
    return Create(n, SELL, px, qty, expire)


def quoted(**options: int | bool | ReplacePolicy | None) -> Desk:
    """A desk whose first quote, orders 1 (buy) and 2 (sell), is open."""
    desk = Desk(**options)  # type: ignore[arg-type]
    desk.quote(10, BID, ASK)
    assert desk.venue.take() == [(10, [bid(1), ask(2)])]
    desk.told("ack", 1, 2)
    return desk


# ---------------------------------------------------------------- keep, cancel, create


def test_a_first_quote_is_one_batch_of_a_buy_and_a_sell() -> None:
    desk = Desk()

    desk.quote(10, BID, ASK)

    assert desk.venue.take() == [(10, [bid(1), ask(2)])]
    assert [order.n for order in desk.created] == [1, 2]
    assert [(u.n, u.state, u.leaves, u.ts) for u in desk.updates] == [
        (1, "pending_new", QTY, 10), (2, "pending_new", QTY, 10),
    ]  # fmt: skip


@pytest.mark.parametrize("acked", [True, False])
def test_cancel_create_sends_nothing_for_a_quote_that_works_already(acked: bool) -> None:
    desk = Desk()
    desk.quote(10, BID, ASK)
    desk.venue.take()
    if acked:
        desk.told("ack", 1, 2)

    desk.quote(11, BID, ASK)

    assert desk.venue.take() == []
    assert len(desk.created) == 2


def test_cancel_create_replaces_only_the_side_that_changed_in_one_batch_cancels_first() -> None:
    desk = quoted()

    desk.quote(11, BID, ASK + TICK)
    assert desk.venue.take() == [(11, [Cancel(2), ask(3, ASK + TICK)])]
    desk.quote(12, BID - TICK, ASK + TICK)
    assert desk.venue.take() == [(12, [Cancel(1), bid(4, BID - TICK)])]


def test_cancel_create_leaves_a_partly_filled_order_at_its_place_in_the_queue() -> None:
    desk = quoted()
    desk.filled(1, QTY // 2)

    desk.quote(11, BID, ASK)

    assert desk.sent() == []


def test_cancel_create_cancels_the_side_that_is_not_wanted_any_more() -> None:
    desk = quoted()

    desk.quote(11, None, ASK)
    assert desk.sent() == [Cancel(1)]
    desk.quote(12, None, ASK)
    assert desk.sent() == [], "a cancel that is under way is not sent again"


def test_cancel_create_creates_anew_at_a_price_whose_order_is_being_cancelled() -> None:
    desk = quoted()
    desk.quote(11, None, ASK)
    desk.venue.take()

    desk.quote(12, BID, ASK)

    assert desk.sent() == [bid(3)]


@pytest.mark.parametrize("replace", ["cancel_create", "cancel_all"])
def test_all_cancels_of_a_batch_come_before_all_its_creates(replace: ReplacePolicy) -> None:
    desk = quoted(replace=replace)

    desk.quote(11, BID + TICK, ASK + TICK)

    assert desk.venue.take() == [
        (11, [Cancel(1), Cancel(2), bid(3, BID + TICK), ask(4, ASK + TICK)])
    ]


def test_cancel_all_replaces_both_sides_even_if_nothing_changed() -> None:
    desk = quoted(replace="cancel_all")

    desk.quote(11, BID, ASK)

    assert desk.venue.take() == [(11, [Cancel(1), Cancel(2), bid(3), ask(4)])]


@pytest.mark.parametrize("replace", ["cancel_create", "cancel_all"])
def test_withdraw_cancels_all_that_works_once(replace: ReplacePolicy) -> None:
    desk = quoted(replace=replace)

    desk.sink.on_next(decision("withdraw", 11))
    assert desk.venue.take() == [(11, [Cancel(1), Cancel(2)])]
    desk.sink.on_next(decision("withdraw", 12))
    assert desk.venue.take() == []


@pytest.mark.parametrize("action", ["hold", "refuse"])
@pytest.mark.parametrize("replace", ["cancel_create", "cancel_all"])
def test_hold_and_refuse_change_nothing_and_are_logged(
    action: Literal["hold", "refuse"], replace: ReplacePolicy
) -> None:
    desk = quoted(replace=replace)
    before = len(desk.updates)

    desk.sink.on_next(decision(action, 11, BID + TICK, ASK + TICK, QTY))

    assert desk.venue.take() == []
    assert len(desk.updates) == before
    assert [d.action for d in desk.decisions] == ["quote", action]


@pytest.mark.parametrize("action", ["hold", "refuse"])
def test_hold_and_refuse_leave_an_order_that_waits_for_room_waiting(
    action: Literal["hold", "refuse"],
) -> None:
    desk = quoted(max_position=QTY)
    desk.quote(11, BID + TICK, ASK)
    assert desk.sent() == [Cancel(1)]

    desk.sink.on_next(decision(action, 12))
    desk.told("cancel", 1)

    assert desk.sent() == [bid(3, BID + TICK)]


def test_orders_expire_the_given_time_after_the_decision_or_never() -> None:
    desk = Desk(expire_ns=1_000)
    desk.quote(10, BID, ASK)
    assert desk.sent() == [bid(1, expire=1_010), ask(2, expire=1_010)]

    desk = Desk()
    desk.quote(10, BID, ASK)
    assert desk.sent() == [bid(1, expire=None), ask(2, expire=None)]


# ---------------------------------------------------------------- room


@pytest.mark.parametrize(
    ("position", "orders"),
    [
        (0, [bid(1), ask(2)]),
        (QTY, [bid(1), ask(2)]),
        (QTY + 1, [ask(1)]),
        (-QTY, [bid(1), ask(2)]),
        (-QTY - 1, [bid(1)]),
        (9 * QTY, [ask(1)]),
        (-9 * QTY, [bid(1)]),
    ],
)
def test_an_order_is_sent_if_the_limit_can_just_be_reached_and_not_if_it_can_be_passed(
    position: int, orders: list[Command]
) -> None:
    desk = Desk(position=position)

    desk.quote(10, BID, ASK)

    assert desk.sent() == orders


def test_an_order_without_room_waits_until_the_cancel_is_confirmed_and_is_then_sent() -> None:
    desk = quoted(max_position=QTY)

    desk.quote(11, BID + TICK, ASK + TICK)
    assert desk.venue.take() == [(11, [Cancel(1), Cancel(2)])]
    desk.told("cancel", 2, ts=20)
    assert desk.venue.take() == [(20, [ask(3, ASK + TICK)])]
    desk.told("cancel", 1, ts=30)
    assert desk.venue.take() == [(30, [bid(4, BID + TICK)])]
    desk.told("ack", 3, 4, ts=40)
    assert desk.venue.take() == [], "it is sent once"


def test_an_order_that_waited_is_not_sent_again_when_it_ends() -> None:
    desk = quoted(max_position=QTY)
    desk.quote(11, BID + TICK, ASK)
    desk.told("cancel", 1)
    assert desk.sent() == [Cancel(1), bid(3, BID + TICK)]

    desk.told("expire", 3)
    desk.told("ack", 2)

    assert desk.sent() == []


@pytest.mark.parametrize("end", ["cancel", "expire", "reject"])
def test_whatever_ends_the_old_order_makes_room_for_the_one_that_waits(end: AccountKind) -> None:
    desk = quoted(max_position=QTY)
    desk.quote(11, BID + TICK, ASK)
    desk.venue.take()

    desk.told(end, 1, ts=30)

    assert desk.venue.take() == [(30, [bid(3, BID + TICK)])]


def test_a_waiting_order_that_lost_its_room_to_a_fill_is_not_sent() -> None:
    desk = quoted(max_position=QTY)
    desk.quote(11, BID + TICK, ASK)
    desk.venue.take()

    desk.filled(1, QTY)

    assert desk.sent() == []
    desk.filled(2, QTY, "b")  # flat again: now there is room
    assert desk.sent() == [bid(3, BID + TICK)]


def test_a_waiting_order_is_replaced_by_a_newer_quote() -> None:
    desk = quoted(max_position=QTY)
    desk.quote(11, BID + TICK, ASK)
    desk.quote(12, BID + 2 * TICK, ASK)
    desk.venue.take()

    desk.told("cancel", 1)

    assert desk.sent() == [bid(3, BID + 2 * TICK)]


@pytest.mark.parametrize("newer", [decision("withdraw", 12), decision("quote", 12, None, ASK, QTY)])
def test_a_waiting_order_is_dropped_by_a_newer_decision_that_does_not_want_it(
    newer: Decision,
) -> None:
    desk = quoted(max_position=QTY)
    desk.quote(11, BID + TICK, ASK)
    desk.sink.on_next(newer)
    desk.venue.take()

    desk.told("cancel", 1)

    assert [command for command in desk.sent() if isinstance(command, Create)] == []


def test_what_is_being_cancelled_still_takes_room() -> None:
    desk = quoted()  # room for two orders a side

    desk.quote(11, BID + 1 * TICK, ASK)
    desk.quote(12, BID + 2 * TICK, ASK)
    assert desk.sent() == [Cancel(1), bid(3, BID + TICK), Cancel(3)]
    desk.told("cancel", 3)
    assert desk.sent() == [bid(4, BID + 2 * TICK)]


# ---------------------------------------------------------------- what the venue says


@pytest.mark.parametrize("replace", ["cancel_create", "cancel_all"])
@pytest.mark.parametrize("end", ["reject", "expire", "cancel"])
def test_an_order_that_ended_is_not_sent_again_by_the_sink_itself(
    replace: ReplacePolicy, end: AccountKind
) -> None:
    desk = Desk(replace=replace)
    desk.quote(10, BID, ASK)
    desk.venue.take()

    desk.told(end, 1)
    desk.told("ack", 2)

    assert desk.venue.take() == []
    assert desk.updates[-2].leaves == 0
    desk.quote(12, BID, ASK)  # only a decision sends it again
    assert bid(3) in desk.sent()


def test_each_fill_is_passed_on_once() -> None:
    desk = quoted()

    desk.filled(1, 10, "a")
    desk.filled(1, 10, "a")
    desk.filled(1, 20, "b")
    desk.filled(77, 20, "c")

    assert desk.fills == [(1, 10), (1, 20)]
    assert [update.filled for update in desk.updates if update.filled] == [10, 20]
    assert desk.sink.orders.position == 30


def test_a_fill_of_a_finished_order_is_passed_on() -> None:
    desk = quoted()
    desk.told("cancel", 1)

    desk.filled(1, 10)

    assert desk.fills == [(1, 10)]
    assert desk.sink.orders.position == 10


def test_a_position_of_the_venue_s_is_no_answer_about_an_order() -> None:
    desk = quoted()
    before = len(desk.updates)

    desk.sink.on_account(AccountEvent(seq=0, ts=20, kind="position", qty=0))

    assert desk.venue.take() == []
    assert len(desk.updates) == before
    assert not desk.sink.orders.anomalies


def test_a_failure_of_the_graph_is_remembered_and_sends_nothing() -> None:
    desk = quoted()
    failure = ValueError("a baseline of zero")

    assert desk.sink.error is None
    desk.sink.on_error(failure)

    assert desk.sink.error is failure
    assert desk.venue.take() == []


def test_the_end_of_the_quotes_is_not_the_order_to_stop() -> None:
    desk = quoted()

    desk.sink.on_completed()

    assert desk.venue.take() == []
    assert not desk.sink.stopping
    assert desk.sink.error is None


# ---------------------------------------------------------------- stop


def test_stop_cancels_all_that_works_and_nothing_twice() -> None:
    desk = quoted()
    desk.quote(11, BID + TICK, ASK)
    desk.venue.take()

    desk.stop(90)

    assert desk.venue.take() == [(90, [Cancel(2), Cancel(3)])]
    desk.told("cancel", 1, 2, 3)
    assert desk.venue.take() == []
    assert not desk.sink.orders.working


def test_stop_drops_what_waits_and_ignores_later_decisions_but_logs_them() -> None:
    desk = quoted(max_position=QTY)
    desk.quote(11, BID + TICK, ASK)
    desk.venue.take()

    desk.stop(90)
    desk.told("cancel", 1, 2)
    desk.quote(91, BID, ASK)
    desk.sink.on_next(decision("withdraw", 92))

    assert desk.sent() == [Cancel(2)]
    assert [d.ts for d in desk.decisions] == [10, 11, 91, 92]


def test_stop_without_flatten_keeps_the_position() -> None:
    desk = quoted()
    desk.filled(1, QTY)
    desk.stop(90)

    desk.told("cancel", 2)

    assert desk.sent() == [Cancel(2)]


@pytest.mark.parametrize(
    ("filled", "working", "side"), [(1, 2, SELL), (2, 1, BUY)], ids=["long", "short"]
)
def test_flatten_closes_the_position_at_market_once_nothing_works_any_more(
    filled: int, working: int, side: int
) -> None:
    desk = quoted(flatten=True, expire_ns=None)
    desk.filled(filled, QTY)

    desk.stop(90)
    assert desk.venue.take() == [(90, [Cancel(working)])]
    desk.filled(working, QTY // 5, "b", ts=95)
    assert desk.venue.take() == [], "an order still works"
    desk.told("cancel", working, ts=99)

    assert desk.venue.take() == [(99, [Create(3, side, None, QTY - QTY // 5, None)])]
    assert desk.created[-1].px is None
    desk.told("ack", 3)
    desk.filled(3, QTY - QTY // 5, "c")
    assert desk.venue.take() == []
    assert desk.sink.orders.position == 0
    assert not desk.sink.orders.working


def test_flatten_closes_at_once_where_nothing_works_and_never_expires() -> None:
    desk = Desk(flatten=True, position=-3, expire_ns=100)

    desk.stop(90)

    assert desk.venue.take() == [(90, [Create(1, BUY, None, 3, None)])]


def test_flatten_sends_nothing_without_a_position() -> None:
    desk = quoted(flatten=True)
    desk.stop(90)
    desk.told("cancel", 1, 2)

    assert desk.sent() == [Cancel(1), Cancel(2)]


def test_flatten_is_tried_three_times_and_what_stays_open_is_reported() -> None:
    desk = Desk(flatten=True, position=3)
    desk.stop(90)
    desk.venue.take()

    for n in (1, 2):
        desk.told("reject", n)
        assert desk.sent() == [Create(n + 1, SELL, None, 3, None)]
        desk.venue.take()
    desk.told("reject", 3)

    assert desk.sent() == []
    assert desk.sink.orders.anomalies["position left open: the closing order was refused"] == 1


def test_a_cancel_is_sent_three_times_and_then_reported() -> None:
    desk = quoted()
    desk.stop(90)
    desk.venue.take()
    for _ in range(2):
        desk.told("cancel_reject", 1)
        assert desk.sent() == [Cancel(1)]
        desk.venue.take()

    desk.told("cancel_reject", 1)

    assert desk.sent() == []
    assert desk.sink.orders.anomalies["a cancel was refused again and again"] == 1


# ---------------------------------------------------------------- refusals and late fills


def test_a_cancel_refused_after_stop_is_sent_again() -> None:
    desk = quoted()
    desk.stop(90)
    desk.venue.take()

    desk.told("cancel_reject", 1, ts=95)  # for instance a rate limit; the order works on

    assert desk.sent() == [Cancel(1)]


def test_a_cancel_refused_after_a_withdraw_is_sent_again() -> None:
    desk = quoted()
    desk.sink.on_next(decision("withdraw", 11))
    desk.venue.take()

    desk.told("cancel_reject", 1, ts=20)

    assert desk.sent() == [Cancel(1)]


def test_an_order_that_a_late_fill_left_without_room_is_cancelled_at_once() -> None:
    desk = quoted(max_position=QTY)
    desk.told("cancel", 1)
    desk.quote(11, BID, ASK)
    desk.told("ack", 3)
    desk.venue.take()

    desk.filled(1, QTY)  # told after the cancel: long the limit, with a buy still working

    assert desk.sent() == [Cancel(3)]


def test_a_fill_told_after_the_last_cancel_is_flattened_too() -> None:
    desk = quoted(flatten=True)
    desk.stop(90)
    desk.told("cancel", 1, 2)
    desk.venue.take()

    desk.filled(1, QTY, ts=95)

    assert desk.sent() == [Create(3, SELL, None, QTY, None)]
    assert not desk.sink.finished
    desk.filled(3, QTY, "b")
    assert desk.sink.finished


def test_a_second_stop_lets_the_closing_order_work() -> None:
    desk = Desk(flatten=True, position=3)
    desk.stop(90)
    desk.venue.take()

    desk.stop(91)

    assert desk.sent() == []


def _two_buys_and_one_gone() -> Desk:
    """Order 1 has ended, 2 is being cancelled and 3 has taken its place; all are buys."""
    desk = Desk()
    desk.quote(10, BID, None)
    desk.told("cancel", 1)
    desk.quote(11, BID, None)
    desk.quote(12, BID + TICK, None)
    assert desk.sent() == [bid(1), bid(2), Cancel(2), bid(3, BID + TICK)]
    return desk


def test_what_is_being_cancelled_makes_room_for_a_late_fill_without_a_second_cancel() -> None:
    desk = _two_buys_and_one_gone()

    desk.filled(1, QTY)

    assert desk.sent() == []


def test_a_late_fill_cancels_the_newest_order_and_no_more_than_it_takes() -> None:
    desk = _two_buys_and_one_gone()
    desk.told("cancel_reject", 2, 2, 2)
    assert desk.sent() == [Cancel(2), Cancel(2)], "three times in all, then it works on"

    desk.filled(1, QTY)

    assert desk.sent() == [Cancel(3)]


def test_a_late_fill_does_not_call_back_the_order_that_closes_the_position() -> None:
    desk = Desk(max_position=QTY, position=QTY, flatten=True)
    desk.quote(10, None, ASK)
    desk.quote(11, None, ASK + TICK)
    desk.told("cancel", 1, 2)
    desk.stop(90)
    desk.venue.take()

    desk.filled(1, QTY, "a")
    desk.filled(2, QTY, "b")

    assert desk.sent() == []
    assert list(desk.sink.orders.working) == [3]


# ---------------------------------------------------------------- several levels


def test_levels_go_out_bids_then_asks_each_from_the_inside_out() -> None:
    desk = Desk(max_position=9 * QTY)

    desk.levels(10, 2, 3)

    assert desk.venue.take() == [
        (10, [bid(1), bid(2, BID - TICK), ask(3), ask(4, ASK + TICK), ask(5, ASK + 2 * TICK)])
    ]


@pytest.mark.parametrize("acked", [True, False])
@pytest.mark.parametrize("replace", ["cancel_create", "modify", "keep"])
def test_levels_that_stay_are_not_touched_in_flight_or_not(
    acked: bool, replace: ReplacePolicy
) -> None:
    desk = Desk(max_position=9 * QTY, replace=replace)
    desk.levels(10, 3, 3)
    if acked:
        desk.told("ack", *range(1, 7))
    desk.venue.take()

    desk.levels(11, 3, 3)

    assert desk.sent() == []


def test_a_ladder_that_moves_by_a_step_replaces_one_level_a_side() -> None:
    desk = Desk(max_position=9 * QTY)
    desk.levels(10, 3, 3)
    desk.venue.take()

    desk.levels(11, 3, 3, bid=BID + TICK, ask=ASK + TICK)

    assert desk.venue.take() == [
        (11, [Cancel(3), Cancel(4), bid(7, BID + TICK), ask(8, ASK + 3 * TICK)])
    ]


def test_a_level_whose_size_changed_is_replaced() -> None:
    desk = quoted(max_position=9 * QTY)

    desk.quote(11, BID, ASK, QTY + 1)

    assert desk.sent() == [Cancel(1), Cancel(2), bid(3, qty=QTY + 1), ask(4, qty=QTY + 1)]


def test_the_innermost_levels_get_the_room_and_the_others_wait_for_it() -> None:
    desk = Desk()  # room for two a side
    desk.levels(10, 3, 0)
    assert desk.sent() == [bid(1), bid(2, BID - TICK)]

    desk.told("cancel", 1)

    assert desk.sent() == [bid(3, BID - 2 * TICK)], "its own level is not filled again"


@pytest.mark.parametrize("replace", ["cancel_create", "modify", "keep", "cancel_all"])
@pytest.mark.parametrize("end", ["fill", "cancel", "expire"])
def test_a_level_whose_order_ended_is_filled_again_by_the_next_decision_alone(
    replace: ReplacePolicy, end: AccountKind
) -> None:
    desk = Desk(max_position=9 * QTY, replace=replace)
    desk.levels(10, 2, 0)
    desk.told("ack", 1, 2)
    desk.venue.take()

    if end == "fill":
        desk.filled(1, QTY)
    else:
        desk.told(end, 1)
    desk.told("ack", 2)
    assert desk.sent() == []
    desk.levels(11, 2, 0)
    assert bid(3) in desk.sent()


def test_batches_are_as_long_as_the_venue_takes_and_keep_the_order_of_commands() -> None:
    desk = Desk(max_position=9 * QTY, max_batch=4)
    desk.levels(10, 3, 3)
    assert [len(batch) for _, batch in desk.venue.take()] == [4, 2]

    desk.levels(11, 3, 3, bid=BID - 5 * TICK, ask=ASK + 5 * TICK)

    batches = [batch for _, batch in desk.venue.take()]
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert batches[0] == [Cancel(1), Cancel(2), Cancel(3), Cancel(4)]
    assert [type(c) for c in batches[1]] == [Cancel, Cancel, Create, Create]


def test_what_is_sent_is_notified_with_its_batch_and_what_is_answered_without() -> None:
    desk = Desk(max_position=9 * QTY, max_batch=2)
    desk.levels(10, 3, 0)
    desk.sink.on_account(AccountEvent(seq=0, ts=20, kind="ack", n=1, quota_left=77))
    desk.levels(30, 0, 0)

    seen = [(u.n, u.state, u.batch, u.px, u.leaves, u.quota_left) for u in desk.updates]
    assert seen == [
        (1, "pending_new", 1, BID, QTY, None),
        (2, "pending_new", 1, BID - TICK, QTY, None),
        (3, "pending_new", 2, BID - 2 * TICK, QTY, None),
        (1, "open", 0, BID, QTY, 77),
        (1, "pending_cancel", 3, BID, QTY, None),
        (2, "pending_cancel", 3, BID - TICK, QTY, None),
        (3, "pending_cancel", 4, BID - 2 * TICK, QTY, None),
    ]


def test_a_fill_is_notified_with_its_price_and_fee() -> None:
    desk = quoted()

    desk.sink.on_account(
        AccountEvent(seq=0, ts=20, kind="fill", n=1, venue_id="x", px=BID - 1, qty=3, fee=8)
    )

    update = desk.updates[-1]
    assert (update.filled, update.fill_px, update.fee, update.px) == (3, BID - 1, 8, BID)
    assert (update.leaves, update.ts, update.batch) == (QTY - 3, 20, 0)


def test_cancel_all_cancels_in_order_of_numbers_and_creates_a_buy_and_a_sell() -> None:
    desk = quoted(replace="cancel_all", max_position=9 * QTY)
    desk.quote(11, BID, ASK)
    desk.venue.take()

    desk.quote(12, BID, ASK)

    assert desk.venue.take() == [(12, [Cancel(3), Cancel(4), bid(5), ask(6)])]


def test_retract_takes_away_what_is_not_wanted_and_creates_nothing() -> None:
    desk = quoted(max_position=9 * QTY)

    desk.sink.on_next(
        Decision(seq=1, ts=11, action="retract", bid_px=BID - TICK, ask_px=ASK, qty=QTY)
    )
    desk.told("cancel", 1)

    assert desk.sent() == [Cancel(1)]


def test_the_fair_value_is_the_anchor_of_the_latest_priced_decision() -> None:
    desk = Desk()
    assert desk.sink.fair_value is None
    desk.sink.on_next(Decision(seq=1, ts=1, action="hold", anchor=207.1))
    desk.sink.on_next(Decision(seq=1, ts=2, action="withdraw"))

    assert desk.sink.fair_value == 207.1


# ---------------------------------------------------------------- keep


def test_keep_leaves_an_order_whose_level_moved() -> None:
    desk = quoted(replace="keep")

    desk.quote(11, BID - TICK, ASK + TICK)

    assert desk.sent() == []


def test_keep_cancels_a_side_that_is_not_quoted_and_levels_that_are_too_many() -> None:
    desk = Desk(replace="keep", max_position=9 * QTY)
    desk.levels(10, 2, 1)
    desk.venue.take()

    desk.levels(11, 1, 0)

    assert desk.sent() == [Cancel(2), Cancel(3)]


def test_keep_lets_an_order_serve_its_own_price_before_any_other() -> None:
    desk = Desk(replace="keep", max_position=9 * QTY)
    desk.levels(10, 1, 0, bid=BID - TICK)
    desk.venue.take()

    desk.levels(11, 2, 0)

    assert desk.sent() == [bid(2)], "not a second order at the outer price"


def test_keep_leaves_an_order_that_the_venue_says_rests() -> None:
    desk = quoted(replace="keep")
    desk.quote(11, BID - TICK, ASK + TICK)

    desk.rests(1)

    assert desk.sent() == []


# ---------------------------------------------------------------- modify


def test_modify_moves_an_order_in_one_transaction_with_its_total_size() -> None:
    desk = quoted(replace="modify")
    desk.filled(1, 10)

    desk.quote(11, BID + TICK, ASK)

    assert desk.venue.take() == [(11, [Modify(1, BID + TICK, QTY + 10)])]
    assert desk.state(1) == "pending_modify"
    desk.answered("modify", 1, px=BID + TICK, qty=QTY + 10)
    assert desk.state(1) == "open"
    assert desk.sink.orders.find(1).px == desk.updates[-1].px == BID + TICK
    desk.quote(12, BID + TICK, ASK)
    assert desk.sent() == []


def test_modify_sends_cancels_then_modifies_then_creates() -> None:
    desk = Desk(replace="modify", max_position=9 * QTY)
    desk.levels(10, 2, 1)
    desk.told("ack", 1, 2, 3)
    desk.venue.take()

    desk.levels(11, 1, 2, bid=BID - 5 * TICK)

    assert desk.sent() == [Cancel(2), Modify(1, BID - 5 * TICK, QTY), ask(4, ASK + TICK)]


def test_the_larger_of_old_and_new_size_counts_until_a_modify_is_answered() -> None:
    desk = quoted(replace="modify", max_position=9 * QTY)

    desk.quote(11, BID + TICK, None, 2 * QTY)
    assert desk.sink.orders.worst_case(BUY) == 2 * QTY
    desk.answered("modify_reject", 1)
    assert desk.sink.orders.worst_case(BUY) == QTY + 2 * QTY, "the new order is on its way too"
    desk = quoted(replace="modify", max_position=9 * QTY)
    desk.quote(11, BID + TICK, None, QTY // 2)
    assert desk.sink.orders.worst_case(BUY) == QTY
    desk.answered("modify", 1, px=BID + TICK, qty=QTY // 2)
    assert desk.sink.orders.worst_case(BUY) == QTY // 2


def test_a_modify_without_room_for_its_size_becomes_a_cancel_and_a_wait() -> None:
    desk = quoted(replace="modify", max_position=QTY)
    desk.filled(1, 10)

    desk.quote(11, BID + TICK, ASK)

    assert desk.sent() == [Cancel(1)]
    desk.filled(2, 10, "b")
    desk.told("cancel", 1)
    assert desk.sent() == [bid(3, BID + TICK)]


def test_an_order_at_the_limit_is_moved_since_it_needs_no_more_room() -> None:
    desk = quoted(replace="modify", max_position=QTY)

    desk.quote(11, BID + TICK, ASK)

    assert desk.sent() == [Modify(1, BID + TICK, QTY)]


def test_one_level_waits_for_each_order_that_will_be_moved_and_the_others_do_not() -> None:
    desk = Desk(replace="modify", max_position=9 * QTY)
    desk.levels(10, 1, 0)
    desk.venue.take()

    desk.levels(11, 2, 0, bid=BID + 5 * TICK)

    assert desk.sent() == [bid(2, BID + 4 * TICK)]
    desk.told("ack", 1)
    assert desk.sent() == [Modify(1, BID + 5 * TICK, QTY)]


def test_a_level_that_is_wanted_anew_goes_to_its_place_among_those_that_wait() -> None:
    desk = quoted(replace="modify", max_position=9 * QTY)
    desk.quote(11, BID + TICK, ASK)
    desk.told("disconnect", 0)
    desk.told("connect", 0)
    desk.levels(60, 1, 2, bid=BID + TICK)
    desk.answered("modify_reject", 1)
    desk.venue.take()

    desk.rests(2, ASK)
    desk.told("cancel", 1)

    assert desk.sent() == [bid(3, BID + TICK), ask(4, ASK + TICK)]


def test_an_order_that_a_modify_lost_is_not_replaced_until_the_next_decision() -> None:
    desk = quoted(replace="modify")
    desk.quote(11, BID + TICK, ASK)
    desk.venue.take()

    desk.told("cancel", 1)

    assert desk.sent() == []
    desk.quote(12, BID + TICK, ASK)
    assert desk.sent() == [bid(3, BID + TICK)]


@pytest.mark.parametrize("size", [QTY, QTY // 2])
def test_an_order_that_could_not_be_moved_is_replaced_and_never_moved_again(size: int) -> None:
    desk = quoted(replace="modify")
    desk.quote(11, BID + TICK, ASK, size)
    desk.venue.take()

    desk.answered("modify_reject", 1)

    assert desk.sent() == [Cancel(1), bid(3, BID + TICK, size)]
    desk.told("cancel_reject", 1)
    assert Cancel(1) in desk.sent()
    desk.told("cancel_reject", 1)
    desk.quote(12, BID + 2 * TICK, ASK, size)
    assert not [c for c in desk.sent() if isinstance(c, Modify) and c.n == 1]


def test_a_refused_change_of_size_alone_is_a_level_that_is_wanted_anew() -> None:
    desk = quoted(replace="modify", max_position=9 * QTY)
    desk.quote(11, BID, ASK, 2 * QTY)
    assert desk.sent() == [Modify(1, BID, 2 * QTY), Modify(2, ASK, 2 * QTY)]

    desk.answered("modify_reject", 1)

    assert desk.sent() == [Cancel(1), bid(3, BID, 2 * QTY)]


def test_a_modify_that_was_lost_is_found_out_and_not_tried_again() -> None:
    desk = quoted(replace="modify", timed=True)
    desk.quote(11, BID + TICK, ASK)
    desk.clock.advance(11 + PATIENCE)
    assert desk.sent() == [Modify(1, BID + TICK, QTY), Query(1)]

    desk.rests(1, ts=desk.clock.now_ns)

    assert desk.sent() == [Cancel(1), bid(3, BID + TICK)]


def test_a_modify_whose_answer_was_lost_is_found_out_to_be_done() -> None:
    desk = quoted(replace="modify", timed=True)
    desk.quote(11, BID + TICK, ASK)
    desk.clock.advance(11 + PATIENCE)
    desk.venue.take()

    desk.rests(1, BID + TICK, ts=desk.clock.now_ns)

    assert desk.sent() == []
    assert desk.state(1) == "open"
    desk.quote(5_000, BID + 2 * TICK, ASK)
    assert desk.sent() == [Modify(1, BID + 2 * TICK, QTY)], "it can be moved again"


def test_late_news_of_one_modify_does_not_answer_the_next() -> None:
    desk = quoted(replace="modify", max_position=9 * QTY, timed=True)
    desk.quote(11, BID + TICK, ASK)
    desk.clock.advance(11 + PATIENCE)
    desk.rests(1, BID + TICK)
    desk.quote(2_000, BID + 2 * TICK, ASK, 3 * QTY)
    assert Modify(1, BID + 2 * TICK, 3 * QTY) in desk.sent()

    desk.answered("modify", 1, px=BID + TICK, qty=QTY)

    assert desk.state(1) == "pending_modify"
    assert desk.sink.orders.worst_case(BUY) == 3 * QTY
    desk.answered("modify", 1, px=BID + 2 * TICK, qty=3 * QTY)
    assert desk.state(1) == "open"


@pytest.mark.parametrize("answer", ["ack", "reject"])
def test_an_order_that_is_not_acknowledged_yet_is_moved_after_its_ack(answer: AccountKind) -> None:
    desk = Desk(replace="modify")
    desk.quote(10, BID, None)
    desk.quote(11, BID + TICK, None)
    assert desk.sent() == [bid(1)]

    desk.told(answer, 1)

    moved, anew = Modify(1, BID + TICK, QTY), bid(2, BID + TICK)
    assert desk.sent() == [moved if answer == "ack" else anew]


def test_an_order_being_moved_is_moved_on_after_its_answer_and_not_before() -> None:
    desk = quoted(replace="modify")
    desk.quote(11, BID + TICK, ASK)
    desk.quote(12, BID + 2 * TICK, ASK)
    assert desk.sent() == [Modify(1, BID + TICK, QTY)]

    desk.answered("modify", 1, px=BID + TICK, qty=QTY)

    assert desk.sent() == [Modify(1, BID + 2 * TICK, QTY)]


def test_an_order_being_moved_is_cancelled_when_nothing_is_wanted() -> None:
    desk = quoted(replace="modify")
    desk.quote(11, BID + TICK, ASK)
    desk.venue.take()

    desk.sink.on_next(decision("withdraw", 12))
    assert desk.sent() == [Cancel(1), Cancel(2)]
    desk.answered("modify", 1, px=BID + TICK, qty=QTY)
    assert desk.state(1) == "pending_cancel"
    assert desk.sent() == []


def test_a_modify_to_no_more_than_what_has_filled_ends_the_order() -> None:
    desk = quoted(replace="modify")
    desk.quote(11, BID + TICK, ASK, 10)

    desk.filled(1, 10)
    assert desk.state(1) == "pending_modify"
    desk.answered("modify", 1, px=BID + TICK, qty=10)

    assert desk.state(1) == "filled"
    assert desk.updates[-1].leaves == 0


def test_an_order_that_filled_before_its_modify_arrived_ends_with_the_refusal() -> None:
    desk = quoted(replace="modify", max_position=9 * QTY)
    desk.filled(1, 10)
    desk.quote(11, BID + TICK, ASK)
    desk.venue.take()

    desk.filled(1, QTY - 10, "b")
    assert (desk.state(1), desk.sink.orders.find(1).leaves) == ("pending_modify", 10)
    desk.answered("modify_reject", 1)

    assert desk.state(1) == "filled"
    assert desk.sent() == [], "a filled level waits for the next decision"


# ---------------------------------------------------------------- overdue answers


def test_an_order_without_an_answer_is_asked_for_with_doubling_patience() -> None:
    desk = Desk(timed=True)
    desk.quote(0, BID, None)
    desk.venue.take()

    desk.clock.advance(PATIENCE - 1)
    assert desk.venue.take() == []
    desk.clock.advance(20 * PATIENCE)

    assert desk.venue.take() == [(k * PATIENCE, [Query(1)]) for k in (1, 3, 7, 15)]


def test_an_overdue_answer_is_noticed_in_time_while_another_is_waited_for_longer() -> None:
    desk = Desk(timed=True, max_position=9 * QTY)
    desk.quote(0, BID, None)
    desk.clock.advance(10 * PATIENCE)  # asked at 1, 3 and 7: the next look is at 15
    desk.quote(10 * PATIENCE, BID, ASK)
    desk.venue.take()

    desk.clock.advance(12 * PATIENCE)

    assert desk.venue.take() == [(11 * PATIENCE, [Query(2)])]


def test_an_answer_makes_the_next_patience_short_again() -> None:
    desk = Desk(timed=True)
    desk.quote(0, BID, None)
    desk.clock.advance(10 * PATIENCE)
    desk.told("ack", 1, ts=10 * PATIENCE)
    desk.venue.take()

    desk.quote(10 * PATIENCE, None, None)
    desk.clock.advance(11 * PATIENCE)

    assert desk.sent() == [Cancel(1), Query(1)]


def test_an_answered_question_is_not_waited_for_any_more() -> None:
    desk = Desk(timed=True)
    desk.quote(0, BID, None)
    desk.clock.advance(PATIENCE)
    desk.rests(1, ts=PATIENCE)
    desk.quote(PATIENCE, None, None)
    desk.clock.advance(2 * PATIENCE)
    assert desk.sent() == [bid(1), Query(1), Cancel(1), Query(1)]

    desk.rests(1, ts=2 * PATIENCE)

    assert desk.sent() == [Cancel(1)]


def test_nobody_is_asked_about_orders_that_rest() -> None:
    desk = quoted(timed=True)

    desk.clock.advance(1_000 * PATIENCE)

    assert desk.venue.take() == []


def test_the_longest_patience_is_a_minute() -> None:
    desk = Desk(timed=True)
    desk.quote(0, BID, None)
    desk.clock.advance(400 * 10**9)

    times = [ts for ts, _ in desk.venue.take()]
    assert {b - a for a, b in zip(times[-4:], times[-3:], strict=False)} == {60 * 10**9}


@pytest.mark.parametrize("answer", ["ack", "reject", "cancel", "expire"])
def test_the_answer_to_a_question_settles_an_order(answer: AccountKind) -> None:
    desk = Desk(timed=True)
    desk.quote(0, BID, None)
    desk.clock.advance(PATIENCE)
    desk.venue.take()

    desk.answered(answer, 1, px=BID, qty=QTY, reason="queried", ts=PATIENCE)
    desk.clock.advance(100 * PATIENCE)

    assert desk.sent() == []
    last = {"ack": "open", "reject": "rejected", "cancel": "cancelled", "expire": "expired"}
    assert desk.state(1) == last[answer]


def test_a_cancel_that_was_lost_is_sent_again_when_the_venue_says_that_the_order_rests() -> None:
    desk = quoted(timed=True)
    desk.sink.on_next(decision("withdraw", 10))
    desk.told("cancel", 2)
    desk.clock.advance(10 + PATIENCE)
    assert desk.sent() == [Cancel(1), Cancel(2), Query(1)]

    desk.rests(1, ts=desk.clock.now_ns)

    assert desk.sent() == [Cancel(1)]
    assert not [u for u in desk.updates if u.n == 1 and u.state == "cancelled"]


def test_answers_to_questions_about_what_has_ended_are_no_anomaly() -> None:
    desk = quoted()
    desk.filled(1, QTY)
    before = len(desk.updates)

    desk.sink.on_account(
        AccountEvent(
            seq=0, ts=60, kind="fill", n=1, venue_id="a", px=BID, qty=QTY, reason="queried"
        )
    )
    desk.answered("cancel", 1, reason="queried")
    desk.rests(1)

    assert not desk.sink.orders.anomalies
    assert len(desk.updates) == before


def test_a_fill_that_only_the_answer_to_a_question_tells_is_counted() -> None:
    desk = quoted()

    desk.sink.on_account(
        AccountEvent(seq=0, ts=60, kind="fill", n=1, venue_id="z", px=BID, qty=5, reason="queried")
    )
    desk.filled(1, 5, "z")

    assert desk.sink.orders.position == 5
    assert desk.fills == [(1, 5)]
    assert desk.sink.orders.anomalies == {"fill told twice": 1}


# ---------------------------------------------------------------- refused cancels


def test_a_refused_cancel_is_repeated_three_times_at_once_and_then_with_doubling_patience() -> None:
    desk = quoted(timed=True)
    desk.quote(0, None, ASK)
    for _ in range(3):
        desk.told("cancel_reject", 1, ts=0)
    assert desk.sent() == [Cancel(1)] * 3

    when: list[int] = []
    while len(when) < 5:
        desk.clock.advance(desk.clock.now_ns + PATIENCE)
        if sent := desk.sent():
            assert sent == [Cancel(1), Query(1)]
            desk.told("cancel_reject", 1, ts=desk.clock.now_ns)
            when.append(desk.clock.now_ns // PATIENCE)
    assert when == [1, 3, 7, 15, 31]
    assert desk.sink.orders.anomalies["a cancel was refused again and again"] == 1


def test_a_cancel_refused_by_a_rate_limit_is_repeated_after_a_while() -> None:
    desk = quoted(timed=True)
    desk.quote(0, None, ASK)
    desk.venue.take()

    desk.answered("cancel_reject", 1, reason="23000 too many requests", ts=0)
    desk.told("ack", 2, ts=1)
    assert desk.sent() == []
    desk.clock.advance(PATIENCE)

    assert desk.sent() == [Cancel(1), Query(1)]


def test_the_wait_after_a_rate_limit_begins_with_the_refusal() -> None:
    desk = quoted(timed=True)
    desk.quote(0, None, ASK)
    desk.clock.advance(PATIENCE // 2)
    desk.answered("cancel_reject", 1, reason="23000", ts=PATIENCE // 2)
    desk.venue.take()

    desk.clock.advance(PATIENCE + PATIENCE // 2 - 1)
    assert desk.sent() == []
    desk.clock.advance(PATIENCE + PATIENCE // 2)

    assert desk.sent() == [Cancel(1), Query(1)]


def test_a_rate_limit_that_is_told_late_is_not_waited_for_longer_than_others() -> None:
    desk = quoted(timed=True)
    desk.quote(0, None, ASK)
    desk.clock.advance(16 * PATIENCE)  # asked at 1, 3, 7 and 15: the next look is at 31
    desk.answered("cancel_reject", 1, reason="23000", ts=16 * PATIENCE)
    desk.venue.take()

    desk.clock.advance(17 * PATIENCE)

    assert desk.sent() == [Cancel(1), Query(1)]


def test_a_cancel_that_must_wait_is_sent_in_time_when_no_other_timer_is_out() -> None:
    desk = quoted(timed=True, max_position=9 * QTY)
    desk.quote(0, None, ASK)
    now = 0
    while desk.sink.orders.find(1).cancels < 6 or desk.state(1) == "pending_cancel":
        if desk.state(1) == "pending_cancel":
            desk.told("cancel_reject", 1, ts=now)
        else:
            now += PATIENCE
            desk.clock.advance(now)
    desk.quote(now, BID, ASK)
    desk.rests(1, ts=now)
    desk.levels(now, 1, 2)  # its own, earlier timer is the only one now
    desk.told("ack", 3, ts=now)
    desk.clock.advance(now + 2 * PATIENCE)
    desk.venue.take()

    desk.levels(now + 2 * PATIENCE, 0, 2)
    assert desk.sent() == [], "the venue has just refused it for the sixth time"
    desk.clock.advance(now + 9 * PATIENCE)

    assert Cancel(1) in desk.sent()


def test_without_a_clock_a_refused_cancel_is_repeated_by_what_comes_later() -> None:
    desk = quoted()
    desk.quote(60, None, ASK)
    for _ in range(3):
        desk.told("cancel_reject", 1, ts=60)
    desk.venue.take()

    desk.told("ack", 2, ts=60 + PATIENCE - 1)
    assert desk.sent() == []
    desk.told("ack", 2, ts=60 + PATIENCE)
    assert desk.sent() == [Cancel(1)]


def test_an_order_that_is_wanted_again_after_refused_cancels_is_asked_for_once_and_kept() -> None:
    desk = quoted(timed=True)
    desk.quote(0, None, ASK)
    for _ in range(3):
        desk.told("cancel_reject", 1, ts=0)
    desk.quote(1, BID, ASK)
    desk.venue.take()

    desk.clock.advance(PATIENCE)
    assert desk.sent() == [Query(1)], "it may be gone"
    desk.rests(1, ts=desk.clock.now_ns)
    desk.clock.advance(100 * PATIENCE)

    assert desk.sent() == []


def test_an_order_unwanted_again_after_refused_cancels_is_cancelled_without_another_event() -> None:
    desk = quoted(timed=True)
    desk.quote(0, None, ASK)
    for _ in range(3):
        desk.told("cancel_reject", 1, ts=0)
    desk.quote(1, BID, ASK)
    desk.rests(1, ts=2)
    desk.venue.take()

    desk.quote(3, None, ASK)
    desk.clock.advance(2 * PATIENCE)

    assert Cancel(1) in desk.sent()


def test_a_late_fill_calls_back_an_order_whose_cancels_were_refused_before() -> None:
    desk = Desk(timed=True, max_position=2 * QTY)
    desk.levels(0, 2, 0)
    desk.told("cancel", 1, ts=0)
    desk.levels(0, 0, 0)
    for _ in range(3):
        desk.told("cancel_reject", 2, ts=0)
    desk.levels(1, 1, 0, bid=BID - TICK)  # order 2 is wanted again
    desk.rests(2, BID - TICK, ts=2)
    desk.venue.take()

    desk.filled(1, QTY, ts=3)
    desk.filled(1, 1, "overfill", ts=3)
    desk.clock.advance(10 * PATIENCE)

    assert Cancel(2) in desk.sent()


# ---------------------------------------------------------------- the connection


def test_nothing_is_sent_without_a_connection_and_all_that_works_is_asked_for_after() -> None:
    desk = quoted(timed=True)
    desk.told("disconnect", 0, ts=20)
    desk.quote(21, BID + TICK, ASK)
    desk.filled(2, 1, ts=22)
    desk.clock.advance(10 * PATIENCE)
    assert desk.sent() == []
    assert desk.sink.orders.anomalies["disconnected from the venue"] == 1

    desk.told("connect", 0, ts=10 * PATIENCE)

    assert desk.sent() == [Query(1), Query(2), Cancel(1)]


def test_after_a_gap_an_order_that_the_venue_does_not_speak_of_is_asked_for_again() -> None:
    desk = quoted(timed=True)
    desk.clock.advance(10)
    desk.told("disconnect", 0, ts=10)
    desk.told("connect", 0, ts=10)
    desk.rests(2, ASK, ts=10)
    assert desk.sent() == [Query(1), Query(2)]

    desk.clock.advance(10 + 6 * PATIENCE)

    assert desk.sent() == [Query(1), Query(1)]


def test_time_passes_in_long_steps_while_there_is_no_connection() -> None:
    desk = Desk(timed=True)
    desk.quote(0, BID, None)
    desk.told("disconnect", 0, ts=0)

    desk.clock.advance(PATIENCE)

    assert desk.clock.next_due_ns == 2 * PATIENCE


def test_after_a_gap_creates_wait_until_every_doubtful_order_is_answered() -> None:
    desk = quoted(max_position=9 * QTY)
    desk.told("disconnect", 0)
    desk.told("connect", 0)
    desk.levels(60, 2, 2)
    assert desk.sent() == [Query(1), Query(2)]

    desk.rests(1)
    desk.sink.on_account(
        AccountEvent(seq=0, ts=60, kind="fill", n=2, venue_id="q", px=ASK, qty=5, reason="queried")
    )
    assert desk.sent() == [], "repeated fills only begin the answer"
    desk.rests(2, ASK)

    assert desk.sent() == [bid(3, BID - TICK), ask(4, ASK + TICK)]


def test_after_a_gap_an_order_that_ended_in_between_is_no_longer_doubtful() -> None:
    desk = Desk(max_position=9 * QTY)
    desk.quote(10, BID, None)
    desk.told("disconnect", 0)
    desk.told("connect", 0)
    desk.levels(60, 2, 0)
    desk.venue.take()

    desk.told("cancel", 1)

    assert desk.sent() == [bid(2, BID - TICK)]


def test_an_answer_from_before_a_cancel_does_not_settle_it() -> None:
    desk = quoted()
    desk.told("disconnect", 0)
    desk.told("connect", 0)
    desk.quote(60, None, ASK)
    assert desk.sent() == [Query(1), Query(2), Cancel(1)]

    desk.rests(1)

    assert desk.sent() == []
    assert desk.state(1) == "pending_cancel"


def test_an_answer_from_before_a_modify_takes_nothing_out_of_the_exposure() -> None:
    desk = quoted(replace="modify", max_position=9 * QTY)
    desk.told("disconnect", 0)
    desk.told("connect", 0)
    desk.quote(60, BID + TICK, ASK, 3 * QTY)

    desk.rests(1)

    assert desk.state(1) == "pending_modify"
    assert desk.sink.orders.worst_case(BUY) == 3 * QTY
    desk.answered("modify", 1, px=BID + TICK, qty=3 * QTY)
    assert desk.state(1) == "open"


def test_a_late_answer_from_before_a_modify_does_not_undo_it() -> None:
    desk = quoted(replace="modify", max_position=9 * QTY)
    desk.told("disconnect", 0)
    desk.told("connect", 0)
    desk.quote(60, BID + TICK, ASK, 3 * QTY)
    desk.answered("modify", 1, px=BID + TICK, qty=3 * QTY)

    desk.rests(1)

    assert desk.sink.orders.worst_case(BUY) == 3 * QTY
    assert desk.sink.orders.find(1).px == BID + TICK


def test_a_question_that_the_gap_swallowed_is_not_waited_for() -> None:
    desk = Desk(timed=True)
    desk.quote(0, BID, None)
    desk.clock.advance(PATIENCE)  # asked, and never answered
    desk.told("disconnect", 0, ts=PATIENCE)
    desk.told("connect", 0, ts=PATIENCE)
    desk.quote(PATIENCE, None, None)
    desk.clock.advance(10 * PATIENCE)
    desk.venue.take()

    desk.rests(1, ts=10 * PATIENCE)
    desk.rests(1, ts=10 * PATIENCE)

    assert desk.sent() == [Cancel(1)], "the second answer is to a question after the cancel"


# ---------------------------------------------------------------- the end of a stop


def test_a_stop_is_finished_when_the_venue_has_confirmed_it_all() -> None:
    desk = quoted(timed=True)
    desk.stop(90)
    desk.told("cancel", 1)
    assert not desk.sink.finished

    desk.told("cancel", 2)

    assert desk.sink.finished
    assert desk.sink.left == []
    desk.clock.advance(10 * STOP)
    assert not desk.sink.orders.anomalies


def test_a_stop_is_finished_in_time_and_says_what_was_not_confirmed() -> None:
    desk = quoted(timed=True)
    desk.stop(90)
    desk.told("cancel", 1)

    desk.clock.advance(90 + STOP - 1)
    assert not desk.sink.finished
    desk.clock.advance(90 + STOP)

    assert desk.sink.finished
    assert [order.n for order in desk.sink.left] == [2]
    assert desk.sink.orders.anomalies["left working: not confirmed in time"] == 1
    desk.venue.take()
    desk.clock.advance(10 * STOP)
    assert desk.sent() == []


def test_fills_after_a_stop_are_counted() -> None:
    desk = quoted(timed=True)
    desk.stop(90)
    desk.told("cancel", 1, 2)

    desk.filled(1, 7)

    assert desk.sink.orders.position == 7
    assert desk.fills == [(1, 7)]
    assert desk.sink.finished


def test_a_stop_without_orders_or_position_is_finished_at_once() -> None:
    desk = Desk(flatten=True)
    desk.stop(90)

    assert desk.sink.finished
    assert desk.sent() == []


def test_a_stop_with_a_closing_order_is_finished_when_that_is_filled() -> None:
    desk = Desk(flatten=True, position=3, timed=True)
    desk.stop(90)
    assert not desk.sink.finished

    desk.filled(1, 3)

    assert desk.sink.finished


def test_a_closing_order_that_is_refused_three_times_ends_the_stop() -> None:
    desk = Desk(flatten=True, position=3)
    desk.stop(90)
    desk.told("reject", 1)
    desk.told("reject", 2)
    assert not desk.sink.finished

    desk.told("reject", 3)

    assert desk.sink.finished
    desk.told("ack", 3)
    assert desk.sink.orders.anomalies["position left open: the closing order was refused"] == 1


def test_a_late_fill_is_not_flattened_when_the_time_to_stop_is_over() -> None:
    desk = quoted(timed=True, flatten=True)
    desk.stop(90)
    desk.told("cancel", 1, 2)
    desk.clock.advance(90 + STOP)
    desk.venue.take()

    desk.filled(1, QTY, ts=desk.clock.now_ns)

    assert desk.sent() == []
    assert desk.sink.finished


def test_a_stop_without_a_connection_closes_the_position_after_the_gap() -> None:
    desk = Desk(flatten=True, position=3)
    desk.told("disconnect", 0)
    desk.stop(90)
    assert desk.sent() == []
    assert not desk.sink.finished

    desk.told("connect", 0)

    assert desk.sent() == [Create(1, SELL, None, 3, None)]


def test_a_stop_during_a_gap_cancels_after_it() -> None:
    desk = quoted()
    desk.told("disconnect", 0)
    desk.stop(90)
    assert desk.sent() == []

    desk.told("connect", 0)

    assert desk.sent() == [Query(1), Query(2), Cancel(1), Cancel(2)]


def test_a_closing_order_is_asked_for_and_never_cancelled() -> None:
    desk = Desk(flatten=True, position=3, timed=True)
    desk.stop(0)
    desk.told("ack", 1, ts=0)
    desk.told("disconnect", 0, ts=0)
    desk.told("connect", 0, ts=0)
    desk.clock.advance(5 * PATIENCE)

    assert set(map(repr, desk.sent()[1:])) == {repr(Query(1))}


# ---------------------------------------------------------------- a hostile venue


class Real(Struct):
    """An order as the venue has it; the sink sees only what it is told."""

    side: int
    left: int
    market: bool
    live: bool = True
    """Until the venue is done with it, a create that it has not looked at included."""
    looked_at: bool = False
    cancel_asked: bool = False


class HostileVenue:
    """Does what it likes with our orders, and tells it when it likes, twice if it likes.

    It keeps one promise: what it did before an order ended, it tells before that end. The truth
    about position and open orders is kept here, and shares nothing with the sink.
    """

    def __init__(self, source: random.Random, limit: int) -> None:
        self.real: dict[int, Real] = {}
        self.position = 0
        self.did: Counter[str] = Counter()
        self._source = source
        self._limit = limit
        self._untold: list[AccountEvent] = []
        self._told: list[AccountEvent] = []
        self._trades = 0

    def submit(self, ts: int, commands: Sequence[Command]) -> None:
        creates = 0
        for command in commands:
            if isinstance(command, Cancel):
                assert not creates, "a cancel came after a create"
                assert command.n in self.real, "cancelled before it was created"
                self.real[command.n].cancel_asked = True
                continue
            assert isinstance(command, Create)
            creates += 1
            assert command.n not in self.real
            assert command.qty > 0
            self.real[command.n] = Real(command.side, command.qty, command.is_market)
            self.did["closed at market"] += command.is_market
            self.judge()

    def worst(self, side: int) -> int:
        left = sum(o.left for o in self.real.values() if o.live and o.side == side)
        return self.position + side * left

    def judge(self) -> None:
        """The claim: whatever fills from here on, the limit holds on both sides."""
        assert self.worst(BUY) <= self._limit
        assert self.worst(SELL) >= -self._limit
        room = self._limit - max(self.worst(BUY), -self.worst(SELL))
        self.did["full"] += room < min(SIZES)

    def act(self) -> None:
        """Do something to one order, without telling it yet."""
        n = self._one_of(n for n, order in self.real.items() if order.live)
        if n is None:
            return
        order, source = self.real[n], self._source
        whims = ["ack", "fill", "fill"] + ["end"] * (source.random() < 0.3)
        whim = source.choice([*whims, "answer cancel"] if order.cancel_asked else whims)
        if whim == "fill":
            self.trade(n, order.left if source.random() < 0.3 else source.randint(1, order.left))
        elif whim == "ack":
            order.looked_at = True
            self._note("ack", n)
        elif whim == "answer cancel" and source.random() < 0.3:
            order.cancel_asked = False
            self._note("cancel_reject", n)
        else:
            ends: list[AccountKind] = ["cancel", "expire"] if order.looked_at else ["reject"]
            order.live = False
            self._note("cancel" if whim == "answer cancel" else source.choice(ends), n)

    def trade(self, n: int, qty: int) -> None:
        order = self.real[n]
        order.looked_at = True
        order.left -= qty
        order.live = order.left > 0
        self.position += order.side * qty
        self._trades += 1
        self._note("fill", n, f"trade-{self._trades}", qty)

    def answers(self, everything: bool = False) -> Iterable[AccountEvent]:
        """What it chooses to tell now: late, out of order, and now and then again."""
        source = self._source
        while self._untold and (everything or source.random() < 0.6):
            event = self._untold.pop(self._next_to_tell())
            self._told.append(event)
            yield event
        if self._told and source.random() < 0.3:
            self.did["told again"] += 1
            yield source.choice(self._told)

    def finish(self) -> None:
        """Behave at last: cancel what is to be cancelled, fill what is at market."""
        for n, order in list(self.real.items()):
            if order.live and order.market:
                self.trade(n, order.left)
            elif order.live and order.cancel_asked:
                order.live = False
                self._note("cancel", n)

    def _next_to_tell(self) -> int:
        at = self._source.randrange(len(self._untold))
        event = self._untold[at]
        if event.kind in ("cancel", "expire", "reject"):
            for i, other in enumerate(self._untold):
                if other.n == event.n and other.kind == "fill":
                    return i
        return at

    def _note(
        self, kind: AccountKind, n: int, id: str | None = None, qty: int | None = None
    ) -> None:
        self.did[kind] += 1
        px = None if qty is None else BID
        self._untold.append(
            AccountEvent(seq=0, ts=0, kind=kind, n=n, venue_id=id, px=px, qty=qty, fee=0)
        )

    def _one_of(self, numbers: Iterable[int]) -> int | None:
        choices = list(numbers)
        return self._source.choice(choices) if choices else None


def _hostile_session(seed: int, replace: ReplacePolicy, steps: int) -> Counter[str]:
    source = random.Random(seed)
    limit = source.choice((100, 150, 237))
    venue = HostileVenue(source, limit)
    counted: list[int] = []
    sink = OrderSink(
        venue,
        max_position=limit,
        replace=replace,
        flatten=True,
        notify=lambda update: None,
        on_order=lambda order: None,
        on_fill=lambda order, event: counted.append(order.side * (event.qty or 0)),
        on_decision=lambda decision: None,
    )
    for ts in range(steps):
        if source.random() < 0.5:
            action = source.choice(("quote",) * 8 + ("withdraw", "hold", "refuse"))
            buy = source.choice((None, BID, BID, BID + TICK, BID + 2 * TICK))
            sell = source.choice((None, ASK, ASK, ASK + TICK, ASK + 2 * TICK))
            qty = source.choice(SIZES)
            sink.on_next(decision(action, ts, buy, sell, qty))  # type: ignore[arg-type]
            venue.judge()
        if source.random() < 0.6:
            venue.act()
            venue.judge()
        sent = len(venue.real)
        for event in venue.answers():
            sink.on_account(event)
            venue.judge()
        venue.did["sent once there was room"] += len(venue.real) > sent

    for event in venue.answers(everything=True):
        sink.on_account(event)
    assert sink.orders.position == venue.position == sum(counted)
    assert sink.orders.working.keys() == {n for n, order in venue.real.items() if order.live}
    sink.on_account(AccountEvent(seq=0, ts=steps, kind="stop"))
    for _ in range(3):
        venue.finish()
        for event in venue.answers(everything=True):
            sink.on_account(event)
            venue.judge()
    assert not any(order.live for order in venue.real.values()), "an order was left behind"
    assert sink.orders.position == venue.position == sum(counted) == 0
    assert all(sink.orders.find(n).state in FINAL_STATES for n in venue.real)
    return venue.did


@pytest.mark.parametrize("replace", ["cancel_create", "cancel_all"])
@pytest.mark.parametrize("seed", range(25))
def test_the_true_worst_case_stays_within_the_limit_whatever_a_hostile_venue_does(
    seed: int, replace: ReplacePolicy
) -> None:
    _hostile_session(seed, replace, steps=400)


@pytest.mark.parametrize("replace", ["cancel_create", "cancel_all"])
def test_the_hostile_venue_is_hostile_and_the_limit_is_reached(replace: ReplacePolicy) -> None:
    """Guards the guard: sessions without these would prove nothing."""
    did: Counter[str] = Counter()
    for seed in range(5):
        did += _hostile_session(seed, replace, steps=400)

    for what in ("full", "told again", "sent once there was room", "closed at market"):
        assert did[what], what
    for kind in ("ack", "reject", "fill", "cancel", "cancel_reject", "expire"):
        assert did[kind] > 5, kind


def test_a_position_of_the_venue_s_that_is_not_ours_by_fills_is_counted() -> None:
    desk = quoted()
    desk.filled(1, QTY)

    desk.sink.on_account(AccountEvent(seq=0, ts=1, kind="position", qty=QTY))
    assert not desk.sink.orders.anomalies
    desk.sink.on_account(AccountEvent(seq=0, ts=2, kind="position", qty=QTY - 1))

    assert desk.sink.orders.anomalies == {"position by fills is not the venue's": 1}
