"""Lighter: its stream, on one connection that keeps itself alive, and the target's feed from it.

``LighterSocket`` holds the connection: greeting, subscriptions, pings, pacing, reconnection.
``LighterFeed`` makes quotes, trades and statuses of one market from what arrives.

Source: Lighter's WebSocket and rate limit documentation, captured messages of 2026, and what live
clients observed. What could not be checked against the venue is marked *uncertain*.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidStatus,
    InvalidURI,
    WebSocketException,
)

from streams.events import BUY, SELL, Quote, Status, StatusKind, Trade
from streams.feed import Backoff, Emit
from streams.instrument import Instrument, format_units, to_units

__all__ = ["LighterBook", "LighterFeed", "LighterSocket", "LinkStatus", "OnStatus", "Pace"]

LinkStatus: TypeAlias = Literal["connect", "disconnect"]
OnStatus: TypeAlias = Callable[[LinkStatus, str], None]

_log = logging.getLogger("marblemaker." + __name__)

MESSAGES_PER_MINUTE: Final = 200
"""Of a client's address, transactions not counted. Lighter docs, "Rate limits", 2026."""
MAX_UNANSWERED: Final = 35
"""Subscriptions asked for and not answered. The venue's limit is 50 messages; a live client that
stays below it uses 35."""
COOLDOWN_SECS: Final = 60.0
"""The venue's firewall lets an address that overdid it wait that long."""
RENEW_AHEAD_SECS: Final = 15 * 60
"""How long before its expiry a token is replaced, when it lives twice as long or longer."""
RENEW_BLIND_SECS: Final = 240.0
"""When a token is replaced whose life is not known; the SDK's default life is 600 s."""
RENEW_LEAST_SECS: Final = 15.0
"""How often a token is asked for at most, unless the venue refused it."""
TICKER_LAG_SECS: Final = 5.0
"""How long the book may be ahead of the ticker before the ticker counts as dead."""

_GREETING_SECS: Final = 10.0
_CLOSE_SECS: Final = 1.0
# A snapshot of 1,500 orders is above a megabyte, which is the library's limit.
_MAX_BYTES: Final = 64 << 20
_MOST_NESTED: Final = 4_000
"""Far above any frame of the venue. Decoders recurse, and deep enough that ends the process where
somebody has raised Python's limit, as a package behind the vendor's SDK does on import."""
_MAX_RETRY_SECS: Final = 60.0
_MINUTE: Final = 60.0
_REMEMBERED_TRADES: Final = 10_000

_CHANNEL: Final = re.compile(r"[a-z_]+(?:[:/][0-9A-Za-z]+)+")
_KINDS: Final = frozenset({"connected", "error", "ping", "pong", "shutdown", "unsubscribed"})
_FAMILIES: Final = frozenset({"subscribed", "update", "jsonapi"})
_ALREADY_SUBSCRIBED: Final = 30003
_TOO_MANY: Final = frozenset({*range(23000, 24000), 30009, 30010})
_TOO_MANY_HTTP: Final = frozenset({403, 405, 429})
_PING: Final = {"type": "ping"}
_PONG: Final = {"type": "pong"}


class Pace:
    """How many messages a minute one address may send; its sockets may share one.

    ``reserve`` of them are kept for pings and pongs, without which the venue hangs up.
    """

    def __init__(self, per_minute: int = MESSAGES_PER_MINUTE, reserve: int = 20) -> None:
        """Errors: ValueError if nothing is left beside the reserve for an unsubscribe and more."""
        if per_minute - reserve < 2:
            raise ValueError(
                f"per_minute must exceed reserve by at least 2, was {per_minute} with {reserve} "
                f"in reserve"
            )
        self._limit = per_minute - reserve
        self._sent: deque[float] = deque()

    def count(self, now: float) -> None:
        """Note a message. Units: seconds of the event loop's clock."""
        self._sent.append(now)

    def wait(self, now: float, messages: int = 1) -> float:
        """Seconds until that many messages, other than pings and pongs, may go."""
        sent = self._sent
        while sent and sent[0] <= now - _MINUTE:
            sent.popleft()
        over = len(sent) + messages - self._limit
        return sent[over - 1] + _MINUTE - now if over > 0 else 0.0


class _Subscription:
    """One channel, as far as this connection has come with it."""

    def __init__(self, channel: str, *, private: bool) -> None:
        self.channel = channel
        self.private = private
        self.resynced = -math.inf
        """When it was last asked for anew."""
        self.reset(0.0)

    def reset(self, now: float) -> None:
        self.asked = False
        """Asked for, and not answered yet."""
        self.live = False
        self.unsubscribe = False
        """Must be given up first: a second subscribe brings an error and no snapshot."""
        self.again = False
        """Was given up on this connection, so updates may still be of the time before."""
        self.attempts = 0
        self.due = now
        """When to ask, or when to lose patience with the answer."""


