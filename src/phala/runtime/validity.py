"""Whether an extrinsic may be in the next block. The same checks stand before the pool and in a
block; only what depends on its neighbours differs."""

from collections.abc import Callable, Iterable
from typing import Final

from phala.codec import Malformed
from phala.codec.records import record
from phala.crypto.signatures import verify_account
from phala.errors import Invalid, PhalaError
from phala.frame import AccountInfo, Call, DispatchClass, PalletError, TokenError
from phala.messages.collateral import ISSUE_KEY, AmdItems, IntelItems, IssueKey
from phala.messages.payloads.enclave import SignedMessage
from phala.messages.registration import SignedRegistration
from phala.pallets import collateral, dev, mq, registry
from phala.pallets.balances import ensure_withdrawable
from phala.pallets.registry import errors as registry_errors
from phala.primitives.extrinsic import (
    EXTRINSIC_BYTES_MAX,
    Extrinsic,
    Signature,
    decode_extrinsic,
    signing_payload,
)
from phala.primitives.types import AccountId, Balance, Hash
from phala.runtime.outcome import (
    InvalidTransaction,
    Problem,
    SignatureCheck,
    Source,
    ValidTransaction,
)
from phala.runtime.version import (
    NORMAL_REF_TIME_MAX,
    SPEC_VERSION,
    TRANSACTION_VERSION,
)
from phala.runtime.weights import BASE_REF_TIME
from phala.runtime.world import CALLS, World

BARE_PRIORITY: Final = 1 << 63  # before every tip: enclaves' messages are free and few
BARE_LONGEVITY: Final = 64  # blocks
SIGNED_PRIORITY_MAX: Final = BARE_PRIORITY - 1
LONGEVITY_MAX: Final = (1 << 64) - 1
NO_ACCOUNT_ID: Final = AccountId(bytes(32))

SYNC_MESSAGE: Final = (84, 20)
REGISTER: Final = (85, 20)
SUBMIT_INTEL, SUBMIT_AMD, SUBMIT_MANIFEST = (87, 0), (87, 1), (87, 2)
DISPATCH_AS: Final = (255, 0)  # on development networks alone
BARE_CALLS: Final = (
    SYNC_MESSAGE, REGISTER, SUBMIT_INTEL, SUBMIT_AMD, SUBMIT_MANIFEST, DISPATCH_AS,
)  # fmt: skip


@record
class Decoded:
    """An extrinsic and its call, read once."""

    extrinsic: Extrinsic
    call: Call
    length: int


def decode(data: bytes) -> Decoded:
    """Raises `InvalidTransaction`: these bytes are no extrinsic of this runtime."""
    if len(data) > EXTRINSIC_BYTES_MAX:
        raise InvalidTransaction(
            Problem.EXHAUSTS_RESOURCES, mend="send less at once", why=f"{len(data)} bytes"
        )
    try:
        extrinsic = decode_extrinsic(data)
        call = CALLS.decode(extrinsic.call)
    except Invalid as error:
        raise InvalidTransaction(
            Problem.CALL,
            mend="encode it by this runtime's metadata",
            why=error.what,
            malformed=isinstance(error, Malformed),
        ) from error
    return Decoded(extrinsic, call, len(data))


# ---- signed


@record
class Admitted:
    """A signed extrinsic that passed: who pays what, and how many of its signer's are missing."""

    signer: AccountId
    fee: Balance
    ahead: int
    dies: int  # the first block that it cannot be in


def signature_check(world: World, decoded: Decoded) -> SignatureCheck | None:
    """What must be verified of a signed extrinsic; None for a bare one."""
    by = decoded.extrinsic.signature
    if by is None:
        return None
    birth_hash = ensure_born(world, by)
    message = signing_payload(
        decoded.extrinsic.call,
        by.extra(),
        spec_version=SPEC_VERSION,
        transaction_version=TRANSACTION_VERSION,
        genesis=world.system.genesis_hash(),
        birth_hash=birth_hash,
    )
    return SignatureCheck(signer_of(by), by.signature.kind, by.signature.data, message)


