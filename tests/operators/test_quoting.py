"""quoting(): the graph from two feeds and our own orders to decisions, preset by preset."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from reactivex import Observable, abc
from reactivex import operators as ops

from operators.budget import BudgetLimits
from operators.guards.risk import RiskLimits
from operators.guards.schedule import Schedule
from operators.quoting import Guards, LadderParameters, Parameters, Preset, quoting
from operators.residual import first_baseline, set_baseline
from streams.clock import Clock
from streams.events import BUY, SELL, Decision, OrderUpdate, Quote, Status, Trade
from streams.instrument import Instrument
from streams.pump import Hot
from tests.marbles import (
    MILLISECOND,
    expect,
    picture,
    play_graph,
    play_graph_on_clock,
    subscribers,
)

UNIT = 1_000_000_000
SIZE = UNIT // 20
NVDA = Instrument(symbol="NVDA-PERP", venue="LIGHTER", price_decimals=3, size_decimals=3)


def parameters(preset: Preset, **more: Any) -> Parameters:
    values: dict[str, Any] = {
        "trade_size": SIZE,
        "max_position": 2 * SIZE,
        "half_spread_bps": 5.0,
        "inventory_skew_factor": 2.0,
        "signal_skew_factor": 100.0,
        "requote_threshold_bps": 5.0,
        "baselines": (set_baseline(200.0),),
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
    "w": book(10, 200.14, 200.16),
}
ORDERS = {
    "p": order(1, BUY, "pending_new", SIZE),
    "q": order(2, SELL, "pending_new", SIZE),
    "r": order(1, BUY, "rejected"),
    "o": order(1, BUY, "expired"),
    "u": OrderUpdate(ts=0, n=1, side=BUY, state="cancelled", leaves=0, requested=False),
    "f": order(1, BUY, "filled", filled=SIZE),
    "g": OrderUpdate(
        ts=0, n=2, side=BUY, state="filled", leaves=0, filled=SIZE, fill_px=201 * UNIT
    ),
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


def test_while_a_book_is_refused_what_the_other_feed_says_is_only_counted() -> None:
    out = {
        "T": ("withdraw", "target missing", None, None),
        "A": ("quote", "", 1, 3),
        "N": ("withdraw", "signal no bid", 4, None),
    }

    assert play_preset("composite", "-a---n-----|", "---c---c---|") == expect("-T-A-N-----|", out)


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
    assert play_preset("fair_value", signal, target, rejected) == expect(
        "-T-A-------------|", quoted
    )


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
    [
        ("composite", (None, None)),
        ("fair_value", (None, None)),
        ("tutorial", ("position limit", None)),
    ],
)
def test_only_the_tutorial_counts_what_works_in_the_ladder(
    preset: Preset, notes: tuple[str | None, str | None]
) -> None:
    working = order(1, BUY, "pending_new", 2 * SIZE)

    decisions = run(preset, [("signal", QUOTES["a"]), ("orders", working), ("target", QUOTES["c"])])

    assert (decisions[-1].bid_note, decisions[-1].ask_note) == notes


def test_no_state_that_never_existed_is_judged() -> None:
    source = random.Random(8)
    signal: Hot[Quote] = Hot()
    target: Hot[Quote] = Hot()
    decisions: list[Decision] = []
    graph = quoting(
        parameters("composite", requote_threshold_bps=0.0, baselines=(first_baseline(),)),
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
    # The second c wants what a wanted, so the held target is reported once.
    assert [d.reason for _, d in timed][-3:] == ["", "throttle", "throttle released"]
    assert timed[-1][1].target_seq == QUOTES["c"].seq


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
    shared = {"baselines": (first_baseline(),)}

    once = run(preset, inputs * 2, **shared)
    again = run(preset, inputs * 2, **shared)

    assert once == again


# ---------------------------------------------------------------- on the clock, a column a ms

TICK = 10_000_000
RUNGS = LadderParameters(
    tick=TICK, base_spread_ticks=10, max_inventory=10 * SIZE, num_levels=3, min_edge_ticks=1,
    cancel_distance_ticks=20,
)  # fmt: skip
STATUSES = {
    "h": Status(0, 0, "signal", "heartbeat"),
    "t": Status(0, 0, "target", "heartbeat"),
    "s": Status(0, 0, "signal", "sibling"),
    "d": Status(0, 0, "signal", "disconnect"),
    "k": Status(0, 0, "operator", "kill", "by hand"),
    "l": Status(0, 0, "operator", "release"),
}
TRADES = {"v": Trade(0, 0, None, 200 * UNIT, UNIT, BUY)}
SOURCES: dict[str, dict[str, Any]] = {
    "signal": QUOTES,
    "second": QUOTES,
    "third": QUOTES,
    "target": QUOTES,
    "orders": ORDERS,
    "status": STATUSES,
    "trades": TRADES,
}


def stamped(source: Observable[Any], meaning: dict[str, Any]) -> Observable[Any]:
    """Letters as what they stand for in that source, with the clock's time."""

    def subscribe(observer: Any, scheduler: abc.SchedulerBase | None = None) -> Any:
        clock: Any = scheduler

        def on_next(letter: str) -> None:
            observer.on_next(replace(meaning[letter], ts=clock.now_ns))

        return source.subscribe(
            on_next, observer.on_error, observer.on_completed, scheduler=scheduler
        )

    return Observable(subscribe)


