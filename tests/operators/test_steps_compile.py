"""Every step compiles under numba unchanged, and gives the same bits as Python."""

from __future__ import annotations

import ast
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from operators.anchor import anchor_price, anchor_price_1e16
from operators.books import book_fault
from operators.budget import accrued, gone_ns, saved_after_ns, usable_a_minute, widening
from operators.guards.age import age_limit_ns, life
from operators.guards.basis import basis_bps
from operators.guards.collar import believed, jump_bps
from operators.guards.event_time import seconds_ahead
from operators.guards.frozen import is_frozen
from operators.guards.risk import notional
from operators.guards.split import SPLITS, split_of
from operators.ladder import ask_price, bid_price, half_spread, position_limit
from operators.mid import mid_price, mid_price_1e16
from operators.requote import moved, widened_bps
from operators.residual import ewma_of, ewma_weight, residual_of
from operators.skew import inventory_shift, signal_shift, total_shift
from operators.throttle import levels_through, release_ns
from operators.tick_ladder import (
    edge,
    half_spread_px,
    levels_in_reach,
    levels_in_room,
    levels_too_near,
    skew_ticks,
)
from operators.weighted import weighted_sum
from operators.without_own import others_size
from streams.instrument import (
    UNIT,
    ceil_ticks,
    fee_in_parts,
    floor_ticks,
    marked_pnl,
    may_buy,
    may_sell,
    pnl_in_parts,
    round_ticks,
    value_parts,
)

numba = pytest.importorskip("numba", reason="numba is not installed: pip install marblemaker[dev]")

ROOT = Path(__file__).parents[2]
ROWS = 4_000

# A step that calls another finds it in its module's globals. Told that the callee may be compiled
# too, numba takes the plain function there as it is.
numba.extending.register_jitable(round_ticks)
numba.extending.register_jitable(edge)
numba.extending.register_jitable(jump_bps)
numba.extending.register_jitable(value_parts)

Arguments = tuple[Any, ...]
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


def _near(source: random.Random, limit: int) -> int:
    """A whole number at a limit, beside it, or anywhere up to twice of it."""
    return source.choice((limit, limit - 1, limit + 1, source.randrange(0, 2 * limit + 1), 0))


def _life(source: random.Random) -> Arguments:
    limit, dead = source.randrange(1, 10**12), source.randrange(1, 10**12)
    quiet = limit + source.randrange(0, 10**12)
    age = _near(source, source.choice((limit, quiet)))
    return age, limit, quiet, _near(source, dead), dead


def _split(source: random.Random) -> Arguments:
    before = _mid(source)
    ratio = source.choice((*SPLITS, 1.0, 1.25, 1 / 1.5, 0.5, 0.1))
    drift = source.choice((1.0, 1.05, 0.95, source.uniform(0.9, 1.1)))
    return before, before / ratio * drift


def _px(source: random.Random) -> int:
    return source.choice((source.randrange(1, 10**6), source.randrange(1, 10**15)))


def _size(source: random.Random) -> int:
    return source.choice((0, source.randrange(-3, 4), source.randrange(-(10**13), 10**13)))


def _notional_limit(source: random.Random) -> Arguments:
    px = source.choice((_px(source), -1, 0))
    most = source.randrange(0, max(1, min(10**18, 9 * 10**9 * abs(px))))
    return source.randrange(0, 10**15), most, px


def _pnl(source: random.Random) -> Arguments:
    mark, position = _px(source), source.randrange(-(10**12), 10**12)
    cash = source.choice((-position * mark, source.randrange(-(10**27), 10**27)))
    return cash // UNIT, cash % UNIT, _size(source), position, mark


def _through(source: random.Random) -> Arguments:
    side, px = source.choice((1, -1)), _px(source)
    return side, px, source.choice((0, 10**6)), source.randrange(0, 5), px / 1e9 + _double(source)


def _fee(source: random.Random) -> Arguments:
    return _px(source), source.randrange(1, 10**12), source.choice((0, 1, 40, 50, 280))


def _skew(source: random.Random) -> Arguments:
    most = source.choice((50, 50 * 10**9, source.randrange(1, 10**13)))
    position = source.choice((1, -1)) * _near(source, most)
    return position, most, source.choice((0.5, 1.0, source.random())), source.randrange(0, 9)


def _edge(source: random.Random) -> Arguments:
    fair = _px(source)
    px = fair + source.randrange(-(10**6), 10**6)
    return source.choice((1, -1)), fair, px, source.choice((0, 37, -100, source.randrange(1000)))


def _too_near(source: random.Random) -> Arguments:
    side, fair = source.choice((1, -1)), source.randrange(1_000, 10**12)
    step = source.choice((1, 25, 25_000_000))
    px = fair - side * step * source.randrange(-3, 4)
    opposite = fair + side * step * source.randrange(-3, 4)
    least, ppm = step * source.randrange(0, 4), source.choice((0, 37, 400))
    return side, px, step, source.randrange(0, 7), fair, opposite, least, ppm


def _in_reach(source: random.Random) -> Arguments:
    side, best = source.choice((1, -1)), source.randrange(1_000, 10**12)
    step = source.choice((1, 25, 25_000_000))
    px = best - side * step * source.randrange(-3, 6)
    return side, px, step, source.randrange(0, 7), best, step * source.randrange(0, 9)