class LighterSocket:
    """One connection to Lighter's stream that keeps itself alive, with its subscriptions.

    Private channels are subscribed with a token of ``auth()``, and anew with a fresh one before it
    expires. Such a renewal, like ``resubscribe``, unsubscribes first, so the channel speaks again
    with a snapshot and what happened between is not told: reconcile on every ``subscribed/`` frame.
    While ``auth()`` gives the same token nothing is subscribed anew, and it is asked again later.

    Shape: ``on_raw`` gets every frame's bytes before they are parsed. ``on_frame`` gets every
        frame after the venue's greeting that is a JSON object, errors and pongs too. ``on_status``
        gets ``connect`` at the greeting, and ``disconnect`` with the reason, also for each attempt
        that fails; not when ``run`` is cancelled. All are called on the loop's thread.
    Errors: ValueError here for a channel that is named twice, and for private channels without
        ``auth``. What a callback or ``auth`` raises ends ``run``; what the venue does, does not.
    """

    def __init__(
        self,
        url: str,
        *,
        channels: Sequence[str],
        on_frame: Callable[[dict[str, Any]], None],
        on_raw: Callable[[bytes], None] | None = None,
        on_status: OnStatus,
        auth: Callable[[], str] | None = None,
        private: Sequence[str] = (),
        ping_secs: float = 20.0,
        silence_secs: float = 45.0,
        backoff: Backoff | None = None,
        read_only: bool = False,
        retry_secs: float = 5.0,
        pace: Pace | None = None,
        now: Callable[[], float] | None = None,
    ) -> None:
        """Name the stream, ``wss://…/stream``, and its channels, as in ``order_book/110``.

        ``read_only`` marks the line for restricted regions; it takes no transactions. A channel
        that has not spoken ``retry_secs`` after it was asked for is asked for again, then ever
        more rarely. ``pace`` is to be shared by all sockets of one address.
        ``now`` tells Unix seconds, for the expiry of tokens; without it the venue's clock counts,
        as the ``Date`` of its handshake gives it.
        """
        if private and auth is None:
            raise ValueError(f"private channels need auth, which gives a token: {list(private)}")
        names = [*channels, *private]
        twice = [name for name, n in Counter(map(_inbound, names)).items() if n > 1]
        if twice:
            raise ValueError(f"channels must be named once, {', '.join(twice)} were named again")
        self.connected = False
        """Greeted by the venue and not closed since."""
        self.counts: Counter[str] = Counter()
        """What happened since the start: frames, errors by code, reconnections and the like."""
        self._url = url + ("&" if "?" in url else "?") + "readonly=true" if read_only else url
        self._read_only = read_only
        self._on_frame = on_frame
        self._on_raw = on_raw
        self._on_status = on_status
        self._auth = auth
        self._ping_secs = ping_secs
        self._silence_secs = silence_secs
        self._retry_secs = retry_secs
        self._backoff = backoff or Backoff()
        self._pace = pace or Pace()
        self._unix_now = now
        self._subscriptions = {
            _inbound(name): _Subscription(name, private=at >= len(channels))
            for at, name in enumerate(names)
        }
        self._decode = msgspec.json.Decoder().decode
        self._loop: asyncio.AbstractEventLoop
        self._line: ClientConnection | None = None
        self._wake = asyncio.Event()
        self._leave = asyncio.Event()
        self._heard = 0.0
        self._verdict = ""
        self._complaint = ""
        self._cooldown_until = -math.inf
        self._unix_ahead: float | None = None
        self._token = ""
        self._token_due = math.inf

    # ------------------------------------------------------------ what callers do

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send one message: at once if it is a transaction, else as the pace allows.

        Errors: ConnectionError when not connected, also when the connection ends meanwhile;
            ValueError for a transaction on a line that is read only.
        """
        line = self._line
        transaction = str(message.get("type", "")).startswith("jsonapi/sendtx")
        if transaction and self._read_only:
            raise ValueError(
                "a read-only line takes no transactions; connect without read_only to send them"
            )
        while line is not None and not transaction:
            pause = self._pace.wait(self._loop.time())
            if not pause:
                self._pace.count(self._loop.time())
                break
            await asyncio.sleep(pause)
            line = line if line is self._line else None
        if line is None:
            raise ConnectionError(f"not connected to {self._url}; wait for connect and send again")
        self.counts["sent"] += 1
        try:
            await line.send(_text(message))
        except ConnectionClosed as error:
            raise ConnectionError(
                f"the connection to {self._url} ended while sending ({error}); whether the venue "
                f"has the message is not known"
            ) from error

    async def resubscribe(self, channel: str) -> None:
        """Give a channel up and ask for it again, as the pace allows, to get a new snapshot.

        It returns at once. Repeats wait ``retry_secs``; while one is under way nothing happens.
        Errors: KeyError if the channel is not one of this socket's.
        """
        self.ask_anew(channel)

    def ask_anew(self, channel: str) -> None:
        """Do what ``resubscribe`` does, for callers that cannot wait."""
        subscription = self._subscriptions[_inbound(channel)]
        if not subscription.live:
            return
        now = self._loop.time()
        self.counts["resubscribed"] += 1
        subscription.live, subscription.unsubscribe = False, True
        subscription.due = max(now, subscription.resynced + self._retry_secs)
        subscription.resynced = subscription.due
        self._wake.set()

    async def run(self) -> None:
        """Stay connected until cancelled.

        Errors: InvalidURI; what ``auth`` or a callback raises.
        """
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                line: ClientConnection | None = await self._dial()
            except InvalidURI:
                raise
            except (OSError, EOFError, WebSocketException) as error:
                self.counts["failed"] += 1
                self._on_status("disconnect", f"cannot connect to {self._url}: {_said(error)}")
            else:
                while line is not None:
                    began = self._loop.time()
                    line = await self._hold(line)
                    self._backoff.lasted(self._loop.time() - began)
                    self._on_status("disconnect", self._verdict)
            wait = max(self._backoff.next(), self._cooldown_until - self._loop.time())
            await asyncio.sleep(wait)

    # ------------------------------------------------------------ one connection

    async def _dial(self) -> ClientConnection:
        """Connect, and wait for the venue's greeting: what is said before it may be lost."""
        try:
            line = await connect(
                self._url,
                # The venue's own pings are messages; control pings were seen to go unanswered.
                ping_interval=None,
                close_timeout=_CLOSE_SECS,
                max_size=_MAX_BYTES,
                max_queue=64,
            )
        except InvalidStatus as error:
            if error.response.status_code in _TOO_MANY_HTTP:
                self._cool_down()
            raise
        try:
            async with asyncio.timeout(_GREETING_SECS):
                while True:
                    frame = self._parsed(await line.recv(decode=False))
                    kind = frame.get("type") if frame else None
                    if kind == "connected":
                        return line
                    if kind == "ping":
                        await self._transmit(line, _PONG)
                    elif frame and (complaint := _complaint(frame)):
                        self._note(*complaint)
        except TimeoutError as error:
            await _close(line)
            raise TimeoutError(f"no greeting within {_GREETING_SECS:g} s") from error
        except BaseException:
            await _close(line)
            raise

    async def _hold(self, line: ClientConnection) -> ClientConnection | None:
        """Use a connection until it ends; give the one that takes its place, if there is one."""
        now = self._loop.time()
        self._heard, self._verdict, self._complaint = now, "", ""
        self._token, self._token_due = "", math.inf
        self._unix_ahead = _unix_ahead(line, now)
        self._leave.clear()
        for subscription in self._subscriptions.values():
            subscription.reset(now)
        self._line, self.connected = line, True
        self.counts["connect"] += 1
        successor = asyncio.create_task(self._replace())
        tasks = (
            successor,
            asyncio.create_task(self._read(line)),
            asyncio.create_task(self._keep_subscribed(line)),
            asyncio.create_task(self._keep_pinging(line)),
        )
        self._watchdog = self._loop.call_later(self._silence_secs, self._watch, line)
        taken = False
        try:
            self._on_status("connect", f"connected to {self._url}")
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            taken = successor in done
        finally:
            self._line, self.connected = None, False
            self._watchdog.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not taken:
                await _close(line)
                if not successor.cancelled() and not successor.exception():
                    await _close(successor.result())
        if not taken:
            return None
        # The old one is cut short: a farewell would keep the new one waiting.
        line.transport.abort()
        await line.wait_closed()
        self.counts["handed over"] += 1
        self._verdict = self._verdict or "the venue restarts; another connection takes over"
        return successor.result()

    async def _read(self, line: ClientConnection) -> None:
        while True:
            try:
                raw = await line.recv(decode=False)
            except ConnectionClosed as error:
                reason = self._verdict or f"the connection ended: {_said(error)}"
                complaint = f"; the venue had said {self._complaint}" if self._complaint else ""
                self._verdict = reason + complaint
                return
            self._heard = self._loop.time()
            frame = self._parsed(raw)
            if frame is None:
                continue
            kind = frame.get("type")
            if kind == "ping":
                self.counts["pinged"] += 1
                await self._transmit(line, _PONG)
            self._understand(kind if isinstance(kind, str) else "", frame)
            self._on_frame(frame)

    def _parsed(self, raw: bytes) -> dict[str, Any] | None:
        self.counts["frames"] += 1
        if self._on_raw is not None:
            self._on_raw(raw)
        try:
            if _nested(raw) > _MOST_NESTED:
                raise msgspec.DecodeError("nested beyond everything the venue sends")
            frame = self._decode(raw)
            if not isinstance(frame, dict):
                raise msgspec.DecodeError(f"an object is expected, was {type(frame).__name__}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.counts["malformed"] += 1
            if _worth_a_line(self.counts["malformed"]):
                _log.warning("Lighter sent what is no message: %s: %r", error, raw[:200])
            return None
        return frame

    def _understand(self, kind: str, frame: dict[str, Any]) -> None:
        """Take from a frame what concerns the connection and its subscriptions."""
        family, _, rest = kind.partition("/")
        if rest and family in _FAMILIES:
            if family != "jsonapi":
                self._heard_from(frame.get("channel"), snapshot=family == "subscribed")
        elif kind == "shutdown":
            self.counts["shutdown"] += 1
            _log.info("Lighter shuts this connection down in %s ms", frame.get("close_in_ms"))
            self._leave.set()
        elif kind == "pong":
            self.counts["pong"] += 1
        elif kind not in _KINDS and "error" not in frame and "code" not in frame:
            # A frame without a type, but with a code, answers a transaction.
            self.counts["unknown"] += 1
            if _worth_a_line(self.counts["unknown"]):
                _log.info("Lighter sent a message of a kind that is not known: %r", kind)
        if (complaint := _complaint(frame)) is not None:
            self._note(*complaint)
            # An answer to what a caller sent is the caller's to judge.
            if frame.get("id") is None and family != "jsonapi":
                self._refused(*complaint)

    def _note(self, code: int | None, text: str) -> None:
        self.counts["error"] += 1
        self.counts[f"error {code}" if code is not None else "error without code"] += 1
        self._complaint = f"{code} {text}" if code is not None else text
        if code in _TOO_MANY:
            self._cool_down()
        if _worth_a_line(self.counts["error"]):
            _log.warning("Lighter says %s", self._complaint)

    def _cool_down(self) -> None:
        self._cooldown_until = self._loop.time() + COOLDOWN_SECS

    async def _replace(self) -> ClientConnection:
        """Once the venue says that it shuts down, connect anew while the old connection speaks."""
        await self._leave.wait()
        while True:
            try:
                return await self._dial()
            except (OSError, EOFError, WebSocketException) as error:
                self.counts["failed"] += 1
                _log.info("no other connection to Lighter yet: %s", _said(error))
            await asyncio.sleep(max(self._backoff.next(), self._cooldown_until - self._loop.time()))

    def _watch(self, line: ClientConnection) -> None:
        idle = self._loop.time() - self._heard
        if idle < self._silence_secs:
            self._watchdog = self._loop.call_later(self._silence_secs - idle, self._watch, line)
            return
        self.counts["silence"] += 1
        self._verdict = f"nothing was heard for {idle:.1f} s"
        line.transport.abort()

    async def _keep_pinging(self, line: ClientConnection) -> None:
        while True:
            await asyncio.sleep(self._ping_secs)
            self.counts["ping"] += 1
            await self._transmit(line, _PING)

    async def _transmit(self, line: ClientConnection, message: Mapping[str, Any]) -> None:
        self._pace.count(self._loop.time())
        # That it ended is found by the reader, which first reads what was still said.
        with contextlib.suppress(ConnectionClosed):
            await line.send(_text(message))

    # ------------------------------------------------------------ subscriptions

    async def _keep_subscribed(self, line: ClientConnection) -> None:
        while True:
            self._wake.clear()
            now = self._loop.time()
            subscription, due = self._most_urgent(now)
            if subscription is not None:
                due = now + self._pace.wait(now, 1 + subscription.unsubscribe)
                if due <= now:
                    await self._ask(line, subscription)
                    continue
                # Nothing that could wake it makes the minute shorter.
                await asyncio.sleep(due - now)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due if due < math.inf else None):
                    await self._wake.wait()

    def _most_urgent(self, now: float) -> tuple[_Subscription | None, float]:
        """Give what to ask for now, or when to look again."""
        if now >= self._token_due:
            old, self._token = self._token, ""
            # A caller that keeps its token may give the same one again; then there is nothing new.
            renewed = self._fresh_token(now) != old
            for each in self._subscriptions.values():
                if renewed and each.private and each.live:
                    self.counts["renewed"] += 1
                    each.live, each.unsubscribe, each.due = False, True, now
        waiting, unanswered, due = [], 0, self._token_due
        for each in self._subscriptions.values():
            if each.asked and each.due <= now:
                # A burst may be dropped in silence. It goes behind those never asked for.
                self.counts["asked again"] += 1
                each.asked, each.due = False, now
            if each.asked:
                unanswered += 1
                due = min(due, each.due)
            elif not each.live:
                waiting.append(each)
        if unanswered < MAX_UNANSWERED and waiting:
            first = min(waiting, key=lambda each: each.due)
            if first.due <= now:
                return first, now
            due = min(due, first.due)
        return None, due

    async def _ask(self, line: ClientConnection, subscription: _Subscription) -> None:
        now = self._loop.time()
        message = {"type": "subscribe", "channel": subscription.channel}
        if subscription.private:
            message["auth"] = self._fresh_token(now)
        unsubscribe, subscription.unsubscribe = subscription.unsubscribe, False
        subscription.asked = True
        subscription.due = now + self._patience(subscription)
        subscription.attempts += 1
        if unsubscribe:
            subscription.again = True
            # Not waited for: how the venue answers it is uncertain.
            await self._transmit(line, {"type": "unsubscribe", "channel": subscription.channel})
        await self._transmit(line, message)

    def _patience(self, subscription: _Subscription) -> float:
        patience: float = self._retry_secs * 2.0 ** min(subscription.attempts, 10)
        return min(patience, max(_MAX_RETRY_SECS, self._retry_secs))

    def _find(self, channel: object) -> _Subscription | None:
        if not isinstance(channel, str):
            return None
        name = _inbound(channel)
        found = self._subscriptions.get(name)
        if found is None and name.startswith("account_orders:"):
            # The docs print account_orders:{market}, the captured one has the account too.
            longer = (k for k in self._subscriptions if k.startswith(name + ":"))
            found = self._subscriptions.get(next(longer, ""))
        return found

    def _heard_from(self, channel: object, *, snapshot: bool) -> None:
        subscription = self._find(channel)
        if subscription is None or subscription.live:
            return
        if snapshot or (subscription.asked and not subscription.again):
            subscription.asked, subscription.live = False, True
            subscription.unsubscribe, subscription.attempts = False, 0
            self._wake.set()

    def _refused(self, code: int | None, text: str) -> None:
        """Ask again for what an error names, later and later; the rest waits for its answer."""
        if "auth" in text.lower():
            self._token, self._token_due = "", math.inf
        now = self._loop.time()
        for channel in _CHANNEL.findall(text):
            subscription = self._find(channel)
            if subscription is None or not subscription.asked:
                continue
            subscription.asked = False
            subscription.due = now + self._patience(subscription)
            if code == _ALREADY_SUBSCRIBED:
                # Its answer was lost, and with it the snapshot.
                subscription.unsubscribe = True
                if subscription.attempts < 3:
                    subscription.due = now
            self._wake.set()

    def _fresh_token(self, now: float) -> str:
        if not self._token:
            assert self._auth is not None
            self._token = self._auth()
            self._token_due = now + max(RENEW_LEAST_SECS, self._renew_in(now))
        return self._token

    def _renew_in(self, now: float) -> float:
        expiry = _expiry(self._token)
        if self._unix_now is not None:
            unix = self._unix_now()
        elif self._unix_ahead is not None:
            unix = self._unix_ahead + now
        else:
            return RENEW_BLIND_SECS
        if expiry is None or expiry <= unix:
            # Renewing at once would go on for ever if it is a clock that is wrong.
            return RENEW_BLIND_SECS
        life = expiry - unix
        return max(life - RENEW_AHEAD_SECS, life / 2)