class Played:
    """What a whole graph decided on diagrams, a column a ms."""

    def __init__(self, preset: Preset, diagrams: dict[str, str], **more: Any) -> None:
        self.columns = max(len(diagram) for diagram in diagrams.values())
        self.timed = play_graph_on_clock(diagrams, {}, self._graph(preset, more))
        self.decisions = [decision for _, decision in self.timed]

    def _graph(self, preset: Preset, more: dict[str, Any]) -> Callable[..., Observable[Decision]]:
        def graph(**raw: Observable[Any]) -> Observable[Decision]:
            given = {name: stamped(source, SOURCES[name]) for name, source in raw.items()}
            return given["signal"].pipe(
                quoting(
                    parameters(preset, **more),
                    target=given["target"],
                    orders=given.get("orders", Hot()),
                    status=given.get("status"),
                    trades=given.get("trades"),
                    more_signals=[given[name] for name in ("second", "third") if name in given],
                )
            )

        return graph

    @property
    def drawn(self) -> str:
        marks = {"quote": "Q", "withdraw": "W", "hold": "", "retract": "R", "refuse": "F"}
        return picture(self.timed, lambda d: marks[d.action], self.columns)

    @property
    def reasons(self) -> list[str]:
        return [d.reason for d in self.decisions if d.action == "withdraw"]

    @property
    def quotes(self) -> list[Decision]:
        return [d for d in self.decisions if d.action == "quote"]


def px(decision: Decision) -> tuple[float | None, float | None]:
    return (
        None if decision.bid_px is None else decision.bid_px / UNIT,
        None if decision.ask_px is None else decision.ask_px / UNIT,
    )


def test_fair_value_is_centred_on_the_signal_and_never_through_the_targets_book() -> None:
    played = Played(
        "fair_value",
        {
            "signal": "a---b---a-",
            "target": "--c---b---",
        },
        signal_skew_factor=0.0, max_position=9 * SIZE,
    )  # fmt: skip

    assert played.drawn == "W-Q-Q-Q-Q-"
    flat, up, together, back = played.quotes
    # 200 * 0.0005 = 0.1 around the signal's 200; the target's book is 199.99 to 200.01.
    assert (px(flat), flat.anchor, flat.target_mid) == ((199.9, 200.1), 200.0, 200.0)
    # Around 200.3 the bid of 200.199 would meet the ask of 200.01: one tick below that.
    assert (px(up), up.anchor, up.target_mid) == ((200.009, 200.401), 200.3, 200.0)
    assert (up.target_bid_px, up.target_ask_px) == (199_990_000_000, 200_010_000_000)
    # With the target at 200.3 too both are free; back at 200 the ask would be below its 200.29.
    assert px(together) == (200.199, 200.401)
    assert px(back) == (199.9, 200.291)


def test_fair_value_is_rounded_to_the_targets_precision_halves_away_from_zero() -> None:
    [_, quote] = run("fair_value", [("target", A), ("signal", book(9, 200.0, 200.001))])

    assert quote.signal_mid == 200.0005
    assert quote.anchor == 200.001


def test_in_fair_value_a_target_that_moves_alone_does_not_move_the_anchor() -> None:
    played = Played(
        "fair_value",
        {
            "orders": "---p----",
            "signal": "a-----b-",
            "target": "--c-b---",
        },
        signal_skew_factor=0.0,
    )  # fmt: skip

    assert played.drawn == "W-Q---Q-"
    assert played.quotes[-1].unmoved == 1


