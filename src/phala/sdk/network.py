"""A whole network as one program uses it: deploy, command, query; each answer checked.

Nothing is encrypted to a worker that was not verified under this machine's policy, and no answer
is returned whose receipt was not checked. There is no option to leave a check out.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from phala.errors import PhalaError, Refused, Unavailable
from phala.messages.calls import code_id, contract_id
from phala.messages.fuel import FUEL_DEFAULT
from phala.messages.payloads.cluster import KIND_PY_SOURCE
from phala.messages.state import (
    ContractInfo,
)
from phala.messages.types import ClusterId, CodeId, ContractId, Count
from phala.primitives.types import BlockNumber, Moment
from phala.sdk.bundle import Bundle
from phala.sdk.calls import (
    SESSION_LEFT_MS_MIN,
    Answer,
    CallFailed,
    Pending,
    Place,
    ReceiptRefused,
    Session,
    encode_arguments,
    open_reply,
    open_session,
    prepare_deploy,
    seal_command,
    seal_query,
)
from phala.sdk.chain import Call, ChainClient, Submitted
from phala.sdk.keyring import Keypair
from phala.sdk.light import LightStart, LightView, fetch_light_start
from phala.sdk.ratls import SCHEME, TlsPeer
from phala.sdk.trust import Trust
from phala.sdk.verify import proven_keys
from phala.sdk.view import PAUSE_S, TrustedView, VerifiedWorker
from phala.sdk.worker import WorkerClient

T = TypeVar("T")

COMMAND_BLOCKS: Final = 1_200  # ten minutes of the fastest blocks
OUTCOME_S: Final = 60.0
RETRY_S: Final = 10.0  # for a worker that is some blocks behind its client
POLL_S: Final = 0.05  # of the chain, for what takes blocks
SALT_BYTES: Final = 32
STATE_LIVE: Final = 1
STATE_FAILED: Final = 2


@dataclass(frozen=True, slots=True)
class Sent:
    """A command or deployment that stands in a block; its outcome is still to come."""

    pending: Pending
    submitted: Submitted
    cluster: ClusterId


@dataclass(frozen=True, slots=True)
class Deployed:
    """A contract that is live."""

    contract: ContractId
    code_id: CodeId
    cluster: ClusterId
    submitted: Submitted
    answer: Answer


class Network:
    """A chain and a worker of it. Open it with `Network.connect`, close it by `async with`."""

    def __init__(
        self, chain: ChainClient, light: LightView, worker: WorkerClient, trust: Trust
    ) -> None:
        self.chain = chain
        self.light = light
        self.view = TrustedView(light, worker, trust)
        self.worker = worker
        self.trust = trust
        self._stack = AsyncExitStack()
        self._sessions: dict[bytes, Session] = {}
        self._counts: dict[ClusterId, Count] = {}
        self._clusters: dict[ContractId, ClusterId] = {}

    @classmethod
    async def connect(
        cls,
        node: str | Sequence[str],
        worker: str,
        trust: Trust,
        *,
        began: LightStart | None = None,
    ) -> Self:
        """Reach a network and follow it from its pinned genesis to its finalized head.

        Args:
            node: WebSocket addresses; another policy than `dev` asks for two.
            worker: an HTTP address; or `ratls://HOST:PORT`, whose TLS ends in the enclave: its
                certificate is judged by the policy that `trust` has for the chain.
            trust: what this machine believes of the chain (`sdk.trust`).
            began: the network's `light.json`; without it a node must have the genesis state.
        """
        async with AsyncExitStack() as stack:
            urls = [node] if isinstance(node, str) else list(node)
            chains = [await stack.enter_async_context(ChainClient(url)) for url in urls]
            start = began or await fetch_light_start(chains[0], trust.genesis)
            light = LightView(start, chains)
            peer = None
            if worker.startswith(f"{SCHEME}://"):
                peer = TlsPeer.of(trust, lambda: Moment(time.time_ns() // 1_000_000))
            client = await stack.enter_async_context(WorkerClient(worker, peer=peer))
            network = cls(chains[0], light, client, trust)
            if peer is not None:
                peer.kept = network.view.collateral_of
            network._stack = stack.pop_all()
        return network

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    # ---- what is there

    async def verify_worker(self) -> VerifiedWorker:
        """The worker, judged now: listed by proof, evidence under this machine's policy."""
        return await self.view.verify_worker()

    async def contract_info(self, contract: ContractId) -> ContractInfo:
        """By proof."""
        info = await self.view.contract_info(contract)
        self._clusters[contract] = info.cluster
        return info

    async def first_cluster(self) -> ClusterId:
        """The cluster that is used where none is named: on the node's word, nothing hangs on it."""
        async for keys, _ in self.chain.query_map("PhalaPhatContracts", "ClusterStates"):
            return ClusterId(keys[0])
        raise Refused("the network has no cluster", mend="ask its makers for one")

    # ---- queries

    async def query(
        self,
        contract: ContractId,
        method: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        signer: Keypair | None = None,
        code_id: CodeId | None = None,
        timeout_s: float = RETRY_S,
    ) -> Answer:
        """Ask privately; nothing changes. Without a signer the caller is anonymous.

        `Answer.value()` is the result. An answer that is older than an outcome this client has
        seen of the same cluster is refused.

        Raises:
            Refused, Invalid: the worker cannot be verified, or it refused; nothing was sent to a
                worker that is not verified.
            ReceiptRefused: the answer is not what was asked for.
            Unavailable: the worker is too far behind, or away.
        """
        body = encode_arguments(arguments or {})
        cluster = self._clusters.get(contract)
        count = self._counts.get(cluster, Count(0)) if cluster else Count(0)
        deadline = time.monotonic() + timeout_s
        renewed = False
        while True:
            place = await self.view.place()
            verified = await self.view.worker_at(place.now)
            session = await self._session(signer, place.now)
            envelope, pending = seal_query(
                Place(place.genesis, place.height, place.block_hash, place.now, count),
                verified.addressee,
                contract,
                method,
                body,
                session=session,
                code_id=code_id,
            )
            try:
                answer = open_reply(pending, await self.worker.query(envelope))
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(PAUSE_S)
                continue
            except Refused:
                # Its key may have changed since it was verified; once is enough to find out.
                if renewed:
                    raise
                renewed = True
                self.view.forget()
                continue
            self._seen(answer)
            return answer

    async def _session(self, signer: Keypair | None, now: Moment) -> Session | None:
        if signer is None:
            return None
        session = self._sessions.get(signer.public)
        if session is None or session.expires < now + SESSION_LEFT_MS_MIN:
            session = open_session(signer, self.trust.genesis, now)
            self._sessions[signer.public] = session
        return session

    # ---- commands

    async def command(
        self,
        contract: ContractId,
        method: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        signer: Keypair,
        code_id: CodeId | None = None,
        fuel: int = FUEL_DEFAULT,
        timeout_s: float = OUTCOME_S,
    ) -> Answer:
        """Change a contract's state, and learn what came of it. It may burn 2**fuel; its sender
        pays for that, not for what it burns."""
        (sent,) = await self.send_commands(
            contract, [(method, arguments or {})], signer=signer, code_id=code_id, fuel=fuel
        )
        if isinstance(sent, PhalaError):
            raise sent
        return await self.outcome_of(sent, timeout_s=timeout_s)

    async def send_command(
        self,
        contract: ContractId,
        method: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        signer: Keypair,
        code_id: CodeId | None = None,
        fuel: int = FUEL_DEFAULT,
    ) -> Sent:
        """The same without waiting for its outcome: it stands in a block."""
        (sent,) = await self.send_commands(
            contract, [(method, arguments or {})], signer=signer, code_id=code_id, fuel=fuel
        )
        if isinstance(sent, PhalaError):
            raise sent
        return sent

    async def send_commands(
        self,
        contract: ContractId,
        calls: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        signer: Keypair,
        code_id: CodeId | None = None,
        fuel: int = FUEL_DEFAULT,
        tip: int = 0,
    ) -> list[Sent | PhalaError]:
        """Many commands, in the order of `calls`; an error stands in the place of its command."""
        bodies = [(method, encode_arguments(arguments)) for method, arguments in calls]
        place, info, key = await self.view.contract_with_key(contract)
        self._clusters[contract] = info.cluster
        await self.view.worker_at(place.now)
        metadata = await self.chain.metadata()
        fields = metadata.call_fields("PhalaPhatContracts", "push_command")
        pendings, submissions = [], []
        for method, body in bodies:
            envelope, pending = seal_command(
                place,
                key,
                contract,
                method,
                body,
                sender=signer.account,
                cluster=info.cluster,
                expires=BlockNumber(place.height + COMMAND_BLOCKS),
                code_id=code_id,
                fuel=fuel,
            )
            value = {name: getattr(envelope, name) for name in envelope.__slots__}
            arguments = dict(zip(fields, (contract, value), strict=True))
            pendings.append(pending)
            submissions.append(Call("PhalaPhatContracts", "push_command", arguments))
        done = await self.chain.submit_many(submissions, signer, tip=tip)
        return [
            Sent(pending, each, info.cluster) if isinstance(each, Submitted) else _error(each)
            for pending, each in zip(pendings, done, strict=True)
        ]

    async def command_many(
        self,
        contract: ContractId,
        calls: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        signer: Keypair,
        fuel: int = FUEL_DEFAULT,
        timeout_s: float = OUTCOME_S,
    ) -> list[Answer | PhalaError]:
        """The same, waiting for each outcome."""
        answers: list[Answer | PhalaError] = []
        for sent in await self.send_commands(contract, calls, signer=signer, fuel=fuel):
            try:
                if isinstance(sent, PhalaError):
                    raise sent
                answers.append(await self.outcome_of(sent, timeout_s=timeout_s))
            except PhalaError as error:
                answers.append(error)
        return answers

    async def outcome_of(self, sent: Sent, *, timeout_s: float = OUTCOME_S) -> Answer:
        """Wait for an outcome, open it, check its receipt and who signed it."""
        data = await self.worker.wait_for_outcome(sent.pending.call, timeout_s=timeout_s)
        answer = open_reply(sent.pending, data)
        place = await self.view.place()
        verified = await self.view.worker_at(place.now)
        if answer.receipt.body.worker != verified.worker:
            raise ReceiptRefused("a worker signed it that was not verified")
        self._seen(answer)
        return answer

    # ---- deployments

    async def deploy(
        self,
        source: str | bytes,
        arguments: Mapping[str, Any] | None = None,
        *,
        signer: Keypair,
        cluster: ClusterId | None = None,
        salt: bytes | None = None,
        fuel: int = FUEL_DEFAULT,
        timeout_s: float = OUTCOME_S,
    ) -> Deployed:
        """Put a contract on the network, and wait until it is live.

        Its arguments are public: everybody can read them on the chain.

        Raises:
            CallFailed: the source does not load, or `instantiate` failed.
            DispatchRefused: the chain said no.
        """
        code = source.encode() if isinstance(source, str) else source
        body = encode_arguments(arguments or {})
        cluster = cluster or await self.first_cluster()
        salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt  # 32 bytes
        await self._until_ready(cluster, timeout_s)
        place = await self.view.place()
        verified = await self.view.worker_at(place.now)
        code_hash = code_id(verified.info.runtime_id, code)
        contract = contract_id(signer.account, code_hash, cluster, salt)
        reply_to, pending = prepare_deploy(place, contract, code_hash, body, cluster=cluster)
        metadata = await self.chain.metadata()
        fields = metadata.call_fields("PhalaPhatContracts", "deploy")
        values = (cluster, KIND_PY_SOURCE, code, salt, body, reply_to, fuel)
        call = Call("PhalaPhatContracts", "deploy", dict(zip(fields, values, strict=True)))
        submitted = await self.chain.submit(call, signer)
        assert submitted is not None, "it was waited for"
        answer = await self.outcome_of(Sent(pending, submitted, cluster), timeout_s=timeout_s)
        if not answer.outcome.ok:
            raise CallFailed(answer.outcome)
        await self._until_live(contract, timeout_s)
        return Deployed(contract, code_hash, cluster, submitted, answer)

    async def _until_ready(self, cluster: ClusterId, timeout_s: float) -> None:
        """Until the cluster's workers have its keys: some blocks after the network was started."""
        deadline = time.monotonic() + timeout_s
        while not (await self.view.cluster_state(cluster)).ready:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the cluster 0x{cluster.hex()} has no keys yet",
                    mend="see whether its worker and pherry run, then ask again",
                )
            await asyncio.sleep(POLL_S)

    async def _until_live(self, contract: ContractId, timeout_s: float) -> None:
        """Until commands can be encrypted to it: the chain has its keys, finally."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            info = await self.contract_info(contract)
            if info.state == STATE_LIVE:
                return
            if info.state == STATE_FAILED:
                raise Refused(
                    f"the contract 0x{contract.hex()} failed to start", mend="read its outcome"
                )
            await asyncio.sleep(POLL_S)
        raise Unavailable(
            f"the contract 0x{contract.hex()} is not live yet", mend="ask again in some seconds"
        )

    # ---- proof for others

    async def collect_bundle(self, answer: Answer) -> Bundle:
        """All that anybody needs to check an answer offline; it holds the call's plaintext."""
        receipt = answer.receipt.body
        place, _ = await self.view.look([])
        deadline = time.monotonic() + RETRY_S
        while place.height < receipt.height:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"block {receipt.height} of the receipt is not final here",
                    mend="ask again, or another node",
                )
            await asyncio.sleep(PAUSE_S)
            place, _ = await self.view.look([])
        verified = await self.verify_worker()
        headers, number = self.light.headers(), self.light.head.number
        _, proof = await self.light.prove(proven_keys(receipt, number))
        return Bundle(
            receipt=answer.receipt,
            request=answer.request,
            response=answer.response,
            blinder=answer.blinder,
            registration=verified.registration,
            genesis_header=self.light.began.header,
            genesis_proof=self.light.began.proof,
            headers=headers,
            proof=proof,
        )

    def _seen(self, answer: Answer) -> None:
        body = answer.receipt.body
        self._clusters[body.contract] = body.cluster
        self._counts[body.cluster] = max(self._counts.get(body.cluster, Count(0)), body.count)


def _error(found: Submitted | PhalaError | None) -> PhalaError:
    assert isinstance(found, PhalaError), "it was waited for"
    return found
