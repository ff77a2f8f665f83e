"""Names of parameters, for those who give them by name (JSON-RPC 2.0 §4.2): of the new API, and of
`dev_*`.

Source: the JSON-RPC interface specification, `api/`. It leaves the parameters of `archive_v1_stop…`
and of `transactionWatch_v1_unwatch` without names; ours are those of what they stop.
"""

from collections.abc import Mapping
from typing import Final

_FOLLOW: Final = "followSubscription"

NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "archive_v1_body": ("hash",),
    "archive_v1_call": ("hash", "function", "callParameters"),
    "archive_v1_finalizedHeight": (),
    "archive_v1_genesisHash": (),
    "archive_v1_hashByHeight": ("height",),
    "archive_v1_header": ("hash",),
    "archive_v1_stopStorage": ("operationId",),
    "archive_v1_stopStorageDiff": ("operationId",),
    "archive_v1_storage": ("hash", "items", "childTrie"),
    "archive_v1_storageDiff": ("hash", "items", "previousHash"),
    "chainHead_v1_body": (_FOLLOW, "hash"),
    "chainHead_v1_call": (_FOLLOW, "hash", "function", "callParameters"),
    "chainHead_v1_continue": (_FOLLOW, "operationId"),
    "chainHead_v1_follow": ("withRuntime",),
    "chainHead_v1_header": (_FOLLOW, "hash"),
    "chainHead_v1_stopOperation": (_FOLLOW, "operationId"),
    "chainHead_v1_storage": (_FOLLOW, "hash", "items", "childTrie"),
    "chainHead_v1_unfollow": (_FOLLOW,),
    "chainHead_v1_unpin": (_FOLLOW, "hashOrHashes"),
    "chainSpec_v1_chainName": (),
    "chainSpec_v1_genesisHash": (),
    "chainSpec_v1_properties": (),
    "dev_dumpState": ("hash",),
    "dev_forward": ("seconds", "blocks"),
    "dev_impersonate": ("account", "call"),
    "dev_loadState": ("top",),
    "dev_mine": ("blocks",),
    "dev_release": ("name",),
    "dev_revert": ("name", "keep"),
    "dev_setBalance": ("account", "free"),
    "dev_setStorage": ("values",),
    "dev_setTime": ("ms",),
    "dev_snapshot": ("name",),
    "dev_snapshots": (),
    "rpc_methods": (),
    "transactionWatch_v1_submitAndWatch": ("transaction",),
    "transactionWatch_v1_unwatch": ("subscription",),
    "transaction_v1_broadcast": ("transaction",),
    "transaction_v1_stop": ("operationId",),
}
