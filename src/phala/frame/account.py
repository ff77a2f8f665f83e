"""What the state keeps of an account: one record that System holds and Balances fills.

Source: `frame_system::AccountInfo`, `pallet_balances::AccountData`; clients know both by path.
"""

from typing import Annotated, Final

from phala.codec import U32, U128, Descriptor, Newtype
from phala.codec.records import record
from phala.frame.described import Described
from phala.primitives.types import Balance, scale

NEW_LOGIC: Final = 1 << 127  # the one flag Substrate has: balances are in the fungible form

EXTRA_FLAGS: Final[Newtype[int]] = Newtype(("pallet_balances", "types", "ExtraFlags"), U128)


@record
class AccountData:
    free: Balance
    reserved: Balance
    frozen: Balance
    flags: Annotated[int, EXTRA_FLAGS]


ACCOUNT_DATA: Final[Descriptor[AccountData]] = Described(
    ("pallet_balances", "types", "AccountData"), scale(AccountData)
)


@record
class AccountInfo:
    nonce: Annotated[int, U32]
    consumers: Annotated[int, U32]
    providers: Annotated[int, U32]
    sufficients: Annotated[int, U32]
    data: Annotated[AccountData, ACCOUNT_DATA]

    @property
    def exists(self) -> bool:
        return self.providers > 0


ACCOUNT_INFO: Final[Descriptor[AccountInfo]] = Described(
    ("frame_system", "AccountInfo"), scale(AccountInfo)
)

NO_ACCOUNT: Final = AccountInfo(
    0, 0, 0, 0, AccountData(Balance(0), Balance(0), Balance(0), NEW_LOGIC)
)