def _nested(raw: bytes) -> int:
    """An upper bound of how deep a frame is nested: the lists in it, and objects as values."""
    return raw.count(b"[") + raw.count(b":{") + raw.count(b": {")


def _inbound(channel: str) -> str:
    """Write a channel as the venue does: it is asked for with ``/`` and answers with ``:``."""
    return channel.replace("/", ":")


def _text(message: Mapping[str, Any]) -> str:
    return msgspec.json.encode(message).decode()


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _worth_a_line(n: int) -> bool:
    """Tell whether the n-th of a kind is logged: the first, second, fourth, eighth …."""
    return n & (n - 1) == 0


def _complaint(frame: Mapping[str, Any]) -> tuple[int | None, str] | None:
    """Read an error in any of the shapes that were seen, or ``None``."""
    error = frame.get("error")
    if error is None and frame.get("type") == "error":
        error = frame
    if not error:
        return None
    if not isinstance(error, Mapping):
        error = {"code": frame.get("code"), "message": error}
    code, text = error.get("code"), error.get("message")
    return (code if type(code) is int else None), str(text if text is not None else error)[:300]


def _expiry(token: str) -> int | None:
    """Read when a token dies, Unix seconds: ``expiry:…``, or ``ro:account:scope:expiry:…``."""
    parts = token.split(":")
    at = 3 if parts[0] == "ro" else 0
    text = parts[at] if at < len(parts) else ""
    return int(text) if text.isascii() and text.isdigit() else None


