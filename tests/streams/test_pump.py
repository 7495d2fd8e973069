"""The pump: one order for inputs, timers, answers and notices, to the nanosecond."""

from collections.abc import Callable, Sequence

import pytest

from streams.clock import NEVER, Clock
from streams.events import (
    AccountEvent,
    AccountKind,
    OrderUpdate,
    OutOfOrderError,
    Quote,
    Status,
    StatusKind,
    Trade,
)
from streams.pump import (
    ACCOUNT,
    MAX_SIGNALS,
    PAIR,
    SIGNAL,
    STATUS,
    TARGET,
    TRADE,
    Event,
    Inputs,
    Market,
    Pump,
)

NOW = 1_781_703_000_000_000_999
Row = tuple[int, int]
"""Kind and offset from NOW in ns."""


def inputs(*rows: Row, seq: list[int] | None = None, events: Sequence[Event] = ()) -> Inputs:
    count = len(rows)
    return Inputs(
        kind=[kind for kind, _ in rows],
        ts=[NOW + offset for _, offset in rows],
        ts_event=[None] * count,
        bid_px=[100 + offset for _, offset in rows],
        ask_px=[200 + offset for _, offset in rows],
        bid_sz=[1] * count,
        ask_sz=[2] * count,
        flags=[0] * count,
        seq=seq,
        events=events,
    )


def event(kind: AccountKind = "ack", n: int = 1) -> AccountEvent:
    return AccountEvent(seq=0, ts=0, kind=kind, n=n)


def trade(px: int) -> Trade:
    return Trade(seq=0, ts=0, ts_event=5, px=px, qty=3, side=1)


def status(kind: StatusKind = "heartbeat", source: str = "signal") -> Status:
    return Status(seq=0, ts=0, source=source, kind=kind, text="why")


def update(n: int) -> OrderUpdate:
    return OrderUpdate(ts=0, n=n, side=1, state="open", leaves=1)


class Venue:
    """A venue of the test's own: what it does, and when, is written in the test."""

    def __init__(self, log: "Log", name: str = "venue") -> None:
        self.next_due_ns = NEVER
        self.quoted: Callable[[], None] = lambda: None
        self.traded: Callable[[], None] = lambda: None
        self._log = log
        self._name = name
        self._due: list[tuple[int, str, Callable[[], None]]] = []

    def command(self, offset: int, name: str, effect: Callable[[], None] = lambda: None) -> None:
        self._due.append((NOW + offset, name, effect))
        self._due.sort(key=lambda each: each[0])
        self.next_due_ns = self._due[0][0]

    def advance(self, until_ns: int) -> None:
        while self._due and self._due[0][0] <= until_ns:
            _, name, effect = self._due.pop(0)
            self._log.note(f"{self._name} {name}")
            effect()
        self.next_due_ns = self._due[0][0] if self._due else NEVER

    def on_quote(
        self,
        ts: int,
        bid_px: int | None,
        ask_px: int | None,
        bid_sz: int | None,
        ask_sz: int | None,
    ) -> None:
        assert (bid_sz, ask_sz) == (1, 2)
        self._log.note(f"{self._name} sees {bid_px}/{ask_px} of {ts - NOW}")
        self.quoted()

    def on_trade(self, trade: Trade) -> None:
        self._log.note(f"{self._name} sees a trade at {trade.px}")
        self.traded()


