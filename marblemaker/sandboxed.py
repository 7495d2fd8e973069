"""Sandboxed: stand-ins of both venues on this machine, sharing one market."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from marblemaker.bundled import BUNDLED
from marblemaker.calendar import opens_ns
from marblemaker.live import Endpoints
from sandbox.databento_gateway import DatabentoGateway
from sandbox.faults import Faults
from sandbox.lighter_venue import LighterVenue
from sandbox.playback import Playback
from sinks.lighter_signer import vendor_sdk
from streams.instrument import format_units
from streams.recording import Recording

__all__ = ["Sandbox", "sandboxed"]


# Nobody's: the stand-ins know these and no venue does.
_KEY: Final = "db-" + "s" * 24 + "boxes"
_ACCOUNT: Final = 1
_API_KEY_INDEX: Final = 4
_CHAIN: Final = 300


class Sandbox:
    """Both stand-ins while they run, for tests to look at."""

    def __init__(
        self, gateway: DatabentoGateway, venue: LighterVenue, endpoints: Endpoints, account: int
    ) -> None:
        """Hold what ``sandboxed`` opened."""
        self.gateway = gateway
        self.venue = venue
        self.endpoints = endpoints
        self.account = account


@contextmanager
def sandboxed(
    *,
    recording: Path | None = None,
    speed: float = 10.0,
    max_seconds: float = 3600.0,
    tier: str = "standard",
    faults: Faults | None = None,
    seed: int = 0,
    clock: Callable[[], int] | None = None,
) -> Iterator[Sandbox]:
    """Open a Databento gateway and a Lighter venue that play a recording, on 127.0.0.1.

    ``recording`` is the bundled session when not given; it starts with its first cash session, or
    its first quote where there is none. ``speed`` in recorded seconds a second. ``faults`` happen
    at both. Each ends by itself after ``max_seconds``. ``clock`` is the venue's (ns since 1970),
    for tests of what takes it minutes.
    """
    folder = BUNDLED if recording is None else recording
    manifest = Recording.open(folder).manifest
    signal, target = manifest.instruments.get("signal"), manifest.instruments.get("target")
    first, last = manifest.first_ts or 0, manifest.last_ts or 0
    playback = Playback(next(iter(opens_ns(first, last)), first), speed)
    private, public, error = vendor_sdk().create_api_key()
    assert error is None, "the vendor's library could not make a key"
    faults = Faults.none() if faults is None else faults
    gateway = DatabentoGateway(
        folder, keys=[_KEY], dataset="EQUS.PLUS", symbol=None if signal is None else signal.symbol,
        playback=playback, faults=faults, seed=seed, max_seconds=max_seconds,
    )  # fmt: skip
    venue = LighterVenue(
        folder,
        symbol="NVDA" if target is None else target.symbol.removesuffix("-PERP"),
        price_decimals=3 if target is None else target.price_decimals,
        size_decimals=3 if target is None else target.size_decimals,
        min_base_amount="0.050" if target is None else format_units(target.min_base_amount),
        accounts={_ACCOUNT: {_API_KEY_INDEX: public}},
        tier=tier,
        playback=playback,
        faults=Faults(faults.faults),  # a fault is taken once by each of the two
        seed=seed,
        clock=clock,
    )
    with gateway.run_in_thread(), venue.run_in_thread():
        playback.start()
        endpoints = Endpoints(
            databento_key=_KEY,
            gateway=f"{gateway.host}:{gateway.port}",
            rest_url=venue.rest_url,
            ws_url=venue.ws_url,
            chain_id=_CHAIN,
            account_index=_ACCOUNT,
            api_key_index=_API_KEY_INDEX,
            private_key=private,
        )
        yield Sandbox(gateway, venue, endpoints, _ACCOUNT)
