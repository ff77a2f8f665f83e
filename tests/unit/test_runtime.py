"""The chain as a node drives it: genesis, blocks, what is refused, what messages come of it."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from phala.codec import Compact, Malformed
from phala.crypto.hashes import blake2_256
from phala.crypto.signatures import sr25519_from_seed
from phala.finality.grandpa import Authority, scheduled_change
from phala.frame import WEIGHT, Block, Weight
from phala.messages.bus import (
    ENVELOPE,
    SYSTEM_TOPIC,
    TOPIC_STATE,
    cluster_topic,
    first_head,
    next_head,
    topic_key,
)
from phala.messages.calls import COMMAND_ENVELOPE, CommandEnvelope, code_id, command_id, contract_id
from phala.messages.payloads.cluster import (
    CLUSTER_PAYLOAD,
    CommandQueued,
    ContractDeployed,
    PartialGiven,
    WorkerAdded,
)
from phala.messages.payloads.enclave import ContractKeyAnnounced, GroupKeyAnnounced
from phala.messages.payloads.system import (
    SYSTEM_PAYLOAD,
    GatekeeperAppointed,
    GroupKeySet,
    KeyDue,
    WorkerRegistered,
)
from phala.messages.registration import ENCRYPTION_KEY, PLATFORM_SIMULATED
from phala.messages.signing import Purpose
from phala.messages.state import (
    AUTHORITIES_KEY,
    CLUSTER_STATE,
    CODE_BYTES_MAX,
    CONTRACT_INFO,
    CONTRACT_KEY,
    TIMESTAMP_KEY,
    WORKER_INFO,
    cluster_key,
    code_key,
    contract_key,
    contract_keys_key,
    worker_key,
)
from phala.messages.types import ContractId, Epoch, Generation, SealKey
from phala.pallets import registry
from phala.pallets.registry import REFRESH_BLOCKS, REFRESHES_MAX
from phala.pallets.system import BLOCK_HASH_COUNT, System
from phala.primitives.address import MULTI_ADDRESS, MultiAddress
from phala.primitives.extrinsic import Era, Extrinsic
from phala.primitives.keys import storage_prefix
from phala.primitives.types import BALANCE, PHA, AccountId, Balance, BlockNumber, Hash
from phala.runtime import (
    CODE_KEY,
    DEV_ACCOUNTS,
    FIRST_CLUSTER,
    BlockRefused,
    GenesisConfig,
    InvalidTransaction,
    Problem,
    Runtime,
    verify_signature,
)
from phala.runtime.version import BLOCK_REF_TIME_MAX
from phala.runtime.world import CALLS
from phala.sdk.metadata import Metadata
from phala.tee.simulated import SimulatedPlatform, measure
from phala.tee.simulated_key import SimulatedKey
from phala.testing.chain import MemoryChain
from phala.testing.worker import WorkerKeys, message_extrinsic, register_extrinsic
from phala.trie import ordered_root, read_proof

RUNTIME = Runtime()
RUNTIME_ID = Hash(b"r" * 32)
MEASUREMENT = measure(b"the enclave")
KEY = SimulatedKey(b"\1" * 32, b"\2" * 32)
ALICE, BOB = (sr25519_from_seed(bytes([n]) * 32) for n in (1, 2))
NOBODY = AccountId(b"n" * 32)
GIVEN = Balance(1_000 * PHA)

CONFIG = replace(
    GenesisConfig.dev(
        authority=b"g" * 32,
        simulated_root=KEY.public_root,
        measurement=MEASUREMENT,
        runtime_id=RUNTIME_ID,
    ),
    balances=tuple((AccountId(pair.public), GIVEN) for pair in (ALICE, BOB)),
)


@pytest.fixture
def chain() -> MemoryChain:
    return MemoryChain(CONFIG, RUNTIME)


@pytest.fixture(scope="module")
def metadata() -> Metadata:
    return Metadata.decode(RUNTIME.metadata(15))


def transfer(to: bytes, amount: int, call: int = 3) -> bytes:
    dest = MULTI_ADDRESS.encode(MultiAddress.of(AccountId(to)))
    return bytes([5, call]) + dest + Compact(BALANCE).encode(Balance(amount))


def free(chain: MemoryChain, who: bytes, metadata: Metadata) -> int:
    key = metadata.storage_key("System", "Account", who)
    found = metadata.decode_storage("System", "Account", chain.pairs.get(key))
    assert isinstance(found, dict)
    data = found["data"]
    assert isinstance(data, dict)
    return int(str(data["free"]))


def events(chain: MemoryChain, metadata: Metadata) -> list[str]:
    """Names of the latest block's events, `Pallet.Event`."""
    key = storage_prefix("System", "Events")
    return [f"{each.pallet}.{each.name}" for each in metadata.decode_events(chain.pairs[key])]


# ---- genesis


