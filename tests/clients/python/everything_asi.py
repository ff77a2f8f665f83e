"""What any tool of the field does with a chain, by unmodified async-substrate-interface.

Prints one JSON object, in the shape that `test_everything.py` reads. Run by the Python that has it:

    python python/everything_asi.py ws://127.0.0.1:PORT //DevAccount
"""

import asyncio
import json
import sys
from contextlib import suppress
from hashlib import blake2b
from importlib.metadata import version
from itertools import product
from typing import Any

from async_substrate_interface import AsyncSubstrateInterface
from keys import ECDSA, ED25519, SR25519, Key

PHA = 10**12
URL, URI = sys.argv[1:]
FORM = 30
TOTAL = 7 * PHA


class Enough(Exception):
    """The watched value came."""


class Story:
    """One account's doings."""

    def __init__(self, chain: Any) -> None:
        self.chain = chain
        self.keys = {
            "sr25519": Key.dev(URI, FORM),
            "ed25519": Key(ED25519, seed("ed25519"), FORM),
            "ecdsa": Key(ECDSA, seed("ecdsa"), FORM),
        }
        self.payer = self.keys["sr25519"]
        self.receiver = Key(SR25519, seed("receiver"), FORM).ss58_address

    async def free(self, who: str, at: str | None = None) -> str:
        found = await self.chain.query("System", "Account", [who], block_hash=at)
        return str(found["data"]["free"])

    async def pay(self, who: str, amount: int) -> Any:
        arguments = {"dest": who, "value": amount}
        return await self.chain.compose_call("Balances", "transfer_keep_alive", arguments)

    async def send(self, call: Any, scheme: str, *, mortal: bool) -> dict[str, Any]:
        era = {"period": 64} if mortal else None
        signed = await self.chain.create_signed_extrinsic(call, self.keys[scheme], era=era)
        receipt = await self.chain.submit_extrinsic(signed, wait_for_finalization=True)
        error = None if await receipt.is_success else await receipt.error_message
        return {
            "scheme": scheme,
            "mortal": mortal,
            "block": receipt.block_hash,
            "index": await receipt.extrinsic_idx,
            "events": [
                f"{each['event']['module_id']}.{each['event']['event_id']}"
                for each in await receipt.triggered_events
            ],
            "error": error and error["name"],
        }


def seed(name: str) -> bytes:
    return blake2b(f"{URI}//{name}".encode(), digest_size=32).digest()


async def watch_heads(heads: list[int]) -> None:
    async def seen(head: Any) -> Any:
        heads.append(head["header"]["number"])
        return {"done": True} if len(heads) == 4 else None

    async with AsyncSubstrateInterface(URL, ss58_format=FORM) as chain:
        await chain.subscribe_block_headers(seen)


async def watch_account(who: str, watched: list[str]) -> None:
    async def seen(_: Any, value: Any, __: str) -> None:
        watched.append(str(value["data"]["free"]))
        if value["data"]["free"] == TOTAL:
            raise Enough

    async with AsyncSubstrateInterface(URL, ss58_format=FORM) as chain:
        key = await chain.create_storage_key("System", "Account", [who])
        with suppress(Enough):
            await chain.subscribe_storage([key], seen)


async def told(chain: Any) -> dict[str, Any]:
    story = Story(chain)
    receiver, payer = story.receiver, story.payer.ss58_address
    heads: list[int] = []
    watched: list[str] = []
    watching_heads = asyncio.create_task(watch_heads(heads))

    start = await chain.get_chain_finalised_head()
    found = await chain.query_map("System", "Account", page_size=4, fully_exhaust=False)
    accounts = [key async for key, _ in found]
    balance = await story.free(payer)
    estimate = await chain.get_payment_info(await story.pay(receiver, 3 * PHA), story.payer)
    # Immortal: its estimates are.
    first = await story.send(await story.pay(receiver, 3 * PHA), "sr25519", mortal=False)
    watching = asyncio.gather(watching_heads, watch_account(receiver, watched))
    paid = int(balance) - int(await story.free(payer))
    calls = [
        await story.pay(story.keys[each].ss58_address, 10 * PHA) for each in ("ed25519", "ecdsa")
    ]
    both = await chain.compose_call("Utility", "batch", {"calls": calls})
    batch = await story.send(both, "sr25519", mortal=True)
    sent = [first, batch]
    for scheme, mortal in product(("ed25519", "ecdsa"), (True, False)):
        sent += [await story.send(await story.pay(receiver, PHA), scheme, mortal=mortal)]
    failing = {"delegate": receiver, "proxy_type": "Any", "delay": 0}
    call = await chain.compose_call("Proxy", "remove_proxy", failing)
    failed = await story.send(call, "sr25519", mortal=True)
    await asyncio.wait_for(watching, 10)
    deposit = await chain.get_constant("Balances", "ExistentialDeposit")
    return {
        "version": version("async-substrate-interface"),
        "chain": chain.chain,
        "existentialDeposit": str(getattr(deposit, "value", deposit)),
        "keys": accounts,
        "heads": heads,
        "watched": watched,
        "balance": balance,
        "fee": str(estimate["partial_fee"]),
        "paid": str(paid),
        "sent": sent,
        "batch": batch,
        "failed": failed,
        "before": await story.free(receiver, start),
        "afterFirst": await story.free(receiver, first["block"]),
        "now": await story.free(receiver),
        "missing": {
            "keys": "it brings none: any key pair of four attributes will do",
            "absent values": "a subscription to a value that is not there yet raises TypeError",
            "last value": "a handler of storage that returns something ends in a TypeError",
        },
    }


async def main() -> None:
    async with AsyncSubstrateInterface(URL, ss58_format=FORM) as chain:
        print(json.dumps(await told(chain)))


asyncio.run(main())
