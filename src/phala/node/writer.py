"""Writes blocks on a chain: its own, extrinsic by extrinsic, and whole ones from elsewhere."""

import logging
from collections.abc import Sequence
from typing import Final, Protocol

from phala.crypto.signatures import Keypair, ed25519_sign
from phala.errors import Invalid, Refused
from phala.finality import (
    AUTHORITIES,
    AUTHORITIES_KEY,
    JUSTIFICATION,
    Authority,
    AuthoritySet,
    Justification,
    Precommit,
    SetId,
    decode_justification,
    signed_precommit,
    verify_own,
)
from phala.finality.grandpa import threshold
from phala.node.chain import Chain, Growth, View
from phala.node.runtimes.table import AnyBuilder, AnyRuntime, Runtimes
from phala.node.store import Damaged
from phala.primitives.header import Header
from phala.primitives.keys import storage_prefix
from phala.primitives.types import BlockNumber, Moment
from phala.runtime import CheckSignatures, Decoded, InvalidTransaction, Sealed
from phala.trie import State

LOG: Final = logging.getLogger("phala.node.writer")
SET_ID_KEY: Final = storage_prefix("Grandpa", "CurrentSetId")


class NotNext(Refused):
    """A block that does not follow on the head."""

    def __init__(self, header: Header, head: Header) -> None:
        super().__init__(
            f"block {header.number} on 0x{header.parent_hash.hex()}; the head is {head.number} "
            f"0x{head.hash().hex()}",
            mend="give the blocks in order, from the one after the head on",
        )


class CannotFinalize(Refused):
    """A block brings a set of authorities that this node's keys cannot finalize for."""

    def __init__(
        self, number: int, authorities: Sequence[Authority], keys: Sequence[bytes]
    ) -> None:
        listed = ", ".join(f"0x{each.key.hex()} (weight {each.weight})" for each in authorities)
        super().__init__(
            f"after block {number} others finalize: {listed}; this node has the keys "
            + (", ".join("0x" + key.hex() for key in keys) or "of nobody"),
            mend="put the seed of the new authority's key into grandpa.next.key beside "
            "grandpa.key, then start again; the block is not written",
        )


