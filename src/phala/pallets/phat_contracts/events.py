"""What the pallet of clusters and contracts tells."""

from typing import Annotated

from phala.codec import U8
from phala.frame import event
from phala.messages.types import CallId, ClusterId, ContractId, Count, Generation
from phala.primitives.types import AccountId


@event
class ContractQueued:
    """A deployment is in the cluster's order."""

    contract: ContractId
    call: CallId
    deployer: AccountId


@event
class ContractLive:
    """Enough replicas announced the same keys: the contract takes commands."""

    contract: ContractId


@event
class ContractFailed:
    """`instantiate` did not succeed on enough replicas: the contract never comes to be."""

    contract: ContractId


@event
class CommandQueued:
    """A command is in the cluster's order, at this place of its topic."""

    contract: ContractId
    call: CallId
    sender: AccountId
    count: Count


@event
class GenerationRaised:
    """A cluster's keys change: somebody left it who must not read on."""

    cluster: ClusterId
    generation: Generation


@event
class ContractKeysRenewed:
    """Enough replicas announced a live contract's keys of a later generation."""

    contract: ContractId
    generation: Generation


@event
class TierSet:
    """A cluster takes workers of this confidence and better."""

    cluster: ClusterId
    tier: Annotated[int, U8]
