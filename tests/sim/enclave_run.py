"""Two replicas of a cluster under random commands, faulty carriers and kills, from a seed.

Prints what both must agree on: run twice, under other hash seeds, it is the same.
"""

import hashlib
import random
import sys
from dataclasses import replace
from pathlib import Path

import phala.phat
from phala.enclave.records import CONTRACTS, TOPICS
from phala.errors import Invalid, Refused
from phala.messages.host import Advance, Attest
from phala.messages.types import ContractId
from phala.testing.caller import Caller, Sent
from phala.testing.enclave import SimWorker
from phala.testing.sim_chain import SimChain

COUNTER = (Path(phala.phat.__file__).parent / "templates" / "counter.py").read_bytes()
ROUNDS = 60


def faulty(feed: Advance, dice: random.Random) -> Advance:
    """A carrier's mistake or malice, in some part of the feed."""
    match dice.randrange(6):
        case 0:
            return replace(feed, batches=feed.batches[1:])
        case 1:
            return replace(feed, batches=(*feed.batches, *feed.batches))
        case 2:
            batches = (replace(each, envelopes=each.envelopes[::-1]) for each in feed.batches)
            return replace(feed, batches=tuple(batches))
        case 3:
            return replace(feed, proof=feed.proof[1:])
        case 4:
            first = feed.headers[0]
            broken = replace(first, justification=first.justification[:-1] + b"\0")
            return replace(feed, headers=(broken, *feed.headers[1:]))
        case _:
            return feed


class Replica:
    def __init__(self, chain: SimChain, seed: bytes, dice: random.Random) -> None:
        self.worker = SimWorker(chain, seed=seed)
        self.dice = dice

    def live(self) -> None:
        """Sometimes away, sometimes lied to, sometimes killed; then up to date."""
        if self.dice.random() < 0.3:
            return
        chain = self.worker.chain
        for _ in range(self.dice.randrange(3)):
            status = self.worker.enclave.status()
            if status.height < chain.number:
                try:
                    self.worker.enclave.advance(faulty(chain.feed(status), self.dice))
                except (Invalid, Refused):
                    continue
        if self.dice.random() < 0.2:
            self.worker = self.worker.restarted()
        self.worker.follow()
        chain.take(self.worker.enclave.egress().messages)

    def essence(self) -> str:
        store = self.worker.enclave.store
        digest = hashlib.sha256()
        for name in sorted(store.states):
            state = store.states[name]
            if not state.values:
                continue  # whether an empty one was ever written to is nobody's business
            digest.update(name + state.trie.root + repr(sorted(state.values.items())).encode())
        digest.update(repr(list(CONTRACTS.items(store.data))).encode())
        digest.update(
            repr([(topic, each.count) for topic, each in TOPICS.items(store.data)]).encode()
        )
        return digest.hexdigest()


def main(seed: int) -> None:
    dice = random.Random(seed)
    chain = SimChain()
    replicas = [Replica(chain, bytes([n]), dice) for n in (1, 2)]
    chain.seal()
    for each in replicas:
        each.worker.follow()
        chain.register(each.worker.enclave.attest(Attest(None, ())).registration)
    chain.seal()
    for _ in range(4):
        for each in replicas:
            each.worker.settle()
    callers = [Caller(chain, name) for name in (b"alice", b"bob", b"carol")]
    contracts: list[ContractId] = []
    sent: list[tuple[ContractId, Sent]] = []
    for number in range(ROUNDS):
        for _ in range(dice.randrange(4)):
            caller = dice.choice(callers)
            live = [each for each in contracts if each in chain.keys]
            match dice.randrange(5):
                case 0:
                    source = COUNTER if dice.random() < 0.8 else b"no python"
                    contracts.append(caller.deploy(source, salt=number.to_bytes(4, "big")))
                case 1 if sent:
                    contract, copied = dice.choice(sent)
                    caller.submit(contract, copied)
                case _ if live:
                    contract = dice.choice(live)
                    sent.append((contract, caller.send(contract, "add", n=dice.randrange(9))))
                case _:
                    pass
        chain.seal()
        for each in replicas:
            each.live()
    for _ in range(4):
        for each in replicas:
            each.worker.settle()
    first, second = (each.essence() for each in replicas)
    assert first == second, "replicas hold the same"
    assert all(each.worker.enclave.status().ready for each in replicas)
    # Ciphertexts hold fresh keys in every run, so hashes over them are no part of what is printed.
    states = replicas[0].worker.enclave.store.states
    totals = sorted(str(sorted(state.values.items())) for state in states.values())
    digest = hashlib.sha256(repr(totals).encode()).hexdigest()
    sys.stdout.write(f"{len(contracts)} {len(chain.keys)} {len(sent)} {digest}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
