"""Orders: one life each, every fill once, whatever the venue says and when."""

import random
from collections import Counter

import pytest
from msgspec import Struct
from reactivex.subject import Subject

from operators.inventory import inventory
from sinks.orders import FINAL_STATES, STATUS, Order, Orders
from streams.events import BUY, SELL, AccountEvent, AccountKind, Inventory, OrderUpdate

SIDES = pytest.mark.parametrize("side", [BUY, SELL], ids=["buy", "sell"])
PX = 207_100_000_000
ENDINGS = ("cancel", "expire", "reject")
LAST_STATE = {"cancel": "cancelled", "expire": "expired", "reject": "rejected", "fill": "filled"}


def event(
    kind: AccountKind, n: int | None = 1, *, ts: int = 9, qty: int | None = None, id: str = "a"
) -> AccountEvent:
    if kind != "fill":
        return AccountEvent(seq=0, ts=ts, kind=kind, n=n)
    return AccountEvent(seq=0, ts=ts, kind=kind, n=n, venue_id=id, px=PX, qty=qty, fee=0)


def fill(qty: int | None, id: str, n: int = 1, ts: int = 9) -> AccountEvent:
    return event("fill", n, qty=qty, id=id, ts=ts)


def one_order(side: int = BUY, qty: int = 100) -> tuple[Orders, Order]:
    orders = Orders()
    order, _ = orders.create(1, side, PX, qty)
    return orders, order


def picture(orders: Orders) -> tuple[object, ...]:
    """Everything that decisions and limits depend on."""
    return (
        orders.position,
        orders.worst_case(BUY),
        orders.worst_case(SELL),
        [(o.n, o.state, o.filled, o.leaves, o.ts_last) for o in orders.working.values()],
    )


# ---------------------------------------------------------------- the life of an order


@SIDES
def test_an_order_is_in_flight_from_its_creation_and_counts_at_once(side: int) -> None:
    orders = Orders(position=7)

    order, update = orders.create(5, side, PX, 100)

    assert (order.n, order.ts, order.side, order.px, order.qty) == (1, 5, side, PX, 100)
    assert (order.state, order.filled, order.leaves, order.ts_last) == ("pending_new", 0, 100, 5)
    assert update == OrderUpdate(
        ts=5, n=1, side=side, state="pending_new", leaves=100, px=PX, requested=False
    )
    assert orders.worst_case(side) == 7 + side * 100
    assert orders.worst_case(-side) == 7
    assert orders.working == {1: order}


def test_orders_are_numbered_from_one_in_order_of_creation() -> None:
    orders = Orders()

    assert [orders.create(0, BUY, PX, 1)[0].n for _ in range(3)] == [1, 2, 3]
    assert list(orders.working) == [1, 2, 3]
    assert orders.created == 3


def test_an_ack_opens_an_order() -> None:
    orders, order = one_order()

    update = orders.apply(event("ack", ts=3))

    assert (order.state, order.leaves, order.ts_last) == ("open", 100, 3)
    assert update == OrderUpdate(
        ts=3, n=1, side=BUY, state="open", leaves=100, px=PX, requested=False
    )


@SIDES
@pytest.mark.parametrize("acked", [False, True])
@pytest.mark.parametrize("kind", ENDINGS)
def test_an_ending_takes_what_was_left_out_of_the_exposure(
    side: int, acked: bool, kind: AccountKind
) -> None:
    orders, order = one_order(side)
    if acked:
        orders.apply(event("ack"))

    update = orders.apply(event(kind, ts=4))

    assert update == OrderUpdate(
        ts=4, n=1, side=side, state=LAST_STATE[kind], leaves=0, px=PX, requested=False
    )
    assert (order.state, order.leaves, order.ts_last) == (LAST_STATE[kind], 0, 4)
    assert not orders.working
    assert orders.find(1) is order
    assert orders.worst_case(BUY) == orders.worst_case(SELL) == orders.position == 0
    assert not orders.anomalies


