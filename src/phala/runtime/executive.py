"""Making a block, and making another's again. `runtime.outcome` shows how a node does both."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from phala.codec import encode_compact
from phala.errors import PhalaError
from phala.frame import (
    PHASE_FINALIZATION,
    DispatchClass,
    DispatchError,
    Events,
    Signed,
    Unsigned,
)
from phala.frame.block import Block
from phala.pallets.system import ExtrinsicFailed, ExtrinsicSuccess
from phala.pallets.timestamp import MOMENT_COMPACT
from phala.primitives.extrinsic import Extrinsic, Signature
from phala.primitives.header import DigestItem, Header, PreRuntime
from phala.primitives.types import BlockNumber, Hash, Moment
from phala.runtime.outcome import (
    Applied,
    BlockRefused,
    CheckSignatures,
    InvalidTransaction,
    Problem,
    QueuedMessage,
    Sealed,
    SignatureCheck,
    StateRootOf,
)
from phala.runtime.validity import (
    BARE_CALLS,
    Decoded,
    admit,
    decode,
    invalid_bare,
    signature_check,
)
from phala.runtime.version import (
    BLOCK_BYTES_MAX,
    BLOCK_REF_TIME_MAX,
    NORMAL_BYTES_MAX,
    NORMAL_REF_TIME_MAX,
)
from phala.runtime.weights import BASE_REF_TIME
from phala.runtime.world import PALLETS, Verifier, World
from phala.trie import State, ordered_root

EVENTS: Final = Events(PALLETS)
SET_TIME: Final = (3, 0)
BODY_ITEMS_MAX: Final = 65_536


def open_world(state: State, parent: Hash, number: BlockNumber, verifier: Verifier) -> World:
    """The pallets over `state`, as the next block's first extrinsic finds them."""
    world = World(Block(number, state), verifier)
    world.system.initialize(parent, ())
    world.upgrade()
    return world


class BlockBuilder:
    """One block being made. `state` is an overlay over the parent's; it takes the changes."""

    def __init__(
        self, state: State, parent: Header, verifier: Verifier, logs: tuple[DigestItem, ...]
    ) -> None:
        self._parent_hash = parent.hash()
        self._number = BlockNumber(parent.number + 1)
        self._state = state
        self._world = open_world(state, self._parent_hash, self._number, verifier)
        self._world.block.logs.extend(logs)
        self._world.initialize()
        self._authorities = self._world.grandpa.authorities.get()
        self._body: list[bytes] = []
        self._bytes = 0

    @property
    def number(self) -> BlockNumber:
        return self._number

    def __len__(self) -> int:
        return len(self._body)

    def inherents(self, clock: Moment) -> list[bytes]:
        """What the author itself puts first. `clock` is its wall clock in milliseconds; the
        block's time is later where the clock is behind the chain."""
        now = self._world.timestamp.next_after(clock)
        return [Extrinsic(None, bytes(SET_TIME) + MOMENT_COMPACT.encode(now)).encode()]

    def apply(
        self, extrinsic: bytes, *, check_signature: bool = True, decoded: Decoded | None = None
    ) -> Applied:
        """Put one more extrinsic, with its length in front, into the block.

        Args:
            check_signature: False where the account's signature is known to be good.
            decoded: what `decode` makes of it, where that is known.

        Raises:
            InvalidTransaction: it cannot be in this block, which is as it was.
        """
        decoded = decoded or decode(extrinsic)
        self._ensure_place(decoded)
        self._ensure_room(decoded)
        block = self._world.block
        block.phase = len(self._body)
        by = decoded.extrinsic.signature
        if by is None:
            error = None
            self._apply_bare(decoded)
        else:
            error = self._apply_signed(decoded, by, check_signature=check_signature)
        info = decoded.call.info
        block.emit(ExtrinsicSuccess(info) if error is None else ExtrinsicFailed(error, info))
        block.ref_time[info.dispatch_class] += info.weight.ref_time + BASE_REF_TIME
        self._bytes += decoded.length
        self._body.append(extrinsic)
        return Applied(len(self._body) - 1, error)

    def _ensure_place(self, decoded: Decoded) -> None:
        """The time is set first, and once."""
        sets_time = (decoded.call.pallet, decoded.call.index) == SET_TIME
        if sets_time != (not self._body):
            raise InvalidTransaction(
                Problem.BAD_MANDATORY,
                mend="set the time in the first extrinsic and in no other",
            )

    def _ensure_room(self, decoded: Decoded) -> None:
        info = decoded.call.info
        normal = info.dispatch_class == DispatchClass.NORMAL
        ref_time = sum(self._world.block.ref_time) + info.weight.ref_time + BASE_REF_TIME
        size = self._bytes + decoded.length
        if (
            ref_time > (NORMAL_REF_TIME_MAX if normal else BLOCK_REF_TIME_MAX)
            or size > (NORMAL_BYTES_MAX if normal else BLOCK_BYTES_MAX)
            or len(self._body) >= BODY_ITEMS_MAX
        ):
            raise InvalidTransaction(Problem.EXHAUSTS_RESOURCES, mend="wait for the next block")

    def _apply_bare(self, decoded: Decoded) -> None:
        """Nobody pays, so what would fail is not let in."""
        call = decoded.call
        place = call.pallet, call.index
        if place != SET_TIME and place not in BARE_CALLS:
            raise InvalidTransaction(
                Problem.NO_UNSIGNED_VALIDATOR, mend="sign the extrinsic with an account"
            )
        try:
            call.dispatch(self._world.pallets[call.pallet], Unsigned())
        except PhalaError as error:
            if call.info.dispatch_class == DispatchClass.MANDATORY:
                raise InvalidTransaction(
                    Problem.BAD_MANDATORY, mend=error.mend, why=error.what
                ) from error
            raise invalid_bare(error) from error

    def _apply_signed(
        self, decoded: Decoded, by: Signature, *, check_signature: bool
    ) -> DispatchError | None:
        world = self._world
        admitted = admit(world, decoded, by, check_signature=check_signature)
        if admitted.ahead:
            raise InvalidTransaction(
                Problem.FUTURE, mend="send those before it first", why=f"nonce {by.nonce}"
            )
        signer, fee = admitted.signer, admitted.fee
        world.payment.charge(signer, fee)
        error = world.dispatch(decoded.call, Signed(signer))
        world.payment.settle(signer, fee, by.tip)
        return error

    def signature_checks(self, decoded: Iterable[Decoded]) -> Iterator[SignatureCheck]:
        """What must be verified of extrinsics that claim to be of this block, as they come."""
        for each in decoded:
            check = signature_check(self._world, each)
            if check is not None:
                yield check

    def seal(self, state_root_of: StateRootOf) -> Sealed:
        """End the block. The builder and its state are used up."""
        assert self._body, "a block's first extrinsic sets its time"
        world, block = self._world, self._world.block
        block.phase = PHASE_FINALIZATION
        world.finalize()
        logs = world.system.finalize(self._encoded_events())
        changes = self._state.changes()
        body = tuple(self._body)
        header = Header(
            parent_hash=self._parent_hash,
            number=self._number,
            state_root=state_root_of(changes),
            extrinsics_root=ordered_root(body),
            digest=logs,
        )
        authorities = world.grandpa.authorities.get()
        return Sealed(
            header=header,
            hash=header.hash(),
            body=body,
            changes=changes,
            messages=tuple(QueuedMessage(*message) for message in block.messages),
            authorities=None if authorities == self._authorities else authorities,
        )

    def _encoded_events(self) -> bytes:
        block = self._world.block
        out = bytearray(encode_compact(len(block.events)))
        EVENTS.write_records(out, block.phases, block.events)
        return bytes(out)


