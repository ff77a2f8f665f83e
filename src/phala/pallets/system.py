"""System: accounts, the block being made, and what happened in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, ClassVar, Final

from phala.codec import BOOL, U32, Bytes, Compact, Text, Tuple, Vector
from phala.crypto.hashes import blake2_256
from phala.errors import Invalid
from phala.frame import (
    ACCOUNT_INFO,
    DISPATCH_ERROR,
    DISPATCH_INFO,
    MICROSECOND,
    NO_ACCOUNT,
    WEIGHT,
    AccountInfo,
    Constant,
    DefaultMap,
    Described,
    DispatchClass,
    DispatchError,
    DispatchInfo,
    EventRecords,
    Hasher,
    Origin,
    Pallet,
    PalletError,
    Root,
    StorageOption,
    StorageValue,
    Weight,
    call,
    ensure_root,
    ensure_signed,
    event,
)
from phala.frame.ledger import Book, account_of
from phala.frame.manifest import CODE_KEY, MANIFEST_BYTES_MAX, Manifest
from phala.primitives.header import (
    DIGEST_ITEM,
    DIGEST_ITEMS_MAX,
    DigestItem,
    RuntimeEnvironmentUpdated,
)
from phala.primitives.types import BLOCK_NUMBER, AccountId, BlockNumber, Hash, scale

BLOCK_HASH_COUNT: Final = 4096  # blocks whose hash is known: the longest era of a transaction
REMARK_BYTES_MAX: Final = 1024 * 1024
KEY: Final = Bytes(bytes_max=1024)
KEYS: Final = Vector(KEY, items_max=10_000)
ITEMS: Final = Vector(Tuple((KEY, Bytes(bytes_max=REMARK_BYTES_MAX))), items_max=10_000)
ITEM_REF_TIME: Final = 10 * MICROSECOND
BYTE_REF_TIME: Final = 2_000  # to carry one, and hash it
NO_HASH: Final = Hash(bytes(32))


class InvalidSpecName(PalletError):
    """The manifest is of another chain's runtime: give one with this chain's name."""


class SpecVersionNeedsToIncrease(PalletError):
    """The manifest's spec version is not above the present one: release under a higher one."""


class FailedToExtractRuntimeVersion(PalletError):
    """The code is no runtime manifest: make one by `phala node release`."""


class NothingAuthorized(PalletError):
    """No upgrade is authorized: authorize it first."""


class Unauthorized(PalletError):
    """The code is another than what was authorized: give that one."""


class CallFiltered(PalletError):
    """The call is not for whoever asks: leave it to a block's author."""


@event
class ExtrinsicSuccess:
    """An extrinsic completed."""

    dispatch_info: Annotated[DispatchInfo, DISPATCH_INFO]


@event
class ExtrinsicFailed:
    """An extrinsic was paid for and did nothing else."""

    dispatch_error: Annotated[DispatchError, DISPATCH_ERROR]
    dispatch_info: Annotated[DispatchInfo, DISPATCH_INFO]


@event
class CodeUpdated:
    """Blocks after this one are made by other code."""


@event
class NewAccount:
    """An account exists from now on."""

    account: AccountId


@event
class KilledAccount:
    """An account had less than the existential deposit and is gone."""

    account: AccountId


@event
class Remarked:
    """Somebody left a remark."""

    sender: AccountId
    hash: Hash


@event
class UpgradeAuthorized:
    """Whoever has the code with this hash may put it in place."""

    code_hash: Hash
    check_version: Annotated[bool, BOOL]


@dataclass(frozen=True, slots=True)
class CodeUpgradeAuthorization:
    code_hash: Hash
    check_version: Annotated[bool, BOOL]


@dataclass(frozen=True, slots=True)
class LastRuntimeUpgradeInfo:
    spec_version: Annotated[int, Compact(U32)]
    spec_name: Annotated[str, Text(bytes_max=32)]


@dataclass(frozen=True, slots=True)
class Digest:
    logs: Annotated[tuple[DigestItem, ...], Vector(DIGEST_ITEM, items_max=DIGEST_ITEMS_MAX)]


DIGEST: Final = Described(("sp_runtime", "generic", "digest", "Digest"), scale(Digest))


@dataclass(frozen=True, slots=True)
class ConsumedWeight:
    normal: Annotated[Weight, WEIGHT]
    operational: Annotated[Weight, WEIGHT]
    mandatory: Annotated[Weight, WEIGHT]


NOTHING_CONSUMED: Final = ConsumedWeight(Weight(0, 0), Weight(0, 0), Weight(0, 0))
CONSUMED_WEIGHT: Final = Described(
    ("frame_support", "dispatch", "PerDispatchClass"), scale(ConsumedWeight), (("T", WEIGHT),)
)


def manifest_of(code: bytes) -> Manifest:
    """Raises `FailedToExtractRuntimeVersion`."""
    try:
        return Manifest.decode(code)
    except Invalid:
        raise FailedToExtractRuntimeVersion from None


