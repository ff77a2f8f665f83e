"""One step: an overlay of the table that handlers write to, and what else the step changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from phala.enclave.identity import Identity
from phala.enclave.ports import Changes, Entropy
from phala.enclave.records import EGRESS, EGRESS_NEXT
from phala.enclave.store import Store, state_key
from phala.messages.payloads.enclave import (
    EGRESS_BODY,
    EGRESS_VERSION,
    EgressBody,
    EnclaveMessage,
    SignedMessage,
)
from phala.messages.signing import Purpose
from phala.messages.types import CodeId, ContractId
from phala.primitives.types import BlockNumber, Hash
from phala.trie.merkle import Trie
from phala.trie.state import DictBase, State


@dataclass(frozen=True, slots=True)
class Target:
    """The finalized block that a feed leads to, and the chain's next number for this worker."""

    height: BlockNumber
    hash: Hash
    ingress: int


NO_CODES: Final[Mapping[CodeId, bytes]] = MappingProxyType({})


class Step:
    """What the handlers of one message read and write. Nothing counts before it is committed."""

    def __init__(
        self,
        store: Store,
        identity: Identity,
        entropy: Entropy,
        target: Target,
        codes: Mapping[CodeId, bytes] = NO_CODES,
    ) -> None:
        self.store = store
        self.state = State(DictBase(store.data))
        self.identity = identity
        self.entropy = entropy
        self.target = target
        self.codes = codes  # that came with the feed, each under its true id
        self.contracts: dict[ContractId, tuple[Changes, Trie]] = {}
        self.notes: list[str] = []  # what was passed over, for the log: no secrets, no plaintext

    def send(self, message: EnclaveMessage) -> None:
        """Sign a message to the chain under the next number that nobody has used.

        The chain's own count matters where old files were put back: no number is used twice.
        """
        sequence = max(EGRESS_NEXT.get(self.state) or 0, self.target.ingress)
        body = EgressBody(
            version=EGRESS_VERSION,
            genesis=self.identity.genesis,
            worker=self.identity.worker,
            sequence=sequence,
            message=message,
        )
        signature = self.identity.sign(Purpose.EGRESS, EGRESS_BODY.encode(body))
        EGRESS.put(self.state, SignedMessage(body, signature), egress_key(sequence))
        EGRESS_NEXT.put(self.state, sequence + 1)

    def change(self, contract: ContractId, changes: Changes, trie: Trie) -> None:
        """Write to a contract's state; `trie` is what the state proposed for it."""
        assert contract not in self.contracts, "a step changes a contract once"
        self.contracts[contract] = changes, trie

    def skip(self, why: str) -> None:
        self.notes.append(why)

    def changes(self) -> Mapping[bytes, bytes | None]:
        """All that the step writes, for the journal."""
        merged = dict(self.state.changes())
        for contract, (changes, _) in self.contracts.items():
            for key, value in changes.items():
                merged[state_key(contract, key)] = value
        return merged


def egress_key(sequence: int) -> bytes:
    return sequence.to_bytes(8, "big")
