"""Whether a worker is what it says: its registration, judged again by its client.

The chain judged it too; nobody needs to take its word. `bundle` does this offline, a query does it
before a secret is encrypted to the worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from phala.attest import Evidence, Policy, Verdict
from phala.attest import verify as verify_evidence
from phala.crypto.signatures import BadSignature, sr25519_verify
from phala.errors import Invalid, Refused
from phala.messages.registration import (
    ENCRYPTION_KEY,
    PURPOSE_REGISTER,
    REGISTRATION,
    Registration,
    SignedRegistration,
    manifest_hash,
    report_data,
)
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.state import WorkerInfo
from phala.messages.types import WorkerId
from phala.primitives.types import Hash, Moment


class RegistrationForged(Invalid):
    """The registration was altered, or the worker it names did not make it."""


class RegistrationOutdated(Refused):
    """The registration is genuine, and not the one that the chain has accepted."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A worker as the chain's proven state has it."""

    worker: WorkerId
    info: WorkerInfo


def verify_signatures(signed: SignedRegistration, worker: WorkerId, genesis: Hash) -> Registration:
    """The registration, when `worker` signed it and its encryption key for this chain."""
    body, manifest, key = signed.body, signed.body.manifest, signed.body.encryption_key
    if manifest.worker != worker or key.worker != worker:
        raise _forged(f"it is of 0x{manifest.worker.hex()}, the worker is 0x{worker.hex()}")
    if manifest.genesis != genesis:
        raise _forged(f"it is for the chain 0x{manifest.genesis.hex()}, not 0x{genesis.hex()}")
    for purpose, data, signature in (
        (Purpose.ENCRYPTION_KEY, ENCRYPTION_KEY.encode(key), body.key_signature),
        (Purpose.REGISTRATION, REGISTRATION.encode(body), signed.signature),
    ):
        try:
            sr25519_verify(worker, signed_bytes(purpose, genesis, data), signature)
        except BadSignature as error:
            raise _forged(f"{purpose.value.decode()}: {error.what}") from None
    return body


def verify_binding(body: Registration, verdict: Verdict) -> Verdict:
    """The verdict, when its evidence binds this worker, its manifest and its block."""
    wanted = report_data(PURPOSE_REGISTER, body.manifest, body.block_hash, body.height)
    if verdict.report_data != wanted:
        raise _forged(
            f"its evidence says {verdict.report_data.hex()}, manifest and block make {wanted.hex()}"
        )
    return verdict


def verify_listed(body: Registration, verdict: Verdict, info: WorkerInfo) -> WorkerInfo:
    """The chain's entry, when it is of exactly this registration."""
    manifest, key = body.manifest, body.encryption_key
    for what, listed, given in (
        ("platform", info.platform, int(verdict.platform)),
        ("measurement", info.measurement, verdict.measurement),
        ("evidence id", info.evidence_id, verdict.signed_hash),
        ("manifest hash", info.manifest_hash, manifest_hash(manifest)),
        ("operator", info.operator, manifest.operator),
        ("runtime id", info.runtime_id, manifest.runtime_id),
        ("attested height", info.attested_height, body.height),
        ("attested block", info.attested_hash, body.block_hash),
        ("encryption key", info.encryption_key, key.public),
        ("epoch", info.epoch, key.epoch),
        ("confidence", info.confidence, verdict.confidence),
    ):
        if listed != given:
            raise RegistrationOutdated(
                f"the chain lists the {what} {_shown(listed)}, the registration has"
                f" {_shown(given)}",
                mend="ask the worker for its registration again",
            )
    return info


def judge(
    signed: SignedRegistration,
    listed: Listed,
    genesis: Hash,
    policy: Policy,
    now: Moment,
    collateral: Mapping[str, bytes] | None = None,
) -> Verdict:
    """Everything about a worker at once: what a client checks before it sends a secret.

    1. The worker signed the registration and its encryption key, for this chain.
    2. The evidence satisfies the policy at `now`, the proven block time.
    3. The evidence binds the worker's key, its manifest and a block.
    4. The chain's proven entry is of this registration.

    Raises:
        RegistrationForged, AttestationError, RegistrationOutdated: in this order.
    """
    body = verify_signatures(signed, listed.worker, genesis)
    evidence = Evidence(body.evidence.platform, body.evidence.blob)
    verdict = verify_evidence(evidence, policy, collateral or {}, now)
    verify_binding(body, verdict)
    verify_listed(body, verdict, listed.info)
    return verdict


def _shown(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


def _forged(what: str) -> RegistrationForged:
    return RegistrationForged(
        f"the registration is forged: {what}", mend="ask the worker for its registration again"
    )
