"""One version of the chain's rules, as a node asks it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from types import MappingProxyType
from typing import Final

from phala.codec import U32, U64, Malformed, Option, Reader, Vector
from phala.codec.compact import read_compact
from phala.crypto.hashes import blake2_256
from phala.crypto.signatures import ed25519_from_seed
from phala.errors import Invalid
from phala.frame import WEIGHT, Block, DispatchInfo
from phala.frame.manifest import Manifest
from phala.frame.metadata import describe
from phala.frame.metadata_scale import VERSIONS, encode
from phala.pallets.grandpa import AUTHORITIES
from phala.pallets.session import SESSION_KEYS, SessionKeys
from phala.pallets.transaction_payment import LENGTH_FEE, weight_to_fee
from phala.primitives.header import DigestItem, Header
from phala.primitives.types import ACCOUNT_ID, BALANCE, HASH, Balance, BlockNumber, Hash
from phala.runtime.apis import (
    ENCODED_KEYS,
    FEE_DETAILS,
    KEYS_BY_TYPE,
    OPAQUE_METADATA,
    OPTIONAL_SEED,
    RUNTIME_APIS,
    RUNTIME_DISPATCH_INFO,
    SOURCE,
    FeeDetails,
    RuntimeDispatchInfo,
    encode_validity,
)
from phala.runtime.attestation import AttestVerifier
from phala.runtime.executive import BlockBuilder, inherent_logs, open_world, rebuild
from phala.runtime.extrinsics import EXTRINSICS, EmptyType
from phala.runtime.genesis import GenesisConfig, genesis_state
from phala.runtime.outcome import (
    CheckSignatures,
    InvalidTransaction,
    Sealed,
    SignatureCheck,
    Source,
    StateRootOf,
    ValidTransaction,
)
from phala.runtime.validity import (
    Decoded,
    decode,
    signature_check,
    validate_bare,
    validate_signed,
    verify_all,
)
from phala.runtime.version import (
    BLOCK_REF_TIME_MAX,
    RELEASE,
    RUNTIME_VERSION,
    SPEC_NAME,
    SPEC_VERSION,
    SYSTEM_CONSTANTS,
    VERSION,
    RuntimeVersion,
)
from phala.runtime.world import CALLS, PALLETS, Verifier, World
from phala.trie import EMPTY_ROOT, State

NO_PARENT: Final = Hash(bytes(32))


@cache
def own_metadata() -> Mapping[int, bytes]:
    """By version. Made once in a process, some 0.1 s: it is a release's, not a `Runtime`'s."""
    described = describe(
        PALLETS,
        EXTRINSICS,
        EmptyType(("phala_runtime", "Runtime")),
        RUNTIME_APIS,
        {0: SYSTEM_CONSTANTS},
    )
    return MappingProxyType({version: encode(described, version) for version in VERSIONS})


class Validator:
    """Judges transactions for the block after one parent. `state` is that parent's."""

    def __init__(self, state: State, parent: Hash, number: BlockNumber, verifier: Verifier) -> None:
        self._world = open_world(state, parent, number, verifier)

    def validate(
        self,
        extrinsic: bytes,
        source: Source = Source.EXTERNAL,
        *,
        check_signature: bool = True,
        decoded: Decoded | None = None,
    ) -> ValidTransaction:
        """How the pool may order an extrinsic. Nothing is changed, whatever it is.

        Raises:
            InvalidTransaction: it cannot be in a block after this parent.
        """
        decoded = decoded or decode(extrinsic)
        by = decoded.extrinsic.signature
        if by is None:
            return validate_bare(self._world, decoded.call, source)
        return validate_signed(self._world, decoded, by, check_signature=check_signature)

    def signature_check(
        self, extrinsic: bytes, *, decoded: Decoded | None = None
    ) -> SignatureCheck | None:
        """What to verify elsewhere, beside `validate(..., check_signature=False)`."""
        return signature_check(self._world, decoded or decode(extrinsic))


