"""What a call did, and which of it counts: the same on every replica."""

from typing import Final

from phala.enclave.ports import EngineResult
from phala.enclave.replies import failed, outcome_of
from phala.enclave.step import Step
from phala.enclave.store import Store
from phala.messages.calls import ERROR_STATE, Outcome
from phala.messages.types import ContractId
from phala.primitives.types import Hash

# All lies in memory, here and in engine children: whoever writes must not be able to fill it.
STATE_BYTES_MAX: Final = 64 << 20  # of one contract
STATES_BYTES_MAX: Final = 512 << 20  # of all; `wasm.pool` keeps as much in a child


def settle(step: Step, contract: ContractId, found: EngineResult) -> tuple[Outcome, Hash]:
    """The outcome, and the root of the contract's state after it. On success its writes are in the
    step; where they find no room, they are none and the outcome says so."""
    outcome = outcome_of(found)
    state = step.store.state_of(contract)
    if outcome.ok and found.changes:
        full = _full(step.store, contract, found)
        if full is not None:
            outcome = failed(ERROR_STATE, full, fuel_class=found.fuel_class)
    if not outcome.ok:
        return outcome, state.trie.root
    if not found.changes and contract in step.store.states:
        return outcome, state.trie.root
    trie = state.proposed(found.changes)
    step.change(contract, found.changes, trie)
    return outcome, trie.root


def _full(store: Store, contract: ContractId, found: EngineResult) -> str | None:
    """Why a state that grows has no room; one that shrinks always has."""
    state = store.state_of(contract)
    size = state.size_after(found.changes)
    if size <= state.size_bytes:
        return None
    if size > STATE_BYTES_MAX:
        return (
            f"the contract's state would have {size} bytes; at most {STATE_BYTES_MAX}: "
            "delete what it no longer needs"
        )
    whole = sum(each.size_bytes for each in store.states.values()) - state.size_bytes + size
    if whole > STATES_BYTES_MAX:
        return (
            f"this worker's contracts would have {whole} bytes of state; at most "
            f"{STATES_BYTES_MAX}: wait for another worker, or delete what is not needed"
        )
    return None
