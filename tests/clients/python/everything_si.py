"""What any tool of the field does with a chain, by unmodified substrate-interface.

Prints one JSON object, in the shape that `test_everything.py` reads. Run by the Python that has it:

    python python/everything_si.py ws://127.0.0.1:PORT //DevAccount
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

from keys import ECDSA, Key
from substrateinterface import Keypair, KeypairType, SubstrateInterface
from substrateinterface.storage import StorageKey

PHA = 10**12
URL, URI = sys.argv[1:]
FORM = 30
TOTAL = 7 * PHA


def connect() -> Any:
    return SubstrateInterface(url=URL, ss58_format=FORM)


chain = connect()
payer = Keypair.create_from_uri(URI, ss58_format=FORM)
keys = {
    "sr25519": payer,
    "ed25519": Keypair.create_from_seed(
        blake2b(f"{URI}//ed25519".encode(), digest_size=32).hexdigest(),
        ss58_format=FORM,
        crypto_type=KeypairType.ED25519,
    ),
    "ecdsa": Key(ECDSA, blake2b(URI.encode(), digest_size=32).digest(), FORM),
}
receiver = Keypair.create_from_uri(f"{URI}//receiver", ss58_format=FORM).ss58_address


def free(who: str, at: str | None = None) -> str:
    return str(chain.query("System", "Account", [who], block_hash=at).value["data"]["free"])


def pay(who: str, amount: int) -> Any:
    arguments = {"dest": who, "value": amount}
    return chain.compose_call("Balances", "transfer_keep_alive", arguments)


def send(call: Any, scheme: str, *, mortal: bool) -> dict[str, Any]:
    era = {"period": 64} if mortal else None
    signed = chain.create_signed_extrinsic(call, keys[scheme], era=era)
    receipt = chain.submit_extrinsic(signed, wait_for_finalization=True)
    error = None if receipt.is_success else receipt.error_message
    return {
        "scheme": scheme,
        "mortal": mortal,
        "block": receipt.block_hash,
        "index": receipt.extrinsic_idx,
        "events": [
            f"{each.value['module_id']}.{each.value['event_id']}"
            for each in receipt.triggered_events
        ],
        "error": error and error["name"],
    }


heads: list[int] = []
watched: list[str] = []


def watch_heads(own: Any) -> None:
    def seen(head: Any, _: int, __: str) -> Any:
        heads.append(head["header"]["number"])
        return True if len(heads) == 4 else None

    own.subscribe_block_headers(seen)


def watch_receiver(own: Any) -> None:
    def seen(_: Any, value: Any, __: int, ___: str) -> Any:
        watched.append(str(value.value["data"]["free"]))
        return True if value.value["data"]["free"] == TOTAL else None

    key = StorageKey.create_from_storage_function(
        "System", "Account", [receiver], runtime_config=own.runtime_config, metadata=own.metadata
    )
    own.subscribe_storage([key], seen)


def ready() -> Any:
    """A connection of its own for a subscription, which blocks; made while nothing else runs."""
    own = connect()
    own.init_runtime()
    return own


threads = ThreadPoolExecutor()
watchers = [
    threads.submit(watch, own) for watch, own in [(watch_heads, ready()), (watch_receiver, ready())]
]

start = chain.get_chain_finalised_head()
accounts = [key.value for key, _ in chain.query_map("System", "Account", page_size=4)]
balance = free(payer.ss58_address)
fee = chain.get_payment_info(pay(receiver, 3 * PHA), payer)["partialFee"]
# Immortal: its estimates are.
sent = [send(pay(receiver, 3 * PHA), "sr25519", mortal=False)]
paid = int(balance) - int(free(payer.ss58_address))
calls = [pay(keys[each].ss58_address, 10 * PHA) for each in ("ed25519", "ecdsa")]
batch = send(chain.compose_call("Utility", "batch", {"calls": calls}), "sr25519", mortal=True)
sent.append(batch)
for scheme in ("ed25519", "ecdsa"):
    sent += [send(pay(receiver, PHA), scheme, mortal=each) for each in (True, False)]
failing = {"delegate": receiver, "proxy_type": "Any", "delay": 0}
failed = send(chain.compose_call("Proxy", "remove_proxy", failing), "sr25519", mortal=True)
for each in watchers:
    each.result(20)

print(
    json.dumps(
        {
            "version": version("substrate-interface"),
            "chain": chain.chain,
            "existentialDeposit": str(chain.get_constant("Balances", "ExistentialDeposit").value),
            "keys": accounts,
            "heads": heads,
            "watched": watched,
            "balance": balance,
            "fee": str(fee),
            "paid": str(paid),
            "sent": sent,
            "batch": batch,
            "failed": failed,
            "before": free(receiver, start),
            "afterFirst": free(receiver, sent[0]["block"]),
            "now": free(receiver),
            "missing": {"ecdsa": "its own key pairs sign as Ethereum does; another signs"},
        }
    )
)
