"""Grandpa: who finalizes blocks. Light clients read it by proof."""

from typing import Annotated, ClassVar, Final, TypeAlias, cast

from phala.codec import U32, U64, Descriptor, FixedBytes, Newtype, Tuple, Vector
from phala.finality.grandpa import AUTHORITIES_MAX, Authority, encode_scheduled_change
from phala.frame import Constant, Pallet, StorageValue, event

AUTHORITY_ID: Final[Newtype[bytes]] = Newtype(
    ("sp_consensus_grandpa", "app", "Public"), FixedBytes(32)
)

Authorities: TypeAlias = tuple[tuple[bytes, int], ...]  # ed25519 public key, weight

AUTHORITIES: Final = cast(
    "Descriptor[Authorities]", Vector(Tuple((AUTHORITY_ID, U64)), items_max=AUTHORITIES_MAX)
)


@event
class NewAuthorities:
    """Another set finalizes every later block."""

    authority_set: Annotated[Authorities, AUTHORITIES]


class Grandpa(Pallet):
    """Who finalizes blocks."""

    name = "Grandpa"
    authorities = StorageValue(
        AUTHORITIES, default=(), doc="Keys that finalize, each with its weight."
    )
    current_set_id = StorageValue(U64, default=0, doc="How often the authorities changed.")

    def present(self) -> tuple[int, Authorities]:
        """The id of the set that finalizes, and the set."""
        return self.current_set_id.get(), self.authorities.get()

    def change_authorities(self, authorities: Authorities) -> None:
        """Another set finalizes every block after this one, which the present set still does.

        Once a block at most: light clients follow one change a header.
        """
        change = encode_scheduled_change(tuple(Authority(*each) for each in authorities))
        self.block.logs.append(change)
        self.authorities.put(authorities)
        self.current_set_id.put(self.current_set_id.get() + 1)
        self.emit(NewAuthorities(authorities))

    events: ClassVar = {0: NewAuthorities}
    constants: ClassVar = (
        Constant("MaxAuthorities", U32, AUTHORITIES_MAX, "The most keys that finalize."),
    )
