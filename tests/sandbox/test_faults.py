"""Faults: due when they should be, as often as they should be, and the same for one seed."""

import math
import threading
from typing import Any, get_args

import pytest

from sandbox.faults import GATEWAY_KINDS, VENUE_KINDS, Fault, FaultKind, Faults


def test_what_lasts_is_active_from_its_instant_until_before_its_end() -> None:
    faults = Faults([Fault(kind="stall", at=2.0, for_secs=0.5)])

    active = [faults.active("stall", now) is not None for now in (None, 1.9, 2.0, 2.4, 2.5)]

    assert active == [False, False, True, True, False]
    assert faults.active("delay", 2.1) is None
    assert faults.happened == {"stall": 1}


def test_what_is_counted_stays_due_until_it_is_used_up() -> None:
    faults = Faults([Fault(kind="duplicate", at=1.0, count=2)])

    assert faults.take("duplicate", 0.5) is None
    assert faults.take("duplicate", None) is None
    assert [faults.take("duplicate", 9.0) is not None for _ in range(3)] == [True, True, False]
    assert faults.happened == {"duplicate": 2}


def test_in_a_window_without_a_count_it_happens_every_time() -> None:
    faults = Faults([Fault(kind="http_429", at=1.0, for_secs=1.0, count=None)])

    assert all(faults.take("http_429", 1.0 + i / 100) for i in range(99))
    assert faults.take("http_429", 2.0) is None


def test_one_on_demand_waits_to_be_triggered_and_needs_no_clock() -> None:
    faults = Faults([Fault(kind="drop", text="Internal error")])
    assert faults.take("drop", 1e9) is None

    faults.trigger("drop")

    taken = faults.take("drop", None)
    assert taken is not None
    assert taken.text == "Internal error"
    assert faults.take("drop", None) is None


def test_anything_can_be_triggered_without_having_been_planned() -> None:
    faults = Faults.none()
    faults.trigger("stall", for_secs=60.0)
    faults.trigger("gap", count=3, for_secs=60.0)

    assert faults.active("stall", None)
    assert [faults.take("gap", None) is not None for _ in range(4)] == [True, True, True, False]
    assert [fault.kind for fault in faults.faults] == ["stall", "gap"]


def test_faults_of_one_kind_are_taken_in_their_order() -> None:
    faults = Faults([Fault(kind="refuse", at=0.0, text="a"), Fault(kind="refuse", at=0.0)])

    texts = [fault.text for _ in range(2) if (fault := faults.take("refuse", 1.0))]

    assert texts == ["a", ""]


def test_a_seed_draws_the_same_faults_and_another_seed_others() -> None:
    def drawn(seed: int) -> tuple[Fault, ...]:
        return Faults.random(seed, GATEWAY_KINDS, 60.0, 50).faults

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    starts = [fault.at for fault in drawn(1)]
    assert None not in starts
    assert starts == sorted(at for at in starts if at is not None and 0 <= at <= 60)
    assert all(fault.kind in GATEWAY_KINDS for fault in drawn(1))


def test_every_kind_belongs_to_a_server() -> None:
    assert {*GATEWAY_KINDS, *VENUE_KINDS} == set(get_args(FaultKind))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"kind": "fire"}, "fault kind must be one of drop, rst"),
        ({"kind": "stall", "for_secs": -1.0}, "must not be negative"),
        ({"kind": "stall", "count": None}, "never ends"),
        ({"kind": "gap", "count": 0}, "at least 1 or None, was 0"),
        ({"kind": "gap", "at": math.nan}, "at of a fault"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Fault(**fields)


def test_each_one_is_taken_once_by_many_threads() -> None:
    faults = Faults([Fault(kind="lost_ack", at=0.0, count=500)])
    taken: list[Fault] = []

    def take() -> None:
        while fault := faults.take("lost_ack", 1.0):
            taken.append(fault)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 500
