"""Signatures, encryption, key derivation: published vectors, each refusal, secrets unseen."""

import copy
import hashlib
import hmac
import logging
from typing import Any

import pytest
from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from phala.crypto import aead, bls, hpke
from phala.crypto.hashes import blake2_128, blake2_256
from phala.crypto.kdf import SALT, derive, mac
from phala.crypto.secret import Secret
from phala.crypto.signatures import (
    BadSignature,
    ecdsa_account,
    ecdsa_recover,
    ed25519_from_seed,
    ed25519_sign,
    ed25519_verify,
    sr25519_from_seed,
    sr25519_sign,
    sr25519_verify,
)
from phala.errors import Invalid

KEY = Secret(bytes(range(32)))
MESSAGE = b"what is signed"
FROM_SEED = {"sr25519": sr25519_from_seed, "ed25519": ed25519_from_seed}
SIGN = {"sr25519": sr25519_sign, "ed25519": ed25519_sign}
VERIFY = {"sr25519": sr25519_verify, "ed25519": ed25519_verify}


# ---- signatures


@pytest.mark.vectors("crypto/accounts.json")
def test_published_keys(case: dict[str, Any]) -> None:
    seed, public = bytes.fromhex(case["seed"]), bytes.fromhex(case["public"])
    if case["scheme"] == "ecdsa":
        signature = PrivateKey(seed).sign_recoverable(blake2_256(MESSAGE), hasher=None)
        assert ecdsa_recover(MESSAGE, signature) == public
        assert ecdsa_account(public) == blake2_256(public)
    else:
        assert FROM_SEED[case["scheme"]](seed).public == public


@pytest.mark.vectors("crypto/ed25519.json")
def test_published_ed25519(case: dict[str, Any]) -> None:
    seed, public, message, signature = (
        bytes.fromhex(case[name]) for name in ("seed", "public", "message", "signature")
    )
    pair = ed25519_from_seed(seed)

    assert (pair.public, ed25519_sign(pair, message)) == (public, signature)
    ed25519_verify(public, message, signature)


@pytest.mark.parametrize("scheme", sorted(SIGN))
def test_whatever_differs_is_a_bad_signature(scheme: str) -> None:
    pair, other = FROM_SEED[scheme](bytes(32)), FROM_SEED[scheme](b"\1" * 32)
    signature = SIGN[scheme](pair, MESSAGE)
    verify = VERIFY[scheme]
    verify(pair.public, MESSAGE, signature)

    for public, message, found in (
        (other.public, MESSAGE, signature),
        (pair.public, MESSAGE + b"\0", signature),
        (pair.public, b"", signature),
        (pair.public, MESSAGE, bytes(64)),
        (pair.public, MESSAGE, signature[:-1]),
        (pair.public, MESSAGE, signature + b"\0"),
        (pair.public, MESSAGE, b""),
        (pair.public[:-1], MESSAGE, signature),
        (b"\xff" * 32, MESSAGE, signature),
        (b"", MESSAGE, signature),
    ):
        with pytest.raises(BadSignature, match=scheme):
            verify(public, message, found)


@pytest.mark.parametrize("scheme", sorted(SIGN))
def test_every_altered_byte_of_a_signature_is_refused(scheme: str) -> None:
    pair = FROM_SEED[scheme](bytes(32))
    signature = SIGN[scheme](pair, MESSAGE)

    for at in range(64):
        altered = bytearray(signature)
        altered[at] ^= 1 << at % 8
        with pytest.raises(BadSignature):
            VERIFY[scheme](pair.public, MESSAGE, bytes(altered))


def test_a_key_of_one_scheme_does_not_pass_for_the_other() -> None:
    pair = sr25519_from_seed(bytes(32))

    with pytest.raises(BadSignature):
        ed25519_verify(pair.public, MESSAGE, sr25519_sign(pair, MESSAGE))


def test_ed25519_is_judged_by_zip_215() -> None:
    identity = b"\1" + bytes(31)  # of small order: RFC 8032's stricter readings refuse it

    ed25519_verify(identity, b"anything", identity + bytes(32))
    with pytest.raises(BadSignature):  # s is not below the group's order
        ed25519_verify(identity, b"anything", identity + b"\xff" * 32)


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33), bytes(64)])
def test_a_seed_has_32_bytes(seed: bytes) -> None:
    for make in FROM_SEED.values():
        with pytest.raises(Invalid, match="pass 32 bytes"):
            make(seed)


@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(65), b"\xff" * 65, bytes(66)])
def test_what_is_no_ecdsa_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(BadSignature):
        ecdsa_recover(MESSAGE, signature)


def test_an_ecdsa_signature_of_other_bytes_recovers_another_key() -> None:
    key = PrivateKey(b"\1" * 32)
    signature = key.sign_recoverable(blake2_256(MESSAGE), hasher=None)

    assert ecdsa_recover(MESSAGE, signature) == key.public_key.format()
    assert ecdsa_recover(MESSAGE + b"\0", signature) != key.public_key.format()
    with pytest.raises(Invalid, match="pass 33 bytes"):
        ecdsa_account(bytes(32))


