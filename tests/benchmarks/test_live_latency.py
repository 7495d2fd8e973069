"""Latency of the live pipeline, a short run: `pytest tests/benchmarks --benchmark-only`."""

import json
from typing import Any

import pytest

from marblemaker.bench_live import bench_live
from marblemaker.cli import main
from marblemaker.console import Console

SECS = 3.0


def test_a_rate_is_measured_and_every_figure_has_samples(benchmark: Any) -> None:
    console = Console(as_json=True)
    result, lines = benchmark.pedantic(
        bench_live, args=(SECS, console, (1_000,)), rounds=1, iterations=1
    )
    figures = result["rates"]["1000"]
    assert 800 < figures["quotes_per_second"] < 1_200
    for name, row in figures["us"].items():
        assert row["samples"] > 10, name
        assert 0 <= row["p50"] <= row["p99"] <= row["p99.9"] <= row["longest"], name
    us = figures["us"]
    by_feed = us["signal_to_decision"]["samples"] + us["target_to_decision"]["samples"]
    assert us["quote_to_decision"]["samples"] == by_feed <= figures["decisions"]
    assert us["signing"]["samples"] == pytest.approx(figures["messages"], abs=2)
    assert json.loads(json.dumps(result)) == result
    assert any("decision to wire" in line for line in lines)
    # No bound in µs: that is for a quiet machine and `marble bench live`.
    benchmark.extra_info.update(us)


def test_options_that_make_no_sense_are_refused(capsys: Any) -> None:
    assert main(["bench", "live", "--secs", "0"]) == 2
    assert main(["bench", "live", "--guards"]) == 2
    assert "--guards" in capsys.readouterr().err