class Spoilt(Exception):
    """Applying an extrinsic failed otherwise than by a refusal: the open block is gone."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error  # as its cause, too, but builds lose that


class Writer:
    """One chain, and the block that is open on its head."""

    def __init__(
        self,
        chain: Chain,
        runtimes: Runtimes,
        *,
        check_signatures: CheckSignatures | None = None,
    ) -> None:
        """`check_signatures` verifies those of a foreign block, at once and maybe elsewhere."""
        self.chain = chain
        self.runtimes = runtimes
        self._check_signatures = check_signatures
        self._builder: AnyBuilder | None = None
        self._inherents = 0

    @property
    def runtime(self) -> AnyRuntime:
        """Makes the block after the head. Raises `OtherRelease`: this node cannot."""
        return self.runtimes.at(self.chain, self.chain.head.number)

    # ---- one's own

    def open(self, clock: Moment) -> None:
        """Begin the block after the head. What was begun before is thrown away."""
        chain = self.chain
        builder = self.runtime.open_block(State(chain.next_base()), chain.head)
        inherents = builder.inherents(clock)
        for inherent in inherents:
            builder.apply(inherent)
        self._builder, self._inherents = builder, len(inherents)

    def close(self) -> None:
        """Throw away what is open."""
        self._builder = None

    @property
    def is_open(self) -> bool:
        return self._builder is not None

    @property
    def extrinsics(self) -> int:
        """How many the open block has beside the author's own."""
        return 0 if self._builder is None else len(self._builder) - self._inherents

    def apply(self, data: bytes, decoded: Decoded | None = None) -> None:
        """Put an extrinsic, whose signature is known to be good, into the open block.

        Raises:
            InvalidTransaction: it cannot be in it; the block is as it was.
            Damaged: the store does not read; there is nothing to go on with.
            Spoilt: it met an error of ours half-way; there is no open block any more.
        """
        assert self._builder is not None
        try:
            self._builder.apply(data, check_signature=False, decoded=decoded)
        except (InvalidTransaction, Damaged):
            raise
        except Exception as error:
            self._builder = None
            raise Spoilt(error) from error

    def seal(self, *keys: Keypair) -> Growth:
        """End the open block, and commit it.

        Args:
            keys: by which blocks after it are to be finalized; none: others do that.

        Raises:
            CannotFinalize: the block's end brings authorities for whom they do not suffice.
                Nothing is written, so no block is left that nobody here can finalize.
        """
        builder, self._builder = self._builder, None
        assert builder is not None
        sealed = builder.seal(self.chain.root_with)
        if keys and sealed.authorities is not None:
            following = tuple(Authority(*each) for each in sealed.authorities)
            own = [key.public for key in keys]
            if not can_finalize(following, own):
                raise CannotFinalize(sealed.header.number, following, own)
        return self._append(sealed)

    def _append(self, sealed: Sealed) -> Growth:
        self.runtimes.before(sealed.changes)
        messages = tuple((each.topic, each.count, each.envelope) for each in sealed.messages)
        return self.chain.append(sealed.header, sealed.body, sealed.changes, messages)

    def finalize(self, number: BlockNumber, *keys: Keypair) -> bytes:
        """Sign a committed block, and commit its justification: in this order, always.

        Of the keys those sign that are authorities after the block's parent, under that set's id.

        Raises:
            CannotFinalize: they do not weigh enough. Nothing is signed.
        """
        block = self.chain.header(number).hash()
        present = authorities_after(self.chain, BlockNumber(number - 1))
        weights, own = present.weights(), [key.public for key in keys]
        if not can_finalize(present.authorities, own):
            raise CannotFinalize(number - 1, present.authorities, own)
        round_ = number + 1
        message = signed_precommit(number, block, round_, present.id)
        votes = tuple(
            Precommit(block, number, ed25519_sign(key, message), key.public)
            for key in keys
            if key.public in weights
        )
        justification = JUSTIFICATION.encode(Justification(round_, block, number, votes))
        self.chain.finalize(number, justification)
        return justification

    # ---- others'

    def import_block(
        self, header: Header, body: Sequence[bytes], justification: bytes | None = None
    ) -> Sealed:
        """Make a foreign block again and commit it, with its justification where there is one.

        1 it follows on the head; 2 its justification is by the authorities that its parent names;
        3 its signatures are good; 4 it is what its body comes to.

        Raises:
            NotNext, BadJustification, BlockRefused: one of them does not hold. Nothing is written.
        """
        chain, head = self.chain, self.chain.head
        if header.number != head.number + 1 or header.parent_hash != head.hash():  # 1
            raise NotNext(header, head)
        self._builder = None
        if justification is not None:
            verify_own(decode_justification(justification), header, self.authorities())  # 2
        sealed = self.runtime.execute(  # 3, 4
            State(chain.next_base()),
            head,
            header,
            body,
            chain.root_with,
            check_signatures=self._check_signatures,
        )
        self._append(sealed)
        if justification is not None:
            chain.finalize(header.number, justification)
        return sealed

    def authorities(self) -> AuthoritySet:
        """Who finalizes the block after the head."""
        return authorities_in(self.chain.next_base())


class Readable(Protocol):
    """A state."""

    def get(self, key: bytes, /) -> bytes | None: ...


def authorities_after(chain: View, number: BlockNumber) -> AuthoritySet:
    """Who finalizes the block after that one. Raises `Pruned`."""
    return authorities_in(chain.state_at(number))


def authorities_in(state: Readable) -> AuthoritySet:
    found = state.get(AUTHORITIES_KEY)
    if found is None:
        raise Invalid("the state names no authorities", mend="start from another genesis")
    set_id = int.from_bytes(state.get(SET_ID_KEY) or b"", "little")
    return AuthoritySet(SetId(set_id), AUTHORITIES.decode(found))


def can_finalize(authorities: Sequence[Authority], keys: Sequence[bytes]) -> bool:
    """Whether these keys' votes weigh enough."""
    own = sum(each.weight for each in authorities if each.key in keys)
    return own >= threshold(sum(each.weight for each in authorities))