@SIDES
def test_a_fill_before_the_ack_counts_and_a_late_ack_still_opens_the_rest(side: int) -> None:
    orders, order = one_order(side)

    update = orders.apply(fill(30, "a", ts=2))
    assert update == OrderUpdate(
        ts=2,
        n=1,
        side=side,
        state="pending_new",
        leaves=70,
        px=PX,
        filled=30,
        fill_px=PX,
        requested=False,
    )
    assert (orders.position, orders.worst_case(side)) == (side * 30, side * 100)

    orders.apply(event("ack", ts=3))
    assert (order.state, order.leaves, order.filled) == ("open", 70, 30)
    assert (orders.position, orders.worst_case(side)) == (side * 30, side * 100)
    assert not orders.anomalies


@SIDES
def test_a_whole_fill_before_the_ack_ends_the_order_and_the_late_ack_changes_nothing(
    side: int,
) -> None:
    orders, order = one_order(side)
    orders.apply(fill(100, "a"))
    before = picture(orders)

    assert orders.apply(event("ack", ts=30)) is None

    assert order.state == "filled"
    assert order.ts_last == 9
    assert picture(orders) == before
    assert orders.anomalies == {"ack for a finished order": 1}


@SIDES
def test_partial_fills_add_up_to_a_filled_order_while_the_exposure_stays(side: int) -> None:
    orders, order = one_order(side)
    orders.apply(event("ack"))

    for i, (qty, left) in enumerate([(1, 99), (59, 40), (40, 0)]):
        update = orders.apply(fill(qty, str(i)))
        assert update is not None
        assert (update.filled, update.leaves) == (qty, left)
        assert orders.worst_case(side) == side * 100
        assert orders.worst_case(-side) == orders.position == side * (100 - left)

    assert (order.state, order.filled) == ("filled", 100)
    assert not orders.working
    assert not orders.anomalies


@SIDES
def test_a_fill_told_twice_counts_once(side: int) -> None:
    orders, order = one_order(side)
    orders.apply(fill(60, "trade-1"))
    before = picture(orders)

    assert orders.apply(fill(60, "trade-1", ts=77)) is None

    assert picture(orders) == before
    assert order.filled == 60
    assert orders.anomalies == {"fill told twice": 1}
    assert orders.apply(fill(40, "trade-2")) is not None
    assert orders.position == side * 100


@SIDES
def test_a_fill_told_again_after_the_order_ended_counts_once(side: int) -> None:
    orders, _ = one_order(side)
    orders.apply(fill(100, "a"))

    assert orders.apply(fill(100, "a")) is None

    assert orders.position == side * 100
    assert orders.anomalies == {"fill told twice": 1}


@pytest.mark.parametrize("qty", [None, 0, -5])
def test_a_fill_without_a_size_changes_nothing_and_does_not_use_up_its_id(
    qty: int | None,
) -> None:
    orders, _ = one_order()
    before = picture(orders)

    assert orders.apply(fill(qty, "a")) is None
    assert picture(orders) == before
    assert orders.anomalies == {"fill without a size": 1}
    assert orders.apply(fill(10, "a")) is not None


@SIDES
@pytest.mark.parametrize("kind", ENDINGS)
def test_a_fill_after_the_end_is_a_fill_and_opens_no_exposure(side: int, kind: AccountKind) -> None:
    orders, order = one_order(side)
    orders.apply(event(kind))

    update = orders.apply(fill(30, "a", ts=12))

    assert update is not None
    assert (update.state, update.leaves, update.filled) == (LAST_STATE[kind], 0, 30)
    assert (order.filled, order.ts_last) == (30, 12)
    assert orders.position == orders.worst_case(BUY) == orders.worst_case(SELL) == side * 30
    assert not orders.working
    assert orders.anomalies == {"fill after the end of its order": 1}


def test_a_late_fill_of_all_that_was_left_makes_a_cancelled_order_a_filled_one() -> None:
    orders, order = one_order()
    orders.apply(fill(30, "a"))
    orders.apply(event("cancel"))

    orders.apply(fill(70, "b"))

    assert (order.state, order.filled, orders.position) == ("filled", 100, 100)
    assert not orders.working


@SIDES
def test_a_cancel_after_partial_fills_leaves_the_filled_part_in_the_position(side: int) -> None:
    orders, order = one_order(side)
    orders.apply(event("ack"))
    orders.apply(fill(30, "a"))
    orders.ask_cancel(8, order)
    assert (order.state, orders.worst_case(side)) == ("pending_cancel", side * 100)

    update = orders.apply(event("cancel"))

    assert update is not None
    assert (update.state, update.leaves, update.filled) == ("cancelled", 0, 0)
    assert update.requested
    assert order.filled == 30
    assert orders.worst_case(side) == orders.position == side * 30


