"""Keys of accounts: secret URIs with Substrate's derivations, and polkadot-js keystores.

A secret URI is `PHRASE//hard/soft///password`, `0xSEED//hard`, or, from the development phrase
that everybody knows, `//Alice`. Source: the `sp-core` crate, `crypto` and `sr25519`;
`@polkadot/keyring`.
"""

import base64
import binascii
import enum
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

import ed25519_zebra
import sr25519
from mnemonic import Mnemonic
from nacl.bindings import crypto_secretbox, crypto_secretbox_open
from nacl.exceptions import CryptoError

from phala.codec.compact import encode_compact
from phala.crypto.hashes import blake2_256
from phala.errors import Invalid, Refused
from phala.primitives.address import decode_ss58, encode_ss58
from phala.primitives.types import AccountId

DEV_PHRASE: Final = "bottom drive obey lake curtain smoke basket hold race lonely fit walk"
DEV_NAMES: Final = ("Alice", "Bob", "Charlie", "Dave", "Eve", "Ferdie")
SURI: Final = re.compile(
    r"(?P<phrase>[\w ]+)?(?P<path>(//?[^/]+)*)(///(?P<password>.*))?", re.DOTALL
)
JUNCTION: Final = re.compile(r"/(/?)([^/]+)")
SURI_CHARS_MAX: Final = 1024
JUNCTIONS_MAX: Final = 32
SEED_BYTES: Final = 32
KEYSTORE_BYTES_MAX: Final = 64 * 1024
NAME_CHARS_MAX: Final = 256

PKCS8_HEADER: Final = bytes([48, 83, 2, 1, 1, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32])
PKCS8_DIVIDER: Final = bytes([161, 35, 3, 33, 0])
# (N, p, r): what @polkadot/util-crypto accepts, so that no keystore takes all memory.
SCRYPT_ALLOWED: Final = frozenset(
    {
        (1 << 13, 10, 8),
        (1 << 14, 5, 8),
        (1 << 15, 3, 8),
        (1 << 15, 1, 8),
        (1 << 16, 2, 8),
        (1 << 17, 1, 8),
    }
)
SCRYPT_DEFAULT: Final = (1 << 17, 1, 8)
SCRYPT_BYTES_MAX: Final = 192 * 1024 * 1024
NONCE_BYTES: Final = 24


class KeyType(enum.Enum):
    """The values are the names in keystores."""

    SR25519 = "sr25519"
    ED25519 = "ed25519"

    @property
    def signature_index(self) -> int:
        """Of the variant of `MultiSignature`."""
        return {KeyType.ED25519: 0, KeyType.SR25519: 1}[self]


@dataclass(frozen=True, slots=True)
class Keypair:
    """An account that can sign. The secret is not shown."""

    type: KeyType
    public: bytes
    secret: bytes = field(repr=False)  # sr25519: scalar and nonce; ed25519: the seed

    @property
    def account(self) -> AccountId:
        return AccountId(self.public)

    @property
    def address(self) -> str:
        return encode_ss58(self.account)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        if self.type is KeyType.SR25519:
            return bytes(sr25519.sign((self.public, self.secret), message))
        return bytes(ed25519_zebra.ed_sign(self.secret, message))


def random_pair() -> Keypair:
    """A new sr25519 key, as sessions use."""
    return _sr25519_from_seed(secrets.token_bytes(SEED_BYTES))


def new_phrase() -> str:
    """Twelve random words."""
    return Mnemonic("english").to_mnemonic(secrets.token_bytes(16))


def dev_pair(name: str, kind: KeyType = KeyType.SR25519) -> Keypair:
    """Alice ... Ferdie: everybody knows these keys."""
    if name not in DEV_NAMES:
        raise Invalid(f"there is no development account {name!r}", mend=_one_of(DEV_NAMES))
    return pair_from_suri(f"//{name}", kind)


