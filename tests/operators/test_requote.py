"""requote(): a state goes through only when it is worth new orders."""

from itertools import product
from typing import Any

import pytest
from msgspec.structs import replace
from reactivex import Observable, Subject
from reactivex import operators as ops

from operators.budget import BudgetLimits
from operators.operator import Operator
from operators.requote import (
    moved,
    refused,
    requote,
    same_target,
    surely_unmoved,
    widened_bps,
)
from operators.state import State, refuse_state, seq_of
from operators.throttle import throttle
from streams.clock import Clock
from streams.events import BUY, Anchor, Decision, Inventory, OrderUpdate, Refusal, Residual, Source
from streams.pump import Hot
from tests.marbles import expect, play_graph, subscribers

NO_BID = Refusal(5, 50, "signal", "no bid", None, 207, None, 3)


def state(
    anchor: float, residual: float = 0.0, *, dropped: bool = False, widening: float = 1.0
) -> tuple[Residual, Anchor]:
    """``dropped`` states have both sides dropped by ``price``."""
    seq = -1 if dropped else 1
    return Residual(seq, 1, 64.0, 64.0, residual), Anchor(2, 2, anchor, anchor, 1, 2, widening)


def priced(pair: tuple[Residual, Anchor]) -> Decision:
    signal, anchor = pair
    return Decision(
        seq=2,
        ts=2,
        action="withdraw" if signal.seq == -1 else "quote",
        anchor=anchor.price,
        residual=signal.residual,
    )


def told(decision: Decision) -> tuple[Any, ...]:
    return decision.action, decision.anchor, decision.residual, decision.unmoved


def worthwhile(bps: float, factor: float = 0.0) -> Any:
    """The graph under test, told as (action, anchor, residual, unmoved)."""

    def graph(inventory: Observable[Inventory], states: Observable[State]) -> Observable[Any]:
        return states.pipe(
            requote(
                threshold_bps=bps,
                signal_skew_factor=factor,
                inventory=inventory,
                price=ops.map(priced),
            ),
            ops.map(told),
        )

    return graph


# Threshold 2 ** -4 of the anchor, so that doubles on either side are exact.
BPS = 625.0
WORKING = {"w": Inventory(working=2), "n": Inventory(), "v": Inventory(working=1, resets=1)}
ANCHORS = {
    "a": state(64.0),
    "b": state(67.0),  # + 3/64, below 4/64
    "c": state(68.0),  # + 4/64, on it
    "d": state(71.0),  # + 3/68 from c
    "e": state(72.25),  # + 4.25/68 = 1/16 from c
    "f": state(60.0),  # - 4/64
    "g": state(61.0),  # - 3/64
    "h": state(63.0),  # - 5/68 from c
}
QUOTED = {
    "A": ("quote", 64.0, 0.0, 0),
    "B": ("quote", 67.0, 0.0, 0),
    "C": ("quote", 68.0, 0.0, 1),
    "E": ("quote", 72.25, 0.0, 1),
    "F": ("quote", 60.0, 0.0, 2),
}


def test_an_anchor_requotes_when_it_moved_by_the_threshold_since_the_last_quote() -> None:
    actual = play_graph(
        {
            "inventory": "-w",
            "states": "   --a-b-c-d-e-|",
        },
        WORKING | ANCHORS, worthwhile(BPS),
    )  # fmt: skip

    assert actual == expect("--A---C---E-|", QUOTED)


def test_an_anchor_requotes_downwards_as_well_and_moves_add_up() -> None:
    actual = play_graph(
        {
            "inventory": "-w",
            "states": "   --a-g-g-f-|",
        },
        WORKING | ANCHORS, worthwhile(BPS),
    )  # fmt: skip

    assert actual == expect("--A-----F-|", QUOTED)