class Log:
    """A pump whose every delivery is written down as (what, offset of the clock, seq)."""

    def __init__(self, *, venue: bool = False) -> None:
        self.clock = Clock(NOW)
        self.venue = Venue(self)
        self.pump = Pump(self.clock, *([self.venue] if venue else []))
        self.lines: list[tuple[str, int, int]] = []
        self.then: dict[str, Callable[[], None]] = {}
        """What to do inside the delivery of that name."""
        self.pump.signal.subscribe(lambda q: self._quote("signal", q))
        self.pump.target.subscribe(lambda q: self._quote("target", q))
        self.pump.account.subscribe(self._account)
        self.pump.orders.subscribe(lambda u: self.note(f"order {u.n}"))
        self.pump.markets[0].trades.subscribe(self._trade)
        self.pump.markets[0].status.subscribe(self._status)

    def note(self, what: str) -> None:
        self.lines.append((what, self.clock.now_ns - NOW, self.pump.seq))
        self.then.pop(what, lambda: None)()

    def _quote(self, name: str, quote: Quote) -> None:
        assert (quote.seq, quote.ts) == (self.pump.seq, self.clock.now_ns)
        self.note(name)

    def _account(self, account: AccountEvent) -> None:
        assert (account.seq, account.ts) == (self.pump.seq, self.clock.now_ns)
        self.note(f"{account.kind} {account.n}")

    def _trade(self, trade: Trade) -> None:
        assert (trade.seq, trade.ts) == (self.pump.seq, self.clock.now_ns)
        self.note(f"trade at {trade.px}")

    def _status(self, status: Status) -> None:
        assert (status.seq, status.ts) == (self.pump.seq, self.clock.now_ns)
        self.note(f"{status.source} {status.kind}")

    def timer(self, offset: int, name: str = "timer") -> None:
        self.clock.schedule_ns(NOW + offset, lambda *_: self.note(name))

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.lines]


# ---------------------------------------------------------------- inputs


def test_inputs_are_delivered_in_order_each_with_its_own_time_and_number() -> None:
    log = Log()

    seqs = log.pump.run(inputs((SIGNAL, 0), (TARGET, 0), (SIGNAL, 1), (TARGET, 2), (TARGET, 2)))

    assert seqs == [1, 2, 3, 4, 5]
    assert log.lines == [
        ("signal", 0, 1), ("target", 0, 2), ("signal", 1, 3), ("target", 2, 4), ("target", 2, 5),
    ]  # fmt: skip


def test_a_quote_arrives_with_every_value_of_its_row() -> None:
    pump = Pump(Clock())
    seen: list[Quote] = []
    pump.signal.subscribe(seen.append)
    pump.target.subscribe(seen.append)

    pump.run(
        Inputs(
            kind=[SIGNAL, TARGET], ts=[10, 11], ts_event=[9, None], bid_px=[1, None],
            ask_px=[2, 3], bid_sz=[4, None], ask_sz=[5, 6], flags=[128, 0],
        )
    )  # fmt: skip

    assert seen == [Quote(1, 10, 9, 1, 2, 4, 5, 128), Quote(2, 11, None, None, 3, None, 6, 0)]


def test_the_next_batch_goes_on_where_the_last_one_ended() -> None:
    log = Log()

    assert log.pump.run(inputs((SIGNAL, 0), (SIGNAL, 5))) == [1, 2]
    assert log.pump.run(inputs()) == []
    assert log.pump.run(inputs((TARGET, 5))) == [3]
    with pytest.raises(OutOfOrderError):
        log.pump.run(inputs((SIGNAL, 4)))


def test_recorded_sequence_numbers_are_kept() -> None:
    log = Log()

    seqs = log.pump.run(inputs((SIGNAL, 0), (TARGET, 1), (SIGNAL, 1), seq=[7, 9, 40]))

    assert seqs == [7, 9, 40]
    assert log.lines == [("signal", 0, 7), ("target", 1, 9), ("signal", 1, 40)]
    assert log.pump.run(inputs((SIGNAL, 2))) == [41]


def test_recorded_account_events_are_inputs_of_their_row() -> None:
    log = Log()
    recorded = [event("ack", 1), event("fill", 2)]

    seqs = log.pump.run(
        inputs((ACCOUNT, 0), (SIGNAL, 1), (ACCOUNT, 2), seq=[3, 4, 8], events=recorded)
    )

    assert seqs == [3, 4, 8]
    assert log.lines == [("ack 1", 0, 3), ("signal", 1, 4), ("fill 2", 2, 8)]


def test_an_input_from_the_past_is_refused_with_both_times() -> None:
    log = Log()

    with pytest.raises(OutOfOrderError) as refused:
        log.pump.run(inputs((SIGNAL, 0), (TARGET, 5), (SIGNAL, 2), (SIGNAL, 6)))

    assert str(refused.value) == (
        f"input after seq 2 has ts {NOW + 2} ns, 3 ns before the one before it ({NOW + 5} ns); "
        f"inputs must not go back in time"
    )
    assert log.names == ["signal", "target"], "what came before it was delivered, nothing after"


