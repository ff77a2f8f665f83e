"""Extrinsics as the runtime reads them, and eras as Substrate encodes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phala.crypto.signatures import ed25519_verify, sr25519_verify
from phala.errors import Invalid, Refused
from phala.runtime.runtime import Runtime
from phala.sdk.extrinsic import Mortality, Terms, bare_extrinsic, encode_era, sign_extrinsic
from phala.sdk.keyring import Keypair, KeyType, dev_pair
from phala.sdk.metadata import Metadata

METADATA = Metadata.decode(Runtime().metadata(15))
GENESIS = b"\1" * 32


def terms(mortality: Mortality | None = None) -> Terms:
    return Terms(GENESIS, 7, 3, nonce=5, tip=0, mortality=mortality)


# From the documentation of `sp_runtime::generic::Era` and its tests.
@pytest.mark.parametrize(
    ("born", "blocks", "encoded"),
    [
        (42, 64, (5 + 42 % 16 * 16).to_bytes(1, "little") + (42 // 16).to_bytes(1, "little")),
        (6, 4, b"\x21\x00"),
        (20_000, 32_768, (14 | 2_500 << 4).to_bytes(2, "little")),
    ],
)
def test_eras_of_substrates_own_tests(born: int, blocks: int, encoded: bytes) -> None:
    assert encode_era(Mortality(born, GENESIS, blocks)) == encoded


def test_what_never_dies_is_one_byte() -> None:
    assert encode_era(None) == b"\0"


@pytest.mark.parametrize("blocks", [0, 2, 3, 65, 131_072])
def test_an_era_of_no_power_of_two_is_refused(blocks: int) -> None:
    with pytest.raises(Invalid, match="an era"):
        encode_era(Mortality(1, GENESIS, blocks))


@given(st.integers(0, 2**32 - 1), st.integers(2, 16))
def test_an_era_dies_after_its_blocks_at_the_latest(born: int, power: int) -> None:
    mortality = Mortality(born, GENESIS, 1 << power)

    assert born < mortality.dies <= born + mortality.blocks


@pytest.mark.parametrize("pair", [dev_pair("Alice"), dev_pair("Alice", KeyType.ED25519)])
def test_the_signature_is_over_call_extra_and_what_is_not_sent(pair: Keypair) -> None:
    call = METADATA.encode_call("System", "remark", {"remark": b"words"})
    era = Mortality(100, b"\2" * 32, 64)

    extrinsic = sign_extrinsic(call, pair, METADATA.extensions, terms(era))

    body = extrinsic[2:]
    signature, extra = body[35:99], body[99 : -len(call)]
    assert body[:34] == b"\x84\0" + pair.public
    assert body[34] == pair.type.signature_index
    assert body.endswith(call)
    assert extra == encode_era(era) + b"\x14" + b"\0"
    additional = (7).to_bytes(4, "little") + (3).to_bytes(4, "little") + GENESIS + b"\2" * 32
    verify = sr25519_verify if pair.type is KeyType.SR25519 else ed25519_verify
    verify(pair.public, call + extra + additional, signature)


def test_an_extension_that_is_unknown_is_refused() -> None:
    with pytest.raises(Refused, match="CheckMood"):
        sign_extrinsic(b"", dev_pair("Alice"), ("CheckMood",), terms())


def test_a_bare_extrinsic_is_its_call_behind_its_version() -> None:
    assert bare_extrinsic(b"\1\2") == b"\x0c\x04\1\2"