def test_hashes_of_abc() -> None:
    assert blake2_256(b"abc").hex() == (
        "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"
    )
    assert blake2_128(b"abc") == hashlib.blake2b(b"abc", digest_size=16).digest()


# ---- encryption with a given key


@pytest.mark.vectors("crypto/aes_256_gcm.json")
def test_published_aes_256_gcm(case: dict[str, Any]) -> None:
    parts = {name: bytes.fromhex(text) for name, text in case.items()}
    key = Secret(parts["key"])

    sealed = aead.seal(key, parts["nonce"], parts["plaintext"], parts["associated"])

    assert sealed == parts["sealed"]
    assert aead.open_sealed(key, parts["nonce"], sealed, parts["associated"]) == parts["plaintext"]


def test_nothing_altered_opens() -> None:
    nonce = aead.NONCE_ZERO
    sealed = aead.seal(KEY, nonce, MESSAGE, b"place")

    assert len(sealed) == len(MESSAGE) + aead.TAG_BYTES
    for key, at, found, place in (
        (Secret(bytes(32)), nonce, sealed, b"place"),
        (KEY, b"\1" * 12, sealed, b"place"),
        (KEY, nonce, sealed, b"other"),
        (KEY, nonce, sealed[:-1], b"place"),
        (KEY, nonce, sealed + b"\0", b"place"),
        (KEY, nonce, b"", b"place"),
        (KEY, b"", sealed, b"place"),
    ):
        with pytest.raises(hpke.Unopenable):
            aead.open_sealed(key, at, found, place)
    for index in range(len(sealed)):
        altered = sealed[:index] + bytes([sealed[index] ^ 1]) + sealed[index + 1 :]
        with pytest.raises(hpke.Unopenable):
            aead.open_sealed(KEY, nonce, altered, b"place")


# ---- encryption to a key. An implementation of RFC 9180 from its text, by raw primitives.


class Suite:
    def __init__(self, key_bytes: int, aead_id: int) -> None:
        self.key_bytes = key_bytes
        self.id = b"HPKE" + (0x20).to_bytes(2, "big") + b"\0\1" + aead_id.to_bytes(2, "big")

    @staticmethod
    def extract(salt: bytes, suite: bytes, label: bytes, key: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + key, "sha256")

    @staticmethod
    def expand(key: bytes, suite: bytes, label: bytes, info: bytes, size: int) -> bytes:
        labelled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
        assert size <= 32
        return hmac.digest(key, labelled + b"\1", "sha256")[:size]

    def shared(self, exchanged: bytes, enc: bytes, public: bytes) -> bytes:
        kem = b"KEM" + (0x20).to_bytes(2, "big")
        prk = self.extract(b"", kem, b"eae_prk", exchanged)
        return self.expand(prk, kem, b"shared_secret", enc + public, 32)

    def cipher(self, shared: bytes, info: bytes) -> tuple[AESGCM, bytes]:
        context = (
            b"\0"
            + self.extract(b"", self.id, b"psk_id_hash", b"")
            + self.extract(b"", self.id, b"info_hash", info)
        )
        secret = self.extract(shared, self.id, b"secret", b"")
        key = self.expand(secret, self.id, b"key", context, self.key_bytes)
        return AESGCM(key), self.expand(secret, self.id, b"base_nonce", context, 12)

    def open(self, private: bytes, enc: bytes, sealed: bytes, info: bytes, about: bytes) -> bytes:
        key = X25519PrivateKey.from_private_bytes(private)
        exchanged = key.exchange(X25519PublicKey.from_public_bytes(enc))
        shared = self.shared(exchanged, enc, key.public_key().public_bytes_raw())
        cipher, nonce = self.cipher(shared, info)
        return cipher.decrypt(nonce, sealed, about)

    def seal(self, ephemeral: bytes, public: bytes, plaintext: bytes, info: bytes) -> bytes:
        key = X25519PrivateKey.from_private_bytes(ephemeral)
        enc = key.public_key().public_bytes_raw()
        exchanged = key.exchange(X25519PublicKey.from_public_bytes(public))
        cipher, nonce = self.cipher(self.shared(exchanged, enc, public), info)
        return enc + cipher.encrypt(nonce, plaintext, b"")


OURS = Suite(32, 2)
PUBLIC = hpke.public_of(KEY)


@pytest.mark.vectors("crypto/hpke_base.json")
def test_the_other_implementation_passes_published_vectors(case: dict[str, Any]) -> None:
    parts = {name: bytes.fromhex(text) for name, text in case.items()}

    opened = Suite(16, 1).open(
        parts["private"], parts["enc"], parts["ciphertext"], parts["info"], parts["associated"]
    )

    assert opened == parts["plaintext"]


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_the_two_implementations_open_each_other(plaintext: bytes, info: bytes) -> None:
    sealed = hpke.seal(PUBLIC, plaintext, info)

    assert len(sealed) == len(plaintext) + hpke.OVERHEAD_BYTES
    assert OURS.open(KEY.reveal(), sealed[:32], sealed[32:], info, b"") == plaintext
    theirs = OURS.seal(b"\7" * 32, PUBLIC, plaintext, info)
    assert hpke.open_sealed(KEY, theirs, info) == plaintext


