"""Who takes part in the bench, what each does less, and how many quotes each is given."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from msgspec import Struct

from marblemaker.settings import SettingsError

__all__ = ["EXTRA", "PEERS", "Peer", "chosen"]

EXTRA: Final = 'pip install "marblemaker[bench]"'


class Peer(Struct, frozen=True, kw_only=True):
    """One row of the bench."""

    name: str
    """As ``--peers`` names it."""
    title: str
    less: str
    """What it does less than a replay, in words for the table."""
    loop: str
    """What its column "loop" holds; empty where it has no such figure."""
    replay: tuple[str, ...] | None = None
    """Our own command: further arguments of ``marble replay``."""
    module: str = ""
    """Else a module of ``marblemaker.bench.peers``."""
    prepares: bool = False
    """Whether it writes files of its own kind first, untimed."""
    package: str = ""
    """What must be installed, as it is imported."""
    slice: int | None = None
    """Most quotes it is given, so that the bench ends in bearable time; ``None`` for all."""
    quotes: bool = True
    """Whether it quotes at all."""
    flattens: bool = True
    """Whether it closes its position at the end, with one more order."""

    @property
    def is_here(self) -> bool:
        """Tell whether its package is installed."""
        return not self.package or find_spec(self.package) is not None


PEERS: Final = (
    Peer(
        name="rx",
        title="marble, Rx",
        less="nothing: run folder, digests and trace are written",
        loop="reading, deciding, writing as it goes",
        replay=("--engine", "rx"),
        slice=2_000_000,
    ),
    Peer(
        name="rx-untraced",
        title="marble, Rx, no trace",
        less="no trace of the operators' outputs",
        loop="reading, deciding, writing as it goes",
        replay=("--engine", "rx", "--no-trace"),
        slice=2_000_000,
    ),
    Peer(
        name="compiled",
        title="marble, compiled",
        less="nothing: run folder, digests and trace are written",
        loop="reading, deciding, writing as it goes",
        replay=("--engine", "compiled"),
    ),
    Peer(
        name="compiled-untraced",
        title="marble, compiled, no trace",
        less="no trace of the operators' outputs",
        loop="reading, deciding, writing as it goes",
        replay=("--engine", "compiled", "--no-trace"),
    ),
    Peer(
        name="compiled-loop",
        title="marble, compiled, loop alone",
        less="writes nothing; order sink and venue as in a replay",
        loop="reading, merging, deciding",
        module="compiled_loop",
        prepares=True,
    ),
    Peer(
        name="nautilus-native",
        title="NautilusTrader, native CompositeMarketMaker",
        less="results stay in memory; no record of decisions, no digests",
        loop="",
        module="nautilus_native",
        prepares=True,
        package="nautilus_trader",
    ),
    Peer(
        name="nautilus-native-engine",
        title="NautilusTrader, native, quotes in memory",
        less="results stay in memory; no record of decisions, no digests",
        loop="its engine's run, quotes in memory and sorted",
        module="nautilus_native_engine",
        package="nautilus_trader",
        slice=2_000_000,
    ),
    Peer(
        name="nautilus",
        title="NautilusTrader, strategy in Python",
        less="results stay in memory; no record of decisions, no digests",
        loop="its engine's run, quotes in memory and sorted",
        module="nautilus_python",
        package="nautilus_trader",
        slice=200_000,
    ),
    Peer(
        name="hftbacktest",
        title="hftbacktest",
        less="no record of orders or decisions, no digests; does not flatten at the end",
        loop="its own events in memory, compiled",
        module="hft_loop",
        package="hftbacktest",
        flattens=False,
    ),
    Peer(
        name="csp",
        title="csp",
        less="no venue: orders rest in a node, never in flight; nothing recorded",
        loop="its run over numpy columns in memory",
        module="csp_graph",
        package="csp",
        slice=500_000,
    ),
    Peer(
        name="bare-rx",
        title="bare RxPY",
        less="no work: two Subjects, combine_latest, an empty observer",
        loop="pushing events that are in memory",
        module="bare_rx",
        slice=1_000_000,
        quotes=False,
    ),
)
"""In the order of the table."""


def chosen(names: Sequence[str] | None) -> list[Peer]:
    """Give the peers of these names, in the table's order; all of them for ``None``.

    Errors: SettingsError for a name that is none, with the nearest that is one.
    """
    known = {peer.name: peer for peer in PEERS}
    for name in names if names is not None else ():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"; did you mean {near[0]}?" if near else ";"
            raise SettingsError(
                f"--peers: {name!r} is no peer of the bench{meant} there are {', '.join(known)}"
            )
    if names is not None and not names:
        raise SettingsError(f"--peers names nobody; there are {', '.join(known)}")
    return [peer for peer in PEERS if names is None or peer.name in names]
