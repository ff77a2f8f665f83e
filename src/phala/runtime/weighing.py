"""Worst cases of calls: what `phala bench weights` measures.

A case prepares the state, then says who asks for what. Where a call's weight follows a count, the
case is made for several of them. Calls that have no case keep the weight that their pallet says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from phala.crypto.hashes import blake2_256
from phala.crypto.signatures import ed25519_from_seed, ed25519_sign
from phala.frame import Call, Origin, Root, Signed, Unsigned, Weight
from phala.frame.dispatch import parameters
from phala.pallets.identity.records import (
    FIELDS_MAX,
    FIRST_HASH,
    IDENTITY_INFO,
    REGISTRARS_MAX,
    USERNAME_MAX,
    Data,
    IdentityInfo,
    Judgement,
)
from phala.pallets.multisig import SIGNATORIES_MAX, TimepointRecord, multi_account
from phala.pallets.proxy import ANY, NON_TRANSFER, PENDING_MAX, PROXIES_MAX, pure_account
from phala.pallets.scheduler import AGENDA_MAX
from phala.pallets.session import SessionKeys
from phala.pallets.vesting import SCHEDULES_MAX, ScheduleRecord
from phala.primitives.address import MultiAddress, MultiSignature
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber, Hash, Moment
from phala.runtime.world import CALLS, PALLETS, World

Asked: TypeAlias = tuple[Origin, tuple[Any, ...]]
FUNDS: Final = Balance(1_000_000 * PHA)
CASE_HEIGHT: Final = BlockNumber(1_000)
LATER: Final = BlockNumber(2_000)
NAME: Final = b"n" * 32
NONE_YET: Final = BlockNumber(0)
MUCH: Final = Weight(10**12, 0)


@dataclass(frozen=True, slots=True)
class Case:
    """One call. `make` prepares the state for so many of what the call counts."""

    make: Callable[[World, int], Asked]
    counts: tuple[int, ...] = (1,)  # one alone: its weight follows no count


def bench_account(index: int) -> AccountId:
    """The accounts that the state holds; each has `FUNDS`."""
    return AccountId(blake2_256(b"phala bench " + index.to_bytes(4, "little")))


def encode_call(pallet: str, name: str, arguments: tuple[Any, ...]) -> bytes:
    """A call of the chain's, as an extrinsic carries it."""
    for number, kind in PALLETS.items():
        for index, method in kind.calls.items():
            if (kind.name, method.__name__) == (pallet, name):
                members = parameters(kind, method)
                parts = zip(members, arguments, strict=True)
                return bytes([number, index]) + b"".join(
                    member.descriptor.encode(argument) for member, argument in parts
                )
    raise AssertionError(f"no call is {pallet}.{name}")


def call_of(pallet: str, name: str, *arguments: Any) -> Call:
    return CALLS.decode(encode_call(pallet, name, arguments))


ALICE, BOB, CAROL = (bench_account(index) for index in range(3))
NEW: Final = AccountId(b"\xee" * 32)  # nobody yet
TO_ALICE, TO_BOB, TO_CAROL, TO_NEW = (MultiAddress.of(who) for who in (ALICE, BOB, CAROL, NEW))
BY_ALICE: Final = Signed(ALICE)
REMARK: Final = call_of("System", "remark", b"")
REMARK_HASH: Final = Hash(blake2_256(REMARK.encoded))
EMPTY_NEST: Final = call_of("Utility", "batch", ())


def always(origin: Origin, *arguments: Any) -> Callable[[World, int], Asked]:
    return lambda _world, _count: (origin, arguments)


# ---- System, Timestamp, Balances, TransactionPayment


def items(count: int) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((blake2_256(b"%d" % n), b"v" * 64) for n in range(count))


def with_items(world: World, count: int) -> tuple[bytes, ...]:
    for key, value in items(count):
        world.block.state.put(b"case" + key, value)
    return tuple(b"case" + key for key, _ in items(count))


def dying_gift(world: World, _count: int) -> Asked:
    return BY_ALICE, (TO_NEW, world.balances.free(ALICE))


def with_reserve(world: World, _count: int) -> Asked:
    world.balances.reserve(BOB, Balance(PHA))
    return Root(), (TO_BOB, Balance(PHA))