def pair_from_suri(suri: str, kind: KeyType = KeyType.SR25519) -> Keypair:
    """The key that a secret URI names.

    Raises:
        Invalid: no such URI, words that are no phrase, a soft junction of ed25519.
    """
    found = SURI.fullmatch(suri) if len(suri) <= SURI_CHARS_MAX else None
    if found is None:
        raise Invalid("this is no secret URI", mend="write 'PHRASE//hard/soft' or '//Alice'")
    phrase, password = found["phrase"] or DEV_PHRASE, found["password"] or ""
    junctions = JUNCTION.findall(found["path"])
    if len(junctions) > JUNCTIONS_MAX:
        raise Invalid(f"{len(junctions)} junctions", mend=f"use at most {JUNCTIONS_MAX}")
    seed = _hex_seed(phrase) if phrase.startswith("0x") else _seed_of(phrase, password)
    if kind is KeyType.ED25519:
        return _derive_ed25519(seed, junctions)
    return _derive_sr25519(seed, junctions)


def _hex_seed(text: str) -> bytes:
    try:
        seed = bytes.fromhex(text[2:])
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise Invalid("this is no seed", mend=f"write 0x and {2 * SEED_BYTES} hex digits")
    return seed


def _seed_of(phrase: str, password: str) -> bytes:
    """Substrate stretches the phrase's entropy, not its words."""
    words = Mnemonic("english")
    try:
        entropy = bytes(words.to_entropy(phrase.split()))
    except (ValueError, LookupError):
        raise Invalid(
            "the words are no BIP-39 phrase", mend="check each word and their order"
        ) from None
    salt = b"mnemonic" + password.encode()
    return hashlib.pbkdf2_hmac("sha512", entropy, salt, 2048)[:SEED_BYTES]


def _chain_code(junction: str) -> bytes:
    if junction.isascii() and junction.isdigit() and int(junction) < 1 << 64:
        return int(junction).to_bytes(32, "little")
    text = junction.encode()
    encoded = encode_compact(len(text)) + text
    return blake2_256(encoded) if len(encoded) > 32 else encoded.ljust(32, b"\0")


def _sr25519_from_seed(seed: bytes) -> Keypair:
    public, secret = sr25519.pair_from_seed(seed)
    return Keypair(KeyType.SR25519, bytes(public), bytes(secret))


def _derive_sr25519(seed: bytes, junctions: list[tuple[str, str]]) -> Keypair:
    pair = _sr25519_from_seed(seed)
    for hard, name in junctions:
        extended = (_chain_code(name), pair.public, pair.secret)
        derive = sr25519.hard_derive_keypair if hard else sr25519.derive_keypair
        _, public, secret = derive(extended, b"")
        pair = Keypair(KeyType.SR25519, bytes(public), bytes(secret))
    return pair


def _derive_ed25519(seed: bytes, junctions: list[tuple[str, str]]) -> Keypair:
    for hard, name in junctions:
        if not hard:
            raise Invalid(f"ed25519 has no soft junction /{name}", mend="derive hard, with //")
        tag = b"Ed25519HDKD"
        seed = blake2_256(encode_compact(len(tag)) + tag + seed + _chain_code(name))
    return _ed25519_from_seed(seed)


def _ed25519_from_seed(seed: bytes) -> Keypair:
    _, public = ed25519_zebra.ed_from_seed(seed)
    return Keypair(KeyType.ED25519, bytes(public), seed)


# ---- keystores


def decode_keystore(document: Any, password: str | None = None) -> Keypair:
    """The key in a polkadot-js keystore (version 3), given as parsed JSON.

    Raises:
        Invalid: no such keystore.
        Refused: the password is missing or wrong.
    """
    kind, encodings, encoded, address = _parse_keystore(document)
    if encodings == ["none"]:
        plain = encoded
    elif password is None:
        raise Refused("the keystore is locked", mend="give its password")
    else:
        plain = _unlock(encoded, password)
    pair = _decode_pkcs8(kind, plain)
    if pair.public != address:
        raise Invalid("the keystore's address is of another key", mend="export the account again")
    return pair