def test_an_order_cancelled_by_somebody_else_is_told_apart() -> None:
    orders, _ = one_order()

    update = orders.apply(event("cancel"))

    assert update is not None
    assert not update.requested


@SIDES
def test_an_order_being_cancelled_stays_in_the_exposure_until_it_is_gone(side: int) -> None:
    orders, order = one_order(side)

    orders.ask_cancel(8, order)
    assert (order.state, order.leaves) == ("pending_cancel", 100)
    assert orders.worst_case(side) == side * 100
    orders.apply(event("ack"))
    assert (order.state, order.leaves) == ("pending_cancel", 100)
    orders.apply(fill(10, "a"))
    assert (order.state, order.leaves) == ("pending_cancel", 90)
    assert orders.worst_case(side) == side * 100


def test_a_fill_that_overtakes_a_cancel_ends_the_order_as_filled() -> None:
    orders, order = one_order()
    orders.apply(event("ack"))
    orders.ask_cancel(8, order)

    orders.apply(fill(100, "a"))
    before = picture(orders)
    assert orders.apply(event("cancel_reject")) is None

    assert order.state == "filled"
    assert picture(orders) == before
    assert orders.anomalies == {"cancel_reject for a finished order": 1}


@pytest.mark.parametrize(("acked", "state"), [(True, "open"), (False, "pending_new")])
def test_a_refused_cancel_brings_the_order_back_to_where_it_was(acked: bool, state: str) -> None:
    orders, order = one_order()
    if acked:
        orders.apply(event("ack"))
    orders.ask_cancel(8, order)

    update = orders.apply(event("cancel_reject"))

    assert update is not None
    assert (order.state, update.state, update.leaves) == (state, state, 100)
    assert not update.requested
    assert orders.worst_case(BUY) == 100
    assert 1 in orders.working
    after = orders.apply(event("cancel"))
    assert after is not None
    assert not after.requested, "our own cancel was refused, so this one was somebody else's"


def test_an_ack_that_overtook_nothing_but_the_cancel_is_remembered_when_that_is_refused() -> None:
    orders, order = one_order()
    orders.ask_cancel(8, order)
    orders.apply(event("ack"))

    orders.apply(event("cancel_reject"))

    assert order.state == "open"


def queried(px: int, qty: int) -> AccountEvent:
    return AccountEvent(seq=0, ts=9, kind="ack", n=1, px=px, qty=qty, reason="queried")


def test_an_order_found_to_rest_after_its_cancel_was_lost_ends_by_somebody_else() -> None:
    orders, order = one_order()
    orders.ask_cancel(3, order)
    orders.ask_query(4, order)

    update = orders.apply(queried(PX, 100))
    assert update is not None
    assert (update.state, update.requested) == ("open", False)
    gone = orders.apply(event("cancel"))

    assert gone is not None
    assert not gone.requested


def test_an_order_stands_where_the_answer_to_a_question_says() -> None:
    orders, order = one_order()
    orders.ask_query(4, order)

    orders.apply(queried(PX + 5, 80))

    assert (order.px, order.leaves, order.state) == (PX + 5, 80, "open")
    assert orders.worst_case(BUY) == 80


def test_a_question_changes_nothing_but_the_time_when_it_was_asked() -> None:
    orders, order = one_order()
    before = picture(orders)

    orders.ask_query(4, order)

    assert picture(orders) == before
    assert (order.asked_ts, order.queries, order.unanswered) == (4, 1, 1)


def test_news_of_a_modify_opens_an_order_whose_ack_did_not_come() -> None:
    orders, order = one_order()

    orders.apply(AccountEvent(seq=0, ts=9, kind="modify", n=1, px=PX + 5, qty=120))

    assert (order.state, order.px, order.leaves) == ("open", PX + 5, 120)
    assert orders.worst_case(BUY) == 120


