"""Grandpa: who finalizes blocks. Light clients read it by proof."""

from typing import ClassVar, Final, TypeAlias

from phala.codec import U32, U64, Descriptor, FixedBytes, Newtype, Vector
from phala.frame import Constant, Pallet, StorageValue, Tuple
from phala.primitives.header import ENGINE_GRANDPA, Consensus

AUTHORITIES_MAX: Final = 256
AUTHORITY_ID: Final[Newtype[bytes]] = Newtype(
    ("sp_consensus_grandpa", "app", "Public"), FixedBytes(32)
)

Authorities: TypeAlias = tuple[tuple[bytes, int], ...]  # ed25519 public key, weight

AUTHORITIES: Final[Descriptor[Authorities]] = Vector(
    Tuple((AUTHORITY_ID, U64)),  # type: ignore[arg-type] - a tuple of two
    items_max=AUTHORITIES_MAX,
)
SCHEDULED_CHANGE: Final = b"\x01"  # variant of `ConsensusLog`
NO_DELAY: Final = U32.encode(0)  # from the next block on: reference/substrate-compat.md §6


class Grandpa(Pallet):
    """Who finalizes blocks."""

    name = "Grandpa"
    authorities = StorageValue(
        AUTHORITIES, default=(), doc="Keys that finalize, each with its weight."
    )
    current_set_id = StorageValue(U64, default=0, doc="How often the authorities changed.")

    def change_authorities(self, authorities: Authorities) -> None:
        """Another set finalizes every block after this one, which the present set still does."""
        change = SCHEDULED_CHANGE + AUTHORITIES.encode(authorities) + NO_DELAY
        self.block.logs.append(Consensus(ENGINE_GRANDPA, change))
        self.authorities.put(authorities)
        self.current_set_id.put(self.current_set_id.get() + 1)

    constants: ClassVar = (
        Constant("MaxAuthorities", U32, AUTHORITIES_MAX, "The most keys that finalize."),
    )
