"""Keys against what polkadot-js makes, and garbage at the keystore's door."""

import contextlib
import copy
from typing import Any

import pytest
import sr25519
from hypothesis import given, settings
from hypothesis import strategies as st

from phala.crypto.signatures import ed25519_verify
from phala.errors import Invalid, Refused
from phala.sdk.keyring import (
    DEV_NAMES,
    KeyType,
    decode_keystore,
    dev_pair,
    encode_keystore,
    new_phrase,
    pair_from_suri,
    random_pair,
)


@pytest.mark.vectors("sdk/suri.json")
def test_published_secret_uris(case: dict[str, Any]) -> None:
    pair = pair_from_suri(case["suri"], KeyType(case["type"]))

    assert pair.public.hex() == case["public"]
    assert pair.address == case["address"]


@pytest.mark.vectors("sdk/keystore.json")
def test_keystores_of_polkadot_js(case: dict[str, Any]) -> None:
    pair = decode_keystore(case["keystore"], case["password"])

    assert pair.public.hex() == case["public"]
    assert pair.type is KeyType(case["type"])


@pytest.mark.parametrize("name", DEV_NAMES)
def test_a_dev_account_signs_for_its_public_key(name: str) -> None:
    pair = dev_pair(name)

    assert sr25519.verify(pair.sign(b"words"), b"words", pair.public)


@pytest.mark.parametrize("kind", list(KeyType))
@pytest.mark.parametrize("password", [None, "correct horse"])
def test_a_keystore_opens_again(kind: KeyType, password: str | None) -> None:
    pair = pair_from_suri("//Dave//2", kind)

    document = encode_keystore(pair, name="dave", password=password)

    opened = decode_keystore(document, password)
    assert opened.public == pair.public
    if kind is KeyType.SR25519:
        assert sr25519.verify(opened.sign(b"words"), b"words", pair.public)


def test_another_password_is_refused() -> None:
    document = encode_keystore(random_pair(), name="", password="right")

    with pytest.raises(Refused, match="does not open"):
        decode_keystore(document, "wrong")
    with pytest.raises(Refused, match="locked"):
        decode_keystore(document)


def test_an_ed25519_key_signs_for_its_public_key() -> None:
    pair = pair_from_suri("//Alice", KeyType.ED25519)

    ed25519_verify(pair.public, b"words", pair.sign(b"words"))


def test_a_new_phrase_makes_a_key() -> None:
    phrase = new_phrase()

    assert len(phrase.split()) == 12
    assert pair_from_suri(phrase) == pair_from_suri(phrase)


def test_a_secret_is_not_shown() -> None:
    pair = dev_pair("Alice")

    assert pair.secret.hex() not in repr(pair)
    assert repr(pair.secret) not in repr(pair)


@pytest.mark.parametrize(
    "suri",
    ["//", "not a phrase", "0x12", "0x" + "zz" * 32, "a" * 2000, "//a" * 200, "\0"],
)
def test_garbage_is_no_secret_uri(suri: str) -> None:
    with pytest.raises(Invalid):
        pair_from_suri(suri)


def test_ed25519_has_no_soft_junction() -> None:
    with pytest.raises(Invalid, match="soft"):
        pair_from_suri("//Alice/soft", KeyType.ED25519)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(JSON)
def test_garbage_is_no_keystore(document: Any) -> None:
    with pytest.raises(Invalid):
        decode_keystore(document, "any")


@settings(max_examples=100)
@given(st.data())
def test_a_changed_keystore_gives_no_other_key(data: st.DataObject) -> None:
    pair = pair_from_suri("//Eve")
    document = encode_keystore(pair, name="eve", password=None)
    changed: Any = copy.deepcopy(document)
    spot = data.draw(st.sampled_from(["address", "encoded", "encoding", "version", "content"]))
    if spot in {"version", "content"}:
        changed["encoding"][spot] = data.draw(JSON)
    else:
        changed[spot] = data.draw(JSON | st.just(str(document[spot])[:-4]))

    with contextlib.suppress(Invalid):  # and nothing else
        assert decode_keystore(changed, None).public == pair.public