def count_of(items: Sequence[object]) -> int:
    return len(items)


def count_of_subkeys(_prefix: bytes, subkeys: int) -> int:
    return subkeys + 1


class System(Pallet):
    """Accounts, the block being made, and what happened in it."""

    name = "System"
    account = DefaultMap(
        Hasher.BLAKE2_128_CONCAT,
        AccountId,
        ACCOUNT_INFO,
        default=NO_ACCOUNT,
        doc="All that is known of an account.",
    )
    block_weight = StorageValue(
        CONSUMED_WEIGHT, default=NOTHING_CONSUMED, doc="How much of the block was taken."
    )
    extrinsic_count = StorageOption(U32, doc="Extrinsics applied; empty between blocks.")
    block_hash = DefaultMap(
        Hasher.TWOX_64_CONCAT,
        BLOCK_NUMBER,
        Hash,
        default=NO_HASH,
        doc="Hashes of genesis and of the last `BlockHashCount` blocks.",
    )
    number = StorageValue(BLOCK_NUMBER, default=BlockNumber(0), doc="The block being made.")
    parent_hash = StorageValue(Hash, default=NO_HASH, doc="The hash of the block before.")
    digest = StorageValue(DIGEST, default=Digest(()), doc="The block's digest.")
    event_records = StorageValue(
        EventRecords(), default=b"\0", doc="What happened in the block.", name="Events"
    )
    event_count = StorageValue(U32, default=0, doc="How many events the block has.")
    last_runtime_upgrade = StorageOption(
        LastRuntimeUpgradeInfo, doc="The runtime that made the latest change of code."
    )
    authorized_upgrade = StorageOption(
        CodeUpgradeAuthorization, doc="The code that anybody may put in place, by its hash."
    )

    def initialize(self, parent: Hash, logs: tuple[DigestItem, ...]) -> None:
        """Begin a block: `self.block.number` is its height."""
        number = self.block.number
        self.number.put(number)
        self.parent_hash.put(parent)
        self.block_hash.put(BlockNumber(number - 1), parent)
        forgotten = number - 1 - BLOCK_HASH_COUNT
        if forgotten > 0:  # genesis stays
            self.block_hash.delete(BlockNumber(forgotten))
        self.block.logs.extend(logs)

    def finalize(self, events: bytes) -> tuple[DigestItem, ...]:
        """End a block. Returns its digest."""
        self.block_weight.put(ConsumedWeight(*(Weight(each, 0) for each in self.block.ref_time)))
        self.event_records.put(events)
        self.event_count.put(len(self.block.events))
        logs = tuple(self.block.logs)
        self.digest.put(Digest(logs))
        return logs

    def genesis_hash(self) -> Hash:
        return self.block_hash.get(BlockNumber(0))

    def hash_of(self, number: BlockNumber) -> Hash | None:
        """The hash of a block before this one; None for one that is forgotten or to come."""
        found = self.block_hash.get(number)
        return None if found == NO_HASH else found

    # ---- accounts, for Balances

    def book(self) -> Book:
        return self.account

    def account_of(self, who: AccountId) -> AccountInfo:
        return account_of(self.account, who)

    def keep(self, who: AccountId, info: AccountInfo) -> None:
        """Store an account that exists already."""
        self.account.put(who, info)

    def create(self, who: AccountId, info: AccountInfo) -> None:
        self.account.put(who, info)
        self.emit(NewAccount(who))

    def kill(self, who: AccountId) -> None:
        self.account.delete(who)
        self.emit(KilledAccount(who))

    # ---- calls

    @call(20 * MICROSECOND, count=count_of, each=BYTE_REF_TIME)
    def remark(
        self,
        origin: Origin,
        remark: Annotated[bytes, Bytes(bytes_max=REMARK_BYTES_MAX)],  # noqa: ARG002 - only carried
    ) -> None:
        """Carry some bytes in a block and do nothing."""
        if not isinstance(origin, Root):
            ensure_signed(origin)

    @call(500 * MICROSECOND, dispatch_class=DispatchClass.OPERATIONAL)
    def set_code(
        self, origin: Origin, code: Annotated[bytes, Bytes(bytes_max=MANIFEST_BYTES_MAX)]
    ) -> None:
        """Let the release that a manifest names make every block after this one."""
        ensure_root(origin)
        self._ensure_follows(code)
        self._update_code(code)

    @call(500 * MICROSECOND, dispatch_class=DispatchClass.OPERATIONAL)
    def set_code_without_checks(
        self, origin: Origin, code: Annotated[bytes, Bytes(bytes_max=MANIFEST_BYTES_MAX)]
    ) -> None:
        """The same, whatever the manifest's name and spec version: a way back."""
        ensure_root(origin)
        self._update_code(code)

    @call(100 * MICROSECOND, dispatch_class=DispatchClass.OPERATIONAL)
    def authorize_upgrade(self, origin: Origin, code_hash: Hash) -> None:
        """Let anybody put the code with this hash in place, if it follows the present one."""
        self._authorize(origin, code_hash, check_version=True)

    @call(100 * MICROSECOND, dispatch_class=DispatchClass.OPERATIONAL)
    def authorize_upgrade_without_checks(self, origin: Origin, code_hash: Hash) -> None:
        """The same, whatever its name and spec version."""
        self._authorize(origin, code_hash, check_version=False)

    @call(500 * MICROSECOND, dispatch_class=DispatchClass.OPERATIONAL)
    def apply_authorized_upgrade(
        self, origin: Origin, code: Annotated[bytes, Bytes(bytes_max=MANIFEST_BYTES_MAX)]
    ) -> None:
        """Put authorized code in place, whoever asks."""
        if not isinstance(origin, Root):
            ensure_signed(origin)
        authorized = self.authorized_upgrade.get()
        if authorized is None:
            raise NothingAuthorized
        if authorized.code_hash != blake2_256(code):
            raise Unauthorized
        if authorized.check_version:
            self._ensure_follows(code)
        self._update_code(code)
        self.authorized_upgrade.delete()

    def _authorize(self, origin: Origin, code_hash: Hash, *, check_version: bool) -> None:
        ensure_root(origin)
        self.authorized_upgrade.put(CodeUpgradeAuthorization(code_hash, check_version))
        self.emit(UpgradeAuthorized(code_hash, check_version))

    def _ensure_follows(self, code: bytes) -> None:
        new = manifest_of(code)
        present = self.state.get(CODE_KEY)
        if present is None:
            return
        old = manifest_of(present)
        if new.name != old.name:
            raise InvalidSpecName
        if new.spec_version <= old.spec_version:
            raise SpecVersionNeedsToIncrease

    def _update_code(self, code: bytes) -> None:
        manifest_of(code)  # what is none would be the chain's last block
        self.state.put(CODE_KEY, code)
        self.block.logs.append(RuntimeEnvironmentUpdated())
        self.emit(CodeUpdated())

    @call(
        20 * MICROSECOND,
        dispatch_class=DispatchClass.OPERATIONAL,
        count=count_of,
        each=ITEM_REF_TIME,
    )
    def set_storage(
        self, origin: Origin, items: Annotated[tuple[tuple[bytes, bytes], ...], ITEMS]
    ) -> None:
        """Write keys of the state as they are given: the chain itself may, to mend it."""
        ensure_root(origin)
        for key, value in items:
            self.state.put(key, value)

    @call(
        20 * MICROSECOND,
        dispatch_class=DispatchClass.OPERATIONAL,
        count=count_of,
        each=ITEM_REF_TIME,
    )
    def kill_storage(self, origin: Origin, keys: Annotated[tuple[bytes, ...], KEYS]) -> None:
        """Delete keys of the state: the chain itself may, to mend it."""
        ensure_root(origin)
        for key in keys:
            self.state.delete(key)

    @call(
        20 * MICROSECOND,
        dispatch_class=DispatchClass.OPERATIONAL,
        count=count_of_subkeys,
        each=ITEM_REF_TIME,
    )
    def kill_prefix(
        self, origin: Origin, prefix: Annotated[bytes, KEY], subkeys: Annotated[int, U32]
    ) -> None:
        """Delete keys with a prefix, `subkeys` of them at most: the chain itself may."""
        ensure_root(origin)
        for key in tuple(islice(self.state.keys(prefix), subkeys)):
            self.state.delete(key)

    @call(30 * MICROSECOND, count=count_of, each=BYTE_REF_TIME)
    def remark_with_event(
        self, origin: Origin, remark: Annotated[bytes, Bytes(bytes_max=REMARK_BYTES_MAX)]
    ) -> None:
        """Carry some bytes in a block and emit their hash."""
        sender = ensure_signed(origin)
        self.emit(Remarked(sender, Hash(blake2_256(remark))))

    calls: ClassVar = {
        0: remark,
        2: set_code,
        3: set_code_without_checks,
        4: set_storage,
        5: kill_storage,
        6: kill_prefix,
        7: remark_with_event,
        9: authorize_upgrade,
        10: authorize_upgrade_without_checks,
        11: apply_authorized_upgrade,
    }
    events: ClassVar = {
        0: ExtrinsicSuccess,
        1: ExtrinsicFailed,
        2: CodeUpdated,
        3: NewAccount,
        4: KilledAccount,
        5: Remarked,
        6: UpgradeAuthorized,
    }
    errors: ClassVar = {
        0: InvalidSpecName,
        1: SpecVersionNeedsToIncrease,
        2: FailedToExtractRuntimeVersion,
        5: CallFiltered,
        7: NothingAuthorized,
        8: Unauthorized,
    }
    constants: ClassVar = (
        Constant(
            "BlockHashCount", BLOCK_NUMBER, BLOCK_HASH_COUNT, "How many block hashes are kept."
        ),
    )
