"""Every step compiles under numba unchanged, and gives the same bits as Python."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from operators.anchor import anchor_price, anchor_price_1e16
from operators.books import book_fault
from operators.ladder import ask_price, bid_price, half_spread
from operators.mid import mid_price, mid_price_1e16
from operators.requote import moved
from operators.residual import ewma_of, ewma_weight, residual_of
from operators.skew import inventory_shift, signal_shift, total_shift
from operators.throttle import release_ns
from streams.instrument import ceil_ticks, floor_ticks, may_buy, may_sell, round_ticks

numba = pytest.importorskip("numba", reason="numba is not installed: pip install marblemaker[dev]")

ROWS = 4_000

# A step that calls another finds it in its module's globals. Told that the callee may be compiled
# too, numba takes the plain function there as it is.
numba.extending.register_jitable(round_ticks)

Arguments = tuple[float, ...]
Draw = Callable[[random.Random], Arguments]


def _scale(source: random.Random) -> float:
    return 10.0 ** source.randrange(0, 7)


def _price(source: random.Random, scale: float) -> float:
    """A price of either sign: on the tick, a last bit beside it, on a half, or anywhere."""
    ticks = source.randrange(-(10**9), 10**9)
    price = ticks / scale
    kind = source.randrange(6)
    if kind == 1:
        price += source.choice((-1, 1)) * abs(price) * 2.0**-52
    elif kind == 2:
        price = (ticks + 0.5) / scale
    elif kind == 3:
        price = source.uniform(-1e5, 1e5)
    elif kind == 4:
        price = source.choice((0.0, -0.0, 0.49999999999999994, 206.4035, -206.4035, 206.682))
    return price


def _ticks(source: random.Random) -> Arguments:
    scale = _scale(source)
    return _price(source, scale), scale


def _double(source: random.Random) -> float:
    return source.choice((-1.0, 1.0)) * source.random() * 10.0 ** source.randrange(-12, 12)


def _doubles(count: int) -> Draw:
    return lambda source: tuple(_double(source) for _ in range(count))


def _mid(source: random.Random) -> float:
    return source.randrange(1, 10**9) / 2_000


def _units(source: random.Random) -> int:
    return source.choice(
        (source.randrange(-3, 4), source.randrange(10**6), source.randrange(-(2**62), 2**62))
    )


def _book(source: random.Random) -> Arguments:
    px = source.randrange(-2, 10**15)
    return px, px + source.randrange(-3, 4), source.randrange(-1, 3), source.randrange(-1, 3)


def _limit(source: random.Random) -> Arguments:
    limit = source.randrange(0, 2**60)
    size = source.randrange(0, 2**30)
    edge = source.choice((limit - size, size - limit)) + source.randrange(-1, 2)
    return source.choice((edge, source.randrange(-limit, limit + 1))), size, limit


def _weight(source: random.Random) -> Arguments:
    half_life = source.choice((1, 333, 10**9, source.randrange(1, 10**12)))
    return source.randrange(0, 70 * half_life), half_life


def _moved(source: random.Random) -> Arguments:
    anchor = source.choice((0.0, _mid(source), 64.0, 68.0))
    last = source.choice((0.0, anchor, 64.0, anchor + source.uniform(-1.0, 1.0)))
    residual = source.choice((0.0, 0.125, source.uniform(-0.01, 0.01)))
    factor = source.choice((0.0, 32.0, source.uniform(-900.0, 900.0)))
    return anchor, last, residual, 0.0, factor, source.choice((0.0, 0.0625, 0.0005))


STEPS: Sequence[tuple[Callable[..., Any], Draw]] = (
    (book_fault, _book),
    (mid_price, lambda s: (s.randrange(1, 2**62), s.randrange(1, 2**62))),
    (mid_price_1e16, lambda s: (s.randrange(1, 2**62), s.randrange(1, 2**62))),
    (residual_of, lambda s: (_mid(s), _mid(s))),
    (ewma_weight, _weight),
    (ewma_of, lambda s: (s.random(), _mid(s), _mid(s))),
    (anchor_price, _ticks),
    (anchor_price_1e16, _ticks),
    (floor_ticks, _ticks),
    (ceil_ticks, _ticks),
    (round_ticks, _ticks),
    (signal_shift, _doubles(2)),
    (inventory_shift, lambda s: (_double(s), _units(s))),
    (total_shift, _doubles(2)),
    (half_spread, lambda s: (_mid(s), s.uniform(-50.0, 50.0))),
    (bid_price, _doubles(3)),
    (ask_price, _doubles(3)),
    (may_buy, _limit),
    (may_sell, _limit),
    (moved, _moved),
    (release_ns, lambda s: (s.randrange(2**61), s.randrange(2**61))),
)


def _bits(value: float) -> tuple[str, bytes]:
    """Kind and bytes: -0.0 is not 0.0, and 1 is neither 1.0 nor True."""
    if isinstance(value, bool):
        return "bool", bytes([value])
    if isinstance(value, int):
        return "int", struct.pack("<q", value)
    return "float", struct.pack("<d", value)


def _rows(step: Callable[..., Any], draw: Draw) -> Iterator[Arguments]:
    source = random.Random(step.__name__)
    for _ in range(ROWS):
        yield draw(source)


@pytest.mark.parametrize(("step", "draw"), STEPS, ids=[step.__name__ for step, _ in STEPS])
def test_a_compiled_step_gives_the_same_bits_as_the_python_function(
    step: Callable[..., Any], draw: Draw
) -> None:
    compiled = numba.njit(step)  # nopython, and no fastmath
    results = set()

    for arguments in _rows(step, draw):
        expected = step(*arguments)
        assert _bits(compiled(*arguments)) == _bits(expected), arguments
        results.add(expected)

    assert len(compiled.nopython_signatures) == 1, "one signature serves every row"
    assert len(results) > 1, "the rows must not all give the same"


def test_the_compiled_function_is_the_one_the_operator_calls() -> None:
    assert numba.njit(anchor_price).py_func is anchor_price
    assert anchor_price(206.4035, 1_000.0) == 206.404
