"""The bundled session trips its guards at the times that its README says."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from marblemaker.bundled import BUNDLED
from marblemaker.cli import main
from marblemaker.console import summary_lines
from marblemaker.replay import replay
from marblemaker.settings import Settings, load_settings
from streams.instant import iso
from streams.recording import read_manifest

README = Path(__file__).parents[2] / "recordings" / "README.md"


def chosen(*overrides: str) -> Settings:
    return load_settings(overrides=overrides, manifest=read_manifest(BUNDLED))


def episodes(decisions: pl.DataFrame) -> list[tuple[str, str, str]]:
    """When quotes went, why, and when they were back; by the ms. Rows that only repeat are one."""
    found: list[tuple[str, str, str]] = []
    gone: tuple[str, str] | None = None
    for row in decisions.sort("seq", "ts", maintain_order=True).to_dicts():
        at = iso(row["ts"])[11:23]
        if row["action"] == "withdraw" and (gone is None or gone[1] != row["reason"]):
            if gone is not None:
                found.append((*gone, at))
            gone = (at, row["reason"])
        elif row["action"] == "quote" and gone is not None:
            found.append((*gone, at))
            gone = None
    return found if gone is None else [*found, (*gone, "")]


def test_guards_trip_and_let_go_at_the_documented_times(tmp_path: Path) -> None:
    replay(BUNDLED, chosen(), tmp_path / "run")
    decisions = pl.read_parquet(tmp_path / "run" / "decisions.parquet")
    told = re.findall(
        r"^\| (\d\d:\d\d:\d\d\.\d{3}) \| ([a-z ]+?) \| (\d\d:\d\d:\d\d\.\d{3})? ?\|",
        README.read_text(),
        flags=re.MULTILINE,
    )  # fmt: skip
    assert episodes(decisions) == told
    reasons = {reason for _, reason, _ in told}
    assert {"session closed", "signal dead", "signal locked", "target crossed"} <= reasons


def test_the_tutorial_spends_a_quota_of_a_thousand_and_the_composite_never_does(
    tmp_path: Path,
) -> None:
    lines = {}
    for preset in ("tutorial", "composite"):
        settings = chosen(
            f"strategy.preset={preset}", "strategy.requote_threshold_bps=1",
            "venue.volume_quota=1000", "venue.tier=premium", "venue.latency=tier",
        )  # fmt: skip
        summary = replay(BUNDLED, settings, tmp_path / preset)
        told = summary_lines(summary | {"run": ""}, settings)
        (lines[preset],) = (line for line in told if line.startswith("  quota"))
        refused = pl.read_parquet(tmp_path / preset / "account.parquet").filter(
            pl.col("reason").str.contains("volume quota")
        )
        if preset == "tutorial":
            assert summary["budget"]["quota_exhausted_at"] is not None
            assert refused.height > 0
        else:
            assert summary["budget"]["quota_lowest"] > 100
            assert summary["orders"]["total"] > 500
            assert refused.height == 0
    assert "EXHAUSTED at 2026-06-17T1" in lines["tutorial"]
    assert "never exhausted" in lines["composite"]


def test_fill_bounds_stand_side_by_side_in_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["replay", str(BUNDLED), "--fills", "bounds", "--out", str(tmp_path / "run")]
    arguments += ["--set", "strategy.preset=ladder", "--set", "strategy.num_levels=1"]
    arguments += ["--set", "strategy.refresh_interval_ns=30000000000"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    rows = [line.split() for line in told.splitlines() if "istic" in line or "  queue" in line]
    assert [row[0] for row in rows] == ["pessimistic", "queue", "optimistic"]
    fills = [int(row[1].replace(",", "")) for row in rows]
    bought = [float(row[2]) for row in rows]
    assert 0 < fills[0] <= fills[2]
    assert bought == sorted(bought)
