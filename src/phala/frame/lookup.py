"""Which account an address names."""

from phala.frame.errors import CannotLookup
from phala.primitives.address import MultiAddress
from phala.primitives.types import AccountId


def account_at(address: MultiAddress) -> AccountId:
    """Raises `CannotLookup` for an address that is no account's id."""
    if address.kind != 0:
        raise CannotLookup
    return AccountId(address.data)
