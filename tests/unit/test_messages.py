"""What crosses trust lines: one encoding a value, limits, and purposes that cannot be mistaken."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phala.attest.verify import EVIDENCE_BYTES_MAX
from phala.codec import Malformed, OutOfRange
from phala.crypto.hashes import blake2_256
from phala.errors import Invalid
from phala.messages import padding, registration
from phala.messages.bus import (
    ENVELOPE,
    PAYLOAD_BYTES_MAX,
    SYSTEM_TOPIC,
    TOPIC_STATE,
    AccountSender,
    Envelope,
    PalletSender,
    TopicState,
    cluster_topic,
    first_head,
    next_head,
    topic_key,
)
from phala.messages.calls import (
    COMMAND_ENVELOPE,
    COMMAND_TAG,
    QUERY_TAG,
    CommandEnvelope,
    code_id,
    command_id,
    contract_id,
)
from phala.messages.host import HOST_REPLY, HOST_REQUEST, RELAY, Query
from phala.messages.payloads.cluster import CLUSTER_PAYLOAD, CommandQueued
from phala.messages.registration import Manifest, manifest_hash, report_data
from phala.messages.signing import Purpose, signed_bytes, wrapped
from phala.messages.types import (
    CallId,
    ClusterId,
    CodeId,
    ContractId,
    Count,
    Generation,
    WorkerId,
)
from phala.primitives.types import AccountId, BlockNumber, Hash, Moment

GENESIS = Hash(b"g" * 32)
ALICE, BOB = AccountId(b"a" * 32), AccountId(b"b" * 32)
CONTRACT = ContractId(b"c" * 32)
COMMAND = CommandEnvelope(2, Generation(1), None, BlockNumber(9), 28, b"sealed")


def envelope(payload: bytes = b"payload") -> Envelope:
    return Envelope(
        1, BlockNumber(7), 2, Moment(1000), PalletSender(b"PhalaMq"), SYSTEM_TOPIC, payload
    )


def manifest(**changes: object) -> Manifest:
    fields: dict[str, object] = {
        "version": 1,
        "worker": WorkerId(b"w" * 32),
        "operator": None,
        "genesis": GENESIS,
        "software": 1,
        "runtime_id": Hash(b"r" * 32),
        "cores": 2,
        "endpoints": ("http://127.0.0.1:8000",),
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


@given(st.binary(max_size=padding.CLASSES_BYTES[-1] - padding.FRAME_BYTES))
def test_padding_has_few_sizes_and_one_way_back(plaintext: bytes) -> None:
    padded = padding.pad(plaintext)

    assert len(padded) in padding.CLASSES_BYTES
    assert padding.unpad(padded) == plaintext


@pytest.mark.parametrize("size", [0, 1020, 1021, 4092, 4093, 16_380, 16_381, 65_532])
def test_padding_at_each_boundary(size: int) -> None:
    padded = padding.pad(b"x" * size)

    assert len(padded) == min(each for each in padding.CLASSES_BYTES if each >= size + 4)
    assert padding.unpad(padded) == b"x" * size


def test_what_no_class_holds_is_refused() -> None:
    with pytest.raises(Invalid, match="65533 bytes are more than a call may carry"):
        padding.pad(b"x" * 65_533)


@pytest.mark.parametrize(
    "padded",
    [
        b"",
        padding.pad(b"x")[:-1],
        padding.pad(b"x") + b"\0",
        (1021).to_bytes(4, "little") + bytes(1020),
        padding.pad(b"x")[:-1] + b"\1",
        b"\xff" * 1024,
    ],
)
def test_what_is_not_padded_is_refused(padded: bytes) -> None:
    with pytest.raises(Invalid, match="are not padded"):
        padding.unpad(padded)


def test_a_head_hangs_on_genesis_topic_and_every_envelope() -> None:
    encoded = ENVELOPE.encode(envelope())
    head = first_head(GENESIS, SYSTEM_TOPIC)

    assert head == blake2_256(GENESIS + b"system")
    assert next_head(head, encoded) == blake2_256(head + encoded)
    assert first_head(GENESIS, cluster_topic(ClusterId(bytes(31) + b"\1"))) != head


def test_an_envelope_is_bounded() -> None:
    ENVELOPE.encode(envelope(bytes(PAYLOAD_BYTES_MAX)))
    with pytest.raises(OutOfRange):
        ENVELOPE.encode(envelope(bytes(PAYLOAD_BYTES_MAX + 1)))


def test_the_senders_have_the_originals_numbers() -> None:
    encoded = ENVELOPE.encode(
        Envelope(1, BlockNumber(0), 0, Moment(0), AccountSender(ALICE), b"", b"")
    )

    assert encoded[17] == 3
    assert ENVELOPE.decode(encoded).sender == AccountSender(ALICE)


def test_a_topics_key_is_found_by_its_name() -> None:
    assert topic_key(SYSTEM_TOPIC).endswith(b"\x18system")
    assert topic_key(SYSTEM_TOPIC)[:32] == topic_key(b"other")[:32]
    state = TopicState(Count(3), GENESIS)
    assert TOPIC_STATE.decode(TOPIC_STATE.encode(state)) == state


def test_a_copied_command_has_another_id() -> None:
    assert command_id(GENESIS, CONTRACT, ALICE, COMMAND) != command_id(
        GENESIS, CONTRACT, BOB, COMMAND
    )
    assert command_id(GENESIS, CONTRACT, ALICE, COMMAND) != command_id(
        Hash(bytes(32)), CONTRACT, ALICE, COMMAND
    )


def test_ids_are_hashes_of_what_they_name() -> None:
    cluster, code = ClusterId(b"k" * 32), CodeId(b"d" * 32)

    assert code_id(GENESIS, b"source") == blake2_256(GENESIS + b"source")
    assert contract_id(ALICE, code, cluster, b"salt") == blake2_256(
        ALICE + code + cluster + b"salt"
    )


def test_a_payload_and_a_request_round_trip() -> None:
    command = CommandQueued(CONTRACT, CallId(b"i" * 32), ALICE, COMMAND_ENVELOPE.encode(COMMAND))

    assert CLUSTER_PAYLOAD.decode(CLUSTER_PAYLOAD.encode(command)) == command
    assert HOST_REQUEST.decode(HOST_REQUEST.encode(Query(b"q"))) == Query(b"q")


@given(st.binary(max_size=64))
def test_garbage_on_the_pipe_is_malformed_or_the_one_encoding(data: bytes) -> None:
    for descriptor in (HOST_REQUEST, HOST_REPLY):
        try:
            value = descriptor.decode(data)
        except Malformed:
            continue
        assert descriptor.encode(value) == data


def test_the_relay_door_lets_no_query_through() -> None:
    assert {kind.__name__ for kind in RELAY} == {"Status", "Advance", "Attest", "Egress"}


def test_no_purpose_is_the_front_of_another() -> None:
    signed = {purpose: signed_bytes(purpose, GENESIS, b"") for purpose in Purpose}

    for one, bytes_of_one in signed.items():
        for other, bytes_of_other in signed.items():
            assert one is other or not bytes_of_other.startswith(bytes_of_one[: 1 + 10])
    assert wrapped(b"m") == b"<Bytes>m</Bytes>"


def test_what_evidence_the_chain_takes_is_what_is_judged() -> None:
    assert registration.EVIDENCE_BYTES_MAX == EVIDENCE_BYTES_MAX


def test_tags_fill_their_field() -> None:
    assert len(COMMAND_TAG) == len(QUERY_TAG) == 16


def test_report_data_is_what_the_design_says() -> None:
    said = manifest(operator=ALICE)
    parts = [
        b"phala/tee-report/v1", b"register", GENESIS, said.worker, ALICE, manifest_hash(said), b"",
        BOB,
    ]  # fmt: skip
    body = b"".join(len(part).to_bytes(4, "little") + part for part in parts)

    found = report_data(b"register", said, Hash(bytes(BOB)), BlockNumber(5))

    assert found == hashlib.sha512(body + (5).to_bytes(8, "little")).digest()


def test_every_part_of_report_data_counts() -> None:
    one = report_data(b"register", manifest(), Hash(bytes(BOB)), BlockNumber(5))
    others = [
        report_data(b"user", manifest(), Hash(bytes(BOB)), BlockNumber(5)),
        report_data(b"register", manifest(cores=3), Hash(bytes(BOB)), BlockNumber(5)),
        report_data(b"register", manifest(operator=ALICE), Hash(bytes(BOB)), BlockNumber(5)),
        report_data(b"register", manifest(), Hash(bytes(ALICE)), BlockNumber(5)),
        report_data(b"register", manifest(), Hash(bytes(BOB)), BlockNumber(6)),
        report_data(b"register", manifest(), Hash(bytes(BOB)), BlockNumber(5), gpu=b"g"),
    ]

    assert len({one, *others}) == 7
