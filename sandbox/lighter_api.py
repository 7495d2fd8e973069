"""The stand-in's API for transactions, the same for REST and the WebSocket."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from sandbox.faults import Fault, FaultKind
from sandbox.lighter_account import LighterAccount
from sandbox.lighter_engine import Engine
from sandbox.lighter_limits import LighterLimits, Window
from sandbox.lighter_market import Json, Market
from sandbox.lighter_transactions import (
    CANCEL,
    CREATE,
    ApiError,
    Transaction,
    check_fields,
    check_nonce,
    read_transaction,
)

__all__ = ["Api"]

_FREE: Final = json.dumps({"ratelimit": "didn't use volume quota"})


class Api:
    """Checks transactions and hands them to the engine; refuses with ``ApiError``."""

    def __init__(
        self,
        market: Market,
        accounts: dict[int, LighterAccount],
        engine: Engine,
        limits: LighterLimits,
        now: Callable[[], int],
        take: Callable[[FaultKind], Fault | None],
        wake: Callable[[], None],
    ) -> None:
        """``now`` is the venue's clock, ns; ``take`` uses up a fault that is due.

        ``wake`` is called when the engine has something new to do.
        """
        self.address = Window(limits.requests_per_minute)
        """What the one address that everybody here comes from has used."""
        self._market = market
        self._accounts = accounts
        self._engine = engine
        self._limits = limits
        self._now = now
        self._take = take
        self._wake = wake

    def submit(self, kind: object, info: object, *, counted: bool) -> Json:
        """Take one transaction; return what is answered.

        ``counted``: the request was counted already, as REST requests are.
        Errors: ApiError; then the nonce is not used up.
        """
        tx = read_transaction(kind, info)
        account = self._admit([tx], counted=counted)
        check_nonce(tx, account.nonces[tx.key])
        now = self._now()
        check_fields(tx, self._market, account, self._limits, now)
        refusal, is_free = self._pay(account, tx, single=True)
        if refusal is not None:
            raise refusal
        account.nonces[tx.key] = tx.nonce + 1
        ready = self._engine.accept(now, account, tx)
        return self._answer(account, tx.hash, ready, is_free=is_free)

    def submit_batch(self, kinds: object, infos: object, *, counted: bool) -> Json:
        """Take a batch: two JSON arrays as text; return what is answered.

        What every transaction must have is checked of all before any is taken. What is wrong with
        one alone lets that one fail in the engine, unless it is wrong with all (uncertain).
        Errors: ApiError; then no nonce is used up.
        """
        txs = _read_batch(kinds, infos, self._limits.batch)
        account = self._admit(txs, counted=counted)
        following = account.nonces[txs[0].key]
        for tx in txs:
            check_nonce(tx, following)
            following = tx.nonce + 1
        now = self._now()
        ready, taken, held = now, False, list[tuple[Transaction, ApiError]]()
        for tx in txs:
            refusal: ApiError | None = None
            try:
                check_fields(tx, self._market, account, self._limits, now)
                refusal, _ = self._pay(account, tx, single=False)
            except ApiError as error:
                refusal = error
            if refusal is not None and not taken:
                held.append((tx, refusal))  # until one is sound: else nothing must happen
                continue
            for late, why in held:
                self._engine.accept(now, account, late, str(why))
            held.clear()
            taken = True
            ready = self._engine.accept(now, account, tx, str(refusal or ""))
        if not taken:
            raise held[0][1]
        account.nonces[txs[0].key] = following
        return self._answer(account, [tx.hash for tx in txs], ready, is_free=False)

    def _admit(self, txs: list[Transaction], *, counted: bool) -> LighterAccount:
        """Check whose transactions these are, and that not too many are sent."""
        first = txs[0]
        account = self._accounts.get(first.account)
        if account is None:
            raise ApiError(21100, "account not found")
        if first.key not in account.keys:
            raise ApiError(21109, "api key not found")
        now = self._now()
        if not (counted or self._limits.weighted or self.address.admit(now)):
            raise ApiError(23000, "Too Many Requests!")
        if not account.allowance.request(now):
            raise ApiError(23000, "Too Many Requests!")
        if any(tx.expired_at_ms <= now // 1_000_000 for tx in txs):
            raise ApiError(21501, "invalid tx info: expired")
        if self._take("nonce_rejected"):
            raise ApiError(21104, "invalid nonce")
        return account

    def _pay(
        self, account: LighterAccount, tx: Transaction, *, single: bool
    ) -> tuple[ApiError | None, bool]:
        """Count a transaction against the account; tell why not, and whether it was free."""
        if tx.kind == CREATE and tx.fields["TimeInForce"]:
            reason = account.allowance.refusal(self._market.symbol)
            if reason:
                code, text = reason.split(" ", 1)
                return ApiError(int(code), text), False
        if tx.kind == CANCEL:
            return None, False
        spent = account.allowance.quota_left == 0
        if self._take("quota_spent") or not account.allowance.spend(self._now(), single=single):
            return ApiError(23000, "volume quota exhausted"), False
        return None, spent

    def _answer(
        self, account: LighterAccount, given: str | list[str], ready: int, *, is_free: bool
    ) -> Json:
        self._wake()
        answer: Json = {
            "code": 200,
            "tx_hash": given,
            "predicted_execution_time_ms": ready // 1_000_000,
        }
        if is_free:
            answer["message"] = _FREE
        # An account without a quota is told none (uncertain).
        if account.allowance.quota_left is not None:
            answer["volume_quota_remaining"] = account.allowance.quota_left
        return answer


def _read_batch(kinds: object, infos: object, most: int) -> list[Transaction]:
    try:
        types = json.loads(kinds) if isinstance(kinds, str) else kinds
        texts = json.loads(infos) if isinstance(infos, str) else infos
    except ValueError:
        raise ApiError(20001, "invalid param : tx_types or tx_infos") from None
    if not isinstance(types, list) or not isinstance(texts, list) or not types:
        raise ApiError(20001, "invalid param : tx_types or tx_infos")
    if len(types) != len(texts):
        raise ApiError(21513, "tx types and tx infos differ in length")
    if len(types) > most:
        raise ApiError(21514, f"batch is larger than {most}")
    txs = [read_transaction(kind, text) for kind, text in zip(types, texts, strict=True)]
    if len({(tx.account, tx.key) for tx in txs}) > 1:
        raise ApiError(21121, "all txs of a batch must have one account and api key")
    if any(after.nonce <= before.nonce for before, after in pairwise(txs)):
        raise ApiError(21105, "nonces of a batch must increase")
    return txs