def test_a_refused_cancel_leaves_a_modify_on_its_way() -> None:
    orders, order = one_order()
    orders.apply(event("ack"))
    total, update = orders.ask_modify(3, order, PX + 5, 150)
    assert (total, update.state, update.leaves, update.px) == (150, "pending_modify", 150, PX)
    orders.ask_cancel(4, order)

    orders.apply(event("cancel_reject"))

    assert (order.state, order.leaves, order.wanted_px) == ("pending_modify", 150, PX + 5)


def test_a_modify_asks_for_what_has_filled_and_the_new_size() -> None:
    orders, order = one_order()
    orders.apply(fill(30, "a"))

    total, _ = orders.ask_modify(3, order, PX + 5, 150)

    assert total == 180
    assert orders.worst_case(BUY) == 180
    assert (order.wanted_size, order.size) == (150, 100)
    orders.apply(AccountEvent(seq=0, ts=9, kind="modify", n=1, px=PX + 5, qty=180))
    assert (order.wanted_size, order.size, order.qty) == (150, 150, 180)


@pytest.mark.parametrize("kind", ["ack", "reject", "fill", "cancel", "cancel_reject", "expire"])
@pytest.mark.parametrize("n", [None, 0, 2, -1])
def test_an_answer_for_an_unknown_order_is_counted_and_changes_nothing(
    kind: AccountKind, n: int | None
) -> None:
    orders, _ = one_order()
    before = picture(orders)

    assert orders.apply(event(kind, n, qty=100)) is None

    assert picture(orders) == before
    assert orders.anomalies == {f"{kind} for an unknown order": 1}


@pytest.mark.parametrize("kind", ["ack", "reject", "cancel", "cancel_reject", "expire"])
@pytest.mark.parametrize("end", [*ENDINGS, "fill"])
def test_an_answer_for_a_finished_order_is_counted_and_changes_nothing(
    end: AccountKind, kind: AccountKind
) -> None:
    orders, order = one_order()
    orders.create(1, SELL, PX, 40)
    orders.apply(event(end, qty=100))
    before = picture(orders)

    assert orders.apply(event(kind, ts=55)) is None

    assert picture(orders) == before
    assert (order.state, order.ts_last) == (LAST_STATE[end], 9)
    assert orders.anomalies == {f"{kind} for a finished order": 1}


@SIDES
def test_an_overfill_is_held_and_counted_and_leaves_nothing_negative(side: int) -> None:
    orders, order = one_order(side)

    update = orders.apply(fill(130, "a"))

    assert update is not None
    assert (update.filled, update.leaves) == (130, 0)
    assert (order.state, order.filled, order.leaves) == ("filled", 130, 0)
    assert orders.position == orders.worst_case(BUY) == orders.worst_case(SELL) == side * 130
    assert orders.anomalies == {"filled beyond the order's size": 1}


def test_a_second_fill_of_a_filled_order_is_held_and_counted_as_both_anomalies() -> None:
    orders, order = one_order()
    orders.apply(fill(100, "a"))

    orders.apply(fill(5, "b"))

    assert (order.filled, orders.position) == (105, 105)
    assert orders.anomalies == {
        "fill after the end of its order": 1,
        "filled beyond the order's size": 1,
    }


def test_the_worst_case_of_a_side_is_the_position_and_all_that_works_on_that_side_alone() -> None:
    orders = Orders(position=-5)
    for side, qty in [(BUY, 10), (SELL, 200), (BUY, 3_000), (SELL, 40_000)]:
        orders.create(0, side, PX, qty)

    assert orders.worst_case(BUY) == -5 + 10 + 3_000
    assert orders.worst_case(SELL) == -5 - 200 - 40_000
    assert [order.n for order in orders.on_side(BUY)] == [1, 3]
    assert [order.n for order in orders.on_side(SELL)] == [2, 4]

    orders.apply(event("cancel", 2))
    orders.apply(fill(10, "a", n=1))

    assert orders.worst_case(BUY) == 5 + 3_000
    assert orders.worst_case(SELL) == 5 - 40_000


def test_a_state_is_final_exactly_if_the_journal_does_not_call_it_open() -> None:
    assert {state for state, name in STATUS.items() if name != "OPEN"} == set(FINAL_STATES)
    assert {STATUS[state] for state in FINAL_STATES} == {
        "FILLED", "CANCELED", "REJECTED", "EXPIRED",
    }  # fmt: skip


