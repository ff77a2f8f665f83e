"""`phala_*`: what people ask of a chain, each in one call: an extrinsic, an account, a block.

Hashes and accounts are looked up in the node's index, which holds what is final; what is above it
is looked for in the newest blocks. Where the index may miss something, the answer says what it
holds.
"""

from contextlib import suppress
from typing import Any, Final

from phala.codec import Malformed
from phala.crypto.hashes import blake2_128, blake2_256
from phala.errors import PhalaError
from phala.node.index import Part, Place
from phala.node.indexer import EVENTS_KEY, Outcomes, signer_of
from phala.node.rpc.errors import INVALID_PARAMS, RpcError
from phala.node.rpc.explorer_index import Shelf
from phala.node.rpc.params import Params, bad, block_hash, hex_bytes, number, text, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Node
from phala.node.words import Words
from phala.primitives.address import decode_ss58, encode_ss58
from phala.primitives.extrinsic import decode_extrinsic
from phala.primitives.keys import storage_prefix
from phala.primitives.types import AccountId, BlockNumber, Hash

PAGE_MAX: Final = 100  # parts of an account, extrinsics of a block
BLOCKS_MAX: Final = 50  # in one list
NEWEST_BLOCKS: Final = 16  # above the index that are looked through for an extrinsic
EVENTS_MAX: Final = 1_000  # of one extrinsic
ACCOUNT_FRONT: Final = storage_prefix("System", "Account")
SEARCH_CHARS_MAX: Final = 128


def account(value: Any, index: int) -> AccountId:
    """An address, or a public key in hex."""
    if isinstance(value, str) and len(value.removeprefix("0x")) == 64:
        with suppress(RpcError):
            return AccountId(hex_bytes(value, index))
    try:
        return decode_ss58(text(value, index))
    except PhalaError:
        raise bad(index, "an address", value) from None


def page(value: Any, index: int) -> int:
    limit = number(value, index)
    if not 1 <= limit <= PAGE_MAX:
        raise bad(index, f"from 1 to {PAGE_MAX}", value)
    return limit