def test_in_fair_value_the_basis_is_still_of_the_targets_own_mid() -> None:
    # 200 stands 14.98 bps below 200.3.
    diagrams = {"signal": "a---b---a-", "target": "--c-------"}

    near = Played("fair_value", diagrams, guards=Guards(max_basis_bps=15.0))
    far = Played("fair_value", diagrams, guards=Guards(max_basis_bps=14.9))

    assert near.drawn == "W-Q-Q---Q-"
    assert far.drawn == "W-Q-W---Q-"
    assert far.reasons == ["target missing", "basis beyond the limit"]
    assert far.decisions[2].refused_value == pytest.approx(-14.9775, abs=1e-4)


def test_the_ladder_quotes_several_levels_and_tells_a_target_once_until_it_changes() -> None:
    played = Played(
        "ladder",
        {
            "orders": "---p-----",
            "signal": "a----a-b-",
            "target": "--c-c----",
        },
        ladder=RUNGS, max_position=9 * SIZE, inventory_skew_factor=0.5, requote_threshold_bps=0.0,
    )  # fmt: skip

    assert played.drawn == "W-Q----Q-"
    first, second = played.quotes
    # Half of 10 ticks of 0.01: 199.95 and 200.05, three levels each, one tick apart.
    assert px(first) == (199.95, 200.05)
    assert (first.bid_levels, first.ask_levels, first.level_step, first.qty) == (3, 3, TICK, SIZE)
    # 100 * 0.0015 = 0.15 up: 200.10 would meet the ask, and must earn a tick against 200: the
    # levels down to 200.00 go, 199.99 and below are not among the three.
    assert (px(second)[0], second.bid_note) == (None, "edge")
    assert px(second)[1] in (200.2, 200.201)
    assert second.unmoved == 2


def test_the_ladders_skew_is_by_ticks_and_its_levels_by_room() -> None:
    played = Played(
        "ladder",
        {
            "orders": "f----",
            "signal": "-a---",
            "target": "--c--",
        },
        ladder=RUNGS, max_position=3 * SIZE, inventory_skew_factor=1.0,
    )  # fmt: skip

    [quote] = played.quotes
    # Long 1 of 10: trunc(0.1 * 1.0 * 10) = 1 tick down; room for 3 - 1 bids and 3 + 1 asks.
    assert px(quote) == (199.94, 200.04)
    assert (quote.bid_levels, quote.ask_levels, quote.bid_note) == (2, 3, "position limit")
    assert (quote.inventory_shift, quote.position) == (0.0, SIZE)


@pytest.mark.parametrize(
    ("min_edge_ticks", "maker_fee_ppm", "bid", "levels"),
    [
        (5, 0, 199.95, 3),  # the first level earns its 5 ticks
        (6, 0, 199.94, 2),
        (5, 50, 199.94, 2),  # 50 millionths of 199.95 are a tick, all but a little
    ],
)
def test_the_ladders_levels_must_earn_their_edge_after_the_makers_fee(
    min_edge_ticks: int, maker_fee_ppm: int, bid: float, levels: int
) -> None:
    rungs = LadderParameters(
        tick=TICK, base_spread_ticks=10, max_inventory=10 * SIZE, num_levels=3,
        min_edge_ticks=min_edge_ticks, cancel_distance_ticks=20, maker_fee_ppm=maker_fee_ppm,
    )  # fmt: skip

    [quote] = Played(
        "ladder", {"signal": "a-", "target": "-c"}, ladder=rungs, max_position=9 * SIZE
    ).quotes

    assert (px(quote)[0], quote.bid_levels) == (bid, levels)


def test_the_composite_sends_an_equal_target_again_when_the_state_is_worth_it() -> None:
    played = Played(
        "composite",
        {
            "orders": "--p----",
            "signal": "a---a-a",
            "target": "-c-----",
        },
        requote_threshold_bps=0.0,
    )  # fmt: skip

    assert played.drawn == "WQ--Q-Q"


def test_the_ladder_takes_levels_beyond_reach_away_while_the_new_ones_wait() -> None:
    played = Played(
        "ladder",
        {
            "signal": "a---------",
            "target": "-c-b------",
        },
        ladder=RUNGS, max_position=9 * SIZE, min_interval_ns=5 * MILLISECOND,
        signal_skew_factor=0.0,
    )  # fmt: skip

    # From the best bid of 200.29 the reach of 20 ticks ends at 200.09, above our 199.95; and our
    # asks from 200.05 to 200.07 stand below the new centre of 200.3: they would sell too low.
    assert played.drawn == "WQ-R--Q---"
    retract = played.decisions[3]
    assert (px(retract), retract.bid_levels, retract.ask_levels) == ((None, None), 0, 0)
    assert px(played.quotes[-1]) == (200.25, 200.35)