def _widening(source: random.Random) -> Arguments:
    whole = float(source.randrange(8, 10**6))
    return whole * source.choice((0.0, 0.0625, 0.5, 1.0, source.uniform(-0.1, 1.0))), whole


def _usable(source: random.Random) -> Arguments:
    return (source.choice((1, 2, 9, 10, 11, 60, source.randrange(1, 2**31))),)


def _saved(source: random.Random) -> Arguments:
    return source.random() * 40 + 1e-9, source.randrange(10**9, 2**53), source.randrange(1, 10**6)


def _accrued(source: random.Random) -> Arguments:
    left, horizon = source.randrange(0, 5_000_000), source.randrange(1, 10**14)
    tokens = source.uniform(-10.0, left * 0.1)
    return tokens, left, source.randrange(0, 2 * horizon), horizon, max(left * 0.1, 8.0)


def _believed(source: random.Random) -> Arguments:
    accepted = _mid(source)
    mid = accepted * (1.0 + source.uniform(-0.02, 0.02))
    candidate = source.choice((0.0, mid * (1.0 + source.uniform(-0.02, 0.02))))
    since = source.randrange(10**9)
    ts = since + source.randrange(10**9)
    return mid, ts, accepted, candidate, since, 100.0, 5 * 10**8


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
    (widened_bps, lambda s: (s.uniform(0.0, 9.0), s.choice((1.0, 0.5, s.uniform(1.0, 8.0))))),
    (release_ns, lambda s: (s.randrange(2**61), s.randrange(2**61))),
    (seconds_ahead, lambda s: (s.randrange(2**61), s.randrange(2**61))),
    (is_frozen, lambda s: (_near(s, 60 * 10**9), 60 * 10**9)),
    (jump_bps, lambda s: (_mid(s), _mid(s))),
    (split_of, _split),
    (life, _life),
    (age_limit_ns, lambda s: (s.random() < 0.5, s.randrange(2**61), s.randrange(2**61))),
    (basis_bps, lambda s: (_mid(s), _mid(s))),
    (notional, lambda s: (_size(s), s.randrange(0, 9 * 10**14))),
    (position_limit, _notional_limit),
    (pnl_in_parts, _pnl),
    (fee_in_parts, _fee),
    (believed, _believed),
    (levels_through, _through),
    (others_size, lambda s: (s.randrange(0, 10), s.choice((0, s.randrange(2**61), 5)))),
    (weighted_sum, lambda s: (_doubles(3)(s), _doubles(3)(s))),
    (widening, _widening),
    (accrued, _accrued),
    (usable_a_minute, _usable),
    (saved_after_ns, _saved),
    (
        gone_ns,
        lambda s: (
            s.randrange(2**61), s.randrange(5_000_000), s.randrange(-9, 10**5),
            s.randrange(1, 600 * 10**9),
        ),
    ),
    (skew_ticks, _skew),
    (half_spread_px, lambda s: (s.randrange(0, 99), _px(s))),
    (edge, _edge),
    (levels_too_near, _too_near),
    (levels_in_reach, _in_reach),
    (
        levels_in_room,
        lambda s: (s.choice((1, -1)), _size(s), s.randrange(1, 10**12), s.randrange(10**13)),
    ),
)  # fmt: skip


def test_money_in_parts_is_what_the_whole_numbers_make() -> None:
    source = random.Random(3)
    for _ in range(ROWS):
        px, qty, ppm = _fee(source)
        for size in (qty, -qty):
            whole, rest = value_parts(px, size)
            assert whole * UNIT + rest == px * size
            assert 0 <= rest < UNIT
        assert fee_in_parts(px, qty, ppm) == -(-px * qty * ppm // (UNIT * 1_000_000))
        cash, fees = source.randrange(-(10**30), 10**30), _size(source)
        assert marked_pnl(cash, fees, -qty, px) == (cash - qty * px) // UNIT - fees


def _bits(value: Any) -> tuple[Any, ...]:
    """Kind and bytes: -0.0 is not 0.0, and 1 is neither 1.0 nor True."""
    if isinstance(value, tuple):
        return tuple(map(_bits, value))
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
        found = compiled(*arguments)
        if isinstance(expected, tuple):
            assert list(map(_bits, found)) == list(map(_bits, expected)), arguments
        else:
            assert _bits(found) == _bits(expected), arguments
        results.add(expected)

    assert len(compiled.nopython_signatures) == 1, "one signature serves every row"
    assert len(results) > 1, "the rows must not all give the same"


def test_the_compiled_function_is_the_one_the_operator_calls() -> None:
    assert numba.njit(anchor_price).py_func is anchor_price
    assert anchor_price(206.4035, 1_000.0) == 206.404


def test_without_a_notional_limit_the_position_limit_compiles_too() -> None:
    compiled = numba.njit(position_limit)

    assert compiled(7, None, 200) == position_limit(7, None, 200) == 7


def test_every_function_that_calls_itself_a_step_is_tried_here() -> None:
    tried = {step.__name__ for step, _ in STEPS}
    sources = [*ROOT.glob("operators/**/*.py"), ROOT / "streams/instrument.py"]
    claimed = {
        node.name
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and "a step" in (ast.get_docstring(node) or "").partition("\n\n")[0]
    }

    assert len(claimed) > 30
    # This one gives two numbers, and is tried below by what it means.
    assert claimed <= tried | {"value_parts"}
