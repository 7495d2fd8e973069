"""Fails when a recorded session is quoted otherwise than before, and shows which quotes."""

from marblemaker.pytest_plugin import MarbleReplay


def test_the_session_is_quoted_as_before(marble_replay: MarbleReplay) -> None:
    """Make its golden with: pytest --marble-regen "first golden". Then commit the folder."""
    recording, golden = "recordings/nvda-cash-session", "goldens/nvda-cash-session"
    run = marble_replay(recording, golden=golden, settings=["strategy.half_spread_bps=25"])
    assert run.summary["left_working"] == []