def test_what_did_not_move_is_counted_in_the_next_decision_and_once() -> None:
    actual = play_graph(
        {
            "inventory": "-w",
            "states": "   --a-b-b-b-c-h-|",
        },
        WORKING | ANCHORS, worthwhile(BPS),
    )  # fmt: skip

    assert actual == expect(
        "--A-------C-D-|",
        QUOTED | {"C": ("quote", 68.0, 0.0, 3), "D": ("quote", 63.0, 0.0, 0)},
    )


def test_the_signal_requotes_when_its_impact_moved_by_the_threshold() -> None:
    # Impact is factor * change of residual / anchor: 32 * r / 64, threshold 1/16, so r of 1/8.
    states = {
        "a": state(64.0, 0.0),
        "b": state(64.0, 0.1249),
        "c": state(64.0, 0.125),
        "d": state(64.0, 0.0001),
        "e": state(64.0, 0.0),
    }
    quoted = {
        "A": ("quote", 64.0, 0.0, 0),
        "C": ("quote", 64.0, 0.125, 1),
        "E": ("quote", 64.0, 0.0, 1),
    }

    for factor in (32.0, -32.0):
        actual = play_graph(
            {
                "inventory": "-w",
                "states": "   --a-b-c-d-e-|",
            },
            WORKING | states, worthwhile(BPS, factor),
        )  # fmt: skip

        assert actual == expect("--A---C---E-|", quoted)


def test_without_a_signal_factor_the_signal_never_requotes() -> None:
    states = {"a": state(64.0, 0.0), "b": state(64.0, 9.0)}

    actual = play_graph(
        {"inventory": "-w", "states": "--a-b-b-|"}, WORKING | states, worthwhile(BPS)
    )

    assert actual == expect("--A-----|", QUOTED)


def test_the_anchors_move_is_measured_by_the_old_anchor_and_the_signals_by_the_new() -> None:
    # 64 -> 60: 4/64 = 1/16 reaches it; by the new anchor, 4/60, so would a bit more.
    assert moved(60.0, 64.0, 0.0, 0.0, 0.0, 1 / 16)
    assert not moved(60.0, 64.0, 0.0, 0.0, 0.0, 1 / 15.5)
    assert moved(68.0, 64.0, 0.0, 0.0, 0.0, 1 / 16)
    # 32 * 0.125 = 4: by 64 it is 1/16, by 66 less.
    assert moved(64.0, 66.0, 0.125, 0.0, 32.0, 1 / 16)
    assert not moved(66.0, 64.0, 0.125, 0.0, 32.0, 1 / 16)


