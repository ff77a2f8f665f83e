"""What one gatekeeper holds of a period's secret, in the form that t of n need.

A share signs partials under its index; enough of them combine to the group's signature. With one
gatekeeper the share is the secret. Shares of more come from a distributed key generation, which
makes `Seat`s too, and nothing else here changes.
"""

from phala.crypto import bls
from phala.crypto.secret import Secret
from phala.enclave.ports import Entropy
from phala.enclave.records import Seat
from phala.errors import Refused
from phala.messages.payloads.system import GatekeeperAppointed

SEED_BYTES = 32


class NeedsKeyGeneration(Refused):
    """Shares of several gatekeepers are made together."""

    def __init__(self, appointed: GatekeeperAppointed) -> None:
        super().__init__(
            f"period {appointed.period} has a threshold of {appointed.threshold}, "
            f"share {appointed.index}",
            mend="appoint one gatekeeper with a threshold of 1",
        )


def take_seat(appointed: GatekeeperAppointed, entropy: Entropy) -> Seat:
    """The share of a period with one gatekeeper.

    Raises:
        NeedsKeyGeneration: the period has more than one.
    """
    if (appointed.threshold, appointed.index) != (1, 1):
        raise NeedsKeyGeneration(appointed)
    secret = bls.keygen(Secret(entropy.random_bytes(SEED_BYTES)))
    return Seat(
        period=appointed.period,
        threshold=appointed.threshold,
        index=appointed.index,
        secret=secret,
        group_public=bls.public_of(secret),
    )


def partial(seat: Seat, message: bytes) -> bytes:
    """96 bytes, valid under this share's index alone."""
    return bls.partial(seat.secret, message)