class Runtime:
    """Pure: no clock, no files. Keep one for the process; what it derives is derived once."""

    def __init__(self, verifier: Verifier | None = None) -> None:
        self._verifier: Verifier = verifier or AttestVerifier()

    @property
    def version(self) -> RuntimeVersion:
        return VERSION

    # ---- genesis

    def genesis(self, config: GenesisConfig) -> dict[bytes, bytes]:
        """The whole state of block 0, sorted by key."""
        return genesis_state(config, self.code, self._verifier)

    def genesis_header(self, state_root: Hash) -> Header:
        return Header(NO_PARENT, BlockNumber(0), state_root, EMPTY_ROOT, ())

    @cached_property
    def code(self) -> bytes:
        """What stands under `:code` in a genesis state of this release."""
        return self.manifest.encode()

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest(
            SPEC_NAME,
            Hash(blake2_256(RELEASE.encode())),
            Hash(blake2_256(self.metadata(15))),
            SPEC_VERSION,
        )

    # ---- metadata

    def metadata(self, version: int) -> bytes:
        """Version 14 or 15, from the magic `meta` on.

        Raises:
            Invalid: another version.
        """
        if version not in VERSIONS:
            raise Invalid(
                f"metadata version {version}",
                mend=f"ask for one of {', '.join(map(str, VERSIONS))}",
            )
        return own_metadata()[version]

    # ---- blocks

    def open_block(
        self, state: State, parent: Header, logs: tuple[DigestItem, ...] = ()
    ) -> BlockBuilder:
        """Begin the block after `parent`, whose state `state` lies over and has not changed."""
        return BlockBuilder(state, parent, self._verifier, logs)

    def execute(
        self,
        state: State,
        parent: Header,
        header: Header,
        body: Sequence[bytes],
        state_root_of: StateRootOf,
        *,
        check_signatures: CheckSignatures | None = None,
    ) -> Sealed:
        """Make another's block again. Raises `BlockRefused` where its header says otherwise.

        `check_signatures` verifies all of the body's, maybe in other processes; else they are
        verified here.
        """
        builder = self.open_block(state, parent, inherent_logs(header))
        return rebuild(builder, header, body, state_root_of, check_signatures or verify_all)

    def validator(self, state: State, parent: Header) -> Validator:
        """One for each new head. `state` is an overlay of its own over the parent's state."""
        return Validator(state, parent.hash(), BlockNumber(parent.number + 1), self._verifier)

    # ---- questions

    def call(self, state: State, block_hash: Hash, method: str, data: bytes) -> bytes:
        """Answer `state_call`. `state` is an overlay over the state of block `block_hash`.

        Raises:
            Invalid: there is no such method, or `data` is no argument of it.
        """
        answer = _ANSWERS.get(method)
        if answer is None:
            raise Invalid(f"no runtime method {method!r}", mend="take one from the metadata's apis")
        reader = Reader(data)
        return answer(Question(self, state, block_hash, self._verifier), reader)


class Question:
    """One `state_call`, and what answers may look at."""

    def __init__(
        self, runtime: Runtime, state: State, block_hash: Hash, verifier: Verifier
    ) -> None:
        self.runtime = runtime
        self.state = state
        self.block_hash = block_hash
        self.verifier = verifier

    def world(self) -> World:
        """The pallets as that block left them."""
        return World(Block(BlockNumber(0), self.state), self.verifier)

    def validator(self, parent: Hash) -> Validator:
        number = self.world().system.number.get()
        return Validator(self.state, parent, BlockNumber(number + 1), self.verifier)


def _core_version(_question: Question, reader: Reader) -> bytes:
    reader.finish()
    return RUNTIME_VERSION.encode(VERSION)


def _metadata(question: Question, reader: Reader) -> bytes:
    reader.finish()
    return OPAQUE_METADATA.encode(question.runtime.metadata(14))


def _metadata_at_version(question: Question, reader: Reader) -> bytes:
    version = U32.read(reader)
    reader.finish()
    known = question.runtime.metadata(version) if version in VERSIONS else None
    return Option(OPAQUE_METADATA).encode(known)


def _metadata_versions(_question: Question, reader: Reader) -> bytes:
    reader.finish()
    return Vector(U32, items_max=len(VERSIONS)).encode(VERSIONS)


def _account_nonce(question: Question, reader: Reader) -> bytes:
    who = ACCOUNT_ID.read(reader)
    reader.finish()
    return U32.encode(question.world().system.account_of(who).nonce)


def _priced(reader: Reader) -> tuple[Decoded, int]:
    decoded = decode(_extrinsic(reader))
    length = U32.read(reader)
    reader.finish()
    return decoded, length


def _query_info(question: Question, reader: Reader) -> bytes:
    decoded, length = _priced(reader)
    info = decoded.call.info
    signed = decoded.extrinsic.signature is not None
    fee = question.world().payment.fee(info, length, Balance(0)) if signed else Balance(0)
    return RUNTIME_DISPATCH_INFO.encode(RuntimeDispatchInfo(info.weight, info.dispatch_class, fee))


def _query_fee_details(question: Question, reader: Reader) -> bytes:
    decoded, length = _priced(reader)
    by = decoded.extrinsic.signature
    details = FeeDetails(
        question.world().payment.inclusion_fee(decoded.call.info, length) if by else None,
        by.tip if by else Balance(0),
    )
    return FEE_DETAILS.encode(details)