def verify_signature(check: SignatureCheck) -> None:
    """Needs no state: any process may do it. Raises `InvalidTransaction`."""
    try:
        verify_account(check.scheme, check.account, check.message, check.signature)
    except Invalid:
        raise InvalidTransaction(
            Problem.BAD_PROOF, mend="sign for this chain and these versions"
        ) from None


def verify_all(checks: Iterable[SignatureCheck]) -> Callable[[], None]:
    """At once and here; there is nothing to wait for."""
    for check in checks:
        verify_signature(check)
    return lambda: None


def signer_of(by: Signature) -> AccountId:
    if by.signer.kind != 0:
        raise InvalidTransaction(Problem.CANNOT_LOOKUP, mend="name the signer by its account id")
    if by.signer.data == NO_ACCOUNT_ID:
        raise InvalidTransaction(Problem.BAD_SIGNER, mend="sign with a key")
    return AccountId(by.signer.data)


def ensure_born(world: World, by: Signature) -> Hash:
    """The hash of the era's first block, which is signed as well."""
    birth = by.era.birth(world.block.number)
    birth_hash = world.system.hash_of(birth)
    if birth_hash is None:
        raise InvalidTransaction(
            Problem.ANCIENT_BIRTH_BLOCK, mend="sign it again", why=f"block {birth}"
        )
    return birth_hash


def admit(world: World, decoded: Decoded, by: Signature, *, check_signature: bool) -> Admitted:
    """The checks of the signed extensions.

    1 a signer that exists by form; 2 the era's first block is known and holds this one; 3 versions,
    genesis and all else that is signed; 4 nonce not passed; 5 weight; 6 the fee can be paid.
    Nothing of the state changes. Raises `InvalidTransaction`.
    """
    signer = signer_of(by)  # 1
    if check_signature:
        check = signature_check(world, decoded)  # 2
        assert check is not None
        verify_signature(check)  # 3
    else:
        ensure_born(world, by)  # 2
    account = world.system.account_of(signer)
    ahead = by.nonce - account.nonce
    if ahead < 0:  # 4
        raise InvalidTransaction(
            Problem.STALE, mend=f"sign with nonce {account.nonce}", why=f"nonce {by.nonce}"
        )
    info = decoded.call.info
    if info.dispatch_class == DispatchClass.MANDATORY:
        raise InvalidTransaction(Problem.MANDATORY_VALIDATION, mend="leave it to the author")
    if info.weight.ref_time + BASE_REF_TIME > NORMAL_REF_TIME_MAX:  # 5
        raise InvalidTransaction(Problem.EXHAUSTS_RESOURCES, mend="ask less at once")
    fee = world.payment.fee(info, decoded.length, by.tip)
    ensure_payable(account, fee)  # 6
    return Admitted(signer, fee, ahead, by.era.death(world.block.number))


def ensure_payable(account: AccountInfo, fee: Balance) -> None:
    try:
        ensure_withdrawable(account, fee)
    except TokenError as error:
        raise InvalidTransaction(
            Problem.PAYMENT, mend="give the account funds first", why=f"the fee is {fee} plancks"
        ) from error


def validate_signed(
    world: World, decoded: Decoded, by: Signature, *, check_signature: bool
) -> ValidTransaction:
    admitted = admit(world, decoded, by, check_signature=check_signature)
    before = nonce_tag(admitted.signer, by.nonce - 1) if admitted.ahead else None
    return ValidTransaction(
        priority=min(by.tip, SIGNED_PRIORITY_MAX),
        requires=() if before is None else (before,),
        provides=(nonce_tag(admitted.signer, by.nonce),),
        longevity=min(admitted.dies - world.block.number, LONGEVITY_MAX),
    )


def nonce_tag(who: AccountId, nonce: int) -> bytes:
    return who + nonce.to_bytes(4, "little")


# ---- bare