# ---- Multisig


def signatories(count: int) -> tuple[AccountId, ...]:
    others = (AccountId(blake2_256(b"signer %d" % n)) for n in range(count))
    return tuple(sorted(each for each in others if each != ALICE))


def begun(world: World, count: int, *, approvals: int) -> tuple[Any, ...]:
    """An operation of 100 signatories that lacks one approval, Alice's."""
    others = signatories(count)
    together = tuple(sorted((ALICE, *others)))
    multisig = multi_account(together, approvals)
    first = others[0]
    rest = tuple(each for each in together if each != first)
    world.balances.endow(first, FUNDS)
    world.balances.endow(multisig, FUNDS)
    world.multisig.approve_as_multi(Signed(first), approvals, rest, None, REMARK_HASH, MUCH)
    for who in others[1 : approvals - 1]:
        rest = tuple(each for each in together if each != who)
        when = TimepointRecord(world.block.number, max(world.block.phase, 0))
        world.multisig.approve_as_multi(Signed(who), approvals, rest, when, REMARK_HASH, MUCH)
    when = TimepointRecord(world.block.number, max(world.block.phase, 0))
    return approvals, others, when


MOST: Final = SIGNATORIES_MAX - 1


def last_approval(world: World, _count: int) -> Asked:
    return BY_ALICE, (*begun(world, MOST, approvals=MOST), REMARK, MUCH)


def one_more_approval(world: World, _count: int) -> Asked:
    threshold, others, when = begun(world, MOST, approvals=MOST)
    return BY_ALICE, (threshold, others, when, REMARK_HASH, MUCH)


def own_operation(world: World) -> tuple[Any, ...]:
    others = signatories(MOST)
    world.multisig.approve_as_multi(BY_ALICE, 2, others, None, REMARK_HASH, MUCH)
    return 2, others


def operation_to_cancel(world: World, _count: int) -> Asked:
    when = TimepointRecord(world.block.number, max(world.block.phase, 0))
    return BY_ALICE, (*own_operation(world), when, REMARK_HASH)


def operation_to_poke(world: World, _count: int) -> Asked:
    return BY_ALICE, (*own_operation(world), REMARK_HASH)


# ---- Proxy


def proxied(world: World, count: int) -> None:
    """Alice has so many proxies, Bob the last of them."""
    for n in range(count - 1):
        other = MultiAddress.of(bench_account(100 + n))
        world.proxy.add_proxy(BY_ALICE, other, NON_TRANSFER, NONE_YET)
    world.proxy.add_proxy(BY_ALICE, TO_BOB, ANY, NONE_YET)


def announced(world: World, count: int) -> None:
    proxied(world, PROXIES_MAX)
    for n in range(count - 1):
        world.proxy.announce(Signed(BOB), TO_ALICE, Hash(blake2_256(b"%d" % n)))
    world.proxy.announce(Signed(BOB), TO_ALICE, REMARK_HASH)


def proxy_case(
    count: int, origin: Origin, *arguments: Any, announcements: int = 0
) -> Callable[[World, int], Asked]:
    def make(world: World, _count: int) -> Asked:
        if announcements:
            announced(world, announcements)
        else:
            proxied(world, count)
        return origin, arguments

    return make


def pure_to_kill(world: World, _count: int) -> Asked:
    world.proxy.create_pure(BY_ALICE, ANY, NONE_YET, 0)
    place = world.block.number, max(world.block.phase, 0)
    pure = pure_account(ALICE, ANY, 0, *place)
    return Signed(pure), (TO_ALICE, ANY, 0, *place)


# ---- Preimage, Scheduler


def noted(world: World, _count: int) -> Asked:
    world.preimage.note_preimage(BY_ALICE, b"p")
    return BY_ALICE, (Hash(blake2_256(b"p")),)


def requested(world: World, _count: int) -> Asked:
    world.preimage.request_preimage(Root(), REMARK_HASH)
    return Root(), (REMARK_HASH,)


def agenda(world: World, count: int) -> None:
    for n in range(count):
        world.scheduler.schedule(Root(), LATER, None, n, REMARK)