def test_a_chain_spec_reads_back_as_it_was_written() -> None:
    assert GenesisConfig.from_json(CONFIG.to_json()) == CONFIG


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"genesis": 1}', "[" * 100_000])
def test_what_is_no_chain_spec_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="no chain spec"):
        GenesisConfig.from_json(text)


def test_a_spec_that_contradicts_itself_is_refused() -> None:
    wrongs: tuple[dict[str, Any], ...] = (
        {"accepted_platforms": (2,)},
        {"gatekeeper_threshold": 2},
        {"runtimes": ()},
        {"balances": ((NOBODY, Balance(1)),)},
        {"clusters": (replace(CONFIG.clusters[0], k=2),)},
    )
    for wrong in wrongs:
        with pytest.raises(Exception, match="no chain spec"):
            replace(CONFIG, **wrong)


def test_the_development_network_endows_the_known_accounts() -> None:
    config = GenesisConfig.dev(
        authority=b"g" * 32,
        simulated_root=KEY.public_root,
        measurement=MEASUREMENT,
        runtime_id=RUNTIME_ID,
    )

    assert dict(config.balances) == dict.fromkeys(DEV_ACCOUNTS.values(), 1_000_000 * PHA)
    assert config.simulated_root == KEY.public_root


def test_genesis_holds_what_light_clients_start_from(chain: MemoryChain) -> None:
    assert chain.pairs[AUTHORITIES_KEY] == b"\4" + b"g" * 32 + (1).to_bytes(8, "little")
    assert chain.pairs[CODE_KEY] == RUNTIME.code
    cluster = CLUSTER_STATE.decode(chain.pairs[cluster_key(FIRST_CLUSTER)])
    assert (cluster.k, cluster.seats, cluster.ready, cluster.workers) == (1, 1, 0, ())


# ---- transfers


def test_a_transfer_moves_funds_and_pays_its_fee(chain: MemoryChain, metadata: Metadata) -> None:
    (applied,) = chain.block(chain.signed(ALICE, transfer(BOB.public, PHA), 0))

    assert applied.error is None
    fee = GIVEN - PHA - free(chain, ALICE.public, metadata)
    assert free(chain, BOB.public, metadata) == GIVEN + PHA
    extrinsic = chain.blocks[-1].body[1]
    ref_time = CALLS.decode(transfer(BOB.public, PHA)).info.weight.ref_time
    base, length = PHA // 10_000, PHA // 100_000 * len(extrinsic)
    assert fee == base + length + ref_time * base // 100_000_000
    assert events(chain, metadata) == [
        "System.ExtrinsicSuccess",
        "Balances.Withdraw",
        "Balances.Transfer",
        "Balances.Deposit",
        "TransactionPayment.TransactionFeePaid",
        "System.ExtrinsicSuccess",
    ]


def test_a_call_that_fails_is_paid_for_and_does_nothing(
    chain: MemoryChain, metadata: Metadata
) -> None:
    (applied,) = chain.block(chain.signed(ALICE, transfer(BOB.public, GIVEN), 0))

    assert applied.error is not None
    assert applied.error.kind == 7  # Token
    assert free(chain, BOB.public, metadata) == GIVEN
    assert free(chain, ALICE.public, metadata) < GIVEN
    assert events(chain, metadata)[-1] == "System.ExtrinsicFailed"


def test_the_fee_is_what_clients_were_told(chain: MemoryChain, metadata: Metadata) -> None:
    extrinsic = chain.signed(ALICE, transfer(BOB.public, PHA), 0)
    data = extrinsic + len(extrinsic).to_bytes(4, "little")
    state, head = chain.state(), chain.header.hash()
    told = metadata.decode_api(
        "TransactionPaymentApi",
        "query_info",
        RUNTIME.call(state, head, "TransactionPaymentApi_query_info", data),
    )
    assert isinstance(told, dict)

    chain.block(extrinsic)

    paid = GIVEN - PHA - free(chain, ALICE.public, metadata)
    assert int(str(told["partial_fee"])) == paid


def refuses(chain: MemoryChain, problem: Problem, extrinsic: bytes) -> InvalidTransaction:
    """Both the pool's check and the block's refuse it, and the block goes on as it was."""
    with pytest.raises(InvalidTransaction) as before_pool:
        chain.validator().validate(extrinsic)
    builder = chain.open()
    state = builder._state.digest()
    with pytest.raises(InvalidTransaction) as in_block:
        builder.apply(extrinsic)
    assert before_pool.value.problem is in_block.value.problem is problem
    assert builder._state.digest() == state
    return in_block.value


def test_an_altered_extrinsic_has_a_bad_proof(chain: MemoryChain) -> None:
    good = chain.signed(ALICE, transfer(BOB.public, PHA), 0)

    refuses(chain, Problem.BAD_PROOF, good[:-1] + bytes([good[-1] ^ 1]))


