"""Which pallets the chain has, under which numbers, and what each hands to the others."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol, assert_never

from phala.errors import PhalaError
from phala.frame import (
    Block,
    Call,
    Calls,
    DispatchClass,
    DispatchError,
    Errors,
    Origin,
    Pallet,
    Restriction,
    Signed,
)
from phala.messages.collateral import CollateralKey
from phala.messages.payloads.cluster import PartialGiven
from phala.messages.payloads.enclave import (
    ContractFailed,
    ContractKeyAnnounced,
    EnclaveMessage,
    GroupKeyAnnounced,
)
from phala.messages.types import ClusterId, Generation, WorkerId
from phala.pallets.authorities import Authorities
from phala.pallets.balances import HOLD_PREIMAGE, Balances
from phala.pallets.collateral import PhalaCollateral
from phala.pallets.collateral import Verifier as CollateralVerifier
from phala.pallets.dev import Dev
from phala.pallets.grandpa import Grandpa
from phala.pallets.identity import Identity
from phala.pallets.mq import PhalaMq
from phala.pallets.multisig import Multisig
from phala.pallets.phat_contracts import PhalaPhatContracts
from phala.pallets.preimage import Preimage
from phala.pallets.proxy import Proxy
from phala.pallets.registry import PhalaRegistry
from phala.pallets.registry import Verifier as EvidenceVerifier
from phala.pallets.scheduler import Scheduler
from phala.pallets.session import Session
from phala.pallets.system import CallFiltered, LastRuntimeUpgradeInfo, System
from phala.pallets.timestamp import Timestamp
from phala.pallets.transaction_payment import TransactionPayment
from phala.pallets.utility import Utility
from phala.pallets.vesting import Vesting
from phala.primitives.types import AccountId
from phala.runtime.proxies import ProxyRestriction
from phala.runtime.version import (
    NORMAL_REF_TIME_MAX,
    SCHEDULED_REF_TIME_MAX,
    SPEC_NAME,
    SPEC_VERSION,
)
from phala.runtime.weights import declared

# The numbers are wire format: never reuse one. Those of 0 to 7 are Phala's own chain's where it has
# the pallet, those of 84 to 86 too. Hooks run in this order.
PALLETS: Final[Mapping[int, type[Pallet]]] = MappingProxyType(
    {
        0: System,
        3: Timestamp,
        5: Balances,
        6: TransactionPayment,
        7: Grandpa,
        8: Utility,
        9: Multisig,
        10: Proxy,
        11: Preimage,
        12: Scheduler,
        13: Identity,
        14: Vesting,
        15: Session,
        16: Authorities,
        84: PhalaMq,
        85: PhalaRegistry,
        86: PhalaPhatContracts,
        87: PhalaCollateral,
        255: Dev,
    }
)
CALLS: Final = Calls(PALLETS, declared())
ERRORS: Final = Errors(PALLETS)


class Verifier(EvidenceVerifier, CollateralVerifier, Protocol):
    """Who knows what vendors signed: `runtime.attestation` does."""


class World:
    """All pallets over one block."""

    def __init__(self, block: Block, verifier: Verifier) -> None:
        self.block = block
        self.system = System(block)
        self.utility = Utility(block, dispatcher=self)
        self.timestamp = Timestamp(block)
        self.balances = Balances(block, accounts=self.system)
        self.payment = TransactionPayment(
            block, currency=self.balances, ref_time_max=NORMAL_REF_TIME_MAX
        )
        self.multisig = Multisig(block, currency=self.balances, dispatcher=self)
        self.proxy = Proxy(block, currency=self.balances, dispatcher=self, rules=self)
        self.preimage = Preimage(block, currency=self.balances, reason=HOLD_PREIMAGE)
        self.scheduler = Scheduler(
            block, preimages=self.preimage, tasks=self, ref_time_max=SCHEDULED_REF_TIME_MAX
        )
        self.identity = Identity(block, currency=self.balances)
        self.vesting = Vesting(block, currency=self.balances)
        self.grandpa = Grandpa(block)
        self.session = Session(block, currency=self.balances, manager=self)
        self.authorities = Authorities(
            block, finality=self.grandpa, clock=self.timestamp, keys=self.session
        )
        self.mq = PhalaMq(
            block, chain=self.system, clock=self.timestamp, workers=self, handler=self
        )
        self.collateral = PhalaCollateral(
            block, clock=self.timestamp, verifier=verifier, workers=self
        )
        self.registry = PhalaRegistry(
            block,
            chain=self.system,
            clock=self.timestamp,
            bus=self.mq,
            clusters=self,
            collateral=self.collateral,
            verifier=verifier,
        )
        self.contracts = PhalaPhatContracts(
            block, chain=self.system, clock=self.timestamp, bus=self.mq, workers=self.registry
        )
        self.dev = Dev(block, dispatcher=self)
        self.pallets: dict[int, Pallet] = {
            0: self.system,
            3: self.timestamp,
            5: self.balances,
            6: self.payment,
            7: self.grandpa,
            8: self.utility,
            9: self.multisig,
            10: self.proxy,
            11: self.preimage,
            12: self.scheduler,
            13: self.identity,
            14: self.vesting,
            15: self.session,
            16: self.authorities,
            84: self.mq,
            85: self.registry,
            86: self.contracts,
            87: self.collateral,
            255: self.dev,
        }

    # ---- hooks, in the order of the numbers

    def upgrade(self) -> None:
        """Let pallets migrate, in the first block of this release."""
        last = self.system.last_runtime_upgrade.get()
        since = 0 if last is None else last.spec_version
        if since == SPEC_VERSION:
            return
        for pallet in self.pallets.values():
            self.block.ref_time[DispatchClass.MANDATORY] += pallet.on_runtime_upgrade(since)
        self.system.last_runtime_upgrade.put(LastRuntimeUpgradeInfo(SPEC_VERSION, SPEC_NAME))

    def initialize(self) -> None:
        """What pallets do before a block's first extrinsic."""
        for pallet in self.pallets.values():
            self.block.ref_time[DispatchClass.MANDATORY] += pallet.on_initialize()

    def finalize(self) -> None:
        """What pallets do after a block's last extrinsic."""
        for pallet in self.pallets.values():
            pallet.on_finalize()

    # ---- what pallets ask of those made after them

    def decode(self, data: bytes) -> Call:
        return CALLS.decode(data)

    def dispatch(self, call: Call, origin: Origin) -> DispatchError | None:
        """Run a call, whole or not at all. Returns why it did nothing.

        What is for a block's author alone is not for others, whoever asks.
        """
        try:
            if call.info.dispatch_class == DispatchClass.MANDATORY:
                raise CallFiltered
            if isinstance(origin, Signed) and not origin.allows(call):
                raise CallFiltered
            call.dispatch(self.pallets[call.pallet], origin)
        except PhalaError as refusal:
            return ERRORS.of(refusal)
        return None

    def restriction(self, proxy_type: int) -> Restriction:
        return ProxyRestriction(proxy_type)

    def next_members(self) -> tuple[AccountId, ...] | None:
        return self.authorities.next_members()

    def begin(self, members: tuple[tuple[AccountId, bytes], ...]) -> None:
        self.authorities.begin(members)

    def is_registered(self, worker: WorkerId) -> bool:
        return self.registry.is_registered(worker)

    def enlist(self, worker: WorkerId, confidence: int) -> tuple[tuple[ClusterId, Generation], ...]:
        return self.contracts.enlist(worker, confidence)

    def expel(
        self, workers: tuple[WorkerId, ...]
    ) -> tuple[tuple[ClusterId, Generation, tuple[WorkerId, ...]], ...]:
        return self.contracts.expel(workers)

    def review(self, of: CollateralKey) -> None:
        self.registry.review(of)

    def handle(self, worker: WorkerId, message: EnclaveMessage) -> None:
        """Hand what an enclave says to the pallet it is for."""
        match message:
            case GroupKeyAnnounced():
                self.registry.announce_group_key(worker, message)
            case PartialGiven():
                self.contracts.give_partial(worker, message)
            case ContractKeyAnnounced():
                self.contracts.announce_key(worker, message)
            case ContractFailed():
                self.contracts.announce_failure(worker, message)
            case _:
                assert_never(message)
