"""A receipt bundle proves a call from the genesis hash up, and nothing in it can be changed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from phala.attest import DEV, PRODUCTION
from phala.crypto.signatures import ed25519_from_seed, sr25519_from_seed
from phala.errors import Invalid, Refused
from phala.messages.bus import TOPIC_STATE, TopicState, cluster_topic, topic_key
from phala.messages.calls import SIGNED_QUERY, SignedQuery
from phala.messages.receipts import KIND_COMMAND, KIND_DEPLOY, KIND_QUERY
from phala.messages.registration import Evidence
from phala.messages.state import (
    REASON_COLLATERAL,
    REASONS,
    TIMESTAMP_KEY,
    WORKER_STALE,
    WORKER_SUSPENDED,
    cluster_key,
    contract_key,
    worker_key,
)
from phala.messages.types import CallId, ContractId, Count, Epoch, Generation, SealKey, WorkerId
from phala.primitives.header import HEADER
from phala.primitives.types import HASH, BlockNumber, Hash
from phala.sdk.bundle import BUNDLE_BYTES_MAX, Bundle, BundleMalformed, load_bundle
from phala.sdk.trust import unknown
from phala.sdk.verify import CheckFailed, CheckInvalid, CheckRefused, block_hash_key, verify_bundle
from phala.tee.platform import ReportData
from phala.tee.simulated import SimulatedPlatform, measure
from phala.tee.simulated_key import SimulatedKey
from phala.testing.receipts import (
    CLUSTER,
    CONTRACT,
    NOW,
    PROOF_HEIGHT,
    RECEIPT_HEIGHT,
    ReceiptChain,
)

CHAIN = ReceiptChain()
TRUST = CHAIN.trust
BUNDLE = CHAIN.bundle()
DOCUMENT = json.loads(BUNDLE.encode())
WORKER = WorkerId(CHAIN.worker.public)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of each text and number in a document."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path


def changed(path: tuple[str | int, ...], offset: int, mask: int = 1) -> bytes:
    """The bundle's file with one byte of one part changed; a number goes up by one."""
    document = json.loads(json.dumps(DOCUMENT))
    holder = document
    for step in path[:-1]:
        holder = holder[step]
    value = holder[path[-1]]
    if isinstance(value, int):
        holder[path[-1]] = value + 1
    elif path == ("format",):
        holder["format"] = value[:-1] + "2"
    else:
        data = bytearray.fromhex(value)
        data[offset % len(data)] ^= mask
        holder[path[-1]] = data.hex()
    return json.dumps(document).encode()


def verified(data: bytes) -> None:
    verify_bundle(Bundle.decode(data), TRUST)


PARTS = list(leaves(DOCUMENT))
CHECKS = {
    "receipt": "receipt",
    "call": "plaintext",
    "registration": "registration",
    "headers": "finality",
    "proof": "state",
}


def part_name(path: tuple[str | int, ...]) -> str:
    return ".".join(str(step) for step in path)


# ---- what verifies


@pytest.mark.parametrize("kind", [KIND_QUERY, KIND_COMMAND, KIND_DEPLOY])
def test_a_genuine_bundle_verifies_on_named_words(kind: int) -> None:
    report = verify_bundle(Bundle.decode(CHAIN.bundle(kind).encode()), TRUST)

    assert [check.number for check in report.checks] == list(range(1, 16))
    assert all(check.what and check.word for check in report.checks)
    assert (report.verdict.hardware, report.proven_time) == (False, NOW)
    assert report.outcome.result == b'{"n": 2}'
    (evidence,) = (check for check in report.checks if check.name == "evidence")
    assert evidence.word == "simulated: no hardware protection"


