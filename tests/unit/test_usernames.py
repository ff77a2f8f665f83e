"""Usernames: who grants them, whose they are, what they reserve, how they end."""

from collections.abc import Callable

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from phala.codec import Malformed
from phala.crypto.hashes import blake2_256
from phala.crypto.signatures import (
    ed25519_from_seed,
    ed25519_sign,
    sr25519_from_seed,
    sr25519_sign,
)
from phala.frame import BadOrigin, Block, CannotLookup, Root, Signed
from phala.pallets.balances import InsufficientBalance
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
    TooEarly,
    UsernameTaken,
)
from phala.pallets.identity.events import (
    AuthorityAdded,
    AuthorityRemoved,
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
    PROVIDER,
    SYSTEM,
    USERNAME_INFORMATION,
    USERNAME_MAX,
    AuthorityProperties,
    IdentityInfo,
    Provider,
    UsernameInformation,
)
from phala.pallets.identity.usernames import (
    EXPIRATION_BLOCKS,
    GRACE_BLOCKS,
    SUFFIX_MAX,
    USERNAME_DEPOSIT,
    suffix_of,
)
from phala.primitives.address import MultiAddress, MultiSignature
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import World
from phala.testing.pallets import refused

AUTHORITY, ALICE, CAROL = (AccountId(letter * 32) for letter in (b"t", b"a", b"c"))
TO_AUTHORITY, TO_ALICE, TO_CAROL = (MultiAddress.of(who) for who in (AUTHORITY, ALICE, CAROL))
BY_AUTHORITY, BY_ALICE, BY_CAROL = (Signed(who) for who in (AUTHORITY, ALICE, CAROL))
RAW = MultiAddress(2, b"raw")
SUFFIX, NAME, OTHER = b"phala", b"alice.phala", b"al1ce.phala"
PAID = Provider(AUTHORITY_DEPOSIT, USERNAME_DEPOSIT)
FREE, DEPOSIT = True, False  # how a username is granted
START = BlockNumber(7)


@pytest.fixture
def block() -> Block:
    return Block(START, phase=2)


@pytest.fixture
def world(block: Block) -> World:
    """The authority may grant two usernames without a deposit."""
    made = World(block, AttestVerifier())
    made.balances.endow(AUTHORITY, Balance(100 * PHA))
    made.balances.endow(CAROL, Balance(100 * PHA))
    made.identity.add_username_authority(Root(), TO_AUTHORITY, SUFFIX, 2)
    return made


def reserved(world: World, who: AccountId) -> int:
    return world.system.account_of(who).data.reserved


def granted(world: World, name: bytes = NAME, *, free: bool = DEPOSIT) -> None:
    """Alice has the username."""
    world.identity.set_username_for(BY_AUTHORITY, TO_ALICE, name, None, free)
    world.identity.accept_username(BY_ALICE, name)


def test_records_have_the_bytes_that_substrate_gives_them() -> None:
    assert PROVIDER.encode(Provider(ALLOCATION)) == b"\0"
    assert PROVIDER.encode(PAID) == b"\1" + USERNAME_DEPOSIT.to_bytes(16, "little")
    assert PROVIDER.decode(b"\2") == Provider(SYSTEM)
    assert USERNAME_INFORMATION.encode(
        UsernameInformation(ALICE, Provider(ALLOCATION))
    ) == ALICE + bytes([0])
    with pytest.raises(Malformed):
        PROVIDER.decode(b"\3")


def test_the_chain_says_who_grants_usernames(world: World, block: Block) -> None:
    identity = world.identity
    assert block.events[-1:] == [AuthorityAdded(AUTHORITY)]
    assert identity.authority_of.get(SUFFIX) == AuthorityProperties(AUTHORITY, 2)
    with refused(BadOrigin, block):
        identity.add_username_authority(BY_ALICE, TO_ALICE, b"other", 1)
    with refused(CannotLookup, block):
        identity.add_username_authority(Root(), RAW, b"other", 1)
    for wrong in (b"", b"Phala", b"a.b", b"\xff", b"s" * (SUFFIX_MAX + 1)):
        with refused(InvalidSuffix, block):
            identity.add_username_authority(Root(), TO_ALICE, wrong, 1)
    with refused(BadOrigin, block):
        identity.remove_username_authority(BY_AUTHORITY, SUFFIX, TO_AUTHORITY)
    with refused(NotUsernameAuthority, block):
        identity.remove_username_authority(Root(), b"other", TO_AUTHORITY)
    with refused(InvalidSuffix, block):
        identity.remove_username_authority(Root(), SUFFIX, TO_ALICE)
    with refused(InvalidSuffix, block):
        identity.remove_username_authority(Root(), b"s" * (SUFFIX_MAX + 1), TO_ALICE)

    identity.add_username_authority(Root(), TO_CAROL, SUFFIX, 9)  # in place of the other
    assert identity.authority_of.get(SUFFIX) == AuthorityProperties(CAROL, 9)
    identity.remove_username_authority(Root(), SUFFIX, TO_CAROL)

    assert block.events[-1:] == [AuthorityRemoved(CAROL)]
    assert identity.authority_of.get(SUFFIX) is None


