"""PhalaCollateral: what vendors say of their platforms, as far as the chain judges evidence by it.

Anyone submits it, by a bare call that is free and valid only while it is news: nothing but the
vendor's signature counts. Source: DESIGN §4; ARCHITECTURE, "Collateral".
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Annotated, ClassVar, Final, Protocol

from phala.codec import U8, U32, U64, Bytes, Vector
from phala.errors import PhalaError
from phala.frame import (
    MICROSECOND,
    Block,
    Constant,
    DefaultMap,
    Hasher,
    Origin,
    Pallet,
    Pays,
    StorageMap,
    StorageValue,
    call,
    ensure_root,
    ensure_unsigned,
)
from phala.messages.collateral import (
    AMD,
    AMD_PLATFORMS,
    COLLATERAL_KEY,
    COLLATERAL_VERSION,
    INTEL,
    ISSUE,
    ISSUE_KEY,
    NO_NUMBER,
    AmdItems,
    CollateralKey,
    IntelItems,
    Issue,
    IssueKey,
)
from phala.messages.types import DESCRIPTORS
from phala.pallets.collateral.errors import (
    BelowFloor,
    CollateralNotFound,
    CollateralRefused,
    FloorNotRaised,
    GraceTooLong,
    ManifestKnown,
    ManifestNotAllowed,
    NotNews,
    OlderThanKept,
    TooManyManifests,
    TooManyProducts,
)
from phala.pallets.collateral.records import (
    CollateralExpired,
    CollateralLapsed,
    CollateralPruned,
    CollateralSubmitted,
    Floor,
    FloorRaised,
    GraceSet,
    ManifestAllowed,
    ManifestDisallowed,
    ManifestSubmitted,
    Revoked,
    Standing,
)
from phala.primitives.types import HASH, BlockNumber, Hash, Moment

NUMBERS_MAX: Final = 4  # evaluations of one product that coexist
TRIED_MAX: Final = 3  # of them, by one registration
KEYS_MAX: Final = 512  # Intel has some hundred products, each as SGX's and TDX's
DAY_MS: Final = 24 * 60 * 60 * 1000
GRACE_MS: Final = 7 * DAY_MS  # after collateral expired, before workers judged by it are suspended
GRACE_MS_MAX: Final = 90 * DAY_MS
NEVER: Final = Moment((1 << 64) - 1)
WALK_REF_TIME: Final = 10 * MICROSECOND  # of one product

MANIFESTS_MAX: Final = 256
MANIFEST: Final = Bytes(bytes_max=128 * 1024)

__all__ = [
    "CollateralExpired",
    "CollateralLapsed",
    "CollateralPruned",
    "FloorRaised",
    "Found",
    "PhalaCollateral",
    "Verifier",
]

FRESH, EXPIRED, LAPSED = 0, 1, 2  # of `Standing.stage`


# ---- what it needs


@dataclass(frozen=True, slots=True)
class Found:
    """What verified collateral is of."""

    of: CollateralKey
    number: int
    issued: tuple[Moment, ...]
    expires: Moment


class Verifier(Protocol):
    """Who knows vendors' signatures: `attest` does. Both raise `PhalaError` for anything less."""

    def intel_collateral(self, items: Mapping[str, bytes], now: Moment, /) -> Found: ...
    def amd_collateral(self, items: Mapping[str, bytes], now: Moment, /) -> Found: ...


class Clock(Protocol):
    """The time of this block."""

    def time(self) -> Moment: ...


class Workers(Protocol):
    """Who depends on collateral."""

    def review(self, of: CollateralKey, /) -> None:
        """A product's collateral stands otherwise than before."""
        ...


