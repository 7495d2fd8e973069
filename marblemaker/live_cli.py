"""Commands of the live pipeline: ``live``, ``record``, ``sandbox``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marblemaker.console import DONE, FAILED, INTERRUPTED, Console
from marblemaker.settings import Settings, SettingsError, load_settings, read_document
from marblemaker.wall import now_ns
from streams.instant import iso
from streams.instrument import format_units

if TYPE_CHECKING:
    from marblemaker.live import Endpoints, Mode
    from marblemaker.status import Standing

__all__ = ["add_live_commands"]


def add_live_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the three commands to the command line; ``command`` makes one."""
    live = command(commands, "live", _live, "run the pipeline on real sockets")
    _common(live)
    live.add_argument(
        "--mode",
        choices=("dry", "paper", "live"),
        default="dry",
        help="dry: nothing is sent (default); paper: simulated venue; live: orders, with the "
        "second consent --live-orders",
    )
    live.add_argument(
        "--live-orders", action="store_true", help="the second consent to send real orders"
    )
    live.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="go through an earlier run first: baselines, orders and position as it left them",
    )
    live.add_argument(
        "--market", metavar="NAME", help="name the market on mainnet instead of being asked"
    )
    record = command(commands, "record", _record, "record the feeds, and do nothing else")
    _common(record)
    sandbox = command(commands, "sandbox", _sandbox, "stand-ins of both venues on this machine")
    _sandbox_options(sandbox)
    sandbox.add_argument("--for", dest="for_secs", type=float, default=3600.0, metavar="SECS")


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML settings")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder")
    parser.add_argument(
        "--for", dest="for_secs", type=float, metavar="SECS", help="stop after so many seconds"
    )
    parser.add_argument(
        "--testnet", action="store_true", help="the test network (the default environment)"
    )
    parser.add_argument(
        "--sandbox", action="store_true", help="against stand-ins that it starts itself, no keys"
    )
    _sandbox_options(parser)


def _check_sandbox(arguments: argparse.Namespace) -> None:
    if not (math.isfinite(arguments.speed) and arguments.speed > 0):
        raise SettingsError(f"--speed must be a number above 0, was {arguments.speed}")
    if arguments.for_secs is not None and not arguments.for_secs > 0:
        raise SettingsError(f"--for must be a number of seconds above 0, was {arguments.for_secs}")


def _sandbox_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recording", type=Path, metavar="DIR", help="the sandbox's market (default: bundled)"
    )
    parser.add_argument(
        "--speed", type=float, default=10.0, metavar="X", help="of the sandbox's playback"
    )


def _record(arguments: argparse.Namespace, console: Console) -> int:
    arguments.mode, arguments.live_orders, arguments.market = "record", False, None
    arguments.resume = None
    return _live(arguments, console)


def _settings(arguments: argparse.Namespace) -> Settings:
    overrides = list(arguments.set)
    if arguments.testnet:
        overrides.append("lighter.environment=testnet")
    config = read_document(arguments.config) if arguments.config is not None else {}
    if arguments.sandbox:
        # The sandbox plays yesterday's session at whatever hour it is here.
        overrides.append("session.calendar=24/7")
    return load_settings(config=config, overrides=overrides)


def _live(arguments: argparse.Namespace, console: Console) -> int:
    _check_sandbox(arguments)
    settings = _settings(arguments)
    _consents(arguments, settings)
    mode: Mode = arguments.mode
    stamp = iso(now_ns())[:19].replace(":", "")
    out = arguments.out if arguments.out is not None else Path("runs") / f"{stamp}-{mode}"
    with _endpoints(arguments, settings, mode) as endpoints:
        return _run(arguments, console, settings, endpoints, mode, out)


def _run(
    arguments: argparse.Namespace,
    console: Console,
    settings: Settings,
    endpoints: Endpoints,
    mode: Mode,
    out: Path,
) -> int:
    from marblemaker.live import LiveError, LiveRun

    _banner(console, settings, endpoints, mode, out)
    on_status = _status_printer(console)
    secs = 1.0 if sys.stderr.isatty() else 10.0

    async def main() -> tuple[LiveRun, dict[str, Any]]:
        run = LiveRun(
            settings, out, mode=mode, endpoints=endpoints, on_status=on_status, status_secs=secs,
            resume=arguments.resume,
        )  # fmt: skip
        return run, await run.run(for_secs=arguments.for_secs)

    try:
        run, summary = asyncio.run(main())
    except LiveError as error:
        return console.error(str(error), FAILED)
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    summary["run"] = str(out)
    console.result(summary, _lines(summary))
    if run.failed is not None:
        return console.error(run.failed, FAILED)
    if summary["left_working"]:
        return console.error(
            f"orders {summary['left_working']} were not confirmed as gone; look at the venue",
            FAILED,
        )
    return INTERRUPTED if run.interrupted else DONE