def test_another_chains_extrinsic_has_a_bad_proof(chain: MemoryChain) -> None:
    other = MemoryChain(replace(CONFIG, gatekeeper_seats=2), RUNTIME)

    refuses(chain, Problem.BAD_PROOF, other.signed(ALICE, transfer(BOB.public, PHA), 0))


def test_an_old_nonce_is_stale(chain: MemoryChain) -> None:
    extrinsic = chain.signed(ALICE, transfer(BOB.public, PHA), 0)
    chain.block(extrinsic)

    refuses(chain, Problem.STALE, extrinsic)


def test_a_later_nonce_waits_for_those_before_it(chain: MemoryChain) -> None:
    first, second = (chain.signed(ALICE, transfer(BOB.public, PHA), n) for n in (0, 1))
    validator = chain.validator()

    ready, waiting = validator.validate(first), validator.validate(second)

    assert ready.requires == ()
    assert waiting.requires == ready.provides
    builder = chain.open()
    with pytest.raises(InvalidTransaction) as refusal:
        builder.apply(second)
    assert refusal.value.problem is Problem.FUTURE


def test_who_cannot_pay_is_refused(chain: MemoryChain) -> None:
    poor = sr25519_from_seed(b"p" * 32)

    refuses(chain, Problem.PAYMENT, chain.signed(poor, transfer(BOB.public, PHA), 0))


def test_a_call_that_is_free_when_bare_is_paid_for_when_signed(
    cloud: "Cloud", metadata: Metadata
) -> None:
    chain = cloud.chain
    said = message_extrinsic(cloud.worker.message(GroupKeyAnnounced(1, GROUP_KEY)))
    call = Extrinsic(None, said[said.index(bytes([84, 20])) :]).call
    poor = sr25519_from_seed(b"p" * 32)
    refuses(chain, Problem.PAYMENT, chain.signed(poor, call, 0))

    (applied,) = chain.block(chain.signed(ALICE, call, 0))

    assert applied.error is not None
    assert applied.error.kind == 2  # BadOrigin
    assert free(chain, ALICE.public, metadata) < GIVEN


def test_an_era_holds_while_its_window_does(chain: MemoryChain) -> None:
    for _ in range(3):
        chain.block()
    birth = chain.header
    era = Era.mortal(4, birth.number)
    born = chain.signed(ALICE, transfer(BOB.public, PHA), 0, era=era, birth=birth)
    chain.validator().validate(born)
    for _ in range(4):
        chain.block()

    refusal = refuses(chain, Problem.BAD_PROOF, born)  # the window's birth is another block now

    assert refusal.words == "Transaction has a bad signature"


def test_an_era_of_a_block_to_come_is_ancient(chain: MemoryChain) -> None:
    era = Era(8, 5)

    refuses(
        chain,
        Problem.ANCIENT_BIRTH_BLOCK,
        chain.signed(ALICE, transfer(BOB.public, PHA), 0, era=era),
    )


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (bytes([5, 99]), Problem.CALL),
        (bytes([5, 3, 0]), Problem.CALL),
        (b"", Problem.CALL),
        (bytes([0, 0, 0]), Problem.NO_UNSIGNED_VALIDATOR),
        (bytes([84, 20, 1]), Problem.CALL),
    ],
)
def test_bare_garbage_is_refused(chain: MemoryChain, call: bytes, problem: Problem) -> None:
    refuses(chain, problem, Extrinsic(None, call).encode())


@pytest.mark.parametrize("data", [b"", b"\0", b"\x04\x84", b"\xff" * 40, bytes(64)])
def test_garbage_is_refused(chain: MemoryChain, data: bytes) -> None:
    refuses(chain, Problem.CALL, data)


def test_time_is_the_authors_alone(chain: MemoryChain) -> None:
    builder = chain.open()
    (second,) = builder.inherents(chain.now)
    with pytest.raises(InvalidTransaction) as refusal:
        builder.apply(second)
    assert refusal.value.problem is Problem.BAD_MANDATORY
    with pytest.raises(InvalidTransaction) as before_pool:
        chain.validator().validate(second)
    assert before_pool.value.problem is Problem.MANDATORY_VALIDATION


def test_time_goes_on_when_the_clock_does_not(chain: MemoryChain) -> None:
    chain.block()
    before = int.from_bytes(chain.pairs[TIMESTAMP_KEY], "little")
    builder = RUNTIME.open_block(chain.state(), chain.header)
    for extrinsic in builder.inherents(type(chain.now)(0)):
        builder.apply(extrinsic)
    chain.close(builder)

    assert int.from_bytes(chain.pairs[TIMESTAMP_KEY], "little") == before + 1


def test_a_full_block_takes_no_more(chain: MemoryChain) -> None:
    builder = chain.open()
    remark = bytes([0, 0]) + Compact(BALANCE).encode(Balance(1_000_000)) + bytes(1_000_000)
    for nonce in range(3):
        builder.apply(chain.signed(ALICE, remark, nonce))

    with pytest.raises(InvalidTransaction) as refusal:
        builder.apply(chain.signed(ALICE, remark, 3))

    assert refusal.value.problem is Problem.EXHAUSTS_RESOURCES
    builder.apply(chain.signed(ALICE, transfer(BOB.public, PHA), 3))