def test_a_bundle_is_its_file(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    path.write_bytes(BUNDLE.encode())

    assert load_bundle(path) == BUNDLE


def test_the_receipts_own_block_needs_no_kept_hash() -> None:
    block_hash = HEADER.decode(BUNDLE.headers[-1].header).hash()
    bundle = CHAIN.bundle(receipt={"height": PROOF_HEIGHT, "block_hash": block_hash})

    assert verify_bundle(bundle, TRUST).receipt.block_hash == block_hash


def test_a_call_that_was_overtaken_stands_on_the_workers_word() -> None:
    report = verify_bundle(CHAIN.bundle(receipt={"count": Count(11)}), TRUST)
    (order,) = (check for check in report.checks if check.name == "order")

    assert "gone on" in order.word


def test_a_stale_worker_verifies_and_is_named_so() -> None:
    stale = {"state": WORKER_STALE, "reason": REASON_COLLATERAL}
    report = verify_bundle(CHAIN.bundle(info=stale), TRUST)
    (listed,) = (check for check in report.checks if check.name == "listed")

    assert "stale: its platform's collateral has expired" in listed.what


@pytest.mark.parametrize("reason", range(1, len(REASONS)))
def test_a_suspended_worker_is_refused_with_the_reason(reason: int) -> None:
    suspended = {"state": WORKER_SUSPENDED, "reason": reason}

    with pytest.raises(CheckRefused, match=REASONS[reason]) as refusal:
        verify_bundle(CHAIN.bundle(info=suspended), TRUST)

    assert refusal.value.name == "listed"


def test_a_worker_of_another_version_is_refused() -> None:
    with pytest.raises(CheckRefused, match="version 3"):
        verify_bundle(CHAIN.bundle(info={"version": 3}), TRUST)


# ---- one byte


@pytest.mark.parametrize("path", PARTS, ids=part_name)
def test_a_changed_byte_of_each_part_is_refused_by_a_named_check(
    path: tuple[str | int, ...],
) -> None:
    data = changed(path, -1)
    if path == ("format",):
        with pytest.raises(BundleMalformed, match="format"):
            verified(data)
        return
    expected = CHECKS.get(str(path[0]), "genesis" if path[-1] == "header" else "authorities")

    with pytest.raises(CheckInvalid, match=rf"check \d+ \({expected}\)") as caught:
        verified(data)
    assert caught.value.name == expected
    assert len(caught.value.passed) == caught.value.check - 1


@pytest.mark.parametrize("path", [path for path in PARTS if path != ("format",)], ids=part_name)
def test_changed_bytes_anywhere_in_a_part_are_refused(path: tuple[str | int, ...]) -> None:
    random = Random(part_name(path))
    for _ in range(12):
        with pytest.raises((CheckFailed, BundleMalformed)):
            verified(changed(path, random.randrange(1 << 16), 1 << random.randrange(8)))


def test_a_missing_piece_is_refused() -> None:
    for proof in ((), BUNDLE.proof[1:], BUNDLE.proof[:-1]):
        refused("state", replace(BUNDLE, proof=proof))
    for headers in ((), BUNDLE.headers[1:]):
        refused("finality", replace(BUNDLE, headers=headers))
    refused("block", replace(BUNDLE, headers=BUNDLE.headers[:-1]))  # before the receipt


def test_a_proof_with_something_else_in_it_is_refused() -> None:
    with pytest.raises(CheckInvalid, match="nothing names"):
        verify_bundle(replace(BUNDLE, proof=(*BUNDLE.proof, b"noise")), TRUST)


def test_added_collateral_is_refused() -> None:
    with pytest.raises(CheckInvalid, match="evidence"):
        verify_bundle(replace(BUNDLE, collateral={"crl": b"\0"}), TRUST)


# ---- forged whole, check by check


def refused(check: str, bundle: Bundle, trust: Any = TRUST, kind: Any = CheckFailed) -> CheckFailed:
    with pytest.raises(kind) as caught:
        verify_bundle(bundle, trust)
    error = caught.value
    assert isinstance(error, CheckFailed)
    assert error.name == check, error.what
    return error


def test_1_another_genesis() -> None:
    refused("genesis", BUNDLE, replace(TRUST, genesis=Hash(bytes(32))))


def test_3_other_authorities_finalize_nothing() -> None:
    stranger = replace(CHAIN, second=ed25519_from_seed(b"s" * 32))

    refused("finality", replace(BUNDLE, headers=(BUNDLE.headers[0], stranger.bundle().headers[1])))
    refused("finality", replace(BUNDLE, headers=BUNDLE.headers[1:]))
    refused("finality", replace(BUNDLE, headers=BUNDLE.headers[::-1]))


@pytest.mark.parametrize(
    "key",
    [
        TIMESTAMP_KEY,
        worker_key(WORKER),
        contract_key(CONTRACT),
        cluster_key(CLUSTER),
        topic_key(cluster_topic(CLUSTER)),
        block_hash_key(RECEIPT_HEIGHT),
    ],
)
def test_4_what_the_state_does_not_hold(key: bytes) -> None:
    refused("state", CHAIN.bundle(state={key: None}), kind=CheckRefused)
    refused("state", CHAIN.bundle(state={key: b"\xff"}), kind=CheckInvalid)


def test_5_a_registration_of_another_worker() -> None:
    other = replace(CHAIN, worker=sr25519_from_seed(b"o" * 32)).registration()

    refused("registration", replace(BUNDLE, registration=other))


def test_5_an_encryption_key_that_the_worker_did_not_sign() -> None:
    key = replace(CHAIN.registration().body.encryption_key, public=SealKey(b"\1" * 32))

    refused("registration", CHAIN.bundle(registration=CHAIN.registration(encryption_key=key)))


def test_6_simulated_evidence_under_production() -> None:
    error = refused("evidence", BUNDLE, replace(TRUST, policy=PRODUCTION), CheckRefused)

    assert "production" in error.what


def test_6_simulated_evidence_of_another_networks_root() -> None:
    other = DEV.trusting(SimulatedKey.generate().public_root)

    refused("evidence", BUNDLE, replace(TRUST, policy=other), CheckRefused)


def test_7_evidence_made_for_something_else() -> None:
    quote = CHAIN.platform.quote(ReportData(bytes(64)))
    registration = CHAIN.registration(evidence=Evidence(0, quote))

    refused("binding", CHAIN.bundle(registration=registration))


def test_7_evidence_for_another_block() -> None:
    registration = CHAIN.registration(height=BlockNumber(4))

    refused("binding", CHAIN.bundle(registration=registration))


@pytest.mark.parametrize(
    "info",
    [
        {"evidence_id": Hash(bytes(32))},
        {"measurement": measure(b"other")},
        {"manifest_hash": Hash(bytes(32))},
        {"attested_hash": Hash(bytes(32))},
        {"encryption_key": SealKey(bytes(32))},
        {"epoch": Epoch(3)},
        {"operator": None},
        {"runtime_id": Hash(bytes(32))},
        {"confidence": 1},
        {"platform": 2},
    ],
)
def test_8_an_entry_of_another_registration(info: dict[str, Any]) -> None:
    refused("listed", CHAIN.bundle(info=info), kind=CheckRefused)


def test_8_other_code_than_the_chain_accepted() -> None:
    platform = SimulatedPlatform(measurement=measure(b"other"), key=CHAIN.key)
    said = CHAIN.registration().body.evidence.blob
    quote = platform.quote(ReportData(said[48 + 520 : 48 + 584]))
    registration = CHAIN.registration(evidence=Evidence(0, quote))

    refused("listed", CHAIN.bundle(registration=registration, info={"measurement": measure(b"e")}))


@pytest.mark.parametrize("change", [{"version": 2}, {"kind": 3}, {"genesis": Hash(bytes(32))}])
def test_9_a_receipt_of_another_form_or_chain(change: dict[str, Any]) -> None:
    refused("receipt", CHAIN.bundle(receipt=change))


def test_9_a_receipt_signed_by_another_key() -> None:
    other = replace(CHAIN, worker=sr25519_from_seed(b"o" * 32))
    receipt = replace(other.bundle().receipt, body=BUNDLE.receipt.body)

    refused("receipt", replace(BUNDLE, receipt=receipt))


@pytest.mark.parametrize(
    "change",
    [
        {"code_id": bytes(32)},
        {"generation": Generation(2)},
        {"generation": Generation(0)},
        {"epoch": Epoch(3)},
    ],
)
def test_10_what_does_not_belong_together(change: dict[str, Any]) -> None:
    refused("membership", CHAIN.bundle(receipt=change), kind=CheckRefused)


def test_11_a_block_of_a_fork() -> None:
    refused("block", CHAIN.bundle(receipt={"block_hash": Hash(bytes(32))}))
    fork = {block_hash_key(RECEIPT_HEIGHT): HASH.encode(Hash(bytes(32)))}
    refused("block", CHAIN.bundle(state=fork))


def test_11_a_block_that_is_not_yet_proven() -> None:
    refused("state", CHAIN.bundle(receipt={"height": BlockNumber(PROOF_HEIGHT + 1)}))


@pytest.mark.parametrize("change", [{"count": Count(13)}, {"head": Hash(bytes(32))}])
def test_12_messages_that_the_chain_does_not_have(change: dict[str, Any]) -> None:
    refused("order", CHAIN.bundle(receipt=change))


def test_12_another_topic() -> None:
    state = {
        topic_key(cluster_topic(CLUSTER)): TOPIC_STATE.encode(
            TopicState(Count(12), Hash(bytes(32)))
        )
    }

    refused("order", CHAIN.bundle(state=state))


@pytest.mark.parametrize(
    "change",
    [{"request": b"other"}, {"response": b"other"}, {"blinder": bytes(32)}],
)
def test_13_plaintext_of_another_call(change: dict[str, bytes]) -> None:
    refused("plaintext", replace(BUNDLE, **change))  # type: ignore[arg-type]


def test_14_a_query_of_another_contract_or_id() -> None:
    for change in ({"contract": ContractId(bytes(32))}, {"id": CallId(bytes(32))}):
        query = replace(CHAIN.query(CallId(b"\x1d" * 32)), **change)
        request = SIGNED_QUERY.encode(SignedQuery(query, None, None))
        refused("call", CHAIN.bundle(request=request))


def test_14_a_request_that_is_no_call() -> None:
    refused("call", CHAIN.bundle(KIND_QUERY, request=b"\0"))
    refused("call", CHAIN.bundle(KIND_COMMAND, request=b"\0"))
    refused("call", CHAIN.bundle(KIND_DEPLOY, receipt={"call": CallId(bytes(32))}))


def test_15_a_genesis_that_nobody_pinned() -> None:
    refused("evidence", BUNDLE, unknown(CHAIN.genesis), CheckRefused)
    refused("pinned", BUNDLE, replace(unknown(CHAIN.genesis), policy=TRUST.policy), CheckRefused)


def test_a_failed_check_keeps_the_family_of_its_cause() -> None:
    assert issubclass(CheckInvalid, Invalid)
    assert issubclass(CheckRefused, Refused)
    error = refused("evidence", BUNDLE, replace(TRUST, policy=PRODUCTION))
    assert error.exit_code == Refused.exit_code


# ---- the file


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"format": "phala-receipt/2"}, "format"),
        ({"more": 1}, "more"),
        ({"receipt": []}, "receipt"),
        ({"receipt": {"body": "00"}}, "receipt.body"),
        ({"call": {"request": 7}}, "call.request"),
        ({"call": {"request": "0"}}, "call.request"),
        ({"call": {"request": "0 0"}}, "call.request"),
        ({"call": {**DOCUMENT["call"], "blinder": "00"}}, "call.blinder"),
        ({"call": {**DOCUMENT["call"], "more": "00"}}, "call.more"),
        ({"headers": {}}, "headers"),
        ({"headers": [{}] * 300}, "headers"),
        ({"headers": [7]}, r"headers\[0\]"),
        ({"proof": ["zz"]}, r"proof\[0\]"),
        ({"proof": [""] * 300}, "proof"),
        ({"collateral": {"x" * 65: ""}}, "collateral"),
        ({"collateral": {str(number): "" for number in range(17)}}, "collateral"),
        ({"registration": {**DOCUMENT["registration"], "height": True}}, "registration.height"),
        ({"registration": {**DOCUMENT["registration"], "height": 2**32}}, "registration.height"),
        ({"registration": {**DOCUMENT["registration"], "platform": 256}}, "registration.platform"),
    ],
)
def test_a_part_of_another_form_is_named(change: dict[str, Any], part: str) -> None:
    with pytest.raises(BundleMalformed, match=part):
        Bundle.decode(json.dumps(DOCUMENT | change).encode())


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"[" * 100_000, b"\xff", b" " * (BUNDLE_BYTES_MAX + 1)]
)
def test_noise_is_refused_as_a_bundle(data: bytes) -> None:
    with pytest.raises(BundleMalformed):
        Bundle.decode(data)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleMalformed, match="No such file"):
        load_bundle(tmp_path / "none.json")
