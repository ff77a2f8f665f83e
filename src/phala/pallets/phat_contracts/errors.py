"""Why a deployment, a command, or a replica's word is refused."""

from phala.frame import PalletError


class ClusterNotFound(PalletError):
    """There is no such cluster: take one from `ClusterStates`."""


class ClusterNotReady(PalletError):
    """The cluster's keys are not given yet: wait for its workers."""


class KindUnknown(PalletError):
    """Contracts of this kind do not run yet: deploy Python source, kind 0."""


class SourceEmpty(PalletError):
    """The source is empty: give a contract."""


class ContractExists(PalletError):
    """The same deployment was made before: choose another salt."""


class ContractNotFound(PalletError):
    """There is no such contract: take one from `ContractInfos`."""


class ContractNotLive(PalletError):
    """The contract does not answer: wait until it is live; a failed one never is."""


class CommandVersionUnknown(PalletError):
    """The command is of another version: send version 2."""


class GenerationPassed(PalletError):
    """The command is encrypted to another generation's key: fetch the contract's present one."""


class CommandExpired(PalletError):
    """The command's expiry has passed: send it again with a later one."""


class ExpiryTooFar(PalletError):
    """The command would live too long: let it expire within 2,400 blocks."""


class CodeChanged(PalletError):
    """The contract's code is not what the command was written for: look at it, then send again."""


class CommandTooLarge(PalletError):
    """The command is too large: send less data at once."""


class NotGatekeeper(PalletError):
    """The sender does not hold the share that this partial is of: it must not send this."""


class NotOfCluster(PalletError):
    """The worker does not serve the cluster: it must not send this, or not be sent this."""


class AlreadySettled(PalletError):
    """The contract is live or failed already: nothing is awaited."""


class KeyMalformed(PalletError):
    """The signing key is not 32 bytes: send an sr25519 public key."""


class NotOwner(PalletError):
    """The cluster is another account's: ask its owner."""


class TierUnknown(PalletError):
    """There is no such tier: name one of 1, the best, to 5, any."""


class ClusterBusy(PalletError):
    """The cluster has as much before it as it may: wait some seconds, or send with less fuel."""


class FuelUnknown(PalletError):
    """There is no such class of fuel: name one of 20 to 36."""