def test_a_signature_can_be_checked_elsewhere(chain: MemoryChain) -> None:
    good = chain.signed(ALICE, transfer(BOB.public, PHA), 0)
    check = chain.validator().signature_check(good)
    assert check is not None

    verify_signature(check)
    with pytest.raises(InvalidTransaction):
        verify_signature(replace(check, message=check.message + b"\0"))


# ---- blocks


def test_a_block_made_again_is_the_same(chain: MemoryChain) -> None:
    other = MemoryChain(CONFIG, RUNTIME)
    chain.block(chain.signed(ALICE, transfer(NOBODY, PHA), 0))
    made = chain.blocks[-1]

    again = RUNTIME.execute(
        other.state(), other.header, made.header, made.body, lambda _: made.header.state_root
    )

    assert (again.hash, again.changes) == (made.hash, made.changes)
    assert made.header.extrinsics_root == ordered_root(made.body)


@pytest.mark.parametrize("part", ["parent_hash", "state_root", "extrinsics_root"])
def test_a_header_that_says_otherwise_is_refused(chain: MemoryChain, part: str) -> None:
    other = MemoryChain(CONFIG, RUNTIME)
    chain.block()
    made = chain.blocks[-1]
    change: dict[str, Any] = {part: Hash(b"x" * 32)}
    header = replace(made.header, **change)

    with pytest.raises(BlockRefused):
        RUNTIME.execute(
            other.state(), other.header, header, made.body, lambda _: made.header.state_root
        )


def test_a_body_that_is_not_valid_is_refused(chain: MemoryChain) -> None:
    other = MemoryChain(CONFIG, RUNTIME)
    chain.block(chain.signed(ALICE, transfer(BOB.public, PHA), 0))
    made = chain.blocks[-1]
    for body in ((), made.body[1:], (*made.body, made.body[1])):
        with pytest.raises(BlockRefused):
            RUNTIME.execute(
                other.state(), other.header, made.header, body, lambda _: made.header.state_root
            )


def test_the_hash_of_an_old_block_is_kept(chain: MemoryChain, metadata: Metadata) -> None:
    for _ in range(3):
        chain.block()

    key = metadata.storage_key("System", "BlockHash", 2)
    assert chain.pairs[key] == chain.blocks[1].hash
    assert chain.pairs[metadata.storage_key("System", "BlockHash", 0)] == chain.genesis


def test_hashes_older_than_the_longest_era_are_forgotten_but_genesis() -> None:
    block = Block(BlockNumber(BLOCK_HASH_COUNT + 100))
    system = System(block)
    system.block_hash.put(BlockNumber(0), Hash(b"g" * 32))
    for number in (98, 99, 100):
        system.block_hash.put(BlockNumber(number), Hash(bytes([number]) * 32))

    system.initialize(Hash(b"p" * 32), ())

    assert system.hash_of(BlockNumber(99)) is None
    assert system.hash_of(BlockNumber(100)) == Hash(b"d" * 32)
    assert system.hash_of(BlockNumber(block.number - 1)) == b"p" * 32
    assert system.genesis_hash() == b"g" * 32


def test_a_change_of_authorities_is_told_to_light_clients(chain: MemoryChain) -> None:
    builder = chain.open()
    builder._world.grandpa.change_authorities(((b"n" * 32, 2), (b"o" * 32, 1)))

    sealed = chain.close(builder)

    assert scheduled_change(sealed.header) == (Authority(b"n" * 32, 2), Authority(b"o" * 32, 1))
    assert sealed.authorities == ((b"n" * 32, 2), (b"o" * 32, 1))
    set_id = RUNTIME.call(chain.state(), sealed.hash, "GrandpaApi_current_set_id", b"")
    assert set_id == (1).to_bytes(8, "little")
    chain.block()
    assert chain.blocks[-1].authorities is None


def test_a_remark_is_carried_and_its_hash_is_told(chain: MemoryChain, metadata: Metadata) -> None:
    chain.block(
        chain.signed(ALICE, bytes([0, 0]) + b"\x0chey", 0),
        chain.signed(ALICE, bytes([0, 7]) + b"\x0chey", 1),
    )

    (remarked,) = [
        each
        for each in metadata.decode_events(chain.pairs[storage_prefix("System", "Events")])
        if each.name == "Remarked"
    ]
    assert remarked.fields == {"sender": ALICE.public, "hash": blake2_256(b"hey")}


# ---- questions


