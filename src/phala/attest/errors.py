"""Why evidence proves nothing. Each error names the check of `verify` that found it."""

from phala.errors import Invalid, PhalaError, Refused


class AttestationError(PhalaError):
    """Evidence was not accepted. `check` is the number in `verify`'s list."""

    def __init__(self, what: str, *, check: int, mend: str) -> None:
        super().__init__(f"attestation check {check}: {what}", mend=mend)
        self.check = check


class EvidenceMalformed(AttestationError, Invalid):
    """The bytes are no evidence of the platform they are said to be of."""


class EvidenceForged(AttestationError, Invalid):
    """A signature does not verify: the evidence was altered, or nobody genuine made it."""


class EvidenceExpired(AttestationError, Refused):
    """What certifies the evidence, or the evidence itself, is not valid at that time."""


class PlatformRefused(AttestationError, Refused):
    """The policy does not accept evidence of this platform."""


class AnchorRefused(AttestationError, Refused):
    """The policy trusts no root that could have certified this evidence."""


class DebugRefused(AttestationError, Refused):
    """The enclave can be read by its host's debugger, and the policy forbids that."""


class TcbRefused(AttestationError, Refused):
    """The vendor's judgement of the platform is worse, or older, than the policy accepts."""


class RevocationRefused(AttestationError, Refused):
    """The vendor, or the policy, has revoked what certifies the evidence, or nobody can tell."""


class MeasurementRefused(AttestationError, Refused):
    """What was measured is not what its publisher signed, or what its log tells."""


class PolicyMalformed(Invalid):
    """The bytes are no policy in its canonical text."""