def _consents(arguments: argparse.Namespace, settings: Settings) -> None:
    if arguments.mode != "live":
        return
    if not arguments.live_orders:
        raise SettingsError(
            "--mode live sends real orders and needs a second consent, --live-orders; "
            "--mode paper simulates the venue, --mode dry sends nothing"
        )
    if settings.lighter.environment != "mainnet" or arguments.sandbox:
        return
    market = settings.target.instrument
    given = arguments.market
    if given is None:
        if not sys.stdin.isatty():
            raise SettingsError(f"on mainnet name the market that orders go to: --market {market}")
        given = input(f"mainnet: type the name of the market to quote ({market}): ").strip()
    if given != market:
        raise SettingsError(f"the market named is {given!r}, the settings say {market!r}")


@contextlib.contextmanager
def _endpoints(
    arguments: argparse.Namespace, settings: Settings, mode: Mode
) -> Iterator[Endpoints]:
    if not arguments.sandbox:
        from marblemaker.live import endpoints_of

        yield endpoints_of(settings, mode, dict(os.environ))
        return
    from marblemaker.sandboxed import sandboxed

    with sandboxed(
        recording=arguments.recording, speed=arguments.speed, tier=settings.venue.tier
    ) as sandbox:
        yield sandbox.endpoints


def _sandbox(arguments: argparse.Namespace, console: Console) -> int:
    import time

    from marblemaker.sandboxed import sandboxed

    _check_sandbox(arguments)
    with sandboxed(
        recording=arguments.recording, speed=arguments.speed, max_seconds=arguments.for_secs
    ) as sandbox:
        endpoints = sandbox.endpoints
        told = {
            "databento": endpoints.gateway,
            "databento_key": endpoints.databento_key,
            "rest_url": endpoints.rest_url,
            "ws_url": endpoints.ws_url,
            "account_index": endpoints.account_index,
            "api_key_index": endpoints.api_key_index,
            # Made for this sandbox and worth nothing anywhere else.
            "api_secret": endpoints.private_key,
        }
        console.result(told, [f"  {name:16} {value}" for name, value in told.items()])
        sys.stdout.flush()
        time.sleep(arguments.for_secs)
    return DONE


def _banner(
    console: Console, settings: Settings, endpoints: Endpoints, mode: Mode, out: Path
) -> None:
    account = "" if endpoints.account_index is None else f", account {endpoints.account_index}"
    console.note(
        f"{mode.upper()}  {settings.signal.instrument} → {settings.target.instrument} at "
        f"{endpoints.rest_url}{account}; {settings.strategy.preset}, "
        f"{format_units(settings.trade_size)} a side, at most "
        f"{format_units(settings.max_position)}; run {out}"
    )


def _status_printer(console: Console) -> Callable[[Standing], None]:
    from marblemaker.status import status_line

    def show(standing: Standing) -> None:
        line = status_line(standing)
        if sys.stderr.isatty():
            # In place: back to the begin of the line, and nothing of the last one left.
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[2K{line[:width]}")
            sys.stderr.flush()
        else:
            console.note(line)

    return show


def _lines(summary: dict[str, Any]) -> list[str]:
    decisions = ", ".join(f"{n:,} {name}" for name, n in summary["decisions"].items()) or "none"
    orders = ", ".join(f"{n:,} {name.lower()}" for name, n in summary["orders"].items()) or "none"
    inputs = ", ".join(f"{n:,} {name}" for name, n in summary["inputs"].items())
    lines = [
        f"{summary['mode'].upper()}  {summary['target']}: {summary['why_ended']}",
        f"  inputs     {inputs}",
        f"  decisions  {decisions}",
        f"  orders     {orders}; {summary['fills']:,} fills, position {summary['position']}",
    ]
    for reason, n in summary["reasons"].items():
        lines.append(f"    {n:>9,}  {reason}")
    for what, n in summary["anomalies"].items():
        lines.append(f"    {n:>9,}  {what}")
    lines += [f"  ended      {summary['ended']}", f"  digest     {summary['digest']}"]
    lines.append(f"  run        {summary['run']}")
    return lines
