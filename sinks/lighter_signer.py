"""Signing for Lighter: one thread, one key, one sequence of nonces.

A signature takes half a millisecond on a thread of its own and four times that on the main thread,
where it would also hold up every quote; so all of them are made on one worker thread. Of the SDK
only the signing itself is used: it sends nothing and counts no nonces for us.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias

from msgspec import Struct

__all__ = [
    "ABORT",
    "CANCEL_ALL",
    "CANCEL_ORDER",
    "CREATE_ORDER",
    "IMMEDIATE",
    "MODIFY_ORDER",
    "SCHEDULED",
    "Lane",
    "Request",
    "SignCancel",
    "SignCancelAll",
    "SignCreate",
    "SignModify",
    "Signed",
    "Signer",
    "SigningError",
    "refusal",
    "vendor_sdk",
]

# Transaction types and their constants: lighter-sdk 1.1.8.
CREATE_ORDER: Final = 14
CANCEL_ORDER: Final = 15
CANCEL_ALL: Final = 16
MODIFY_ORDER: Final = 17
IMMEDIATE: Final = 0
SCHEDULED: Final = 1
ABORT: Final = 2
_LIMIT: Final = 0
_MARKET: Final = 1
_IMMEDIATE_OR_CANCEL: Final = 0
_POST_ONLY: Final = 2

_MAX_PRICE: Final = 2**32 - 1
_MAX_BASE: Final = 2**48 - 1
_MAX_CLIENT_INDEX: Final = 2**48 - 1
_MAX_ORDER_INDEX: Final = 2**60 - 1
_MINUTE_MS: Final = 60_000
_DAY_MS: Final = 24 * 60 * _MINUTE_MS
_MIN_AHEAD_MS: Final = 5 * _MINUTE_MS
_MAX_EXPIRY_MS: Final = 30 * _DAY_MS
_MAX_SCHEDULE_MS: Final = 15 * _DAY_MS

_KEY_DIGITS: Final = 80
_KEY: Final = re.compile(r"[0-9a-fA-F]{80}")

_TOKEN_SECS: Final = 3600
"""Life of an auth token. The venue takes at most 8 hours; the shorter it lives the less it is worth
to whoever finds it."""
_TOKEN_MARGIN_SECS: Final = 900
"""A token is replaced this long before it expires."""

_log: Final = logging.getLogger("marblemaker.lighter")


class SigningError(RuntimeError):
    """The signer could not be opened or did not sign; the text never holds the key."""


class SignCreate(Struct, frozen=True):
    """A new order; post-only, or a market order when it has no expiry."""

    market: int
    index: int
    """Client order index."""
    base: int
    """Size in lots."""
    price: int
    """Limit in ticks; of a market order the bound of its average price."""
    is_ask: bool
    expiry_ms: int | None
    """``None`` for a market order."""
    reduce_only: bool = False


class SignModify(Struct, frozen=True):
    """An order moved; ``base`` is the new total, what has filled included."""

    market: int
    index: int
    base: int
    price: int


class SignCancel(Struct, frozen=True):
    """An order cancelled, by client order index or order index."""

    market: int
    index: int


class SignCancelAll(Struct, frozen=True):
    """All orders of the account cancelled: at once, at an instant, or not at all any more."""

    when: int
    """IMMEDIATE, SCHEDULED or ABORT."""
    time_ms: int = 0


Request: TypeAlias = SignCreate | SignModify | SignCancel | SignCancelAll


class Signed(Struct, frozen=True):
    """A transaction ready to be sent."""

    tx_type: int
    tx_info: str
    """JSON."""
    tx_hash: str
    nonce: int


def refusal(request: Request, now_ms: int) -> str:
    """Why the venue would not take a request; empty when nothing speaks against it.

    The SDK's signer lets some of these through: a price of 2**32 wraps round to 0, and expiries are
    not looked at.

    >>> refusal(SignModify(110, 1, 50, 2**32), 0)
    '21702 price 4294967296 ticks is not between 1 and 4294967295 (not sent)'
    """
    if isinstance(request, SignCancelAll):
        ahead = request.time_ms - now_ms
        if request.when == SCHEDULED and not _MIN_AHEAD_MS <= ahead <= _MAX_SCHEDULE_MS:
            return f"21714 cancel-all in {ahead} ms is not within 5 minutes and 15 days (not sent)"
        return ""
    most = _MAX_CLIENT_INDEX if isinstance(request, SignCreate) else _MAX_ORDER_INDEX
    if not 1 <= request.index <= most:
        code = "21727 client order index" if isinstance(request, SignCreate) else "21700 index"
        return f"{code} {request.index} is not between 1 and {most} (not sent)"
    if isinstance(request, SignCancel):
        return ""
    if not 1 <= request.base <= _MAX_BASE:
        return f"21701 size {request.base} lots is not between 1 and {_MAX_BASE} (not sent)"
    if not 1 <= request.price <= _MAX_PRICE:
        return f"21702 price {request.price} ticks is not between 1 and {_MAX_PRICE} (not sent)"
    if isinstance(request, SignCreate) and request.expiry_ms is not None:
        ahead = request.expiry_ms - now_ms
        if not _MIN_AHEAD_MS <= ahead <= _MAX_EXPIRY_MS:
            return f"21711 expiry in {ahead} ms is not within 5 minutes and 30 days (not sent)"
    return ""


class Lane:
    """The nonces of one API key: who holds ``lock`` may sign and send.

    The venue takes nonces one by one in order of arrival, so signing and sending happen under one
    lock, and whatever leaves it in doubt which nonce is next has it asked for again.
    """

    def __init__(self) -> None:
        """Start in doubt."""
        self.lock = asyncio.Lock()
        self.next: int | None = None
        """The next nonce; ``None`` while it is in doubt."""
        self.synced: int | None = None
        """What the venue last said."""
        self._open: set[int] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def sent(self, nonces: Sequence[int]) -> None:
        """Count nonces as used and unanswered."""
        self.next = nonces[-1] + 1
        self._open.update(nonces)
        self._idle.clear()

    def settle(self, nonces: Sequence[int]) -> None:
        """Their answer came, or will not come any more."""
        self._open.difference_update(nonces)
        if not self._open:
            self._idle.set()

    def unused(self, nonce: int) -> None:
        """The venue refused ``nonce``: it is the next one again, if none was sent after it."""
        if self.next == nonce + 1 and not self._open:
            self.next = nonce
        else:
            self.doubt()

    def doubt(self) -> None:
        """Whatever comes next has to ask the venue first."""
        self.next = None

    async def idle(self) -> None:
        """Wait until nothing is unanswered."""
        await self._idle.wait()

    def sync(self, nonce: int) -> None:
        """Take the venue's word."""
        self.next = self.synced = nonce


