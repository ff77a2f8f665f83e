"""A network that a command talks to, judged by what this machine believes of its genesis."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from phala.cli.options import Place
from phala.cli.render import pha
from phala.devnet.files import home, save_bytes
from phala.errors import Invalid, PhalaError, Refused, Unavailable
from phala.messages.calls import ERROR_ARGUMENTS, ERROR_CODE, ERROR_TIME
from phala.messages.collateral import AMD, INTEL, AmdItems, IntelItems
from phala.primitives.types import Hash
from phala.sdk.calls import Answer, CallFailed
from phala.sdk.chain import ChainClient, Submitted
from phala.sdk.extrinsic import bare_extrinsic
from phala.sdk.light import load_light_start
from phala.sdk.sync import Phala
from phala.sdk.trust import Trust, find_trust, load_trust


class CallInvalid(Invalid):
    """The call can never be right: no such method, other arguments, a source that does not load."""


class CallLate(Unavailable):
    """The call took longer than it may here and now."""


FAMILY: Final[dict[int, type[PhalaError]]] = {
    ERROR_ARGUMENTS: CallInvalid,
    ERROR_CODE: CallInvalid,
    ERROR_TIME: CallLate,
}


def trust_of(place: Place) -> Trust:
    """What this machine believes: of its own network what it wrote down itself, of others what
    somebody put into `$PHALA_HOME/trust`, else the production policy."""
    if place.own:
        return load_trust(place.files.trust)
    genesis = asyncio.run(_fetch_genesis(place.nodes[0]))
    return find_trust(genesis, home(), network=place.files.folder)


async def _fetch_genesis(url: str) -> Hash:
    async with ChainClient(url) as chain:
        return await chain.genesis()


@contextmanager
def connected(place: Place) -> Iterator[Phala]:
    """The network, followed from its genesis. A call on it that failed is raised in the family of
    who can mend it."""
    if place.worker is None:
        raise Invalid("no worker is named", mend="name one with --worker http://HOST:PORT")
    trust = trust_of(place)
    began = load_light_start(place.files.light, trust.genesis) if place.own else None
    with Phala.connect(place.nodes, place.worker, trust, began=began) as network:
        try:
            yield network
        except CallFailed as failed:
            family = FAMILY.get(failed.kind)
            if family is None:
                raise
            raise family(failed.what, mend=failed.mend) from None


def save_receipt(phala: Phala, answer: Answer, path: Path | None) -> str | None:
    """Write the bundle that `phala verify` takes; where it went."""
    if path is None:
        return None
    bundle = phala.collect_bundle(answer)
    try:
        save_bytes(path.absolute(), bundle.encode())
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error}", mend="name another file") from None
    return str(path)


def collateral_call(items: dict[str, bytes]) -> tuple[str, bytes]:
    """Which call of `PhalaCollateral` takes a vendor's collateral, and its arguments.

    Raises:
        Invalid: the items are not exactly those that the chain takes.
    """
    amd = {name: items[name] for name in ("amd_crl", "amd_chain") if name in items}
    try:
        if amd:  # a chip's own key comes with its report
            return "submit_amd", AMD.encode(AmdItems(**amd))
        return "submit_intel", INTEL.encode(IntelItems(**items))
    except TypeError:
        raise Invalid(
            f"the collateral has {', '.join(sorted(items))}",
            mend="give one file with all of it, as phala collateral fetch saves it",
        ) from None


def submit_collateral(node: str, items: dict[str, bytes]) -> tuple[str, bytes]:
    """Give a node a vendor's collateral; the call's name, and the extrinsic's hash.

    Raises:
        Invalid: see `collateral_call`.
        RpcRefused: the chain says that it is no news, or not genuine at its time.
    """
    name, body = collateral_call(items)

    async def sent() -> bytes:
        async with ChainClient(node) as chain:
            front = (await chain.metadata()).call_front("PhalaCollateral", name)
            return await chain.submit_bare(bare_extrinsic(front + body))

    return f"PhalaCollateral.{name}", asyncio.run(sent())


def placed(submitted: Submitted) -> dict[str, Any]:
    """Where an extrinsic stands, for programs."""
    return {
        "extrinsic": "0x" + submitted.hash.hex(),
        "block": "0x" + submitted.block_hash.hex(),
        "number": submitted.number,
        "index": submitted.index,
        "fee_plancks": str(submitted.fee),
    }


def placed_text(submitted: Submitted) -> str:
    return f"block {submitted.number}, fee {pha(submitted.fee)}"


def answered(answer: Answer) -> dict[str, Any]:
    """What an answer's receipt says, for programs."""
    body = answer.receipt.body
    return {
        "call": "0x" + body.call.hex(),
        "code_id": "0x" + body.code_id.hex(),
        "worker": "0x" + body.worker.hex(),
        "height": body.height,
        "count": body.count,
        "fuel_class": answer.outcome.fuel_class,
        "events": [
            {"name": event.name, "data": event_data(event.data)} for event in answer.outcome.events
        ],
    }


def event_data(data: bytes) -> Any:
    """`phat` writes JSON; a contract that writes past it gets its bytes shown as text."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode(errors="replace")


def result_text(value: Any) -> str:
    """A result for people: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