def validate_bare(world: World, call: Call, source: Source) -> ValidTransaction:
    """Enclaves' own: checked by signature and sequence, or by evidence. And what a development
    network's owner asks of its own node."""
    place = call.pallet, call.index
    if call.info.dispatch_class == DispatchClass.MANDATORY:
        raise InvalidTransaction(Problem.MANDATORY_VALIDATION, mend="leave it to the author")
    if place not in BARE_CALLS or (place == DISPATCH_AS and source is Source.EXTERNAL):
        raise InvalidTransaction(
            Problem.NO_UNSIGNED_VALIDATOR, mend="sign the extrinsic with an account"
        )
    try:
        if place == DISPATCH_AS:
            return _dev_order(world, call)
        (argument,) = call.arguments
        if isinstance(argument, SignedMessage):
            return _message_order(argument, world.mq.check(argument))
        tag = _bare_tag(world, argument)
    except PalletError as error:
        raise invalid_bare(error) from error
    return ValidTransaction(BARE_PRIORITY, (), (tag,), BARE_LONGEVITY)


def _bare_tag(world: World, argument: object) -> bytes:
    """What one call at a time may be about. Raises `PalletError`."""
    match argument:
        case SignedRegistration():
            world.registry.check(argument)
            return b"registration" + argument.body.manifest.worker
        case IntelItems():
            found = world.collateral.check_intel(argument)
            return b"collateral" + ISSUE_KEY.encode(IssueKey(found.of, found.number))
        case AmdItems():
            found = world.collateral.check_amd(argument)
            return b"collateral" + ISSUE_KEY.encode(IssueKey(found.of, found.number))
        case _:
            assert isinstance(argument, bytes)
            return b"manifest" + world.collateral.check_manifest(argument)


def _dev_order(world: World, call: Call) -> ValidTransaction:
    sequence = call.arguments[0]
    ahead = world.dev.check(sequence)
    if call.info.weight.ref_time + BASE_REF_TIME > NORMAL_REF_TIME_MAX:
        raise InvalidTransaction(Problem.EXHAUSTS_RESOURCES, mend="ask less at once")
    before = (dev_tag(sequence - 1),) if ahead else ()
    return ValidTransaction(BARE_PRIORITY, before, (dev_tag(sequence),), BARE_LONGEVITY)


def dev_tag(sequence: int) -> bytes:
    return b"dev" + sequence.to_bytes(8, "little", signed=True)


def _message_order(message: SignedMessage, ahead: int) -> ValidTransaction:
    worker, sequence = message.body.worker, message.body.sequence
    before, this = (
        b"mq" + worker + number.to_bytes(8, "little", signed=True)
        for number in (sequence - 1, sequence)
    )
    return ValidTransaction(BARE_PRIORITY, (before,) if ahead else (), (this,), BARE_LONGEVITY)


def invalid_bare(error: PhalaError) -> InvalidTransaction:
    """Why a bare call is not valid, as Substrate's clients understand it."""
    cause = error.__cause__
    why = error.what + (f": {cause}" if isinstance(cause, PhalaError) else "")
    match error:
        case mq.SequencePassed() | dev.SequencePassed():
            problem, custom = Problem.STALE, 0
        case mq.SequenceTooFar() | dev.SequenceTooFar():
            problem, custom = Problem.FUTURE, 0
        case mq.NotSignedByWorker() | registry_errors.NotSignedByWorker():
            problem, custom = Problem.BAD_PROOF, 0
        case dev.NotADevChain():
            problem, custom = Problem.NO_UNSIGNED_VALIDATOR, 0
        case _:
            problem, custom = Problem.CUSTOM, error_number(error)
    return InvalidTransaction(problem, mend=error.mend, custom=custom, why=why)


def error_number(error: PhalaError) -> int:
    """A pallet's number of its error; 255 for what is none."""
    for pallet in (mq.PhalaMq, registry.PhalaRegistry, collateral.PhalaCollateral):
        for number, kind in pallet.errors.items():
            if type(error) is kind:
                return number
    return 255
