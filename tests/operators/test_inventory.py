"""inventory(): what we hold and what works for us, from our orders' changes."""

import random
from typing import Any

import pytest
from reactivex import Observable
from reactivex import operators as ops

from operators.inventory import inventory, voids_last_quote
from streams.events import BUY, SELL, Inventory, OrderUpdate
from streams.pump import Hot
from tests.marbles import expect, play, subscribers


def _resets(state: Inventory) -> int:
    return state.resets


def order(n: int, side: int, state: str, leaves: int, **more: Any) -> OrderUpdate:
    return OrderUpdate(ts=0, n=n, side=side, state=state, leaves=leaves, **more)


ORDERS = {
    "a": order(1, BUY, "pending_new", 100),
    "b": order(2, SELL, "pending_new", 70),
    "c": order(1, BUY, "open", 100),
    "d": order(1, BUY, "open", 60, filled=40),
    "e": order(1, BUY, "filled", 0, filled=60),
    "f": order(2, SELL, "filled", 0, filled=70),
    "g": order(3, SELL, "pending_new", 30),
    "h": order(3, SELL, "cancelled", 0),
}


def test_it_starts_with_nothing_then_follows_every_change_of_an_order() -> None:
    states = {
        "s": Inventory(0, 0, 0, 0),
        "a": Inventory(0, 100, 0, 1),
        "b": Inventory(0, 100, 70, 2),
        "c": Inventory(0, 100, 70, 2),  # an ack changes nothing that works
        "d": Inventory(40, 60, 70, 2),
        "e": Inventory(100, 0, 70, 1),
        "f": Inventory(30, 0, 0, 0),  # 100 - 70
        "g": Inventory(30, 0, 30, 1),
        "h": Inventory(30, 0, 0, 0),  # cancelled as requested: the position stays
    }

    actual = play("    --a-b-c-d-e-f-g-h-|", ORDERS, inventory())

    assert actual == expect("s-a-b-c-d-e-f-g-h-|", states)


def test_it_starts_from_the_position_it_is_given() -> None:
    states = {"s": Inventory(-50), "f": Inventory(-120)}

    assert play("--f-|", ORDERS, inventory(position=-50)) == expect("s-f-|", states)


def test_a_fill_of_an_order_that_is_gone_still_moves_the_position() -> None:
    values = {"a": order(1, BUY, "cancelled", 0), "b": order(1, BUY, "filled", 0, filled=100)}
    states = {"s": Inventory(), "b": Inventory(100)}

    assert play("--a-b-|", values, inventory()) == expect("s-s-b-|", states)


REJECTED = order(1, BUY, "rejected", 0)
EXPIRED = order(1, BUY, "expired", 0)
CANCELLED = order(1, BUY, "cancelled", 0)
CANCELLED_OUTSIDE = order(1, BUY, "cancelled", 0, requested=False)


@pytest.mark.parametrize(
    ("update", "on_reject", "on_cancel", "void"),
    [
        (EXPIRED, False, False, True),
        (EXPIRED, True, True, True),
        (REJECTED, True, False, True),
        (REJECTED, False, False, False),
        (REJECTED, False, True, False),
        (CANCELLED, True, True, False),
        (CANCELLED_OUTSIDE, True, False, False),
        (CANCELLED_OUTSIDE, False, True, True),
        (order(1, BUY, "filled", 0, filled=100), True, True, False),
        (order(1, BUY, "open", 100), True, True, False),
    ],
)
def test_a_last_quote_is_void_after_expiry_and_by_choice_after_reject_or_outside_cancel(
    update: OrderUpdate, on_reject: bool, on_cancel: bool, void: bool
) -> None:
    options = {"on_reject_resubmit": on_reject, "on_cancel_resubmit": on_cancel}
    values = {"n": ORDERS["a"], "u": update, "m": order(9, SELL, "pending_new", 1)}

    def resets(source: Observable[OrderUpdate]) -> Observable[int]:
        return source.pipe(inventory(**options), ops.map(_resets))

    assert voids_last_quote(update, **options) is void
    assert play("--n-u-m-|", values, resets) == expect("a-a-b-b-|", {"a": 0, "b": int(void)})


