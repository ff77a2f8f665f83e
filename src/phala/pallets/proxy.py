"""Proxy: an account lets another act for it, wholly or in part, at once or after a delay.

Source: `pallet-proxy`: calls, events, errors, their numbers, and how a pure account is derived.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Protocol, TypeAlias

from phala.codec import U16, U32, Compact, Option, Tuple, Vector
from phala.crypto.hashes import blake2_256
from phala.frame import (
    DISPATCH_RESULT,
    MICROSECOND,
    RUNTIME_CALL,
    Block,
    Call,
    Choice,
    Constant,
    DefaultMap,
    Described,
    Dispatcher,
    Hasher,
    Origin,
    Pallet,
    PalletError,
    Restriction,
    Signed,
    account_at,
    call,
    dispatch_result,
    ensure_signed,
    event,
)
from phala.primitives.address import MULTI_ADDRESS, MultiAddress
from phala.primitives.types import (
    BALANCE,
    BLOCK_NUMBER,
    PHA,
    AccountId,
    Balance,
    BlockNumber,
    Hash,
    scale,
)

PROXIES_MAX: Final = 32
PENDING_MAX: Final = 32
DEPOSIT_BASE: Final = Balance(PHA // 5)
DEPOSIT_FACTOR: Final = Balance(PHA // 20)
ANNOUNCEMENT_BASE: Final = Balance(PHA // 5)
ANNOUNCEMENT_FACTOR: Final = Balance(PHA // 10)

# The types are wire format: add at the end. What each may do, the runtime says.
ANY, NON_TRANSFER, CANCEL_PROXY, IDENTITY_JUDGEMENT = 0, 1, 2, 3
PROXY_TYPE: Final = Choice(
    ("phala_runtime", "ProxyType"), ("Any", "NonTransfer", "CancelProxy", "IdentityJudgement")
)

EXTRINSIC_INDEX: Final[Compact[int]] = Compact(U32)
HEIGHT: Final[Compact[BlockNumber]] = Compact(BLOCK_NUMBER)


class TooMany(PalletError):
    """There are as many as there can be: remove one first."""


class NotFound(PalletError):
    """There is nothing like it: look up what there is."""


class NotProxy(PalletError):
    """The sender is no proxy of that account: have the account add it."""


class Duplicate(PalletError):
    """It is there already: nothing is to be done."""


class NoPermission(PalletError):
    """The sender did not make this account: leave it to the one that did."""


class Unannounced(PalletError):
    """The call was not announced, or too late: announce it and wait for the delay."""


class NoSelfProxy(PalletError):
    """An account needs no proxy to itself: name another."""


@dataclass(frozen=True, slots=True)
class ProxyRecord:
    delegate: AccountId
    proxy_type: Annotated[int, PROXY_TYPE]
    delay: BlockNumber  # blocks between an announcement and its call


@dataclass(frozen=True, slots=True)
class AnnouncementRecord:
    real: AccountId
    call_hash: Hash
    height: BlockNumber


PROXY: Final[Described[ProxyRecord]] = Described(
    ("pallet_proxy", "ProxyDefinition"), scale(ProxyRecord)
)
ANNOUNCEMENT: Final[Described[AnnouncementRecord]] = Described(
    ("pallet_proxy", "Announcement"), scale(AnnouncementRecord)
)

Proxies: TypeAlias = tuple[tuple[ProxyRecord, ...], Balance]  # with what they reserve
Announcements: TypeAlias = tuple[tuple[AnnouncementRecord, ...], Balance]

NO_PROXIES: Final[Proxies] = ((), Balance(0))
NO_ANNOUNCEMENTS: Final[Announcements] = ((), Balance(0))


@event
class ProxyExecuted:
    """A proxy's call ran."""

    result: Annotated[Any, DISPATCH_RESULT]


@event
class PureCreated:
    """An account without a key was made; who made it is its proxy."""

    pure: AccountId
    who: AccountId
    proxy_type: Annotated[int, PROXY_TYPE]
    disambiguation_index: Annotated[int, U16]


@event
class PureKilled:
    """An account without a key is given up for good."""

    pure: AccountId
    spawner: AccountId
    proxy_type: Annotated[int, PROXY_TYPE]
    disambiguation_index: Annotated[int, U16]


@event
class Announced:
    """A proxy says what it is going to do."""

    real: AccountId
    proxy: AccountId
    call_hash: Hash


@event
class ProxyAdded:
    """An account has one more proxy."""

    delegator: AccountId
    delegatee: AccountId
    proxy_type: Annotated[int, PROXY_TYPE]
    delay: BlockNumber


