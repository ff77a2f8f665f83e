"""Accounts: their own codec against the declared one; what is encoded late, against at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phala.codec import Malformed
from phala.errors import Invalid
from phala.frame import ACCOUNT_INFO, NO_ACCOUNT, AccountData, AccountInfo, Block
from phala.frame.account import NEW_LOGIC
from phala.frame.ledger import account_of, decode_account, encode_account, keep, with_free
from phala.pallets.system import System
from phala.primitives.types import AccountId, Balance, BlockNumber

ALICE = AccountId(b"a" * 32)
counts = st.integers(0, 2**32 - 1)
amounts = st.sampled_from([0, 1, 2**64 - 1, 2**64, 2**128 - 1]) | st.integers(0, 2**128 - 1)
accounts = st.builds(
    AccountInfo,
    counts,
    counts,
    counts,
    counts,
    st.builds(
        AccountData,
        amounts.map(Balance),
        amounts.map(Balance),
        amounts.map(Balance),
        st.just(NEW_LOGIC) | amounts,
    ),
)


@given(info=accounts)
def test_an_account_is_the_same_bytes_by_both_codecs(info: AccountInfo) -> None:
    data = ACCOUNT_INFO.encode(info)

    assert encode_account(info) == data
    assert decode_account(data) == info == ACCOUNT_INFO.decode(data)


@pytest.mark.parametrize("size", [0, 79, 81])
def test_what_is_no_account_is_malformed(size: int) -> None:
    with pytest.raises(Malformed):
        decode_account(bytes(size))


@pytest.mark.parametrize(
    ("free", "extrinsics"), [(2**128, 0), (-1, 0), (1, 2**32)], ids=["more", "less", "nonce"]
)
def test_what_does_not_fit_is_refused_where_it_is_written(free: int, extrinsics: int) -> None:
    system = System(Block(BlockNumber(1)))
    info = with_free(NO_ACCOUNT, Balance(free), extrinsics)

    with pytest.raises(Invalid):
        keep(system.book(), ALICE, info)
    assert system.state.changes() == ()


def test_what_is_encoded_late_is_undone_and_read_like_anything_else() -> None:
    block = Block(BlockNumber(1))
    system = System(block)
    key = system.account.storage_key(ALICE)
    one, two = (with_free(NO_ACCOUNT, Balance(free)) for free in (1, 2))

    keep(system.book(), ALICE, one)
    mark = block.begin()
    keep(system.book(), ALICE, two)
    assert block.state.get(key) == ACCOUNT_INFO.encode(two)
    assert list(block.state.keys(key)) == [key]
    block.rollback(mark)

    assert account_of(system.book(), ALICE) == one
    assert block.state.changes() == ((key, ACCOUNT_INFO.encode(one)),)
    block.state.put(key, ACCOUNT_INFO.encode(two))  # as `set_storage` does
    assert system.account_of(ALICE) == two
    block.state.delete(key)
    assert system.account_of(ALICE) == NO_ACCOUNT
