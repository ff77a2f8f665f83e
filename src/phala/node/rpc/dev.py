"""`dev_*`: what the owner of a development network may do with it. On other chains there are none.

All are unsafe: whoever is not on this machine cannot ask. Each answer says `"on": "dev chain"`.
What changes the state is an extrinsic of the `Dev` pallet in a block, like any other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

from phala.codec import Bytes, Compact, Tuple, Vector
from phala.crypto.hashes import blake2_256
from phala.errors import Invalid, PhalaError, Unavailable
from phala.frame import Origin, Root, Signed
from phala.frame.caller import ORIGIN_CALLER
from phala.node.core.pool import Change, Status
from phala.node.engines.dev import MS_MAX
from phala.node.rpc.connection import ANSWER_BYTES_MAX
from phala.node.rpc.errors import INVALID_PARAMS, TOO_BIG, RpcError, of_submission
from phala.node.rpc.params import Params, bad, block_hash, hex_bytes, number, text, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Happening, Included, Node
from phala.node.words import Words
from phala.primitives.address import MULTI_ADDRESS, MultiAddress, decode_ss58
from phala.primitives.extrinsic import Extrinsic
from phala.primitives.keys import storage_prefix
from phala.primitives.types import BALANCE, AccountId, Balance, BlockNumber, Hash
from phala.runtime import Source
from phala.runtime.validity import dev_tag

ON: Final = "dev chain"
WAITING: Final = (Status.READY, Status.FUTURE)
WAIT_S: Final = 60.0  # for a block with what was asked for
EVENTS_KEY: Final = storage_prefix("System", "Events")
SEQUENCE_KEY: Final = storage_prefix("Dev", "NextSequence")
DISPATCH_AS: Final = bytes((255, 0))
FORCE_SET_BALANCE: Final = bytes((5, 8))
SET_STORAGE: Final = bytes((0, 4))
KILL_STORAGE: Final = bytes((0, 5))
ROOT: Final = "root"
KEY_BYTES_MAX: Final = 511
VALUE_BYTES_MAX: Final = 1024 * 1024
ITEMS_AT_ONCE: Final = 1_000  # in one call
ITEMS_BYTES_AT_ONCE: Final = 1024 * 1024
CALLS_MAX: Final = 200  # that wait together
KEY: Final = Bytes(bytes_max=KEY_BYTES_MAX)
KEYS: Final = Vector(KEY, items_max=ITEMS_AT_ONCE)
ITEMS: Final = Vector(Tuple((KEY, Bytes(bytes_max=VALUE_BYTES_MAX))), items_max=ITEMS_AT_ONCE)
PLANCKS: Final = Compact(BALANCE)
# What a state can be given from elsewhere. All else is this chain's own: its blocks and time, who
# finalizes them, and what its enclaves have heard and said.
PALLET_BYTES: Final = 16  # a key begins with that much of its pallet's
LOADED: Final = (
    storage_prefix("System", "Account"),
    *(
        storage_prefix(name, "Any")[:PALLET_BYTES]
        for name in (
            "Balances", "TransactionPayment", "Multisig", "Proxy", "Preimage", "Scheduler",
            "Identity", "Vesting",
        )
    ),
)  # fmt: skip


# ---- parameters


def account(value: Any, index: int) -> AccountId:
    try:
        return decode_ss58(text(value, index))
    except PhalaError as error:
        raise RpcError(INVALID_PARAMS, "Invalid params", error.what) from None


def origin(value: Any, index: int) -> Origin:
    return Root() if value == ROOT else Signed(account(value, index))


def seconds(value: Any, index: int) -> int:
    """As milliseconds: also a fraction, as far as JSON's numbers go."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MS_MAX:
        raise bad(index, "a number of seconds", value)
    return round(value * 1_000)


def flag(value: Any, index: int) -> bool:
    if not isinstance(value, bool):
        raise bad(index, "true or false", value)
    return value


