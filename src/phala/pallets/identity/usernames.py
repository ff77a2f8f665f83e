"""Usernames: `name.suffix`, granted by whom the chain made the authority of a suffix.

Source: `pallet-identity`: calls 15 to 23, and the storage that they need. A deposit is given back
to, or taken of, who is the suffix's authority by then, as there.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Protocol

from phala.codec import BOOL, U32, Bytes, Option, Tuple
from phala.crypto.signatures import verify_account
from phala.errors import Invalid
from phala.frame import (
    MICROSECOND,
    Block,
    Constant,
    Hasher,
    Origin,
    Pallet,
    PalletError,
    StorageMap,
    account_at,
    call,
    ensure_root,
    ensure_signed,
)
from phala.pallets.identity.errors import (
    AlreadyUnbinding,
    InsufficientPrivileges,
    InvalidSignature,
    InvalidSuffix,
    InvalidTarget,
    InvalidUsername,
    NoAllocation,
    NotExpired,
    NotUnbinding,
    NotUsernameAuthority,
    NoUsername,
    RequiresSignature,
    TooEarly,
    UsernameTaken,
)
from phala.pallets.identity.events import (
    AuthorityAdded,
    AuthorityRemoved,
    DanglingUsernameRemoved,
    PreapprovalExpired,
    PrimaryUsernameSet,
    UsernameKilled,
    UsernameQueued,
    UsernameRemoved,
    UsernameSet,
    UsernameUnbound,
)
from phala.pallets.identity.records import (
    ALLOCATION,
    AUTHORITY_DEPOSIT,
    AUTHORITY_PROPERTIES,
    PROVIDER,
    SYSTEM,
    USERNAME,
    USERNAME_INFORMATION,
    USERNAME_MAX,
    AuthorityProperties,
    Provider,
    UsernameInformation,
)
from phala.primitives.address import (
    MULTI_ADDRESS,
    MULTI_SIGNATURE,
    MultiAddress,
    MultiSignature,
)
from phala.primitives.types import (
    ACCOUNT_ID,
    BALANCE,
    BLOCK_NUMBER,
    PHA,
    AccountId,
    Balance,
    BlockNumber,
)

SUFFIX_MAX: Final = 7
USERNAME_DEPOSIT: Final = Balance(PHA // 10)
DAY_BLOCKS: Final = 28_800  # of three seconds
EXPIRATION_BLOCKS: Final = 7 * DAY_BLOCKS
GRACE_BLOCKS: Final = 30 * DAY_BLOCKS

SUFFIX: Final = Bytes(bytes_max=SUFFIX_MAX)
ASKED: Final = Bytes(bytes_max=1024)  # what is longer than it may be is refused by name
PENDING: Final = Tuple((ACCOUNT_ID, BLOCK_NUMBER, PROVIDER))
LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz0123456789"
DOT: Final = b"."


class Currency(Protocol):
    """Who keeps deposits."""

    def reserve(self, who: AccountId, amount: Balance) -> None: ...
    def unreserve(self, who: AccountId, amount: Balance) -> Balance: ...
    def slash_reserved(self, who: AccountId, amount: Balance) -> Balance: ...
    def repatriate_reserved(
        self, source: AccountId, target: AccountId, amount: Balance, *, reserved: bool
    ) -> Balance: ...


def plain(word: bytes) -> bool:
    """Nothing but small letters and digits."""
    return not word.strip(LETTERS)


def suffix_of(username: bytes) -> bytes:
    """What is behind the last dot. Raises `InvalidUsername` for what is no username."""
    name, dot, suffix = username.rpartition(DOT)
    known = len(username) <= USERNAME_MAX and dot and name and plain(name)
    if not known or not 0 < len(suffix) <= SUFFIX_MAX:
        raise InvalidUsername
    return suffix


def ensure_signed_by(who: AccountId, username: bytes, signature: MultiSignature) -> None:
    """The account signed its username, bare or as wallets wrap what they sign."""
    for message in (username, b"<Bytes>" + username + b"</Bytes>"):
        try:
            verify_account(signature.kind, who, message, signature.data)
        except Invalid:
            continue
        return
    raise InvalidSignature


class Usernames(Pallet):
    """The part of the pallet that knows no identities."""

    name = "Identity"
    username_of: Any = StorageMap(
        Hasher.TWOX_64_CONCAT, AccountId, USERNAME, doc="The primary username of an account."
    )
    authority_of: Any = StorageMap(
        Hasher.TWOX_64_CONCAT,
        SUFFIX,
        AUTHORITY_PROPERTIES,
        doc="Who grants usernames of a suffix, and how many without a deposit.",
    )
    username_info_of: Any = StorageMap(
        Hasher.BLAKE2_128_CONCAT,
        USERNAME,
        USERNAME_INFORMATION,
        doc="Whose a username is, and what it was granted by.",
    )
    pending_usernames: Any = StorageMap(
        Hasher.BLAKE2_128_CONCAT,
        USERNAME,
        PENDING,
        doc="Usernames to be accepted: by whom, until when, and what they were granted by.",
    )
    unbinding_usernames: Any = StorageMap(
        Hasher.BLAKE2_128_CONCAT,
        USERNAME,
        BlockNumber,
        doc="Usernames that are taken back, and from which block on they can be removed.",
    )

    def __init__(self, block: Block, *, currency: Currency) -> None:
        super().__init__(block)
        self.currency = currency

    # ---- who grants them

    @call(60 * MICROSECOND)
    def add_username_authority(
        self,
        origin: Origin,
        authority: Annotated[MultiAddress, MULTI_ADDRESS],
        suffix: Annotated[bytes, ASKED],
        allocation: Annotated[int, U32],
    ) -> None:
        """Let an account grant usernames of a suffix, so many of them without a deposit."""
        ensure_root(origin)
        who = account_at(authority)
        if not 0 < len(suffix) <= SUFFIX_MAX or not plain(suffix):
            raise InvalidSuffix
        self.authority_of.put(suffix, AuthorityProperties(who, allocation))
        self.emit(AuthorityAdded(who))

    @call(60 * MICROSECOND)
    def remove_username_authority(
        self,
        origin: Origin,
        suffix: Annotated[bytes, ASKED],
        authority: Annotated[MultiAddress, MULTI_ADDRESS],
    ) -> None:
        """Let that account grant usernames of the suffix no more; those that it granted stay."""
        ensure_root(origin)
        if len(suffix) > SUFFIX_MAX:
            raise InvalidSuffix
        who = account_at(authority)
        known: AuthorityProperties | None = self.authority_of.take(suffix)
        if known is None:
            raise NotUsernameAuthority
        if known.account_id != who:
            raise InvalidSuffix
        self.emit(AuthorityRemoved(who))

    @call(400 * MICROSECOND)
    def set_username_for(
        self,
        origin: Origin,
        who: Annotated[MultiAddress, MULTI_ADDRESS],
        username: Annotated[bytes, ASKED],
        signature: Annotated[MultiSignature | None, Option(MULTI_SIGNATURE)],
        use_allocation: Annotated[bool, BOOL],
    ) -> None:
        """Grant a whole username, as its suffix's authority. Who signed it has it at once, others
        are to accept it. It reserves a deposit, or is one of those without."""
        sender = ensure_signed(origin)
        suffix = suffix_of(username)
        provider = self._provide(sender, suffix, use_allocation=use_allocation)
        if username in self.username_info_of or username in self.pending_usernames:
            raise UsernameTaken
        owner = account_at(who)
        if signature is not None:
            ensure_signed_by(owner, username, signature)
            self._grant(owner, username, provider)
            return
        expiration = BlockNumber(self.block.number + EXPIRATION_BLOCKS)
        self.pending_usernames.put(username, (owner, expiration, provider))
        self.emit(UsernameQueued(owner, username, expiration))

    def _provide(self, sender: AccountId, suffix: bytes, *, use_allocation: bool) -> Provider:
        known: AuthorityProperties | None = self.authority_of.get(suffix)
        if known is None or known.account_id != sender:
            raise NotUsernameAuthority
        if not use_allocation:
            self.currency.reserve(sender, USERNAME_DEPOSIT)
            return Provider(AUTHORITY_DEPOSIT, USERNAME_DEPOSIT)
        if not known.allocation:
            raise NoAllocation
        self.authority_of.put(suffix, AuthorityProperties(sender, known.allocation - 1))
        return Provider(ALLOCATION)

    # ---- whose they are

    @call(100 * MICROSECOND)
    def accept_username(self, origin: Origin, username: Annotated[bytes, USERNAME]) -> None:
        """Have a username that was granted to the sender."""
        who = ensure_signed(origin)
        found = self.pending_usernames.take(username)
        if found is None:
            raise NoUsername
        owner, _, provider = found
        if owner != who:
            raise InvalidUsername
        self._grant(who, username, provider)
        self.emit(UsernameSet(who, username))  # once more, as there

    @call(100 * MICROSECOND)
    def remove_expired_approval(self, origin: Origin, username: Annotated[bytes, USERNAME]) -> None:
        """Take back a username that nobody accepted in time; its deposit is free again."""
        ensure_signed(origin)
        found = self.pending_usernames.take(username)
        if found is None:
            raise NoUsername
        owner, expiration, provider = found
        if self.block.number <= expiration:
            raise NotExpired
        if provider.kind == AUTHORITY_DEPOSIT:
            self.currency.unreserve(self._authority(username), provider.deposit)
        elif provider.kind == SYSTEM:
            raise InvalidTarget
        self.emit(PreapprovalExpired(owner))

    @call(80 * MICROSECOND)
    def set_primary_username(self, origin: Origin, username: Annotated[bytes, USERNAME]) -> None:
        """Have one of the sender's usernames found under its account."""
        who = ensure_signed(origin)
        found: UsernameInformation | None = self.username_info_of.get(username)
        if found is None:
            raise NoUsername
        if found.provider.kind == SYSTEM:
            raise InvalidTarget
        if found.owner != who:
            raise InvalidUsername
        self.username_of.put(who, username)
        self.emit(PrimaryUsernameSet(who, username))

    # ---- how they end

    @call(80 * MICROSECOND)
    def unbind_username(self, origin: Origin, username: Annotated[bytes, USERNAME]) -> None:
        """Begin to take a username back, as its suffix's authority: it can be removed later."""
        who = ensure_signed(origin)
        found: UsernameInformation | None = self.username_info_of.get(username)
        if found is None:
            raise NoUsername
        if self._authority(username) != who:
            raise NotUsernameAuthority
        if found.provider.kind == SYSTEM:
            raise InsufficientPrivileges
        if username in self.unbinding_usernames:
            raise AlreadyUnbinding
        self.unbinding_usernames.put(username, BlockNumber(self.block.number + GRACE_BLOCKS))
        self.emit(UsernameUnbound(username))

    @call(100 * MICROSECOND)
    def remove_username(self, origin: Origin, username: Annotated[bytes, USERNAME]) -> None:
        """Remove a username whose time to be taken back has come; its deposit is free again."""
        ensure_signed(origin)
        since = self.unbinding_usernames.take(username)
        if since is None:
            raise NotUnbinding
        if self.block.number < since:
            raise TooEarly
        provider = self._take(username)
        if provider.kind == SYSTEM:
            raise InsufficientPrivileges
        known: AuthorityProperties | None = self.authority_of.get(suffix_of(username))
        if known is not None and provider.kind == AUTHORITY_DEPOSIT:
            self.currency.unreserve(known.account_id, provider.deposit)
        self.emit(UsernameRemoved(username))

    @call(100 * MICROSECOND)
    def kill_username(self, origin: Origin, username: Annotated[bytes, USERNAME]) -> None:
        """Remove a username at once, and burn its deposit: the chain itself may."""
        ensure_root(origin)
        provider = self._take(username)
        self.unbinding_usernames.delete(username)
        known: AuthorityProperties | None = self.authority_of.get(suffix_of(username))
        if known is not None and provider.kind == AUTHORITY_DEPOSIT:
            self.currency.slash_reserved(known.account_id, provider.deposit)
        self.emit(UsernameKilled(username))

    # ---- what they share

    def _authority(self, username: bytes) -> AccountId:
        known: AuthorityProperties | None = self.authority_of.get(suffix_of(username))
        if known is None:
            raise NotUsernameAuthority
        return known.account_id

    def _grant(self, who: AccountId, username: bytes, provider: Provider) -> None:
        """Give it to the account; the first that it has is its primary one."""
        first = who not in self.username_of
        if first:
            self.username_of.put(who, username)
        self.username_info_of.put(username, UsernameInformation(who, provider))
        self.emit(UsernameSet(who, username))
        if first:
            self.emit(PrimaryUsernameSet(who, username))

    def _take(self, username: bytes) -> Provider:
        """Delete it. Returns what it was granted by."""
        found: UsernameInformation | None = self.username_info_of.take(username)
        if found is None:
            raise NoUsername
        if self.username_of.get(found.owner) == username:
            self.username_of.delete(found.owner)
        return found.provider


