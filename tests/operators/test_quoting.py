"""quoting(): the graph from two feeds and our own orders to decisions, preset by preset."""

import random
from collections.abc import Callable
from typing import Any, Literal

import pytest
from reactivex import Observable
from reactivex import operators as ops

from operators.quoting import Parameters, quoting
from operators.residual import first_baseline, set_baseline
from streams.clock import Clock
from streams.events import BUY, SELL, Decision, OrderUpdate, Quote
from streams.instrument import Instrument
from streams.pump import Hot
from tests.marbles import expect, picture, play_graph, play_graph_on_clock, subscribers

UNIT = 1_000_000_000
SIZE = UNIT // 20
NVDA = Instrument(symbol="NVDA-PERP", venue="LIGHTER", price_decimals=3, size_decimals=3)
Preset = Literal["composite", "tutorial"]


def parameters(preset: Preset, **more: Any) -> Parameters:
    values: dict[str, Any] = {
        "trade_size": SIZE,
        "max_position": 2 * SIZE,
        "half_spread_bps": 5.0,
        "inventory_skew_factor": 2.0,
        "signal_skew_factor": 100.0,
        "requote_threshold_bps": 5.0,
        "baseline": set_baseline(200.0),
    }
    return Parameters(instrument=NVDA, preset=preset, **(values | more))


def book(seq: int, bid: float | None, ask: float | None, size: int | None = UNIT) -> Quote:
    def units(price: float | None) -> int | None:
        return None if price is None else round(price * 1_000) * 1_000_000

    return Quote(seq, seq * 10, None, units(bid), units(ask), size, size, 0)


def order(n: int, side: int, state: str, leaves: int = 0, filled: int = 0) -> OrderUpdate:
    return OrderUpdate(ts=0, n=n, side=side, state=state, leaves=leaves, filled=filled)


QUOTES = {
    "a": book(1, 199.99, 200.01),  # mid 200: residual 0, no shift
    "b": book(2, 200.29, 200.31),  # mid 200.3: residual 0.0015, shift 0.15
    "c": book(3, 199.99, 200.01),
    "n": book(4, None, 200.01),
    "m": book(5, None, None, None),
    "x": book(6, 200.02, 200.01),
    "z": book(7, 0.0, 200.01),
    "e": book(8, 199.99, 200.01, 0),
}
ORDERS = {
    "p": order(1, BUY, "pending-new", SIZE),
    "q": order(2, SELL, "pending-new", SIZE),
    "r": order(1, BUY, "rejected"),
    "o": order(1, BUY, "expired"),
    "u": OrderUpdate(ts=0, n=1, side=BUY, state="cancelled", leaves=0, requested=False),
    "f": order(1, BUY, "filled", filled=SIZE),
}


def summary(decision: Decision) -> tuple[Any, ...]:
    return decision.action, decision.reason, decision.signal_seq, decision.target_seq


def told(preset: Preset, **more: Any) -> Callable[..., Observable[Any]]:
    """The graph under test, told as (action, reason, signal seq, target seq)."""

    def graph(
        signal: Observable[Quote], target: Observable[Quote], orders: Observable[OrderUpdate]
    ) -> Observable[Any]:
        return signal.pipe(
            quoting(parameters(preset, **more), target=target, orders=orders),
            ops.map(summary),
        )

    return graph


def play_preset(
    preset: Preset, signal: str, target: str, orders: str = "-", **more: Any
) -> list[Any]:
    return play_graph(
        {"orders": orders, "signal": signal, "target": target},
        QUOTES | ORDERS,
        told(preset, **more),
    )


# ---------------------------------------------------------------- composite


def test_nothing_is_quoted_before_both_feeds_have_a_sound_book() -> None:
    out = {
        "S": ("withdraw", "signal missing", None, None),
        "T": ("withdraw", "target missing", None, None),
        "Q": ("quote", "", 1, 3),
    }

    assert play_preset("composite", "----a-|", "-c-----|") == expect("-S--Q--|", out)
    assert play_preset("composite", "-a-----|", "----c-|") == expect("-T--Q--|", out)