def test_the_runtime_answers_by_its_metadata(chain: MemoryChain, metadata: Metadata) -> None:
    chain.block(chain.signed(ALICE, transfer(BOB.public, PHA), 0))

    def ask(api: str, method: str, data: bytes = b"") -> object:
        head = chain.header.hash()
        answer = RUNTIME.call(chain.state(), head, f"{api}_{method}", data)
        return metadata.decode_api(api, method, answer)

    assert ask("AccountNonceApi", "account_nonce", ALICE.public) == 1
    assert ask("GrandpaApi", "current_set_id") == 0
    assert ask("Metadata", "metadata_versions") == [14, 15]
    version = ask("Core", "version")
    assert isinstance(version, dict)
    assert (version["spec_name"], version["spec_version"]) == ("phala", 1)
    assert version == metadata.constant("System", "Version")


def test_what_a_call_and_its_parts_cost_is_what_an_extrinsic_with_it_does(
    chain: MemoryChain, metadata: Metadata
) -> None:
    call = transfer(BOB.public, PHA)
    extrinsic = chain.signed(ALICE, call, 0)
    length = len(extrinsic).to_bytes(4, "little")

    def ask(method: str, data: bytes) -> Any:
        api, _, name = method.partition("_")
        answer = RUNTIME.call(chain.state(), chain.header.hash(), method, data)
        return metadata.decode_api(api, name, answer)

    by_extrinsic = ask("TransactionPaymentApi_query_info", extrinsic + length)
    details = ask("TransactionPaymentApi_query_fee_details", extrinsic + length)
    weight = CALLS.decode(call).info.weight

    assert ask("TransactionPaymentCallApi_query_call_info", call + length) == by_extrinsic
    assert ask("TransactionPaymentCallApi_query_call_fee_details", call + length) == details
    for api in ("TransactionPaymentApi", "TransactionPaymentCallApi"):
        of_length = ask(f"{api}_query_length_to_fee", length)
        of_weight = ask(f"{api}_query_weight_to_fee", WEIGHT.encode(weight))
        most = ask(f"{api}_query_weight_to_fee", WEIGHT.encode(Weight(2**63, 0)))
        fee = details["inclusion_fee"]
        assert (of_length, of_weight) == (fee["len_fee"], fee["adjusted_weight_fee"])
        assert most == ask(
            f"{api}_query_weight_to_fee", WEIGHT.encode(Weight(BLOCK_REF_TIME_MAX, 0))
        )
    with pytest.raises(Malformed):
        ask("TransactionPaymentCallApi_query_call_info", call)


def test_a_question_that_nobody_answers_is_refused(chain: MemoryChain) -> None:
    for method, data in (("Core_nothing", b""), ("Core_version", b"\0"), ("", b"")):
        with pytest.raises(Exception, match=r"runtime method|follow the value"):
            RUNTIME.call(chain.state(), chain.genesis, method, data)


def test_validity_is_told_as_a_result(chain: MemoryChain) -> None:
    good = chain.signed(ALICE, transfer(BOB.public, PHA), 0)
    method = "TaggedTransactionQueue_validate_transaction"
    head = chain.header.hash()

    assert RUNTIME.call(chain.state(), head, method, b"\2" + good + head)[0] == 0
    bad = chain.signed(ALICE, transfer(BOB.public, PHA), 0)[:-1] + b"\xff"
    assert RUNTIME.call(chain.state(), head, method, b"\2" + bad + head) == b"\1\0\4"


def test_code_follows_the_metadata() -> None:
    assert RUNTIME.code.startswith(b"phala runtime manifest 1\n")
    assert RUNTIME.metadata(14)[:5] == b"meta\x0e"
    assert RUNTIME.metadata(15)[:5] == b"meta\x0f"
    with pytest.raises(Exception, match="metadata version 13"):
        RUNTIME.metadata(13)


# ---- workers and contracts


@dataclass
class Cloud:
    """A chain with a worker whose keys are announced."""

    chain: MemoryChain
    worker: WorkerKeys

    def said(self, topic: bytes) -> list[object]:
        """Payloads of a topic."""
        payload = SYSTEM_PAYLOAD if topic == SYSTEM_TOPIC else CLUSTER_PAYLOAD
        return [
            payload.decode(ENVELOPE.decode(body).payload)
            for body in self.chain.messages.get(topic, [])
        ]


@pytest.fixture
def cloud(chain: MemoryChain) -> Cloud:
    chain.block()
    platform = SimulatedPlatform(measurement=MEASUREMENT, key=KEY)
    worker = WorkerKeys(b"w" * 32, chain.genesis, platform, PLATFORM_SIMULATED, RUNTIME_ID)
    return Cloud(chain, worker)


TOPIC = cluster_topic(FIRST_CLUSTER)
GROUP_KEY = b"k" * 48


def ready(cloud: Cloud) -> Cloud:
    """Registered, and its cluster's keys given."""
    chain, worker = cloud.chain, cloud.worker
    chain.block(worker.register(chain.header))
    head = chain.header
    partial = PartialGiven(
        FIRST_CLUSTER, Generation(1), 1, 1, worker.worker, head.number, head.hash(), b"sealed"
    )
    chain.block(worker.say(GroupKeyAnnounced(1, GROUP_KEY)), worker.say(partial))
    return cloud


