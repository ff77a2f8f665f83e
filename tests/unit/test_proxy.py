"""Accounts that act for others: each type's limits, delays, pure accounts, deposits."""

from hashlib import blake2b
from typing import Any

import pytest

from phala.frame import Block, Call, CannotLookup, DispatchError, Signed, dispatch_result
from phala.pallets.balances import InsufficientBalance
from phala.pallets.identity.records import Data, IdentityInfo, Judgement
from phala.pallets.proxy import (
    ANNOUNCEMENT_BASE,
    ANNOUNCEMENT_FACTOR,
    ANY,
    CANCEL_PROXY,
    DEPOSIT_BASE,
    DEPOSIT_FACTOR,
    IDENTITY_JUDGEMENT,
    NON_TRANSFER,
    OF_ANNOUNCEMENTS,
    OF_PROXIES,
    PENDING_MAX,
    PROXIES_MAX,
    Announced,
    DepositPoked,
    Duplicate,
    NoPermission,
    NoSelfProxy,
    NotFound,
    NotProxy,
    ProxyAdded,
    ProxyExecuted,
    ProxyRemoved,
    PureCreated,
    PureKilled,
    TooMany,
    Unannounced,
    pure_account,
)
from phala.primitives.address import MultiAddress
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber, Hash
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import World
from phala.testing.pallets import call_of, refused

ALICE, BOB, CAROL = (AccountId(letter * 32) for letter in (b"a", b"b", b"c"))
FOR_ALICE, TO_BOB, TO_CAROL = (MultiAddress.of(who) for who in (ALICE, BOB, CAROL))
TEN = Balance(10 * PHA)
NOW, TWO = BlockNumber(0), BlockNumber(2)
FILTERED = dispatch_result(DispatchError(3, bytes([0, 5, 0, 0, 0])))
DONE = dispatch_result(None)


def pay(amount: int = PHA) -> Call:
    return call_of("Balances", "transfer_keep_alive", TO_CAROL, Balance(amount))


def hash_of(call: Call) -> Hash:
    return Hash(blake2b(call.encoded, digest_size=32).digest())


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(7), phase=2)


@pytest.fixture
def world(block: Block) -> World:
    made = World(block, AttestVerifier())
    for who in (ALICE, BOB):
        made.balances.endow(who, TEN)
    return made


def reserved(world: World, who: AccountId) -> int:
    return world.system.account_of(who).data.reserved


def acted(world: World, call: Call) -> object:
    """How a call went that Bob made for Alice."""
    world.proxy.proxy(Signed(BOB), FOR_ALICE, None, call)
    (last,) = [each for each in world.block.events if isinstance(each, ProxyExecuted)][-1:]
    return last.result


def test_a_proxy_acts_for_its_account(world: World, block: Block) -> None:
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, ANY, NOW)
    assert block.events[-1:] == [ProxyAdded(ALICE, BOB, ANY, NOW)]
    assert reserved(world, ALICE) == DEPOSIT_BASE + DEPOSIT_FACTOR

    assert acted(world, pay()) == DONE

    assert world.balances.free(CAROL) == PHA
    assert world.balances.free(BOB) == TEN
    world.proxy.remove_proxy(Signed(ALICE), TO_BOB, ANY, NOW)
    assert block.events[-1:] == [ProxyRemoved(ALICE, BOB, ANY, NOW)]
    assert reserved(world, ALICE) == 0
    with refused(NotProxy, block):
        world.proxy.proxy(Signed(BOB), FOR_ALICE, None, pay())


def test_a_failing_call_is_told(world: World) -> None:
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, ANY, NOW)

    assert acted(world, pay(2 * TEN)) == dispatch_result(DispatchError(7, b"\0"))


def test_a_narrow_proxy_transfers_by_no_way(world: World) -> None:
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, NON_TRANSFER, NOW)
    batched = call_of("Utility", "force_batch", (pay(), call_of("System", "remark", b"")))
    derived = call_of("Utility", "as_derivative", 0, pay())

    assert acted(world, pay()) == FILTERED
    assert acted(world, batched) == DONE
    assert acted(world, derived) == FILTERED
    assert world.balances.free(CAROL) == 0
    assert acted(world, call_of("System", "remark", b"")) == DONE