def plancks(value: Any, index: int) -> Balance:
    """An amount as a number or, above what JSON's readers take, as text of digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 39:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 128:
        raise bad(index, "an amount of plancks", value)
    return Balance(value)


def pairs(value: Any, index: int) -> dict[bytes, bytes | None]:
    """Values by key, in hex; null for a key that is to hold nothing."""
    if not isinstance(value, dict):
        raise bad(index, "an object of keys and values in hex", value)
    out: dict[bytes, bytes | None] = {}
    for name, held in value.items():
        key = hex_bytes(name, index)
        if not 0 < len(key) <= KEY_BYTES_MAX:
            raise bad(index, f"a key of 1 to {KEY_BYTES_MAX} bytes", name)
        out[key] = None if held is None else hex_bytes(held, index)
        if len(out[key] or b"") > VALUE_BYTES_MAX:
            raise bad(index, f"a value of at most {VALUE_BYTES_MAX} bytes", held)
    return out


# ---- calls


def writes(changes: Sequence[tuple[bytes, bytes | None]]) -> Iterator[bytes]:
    """Calls that come to these changes of the state."""
    gone = [key for key, value in changes if value is None]
    for first in range(0, len(gone), ITEMS_AT_ONCE):
        yield KILL_STORAGE + KEYS.encode(tuple(gone[first : first + ITEMS_AT_ONCE]))
    some: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in changes:
        if value is None:
            continue
        if some and (len(some) == ITEMS_AT_ONCE or size + len(value) > ITEMS_BYTES_AT_ONCE):
            yield SET_STORAGE + ITEMS.encode(tuple(some))
            some, size = [], 0
        some.append((key, value))
        size += len(key) + len(value)
    if some:
        yield SET_STORAGE + ITEMS.encode(tuple(some))


class Caller:
    """Puts calls into blocks that nobody signs."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def _sequence(self) -> int:
        chain, pool = self._node.chain, self._node.pool
        said = chain.value(SEQUENCE_KEY, chain.head.number)
        sequence = int.from_bytes(said or b"", "little")
        while pool.provides(dev_tag(sequence)):
            sequence += 1
        return sequence

    def send(self, who: Origin, call: bytes) -> Awaitable[dict[str, Any]]:
        """Give it to the pool at once; then what became of it.

        Raises:
            RpcError: it can be in no block.
        """
        node = self._node
        sequence = self._sequence().to_bytes(8, "little")
        data = Extrinsic(None, DISPATCH_AS + sequence + ORIGIN_CALLER.encode(who) + call).encode()
        found = Hash(blake2_256(data))
        answer: asyncio.Future[Hash] = asyncio.get_running_loop().create_future()

        def listener(happening: Happening) -> None:
            if answer.done():
                return
            if isinstance(happening, Included):
                answer.set_result(happening.block)
            elif isinstance(happening, Change) and happening.status not in WAITING:
                answer.set_exception(
                    Unavailable(
                        f"the call left the pool: it is {happening.status.value}",
                        mend="the chain went back meanwhile, or the pool is full: ask again",
                    )
                )

        unwatch = node.watch(found, listener)
        answer.add_done_callback(lambda _: unwatch())
        try:
            node.submit(data, source=Source.LOCAL)
        except PhalaError as error:
            answer.cancel()
            raise of_submission(error) from None
        return self._outcome(data, found, answer)

    async def _outcome(
        self, data: bytes, found: Hash, included: asyncio.Future[Hash]
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(WAIT_S):
                block = await included
        except TimeoutError:
            raise Unavailable(f"no block in {WAIT_S:.0f} s", mend="see the node's log") from None
        chain = self._node.chain
        at = chain.number_of(block)
        index = chain.store.body(at).index(data)
        return {
            "extrinsic": to_hex(found),
            "hash": to_hex(block),
            "number": at,
            "index": index,
            **self._result(at, index),
        }

    def _result(self, at: BlockNumber, index: int) -> dict[str, Any]:
        words = Words(self._node.runtime_at(BlockNumber(at - 1)).metadata(14))
        data = self._node.chain.value(EVENTS_KEY, at) or b""
        events = [each for each in words.events(data) if each.extrinsic == index]
        (done,) = (each for each in events if words.event_name(each) == ("Dev", "DispatchedAs"))
        result = data[done.start : done.end]  # of Substrate's `Result`: 0, or 1 and the error
        return {
            "ok": result[0] == 0,
            "error": words.error(result[1:]) if result[0] else None,
            "events": [words.event(data, each) for each in events if each is not done],
        }

    async def send_all(self, calls: Sequence[bytes]) -> dict[str, Any]:
        """As the chain itself, in this order."""
        if len(calls) > CALLS_MAX:
            raise Invalid(f"{len(calls)} calls", mend="change less of the state at once")
        waiting = [asyncio.ensure_future(self.send(Root(), each)) for each in calls]
        done = await asyncio.gather(*waiting, return_exceptions=True)
        for each in done:
            if isinstance(each, BaseException):
                raise each
            if not each["ok"]:
                raise Invalid(f"a call failed: {each['error']}", mend="change less, or otherwise")
        last = done[-1] if done else {}
        assert isinstance(last, dict)
        return {name: last[name] for name in ("hash", "number") if name in last}


# ---- methods


def register(methods: Methods, node: Node) -> None:
    caller = Caller(node)
    register_blocks(methods, node)
    register_state(methods, node, caller)

    @methods.add("dev_impersonate", unsafe=True)
    def impersonate(params: Params) -> Any:
        """Run a call as an account, or as `root`, unsigned and free; what became of it."""
        return said(caller.send(params.needed(0, origin), params.needed(1, hex_bytes)))

    @methods.add("dev_setBalance", unsafe=True)
    def set_balance(params: Params) -> Any:
        who, free = params.needed(0, account), params.needed(1, plancks)
        call = FORCE_SET_BALANCE + MULTI_ADDRESS.encode(MultiAddress.of(who))
        return said(caller.send(Root(), call + PLANCKS.encode(free)))


def register_blocks(methods: Methods, node: Node) -> None:
    def add(name: str) -> Callable[[Callable[[Params], dict[str, Any]]], None]:
        def register(request: Callable[[Params], dict[str, Any]]) -> None:
            methods.add(name, unsafe=True)(lambda params: said(node.cheat(request(params))))

        return register

    @add("dev_mine")
    def mine(params: Params) -> dict[str, Any]:
        blocks = params.optional(0, number)
        return {"do": "mine", "blocks": 1 if blocks is None else blocks, "span_ms": None}

    @add("dev_forward")
    def forward(params: Params) -> dict[str, Any]:
        """So much time passes, over so many blocks."""
        blocks = params.optional(1, number)
        span_ms = params.needed(0, seconds)
        return {"do": "mine", "blocks": 1 if blocks is None else blocks, "span_ms": span_ms}

    @add("dev_setTime")
    def set_time(params: Params) -> dict[str, Any]:
        """Milliseconds since 1970, of the next block; time goes on from there."""
        return {"do": "set_time", "ms": params.needed(0, number)}

    @add("dev_snapshot")
    def snapshot(params: Params) -> dict[str, Any]:
        return {"do": "snapshot", "name": params.needed(0, text)}

    @add("dev_snapshots")
    def snapshots(_params: Params) -> dict[str, Any]:
        return {"do": "snapshots"}

    @add("dev_release")
    def release(params: Params) -> dict[str, Any]:
        """Forget a snapshot: the blocks after it may become final."""
        return {"do": "release", "name": params.needed(0, text)}

    @add("dev_revert")
    def revert(params: Params) -> dict[str, Any]:
        """Back to a snapshot, which is used up by that, like those after it."""
        keep = params.optional(1, flag) or False
        return {"do": "revert", "name": params.needed(0, text), "keep": keep}


def register_state(methods: Methods, node: Node, caller: Caller) -> None:
    chain = node.chain

    @methods.add("dev_setStorage", unsafe=True)
    def set_storage(params: Params) -> Any:
        changes = sorted(params.needed(0, pairs).items())
        return counted(caller, changes, {})

    @methods.add("dev_dumpState", unsafe=True)
    def dump_state(params: Params) -> Any:
        """All pairs of a state, by default the head's."""
        asked = params.optional(0, block_hash)
        at = chain.head.number if asked is None else chain.number_of(asked)
        view = chain.state_at(at)
        top: dict[str, str] = {}
        size = 0
        for key in view.keys(b""):
            value = view.get(key) or b""
            size += 2 * (len(key) + len(value)) + 10
            if size > ANSWER_BYTES_MAX:
                raise RpcError(TOO_BIG, "Response is too big", "take `phala node snapshot`")
            top[to_hex(key)] = to_hex(value)
        return {
            "on": ON,
            "genesis": to_hex(chain.genesis),
            "number": at,
            "hash": to_hex(chain.header(at).hash()),
            "top": top,
        }

    @methods.add("dev_loadState", unsafe=True)
    def load_state(params: Params) -> Any:
        """Make accounts, and what pallets keep for them, what a dump has: in blocks, as the chain
        itself. What is this chain's own stays."""
        given = params.needed(0, pairs)
        top = {key: value for key, value in given.items() if key.startswith(LOADED)}
        if not top:  # no dump at all, and every account would be gone
            raise bad(0, "a dump's `top`, with accounts", given)
        at = chain.head.number
        changes = [(key, value) for key, value in top.items() if chain.value(key, at) != value]
        for front in LOADED:
            changes += [(key, None) for key in chain.keys(front, at) if key not in top]
        return counted(caller, sorted(changes), {"left_out": len(given) - len(top)})


async def said(answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    return {"on": ON, **await answer}


async def counted(
    caller: Caller, changes: Sequence[tuple[bytes, bytes | None]], more: dict[str, Any]
) -> dict[str, Any]:
    found = await caller.send_all(tuple(writes(changes)))
    return {"on": ON, "changed": len(changes), **more, **found}
