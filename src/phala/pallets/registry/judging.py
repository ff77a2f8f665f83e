"""Whether the chain may list a worker."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from phala.crypto.signatures import BadSignature, sr25519_verify
from phala.errors import PhalaError
from phala.frame import MICROSECOND
from phala.messages.collateral import CollateralKey
from phala.messages.registration import (
    ENCRYPTION_KEY,
    PLATFORM_SIMULATED,
    PURPOSE_REGISTER,
    REGISTRATION,
    REGISTRATION_VERSION,
    Registration,
    SignedRegistration,
    device_nonce,
    devices_digest,
    report_data,
)
from phala.messages.signing import Purpose, signed_bytes
from phala.messages.types import WorkerId
from phala.pallets.registry import life
from phala.pallets.registry.errors import (
    CollateralMissing,
    DevicesRefused,
    EncryptionKeyRefused,
    EvidenceRefused,
    EvidenceUsed,
    HeightOutOfWindow,
    MeasurementNotAllowed,
    NotSignedByWorker,
    OtherChain,
    OtherFork,
    PlatformIsBlocked,
    PlatformNotAccepted,
    RefreshedTooOften,
    ReportDataDiffers,
    RuntimeNotAllowed,
    TooManyOfMachine,
    UnknownVersion,
)
from phala.pallets.registry.needs import Judgement
from phala.pallets.registry.records import (
    BLOCK_MACHINE,
    BLOCK_MEASUREMENT,
    BLOCK_PRODUCT,
    BLOCK_SIGNER,
    Blocked,
    Refreshes,
)
from phala.primitives.types import BlockNumber, Hash

if TYPE_CHECKING:
    from phala.pallets.registry import PhalaRegistry

# Beside the call's own, by platform, with room: Intel's for three tries, for its collateral is of
# several evaluations. What one judgement takes: `python -m benches attest`.
JUDGING_REF_TIME: Final = {
    1: 6_000 * MICROSECOND,
    2: 6_000 * MICROSECOND,
    3: 5_000 * MICROSECOND,
    4: 6_000 * MICROSECOND,
}
DEVICE_REF_TIME: Final = 20_000 * MICROSECOND  # a report with its chain, and two manifests
# New workers of one machine in as many blocks: registering is free, and each stays in the state.
# Where nothing seals, every boot is a new worker: a machine with some dozen may start twice.
ARRIVALS_MAX: Final = 32
REFRESHES_MAX: Final = 5  # of one worker in some blocks: they are free, but restarts need some


def judging_time(registration: SignedRegistration) -> int:
    """Picoseconds that the evidence takes beside what every registration does."""
    body = registration.body
    own = JUDGING_REF_TIME.get(body.evidence.platform, 0)
    return own + DEVICE_REF_TIME * len(body.devices)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a good registration proves, and what it was judged by."""

    proves: Judgement
    of: CollateralKey | None  # None: the platform has no collateral
    number: int  # of the evaluation
    used: tuple[Hash, ...]  # replay identities: the evidence's, then its devices'


def check(
    registry: "PhalaRegistry", signed: SignedRegistration, window_blocks: int, refresh_blocks: int
) -> Judged:
    """Whether the chain may list this worker.

    1 version; 2 genesis hash; 3 the bound height is at most `window_blocks` old; 4 the bound
    block is of this chain; 5 the worker signed the registration; 6 and its encryption key, of
    a later epoch than the present one, or the present one itself; 7 a listed worker was not
    refreshed too often; 8 the chain accepts the platform; 9 evidence, under the chain's policy
    and collateral at the block's time; 10 it was made for this manifest, block and devices;
    11 measurement, or who signed it, and 12 runtime id are allowed; 13 nothing of it is known to
    be broken, and its machine did not bring too many new workers; 14 devices' evidence was made for
    this worker and block, and is good; 15 none of the evidence was used before.
    """
    body = signed.body
    manifest, key = body.manifest, body.encryption_key
    versions = (body.version, manifest.version, key.version)
    if any(version != REGISTRATION_VERSION for version in versions):  # 1
        raise UnknownVersion
    genesis = registry.chain.genesis_hash()
    if manifest.genesis != genesis:  # 2
        raise OtherChain
    age = registry.block.number - body.height
    if not 0 < age <= window_blocks:  # 3
        raise HeightOutOfWindow
    if registry.chain.hash_of(body.height) != body.block_hash:  # 4
        raise OtherFork
    _check_signatures(registry, signed, genesis)  # 5, 6
    refreshes(registry, manifest.worker, refresh_blocks)  # 7
    if body.evidence.platform not in registry.accepted_platforms.get():  # 8
        raise PlatformNotAccepted
    proves, of, number = _judge(registry, body)  # 9
    gpu = devices_digest(body.devices)
    expected = report_data(PURPOSE_REGISTER, manifest, body.block_hash, body.height, gpu)
    if proves.report_data != expected:  # 10
        raise ReportDataDiffers
    if not is_allowed(registry, proves):  # 11
        raise MeasurementNotAllowed
    if manifest.runtime_id not in registry.allowed_runtimes.get():  # 12
        raise RuntimeNotAllowed
    if any(each in registry.blocked for each in _broken(proves)):  # 13
        raise PlatformIsBlocked
    arrivals(registry, manifest.worker, proves, refresh_blocks)  # 13
    if proves.evidence_id in registry.used_evidence:  # 15, before devices: those take longest
        raise EvidenceUsed
    used = (proves.evidence_id, *_judge_devices(registry, body))  # 14
    if len(set(used)) < len(used) or any(each in registry.used_evidence for each in used):  # 15
        raise EvidenceUsed
    return Judged(proves, of, number, used)


