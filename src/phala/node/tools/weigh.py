"""Measures what calls take: time and proof size of their worst cases, over a real store.

A call's time is what decoding, running and telling of it take, plus what the store takes for each
key that it reads and each that it writes. The latter two are measured beforehand: reads of single
keys, and a block of a thousand writes with its trie and its commit. All of it is this thread's own
time, which others on the machine take less of. Where a call is measured for
several counts, a line is laid through what was found, and lifted until it covers all of it.
"""

import gc
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from pathlib import Path
from typing import Final

from phala.crypto.signatures import sr25519_from_seed, sr25519_sign, sr25519_verify
from phala.frame import Block, Measured
from phala.node.chain import Chain, NextBase
from phala.node.store import Store
from phala.primitives.address import MultiAddress, MultiSignature
from phala.primitives.extrinsic import IMMORTAL, Extrinsic, Signature
from phala.primitives.header import Header
from phala.primitives.keys import storage_prefix
from phala.primitives.types import Balance, BlockNumber, Hash, Moment
from phala.runtime import GenesisConfig, Runtime
from phala.runtime.attestation import AttestVerifier
from phala.runtime.executive import EVENTS
from phala.runtime.weighing import CASE_HEIGHT, CASES, FUNDS, Case, bench_account, encode_call
from phala.runtime.world import CALLS, World
from phala.trie import EMPTY_ROOT, Layout, State, Trie

ACCOUNTS_MIN: Final = 5_000  # that cases name
READS: Final = 2_000
WRITES: Final = 1_000
BLOCKS: Final = 8
PHASE: Final = 1
ANY_POINT: Final = bytes.fromhex(  # of P-256: its generator, compressed
    "036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
)
PS: Final = 1_000  # picoseconds in a nanosecond


@dataclass(frozen=True, slots=True)
class Costs:
    """What the store takes, in picoseconds."""

    read: int
    write: int


@dataclass(frozen=True, slots=True)
class Found:
    """What one call took."""

    pallet: str
    call: str
    measured: Measured
    reads: int  # of the largest count
    writes: int


class Prepared:
    """A state as a case left it, which remembers what is read."""

    def __init__(self, setup: Mapping[bytes, bytes | None], base: NextBase) -> None:
        self._setup = setup
        self._base = base
        self.read: set[bytes] = set()

    def get(self, key: bytes, /) -> bytes | None:
        self.read.add(key)
        if key in self._setup:
            return self._setup[key]
        return self._base.get(key)

    def keys(self, prefix: bytes, /) -> Iterator[bytes]:
        added = sorted(
            key
            for key, value in self._setup.items()
            if value is not None and key.startswith(prefix)
        )
        kept = (key for key in self._base.keys(prefix) if key not in self._setup)
        return merge(added, kept)


def open_scale(folder: Path, accounts: int) -> Chain:
    """A chain in a store of its own, with so many accounts."""
    runtime = Runtime()
    config = GenesisConfig.dev(
        authority=b"a" * 32,
        simulated_root=ANY_POINT,
        measurement=b"m" * 48,
        runtime_id=Hash(b"i" * 32),
    )
    many = tuple((bench_account(n), FUNDS) for n in range(max(accounts, ACCOUNTS_MIN)))
    state = sorted(runtime.genesis(replace(config, balances=many)).items())
    store = Store(folder / "db")
    store.create(runtime.genesis_header(Trie.build(state, Layout.V1).root), state)
    return Chain(store)