def deploy_call(source: bytes, salt: bytes = bytes(32)) -> bytes:
    size = Compact(BALANCE).encode(Balance(len(source)))
    arguments = b"\x08{}"
    return (
        bytes([86, 20])
        + FIRST_CLUSTER
        + b"\0"
        + size
        + source
        + salt
        + arguments
        + b"s" * 32
        + b"\x1c"
    )


def live(cloud: Cloud) -> ContractId:
    """Deploy a contract and announce its keys."""
    chain, worker = ready(cloud).chain, cloud.worker
    (applied,) = chain.block(chain.signed(ALICE, deploy_call(b"source"), 0))
    assert applied.error is None
    contract = contract_id(
        AccountId(ALICE.public), code_id(RUNTIME_ID, b"source"), FIRST_CLUSTER, bytes(32)
    )
    chain.block(
        worker.say(ContractKeyAnnounced(contract, Generation(1), SealKey(b"c" * 32), b"s" * 32))
    )
    return contract


def push_call(contract: ContractId, envelope: CommandEnvelope) -> bytes:
    return bytes([86, 21]) + contract + COMMAND_ENVELOPE.encode(envelope)


def test_a_worker_is_registered_appointed_and_listed(cloud: Cloud, metadata: Metadata) -> None:
    chain, worker = cloud.chain, cloud.worker
    bound = chain.header
    chain.block(worker.register(bound))

    info = WORKER_INFO.decode(chain.pairs[worker_key(worker.worker)])
    assert (info.platform, info.confidence, info.measurement) == (0, 5, MEASUREMENT)
    assert (info.attested_height, info.attested_hash) == (bound.number, bound.hash())
    registered, appointed, due = cloud.said(SYSTEM_TOPIC)
    assert isinstance(registered, WorkerRegistered)
    assert appointed == GatekeeperAppointed(worker.worker, 1, 1, 1)
    assert due == KeyDue(
        FIRST_CLUSTER, Generation(1), worker.worker, info.encryption_key, info.epoch
    )
    assert cloud.said(TOPIC) == [WorkerAdded(FIRST_CLUSTER, worker.worker, Generation(1))]
    assert "PhalaRegistry.WorkerRegistered" in events(chain, metadata)


def test_messages_of_a_block_are_numbered_over_all_topics(cloud: Cloud) -> None:
    chain = cloud.chain
    chain.block(cloud.worker.register(chain.header))

    envelopes = [ENVELOPE.decode(each.envelope) for each in chain.blocks[-1].messages]

    assert [each.index for each in envelopes] == [0, 1, 2, 3]
    assert [each.topic for each in envelopes] == [SYSTEM_TOPIC, SYSTEM_TOPIC, TOPIC, SYSTEM_TOPIC]
    assert {each.block for each in envelopes} == {chain.header.number}
    assert {each.time for each in envelopes} == {chain.now}


def test_a_topics_head_is_proven_and_made_of_its_bodies(cloud: Cloud) -> None:
    chain = cloud.chain
    chain.block(cloud.worker.register(chain.header))

    key = topic_key(SYSTEM_TOPIC)
    proven = read_proof(chain.header.state_root, chain.prove([key]), [key])[key]
    assert proven is not None
    state = TOPIC_STATE.decode(proven)

    head = first_head(chain.genesis, SYSTEM_TOPIC)
    for body in chain.messages[SYSTEM_TOPIC]:
        head = next_head(head, body)
    assert (state.count, state.head) == (3, head)


def test_registering_again_refreshes(cloud: Cloud) -> None:
    chain, worker = ready(cloud).chain, cloud.worker
    worker.epoch = 2
    chain.block(worker.register(chain.header))

    info = WORKER_INFO.decode(chain.pairs[worker_key(worker.worker)])
    assert (info.epoch, info.encryption_key) == (2, b"\2" * 32)
    assert isinstance(cloud.said(SYSTEM_TOPIC)[-1], KeyDue)
    assert len([x for x in cloud.said(TOPIC) if isinstance(x, WorkerAdded)]) == 1
    appointed = [x for x in cloud.said(SYSTEM_TOPIC) if isinstance(x, GatekeeperAppointed)]
    assert len(appointed) == 1


def test_a_registration_counts_once(cloud: Cloud) -> None:
    chain = cloud.chain
    extrinsic = cloud.worker.register(chain.header)
    chain.block(extrinsic)

    refusal = refuses(chain, Problem.CUSTOM, extrinsic)

    assert refusal.custom == 11  # EvidenceUsed


