"""What hot modules answer to random cases, line by line: see test_compiled.py."""

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from phala.node.compiled import use_compiled

COMPILED = use_compiled()

from phala.codec import Reader, Tuple, encode_compact, struct_of  # noqa: E402
from phala.codec.compact import read_compact  # noqa: E402
from phala.crypto.hashes import blake2_256  # noqa: E402
from phala.errors import PhalaError  # noqa: E402
from phala.frame import ACCOUNT_INFO, AccountData, AccountInfo, DispatchInfo, Weight  # noqa: E402
from phala.frame.dispatch import parameters  # noqa: E402
from phala.node.blobs import decode_changes, decode_list, encode_changes, encode_list  # noqa: E402
from phala.pallets.balances import Balances, Transfer  # noqa: E402
from phala.pallets.system import ExtrinsicSuccess  # noqa: E402
from phala.primitives.address import MultiAddress, MultiSignature  # noqa: E402
from phala.primitives.extrinsic import (  # noqa: E402
    NONCE_TIP,
    SIGNER,
    Era,
    Extrinsic,
    Signature,
    decode_extrinsic,
)
from phala.primitives.types import DESCRIPTORS, PHA, AccountId, Balance, Hash, Moment  # noqa: E402
from phala.runtime import GenesisConfig, InvalidTransaction, Runtime  # noqa: E402
from phala.tee.simulated_key import SimulatedKey  # noqa: E402
from phala.trie import DictBase, Layout, State, Trie, ordered_root, read_proof  # noqa: E402

CASES = 3_000
ACCOUNTS = [AccountId(bytes([number]) * 32) for number in range(1, 30)]


def answered(work: Callable[[], object]) -> str:
    """The result, or the error with its words."""
    try:
        return repr(work())
    except (PhalaError, OverflowError) as error:
        return f"{type(error).__name__}: {error}"


def number(chance: random.Random) -> int:
    bits = chance.choice((3, 6, 14, 30, 31, 32, 33, 64, 127, 128, 129, 535, 537))
    return chance.choice((1, 1, 1, -1)) * chance.getrandbits(bits)


def altered(chance: random.Random, data: bytes) -> bytes:
    """Cut, with a byte changed, or with some behind it."""
    at = chance.randrange(len(data) + 1)
    cases = (data[:at], data[:at] + chance.randbytes(1) + data[at + 1 :], data + b"\0", data)
    return chance.choice(cases)


def codecs(chance: random.Random) -> Iterator[str]:
    transfer = Tuple(tuple(each.descriptor for each in parameters(Balances, Balances.calls[3])))
    success = struct_of(ExtrinsicSuccess, DESCRIPTORS)
    event = struct_of(Transfer, DESCRIPTORS)
    for _ in range(CASES):
        u32, u128 = chance.getrandbits(32), chance.getrandbits(chance.choice((5, 80, 128)))
        address = MultiAddress(chance.randrange(6), chance.randbytes(chance.choice((32, 20, 0))))
        data = AccountData(Balance(number(chance)), Balance(u128), Balance(0), u128)
        values: tuple[tuple[Any, Any], ...] = (
            (ACCOUNT_INFO, AccountInfo(u32, number(chance), 1, 0, data)),
            (ACCOUNT_INFO, AccountInfo(u32, 0, 1, 0, replace(data, free=Balance(u128)))),
            (NONCE_TIP, (u32, u128)),
            (NONCE_TIP, (number(chance), number(chance))),
            (SIGNER, (address, MultiSignature(chance.randrange(4), chance.randbytes(64)))),
            (transfer, (address, Balance(number(chance)))),
            (event, Transfer(chance.choice(ACCOUNTS), chance.choice(ACCOUNTS), Balance(u128))),
            (success, ExtrinsicSuccess(DispatchInfo(Weight(u32, u128 >> 64)))),
        )
        for descriptor, value in values:
            yield answered(lambda: descriptor.encode(value).hex())  # noqa: B023
            try:
                encoded = descriptor.encode(value)
            except PhalaError:
                continue
            other = altered(chance, encoded)
            yield answered(lambda: descriptor.decode(other))  # noqa: B023
            yield answered(lambda: descriptor.decode_from(b"ab" + other, 2))  # noqa: B023
        yield answered(lambda: encode_compact(number(chance)).hex())
        yield answered(lambda: read_compact(Reader(chance.randbytes(chance.randrange(1, 20)))))


def extrinsics(chance: random.Random) -> Iterator[str]:
    for _ in range(CASES):
        by = Signature(
            MultiAddress(0, chance.choice(ACCOUNTS)),
            MultiSignature(1, chance.randbytes(64)),
            Era(),
            chance.getrandbits(16),
            Balance(chance.getrandbits(20)),
        )
        data = Extrinsic(chance.choice((by, None)), chance.randbytes(9)).encode()
        yield answered(lambda: decode_extrinsic(altered(chance, data)))  # noqa: B023


