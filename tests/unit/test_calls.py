"""Sealed calls, against the other side written out: what opens, what is refused and why."""

import json
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phala.crypto import hpke
from phala.crypto.hpke import Unopenable
from phala.crypto.secret import Secret
from phala.crypto.signatures import Keypair, sr25519_from_seed, sr25519_sign, sr25519_verify
from phala.errors import Invalid, PhalaError
from phala.messages.calls import (
    CERTIFICATE,
    COMMAND_CONTEXT,
    COMMAND_REQUEST,
    COMMAND_TAG,
    ERROR_CONTRACT,
    ERROR_REFUSED,
    OUTCOME,
    QUERY_CONTEXT,
    QUERY_REQUEST,
    QUERY_TAG,
    SEALED_REPLY,
    SIGNED_QUERY,
    CommandContext,
    Outcome,
    QueryContext,
    Reply,
)
from phala.messages.fuel import FUEL_DEFAULT
from phala.messages.padding import CLASSES_BYTES, unpad
from phala.messages.receipts import RECEIPT, Receipt, SignedReceipt, blinded
from phala.messages.replies import seal_deployed, seal_reply
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.state import ContractKey
from phala.messages.types import (
    ClusterId,
    CodeId,
    ContractId,
    Count,
    Epoch,
    Generation,
    SealKey,
    Signature64,
    WorkerId,
)
from phala.primitives.types import BlockNumber, Hash, Moment
from phala.sdk.calls import (
    Addressee,
    CallFailed,
    Pending,
    Place,
    ReceiptRefused,
    encode_arguments,
    open_reply,
    open_session,
    prepare_deploy,
    seal_command,
    seal_query,
)
from phala.sdk.keyring import KeyType, dev_pair

GENESIS: Final = Hash(b"\1" * 32)
CONTRACT: Final = ContractId(b"\2" * 32)
CODE: Final = CodeId(b"\3" * 32)
CLUSTER: Final = ClusterId(b"\4" * 32)
ALICE: Final = dev_pair("Alice")
PLACE: Final = Place(GENESIS, BlockNumber(10), Hash(b"\5" * 32), Moment(1_000_000), Count(4))
PRIVATE: Final = Secret(b"\6" * 32)
WORKER: Final = sr25519_from_seed(b"\7" * 32)
ARGUMENTS: Final = encode_arguments({"n": 2, "text": "ünï"})
DONE: Final = Outcome(
    ok=True, result=b'{"sum":5}', error_kind=0, error="", events=(), fuel_class=20
)


def addressee() -> Addressee:
    return Addressee(WorkerId(WORKER.public), Epoch(1), SealKey(hpke.public_of(PRIVATE)))


def receipt_of(pending: Pending, blinder: bytes, response: bytes) -> Receipt:
    return Receipt(
        version=1,
        kind=pending.kind,
        genesis=GENESIS,
        cluster=CLUSTER,
        contract=CONTRACT,
        code_id=CODE,
        call=pending.call,
        request=blinded(blinder, pending.request),
        response=blinded(blinder, response),
        height=BlockNumber(11),
        block_hash=Hash(b"\5" * 32),
        count=Count(5),
        head=Hash(bytes(32)),
        root_mac=bytes(32),
        worker=WorkerId(WORKER.public),
        generation=Generation(1),
        epoch=Epoch(1),
    )


def reply_to(
    pending: Pending, outcome: Outcome = DONE, pair: Keypair = WORKER, **lie: Any
) -> bytes:
    """What an enclave answers, whose receipt says what `lie` says."""
    blinder = b"\x08" * 32
    body = replace(receipt_of(pending, blinder, OUTCOME.encode(outcome)), **lie)
    message = signed_bytes(Purpose.RECEIPT, body.genesis, RECEIPT.encode(body))
    signed = SignedReceipt(body, Signature64(sr25519_sign(pair, message)))
    reply = Reply(outcome, blinder, signed)
    sealed = seal_reply(pending.opens_with.reveal(), pending.call, reply, nonce=b"\x0a" * 12)
    return SEALED_REPLY.encode(sealed)