def test_either_feed_triggers() -> None:
    out = {
        "S": ("withdraw", "signal missing", None, None),
        "A": ("quote", "", 1, 3),
        "B": ("quote", "", 2, 3),
        "C": ("quote", "", 2, 1),
    }

    actual = play_preset(
        "composite",
        "---a-b---|",
        "-c-----a-|",
    )

    assert actual == expect("-S-A-B-C-|", out)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("n", "no bid"),
        ("m", "missing"),
        ("x", "crossed"),
        ("z", "zero price"),
        ("e", "zero size"),
    ],
)
def test_an_unsound_book_of_either_feed_withdraws_with_its_reason_and_a_sound_one_returns(
    fault: str, reason: str
) -> None:
    seq = QUOTES[fault].seq
    out = {
        "T": ("withdraw", "target missing", None, None),
        "A": ("quote", "", 1, 3),
        "F": ("withdraw", f"signal {reason}", seq, None),
        "G": ("withdraw", f"target {reason}", None, seq),
    }

    # An order works, so a state that did not move would not be quoted again of itself.
    by_signal = play_preset("composite", f"-a---{fault}-a---|", "---c-------|", "----p")
    by_target = play_preset("composite", "-a---------|", f"---c-{fault}-c---|", "----p")

    assert by_signal == expect("-T-A-F-A---|", out)
    assert by_target == expect("-T-A-G-A---|", out)


def test_while_a_book_is_refused_the_other_feed_repeats_why_nothing_is_quoted() -> None:
    out = {
        "T": ("withdraw", "target missing", None, None),
        "A": ("quote", "", 1, 3),
        "N": ("withdraw", "signal no bid", 4, None),
    }

    assert play_preset("composite", "-a---n-----|", "---c---c---|") == expect("-T-A-N-N---|", out)


def test_a_state_that_did_not_move_is_quoted_again_only_when_nothing_works() -> None:
    out = {
        "T": ("withdraw", "target missing", None, None),
        "A": ("quote", "", 1, 3),
        "B": ("quote", "", 2, 3),
    }

    # a works; c again does not move, b does (a shift of 0.15 is 7.5 bps of 200).
    assert play_preset("composite", "-a-----b-|", "---c-c---|", "----p") == expect(
        "-T-A---B-|", out
    )
    # Filled between: nothing works, so c goes through.
    assert play_preset("composite", "-a---------|", "---c-c-c---|", "----p-f") == expect(
        "-T-A---A---|", out
    )


def test_a_rejected_order_waits_for_a_move_in_composite_and_voids_the_quote_in_tutorial() -> None:
    quoted = {"A": ("quote", "", 1, 3), "T": ("withdraw", "target missing", None, None)}
    signal, target = "-a---------------|", "---c----------c--|"
    # Two orders work, so that one still does when the other was rejected.
    acked, rejected = "----(p,q)", "----(p,q)---r"

    assert play_preset("composite", signal, target, acked) == expect("-T-A-------------|", quoted)
    assert play_preset("tutorial", signal, target, acked) == expect("---A-------------|", quoted)
    assert play_preset("composite", signal, target, rejected) == expect(
        "-T-A-------------|", quoted
    )
    assert play_preset("tutorial", signal, target, rejected) == expect("---A----------A--|", quoted)


@pytest.mark.parametrize("preset", ["composite", "tutorial"])
def test_an_expired_order_voids_the_last_quote_in_both_presets(preset: Preset) -> None:
    quoted = {"A": ("quote", "", 1, 3), "T": ("withdraw", "target missing", None, None)}

    actual = play_preset(preset, "-a---------------|", "---c----------c--|", "----(p,q)---o")

    first = "T" if preset == "composite" else "-"
    assert actual == expect(f"-{first}-A----------A--|", quoted)


@pytest.mark.parametrize("preset", ["composite", "tutorial"])
@pytest.mark.parametrize(("resubmit", "again"), [(False, "-"), (True, "A")])
def test_an_order_that_somebody_else_cancelled_voids_the_last_quote_by_choice(
    preset: Preset, resubmit: bool, again: str
) -> None:
    quoted = {"A": ("quote", "", 1, 3), "T": ("withdraw", "target missing", None, None)}

    actual = play_preset(
        preset,
        "-a---------------|",
        "---c----------c--|",
        "----(p,q)---u",
        on_cancel_resubmit=resubmit,
    )

    first = "T" if preset == "composite" else "-"
    assert actual == expect(f"-{first}-A----------{again}--|", quoted)


@pytest.mark.parametrize(("bps", "again"), [(7.0, "B"), (8.0, "-")])
def test_the_threshold_is_in_bps_of_the_anchor(bps: float, again: str) -> None:
    out = {"S": ("withdraw", "signal missing", None, None), "A": ("quote", "", 1, 3)}
    out["B"] = ("quote", "", 2, 3)

    # From a to b the signal asks for 0.15 more: 7.5 bps of 200.
    actual = play_preset(
        "composite", "---a---b-|", "-c-------|", "----p", requote_threshold_bps=bps
    )

    assert actual == expect(f"-S-A---{again}-|", out)