def tries(chance: random.Random) -> Iterator[str]:
    for layout in Layout:
        items: dict[bytes, bytes] = {}
        trie = Trie.empty(layout)
        for _ in range(CASES // 20):
            changes: dict[bytes, bytes | None] = {}
            for _ in range(chance.randrange(12)):
                key = chance.randbytes(chance.choice((1, 2, 2, 3, 40)))
                known = chance.choice(sorted(items)) if items else key
                value = chance.randbytes(chance.choice((0, 1, 30, 33, 80)))
                changes[chance.choice((key, known))] = chance.choice((value, value, None))
            before = DictBase(dict(items))
            trie = trie.update(sorted(changes.items()), before)
            for key, new in changes.items():
                items.pop(key, None)
                if new is not None:
                    items[key] = new
            asked = [*changes, b"none"]
            nodes = trie.prove(asked, DictBase(items))
            shown = read_proof(trie.root, nodes, asked)
            assert shown == {key: items.get(key) for key in asked}
            yield f"{trie.root.hex()} {blake2_256(b''.join(nodes)).hex()}"
            assert Trie.build(sorted(items.items()), layout).root == trie.root
            blob = encode_changes(changes.items())
            yield answered(lambda: decode_changes(altered(chance, blob)))  # noqa: B023
            listed = list(items.values())
            yield ordered_root(listed).hex()
            yield answered(lambda: decode_list(altered(chance, encode_list(listed))))  # noqa: B023


def states(chance: random.Random) -> Iterator[str]:
    state = State(DictBase({bytes([at]): bytes([at]) for at in range(8)}))
    deep = 0
    for _ in range(CASES):
        key = bytes([chance.randrange(16)])
        match chance.randrange(7):
            case 0 | 1:
                state.put(key, chance.randbytes(2))
            case 2:
                state.delete(key)
            case 3 if deep < 200:
                state.begin()
                deep += 1
            case 4 if deep:
                state.commit()
                deep -= 1
            case 5 if deep:
                state.rollback()
                deep -= 1
            case _:
                yield f"{state.get(key)!r} {list(state.keys(b''))!r}"
    yield repr(state.changes()) + state.digest().hex()


def blocks(chance: random.Random) -> Iterator[str]:
    """Blocks of random calls of Balances and others, good and bad, from accounts rich and poor."""
    runtime = Runtime()
    for version in (14, 15):
        yield blake2_256(runtime.metadata(version)).hex()
    config = GenesisConfig.dev(
        authority=bytes(32),
        simulated_root=SimulatedKey(b"\1" * 32, b"\2" * 32).public_root,
        measurement=bytes(48),
        runtime_id=Hash(bytes(32)),
    )
    rich = tuple((who, Balance(chance.randrange(1, 900) * PHA)) for who in ACCOUNTS[:20])
    pairs = runtime.genesis(replace(config, balances=rich))
    trie = Trie.build(sorted(pairs.items()), Layout.V1)
    header = runtime.genesis_header(trie.root)
    nonces = dict.fromkeys(ACCOUNTS, 0)
    for height in range(8):
        builder = runtime.open_block(State(DictBase(dict(pairs))), header)
        for inherent in builder.inherents(Moment(1_700_000_000_000 + 6_000 * height)):
            builder.apply(inherent)
        for _ in range(CASES // 20):
            who = chance.choice(ACCOUNTS)
            nonce = nonces[who] + chance.choice((0,) * 15 + (1, -1))
            by = Signature(
                MultiAddress(chance.choice((0,) * 20 + (1,)), who),
                MultiSignature(1, bytes(64)),
                Era(),
                max(nonce, 0),
                Balance(chance.choice((0, 10**9))),
            )
            data = Extrinsic(by, call_of(chance)).encode()
            try:
                done = builder.apply(data, check_signature=False)
            except InvalidTransaction as refusal:
                yield f"{refusal}"
            else:
                nonces[who] = nonce + 1
                yield repr(done)

        def root(changes: Any) -> Hash:
            nonlocal trie
            trie = trie.update(changes, DictBase(dict(pairs)))
            return trie.root

        sealed = builder.seal(root)
        yield sealed.hash.hex()
        for key, value in sealed.changes:
            pairs.pop(key, None)
            if value is not None:
                pairs[key] = value
        header = sealed.header


def call_of(chance: random.Random) -> bytes:
    dest = b"\0" + chance.choice(ACCOUNTS)
    amount = encode_compact(chance.choice((0, 1, 10**9, 10**10, 10**12, 5 * 10**14, 10**20)))
    inner = bytes([5, 3]) + dest + amount
    match chance.randrange(10):
        case 0 | 1 | 2 | 3:
            return inner
        case 4 | 5:
            return bytes([5, 0]) + dest + amount
        case 6:
            return bytes([5, 4]) + dest + chance.choice((b"\0", b"\1"))
        case 7:
            return bytes([8, chance.choice((0, 2, 4)), 8]) + inner + bytes([5, 10]) + amount + b"\1"
        case 8:
            return bytes([0, 7]) + encode_compact(5) + chance.randbytes(5)
        case _:
            return altered(chance, inner)


def main() -> None:
    seed = int(sys.argv[1])
    sys.stderr.write("compiled\n" if COMPILED else "pure\n")
    for kind in (codecs, extrinsics, tries, states, blocks):
        for at, line in enumerate(kind(random.Random(seed))):
            sys.stdout.write(f"{kind.__name__} {at} {line}\n")


if __name__ == "__main__":
    main()
