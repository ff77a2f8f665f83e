"""The chain as a program outside uses it: read, sign, submit, and learn what came of it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

from phala.codec.compact import encode_compact
from phala.errors import Invalid, PhalaError, Refused, Unavailable
from phala.primitives.types import Hash
from phala.sdk.extrinsic import (
    Mortality,
    Terms,
    extrinsic_hash,
    priced_extrinsic,
    sign_extrinsic,
)
from phala.sdk.inclusion import Included, Inclusions, header_number
from phala.sdk.keyring import Keypair
from phala.sdk.metadata import VERSIONS, EventRecord, Metadata, optional_opaque
from phala.sdk.portable import Value
from phala.sdk.rpc import Rpc, RpcRefused, bytes_of, hex_of

ERA_BLOCKS: Final = 256  # two minutes of the fastest blocks, thirteen of the slowest
WAIT_S: Final = 60.0
KEYS_PAGE: Final = 256
BLOCKS_KEPT: Final = 4  # whose events are kept decoded

Wait: TypeAlias = Literal["inBlock", "finalized"]


@dataclass(frozen=True, slots=True)
class Call:
    """A call by its names; arguments are plain values (`sdk.portable`)."""

    pallet: str
    name: str
    arguments: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class RuntimeVersion:
    spec_name: str
    spec_version: int
    transaction_version: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """An extrinsic that succeeded, where, and what happened in it."""

    hash: bytes
    number: int
    block_hash: bytes
    index: int
    events: tuple[EventRecord, ...]

    def find(self, pallet: str, name: str) -> Value:
        """The fields of an event, or None."""
        for event in self.events:
            if (event.pallet, event.name) == (pallet, name):
                return event.fields
        return None

    @property
    def fee(self) -> int:
        """Plancks."""
        paid = self.find("TransactionPayment", "TransactionFeePaid")
        return int(paid["actual_fee"]) if isinstance(paid, dict) and "actual_fee" in paid else 0


class DispatchRefused(Refused):
    """The chain included the call and its pallet said no."""

    def __init__(self, pallet: str, name: str, docs: str, *, call: str) -> None:
        super().__init__(
            f"{call} failed with {pallet}.{name}", mend=docs or "look the error up in the metadata"
        )
        self.pallet = pallet
        self.name = name


class ChainClient:
    """One node, one event loop. Use it in `async with`."""

    def __init__(self, url: str, *, timeout_s: float = 15.0) -> None:
        self.rpc = Rpc(url, timeout_s=timeout_s)
        self._inclusions = Inclusions(self.rpc)
        self._senders: dict[bytes, asyncio.Lock] = {}
        self._genesis: Hash | None = None
        self._version: RuntimeVersion | None = None
        self._metadata: tuple[int, Metadata] | None = None
        self._judging: dict[bytes, asyncio.Task[list[EventRecord]]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._judging.values():
            task.cancel()
        await asyncio.gather(*self._judging.values(), return_exceptions=True)
        await self._inclusions.close()
        await self.rpc.close()

    # ---- what chain this is

    async def genesis(self) -> Hash:
        """As the node says it: `light` checks it against a pinned one."""
        if self._genesis is None:
            self._genesis = Hash(bytes_of(await self.rpc.call("chain_getBlockHash", 0)))
        return self._genesis

    def forget(self) -> None:
        """Ask what chain this is anew: an answer of before may have been altered on its way."""
        self._genesis = self._version = self._metadata = None

    async def runtime_version(self) -> RuntimeVersion:
        answer = await self.rpc.call("state_getRuntimeVersion")
        try:
            self._version = RuntimeVersion(
                str(answer["specName"]),
                int(answer["specVersion"]),
                int(answer["transactionVersion"]),
            )
        except (TypeError, KeyError, ValueError):
            raise Unavailable("the node answered no version", mend="ask another node") from None
        return self._version

    async def metadata(self) -> Metadata:
        """Of the runtime that runs now; kept until its version changes."""
        version = self._version or await self.runtime_version()
        if self._metadata is None or self._metadata[0] != version.spec_version:
            self._metadata = version.spec_version, await self._fetch_metadata()
        return self._metadata[1]

    async def _fetch_metadata(self) -> Metadata:
        try:
            asked = hex_of(VERSIONS[0].to_bytes(4, "little"))
            answer = await self.rpc.call("state_call", "Metadata_metadata_at_version", asked)
            found = optional_opaque(bytes_of(answer))
        except RpcRefused:
            found = None
        if found is None:
            found = bytes_of(await self.rpc.call("state_getMetadata"))
        return Metadata.decode(found)

    # ---- reading

    async def head(self) -> bytes:
        return bytes_of(await self.rpc.call("chain_getBlockHash"))

    async def finalized_head(self) -> bytes:
        return bytes_of(await self.rpc.call("chain_getFinalizedHead"))

    async def header(self, block_hash: bytes | None = None) -> Any:
        """As JSON."""
        params = [] if block_hash is None else [hex_of(block_hash)]
        return await self.rpc.call("chain_getHeader", *params)

    async def block_number(self) -> int:
        return header_number(await self.header())

    async def block_hash(self, number: int) -> bytes | None:
        answer = await self.rpc.call("chain_getBlockHash", number)
        return None if answer is None else bytes_of(answer)

    async def query(self, pallet: str, item: str, *keys: Value, at: bytes | None = None) -> Value:
        """A stored value, on the node's word (`light` reads by proof)."""
        metadata = await self.metadata()
        key = metadata.storage_key(pallet, item, *keys)
        params = [hex_of(key)] if at is None else [hex_of(key), hex_of(at)]
        answer = await self.rpc.call("state_getStorage", *params)
        found = None if answer is None else bytes_of(answer)
        return metadata.decode_storage(pallet, item, found)

    async def query_map(
        self, pallet: str, item: str, *keys: Value, at: bytes | None = None
    ) -> AsyncIterator[tuple[list[Value], Value]]:
        """All entries of a map under the first keys, one page after another."""
        metadata = await self.metadata()
        prefix = hex_of(metadata.storage_key(pallet, item, *keys))
        block = hex_of(at if at is not None else await self.head())
        start = prefix
        while True:
            page = await self.rpc.call("state_getKeysPaged", prefix, KEYS_PAGE, start, block)
            if not isinstance(page, list) or not page:
                return
            found = await self.rpc.batch([("state_getStorage", [key, block]) for key in page])
            for key, value in zip(page, found, strict=True):
                if isinstance(value, RpcRefused):
                    raise value
                inside = metadata.decode_key(pallet, item, bytes_of(key))
                yield inside, metadata.decode_storage(pallet, item, bytes_of(value))
            if page[-1] <= start or len(page) < KEYS_PAGE:
                return
            start = page[-1]

    async def constant(self, pallet: str, name: str) -> Value:
        return (await self.metadata()).constant(pallet, name)

    async def events(self, block_hash: bytes) -> list[EventRecord]:
        metadata = await self.metadata()
        key = hex_of(metadata.storage_key("System", "Events"))
        answer = await self.rpc.call("state_getStorage", key, hex_of(block_hash))
        return metadata.decode_events(None if answer is None else bytes_of(answer))

    # ---- sending

    async def fee(self, call: Call, pair: Keypair) -> int:
        """Plancks that the call would cost now, without a tip."""
        terms = await self._terms(nonce=0, tip=0, mortality=None)
        metadata = await self.metadata()
        encoded = metadata.encode_call(call.pallet, call.name, call.arguments)
        extrinsic = priced_extrinsic(encoded, pair, metadata.extensions, terms)
        asked = extrinsic + len(extrinsic).to_bytes(4, "little")
        answer = await self.rpc.call(
            "state_call", "TransactionPaymentApi_query_info", hex_of(asked)
        )
        told = metadata.decode_api("TransactionPaymentApi", "query_info", bytes_of(answer))
        return int(told["partial_fee"])

    async def submit(
        self,
        call: Call,
        pair: Keypair,
        *,
        tip: int = 0,
        wait: Wait | None = "inBlock",
        timeout_s: float = WAIT_S,
    ) -> Submitted | None:
        """Sign and send one call; with `wait` None it returns when the node has it.

        Raises:
            DispatchRefused: it was included and failed.
            RpcRefused: the node does not take it.
            Unavailable: it was not included in time; it may be later.
        """
        (one,) = await self.submit_many([call], pair, tip=tip, wait=wait, timeout_s=timeout_s)
        if isinstance(one, PhalaError):
            raise one
        return one

    async def submit_many(
        self,
        calls: Sequence[Call],
        pair: Keypair,
        *,
        tip: int = 0,
        wait: Wait | None = "inBlock",
        timeout_s: float = WAIT_S,
    ) -> list[Submitted | PhalaError | None]:
        """Send calls under nonces in sequence, then wait for all; an error stands in its place."""
        await self.runtime_version()  # an upgrade may have come since the last one
        metadata = await self.metadata()
        encoded = [metadata.encode_call(each.pallet, each.name, each.arguments) for each in calls]
        async with self._senders.setdefault(pair.public, asyncio.Lock()):
            mortality = await self._mortality()
            first = await self._next_nonce(pair)
            sent = []
            for place, body in enumerate(encoded):
                terms = await self._terms(nonce=first + place, tip=tip, mortality=mortality)
                sent.append(sign_extrinsic(body, pair, metadata.extensions, terms))
            if wait is None:
                return await self._send_only(sent)
            await self._inclusions.start()
            watching = await asyncio.gather(
                *(
                    self._inclusions.watch(
                        extrinsic, account=pair.public, nonce=first + place, dies=mortality.dies
                    )
                    for place, extrinsic in enumerate(sent)
                ),
                return_exceptions=True,
            )
        names = [f"{each.pallet}.{each.name}" for each in calls]
        return list(
            await asyncio.gather(
                *(
                    self._outcome(extrinsic, future, name, wait, timeout_s)
                    for extrinsic, future, name in zip(sent, watching, names, strict=True)
                )
            )
        )

    async def submit_bare(self, extrinsic: bytes) -> bytes:
        """Give the node an extrinsic that needs no signature; returns its hash."""
        return bytes_of(await self.rpc.call("author_submitExtrinsic", hex_of(extrinsic)))

    async def _send_only(self, sent: list[bytes]) -> list[Submitted | PhalaError | None]:
        answers = await self.rpc.batch(
            [("author_submitExtrinsic", [hex_of(extrinsic)]) for extrinsic in sent]
        )
        return [answer if isinstance(answer, RpcRefused) else None for answer in answers]

    async def _outcome(
        self,
        extrinsic: bytes,
        future: asyncio.Future[Included] | BaseException,
        name: str,
        wait: Wait,
        timeout_s: float,
    ) -> Submitted | PhalaError:
        try:
            if isinstance(future, BaseException):
                raise future
            async with asyncio.timeout(timeout_s):
                included = await future
                if wait == "finalized":
                    await self._inclusions.until_finalized(included)
                return await self._judge(extrinsic, included, name)
        except TimeoutError:
            return Unavailable(
                f"{name} was not {'included' if wait == 'inBlock' else 'final'} in {timeout_s} s",
                mend="look for it on the chain before sending it again",
            )
        except PhalaError as error:
            return error

    async def _judge(self, extrinsic: bytes, included: Included, name: str) -> Submitted:
        happened = await self._events_once(included.block_hash)
        events = tuple(event for event in happened if event.extrinsic == included.index)
        for event in events:
            if (event.pallet, event.name) == ("System", "ExtrinsicFailed"):
                raise await self.dispatch_error(event.fields, call=name)
        return Submitted(
            hash=extrinsic_hash(extrinsic),
            number=included.number,
            block_hash=included.block_hash,
            index=included.index,
            events=events,
        )

    async def _events_once(self, block_hash: bytes) -> list[EventRecord]:
        """For the many that were sent together and stand in one block."""
        task = self._judging.get(block_hash)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            while len(self._judging) >= BLOCKS_KEPT:
                self._judging.pop(next(iter(self._judging)))
            task = asyncio.create_task(self.events(block_hash))
            self._judging[block_hash] = task
        return await asyncio.shield(task)

    async def dispatch_error(self, fields: Value, *, call: str) -> DispatchRefused:
        """What `ExtrinsicFailed` tells, in the chain's own words."""
        error = fields.get("dispatch_error") if isinstance(fields, dict) else None
        if isinstance(error, dict) and isinstance(error.get("Module"), dict):
            module = error["Module"]
            metadata = await self.metadata()
            found = metadata.error(int(module["index"]), bytes(module["error"]))
            return DispatchRefused(found.pallet, found.name, found.docs, call=call)
        if isinstance(error, dict):
            ((kind, inner),) = error.items()
            return DispatchRefused(str(kind), str(inner), "", call=call)
        return DispatchRefused("System", str(error), "", call=call)

    async def _terms(self, *, nonce: int, tip: int, mortality: Mortality | None) -> Terms:
        version = self._version or await self.runtime_version()
        return Terms(
            genesis=await self.genesis(),
            spec_version=version.spec_version,
            transaction_version=version.transaction_version,
            nonce=nonce,
            tip=tip,
            mortality=mortality,
        )

    async def _mortality(self) -> Mortality:
        born_hash = await self.finalized_head()
        born = header_number(await self.header(born_hash))
        return Mortality(born, born_hash, ERA_BLOCKS)

    async def _next_nonce(self, pair: Keypair) -> int:
        """The chain's, or the one behind what this client has under way."""
        answer = await self.rpc.call("system_accountNextIndex", pair.address)
        if not isinstance(answer, int):
            raise Unavailable("the node answered no nonce", mend="ask another node")
        under_way = self._inclusions.nonces(pair.public)
        return max([answer, *(nonce + 1 for nonce in under_way)])


def header_bytes(header: Any) -> bytes:
    """SCALE of a header that a node gave as JSON; its hash is the block's."""
    try:
        logs = [bytes_of(log) for log in header["digest"]["logs"]]
        words = [bytes_of(header[name]) for name in ("parentHash", "stateRoot", "extrinsicsRoot")]
    except (TypeError, KeyError):
        raise Unavailable("the node answered no header", mend="ask another node") from None
    if any(len(word) != 32 for word in words):
        raise Invalid("a header's hashes have 32 bytes", mend="ask another node")
    parent, state, extrinsics = words
    number = encode_compact(header_number(header))
    return parent + number + state + extrinsics + encode_compact(len(logs)) + b"".join(logs)