class Explorer:
    """Reads one node's chain for people."""

    def __init__(self, node: Node, shelf: Shelf) -> None:
        self.node = node
        self.chain = node.chain
        self.shelf = shelf
        self._words: dict[int, Words] = {}  # by the runtime that says so

    # ---- what bytes mean

    def words_at(self, at: BlockNumber) -> Words | None:
        """Of the runtime that made a block; None where it is of a release that is not here."""
        try:
            runtime = self.node.runtime_at(BlockNumber(max(at - 1, self.chain.oldest, 0)))
        except PhalaError:
            return None
        known = self._words.get(id(runtime))
        if known is None:
            known = self._words[id(runtime)] = Words(runtime.metadata(14))
        return known

    def call(self, words: Words | None, extrinsic: bytes) -> dict[str, Any] | None:
        if words is None:
            return None
        try:
            return words.call(decode_extrinsic(extrinsic).call)
        except PhalaError:
            return None

    def events_at(self, at: BlockNumber) -> bytes | None:
        """None where the state is pruned."""
        try:
            return self.chain.state_at(at).get(EVENTS_KEY)
        except PhalaError:
            return None

    def places(self, at: BlockNumber, body: tuple[bytes, ...], only: range) -> list[Place]:
        """What became of some of a block's extrinsics."""
        data, words = self.events_at(at), self.words_at(at)
        if data is None or words is None:
            hashes = [Hash(blake2_256(body[index])) for index in only]
            found = [self.shelf.place(each) for each in hashes]
            none = Outcomes(len(body))
            return [
                place or none.place(at, index, signed=False, known=False)
                for index, place in zip(only, found, strict=True)
            ]
        outcomes = Outcomes(len(body))
        with suppress(Malformed):
            for event in words.events(data):
                outcomes.take(words, data, event)
        return [
            outcomes.place(at, index, signed=signer_of(body[index]) is not None, known=True)
            for index in only
        ]

    # ---- documents

    def short(self, at: BlockNumber, extrinsic: bytes, place: Place) -> dict[str, Any]:
        """One line of a list."""
        signer = signer_of(extrinsic)
        words = self.words_at(at)
        call = self.call(words, extrinsic)
        return {
            "block": at,
            "index": place.index,
            "hash": to_hex(blake2_256(extrinsic)),
            "signer": None if signer is None else encode_ss58(AccountId(signer)),
            "call": None if call is None else {"pallet": call["pallet"], "name": call["name"]},
            "success": place.success if place.known else None,
            "error": words.error(place.error) if words and place.error else None,
            "fee": str(place.fee) if place.known else None,
        }

    def extrinsic(self, at: BlockNumber, index: int) -> dict[str, Any]:
        """All of one extrinsic."""
        body = self.chain.store.body(at)
        data, words = body[index], self.words_at(at)
        (place,) = self.places(at, body, range(index, index + 1))
        out = self.short(at, data, place)
        out["block"] = {
            "number": at,
            "hash": to_hex(self.chain.header(at).hash()),
            "time": self.time(at, body),
            "final": at <= self.chain.finalized,
        }
        out["call"] = self.call(words, data)
        out["bytes"] = len(data)
        with suppress(PhalaError):
            by = decode_extrinsic(data).signature
            if by is not None:
                out["nonce"], out["tip"] = by.nonce, str(by.tip)
        out["events"] = self.events(at, index)
        return out

    def events(self, at: BlockNumber, index: int) -> list[Any] | None:
        """None where they are pruned."""
        data, words = self.events_at(at), self.words_at(at)
        if data is None or words is None:
            return None
        out: list[Any] = []
        with suppress(Malformed):
            for event in words.events(data):
                if event.extrinsic == index and len(out) < EVENTS_MAX:
                    out.append(words.event(data, event))
        return out

    def time(self, at: BlockNumber, body: tuple[bytes, ...]) -> int | None:
        """Milliseconds since 1970; None of genesis."""
        call = self.call(self.words_at(at), body[0]) if body else None
        if call is None or call["name"] != "set":
            return None
        return int(call["args"]["now"])

    def block(self, at: BlockNumber) -> dict[str, Any]:
        header, body = self.chain.header(at), self.chain.store.body(at)
        return {
            "number": at,
            "hash": to_hex(header.hash()),
            "parentHash": to_hex(header.parent_hash),
            "stateRoot": to_hex(header.state_root),
            "time": self.time(at, body),
            "final": at <= self.chain.finalized,
            "extrinsics": len(body),
            "signed": sum(signer_of(each) is not None for each in body),
            "bytes": sum(map(len, body)),
        }

    def part(self, part: Part) -> dict[str, Any]:
        """One line of an account's history."""
        roles = {"signer": part.signer, "named": part.named}
        if part.index is None:
            return {"block": part.number, "index": None, "hash": None, **roles}
        data = self.chain.store.body(part.number)[part.index]
        place = self.shelf.place(Hash(blake2_256(data)))
        if place is None or (place.number, place.index) != (part.number, part.index):
            place = Outcomes(1).place(part.number, 0, signed=part.signer, known=False)
        return {**self.short(part.number, data, place), "index": part.index, **roles}

    # ---- finding

    def find(self, wanted: Hash) -> tuple[BlockNumber, int] | None:
        """Where an extrinsic is in the chain."""
        place = self.shelf.place(wanted)
        if place is not None:
            return place.number, place.index
        mark = self.shelf.indexed
        head = self.chain.head.number
        for at in range(head, max(mark, head - NEWEST_BLOCKS), -1):
            for index, each in enumerate(self.chain.store.body(BlockNumber(at))):
                if blake2_256(each) == wanted:
                    return BlockNumber(at), index
        return None

    def account(self, who: AccountId) -> dict[str, Any]:
        """What it has, as of the head. Source: `frame_system::AccountInfo`."""
        key = ACCOUNT_FRONT + blake2_128(who) + who
        data = self.chain.state_at(self.chain.head.number).get(key) or bytes(80)
        free, reserved, frozen = (
            int.from_bytes(data[at : at + 16], "little") for at in (16, 32, 48)
        )
        return {
            "address": encode_ss58(who),
            "publicKey": to_hex(who),
            "nonce": int.from_bytes(data[:4], "little"),
            "free": str(free),
            "reserved": str(reserved),
            "frozen": str(frozen),
        }


