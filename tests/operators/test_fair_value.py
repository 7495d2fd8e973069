"""fair_value(): the signal's mid in the anchor's place, the target's book beside it."""

from typing import Any

from msgspec.structs import replace

from operators.fair_value import fair_value
from operators.state import State
from streams.events import Anchor, Refusal, Residual
from streams.pump import Hot
from tests.marbles import expect, play, subscribers

GUARD = fair_value(1_000.0)
ANCHOR = Anchor(4, 40, 207.25, 207.25, 207_000_000_000, 207_500_000_000, 3.0)


def signal(mid: float) -> Residual:
    return Residual(3, 30, mid, 200.0, 0.03)


def test_the_price_is_the_signals_mid_on_the_targets_tick_and_the_rest_stays() -> None:
    states: dict[str, State] = {
        "a": (signal(206.4034), ANCHOR),
        "b": (signal(206.4035), ANCHOR),  # halves away from zero
        "c": (signal(206.4), ANCHOR),
    }
    centred: dict[str, State] = {
        "a": (signal(206.4034), Anchor(4, 40, 207.25, 206.403, ANCHOR.bid_px, ANCHOR.ask_px, 3.0)),
        "b": (signal(206.4035), replace(ANCHOR, price=206.404)),
        "c": (signal(206.4), replace(ANCHOR, price=206.4)),
    }

    assert play("-a-b-c-|", states, GUARD) == expect("-a-b-c-|", centred)


def test_the_scale_is_of_the_target() -> None:
    states: dict[str, State] = {"a": (signal(206.45), ANCHOR)}
    centred: dict[str, State] = {"a": (signal(206.45), replace(ANCHOR, price=206.0))}

    assert play("-a", states, fair_value(1.0)) == expect("-a", centred)


def test_states_with_a_refusal_or_without_a_signal_pass() -> None:
    refusal = Refusal(4, 40, "session", "closed")
    states: dict[str, State] = {
        "a": (Refusal(3, 30, "signal", "no bid"), ANCHOR),
        "b": (signal(206.4034), refusal),
        "c": (Residual(0, 40, 0.0, 0.0, 0.0), ANCHOR),
    }

    assert play("-a-b-c-|", states, GUARD) == expect("-a-b-c-|", states)


def test_an_error_travels() -> None:
    error = ValueError("broke")

    assert play("--#", {}, GUARD, error) == expect("--#", {}, error)


def test_disposing_unsubscribes_from_the_source() -> None:
    source: Hot[Any] = Hot()
    subscription = source.pipe(GUARD).subscribe()
    assert subscribers(source) == 1

    subscription.dispose()

    assert subscribers(source) == 0
