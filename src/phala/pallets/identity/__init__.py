"""Identity: who an account says it is, and what registrars say of that.

Source: `pallet-identity`: calls, events, errors, their numbers. Calls 15 to 23 are in `usernames`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final, TypeAlias

from phala.codec import U32, U64, Compact, Option, Tuple, Vector
from phala.crypto.hashes import blake2_256
from phala.errors import Refused
from phala.frame import (
    MICROSECOND,
    Constant,
    DefaultMap,
    Hasher,
    Origin,
    StorageMap,
    StorageValue,
    account_at,
    call,
    ensure_root,
    ensure_signed,
)
from phala.pallets.identity.errors import (
    AlreadyClaimed,
    EmptyIndex,
    FeeChanged,
    InvalidIndex,
    InvalidJudgement,
    InvalidTarget,
    JudgementForDifferentIdentity,
    JudgementGiven,
    JudgementPaymentFailed,
    NoIdentity,
    NotFound,
    NotNamed,
    NotOwned,
    NotSub,
    StickyJudgement,
    TooManyRegistrars,
    TooManySubAccounts,
)
from phala.pallets.identity.events import (
    IdentityCleared,
    IdentityKilled,
    IdentitySet,
    JudgementRequested,
    JudgementUnrequested,
    RegistrarAdded,
    SubIdentitiesSet,
    SubIdentityAdded,
    SubIdentityRemoved,
    SubIdentityRenamed,
    SubIdentityRevoked,
)
from phala.pallets.identity.events import JudgementGiven as IdentityJudged  # an error's name too
from phala.pallets.identity.records import (
    DATA,
    FEE_PAID,
    IDENTITY_INFO,
    JUDGEMENT,
    REGISTRAR_INFO,
    REGISTRARS_MAX,
    REGISTRATION,
    Data,
    IdentityInfo,
    Judgement,
    RegistrarInfo,
    Registration,
)
from phala.pallets.identity.usernames import (
    USERNAME_CALLS,
    USERNAME_CONSTANTS,
    USERNAME_ERRORS,
    USERNAME_EVENTS,
    Usernames,
)
from phala.primitives.address import MULTI_ADDRESS, MultiAddress
from phala.primitives.types import ACCOUNT_ID, BALANCE, PHA, AccountId, Balance, Hash

SUBS_MAX: Final = 100
BASIC_DEPOSIT: Final = Balance(PHA)
BYTE_DEPOSIT: Final = Balance(PHA // 1000)
SUB_DEPOSIT: Final = Balance(PHA // 5)

Subs: TypeAlias = tuple[Balance, tuple[AccountId, ...]]  # what they reserve, and who they are
NO_SUBS: Final[Subs] = (Balance(0), ())
NAMED: Final = Vector(Tuple((ACCOUNT_ID, DATA)), items_max=10 * SUBS_MAX)  # more: refused by name
REGISTRAR: Final[Compact[int]] = Compact(U32)
FEE: Final[Compact[Balance]] = Compact(BALANCE)
SUB_REF_TIME: Final = 20 * MICROSECOND


def count_of(items: Sequence[object]) -> int:
    return len(items)


class Identity(Usernames):
    """Who an account says it is."""

    identity_of: Any = StorageMap(
        Hasher.TWOX_64_CONCAT, AccountId, REGISTRATION, doc="Who an account says it is."
    )
    super_of: Any = StorageMap(
        Hasher.BLAKE2_128_CONCAT,
        AccountId,
        Tuple((ACCOUNT_ID, DATA)),
        doc="Whose sub-account an account is, and its name there.",
    )
    subs_of: DefaultMap[AccountId, Subs] = DefaultMap(
        Hasher.TWOX_64_CONCAT,
        AccountId,
        Tuple((BALANCE, Vector(ACCOUNT_ID, items_max=SUBS_MAX))),
        default=NO_SUBS,
        doc="What the sub-accounts of an account reserve, and who they are.",
    )
    registrars: StorageValue[tuple[RegistrarInfo | None, ...]] = StorageValue(
        Vector(Option(REGISTRAR_INFO), items_max=REGISTRARS_MAX),
        default=(),
        doc="Who judges identities; a registrar's number is its place.",
    )

    # ---- an account's own identity

    @call(200 * MICROSECOND)
    def set_identity(self, origin: Origin, info: Annotated[IdentityInfo, IDENTITY_INFO]) -> None:
        """Say who the sender is. Judgements are lost but for those that stick."""
        who = ensure_signed(origin)
        found: Registration | None = self.identity_of.get(who)
        kept = () if found is None else tuple(each for each in found.judgements if each[1].sticky)
        before = Balance(0) if found is None else found.deposit
        after = Balance(BASIC_DEPOSIT + BYTE_DEPOSIT * len(IDENTITY_INFO.encode(info)))
        self._adjust(who, before, after)
        self.identity_of.put(who, Registration(kept, after, info))
        self.emit(IdentitySet(who))

    @call(100 * MICROSECOND + SUBS_MAX * SUB_REF_TIME, count=count_of, each=SUB_REF_TIME)
    def set_subs(
        self, origin: Origin, subs: Annotated[tuple[tuple[AccountId, Data], ...], NAMED]
    ) -> None:
        """Name all sub-accounts of the sender, in place of those it had."""
        who = ensure_signed(origin)
        if who not in self.identity_of:
            raise NotFound
        if len(subs) > SUBS_MAX:
            raise TooManySubAccounts
        for sub, _ in subs:
            known = self.super_of.get(sub)
            if known is not None and known[0] != who:
                raise AlreadyClaimed
        deposit, olds = self.subs_of.get(who)
        new_deposit = Balance(SUB_DEPOSIT * len(subs))
        self._adjust(who, deposit, new_deposit)
        for old in olds:
            self.super_of.delete(old)
        for sub, name in subs:
            self.super_of.put(sub, (who, name))
        self._put_subs(who, new_deposit, tuple(sub for sub, _ in subs))
        self.emit(SubIdentitiesSet(who, len(subs), new_deposit))

    @call(100 * MICROSECOND + SUBS_MAX * SUB_REF_TIME)
    def clear_identity(self, origin: Origin) -> None:
        """Take the sender's identity and sub-accounts back, with all that they reserve."""
        who = ensure_signed(origin)
        found: Registration | None = self.identity_of.get(who)
        if found is None:
            raise NoIdentity
        deposit = self._forget(who, found)
        self.currency.unreserve(who, deposit)
        self.emit(IdentityCleared(who, deposit))

    @call(80 * MICROSECOND)
    def request_judgement(
        self,
        origin: Origin,
        reg_index: Annotated[int, REGISTRAR],
        max_fee: Annotated[Balance, FEE],
    ) -> None:
        """Ask a registrar for its judgement; its fee is set aside."""
        who = ensure_signed(origin)
        fee = self._registrar(reg_index).fee
        if fee > max_fee:
            raise FeeChanged
        found: Registration | None = self.identity_of.get(who)
        if found is None:
            raise NoIdentity
        known = found.judged_by(reg_index)
        if known is not None and known.sticky:
            raise StickyJudgement
        self.currency.reserve(who, fee)
        self.identity_of.put(who, found.with_judgement(reg_index, Judgement(FEE_PAID, fee)))
        self.emit(JudgementRequested(who, reg_index))

    @call(80 * MICROSECOND)
    def cancel_request(self, origin: Origin, reg_index: Annotated[int, U32]) -> None:
        """Ask that registrar no more; the fee is free again."""
        who = ensure_signed(origin)
        found: Registration | None = self.identity_of.get(who)
        if found is None:
            raise NoIdentity
        known = found.judged_by(reg_index)
        if known is None:
            raise NotFound
        if known.kind != FEE_PAID:
            raise JudgementGiven
        self.currency.unreserve(who, known.fee)
        self.identity_of.put(who, found.with_judgement(reg_index, None))
        self.emit(JudgementUnrequested(who, reg_index))

    # ---- registrars

    @call(60 * MICROSECOND)
    def add_registrar(
        self, origin: Origin, account: Annotated[MultiAddress, MULTI_ADDRESS]
    ) -> None:
        """Make an account a registrar: the chain itself may."""
        ensure_root(origin)
        known = self.registrars.get()
        if len(known) >= REGISTRARS_MAX:
            raise TooManyRegistrars
        self.registrars.put((*known, RegistrarInfo(account_at(account), Balance(0), 0)))
        self.emit(RegistrarAdded(len(known)))

    @call(60 * MICROSECOND)
    def set_fee(
        self, origin: Origin, index: Annotated[int, REGISTRAR], fee: Annotated[Balance, FEE]
    ) -> None:
        """Set what the registrar's judgement costs."""
        self._change(index, replace(self._own(origin, index), fee=fee))

    @call(60 * MICROSECOND)
    def set_account_id(
        self,
        origin: Origin,
        index: Annotated[int, REGISTRAR],
        new: Annotated[MultiAddress, MULTI_ADDRESS],
    ) -> None:
        """Hand a registrar's office to another account."""
        self._change(index, replace(self._own(origin, index), account=account_at(new)))

    @call(60 * MICROSECOND)
    def set_fields(
        self, origin: Origin, index: Annotated[int, REGISTRAR], fields: Annotated[int, U64]
    ) -> None:
        """Say which fields the registrar looks at."""
        self._change(index, replace(self._own(origin, index), fields=fields))

    @call(100 * MICROSECOND)
    def provide_judgement(
        self,
        origin: Origin,
        reg_index: Annotated[int, REGISTRAR],
        target: Annotated[MultiAddress, MULTI_ADDRESS],
        judgement: Annotated[Judgement, JUDGEMENT],
        identity: Hash,
    ) -> None:
        """Judge an identity, by the hash of what was judged; a fee that was set aside is paid."""
        who, judged = ensure_signed(origin), account_at(target)
        if judgement.kind == FEE_PAID:
            raise InvalidJudgement
        self._own(origin, reg_index)
        found: Registration | None = self.identity_of.get(judged)
        if found is None:
            raise InvalidTarget
        if blake2_256(IDENTITY_INFO.encode(found.info)) != identity:
            raise JudgementForDifferentIdentity
        known = found.judged_by(reg_index)
        if known is None and len(found.judgements) >= REGISTRARS_MAX:
            raise TooManyRegistrars
        if known is not None and known.fee:
            try:
                self.currency.repatriate_reserved(judged, who, known.fee, reserved=False)
            except Refused:
                raise JudgementPaymentFailed from None
        self.identity_of.put(judged, found.with_judgement(reg_index, judgement))
        self.emit(IdentityJudged(judged, reg_index))

    @call(100 * MICROSECOND + SUBS_MAX * SUB_REF_TIME)
    def kill_identity(self, origin: Origin, target: Annotated[MultiAddress, MULTI_ADDRESS]) -> None:
        """Take an identity away, and burn what it reserves: the chain itself may."""
        ensure_root(origin)
        who = account_at(target)
        found: Registration | None = self.identity_of.get(who)
        if found is None:
            raise NoIdentity
        deposit = self._forget(who, found)
        self.currency.slash_reserved(who, deposit)
        self.emit(IdentityKilled(who, deposit))

    # ---- sub-accounts, one by one

    @call(80 * MICROSECOND)
    def add_sub(
        self,
        origin: Origin,
        sub: Annotated[MultiAddress, MULTI_ADDRESS],
        data: Annotated[Data, DATA],
    ) -> None:
        """Name one more sub-account of the sender."""
        who, added = ensure_signed(origin), account_at(sub)
        self._ensure_identity(who)
        if added in self.super_of:
            raise AlreadyClaimed
        deposit, subs = self.subs_of.get(who)
        if len(subs) >= SUBS_MAX:
            raise TooManySubAccounts
        self.currency.reserve(who, SUB_DEPOSIT)
        self.super_of.put(added, (who, data))
        self._put_subs(who, Balance(deposit + SUB_DEPOSIT), (*subs, added))
        self.emit(SubIdentityAdded(added, who, SUB_DEPOSIT))

    @call(60 * MICROSECOND)
    def rename_sub(
        self,
        origin: Origin,
        sub: Annotated[MultiAddress, MULTI_ADDRESS],
        data: Annotated[Data, DATA],
    ) -> None:
        """Give a sub-account another name."""
        who, renamed = ensure_signed(origin), account_at(sub)
        self._ensure_identity(who)
        known = self.super_of.get(renamed)
        if known is None or known[0] != who:
            raise NotOwned
        self.super_of.put(renamed, (who, data))
        self.emit(SubIdentityRenamed(renamed, who))

    @call(80 * MICROSECOND)
    def remove_sub(self, origin: Origin, sub: Annotated[MultiAddress, MULTI_ADDRESS]) -> None:
        """Take a sub-account's name away; its deposit is free again."""
        who, removed = ensure_signed(origin), account_at(sub)
        self._ensure_identity(who)
        known = self.super_of.get(removed)
        if known is None:
            raise NotSub
        if known[0] != who:
            raise NotOwned
        deposit = self._leave(who, removed)
        self.currency.unreserve(who, deposit)
        self.emit(SubIdentityRemoved(removed, who, deposit))

    @call(80 * MICROSECOND)
    def quit_sub(self, origin: Origin) -> None:
        """Be no sub-account any more. The deposit goes to the sender, where it is alive."""
        who = ensure_signed(origin)
        known = self.super_of.get(who)
        if known is None:
            raise NotSub
        main = known[0]
        deposit = self._leave(main, who)
        try:
            self.currency.repatriate_reserved(main, who, deposit, reserved=False)
        except Refused:
            self.currency.unreserve(main, deposit)
        self.emit(SubIdentityRevoked(who, main, deposit))

    # ---- what they share

    def _ensure_identity(self, who: AccountId) -> None:
        if who not in self.identity_of:
            raise NoIdentity

    def _registrar(self, index: int) -> RegistrarInfo:
        known = self.registrars.get()
        found = known[index] if index < len(known) else None
        if found is None:
            raise EmptyIndex
        return found

    def _own(self, origin: Origin, index: int) -> RegistrarInfo:
        """The registrar of that number, which the sender must be."""
        who, known = ensure_signed(origin), self.registrars.get()
        found = known[index] if index < len(known) else None
        if found is None or found.account != who:
            raise InvalidIndex
        return found

    def _change(self, index: int, registrar: RegistrarInfo) -> None:
        known = self.registrars.get()
        self.registrars.put((*known[:index], registrar, *known[index + 1 :]))

    def _forget(self, who: AccountId, found: Registration) -> Balance:
        """Delete all of an identity. Returns what it reserves."""
        deposit, subs = self.subs_of.get(who)
        for sub in subs:
            self.super_of.delete(sub)
        self.subs_of.delete(who)
        self.identity_of.delete(who)
        return Balance(deposit + found.set_aside)

    def _leave(self, main: AccountId, sub: AccountId) -> Balance:
        """Delete a sub-account. Returns what it reserved."""
        self.super_of.delete(sub)
        deposit, subs = self.subs_of.get(main)
        freed = Balance(min(SUB_DEPOSIT, deposit))
        left = tuple(each for each in subs if each != sub)
        self._put_subs(main, Balance(deposit - freed), left)
        return freed

    def _put_subs(self, who: AccountId, deposit: Balance, subs: tuple[AccountId, ...]) -> None:
        if subs or deposit:
            self.subs_of.put(who, (deposit, subs))
        else:
            self.subs_of.delete(who)

    def _adjust(self, who: AccountId, before: Balance, after: Balance) -> None:
        if after > before:
            self.currency.reserve(who, Balance(after - before))
        elif after < before:
            self.currency.unreserve(who, Balance(before - after))

    calls: ClassVar = {
        0: add_registrar,
        1: set_identity,
        2: set_subs,
        3: clear_identity,
        4: request_judgement,
        5: cancel_request,
        6: set_fee,
        7: set_account_id,
        8: set_fields,
        9: provide_judgement,
        10: kill_identity,
        11: add_sub,
        12: rename_sub,
        13: remove_sub,
        14: quit_sub,
        **USERNAME_CALLS,
    }
    events: ClassVar = {
        0: IdentitySet,
        1: IdentityCleared,
        2: IdentityKilled,
        3: JudgementRequested,
        4: JudgementUnrequested,
        5: IdentityJudged,
        6: RegistrarAdded,
        7: SubIdentityAdded,
        8: SubIdentitiesSet,
        9: SubIdentityRenamed,
        10: SubIdentityRemoved,
        11: SubIdentityRevoked,
        **USERNAME_EVENTS,
    }
    errors: ClassVar = {
        0: TooManySubAccounts,
        1: NotFound,
        2: NotNamed,
        3: EmptyIndex,
        4: FeeChanged,
        5: NoIdentity,
        6: StickyJudgement,
        7: JudgementGiven,
        8: InvalidJudgement,
        9: InvalidIndex,
        10: InvalidTarget,
        11: TooManyRegistrars,
        12: AlreadyClaimed,
        13: NotSub,
        14: NotOwned,
        15: JudgementForDifferentIdentity,
        16: JudgementPaymentFailed,
        **USERNAME_ERRORS,
    }
    constants: ClassVar = (
        Constant("BasicDeposit", BALANCE, BASIC_DEPOSIT, "What every identity reserves."),
        Constant("ByteDeposit", BALANCE, BYTE_DEPOSIT, "What each of its bytes reserves."),
        Constant("SubAccountDeposit", BALANCE, SUB_DEPOSIT, "What each sub-account reserves."),
        Constant("MaxSubAccounts", U32, SUBS_MAX, "The most sub-accounts of an identity."),
        Constant("MaxRegistrars", U32, REGISTRARS_MAX, "The most registrars."),
        *USERNAME_CONSTANTS,
    )
