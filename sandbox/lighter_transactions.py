"""Transactions of Lighter: read from the wire, and refused for what the API refuses at once.

Codes are those of the venue's published list (copies of 2026). Where several would fit, or which
text stands beside one, is uncertain; so is which checks the API makes and which the engine.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any, Final

from msgspec import Struct

from sandbox.lighter_account import LighterAccount
from sandbox.lighter_limits import LighterLimits
from sandbox.lighter_market import Json, Market

__all__ = [
    "CANCEL", "CANCEL_ALL", "CREATE", "MODIFY", "ApiError", "Transaction", "check_fields",
    "check_nonce", "read_transaction", "tx_hash",
]  # fmt: skip

CREATE: Final = 14
CANCEL: Final = 15
CANCEL_ALL: Final = 16
MODIFY: Final = 17

_SKIP_NONCE: Final = "4"
_CANCEL_ALL_MARKET: Final = "5"
_ORDER_VERSION: Final = "8"
_MAX_NONCE: Final = 2**47 - 1
_NIL_MARKET: Final = 255
_SIGNATURE_BYTES: Final = 80
_COMMON: Final = ("AccountIndex", "ApiKeyIndex", "ExpiredAt", "Nonce")
_OWN: Final = {
    CREATE: (
        "MarketIndex", "ClientOrderIndex", "BaseAmount", "Price", "IsAsk", "Type", "TimeInForce",
        "ReduceOnly", "TriggerPrice", "OrderExpiry",
    ),
    CANCEL: ("MarketIndex", "Index"),
    CANCEL_ALL: ("TimeInForce", "Time"),
    MODIFY: ("MarketIndex", "Index", "BaseAmount", "Price", "TriggerPrice"),
}  # fmt: skip


class ApiError(Exception):
    """The API refuses: a code of the venue and its text."""

    def __init__(self, code: int, message: str) -> None:
        """Refuse with ``code``; ``message`` is what the client reads."""
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


class Transaction(Struct, kw_only=True):
    """A transaction that was read; ``fields`` are those of its type, by their names on the wire."""

    kind: int
    account: int
    key: int
    nonce: int
    expired_at_ms: int
    fields: dict[str, int]
    attributes: dict[str, int]
    info: str
    """As it was submitted."""
    hash: str

    @property
    def skips_nonces(self) -> bool:
        """True when any larger nonce will do."""
        return self.attributes.get(_SKIP_NONCE) == 1

    @property
    def cancel_all_market(self) -> int:
        """The market that a cancel-all is limited to; 255 for all."""
        return self.attributes.get(_CANCEL_ALL_MARKET, _NIL_MARKET)

    @property
    def order_version(self) -> int:
        """The version that a modify wants to give; 0 for the next."""
        return self.attributes.get(_ORDER_VERSION, 0)


def tx_hash(kind: int, fields: Json) -> str:
    """Give a hash that depends on everything but the signature, 80 hex digits.

    It is not the venue's: that one needs Poseidon2. Correlate answers by ``id``.
    """
    text = json.dumps([kind, {k: v for k, v in sorted(fields.items()) if k != "Sig"}])
    return hashlib.blake2b(text.encode(), digest_size=40).hexdigest()


def read_transaction(kind: object, info: object) -> Transaction:
    """Read a transaction.

    Errors: ApiError for what is not one, lacks a field, or has no signature of the right shape.
    """
    try:
        number = int(str(kind))
    except ValueError:
        raise ApiError(20001, f"invalid param : tx_type: {kind}") from None
    if number not in _OWN:
        raise ApiError(21505, "unsupported tx type")
    document: Any = info
    if isinstance(info, str):
        try:
            document = json.loads(info)
        except ValueError:
            raise ApiError(21501, "invalid tx info") from None
    if not isinstance(document, dict):
        raise ApiError(21501, "invalid tx info")
    names = (*_COMMON, *_OWN[number])
    values = {name: document.get(name) for name in names}
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values.values()):
        raise ApiError(21501, "invalid tx info")
    fields: dict[str, int] = {name: document[name] for name in names}
    return Transaction(
        kind=number,
        account=fields["AccountIndex"],
        key=fields["ApiKeyIndex"],
        nonce=fields["Nonce"],
        expired_at_ms=fields["ExpiredAt"],
        fields=fields,
        attributes=_attributes(document.get("L2TxAttributes")),
        info=info if isinstance(info, str) else json.dumps(info, separators=(",", ":")),
        hash=_signed(number, document),
    )


def _attributes(given: object) -> dict[str, int]:
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(v, int) for v in given.values()):
        raise ApiError(21501, "invalid tx info")
    return {str(name): int(value) for name, value in given.items()}


def _signed(kind: int, document: Json) -> str:
    try:
        signature = base64.b64decode(str(document.get("Sig", "")), validate=True)
    except binascii.Error:
        signature = b""
    if len(signature) != _SIGNATURE_BYTES:
        raise ApiError(21120, "invalid signature")
    return tx_hash(kind, document)


def check_nonce(tx: Transaction, following: int) -> None:
    """Refuse a nonce that is not the key's next, or with SkipNonce not above its last.

    Errors: ApiError 21104.
    """
    below = _MAX_NONCE if tx.skips_nonces else following + 1
    if not following <= tx.nonce < below:
        raise ApiError(21104, "invalid nonce")


def check_fields(
    tx: Transaction, market: Market, account: LighterAccount, limits: LighterLimits, now_ns: int
) -> None:
    """Refuse what the API refuses whatever the engine would say.

    Errors: ApiError.
    """
    now_ms = now_ns // 1_000_000
    fields = tx.fields
    if tx.kind in (CREATE, MODIFY) and 0 < account.cancel_all_ms <= now_ms:
        raise ApiError(21122, "dead man's switch is due")
    if tx.kind == CANCEL_ALL:
        _check_cancel_all(tx, market, account, limits, now_ms)
        return
    if fields["MarketIndex"] != market.id:
        raise ApiError(21602, "invalid market index")
    if tx.kind == CREATE:
        _check_create(tx, market, account, limits, now_ms)
        return
    order = account.find(fields["Index"])
    if order is None:
        raise ApiError(21700, "invalid order index")
    if tx.kind == MODIFY:
        if not market.active:
            raise ApiError(21605, "invalid market status")
        _check_size(fields["BaseAmount"], least=0 if order.reduce_only else 1)
        _check_price(fields["Price"])
        if fields["TriggerPrice"]:
            raise ApiError(21729, "invalid trigger price")
        if order.tif:
            _check_minimums(market, fields["BaseAmount"], fields["Price"])


def _check_create(
    tx: Transaction, market: Market, account: LighterAccount, limits: LighterLimits, now_ms: int
) -> None:
    fields = tx.fields
    kind, tif, expiry = fields["Type"], fields["TimeInForce"], fields["OrderExpiry"]
    client, reduces = fields["ClientOrderIndex"], fields["ReduceOnly"]
    if not 0 <= client < 2**48:
        raise ApiError(21727, "invalid client order index")
    _check_size(fields["BaseAmount"], least=0 if reduces else 1)
    _check_price(fields["Price"])
    if fields["IsAsk"] not in (0, 1):
        raise ApiError(21703, "invalid is ask")
    if kind not in (0, 1):
        raise ApiError(21704, "invalid order type")  # triggered orders are not modelled
    if tif not in (0, 1, 2) or (kind == 1 and tif):
        raise ApiError(21705, "invalid order time in force")
    if reduces not in (0, 1):
        raise ApiError(21740, "invalid reduce only mode")
    if fields["TriggerPrice"]:
        raise ApiError(21729, "invalid trigger price")
    if not market.active:
        raise ApiError(21605, "invalid market status")
    ahead = expiry - now_ms
    if (tif == 0 and expiry) or (
        tif and not limits.expiry_least_ms <= ahead <= limits.expiry_most_ms
    ):
        raise ApiError(21711, "invalid order expiry")
    if tif and (fields["BaseAmount"] or not reduces):
        _check_minimums(market, fields["BaseAmount"], fields["Price"])
    held_lots = account.position.size
    if reduces and (not held_lots or (held_lots > 0) != bool(fields["IsAsk"])):
        raise ApiError(21738, "reduce only order must oppose the position")
    held = account.by_client.get(client) if client else None
    if held is not None and held.is_live:
        raise ApiError(21728, "client order index already exists")


def _check_cancel_all(
    tx: Transaction, market: Market, account: LighterAccount, limits: LighterLimits, now_ms: int
) -> None:
    tif, time_ms = tx.fields["TimeInForce"], tx.fields["Time"]
    if tif not in (0, 1, 2):
        raise ApiError(21713, "invalid cancel all time in force")
    least, most = limits.cancel_all_least_ms, limits.cancel_all_most_ms
    if (tif == 1 and not least <= time_ms - now_ms <= most) or (tif != 1 and time_ms):
        raise ApiError(21714, "invalid cancel all time")
    if tx.cancel_all_market not in (_NIL_MARKET, market.id) or (
        tif and tx.cancel_all_market != _NIL_MARKET
    ):
        raise ApiError(21602, "invalid market index")
    if tif == 0 and account.cancel_all_queued:
        raise ApiError(21712, "cancel all is already queued")


def _check_size(lots: int, *, least: int) -> None:
    if not least <= lots < 2**48:
        raise ApiError(21701, "invalid base amount")


def _check_price(ticks: int) -> None:
    if not 1 <= ticks < 2**32:
        raise ApiError(21702, "invalid price")


def _check_minimums(market: Market, lots: int, ticks: int) -> None:
    if lots < market.min_lots or lots * ticks < market.min_value:
        raise ApiError(21706, "invalid order base or quote amount")
