"""kill_switch(): nothing is quoted from a kill until a release. A column is 1 ms."""

from typing import Any

import pytest
from reactivex import Observable
from reactivex.scheduler import ImmediateScheduler

from operators.guards.kill_switch import kill_switch
from operators.state import State
from streams.clock import Clock
from streams.events import Anchor, Refusal, Residual, Status
from streams.pump import Hot
from tests.marbles import MILLISECOND, Timed, play_graph_on_clock, subscribers


def state(seq: int) -> State:
    return Residual(1, 10, 200.0, 100.0, 1.0), Anchor(seq, seq, 200.0, 200.0, 206, 207)


def command(kind: Any, source: str = "operator", text: str = "") -> Status:
    return Status(99, 0, source, kind, text)


VALUES = {
    "a": state(5),
    "b": state(6),
    "K": command("kill"),
    "F": command("kill", text="kill file"),
    "R": command("release"),
    "h": command("heartbeat"),
    "s": command("kill", source="signal"),
    "t": command("release", source="target"),
}


def guarded(states: str, commands: str) -> Timed:
    def graph(states: Observable[Any], commands: Observable[Any]) -> Observable[Any]:
        return states.pipe(kill_switch(commands))

    return play_graph_on_clock({"commands": commands, "states": states}, VALUES, graph)


def off(given: State, ms: int, why: str = "on") -> tuple[int, State]:
    refusal = Refusal(given[1].seq, ms * MILLISECOND, "kill switch", why)
    return ms * MILLISECOND, (given[0], refusal)


def on(given: State, ms: int) -> tuple[int, State]:
    return ms * MILLISECOND, given


A, B = state(5), state(6)


def test_states_pass_while_nobody_has_pulled_it() -> None:
    assert guarded("-a-b-", "-----") == [on(A, 1), on(B, 3)]


def test_a_kill_and_a_release_act_at_once_on_the_latest_state() -> None:
    states = "-a-----b----"
    orders = "---K-----R--"

    assert guarded(states, orders) == [on(A, 1), off(A, 3), off(B, 7), on(B, 9)]


def test_the_text_of_the_command_is_the_reason() -> None:
    assert guarded("-a--", "--F-") == [on(A, 1), off(A, 2, "kill file")]


def test_a_kill_before_the_first_state_holds_for_it() -> None:
    assert guarded("---a--", "-K--R-") == [off(A, 3), on(A, 4)]


def test_a_kill_and_a_release_before_the_first_state_leave_nothing() -> None:
    assert guarded("---a", "-KR-") == [on(A, 3)]


def test_only_the_operators_kill_and_release_are_heard() -> None:
    assert guarded("-a-----b", "---s-h--") == [on(A, 1), on(B, 7)]
    assert guarded("-a-----b", "--Kt----") == [on(A, 1), off(A, 2), off(B, 7)]


def test_another_kill_tells_the_new_reason() -> None:
    assert guarded("-a-----", "--K-F--")[-1] == off(A, 4, "kill file")


def test_completion_and_errors_of_both_sources_travel() -> None:
    assert guarded("-a-|", "----") == [on(A, 1), (3 * MILLISECOND, "|")]
    assert str(guarded("-a-#", "----")[-1][1]) == "error"
    assert str(guarded("-a--", "---#")[-1][1]) == "error"


@pytest.mark.parametrize("scheduler", [None, ImmediateScheduler()])
def test_without_the_graphs_clock_it_fails_on_subscription(scheduler: Any) -> None:
    source: Hot[State] = Hot()
    commands: Hot[Status] = Hot()

    with pytest.raises(
        RuntimeError, match=r"kill_switch must be subscribed with the graph's clock"
    ):
        source.pipe(kill_switch(commands)).subscribe(scheduler=scheduler)
    assert subscribers(source, commands) == 0


def test_two_subscriptions_do_not_share_the_latest_state() -> None:
    clock = Clock()
    source: Hot[State] = Hot()
    commands: Hot[Status] = Hot()
    guard = source.pipe(kill_switch(commands))
    early: list[State] = []
    late: list[State] = []
    guard.subscribe(early.append, scheduler=clock)
    source.push(A)
    guard.subscribe(late.append, scheduler=clock)
    commands.push(command("kill"))

    assert early == [A, off(A, 0)[1]]
    assert late == []


def test_disposing_unsubscribes_from_both_sources() -> None:
    source: Hot[State] = Hot()
    commands: Hot[Status] = Hot()
    subscription = source.pipe(kill_switch(commands)).subscribe(scheduler=Clock())
    assert subscribers(source, commands) == 2

    subscription.dispose()

    assert subscribers(source, commands) == 0