def test_a_proxy_for_judgements_judges_and_does_nothing_else(world: World) -> None:
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, IDENTITY_JUDGEMENT, NOW)
    judged = call_of("Identity", "provide_judgement", 0, TO_CAROL, Judgement(2), Hash(b"h" * 32))
    not_a_registrar = dispatch_result(DispatchError(3, bytes([13, 9, 0, 0, 0])))

    assert acted(world, judged) == not_a_registrar  # so it was let through
    assert acted(world, call_of("Utility", "batch_all", (judged,))) == not_a_registrar
    for other in (pay(), call_of("System", "remark", b""), call_of("Identity", "clear_identity")):
        assert acted(world, other) == FILTERED
        assert acted(world, call_of("Utility", "batch_all", (other,))) == FILTERED


def test_a_proxy_without_transfers_gives_no_deposit_or_fee_away(world: World) -> None:
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, NON_TRANSFER, NOW)

    assert acted(world, call_of("Identity", "set_identity", IdentityInfo())) == DONE
    for giving in (
        call_of("Identity", "add_sub", TO_BOB, Data(0)),
        call_of("Identity", "set_subs", ((BOB, Data(0)),)),
        call_of("Identity", "request_judgement", 0, TEN),
    ):
        assert acted(world, giving) == FILTERED
    assert acted(world, call_of("Identity", "clear_identity")) == DONE


@pytest.mark.parametrize("proxy_type", [NON_TRANSFER, CANCEL_PROXY, IDENTITY_JUDGEMENT])
def test_a_narrow_proxy_makes_no_wider_one(world: World, proxy_type: int) -> None:
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, proxy_type, NOW)
    wider = call_of("Proxy", "add_proxy", TO_CAROL, ANY, NOW)
    ended = call_of("Proxy", "remove_proxies")
    killed = call_of("Proxy", "kill_pure", TO_BOB, ANY, 0, NOW, 0)

    for call in (wider, ended, killed, call_of("Utility", "batch_all", (wider,))):
        assert acted(world, call) == FILTERED
    assert len(world.proxy.proxies.get(ALICE)[0]) == 1


def test_a_proxy_adds_one_that_is_no_wider(world: World) -> None:
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, NON_TRANSFER, NOW)

    assert acted(world, call_of("Proxy", "add_proxy", TO_CAROL, CANCEL_PROXY, NOW)) == DONE
    assert acted(world, call_of("Proxy", "add_proxy", TO_CAROL, NON_TRANSFER, NOW)) == DONE


def test_one_type_can_be_asked_for(world: World, block: Block) -> None:
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, ANY, NOW)

    world.proxy.proxy(Signed(BOB), FOR_ALICE, ANY, pay())
    with refused(NotProxy, block):
        world.proxy.proxy(Signed(BOB), FOR_ALICE, NON_TRANSFER, pay())


def test_proxies_are_listed_once_and_few(world: World, block: Block) -> None:
    with refused(NoSelfProxy, block):
        world.proxy.add_proxy(Signed(ALICE), FOR_ALICE, ANY, NOW)
    with refused(NotFound, block):
        world.proxy.remove_proxy(Signed(ALICE), TO_BOB, ANY, NOW)
    with refused(CannotLookup, block):
        world.proxy.add_proxy(Signed(ALICE), MultiAddress(2, b"raw"), ANY, NOW)
    with refused(InsufficientBalance, block):
        world.proxy.add_proxy(Signed(CAROL), TO_BOB, ANY, NOW)
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, ANY, NOW)
    with refused(Duplicate, block):
        world.proxy.add_proxy(Signed(ALICE), TO_BOB, ANY, NOW)
    for delay in range(1, PROXIES_MAX):
        world.proxy.add_proxy(Signed(ALICE), TO_BOB, ANY, BlockNumber(delay))
    with refused(TooMany, block):
        world.proxy.add_proxy(Signed(ALICE), TO_CAROL, ANY, NOW)

    world.proxy.remove_proxies(Signed(ALICE))

    assert reserved(world, ALICE) == 0
    assert ALICE not in world.proxy.proxies


# ---- announcements


def test_a_delayed_proxy_announces_and_waits(world: World, block: Block) -> None:
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, ANY, TWO)
    with refused(Unannounced, block):
        world.proxy.proxy(Signed(BOB), FOR_ALICE, None, pay())
    with refused(Unannounced, block):
        world.proxy.proxy_announced(Signed(CAROL), TO_BOB, FOR_ALICE, None, pay())
    world.proxy.announce(Signed(BOB), FOR_ALICE, hash_of(pay()))
    assert block.events[-1:] == [Announced(ALICE, BOB, hash_of(pay()))]
    assert reserved(world, BOB) == ANNOUNCEMENT_BASE + ANNOUNCEMENT_FACTOR

    block.number = BlockNumber(8)
    with refused(Unannounced, block):
        world.proxy.proxy_announced(Signed(CAROL), TO_BOB, FOR_ALICE, None, pay())
    block.number = BlockNumber(9)
    world.proxy.proxy_announced(Signed(CAROL), TO_BOB, FOR_ALICE, None, pay())

    assert block.events[-1:] == [ProxyExecuted(DONE)]
    assert world.balances.free(CAROL) == PHA
    assert reserved(world, BOB) == 0