@event
class ProxyRemoved:
    """An account has one proxy less."""

    delegator: AccountId
    delegatee: AccountId
    proxy_type: Annotated[int, PROXY_TYPE]
    delay: BlockNumber


OF_PROXIES, OF_ANNOUNCEMENTS = 0, 1
DEPOSIT_KIND: Final = Choice(("pallet_proxy", "DepositKind"), ("Proxies", "Announcements"))


@event
class DepositPoked:
    """What an account's proxies or announcements reserve follows the present rates."""

    who: AccountId
    kind: Annotated[int, DEPOSIT_KIND]
    old_deposit: Balance
    new_deposit: Balance


class Currency(Protocol):
    """Who keeps deposits."""

    def reserve(self, who: AccountId, amount: Balance) -> None: ...
    def unreserve(self, who: AccountId, amount: Balance) -> Balance: ...


class Rules(Protocol):
    """What a proxy of a type may do."""

    def restriction(self, proxy_type: int) -> Restriction: ...


def weight_of_inner(*arguments: Any) -> int:
    inner = arguments[-1]
    assert isinstance(inner, Call)
    return inner.info.weight.ref_time


class Proxy(Pallet):
    """An account lets another act for it."""

    name = "Proxy"
    proxies: DefaultMap[AccountId, Proxies] = DefaultMap(
        Hasher.TWOX_64_CONCAT,
        AccountId,
        Tuple((Vector(PROXY, items_max=PROXIES_MAX), BALANCE)),
        default=NO_PROXIES,
        doc="Who may act for an account, and what that reserves.",
    )
    announcements: DefaultMap[AccountId, Announcements] = DefaultMap(
        Hasher.TWOX_64_CONCAT,
        AccountId,
        Tuple((Vector(ANNOUNCEMENT, items_max=PENDING_MAX), BALANCE)),
        default=NO_ANNOUNCEMENTS,
        doc="What a proxy is going to do, and what that reserves.",
    )

    def __init__(
        self, block: Block, *, currency: Currency, dispatcher: Dispatcher, rules: Rules
    ) -> None:
        super().__init__(block)
        self.currency = currency
        self.dispatcher = dispatcher
        self.rules = rules

    # ---- calls

    @call(40 * MICROSECOND, weigh=weight_of_inner)
    def proxy(
        self,
        origin: Origin,
        real: Annotated[MultiAddress, MULTI_ADDRESS],
        force_proxy_type: Annotated[int | None, Option(PROXY_TYPE)],
        call: Annotated[Call, RUNTIME_CALL],
    ) -> None:
        """Act for an account that made the sender its proxy without a delay."""
        who, account = ensure_signed(origin), account_at(real)
        found = self._proxy_of(account, who, force_proxy_type)
        if found.delay:
            raise Unannounced
        self._act(found, account, call)

    @call(60 * MICROSECOND)
    def add_proxy(
        self,
        origin: Origin,
        delegate: Annotated[MultiAddress, MULTI_ADDRESS],
        proxy_type: Annotated[int, PROXY_TYPE],
        delay: BlockNumber,
    ) -> None:
        """Let another account act for the sender."""
        who, added = ensure_signed(origin), account_at(delegate)
        if added == who:
            raise NoSelfProxy
        proxies, deposit = self.proxies.get(who)
        new = ProxyRecord(added, proxy_type, delay)
        if new in proxies:
            raise Duplicate
        if len(proxies) >= PROXIES_MAX:
            raise TooMany
        self._put_proxies(who, tuple(sorted((*proxies, new), key=_order)), deposit)
        self.emit(ProxyAdded(who, added, proxy_type, delay))

    @call(60 * MICROSECOND)
    def remove_proxy(
        self,
        origin: Origin,
        delegate: Annotated[MultiAddress, MULTI_ADDRESS],
        proxy_type: Annotated[int, PROXY_TYPE],
        delay: BlockNumber,
    ) -> None:
        """Let that account act no more."""
        who, removed = ensure_signed(origin), account_at(delegate)
        proxies, deposit = self.proxies.get(who)
        old = ProxyRecord(removed, proxy_type, delay)
        if old not in proxies:
            raise NotFound
        self._put_proxies(who, tuple(each for each in proxies if each != old), deposit)
        self.emit(ProxyRemoved(who, removed, proxy_type, delay))

    @call(60 * MICROSECOND)
    def remove_proxies(self, origin: Origin) -> None:
        """Let no account act any more. A pure account is lost with its last proxy."""
        who = ensure_signed(origin)
        _, deposit = self.proxies.get(who)
        self._put_proxies(who, (), deposit)

    @call(80 * MICROSECOND)
    def create_pure(
        self,
        origin: Origin,
        proxy_type: Annotated[int, PROXY_TYPE],
        delay: BlockNumber,
        index: Annotated[int, U16],
    ) -> None:
        """Make an account without a key, whose proxy the sender is."""
        who = ensure_signed(origin)
        pure = pure_account(who, proxy_type, index, self.block.number, max(self.block.phase, 0))
        if pure in self.proxies:
            raise Duplicate
        deposit = deposit_of(1, DEPOSIT_BASE, DEPOSIT_FACTOR)
        self.currency.reserve(who, deposit)
        self.proxies.put(pure, ((ProxyRecord(who, proxy_type, delay),), deposit))
        self.emit(PureCreated(pure, who, proxy_type, index))

    @call(60 * MICROSECOND)
    def kill_pure(
        self,
        origin: Origin,
        spawner: Annotated[MultiAddress, MULTI_ADDRESS],
        proxy_type: Annotated[int, PROXY_TYPE],
        index: Annotated[int, U16],
        height: Annotated[BlockNumber, HEIGHT],
        ext_index: Annotated[int, EXTRINSIC_INDEX],
    ) -> None:
        """Give up a pure account, by itself. What it holds is out of reach from then on."""
        who, maker = ensure_signed(origin), account_at(spawner)
        if who != pure_account(maker, proxy_type, index, height, ext_index):
            raise NoPermission
        _, deposit = self.proxies.get(who)
        self.proxies.delete(who)
        self.currency.unreserve(maker, deposit)
        self.emit(PureKilled(who, maker, proxy_type, index))

    @call(60 * MICROSECOND)
    def announce(
        self, origin: Origin, real: Annotated[MultiAddress, MULTI_ADDRESS], call_hash: Hash
    ) -> None:
        """Say what the sender is going to do for an account."""
        who, account = ensure_signed(origin), account_at(real)
        self._proxy_of(account, who, None)
        pending, deposit = self.announcements.get(who)
        if len(pending) >= PENDING_MAX:
            raise TooMany
        new = AnnouncementRecord(account, call_hash, self.block.number)
        self._put_announcements(who, (*pending, new), deposit)
        self.emit(Announced(account, who, call_hash))

    @call(60 * MICROSECOND)
    def remove_announcement(
        self, origin: Origin, real: Annotated[MultiAddress, MULTI_ADDRESS], call_hash: Hash
    ) -> None:
        """Take an announcement back."""
        who, account = ensure_signed(origin), account_at(real)
        self._forget(who, lambda each: (each.real, each.call_hash) == (account, call_hash))

    @call(60 * MICROSECOND)
    def reject_announcement(
        self, origin: Origin, delegate: Annotated[MultiAddress, MULTI_ADDRESS], call_hash: Hash
    ) -> None:
        """Refuse what a proxy announced, before its delay is over."""
        who, proxy = ensure_signed(origin), account_at(delegate)
        self._forget(proxy, lambda each: (each.real, each.call_hash) == (who, call_hash))

    @call(80 * MICROSECOND, weigh=weight_of_inner)
    def proxy_announced(
        self,
        origin: Origin,
        delegate: Annotated[MultiAddress, MULTI_ADDRESS],
        real: Annotated[MultiAddress, MULTI_ADDRESS],
        force_proxy_type: Annotated[int | None, Option(PROXY_TYPE)],
        call: Annotated[Call, RUNTIME_CALL],
    ) -> None:
        """Do what a proxy announced, once its delay is over. Anybody may send it."""
        ensure_signed(origin)
        proxy, account = account_at(delegate), account_at(real)
        found = self._proxy_of(account, proxy, force_proxy_type)
        call_hash, now = blake2_256(call.encoded), self.block.number
        try:
            self._forget(
                proxy,
                lambda each: (
                    (each.real, each.call_hash) == (account, call_hash)
                    and now - each.height >= found.delay
                ),
            )
        except NotFound:
            raise Unannounced from None
        self._act(found, account, call)

    @call(80 * MICROSECOND)
    def poke_deposit(self, origin: Origin) -> None:
        """Have what the sender's proxies and announcements reserve follow the present rates."""
        who = ensure_signed(origin)
        proxies, before = self.proxies.get(who)
        self._put_proxies(who, proxies, before)
        self._poked(who, OF_PROXIES, before, self.proxies.get(who)[1])
        pending, before = self.announcements.get(who)
        self._put_announcements(who, pending, before)
        self._poked(who, OF_ANNOUNCEMENTS, before, self.announcements.get(who)[1])

    # ---- what they share

    def _poked(self, who: AccountId, kind: int, before: Balance, after: Balance) -> None:
        if after != before:
            self.emit(DepositPoked(who, kind, before, after))

    def _proxy_of(self, real: AccountId, who: AccountId, proxy_type: int | None) -> ProxyRecord:
        for each in self.proxies.get(real)[0]:
            if each.delegate == who and proxy_type in (None, each.proxy_type):
                return each
        raise NotProxy

    def _act(self, found: ProxyRecord, real: AccountId, call: Call) -> None:
        """Whoever acts for an account is restricted as its proxy, not as itself."""
        restriction = self.rules.restriction(found.proxy_type)
        error = self.dispatcher.dispatch(call, Signed(real, (restriction,)))
        self.emit(ProxyExecuted(dispatch_result(error)))

    def _put_proxies(
        self, who: AccountId, proxies: tuple[ProxyRecord, ...], before: Balance
    ) -> None:
        after = deposit_of(len(proxies), DEPOSIT_BASE, DEPOSIT_FACTOR)
        self._adjust(who, before, after)
        if proxies:
            self.proxies.put(who, (proxies, after))
        else:
            self.proxies.delete(who)

    def _put_announcements(
        self, who: AccountId, pending: tuple[AnnouncementRecord, ...], before: Balance
    ) -> None:
        after = deposit_of(len(pending), ANNOUNCEMENT_BASE, ANNOUNCEMENT_FACTOR)
        self._adjust(who, before, after)
        if pending:
            self.announcements.put(who, (pending, after))
        else:
            self.announcements.delete(who)

    def _forget(self, proxy: AccountId, which: Callable[[AnnouncementRecord], bool]) -> None:
        pending, deposit = self.announcements.get(proxy)
        left = tuple(each for each in pending if not which(each))
        if len(left) == len(pending):
            raise NotFound
        self._put_announcements(proxy, left, deposit)

    def _adjust(self, who: AccountId, before: Balance, after: Balance) -> None:
        if after > before:
            self.currency.reserve(who, Balance(after - before))
        elif after < before:
            self.currency.unreserve(who, Balance(before - after))

    calls: ClassVar = {
        0: proxy,
        1: add_proxy,
        2: remove_proxy,
        3: remove_proxies,
        4: create_pure,
        5: kill_pure,
        6: announce,
        7: remove_announcement,
        8: reject_announcement,
        9: proxy_announced,
        10: poke_deposit,
    }
    events: ClassVar = {
        0: ProxyExecuted,
        1: PureCreated,
        2: Announced,
        3: ProxyAdded,
        4: ProxyRemoved,
        5: DepositPoked,
        6: PureKilled,  # newer than the others' numbers: there it is 2
    }
    errors: ClassVar = {
        0: TooMany,
        1: NotFound,
        2: NotProxy,
        4: Duplicate,
        5: NoPermission,
        6: Unannounced,
        7: NoSelfProxy,
    }
    constants: ClassVar = (
        Constant("ProxyDepositBase", BALANCE, DEPOSIT_BASE, "What having proxies reserves."),
        Constant("ProxyDepositFactor", BALANCE, DEPOSIT_FACTOR, "What each proxy reserves."),
        Constant("MaxProxies", U32, PROXIES_MAX, "The most proxies of an account."),
        Constant("MaxPending", U32, PENDING_MAX, "The most announcements of a proxy."),
        Constant(
            "AnnouncementDepositBase", BALANCE, ANNOUNCEMENT_BASE, "What announcing reserves."
        ),
        Constant(
            "AnnouncementDepositFactor",
            BALANCE,
            ANNOUNCEMENT_FACTOR,
            "What each announcement reserves.",
        ),
    )


def _order(proxy: ProxyRecord) -> tuple[bytes, int, int]:
    return proxy.delegate, proxy.proxy_type, proxy.delay


def deposit_of(count: int, base: Balance, factor: Balance) -> Balance:
    return Balance(base + factor * count) if count else Balance(0)


def pure_account(
    who: AccountId, proxy_type: int, index: int, height: int, extrinsic: int
) -> AccountId:
    """The account that `who` makes by extrinsic number `extrinsic` of that block."""
    place = height.to_bytes(4, "little") + extrinsic.to_bytes(4, "little")
    kind = bytes([proxy_type]) + index.to_bytes(2, "little")
    return AccountId(blake2_256(b"modlpy/proxy____" + who + place + kind))
