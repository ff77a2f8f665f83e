"""Evidence to verdict: the one door."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from phala.attest.azure import verify_azure_snp, verify_azure_tdx
from phala.attest.errors import (
    DebugRefused,
    EvidenceMalformed,
    PlatformRefused,
    RevocationRefused,
    TcbRefused,
)
from phala.attest.intel import verify_sgx, verify_tdx
from phala.attest.nitro import verify_nitro
from phala.attest.nvidia import NO_RIMS, verify_nvidia
from phala.attest.policy import Policy
from phala.attest.rim import Rim
from phala.attest.simulated import verify_simulated
from phala.attest.snp import verify_snp
from phala.attest.verdict import PlatformCode, TcbStatus, Verdict
from phala.primitives.types import Moment

EVIDENCE_BYTES_MAX: Final = 16 * 1024  # reference/tee.md section 1.3; a TDX quote has about 5 KB
COLLATERAL_ITEMS_MAX: Final = 16
COLLATERAL_BYTES_MAX: Final = 512 * 1024  # all items together; a boot log fills 256 KiB

# A reader's mistake must not stop a chain; the tests of alterations tell it from a refusal.
UNFORESEEN: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

Verifier: TypeAlias = Callable[[bytes, Policy, Mapping[str, bytes], Moment], Verdict]

# What this build can judge. Changing one is a change of the runtime: DESIGN section 10.
VERIFIERS: Final[Mapping[PlatformCode, Verifier]] = MappingProxyType(
    {
        PlatformCode.SIMULATED: verify_simulated,
        PlatformCode.SGX: verify_sgx,
        PlatformCode.TDX: verify_tdx,
        PlatformCode.SEV_SNP: verify_snp,
        PlatformCode.NITRO: verify_nitro,
        PlatformCode.NVIDIA: verify_nvidia,
        PlatformCode.AZURE_SNP: verify_azure_snp,
        PlatformCode.AZURE_TDX: verify_azure_tdx,
    }
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a platform said, not yet judged. The code is from outside: any number."""

    platform: int
    blob: bytes


def verify(
    evidence: Evidence,
    policy: Policy,
    collateral: Mapping[str, bytes],
    now: Moment,
    *,
    rims: Mapping[bytes, Rim] = NO_RIMS,
) -> Verdict:
    """Judge evidence by a policy, as of `now` (block time, in consensus and offline).

    1. The platform is one that this build can judge.
    2. The policy accepts the platform.
    3. Evidence and collateral are within their sizes.
    4. The blob is, to its last byte, that platform's format and says that it is.
    5. A root that the policy trusts certifies the key that signed.
    6. That key signed the blob.
    7. Attributes are those of a genuine enclave, and unused fields are zero.
    8. A host's debugger can read the enclave only if the policy allows it.
    9. The vendor's judgement of the platform is one that the policy accepts, and so is each
       advisory that is open where it is not up to date.
    10. The policy does not exclude the product.
    11. The policy does not block the platform.

    Each platform's module says what 4 to 9 are of its own. Whose enclave it is, that it is fresh
    and not seen before is its caller's to check, by `measurement`, `report_data` and
    `signed_hash`.

    Args:
        collateral: what else is needed, by name; none of it is trusted.
        rims: NVIDIA manifests that `verify_rim` gave before, by the SHA-256 of their document.

    Raises:
        AttestationError: and nothing else, whatever the bytes.
    """
    platform = _platform(evidence, policy)  # 1, 2
    _check_sizes(evidence, collateral)  # 3
    try:  # 4 to 7
        if platform is PlatformCode.NVIDIA:
            verdict = verify_nvidia(evidence.blob, policy, collateral, now, rims)
        else:
            verdict = VERIFIERS[platform](evidence.blob, policy, collateral, now)
    except UNFORESEEN as error:
        raise EvidenceMalformed(
            f"the {platform.word} evidence is of a form that was not foreseen:"
            f" {type(error).__name__}",
            check=4,
            mend="give the evidence as the platform made it; tell us of these bytes",
        ) from error
    check_verdict(verdict, policy)  # 8 to 11
    return verdict


def _platform(evidence: Evidence, policy: Policy) -> PlatformCode:
    known = [code for code in VERIFIERS if code == evidence.platform]
    if not known:
        raise PlatformRefused(
            f"this build cannot judge evidence of platform {evidence.platform}",
            check=1,
            mend=f"give evidence of one of: {', '.join(code.word for code in VERIFIERS)}",
        )
    platform = known[0]
    if platform not in policy.platforms:
        accepted = ", ".join(code.word for code in policy.platforms)
        raise PlatformRefused(
            f"the policy {policy.name} does not accept {platform.word} evidence",
            check=2,
            mend=f"give evidence of one of: {accepted}",
        )
    return platform


def check_verdict(verdict: Verdict, policy: Policy) -> None:
    platform = verdict.platform
    if verdict.debug and not policy.debug:  # 8
        raise DebugRefused(
            f"the {platform.word} enclave is debuggable, the policy {policy.name} forbids it",
            check=8,
            mend="start the enclave without its debug attribute",
        )
    if verdict.tcb_status not in policy.tcb_statuses:  # 9
        accepted = ", ".join(status.word for status in policy.tcb_statuses)
        raise TcbRefused(
            f"the platform is {verdict.tcb_status.word}"
            f" ({', '.join(verdict.advisories) or 'no advisories'}),"
            f" the policy {policy.name} accepts: {accepted}",
            check=9,
            mend="update the platform's firmware and microcode, then attest again",
        )
    if policy.advisories is not None and verdict.tcb_status is not TcbStatus.UP_TO_DATE:
        open_ = [each for each in verdict.advisories if each not in policy.advisories]
        if open_:
            raise TcbRefused(
                f"the platform is {verdict.tcb_status.word} by {', '.join(open_)}, the policy"
                f" {policy.name} accepts: {', '.join(policy.advisories) or 'none'}",
                check=9,
                mend="do what the advisory asks for, then attest again",
            )
    if policy.excludes(verdict.product):  # 10
        raise PlatformRefused(
            f"the policy {policy.name} excludes the product {verdict.product}",
            check=10,
            mend="move the enclave to a processor of another product",
        )
    if verdict.platform_id in policy.blocked:  # 11
        raise RevocationRefused(
            f"the policy {policy.name} blocks the platform {verdict.platform_id.hex()}",
            check=11,
            mend="move the enclave to a machine that is not known to be broken",
        )


def _check_sizes(evidence: Evidence, collateral: Mapping[str, bytes]) -> None:
    if len(evidence.blob) > EVIDENCE_BYTES_MAX:
        raise EvidenceMalformed(
            f"{len(evidence.blob)} bytes of evidence, at most {EVIDENCE_BYTES_MAX} are allowed",
            check=3,
            mend="give the vendor's evidence alone",
        )
    size = sum(len(name) + len(item) for name, item in collateral.items())
    if len(collateral) > COLLATERAL_ITEMS_MAX or size > COLLATERAL_BYTES_MAX:
        raise EvidenceMalformed(
            f"{len(collateral)} collateral items of {size} bytes; at most {COLLATERAL_ITEMS_MAX}"
            f" of {COLLATERAL_BYTES_MAX} are allowed",
            check=3,
            mend="give the collateral of this platform alone",
        )
