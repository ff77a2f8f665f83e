"""Hostile bytes, by the million: `python -m phala.testing.fuzz --cases 1000000 --seed 7`.

Genuine bytes are altered and given to whatever reads them. A case passes where the reader answers
with a typed error, or with what is right: bytes that encode back to themselves, a value that is
really there, an extrinsic that is really signed. Anything else ends the run, and prints the case.
"""

import argparse
import contextlib
import http.client
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final, Self, TypeAlias
from urllib.parse import urlsplit

from phala.codec import U128, Compact, Descriptor
from phala.crypto.signatures import Keypair, ed25519_from_seed, ed25519_sign, sr25519_from_seed
from phala.errors import Invalid
from phala.finality import (
    JUSTIFICATION,
    Authority,
    AuthoritySet,
    Justification,
    Precommit,
    SetId,
    decode_justification,
    signed_precommit,
    verify_own,
)
from phala.messages.bus import ENVELOPE
from phala.messages.calls import COMMAND_ENVELOPE
from phala.messages.host import HOST_REPLY, HOST_REQUEST
from phala.messages.payloads.enclave import SIGNED_MESSAGE
from phala.messages.registration import SIGNED_REGISTRATION
from phala.primitives.address import MULTI_ADDRESS, MultiAddress
from phala.primitives.extrinsic import Era, decode_extrinsic
from phala.primitives.header import HEADER
from phala.primitives.types import PHA, AccountId, Balance, BlockNumber, Hash
from phala.runtime import GenesisConfig, InvalidTransaction, Problem, Runtime
from phala.tee.simulated_key import SimulatedKey
from phala.testing.chain import MemoryChain
from phala.trie import read_proof

CASES: Final = 10_000
SLICE: Final = 256  # cases of one target before the next one has its turn
SEED_BYTES: Final = 32
EXTREMES: Final = (
    b"\0", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xfc", b"\xfd\xff\xff\xff", b"\xfe\xff\xff\xff",
    b"\x03\xff\xff\xff\xff", b"\x33" + b"\xff" * 16, b"\xff" * 9, b"\x02\0\0\0", b"\x01\0",
)  # fmt: skip
NESTING: Final = 400  # of calls in calls: far more than any reader allows

COMPACT: Final = Compact(U128)

Case: TypeAlias = Callable[[Random], bool]  # whether it was accepted


class Wrong(AssertionError):
    """A reader took what it must not, or broke."""


@dataclass
class Count:
    cases: int = 0
    accepted: int = 0
    seconds: float = 0.0


@dataclass
class Report:
    """What a run came to."""

    seed: int
    counts: dict[str, Count] = field(default_factory=dict)
    growth_bytes: int = 0  # of memory at its highest, from the first tenth of the run on

    def rows(self) -> Iterator[str]:
        yield f"{'target':<24} {'cases':>9} {'accepted':>9} {'refused':>9} {'us a case':>9}"
        for name, count in self.counts.items():
            us = count.seconds / max(count.cases, 1) * 1e6
            refused = count.cases - count.accepted
            yield f"{name:<24} {count.cases:>9,} {count.accepted:>9,} {refused:>9,} {us:>9.0f}"


# ---- altering


