"""What a chain begins with: the chain spec's part that is state.

There is no Sudo: platforms, allow-lists and the first cluster are set here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from phala.attest import DEV, PRODUCTION, PlatformCode, Policy
from phala.errors import Invalid
from phala.frame import Block
from phala.frame.manifest import CODE_KEY
from phala.messages.types import ClusterId
from phala.pallets.balances import EXISTENTIAL_DEPOSIT
from phala.pallets.grandpa import Authorities
from phala.pallets.registry import Seats
from phala.pallets.system import LastRuntimeUpgradeInfo
from phala.pallets.transaction_payment import TREASURY
from phala.primitives.address import SS58_PREFIX, decode_ss58, encode_ss58
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber, Hash
from phala.runtime.version import SPEC_NAME, SPEC_VERSION
from phala.runtime.world import Verifier, World
from phala.trie import State

DEVELOPMENT: Final = "Development"
CHAIN_TYPES: Final = (DEVELOPMENT, "Local", "Live")  # Substrate's
CONFIG_BYTES_MAX: Final = 4 * 1024 * 1024
DECIMALS: Final = 12
SYMBOL: Final = "PHA"

FIRST_CLUSTER: Final = ClusterId((1).to_bytes(32, "big"))
DEV_BALANCE: Final = Balance(1_000_000 * PHA)

# Substrate's `//Alice` and so on, of its public development phrase: everybody has these keys.
DEV_ACCOUNTS: Final[Mapping[str, AccountId]] = {
    name: AccountId(bytes.fromhex(key))
    for name, key in (
        ("Alice", "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"),
        ("Bob", "8eaf04151687736326c9fea17e25fc5287613693c912909cb226aa4794f26a48"),
        ("Charlie", "90b5ab205c6974c9ea841be688864633dc9ca8a357843eeacf2314649965fe22"),
        ("Dave", "306721211d5404bd9da88e0204360a1a9ab8b87c66c1bc2fcdd37f3c2222cc20"),
        ("Eve", "e659a7a1628cdd93febc04a4e0646ea20e9f5f0ce097d9a05290d4a9e054df4e"),
        ("Ferdie", "1cbd2d43530a44705ad088af313e18f80b53ef16b36177cd4b77b846f2a5f07c"),
    )
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is there from the first block."""

    id: ClusterId
    owner: AccountId
    k: int  # replicas that must agree
    seats: int  # workers that may serve


