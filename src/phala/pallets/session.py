"""Session: the keys with which members take part, session by session.

Source: `pallet-session`: calls, events, errors, their numbers, its storage, and how keys wait a
session before they are used. Keys prove who owns them: each signs `POP_` and the account.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Protocol, TypeAlias

from phala.codec import BOOL, U32, Bytes, Descriptor, FixedBytes, Newtype, Option, Tuple, Vector
from phala.crypto.signatures import (
    ECDSA_PUBLIC_BYTES,
    ECDSA_SIGNATURE_BYTES,
    SIGNATURE_BYTES,
    ecdsa_recover,
    ed25519_verify,
)
from phala.errors import Invalid
from phala.frame import (
    MICROSECOND,
    Block,
    Constant,
    Described,
    Hasher,
    Origin,
    Pallet,
    PalletError,
    StorageMap,
    StorageValue,
    call,
    ensure_signed,
    event,
)
from phala.primitives.types import (
    ACCOUNT_ID,
    BALANCE,
    BLOCK_NUMBER,
    PHA,
    AccountId,
    Balance,
    BlockNumber,
    scale,
)

SESSION_BLOCKS: Final = BlockNumber(1_200)  # an hour of idle blocks
MEMBERS_MAX: Final = 100
KEY_DEPOSIT: Final = Balance(PHA // 5)
ROTATION_REF_TIME: Final = 300 * MICROSECOND
MEMBER_REF_TIME: Final = 60 * MICROSECOND
OWNERSHIP: Final = b"POP_"
PROOF_BYTES_MAX: Final = 1024

GRANDPA_KEY: Final[Newtype[bytes]] = Newtype(
    ("sp_consensus_grandpa", "app", "Public"), FixedBytes(32)
)
BRIDGE_KEY: Final[Newtype[bytes]] = Newtype(
    ("sp_core", "ecdsa", "Public"), FixedBytes(ECDSA_PUBLIC_BYTES)
)
KEY_TYPE: Final[Newtype[bytes]] = Newtype(("sp_core", "crypto", "KeyTypeId"), FixedBytes(4))
GRANDPA, BRIDGE = b"gran", b"brdg"


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """What a member signs with. The second key has its place from the start: a bridge proves a
    message to an EVM by secp256k1."""

    grandpa: Annotated[bytes, GRANDPA_KEY]  # ed25519
    bridge: Annotated[bytes | None, Option(BRIDGE_KEY)] = None  # secp256k1, compressed

    def by_type(self) -> tuple[tuple[bytes, bytes], ...]:
        """Each key after its type."""
        bridge = () if self.bridge is None else ((BRIDGE, self.bridge),)
        return ((GRANDPA, self.grandpa), *bridge)


SESSION_KEYS: Final[Descriptor[SessionKeys]] = Described(
    ("phala_runtime", "SessionKeys"), scale(SessionKeys)
)
QueuedKeys: TypeAlias = tuple[tuple[AccountId, SessionKeys], ...]


class InvalidProof(PalletError):
    """The keys do not prove their owner: have each sign `POP_` and the account."""


class NoAssociatedValidatorId(PalletError):
    """The account is no validator: use another."""


class DuplicatedKey(PalletError):
    """Another account has one of the keys: make new ones."""


class NoKeys(PalletError):
    """The account has no keys: nothing is to be removed."""


class NoAccount(PalletError):
    """The account does not exist: send it funds first."""


@event
class NewSession:
    """Another session began."""

    session_index: Annotated[int, U32]


@event
class NewQueued:
    """Other members or keys take part in the session after this one."""


class Currency(Protocol):
    """Who keeps deposits."""

    def reserve(self, who: AccountId, amount: Balance) -> None: ...
    def unreserve(self, who: AccountId, amount: Balance) -> Balance: ...


class Manager(Protocol):
    """Who says who takes part."""

    def next_members(self) -> tuple[AccountId, ...] | None:
        """Who does from the session after next on; None for those of the next one."""
        ...

    def begin(self, members: tuple[tuple[AccountId, bytes], ...]) -> None:
        """A session begins with other members or keys: each account and its finality key."""
        ...


class Session(Pallet):
    """The keys with which members take part."""

    name = "Session"
    validators: StorageValue[tuple[AccountId, ...]] = StorageValue(
        Vector(ACCOUNT_ID, items_max=MEMBERS_MAX), default=(), doc="Who takes part."
    )
    current_index = StorageValue(U32, default=0, doc="The number of this session.")
    queued_changed = StorageValue(
        BOOL, default=False, doc="Whether others, or other keys, take part from the next one on."
    )
    queued_keys: StorageValue[QueuedKeys] = StorageValue(
        Vector(Tuple((ACCOUNT_ID, SESSION_KEYS)), items_max=MEMBERS_MAX),
        default=(),
        doc="Who takes part in the next session, and with which keys.",
    )
    next_keys: Any = StorageMap(
        Hasher.TWOX_64_CONCAT, AccountId, SESSION_KEYS, doc="The keys that an account set."
    )
    key_owner: Any = StorageMap(
        Hasher.TWOX_64_CONCAT,
        Tuple((KEY_TYPE, Bytes(bytes_max=64))),
        AccountId,
        doc="Whose a key is.",
    )

    def __init__(self, block: Block, *, currency: Currency, manager: Manager) -> None:
        super().__init__(block)
        self.currency = currency
        self.manager = manager

    def on_initialize(self) -> int:
        if self.block.number % SESSION_BLOCKS:
            return 0
        self.rotate()
        return ROTATION_REF_TIME + MEMBER_REF_TIME * len(self.queued_keys.get())

    def rotate(self) -> None:
        """End a session and begin the next, with what was queued."""
        present, changed = self.queued_keys.get(), self.queued_changed.get()
        self.validators.put(tuple(who for who, _ in present))
        index = self.current_index.get() + 1
        self.current_index.put(index)
        if changed:
            self.manager.begin(tuple((who, keys.grandpa) for who, keys in present))
        members = self.manager.next_members()
        following = self._keyed(self.validators.get() if members is None else members)
        if not following:  # all removed their keys: somebody must finalize
            following = present
        changes = members is not None or following != present
        self.queued_keys.put(following)
        self.queued_changed.put(changes)
        self.emit(NewSession(index))
        if changes:
            self.emit(NewQueued())

    def has_keys(self, who: AccountId) -> bool:
        return who in self.next_keys

    def _keyed(self, members: tuple[AccountId, ...]) -> QueuedKeys:
        found = ((who, self.next_keys.get(who)) for who in members)
        return tuple((who, keys) for who, keys in found if keys is not None)

    # ---- calls

    @call(300 * MICROSECOND)
    def set_keys(
        self,
        origin: Origin,
        keys: Annotated[SessionKeys, SESSION_KEYS],
        proof: Annotated[bytes, Bytes(bytes_max=PROOF_BYTES_MAX)],
    ) -> None:
        """Set the keys with which the sender takes part from the session after next on.

        `proof` is each key's signature of `POP_` and the sender, one after the other.
        """
        who = ensure_signed(origin)
        verify_ownership(who, keys, proof)
        for key in keys.by_type():
            if self.key_owner.get(key) not in (None, who):
                raise DuplicatedKey
        old: SessionKeys | None = self.next_keys.get(who)
        if old is None:
            self.currency.reserve(who, KEY_DEPOSIT)
        else:
            self._disown(old)
        for key in keys.by_type():
            self.key_owner.put(key, who)
        self.next_keys.put(who, keys)

    @call(100 * MICROSECOND)
    def purge_keys(self, origin: Origin) -> None:
        """Remove the sender's keys; those that are queued serve till their session's end."""
        who = ensure_signed(origin)
        old: SessionKeys | None = self.next_keys.get(who)
        if old is None:
            raise NoKeys
        self._disown(old)
        self.next_keys.delete(who)
        self.currency.unreserve(who, KEY_DEPOSIT)

    def _disown(self, keys: SessionKeys) -> None:
        for key in keys.by_type():
            self.key_owner.delete(key)

    calls: ClassVar = {0: set_keys, 1: purge_keys}
    events: ClassVar = {0: NewSession, 1: NewQueued}
    errors: ClassVar = {
        0: InvalidProof,
        1: NoAssociatedValidatorId,
        2: DuplicatedKey,
        3: NoKeys,
        4: NoAccount,
    }
    constants: ClassVar = (
        Constant("KeyDeposit", BALANCE, KEY_DEPOSIT, "What having keys reserves."),
        Constant("SessionBlocks", BLOCK_NUMBER, SESSION_BLOCKS, "How long a session is."),
    )


def verify_ownership(who: AccountId, keys: SessionKeys, proof: bytes) -> None:
    """Raises `InvalidProof`."""
    size = SIGNATURE_BYTES + (0 if keys.bridge is None else ECDSA_SIGNATURE_BYTES)
    if len(proof) != size:
        raise InvalidProof
    message = OWNERSHIP + who
    try:
        ed25519_verify(keys.grandpa, message, proof[:SIGNATURE_BYTES])
        bridge = keys.bridge and ecdsa_recover(message, proof[SIGNATURE_BYTES:])
    except Invalid:
        raise InvalidProof from None
    if bridge != keys.bridge:
        raise InvalidProof
