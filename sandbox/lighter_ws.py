"""The stand-in's WebSocket: connections, subscriptions, transactions, and what goes wrong there.

Source: Lighter docs, "WebSocket reference", with what clients report of error frames; where the
venue's shape is not known the choice is marked (uncertain).
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from aiohttp import WSMsgType, web

from sandbox.faults import Fault, FaultKind
from sandbox.lighter_account import LighterAccount
from sandbox.lighter_api import Api
from sandbox.lighter_channels import ACCOUNT_CHANNELS
from sandbox.lighter_limits import LighterLimits, Window
from sandbox.lighter_market import Json
from sandbox.lighter_messages import encode
from sandbox.lighter_transactions import ApiError

__all__ = ["Connection", "Hub", "Snapshots"]

_MARKET_CHANNELS: Final = ("order_book", "ticker", "trade", "market_stats", "height")
_LEAST_NAP_SECS: Final = 0.005
_GOODBYE_SECS: Final = 0.5
"""How long a client has to take what is left and to answer a close."""
_RESET: Final = struct.pack("ii", 1, 0)


class Snapshots(Protocol):
    """What a hub asks for when somebody subscribes."""

    def snapshot(self, kind: str, market_id: int | None, account: LighterAccount | None) -> Json:
        """What a new subscriber sees first."""


class Hub:
    """All connections."""

    def __init__(
        self,
        accounts: dict[int, LighterAccount],
        market_id: int,
        limits: LighterLimits,
        now: Callable[[], int],
        take: Callable[[FaultKind], Fault | None],
        active: Callable[[FaultKind], Fault | None],
        authorise: Callable[[str, int], str],
    ) -> None:
        """``authorise`` says why a token does not open an account, or nothing."""
        self.accounts = accounts
        self.market_id = market_id
        self.limits = limits
        self.now = now
        self.take = take
        self.active = active
        self.authorise = authorise
        self.api: Api
        self.snapshots: Snapshots
        self.connections: set[Connection] = set()
        self._new = Window(limits.connections_per_minute)
        self._armed: dict[FaultKind, list[Fault]] = {}

    def publish(self, channel: str, frame: Json) -> None:
        """Send an update to all subscribers of ``channel``."""
        kind = channel.split(":")[0]
        text = ""
        for connection in tuple(self.connections):
            if channel in connection.channels:
                text = text or encode({"type": f"update/{kind}", "channel": channel, **frame})
                connection.send_update(kind, text)

    def due(self, fault: FaultKind, channel: str, default: str = "") -> bool:
        """Tell whether an update of ``channel`` is to suffer a fault now, and use it up.

        A fault's text limits it to channels of that kind; without one it is for ``default``.
        """
        armed = self._armed.setdefault(fault, [])
        found = self.take(fault)
        if found is not None:
            armed.append(found)
        for waiting in armed:
            wanted = waiting.text or default
            if wanted in ("", channel):
                armed.remove(waiting)
                return True
        return False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection until it ends."""
        crowded = len(self.connections) >= self.limits.connections
        if crowded or not self._new.admit(self.now()):
            return web.json_response({"code": 23003, "message": "too many connections"}, status=429)
        if self.active("refuse"):
            return web.json_response({"code": 29500, "message": "unavailable"}, status=503)
        # Pings are answered here, because they count as a sign of life.
        socket_ = web.WebSocketResponse(timeout=_GOODBYE_SECS, autoping=False, max_msg_size=1 << 20)
        await socket_.prepare(request)
        connection = Connection(self, request, socket_)
        self.connections.add(connection)
        try:
            await connection.serve()
        finally:
            self.connections.discard(connection)
        return socket_

    async def close(self, code: int = 1001, text: str = "going away") -> None:
        """Close every connection with a close frame."""
        await asyncio.gather(*(one.close(code, text) for one in tuple(self.connections)))

    def cut(self, *, reset: bool) -> None:
        """Cut every connection without a word: with FIN, or with RST."""
        for connection in tuple(self.connections):
            connection.cut(reset=reset)

    async def shutdown(self, close_in_secs: float) -> None:
        """Announce the end to every connection, then close those that are left."""
        told = tuple(self.connections)
        for connection in told:
            connection.send({"type": "shutdown", "close_in_ms": round(close_in_secs * 1000)})
        await asyncio.sleep(close_in_secs)
        await asyncio.gather(*(one.close(1001, "shutdown") for one in told))