def altered(random: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """The bytes after one to four alterations; rarely as they are."""
    out = bytearray(data)
    for _ in range(random.choice((0, 1, 1, 1, 2, 4))):
        at = random.randrange(len(out) + 1)
        match random.randrange(9):
            case 0 if out:
                out[at % len(out)] ^= 1 << random.randrange(8)
            case 1 if out:
                out[at % len(out)] = random.randrange(256)
            case 2:
                out[at:at] = random.choice(EXTREMES)
            case 3:
                del out[at : at + random.randrange(1, 9)]
            case 4:
                out[at : at + 1] = random.choice(EXTREMES)
            case 5:
                del out[at:]
            case 6:
                out += random.randbytes(random.randrange(1, 40))
            case 7 if others:
                other = random.choice(others)
                out[at:] = other[random.randrange(len(other) + 1) :]
            case _:
                piece = out[at : at + random.randrange(1, 64)]
                out[at:at] = piece
    return bytes(out)


# ---- targets


def codec_target() -> Case:
    """Whatever decodes encodes to the same bytes: there is one form of each value."""
    found: list[tuple[Descriptor[Any], bytes]] = [
        (descriptor, seed) for descriptor in DESCRIPTORS for seed in seeds_of(descriptor)
    ]

    def case(random: Random) -> bool:
        descriptor, seed = random.choice(found)
        data = altered(random, seed, [each for _, each in found[:8]])
        try:
            value = descriptor.decode(data)
        except Invalid:
            return False
        if descriptor.encode(value) != data:
            raise Wrong(f"{descriptor!r:.80} takes 0x{data.hex()} and writes other bytes")
        return True

    return case


DESCRIPTORS: Final[tuple[Descriptor[Any], ...]] = (
    HEADER, ENVELOPE, COMMAND_ENVELOPE, SIGNED_MESSAGE, SIGNED_REGISTRATION, HOST_REQUEST,
    HOST_REPLY, MULTI_ADDRESS, JUSTIFICATION, COMPACT,
)  # fmt: skip


def seeds_of(descriptor: Descriptor[Any]) -> list[bytes]:
    """Bytes to alter: what random bytes decode to, grown until they do, and zeros."""
    random = Random(1)  # noqa: S311 - the same for every run
    out = [
        fill
        for size in (0, 1, 8, 33, 64, 200, 600)
        for fill in (bytes(size), random.randbytes(size), b"\x01" * size, b"\x04" * size)
    ]
    good = [data for data in out if _decodes(descriptor, data)]
    for size in range(1, 400):
        if _decodes(descriptor, bytes(size)):
            good.append(bytes(size))
            break
    return good or out


def _decodes(descriptor: Descriptor[Any], data: bytes) -> bool:
    try:
        descriptor.decode(data)
    except Invalid:
        return False
    return True


@dataclass
class Extrinsics:
    """Altered extrinsics before the pool and in a block of the real runtime."""

    chain: MemoryChain
    pairs: tuple[Keypair, ...]
    calls: list[bytes]
    seeds: list[bytes]

    def __post_init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self._builder = self.chain.open()
        self._nonces = {pair.public: 0 for pair in self.pairs}

    @classmethod
    def on_a_chain(cls) -> Self:
        pairs = tuple(sr25519_from_seed(bytes([number]) * SEED_BYTES) for number in (1, 2, 3))
        chain = MemoryChain(config(pairs), Runtime())
        chain.block()
        calls = list(calls_of(pairs))
        seeds = [
            chain.signed(random_pair, call, 0, tip=tip, era=era, birth=birth)
            for call in calls
            for random_pair, tip, era, birth in (
                (pairs[0], 0, Era(0, 0), None),
                (pairs[1], 7, Era(64, 1), chain.header),
            )
        ]
        seeds += [b"\x04" + call for call in calls]  # bare, without its length
        return cls(chain, pairs, calls, seeds)

    def validate(self, random: Random) -> bool:
        data = altered(random, random.choice(self.seeds), self.seeds)
        try:
            self.chain.validator().validate(data, check_signature=True)
        except InvalidTransaction:
            return False
        self._ensure_genuine(data)
        return True

    def apply(self, random: Random) -> bool:
        """In a block, its signature taken for checked: so that altered calls are executed."""
        if random.randrange(200) == 0:
            self._open()
        pair, before = random.choice(self.pairs), len(self._builder)
        if random.randrange(4):
            call = altered(random, random.choice(self.calls), self.calls)
            data = self.chain.signed(pair, call, self._nonces[pair.public])
        else:
            data = altered(random, random.choice(self.seeds), self.seeds)
        try:
            self._builder.apply(data, check_signature=False)
        except InvalidTransaction as refusal:
            if len(self._builder) != before:
                raise Wrong(f"a refused extrinsic is in the block: 0x{data.hex()}") from None
            if refusal.problem is Problem.EXHAUSTS_RESOURCES and before > 1:
                self._open()
            return False
        if len(self._builder) != before + 1:
            raise Wrong(f"an extrinsic was taken and is not in the block: 0x{data.hex()}")
        by = decode_extrinsic(data).signature
        if by is not None and by.signer.data in self._nonces:
            self._nonces[by.signer.data] = by.nonce + 1
        return True

    def _ensure_genuine(self, data: bytes) -> None:
        """Only what was signed may be taken; the form of an extrinsic is one."""
        if data in self.seeds:
            return
        if decode_extrinsic(data).signature is None:
            raise Wrong(f"a bare extrinsic of nobody's was taken: 0x{data.hex()}")
        raise Wrong(f"an extrinsic that nobody signed was taken: 0x{data.hex()}")


def proofs_target() -> Case:
    """A proof shows what is there, or nothing."""
    pairs = (sr25519_from_seed(b"\1" * SEED_BYTES),)
    chain = MemoryChain(config(pairs), Runtime())
    keys = sorted(chain.pairs)
    nodes = {key: chain.prove([key]) for key in keys[:: max(1, len(keys) // 60)]}
    root = chain.trie.root
    names = list(nodes)

    def case(random: Random) -> bool:
        key = random.choice(names)
        given = list(nodes[key])
        for _ in range(random.randrange(1, 3)):
            at = random.randrange(len(given))
            match random.randrange(4):
                case 0:
                    del given[at]
                case 1:
                    given.append(random.choice(nodes[random.choice(names)]))
                case _:
                    given[at] = altered(random, given[at])
            if not given:
                break
        asked = key if random.randrange(3) else altered(random, key)
        try:
            shown = read_proof(root, given, [asked])[asked]
        except Invalid:
            return False
        if shown != chain.pairs.get(asked):
            raise Wrong(f"a proof shows {shown!r} at 0x{asked.hex()}")
        return True

    return case


def finality_target() -> Case:
    """A justification is of its block, by its authorities, or refused."""
    signers = tuple(ed25519_from_seed(bytes([n]) * SEED_BYTES) for n in range(1, 5))
    authorities = AuthoritySet(SetId(3), tuple(Authority(each.public, 1) for each in signers))
    pairs = (sr25519_from_seed(b"\1" * SEED_BYTES),)
    chain = MemoryChain(config(pairs), Runtime())
    chain.block()
    header, number = chain.header, BlockNumber(chain.header.number)
    message = signed_precommit(number, header.hash(), number + 1, SetId(3))
    votes = tuple(
        Precommit(header.hash(), number, ed25519_sign(each, message), each.public)
        for each in signers[:3]
    )
    genuine = JUSTIFICATION.encode(Justification(number + 1, header.hash(), number, votes))
    encoded = HEADER.encode(header)

    def case(random: Random) -> bool:
        data = altered(random, genuine)
        head = altered(random, encoded) if random.randrange(4) == 0 else encoded
        try:
            found = decode_justification(data)
            verify_own(found, HEADER.decode(head), authorities)
        except Invalid:
            return False
        voters = {vote.authority for vote in found.precommits}
        if head != encoded or len(voters & {each.public for each in signers}) < 3:
            raise Wrong(f"a justification nobody gave was taken: 0x{data.hex()}")
        return True

    return case


def rpc_target(door: http.client.HTTPConnection) -> Case:
    """Altered requests to a running node: it answers each, and never by an error of its own."""
    names = _asked(door, _request("rpc_methods", []))["result"]["methods"]
    words: list[Any] = [
        "0x",
        "0x00",
        "0x" + "00" * 32,
        "",
        None,
        True,
        -1,
        2**64,
        1.5,
        [],
        {},
        [[]],
        "latest",
    ]
    seeds = [_request(name, []) for name in names]

    def case(random: Random) -> bool:
        if random.randrange(3):
            given = [_word(random, words, 3) for _ in range(random.randrange(5))]
            data = _request(random.choice(names), given)
        else:
            data = altered(random, random.choice(seeds), seeds)
        answer = _asked(door, data)
        for each in answer if isinstance(answer, list) else [answer]:
            if each is not None and each.get("error", {}).get("code") == RPC_INTERNAL:
                raise Wrong(f"the node answers {each['error']} to {data!r}")
        return isinstance(answer, dict) and "result" in answer

    return case


RPC_INTERNAL: Final = -32603


def _request(method: str, params: list[Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def _word(random: Random, words: Sequence[Any], depth: int) -> Any:
    match random.randrange(6):
        case 0 if depth:
            return [_word(random, words, depth - 1) for _ in range(random.randrange(4))]
        case 1 if depth:
            return {"type": _word(random, words, depth - 1), "key": random.choice(words)}
        case 2:
            return "0x" + random.randbytes(random.randrange(40)).hex()
        case 3:
            return random.randrange(-2, 300)
        case _:
            return random.choice(words)


def _asked(door: http.client.HTTPConnection, data: bytes) -> Any:
    door.request("POST", "/", data, {"content-type": "application/json"})
    found = door.getresponse().read()
    return json.loads(found) if found else None


TARGETS: Final[Mapping[str, Callable[[], Case]]] = {
    "codec": codec_target,
    "extrinsics before the pool": lambda: Extrinsics.on_a_chain().validate,
    "extrinsics in a block": lambda: Extrinsics.on_a_chain().apply,
    "storage proofs": proofs_target,
    "justifications": finality_target,
}


# ---- genuine bytes


def config(pairs: Sequence[Keypair]) -> GenesisConfig:
    made = GenesisConfig.dev(
        authority=b"g" * 32,
        simulated_root=SimulatedKey(b"\1" * 32, b"\2" * 32).public_root,
        measurement=b"m" * 48,
        runtime_id=Hash(b"r" * 32),
    )
    return replace(
        made, balances=tuple((AccountId(pair.public), Balance(10**6 * PHA)) for pair in pairs)
    )


def calls_of(pairs: Sequence[Keypair]) -> Iterator[bytes]:
    """Calls of many pallets, and one nested far deeper than is allowed."""
    to = MULTI_ADDRESS.encode(MultiAddress.of(AccountId(pairs[1].public)))
    amount = COMPACT.encode(10**12)
    transfer = b"\x05\x03" + to + amount
    remark = b"\x00\x07" + COMPACT.encode(5) + b"hello"
    yield transfer
    yield remark
    yield b"\x05\x04" + to + b"\x01"
    for kind in (0, 2, 4):
        yield bytes([8, kind]) + COMPACT.encode(2) + transfer + remark
    yield b"\x08\x01\x07\x00" + transfer
    yield b"\x09\x00" + COMPACT.encode(1) + pairs[1].public + transfer
    yield b"\x0a\x01" + to + b"\x00" + b"\0\0\0\0"
    yield b"\x0a\x00" + to + b"\x00" + transfer
    yield b"\x0b\x00" + COMPACT.encode(4) + b"note"
    yield b"\x0e\x01" + to
    nested = transfer
    for _ in range(NESTING):
        nested = b"\x08\x00" + COMPACT.encode(1) + nested
    yield nested


# ---- running


def run(cases: int, seed: int, *, only: Sequence[str] = (), node: str | None = None) -> Report:
    """Give each target its turn until there were so many cases; `node` is a running one's address.

    Raises:
        Wrong: a reader took what it must not. Any other error is one that a reader must not raise.
    """
    targets = {name: make() for name, make in TARGETS.items() if not only or name in only}
    if node is None:
        return _run(cases, seed, targets)
    place = urlsplit(node)
    door = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    with contextlib.closing(door):
        return _run(cases, seed, {**targets, "requests to a node": rpc_target(door)})


def _run(cases: int, seed: int, targets: Mapping[str, Case]) -> Report:
    random = Random(seed)  # noqa: S311 - a run can be made again
    report = Report(seed)
    report.counts = {name: Count() for name in targets}
    done, early = 0, 0
    while done < cases:
        for name, case in targets.items():
            count, started = report.counts[name], time.perf_counter()
            for _ in range(min(SLICE, cases - done)):
                state = random.getstate()
                try:
                    count.accepted += case(random)
                except BaseException as error:
                    error.add_note(f"target {name!r}, seed {seed}, case {done}, {hash(state)}")
                    raise
                done += 1
                count.cases += 1
            count.seconds += time.perf_counter() - started
        if early == 0 and done >= cases // 10:
            early = peak_bytes()
    report.growth_bytes = peak_bytes() - early
    return report


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="phala.testing.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", action="append", default=[], choices=sorted(TARGETS))
    parser.add_argument("--node", help="also send requests to this node: http://127.0.0.1:9944")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    print(f"seed {given.seed}", file=sys.stderr)  # noqa: T201
    report = run(given.cases, given.seed, only=given.only, node=given.node)
    if given.json:
        counts = {name: vars(count) for name, count in report.counts.items()}
        print(  # noqa: T201
            json.dumps({"seed": report.seed, "growth": report.growth_bytes, "targets": counts})
        )
        return 0
    for row in report.rows():
        print(row)  # noqa: T201
    print(f"memory grew by {report.growth_bytes / 2**20:.1f} MiB after the first tenth")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
