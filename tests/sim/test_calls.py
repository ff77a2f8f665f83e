"""Random calls of all pallets through the real executive: refused by a type, or done; and after
every block all sums hold."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sim.random_calls import USERNAMES, Calls

from phala.codec import Malformed
from phala.crypto.hashes import blake2_256
from phala.crypto.signatures import ed25519_from_seed, ed25519_sign
from phala.frame import Block, DispatchError, Root, Signed, Weight
from phala.pallets.balances import EXISTENTIAL_DEPOSIT
from phala.pallets.identity.records import AUTHORITY_DEPOSIT, Data, IdentityInfo, Provider
from phala.pallets.identity.usernames import USERNAME_DEPOSIT, suffix_of
from phala.pallets.preimage.status import Requested
from phala.pallets.proxy import ANY, NON_TRANSFER
from phala.pallets.session import KEY_DEPOSIT, SessionKeys
from phala.pallets.vesting import ScheduleRecord
from phala.primitives.address import MultiAddress, MultiSignature
from phala.primitives.extrinsic import IMMORTAL, Extrinsic, Signature
from phala.primitives.keys import storage_prefix
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber, Hash
from phala.runtime import DEV_ACCOUNTS, GenesisConfig, InvalidTransaction
from phala.runtime import world as worlds
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import World
from phala.tee.simulated_key import SimulatedKey
from phala.testing.chain import MemoryChain

BLOCKS, EXTRINSICS, OWN_CALLS = 6, 25, 4
EXAMPLES = max(settings.default.max_examples // 8, 1) if settings.default else 6
CONFIG = GenesisConfig.dev(
    authority=b"g" * 32,
    simulated_root=SimulatedKey(b"\1" * 32, b"\2" * 32).public_root,
    measurement=b"m" * 48,
    runtime_id=Hash(b"r" * 32),
)


class Run:
    """A chain that a seed drives."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.chain = MemoryChain(CONFIG)
        strangers = [AccountId(bytes([n]) * 32) for n in range(2)]
        self.calls = Calls(self.random, [*list(DEV_ACCOUNTS.values())[:4], *strangers])
        self.done = self.failed = self.refused = 0
        builder = self.chain.open()
        self._furnish(builder._world)
        self.chain.close(builder)

    def _furnish(self, world: World) -> None:
        """What later calls may find: proxies, identities, operations, tasks, keys."""
        for index, who in enumerate(self.calls.accounts[:4]):
            by, other = Signed(who), self.calls.accounts[(index + 1) % 4]
            pair = ed25519_from_seed(bytes([index]) * 32)
            world.session.set_keys(by, SessionKeys(pair.public), ed25519_sign(pair, b"POP_" + who))
            world.identity.add_registrar(Root(), MultiAddress.of(other))
            world.identity.set_identity(by, IdentityInfo(display=Data.raw(b"n" * index)))
            world.identity.add_sub(by, MultiAddress.of(AccountId(bytes([index]) * 32)), Data(0))
            world.proxy.add_proxy(by, MultiAddress.of(other), ANY, BlockNumber(0))
            world.proxy.add_proxy(by, MultiAddress.of(other), NON_TRANSFER, BlockNumber(1))
            others = tuple(sorted(each for each in self.calls.accounts[:3] if each != who))
            remark = self.calls.hashes[-1]
            world.multisig.approve_as_multi(by, 2, others, None, remark, Weight(0, 0))
            world.proxy.announce(Signed(other), MultiAddress.of(who), Hash(remark))
            data = bytes([index])
            world.preimage.note_preimage(by, data)
            self.calls.hashes.append(blake2_256(data))
            schedule = ScheduleRecord(Balance(10 * PHA), Balance(PHA), BlockNumber(index))
            world.vesting.vested_transfer(by, MultiAddress.of(other), schedule)
            task = worlds.CALLS.decode(bytes([0, 0, 0]))
            name = None if index else bytes(32)
            world.scheduler.add(name, BlockNumber(4 + index), (2, 3), 0, task)
        self._name(world)

    def _name(self, world: World) -> None:
        """Two grant usernames; one of these is not accepted in time, one is taken back."""
        first, second, third = self.calls.accounts[:3]
        identity, to, free = world.identity, MultiAddress.of(third), False
        for who, suffix in ((first, b"s"), (second, b"t")):
            identity.add_username_authority(Root(), MultiAddress.of(who), suffix, 3)
        for name in (b"late.s", b"gone.s", b"c.s"):
            identity.set_username_for(Signed(first), to, name, None, free)
        identity.pending_usernames.put(
            b"late.s", (third, BlockNumber(2), Provider(AUTHORITY_DEPOSIT, USERNAME_DEPOSIT))
        )
        identity.accept_username(Signed(third), b"gone.s")
        identity.unbinding_usernames.put(b"gone.s", BlockNumber(3))

    def world(self) -> World:
        """The pallets as the last block left them."""
        block = Block(BlockNumber(self.chain.header.number), self.chain.state())
        return World(block, AttestVerifier())

    def block(self) -> None:
        builder = self.chain.open()
        self.calls.height = builder.number
        self._own_calls(builder._world)
        for _ in range(EXTRINSICS):
            call = self.calls.call()
            who = self.calls.account()
            nonce = builder._world.system.account_of(who).nonce
            by = Signature(
                MultiAddress.of(who), MultiSignature(1, bytes(64)), IMMORTAL, nonce, Balance(0)
            )
            bare = self.random.random() < 0.1
            extrinsic = Extrinsic(None if bare else by, call).encode()
            before = builder._world.block.state.digest()
            try:
                applied = builder.apply(extrinsic, check_signature=False)
            except InvalidTransaction:
                assert builder._world.block.state.digest() == before, call.hex()
                self.refused += 1
                continue
            assert applied.error is None or isinstance(applied.error, DispatchError)
            self.done += applied.error is None
            self.failed += applied.error is not None
        self.chain.close(builder)

    def _own_calls(self, world: World) -> None:
        """Calls of the chain itself, as governance's are: in a later block."""
        for _ in range(OWN_CALLS):
            try:
                call = worlds.CALLS.decode(self.calls.call())
            except Malformed:
                continue
            self.calls.hashes.append(Hash(call.encoded[:32].ljust(32, b"\0")))
            error = world.dispatch(call, Root())
            assert error is None or isinstance(error, DispatchError)

    def accounts(self) -> list[AccountId]:
        prefix = storage_prefix("System", "Account")
        return [AccountId(key[-32:]) for key in self.chain.pairs if key.startswith(prefix)]

    def owners(self, pallet: str, item: str) -> list[AccountId]:
        prefix = storage_prefix(pallet, item)
        return [AccountId(key[-32:]) for key in self.chain.pairs if key.startswith(prefix)]

    # ---- what holds after every block

    def ensure_sums(self) -> None:
        world = self.world()
        infos = {who: world.system.account_of(who) for who in self.accounts()}
        held = sum(info.data.free + info.data.reserved for info in infos.values())
        assert held == world.balances.total_issuance.get()
        for who, info in infos.items():
            data = info.data
            assert info.providers == 1
            assert data.free >= EXISTENTIAL_DEPOSIT, who.hex()
            assert info.consumers == bool(data.reserved or data.frozen), who.hex()
            locks, freezes = world.balances.locks.get(who), world.balances.freezes.get(who)
            assert data.frozen == max(
                max((each.amount for each in locks), default=0),
                max((each.amount for each in freezes), default=0),
            )

    def ensure_deposits(self) -> None:
        """What accounts have reserved is exactly what pallets say they reserve."""
        world = self.world()
        reserved = {who: world.system.account_of(who).data.reserved for who in self.accounts()}
        owed = dict.fromkeys(reserved, 0)
        for who in self.owners("Proxy", "Proxies"):
            owed[who] += world.proxy.proxies.get(who)[1]
        for who in self.owners("Proxy", "Announcements"):
            owed[who] += world.proxy.announcements.get(who)[1]
        for who in self.owners("Identity", "IdentityOf"):
            owed[who] += world.identity.identity_of.get(who).set_aside
        for who in self.owners("Identity", "SubsOf"):
            owed[who] += world.identity.subs_of.get(who)[0]
        for who in self.owners("Session", "NextKeys"):
            owed[who] += KEY_DEPOSIT
        for name in USERNAMES:
            granted = world.identity.username_info_of.get(name)
            pending = world.identity.pending_usernames.get(name)
            assert granted is None or pending is None
            authority = world.identity.authority_of.get(suffix_of(name)).account_id
            for provider in (granted and granted.provider, pending and pending[2]):
                owed[authority] += provider.deposit if provider else 0
        for key in self.chain.pairs:
            if key.startswith(storage_prefix("Multisig", "Multisigs")):
                operation = world.multisig.multisigs.get(AccountId(key[40:72]), key[88:])
                assert operation is not None
                owed[operation.depositor] += operation.deposit
            elif key.startswith(storage_prefix("Preimage", "RequestStatusFor")):
                status = world.preimage.request_status_for.get(Hash(key[32:]))
                ticket = status.maybe_ticket if isinstance(status, Requested) else status.ticket
                if ticket is not None:
                    owed[ticket[0]] += ticket[1]
        assert reserved == owed


@pytest.mark.timeout(1_800)
@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_any_calls_are_done_or_refused_and_every_sum_holds(seed: int) -> None:
    run = Run(seed)
    for _ in range(BLOCKS):
        run.block()
        run.ensure_sums()
        run.ensure_deposits()
    assert run.done, "a seed of which no call goes well proves nothing"
