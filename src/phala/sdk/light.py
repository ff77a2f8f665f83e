"""The client's own view of the chain: from a pinned genesis to the finalized head, state by proof.

The rules are `finality.light`'s, the same that the enclave follows; nodes can only make it wait.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from phala.codec import Bytes, Malformed, Reader
from phala.errors import Invalid, PhalaError, Refused, Unavailable
from phala.finality import BadJustification, LightHead, NotAhead, advance, read, start
from phala.messages.host import (
    FEED_HEADERS_MAX,
    JUSTIFICATION_BYTES_MAX,
    PROOF_NODES_MAX,
    FinalizedHeader,
)
from phala.messages.state import AUTHORITIES_KEY, TIMESTAMP_KEY
from phala.primitives.types import MOMENT, BlockNumber, Hash, Moment
from phala.sdk.chain import ChainClient, header_bytes
from phala.sdk.inclusion import header_number
from phala.sdk.rpc import bytes_of, hex_of

AGE_MS_MAX: Final = 60_000
AHEAD_MS_MAX: Final = 60_000  # of the chain's time before this machine's clock
START_BYTES_MAX: Final = 1024 * 1024
GRANDPA: Final = list(b"FRNK")


@dataclass(frozen=True, slots=True)
class LightStart:
    """Where a light client starts; the genesis hash alone is trusted, the rest is checked by it."""

    genesis: Hash
    header: bytes  # SCALE
    proof: tuple[bytes, ...]  # of `Grandpa.Authorities`


def load_light_start(path: Path, genesis: Hash) -> LightStart:
    """A network's `light.json`. Raises `Invalid`."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(START_BYTES_MAX))
        header = bytes.fromhex(document["header"].removeprefix("0x"))
        proof = tuple(bytes.fromhex(node.removeprefix("0x")) for node in document["proof"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise Invalid(
            f"{path} is no light start: {type(error).__name__}", mend="restore it from its network"
        ) from None
    return LightStart(genesis, header, proof)


async def fetch_light_start(chain: ChainClient, genesis: Hash) -> LightStart:
    """The same from a node that still has the genesis state."""
    header = header_bytes(await chain.header(genesis))
    return LightStart(genesis, header, await fetch_proof(chain, genesis, (AUTHORITIES_KEY,)))


async def fetch_proof(chain: ChainClient, block: Hash, keys: Sequence[bytes]) -> tuple[bytes, ...]:
    answer = await chain.rpc.call(
        "state_getReadProof", [hex_of(key) for key in keys], hex_of(block)
    )
    try:
        nodes = list(answer["proof"])
    except (TypeError, KeyError):
        raise Unavailable("the node answered no proof", mend="ask another node") from None
    if len(nodes) > PROOF_NODES_MAX:
        raise Unavailable("the node answered an endless proof", mend="ask another node")
    return tuple(bytes_of(node) for node in nodes)


async def fetch_finalized(chain: ChainClient, block: Hash) -> FinalizedHeader:
    """A block's header and its justification. `Unavailable` while there is none."""
    answer = await chain.rpc.call("chain_getBlock", hex_of(block))
    try:
        header, justifications = answer["block"]["header"], answer["justifications"]
        found = [proof for engine, proof in justifications or [] if _engine(engine) == GRANDPA]
    except (TypeError, KeyError, ValueError):
        raise Unavailable("the node answered no block", mend="ask another node") from None
    if not found:
        raise Unavailable(
            f"block 0x{block.hex()} has no justification yet", mend="wait for the next one"
        )
    return FinalizedHeader(header_bytes(header), _octets(found[0]))


async def prove_finality(
    chain: ChainClient, number: BlockNumber
) -> tuple[BlockNumber, FinalizedHeader]:
    """The last justified block of the authority set that decides `number`.

    Source: the `sc-consensus-grandpa` crate, `FinalityProof`.
    """
    reader = Reader(bytes_of(await chain.rpc.call("grandpa_proveFinality", number)))
    try:
        block = Hash(reader.take(32))
        justification = Bytes(bytes_max=JUSTIFICATION_BYTES_MAX).read(reader)
    except Malformed as error:
        raise Unavailable(
            f"the node's finality proof is broken: {error.what}", mend="ask another node"
        ) from None
    header = await chain.header(block)
    return (
        BlockNumber(header_number(header)),
        FinalizedHeader(header_bytes(header), justification),
    )


class LightView:
    """Follows the finalized chain by one or more nodes; only ever forward."""

    def __init__(self, began: LightStart, sources: Sequence[ChainClient]) -> None:
        if not sources:
            raise Invalid("a light client with no source", mend="give a node's address")
        self.began = began
        self._sources = tuple(sources)
        self.sources = len(self._sources)
        self.head: LightHead = start(began.genesis, began.header, began.proof)
        self.changes: tuple[FinalizedHeader, ...] = ()  # headers that changed the authorities
        self.last: FinalizedHeader | None = None  # the head's, when it is not genesis

    async def sync(self) -> LightHead:
        """The highest finalized block that any source can prove.

        Raises:
            PhalaError: no source answered with anything genuine; the last one's error.
        """
        errors: list[PhalaError] = []
        for source in self._sources:
            try:
                await self._follow(source)
            except PhalaError as error:
                errors.append(error)
        if len(errors) == len(self._sources):
            raise errors[-1]
        return self.head

    async def _follow(self, source: ChainClient) -> None:
        block = Hash(await source.finalized_head())
        for _ in range(FEED_HEADERS_MAX):
            if block in (self.head.hash, self.began.genesis):
                return
            try:
                self._accept(await fetch_finalized(source, block))
            except NotAhead:
                return
            except BadJustification:
                # The authorities may have changed in between: go to the end of the known set.
                number, header = await prove_finality(source, BlockNumber(self.head.number + 1))
                if number <= self.head.number:
                    raise
                self._accept(header)

    def _accept(self, given: FinalizedHeader) -> None:
        before = self.head.authorities.id
        self.head = advance(self.head, given.header, given.justification)
        self.last = given
        if self.head.authorities.id != before:
            self.changes = (*self.changes, given)

    def headers(self) -> tuple[FinalizedHeader, ...]:
        """What leads anybody from genesis to the head."""
        if self.last is None or self.last in self.changes:
            return self.changes
        return (*self.changes, self.last)

    async def prove(
        self, keys: Sequence[bytes]
    ) -> tuple[dict[bytes, bytes | None], tuple[bytes, ...]]:
        """What lies under the keys at the head, and the proof of it."""
        head = self.head  # it may move on meanwhile
        errors: list[PhalaError] = []
        for source in self._sources:
            try:
                proof = await fetch_proof(source, head.hash, keys)
                return read(head, proof, keys), proof
            except PhalaError as error:
                errors.append(error)
        raise errors[-1]

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values at the head, by proof."""
        found, _ = await self.prove(keys)
        return [found[key] for key in keys]

    async def now(self, *, age_ms_max: int | None = AGE_MS_MAX) -> Moment:
        """The head's time by proof.

        Raises:
            Refused: it lies further back than `age_ms_max`: somebody may be showing an old chain.
        """
        (data,) = await self.read([TIMESTAMP_KEY])
        return fresh(data, age_ms_max)


class ClockBehind(Refused):
    """The chain's time lies ahead of this machine's clock: then no age can be told."""

    def __init__(self, ahead_ms: int) -> None:
        super().__init__(
            f"the finalized block is {ahead_ms // 1000} s ahead of this machine's clock",
            mend="set this machine's clock; if it is right, do not trust this chain's authorities",
        )


def fresh(
    data: bytes | None,
    age_ms_max: int | None = AGE_MS_MAX,
    *,
    ahead_ms_max: int | None = AHEAD_MS_MAX,
) -> Moment:
    """`Timestamp.Now`, not older than allowed by this machine's clock, nor ahead of it.

    Raises:
        ClockBehind: it is ahead by more than `ahead_ms_max`; None allows any.
        Refused: it is older than `age_ms_max`; None allows any age.
    """
    if data is None:
        raise Unavailable("the chain has no time yet", mend="wait for its first block")
    now = MOMENT.decode(data)
    age_ms = int(time.time() * 1000) - now
    if ahead_ms_max is not None and -age_ms > ahead_ms_max:
        raise ClockBehind(-age_ms)
    if age_ms_max is not None and age_ms > age_ms_max:
        raise Refused(
            f"the finalized block is {age_ms // 1000} s old",
            mend="ask another node, or see whether this machine's clock is right",
        )
    return now


def _engine(value: Any) -> list[int]:
    return list(bytes_of(value)) if isinstance(value, str) else list(value)


def _octets(value: Any) -> bytes:
    """Bytes as a list of numbers, or as hex."""
    if isinstance(value, str):
        return bytes_of(value)
    try:
        return bytes(value)
    except (TypeError, ValueError):
        raise Unavailable("the node's justification is broken", mend="ask another node") from None