def vendor_sdk() -> Any:
    """The vendor's SDK, imported without what the import does to the process; it takes seconds."""
    limit = sys.getrecursionlimit()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports a deprecated part of websockets
            return importlib.import_module("lighter")
    finally:
        # A package behind it raises the limit so far that deep recursion would end the process.
        sys.setrecursionlimit(limit)


class Signer:
    """Signs for one API key of one account, on a thread of its own.

    Shared by all venues of the account in this process: ``lane`` is what they take turns on.
    """

    def __init__(
        self,
        *,
        url: str,
        account_index: int,
        api_key_index: int,
        private_key: str,
        now_ns: Callable[[], int],
        chain_id: int | None = None,
    ) -> None:
        """Name the key; nothing is loaded before ``open``.

        ``chain_id``: part of what is signed; the SDK knows those of the public venues by their
        ``url`` and takes mainnet's for every other. ``now_ns``: the wall clock.
        """
        self.account_index = account_index
        self.api_key_index = api_key_index
        self.lane = Lane()
        self._url = url
        self._chain_id = chain_id
        self._now_ns = now_ns
        self._client: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lighter-signer")
        self._token = ""
        self._token_until_ns = 0
        self._token_lock = asyncio.Lock()
        bare = private_key.removeprefix("0x")

        # The key lives in these two closures only, where no repr can reach it.
        def scrub(text: object) -> str:
            clean = str(text)
            for secret in (bare, bare.lower(), bare.upper()):
                if secret:
                    clean = clean.replace(secret, "<private key>")
            return clean

        def keys() -> dict[int, str]:
            # The SDK would fail halfway, with an HTTP session left open.
            if not _KEY.fullmatch(bare):
                raise ValueError(
                    f"the private key must be {_KEY_DIGITS} hexadecimal digits with or without "
                    f"0x before them, has {len(bare)} characters or others among them"
                )
            return {api_key_index: private_key}

        self._scrub = scrub
        self._keys = keys

    def __repr__(self) -> str:
        """Name account and key index, never the key."""
        return f"Signer(account_index={self.account_index}, api_key_index={self.api_key_index})"

    async def open(self) -> None:
        """Load the SDK and the key, some two seconds on the signing thread.

        Errors: SigningError when the SDK does not take the key.
        """
        if self._client is None:
            self._client = await self._run(self._open)

    async def close(self) -> None:
        """End the thread once it has signed what it was given."""
        self._client = None
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    async def sign(self, requests: Sequence[Request], nonce: int) -> list[Signed | str]:
        """Sign a batch with nonces from ``nonce`` on; a request that is refused uses none.

        The result has one entry a request: the transaction, or why it cannot be made.
        """
        signed: list[Signed | str] = await self._run(lambda: self._sign_all(requests, nonce))
        return signed

    async def token(self) -> str:
        """An auth token that is good for a quarter of an hour at least."""
        async with self._token_lock:
            now_ns = self._now_ns()
            if now_ns >= self._token_until_ns - _TOKEN_MARGIN_SECS * 10**9:
                now_secs = now_ns // 10**9
                self._token = await self._run(lambda: self._make_token(now_secs))
                self._token_until_ns = (now_secs + _TOKEN_SECS) * 10**9
            return self._token

    async def _run(self, work: Callable[[], Any]) -> Any:
        def guarded() -> Any:
            try:
                return work()
            except Exception as error:
                # Not chained: the original's text and arguments may hold the key.
                return SigningError(self._scrub(f"{type(error).__name__}: {error}"))

        done = await asyncio.get_running_loop().run_in_executor(self._thread, guarded)
        if isinstance(done, SigningError):
            raise done
        return done

    # ------------------------------------------------------------ on the signing thread

    def _open(self) -> Any:
        lighter = vendor_sdk()
        keys = self._keys()

        async def make() -> Any:
            # Its constructor opens an HTTP session, which wants a loop; it is never used.
            client = lighter.SignerClient(
                url=self._url,
                account_index=self.account_index,
                api_private_keys=keys,
                chain_id=self._chain_id,
            )
            await client.api_client.close()
            return client

        client = asyncio.run(make())
        _log.info("signer open: account %d, key %d", self.account_index, self.api_key_index)
        return client

    def _sign_all(self, requests: Sequence[Request], nonce: int) -> list[Signed | str]:
        done: list[Signed | str] = []
        for request in requests:
            one = self._sign(request, nonce)
            done.append(one)
            if isinstance(one, Signed):
                nonce += 1
        return done

    def _sign(self, request: Request, nonce: int) -> Signed | str:
        refused = refusal(request, self._now_ns() // 1_000_000)
        if refused:
            return refused
        client = self._client
        if client is None:
            raise RuntimeError("the signer is not open; await Signer.open() first")
        lane = {"nonce": nonce, "api_key_index": self.api_key_index}
        if isinstance(request, SignCreate):
            is_market = request.expiry_ms is None
            made = client.sign_create_order(
                request.market, request.index, request.base, request.price, request.is_ask,
                _MARKET if is_market else _LIMIT,
                _IMMEDIATE_OR_CANCEL if is_market else _POST_ONLY,
                request.reduce_only, 0, 0 if is_market else request.expiry_ms, **lane,
            )  # fmt: skip
        elif isinstance(request, SignModify):
            made = client.sign_modify_order(
                request.market, request.index, request.base, request.price, **lane
            )
        elif isinstance(request, SignCancel):
            made = client.sign_cancel_order(request.market, request.index, **lane)
        else:
            made = client.sign_cancel_all_orders(request.when, request.time_ms, **lane)
        tx_type, tx_info, tx_hash, error = made
        if error is not None:
            return self._scrub(f"21501 the signer refused: {error} (not sent)")
        return Signed(int(tx_type), tx_info, tx_hash, nonce)

    def _make_token(self, now_secs: int) -> str:
        if self._client is None:
            raise RuntimeError("the signer is not open; await Signer.open() first")
        token, error = self._client.create_auth_token_with_expiry(
            _TOKEN_SECS, timestamp=now_secs, api_key_index=self.api_key_index
        )
        if error is not None:
            raise RuntimeError(f"no auth token: {error}")
        return str(token)