def encode_keystore(pair: Keypair, *, name: str, password: str | None) -> dict[str, Any]:
    """A document that polkadot-js reads; without a password the key lies in it in the clear."""
    secret = (
        bytes(sr25519.convert_secret_key_to_ed25519(pair.secret))
        if pair.type is KeyType.SR25519
        else pair.secret + pair.public
    )
    plain = PKCS8_HEADER + secret + PKCS8_DIVIDER + pair.public
    return {
        "address": pair.address,
        "encoded": base64.b64encode(plain if password is None else _lock(plain, password)).decode(),
        "encoding": {
            "content": ["pkcs8", pair.type.value],
            "type": ["none"] if password is None else ["scrypt", "xsalsa20-poly1305"],
            "version": "3",
        },
        "meta": {"name": name[:NAME_CHARS_MAX]},
    }


def keystore_address(document: Any) -> AccountId:
    """Whose key a keystore holds, by its own word; needs no password."""
    return AccountId(_parse_keystore(document)[3])


def _parse_keystore(document: Any) -> tuple[KeyType, list[str], bytes, bytes]:
    mend = "export the account from polkadot-js again, as JSON"
    try:
        encoding, text = document["encoding"], document["encoded"]
        version, encodings, content = encoding["version"], encoding["type"], encoding["content"]
        address = decode_ss58(document["address"])
        kind = KeyType(content[1])
        encoded = base64.b64decode(text[:KEYSTORE_BYTES_MAX], validate=True)
    except (AttributeError, LookupError, TypeError, ValueError, binascii.Error, Invalid) as error:
        raise Invalid(f"this is no keystore: {type(error).__name__}", mend=mend) from None
    known = (["none"], ["scrypt", "xsalsa20-poly1305"])
    if version != "3" or content[0] != "pkcs8" or encodings not in known:
        raise Invalid("the keystore is of another kind than version 3 with scrypt", mend=mend)
    return kind, encodings, encoded, bytes(address)


def _decode_pkcs8(kind: KeyType, plain: bytes) -> Keypair:
    front = len(PKCS8_HEADER)
    secret, rest = plain[front : front + 64], plain[front + 64 :]
    whole = plain.startswith(PKCS8_HEADER) and rest[:-32] == PKCS8_DIVIDER and len(rest) == 37
    if not whole:
        raise Invalid("the keystore holds no key", mend="export the account again")
    if kind is KeyType.ED25519:
        pair = _ed25519_from_seed(secret[:SEED_BYTES])
    else:
        try:
            public, own = sr25519.pair_from_ed25519_secret_key(secret)
        except ValueError:
            raise Invalid("the keystore holds no sr25519 key", mend="export it again") from None
        pair = Keypair(KeyType.SR25519, bytes(public), bytes(own))
    if pair.public != rest[5:]:
        raise Invalid("the keystore's two halves are of two keys", mend="export the account again")
    return pair


def _unlock(encoded: bytes, password: str) -> bytes:
    salt, numbers, rest = encoded[:32], encoded[32:44], encoded[44:]
    n, p, r = (int.from_bytes(numbers[at : at + 4], "little") for at in (0, 4, 8))
    if (n, p, r) not in SCRYPT_ALLOWED or len(rest) < NONCE_BYTES + 16:
        raise Invalid(f"scrypt with N {n}, p {p}, r {r}", mend="export the account again")
    key = _stretch(password, salt, (n, p, r))
    try:
        return bytes(crypto_secretbox_open(rest[NONCE_BYTES:], rest[:NONCE_BYTES], key))
    except CryptoError:
        raise Refused("the password does not open the keystore", mend="try another one") from None


def _lock(plain: bytes, password: str) -> bytes:
    salt, nonce = secrets.token_bytes(32), secrets.token_bytes(NONCE_BYTES)
    key = _stretch(password, salt, SCRYPT_DEFAULT)
    numbers = b"".join(number.to_bytes(4, "little") for number in SCRYPT_DEFAULT)
    return salt + numbers + nonce + bytes(crypto_secretbox(plain, nonce, key))


def _stretch(password: str, salt: bytes, numbers: tuple[int, int, int]) -> bytes:
    n, p, r = numbers
    return hashlib.scrypt(
        password.encode(), salt=salt, n=n, p=p, r=r, dklen=64, maxmem=SCRYPT_BYTES_MAX
    )[:32]


def _one_of(names: tuple[str, ...]) -> str:
    return f"use one of {', '.join(names)}"