def test_an_input_before_the_clock_is_refused_as_well() -> None:
    log = Log()
    log.pump.advance(NOW + 10)

    with pytest.raises(OutOfOrderError, match=f"{NOW + 9} ns, 1 ns before"):
        log.pump.run(inputs((SIGNAL, 9)))


# ---------------------------------------------------------------- timers


@pytest.mark.parametrize("kind", [SIGNAL, TARGET])
@pytest.mark.parametrize(
    ("at", "order"),
    [
        (99, [("input", 99), ("timer", 100)]),
        (100, [("timer", 100), ("input", 100)]),
        (101, [("timer", 100), ("input", 101)]),
    ],
)
def test_a_timer_goes_before_an_input_of_its_instant_and_before_every_later_one(
    kind: int, at: int, order: list[tuple[str, int]]
) -> None:
    log = Log()
    log.timer(100)

    log.pump.run(inputs((kind, at)))
    log.pump.advance(NOW + 200)

    names = {"signal": "input", "target": "input", "timer": "timer"}
    assert [(names[name], offset) for name, offset, _ in log.lines] == order


def test_timers_fire_in_due_order_each_at_its_own_time_before_the_input_that_passes_them() -> None:
    log = Log()
    for offset, name in ((7, "c"), (3, "a"), (7, "d"), (5, "b"), (11, "e")):
        log.timer(offset, name)

    log.pump.run(inputs((SIGNAL, 1), (TARGET, 10)))

    assert log.lines == [
        ("signal", 1, 1), ("a", 3, 1), ("b", 5, 1), ("c", 7, 1), ("d", 7, 1), ("target", 10, 2),
    ]  # fmt: skip


def test_a_timer_set_inside_an_input_fires_before_the_next_input_of_the_same_instant() -> None:
    log = Log()
    log.then["signal"] = lambda: log.timer(0, "now")

    log.pump.run(inputs((SIGNAL, 0), (TARGET, 0)))

    assert log.names == ["signal", "now", "target"]


def test_a_timer_may_set_another_that_is_due_before_the_input() -> None:
    log = Log()
    log.timer(3, "a")
    log.then["a"] = lambda: log.timer(5, "b")

    log.pump.run(inputs((SIGNAL, 5)))

    assert log.lines == [("a", 3, 0), ("b", 5, 0), ("signal", 5, 1)]


def test_time_passes_without_an_input_and_never_back() -> None:
    log = Log()
    log.timer(3)

    log.pump.advance(NOW + 2)
    assert log.lines == []
    log.pump.advance(NOW + 4)
    log.pump.advance(NOW + 1)

    assert log.lines == [("timer", 3, 0)]
    assert log.clock.now_ns == NOW + 4


# ---------------------------------------------------------------- answers and notices


def test_an_answer_given_inside_an_input_arrives_after_it_as_the_next_input() -> None:
    log = Log()

    def act() -> None:
        log.pump.answer(event("ack", 1))
        log.pump.answer(event("fill", 2))
        log.note("end of on_next")

    log.then["signal"] = act
    seqs = log.pump.run(inputs((SIGNAL, 5), (TARGET, 6)))

    assert log.lines == [
        ("signal", 5, 1), ("end of on_next", 5, 1), ("ack 1", 5, 2), ("fill 2", 5, 3),
        ("target", 6, 4),
    ]  # fmt: skip
    assert seqs == [1, 4]


def test_an_answer_to_an_answer_waits_its_turn() -> None:
    log = Log()

    def act() -> None:
        log.pump.answer(event("ack", 1))
        log.pump.answer(event("ack", 2))

    log.then["signal"] = act
    log.then["ack 1"] = lambda: log.pump.answer(event("fill", 1))
    log.pump.run(inputs((SIGNAL, 0)))

    assert log.lines == [("signal", 0, 1), ("ack 1", 0, 2), ("ack 2", 0, 3), ("fill 1", 0, 4)]