def test_the_oldest_finished_orders_are_forgotten_and_their_late_answers_still_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sinks.orders.REMEMBERED", 3)
    orders = Orders()
    for n in range(1, 6):
        orders.create(0, BUY, PX, 10)
        orders.apply(event("cancel", n))

    assert orders.apply(fill(10, "old", n=2)) is None
    assert orders.apply(fill(10, "new", n=3)) is not None

    assert orders.position == 10
    assert orders.anomalies == {
        "fill for an unknown order": 1,
        "fill after the end of its order": 1,
    }


# ---------------------------------------------------------------- against an independent model


class Told(Struct):
    """What the model knows about an order: no states, only what was sent and told."""

    side: int
    qty: int
    fills: dict[str, int]
    ended: bool = False

    @property
    def open(self) -> int:
        left = self.qty - sum(self.fills.values())
        return 0 if self.ended or left <= 0 else left


def _random_event(
    source: random.Random, model: dict[int, Told], told: list[AccountEvent], ts: int
) -> AccountEvent:
    if told and source.random() < 0.25:
        return source.choice(told)  # the venue repeats itself, now or much later
    n = source.choice([*list(model)[-6:], 10_000])
    kinds: list[AccountKind] = ["ack", "fill", "fill", "fill", "cancel_reject"]
    kinds += ["cancel", "expire", "reject"] if source.random() < 0.4 else []
    kind = source.choice(kinds)
    if kind != "fill":
        return event(kind, n, ts=ts)
    return fill(source.choice((1, 7, 20, 60)), f"trade-{ts}", n=n, ts=ts)


@pytest.mark.parametrize("seed", range(40))
def test_position_and_exposure_are_the_sum_of_distinct_fills_and_of_what_has_not_ended(
    seed: int,
) -> None:
    source = random.Random(seed)
    start = source.randint(-50, 50)
    orders, model = Orders(start), dict[int, Told]()
    told: list[AccountEvent] = []
    graph, folded = Subject[OrderUpdate](), list[Inventory]()
    graph.pipe(inventory(position=start)).subscribe(folded.append)
    seen: Counter[str] = Counter()

    for ts in range(300):
        if not model or source.random() < 0.15:
            side, qty = source.choice((BUY, SELL)), source.choice((20, 60, 100))
            order, update = orders.create(ts, side, PX, qty)
            model[order.n] = Told(side, qty, {})
            graph.on_next(update)
        elif orders.working and source.random() < 0.15:
            orders.ask_cancel(ts, source.choice(list(orders.working.values())))
        else:
            answer = _random_event(source, model, told, ts)
            told.append(answer)
            known = model.get(answer.n or 0)
            new = False
            if known is not None and answer.kind == "fill":
                assert answer.venue_id is not None
                assert answer.qty is not None
                new = answer.venue_id not in known.fills
                known.fills[answer.venue_id] = answer.qty
            elif known is not None:
                new = bool(known.open)
                known.ended |= answer.kind in ENDINGS
            changed = orders.apply(answer)
            seen[f"{answer.kind} {'taken' if new else 'ignored'}"] += 1
            assert (changed is not None) == new
            if changed is not None:
                assert changed.filled == (answer.qty if answer.kind == "fill" else 0)
                graph.on_next(changed)

        position = start + sum(t.side * sum(t.fills.values()) for t in model.values())
        left = {s: sum(t.open for t in model.values() if t.side == s) for s in (BUY, SELL)}
        working = {n: t.open for n, t in model.items() if t.open}
        assert orders.position == position
        assert orders.worst_case(BUY) == position + left[BUY]
        assert orders.worst_case(SELL) == position - left[SELL]
        assert {n: order.leaves for n, order in orders.working.items()} == working
        for n, known in model.items():
            assert orders.find(n).filled == sum(known.fills.values())
        now = folded[-1]
        assert (now.position, now.working_buy, now.working_sell, now.working) == (
            position, left[BUY], left[SELL], len(working),
        )  # fmt: skip

    # Guards the guard: an interleaving that reached nothing would prove nothing.
    assert seen["fill taken"] > 20
    assert seen["fill ignored"] > 5
    assert seen["cancel ignored"] + seen["expire ignored"] + seen["reject ignored"] > 0
