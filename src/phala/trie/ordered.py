"""The root of a list, as a header commits to a block's extrinsics."""

from collections.abc import Sequence

from phala.codec.compact import encode_compact
from phala.primitives.types import Hash
from phala.trie.encoding import Layout
from phala.trie.merkle import root_of


def ordered_root(values: Sequence[bytes]) -> Hash:
    """Keys are compact(index). Layout V0, also where the state is V1: `systemVersion` 1."""
    return root_of(
        [(encode_compact(index), value) for index, value in enumerate(values)], Layout.V0
    )
