"""Playback: recorded instants on the wall and back, started once, the same for all who share it."""

import asyncio
import math
import threading

import numpy as np
import pytest

from sandbox.playback import END_OF_TIME, Playback

FIRST = 1_781_702_700_000_000_007
SECOND = 1_000_000_000


def test_at_speed_one_the_mapping_is_exact_both_ways() -> None:
    playback = Playback(FIRST, start_ns=42)

    assert playback.wall_ns(FIRST) == 42
    assert playback.wall_ns(FIRST + 23_400 * SECOND + 1) == 42 + 23_400 * SECOND + 1
    assert playback.recorded_ns(43) == FIRST + 1
    assert playback.recorded_ns(41) == FIRST - 1


def test_a_faster_playback_shortens_the_wait_and_nothing_else() -> None:
    playback = Playback(FIRST, speed=60.0, start_ns=0)

    assert playback.wall_ns(FIRST + 60 * SECOND) == SECOND
    assert playback.recorded_ns(SECOND) == FIRST + 60 * SECOND


@pytest.mark.parametrize("speed", [1.0, 0.3, 7.0, math.inf])
def test_many_instants_at_once_are_what_they_are_one_by_one(speed: float) -> None:
    playback = Playback(FIRST, speed, start_ns=5)
    ts = FIRST + np.array([0, 1, 10, 999_999_999, 23_400 * SECOND], dtype=np.int64)

    assert playback.walls_ns(ts).tolist() == [playback.wall_ns(int(t)) for t in ts]


def test_at_infinite_speed_all_is_past_from_the_start_on() -> None:
    playback = Playback(FIRST, math.inf, start_ns=10)

    assert playback.wall_ns(FIRST + SECOND) == 10
    assert playback.recorded_ns(9) < FIRST
    assert playback.recorded_ns(10) == END_OF_TIME


def test_it_starts_once_whoever_starts_it() -> None:
    playback = Playback(FIRST)
    assert not playback.started
    assert playback.elapsed_secs() is None
    with pytest.raises(RuntimeError, match=r"call start\(\) first"):
        playback.wall_ns(FIRST)

    assert playback.start(100) == 100
    assert playback.start(200) == playback.start_ns == 100


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan])
def test_a_playback_that_does_not_move_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="speed must be a positive number"):
        Playback(FIRST, speed)


@pytest.mark.asyncio
async def test_sleepers_wake_at_their_instant_also_when_another_thread_starts_it() -> None:
    playback = Playback(FIRST, speed=10.0)
    starter = threading.Timer(0.05, playback.start)
    starter.start()
    async with asyncio.timeout(2.0):
        await playback.sleep_until(FIRST + SECOND // 2)
    starter.join()

    late = playback.now_ns() - playback.wall_ns(FIRST + SECOND // 2)
    assert 0 <= late < SECOND // 10
    await playback.sleep_until(FIRST)