def test_the_prices_follow_the_signal_and_the_position() -> None:
    decisions = run(
        "composite",
        [("signal", QUOTES["b"]), ("orders", ORDERS["f"]), ("target", QUOTES["c"])],
    )

    # residual = 200.3 / 200 - 1 = 0.0015, times 100 is 0.15; position 0.05, times 2 is 0.1.
    quote = decisions[-1]
    assert quote.signal_shift == pytest.approx(0.15)
    assert quote.inventory_shift == 0.1
    assert quote.position == SIZE
    # 200 -+ 0.1 + 0.15 - 0.1, give or take the last bits: outwards to the tick.
    assert quote.bid_px in (199_949_000_000, 199_950_000_000)
    assert quote.ask_px in (200_150_000_000, 200_151_000_000)


@pytest.mark.parametrize(
    ("preset", "notes"),
    [("composite", (None, None)), ("tutorial", ("position limit", None))],
)
def test_only_the_tutorial_counts_what_works_in_the_ladder(
    preset: Preset, notes: tuple[str | None, str | None]
) -> None:
    working = order(1, BUY, "pending-new", 2 * SIZE)

    decisions = run(preset, [("signal", QUOTES["a"]), ("orders", working), ("target", QUOTES["c"])])

    assert (decisions[-1].bid_note, decisions[-1].ask_note) == notes


def test_no_state_that_never_existed_is_judged() -> None:
    source = random.Random(8)
    signal: Hot[Quote] = Hot()
    target: Hot[Quote] = Hot()
    decisions: list[Decision] = []
    graph = quoting(
        parameters("composite", requote_threshold_bps=0.0, baseline=first_baseline()),
        target=target,
        orders=Hot(),
    )
    signal.pipe(graph).subscribe(decisions.append)
    latest: dict[str, Quote] = {}
    for seq in range(1, 3_001):
        name = source.choice(("signal", "target"))
        mid = source.randrange(190_000, 210_000) / 1_000
        latest[name] = book(seq, mid - 0.01, mid + 0.01)
        before = len(decisions)
        (signal if name == "signal" else target).push(latest[name])

        # One input, one decision, on the latest of each feed: no half-updated pair in between.
        [decision] = decisions[before:]
        assert decision.seq == seq
        if len(latest) == 2:
            assert decision.signal_seq == latest["signal"].seq
            assert decision.target_seq == latest["target"].seq
            assert decision.target_mid == pytest.approx(_mid(latest["target"]), rel=1e-12)
            assert decision.signal_mid == pytest.approx(_mid(latest["signal"]), rel=1e-12)


def _mid(quote: Quote) -> float:
    assert quote.bid_px is not None
    assert quote.ask_px is not None
    return (quote.bid_px + quote.ask_px) / 2 / UNIT


# ---------------------------------------------------------------- tutorial


def test_in_the_tutorial_only_the_target_triggers() -> None:
    out = {"A": ("quote", "", 1, 3), "B": ("quote", "", 2, 1)}

    actual = play_preset(
        "tutorial",
        "-a-b-a-b---|",
        "--c-----a--|",
    )

    assert actual == expect("--A-----B--|", out)


def test_in_the_tutorial_the_residual_is_zero_before_the_first_signal() -> None:
    [quote] = run("tutorial", [("target", QUOTES["c"])])

    assert (quote.action, quote.residual, quote.shift) == ("quote", 0.0, 0.0)
    assert quote.signal_seq is quote.signal_mid is quote.baseline is None
    assert (quote.bid_px, quote.ask_px) == (199_900_000_000, 200_100_000_000)
    assert (quote.seq, quote.ts) == (3, 30)


def test_in_the_tutorial_a_book_without_a_side_is_reported_and_what_works_stays() -> None:
    out = {
        "A": ("quote", "", 1, 3),
        "N": ("refuse", "target no bid", None, 4),
        "M": ("refuse", "target missing", None, 5),
        "S": ("refuse", "signal no bid", 4, None),
    }

    # The refused signal leaves the last sound one in place; c after n did not move.
    actual = play_preset(
        "tutorial",
        "-a---------n-----|",
        "---c-n-c-m-----c-|",
        "----p",
    )

    assert actual == expect("---A-N---M-S-----|", out)


@pytest.mark.parametrize("fault", ["x", "z", "e"])
def test_in_the_tutorial_a_crossed_or_zero_book_is_quoted_on_all_the_same(fault: str) -> None:
    by_target, by_signal = run(
        "tutorial",
        [("target", QUOTES[fault]), ("signal", QUOTES[fault]), ("target", QUOTES["c"])],
    )

    assert (by_target.action, by_target.target_seq) == ("quote", QUOTES[fault].seq)
    assert (by_signal.action, by_signal.signal_seq) == ("quote", QUOTES[fault].seq)


