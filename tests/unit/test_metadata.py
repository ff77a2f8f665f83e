"""The runtime's metadata, read as a program outside reads it; and what garbage comes to."""

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phala.codec import U64, Malformed, Vector, encode_compact
from phala.errors import Invalid
from phala.messages.bus import ingress_key, topic_key
from phala.messages.calls import COMMAND_ENVELOPE, CommandEnvelope
from phala.messages.state import contract_key, worker_key
from phala.messages.types import ContractId, Generation, WorkerId
from phala.primitives.address import encode_ss58
from phala.primitives.keys import storage_prefix
from phala.primitives.types import AccountId, BlockNumber
from phala.runtime.runtime import Runtime
from phala.sdk.metadata import Metadata
from phala.sdk.portable import (
    DEPTH_MAX,
    Array,
    Bits,
    Case,
    Compacted,
    Composite,
    Entry,
    Field,
    Primitive,
    Sequence,
    Tuple,
    Types,
    Variant,
)

BOB: Final = AccountId(b"\2" * 32)
RUNTIME: Final = Runtime()
BYTES: Final = {version: RUNTIME.metadata(version) for version in (14, 15)}


@pytest.fixture(params=(14, 15))
def metadata(request: pytest.FixtureRequest) -> Metadata:
    return Metadata.decode(BYTES[request.param])


def test_a_call_has_the_bytes_that_substrate_gives_it(metadata: Metadata) -> None:
    call = metadata.encode_call("Balances", "transfer_keep_alive", {"dest": BOB, "value": 10**12})

    assert call == bytes([5, 3, 0]) + BOB + encode_compact(10**12)
    named = {"dest": {"Id": BOB}, "value": 10**12}
    assert metadata.decode_call(call) == ("Balances", "transfer_keep_alive", named)


def test_an_account_may_be_given_by_its_address(metadata: Metadata) -> None:
    by_address = metadata.encode_call(
        "Balances", "transfer_keep_alive", {"dest": encode_ss58(BOB), "value": 1}
    )

    assert by_address == metadata.encode_call(
        "Balances", "transfer_keep_alive", {"dest": {"Id": BOB}, "value": 1}
    )


def test_a_command_travels_as_its_descriptor_writes_it(metadata: Metadata) -> None:
    envelope = CommandEnvelope(2, Generation(2), None, BlockNumber(9), 28, b"sealed")
    fields = metadata.call_fields("PhalaPhatContracts", "push_command")
    value = {name: getattr(envelope, name) for name in CommandEnvelope.__slots__}

    call = metadata.encode_call(
        "PhalaPhatContracts", "push_command", dict(zip(fields, (b"\3" * 32, value), strict=True))
    )

    front = metadata.call_front("PhalaPhatContracts", "push_command")
    assert call == front + b"\3" * 32 + COMMAND_ENVELOPE.encode(envelope)


def test_keys_are_those_that_light_clients_read(metadata: Metadata) -> None:
    some = b"\4" * 32

    assert metadata.storage_key("PhalaRegistry", "Enclaves", some) == worker_key(WorkerId(some))
    assert metadata.storage_key("PhalaMq", "Ingress", some) == ingress_key(WorkerId(some))
    assert metadata.storage_key("PhalaMq", "Topics", b"system") == topic_key(b"system")
    found = metadata.storage_key("PhalaPhatContracts", "ContractInfos", some)
    assert found == contract_key(ContractId(some))
    assert metadata.decode_key("PhalaPhatContracts", "ContractInfos", found) == [some]
    assert metadata.storage_key("System", "Account") == storage_prefix("System", "Account")


def test_nothing_stored_is_the_default_or_none(metadata: Metadata) -> None:
    assert metadata.decode_storage("System", "Account", None)["data"]["free"] == 0
    assert metadata.decode_storage("PhalaRegistry", "Enclaves", None) is None


def test_constants_and_errors_have_names(metadata: Metadata) -> None:
    assert metadata.constant("Balances", "ExistentialDeposit") == 10**10
    found = metadata.error(86, b"\1\0\0\0")
    assert (found.pallet, found.name) == ("PhalaPhatContracts", "ClusterNotReady")
    assert "wait for its workers" in found.docs
    assert metadata.error(200, b"\1").pallet == "pallet 200"
    assert metadata.error(86, b"\xff\0\0\0").name == "error 0xff000000"


