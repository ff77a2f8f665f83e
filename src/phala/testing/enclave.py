"""An enclave in one process, on a `SimChain`: platform, engine and journal in memory.

`LocalEngine` runs contracts natively. It keeps every clause that the enclave relies on, and no
limit: what limits do is the real engine's to show.
"""

import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Final

import orjson

import phala.phat
from phala.enclave import light
from phala.enclave.door import About, Enclave
from phala.enclave.identity import Identity
from phala.enclave.ports import Changes, Devices, EngineCall, EngineResult, Position
from phala.enclave.query.door import Prepared
from phala.enclave.store import Store
from phala.messages import calls
from phala.messages.host import Advance, Advanced, Attest, Wanted
from phala.messages.registration import PLATFORM_SIMULATED
from phala.messages.types import ContractId
from phala.phat.entry import Failed, call, compile_source, load
from phala.phat.local import LocalHost
from phala.tee.simulated import SimulatedPlatform, measure
from phala.tee.simulated_key import SimulatedKey
from phala.testing.sim_chain import SimChain

sys.modules.setdefault("phat", phala.phat)  # as a contract imports it

ROUNDS_MAX: Final = 64
KINDS: Final = {
    "refused": calls.ERROR_CONTRACT,
    "raised": calls.ERROR_CONTRACT,
    "argument": calls.ERROR_ARGUMENTS,
    "source": calls.ERROR_CODE,
    "read_only": calls.ERROR_STATE,
}


class HashEntropy:
    """Never the same twice, and the same in every run."""

    def __init__(self, seed: bytes = b"entropy") -> None:
        self._seed = seed
        self._count = 0

    def random_bytes(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(self._seed + self._count.to_bytes(8, "little")).digest(size)


class MemoryJournal:
    """The records, to start again from any of them."""

    def __init__(self) -> None:
        self.records: list[dict[bytes, bytes | None]] = []

    def append(self, changes: Changes) -> None:
        self.records.append(dict(changes))

    def store(self, count: int | None = None) -> Store:
        """What an enclave finds after the first `count` records."""
        store = Store()
        for record in self.records[:count]:
            store.load(record)
        store.rebuild()
        return store


class LocalEngine:
    """`enclave.ports.Engine` by calling the contract's class here."""

    def __init__(self) -> None:
        self.states: dict[ContractId, dict[bytes, bytes]] = {}
        self.positions: dict[ContractId, Position] = {}
        self.runs = 0

    def run(self, job: EngineCall) -> EngineResult:
        self.runs += 1
        host = LocalHost(job.caller)
        before = self.states.get(job.contract, {})
        host.values = dict(before)
        host.number = job.place.number
        try:
            owner = load(compile_source(job.source))
            request = {"method": job.method, "args": orjson.loads(job.arguments)}
            result = call(owner, host, job.kind, orjson.dumps(request))
        except Failed as error:
            return _failed(KINDS.get(error.kind, calls.ERROR_CRASH), error.text)
        except ValueError:
            return _failed(calls.ERROR_ARGUMENTS, "the arguments are no JSON")
        keys = sorted({*before, *host.values})
        changes = {
            key: host.values.get(key) for key in keys if before.get(key) != host.values.get(key)
        }
        return EngineResult(
            ok=True,
            result=result,
            error_kind=calls.ERROR_NONE,
            error="",
            events=tuple(host.events),
            changes={} if job.kind == "query" else changes,
            fuel_class=20,
            position=self.positions.get(job.contract),
        )

    def replace(self, contract: ContractId, state: Mapping[bytes, bytes], at: Position) -> None:
        self.states[contract] = dict(state)
        self.positions[contract] = at

    def apply(self, contract: ContractId, changes: Changes, at: Position) -> None:
        state = self.states.setdefault(contract, {})
        for key, value in changes.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        self.positions[contract] = at


def _failed(kind: int, error: str) -> EngineResult:
    return EngineResult(
        ok=False, result=b"", error_kind=kind, error=error, events=(), changes={}, fuel_class=20
    )


class SimWorker:
    """An enclave with an honest carrier."""

    def __init__(
        self,
        chain: SimChain,
        *,
        engine: LocalEngine | None = None,
        journal: MemoryJournal | None = None,
        identity: Identity | None = None,
        store: Store | None = None,
        seed: bytes = b"worker",
        devices: Devices | None = None,
    ) -> None:
        self.chain = chain
        self.engine = engine or LocalEngine()
        self.journal = journal or MemoryJournal()
        self.notes: list[str] = []
        entropy = HashEntropy(seed)
        self.identity = identity or Identity.generate(chain.genesis, entropy)[0]
        header, proof = chain.start()
        key = SimulatedKey((7).to_bytes(32, "big"), bytes(32))
        self.enclave = Enclave(
            identity=self.identity,
            start=light.start(chain.genesis, header, proof),
            store=store or Store(),
            about=About(chain.runtime_id, PLATFORM_SIMULATED, 1 << 8, 1),
            platform=SimulatedPlatform(measurement=measure(b"sim"), key=key),
            engine=self.engine,
            entropy=HashEntropy(seed + len(self.journal.records).to_bytes(4, "little")),
            journal=self.journal,
            note=self.notes.append,
            devices=devices,
        )

    def restarted(self, count: int | None = None) -> "SimWorker":
        """As after a kill when `count` records were kept; later ones are lost."""
        journal = MemoryJournal()
        journal.records = list(self.journal.records[:count])
        return SimWorker(self.chain, journal=journal, identity=self.identity, store=journal.store())

    def follow(self, through: Callable[[Advance], Advance] = lambda feed: feed) -> None:
        """To the chain's newest block. `through` is what the way does to a feed."""
        wanted: Wanted | None = None
        for _ in range(ROUNDS_MAX):
            status = self.enclave.status()
            if status.height == self.chain.number:
                return
            found = self.enclave.advance(through(self.chain.feed(status, wanted)))
            wanted = None if isinstance(found, Advanced) else found
        raise AssertionError("an honest carrier brings an enclave to the newest block")

    def settle(self) -> None:
        """Until neither side has anything to say."""
        for _ in range(ROUNDS_MAX):
            self.follow()
            new = self.chain.take(self.enclave.egress().messages)
            if not new and not self.chain.unsealed:
                return
            self.chain.seal()
        raise AssertionError("chain and enclave come to rest")

    def register(self) -> None:
        """Until the worker serves the chain's cluster."""
        self.chain.seal()
        self.follow()
        attested = self.enclave.attest(Attest(operator=None, endpoints=()))
        self.chain.register(attested.registration)
        self.chain.seal()
        self.settle()
        assert self.enclave.status().ready, "a registered worker gets its cluster's key"

    def ask(self, envelope: bytes) -> bytes:
        """A query's way through: SCALE of the `SealedReply`."""
        prepared = self.enclave.open(envelope)
        if isinstance(prepared, Prepared):
            return self.enclave.close(prepared, self.engine.run(prepared.call))
        return prepared
