"""Whom a client believes: the finalized chain as it proved it, and the worker as it judged it."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from phala.attest import DEV, Verdict
from phala.codec import Descriptor
from phala.errors import Refused, Unavailable
from phala.messages.collateral import (
    AMD,
    AMD_PLATFORMS,
    INTEL,
    CollateralKey,
    IssueKey,
    items_key,
)
from phala.messages.registration import SignedRegistration
from phala.messages.state import (
    CLUSTER_STATE,
    CONTRACT_INFO,
    CONTRACT_KEY,
    TIMESTAMP_KEY,
    WORKER_INFO,
    ClusterState,
    ContractInfo,
    ContractKey,
    WorkerInfo,
    cluster_key,
    contract_key,
    contract_keys_key,
    worker_key,
)
from phala.messages.types import ClusterId, ContractId, WorkerId
from phala.primitives.types import Moment
from phala.sdk.calls import Addressee, Place
from phala.sdk.judge import Listed, RegistrationOutdated, judge
from phala.sdk.light import AHEAD_MS_MAX, LightView, fresh
from phala.sdk.trust import Trust
from phala.sdk.worker import WorkerClient

T = TypeVar("T")

RENEWAL_S: Final = 15.0  # for a worker that restarts, or whose registration is not final yet
PAUSE_S: Final = 0.02
VERIFY_AGAIN_MS: Final = 60_000  # block time for which a verdict is kept
PLACE_KEPT_S: Final = 1.0  # a query may name a finalized block this old


@dataclass(frozen=True, slots=True)
class VerifiedWorker:
    """A worker whose evidence this machine's policy accepts, as the chain lists it."""

    worker: WorkerId
    info: WorkerInfo
    registration: SignedRegistration
    verdict: Verdict
    at: Moment

    @property
    def addressee(self) -> Addressee:
        return Addressee(self.worker, self.info.epoch, self.info.encryption_key)


class TrustedView:
    """Everything here is proven from the genesis hash, or judged by this machine's policy."""

    def __init__(self, light: LightView, worker: WorkerClient, trust: Trust) -> None:
        if trust.policy.name != DEV.name and light.sources < 2:
            raise Refused(
                "one source may show an old chain", mend="name a second node of this network"
            )
        self.light = light
        self.trust = trust
        self._worker = worker
        self._verified: VerifiedWorker | None = None
        self._verifying = asyncio.Lock()
        self._place: tuple[float, Place] | None = None

    # ---- the worker

    async def verify_worker(self) -> VerifiedWorker:
        """The worker, judged now: listed by proof, evidence under this machine's policy."""
        deadline = time.monotonic() + RENEWAL_S
        while True:
            try:
                self._verified = await self._judge_worker()
            except (RegistrationOutdated, Unavailable):
                # It asked to be registered anew, and the chain has not said so finally yet; or it
                # is being started again.
                if time.monotonic() > deadline:
                    raise
            else:
                return self._verified
            await asyncio.sleep(PAUSE_S)

    async def _judge_worker(self) -> VerifiedWorker:
        says = await self._worker.says()
        if says.genesis != self.trust.genesis:
            raise Refused(
                f"the worker is of the chain 0x{says.genesis.hex()}",
                mend="name a worker of this network",
            )
        place, (listed,) = await self.look([worker_key(says.worker)])
        if listed is None:
            raise Refused(
                f"the chain does not list the worker 0x{says.worker.hex()}",
                mend="wait until it is registered, or ask another worker",
            )
        info, now = WORKER_INFO.decode(listed), place.now
        registration = await self._worker.registration()
        verdict = judge(
            registration,
            Listed(says.worker, info),
            self.trust.genesis,
            self.trust.policy,
            now,
            await self._collateral(info),
        )
        return VerifiedWorker(says.worker, info, registration, verdict, now)

    async def collateral_of(self, worker: WorkerId) -> Mapping[str, bytes]:
        """The same of a worker's id; nothing where the chain does not list it."""
        _, (listed,) = await self.look([worker_key(worker)])
        return {} if listed is None else await self._collateral(WORKER_INFO.decode(listed))

    async def _collateral(self, info: WorkerInfo) -> Mapping[str, bytes]:
        """What the vendor says of the worker's platform, as the chain keeps it: the vendor signed
        it, and this machine's policy says how old it may be."""
        if not info.collateral:
            return {}
        of = CollateralKey(info.platform, info.issuer, info.collateral)
        _, (data,) = await self.look([items_key(IssueKey(of, info.number))])
        if info.platform in AMD_PLATFORMS:
            return found(data, AMD, "collateral of the worker's platform").by_name()
        return found(data, INTEL, "collateral of the worker's platform").by_name()

    async def worker_at(self, now: Moment) -> VerifiedWorker:
        """The worker, judged a minute ago at most."""
        async with self._verifying:
            verified = self._verified
            if verified is None or now - verified.at > VERIFY_AGAIN_MS:
                verified = await self.verify_worker()
            return verified

    def forget(self) -> None:
        """Look at everything anew: something that was seen holds no longer."""
        self._verified = None
        self._place = None

    # ---- the chain

    async def place(self) -> Place:
        """The finalized head with its time, a second old at most."""
        kept = self._place
        if kept is not None and time.monotonic() - kept[0] < PLACE_KEPT_S:
            return kept[1]
        place, _ = await self.look([])
        return place

    async def look(self, keys: Sequence[bytes]) -> tuple[Place, list[bytes | None]]:
        """The newest finalized block, and values there by proof."""
        head = await self.light.sync()
        time_, *values = await self.light.read([TIMESTAMP_KEY, *keys])
        # A development network's owner may set its time, and nothing protects it anyway.
        ahead_ms_max = AHEAD_MS_MAX if self.trust.policy.simulated_root is None else None
        now = fresh(time_, ahead_ms_max=ahead_ms_max)
        place = Place(self.trust.genesis, head.number, head.hash, now)
        self._place = time.monotonic(), place
        return place, values

    async def contract_info(self, contract: ContractId) -> ContractInfo:
        _, (data,) = await self.look([contract_key(contract)])
        return found(data, CONTRACT_INFO, f"contract 0x{contract.hex()}")

    async def contract_with_key(
        self, contract: ContractId
    ) -> tuple[Place, ContractInfo, ContractKey]:
        """A contract, and the key that commands are encrypted to."""
        keys = [contract_key(contract), contract_keys_key(contract)]
        place, (info, key) = await self.look(keys)
        known = found(info, CONTRACT_INFO, f"contract 0x{contract.hex()}")
        if key is None:
            raise Refused(
                f"the contract 0x{contract.hex()} has no key yet", mend="wait until it is live"
            )
        return place, known, CONTRACT_KEY.decode(key)

    async def cluster_state(self, cluster: ClusterId) -> ClusterState:
        _, (data,) = await self.look([cluster_key(cluster)])
        return found(data, CLUSTER_STATE, f"cluster 0x{cluster.hex()}")


def found(data: bytes | None, descriptor: Descriptor[T], what: str) -> T:
    if data is None:
        raise Refused(f"the chain has no {what}", mend="see its id, and whether it is final")
    return descriptor.decode(data)