@dataclass(frozen=True, slots=True)
class GenesisConfig:
    """All that two nodes must have in common to be one chain.

    Raises:
        Invalid: a part contradicts another.
    """

    name: str  # for people
    id: str
    chain_type: str  # "Development", "Local" or "Live"
    balances: tuple[tuple[AccountId, Balance], ...]
    authorities: Authorities  # ed25519 public key, weight
    accepted_platforms: tuple[int, ...]
    policy: bytes  # `attest.Policy.encode()`; it holds the simulated root
    measurements: tuple[bytes, ...]
    runtimes: tuple[Hash, ...]
    gatekeeper_seats: int
    gatekeeper_threshold: int
    clusters: tuple[Cluster, ...]

    def __post_init__(self) -> None:
        policy = Policy.decode(self.policy)
        if tuple(int(code) for code in policy.platforms) != self.accepted_platforms:
            raise _wrong("the accepted platforms are not those of the policy")
        if self.chain_type not in CHAIN_TYPES:
            raise _wrong(f"its type {self.chain_type!r} is none of {', '.join(CHAIN_TYPES)}")
        if PlatformCode.SIMULATED in policy.platforms and self.chain_type != DEVELOPMENT:
            raise _wrong(
                f"a {self.chain_type} chain accepts simulated evidence, which proves nothing"
            )
        if not 1 <= self.gatekeeper_threshold <= self.gatekeeper_seats:
            raise _wrong(f"{self.gatekeeper_threshold} of {self.gatekeeper_seats} gatekeepers")
        if not (self.authorities and self.runtimes and self.measurements):
            raise _wrong("it lists no authority, no runtime module or no measurement")
        if any(amount < EXISTENTIAL_DEPOSIT for _, amount in self.balances):
            raise _wrong(f"a balance is under {EXISTENTIAL_DEPOSIT} plancks")
        for cluster in self.clusters:
            if not 1 <= cluster.k <= cluster.seats:
                raise _wrong(f"a cluster of {cluster.seats} seats needs {cluster.k} to agree")

    @property
    def simulated_root(self) -> bytes | None:
        """The root of simulated evidence, where the chain accepts that: no hardware protection."""
        return Policy.decode(self.policy).simulated_root

    @staticmethod
    def dev(
        *,
        authority: bytes,
        simulated_root: bytes,
        measurement: bytes,
        runtime_id: Hash,
        name: str = "Phala Development",
    ) -> "GenesisConfig":
        """A network on one machine: simulated workers, one authority, one cluster of one worker."""
        return GenesisConfig(
            name=name,
            id="phala_dev",
            chain_type=DEVELOPMENT,
            balances=tuple((account, DEV_BALANCE) for account in DEV_ACCOUNTS.values()),
            authorities=((authority, 1),),
            accepted_platforms=(int(PlatformCode.SIMULATED),),
            policy=DEV.trusting(simulated_root).encode(),
            measurements=(measurement,),
            runtimes=(runtime_id,),
            gatekeeper_seats=1,
            gatekeeper_threshold=1,
            clusters=(Cluster(FIRST_CLUSTER, DEV_ACCOUNTS["Alice"], k=1, seats=1),),
        )

    @staticmethod
    def hardware(
        *,
        authority: bytes,
        measurements: tuple[bytes, ...],
        runtime_id: Hash,
        policy: Policy = PRODUCTION,
        chain_type: str = "Local",
        name: str = "Phala Local",
        k: int = 1,
        seats: int = 1,
    ) -> "GenesisConfig":
        """A network whose workers are hardware: the development accounts, one authority, one
        cluster. Simulated evidence is refused by it, whatever a worker's own files say."""
        return GenesisConfig(
            name=name,
            id=f"phala_{chain_type.lower()}",
            chain_type=chain_type,
            balances=tuple((account, DEV_BALANCE) for account in DEV_ACCOUNTS.values()),
            authorities=((authority, 1),),
            accepted_platforms=tuple(int(code) for code in policy.platforms),
            policy=policy.encode(),
            measurements=measurements,
            runtimes=(runtime_id,),
            gatekeeper_seats=1,
            gatekeeper_threshold=1,
            clusters=(Cluster(FIRST_CLUSTER, DEV_ACCOUNTS["Alice"], k=k, seats=seats),),
        )

    def to_json(self) -> str:
        """The chain spec. Numbers of plancks are text: they exceed what JSON's readers keep."""
        root = self.simulated_root
        return json.dumps(
            {
                "name": self.name,
                "id": self.id,
                "chainType": self.chain_type,
                "properties": {
                    "ss58Format": SS58_PREFIX,
                    "tokenDecimals": DECIMALS,
                    "tokenSymbol": SYMBOL,
                },
                "phala": {"simulatedRoot": None if root is None else _hex(root)},
                "genesis": {
                    "balances": [[encode_ss58(who), str(amount)] for who, amount in self.balances],
                    "authorities": [[_hex(key), weight] for key, weight in self.authorities],
                    "acceptedPlatforms": list(self.accepted_platforms),
                    "policy": self.policy.decode(),
                    "measurements": [_hex(each) for each in self.measurements],
                    "runtimes": [_hex(each) for each in self.runtimes],
                    "gatekeeperSeats": self.gatekeeper_seats,
                    "gatekeeperThreshold": self.gatekeeper_threshold,
                    "clusters": [
                        {
                            "id": _hex(each.id),
                            "owner": encode_ss58(each.owner),
                            "k": each.k,
                            "seats": each.seats,
                        }
                        for each in self.clusters
                    ],
                },
            },
            indent=2,
        )

    @staticmethod
    def from_json(text: str) -> "GenesisConfig":
        """What `to_json` wrote.

        Raises:
            Invalid: it is not that.
        """
        if len(text) > CONFIG_BYTES_MAX:
            raise _wrong(f"it has {len(text)} characters")
        try:
            spec: dict[str, Any] = json.loads(text)
            genesis = spec["genesis"]
            return GenesisConfig(
                name=str(spec["name"]),
                id=str(spec["id"]),
                chain_type=str(spec["chainType"]),
                balances=tuple(
                    (decode_ss58(who), Balance(int(amount))) for who, amount in genesis["balances"]
                ),
                authorities=tuple(
                    (_bytes(key, 32), int(weight)) for key, weight in genesis["authorities"]
                ),
                accepted_platforms=tuple(int(each) for each in genesis["acceptedPlatforms"]),
                policy=genesis["policy"].encode(),
                measurements=tuple(_bytes(each) for each in genesis["measurements"]),
                runtimes=tuple(Hash(_bytes(each, 32)) for each in genesis["runtimes"]),
                gatekeeper_seats=int(genesis["gatekeeperSeats"]),
                gatekeeper_threshold=int(genesis["gatekeeperThreshold"]),
                clusters=tuple(
                    Cluster(
                        ClusterId(_bytes(each["id"], 32)),
                        decode_ss58(each["owner"]),
                        int(each["k"]),
                        int(each["seats"]),
                    )
                    for each in genesis["clusters"]
                ),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _wrong(f"{type(error).__name__}: {error}") from None


def genesis_state(config: GenesisConfig, code: bytes, verifier: Verifier) -> dict[bytes, bytes]:
    block = Block(BlockNumber(0), State())
    world = World(block, verifier)
    world.system.last_runtime_upgrade.put(LastRuntimeUpgradeInfo(SPEC_VERSION, SPEC_NAME))
    for who, amount in config.balances:
        world.balances.endow(who, amount)
    world.balances.endow(TREASURY, EXISTENTIAL_DEPOSIT)  # so that the first fee finds it there
    world.grandpa.authorities.put(config.authorities)
    world.grandpa.current_set_id.put(0)
    world.payment.next_fee_multiplier.put(world.payment.next_fee_multiplier.get())
    registry = world.registry
    registry.policy.put(config.policy)
    registry.accepted_platforms.put(config.accepted_platforms)
    registry.allowed_measurements.put(config.measurements)
    registry.allowed_runtimes.put(config.runtimes)
    registry.gatekeeper_seats.put(Seats(config.gatekeeper_seats, config.gatekeeper_threshold))
    for cluster in config.clusters:
        world.contracts.found(cluster.id, cluster.owner, k=cluster.k, seats=cluster.seats)
    if config.chain_type == DEVELOPMENT:
        world.dev.is_dev.put(True)  # noqa: FBT003 - the value itself
    block.state.put(CODE_KEY, code)
    return {key: value for key, value in block.state.changes() if value is not None}


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _bytes(text: str, size: int | None = None) -> bytes:
    data = bytes.fromhex(text.removeprefix("0x"))
    if size is not None and len(data) != size:
        raise ValueError(f"{len(data)} bytes of hex instead of {size}")
    return data


def _wrong(what: str) -> Invalid:
    return Invalid(f"no chain spec: {what}", mend="let `phala up` write one")