def test_an_announcement_is_rejected_or_taken_back(world: World, block: Block) -> None:
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, ANY, TWO)
    for _ in range(2):
        world.proxy.announce(Signed(BOB), FOR_ALICE, hash_of(pay()))

    with refused(NotFound, block):
        world.proxy.reject_announcement(Signed(CAROL), TO_BOB, hash_of(pay()))
    world.proxy.reject_announcement(Signed(ALICE), TO_BOB, hash_of(pay()))
    assert reserved(world, BOB) == 0

    world.proxy.announce(Signed(BOB), FOR_ALICE, hash_of(pay()))
    world.proxy.remove_announcement(Signed(BOB), FOR_ALICE, hash_of(pay()))
    with refused(NotFound, block):
        world.proxy.remove_announcement(Signed(BOB), FOR_ALICE, hash_of(pay()))
    assert BOB not in world.proxy.announcements


def test_announcements_are_a_proxys_and_few(world: World, block: Block) -> None:
    with refused(NotProxy, block):
        world.proxy.announce(Signed(BOB), FOR_ALICE, hash_of(pay()))
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, ANY, TWO)
    for _ in range(PENDING_MAX):
        world.proxy.announce(Signed(BOB), FOR_ALICE, hash_of(pay()))
    with refused(TooMany, block):
        world.proxy.announce(Signed(BOB), FOR_ALICE, hash_of(pay()))


# ---- pure accounts


def test_a_pure_account_lives_by_its_maker(world: World, block: Block) -> None:
    world.proxy.create_pure(Signed(BOB), ANY, NOW, 5)
    pure = pure_account(BOB, ANY, 5, 7, 2)
    assert block.events[-1:] == [PureCreated(pure, BOB, ANY, 5)]
    with refused(Duplicate, block):
        world.proxy.create_pure(Signed(BOB), ANY, NOW, 5)
    world.balances.endow(pure, TEN)

    world.proxy.proxy(Signed(BOB), MultiAddress.of(pure), None, pay())
    assert world.balances.free(CAROL) == PHA

    with refused(NoPermission, block):
        world.proxy.kill_pure(Signed(BOB), TO_BOB, ANY, 5, BlockNumber(7), 2)
    killed = call_of("Proxy", "kill_pure", TO_BOB, ANY, 5, BlockNumber(7), 2)
    world.proxy.proxy(Signed(BOB), MultiAddress.of(pure), None, killed)

    assert block.events[-2:] == [PureKilled(pure, BOB, ANY, 5), ProxyExecuted(DONE)]
    assert pure not in world.proxy.proxies
    assert reserved(world, BOB) == 0


def test_a_pure_account_is_what_substrate_derives() -> None:
    preimage = b"modlpy/proxy____" + BOB + b"\7\0\0\0" + b"\2\0\0\0" + b"\0" + b"\5\0"

    assert pure_account(BOB, ANY, 5, 7, 2) == blake2b(preimage, digest_size=32).digest()


def test_deposits_follow_the_present_rates(world: World, block: Block) -> None:
    world.proxy.add_proxy(Signed(ALICE), TO_BOB, ANY, NOW)
    world.proxy.add_proxy(Signed(BOB), TO_CAROL, ANY, NOW)
    world.proxy.announce(Signed(BOB), FOR_ALICE, Hash(b"h" * 32))
    world.proxy.poke_deposit(Signed(BOB))
    assert not [each for each in block.events if isinstance(each, DepositPoked)]
    right = reserved(world, BOB)
    at = (
        (OF_PROXIES, DEPOSIT_BASE + DEPOSIT_FACTOR, world.proxy.proxies),
        (OF_ANNOUNCEMENTS, ANNOUNCEMENT_BASE + ANNOUNCEMENT_FACTOR, world.proxy.announcements),
    )
    for of, rate, items in at:
        kept: Any = items
        each, _ = kept.get(BOB)
        kept.put(BOB, (each, Balance(rate + PHA)))
        world.balances.reserve(BOB, Balance(PHA))

        world.proxy.poke_deposit(Signed(BOB))

        assert DepositPoked(BOB, of, Balance(rate + PHA), Balance(rate)) in block.events
        assert reserved(world, BOB) == right