class PhalaCollateral(Pallet):
    """What vendors say of their platforms."""

    name = "PhalaCollateral"
    words = DESCRIPTORS
    numbers: DefaultMap[CollateralKey, tuple[int, ...]] = DefaultMap(
        Hasher.BLAKE2_128_CONCAT,
        COLLATERAL_KEY,
        Vector(U32, items_max=NUMBERS_MAX),
        default=(),
        doc="Evaluations that are kept of a product, ascending.",
    )
    issues = StorageMap(
        Hasher.BLAKE2_128_CONCAT, ISSUE_KEY, ISSUE, doc="When collateral was issued, and expires."
    )
    intel_items = StorageMap(
        Hasher.BLAKE2_128_CONCAT, ISSUE_KEY, INTEL, doc="Intel's collateral itself."
    )
    revoked = StorageMap(
        Hasher.TWOX_64_CONCAT, U8, Revoked, doc="Intel's latest lists of revoked keys, by its CA."
    )
    amd_items = StorageMap(Hasher.BLAKE2_128_CONCAT, ISSUE_KEY, AMD, doc="AMD's itself.")
    standings = StorageMap(
        Hasher.BLAKE2_128_CONCAT, COLLATERAL_KEY, Standing, doc="Until when a product's counts."
    )
    keys: StorageValue[tuple[CollateralKey, ...]] = StorageValue(
        Vector(COLLATERAL_KEY, items_max=KEYS_MAX), default=(), doc="Products, as they came."
    )
    floor = StorageValue(
        Floor, default=Floor(0, 0, Moment(0)), doc="The least of Intel's evaluation numbers."
    )
    allowed_manifests: StorageValue[tuple[Hash, ...]] = StorageValue(
        Vector(HASH, items_max=MANIFESTS_MAX),
        default=(),
        doc="SHA-256 of manifests that devices may be held against.",
    )
    manifests = StorageMap(
        Hasher.BLAKE2_128_CONCAT, HASH, MANIFEST, doc="Manifests themselves, once submitted."
    )
    grace_ms = StorageValue(
        U64, default=GRACE_MS, doc="How long workers outlive their collateral, in milliseconds."
    )
    due = StorageValue(
        Moment, default=NEVER, doc="When something expires, lapses or takes effect next."
    )

    def __init__(self, block: Block, *, clock: Clock, verifier: Verifier, workers: Workers) -> None:
        super().__init__(block)
        self.clock = clock
        self.verifier = verifier
        self.workers = workers

    # ---- for the registry

    def kept(self, of: CollateralKey) -> tuple[tuple[int, Mapping[str, bytes]], ...]:
        """What evidence of a product is judged by, the latest evaluation first: all that are at
        the floor and have not expired, but `TRIED_MAX` at most.

        An earlier one is tried where a later one refuses: vendors evaluate ahead of the updates
        that they ask for, and the floor says how far behind is too far. But what is revoked is of
        no evaluation and no product: the latest lists of the CA's count with each.
        """
        now, least = self.clock.time(), self.least_number(of)
        lists = self._latest_lists(of)
        found: list[tuple[int, Mapping[str, bytes]]] = []
        for number in reversed(self.numbers.get(of)):
            key = IssueKey(of, number)
            issue = self.issues.get(key)
            if number < least or issue is None or issue.expires < now or len(found) == TRIED_MAX:
                continue
            items = self.amd_items if of.platform in AMD_PLATFORMS else self.intel_items
            kept = items.get(key)
            assert kept is not None, "an issue has its items"
            found.append((number, {**kept.by_name(), **lists}))
        return tuple(found)

    def _latest_lists(self, of: CollateralKey) -> Mapping[str, bytes]:
        """What is revoked by now: by Intel's CA; by AMD's root, whose one list both kinds of keys
        come with."""
        if of.platform not in AMD_PLATFORMS:
            revoked = self.revoked.get(of.issuer)
            return {} if revoked is None else revoked.by_name()
        kinds = [IssueKey(replace(of, issuer=kind), NO_NUMBER) for kind in (0, 1)]
        issues = [(issue.issued, key) for key in kinds if (issue := self.issues.get(key))]
        kept = self.amd_items.get(max(issues, key=itemgetter(0))[1]) if issues else None
        return {} if kept is None else {"amd_crl": kept.amd_crl}

    def manifests_of(self, hashes: tuple[Hash, ...]) -> tuple[bytes, ...]:
        """Manifests of devices, as governance listed them. Raises `ManifestNotAllowed`."""
        found = tuple(self.manifests.get(each) for each in hashes)
        if None in found or any(each not in self.allowed_manifests.get() for each in hashes):
            raise ManifestNotAllowed
        return tuple(each for each in found if each is not None)

    def least_number(self, of: CollateralKey) -> int:
        """What counts now."""
        if of.platform in AMD_PLATFORMS:
            return 0
        floor = self.floor.get()
        return floor.number if floor.effective_at <= self.clock.time() else floor.previous

    def coming_number(self, of: CollateralKey) -> int:
        """What is to count once the floor's grace is over."""
        return 0 if of.platform in AMD_PLATFORMS else self.floor.get().number

    def stage(self, of: CollateralKey) -> int:
        """Whether a product's collateral counts: `FRESH`, `EXPIRED`, `LAPSED`."""
        standing = self.standings.get(of)
        return LAPSED if standing is None else standing.stage

    # ---- what anyone submits

    def check_intel(self, items: IntelItems) -> Found:
        """Whether Intel's collateral is good, and news. See `_check`."""
        try:
            found = self.verifier.intel_collateral(items.by_name(), self.clock.time())  # 1
        except PhalaError as error:
            raise CollateralRefused from error
        return self._check(found)

    def check_amd(self, items: AmdItems) -> Found:
        """Whether AMD's collateral is good, and news. See `_check`."""
        try:
            found = self.verifier.amd_collateral(items.by_name(), self.clock.time())  # 1
        except PhalaError as error:
            raise CollateralRefused from error
        return self._check(found)

    def _check(self, found: Found) -> Found:
        """1 the vendor signed all of it, and at the block's time it counts; 2 its number is at the
        floor; 3 of a number that is known, no part is older than the chain's and one is later: who
        could mix an old list of revoked keys with new texts would bring those keys back; 4 there
        is room, for later numbers first.
        """
        of, number = found.of, found.number
        if number < self.least_number(of):  # 2
            raise BelowFloor
        known = self.issues.get(IssueKey(of, number))
        if known is not None:  # 3
            parts = tuple(zip(found.issued, known.issued, strict=True))
            if found.issued == known.issued or any(new < old for new, old in parts):
                raise NotNews
            return found
        numbers = self.numbers.get(of)
        if len(numbers) >= NUMBERS_MAX and number < numbers[0]:  # 4
            raise OlderThanKept
        if not numbers and len(self.keys.get()) >= KEYS_MAX:  # 4
            raise TooManyProducts
        return found

    @call(3_000 * MICROSECOND, pays_fee=Pays.NO)
    def submit_intel(self, origin: Origin, items: Annotated[IntelItems, INTEL]) -> None:
        """Bring Intel's collateral of one product and evaluation."""
        ensure_unsigned(origin)
        found = self.check_intel(items)
        self._note(found)
        self.intel_items.put(IssueKey(found.of, found.number), items)
        self._note_revoked(found, items)

    @call(6_000 * MICROSECOND, pays_fee=Pays.NO)
    def submit_amd(self, origin: Origin, items: Annotated[AmdItems, AMD]) -> None:
        """Bring AMD's certificates and revocation list of one line."""
        ensure_unsigned(origin)
        found = self.check_amd(items)
        self._note(found)
        self.amd_items.put(IssueKey(found.of, found.number), items)

    def check_manifest(self, document: bytes) -> Hash:
        """Whether governance listed the manifest, and it is not here yet."""
        named = Hash(hashlib.sha256(document).digest())
        if named not in self.allowed_manifests.get():
            raise ManifestNotAllowed
        if named in self.manifests:
            raise ManifestKnown
        return named

    @call(500 * MICROSECOND, pays_fee=Pays.NO)
    def submit_manifest(self, origin: Origin, document: Annotated[bytes, MANIFEST]) -> None:
        """Bring a manifest that governance listed by its hash."""
        ensure_unsigned(origin)
        named = self.check_manifest(document)
        self.manifests.put(named, document)
        self.emit(ManifestSubmitted(named))

    def _note_revoked(self, found: Found, items: IntelItems) -> None:
        """Keep the later of each list: any bundle may bring it."""
        *_, keys_at, root_at = found.issued
        known = self.revoked.get(found.of.issuer)
        lists = Revoked(
            keys_at, items.pck_crl, items.pck_crl_issuer_chain, root_at, items.root_ca_crl
        )
        if known is not None and known.keys_at >= keys_at:
            lists = replace(
                lists,
                keys_at=known.keys_at,
                pck_crl=known.pck_crl,
                pck_crl_issuer_chain=known.pck_crl_issuer_chain,
            )
        if known is not None and known.root_at >= root_at:
            lists = replace(lists, root_at=known.root_at, root_ca_crl=known.root_ca_crl)
        if lists != known:
            self.revoked.put(found.of.issuer, lists)

    def _note(self, found: Found) -> None:
        of, number = found.of, found.number
        issue = Issue(
            COLLATERAL_VERSION, found.issued, found.expires, BlockNumber(self.block.number)
        )
        self.issues.put(IssueKey(of, number), issue)
        numbers = self.numbers.get(of)
        if not numbers:
            self.keys.put((*self.keys.get(), of))
        if number not in numbers:
            self.numbers.put(of, tuple(sorted((*numbers, number))[-NUMBERS_MAX:]))
            if len(numbers) == NUMBERS_MAX:
                self._drop(of, numbers[0])
        self.emit(CollateralSubmitted(of, number, found.expires))
        self._restand(of)

    # ---- what governance says

    @call(100 * MICROSECOND)
    def raise_floor(
        self, origin: Origin, number: Annotated[int, U32], grace_ms: Annotated[int, U64]
    ) -> None:
        """Let Intel's evaluations below a number judge nothing, after a grace in which both do."""
        ensure_root(origin)
        old = self.floor.get()
        if number <= old.number:
            raise FloorNotRaised
        if grace_ms > GRACE_MS_MAX:
            raise GraceTooLong
        now = self.clock.time()
        held = old.number if old.effective_at <= now else old.previous
        effective_at = Moment(now + grace_ms)
        if old.effective_at > now and effective_at > old.effective_at:
            raise GraceTooLong  # it would put off the floor that waits already
        self.floor.put(Floor(number, held, effective_at))
        self.emit(FloorRaised(number, effective_at))
        self._remind(effective_at)
        for of in self.keys.get():
            if of.platform not in AMD_PLATFORMS:
                self.workers.review(of)

    @call(100 * MICROSECOND)
    def set_grace(self, origin: Origin, grace_ms: Annotated[int, U64]) -> None:
        """Say how long workers outlive their collateral."""
        ensure_root(origin)
        if grace_ms > GRACE_MS_MAX:
            raise GraceTooLong
        self.grace_ms.put(grace_ms)
        self.due.put(Moment(0))  # look at all again
        self.emit(GraceSet(grace_ms))

    @call(100 * MICROSECOND)
    def remove(self, origin: Origin, issue: Annotated[IssueKey, ISSUE_KEY]) -> None:
        """Keep an evaluation no more, though it is not below the floor."""
        ensure_root(origin)
        numbers = self.numbers.get(issue.of)
        if issue.number not in numbers:
            raise CollateralNotFound
        self._forget(issue.of, (issue.number,))

    @call(100 * MICROSECOND)
    def allow_manifest(self, origin: Origin, manifest: Hash) -> None:
        """Let devices be held against a vendor's manifest, by the SHA-256 of its document."""
        ensure_root(origin)
        known = self.allowed_manifests.get()
        if manifest in known:
            raise ManifestKnown
        if len(known) >= MANIFESTS_MAX:
            raise TooManyManifests
        self.allowed_manifests.put((*known, manifest))
        self.emit(ManifestAllowed(manifest))

    @call(100 * MICROSECOND)
    def disallow_manifest(self, origin: Origin, manifest: Hash) -> None:
        """Hold no device against it any more."""
        ensure_root(origin)
        known = self.allowed_manifests.get()
        if manifest not in known:
            raise ManifestNotAllowed
        self.allowed_manifests.put(tuple(each for each in known if each != manifest))
        self.manifests.delete(manifest)
        self.emit(ManifestDisallowed(manifest))

    # ---- what time does

    def on_finalize(self) -> None:
        """Look at what is due, once the block's time is known; most blocks look at one value."""
        now = self.clock.time()
        if now < self.due.get():
            return
        self.due.put(NEVER)
        floor = self.floor.get()
        self._remind(floor.effective_at)
        for of in self.keys.get():
            least = self.least_number(of)
            passed = tuple(number for number in self.numbers.get(of) if number < least)
            if passed:
                self._forget(of, passed)
                self.workers.review(of)
            else:
                self._restand(of)

    def _forget(self, of: CollateralKey, numbers: tuple[int, ...]) -> None:
        left = tuple(number for number in self.numbers.get(of) if number not in numbers)
        for number in numbers:
            self._drop(of, number)
        if left:
            self.numbers.put(of, left)
            self._restand(of)
            return
        self.numbers.delete(of)
        self.standings.delete(of)
        self.keys.put(tuple(each for each in self.keys.get() if each != of))
        self.workers.review(of)

    def _drop(self, of: CollateralKey, number: int) -> None:
        key = IssueKey(of, number)
        self.issues.delete(key)
        self.intel_items.delete(key)
        self.amd_items.delete(key)
        self.emit(CollateralPruned(of, number))

    def _restand(self, of: CollateralKey) -> None:
        """See how long a product's collateral counts, say what changed, and come back in time."""
        now, least = self.clock.time(), self.least_number(of)
        expires = Moment(0)
        for number in self.numbers.get(of):
            issue = self.issues.get(IssueKey(of, number))
            if issue is not None and number >= least:
                expires = max(expires, issue.expires)
        lapses = Moment(expires + self.grace_ms.get())
        stage = FRESH if now <= expires else EXPIRED if now <= lapses else LAPSED
        known = self.standings.get(of)
        standing = Standing(expires, stage)
        if standing != known:
            self.standings.put(of, standing)
        if stage == FRESH:
            self._remind(Moment(expires + 1))
        elif stage == EXPIRED:
            self._remind(Moment(lapses + 1))
        if known is not None and stage != known.stage:
            if stage != FRESH:
                self.emit(CollateralExpired(of) if stage == EXPIRED else CollateralLapsed(of))
            self.workers.review(of)

    def _remind(self, at: Moment) -> None:
        if self.clock.time() < at < self.due.get():
            self.due.put(at)

    calls: ClassVar = {
        0: submit_intel,
        1: submit_amd,
        2: submit_manifest,
        3: raise_floor,
        4: set_grace,
        5: remove,
        6: allow_manifest,
        7: disallow_manifest,
    }
    events: ClassVar = {
        0: CollateralSubmitted,
        1: CollateralExpired,
        2: CollateralLapsed,
        3: CollateralPruned,
        4: FloorRaised,
        5: GraceSet,
        6: ManifestAllowed,
        7: ManifestDisallowed,
        8: ManifestSubmitted,
    }
    errors: ClassVar = {
        0: CollateralRefused,
        1: NotNews,
        2: BelowFloor,
        3: OlderThanKept,
        4: TooManyProducts,
        5: FloorNotRaised,
        6: GraceTooLong,
        7: CollateralNotFound,
        8: ManifestNotAllowed,
        9: ManifestKnown,
        10: TooManyManifests,
    }
    constants: ClassVar = (
        Constant("NumbersMax", U32, NUMBERS_MAX, "Evaluations of one product that coexist."),
    )
