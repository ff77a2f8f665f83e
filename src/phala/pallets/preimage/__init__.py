"""Preimage: long calls, kept under their hashes for those who name them by hash.

Source: `pallet-preimage`: calls, events, errors, their numbers, its storage and its rules.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, Protocol

from phala.codec import U32, Bytes, Tuple, Vector
from phala.crypto.hashes import blake2_256
from phala.frame import (
    MICROSECOND,
    Block,
    Hasher,
    Origin,
    Pallet,
    Root,
    StorageMap,
    call,
    ensure_root,
    ensure_signed,
)
from phala.pallets.preimage.errors import (
    AlreadyNoted,
    NotAuthorized,
    NotNoted,
    NotRequested,
    TooFew,
    TooMany,
)
from phala.pallets.preimage.events import Cleared, Noted
from phala.pallets.preimage.events import Requested as PreimageRequested
from phala.pallets.preimage.status import REQUEST_STATUS, Requested, Ticket, Unrequested
from phala.primitives.types import HASH, PHA, AccountId, Balance, Hash

SIZE_MAX: Final = 4 * 1024 * 1024
HASHES_MAX: Final = 1024
DEPOSIT_BASE: Final = Balance(PHA // 5)
DEPOSIT_BYTE: Final = Balance(PHA // 10_000)
BYTE_REF_TIME: Final = 2_000  # to hash and store one

KEY: Final = Tuple((HASH, U32))


class Currency(Protocol):
    """Who holds deposits."""

    def hold(self, reason: int, who: AccountId, amount: Balance) -> None: ...
    def release(self, reason: int, who: AccountId, amount: Balance) -> Balance: ...


def count_of(data: Sequence[object]) -> int:
    return len(data)


class Preimage(Pallet):
    """Long calls, kept under their hashes."""

    name = "Preimage"
    request_status_for: Any = StorageMap(
        Hasher.IDENTITY, Hash, REQUEST_STATUS, doc="What is known of a preimage."
    )
    preimage_for: Any = StorageMap(
        Hasher.IDENTITY, KEY, Bytes(bytes_max=SIZE_MAX), doc="Preimages by hash and length."
    )

    def __init__(self, block: Block, *, currency: Currency, reason: int) -> None:
        """`reason`: for which deposits are held."""
        super().__init__(block)
        self.currency = currency
        self.reason = reason

    # ---- for pallets that name a call by its hash

    def preimage_of(self, hash_: Hash) -> bytes | None:
        """The bytes, if they are here."""
        size = _size_of(self._status(hash_))
        return None if size is None else self.preimage_for.get((hash_, size))

    def keep(self, hash_: Hash, data: bytes) -> None:
        """Keep the chain's own bytes until they are asked for no more."""
        self.request(hash_)
        status = self._status(hash_)
        assert isinstance(status, Requested)
        if status.maybe_len is None:
            self._put(hash_, replace(status, maybe_len=len(data)))
            self.preimage_for.put((hash_, len(data)), data)
            self.emit(Noted(hash_))

    def request(self, hash_: Hash) -> None:
        """Keep the preimage, now or when it comes, until it is asked for no more."""
        status = self._status(hash_)
        match status:
            case Requested():
                self._put(hash_, replace(status, count=status.count + 1))
                return
            case Unrequested(ticket, size):
                self._put(hash_, Requested(ticket, 1, size))
            case None:
                self._put(hash_, Requested(None, 1, None))
        self.emit(PreimageRequested(hash_))

    def unrequest(self, hash_: Hash) -> None:
        """One asks for it no more. Raises `NotRequested`."""
        match self._status(hash_):
            case Requested(ticket, count, size) if count > 1:
                self._put(hash_, Requested(ticket, count - 1, size))
            case Requested(_, _, None):
                self.request_status_for.delete(hash_)
            case Requested(None, _, int(size)):
                self._clear(hash_, size)
            case Requested(tuple(ticket), _, int(size)):
                self._put(hash_, Unrequested(ticket, size))
            case _:
                raise NotRequested

    # ---- calls

    @call(60 * MICROSECOND, count=count_of, each=BYTE_REF_TIME)
    def note_preimage(
        self, origin: Origin, bytes_: Annotated[bytes, Bytes(bytes_max=SIZE_MAX)]
    ) -> None:
        """Keep bytes under their hash, for a deposit; the chain itself needs none."""
        who = None if isinstance(origin, Root) else ensure_signed(origin)
        hash_, size = Hash(blake2_256(bytes_)), len(bytes_)
        status = self._status(hash_)
        if _size_of(status) is not None and who is not None:
            raise AlreadyNoted
        match status:
            case Requested(ticket, count, _):
                self._put(hash_, Requested(ticket, count, size))
            case Unrequested(ticket, _):
                self._put(hash_, Requested(ticket, 1, size))
            case None if who is None:
                self._put(hash_, Requested(None, 1, size))
            case None:
                assert who is not None
                deposit = Balance(DEPOSIT_BASE + DEPOSIT_BYTE * size)
                self.currency.hold(self.reason, who, deposit)
                self._put(hash_, Unrequested((who, deposit), size))
        self.preimage_for.put((hash_, size), bytes_)
        self.emit(Noted(hash_))

    @call(60 * MICROSECOND)
    def unnote_preimage(self, origin: Origin, hash_: Hash) -> None:
        """Keep it no more, and give the deposit back; while something asks for it, it stays."""
        who = None if isinstance(origin, Root) else ensure_signed(origin)
        match self._status(hash_):
            case None:
                raise NotNoted
            case Requested(None, _, _) if who is not None:
                raise NotAuthorized
            case Requested(None, _, _):
                self.unrequest(hash_)
            case Requested(ticket, count, size):
                assert ticket is not None  # see the case above
                self._give_back(ticket, who)
                self._put(hash_, Requested(None, count, size))
            case Unrequested(ticket, size):
                self._give_back(ticket, who)
                self._clear(hash_, size)

    @call(40 * MICROSECOND)
    def request_preimage(self, origin: Origin, hash_: Hash) -> None:
        """Ask for a preimage: the chain itself may."""
        ensure_root(origin)
        self.request(hash_)

    @call(40 * MICROSECOND)
    def unrequest_preimage(self, origin: Origin, hash_: Hash) -> None:
        """Ask for it no more: the chain itself may."""
        ensure_root(origin)
        self.unrequest(hash_)

    @call(20 * MICROSECOND)
    def ensure_updated(
        self,
        origin: Origin,
        hashes: Annotated[tuple[Hash, ...], Vector(HASH, items_max=2 * HASHES_MAX)],
    ) -> None:
        """Nothing: every preimage has the present form from the beginning."""
        ensure_signed(origin)
        if not hashes:
            raise TooFew
        if len(hashes) > HASHES_MAX:
            raise TooMany

    # ---- what they share

    def _status(self, hash_: Hash) -> Requested | Unrequested | None:
        found = self.request_status_for.get(hash_)
        assert found is None or isinstance(found, Requested | Unrequested)
        return found

    def _put(self, hash_: Hash, status: Requested | Unrequested) -> None:
        self.request_status_for.put(hash_, status)

    def _clear(self, hash_: Hash, size: int) -> None:
        self.preimage_for.delete((hash_, size))
        self.request_status_for.delete(hash_)
        self.emit(Cleared(hash_))

    def _give_back(self, ticket: Ticket, who: AccountId | None) -> None:
        owner, deposit = ticket
        if who not in (None, owner):
            raise NotAuthorized
        self.currency.release(self.reason, owner, deposit)

    calls: ClassVar = {
        0: note_preimage,
        1: unnote_preimage,
        2: request_preimage,
        3: unrequest_preimage,
        4: ensure_updated,
    }
    events: ClassVar = {0: Noted, 1: PreimageRequested, 2: Cleared}
    errors: ClassVar = {
        1: AlreadyNoted,
        2: NotAuthorized,
        3: NotNoted,
        5: NotRequested,
        6: TooMany,
        7: TooFew,
    }


def _size_of(status: Requested | Unrequested | None) -> int | None:
    match status:
        case Requested(_, _, size):
            return size
        case Unrequested(_, size):
            return size
        case None:
            return None