def test_the_ladders_reach_is_counted_in_its_ticks() -> None:
    played = Played(
        "ladder",
        {
            "signal": "a---------",
            "target": "-c-w------",
        },
        ladder=RUNGS, max_position=9 * SIZE, min_interval_ns=5 * MILLISECOND,
        signal_skew_factor=0.0,
    )  # fmt: skip

    # From 200.14 the levels at 199.95 and 199.94 are within 20 ticks, 199.93 is not. The asks stand
    # below the new centre of 200.15.
    assert played.drawn == "WQ-R--Q---"
    assert (px(played.decisions[3]), played.decisions[3].bid_levels) == ((199.95, None), 2)


def test_the_ladder_quotes_no_level_further_than_its_cancel_distance() -> None:
    near = LadderParameters(
        tick=TICK, base_spread_ticks=10, max_inventory=10 * SIZE, num_levels=3, min_edge_ticks=1,
        cancel_distance_ticks=5,
    )  # fmt: skip

    [quote] = Played(
        "ladder", {"signal": "a-", "target": "-c"}, ladder=near, max_position=9 * SIZE
    ).quotes

    # From the best bid of 199.99 it is 4, 5 and 6 ticks to 199.95, 199.94 and 199.93.
    assert (quote.bid_levels, quote.ask_levels, quote.bid_note) == (2, 2, "cancel distance")


def test_a_quote_that_the_new_centre_has_met_is_taken_away_while_the_new_ones_wait() -> None:
    played = Played(
        "composite",
        {
            "signal": "a---------",
            "target": "-c-b------",
        },
        min_interval_ns=5 * MILLISECOND,
    )  # fmt: skip

    # Around 200.3 our ask of 200.1 would sell below the centre; the bid of 199.9 may wait.
    assert played.drawn == "WQ-R--Q---"
    assert px(played.decisions[3]) == (199.9, None)


def test_the_other_presets_take_unwanted_sides_away_while_the_new_ones_wait() -> None:
    played = Played(
        "composite",
        {
            "orders": "--f-------",
            "signal": "a---------",
            "target": "-c-b------",
        },
        max_position=SIZE, min_interval_ns=5 * MILLISECOND,
    )  # fmt: skip

    # Long at the limit there is no bid any more, though the quotes around 200.3 must wait; and the
    # ask of 200.1 stands below them.
    assert played.drawn == "WQ-R--Q---"
    assert px(played.decisions[3]) == (None, None)


# ---------------------------------------------------------------- several signals


def test_several_signals_count_by_weight_once_all_have_spoken_and_each_triggers() -> None:
    played = Played(
        "composite",
        {
            "signal": "a-----b---",
            "second": "--b-------",
            "target": "----c---a-",
        },
        baselines=(set_baseline(200.0), set_baseline(100.15)), weights=(0.75, 0.25),
        requote_threshold_bps=0.0, signal_skew_factor=1.0,
    )  # fmt: skip

    # The second stands at 200.3 / 100.15 - 1 = 1: a quarter of it; the first at 0, then 0.0015.
    assert played.drawn == "--W-Q-Q-Q-"
    assert played.reasons == ["target missing"]
    assert [d.residual for d in played.quotes] == pytest.approx([0.25, 0.251125, 0.251125])
    assert {d.signal_mid for d in played.quotes} == {200.0, 200.3}
    assert {d.baseline for d in played.quotes} == {200.0}


def test_before_the_second_signal_the_signal_is_missing() -> None:
    played = Played(
        "composite",
        {
            "signal": "a-----",
            "second": "----a-",
            "target": "--c---",
        },
        baselines=(set_baseline(200.0),) * 2, weights=(0.5, 0.5),
    )  # fmt: skip

    assert played.drawn == "--W-Q-"
    assert played.reasons == ["signal missing"]


def test_a_refused_book_of_any_signal_withdraws() -> None:
    played = Played(
        "composite",
        {
            "signal": "a-----n-a-",
            "second": "-a-n-a----",
            "target": "--c-------",
        },
        baselines=(set_baseline(200.0),) * 2, weights=(0.5, 0.5),
    )  # fmt: skip

    assert played.drawn == "-WQW-QW-Q-"
    assert played.reasons == ["target missing", "signal no bid", "signal no bid"]