class Connection:
    """One client's socket: what it subscribed to, and what it is still to be sent."""

    def __init__(self, hub: Hub, request: web.Request, socket_: web.WebSocketResponse) -> None:
        """Serve ``socket_``, which is open."""
        self.channels: set[str] = set()
        self._hub = hub
        self._request = request
        self._socket = socket_
        self._out: asyncio.Queue[tuple[float, str] | None] = asyncio.Queue()
        self._messages = Window(hub.limits.messages_per_minute)
        self._held: list[str] = []
        self._is_read_only = request.query.get("readonly") == "true"
        self._pong_due: float | None = None
        self._heard = 0.0
        self._closing: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ sending

    def send(self, frame: Json) -> None:
        """Queue a frame."""
        self._put(encode(frame))

    def send_update(self, kind: str, text: str) -> None:
        """Queue an update of a channel, unless something goes wrong with it."""
        due = self._hub.due
        if due("gap", kind, "order_book"):
            return
        if due("malformed", kind):
            text = text[: len(text) // 2]
        if due("reorder", kind):
            self._held.append(text)
            return
        self._put(text)
        if due("duplicate", kind):
            self._put(text)
        while self._held:
            self._put(self._held.pop(0))

    def _put(self, text: str) -> None:
        if self._out.qsize() >= self._hub.limits.backlog:
            self.cut(reset=False)  # a reader as slow as that is let go
            return
        late = self._hub.active("delay")
        loop = asyncio.get_running_loop()
        self._out.put_nowait((loop.time() + (late.amount if late else 0.0), text))

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while (item := await self._out.get()) is not None:
            due, text = item
            while (wait := due - loop.time()) > 0 or self._hub.active("stall"):
                await asyncio.sleep(max(wait, _LEAST_NAP_SECS))
            try:
                await self._socket.send_str(text)
            except ConnectionError:
                return

    # ------------------------------------------------------------ life

    async def serve(self) -> None:
        """Greet, answer and tell until either side leaves."""
        loop = asyncio.get_running_loop()
        self._heard = loop.time()
        writer = asyncio.create_task(self._write())
        watch = asyncio.create_task(self._watch())
        self.send({"type": "connected"})
        try:
            async for message in self._socket:
                self._heard = loop.time()
                if message.type is WSMsgType.TEXT:
                    self._on_text(message.data)
                elif message.type is WSMsgType.BINARY:
                    self._error(30000, "Invalid JSON")
                elif message.type is WSMsgType.PING and not self._hub.active("stall"):
                    await self._socket.pong(message.data)
        except ConnectionError:
            pass
        finally:
            tasks = [task for task in (writer, watch, self._closing) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        """Ask for a pong now and then; leave a client that is silent for too long."""
        loop, limits = asyncio.get_running_loop(), self._hub.limits
        next_ping = loop.time() + limits.ping_secs
        while True:
            due = min(next_ping, self._heard + limits.idle_secs, self._pong_due or next_ping)
            await asyncio.sleep(max(due - loop.time(), _LEAST_NAP_SECS))
            now = loop.time()
            if now >= self._heard + limits.idle_secs:
                await self.close(1000, "idle")
                return
            if self._pong_due is not None and now >= self._pong_due:
                await self.close(1008, "no pong")
                return
            if now >= next_ping:
                next_ping = now + limits.ping_secs
                self._pong_due = self._pong_due or now + limits.pong_secs
                self.send({"type": "ping"})

    async def close(self, code: int, text: str) -> None:
        """Say goodbye."""
        # Said in order: what was queued before goes first.
        self._out.put_nowait(None)
        loop = asyncio.get_running_loop()
        latest = loop.time() + _GOODBYE_SECS
        while not self._out.empty() and loop.time() < latest:
            await asyncio.sleep(_LEAST_NAP_SECS)
        await self._socket.close(code=code, message=text.encode(), drain=False)

    def cut(self, *, reset: bool) -> None:
        """Leave without a word."""
        transport = self._request.transport
        if transport is None:
            return
        if reset:
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        else:
            transport.close()

    # ------------------------------------------------------------ what the client says

    def _on_text(self, text: str) -> None:
        try:
            message = json.loads(text)
        except ValueError:
            self._error(30000, "Invalid JSON")
            return
        kind = message.get("type") if isinstance(message, dict) else None
        if kind in ("jsonapi/sendtx", "jsonapi/sendtxbatch"):
            self._on_transaction(kind, message.get("data"))
            return
        if not self._messages.admit(self._hub.now()):
            # Uncertain whether the venue closes at once.
            self._error(30009, "Too Many Messages")
            if self._closing is None:
                self._closing = asyncio.create_task(self.close(1008, "too many messages"))
            return
        if kind == "ping":
            self.send({"type": "pong"})
        elif kind == "pong":
            self._pong_due = None
        elif kind == "subscribe":
            self._subscribe(str(message.get("channel", "")), message.get("auth"))
        elif kind == "unsubscribe":
            self._unsubscribe(str(message.get("channel", "")))
        else:
            self._error(30001, "Invalid Type")

    def _subscribe(self, given: str, auth: Any) -> None:
        name = given.replace("/", ":")
        found = self._resolve(name)
        if found is None:
            self._error(30005, "Invalid Channel")
            return
        kind, market_id, account = found
        if name in self.channels:
            self._error(30003, f"Already Subscribed to : {name}")
            return
        if len(self.channels) >= self._hub.limits.subscriptions:
            self._error(23001, "Too Many Subscriptions!")
            return
        if account is not None and (auth or ACCOUNT_CHANNELS[kind]):
            if not auth:
                text = f"invalid param : auth field is required: {name}"
                error = {"code": 20001, "message": text}
                self.send({"type": "error", "error": error})
                return
            refusal = self._hub.authorise(str(auth), account.index)
            if refusal:
                self.send({"error": {"message": refusal}})
                return
        snapshot = self._hub.snapshots.snapshot(kind, market_id, account)
        self.channels.add(name)
        self.send({"type": f"subscribed/{kind}", "channel": name, **snapshot})

    def _resolve(self, name: str) -> tuple[str, int | None, LighterAccount | None] | None:
        """Kind, market and account of a channel; ``None`` when there is no such channel."""
        kind, *ids = name.split(":")
        hub = self._hub
        if kind in _MARKET_CHANNELS:
            if kind == "height":
                return (kind, None, None) if not ids else None
            if ids == ["all"] and kind == "market_stats":
                return kind, None, None
            return (kind, hub.market_id, None) if ids == [str(hub.market_id)] else None
        if kind not in ACCOUNT_CHANNELS or not all(part.isdecimal() for part in ids):
            return None
        if len(ids) != (2 if kind == "account_orders" else 1):
            return None
        account = hub.accounts.get(int(ids[-1]))
        return None if account is None else (kind, int(ids[0]), account)

    def _unsubscribe(self, given: str) -> None:
        name = given.replace("/", ":")
        if name not in self.channels:
            self._error(30002, f"Not Subscribed to : {name}")
            return
        self.channels.discard(name)
        self.send({"type": "unsubscribed", "channel": name})  # (uncertain)

    def _on_transaction(self, kind: str, data: Any) -> None:
        given: dict[str, Any] = data if isinstance(data, dict) else {}
        head: Json = {"type": kind}
        if "id" in given:
            head["id"] = given["id"]
        try:
            if self._is_read_only:
                raise ApiError(30006, "not supported on a readonly connection")
            if kind == "jsonapi/sendtx":
                answer = self._hub.api.submit(
                    given.get("tx_type"), given.get("tx_info"), counted=False
                )
            else:
                answer = self._hub.api.submit_batch(
                    given.get("tx_types"), given.get("tx_infos"), counted=False
                )
        except ApiError as error:
            # Of the shapes that clients report, the one that names the request (uncertain).
            self.send({**head, "error": {"code": error.code, "message": error.message}})
            return
        if self._hub.take("lost_ack"):
            return
        self.send({**head, **answer})

    def _error(self, code: int, message: str) -> None:
        self.send({"error": {"code": code, "message": message}})