def store_costs(chain: Chain) -> Costs:
    """What a read and a write take of this store, as it is filled now."""
    prefix = storage_prefix("System", "Account")
    keys = list(chain.keys(prefix, chain.head.number))
    dice = random.Random(1)  # noqa: S311 - places in a bench
    asked = [dice.choice(keys) for _ in range(READS)]
    begun = time.thread_time_ns()
    for key in asked:
        chain.store.flat(key)
    read = (time.thread_time_ns() - begun) * PS // READS
    times: list[int] = []
    for block in range(BLOCKS):
        written = sorted(dice.sample(keys, WRITES))
        changes = tuple((key, _touched(chain, key, block)) for key in written)
        begun = time.thread_time_ns()
        root = chain.root_with(changes)
        header = Header(chain.head.hash(), BlockNumber(chain.head.number + 1), root, EMPTY_ROOT, ())
        chain.append(header, (), changes, ())
        times.append(time.thread_time_ns() - begun)
    return Costs(read, quick(times) * PS // WRITES)


def _touched(chain: Chain, key: bytes, block: int) -> bytes:
    """An account's record with another nonce."""
    found = chain.value(key, chain.head.number)
    assert found is not None
    return (block + 1).to_bytes(4, "little") + found[4:]


def quick(times: Sequence[int]) -> int:
    """A quarter of the times were shorter: what is longer waited for other work of the machine."""
    return sorted(times)[len(times) // 4]


def base_extrinsic(chain: Chain, *, repeat: int) -> int:
    """What every signed extrinsic takes beside its call, in picoseconds: its signature, its fee,
    its nonce and the events of these. Ask before `store_costs`, whose block is no real one."""
    builder = Runtime().open_block(State(chain.next_base()), chain.head)
    for inherent in builder.inherents(Moment(1)):
        builder.apply(inherent)
    call = encode_call("System", "remark", (b"",))
    pair = sr25519_from_seed(b"\1" * 32)
    signature = sr25519_sign(pair, call)
    times: list[int] = []
    for number in range(repeat + 1):
        by = Signature(
            MultiAddress.of(bench_account(number)),
            MultiSignature(1, signature),
            IMMORTAL,
            0,
            Balance(0),
        )
        extrinsic = Extrinsic(by, call).encode()
        begun = time.thread_time_ns()
        builder.apply(extrinsic, check_signature=False)
        sr25519_verify(pair.public, call, signature)
        times.append(time.thread_time_ns() - begun)
    return quick(times[1:]) * PS


def weigh(
    chain: Chain,
    costs: Costs,
    *,
    repeat: int,
    only: str = "",
    tell: Callable[[Found], None] = lambda _: None,
) -> list[Found]:
    """Measure every call that has a case, or those of the pallet `only`."""
    found = []
    for (pallet, call), case in CASES.items():
        if only in ("", pallet):
            found.append(weigh_call(chain, costs, pallet, call, case, repeat=repeat))
            tell(found[-1])
    return found


def weigh_call(
    chain: Chain, costs: Costs, pallet: str, call: str, case: Case, *, repeat: int
) -> Found:
    times: list[int] = []
    proofs: list[int] = []
    reads = writes = 0
    for count in case.counts:
        took, proof, reads, writes = _weigh_once(chain, pallet, call, case, count, repeat)
        times.append(took + reads * costs.read + writes * costs.write)
        proofs.append(proof)
    ref_time, each = line_over(case.counts, times)
    proof_size, proof_each = line_over(case.counts, proofs)
    return Found(pallet, call, Measured(ref_time, each, proof_size, proof_each), reads, writes)


def _weigh_once(
    chain: Chain, pallet: str, name: str, case: Case, count: int, repeat: int
) -> tuple[int, int, int, int]:
    """Picoseconds, bytes of proof, keys read, keys written."""
    base = chain.next_base()
    prepared = World(Block(CASE_HEIGHT, State(base), phase=PHASE), AttestVerifier())
    origin, arguments = case.make(prepared, count)
    setup = dict(prepared.block.state.changes())
    data = encode_call(pallet, name, arguments)
    times: list[int] = []
    gc.collect()
    gc.disable()
    for _ in range(repeat + 1):
        over = Prepared(setup, base)
        block = Block(CASE_HEIGHT, State(over), phase=PHASE)
        world = World(block, AttestVerifier())
        told = bytearray()
        begun = time.thread_time_ns()
        call = CALLS.decode(data)
        call.dispatch(world.pallets[call.pallet], origin)
        EVENTS.write_records(told, block.phases, block.events)
        block.state.settle()
        times.append(time.thread_time_ns() - begun)
    gc.enable()
    proof = sum(map(len, chain.prove(sorted(over.read), chain.head.number)))
    proof += sum(len(setup.get(key) or b"") for key in over.read)
    return (
        quick(times[1:]) * PS,  # the first one filled the caches
        proof,
        len(over.read),
        len(block.state.changes()),
    )


def line_over(counts: Sequence[int], values: Sequence[int]) -> tuple[int, int]:
    """What there is at least, and for each: by least squares, lifted over every value."""
    if len(counts) == 1:
        return values[0], 0
    each = max(0, round(statistics.linear_regression(counts, values).slope))
    least = max(value - each * count for count, value in zip(counts, values, strict=True))
    return max(0, least), each


def machine() -> str:
    """This machine in a few words."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.machine()}, Python {platform.python_version()}"


def module_of(found: Sequence[Found], costs: Costs, base: int, *, day: str, accounts: int) -> str:
    """The source of `phala.runtime.measured`."""
    lines = [
        '"""What calls took, in picoseconds and bytes: written by `phala bench weights --write`.',
        "",
        f"{day}, {machine()};",
        f"{accounts} accounts; {costs.read} ps a read, {costs.write} ps a write.",
        '"""',
        "",
        "from collections.abc import Mapping",
        "from types import MappingProxyType",
        "from typing import Final",
        "",
        "from phala.frame import Measured",
        "",
        f"EXTRINSIC: Final = {base:_}  # a signed one, beside its call",
        "",
        "MEASURED: Final[Mapping[tuple[str, str], Measured]] = MappingProxyType(",
        "    {",
    ]
    for each in found:
        values = each.measured
        numbers = [values.ref_time, values.each, values.proof_size, values.proof_each]
        while numbers[1:] and not numbers[-1]:
            del numbers[-1]
        shown = ", ".join(f"{number:_}" for number in numbers)
        lines.append(f'        ("{each.pallet}", "{each.call}"): Measured({shown}),')
    return "\n".join([*lines, "    }", ")", ""])