@pytest.mark.parametrize(
    ("pallet", "name", "arguments"),
    [
        ("Nothing", "at_all", {}),
        ("Balances", "steal", {}),
        ("Balances", "transfer_keep_alive", {}),
        ("Balances", "transfer_keep_alive", {"dest": BOB, "value": -1}),
        ("Balances", "transfer_keep_alive", {"dest": BOB, "value": "ten"}),
        ("Balances", "transfer_keep_alive", {"dest": BOB, "value": True}),
        ("Balances", "transfer_keep_alive", {"dest": BOB[:31], "value": 1}),
        ("Balances", "transfer_keep_alive", {"dest": "0xzz", "value": 1}),
        ("Balances", "transfer_keep_alive", {"dest": {"Nobody": 1}, "value": 1}),
        ("Balances", "transfer_keep_alive", {"dest": BOB, "value": 1, "more": 1}),
        ("Timestamp", "set", {"now": 1 << 70}),
    ],
)
def test_a_call_that_does_not_fit_is_refused(
    metadata: Metadata, pallet: str, name: str, arguments: dict[str, Any]
) -> None:
    if name == "set":
        # A compact is written as it is; the chain refuses what is over its type.
        assert metadata.encode_call(pallet, name, arguments)
        return
    with pytest.raises(Invalid):
        metadata.encode_call(pallet, name, arguments)


@pytest.mark.parametrize("version", [14, 15])
def test_metadata_cut_anywhere_is_malformed(version: int) -> None:
    whole = BYTES[version]

    for size in [*range(60), *range(60, len(whole), 211)]:
        with pytest.raises(Malformed):
            Metadata.decode(whole[:size])
    with pytest.raises(Malformed):
        Metadata.decode(whole + b"\0")


@given(st.data())
def test_altered_metadata_raises_invalid_or_is_read(data: st.DataObject) -> None:
    altered = bytearray(BYTES[15])
    for _ in range(3):
        altered[data.draw(st.integers(5, len(altered) - 1))] = data.draw(st.integers(0, 255))
    try:
        metadata = Metadata.decode(bytes(altered))
        metadata.decode_events(bytes(altered[:64]))
        metadata.encode_call("Balances", "transfer_keep_alive", {"dest": BOB, "value": 1})
    except Invalid:
        pass


@given(st.binary(max_size=200))
def test_garbage_is_no_metadata(garbage: bytes) -> None:
    for front in (b"", b"meta\x0e", b"meta\x0f"):
        with pytest.raises(Malformed):
            Metadata.decode(front + garbage)


def entry(type_id: int, definition: Any, path: tuple[str, ...] = ()) -> Entry:
    return Entry(type_id, path, (), definition, ())


def field(type_id: int, name: str | None = None) -> Field:
    return Field(name, type_id, None, ())


TYPES: Final = Types(
    [
        entry(0, Primitive(3)),
        entry(1, Primitive(5)),
        entry(2, Sequence(0)),
        entry(3, Array(4, 0)),
        entry(4, Tuple((1, 2))),
        entry(5, Variant((Case("None", (), 0, ()), Case("Some", (field(1),), 1, ()))), ("Option",)),
        entry(6, Composite((field(1, "a"), field(5, "b")))),
        entry(7, Compacted(1)),
        entry(8, Primitive(2)),
        entry(9, Sequence(6)),
        entry(10, Composite((field(1),))),
        entry(11, Variant((Case("A", (), 3, ()), Case("B", (field(1), field(8)), 5, ())))),
        entry(12, Primitive(10)),
        entry(13, Primitive(0)),
        entry(14, Sequence(14)),
        entry(15, Tuple(())),
        entry(16, Sequence(15)),
        entry(17, Bits(0, 0)),
        entry(18, Composite((field(18, "me"),))),
        entry(19, Primitive(1)),
    ]
)


@pytest.mark.parametrize(
    ("type_id", "value"),
    [
        (0, 200),
        (2, b"bytes"),
        (3, b"four"),
        (4, [7, b"x"]),
        (5, None),
        (5, 7),
        (6, {"a": 1, "b": None}),
        (7, 1 << 20),
        (8, "tëxt"),
        (9, [{"a": 1, "b": 2}, {"a": 3, "b": None}]),
        (10, 9),
        (11, "A"),
        (11, {"B": [1, "x"]}),
        (12, -5),
        (13, True),
        (15, None),
    ],
)
def test_a_value_comes_back(type_id: int, value: object) -> None:
    assert TYPES.decode(type_id, TYPES.encode(type_id, value)) == value


@pytest.mark.parametrize(
    ("type_id", "data"),
    [
        (1, b"\0"),
        (2, b"\xff"),
        (2, encode_compact(1 << 40)),
        (5, b"\2"),
        (8, b"\4\xff"),
        (9, encode_compact(1 << 40)),
        (11, b"\0"),
        (13, b"\2"),
        (14, b"\4" * (DEPTH_MAX + 2)),
        (16, encode_compact(1 << 30)),
        (16, encode_compact(1 << 19)),
        (17, encode_compact(1 << 30)),
        (18, b""),
        (19, b"\xff\xff\xff\xff"),
        (99, b""),
    ],
)
def test_bytes_that_are_no_value_are_refused(type_id: int, data: bytes) -> None:
    with pytest.raises(Invalid):
        TYPES.decode(type_id, data)


def test_a_sequence_of_numbers_is_read_as_the_codec_writes_it() -> None:
    types = Types([entry(0, Primitive(6)), entry(1, Sequence(0))])

    assert types.decode(1, Vector(U64, items_max=3).encode((1, 2, 3))) == [1, 2, 3]
