"""The signer: what it signs, what it refuses, how nonces are counted, and that the key stays in."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from sinks.lighter_signer import (
    ABORT,
    CANCEL_ALL,
    CANCEL_ORDER,
    CREATE_ORDER,
    MODIFY_ORDER,
    SCHEDULED,
    Lane,
    Request,
    SignCancel,
    SignCancelAll,
    SignCreate,
    Signed,
    Signer,
    SigningError,
    SignModify,
    refusal,
)

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
EXPIRY_MS = NOW_MS + DAY_MS
KEY = "0x" + "5ec2e7" * 13 + "11"


class Wall:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.ns = NOW_MS * 1_000_000

    def __call__(self) -> int:
        return self.ns


def a_signer(key: str = KEY, wall: Wall | None = None) -> Signer:
    return Signer(
        url="http://127.0.0.1:1", account_index=123, api_key_index=5, private_key=key,
        now_ns=wall or Wall(), chain_id=304,
    )  # fmt: skip


@pytest_asyncio.fixture
async def signer() -> AsyncIterator[Signer]:
    made = a_signer()
    await made.open()
    yield made
    await made.close()


@pytest.mark.asyncio
async def test_a_batch_gets_increasing_nonces_and_what_is_refused_uses_none(
    signer: Signer,
) -> None:
    requests: list[Request] = [
        SignCreate(110, 7 << 32 | 1, 50, 207_100, True, EXPIRY_MS),
        SignCreate(110, 7 << 32 | 2, 0, 207_100, True, EXPIRY_MS),
        SignModify(110, 7 << 32 | 1, 60, 207_200),
        SignCancel(110, 7 << 32 | 1),
        SignCancelAll(ABORT),
    ]
    create, refused, modify, cancel, cancel_all = await signer.sign(requests, 42)

    assert refused == "21701 size 0 lots is not between 1 and 281474976710655 (not sent)"
    made = [create, modify, cancel, cancel_all]
    assert [one.tx_type for one in made if isinstance(one, Signed)] == [
        CREATE_ORDER, MODIFY_ORDER, CANCEL_ORDER, CANCEL_ALL,
    ]  # fmt: skip
    infos = [json.loads(one.tx_info) for one in made if isinstance(one, Signed)]
    assert [info["Nonce"] for info in infos] == [42, 43, 44, 45]
    assert {info["ApiKeyIndex"] for info in infos} == {5}
    assert {key: infos[0][key] for key in (
        "MarketIndex", "ClientOrderIndex", "BaseAmount", "Price", "IsAsk", "Type", "TimeInForce",
        "OrderExpiry",
    )} == {
        "MarketIndex": 110, "ClientOrderIndex": 7 << 32 | 1, "BaseAmount": 50, "Price": 207_100,
        "IsAsk": 1, "Type": 0, "TimeInForce": 2, "OrderExpiry": EXPIRY_MS,
    }  # fmt: skip


@pytest.mark.asyncio
async def test_a_market_order_is_immediate_or_cancel_without_expiry(signer: Signer) -> None:
    (one,) = await signer.sign([SignCreate(110, 9, 50, 207_100, False, None)], 1)
    assert isinstance(one, Signed)
    info = json.loads(one.tx_info)
    assert (info["Type"], info["TimeInForce"], info["OrderExpiry"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("request_", "begins"),
    [
        (SignCreate(1, 0, 1, 1, True, EXPIRY_MS), "21727 client order index 0"),
        (SignCreate(1, 2**48, 1, 1, True, EXPIRY_MS), "21727 client order index"),
        (SignCreate(1, 1, 2**48, 1, True, EXPIRY_MS), "21701 size"),
        (SignCreate(1, 1, 1, 0, True, EXPIRY_MS), "21702 price 0"),
        (SignCreate(1, 1, 1, 2**32, True, EXPIRY_MS), "21702 price 4294967296"),
        (SignCreate(1, 1, 1, -1, True, None), "21702 price -1"),
        (SignCreate(1, 1, 1, 1, True, NOW_MS + 299_999), "21711 expiry in 299999 ms"),
        (SignCreate(1, 1, 1, 1, True, NOW_MS + 30 * DAY_MS + 1), "21711 expiry"),
        (SignModify(1, 0, 1, 1), "21700 index 0"),
        (SignModify(1, 1, 0, 1), "21701 size 0"),
        (SignModify(1, 1, 1, 2**32), "21702 price"),
        (SignCancel(1, 2**60), "21700 index"),
        (SignCancelAll(SCHEDULED, NOW_MS + 299_999), "21714 cancel-all"),
        (SignCancelAll(SCHEDULED, NOW_MS + 15 * DAY_MS + 1), "21714 cancel-all"),
    ],
)
def test_what_the_sdk_would_let_through_is_refused(request_: Request, begins: str) -> None:
    assert refusal(request_, NOW_MS).startswith(begins)


@pytest.mark.parametrize(
    "request_",
    [
        SignCreate(1, 2**48 - 1, 2**48 - 1, 2**32 - 1, True, NOW_MS + 300_000),
        SignCreate(1, 1, 1, 1, False, NOW_MS + 30 * DAY_MS),
        SignCreate(1, 1, 1, 1, False, None),
        SignModify(1, 2**60 - 1, 1, 1),
        SignCancel(1, 1),
        SignCancelAll(SCHEDULED, NOW_MS + 300_000),
        SignCancelAll(ABORT),
    ],
)
def test_the_bounds_themselves_are_fine(request_: Request) -> None:
    assert refusal(request_, NOW_MS) == ""


@pytest.mark.asyncio
async def test_a_token_is_kept_until_it_is_near_its_end() -> None:
    wall = Wall()
    signer = a_signer(wall=wall)
    await signer.open()
    first = await signer.token()
    expiry, account, key, _ = first.split(":")
    assert (int(expiry), account, key) == (NOW_MS // 1000 + 3600, "123", "5")
    wall.ns += 2_600 * 10**9
    assert await signer.token() == first
    wall.ns += 200 * 10**9
    assert int((await signer.token()).split(":")[0]) == wall.ns // 10**9 + 3600
    await signer.close()


@pytest.mark.asyncio
async def test_the_key_is_in_no_repr_log_or_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "0xca11ab1e" + "zz" * 36
    bad = a_signer(canary)
    with pytest.raises(SigningError) as caught:
        await bad.open()
    await bad.close()
    assert caught.value.__cause__ is None
    good = a_signer()
    await good.open()

    def fail(*_: object, **__: object) -> None:
        raise ValueError(f"bad key {KEY} {KEY[2:]}")

    good._client.sign_cancel_order = fail
    with pytest.raises(SigningError, match="<private key>") as leaked:
        await good.sign([SignCancel(1, 1)], 1)
    good._client.sign_cancel_order = lambda *_, **__: (None, None, None, f"no: {KEY}")
    (text,) = await good.sign([SignCancel(1, 1)], 1)
    said = [
        repr(good), repr(bad), repr(caught.value), repr(leaked.value), str(text), caplog.text,
        *(repr(record.__dict__) for record in caplog.records),
    ]  # fmt: skip
    for one in said:
        assert KEY[2:] not in one
        assert canary[2:] not in one
    await good.close()


@pytest.mark.asyncio
async def test_signing_does_not_hold_up_the_loop(signer: Signer) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await signer.sign([SignCancel(1, 1)] * 15, 1)
    ticking.cancel()
    assert ticks > 1


@pytest.mark.asyncio
async def test_a_refused_nonce_is_next_again_unless_more_were_sent() -> None:
    lane = Lane()
    assert lane.next is None
    lane.sync(7)
    lane.sent([7])
    lane.settle([7])
    lane.unused(7)
    assert lane.next == 7
    lane.sent([7])
    lane.sent([8, 9])
    lane.settle([7])
    lane.unused(7)
    assert lane.next is None  # 8 and 9 will be refused: the venue has to be asked
    waiting = asyncio.create_task(lane.idle())
    await asyncio.sleep(0)
    assert not waiting.done()
    lane.settle([8, 9])
    await waiting


def test_the_vendors_sdk_leaves_the_recursion_limit_as_it_was() -> None:
    code = (
        "import sys\nfrom sinks.lighter_signer import vendor_sdk\n"
        "before = sys.getrecursionlimit()\n"
        "vendor_sdk()\nsys.exit(sys.getrecursionlimit() != before)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