def register(methods: Methods, node: Node, shelf: Shelf) -> None:
    explorer = Explorer(node, shelf)
    chain = node.chain

    def asked_block(params: Params, index: int) -> BlockNumber:
        """By number or hash; the head where none is asked for. Raises `UnknownBlock`."""
        value = params.optional(index, lambda value, _: value)
        if value is None:
            return chain.head.number
        if isinstance(value, str) and len(value.removeprefix("0x")) == 64:
            return chain.number_of(block_hash(value, index))
        at = number(value, index)
        if at > chain.head.number:
            raise bad(index, f"a block up to {chain.head.number}", value)
        return BlockNumber(at)

    @methods.add("phala_getIndexStatus")
    def get_index_status(_params: Params) -> Any:
        return explorer.shelf.status()

    @methods.add("phala_getExtrinsic")
    def get_extrinsic(params: Params) -> Any:
        wanted = params.needed(0, block_hash)
        found = explorer.find(wanted)
        if found is not None:
            return explorer.extrinsic(*found)
        if wanted in node.pool:
            return {"hash": to_hex(wanted), "block": None, "pending": True}
        return None

    @methods.add("phala_getExtrinsicAt")
    def get_extrinsic_at(params: Params) -> Any:
        at, index = asked_block(params, 0), params.needed(1, number)
        if index >= len(chain.store.body(at)):
            return None
        return explorer.extrinsic(at, index)

    @methods.add("phala_getAccountHistory")
    def get_account_history(params: Params) -> Any:
        who = params.needed(0, account)
        cursor = params.optional(1, hex_bytes) or b""
        limit = params.optional(2, page) or PAGE_MAX
        try:
            parts = explorer.shelf.parts(who, cursor, limit)
        except ValueError:
            raise bad(1, "a cursor of an earlier answer", to_hex(cursor)) from None
        return {
            "items": [explorer.part(each) for each in parts],
            "cursor": to_hex(parts[-1].cursor) if len(parts) == limit else None,
            "index": explorer.shelf.status(),
        }

    @methods.add("phala_getAccount")
    def get_account(params: Params) -> Any:
        return explorer.account(params.needed(0, account))

    @methods.add("phala_getBlockSummary")
    def get_block_summary(params: Params) -> Any:
        """A block with a page of its extrinsics, from a place on."""
        at = asked_block(params, 0)
        first = params.optional(1, number) or 0
        body = chain.store.body(at)
        some = range(min(first, len(body)), min(first + PAGE_MAX, len(body)))
        places = explorer.places(at, body, some)
        listed = [
            explorer.short(at, body[each], place) for each, place in zip(some, places, strict=True)
        ]
        return {**explorer.block(at), "first": first, "items": listed}

    @methods.add("phala_getBlockSummaries")
    def get_block_summaries(params: Params) -> Any:
        """Blocks from one downwards."""
        at = asked_block(params, 0)
        limit = min(params.optional(1, page) or BLOCKS_MAX, BLOCKS_MAX)
        lowest = max(at - limit + 1, chain.store.base)
        return [explorer.block(BlockNumber(each)) for each in range(at, lowest - 1, -1)]

    @methods.add("phala_search")
    def search(params: Params) -> Any:
        """What a text may mean: a block by number or hash, an extrinsic, an account."""
        asked = params.needed(0, text).strip()
        if not 0 < len(asked) <= SEARCH_CHARS_MAX:
            raise RpcError(INVALID_PARAMS, "Invalid params", f"1 to {SEARCH_CHARS_MAX} characters")
        out: list[dict[str, Any]] = []
        if asked.isascii() and asked.isdigit() and int(asked) <= chain.head.number:
            out.append({"kind": "block", "block": explorer.block(BlockNumber(int(asked)))})
        with suppress(RpcError):
            wanted = block_hash(asked, 0)
            at = chain.store.number_of(wanted)
            if at is not None and at <= chain.head.number:
                out.append({"kind": "block", "block": explorer.block(at)})
            found = explorer.find(wanted)
            if found is not None:
                out.append({"kind": "extrinsic", "extrinsic": explorer.extrinsic(*found)})
        with suppress(RpcError):
            who = account(asked, 0)
            document = explorer.account(who)
            if not asked.startswith("0x") or explorer.shelf.knows(who) or document["nonce"]:
                out.append({"kind": "account", "account": document})
        return out