def test_each_void_quote_counts_once() -> None:
    values = {"r": REJECTED, "e": EXPIRED}
    states = {
        "s": Inventory(),
        "a": Inventory(rejects=1, resets=1),
        "b": Inventory(rejects=1, resets=2),
        "c": Inventory(rejects=2, resets=3),
    }

    assert play("--r-e-r-|", values, inventory()) == expect("s-a-b-c-|", states)


def test_fills_move_cash_by_price_and_size_and_fees_apart() -> None:
    values = {
        "a": order(1, BUY, "open", 60, filled=40, fill_px=7, fee=3),
        "b": order(1, BUY, "filled", 0, filled=60, fill_px=8, fee=-1),  # a rebate
        "c": order(2, SELL, "filled", 0, filled=90, fill_px=9, fee=2),
        "d": order(3, SELL, "open", 5),
        "e": order(3, SELL, "cancelled", 0, fee=4),  # a fee without a fill is of no fill
    }
    states = {
        "s": Inventory(),
        "a": Inventory(40, 60, 0, 1, cash=-280, fees=3),  # -40 * 7
        "b": Inventory(100, 0, 0, 0, cash=-760, fees=2),  # -280 - 60 * 8
        "c": Inventory(10, 0, 0, 0, cash=50, fees=4),  # -760 + 90 * 9
        "d": Inventory(10, 0, 5, 1, cash=50, fees=4),
        "e": Inventory(10, 0, 0, 0, cash=50, fees=4),
    }

    assert play("--a-b-c-d-e-|", values, inventory()) == expect("s-a-b-c-d-e-|", states)


def test_the_position_it_starts_from_cost_no_cash() -> None:
    values = {"f": order(2, SELL, "filled", 0, filled=70, fill_px=9, fee=1)}
    states = {"s": Inventory(50), "f": Inventory(-20, cash=630, fees=1)}

    assert play("--f-|", values, inventory(position=50)) == expect("s-f-|", states)


@pytest.mark.parametrize("on_reject_resubmit", [True, False])
def test_rejects_are_counted_whether_or_not_they_void_the_last_quote(
    on_reject_resubmit: bool,
) -> None:
    values = {"r": REJECTED, "e": EXPIRED, "c": CANCELLED}
    void = int(on_reject_resubmit)
    states = {
        "s": Inventory(),
        "a": Inventory(rejects=1, resets=void),
        "b": Inventory(rejects=1, resets=void + 1),
        "c": Inventory(rejects=2, resets=2 * void + 1),
    }

    actual = play("--r-e-c-r-|", values, inventory(on_reject_resubmit=on_reject_resubmit))

    assert actual == expect("s-a-b-b-c-|", states)


def test_what_works_is_the_sum_of_the_leaves_after_any_sequence_of_changes() -> None:
    source = random.Random(6)
    updates: Hot[OrderUpdate] = Hot()
    states: list[Inventory] = []
    updates.pipe(inventory()).subscribe(states.append)
    leaves: dict[int, int] = {}
    position = 0
    for _ in range(3_000):
        n = source.randrange(1, 30)
        side = BUY if n % 2 else SELL
        filled = source.choice((0, 0, 5))
        leaves[n] = source.choice((0, 10, 20))
        position += side * filled
        updates.push(order(n, side, "open", leaves[n], filled=filled))

        assert states[-1] == Inventory(
            position,
            sum(left for n, left in leaves.items() if n % 2),
            sum(left for n, left in leaves.items() if not n % 2),
            sum(1 for left in leaves.values() if left),
        )


def test_two_subscriptions_do_not_share_a_position() -> None:
    updates: Hot[OrderUpdate] = Hot()
    folded = updates.pipe(inventory())
    early: list[Inventory] = []
    late: list[Inventory] = []
    folded.subscribe(early.append)
    updates.push(ORDERS["d"])
    folded.subscribe(late.append)
    updates.push(ORDERS["e"])

    assert [state.position for state in early] == [0, 40, 100]
    assert [state.position for state in late] == [0, 60]


def test_an_error_travels() -> None:
    error = ValueError("the venue broke")

    assert play("-#", {}, inventory(), error) == expect("s#", {"s": Inventory()}, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[OrderUpdate] = Hot()
    subscription = source.pipe(inventory()).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