def _priced_call(reader: Reader) -> tuple[DispatchInfo, int]:
    call = CALLS.read(reader)
    length = U32.read(reader)
    reader.finish()
    return call.info, length


def _query_call_info(question: Question, reader: Reader) -> bytes:
    """What an extrinsic with this call would cost, of a length that the client knows."""
    info, length = _priced_call(reader)
    fee = question.world().payment.fee(info, length, Balance(0))
    return RUNTIME_DISPATCH_INFO.encode(RuntimeDispatchInfo(info.weight, info.dispatch_class, fee))


def _query_call_fee_details(question: Question, reader: Reader) -> bytes:
    fee = question.world().payment.inclusion_fee(*_priced_call(reader))
    return FEE_DETAILS.encode(FeeDetails(fee, Balance(0)))


def _query_weight_to_fee(_question: Question, reader: Reader) -> bytes:
    """Before the multiplier; what is heavier than a block costs as much as one."""
    weight = WEIGHT.read(reader)
    reader.finish()
    return BALANCE.encode(weight_to_fee(min(weight.ref_time, BLOCK_REF_TIME_MAX)))


def _query_length_to_fee(_question: Question, reader: Reader) -> bytes:
    length = U32.read(reader)
    reader.finish()
    return BALANCE.encode(Balance(LENGTH_FEE * length))


def _validate_transaction(question: Question, reader: Reader) -> bytes:
    source = Source(SOURCE.read(reader))
    extrinsic = _extrinsic(reader)
    parent = HASH.read(reader)
    reader.finish()
    try:
        return encode_validity(question.validator(parent).validate(extrinsic, source))
    except InvalidTransaction as refusal:
        return encode_validity(refusal)


def _generate_session_keys(_question: Question, reader: Reader) -> bytes:
    """Public keys of a seed of 32 bytes. The chain's rules keep no secrets: without one, refuse."""
    seed = OPTIONAL_SEED.read(reader)
    reader.finish()
    if seed is None:
        raise Invalid(
            "the runtime keeps no keys",
            mend="pass a seed of 32 bytes, or take the public part of the node's own finality key",
        )
    return ENCODED_KEYS.encode(SESSION_KEYS.encode(SessionKeys(ed25519_from_seed(seed).public)))


def _decode_session_keys(_question: Question, reader: Reader) -> bytes:
    encoded = ENCODED_KEYS.read(reader)
    reader.finish()
    try:
        keys = SESSION_KEYS.decode(encoded)
    except Malformed:
        return KEYS_BY_TYPE.encode(None)
    return KEYS_BY_TYPE.encode(tuple((key, kind) for kind, key in keys.by_type()))


def _grandpa_authorities(question: Question, reader: Reader) -> bytes:
    reader.finish()
    return AUTHORITIES.encode(question.world().grandpa.authorities.get())


def _current_set_id(question: Question, reader: Reader) -> bytes:
    reader.finish()
    return U64.encode(question.world().grandpa.current_set_id.get())


def _extrinsic(reader: Reader) -> bytes:
    """The bytes of one extrinsic, its length in front."""
    start = reader.offset
    size = read_compact(reader)
    front = reader.offset - start
    reader.offset = start
    return reader.take(front + size)


_ANSWERS: Final[Mapping[str, Callable[[Question, Reader], bytes]]] = MappingProxyType(
    {
        "Core_version": _core_version,
        "Metadata_metadata": _metadata,
        "Metadata_metadata_at_version": _metadata_at_version,
        "Metadata_metadata_versions": _metadata_versions,
        "AccountNonceApi_account_nonce": _account_nonce,
        "TransactionPaymentApi_query_info": _query_info,
        "TransactionPaymentApi_query_fee_details": _query_fee_details,
        "TransactionPaymentApi_query_weight_to_fee": _query_weight_to_fee,
        "TransactionPaymentApi_query_length_to_fee": _query_length_to_fee,
        "TransactionPaymentCallApi_query_call_info": _query_call_info,
        "TransactionPaymentCallApi_query_call_fee_details": _query_call_fee_details,
        "TransactionPaymentCallApi_query_weight_to_fee": _query_weight_to_fee,
        "TransactionPaymentCallApi_query_length_to_fee": _query_length_to_fee,
        "TaggedTransactionQueue_validate_transaction": _validate_transaction,
        "SessionKeys_generate_session_keys": _generate_session_keys,
        "SessionKeys_decode_session_keys": _decode_session_keys,
        "GrandpaApi_grandpa_authorities": _grandpa_authorities,
        "GrandpaApi_current_set_id": _current_set_id,
    }
)