# ---------------------------------------------------------------- guards in the graph


@pytest.mark.parametrize("preset", ["composite", "fair_value", "tutorial", "ladder"])
def test_the_kill_switch_withdraws_at_once_and_the_release_quotes_at_once(preset: Preset) -> None:
    played = Played(
        preset,
        {
            "signal": "a----------",
            "status": "---k---l---",
            "target": "--c--c---c-",
            "orders": "--------p--",
        },
        ladder=RUNGS if preset == "ladder" else None, max_position=9 * SIZE,
        inventory_skew_factor=0.0,
    )  # fmt: skip

    first = "-" if preset == "tutorial" else "W"
    assert played.drawn == f"{first}-QW---Q---"
    assert played.reasons[-1] == "kill switch by hand"
    assert [ns for ns, d in played.timed if d.action == "withdraw"][-1] == 3 * MILLISECOND
    assert played.quotes[-1].unmoved == 1
    assert played.quotes[-1].ts == 7 * MILLISECOND


def test_the_kill_switch_stands_above_a_tripped_limit_and_below_it_the_limit_still_holds() -> None:
    played = Played(
        "composite",
        {
            "orders": "----f-------",
            "status": "------k--l--",
            "signal": "a-----------",
            "target": "--c---------",
        },
        guards=Guards(risk=RiskLimits(max_position=SIZE // 2)),
    )  # fmt: skip

    assert played.drawn == "W-Q-W-W--W--"
    assert played.reasons == [
        "target missing", "risk position beyond the limit", "kill switch by hand",
        "risk position beyond the limit",
    ]  # fmt: skip


def test_fair_value_without_the_signal_is_centred_on_the_target() -> None:
    played = Played(
        "fair_value",
        {
            "signal": "b---",
            "target": "--c-",
        },
        guards=Guards(schedule=Schedule([(10**15, 10**16)]), outside="target_only"),
    )  # fmt: skip

    [quote] = played.quotes
    assert (quote.anchor, quote.signal_seq) == (200.0, None)
    assert px(quote) == (199.9, 200.1)


@pytest.mark.parametrize("outside", ["withdraw", "widen", "target_only"])
def test_outside_the_session_the_mode_decides_at_the_very_edge(outside: Any) -> None:
    schedule = Schedule([(0, 4 * MILLISECOND), (8 * MILLISECOND, 100 * MILLISECOND)])
    played = Played(
        "composite",
        {
            "signal": "b-----------",
            "target": "--c---a-----",
            "orders": "---p--------",
        },
        guards=Guards(schedule=schedule, outside=outside, widening=3.0),
    )  # fmt: skip

    again = {"withdraw": "W", "widen": "Q", "target_only": "Q"}[outside]
    assert played.drawn == f"W-Q-{again}---Q---"
    inside, outside_decision, back = played.decisions[1:]
    assert outside_decision.ts == 4 * MILLISECOND
    assert inside.half_spread == back.half_spread == 0.1
    assert (inside.residual, back.residual) == (pytest.approx(0.0015), pytest.approx(0.0015))
    if outside == "withdraw":
        assert outside_decision.reason == "session closed"
        assert outside_decision.refused_value == 0.0
    elif outside == "widen":
        assert outside_decision.half_spread == pytest.approx(0.3)
        assert outside_decision.residual == pytest.approx(0.0015)
    else:
        assert (outside_decision.residual, outside_decision.half_spread) == (0.0, 0.1)
        assert outside_decision.signal_seq is None


LIFE = Guards(
    max_signal_age_ns=3 * MILLISECOND, max_quiet_signal_age_ns=8 * MILLISECOND,
    max_target_age_ns=20 * MILLISECOND, dead_ns=4 * MILLISECOND,
)  # fmt: skip


@pytest.mark.parametrize(
    ("status", "drawn", "reason"),
    [
        ("-----------", "-WQ--W-----", "signal dead"),
        ("--h-h-h-h--", "-WQ------W-", "signal quiet"),
        ("--s-s-s-s--", "-WQ------W-", "signal quiet"),
        ("--t-t-t-t--", "-WQ--W-----", "signal dead"),
        ("---d-------", "-WQW-------", "signal disconnected"),
    ],
)
def test_heartbeats_and_siblings_of_its_feed_keep_a_quiet_signal_alive(
    status: str, drawn: str, reason: str
) -> None:
    diagrams = {"status": status, "signal": "-a---------", "target": "--c--------"}

    played = Played("composite", diagrams, guards=LIFE)

    assert played.drawn == drawn
    assert played.reasons == ["target missing", reason]


def test_quotes_of_the_sibling_signals_keep_a_quiet_signal_alive() -> None:
    both: dict[str, Any] = {"baselines": (set_baseline(200.0),) * 2, "weights": (0.5, 0.5)}

    played = Played(
        "composite",
        {
            "orders": "---p----------",
            "second": "-a-a-a-a-a-a--",
            "signal": "-a------------",
            "target": "--c-----------",
        },
        guards=LIFE, **both,
    )  # fmt: skip

    assert played.drawn == "-WQ------W----"
    assert played.reasons == ["target missing", "signal quiet"]


def test_of_three_signals_any_one_is_a_sign_of_life_of_the_others() -> None:
    played = Played(
        "composite",
        {
            "orders": "---p----------",
            "third": "-a-a-a-a-a-a--",
            "second": "-a------------",
            "signal": "-a------------",
            "target": "--c-----------",
        },
        guards=LIFE, baselines=(set_baseline(200.0),) * 3, weights=(0.5, 0.3, 0.2),
    )  # fmt: skip

    assert played.drawn[:9] == "-WQ------"
    assert {d.reason for d in played.decisions[2:]} == {"signal quiet"}


def test_trades_of_the_target_tell_a_quiet_target_from_a_dead_one() -> None:
    guards = Guards(max_target_age_ns=3 * MILLISECOND, dead_ns=4 * MILLISECOND)
    diagrams = {"signal": "a-----------", "target": "-c----------"}

    silent = Played("composite", diagrams | {"trades": "------------"}, guards=guards)
    traded = Played("composite", diagrams | {"trades": "-v-v--------"}, guards=guards)

    heard = Played("composite", diagrams | {"status": "-h-t-h------"}, guards=guards)

    # Quiet at 4; the last sign of life is the quote at 1, or the trade or heartbeat at 3.
    assert silent.drawn == "WQ--WW------"
    assert traded.drawn == heard.drawn == "WQ--W--W----"
    for played in (silent, traded, heard):
        assert played.reasons == ["target missing", "target quiet", "target dead"]


def test_the_limit_outside_the_session_holds_there() -> None:
    guards = Guards(
        max_signal_age_ns=3 * MILLISECOND, max_signal_age_outside_ns=6 * MILLISECOND,
        schedule=Schedule([(50 * MILLISECOND, 60 * MILLISECOND)]), outside="widen",
    )  # fmt: skip

    played = Played("composite", {"signal": "a---------", "target": "-c--------"}, guards=guards)

    assert played.drawn == "WQ----W---"
    assert played.reasons[-1] == "signal dead"


def test_a_loss_beyond_the_limit_lasts_until_the_next_session_opens() -> None:
    schedule = Schedule([(0, 4 * MILLISECOND), (8 * MILLISECOND, 100 * MILLISECOND)])
    limits = RiskLimits(max_loss=UNIT // 25, cooldown_ns=MILLISECOND)
    diagrams = {"orders": "---g--------", "signal": "-a----------", "target": "--c--c------"}

    # Bought 0.05 for 201, worth 200: a loss of 0.05.
    with_sessions = Played(
        "composite", diagrams, guards=Guards(risk=limits, schedule=schedule, outside="widen")
    )
    without = Played("composite", diagrams, guards=Guards(risk=limits))

    assert with_sessions.reasons == without.reasons == [
        "target missing", "risk loss beyond the limit",
    ]  # fmt: skip
    assert {d.ts // MILLISECOND for d in with_sessions.quotes} == {2, 8}
    assert {d.ts // MILLISECOND for d in without.quotes} == {2}


def test_a_position_beyond_the_limit_withdraws_with_the_fill_itself() -> None:
    played = Played(
        "composite",
        {
            "orders": "----f-----",
            "signal": "a---------",
            "target": "--c---c---",
        },
        guards=Guards(risk=RiskLimits(max_position=SIZE // 2)),
    )  # fmt: skip

    assert played.drawn == "W-Q-W-----"
    assert played.reasons[-1] == "risk position beyond the limit"
    tripped = played.decisions[2]
    assert (tripped.refused_value, tripped.refused_limit) == (0.05, 0.025)


@pytest.mark.parametrize("preset", ["composite", "ladder"])
def test_a_notional_limit_takes_the_side_that_would_pass_it(preset: Preset) -> None:
    played = Played(
        preset,
        {
            "orders": "f----",
            "signal": "-a---",
            "target": "--c--",
        },
        # Long 0.05, at 200.01 that is 10.0005; room for no second order of that size.
        guards=Guards(risk=RiskLimits(max_notional=20 * UNIT)),
        ladder=RUNGS if preset == "ladder" else None, max_position=9 * SIZE,
        inventory_skew_factor=0.0,
    )  # fmt: skip

    [quote] = played.quotes
    assert (quote.bid_px, quote.bid_levels) == (None, 0)
    assert quote.ask_px is not None


def _wired(guards: Guards, *inputs: tuple[str, Quote], **more: Any) -> list[str]:
    """Reasons of the withdrawals when quotes come a ms apart."""
    clock = Clock()
    feeds: dict[str, Hot[Quote]] = {"signal": Hot(), "target": Hot()}
    decisions: list[Decision] = []
    graph = quoting(
        parameters("composite", guards=guards, **more), target=feeds["target"], orders=Hot()
    )
    feeds["signal"].pipe(graph).subscribe(decisions.append, scheduler=clock)
    for name, quote in inputs:
        clock.advance(clock.now_ns + MILLISECOND)
        behind = 0 if quote.ts_event is None else quote.ts_event
        feeds[name].push(replace(quote, ts=clock.now_ns, ts_event=clock.now_ns + behind))
    return [d.reason for d in decisions if d.action == "withdraw"][1:]


A, B = QUOTES["a"], QUOTES["b"]
AHEAD, BEHIND = replace(A, ts_event=11), replace(A, ts_event=-11)
LOCKED = book(9, 200.0, 200.0)
HALF = book(9, 99.99, 100.01)


@pytest.mark.parametrize("feed", ["signal", "target"])
@pytest.mark.parametrize(
    ("guards", "quotes", "reason"),
    [
        (Guards(max_ahead_ns=10), [AHEAD], "event time in the future"),
        (Guards(max_ahead_ns=11), [AHEAD], None),
        (Guards(frozen_ns=MILLISECOND), [A, A, A], "frozen"),
        (Guards(frozen_ns=3 * MILLISECOND), [A, A, A], None),
        (Guards(locked=False), [LOCKED], "locked"),
        (Guards(), [LOCKED], None),
        (Guards(collar_bps=14.0, collar_confirm_ns=MILLISECOND), [A, B], "jump not confirmed"),
        (Guards(collar_bps=16.0, collar_confirm_ns=MILLISECOND), [A, B], None),
    ],
)
def test_guards_of_one_feed_hold_for_either(
    feed: str, guards: Guards, quotes: list[Quote], reason: str | None
) -> None:
    other = "target" if feed == "signal" else "signal"

    reasons = _wired(guards, (other, A), *((feed, quote) for quote in quotes))

    assert reasons == ([] if reason is None else [f"{feed} {reason}"])


def test_how_far_behind_a_quote_may_be_is_set_for_each_feed_apart() -> None:
    for_signal, for_target = Guards(max_signal_behind_ns=10), Guards(max_target_behind_ns=10)
    by_signal, by_target = (("target", A), ("signal", BEHIND)), (("signal", A), ("target", BEHIND))

    assert _wired(for_signal, *by_signal) == ["signal event time far behind"]
    assert _wired(for_target, *by_target) == ["target event time far behind"]
    assert _wired(for_signal, *by_target) == _wired(for_target, *by_signal) == []


def test_a_split_is_looked_for_in_the_signal_alone() -> None:
    guards = Guards(split_break_ns=MILLISECOND)

    assert _wired(guards, ("target", A), ("signal", A), ("signal", HALF)) == [
        "signal looks like a split"
    ]
    assert _wired(guards, ("signal", A), ("target", A), ("target", HALF)) == []
    assert _wired(guards, ("target", A), ("signal", HALF)) == []
    assert _wired(guards, ("target", A), ("signal", HALF), set_baseline=200.0) == [
        "signal looks like a split"
    ]


TIGHT = Guards(
    max_signal_age_ns=1, max_target_age_ns=1, dead_ns=1, max_ahead_ns=0, max_signal_behind_ns=0,
    max_target_behind_ns=0, frozen_ns=0, locked=False, collar_bps=0.0,
    collar_confirm_ns=100 * MILLISECOND, split_break_ns=0, max_basis_bps=0.0,
    schedule=Schedule([(10**15, 10**15 + 1)]),
)  # fmt: skip


def test_the_tutorial_has_no_guards_but_the_risk_limits_that_are_set_and_the_kill_switch() -> None:
    diagrams = {
        "orders": "----p--f---",
        "status": "-----------",
        "signal": "a-b--------",
        "target": "-c-a-b-----",
    }

    free = Played("tutorial", diagrams)
    guarded = Played("tutorial", diagrams, guards=TIGHT)
    limited = Played("tutorial", diagrams, guards=Guards(risk=RiskLimits(max_position=SIZE // 2)))

    assert guarded.timed == free.timed
    assert free.drawn == "-Q-Q-Q-----"
    assert limited.drawn == "-Q-Q-Q-W---"
    assert limited.reasons == ["risk position beyond the limit"]
    assert Played("composite", diagrams, guards=TIGHT).quotes == []


@pytest.mark.parametrize("preset", ["composite", "tutorial", "fair_value"])
def test_without_guards_neither_the_clock_nor_status_nor_trades_change_a_decision(
    preset: Preset,
) -> None:
    source = random.Random(11)
    rows: list[tuple[str, Any]] = []
    for seq in range(1, 800):
        name = source.choice(("signal", "target", "target", "orders", "status", "trades"))
        mid = source.randrange(199_800, 200_200) / 1_000
        fault = source.random() < 0.05
        quote = book(seq, None if fault else mid - 0.01, mid + 0.01)
        rows.append(
            (
                name,
                source.choice(list(ORDERS.values())) if name == "orders"
                else STATUSES["h"] if name == "status"
                else TRADES["v"] if name == "trades"
                else quote,
            )
        )  # fmt: skip

    plain = run(preset, [row for row in rows if row[0] in ("signal", "target", "orders")])
    clock = Clock()
    feeds: dict[str, Hot[Any]] = {name: Hot() for name in SOURCES}
    decisions: list[Decision] = []
    graph = quoting(
        parameters(preset, guards=Guards()), target=feeds["target"], orders=feeds["orders"],
        status=feeds["status"], trades=feeds["trades"],
    )  # fmt: skip
    feeds["signal"].pipe(graph).subscribe(decisions.append, scheduler=clock)
    for name, value in rows:
        if isinstance(value, Quote):
            clock.advance(value.ts)
        feeds[name].push(value)

    assert decisions == plain
    assert len(plain) > 100
    assert clock.next_due_ns > 2**62, "no guard set a timer"


# ---------------------------------------------------------------- the account, and our own quotes


def test_orders_of_other_markets_count_against_the_accounts_budget() -> None:
    def told(markets: int) -> list[tuple[str, float | None]]:
        clock = Clock()
        orders: list[Hot[OrderUpdate]] = [Hot(), Hot()]
        signal, target = Hot[Quote](), Hot[Quote]()
        decisions: list[Decision] = []
        graph = quoting(
            parameters("composite", budget=BudgetLimits(transactions_per_minute=10)),
            target=target, orders=orders[0],
            account_orders=None if markets == 1 else orders,
        )  # fmt: skip
        signal.pipe(graph).subscribe(decisions.append, scheduler=clock)
        for n in range(1, 10):
            orders[1].push(replace(order(n, BUY, "pending_new", SIZE), batch=n))
        signal.push(A)
        target.push(QUOTES["c"])
        return [(d.action, d.threshold_bps) for d in decisions]

    # Nine of ten are spent: one is left, a fifth of the half below which the threshold widens.
    assert told(1) == [("withdraw", None), ("quote", 5.0)]
    assert told(2) == [("withdraw", None), ("hold", 25.0)]


@pytest.mark.parametrize("preset", ["composite", "tutorial"])
@pytest.mark.parametrize(("without", "mid"), [(False, 200.0), (True, 199.995)])
def test_our_own_quotes_are_taken_out_of_the_targets_book_by_choice(
    preset: Preset, without: bool, mid: float
) -> None:
    ours = replace(order(7, BUY, "open", UNIT), px=199_990_000_000)

    decisions = run(
        preset,
        [
            ("signal", A), ("target", book(3, 199.98, 200.01)), ("orders", ours),
            ("target", book(4, 199.99, 200.01)),
        ],
        anchor_without_own=without, requote_threshold_bps=0.0,
    )  # fmt: skip

    assert decisions[-1].target_mid == pytest.approx(mid)
