"""What a proxy may do, by its type. A new pallet is open to `Any` alone until it stands here."""

from dataclasses import dataclass
from typing import Final

from phala.frame import Call
from phala.pallets.proxy import ANY, CANCEL_PROXY, IDENTITY_JUDGEMENT, NON_TRANSFER

PROXY: Final = 10
ADD_PROXY, REMOVE_PROXY, REMOVE_PROXIES, KILL_PURE, REJECT_ANNOUNCEMENT = 1, 2, 3, 5, 8

# System, Utility, Multisig, Proxy, Session, PhalaRegistry, PhalaPhatContracts: none of their calls
# gives the account's funds to another.
WITHOUT_TRANSFERS: Final = (0, 8, 9, PROXY, 15, 85, 86)

IDENTITY: Final = 13
SET_SUBS, REQUEST_JUDGEMENT, PROVIDE_JUDGEMENT, ADD_SUB = 2, 4, 9, 11
# A registrar has the fee, and a sub-account that quits has the deposit.
IDENTITY_TRANSFERS: Final = (SET_SUBS, REQUEST_JUDGEMENT, ADD_SUB)

UTILITY: Final = 8  # its batches; what is in them is asked for one by one


@dataclass(frozen=True, slots=True)
class ProxyRestriction:
    """Source: `pallet-proxy`, `do_proxy`: no proxy makes or ends one of a wider type."""

    proxy_type: int

    def allows(self, call: Call, /) -> bool:
        if call.pallet == PROXY:
            if call.index in (ADD_PROXY, REMOVE_PROXY):
                _, other, _ = call.arguments
                if not covers(self.proxy_type, other):
                    return False
            elif call.index in (REMOVE_PROXIES, KILL_PURE) and self.proxy_type != ANY:
                return False
        if self.proxy_type == ANY:
            return True
        if self.proxy_type == NON_TRANSFER:
            if call.pallet == IDENTITY:
                return call.index not in IDENTITY_TRANSFERS
            return call.pallet in WITHOUT_TRANSFERS
        if self.proxy_type == IDENTITY_JUDGEMENT:
            return (call.pallet, call.index) == (IDENTITY, PROVIDE_JUDGEMENT) or (
                call.pallet == UTILITY
            )
        assert self.proxy_type == CANCEL_PROXY
        return (call.pallet, call.index) == (PROXY, REJECT_ANNOUNCEMENT)


def covers(one: int, other: int) -> bool:
    """Whether a proxy of the type `one` may do all that one of the type `other` may."""
    return one in (ANY, other) or (
        one == NON_TRANSFER and other in (CANCEL_PROXY, IDENTITY_JUDGEMENT)
    )
