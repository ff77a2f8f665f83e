"""Hands the pallets what they need of `attest`: verdicts, with the chain's own collateral."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from phala.attest import Evidence as Claim
from phala.attest import PlatformCode, Policy, Verdict, verify, verify_intel_collateral
from phala.attest.collateral import IntelCollateral
from phala.attest.errors import AttestationError, EvidenceForged, EvidenceMalformed
from phala.attest.kept import (
    INTEL_AUTHORITIES,
    AmdCollateral,
    ensure_plain,
    take_apart,
    verify_amd_collateral,
)
from phala.attest.nvidia import CHAIN, DRIVER, VBIOS, decode_report
from phala.attest.verify import UNFORESEEN
from phala.errors import Invalid
from phala.messages.collateral import NO_NUMBER, CollateralKey
from phala.messages.registration import Device, Evidence
from phala.pallets.collateral import Found
from phala.pallets.registry import DeviceJudgement, Judgement
from phala.primitives.types import Moment

# AMD's products as chain state has them: numbers, never reuse one.
AMD_PRODUCTS: Final[Mapping[str, bytes]] = MappingProxyType(
    {
        "milan": b"\1",
        "genoa": b"\2",
        "turin": b"\3",
        "bergamo": b"\4",
        "siena": b"\5",
        "genoa-x": b"\6",
        "milan-x": b"\7",
    }
)
_SIGNERS: Final = ("mrsigner", "id_key_digest")  # SGX, SEV-SNP; others name nobody

Judge = Callable[[Claim, Policy, Mapping[str, bytes], Moment], Verdict]
JudgeIntel = Callable[[Mapping[str, bytes], Moment], IntelCollateral]
JudgeAmd = Callable[[bytes, bytes, Moment], AmdCollateral]


class AttestVerifier:
    """Judges evidence and collateral by `attest`, with the chain's own policy.

    Args are other judges than the vendors', for tests that need a vendor of their own.
    """

    def __init__(
        self,
        *,
        judge: Judge = verify,
        device: Judge = verify,
        intel: JudgeIntel = verify_intel_collateral,
        amd: JudgeAmd = verify_amd_collateral,
    ) -> None:
        self._judge = judge
        self._device = device
        self._intel = intel
        self._amd = amd

    # ---- evidence

    def need(self, evidence: Evidence) -> CollateralKey | None:
        """Which collateral the evidence is judged by."""
        need = take_apart(Claim(evidence.platform, evidence.blob)).need
        return None if need is None else CollateralKey(need.platform, need.issuer, need.product)

    def verify(
        self, evidence: Evidence, policy: bytes, collateral: Mapping[str, bytes], now: Moment
    ) -> Judgement:
        """What the evidence proves under the chain's policy and collateral."""
        taken = take_apart(Claim(evidence.platform, evidence.blob))
        verdict = self._judge(
            taken.evidence, Policy.decode(policy), {**taken.own, **collateral}, now
        )
        found = verdict.measurements
        return Judgement(
            platform=int(verdict.platform),
            measurement=verdict.measurement,
            report_data=verdict.report_data,
            evidence_id=verdict.signed_hash,
            confidence=verdict.confidence,
            product=_product(verdict),
            platform_id=verdict.platform_id,
            signer=next((found[name] for name in _SIGNERS if any(found.get(name, b""))), b""),
            signer_product=int.from_bytes(found.get("isvprodid", b""), "little"),
            signer_svn=verdict.svn.get("guest", int.from_bytes(found.get("isvsvn", b""), "little")),
        )

    def verify_device(
        self,
        device: Device,
        manifests: tuple[bytes, ...],
        policy: bytes,
        nonce: bytes,
        now: Moment,
    ) -> DeviceJudgement:
        """A GPU's or switch's evidence, made for this nonce.

        It is judged as strictly as the chain's workers are; a policy that accepts simulated
        evidence alone accepts no device. Manifests are a driver's and a VBIOS's, or the latter
        alone: governance listed them by their hash, so a signer that expired since is no matter.
        """
        own = Policy.decode(policy)
        if PlatformCode.SIMULATED in own.platforms:
            raise Invalid("a chain of simulated workers takes no devices", mend="send none")
        listed = {hashlib.sha256(each).digest() for each in manifests}
        devices = replace(
            own,
            name="devices",
            platforms=(PlatformCode.NVIDIA,),
            rims=tuple(sorted({*own.rims, *listed})),
        )
        names = (DRIVER, VBIOS)[-len(manifests) :] if manifests else ()
        collateral = {CHAIN: device.chain, **dict(zip(names, manifests, strict=True))}
        claim = Claim(PlatformCode.NVIDIA, device.report)
        verdict = self._device(claim, devices, collateral, now)
        said = decode_report(device.report).nonce
        if said != nonce:
            raise EvidenceForged(
                f"the device's report was asked with {said.hex()}, not with {nonce.hex()}",
                check=6,
                mend="ask the device with this worker's nonce for this block",
            )
        return DeviceJudgement(verdict.platform_id, verdict.signed_hash)

    def platforms(self, policy: bytes) -> tuple[int, ...]:
        """Those that a policy's text accepts, ascending."""
        return tuple(int(code) for code in Policy.decode(policy).platforms)

    # ---- collateral

    def intel_collateral(self, items: Mapping[str, bytes], now: Moment) -> Found:
        """What Intel's collateral is of, when it counts at `now`."""
        with _foreseen("Intel"):
            ensure_plain(items)
            found = self._intel(items, now)
        issuer = INTEL_AUTHORITIES[found.authority]
        key = CollateralKey(int(found.platform), issuer, bytes.fromhex(found.product))
        return Found(key, found.number, found.parts, found.expires)

    def amd_collateral(self, items: Mapping[str, bytes], now: Moment) -> Found:
        """What AMD's collateral is of, when it counts at `now`."""
        with _foreseen("AMD"):
            found = self._amd(items["amd_crl"], items["amd_chain"], now)
        key = CollateralKey(int(PlatformCode.SEV_SNP), found.signer, found.line)
        return Found(key, NO_NUMBER, (found.issued,), found.expires)


@contextmanager
def _foreseen(vendor: str) -> Iterator[None]:
    """A reader's mistake must not stop a chain: anyone submits collateral."""
    try:
        yield
    except UNFORESEEN as error:
        raise EvidenceMalformed(
            f"{vendor}'s collateral is of a form that was not foreseen: {type(error).__name__}",
            check=1,
            mend="fetch the collateral from the vendor again; tell us of these bytes",
        ) from error


def _product(verdict: Verdict) -> bytes:
    if verdict.platform in (PlatformCode.SGX, PlatformCode.TDX):
        return bytes.fromhex(verdict.product)
    if verdict.platform is not PlatformCode.SEV_SNP:
        return verdict.product.encode()
    code = AMD_PRODUCTS.get(verdict.product)
    if code is None:
        raise _unknown(verdict.product)
    return code


def _unknown(product: str) -> AttestationError:
    return EvidenceForged(
        f"the product {product!r} has no number here",
        check=10,
        mend="use a processor of another product",
    )
