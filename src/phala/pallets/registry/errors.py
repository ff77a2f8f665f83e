"""Why a registration, or a gatekeeper's message, is refused."""

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
