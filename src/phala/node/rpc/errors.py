"""Errors as Substrate numbers them. Source: `sc-rpc-api`, reference/substrate-compat.md §1.2."""

from typing import Any, Final

from phala.codec import Malformed
from phala.errors import Invalid, PhalaError, Unavailable
from phala.node.core.pool import AlreadyImported, Banned, PoolFull, PriorityTooLow
from phala.runtime import InvalidTransaction, Problem

PARSE: Final = -32700
INVALID_REQUEST: Final = -32600
NO_METHOD: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL: Final = -32603  # a fault of ours
NOT_NOW: Final = -32000  # something did not answer: the same question may be answered later
TOO_MANY_SUBSCRIPTIONS: Final = -32006
TOO_BIG: Final = -32008
PEER_ARGUMENT: Final = 2002  # `system_*`
BLOCK_RANGE: Final = 4001  # `state_*`: the blocks are not in order, not known, or too many
COUNT: Final = 4002  # likewise: more was asked for than is given at once
STATE: Final = 4003  # likewise: the block or its state is not there, or a call failed
NO_LOCAL_STORAGE: Final = 5001  # `offchain_*`

# The new API's: `sc-rpc-spec-v2`, `chain_head/error.rs`.
TOO_MANY_FOLLOWS: Final = -32800
BLOCK_NOT_PINNED: Final = -32801
NO_RUNTIME: Final = -32802
NOT_WAITING: Final = -32803
DUPLICATE_HASHES: Final = -32804

BAD_FORMAT: Final = 1001
INVALID_TRANSACTION: Final = 1010
UNKNOWN_VALIDITY: Final = 1011
BANNED: Final = 1012
ALREADY_IMPORTED: Final = 1013
TOO_LOW_PRIORITY: Final = 1014
DROPPED: Final = 1016
NO_KEYSTORE: Final = 1040  # what has no number of its own


class RpcError(PhalaError):
    """An answer that is an error."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message, mend=data or "see the method's documentation")
        self.code = code
        self.message = message
        self.data = data

    def document(self) -> dict[str, Any]:
        out: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            out["data"] = self.data
        return out


def of_submission(error: PhalaError) -> RpcError:
    """What `author_submitExtrinsic` answers to an extrinsic that is not taken."""
    match error:
        case InvalidTransaction(malformed=True):
            return RpcError(BAD_FORMAT, "Extrinsic has invalid format", error.what)
        case InvalidTransaction(problem=problem, words=words):
            if problem in (Problem.CANNOT_LOOKUP, Problem.NO_UNSIGNED_VALIDATOR):
                return RpcError(UNKNOWN_VALIDITY, "Unknown Transaction Validity", words)
            if problem is Problem.CUSTOM:
                return RpcError(
                    INVALID_TRANSACTION, "Invalid Transaction", f"{words}; {error.what}"
                )
            return RpcError(INVALID_TRANSACTION, "Invalid Transaction", words)
        case Malformed():
            return RpcError(BAD_FORMAT, "Extrinsic has invalid format", error.what)
        case Banned():
            return RpcError(BANNED, "Transaction is temporarily banned", error.mend)
        case AlreadyImported():
            return RpcError(ALREADY_IMPORTED, "Transaction Already Imported", error.what)
        case PriorityTooLow():
            return RpcError(TOO_LOW_PRIORITY, f"Priority is too low: {error.what}", error.mend)
        case PoolFull():
            return RpcError(DROPPED, "Immediately Dropped", error.what)
        case _:
            return of_error(error)


def of_error(error: PhalaError) -> RpcError:
    if isinstance(error, RpcError):
        return error
    if isinstance(error, Invalid):
        return RpcError(INVALID_PARAMS, f"Invalid params: {error.what}", error.mend)
    if isinstance(error, Unavailable):
        return RpcError(NOT_NOW, error.what, error.mend)
    return RpcError(STATE, error.what, error.mend)