def test_a_keys_epoch_has_one_key(cloud: Cloud) -> None:
    chain, worker = cloud.chain, cloud.worker
    worker.epoch = 2
    chain.block(worker.register(chain.header))
    chain.block(worker.register(chain.header))  # the same key once more
    for epoch, public in ((2, b"x" * 32), (1, b"\1" * 32)):
        body = worker.registration(chain.header)
        key = replace(body.encryption_key, epoch=Epoch(epoch), public=SealKey(public))
        signature = worker.sign(Purpose.ENCRYPTION_KEY, ENCRYPTION_KEY.encode(key))
        body = replace(body, encryption_key=key, key_signature=signature)

        refusal = refuses(chain, Problem.CUSTOM, register_extrinsic(worker.signed(body)))

        assert refusal.custom == 5  # EncryptionKeyRefused


def test_a_worker_registers_again_at_once_but_not_for_ever(cloud: Cloud) -> None:
    chain, worker = cloud.chain, cloud.worker
    for _ in range(1 + REFRESHES_MAX):
        chain.block(worker.register(chain.header))
        worker.epoch += 1

    assert refuses(chain, Problem.CUSTOM, worker.register(chain.header)).custom == 15
    other = replace(worker, seed=b"o" * 32)
    chain.block(other.register(chain.header))
    for _ in range(REFRESH_BLOCKS):
        chain.block()
    chain.block(worker.register(chain.header))

    info = WORKER_INFO.decode(chain.pairs[worker_key(worker.worker)])
    assert info.epoch == worker.epoch


def test_evidence_is_remembered_as_long_as_it_could_be_used(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = 8
    monkeypatch.setattr(registry, "WINDOW_BLOCKS", window)
    monkeypatch.setattr(registry, "REFRESH_BLOCKS", 1)
    chain, worker = cloud.chain, cloud.worker
    prefix = storage_prefix("PhalaRegistry", "UsedEvidence")
    used: list[bytes] = []
    for _ in range(4 * window):
        used.append(worker.register(chain.header))
        chain.block(used[-1])
        for old in used:
            with pytest.raises(InvalidTransaction):
                chain.validator().validate(old)
        kept = [key for key in chain.pairs if key.startswith(prefix)]
        assert len(kept) == min(len(used), window)


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("version", 0),
        ("genesis", 1),
        ("height", 2),
        ("fork", 3),
        ("key", 5),
        ("platform", 6),
        ("evidence", 7),
        ("report data", 8),
        ("measurement", 9),
        ("runtime", 10),
    ],
)
def test_a_registration_that_fails_a_check_is_refused(cloud: Cloud, what: str, number: int) -> None:
    chain, worker = cloud.chain, cloud.worker
    body = worker.registration(chain.header)
    match what:
        case "version":
            body = replace(body, version=2)
        case "genesis":
            body = replace(body, manifest=replace(body.manifest, genesis=Hash(bytes(32))))
        case "height":
            body = replace(body, height=BlockNumber(chain.header.number + 1))
        case "fork":
            body = replace(body, block_hash=Hash(bytes(32)))
        case "key":
            body = replace(body, key_signature=worker.signed(body).signature)
        case "platform":
            body = replace(body, evidence=replace(body.evidence, platform=2))
        case "evidence":
            blob = body.evidence.blob
            altered = blob[:-1] + bytes([blob[-1] ^ 1])
            body = replace(body, evidence=replace(body.evidence, blob=altered))
        case "report data":
            body = replace(body, manifest=replace(body.manifest, cores=3))
        case "measurement":
            worker.platform = SimulatedPlatform(measurement=measure(b"other"), key=KEY)
            body = worker.registration(chain.header)
        case _:
            worker.runtime_id = Hash(bytes(32))
            body = worker.registration(chain.header)

    refusal = refuses(chain, Problem.CUSTOM, register_extrinsic(worker.signed(body)))

    assert refusal.custom == number


def test_a_registration_of_another_signer_has_a_bad_proof(cloud: Cloud) -> None:
    chain, worker = cloud.chain, cloud.worker
    signed = worker.signed(worker.registration(chain.header))
    other = replace(worker, seed=b"o" * 32).signed(signed.body).signature

    refuses(chain, Problem.BAD_PROOF, register_extrinsic(replace(signed, signature=other)))


def test_old_evidence_is_refused(cloud: Cloud) -> None:
    chain, worker = cloud.chain, cloud.worker
    bound = chain.header
    for _ in range(600):
        chain.block()

    refusal = refuses(chain, Problem.CUSTOM, worker.register(bound))

    assert refusal.custom == 2


def test_a_group_key_is_set_once(cloud: Cloud, metadata: Metadata) -> None:
    chain = ready(cloud).chain

    assert GroupKeySet(1, GROUP_KEY) in cloud.said(SYSTEM_TOPIC)
    chain.block(cloud.worker.say(GroupKeyAnnounced(1, b"x" * 48)))
    assert events(chain, metadata)[1] == "PhalaMq.MessageRefused"
    assert GroupKeySet(1, b"x" * 48) not in cloud.said(SYSTEM_TOPIC)


