"""Headers, addresses, eras, extrinsics: as Substrate's clients make them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phala.codec import UNIT, Malformed, OutOfRange, Reader, Registry
from phala.codec.registry import TypeDefVariant
from phala.crypto.hashes import blake2_256
from phala.errors import Invalid
from phala.primitives.address import (
    MULTI_ADDRESS,
    MULTI_SIGNATURE,
    MultiAddress,
    MultiSignature,
    decode_ss58,
    encode_ss58,
)
from phala.primitives.extrinsic import (
    EXTRINSIC_BYTES_MAX,
    IMMORTAL,
    Era,
    Extrinsic,
    Signature,
    decode_extrinsic,
    extrinsic_hash,
    read_era,
    signing_payload,
)
from phala.primitives.header import (
    DIGEST_ITEM,
    HEADER,
    Consensus,
    Header,
    Other,
    PreRuntime,
    RuntimeEnvironmentUpdated,
    Seal,
)
from phala.primitives.types import ACCOUNT_ID, AccountId, Balance, BlockNumber, Hash
from phala.trie import EMPTY_ROOT

VECTORS = Path(__file__).parents[2] / "vectors" / "substrate"
ALICE = AccountId(bytes.fromhex("d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"))
ALICE_42 = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
ACCOUNTS = st.binary(min_size=32, max_size=32).map(AccountId)


# ---- headers


@pytest.mark.parametrize(
    ("state_root", "block_hash"),
    [  # genesis blocks of a node template and of Polkadot Coretime
        ("28a2db05aaa4e84e88c6be28ca49d45b0433f8abee421b092dfa0f4dd85787a6",
         "6bf30d04495c16ef053de4ac74eac35dfd6473e4907810f450bea1b976ac518f"),
        ("6e2af5f681a0f432c7aaf564dbebe4ddade85822605d510ccb78f1d90710947a",
         "efb56e30d9b4a24099f88820987d0f45fb645992416535d87650d98e00f46fc4"),
    ],
)  # fmt: skip
def test_published_genesis_hashes(state_root: str, block_hash: str) -> None:
    header = Header(
        Hash(bytes(32)), BlockNumber(0), Hash(bytes.fromhex(state_root)), EMPTY_ROOT, ()
    )

    assert header.hash().hex() == block_hash


@pytest.mark.parametrize("path", sorted((VECTORS / "blocks").glob("*.json")), ids=lambda p: p.stem)
def test_real_headers_round_trip(path: Path) -> None:
    document: Any = json.loads(path.read_text())
    block = document.get("block", document)
    data = bytes.fromhex(block["header"].removeprefix("0x"))

    header = HEADER.decode(data)

    assert HEADER.encode(header) == data
    assert header.hash() == blake2_256(data)
    for cut in range(len(data)):
        with pytest.raises(Malformed):
            HEADER.decode(data[:cut])


@pytest.mark.parametrize(
    ("item", "encoded"),
    [
        (Other(b"\1"), "000401"),
        (Consensus(b"FRNK", b"\1\2"), "0446524e4b080102"),
        (Seal(b"aura", b""), "056175726100"),
        (PreRuntime(b"aura", b"\7"), "06617572610407"),
        (RuntimeEnvironmentUpdated(), "08"),
    ],
)
def test_digest_items(item: object, encoded: str) -> None:
    assert DIGEST_ITEM.encode(item).hex() == encoded
    assert DIGEST_ITEM.decode(bytes.fromhex(encoded)) == item


# ---- addresses


def test_alice_is_known_by_her_address() -> None:
    assert encode_ss58(ALICE, 42) == ALICE_42
    assert decode_ss58(ALICE_42) == ALICE
    assert encode_ss58(ALICE, 0) == "15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5"
    assert decode_ss58(encode_ss58(ALICE)) == ALICE


@given(ACCOUNTS, st.integers(0, (1 << 14) - 1))
def test_any_account_on_any_network_round_trips(account: AccountId, prefix: int) -> None:
    assert decode_ss58(encode_ss58(account, prefix)) == account


@pytest.mark.parametrize("prefix", [-1, 1 << 14])
def test_a_network_out_of_bounds_is_refused(prefix: int) -> None:
    with pytest.raises(Invalid, match="network prefix"):
        encode_ss58(ALICE, prefix)


def test_each_wrong_letter_is_noticed() -> None:
    for at in range(len(ALICE_42)):
        other = "z" if ALICE_42[at] != "z" else "y"
        with pytest.raises(Invalid, match="is no address"):
            decode_ss58(ALICE_42[:at] + other + ALICE_42[at + 1 :])


@pytest.mark.parametrize(
    "text", ["", "1", "5", "0OIl", ALICE_42[:-1], ALICE_42 + "1", "1" * 65, "é"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="is no address"):
        decode_ss58(text)


@pytest.mark.parametrize(
    ("address", "encoded"),
    [
        (MultiAddress.of(ALICE), "00" + ALICE.hex()),
        (MultiAddress(1), "01"),
        (MultiAddress(2, b"ab"), "02086162"),
        (MultiAddress(3, bytes(32)), "03" + "00" * 32),
        (MultiAddress(4, bytes(20)), "04" + "00" * 20),
    ],
)
def test_every_kind_of_address(address: MultiAddress, encoded: str) -> None:
    assert MULTI_ADDRESS.encode(address).hex() == encoded
    assert MULTI_ADDRESS.decode(bytes.fromhex(encoded)) == address


@given(st.binary(max_size=70))
def test_generated_addresses_agree_with_the_descriptors(garbage: bytes) -> None:
    for descriptor in (MULTI_ADDRESS, MULTI_SIGNATURE):
        assert outcome(descriptor.decode, garbage) == outcome(descriptor.decode_plainly, garbage)


def outcome(decode: Callable[[bytes], object], data: bytes) -> object:
    try:
        return decode(data)
    except Malformed as error:
        return type(error), str(error)


def test_only_an_id_names_an_account() -> None:
    assert MultiAddress.of(ALICE).account() == ALICE
    for kind in (1, 2, 3, 4):
        with pytest.raises(Invalid, match="names no account"):
            MultiAddress(kind, bytes(32)).account()


def test_unknown_kinds_are_refused() -> None:
    for descriptor, kind in ((MULTI_ADDRESS, b"\5"), (MULTI_SIGNATURE, b"\3")):
        with pytest.raises(Malformed, match="has no variant"):
            descriptor.decode(kind + bytes(32))
    with pytest.raises(OutOfRange):
        MULTI_ADDRESS.encode(MultiAddress(5))


@pytest.mark.parametrize(("kind", "size"), [(0, 64), (1, 64), (2, 65)])
def test_every_kind_of_signature(kind: int, size: int) -> None:
    signature = MultiSignature(kind, bytes(range(size)))

    encoded = MULTI_SIGNATURE.encode(signature)

    assert encoded == bytes([kind]) + bytes(range(size))
    assert MULTI_SIGNATURE.decode(encoded) == signature


def test_clients_know_the_types_by_path_and_parameters() -> None:
    registry = Registry()
    address = registry[registry.id_of(MULTI_ADDRESS)]
    signature = registry[registry.id_of(MULTI_SIGNATURE)]

    assert address.path == ("sp_runtime", "multiaddress", "MultiAddress")
    assert address.params == (
        ("AccountId", registry.id_of(ACCOUNT_ID)),
        ("AccountIndex", registry.id_of(UNIT)),
    )
    assert signature.path == ("sp_runtime", "MultiSignature")
    assert isinstance(address.definition, TypeDefVariant)
    names = [variant.name for variant in address.definition.variants]
    assert names == ["Id", "Index", "Raw", "Address32", "Address20"]


# ---- eras


@pytest.mark.parametrize(
    ("era", "encoded"),
    [  # `sp_runtime::generic::era`, its own tests
        (IMMORTAL, "00"),
        (Era(64, 42), (5 + 42 % 16 * 16).to_bytes(1, "little").hex() + "02"),
        (Era(32768, 20000), (14 + 2500 % 16 * 16).to_bytes(1, "little").hex() + "9c"),
        (Era(4, 3), "3100"),
        (Era(65536, 65520), "ffff"),
    ],
)
def test_published_eras(era: Era, encoded: str) -> None:
    assert era.encode().hex() == encoded
    assert read_era(Reader(bytes.fromhex(encoded))) == era


@given(st.integers(1, 1 << 17), st.integers(0, 2**31))
def test_a_mortal_era_holds_the_block_it_is_made_at(period: int, current: int) -> None:
    at = BlockNumber(current)
    era = Era.mortal(period, at)

    assert era.birth(at) <= current < era.death(at)
    assert era.death(at) - era.birth(at) == era.period
    assert read_era(Reader(era.encode())) == era


@pytest.mark.parametrize(
    ("period", "made"), [(1, 4), (4, 4), (5, 8), (64, 64), (65, 128), (1 << 20, 1 << 16)]
)
def test_a_period_is_the_next_power_of_two(period: int, made: int) -> None:
    assert Era.mortal(period, BlockNumber(0)).period == made


def test_birth_and_death_of_a_published_era() -> None:
    era = Era(4, 0)  # sp_runtime's test `mortal_era_death_birth`: period 4, phase 0

    for current, birth in ((0, 0), (3, 0), (4, 4), (6, 4), (8, 8)):
        assert era.birth(BlockNumber(current)) == birth
        assert era.death(BlockNumber(current)) == birth + 4
    assert Era(4, 3).birth(BlockNumber(0)) == 3  # not born yet
    assert IMMORTAL.birth(BlockNumber(9)) == 0
    assert IMMORTAL.death(BlockNumber(9)) == 2**64 - 1


@given(st.integers(1, 0xFFFF))
def test_each_era_has_one_form(number: int) -> None:
    data = number.to_bytes(2, "little")
    reader = Reader(data)
    try:
        era = read_era(reader)
    except Malformed:
        return
    assert era.encode() == data[: reader.offset]


# ---- extrinsics

SIGNED = Extrinsic(
    Signature(
        MultiAddress.of(ALICE), MultiSignature(1, bytes(64)), Era(64, 42), 7, Balance(1 << 40)
    ),
    b"\5\0call",
)


def test_a_signed_extrinsic_stands_as_clients_write_it() -> None:
    data = SIGNED.encode()
    extra = "a502" + "1c" + "0b000000000001"
    body = "84" + "00" + ALICE.hex() + "01" + "00" * 64 + extra + b"\5\0call".hex()

    assert data.hex() == (len(body) // 2 << 2 | 1).to_bytes(2, "little").hex() + body
    assert decode_extrinsic(data) == SIGNED
    assert extrinsic_hash(data) == blake2_256(data)


def test_a_bare_extrinsic() -> None:
    bare = Extrinsic(None, b"\2\0\x0b")

    assert bare.encode().hex() == "10" + "04" + "02000b"
    assert decode_extrinsic(bare.encode()) == bare


def test_every_cut_of_an_extrinsic_is_refused() -> None:
    data = SIGNED.encode()

    for cut in range(len(data)):
        with pytest.raises(Malformed):
            decode_extrinsic(data[:cut])
    with pytest.raises(Malformed, match="bytes are said"):
        decode_extrinsic(data + b"\0")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("0403", "extrinsic version 3"),
        ("0485", "extrinsic version 133"),
        ("0405", "extrinsic version 5"),
        ("00", "1 bytes are needed"),
        ((EXTRINSIC_BYTES_MAX + 1 << 2 | 2).to_bytes(4, "little").hex(), "at most"),
    ],
)
def test_other_versions_and_sizes_are_refused(data: str, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        decode_extrinsic(bytes.fromhex(data))


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_is_the_one_encoding(garbage: bytes) -> None:
    try:
        found = decode_extrinsic(garbage)
    except Malformed:
        return
    assert found.encode() == garbage


def test_what_is_signed_holds_versions_genesis_and_birth() -> None:
    genesis, birth = Hash(b"\1" * 32), Hash(b"\2" * 32)
    payload = signing_payload(
        b"call", b"extra", spec_version=1, transaction_version=2, genesis=genesis, birth_hash=birth
    )

    assert payload == b"callextra" + b"\1\0\0\0" + b"\2\0\0\0" + genesis + birth


@pytest.mark.parametrize(("size", "hashed"), [(256, False), (257, True)])
def test_a_payload_over_256_bytes_is_hashed(size: int, hashed: bool) -> None:  # noqa: FBT001
    call = b"c" * (size - 72)
    zero = Hash(bytes(32))

    payload = signing_payload(
        call, b"", spec_version=0, transaction_version=0, genesis=zero, birth_hash=zero
    )

    assert len(payload) == (32 if hashed else size)
    assert not hashed or payload == blake2_256(call + bytes(72))


def test_extra_data_is_era_nonce_tip() -> None:
    assert SIGNED.signature is not None
    assert SIGNED.signature.extra().hex() == "a5021c0b000000000001"
    immortal = replace(SIGNED.signature, era=IMMORTAL, nonce=0, tip=Balance(0))
    assert immortal.extra() == bytes(3)
    with pytest.raises(OutOfRange):
        replace(SIGNED.signature, nonce=1 << 32).extra()