def _unix_ahead(line: ClientConnection, now: float) -> float | None:
    """How far the venue's clock, in Unix seconds, is ahead of the event loop's."""
    stamp = line.response.headers.get("Date") if line.response is not None else None
    try:
        return parsedate_to_datetime(stamp).timestamp() - now if stamp else None
    except ValueError:
        return None


async def _close(line: ClientConnection) -> None:
    try:
        await line.close()
    finally:
        line.transport.abort()


# ---------------------------------------------------------------- the target's feed


# What would not fit 64 bits in ns is no time.
_Micros: TypeAlias = Annotated[int, Meta(ge=0, lt=2**63 // 1_000)]
_Millis: TypeAlias = Annotated[int, Meta(ge=0, lt=2**63 // 1_000_000)]


class _Side(Struct):
    price: str
    size: str


class _Best(Struct):
    a: _Side | None
    b: _Side | None
    last_updated_at: _Micros = 0


class _TickerFrame(Struct):
    ticker: _Best
    nonce: int


class _Depth(Struct):
    asks: list[_Side]
    bids: list[_Side]
    nonce: int
    begin_nonce: int


class _BookFrame(Struct):
    order_book: _Depth


class _PublicTrade(Struct):
    trade_id: int
    market_id: int
    price: str
    size: str
    is_maker_ask: bool
    type: str = "trade"
    timestamp: _Millis = 0
    transaction_time: _Micros = 0


class _TradeFrame(Struct):
    trades: list[_PublicTrade] | None = None
    liquidation_trades: list[_PublicTrade] | None = None


class _StatsFrame(Struct):
    market_stats: dict[str, Any]


class LighterBook:
    """The order book of one market, as the stream tells it: a snapshot, then what changed."""

    def __init__(self) -> None:
        """Start without a book."""
        self.nonce: int | None = None
        """Of the last change; ``None`` while there is no book: at first, and after a gap."""
        self.bids: dict[int, int] = {}
        """Sizes by price, both 1e-9; in no order."""
        self.asks: dict[int, int] = {}

    def best_bid(self) -> tuple[int, int] | None:
        """Price and size of the highest bid, 1e-9; ``None`` when there is none."""
        return max(self.bids.items(), default=None)

    def best_ask(self) -> tuple[int, int] | None:
        """Price and size of the lowest ask, 1e-9; ``None`` when there is none."""
        return min(self.asks.items(), default=None)

    def clear(self) -> None:
        """Drop the book until the next snapshot."""
        self.nonce = None
        self.bids.clear()
        self.asks.clear()

    def change(
        self, bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]], nonce: int
    ) -> None:
        """Set the sizes of price levels; a size of 0 takes its level away."""
        for levels, changes in ((self.bids, bids), (self.asks, asks)):
            for px, sz in changes:
                if sz:
                    levels[px] = sz
                else:
                    levels.pop(px, None)
        self.nonce = nonce


class LighterFeed:
    """One market of Lighter as the target: quotes, public trades and statuses, live.

    Quotes are the ticker's; the book is kept beside it. Quotes older than the one before are
    dropped; of identical ones in a row at most one a second passes, as a sign of life. Trades are
    told once, also across reconnections; those before the first connection are not told, those
    missed between two are, with the new connection's snapshot.

    Statuses: ``connect`` with the first quote of a connection, ``disconnect`` with the reason,
    ``heartbeat`` with a pong, at most one a second. A ``disconnect`` without the connection's end,
    and a ``connect`` with the next good quote, are told when the book or an unreadable frame shows
    that the last quote is out of date, and for each refusal of a feed that has not quoted yet.
    Channels that say nothing for ``silence_secs`` while pongs come are subscribed anew.

    Units: prices and sizes 1e-9, exactly from the venue's decimals; ``ts_event`` ns, from its µs.
    Shape: at most one call of ``quotes`` or ``trades`` per frame, ``seq`` and ``ts`` 0; a status
        comes before the quote of its frame. ``stats`` gets all that is known of the market's
        statistics (``mark_price``, ``index_price`` …, as the venue writes them) with each change.
        ``raw`` gets every frame's bytes first.
    Errors: ValueError for decimals that 1e-9 cannot hold; InvalidURI; what a callback raises. What
        the venue sends is refused, counted and logged instead.
    """

    def __init__(
        self,
        url: str,
        *,
        market_id: int,
        price_decimals: int,
        size_decimals: int,
        quotes: Emit,
        trades: Emit,
        status: Emit,
        raw: Callable[[bytes], None] | None = None,
        backoff: Backoff | None = None,
        stats: Callable[[dict[str, Any]], None] | None = None,
        ping_secs: float = 20.0,
        silence_secs: float = 45.0,
        read_only: bool = False,
        retry_secs: float = 5.0,
        pace: Pace | None = None,
    ) -> None:
        """Name the stream and the market, with the decimals that its ``orderBookDetails`` gives."""
        on = Instrument(
            symbol=f"market {market_id}", venue="LIGHTER",
            price_decimals=price_decimals, size_decimals=size_decimals,
        )  # fmt: skip
        self.book = LighterBook()
        self._tick, self._lot = on.tick_size, on.lot_size
        self._market_id = market_id
        self._quotes, self._trades, self._status = quotes, trades, status
        self._stats_to = stats
        self._stats: dict[str, Any] = {}
        self._up = False
        self._nonce: int | None = None
        self._needed = -1
        """Nonce that the ticker must reach before its quotes count again."""
        self._behind_since: float | None = None
        self._shown: tuple[_Side | None, _Side | None] | None = None
        self._last: Quote | None = None
        self._shown_at = self._beat_at = -math.inf
        self._spoke_at = math.inf
        self._silence_secs = silence_secs
        self._seen: dict[int, None] = {}
        self._trades_began = False
        self._takes: dict[str, Callable[[dict[str, Any], bool, float], None]] = {
            f"ticker:{market_id}": self._on_ticker,
            f"order_book:{market_id}": self._on_book,
            f"trade:{market_id}": self._on_trades,
            f"market_stats:{market_id}": self._on_stats,
        }
        self._ticker = f"ticker/{market_id}"
        self._order_book = f"order_book/{market_id}"
        self._socket = LighterSocket(
            url,
            channels=[name.replace(":", "/") for name in self._takes],
            on_frame=self._on_frame,
            on_raw=raw,
            on_status=self._on_link,
            ping_secs=ping_secs,
            silence_secs=silence_secs,
            backoff=backoff,
            read_only=read_only,
            retry_secs=retry_secs,
            pace=pace,
        )
        self.counts = self._socket.counts
        """What happened since the start, of the connection and of the market."""

    async def run(self) -> None:
        """Stream until cancelled."""
        await self._socket.run()

    # ------------------------------------------------------------ the connection

    def _on_link(self, kind: LinkStatus, text: str) -> None:
        self._up = False
        self._nonce = self._behind_since = self._shown = self._last = None
        self._needed = -1
        self._spoke_at = asyncio.get_running_loop().time()
        self.book.clear()
        if kind == "disconnect":
            self._tell("disconnect", text)

    def _tell(self, kind: StatusKind, text: str = "") -> None:
        self._status([Status(0, 0, "target", kind, text)])

    def _on_frame(self, frame: dict[str, Any]) -> None:
        kind, channel = frame.get("type"), frame.get("channel")
        now = asyncio.get_running_loop().time()
        take = self._takes.get(channel) if isinstance(channel, str) else None
        if take is not None and isinstance(kind, str):
            family = kind.partition("/")[0]
            if family in ("subscribed", "update"):
                self._spoke_at = now
                take(frame, family == "subscribed", now)
        elif kind == "pong":
            if now - self._spoke_at >= self._silence_secs:
                # The connection lives and the market is silent: the venue may have lost us.
                self._spoke_at = now
                self.counts["market silence"] += 1
                for name in self._takes:
                    self._socket.ask_anew(name)
            if self._up and now - self._beat_at >= 1.0:
                self._beat_at = now
                self._tell("heartbeat")
        elif not self._up and (complaint := _complaint(frame)) is not None:
            code, text = complaint
            self._tell("disconnect", f"the venue says {text if code is None else f'{code} {text}'}")

    def _refuse(self, frame: dict[str, Any], error: Exception) -> None:
        self.counts["unreadable"] += 1
        if _worth_a_line(self.counts["unreadable"]):
            _log.warning("Lighter's %s is refused: %s", frame.get("channel"), error)

    def _fall_behind(self, nonce: int, text: str) -> None:
        """Take the last quote back until the ticker has come as far as ``nonce``."""
        self._needed = max(self._needed, nonce)
        if self._up:
            self._up = False
            self._tell("disconnect", text)

    def _units(self, text: str, step: int, what: str) -> int:
        value = to_units(text, what)
        if value < 0 or value % step:
            raise ValueError(
                f"{what} must be a multiple of {format_units(step)} and not negative, was "
                f"{text!r}; check the decimals of market {self._market_id}"
            )
        return value

    # ------------------------------------------------------------ the channels

    def _on_ticker(self, frame: dict[str, Any], snapshot: bool, now: float) -> None:
        try:
            read = msgspec.convert(frame, _TickerFrame)
            best, nonce = read.ticker, read.nonce
            if self._nonce is not None and nonce < self._nonce:
                self.counts["stale ticker"] += 1
                return
            sides = (best.a, best.b)
            repeated = self._up and sides == self._shown
            quote = None if repeated and now - self._shown_at < 1.0 else self._quote(best)
        except (msgspec.ValidationError, ValueError) as error:
            self._refuse(frame, error)
            # What it would have said is not known, so the last quote may be wrong.
            text = f"a quote cannot be read: {error}"
            if self._up:
                self._fall_behind(-1, text)
            elif _worth_a_line(self.counts["unreadable"]):
                self._tell("disconnect", text)
            return
        self._nonce = nonce
        if nonce < self._needed:
            # A quote would count as the feed's return, and this one is known to be out of date.
            self.counts["overtaken ticker"] += 1
            return
        if quote is None:
            self.counts["repeated ticker"] += 1
            return
        self._shown, self._shown_at = sides, now
        if not self._up:
            self._up, self._needed, self._behind_since = True, -1, None
            self._tell("connect", f"market {self._market_id} quotes, nonce {nonce}")
        self._last = quote
        self._quotes([quote])

    def _quote(self, best: _Best) -> Quote:
        (bid_px, bid_sz), (ask_px, ask_sz) = self._side(best.b, "bid"), self._side(best.a, "ask")
        # An empty book has never been updated, and says 0.
        ts_event = best.last_updated_at * 1_000 or None
        return Quote(0, 0, ts_event, bid_px, ask_px, bid_sz, ask_sz, 0)

    def _side(self, side: _Side | None, what: str) -> tuple[int | None, int | None]:
        # Captured are empty strings; that a null would say the same is uncertain.
        if side is None or not side.price:
            return None, None
        px = self._units(side.price, self._tick, f"{what} price")
        return px, self._units(side.size, self._lot, f"{what} size") if side.size else None

    def _on_book(self, frame: dict[str, Any], snapshot: bool, now: float) -> None:
        book = self.book
        if not snapshot and book.nonce is None:
            self.counts["early book"] += 1
            return
        try:
            read = msgspec.convert(frame, _BookFrame).order_book
            bids, asks = self._levels(read.bids, "bid"), self._levels(read.asks, "ask")
        except (msgspec.ValidationError, ValueError) as error:
            self._refuse(frame, error)
            self._drop_book()
            return
        if snapshot:
            book.clear()
        elif read.begin_nonce != book.nonce:
            self.counts["book gap"] += 1
            _log.info(
                "Lighter's book of market %s has a gap: nonce %s, then a change from %s",
                self._market_id, book.nonce, read.begin_nonce,
            )  # fmt: skip
            text = (
                f"messages are missing: the book went from nonce {book.nonce} to "
                f"{read.begin_nonce}, the ticker is at {self._nonce}"
            )
            self._drop_book()
            # A ticker that came further missed nothing that still matters.
            if self._nonce is not None and self._nonce < read.begin_nonce:
                self._fall_behind(read.begin_nonce, text)
            return
        book.change(bids, asks, read.nonce)
        if not snapshot:
            self._compare(read.begin_nonce, now)

    def _drop_book(self) -> None:
        self.book.clear()
        self._socket.ask_anew(self._order_book)

    def _levels(self, sides: list[_Side], what: str) -> list[tuple[int, int]]:
        return [
            (
                self._units(side.price, self._tick, f"{what} price"),
                self._units(side.size, self._lot, f"{what} size"),
            )
            for side in sides
        ]

    def _compare(self, nonce: int, now: float) -> None:
        """Find a ticker that went silent while the connection lives.

        The ticker is sent with every nonce of the book and the book every 50 ms, so the ticker is
        where the book was before, or further. That is *uncertain*, so only best prices that differ
        count against it.
        """
        if self._nonce is not None and self._nonce >= nonce:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since >= TICKER_LAG_SECS:
            self._behind_since = now
            if self._agrees():
                self.counts["quiet ticker"] += 1
                return
            self.counts["ticker lag"] += 1
            self._fall_behind(
                nonce, f"the ticker stopped at nonce {self._nonce}, the book is at {nonce}"
            )
            self._socket.ask_anew(self._ticker)

    def _agrees(self) -> bool:
        """Tell whether the book's best prices and sizes are those last quoted."""
        last, nothing = self._last, (None, None)
        return (
            last is not None
            and (last.bid_px, last.bid_sz) == (self.book.best_bid() or nothing)
            and (last.ask_px, last.ask_sz) == (self.book.best_ask() or nothing)
        )

    def _on_trades(self, frame: dict[str, Any], snapshot: bool, now: float) -> None:
        try:
            read = msgspec.convert(frame, _TradeFrame)
            both = (*(read.trades or ()), *(read.liquidation_trades or ()))
            found = {trade.trade_id: trade for trade in both}
            told = [(found[n], self._trade(found[n])) for n in sorted(found) if n not in self._seen]
        except (msgspec.ValidationError, ValueError) as error:
            self._refuse(frame, error)
            return
        self.counts["repeated trade"] += len(found) - len(told)
        if snapshot and self._seen and found and len(told) == len(found):
            # None of the recent trades is known: some before them may never have been told.
            self.counts["trade gap"] += 1
        for trade, _ in told:
            self._seen[trade.trade_id] = None
        while len(self._seen) > _REMEMBERED_TRADES:
            del self._seen[next(iter(self._seen))]
        began, self._trades_began = self._trades_began, True
        if snapshot and not began:
            # What happened before the start is no news, and no order of ours was there.
            self.counts["earlier trade"] += len(told)
            return
        # Deleveraging and settlement meet no order of the book.
        trades = [made for trade, made in told if trade.type in ("trade", "liquidation")]
        self.counts["trade off the book"] += len(told) - len(trades)
        if trades:
            self._trades(trades)

    def _trade(self, trade: _PublicTrade) -> Trade:
        if trade.market_id != self._market_id:
            raise ValueError(f"trade {trade.trade_id} is of market {trade.market_id}")
        ts_event = trade.transaction_time * 1_000 or trade.timestamp * 1_000_000 or None
        return Trade(
            0, 0, ts_event,
            self._units(trade.price, self._tick, "trade price"),
            self._units(trade.size, self._lot, "trade size"),
            BUY if trade.is_maker_ask else SELL,
        )  # fmt: skip

    def _on_stats(self, frame: dict[str, Any], snapshot: bool, now: float) -> None:
        try:
            stats = msgspec.convert(frame, _StatsFrame).market_stats
        except msgspec.ValidationError as error:
            self._refuse(frame, error)
            return
        # Updates may bring only what changed.
        self._stats.update(stats)
        if self._stats_to is not None:
            self._stats_to(dict(self._stats))