def rebuild(
    builder: BlockBuilder,
    header: Header,
    body: Sequence[bytes],
    state_root_of: StateRootOf,
    check_signatures: CheckSignatures,
) -> Sealed:
    """Make another's block again from its body.

    1 it follows the parent; 2 every extrinsic is valid in its place, while its signature may be
    verified elsewhere, until the block ends; 3 extrinsics root, 4 state root and 5 digest are those
    of its header.

    Raises:
        BlockRefused: they are not.
    """
    if header.number != builder.number:  # 1
        raise _refused(f"block {header.number} after {builder.number - 1}")
    if not body:
        raise _refused("its time is not set")
    decoded: list[Decoded] = []
    try:
        ensure_signed = check_signatures(builder.signature_checks(_read(body, decoded)))  # 2
        try:
            for extrinsic, read in zip(body, decoded, strict=True):
                builder.apply(extrinsic, check_signature=False, decoded=read)  # 2
            sealed = builder.seal(state_root_of)
        finally:
            ensure_signed()  # 2
    except InvalidTransaction as refusal:
        raise _refused(f"extrinsic {len(builder)}: {refusal.what}") from refusal
    if sealed.header.parent_hash != header.parent_hash:  # 1
        raise _refused("its parent is another block")
    if sealed.header.extrinsics_root != header.extrinsics_root:  # 3
        raise _refused("its body is another block's")
    if sealed.header.state_root != header.state_root:  # 4
        raise _refused("its state root is not what its body comes to")
    if sealed.hash != header.hash():  # 5
        raise _refused("its digest is not what its body comes to")
    return sealed


def _read(body: Sequence[bytes], into: list[Decoded]) -> Iterator[Decoded]:
    for extrinsic in body:
        decoded = decode(extrinsic)
        into.append(decoded)
        yield decoded


def inherent_logs(header: Header) -> tuple[DigestItem, ...]:
    """The part of a digest that is input to execution."""
    return tuple(item for item in header.digest if isinstance(item, PreRuntime))


def _refused(what: str) -> BlockRefused:
    return BlockRefused(what, mend="fetch the block from another peer")
