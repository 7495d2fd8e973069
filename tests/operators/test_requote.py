"""requote(): a state goes through only when it is worth new orders."""

from typing import Any

import pytest
from reactivex import Observable, Subject
from reactivex import operators as ops

from operators.operator import Operator
from operators.state import State
from operators.requote import moved, refused, requote
from streams.events import Anchor, Decision, Inventory, Refusal, Residual
from streams.pump import Hot
from tests.marbles import expect, play_graph, subscribers

NO_BID = Refusal(5, 50, "signal", "no bid", None, 207, None, 3)


def state(
    anchor: float, residual: float = 0.0, *, dropped: bool = False
) -> tuple[Residual, Anchor]:
    """``dropped`` states have both sides dropped by ``price``."""
    seq = -1 if dropped else 1
    return Residual(seq, 1, 64.0, 64.0, residual), Anchor(2, 2, anchor, anchor)


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
    out = QUOTED | {"R": ("withdraw", None, None, 1), "S": ("withdraw", None, None, 0)}

    actual = play_graph(
        {
            "inventory": "-w",
            "states": "   --a-b-r-r-b-b-|",
        },
        WORKING | states, worthwhile(BPS),
    )  # fmt: skip

    assert actual == expect("--A---R-S-B---|", out)


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


def test_when_both_books_are_refused_the_targets_reason_is_given() -> None:
    crossed = Refusal(6, 60, "target", "crossed")
    seen = _decisions([(NO_BID, crossed), (NO_BID, Anchor(7, 70, 64.0, 64.0))])

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
