"""Whether a worker is what it says: its registration, judged again by its client.

The chain judged it too; nobody needs to take its word. `bundle` does this offline, a query does it
before a secret is encrypted to the worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from phala.attest import Evidence, PlatformCode, Policy, Verdict
from phala.attest import verify as verify_evidence
from phala.attest.kept import take_apart
from phala.crypto.signatures import BadSignature, sr25519_verify
from phala.errors import Invalid, Refused
from phala.messages.registration import (
    ENCRYPTION_KEY,
    PURPOSE_REGISTER,
    REGISTRATION,
    Registration,
    SignedRegistration,
    devices_digest,
    manifest_hash,
    report_data,
)
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.state import (
    WORKER_SUSPENDED,
    WORKER_VERSION,
    WorkerInfo,
    worker_state,
)
from phala.messages.types import WorkerId
from phala.primitives.types import Hash, Moment


class RegistrationForged(Invalid):
    """The registration was altered, or the worker it names did not make it."""


class RegistrationOutdated(Refused):
    """The registration is genuine, and not the one that the chain has accepted."""


class WorkerSuspended(Refused):
    """The chain does not vouch for the worker now."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A worker as the chain's proven state has it."""

    worker: WorkerId
    info: WorkerInfo


def ensure_serving(info: WorkerInfo) -> WorkerInfo:
    """The chain's entry, unless the worker is suspended; a stale one serves still."""
    if info.version != WORKER_VERSION:
        raise RegistrationOutdated(
            f"the chain lists workers in version {info.version}, known is {WORKER_VERSION}",
            mend="use a release that knows this chain",
        )
    if info.state == WORKER_SUSPENDED:
        raise WorkerSuspended(
            f"the chain has the worker {worker_state(info)}",
            mend="ask another worker, or wait until this one has attested again",
        )
    return info


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


def verify_registered(
    body: Registration, policy: Policy, collateral: Mapping[str, bytes], now: Moment
) -> Verdict:
    """The verdict on a registration's evidence; certificates of its own keys come with it."""
    taken = take_apart(Evidence(body.evidence.platform, body.evidence.blob))
    return verify_evidence(taken.evidence, policy, {**collateral, **taken.own}, now)


def time_of(body: Registration, info: WorkerInfo, now: Moment) -> Moment:
    """When to judge a registration's evidence: `now`, but Nitro's, which counts for minutes, when
    the chain took it. For how long it stands since then is the chain's to say, as of all evidence.
    """
    return info.attested_at if body.evidence.platform == PlatformCode.NITRO else now


def verify_binding(body: Registration, verdict: Verdict) -> Verdict:
    """The verdict, when its evidence binds this worker, its manifest and its block."""
    gpu = devices_digest(body.devices)
    wanted = report_data(PURPOSE_REGISTER, body.manifest, body.block_hash, body.height, gpu)
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

    0. The chain has not suspended it.
    1. The worker signed the registration and its encryption key, for this chain.
    2. The evidence satisfies the policy at `now`, the proven block time.
    3. The evidence binds the worker's key, its manifest and a block.
    4. The chain's proven entry is of this registration.

    Raises:
        WorkerSuspended, RegistrationForged, AttestationError, RegistrationOutdated: in this order.
    """
    ensure_serving(listed.info)
    body = verify_signatures(signed, listed.worker, genesis)
    at = time_of(body, listed.info, now)
    verdict = verify_registered(body, policy, collateral or {}, at)
    verify_binding(body, verdict)
    verify_listed(body, verdict, listed.info)
    return verdict


def _shown(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)


def _forged(what: str) -> RegistrationForged:
    return RegistrationForged(
        f"the registration is forged: {what}", mend="ask the worker for its registration again"
    )