def scheduled(world: World) -> None:
    agenda(world, AGENDA_MAX - 1)
    world.scheduler.schedule_named(Root(), NAME, LATER, None, 0, REMARK)


def schedule_case(*arguments: Any) -> Callable[[World, int], Asked]:
    def make(world: World, _count: int) -> Asked:
        agenda(world, AGENDA_MAX - 1)
        return Root(), arguments

    return make


def scheduled_case(*arguments: Any) -> Callable[[World, int], Asked]:
    def make(world: World, _count: int) -> Asked:
        scheduled(world)
        world.scheduler.set_retry(Root(), (LATER, AGENDA_MAX - 1), 9, BlockNumber(1))
        return Root(), arguments

    return make


# ---- Identity

WORD: Final = Data(FIRST_HASH, b"h" * 32)
LONGEST: Final = IdentityInfo(
    ((WORD, WORD),) * FIELDS_MAX, WORD, WORD, WORD, WORD, WORD, b"f" * 20, WORD, WORD
)
LONGEST_HASH: Final = Hash(blake2_256(IDENTITY_INFO.encode(LONGEST)))


def registrars(world: World) -> None:
    for _ in range(REGISTRARS_MAX):
        world.identity.add_registrar(Root(), TO_BOB)
    world.identity.set_fee(Signed(BOB), REGISTRARS_MAX - 1, Balance(PHA))


def named(world: World, *, judged: bool = True, subs: int = 0) -> None:
    registrars(world)
    world.identity.set_identity(BY_ALICE, LONGEST)
    if judged:
        for index in range(REGISTRARS_MAX - 1):
            world.identity.request_judgement(BY_ALICE, index, Balance(0))
    if subs:
        world.identity.set_subs(BY_ALICE, sub_accounts(subs))


def sub_accounts(count: int, *, start: int = 1_000) -> tuple[tuple[AccountId, Data], ...]:
    return tuple((bench_account(start + n), WORD) for n in range(count))


def identity_case(
    origin: Origin, *arguments: Any, subs: int = 0, asked: bool = False
) -> Callable[[World, int], Asked]:
    def make(world: World, _count: int) -> Asked:
        named(world, subs=subs)
        if asked:
            world.identity.request_judgement(BY_ALICE, REGISTRARS_MAX - 1, Balance(PHA))
        return origin, arguments

    return make


def new_subs(world: World, count: int) -> Asked:
    named(world, subs=100)
    return BY_ALICE, (sub_accounts(count, start=3_000),)


def one_registrar_more(world: World, _count: int) -> Asked:
    for _ in range(REGISTRARS_MAX - 1):
        world.identity.add_registrar(Root(), TO_BOB)
    return Root(), (TO_ALICE,)


def quitting(world: World, _count: int) -> Asked:
    named(world, subs=99)
    world.identity.add_sub(BY_ALICE, TO_CAROL, WORD)
    return Signed(CAROL), ()


SUFFIX: Final = b"phala"
USERNAME: Final = b"n" * (USERNAME_MAX - len(SUFFIX) - 1) + b"." + SUFFIX
# Of an ecdsa key, which take longest to check, over the username as wallets wrap it: the 2nd try.
WALLET: Final = MultiAddress.of(
    AccountId(bytes.fromhex("6a4f10c9e14546ce2382d4cb434ccc00b9961589386b660f89ae61a0e334053d"))
)
WRAPPED: Final = MultiSignature(
    2,
    bytes.fromhex(
        "de4d73261e47281a330f936415bd76c483a6e43828845a0ab408c7c9fe0d1fe1"
        "15e495c40a611178992741d02531b3cc9b7d2a2685d9fedf2dbe17130a91d0e401"
    ),
)


def with_authority(world: World) -> None:
    """Bob grants usernames of the suffix."""
    world.identity.add_username_authority(Root(), TO_BOB, SUFFIX, 10)


def with_username(world: World, origin: Origin, *, accepted: bool = True) -> Asked:
    """Bob granted Alice's primary username, for a deposit."""
    with_authority(world)
    world.identity.set_username_for(Signed(BOB), TO_ALICE, USERNAME, None, NO)
    if accepted:
        world.identity.accept_username(BY_ALICE, USERNAME)
    return origin, (USERNAME,)