def a_query() -> Pending:
    session = open_session(ALICE, GENESIS, PLACE.now)
    _, pending = seal_query(PLACE, addressee(), CONTRACT, "add", ARGUMENTS, session=session)
    return pending


def test_a_query_opens_for_its_worker_and_is_signed_by_its_session() -> None:
    session = open_session(ALICE, GENESIS, PLACE.now)
    envelope, pending = seal_query(PLACE, addressee(), CONTRACT, "add", ARGUMENTS, session=session)

    info = QUERY_CONTEXT.encode(QueryContext(QUERY_TAG, GENESIS, WorkerId(WORKER.public), Epoch(1)))
    signed = SIGNED_QUERY.decode(unpad(hpke.open_sealed(PRIVATE, envelope.sealed, info)))
    assert signed.certificate is not None
    assert signed.signature is not None
    body = signed.certificate.body
    certified = signed_bytes(Purpose.CERTIFICATE, GENESIS, CERTIFICATE.encode(body))
    sr25519_verify(ALICE.public, certified, signed.certificate.signature)
    named = WORKER.public + QUERY_REQUEST.encode(signed.request)
    asked = signed_bytes(Purpose.QUERY, GENESIS, named)
    sr25519_verify(body.session, asked, signed.signature)
    assert (body.account, signed.request.id) == (ALICE.account, pending.call)
    assert (signed.request.height, signed.request.count) == (10, 4)
    assert json.loads(signed.request.arguments) == {"n": 2, "text": "ünï"}


def test_a_command_opens_for_its_contract_and_sender_alone() -> None:
    key = ContractKey(1, Generation(3), SealKey(hpke.public_of(PRIVATE)), bytes(32), 1)
    envelope, pending = seal_command(
        PLACE,
        key,
        CONTRACT,
        "add",
        ARGUMENTS,
        sender=ALICE.account,
        cluster=CLUSTER,
        expires=BlockNumber(99),
    )

    context = CommandContext(
        COMMAND_TAG,
        GENESIS,
        CLUSTER,
        CONTRACT,
        ALICE.account,
        Generation(3),
        None,
        BlockNumber(99),
        FUEL_DEFAULT,
    )
    opened = hpke.open_sealed(PRIVATE, envelope.sealed, COMMAND_CONTEXT.encode(context))
    request = COMMAND_REQUEST.decode(unpad(opened))
    assert (request.method, request.arguments) == ("add", ARGUMENTS)
    assert request.reply_key == pending.opens_with.reveal()
    copied = replace(context, sender=dev_pair("Bob").account)
    with pytest.raises(Unopenable):
        hpke.open_sealed(PRIVATE, envelope.sealed, COMMAND_CONTEXT.encode(copied))


@pytest.mark.parametrize("size", [0, 200, 2_000, 10_000, 60_000])
def test_a_sealed_call_has_one_of_few_sizes(size: int) -> None:
    arguments = encode_arguments({"text": "x" * size})

    envelope, _ = seal_query(PLACE, addressee(), CONTRACT, "add", arguments, session=None)

    assert len(envelope.sealed) - hpke.OVERHEAD_BYTES in CLASSES_BYTES


def test_what_is_too_large_for_a_call_is_refused() -> None:
    arguments = encode_arguments({"text": "x" * 70_000})

    with pytest.raises(Invalid):
        seal_query(PLACE, addressee(), CONTRACT, "add", arguments, session=None)


def test_an_answer_is_opened_and_its_receipt_kept() -> None:
    pending = a_query()

    answer = open_reply(pending, reply_to(pending))

    assert answer.value() == {"sum": 5}
    assert answer.request == pending.request
    assert blinded(answer.blinder, answer.response) == answer.receipt.body.response