def test_who_is_granted_a_username_accepts_it(world: World, block: Block) -> None:
    identity = world.identity
    identity.set_username_for(BY_AUTHORITY, TO_ALICE, NAME, None, DEPOSIT)
    until = BlockNumber(START + EXPIRATION_BLOCKS)
    assert block.events[-1:] == [UsernameQueued(ALICE, NAME, until)]
    assert identity.pending_usernames.get(NAME) == (ALICE, until, PAID)
    assert reserved(world, AUTHORITY) == USERNAME_DEPOSIT
    assert identity.username_info_of.get(NAME) is None
    with refused(InvalidUsername, block):
        identity.accept_username(BY_CAROL, NAME)
    with refused(NoUsername, block):
        identity.accept_username(BY_ALICE, OTHER)
    with refused(UsernameTaken, block):
        identity.set_username_for(BY_AUTHORITY, TO_CAROL, NAME, None, DEPOSIT)

    identity.accept_username(BY_ALICE, NAME)

    first = [UsernameSet(ALICE, NAME), PrimaryUsernameSet(ALICE, NAME), UsernameSet(ALICE, NAME)]
    assert block.events[-3:] == first
    assert identity.username_info_of.get(NAME) == UsernameInformation(ALICE, PAID)
    assert identity.username_of.get(ALICE) == NAME
    assert identity.pending_usernames.get(NAME) is None
    with refused(UsernameTaken, block):
        identity.set_username_for(BY_AUTHORITY, TO_CAROL, NAME, None, DEPOSIT)


def test_an_allocation_is_spent_in_place_of_a_deposit(world: World, block: Block) -> None:
    granted(world, NAME, free=FREE)
    granted(world, OTHER, free=FREE)
    assert reserved(world, AUTHORITY) == 0
    assert world.identity.username_info_of.get(NAME).provider == Provider(ALLOCATION)
    with refused(NoAllocation, block):
        world.identity.set_username_for(BY_AUTHORITY, TO_ALICE, b"third.phala", None, FREE)
    world.identity.add_username_authority(Root(), TO_ALICE, SUFFIX, 1)
    with refused(InsufficientBalance, block):
        world.identity.set_username_for(BY_ALICE, TO_ALICE, b"third.phala", None, DEPOSIT)
    world.identity.set_username_for(BY_ALICE, TO_ALICE, b"third.phala", None, FREE)


def test_only_the_suffixs_authority_grants_its_usernames(world: World, block: Block) -> None:
    for sender, name in ((BY_ALICE, NAME), (BY_AUTHORITY, b"alice.other")):
        with refused(NotUsernameAuthority, block):
            world.identity.set_username_for(sender, TO_ALICE, name, None, FREE)
    with refused(CannotLookup, block):
        world.identity.set_username_for(BY_AUTHORITY, RAW, NAME, None, DEPOSIT)
    with refused(BadOrigin, block):
        world.identity.set_username_for(Root(), TO_ALICE, NAME, None, DEPOSIT)