def test_a_notice_comes_after_the_on_next_and_before_the_next_answer_and_has_no_number() -> None:
    log = Log()

    def act() -> None:
        log.pump.answer(event("ack", 1))
        log.pump.answer(event("ack", 2))
        log.pump.notify(update(1))
        log.pump.notify(update(2))
        log.note("end of on_next")

    log.then["signal"] = act
    log.then["ack 1"] = lambda: log.pump.notify(update(3))
    log.pump.run(inputs((SIGNAL, 0), (TARGET, 1)))

    assert log.lines == [
        ("signal", 0, 1), ("end of on_next", 0, 1), ("order 1", 0, 1), ("order 2", 0, 1),
        ("ack 1", 0, 2), ("order 3", 0, 2), ("ack 2", 0, 3), ("target", 1, 4),
    ]  # fmt: skip


def test_a_notice_given_inside_a_notice_is_not_delivered_inside_it() -> None:
    log = Log()

    def act() -> None:
        log.pump.notify(update(2))
        log.note("end of order 1")

    log.then["signal"] = lambda: log.pump.notify(update(1))
    log.then["order 1"] = act
    log.pump.run(inputs((SIGNAL, 0)))

    assert log.names == ["signal", "order 1", "end of order 1", "order 2"]


def test_a_notice_of_a_timer_comes_before_the_next_timer_of_its_instant() -> None:
    log = Log()
    log.timer(3, "a")
    log.timer(3, "b")
    log.then["a"] = lambda: log.pump.notify(update(1))

    log.pump.run(inputs((SIGNAL, 3)))

    assert log.names == ["a", "order 1", "b", "signal"]


def test_an_answer_of_a_timer_is_stamped_with_the_timers_due_time() -> None:
    log = Log()
    log.timer(3, "a")
    log.timer(5, "b")
    log.then["a"] = lambda: log.pump.answer(event("ack", 1))

    log.pump.run(inputs((SIGNAL, 9)))

    assert log.lines == [("a", 3, 0), ("ack 1", 3, 1), ("b", 5, 1), ("signal", 9, 2)]


def test_a_timer_that_is_due_now_fires_before_an_answer_is_delivered() -> None:
    log = Log()

    def act() -> None:
        log.pump.answer(event("ack", 1))
        log.timer(0, "now")

    log.then["signal"] = act
    log.pump.run(inputs((SIGNAL, 0)))

    assert log.names == ["signal", "now", "ack 1"]


# ---------------------------------------------------------------- the venue


def test_the_venue_sees_a_target_quote_before_the_graph_and_no_signal() -> None:
    log = Log(venue=True)

    log.pump.run(inputs((SIGNAL, 1), (TARGET, 2)))

    assert log.names == ["signal", "venue sees 102/202 of 2", "target"]


def test_what_the_venue_does_on_a_quote_is_an_input_before_that_quote() -> None:
    log = Log(venue=True)
    log.venue.quoted = lambda: log.pump.answer(event("fill", 1))
    log.then["fill 1"] = lambda: log.pump.notify(update(1))

    seqs = log.pump.run(inputs((TARGET, 2)))

    assert log.lines == [
        ("venue sees 102/202 of 2", 2, 0), ("fill 1", 2, 1), ("order 1", 2, 1), ("target", 2, 2),
    ]  # fmt: skip
    assert seqs == [2]


def test_a_command_takes_effect_at_its_due_time_between_two_inputs() -> None:
    log = Log(venue=True)
    log.venue.command(5, "takes", lambda: log.pump.answer(event("ack", 1)))

    seqs = log.pump.run(inputs((SIGNAL, 1), (SIGNAL, 9)))

    assert log.lines == [("signal", 1, 1), ("venue takes", 5, 1), ("ack 1", 5, 2), ("signal", 9, 3)]
    assert seqs == [1, 3]


