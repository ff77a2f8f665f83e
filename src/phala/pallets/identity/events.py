"""What happens to identities. Names, fields and numbers are `pallet-identity`'s."""

from typing import Annotated

from phala.codec import U32
from phala.frame import event
from phala.pallets.identity.records import USERNAME
from phala.primitives.types import AccountId, Balance, BlockNumber


@event
class IdentitySet:
    """An identity was set, anew or again."""

    who: AccountId


@event
class IdentityCleared:
    """An account cleared its identity and has its deposit back."""

    who: AccountId
    deposit: Balance


@event
class IdentityKilled:
    """The chain took an identity and its deposit away."""

    who: AccountId
    deposit: Balance


@event
class JudgementRequested:
    """A registrar was asked for its judgement, and its fee set aside."""

    who: AccountId
    registrar_index: Annotated[int, U32]


@event
class JudgementUnrequested:
    """A registrar is asked no more."""

    who: AccountId
    registrar_index: Annotated[int, U32]


@event
class JudgementGiven:
    """A registrar gave its judgement."""

    target: AccountId
    registrar_index: Annotated[int, U32]


@event
class RegistrarAdded:
    """There is one more registrar."""

    registrar_index: Annotated[int, U32]


@event
class SubIdentityAdded:
    """An identity has one more sub-account."""

    sub: AccountId
    main: AccountId
    deposit: Balance


@event
class SubIdentitiesSet:
    """An identity has these many sub-accounts."""

    main: AccountId
    number_of_subs: Annotated[int, U32]
    new_deposit: Balance


@event
class SubIdentityRenamed:
    """A sub-account has another name."""

    sub: AccountId
    main: AccountId


@event
class SubIdentityRemoved:
    """An identity has one sub-account less."""

    sub: AccountId
    main: AccountId
    deposit: Balance


@event
class SubIdentityRevoked:
    """A sub-account left, and has the deposit."""

    sub: AccountId
    main: AccountId
    deposit: Balance


@event
class AuthorityAdded:
    """An account grants usernames of a suffix."""

    authority: AccountId


@event
class AuthorityRemoved:
    """An account grants usernames of a suffix no more."""

    authority: AccountId


@event
class UsernameSet:
    """An account has a username."""

    who: AccountId
    username: Annotated[bytes, USERNAME]


@event
class UsernameQueued:
    """An account can accept a username until that block."""

    who: AccountId
    username: Annotated[bytes, USERNAME]
    expiration: BlockNumber


@event
class PreapprovalExpired:
    """A username was not accepted in time, and was taken back."""

    whose: AccountId


@event
class PrimaryUsernameSet:
    """A username is found under its account."""

    who: AccountId
    username: Annotated[bytes, USERNAME]


@event
class DanglingUsernameRemoved:
    """Of old releases of the pallet: it keeps its number."""

    who: AccountId
    username: Annotated[bytes, USERNAME]


@event
class UsernameUnbound:
    """A username is taken back: it can be removed later."""

    username: Annotated[bytes, USERNAME]


@event
class UsernameRemoved:
    """A username that was taken back is removed."""

    username: Annotated[bytes, USERNAME]


@event
class UsernameKilled:
    """The chain removed a username."""

    username: Annotated[bytes, USERNAME]