def test_who_signed_a_username_has_it_at_once(world: World, block: Block) -> None:
    sr, ed = sr25519_from_seed(b"\5" * 32), ed25519_from_seed(b"\5" * 32)
    ec = PrivateKey(b"\5" * 32)
    kinds: tuple[tuple[AccountId, Callable[[bytes], MultiSignature]], ...] = (
        (AccountId(ed.public), lambda data: MultiSignature(0, ed25519_sign(ed, data))),
        (AccountId(sr.public), lambda data: MultiSignature(1, sr25519_sign(sr, data))),
        (
            AccountId(blake2_256(ec.public_key.format())),
            lambda data: MultiSignature(2, ec.sign_recoverable(blake2_256(data), None)),
        ),
    )
    for kind, (who, sign) in enumerate(kinds):
        bare, wrapped = b"bare%d.phala" % kind, b"wrapped%d.phala" % kind
        to = MultiAddress.of(who)
        for wrong in (sign(b"another.phala"), MultiSignature(kind, bytes(64 + (kind == 2)))):
            with refused(InvalidSignature, block):
                world.identity.set_username_for(BY_AUTHORITY, to, bare, wrong, DEPOSIT)
        with refused(InvalidSignature, block):
            world.identity.set_username_for(BY_AUTHORITY, TO_ALICE, bare, sign(bare), DEPOSIT)

        world.identity.set_username_for(BY_AUTHORITY, to, bare, sign(bare), DEPOSIT)
        assert block.events[-2:] == [UsernameSet(who, bare), PrimaryUsernameSet(who, bare)]
        signature = sign(b"<Bytes>" + wrapped + b"</Bytes>")
        world.identity.set_username_for(BY_AUTHORITY, to, wrapped, signature, DEPOSIT)

        assert block.events[-1:] == [UsernameSet(who, wrapped)]
        assert world.identity.username_of.get(who) == bare
        assert world.identity.username_info_of.get(wrapped).owner == who


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"alice",
        b".phala",
        b"alice.",
        b"Alice.phala",
        b"al ice.phala",
        b"al.ice.phala",
        "älice.phala".encode(),
        b"n" * (USERNAME_MAX - len(SUFFIX)) + b"." + SUFFIX,
        b"alice." + b"s" * (SUFFIX_MAX + 1),
    ],
)
def test_what_is_no_username_is_refused(world: World, block: Block, wrong: bytes) -> None:
    with refused(InvalidUsername, block):
        world.identity.set_username_for(BY_AUTHORITY, TO_ALICE, wrong, None, DEPOSIT)


@given(st.binary(max_size=40))
def test_a_username_is_a_name_a_dot_and_a_suffix(data: bytes) -> None:
    try:
        suffix = suffix_of(data)
    except InvalidUsername:
        return
    name = data[: -len(suffix) - 1]
    assert data == name + b"." + suffix
    assert len(data) <= USERNAME_MAX
    assert name.isalnum()
    assert name == name.lower()
    assert 0 < len(suffix) <= SUFFIX_MAX


def test_the_longest_username_is_granted(world: World) -> None:
    longest = b"n" * (USERNAME_MAX - len(SUFFIX) - 1) + b"." + SUFFIX

    granted(world, longest)

    assert world.identity.username_of.get(ALICE) == longest


def test_what_nobody_accepts_expires(world: World, block: Block) -> None:
    identity = world.identity
    identity.set_username_for(BY_AUTHORITY, TO_ALICE, NAME, None, DEPOSIT)
    identity.set_username_for(BY_AUTHORITY, TO_ALICE, OTHER, None, FREE)
    block.number = BlockNumber(START + EXPIRATION_BLOCKS)
    with refused(NotExpired, block):
        identity.remove_expired_approval(BY_CAROL, NAME)
    with refused(NoUsername, block):
        identity.remove_expired_approval(BY_CAROL, b"nobody.phala")
    block.number = BlockNumber(block.number + 1)

    identity.remove_expired_approval(BY_CAROL, NAME)
    identity.remove_expired_approval(BY_CAROL, OTHER)

    assert block.events[-1:] == [PreapprovalExpired(ALICE)]
    assert reserved(world, AUTHORITY) == 0
    assert identity.authority_of.get(SUFFIX).allocation == 1  # it is lost
    assert identity.pending_usernames.get(NAME) is None


def test_a_deposit_waits_while_a_suffix_has_no_authority(world: World, block: Block) -> None:
    world.identity.set_username_for(BY_AUTHORITY, TO_ALICE, NAME, None, DEPOSIT)
    world.identity.remove_username_authority(Root(), SUFFIX, TO_AUTHORITY)
    block.number = BlockNumber(START + EXPIRATION_BLOCKS + 1)
    with refused(NotUsernameAuthority, block):
        world.identity.remove_expired_approval(BY_CAROL, NAME)
    world.identity.accept_username(BY_ALICE, NAME)  # it still can be
    with refused(NotUsernameAuthority, block):
        world.identity.unbind_username(BY_AUTHORITY, NAME)


def test_an_account_chooses_which_username_is_found_under_it(world: World, block: Block) -> None:
    granted(world, NAME)
    granted(world, OTHER)
    assert world.identity.username_of.get(ALICE) == NAME
    with refused(InvalidUsername, block):
        world.identity.set_primary_username(BY_CAROL, OTHER)
    with refused(NoUsername, block):
        world.identity.set_primary_username(BY_ALICE, b"nobody.phala")

    world.identity.set_primary_username(BY_ALICE, OTHER)

    assert block.events[-1:] == [PrimaryUsernameSet(ALICE, OTHER)]
    assert world.identity.username_of.get(ALICE) == OTHER


