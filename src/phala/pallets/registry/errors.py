"""Why a registration, or a gatekeeper's message, is refused."""

from typing import Final

from phala.frame import PalletError


class UnknownVersion(PalletError):
    """The registration is of another version: send version 1."""


class OtherChain(PalletError):
    """The manifest names another chain: start the worker with this chain's genesis."""


class HeightOutOfWindow(PalletError):
    """The bound block is too old, or not made yet: bind a recent finalized block."""


class OtherFork(PalletError):
    """The bound block is not of this chain: bind a finalized block."""


class NotSignedByWorker(PalletError):
    """The worker's key did not sign this registration: sign it whole."""


class EncryptionKeyRefused(PalletError):
    """The encryption key is not the worker's, or of no later epoch: sign one of the next epoch."""


class RefreshedTooOften(PalletError):
    """The worker registered too often of late: wait some blocks, then register again."""


class PlatformNotAccepted(PalletError):
    """This chain does not accept the platform: use one that its genesis lists."""


class EvidenceRefused(PalletError):
    """The evidence proves nothing under this chain's policy: see what the verifier says."""


class ReportDataDiffers(PalletError):
    """The evidence was made for something else: make it for this manifest and block."""


class MeasurementNotAllowed(PalletError):
    """The enclave's code is not on the list: run a released worker."""


class RuntimeNotAllowed(PalletError):
    """The worker's runtime module is not on the list: fetch the one in genesis."""


class EvidenceUsed(PalletError):
    """The evidence was handed in before: make new evidence."""


class NotGatekeeper(PalletError):
    """The worker holds no gatekeeper's seat of this period: it must not send this."""


class GroupKeyKnown(PalletError):
    """The period's group key is set: nothing can change it."""


class GroupKeyMalformed(PalletError):
    """The group key is not 48 bytes: send a compressed point of G1."""


class CollateralMissing(PalletError):
    """The chain has no collateral of the platform that counts now: submit the vendor's."""


class PlatformIsBlocked(PalletError):
    """The machine, its product, the code or its signer is known to be broken: use another."""


class DevicesRefused(PalletError):
    """A device's evidence proves nothing for this worker and block: see what the verifier says."""


class PolicyRefused(PalletError):
    """This is no policy for this chain: give the text that `Policy.encode` writes."""


class TooManyChanges(PalletError):
    """Too many changes of the policy wait for their grace to end: let one of them end."""


class TermsRefused(PalletError):
    """A time is out of its bounds: an hour to 90 days for evidence, up to 90 days of grace."""


class ListUnchanged(PalletError):
    """The list has that entry already, or has it not: look at it first."""


class ListFull(PalletError):
    """The list is full: disallow something first."""


class LastOfList(PalletError):
    """New contracts need a runtime module: allow another one first."""


class BlockMalformed(PalletError):
    """No entry of the block-list: name a machine, product, code or signer."""


class TooManyOfMachine(PalletError):
    """A machine brought many new workers of late: wait for some blocks, or keep their files."""


# Numbers are wire format: add at the end.
ERRORS: Final = (
    UnknownVersion,
    OtherChain,
    HeightOutOfWindow,
    OtherFork,
    NotSignedByWorker,
    EncryptionKeyRefused,
    PlatformNotAccepted,
    EvidenceRefused,
    ReportDataDiffers,
    MeasurementNotAllowed,
    RuntimeNotAllowed,
    EvidenceUsed,
    NotGatekeeper,
    GroupKeyKnown,
    GroupKeyMalformed,
    RefreshedTooOften,
    CollateralMissing,
    PlatformIsBlocked,
    DevicesRefused,
    PolicyRefused,
    TooManyChanges,
    TermsRefused,
    ListUnchanged,
    ListFull,
    LastOfList,
    BlockMalformed,
    TooManyOfMachine,
)