@pytest.mark.parametrize(
    ("command", "timer", "at", "order"),
    [
        (5, 4, 6, ["timer", "venue takes", "signal"]),
        (5, 5, 6, ["timer", "venue takes", "signal"]),  # a tie: timers first
        (5, 6, 6, ["venue takes", "timer", "signal"]),
        (6, 6, 6, ["timer", "venue takes", "signal"]),
        (6, 7, 6, ["venue takes", "signal", "timer"]),
        (5, 7, 6, ["venue takes", "signal", "timer"]),
        (7, 5, 6, ["timer", "signal", "venue takes"]),
        (7, 7, 6, ["signal", "timer", "venue takes"]),
    ],
)
def test_timers_commands_and_inputs_take_turns_by_time_and_timers_win_ties(
    command: int, timer: int, at: int, order: list[str]
) -> None:
    log = Log(venue=True)
    log.venue.command(command, "takes")
    log.timer(timer)

    log.pump.run(inputs((SIGNAL, at)))
    log.pump.advance(NOW + 10)

    offsets = {"timer": timer, "venue takes": command, "signal": at}
    assert [(name, offset) for name, offset, _ in log.lines] == [
        (name, offsets[name]) for name in order
    ]


def test_a_command_sent_by_a_timer_takes_effect_in_the_same_pass() -> None:
    log = Log(venue=True)
    log.timer(3, "a")
    log.then["a"] = lambda: log.venue.command(5, "takes")

    log.pump.run(inputs((SIGNAL, 9)))

    assert log.lines == [("a", 3, 0), ("venue takes", 5, 0), ("signal", 9, 1)]


def test_finishing_waits_for_every_command_under_way_and_for_those_that_follow() -> None:
    log = Log(venue=True)
    log.venue.command(5, "takes", lambda: log.pump.answer(event("ack", 1)))
    log.then["ack 1"] = lambda: log.venue.command(8, "takes the next")
    log.timer(7)
    log.timer(20, "too late")

    log.pump.finish(lambda: "venue takes the next" in log.names)

    assert log.lines == [
        ("venue takes", 5, 0), ("ack 1", 5, 1), ("timer", 7, 1), ("venue takes the next", 8, 1),
    ]  # fmt: skip
    assert log.clock.now_ns == NOW + 8


def test_finishing_stops_when_nothing_is_due_even_if_it_is_not_done() -> None:
    log = Log(venue=True)
    log.venue.command(5, "takes")
    log.timer(7)

    log.pump.finish(lambda: False)

    assert log.lines == [("venue takes", 5, 0), ("timer", 7, 0)]
    assert log.clock.now_ns == NOW + 7


def test_finishing_without_a_venue_lets_the_timers_pass() -> None:
    log = Log()
    log.timer(3, "a")
    log.timer(4, "b")

    log.pump.finish(lambda: log.names == ["a"])

    assert log.lines == [("a", 3, 0)]
    assert log.clock.now_ns == NOW + 3


def test_finishing_delivers_what_is_queued_before_it_asks_and_lets_no_time_pass_when_done() -> None:
    log = Log(venue=True)
    log.venue.command(5, "takes")
    log.pump.answer(event("stop", 1))

    log.pump.finish(lambda: log.names == ["stop 1"])

    assert log.lines == [("stop 1", 0, 1)]
    assert log.clock.now_ns == NOW


def test_settling_lets_no_time_pass() -> None:
    log = Log(venue=True)
    log.venue.command(5, "takes")
    log.timer(5)
    log.pump.answer(event("stop", 1))

    log.pump.settle()

    assert log.lines == [("stop 1", 0, 1)]
    assert log.clock.now_ns == NOW


def test_settling_delivers_what_was_queued_outside_any_input() -> None:
    log = Log()
    log.pump.answer(event("stop", 1))
    log.pump.notify(update(1))

    log.pump.settle()

    assert log.lines == [("order 1", 0, 0), ("stop 1", 0, 1)]


def test_a_timer_due_now_by_a_fill_fires_before_the_quote_that_filled() -> None:
    log = Log(venue=True)
    log.venue.quoted = lambda: log.pump.answer(event("fill", 1))
    log.then["fill 1"] = lambda: log.timer(2, "now")

    log.pump.run(inputs((TARGET, 2)))

    assert log.names == ["venue sees 102/202 of 2", "fill 1", "now", "target"]


