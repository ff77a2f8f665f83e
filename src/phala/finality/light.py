"""The light client: from a pinned genesis hash to a finalized block, then state by proof.

It trusts one hash. Whoever hands it headers, justifications and proofs can make it wait, nothing
else. The enclave and the SDK run the same code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from phala.codec import Malformed
from phala.errors import Invalid, Refused
from phala.finality.grandpa import (
    AUTHORITIES,
    AuthoritySet,
    SetId,
    decode_justification,
    scheduled_change,
    verify_own,
)
from phala.primitives.header import HEADER, Header
from phala.primitives.keys import storage_prefix
from phala.primitives.types import BlockNumber, Hash
from phala.trie import read_proof

AUTHORITIES_KEY: Final = storage_prefix("Grandpa", "Authorities")


class BadHeader(Invalid):
    """A header is not what it is handed in as."""

    def __init__(self, what: str) -> None:
        super().__init__(what, mend="fetch the headers again from a node of this chain")


class NotAhead(Refused):
    """A block that is no news."""

    def __init__(self, number: int, reached: int) -> None:
        super().__init__(
            f"block {number} is finalized, {reached} is reached", mend="feed what follows"
        )


@dataclass(frozen=True, slots=True)
class LightHead:
    """A finalized block, and who may finalize its successors."""

    genesis: Hash
    number: BlockNumber
    hash: Hash
    state_root: Hash
    authorities: AuthoritySet


def decode_header(data: bytes) -> Header:
    try:
        return HEADER.decode(data)
    except Malformed as error:
        raise BadHeader(f"no header: {error.what}") from None


def start(genesis: Hash, header: bytes, proof: Sequence[bytes]) -> LightHead:
    """The head at genesis.

    Args:
        genesis: the hash that is trusted.
        header: SCALE of the genesis header.
        proof: nodes that show `Grandpa.Authorities` in the genesis state.

    Raises:
        Invalid: header or proof are of another chain.
    """
    found = decode_header(header)
    if found.hash() != genesis or found.number:
        raise BadHeader(
            f"the header's hash is 0x{found.hash().hex()}, genesis is 0x{genesis.hex()}"
        )
    data = read_proof(found.state_root, proof, [AUTHORITIES_KEY])[AUTHORITIES_KEY]
    try:
        authorities = AUTHORITIES.decode(data or b"")
    except Malformed as error:
        raise BadHeader(f"the genesis authorities: {error.what}") from None
    return LightHead(
        genesis,
        BlockNumber(0),
        genesis,
        found.state_root,
        AuthoritySet(SetId(0), authorities),
    )


def advance(head: LightHead, header: bytes, justification: bytes) -> LightHead:
    """The head at a later finalized block.

    1. the block's number is above the head's;
    2. the justification is of exactly this block, by the authorities that hold at the head;
    3. a change of authorities in the block holds for its successors, under the next set id.

    Blocks in between may be left out, but none that changes the authorities: the next set's
    justifications do not verify under the old set.

    Raises:
        Invalid: what is handed in is not genuine.
        NotAhead: the block is not above the head.
    """
    found = decode_header(header)
    if found.number <= head.number:  # 1
        raise NotAhead(found.number, head.number)
    verify_own(decode_justification(justification), found, head.authorities)  # 2
    following = scheduled_change(found)  # 3
    authorities = head.authorities
    if following is not None:
        authorities = AuthoritySet(SetId(authorities.id + 1), following)
    return replace(
        head,
        number=found.number,
        hash=found.hash(),
        state_root=found.state_root,
        authorities=authorities,
    )


def read(
    head: LightHead, proof: Sequence[bytes], keys: Sequence[bytes]
) -> dict[bytes, bytes | None]:
    """The state's values at the head; None where the proof shows that there is none.

    Raises:
        BadProof: the proof does not show them.
    """
    return read_proof(head.state_root, proof, keys)