def _check_signatures(registry: "PhalaRegistry", signed: SignedRegistration, genesis: Hash) -> None:
    body = signed.body
    worker, key = body.manifest.worker, body.encryption_key
    whole = signed_bytes(Purpose.REGISTRATION, genesis, REGISTRATION.encode(body))
    try:
        sr25519_verify(worker, whole, signed.signature)  # 5
    except BadSignature:
        raise NotSignedByWorker from None
    known = registry.enclaves.get(worker)
    if key.worker != worker:  # 6
        raise EncryptionKeyRefused
    if known is not None:
        same = (key.epoch, key.public) == (known.epoch, known.encryption_key)
        if key.epoch <= known.epoch and not same:  # 6
            raise EncryptionKeyRefused
    part = signed_bytes(Purpose.ENCRYPTION_KEY, genesis, ENCRYPTION_KEY.encode(key))
    try:
        sr25519_verify(worker, part, body.key_signature)  # 6
    except BadSignature:
        raise EncryptionKeyRefused from None


def refreshes(registry: "PhalaRegistry", worker: WorkerId, refresh_blocks: int) -> Refreshes | None:
    """What is noted once a worker is refreshed; None for one that is new.

    A worker that lost its files needs to register at once, and again where that is lost too;
    so some are allowed in a row, whatever their key's epoch: anyone who runs one raises that.
    """
    if worker not in registry.enclaves:
        return None
    now = registry.block.number
    noted = registry.refreshes.get(worker)
    if noted is None or now >= noted.since + refresh_blocks:
        return Refreshes(now, 1)
    if noted.count >= REFRESHES_MAX:
        raise RefreshedTooOften
    return Refreshes(noted.since, noted.count + 1)


def arrivals(
    registry: "PhalaRegistry", worker: WorkerId, proves: Judgement, refresh_blocks: int
) -> tuple[Hash, Refreshes] | None:
    """What is noted of the machine once a new worker of it is listed; None for a known worker.

    Machines whose id is masked are counted by their product, all as one: nobody tells them apart.
    Simulated ones are not: who has a development network's root makes as many as he likes.
    """
    if worker in registry.enclaves or proves.platform == PLATFORM_SIMULATED:
        return None
    name = life.group(BLOCK_MACHINE, proves.platform_id or proves.product)
    now, noted = registry.block.number, registry.arrivals.get(name)
    if noted is None or now >= noted.since + refresh_blocks:
        return name, Refreshes(BlockNumber(now), 1)
    if noted.count >= ARRIVALS_MAX:
        raise TooManyOfMachine
    return name, Refreshes(noted.since, noted.count + 1)


def _judge(
    registry: "PhalaRegistry", body: Registration
) -> tuple[Judgement, CollateralKey | None, int]:
    """9. By each evaluation that the chain keeps and still takes, from the latest down."""
    evidence, policy, now = body.evidence, registry.policy.get(), registry.clock.time()
    try:
        of = registry.verifier.need(evidence)
        if of is None:
            return registry.verifier.verify(evidence, policy, {}, now), None, 0
    except PhalaError as error:
        raise EvidenceRefused from error
    kept = registry.collateral.kept(of)
    if not kept:
        raise CollateralMissing
    refusals: list[PhalaError] = []
    for number, items in kept:
        try:
            return registry.verifier.verify(evidence, policy, items, now), of, number
        except PhalaError as error:
            refusals.append(error)
    raise EvidenceRefused from refusals[0]


def is_allowed(registry: "PhalaRegistry", proves: Judgement) -> bool:
    """11. By its measurement, or by who signed it, as what, and at which security version."""
    if proves.measurement in registry.allowed_measurements.get():
        return True
    return bool(proves.signer) and any(
        (proves.signer, proves.signer_product) == (each.signer, each.product)
        and proves.signer_svn >= each.svn_min
        for each in registry.allowed_signers.get()
    )


def _broken(proves: Judgement) -> tuple[Blocked, ...]:
    return (
        Blocked(BLOCK_MACHINE, proves.platform_id),
        Blocked(BLOCK_PRODUCT, proves.product),
        Blocked(BLOCK_MEASUREMENT, proves.measurement),
        Blocked(BLOCK_SIGNER, proves.signer),
    )


def _judge_devices(registry: "PhalaRegistry", body: Registration) -> tuple[Hash, ...]:
    """14. A machine of the block-list may be a device, too: by the SHA-256 of its key."""
    if not body.devices:
        return ()
    nonce = device_nonce(body.manifest.worker, body.block_hash)
    policy, now = registry.policy.get(), registry.clock.time()
    used: list[Hash] = []
    named: list[bytes] = []
    for device in body.devices:
        try:
            manifests = registry.collateral.manifests_of(device.manifests)
            found = registry.verifier.verify_device(device, manifests, policy, nonce, now)
        except PhalaError as error:
            raise DevicesRefused from error
        if Blocked(BLOCK_MACHINE, found.device) in registry.blocked:
            raise PlatformIsBlocked
        if found.device in named:  # one device, asked twice
            raise DevicesRefused
        named.append(found.device)
        used.append(found.evidence_id)
    return tuple(used)
