"""bench_layers(): its builds end in the graph of a replay, and every layer gets a figure."""

import gc
import sys
import types
from typing import Any

from marblemaker.bench.layers import bench_layers, builds_of
from marblemaker.bundled import BUNDLED
from marblemaker.console import Console
from marblemaker.settings import load_settings
from marblemaker.wiring import parameters_of
from operators.operator import link
from operators.quoting import quoting
from streams.clock import Clock
from streams.events import BUY, OrderUpdate
from streams.pump import Pump
from streams.recording import Recording


def _operators(pump: Pump) -> list[str]:
    """Where the functions are from that a quote passes, from the sources on."""
    found: list[str] = []
    waiting: list[Any] = [pump.signal.push, pump.target.push]
    while waiting:
        function = waiting.pop(0)
        if not isinstance(function, types.FunctionType) or function.__name__ == "judge":
            continue
        if function.__module__.startswith("operators.") and function.__name__.startswith("on_"):
            found.append(function.__module__)
            waiting += [cell.cell_contents for cell in function.__closure__ or () if _full(cell)]
    return list(dict.fromkeys(found))


def _full(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def test_the_last_build_is_the_graph_of_a_replay() -> None:
    recording = Recording.open(BUNDLED)
    settings = load_settings(manifest=recording.manifest)
    parameters = parameters_of(settings, recording.manifest)
    batch, _ = next(recording.inputs(settings.target_instrument, recorded=False))
    told: list[list[Any]] = []
    passed: list[list[str]] = []
    for whole in (False, True):
        pump = Pump(Clock(recording.manifest.first_ts or 0))
        market = pump.markets[0]
        if whole:
            graph = quoting(
                parameters, target=market.target, orders=market.orders, status=market.status,
                trades=market.trades,
            )(market.signals[0])  # fmt: skip
        else:
            graph = list(builds_of(parameters).values())[-1](market)
        decisions: list[Any] = []
        link(graph, decisions.append, _fail, lambda: None, pump.clock)
        pump.orders.push(OrderUpdate(ts=0, n=1, side=BUY, state="open", leaves=1))
        passed.append(_operators(pump))
        pump.run(batch)
        told.append(decisions)

    assert passed[0] == passed[1]
    assert len(passed[0]) > 10, "the operators were found"
    assert told[0] == told[1] != []


def _fail(error: Exception) -> None:
    raise error


def test_every_layer_has_a_figure() -> None:
    before = gc.get_threshold(), sys.getswitchinterval()
    result, lines = bench_layers(4_000, 1, Console(as_json=True))

    assert result["in_memory"] == result["quotes"]
    assert len(lines) == 2 + len(result["ns_per_event"])
    assert {"mid", "basis", "combine_latest", "replay"} <= result["ns_per_event"].keys()
    assert result["events_per_second"]["replay"] > 0
    # What a run tunes in the interpreter is its own affair.
    assert (gc.get_threshold(), sys.getswitchinterval()) == before
