"""Several markets in one session: a graph and limits each, one account for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from marblemaker.cli import main
from marblemaker.compiled.engine import replay_compiled
from marblemaker.replay import replay, replay_together
from marblemaker.settings import Settings
from streams.recording import RecordingError, read_manifest
from tests.sessions import random_feeds, settings, write_recording

TABLES = ("decisions", "orders", "fills", "account", "signal", "target")
NAMES = ("NVDA-PERP.LIGHTER", "TSLA-PERP.LIGHTER")


def market(name: str, **sections: dict[str, Any]) -> Settings:
    symbol = name.split("-")[0]
    target = {"instrument": name, "price_decimals": 3, "size_decimals": 3}
    return settings(
        signal={"instrument": f"{symbol}.EQUS"}, target=target,
        **({"strategy": {"trade_size": "0.050"}} | sections),
    )  # fmt: skip


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    return [
        write_recording(tmp_path / f"recording-{seed}", random_feeds(seed, 300)) for seed in (3, 4)
    ]


def tables(run: Path) -> dict[str, bytes]:
    return {name: (run / f"{name}.parquet").read_bytes() for name in TABLES}


def values(run: Path) -> dict[str, pl.DataFrame]:
    """What a market did, without the numbers that the inputs of both share."""
    found = {name: pl.read_parquet(run / f"{name}.parquet") for name in ("orders", "fills")}
    decisions = pl.read_parquet(run / "decisions.parquet")
    found["decisions"] = decisions.drop("seq", "signal_seq", "target_seq")
    # The last orders end with the session, and that is the later end of the two.
    found["orders"] = found["orders"].drop("ts_last")
    return found


def test_each_market_does_what_it_does_alone_when_the_account_has_no_limits(
    recordings: list[Path], tmp_path: Path
) -> None:
    strategy = {"trade_size": "0.050", "half_spread_bps": 3.0}
    chosen = [market(name, strategy=strategy) for name in NAMES]
    whole = replay_together(recordings, chosen, tmp_path / "both")
    assert list(whole["markets"]) == list(NAMES)
    for recording, one, name in zip(recordings, chosen, NAMES, strict=True):
        alone = replay(recording, one, tmp_path / name)
        together = whole["markets"][name]
        for table, rows in values(tmp_path / name).items():
            assert rows.equals(values(tmp_path / "both" / name)[table]), (name, table)
        for key in ("orders", "fills", "position", "pnl", "decisions", "markouts"):
            assert together[key] == alone[key], key
        assert alone["fills"]["total"] > 0
    manifest = read_manifest(tmp_path / "both")
    assert manifest.markets == list(NAMES)


def test_a_session_of_two_gives_the_same_bytes_again_and_replays_with_its_answers(
    recordings: list[Path], tmp_path: Path
) -> None:
    chosen = [market(name, venue={"volume_quota": 60, "latency": "100ms"}) for name in NAMES]
    first = replay_together(recordings, chosen, tmp_path / "first", batch_rows=7)
    again = replay_together(recordings, chosen, tmp_path / "again")
    assert first["digest"] == again["digest"]
    parts = [tmp_path / "first" / name for name in NAMES]
    repeated = replay_together(parts, chosen, tmp_path / "repeated")
    assert repeated["digest"] == first["digest"]
    for name in NAMES:
        assert tables(tmp_path / "again" / name) == tables(tmp_path / "repeated" / name)


def test_the_markets_share_one_budget(recordings: list[Path], tmp_path: Path) -> None:
    venue = {"volume_quota": 60, "quota_horizon_secs": 60.0, "transactions_per_minute": 30}
    chosen = [market(name, venue=venue) for name in NAMES]
    whole = replay_together(recordings, chosen, tmp_path / "both")
    alone = [
        replay(recording, one, tmp_path / f"alone-{i}")
        for i, (recording, one) in enumerate(zip(recordings, chosen, strict=True))
    ]
    sent = [part["orders"]["total"] for part in whole["markets"].values()]
    budget = whole["budget"]
    assert budget["quota_spent"] == sum(sent)
    assert budget["quota_exhausted_at"] is None
    assert budget["busiest_minute"] <= 30
    # Together they have no more than one has alone, so each sends less.
    assert sum(sent) < sum(part["orders"]["total"] for part in alone)
    for i, part in enumerate(sent):
        assert part < alone[i]["orders"]["total"]


def test_a_part_that_shared_a_budget_does_not_replay_alone(
    recordings: list[Path], tmp_path: Path
) -> None:
    chosen = [market(name, venue={"volume_quota": 60}) for name in NAMES]
    replay_together(recordings, chosen, tmp_path / "both")
    for engine in (replay, replay_compiled):
        with pytest.raises(RecordingError, match="shared its account's budget with TSLA-PERP"):
            engine(tmp_path / "both" / NAMES[0], chosen[0], tmp_path / "part")
    replay(tmp_path / "both" / NAMES[0], chosen[0], tmp_path / "part", venue="simulated")


def test_the_same_market_twice_is_refused(recordings: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="each market may occur once"):
        replay_together(recordings, [market(NAMES[0])] * 2, tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_the_command_takes_several_recordings_and_settings_for_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for seed, name in zip((3, 4), NAMES, strict=True):
        feeds = random_feeds(seed, 200)
        for feed, quotes in feeds.items():
            quotes.write_parquet(tmp_path / f"{feed}.parquet")
        config = tmp_path / f"{name}.toml"
        config.write_text(
            f'[signal]\ninstrument = "{name.split("-")[0]}.EQUS"\n[target]\n'
            f'instrument = "{name}"\nprice_decimals = 3\nsize_decimals = 3\n'
        )
        folders.append(str(tmp_path / f"rec-{seed}"))
        files = ["--signal", str(tmp_path / "signal.parquet")]
        files += ["--target", str(tmp_path / "target.parquet")]
        assert (
            main(["import", "frames", *files, "--config", str(config), "--out", folders[-1]]) == 0
        )
    shared = tmp_path / "shared.toml"
    shared.write_text(
        '[strategy]\ntrade_size = "0.050"\n[markets."TSLA-PERP.LIGHTER".strategy]\n'
        "half_spread_bps = 7\n"
    )
    capsys.readouterr()
    out = str(tmp_path / "both")
    arguments = ["replay", *folders, "--config", str(shared), "--out", out]
    assert main([*arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert set(summary["markets"]) == set(NAMES)
    half = {}
    for name in NAMES:
        decisions = pl.read_parquet(Path(out) / name / "decisions.parquet").filter(action="quote")
        row = decisions.to_dicts()[0]
        half[name] = round(row["half_spread"] / row["anchor"] * 1e4, 6)
    assert half == {NAMES[0]: 25.0, NAMES[1]: 7.0}
    # The folder of both is replayed as one, with the recorded answers.
    assert main(["replay", out, "--out", str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == summary["digest"]
