"""Identities: deposits, judgements and their fees, sub-accounts."""

from dataclasses import replace

import pytest

from phala.codec import Malformed
from phala.crypto.hashes import blake2_256
from phala.frame import BadOrigin, Block, CannotLookup, Root, Signed
from phala.pallets.balances import InsufficientBalance
from phala.pallets.identity import BASIC_DEPOSIT, BYTE_DEPOSIT, SUB_DEPOSIT, SUBS_MAX
from phala.pallets.identity.errors import (
    AlreadyClaimed,
    EmptyIndex,
    FeeChanged,
    InvalidIndex,
    InvalidJudgement,
    InvalidTarget,
    JudgementForDifferentIdentity,
    JudgementGiven,
    NoIdentity,
    NotFound,
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
from phala.pallets.identity.events import JudgementGiven as IdentityJudged
from phala.pallets.identity.records import (
    DATA,
    ERRONEOUS,
    FEE_PAID,
    IDENTITY_INFO,
    JUDGEMENT,
    KNOWN_GOOD,
    REASONABLE,
    REGISTRARS_MAX,
    Data,
    IdentityInfo,
    Judgement,
)
from phala.primitives.address import MultiAddress
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber, Hash
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import World
from phala.testing.pallets import refused

ALICE, BOB, CAROL = (AccountId(letter * 32) for letter in (b"a", b"b", b"c"))
TO_ALICE, TO_BOB, TO_CAROL = (MultiAddress.of(who) for who in (ALICE, BOB, CAROL))
RAW = MultiAddress(2, b"raw")
FEE = Balance(PHA // 2)
INFO = IdentityInfo(display=Data.raw(b"Alice"), web=Data.raw(b"https://alice.example"))
INFO_HASH = Hash(blake2_256(IDENTITY_INFO.encode(INFO)))
DEPOSIT = BASIC_DEPOSIT + BYTE_DEPOSIT * len(IDENTITY_INFO.encode(INFO))
GOOD = Judgement(KNOWN_GOOD)


@pytest.fixture
def block() -> Block:
    return Block(BlockNumber(7), phase=2)


@pytest.fixture
def world(block: Block) -> World:
    made = World(block, AttestVerifier())
    for who in (ALICE, BOB):
        made.balances.endow(who, Balance(100 * PHA))
    return made


def reserved(world: World, who: AccountId) -> int:
    return world.system.account_of(who).data.reserved


def with_registrar(world: World) -> None:
    """Bob is registrar 0, for a fee."""
    world.identity.add_registrar(Root(), TO_BOB)
    world.identity.set_fee(Signed(BOB), 0, FEE)


def test_words_and_hashes_have_the_bytes_that_substrate_gives_them() -> None:
    assert DATA.encode(Data(0)) == b"\0"
    assert DATA.encode(Data.raw(b"")) == b"\1"
    assert DATA.encode(Data.raw(b"me")) == b"\3me"
    assert DATA.decode(b"\x21" + b"w" * 32) == Data.raw(b"w" * 32)
    assert DATA.decode(b"\x22" + b"h" * 32) == Data(34, b"h" * 32)
    assert JUDGEMENT.encode(Judgement(FEE_PAID, FEE)) == b"\1" + FEE.to_bytes(16, "little")
    assert JUDGEMENT.decode(b"\3") == GOOD
    for descriptor, data in ((DATA, b"\x26" + b"h" * 32), (DATA, b"\3m"), (JUDGEMENT, b"\7")):
        with pytest.raises(Malformed):
            descriptor.decode(data)


def test_an_identity_reserves_by_its_size_and_gives_it_back(world: World, block: Block) -> None:
    world.identity.set_identity(Signed(ALICE), INFO)

    assert block.events[-1:] == [IdentitySet(ALICE)]
    assert reserved(world, ALICE) == DEPOSIT
    world.identity.set_identity(Signed(ALICE), IdentityInfo())
    assert reserved(world, ALICE) == BASIC_DEPOSIT + BYTE_DEPOSIT * len(
        IDENTITY_INFO.encode(IdentityInfo())
    )
    world.identity.set_identity(Signed(ALICE), INFO)
    world.identity.clear_identity(Signed(ALICE))
    assert block.events[-1:] == [IdentityCleared(ALICE, Balance(DEPOSIT))]
    assert reserved(world, ALICE) == 0
    with refused(NoIdentity, block):
        world.identity.clear_identity(Signed(ALICE))
    with refused(InsufficientBalance, block):
        world.identity.set_identity(Signed(CAROL), INFO)


def test_registrars_are_the_chains_to_name(world: World, block: Block) -> None:
    with refused(BadOrigin, block):
        world.identity.add_registrar(Signed(ALICE), TO_BOB)
    with refused(CannotLookup, block):
        world.identity.add_registrar(Root(), RAW)
    world.identity.add_registrar(Root(), TO_BOB)
    assert block.events[-1:] == [RegistrarAdded(0)]

    world.identity.set_fee(Signed(BOB), 0, FEE)
    world.identity.set_fields(Signed(BOB), 0, 5)
    world.identity.set_account_id(Signed(BOB), 0, TO_CAROL)

    (registrar,) = world.identity.registrars.get()
    assert registrar is not None
    assert (registrar.account, registrar.fee, registrar.fields) == (CAROL, FEE, 5)
    for index in (0, 1):
        with refused(InvalidIndex, block):
            world.identity.set_fee(Signed(BOB), index, FEE)
    for _ in range(REGISTRARS_MAX - 1):
        world.identity.add_registrar(Root(), TO_BOB)
    with refused(TooManyRegistrars, block):
        world.identity.add_registrar(Root(), TO_BOB)


def test_a_judgement_is_paid_when_it_is_given(world: World, block: Block) -> None:
    with_registrar(world)
    world.identity.set_identity(Signed(ALICE), INFO)
    world.identity.request_judgement(Signed(ALICE), 0, FEE)
    assert block.events[-1:] == [JudgementRequested(ALICE, 0)]
    assert reserved(world, ALICE) == DEPOSIT + FEE
    before = world.balances.free(BOB)
    with refused(StickyJudgement, block):
        world.identity.request_judgement(Signed(ALICE), 0, FEE)
    with refused(InvalidJudgement, block):
        world.identity.provide_judgement(
            Signed(BOB), 0, TO_ALICE, Judgement(FEE_PAID, FEE), INFO_HASH
        )
    with refused(InvalidIndex, block):
        world.identity.provide_judgement(Signed(ALICE), 0, TO_ALICE, GOOD, INFO_HASH)
    with refused(InvalidTarget, block):
        world.identity.provide_judgement(Signed(BOB), 0, TO_CAROL, GOOD, INFO_HASH)
    with refused(JudgementForDifferentIdentity, block):
        world.identity.provide_judgement(Signed(BOB), 0, TO_ALICE, GOOD, Hash(b"h" * 32))

    world.identity.provide_judgement(Signed(BOB), 0, TO_ALICE, GOOD, INFO_HASH)

    assert block.events[-1:] == [IdentityJudged(ALICE, 0)]
    assert world.balances.free(BOB) == before + FEE
    assert reserved(world, ALICE) == DEPOSIT
    assert world.identity.identity_of.get(ALICE).judgements == ((0, GOOD),)
    with refused(JudgementGiven, block):
        world.identity.cancel_request(Signed(ALICE), 0)


def test_a_request_can_be_taken_back(world: World, block: Block) -> None:
    with_registrar(world)
    with refused(NoIdentity, block):
        world.identity.request_judgement(Signed(ALICE), 0, FEE)
    with refused(NoIdentity, block):
        world.identity.cancel_request(Signed(ALICE), 0)
    world.identity.set_identity(Signed(ALICE), INFO)
    with refused(EmptyIndex, block):
        world.identity.request_judgement(Signed(ALICE), 1, FEE)
    with refused(FeeChanged, block):
        world.identity.request_judgement(Signed(ALICE), 0, Balance(FEE - 1))
    with refused(NotFound, block):
        world.identity.cancel_request(Signed(ALICE), 0)
    world.identity.request_judgement(Signed(ALICE), 0, FEE)

    world.identity.cancel_request(Signed(ALICE), 0)

    assert block.events[-1:] == [JudgementUnrequested(ALICE, 0)]
    assert reserved(world, ALICE) == DEPOSIT


def test_a_new_identity_keeps_only_what_sticks(world: World) -> None:
    world.identity.add_registrar(Root(), TO_BOB)
    world.identity.add_registrar(Root(), TO_BOB)
    world.identity.set_identity(Signed(ALICE), INFO)
    bad, fair = Judgement(ERRONEOUS), Judgement(REASONABLE)
    world.identity.provide_judgement(Signed(BOB), 1, TO_ALICE, bad, INFO_HASH)
    world.identity.provide_judgement(Signed(BOB), 0, TO_ALICE, fair, INFO_HASH)
    assert world.identity.identity_of.get(ALICE).judgements == ((0, fair), (1, bad))

    world.identity.set_identity(Signed(ALICE), replace(INFO, email=Data.raw(b"a@alice.example")))

    assert world.identity.identity_of.get(ALICE).judgements == ((1, bad),)


def test_the_chain_burns_what_a_killed_identity_reserves(world: World, block: Block) -> None:
    with_registrar(world)
    world.identity.set_identity(Signed(ALICE), INFO)
    world.identity.add_sub(Signed(ALICE), TO_CAROL, Data.raw(b"carol"))
    world.identity.request_judgement(Signed(ALICE), 0, FEE)
    issued = world.balances.total_issuance.get()
    with refused(BadOrigin, block):
        world.identity.kill_identity(Signed(BOB), TO_ALICE)

    world.identity.kill_identity(Root(), TO_ALICE)

    lost = Balance(DEPOSIT + SUB_DEPOSIT + FEE)
    assert block.events[-1:] == [IdentityKilled(ALICE, lost)]
    assert world.balances.total_issuance.get() == issued - lost
    assert reserved(world, ALICE) == 0
    assert world.identity.super_of.get(CAROL) is None
    with refused(NoIdentity, block):
        world.identity.kill_identity(Root(), TO_ALICE)


def test_sub_accounts_come_and_go_one_by_one(world: World, block: Block) -> None:
    name, other = Data.raw(b"cold"), Data.raw(b"warm")
    with refused(NoIdentity, block):
        world.identity.add_sub(Signed(ALICE), TO_CAROL, name)
    world.identity.set_identity(Signed(ALICE), INFO)
    world.identity.set_identity(Signed(BOB), INFO)
    with refused(NotSub, block):
        world.identity.remove_sub(Signed(ALICE), TO_CAROL)
    world.identity.add_sub(Signed(ALICE), TO_CAROL, name)
    assert block.events[-1:] == [SubIdentityAdded(CAROL, ALICE, SUB_DEPOSIT)]
    assert world.identity.super_of.get(CAROL) == (ALICE, name)
    assert reserved(world, ALICE) == DEPOSIT + SUB_DEPOSIT
    with refused(AlreadyClaimed, block):
        world.identity.add_sub(Signed(BOB), TO_CAROL, name)
    with refused(NotOwned, block):
        world.identity.rename_sub(Signed(BOB), TO_CAROL, name)
    with refused(NotOwned, block):
        world.identity.remove_sub(Signed(BOB), TO_CAROL)

    world.identity.rename_sub(Signed(ALICE), TO_CAROL, other)
    assert block.events[-1:] == [SubIdentityRenamed(CAROL, ALICE)]
    assert world.identity.super_of.get(CAROL) == (ALICE, other)
    world.identity.remove_sub(Signed(ALICE), TO_CAROL)

    assert block.events[-1:] == [SubIdentityRemoved(CAROL, ALICE, SUB_DEPOSIT)]
    assert world.identity.subs_of.get(ALICE) == (0, ())
    assert reserved(world, ALICE) == DEPOSIT


def test_who_quits_has_the_deposit(world: World, block: Block) -> None:
    world.identity.set_identity(Signed(ALICE), INFO)
    world.identity.add_sub(Signed(ALICE), TO_BOB, Data.raw(b"bob"))
    world.identity.add_sub(Signed(ALICE), TO_CAROL, Data.raw(b"carol"))
    free, main = world.balances.free(BOB), world.balances.free(ALICE)
    with refused(NotSub, block):
        world.identity.quit_sub(Signed(ALICE))

    world.identity.quit_sub(Signed(BOB))
    assert block.events[-1:] == [SubIdentityRevoked(BOB, ALICE, SUB_DEPOSIT)]
    assert world.balances.free(BOB) == free + SUB_DEPOSIT
    world.identity.quit_sub(Signed(CAROL))  # an account that does not exist takes none

    assert world.balances.free(ALICE) == main + SUB_DEPOSIT
    assert reserved(world, ALICE) == DEPOSIT


def test_sub_accounts_are_set_all_at_once(world: World, block: Block) -> None:
    name = Data.raw(b"sub")
    many = tuple((AccountId(bytes([9, n]) + bytes(30)), name) for n in range(SUBS_MAX))
    with refused(NotFound, block):
        world.identity.set_subs(Signed(ALICE), many)
    world.identity.set_identity(Signed(ALICE), INFO)
    world.identity.set_identity(Signed(BOB), INFO)
    with refused(TooManySubAccounts, block):
        world.identity.set_subs(Signed(ALICE), (*many, (CAROL, name)))
    world.identity.set_subs(Signed(ALICE), many)
    assert block.events[-1:] == [SubIdentitiesSet(ALICE, SUBS_MAX, Balance(SUB_DEPOSIT * SUBS_MAX))]
    with refused(TooManySubAccounts, block):
        world.identity.add_sub(Signed(ALICE), TO_CAROL, name)
    with refused(AlreadyClaimed, block):
        world.identity.set_subs(Signed(BOB), many[:1])

    world.identity.set_subs(Signed(ALICE), ((CAROL, name),))

    assert world.identity.subs_of.get(ALICE) == (SUB_DEPOSIT, (CAROL,))
    assert world.identity.super_of.get(many[0][0]) is None
    assert reserved(world, ALICE) == DEPOSIT + SUB_DEPOSIT
    world.identity.set_subs(Signed(ALICE), ())
    assert reserved(world, ALICE) == DEPOSIT
    world.identity.set_subs(Signed(ALICE), many)
    world.identity.clear_identity(Signed(ALICE))
    assert reserved(world, ALICE) == 0
    assert world.identity.super_of.get(many[-1][0]) is None