def test_two_ciphertexts_of_one_message_differ() -> None:
    assert hpke.seal(PUBLIC, MESSAGE, b"") != hpke.seal(PUBLIC, MESSAGE, b"")


def test_no_other_key_place_or_ciphertext_opens() -> None:
    sealed = hpke.seal(PUBLIC, MESSAGE, b"place")

    for key, found, info in (
        (Secret(b"\1" * 32), sealed, b"place"),
        (KEY, sealed, b"other"),
        (KEY, sealed[:-1], b"place"),
        (KEY, b"", b"place"),
        (KEY, bytes(32) + sealed[32:], b"place"),
    ):
        with pytest.raises(hpke.Unopenable, match="do not open"):
            hpke.open_sealed(key, found, info)
    for index in range(len(sealed)):
        altered = sealed[:index] + bytes([sealed[index] ^ 1]) + sealed[index + 1 :]
        with pytest.raises(hpke.Unopenable):
            hpke.open_sealed(KEY, altered, b"place")


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(33), bytes(32), b"\1" + bytes(31)])
def test_to_what_is_no_key_nothing_is_sealed(public: bytes) -> None:
    with pytest.raises(Invalid, match="is no X25519 key"):
        hpke.seal(public, MESSAGE, b"")


# ---- derivation


def test_derive_is_hkdf() -> None:
    info = b"\2\0\0\0ab\1\0\0\0c"
    prk = hmac.digest(SALT, KEY.reveal(), "sha256")
    first = hmac.digest(prk, info + b"\1", "sha256")
    second = hmac.digest(prk, first + info + b"\2", "sha256")

    assert derive(KEY, b"ab", b"c").reveal() == first
    assert derive(KEY, b"ab", b"c", size=64).reveal() == first + second


def test_how_parts_are_cut_matters() -> None:
    keys = [derive(KEY, *parts).reveal() for parts in ((b"ab", b"c"), (b"a", b"bc"), (b"abc",), ())]

    assert len(set(keys)) == len(keys)


def test_mac_is_hmac() -> None:
    assert mac(KEY, MESSAGE) == hmac.digest(KEY.reveal(), MESSAGE, "sha256")


# ---- threshold signatures


def test_a_partial_verifies_and_is_the_same_each_time() -> None:
    share = bls.keygen(KEY)
    public = bls.public_of(share)
    found = bls.partial(share, MESSAGE)

    bls.verify_partial(public, MESSAGE, found, index=1)
    assert (len(public), len(found)) == (bls.PUBLIC_BYTES, bls.PARTIAL_BYTES)
    assert bls.partial(share, MESSAGE) == found
    assert bls.combine({1: found}, threshold=1).reveal() == found


def test_no_other_partial_verifies() -> None:
    share, other = bls.keygen(KEY), bls.keygen(Secret(b"\1" * 32))
    public, found = bls.public_of(share), bls.partial(share, MESSAGE)
    infinity = b"\xc0" + bytes(95)

    for key, message, partial in (
        (bls.public_of(other), MESSAGE, found),
        (public, MESSAGE + b"\0", found),
        (public, MESSAGE, bls.partial(other, MESSAGE)),
        (public, MESSAGE, bytes(96)),
        (public, MESSAGE, infinity),
        (public, MESSAGE, found[:-1]),
        (public, MESSAGE, b""),
        (public[:-1], MESSAGE, found),
        (b"\xc0" + bytes(47), MESSAGE, infinity),
    ):
        with pytest.raises(bls.BadPartial, match="share 3"):
            bls.verify_partial(key, message, partial, index=3)


def test_only_a_threshold_of_one_combines() -> None:
    with pytest.raises(Invalid, match="a threshold of 2"):
        bls.combine({1: bytes(96), 2: bytes(96)}, threshold=2)
    with pytest.raises(Invalid, match="no partial"):
        bls.combine({}, threshold=1)


# ---- secrets


def test_a_secret_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(b"hunter2")
    logging.getLogger().warning("%s %r", secret, [secret])

    assert f"{secret} {secret!r} {[secret]}" == "… … […]"
    assert "hunter2" not in caplog.text
    assert len(secret) == 7
    assert copy.copy(secret) is secret


def test_secrets_compare_and_are_no_keys() -> None:
    assert Secret(b"a") == Secret(b"a")
    assert Secret(b"a") != Secret(b"b")
    assert Secret(b"a") != b"a"
    with pytest.raises(TypeError, match="no key of a dictionary"):
        hash(Secret(b"a"))