def test_an_error_of_a_subscriber_ends_the_run_on_that_input() -> None:
    log = Log()

    def fails() -> None:
        raise ZeroDivisionError("in the graph")

    log.then["target"] = fails
    with pytest.raises(ZeroDivisionError):
        log.pump.run(inputs((SIGNAL, 0), (TARGET, 1), (SIGNAL, 2)))

    assert log.names == ["signal", "target"]
    assert log.pump.seq == 2


# ---------------------------------------------------------------- trades, status, several signals


def test_a_trade_reaches_the_venue_before_the_graph_and_what_it_fills_comes_between() -> None:
    log = Log(venue=True)
    log.venue.traded = lambda: log.pump.answer(event("fill", 1))
    log.then["fill 1"] = lambda: log.pump.notify(update(1))

    seqs = log.pump.run(inputs((SIGNAL, 1), (TRADE, 2), (TARGET, 3), events=[trade(101)]))

    assert log.lines == [
        ("signal", 1, 1), ("venue sees a trade at 101", 2, 1), ("fill 1", 2, 2), ("order 1", 2, 2),
        ("trade at 101", 2, 3), ("venue sees 103/203 of 3", 3, 3), ("target", 3, 4),
    ]  # fmt: skip
    assert seqs == [1, 3, 4]


def test_without_a_venue_a_trade_only_reaches_the_graph_with_all_it_says() -> None:
    pump = Pump(Clock())
    seen: list[Trade] = []
    pump.markets[0].trades.subscribe(seen.append)

    pump.run(inputs((TRADE, 7), events=[Trade(0, 0, 5, 101, 3, -1)]))

    assert seen == [Trade(1, NOW + 7, 5, 101, 3, -1)]


def test_a_status_is_an_input_of_its_row_that_the_venue_does_not_see() -> None:
    log = Log(venue=True)
    told = [status("heartbeat"), status("kill", "operator")]

    seqs = log.pump.run(inputs((STATUS, 1), (SIGNAL, 2), (STATUS, 2), events=told))

    assert seqs == [1, 2, 3]
    assert log.lines == [("signal heartbeat", 1, 1), ("signal", 2, 2), ("operator kill", 2, 3)]


def test_what_a_status_or_a_trade_causes_comes_before_the_next_input() -> None:
    log = Log()
    log.then["signal heartbeat"] = lambda: log.pump.answer(event("ack", 1))
    log.then["trade at 9"] = lambda: log.pump.notify(update(2))

    log.pump.run(inputs((STATUS, 1), (TRADE, 1), (SIGNAL, 1), events=[status(), trade(9)]))

    assert log.names == ["signal heartbeat", "ack 1", "trade at 9", "order 2", "signal"]


def test_events_of_all_kinds_are_taken_in_the_order_of_their_rows() -> None:
    log = Log()
    told: list[Event] = [trade(9), event("ack", 4), status(), event("fill", 5), trade(8)]

    log.pump.run(
        inputs(
            (TRADE, 0), (SIGNAL, 0), (ACCOUNT, 1), (STATUS, 1), (TARGET, 2), (ACCOUNT, 2),
            (TRADE, 3), seq=[2, 4, 6, 8, 10, 12, 14], events=told,
        )
    )  # fmt: skip

    assert log.lines == [
        ("trade at 9", 0, 2), ("signal", 0, 4), ("ack 4", 1, 6), ("signal heartbeat", 1, 8),
        ("target", 2, 10), ("fill 5", 2, 12), ("trade at 8", 3, 14),
    ]  # fmt: skip


def test_who_left_a_source_hears_nothing_more_and_the_others_still_do() -> None:
    pump = Pump(Clock())
    heard: list[str] = []
    first, second = (
        pump.target.subscribe(lambda _, name=name: heard.append(name))  # type: ignore[misc]
        for name in "ab"
    )
    pump.run(inputs((TARGET, 0)))
    first.dispose()
    [left] = pump.target._observers
    assert pump.target.push == left.on_next, "one subscriber is called without a detour"
    pump.run(inputs((TARGET, 1)))
    second.dispose()
    second.dispose()
    pump.run(inputs((TARGET, 2)))

    assert heard == ["a", "b", "b"]