def signed_username(world: World, _count: int) -> Asked:
    with_authority(world)
    return Signed(BOB), (WALLET, USERNAME, WRAPPED, NO)


def authority_to_remove(world: World, _count: int) -> Asked:
    with_authority(world)
    return Root(), (SUFFIX, TO_BOB)


def expired_username(world: World, _count: int) -> Asked:
    asked = with_username(world, BY_ALICE, accepted=False)
    owner, _, provider = world.identity.pending_usernames.get(USERNAME)
    world.identity.pending_usernames.put(USERNAME, (owner, BlockNumber(1), provider))
    return asked


def other_primary(world: World, _count: int) -> Asked:
    asked = with_username(world, BY_ALICE)
    world.identity.username_of.put(ALICE, b"n." + SUFFIX)
    return asked


def unbound_username(world: World, _count: int) -> Asked:
    asked = with_username(world, BY_ALICE)
    world.identity.unbinding_usernames.put(USERNAME, CASE_HEIGHT)
    return asked


# ---- Vesting


def schedule_of(n: int) -> ScheduleRecord:
    return ScheduleRecord(Balance((10 + n) * PHA), Balance(PHA // 100), BlockNumber(10 + n))


def vesting(world: World, count: int) -> None:
    for n in range(count):
        world.vesting.force_vested_transfer(Root(), TO_BOB, TO_ALICE, schedule_of(n))


def vesting_case(
    origin: Origin, *arguments: Any, count: int = SCHEDULES_MAX
) -> Callable[[World, int], Asked]:
    def make(world: World, _count: int) -> Asked:
        vesting(world, count)
        return origin, arguments

    return make


# ---- Session, Authorities

PAIR: Final = ed25519_from_seed(b"\7" * 32)
KEYS: Final = SessionKeys(PAIR.public)
PROOF: Final = ed25519_sign(PAIR, b"POP_" + ALICE)


def keyed(world: World, _count: int) -> Asked:
    world.session.set_keys(BY_ALICE, KEYS, PROOF)
    return BY_ALICE, ()


def members(world: World, count: int) -> Asked:
    chosen = tuple(sorted(bench_account(n) for n in range(count)))
    for who in chosen:
        world.session.next_keys.put(who, KEYS)
    return Root(), (tuple((who, 1) for who in chosen),)


def key_set(_world: World, count: int) -> Asked:
    keys = sorted(blake2_256(b"key %d" % n) for n in range(count))
    return Root(), (tuple((key, 1) for key in keys),)


NO: Final = False
BYTES: Final = (0, 1_000, 100_000)
FEW: Final = (1, 10, 100)
ONE: Final = Balance(PHA)
LAST: Final = REGISTRARS_MAX - 1

CASES: Final[Mapping[tuple[str, str], Case]] = MappingProxyType(
    {
        ("System", "remark"): Case(lambda _w, n: (BY_ALICE, (b"r" * n,)), BYTES),
        ("System", "remark_with_event"): Case(lambda _w, n: (BY_ALICE, (b"r" * n,)), BYTES),
        ("System", "set_storage"): Case(lambda _w, n: (Root(), (items(n),)), FEW),
        ("System", "kill_storage"): Case(lambda w, n: (Root(), (with_items(w, n),)), FEW),
        ("System", "kill_prefix"): Case(
            lambda w, n: (Root(), (b"case", len(with_items(w, n)))), FEW
        ),
        ("Timestamp", "set"): Case(always(Unsigned(), Moment(2_000_000_000_000))),
        ("Balances", "transfer_allow_death"): Case(dying_gift),
        ("Balances", "transfer_keep_alive"): Case(always(BY_ALICE, TO_NEW, ONE)),
        ("Balances", "transfer_all"): Case(always(BY_ALICE, TO_NEW, NO)),
        ("Balances", "force_transfer"): Case(always(Root(), TO_BOB, TO_NEW, FUNDS)),
        ("Balances", "force_unreserve"): Case(with_reserve),
        ("Balances", "force_set_balance"): Case(always(Root(), TO_NEW, ONE)),
        ("Balances", "force_adjust_total_issuance"): Case(always(Root(), 0, ONE)),
        ("Balances", "burn"): Case(always(BY_ALICE, FUNDS, NO)),
        ("TransactionPayment", "set_fee_burn_share"): Case(always(Root(), 1)),
        ("Utility", "batch"): Case(lambda _w, n: (BY_ALICE, ((REMARK,) * n,)), FEW),
        ("Utility", "batch_all"): Case(lambda _w, n: (BY_ALICE, ((REMARK,) * n,)), FEW),
        ("Utility", "force_batch"): Case(lambda _w, n: (BY_ALICE, ((REMARK,) * n,)), FEW),
        ("Utility", "as_derivative"): Case(always(BY_ALICE, 1, REMARK)),
        ("Utility", "dispatch_as"): Case(always(Root(), BY_ALICE, REMARK)),
        ("Utility", "dispatch_as_fallible"): Case(always(Root(), BY_ALICE, REMARK)),
        ("Utility", "with_weight"): Case(always(Root(), REMARK, MUCH)),
        ("Utility", "if_else"): Case(
            always(BY_ALICE, call_of("Balances", "burn", Balance(2 * FUNDS), NO), REMARK)
        ),
        ("Multisig", "as_multi_threshold_1"): Case(always(BY_ALICE, signatories(MOST), REMARK)),
        ("Multisig", "as_multi"): Case(last_approval),
        ("Multisig", "approve_as_multi"): Case(one_more_approval),
        ("Multisig", "cancel_as_multi"): Case(operation_to_cancel),
        ("Multisig", "poke_deposit"): Case(operation_to_poke),
        ("Proxy", "proxy"): Case(proxy_case(PROXIES_MAX, Signed(BOB), TO_ALICE, None, REMARK)),
        ("Proxy", "add_proxy"): Case(
            proxy_case(PROXIES_MAX - 1, BY_ALICE, TO_CAROL, ANY, NONE_YET)
        ),
        ("Proxy", "remove_proxy"): Case(proxy_case(PROXIES_MAX, BY_ALICE, TO_BOB, ANY, NONE_YET)),
        ("Proxy", "remove_proxies"): Case(proxy_case(PROXIES_MAX, BY_ALICE)),
        ("Proxy", "create_pure"): Case(always(BY_ALICE, ANY, NONE_YET, 0)),
        ("Proxy", "kill_pure"): Case(pure_to_kill),
        ("Proxy", "announce"): Case(
            proxy_case(0, Signed(BOB), TO_ALICE, REMARK_HASH, announcements=PENDING_MAX - 1)
        ),
        ("Proxy", "remove_announcement"): Case(
            proxy_case(0, Signed(BOB), TO_ALICE, REMARK_HASH, announcements=PENDING_MAX)
        ),
        ("Proxy", "reject_announcement"): Case(
            proxy_case(0, BY_ALICE, TO_BOB, REMARK_HASH, announcements=PENDING_MAX)
        ),
        ("Proxy", "proxy_announced"): Case(
            proxy_case(0, Signed(CAROL), TO_BOB, TO_ALICE, None, REMARK, announcements=PENDING_MAX)
        ),
        ("Proxy", "poke_deposit"): Case(proxy_case(0, Signed(BOB), announcements=PENDING_MAX)),
        ("Preimage", "note_preimage"): Case(lambda _w, n: (BY_ALICE, (b"p" * n,)), BYTES),
        ("Preimage", "unnote_preimage"): Case(noted),
        ("Preimage", "request_preimage"): Case(always(Root(), REMARK_HASH)),
        ("Preimage", "unrequest_preimage"): Case(requested),
        ("Scheduler", "schedule"): Case(schedule_case(LATER, (10, 10), 0, REMARK)),
        ("Scheduler", "schedule_named"): Case(schedule_case(NAME, LATER, (10, 10), 0, REMARK)),
        ("Scheduler", "schedule_after"): Case(
            schedule_case(BlockNumber(LATER - CASE_HEIGHT - 1), (10, 10), 0, REMARK)
        ),
        ("Scheduler", "schedule_named_after"): Case(
            schedule_case(NAME, BlockNumber(LATER - CASE_HEIGHT - 1), (10, 10), 0, REMARK)
        ),
        ("Scheduler", "cancel"): Case(scheduled_case(LATER, 0)),
        ("Scheduler", "cancel_named"): Case(scheduled_case(NAME)),
        ("Scheduler", "set_retry"): Case(scheduled_case((LATER, 0), 3, BlockNumber(1))),
        ("Scheduler", "set_retry_named"): Case(scheduled_case(NAME, 3, BlockNumber(1))),
        ("Scheduler", "cancel_retry"): Case(scheduled_case((LATER, AGENDA_MAX - 1))),
        ("Scheduler", "cancel_retry_named"): Case(scheduled_case(NAME)),
        ("Identity", "add_registrar"): Case(one_registrar_more),
        ("Identity", "set_identity"): Case(identity_case(BY_ALICE, LONGEST)),
        ("Identity", "set_subs"): Case(new_subs, FEW),
        ("Identity", "clear_identity"): Case(identity_case(BY_ALICE, subs=100)),
        ("Identity", "request_judgement"): Case(identity_case(BY_ALICE, LAST, ONE)),
        ("Identity", "cancel_request"): Case(identity_case(BY_ALICE, LAST, asked=True)),
        ("Identity", "set_fee"): Case(identity_case(Signed(BOB), LAST, FUNDS)),
        ("Identity", "set_account_id"): Case(identity_case(Signed(BOB), LAST, TO_CAROL)),
        ("Identity", "set_fields"): Case(identity_case(Signed(BOB), LAST, 1)),
        ("Identity", "provide_judgement"): Case(
            identity_case(Signed(BOB), LAST, TO_ALICE, Judgement(3), LONGEST_HASH, asked=True)
        ),
        ("Identity", "kill_identity"): Case(identity_case(Root(), TO_ALICE, subs=100)),
        ("Identity", "add_sub"): Case(identity_case(BY_ALICE, TO_CAROL, WORD, subs=99)),
        ("Identity", "rename_sub"): Case(
            identity_case(BY_ALICE, MultiAddress.of(bench_account(1_000)), WORD, subs=100)
        ),
        ("Identity", "remove_sub"): Case(
            identity_case(BY_ALICE, MultiAddress.of(bench_account(1_000)), subs=100)
        ),
        ("Identity", "quit_sub"): Case(quitting),
        ("Identity", "add_username_authority"): Case(always(Root(), TO_BOB, SUFFIX, 1)),
        ("Identity", "remove_username_authority"): Case(authority_to_remove),
        ("Identity", "set_username_for"): Case(signed_username),
        ("Identity", "accept_username"): Case(
            lambda w, _n: with_username(w, BY_ALICE, accepted=False)
        ),
        ("Identity", "remove_expired_approval"): Case(expired_username),
        ("Identity", "set_primary_username"): Case(other_primary),
        ("Identity", "unbind_username"): Case(lambda w, _n: with_username(w, Signed(BOB))),
        ("Identity", "remove_username"): Case(unbound_username),
        ("Identity", "kill_username"): Case(lambda w, _n: with_username(w, Root())),
        ("Vesting", "vest"): Case(vesting_case(BY_ALICE)),
        ("Vesting", "vest_other"): Case(vesting_case(Signed(BOB), TO_ALICE)),
        ("Vesting", "vested_transfer"): Case(
            vesting_case(Signed(BOB), TO_ALICE, schedule_of(1), count=SCHEDULES_MAX - 1)
        ),
        ("Vesting", "force_vested_transfer"): Case(
            vesting_case(Root(), TO_BOB, TO_ALICE, schedule_of(1), count=SCHEDULES_MAX - 1)
        ),
        ("Vesting", "merge_schedules"): Case(vesting_case(BY_ALICE, 0, SCHEDULES_MAX - 1)),
        ("Vesting", "force_remove_vesting_schedule"): Case(
            vesting_case(Root(), TO_ALICE, SCHEDULES_MAX - 1)
        ),
        ("Session", "set_keys"): Case(always(BY_ALICE, KEYS, PROOF)),
        ("Session", "purge_keys"): Case(keyed),
        ("Authorities", "set_members"): Case(members, FEW),
        ("Authorities", "force_authorities"): Case(key_set, FEW),
    }
)