def test_an_authority_takes_a_username_back_in_two_steps(world: World, block: Block) -> None:
    identity = world.identity
    granted(world)
    with refused(NotUsernameAuthority, block):
        identity.unbind_username(BY_ALICE, NAME)
    with refused(NoUsername, block):
        identity.unbind_username(BY_AUTHORITY, OTHER)
    with refused(NotUnbinding, block):
        identity.remove_username(BY_CAROL, NAME)
    identity.unbind_username(BY_AUTHORITY, NAME)
    assert block.events[-1:] == [UsernameUnbound(NAME)]
    assert identity.unbinding_usernames.get(NAME) == START + GRACE_BLOCKS
    with refused(AlreadyUnbinding, block):
        identity.unbind_username(BY_AUTHORITY, NAME)
    block.number = BlockNumber(START + GRACE_BLOCKS - 1)
    with refused(TooEarly, block):
        identity.remove_username(BY_CAROL, NAME)
    assert identity.username_of.get(ALICE) == NAME
    block.number = BlockNumber(START + GRACE_BLOCKS)

    identity.remove_username(BY_CAROL, NAME)

    assert block.events[-1:] == [UsernameRemoved(NAME)]
    assert reserved(world, AUTHORITY) == 0
    assert identity.username_of.get(ALICE) is None
    assert identity.username_info_of.get(NAME) is None
    granted(world)  # it is anybody's again


def test_the_primary_username_stays_while_another_ends(world: World) -> None:
    granted(world, NAME)
    granted(world, OTHER)

    world.identity.kill_username(Root(), OTHER)

    assert world.identity.username_of.get(ALICE) == NAME


def test_the_chain_burns_what_a_killed_username_reserves(world: World, block: Block) -> None:
    granted(world, NAME)
    granted(world, OTHER, free=FREE)
    world.identity.unbind_username(BY_AUTHORITY, NAME)
    issued = world.balances.total_issuance.get()
    with refused(BadOrigin, block):
        world.identity.kill_username(BY_AUTHORITY, NAME)
    with refused(NoUsername, block):
        world.identity.kill_username(Root(), b"nobody.phala")

    world.identity.kill_username(Root(), NAME)
    world.identity.kill_username(Root(), OTHER)

    assert block.events[-1:] == [UsernameKilled(OTHER)]
    assert reserved(world, AUTHORITY) == 0
    assert world.balances.total_issuance.get() == issued - USERNAME_DEPOSIT
    assert world.identity.unbinding_usernames.get(NAME) is None
    assert world.identity.username_of.get(ALICE) is None


def test_a_username_outlives_its_identity_and_its_authority(world: World, block: Block) -> None:
    world.balances.endow(ALICE, Balance(100 * PHA))
    world.identity.set_identity(BY_ALICE, IdentityInfo())
    granted(world)
    world.identity.clear_identity(BY_ALICE)
    assert world.identity.username_of.get(ALICE) == NAME
    world.identity.unbind_username(BY_AUTHORITY, NAME)
    world.identity.remove_username_authority(Root(), SUFFIX, TO_AUTHORITY)
    block.number = BlockNumber(START + GRACE_BLOCKS)

    world.identity.remove_username(BY_CAROL, NAME)

    assert block.events[-1:] == [UsernameRemoved(NAME)]
    assert reserved(world, AUTHORITY) == USERNAME_DEPOSIT  # nobody is there to have it back


def test_what_the_chain_itself_granted_is_the_chains_to_take(world: World, block: Block) -> None:
    own = UsernameInformation(ALICE, Provider(SYSTEM))
    world.identity.username_info_of.put(NAME, own)
    world.identity.pending_usernames.put(OTHER, (ALICE, BlockNumber(1), Provider(SYSTEM)))
    with refused(InsufficientPrivileges, block):
        world.identity.unbind_username(BY_AUTHORITY, NAME)
    with refused(InvalidTarget, block):
        world.identity.set_primary_username(BY_ALICE, NAME)
    with refused(InvalidTarget, block):
        world.identity.remove_expired_approval(BY_CAROL, OTHER)
    world.identity.unbinding_usernames.put(NAME, START)
    with refused(InsufficientPrivileges, block):
        world.identity.remove_username(BY_CAROL, NAME)

    world.identity.kill_username(Root(), NAME)

    assert world.identity.username_info_of.get(NAME) is None