def test_who_leaves_while_an_item_is_handed_round_does_not_get_it() -> None:
    pump = Pump(Clock())
    heard: list[str] = []

    def first(_: Quote) -> None:
        heard.append("first")
        leaving.dispose()

    pump.target.subscribe(first)
    leaving = pump.target.chain(lambda _: heard.append("second"), raised, silent, None)
    pump.target.subscribe(lambda _: heard.append("third"))
    pump.run(inputs((TARGET, 0)))

    assert heard == ["first", "third"]


def test_who_was_told_the_end_hears_nothing_more() -> None:
    pump = Pump(Clock())
    heard: list[str] = []
    pump.target.chain(lambda _: heard.append("x"), raised, lambda: heard.append("|"), None)
    pump.run(inputs((TARGET, 0)))
    pump.target.on_completed()
    pump.target.on_completed()
    pump.run(inputs((TARGET, 1)))

    assert heard == ["x", "|"]


def raised(error: Exception) -> None:
    raise error


def silent() -> None:
    """Completion is of no interest."""


def test_every_signal_has_a_source_of_its_own() -> None:
    pump = Pump(Clock(), markets=[Market(MAX_SIGNALS)])
    seen: list[tuple[int, int]] = []
    for k, source in enumerate(pump.markets[0].signals):
        source.subscribe(lambda quote, k=k: seen.append((k, quote.seq)))  # type: ignore[misc]

    pump.run(inputs(*((SIGNAL + k, k) for k in range(MAX_SIGNALS)), (SIGNAL, 99)))

    assert seen == [(k, k + 1) for k in range(MAX_SIGNALS)] + [(0, MAX_SIGNALS + 1)]
    assert pump.signal is pump.markets[0].signals[0]


def test_the_kinds_of_two_markets_never_meet() -> None:
    kinds = [ACCOUNT, STATUS, *(SIGNAL + k for k in range(MAX_SIGNALS)), TRADE, TARGET]

    assert len(set(kinds)) == len(kinds)
    assert kinds == sorted(kinds), "ties go in this order"
    assert max(kinds) < PAIR


# ---------------------------------------------------------------- two markets


class Two(Log):
    """Two markets, each with a venue of its own; names of the second start with a B."""

    def __init__(self, *, venues: bool = True) -> None:
        super().__init__()
        self.lines.clear()
        self.venues = Venue(self, "A"), Venue(self, "B")
        self.pump = Pump(
            self.clock, *(self.venues if venues else ()), markets=[Market(), Market(2)]
        )
        for name, market in zip("AB", self.pump.markets, strict=True):
            for k, signal in enumerate(market.signals, start=1):
                signal.subscribe(lambda _, name=name, k=k: self.note(f"{name} signal {k}"))  # type: ignore[misc]
            market.target.subscribe(lambda _, name=name: self.note(f"{name} target"))  # type: ignore[misc]
            market.trades.subscribe(lambda t, name=name: self.note(f"{name} trade {t.px}"))  # type: ignore[misc]
            market.status.subscribe(lambda s, name=name: self.note(f"{name} {s.kind}"))  # type: ignore[misc]
            market.account.subscribe(lambda a, name=name: self.note(f"{name} {a.kind} {a.n}"))  # type: ignore[misc]
            market.orders.subscribe(lambda u, name=name: self.note(f"{name} order {u.n}"))  # type: ignore[misc]


def test_every_input_reaches_its_market_alone() -> None:
    log = Two(venues=False)
    told: list[Event] = [event("ack", 1), event("ack", 2), status(), status("sibling"), trade(8),
                         trade(9)]  # fmt: skip

    seqs = log.pump.run(
        inputs(
            (ACCOUNT, 0), (PAIR + ACCOUNT, 0), (STATUS, 0), (PAIR + STATUS, 0), (SIGNAL, 1),
            (PAIR + SIGNAL, 1), (PAIR + SIGNAL + 1, 1), (TRADE, 2), (PAIR + TRADE, 2), (TARGET, 3),
            (PAIR + TARGET, 3), events=told,
        )
    )  # fmt: skip

    assert log.names == [
        "A ack 1", "B ack 2", "A heartbeat", "B sibling", "A signal 1", "B signal 1", "B signal 2",
        "A trade 8", "B trade 9", "A target", "B target",
    ]  # fmt: skip
    assert seqs == list(range(1, 12)), "one numbering for all"