def test_the_tutorial_rounds_as_its_model_does() -> None:
    high = Quote(3, 30, None, 54_560_640_000_000, 54_561_100_000_000, None, None, 0)

    [exact] = run("composite", [("signal", QUOTES["a"]), ("target", high)])[1:]
    [tutorial] = run("tutorial", [("target", high)])

    assert exact.target_mid == 54560.869999999995
    assert tutorial.target_mid == 54560.87

    locked = Quote(3, 30, None, 602_229_001_000_000, 602_229_001_000_000, None, None, 0)

    [exact] = run("composite", [("signal", QUOTES["a"]), ("target", locked)])[1:]
    [tutorial] = run("tutorial", [("target", locked)])

    assert exact.anchor == 602229.001
    assert tutorial.anchor == 602229.0009999999


# ---------------------------------------------------------------- both


def run(preset: Preset, inputs: list[tuple[str, Any]], **more: Any) -> list[Decision]:
    feeds: dict[str, Hot[Any]] = {"signal": Hot(), "target": Hot(), "orders": Hot()}
    decisions: list[Decision] = []
    graph = quoting(parameters(preset, **more), target=feeds["target"], orders=feeds["orders"])
    feeds["signal"].pipe(graph).subscribe(decisions.append)
    for name, value in inputs:
        feeds[name].push(value)
    return decisions


@pytest.mark.parametrize("preset", ["composite", "tutorial"])
def test_a_start_position_counts_until_fills_move_it(preset: Preset) -> None:
    decisions = run(
        preset,
        [
            ("signal", QUOTES["a"]),
            ("target", QUOTES["c"]),
            ("orders", ORDERS["f"]),
            ("target", QUOTES["c"]),
        ],
        position=-SIZE,
    )

    assert [d.position for d in decisions if d.action == "quote"] == [-SIZE, 0]


@pytest.mark.parametrize("preset", ["composite", "tutorial"])
def test_targets_are_throttled_on_the_graphs_clock(preset: Preset) -> None:
    def graph(signal: Observable[Quote], target: Observable[Quote]) -> Observable[Decision]:
        throttled = parameters(preset, min_interval_ns=5_000_000)
        return signal.pipe(quoting(throttled, target=target, orders=Hot()))

    timed = play_graph_on_clock(
        {
            "signal": "a-------------",
            "target": "-c-a-c--------",
        },
        QUOTES, graph,
    )  # fmt: skip

    marks = {"quote": "Q", "hold": "", "withdraw": "W"}
    drawn = picture(timed, lambda d: marks[d.action], 14)
    assert drawn == ("W" if preset == "composite" else "-") + "Q----Q-------"
    assert [d.reason for _, d in timed][-3:] == ["throttle", "throttle", "throttle released"]


@pytest.mark.parametrize("preset", ["composite", "tutorial"])
def test_a_throttle_without_the_graphs_clock_fails_loudly(preset: Preset) -> None:
    graph = quoting(parameters(preset, min_interval_ns=1), target=Hot(), orders=Hot())

    with pytest.raises(RuntimeError, match="graph's clock"):
        Hot[Quote]().pipe(graph).subscribe()


@pytest.mark.parametrize("preset", ["composite", "tutorial"])
@pytest.mark.parametrize("broken", ["signal", "target", "orders"])
def test_an_error_of_any_source_travels(preset: Preset, broken: str) -> None:
    error = ValueError("broke")
    diagrams = {name: "--#" if name == broken else "---" for name in ("orders", "signal", "target")}

    actual = play_graph(diagrams, {}, told(preset), error)

    assert actual == expect("--#", {}, error)


@pytest.mark.parametrize("preset", ["composite", "tutorial"])
def test_disposing_unsubscribes_from_every_source(preset: Preset) -> None:
    signal: Hot[Quote] = Hot()
    target: Hot[Quote] = Hot()
    orders: Hot[OrderUpdate] = Hot()
    clock = Clock()
    graph = quoting(parameters(preset, min_interval_ns=5), target=target, orders=orders)
    decisions: list[Decision] = []
    subscription = signal.pipe(graph).subscribe(decisions.append, scheduler=clock)
    signal.push(QUOTES["a"])
    target.push(QUOTES["c"])
    target.push(QUOTES["a"])
    assert subscribers(signal) == subscribers(target) == 1
    assert subscribers(orders) == 2, "the inventory feeds the threshold and the skew"
    before = len(decisions)

    subscription.dispose()
    clock.advance(100)

    assert subscribers(signal, target, orders) == 0
    assert len(decisions) == before


@pytest.mark.parametrize("preset", ["composite", "tutorial"])
def test_two_graphs_of_the_same_parameters_share_nothing(preset: Preset) -> None:
    inputs = [("signal", QUOTES["a"]), ("target", QUOTES["c"]), ("orders", ORDERS["f"])]
    shared = {"baseline": first_baseline()}

    once = run(preset, inputs * 2, **shared)
    again = run(preset, inputs * 2, **shared)

    assert once == again