def test_a_deployments_answer_opens_with_the_key_made_for_it() -> None:
    reply_key, pending = prepare_deploy(PLACE, CONTRACT, CODE, b"{}", cluster=CLUSTER)
    blinder = b"\x09" * 32
    body = receipt_of(pending, blinder, OUTCOME.encode(DONE))
    message = signed_bytes(Purpose.RECEIPT, GENESIS, RECEIPT.encode(body))
    signed = SignedReceipt(body, Signature64(sr25519_sign(WORKER, message)))
    sealed = seal_deployed(reply_key, GENESIS, pending.call, Reply(DONE, blinder, signed))

    answer = open_reply(pending, SEALED_REPLY.encode(sealed))

    assert answer.value() == {"sum": 5}


def test_an_error_of_the_contract_is_raised_when_its_value_is_asked_for() -> None:
    pending = a_query()
    failed = replace(DONE, ok=False, error_kind=ERROR_CONTRACT, error="only the owner may")

    answer = open_reply(pending, reply_to(pending, failed))

    with pytest.raises(CallFailed, match="the contract refused: only the owner may"):
        answer.value()


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        ({"kind": 1}, "another chain, call or contract"),
        ({"genesis": Hash(bytes(32))}, "another chain, call or contract"),
        ({"call": bytes(32)}, "another chain, call or contract"),
        ({"contract": bytes(32)}, "another chain, call or contract"),
        ({"request": bytes(32)}, "another request or response"),
        ({"response": bytes(32)}, "another request or response"),
        ({"height": 9}, "of block 9, before 10"),
        ({"count": 3}, "before"),
        ({"worker": bytes(32)}, "another worker"),
        ({"epoch": 2}, "another worker"),
    ],
)
def test_a_receipt_that_lies_is_refused(lie: dict[str, Any], why: str) -> None:
    pending = a_query()

    with pytest.raises(ReceiptRefused, match=why):
        open_reply(pending, reply_to(pending, **lie))


def test_a_refusal_before_the_call_ran_is_told_though_it_names_no_place() -> None:
    pending = a_query()
    refused = replace(DONE, ok=False, error_kind=ERROR_REFUSED, error="the query has expired")
    nothing: dict[str, Any] = {
        "count": Count(0),
        "code_id": CodeId(bytes(32)),
        "cluster": ClusterId(bytes(32)),
    }

    answer = open_reply(pending, reply_to(pending, refused, **nothing))

    with pytest.raises(CallFailed, match="the enclave refused: the query has expired"):
        answer.value()


def test_a_receipt_of_another_signer_is_refused() -> None:
    pending = a_query()

    with pytest.raises(ReceiptRefused, match="did not sign"):
        open_reply(pending, reply_to(pending, pair=sr25519_from_seed(bytes(32))))


def test_a_pinned_code_is_held_to() -> None:
    _, pending = seal_query(
        PLACE,
        addressee(),
        CONTRACT,
        "add",
        ARGUMENTS,
        session=None,
        code_id=CodeId(bytes(32)),
    )

    with pytest.raises(ReceiptRefused, match="other code"):
        open_reply(pending, reply_to(pending))


@given(st.data())
def test_an_altered_answer_never_opens(data: st.DataObject) -> None:
    pending = a_query()
    reply = bytearray(reply_to(pending))
    at = data.draw(st.integers(0, len(reply) - 1))
    reply[at] ^= data.draw(st.integers(1, 255))

    with pytest.raises(PhalaError):
        open_reply(pending, bytes(reply))


@given(st.binary(max_size=300))
def test_garbage_is_no_answer(garbage: bytes) -> None:
    with pytest.raises(Invalid):
        open_reply(a_query(), garbage)


def test_an_ed25519_account_cannot_sign_queries() -> None:
    with pytest.raises(Invalid, match="ed25519"):
        open_session(dev_pair("Alice", KeyType.ED25519), GENESIS, PLACE.now)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes", object()])
def test_arguments_that_are_no_json_are_refused(value: object) -> None:
    with pytest.raises(Invalid, match="no JSON"):
        encode_arguments({"n": value})