def test_a_partial_makes_the_cluster_ready(cloud: Cloud) -> None:
    chain = ready(cloud).chain

    state = CLUSTER_STATE.decode(chain.pairs[cluster_key(FIRST_CLUSTER)])
    assert (state.ready, state.workers) == (1, (cloud.worker.worker,))
    assert isinstance(cloud.said(TOPIC)[-1], PartialGiven)


def test_a_message_is_taken_in_its_turn_alone(cloud: Cloud) -> None:
    chain, worker = cloud.chain, cloud.worker
    chain.block(worker.register(chain.header))
    announced = GroupKeyAnnounced(1, GROUP_KEY)
    first, second = (message_extrinsic(worker.message(announced, ahead=ahead)) for ahead in (0, 1))
    validator = chain.validator()
    assert validator.validate(second).requires == validator.validate(first).provides
    far = message_extrinsic(worker.message(announced, ahead=65))
    refuses(chain, Problem.FUTURE, far)

    chain.block(first, second)

    refuses(chain, Problem.STALE, first)


def test_a_message_of_a_stranger_is_refused(cloud: Cloud) -> None:
    chain, worker = cloud.chain, cloud.worker
    announced = GroupKeyAnnounced(1, GROUP_KEY)
    stranger = refuses(chain, Problem.CUSTOM, message_extrinsic(worker.message(announced)))
    assert stranger.custom == 2  # UnknownWorker
    chain.block(worker.register(chain.header))
    signed = worker.message(announced)
    forged = replace(worker, seed=b"o" * 32).message(announced).signature
    refuses(chain, Problem.BAD_PROOF, message_extrinsic(replace(signed, signature=forged)))
    elsewhere = worker.as_other_genesis(Hash(bytes(32))).message(announced)
    assert refuses(chain, Problem.CUSTOM, message_extrinsic(elsewhere)).custom == 1


def test_nothing_is_deployed_before_the_keys(cloud: Cloud) -> None:
    chain = cloud.chain

    (applied,) = chain.block(chain.signed(ALICE, deploy_call(b"source"), 0))

    assert applied.error is not None
    assert applied.error.detail[:2] == bytes([86, 1])  # ClusterNotReady


def test_a_contract_is_deployed_and_becomes_live(cloud: Cloud, metadata: Metadata) -> None:
    contract = live(cloud)
    chain = cloud.chain

    info = CONTRACT_INFO.decode(chain.pairs[contract_key(contract)])
    assert (info.state, info.deployer, info.cluster) == (1, ALICE.public, FIRST_CLUSTER)
    keys = CONTRACT_KEY.decode(chain.pairs[contract_keys_key(contract)])
    assert (keys.generation, keys.command_key, keys.signers) == (1, b"c" * 32, 1)
    assert chain.pairs[code_key(info.code_id)].endswith(b"source")
    assert any(isinstance(each, ContractDeployed) for each in cloud.said(TOPIC))
    assert "PhalaPhatContracts.ContractLive" in events(chain, metadata)


def test_the_largest_contract_fits_and_one_byte_more_does_not(cloud: Cloud) -> None:
    chain = ready(cloud).chain

    (applied,) = chain.block(chain.signed(ALICE, deploy_call(bytes(CODE_BYTES_MAX)), 0))

    assert applied.error is None
    larger = chain.signed(ALICE, deploy_call(bytes(CODE_BYTES_MAX + 1)), 1)
    refuses(chain, Problem.CALL, larger)


def test_a_command_is_queued_under_its_id(cloud: Cloud) -> None:
    contract = live(cloud)
    chain = cloud.chain
    envelope = CommandEnvelope(2, Generation(1), None, BlockNumber(100), 28, b"ciphertext")

    (applied,) = chain.block(chain.signed(BOB, push_call(contract, envelope), 0))

    assert applied.error is None
    queued = cloud.said(TOPIC)[-1]
    sender = AccountId(BOB.public)
    assert queued == CommandQueued(
        contract,
        command_id(chain.genesis, contract, sender, envelope),
        sender,
        COMMAND_ENVELOPE.encode(envelope),
    )


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({"version": 1}, 7),
        ({"generation": 2}, 8),
        ({"expires": 1}, 9),
        ({"expires": 100_000}, 10),
        ({"code_id": b"x" * 32}, 11),
        ({"sealed": bytes(96 * 1024)}, 12),
    ],
)
def test_a_command_that_cannot_run_is_refused(
    cloud: Cloud, change: dict[str, Any], number: int
) -> None:
    contract = live(cloud)
    chain = cloud.chain
    good = CommandEnvelope(2, Generation(1), None, BlockNumber(100), 28, b"ciphertext")
    envelope = replace(good, **change)

    (applied,) = chain.block(chain.signed(BOB, push_call(contract, envelope), 0))

    assert applied.error is not None
    assert applied.error.detail[:2] == bytes([86, number])
