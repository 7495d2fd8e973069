"""The pump: one order for inputs, timers, answers and notices, to the nanosecond."""

from collections.abc import Callable
from typing import Any

import pytest

from streams.clock import NEVER, Clock
from streams.events import AccountEvent, AccountKind, OrderUpdate, OutOfOrderError, Quote
from streams.pump import ACCOUNT, SIGNAL, TARGET, Inputs, Pump

NOW = 1_781_703_000_000_000_999
Row = tuple[int, int]
"""Kind and offset from NOW in ns."""


def inputs(*rows: Row, seq: list[int] | None = None, account: Any = ()) -> Inputs:
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
        account=account,
    )


def event(kind: AccountKind = "ack", n: int = 1) -> AccountEvent:
    return AccountEvent(seq=0, ts=0, kind=kind, n=n)


def update(n: int) -> OrderUpdate:
    return OrderUpdate(ts=0, n=n, side=1, state="open", leaves=1)


class Venue:
    """A venue of the test's own: what it does, and when, is written in the test."""

    def __init__(self, log: "Log") -> None:
        self.next_due_ns = NEVER
        self.quoted: Callable[[], None] = lambda: None
        self._log = log
        self._due: list[tuple[int, str, Callable[[], None]]] = []

    def command(self, offset: int, name: str, effect: Callable[[], None] = lambda: None) -> None:
        self._due.append((NOW + offset, name, effect))
        self._due.sort(key=lambda each: each[0])
        self.next_due_ns = self._due[0][0]

    def advance(self, until_ns: int) -> None:
        while self._due and self._due[0][0] <= until_ns:
            _, name, effect = self._due.pop(0)
            self._log.note(f"venue {name}")
            effect()
        self.next_due_ns = self._due[0][0] if self._due else NEVER

    def on_quote(self, ts: int, bid_px: int | None, ask_px: int | None) -> None:
        self._log.note(f"venue sees {bid_px}/{ask_px} of {ts - NOW}")
        self.quoted()


class Log:
    """A pump whose every delivery is written down as (what, offset of the clock, seq)."""

    def __init__(self, *, venue: bool = False) -> None:
        self.clock = Clock(NOW)
        self.venue = Venue(self)
        self.pump = Pump(self.clock, self.venue if venue else None)
        self.lines: list[tuple[str, int, int]] = []
        self.then: dict[str, Callable[[], None]] = {}
        """What to do inside the delivery of that name."""
        self.pump.signal.subscribe(lambda q: self._quote("signal", q))
        self.pump.target.subscribe(lambda q: self._quote("target", q))
        self.pump.account.subscribe(self._account)
        self.pump.orders.subscribe(lambda u: self.note(f"order {u.n}"))

    def note(self, what: str) -> None:
        self.lines.append((what, self.clock.now_ns - NOW, self.pump.seq))
        self.then.pop(what, lambda: None)()

    def _quote(self, name: str, quote: Quote) -> None:
        assert (quote.seq, quote.ts) == (self.pump.seq, self.clock.now_ns)
        self.note(name)

    def _account(self, account: AccountEvent) -> None:
        assert (account.seq, account.ts) == (self.pump.seq, self.clock.now_ns)
        self.note(f"{account.kind} {account.n}")

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
        inputs((ACCOUNT, 0), (SIGNAL, 1), (ACCOUNT, 2), seq=[3, 4, 8], account=recorded)
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


def test_settling_waits_for_every_command_under_way_and_for_those_that_follow() -> None:
    log = Log(venue=True)
    log.venue.command(5, "takes", lambda: log.pump.answer(event("ack", 1)))
    log.then["ack 1"] = lambda: log.venue.command(8, "takes the next")
    log.timer(7)
    log.timer(20, "too late")

    log.pump.settle()

    assert log.lines == [
        ("venue takes", 5, 0), ("ack 1", 5, 1), ("timer", 7, 1), ("venue takes the next", 8, 1),
    ]  # fmt: skip
    assert log.clock.now_ns == NOW + 8


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
