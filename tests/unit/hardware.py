"""A chain that takes hardware alone, its vendors simulated: what tests of registration share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from phala.attest import PRODUCTION, Policy
from phala.frame import DispatchError, Root
from phala.messages.bus import ENVELOPE, SYSTEM_TOPIC
from phala.messages.payloads.cluster import CLUSTER_PAYLOAD
from phala.messages.payloads.system import SYSTEM_PAYLOAD
from phala.messages.registration import Evidence
from phala.messages.state import WORKER_INFO, WorkerInfo, worker_key
from phala.messages.types import WorkerId
from phala.primitives.header import Header
from phala.primitives.types import Hash, Moment
from phala.runtime import GenesisConfig, Runtime
from phala.runtime.world import CALLS, World
from phala.tee.platform import ReportData
from phala.testing.chain import MemoryChain
from phala.testing.intel_pki import NOW
from phala.testing.vendors import Hardware, Vendors
from phala.testing.worker import WorkerKeys

HOUR_MS = 60 * 60 * 1000
DAY_MS = 24 * HOUR_MS
RUNTIME_ID = Hash(b"r" * 32)


@dataclass
class Ground:
    """A chain, its vendors, and the workers that are made for it."""

    chain: MemoryChain
    vendors: Vendors

    def worker(self, hardware: Hardware, seed: int = 1) -> WorkerKeys:
        genesis = self.chain.genesis
        return WorkerKeys(bytes([seed]) * 32, genesis, hardware, hardware.code, RUNTIME_ID)

    def register(self, worker: WorkerKeys) -> WorkerInfo:
        self.chain.block(worker.register(self.chain.header))
        return self.info(worker.worker)

    def register_bound(self, worker: WorkerKeys, bound: Header) -> WorkerInfo:
        self.chain.block(worker.register(bound))
        return self.info(worker.worker)

    def info(self, worker: WorkerId) -> WorkerInfo:
        return WORKER_INFO.decode(self.chain.pairs[worker_key(worker)])

    def govern(self, act: Callable[[World], None]) -> list[object]:
        """A block in which governance does something; its events."""
        builder = self.chain.open()
        world = builder._world
        act(world)
        self.chain.close(builder)
        return list(world.block.events)

    def root(self, call: bytes) -> DispatchError | None:
        """A block with one call of the chain's own; why it did nothing."""
        errors: list[DispatchError | None] = []
        self.govern(lambda world: errors.append(world.dispatch(CALLS.decode(call), Root())))
        return errors[0]

    def pass_time(self, ms: int, blocks: int = 3) -> list[object]:
        """Some blocks, the first of them that much later; their events."""
        self.chain.now = Moment(self.chain.now + ms)
        events: list[object] = []
        for _ in range(blocks):
            events += self.govern(lambda _world: None)
        return events

    def said(self, topic: bytes = SYSTEM_TOPIC) -> list[object]:
        payload = SYSTEM_PAYLOAD if topic == SYSTEM_TOPIC else CLUSTER_PAYLOAD
        bodies = self.chain.messages.get(topic, [])
        return [payload.decode(ENVELOPE.decode(body).payload) for body in bodies]


def measured(vendors: Vendors, hardware: Hardware) -> bytes:
    """What the code on a machine measures as."""
    collateral = vendors.collateral_of(hardware.vendor)
    blob = hardware.quote(ReportData(bytes(64)))
    evidence = Evidence(hardware.code, blob)
    return vendors.verifier.verify(evidence, PRODUCTION.encode(), collateral, NOW).measurement


@cache
def _vendors() -> tuple[Vendors, tuple[bytes, ...]]:
    """One of each for all tests, for their keys take time; and what their machines' code is."""
    made = Vendors()
    machines = (made.tdx, made.sgx, made.amd)
    return made, tuple(measured(made, Hardware(each)) for each in machines)


def ground(policy: Policy = PRODUCTION, *, seats: int = 1, k: int = 1) -> Ground:
    """A production chain whose time is `NOW`, with no collateral yet."""
    vendors, measurements = _vendors()
    config = GenesisConfig.hardware(
        authority=b"a" * 32,
        measurements=measurements,
        runtime_id=RUNTIME_ID,
        policy=policy,
        k=k,
        seats=seats,
    )
    chain = MemoryChain(config, Runtime(vendors.verifier))
    chain.now = NOW
    chain.block()
    return Ground(chain, vendors)


_UUIDS = {
    "VCEK": "63da758de6644564adc5f4b93be8accd",
    "ASK": "4ab7b379bbac4fe4a02f05aef327c782",
    "ARK": "c0b406a4a803495297433fb6014cd0ae",
}


def host_table(certificates: dict[str, bytes]) -> bytes:
    """What an SEV-SNP host hands out behind a report: entries, an empty one, certificates."""
    head, tail = b"", b""
    start = 24 * (len(certificates) + 1)
    for name, body in certificates.items():
        place = (start + len(tail)).to_bytes(4, "little") + len(body).to_bytes(4, "little")
        head += bytes.fromhex(_UUIDS[name]) + place
        tail += body
    return head.ljust(start, b"\0") + tail
