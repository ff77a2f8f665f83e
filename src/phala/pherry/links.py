"""Both sides of pherry, as answers to what a round asks. What comes in is parsed here, once."""

from http import HTTPStatus
from typing import Any, Final, assert_never

from phala.codec import Malformed
from phala.crypto.hashes import blake2_256
from phala.errors import Unavailable
from phala.messages.bus import PAYLOAD_BYTES_MAX
from phala.messages.host import (
    FRAME_BYTES_MAX,
    HOST_REPLY,
    HOST_REQUEST,
    FinalizedHeader,
    HostReply,
    HostRequest,
)
from phala.messages.payloads.enclave import SIGNED_MESSAGE, SignedMessage
from phala.messages.registration import SIGNED_REGISTRATION, SignedRegistration
from phala.pherry.core.asks import (
    Ask,
    BlockAt,
    FetchBlock,
    FetchMessages,
    FetchState,
    FetchValues,
    Head,
    ProveFinality,
    Submit,
    TellWorker,
)
from phala.primitives.types import BlockNumber, Hash
from phala.sdk.chain import ChainClient, header_bytes
from phala.sdk.extrinsic import bare_extrinsic
from phala.sdk.http import HttpClient
from phala.sdk.inclusion import header_number
from phala.sdk.light import fetch_finalized, prove_finality
from phala.sdk.rpc import RpcRefused, bytes_of, hex_of

ENVELOPE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + 4096
WORKER_TIMEOUT_S: Final = 60.0  # a feed of many commands is executed before it is answered
ALREADY_IMPORTED: Final = 1013


class WorkerLink:
    """The relay door of a worker."""

    def __init__(self, url: str) -> None:
        self._http = HttpClient(url, timeout_s=WORKER_TIMEOUT_S)

    async def close(self) -> None:
        await self._http.close()

    async def tell(self, request: HostRequest) -> HostReply:
        status, answer = await self._http.send(
            "POST", "/relay", HOST_REQUEST.encode(request), bytes_max=FRAME_BYTES_MAX
        )
        if status != HTTPStatus.OK:
            shown = answer[:300].decode(errors="replace")
            raise Unavailable(
                f"the worker answered HTTP {status}: {shown}", mend="see the worker's log"
            )
        try:
            reply: HostReply = HOST_REPLY.decode(answer)
        except Malformed as error:
            raise Unavailable(
                f"the worker's answer is broken: {error.what}", mend="see the worker's log"
            ) from None
        return reply


class NodeLink:
    """What pherry asks of a node."""

    def __init__(self, client: ChainClient) -> None:
        self._client = client

    async def fetch_block(self, block: Hash) -> FinalizedHeader:
        return await fetch_finalized(self._client, block)

    async def block_at(self, number: BlockNumber) -> Head:
        found = await self._client.block_hash(number)
        if found is None:
            raise Unavailable(f"the node has no block {number}", mend="ask another node")
        return Head(number, Hash(found))

    async def prove_finality(self, number: BlockNumber) -> tuple[BlockNumber, FinalizedHeader]:
        return await prove_finality(self._client, number)

    async def fetch_state(
        self, block: Hash, keys: tuple[bytes, ...]
    ) -> tuple[tuple[bytes, ...], tuple[bytes | None, ...]]:
        proof, *values = await self._client.rpc.batch(
            [
                ("state_getReadProof", [[hex_of(key) for key in keys], hex_of(block)]),
                *(("state_getStorage", [hex_of(key), hex_of(block)]) for key in keys),
            ]
        )
        if isinstance(proof, RpcRefused):
            raise proof
        try:
            nodes = tuple(bytes_of(node) for node in proof["proof"])
        except (TypeError, KeyError):
            raise Unavailable("the node answered no proof", mend="ask another node") from None
        return nodes, tuple(_value(value) for value in values)

    async def fetch_values(self, block: Hash, keys: tuple[bytes, ...]) -> tuple[bytes | None, ...]:
        values = await self._client.rpc.batch(
            [("state_getStorage", [hex_of(key), hex_of(block)]) for key in keys]
        )
        return tuple(None if isinstance(value, RpcRefused) else _value(value) for value in values)

    async def fetch_messages(self, topic: bytes, start: int, limit: int) -> tuple[bytes, ...]:
        answer = await self._client.rpc.call("mq_getMessages", hex_of(topic), start, limit)
        if not isinstance(answer, list):
            raise Unavailable("the node answered no messages", mend="ask another node")
        envelopes = tuple(bytes_of(each) for each in answer[:limit])
        if any(len(envelope) > ENVELOPE_BYTES_MAX for envelope in envelopes):
            raise Unavailable("the node gave an endless message", mend="ask another node")
        return envelopes

    async def submit(self, message: SignedRegistration | SignedMessage) -> str | None:
        metadata = await self._client.metadata()
        match message:
            case SignedRegistration():
                front = metadata.call_front("PhalaRegistry", "register_enclave")
                body = SIGNED_REGISTRATION.encode(message)
            case SignedMessage():
                front = metadata.call_front("PhalaMq", "sync_offchain_message")
                body = SIGNED_MESSAGE.encode(message)
            case _:
                assert_never(message)
        try:
            await self._client.submit_bare(bare_extrinsic(front + body))
        except RpcRefused as refusal:
            return None if refusal.code == ALREADY_IMPORTED else refusal.what
        return None


async def answer(ask: Ask, node: NodeLink, worker: WorkerLink) -> Any:
    match ask:
        case TellWorker(request):
            return await worker.tell(request)
        case FetchBlock(block):
            return await node.fetch_block(block)
        case BlockAt(number):
            return await node.block_at(number)
        case ProveFinality(number):
            return await node.prove_finality(number)
        case FetchState(block, keys):
            return await node.fetch_state(block, keys)
        case FetchValues(block, keys):
            return await node.fetch_values(block, keys)
        case FetchMessages(topic, start, limit):
            return await node.fetch_messages(topic, start, limit)
        case Submit(message):
            return await node.submit(message)
        case _:
            assert_never(ask)


def head_of(header: Any) -> Head:
    """A finalized head as the node announces it."""
    return Head(BlockNumber(header_number(header)), Hash(blake2_256(header_bytes(header))))


def _value(value: Any) -> bytes | None:
    if isinstance(value, RpcRefused):
        raise value
    return None if value is None else bytes_of(value)