def test_against_no_anchor_everything_moved_and_without_one_the_signal_moves_nothing() -> None:
    assert moved(64.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    assert not moved(0.0, 64.0, 9.0, 0.0, 32.0, 2.0)


@pytest.mark.parametrize("threshold", [0.0, 1e-15, 1e-12, 2e-12, 1e-6, 0.0005, 0.5, 1.0, 2.0])
def test_what_is_surely_unmoved_did_not_move(threshold: float) -> None:
    for last_anchor, last_residual, factor in product(
        (0.0, 1e-9, 0.01, 206.87, 1e5), (0.0, 0.00123, -0.3, 7.0), (0.0, 1e-6, 40.0, -40.0, 1e9)
    ):
        band = surely_unmoved(last_anchor, last_residual, factor, threshold)
        low, high, residual_low, residual_high = band
        anchors = [a for a in (last_anchor, low, high) if low <= a <= high]
        residuals = [
            r
            for r in (last_residual, residual_low, residual_high, 1e6, -1e6)
            if residual_low <= r <= residual_high
        ]
        for anchor, residual in product(anchors, residuals):
            assert not moved(anchor, last_anchor, residual, last_residual, factor, threshold)


def test_what_is_surely_unmoved_is_nearly_all_that_did_not_move() -> None:
    low, high, residual_low, residual_high = surely_unmoved(200.0, 0.25, 50.0, 0.0005)

    assert low == pytest.approx(199.9, abs=0.001)
    assert high == pytest.approx(200.1, abs=0.001)
    # 0.1 of impact is the threshold: 0.002 of the residual.
    assert residual_low == pytest.approx(0.248, abs=0.00001)
    assert residual_high == pytest.approx(0.252, abs=0.00001)


def test_a_threshold_of_zero_requotes_every_state() -> None:
    actual = play_graph(
        {
            "inventory": "-w",
            "states": "   --a-a-a-|",
        },
        WORKING | ANCHORS, worthwhile(0.0),
    )  # fmt: skip

    assert actual == expect("--A-A-A-|", QUOTED)


def test_every_state_is_priced_while_nothing_works() -> None:
    actual = play_graph(
        {
            "states": "   -a-b-a-b-a-|",
            "inventory": "----w---n",
        },
        WORKING | ANCHORS, worthwhile(BPS),
    )  # fmt: skip

    # Once b works, a (3/67 below it) and b stand still; when nothing works any more, a does not.
    out = QUOTED | {"a": ("quote", 64.0, 0.0, 2)}
    assert actual == expect("-A-B-----a-|", out)


def test_an_order_that_voids_the_last_quote_lets_the_next_state_through_once() -> None:
    actual = play_graph(
        {
            "inventory": "-w-----v",
            "states": "   --a-b-b-b-b-|",
        },
        WORKING | ANCHORS, worthwhile(BPS),
    )  # fmt: skip

    assert actual == expect("--A-----B---|", QUOTED | {"B": ("quote", 67.0, 0.0, 2)})


def test_when_both_sides_were_dropped_the_quote_before_stays_the_last_one() -> None:
    states = ANCHORS | {"x": state(72.0, dropped=True)}
    out = QUOTED | {"X": ("withdraw", 72.0, 0.0, 0), "Y": ("withdraw", 72.0, 0.0, 1)}

    # 67 is 3/64 from the 64 that was quoted (but 5/72 from the 72 that was not).
    actual = play_graph(
        {
            "inventory": "-w",
            "states": "   --a-x-b-x-|",
        },
        WORKING | states, worthwhile(BPS),
    )  # fmt: skip

    assert actual == expect("--A-X---Y-|", out)


def test_dropped_sides_alone_are_no_quote_so_the_next_state_is_priced() -> None:
    states = ANCHORS | {"x": state(64.0, dropped=True)}
    out = QUOTED | {"X": ("withdraw", 64.0, 0.0, 0)}

    actual = play_graph(
        {"inventory": "-w", "states": "--x-x-a-|"}, WORKING | states, worthwhile(BPS)
    )

    assert actual == expect("--X-X-A-|", out)


def test_a_refused_book_withdraws_at_once_and_the_next_sound_state_requotes() -> None:
    anchor = ANCHORS["b"][1]
    states: dict[str, Any] = ANCHORS | {"r": (NO_BID, anchor)}
    out = QUOTED | {"R": ("withdraw", None, None, 1)}

    actual = play_graph(
        {
            "inventory": "-w",
            "states": "   --a-b-r-b-b-|",
        },
        WORKING | states, worthwhile(BPS),
    )  # fmt: skip

    assert actual == expect("--A---R-B---|", out)


def test_the_same_refused_quote_met_again_is_only_counted_and_another_one_is_told() -> None:
    anchor, moved_anchor = ANCHORS["b"][1], ANCHORS["c"][1]
    states: dict[str, Any] = ANCHORS | {
        "r": (NO_BID, anchor),
        "s": (NO_BID, moved_anchor),  # the other feed spoke: still the same refused quote
        "t": (Refusal(6, 60, "signal", "no bid"), anchor),  # another quote
        "u": (Refusal(6, 60, "signal", "crossed"), anchor),  # another reason
    }
    out = QUOTED | {
        "R": ("withdraw", None, None, 0),
        "T": ("withdraw", None, None, 3),
        "U": ("withdraw", None, None, 0),
        "B": ("quote", 67.0, 0.0, 1),
    }

    actual = play_graph(
        {
            "inventory": "-w",
            "states": "   --a-r-r-s-r-t-u-u-b-r-|",
        },
        WORKING | states, worthwhile(BPS),
    )  # fmt: skip

    assert actual == expect("--A-R-------T-U---B-R-|", out)


def test_a_feed_that_is_missing_is_told_once_however_often_the_other_speaks() -> None:
    missing = Refusal(0, 0, "signal", "missing")
    seen = _decisions(
        [(missing, Anchor(seq, seq, 64.0, 64.0, 1, 2)) for seq in (3, 4, 5)] + [ANCHORS["a"]]
    )

    assert [(d.seq, d.reason, d.unmoved) for d in seen] == [(3, "signal missing", 0), (2, "", 2)]


@pytest.mark.parametrize("guard", ["session", "basis", "risk", "kill switch"])
def test_a_guards_refusal_is_counted_while_it_lasts_whatever_quotes_arrive(guard: Source) -> None:
    def judged(seq: int, reason: str, value: float) -> State:
        return refuse_state(
            (Residual(seq, seq, 64.0, 64.0, 0.0), ANCHORS["a"][1]), guard, reason, seq, value, 5.0
        )

    seen = _decisions(
        [
            judged(3, "closed", 6.0), judged(4, "closed", 7.0), judged(5, "closed", 8.0),
            judged(6, "open late", 9.0), ANCHORS["a"], judged(7, "open late", 9.0),
        ]
    )  # fmt: skip

    assert [(d.seq, d.action, d.reason, d.refused_value, d.unmoved) for d in seen] == [
        (3, "withdraw", f"{guard} closed", 6.0, 0),
        (6, "withdraw", f"{guard} open late", 9.0, 2),
        (2, "quote", "", None, 0),
        (7, "withdraw", f"{guard} open late", 9.0, 0),
    ]
    assert {d.refused_limit for d in seen if d.action == "withdraw"} == {5.0}
    assert all(d.signal_seq is d.target_seq is None for d in seen)


def test_a_guard_puts_its_refusal_in_the_targets_place_and_the_signal_stays() -> None:
    signal, anchor = Residual(9, 90, 64.0, 64.0, 0.0), ANCHORS["a"][1]

    refused_by = refuse_state((signal, anchor), "risk", "too many orders", 95, 3.0, 2.0)

    assert refused_by == (
        signal, Refusal(9, 95, "risk", "too many orders", value=3.0, limit=2.0),
    )  # fmt: skip
    assert seq_of(refused_by) == seq_of((signal, anchor)) == 9


def test_after_a_refusal_the_next_sound_state_is_quoted_even_if_it_did_not_move() -> None:
    states: dict[str, Any] = ANCHORS | {"r": (NO_BID, ANCHORS["a"][1])}

    actual = play_graph(
        {"inventory": "-w", "states": "--a-r-r-a-a-|"}, WORKING | states, worthwhile(BPS)
    )

    out = QUOTED | {"R": ("withdraw", None, None, 0), "B": ("quote", 64.0, 0.0, 1)}
    assert actual == expect("--A-R---B---|", out)


def test_a_change_of_the_widening_forces_a_quote_in_both_directions() -> None:
    states = ANCHORS | {"x": state(64.0, widening=3.0), "y": state(66.0, widening=3.0)}

    actual = play_graph(
        {
            "inventory": "-w",
            "states": "   --a-x-x-y-a-a-|",
        },
        WORKING | states, worthwhile(BPS),
    )  # fmt: skip

    # y is 2/64 away and as wide as the last quote.
    out = QUOTED | {"B": ("quote", 64.0, 0.0, 2)}
    assert actual == expect("--A-A-----B---|", out)


def test_a_withdrawal_names_the_feed_the_reason_and_the_book_it_judged() -> None:
    assert refused(NO_BID, 8, 80) == Decision(
        seq=8, ts=80, action="withdraw", reason="signal no bid", signal_seq=5, signal_ts=50,
        refused_ask_px=207, refused_ask_sz=3,
    )  # fmt: skip
    crossed = Refusal(6, 60, "target", "crossed", 4, 3, 2, 1)
    assert refused(crossed, 8, 80, action="refuse") == Decision(
        seq=8, ts=80, action="refuse", reason="target crossed", target_seq=6, target_ts=60,
        refused_bid_px=4, refused_ask_px=3, refused_bid_sz=2, refused_ask_sz=1,
    )  # fmt: skip
    missing = refused(Refusal(0, 0, "signal", "missing"), 8, 80)
    assert missing.signal_seq is missing.signal_ts is missing.target_seq is None
    judged = Refusal(6, 60, "target", "frozen", 3, 4, 1, 1, 61.5, 60.0)
    assert refused(judged, 8, 80) == Decision(
        seq=8, ts=80, action="withdraw", reason="target frozen", target_seq=6, target_ts=60,
        refused_bid_px=3, refused_ask_px=4, refused_bid_sz=1, refused_ask_sz=1,
        refused_value=61.5, refused_limit=60.0,
    )  # fmt: skip


def test_when_both_books_are_refused_the_targets_reason_is_given() -> None:
    crossed = Refusal(6, 60, "target", "crossed")
    seen = _decisions([(NO_BID, crossed), (NO_BID, Anchor(7, 70, 64.0, 64.0, 1, 2))])

    assert [(d.seq, d.ts, d.reason) for d in seen] == [
        (6, 60, "target crossed"),
        (7, 70, "signal no bid"),
    ]


def test_before_either_feed_has_spoken_there_is_nothing_to_answer() -> None:
    silent = Refusal(0, 0, "signal", "missing"), Refusal(0, 0, "target", "missing")

    assert _decisions([silent]) == []


def _requote(
    inventory: Observable[Inventory],
) -> Operator[State, Decision]:
    return requote(
        threshold_bps=BPS, signal_skew_factor=0.0, inventory=inventory, price=ops.map(priced)
    )


def _decisions(states: list[State]) -> list[Decision]:
    source: Hot[State] = Hot()
    seen: list[Decision] = []
    source.pipe(_requote(Hot())).subscribe(seen.append)
    for each in states:
        source.push(each)
    return seen


def test_two_subscriptions_do_not_share_the_last_quote() -> None:
    source: Hot[State] = Hot()
    inventory: Hot[Inventory] = Hot()
    requoted = source.pipe(_requote(inventory))
    early: list[Decision] = []
    late: list[Decision] = []
    requoted.subscribe(early.append)
    inventory.push(WORKING["w"])
    source.push(ANCHORS["a"])
    requoted.subscribe(late.append)
    inventory.push(WORKING["w"])
    source.push(ANCHORS["b"])

    assert [d.anchor for d in early] == [64.0]
    assert [d.anchor for d in late] == [67.0]


@pytest.mark.parametrize(("inventory", "states"), [("----#", "--a-----"), ("-w------", "--a-#---")])
def test_an_error_of_either_source_travels(inventory: str, states: str) -> None:
    error = ValueError("broke")

    actual = play_graph(
        {"inventory": inventory, "states": states}, WORKING | ANCHORS, worthwhile(BPS), error
    )

    assert actual == expect("--A-#", QUOTED, error)


def test_an_error_of_the_pricing_travels() -> None:
    def broken(_: tuple[Residual, Anchor]) -> Decision:
        raise ZeroDivisionError("no price")

    source: Subject[State] = Subject()
    errors: list[Exception] = []
    source.pipe(
        requote(
            threshold_bps=BPS,
            signal_skew_factor=0.0,
            inventory=Subject(),
            price=ops.map(broken),
        )
    ).subscribe(on_error=errors.append)
    source.on_next(ANCHORS["a"])

    assert [str(error) for error in errors] == ["no price"]


def test_disposing_unsubscribes_from_every_source() -> None:
    source: Hot[State] = Hot()
    inventory: Hot[Inventory] = Hot()
    subscription = source.pipe(_requote(inventory)).subscribe()
    assert subscribers(source, inventory) == 2

    subscription.dispose()

    assert subscribers(source) == subscribers(inventory) == 0


# ---------------------------------------------------------------- on the graph's clock

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


class Run:
    """The operator on the graph's clock, fed by hand, with two markets' orders."""

    def __init__(self, **more: Any) -> None:
        self.clock = Clock()
        self.states: Hot[State] = Hot()
        self.inventory: Hot[Inventory] = Hot()
        self.orders: tuple[Hot[OrderUpdate], Hot[OrderUpdate]] = (Hot(), Hot())
        self.seen: list[Decision] = []
        self.batches = [0, 0]
        values: dict[str, Any] = {
            "threshold_bps": BPS, "signal_skew_factor": 0.0, "price": ops.map(priced),
        }  # fmt: skip
        graph = requote(inventory=self.inventory, orders=self.orders, **(values | more))
        self.states.pipe(graph).subscribe(self.seen.append, scheduler=self.clock)

    def send(self, count: int = 1, market: int = 0, *, state: str = "pending_new") -> None:
        """Send so many batches of one order."""
        for _ in range(count):
            self.batches[market] += 1
            self.orders[market].push(
                OrderUpdate(
                    ts=self.clock.now_ns, n=self.batches[market], side=BUY, state=state, leaves=1,
                    batch=self.batches[market],
                )
            )  # fmt: skip

    def work(self, **values: Any) -> None:
        self.inventory.push(Inventory(**({"working": 2} | values)))

    def anchors(self, *prices: float) -> None:
        for price in prices:
            self.states.push(state(price))

    @property
    def told(self) -> list[tuple[float | None, float | None, int]]:
        """Anchor, threshold and unmoved of each decision."""
        return [(d.anchor, d.threshold_bps, d.unmoved) for d in self.seen]


def test_a_decision_is_stamped_with_the_present_also_when_a_timer_or_an_order_caused_it() -> None:
    run = Run()
    run.clock.advance(1)
    run.anchors(64.0)  # of quotes of 1 and 2: the later one
    run.clock.schedule_ns(50, lambda *_: run.anchors(64.0))
    run.clock.advance(70)
    run.states.push((NO_BID, ANCHORS["a"][1]))  # refused at 50
    run.clock.schedule_ns(80, lambda *_: run.states.push((NO_BID, Refusal(6, 60, "target", "x"))))
    run.clock.advance(90)

    assert [(d.action, d.ts, d.seq) for d in run.seen] == [
        ("quote", 2, 2), ("quote", 50, 2), ("withdraw", 70, 5), ("withdraw", 80, 6),
    ]  # fmt: skip


def test_without_the_graphs_clock_a_decision_has_the_time_of_its_inputs() -> None:
    [quote] = _decisions([ANCHORS["a"]])

    assert quote.ts == 2


# ---------------------------------------------------------------- only changes


def levels(pair: tuple[Residual, Anchor], *, position: int = 0) -> Decision:
    """Prices in whole units, so that several anchors lead to one target."""
    px = int(pair[1].price)
    return Decision(
        seq=2, ts=2, action="withdraw" if px == 99 else "quote", anchor=pair[1].price, residual=0.0,
        bid_px=None if px == 99 else px - 2, ask_px=None if px == 99 else px + 2, bid_levels=1,
        ask_levels=1, position=position,
    )  # fmt: skip


def test_a_target_that_equals_the_last_one_is_only_counted() -> None:
    run = Run(threshold_bps=0.0, only_changes=True, price=ops.map(levels))
    run.work()

    run.anchors(64.0, 64.25, 64.75, 65.0, 64.0, 64.5)

    assert run.told == [(64.0, None, 0), (65.0, None, 2), (64.0, None, 0)]


def test_every_target_is_sent_again_without_only_changes() -> None:
    run = Run(threshold_bps=0.0, price=ops.map(levels))
    run.work()

    run.anchors(64.0, 64.25, 64.75)

    assert len(run.seen) == 3


def test_after_a_fill_the_same_prices_are_another_target_since_the_position_changed() -> None:
    position = 0

    def held(pair: tuple[Residual, Anchor]) -> Decision:
        return levels(pair, position=position)

    run = Run(threshold_bps=0.0, only_changes=True, price=ops.map(held))
    run.work()
    run.anchors(64.0, 64.0)
    position = 5
    run.work(position=5, working=1)

    run.anchors(64.0, 64.0)

    assert [(d.position, d.unmoved) for d in run.seen] == [(0, 0), (5, 1)]


def test_the_same_target_is_sent_again_when_nothing_works() -> None:
    run = Run(threshold_bps=0.0, only_changes=True, price=ops.map(levels))
    run.work()
    run.anchors(64.0, 64.0)
    run.work(working=0)

    run.anchors(64.0, 64.0)

    assert run.told == [(64.0, None, 0), (64.0, None, 1), (64.0, None, 0)]


def test_the_same_target_is_sent_again_after_a_refusal_or_when_an_order_voided_it() -> None:
    run = Run(threshold_bps=0.0, only_changes=True, price=ops.map(levels))
    run.work()
    run.anchors(64.0)
    run.states.push((NO_BID, ANCHORS["a"][1]))
    run.anchors(64.0, 64.0)
    run.work(resets=1)
    run.anchors(64.0, 64.0)

    assert [d.action for d in run.seen] == ["quote", "withdraw", "quote", "quote"]


@pytest.mark.parametrize("working", [0, 2])
def test_the_same_wish_to_quote_nothing_is_told_once_whatever_works(working: int) -> None:
    run = Run(threshold_bps=0.0, only_changes=True, price=ops.map(levels))
    run.work(working=working)

    run.anchors(99.0, 99.25, 64.0, 99.5, 99.0)

    assert [(d.action, d.unmoved) for d in run.seen] == [
        ("withdraw", 0), ("quote", 1), ("withdraw", 0),
    ]  # fmt: skip


def test_a_target_is_the_same_when_prices_levels_position_and_action_are() -> None:
    target = Decision(
        seq=1, ts=1, action="quote", bid_px=1, ask_px=2, bid_levels=3, ask_levels=4, position=5
    )

    assert same_target(target, replace(target, seq=9, ts=9, anchor=3.0, unmoved=4, bid=1.5))
    for change in (
        {"bid_px": 0}, {"ask_px": 3}, {"bid_px": None}, {"bid_levels": 2}, {"ask_levels": 5},
        {"position": 4}, {"action": "withdraw"},
    ):  # fmt: skip
        assert not same_target(target, replace(target, **change)), change


# ---------------------------------------------------------------- when a budget runs low


def test_below_half_of_the_minute_the_threshold_widens_in_proportion_and_is_told() -> None:
    run = Run(limits=BudgetLimits(transactions_per_minute=10))
    run.work()
    run.send(5)
    run.anchors(64.0, 68.0)  # half is left: 4/64 is the threshold as it is set
    run.send(3)
    # 2 of 10 are left: 5 / 2 times wider, 10/64 of the anchor, from the 68 that was quoted 10.625.
    run.anchors(74.0, 78.5, 78.625)

    assert run.told == [(64.0, BPS, 0), (68.0, BPS, 0), (78.625, 2.5 * BPS, 2)]


def test_after_a_minute_the_threshold_is_the_settings_again_to_the_ns() -> None:
    for ns, moved_by_now in ((MINUTE - 1, False), (MINUTE, True)):
        run = Run(limits=BudgetLimits(transactions_per_minute=10))
        run.work()
        run.send(8)
        run.anchors(64.0)
        run.clock.advance(ns)
        run.anchors(68.0)

        assert run.told[1:] == ([(68.0, BPS, 0)] if moved_by_now else [])


def test_the_threshold_that_is_told_is_the_one_in_force_also_where_none_was_asked() -> None:
    run = Run(limits=BudgetLimits(transactions_per_minute=10))
    run.send(8)
    run.anchors(64.0)  # nothing works, so no threshold was asked
    run.work()
    run.anchors(128.0)
    run.work(working=0)
    run.clock.advance(2 * MINUTE)
    run.anchors(128.0)

    assert run.told == [(64.0, 2.5 * BPS, 0), (128.0, 2.5 * BPS, 0), (128.0, BPS, 0)]


def test_orders_of_every_market_count_and_answers_do_not() -> None:
    run = Run(limits=BudgetLimits(transactions_per_minute=10))
    run.work()
    run.send(4, 0)
    run.send(4, 1)
    run.orders[0].push(OrderUpdate(ts=0, n=1, side=BUY, state="open", leaves=1))
    run.anchors(64.0, 73.0, 74.0)

    assert run.told == [(64.0, 2.5 * BPS, 0), (74.0, 2.5 * BPS, 1)]


def test_a_volume_quota_widens_by_what_its_pace_still_allows() -> None:
    run = Run(limits=BudgetLimits(volume_quota=1_000))
    run.work()
    run.send(60)
    run.anchors(64.0)

    # 940 are left, a tenth of them at once; of the first portion of 100, 40: half of 94 / 40.
    assert run.told == [(64.0, BPS * (47.0 / 40.0), 0)]


def test_a_threshold_of_zero_widens_from_one_bp() -> None:
    assert widened_bps(0.0, 1.0) == 0.0
    assert widened_bps(0.0, 2.5) == 2.5
    assert widened_bps(0.5, 8.0) == 8.0
    assert widened_bps(1.0, 8.0) == 8.0
    assert widened_bps(5.0, 8.0) == 40.0
    assert widened_bps(5.0, 1.0) == 5.0


def test_without_limits_no_threshold_is_told() -> None:
    run = Run()
    run.send(100)
    run.anchors(64.0)

    assert run.told == [(64.0, None, 0)]
    assert subscribers(*run.orders) == 0


def test_the_threshold_widens_before_the_throttle_holds_anything() -> None:
    limits = BudgetLimits(transactions_per_minute=10)
    spent: dict[str, int] = {}
    for count in range(11):
        orders: Hot[OrderUpdate] = Hot()
        states: Hot[State] = Hot()
        clock, seen = Clock(), list[Decision]()
        states.pipe(
            requote(
                threshold_bps=BPS, signal_skew_factor=0.0, inventory=Hot(), price=ops.map(priced),
                limits=limits, orders=[orders],
            ),
            throttle(0, limits=limits, orders=[orders]),
        ).subscribe(seen.append, scheduler=clock)  # fmt: skip
        for n in range(1, count + 1):
            orders.push(OrderUpdate(ts=0, n=n, side=BUY, state="pending_new", leaves=1, batch=n))
        states.push(state(64.0))
        [decision] = seen
        assert decision.threshold_bps is not None
        if decision.threshold_bps > BPS:
            spent.setdefault("widened", count)
        if decision.action == "hold":
            spent.setdefault("held", count)

    assert spent == {"widened": 6, "held": 9}, "the tenth is kept for cancels"


def test_disposing_also_leaves_the_orders() -> None:
    orders: Hot[OrderUpdate] = Hot()
    states: Hot[State] = Hot()
    graph = requote(
        threshold_bps=BPS, signal_skew_factor=0.0, inventory=Hot(), price=ops.map(priced),
        limits=BudgetLimits(transactions_per_minute=10), orders=[orders],
    )  # fmt: skip
    subscription = states.pipe(graph).subscribe(scheduler=Clock())
    assert subscribers(orders) == 1

    subscription.dispose()

    assert subscribers(orders, states) == 0