def test_each_venue_sees_the_quotes_and_trades_of_its_own_market() -> None:
    log = Two()

    log.pump.run(
        inputs(
            (TARGET, 1), (PAIR + TARGET, 2), (TRADE, 3), (PAIR + TRADE, 4), (PAIR + SIGNAL, 5),
            events=[trade(8), trade(9)],
        )
    )  # fmt: skip

    assert log.names == [
        "A sees 101/201 of 1", "A target", "B sees 102/202 of 2", "B target",
        "A sees a trade at 8", "A trade 8", "B sees a trade at 9", "B trade 9", "B signal 1",
    ]  # fmt: skip


def test_answers_and_notices_go_to_the_market_they_are_of_in_one_order() -> None:
    log = Two()

    def act() -> None:
        log.pump.answer(event("ack", 1), market=1)
        log.pump.answer(event("ack", 2))
        log.pump.notify(update(3), market=1)
        log.pump.notify(update(4), market=0)
        log.note("end of on_next")

    log.then["A signal 1"] = act

    def answer_again() -> None:
        log.pump.answer(event("fill", 1), market=1)
        log.pump.notify(update(1), market=1)
        log.note("end of B ack")

    log.then["B ack 1"] = answer_again
    log.pump.run(inputs((SIGNAL, 0), (PAIR + TARGET, 1)))

    assert log.lines == [
        ("A signal 1", 0, 1), ("end of on_next", 0, 1), ("B order 3", 0, 1), ("A order 4", 0, 1),
        ("B ack 1", 0, 2), ("end of B ack", 0, 2), ("B order 1", 0, 2), ("A ack 2", 0, 3),
        ("B fill 1", 0, 4), ("B sees 101/201 of 1", 1, 4), ("B target", 1, 5),
    ]  # fmt: skip


def test_commands_of_both_venues_take_effect_by_time_and_ties_by_the_order_of_the_markets() -> None:
    log = Two()
    first, second = log.venues
    second.command(3, "takes 3", lambda: log.pump.answer(event("ack", 3), market=1))
    first.command(5, "takes 5", lambda: log.pump.answer(event("ack", 5), market=0))
    second.command(7, "takes 7", lambda: log.pump.answer(event("ack", 8), market=1))
    first.command(7, "takes 7", lambda: log.pump.answer(event("ack", 7), market=0))
    second.command(9, "takes 9")
    log.timer(7)

    log.pump.run(inputs((PAIR + SIGNAL, 8)))

    assert log.lines == [
        ("B takes 3", 3, 0), ("B ack 3", 3, 1), ("A takes 5", 5, 1), ("A ack 5", 5, 2),
        ("timer", 7, 2), ("A takes 7", 7, 2), ("B takes 7", 7, 2), ("A ack 7", 7, 3),
        ("B ack 8", 7, 4), ("B signal 1", 8, 5),
    ]  # fmt: skip


def test_a_command_that_one_market_s_answer_causes_in_the_other_is_not_forgotten() -> None:
    log = Two()
    first, second = log.venues
    second.command(3, "takes", lambda: log.pump.answer(event("fill", 1), market=1))
    log.then["B fill 1"] = lambda: first.command(3, "hedges")

    log.pump.run(inputs((SIGNAL, 4)))

    assert log.lines == [
        ("B takes", 3, 0), ("B fill 1", 3, 1), ("A hedges", 3, 1), ("A signal 1", 4, 2),
    ]  # fmt: skip


def test_finishing_waits_for_both_venues() -> None:
    log = Two()
    log.venues[1].command(9, "takes")
    log.venues[0].command(4, "takes")

    log.pump.finish(lambda: False)

    assert log.lines == [("A takes", 4, 0), ("B takes", 9, 0)]