USERNAME_CALLS: Final[Mapping[int, Callable[..., None]]] = MappingProxyType(
    {
        15: Usernames.add_username_authority,
        16: Usernames.remove_username_authority,
        17: Usernames.set_username_for,
        18: Usernames.accept_username,
        19: Usernames.remove_expired_approval,
        20: Usernames.set_primary_username,
        21: Usernames.unbind_username,
        22: Usernames.remove_username,
        23: Usernames.kill_username,
    }
)
USERNAME_EVENTS: Final[Mapping[int, type[object]]] = MappingProxyType(
    {
        12: AuthorityAdded,
        13: AuthorityRemoved,
        14: UsernameSet,
        15: UsernameQueued,
        16: PreapprovalExpired,
        17: PrimaryUsernameSet,
        18: DanglingUsernameRemoved,
        19: UsernameUnbound,
        20: UsernameRemoved,
        21: UsernameKilled,
    }
)
USERNAME_ERRORS: Final[Mapping[int, type[PalletError]]] = MappingProxyType(
    {
        17: InvalidSuffix,
        18: NotUsernameAuthority,
        19: NoAllocation,
        20: InvalidSignature,
        21: RequiresSignature,
        22: InvalidUsername,
        23: UsernameTaken,
        24: NoUsername,
        25: NotExpired,
        26: TooEarly,
        27: NotUnbinding,
        28: AlreadyUnbinding,
        29: InsufficientPrivileges,
    }
)
USERNAME_CONSTANTS: Final = (
    Constant("UsernameDeposit", BALANCE, USERNAME_DEPOSIT, "What a username reserves."),
    Constant(
        "PendingUsernameExpiration",
        BLOCK_NUMBER,
        BlockNumber(EXPIRATION_BLOCKS),
        "How long a username can be accepted.",
    ),
    Constant(
        "UsernameGracePeriod",
        BLOCK_NUMBER,
        BlockNumber(GRACE_BLOCKS),
        "How long a username that is taken back stays.",
    ),
    Constant("MaxSuffixLength", U32, SUFFIX_MAX, "The longest suffix."),
    Constant("MaxUsernameLength", U32, USERNAME_MAX, "The longest username, with its suffix."),
)
