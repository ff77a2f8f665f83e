"""Deployments: code from the chain becomes a contract, or is said to have failed."""

from phala.crypto.secret import Secret
from phala.enclave.clusters import keys
from phala.enclave.clusters.members import announce, key_of, membership, missed
from phala.enclave.clusters.settle import settle
from phala.enclave.clusters.turn import Turn
from phala.enclave.kept import keep
from phala.enclave.ports import Engine, EngineCall, Place, Position
from phala.enclave.records import (
    CODES,
    CONTRACT_FAILED,
    CONTRACT_LIVE,
    CONTRACTS,
    EPOCHS,
    NO_KEYS,
    Contract,
    Kept,
)
from phala.enclave.replies import Receipts, Subject, failed
from phala.enclave.step import Step
from phala.enclave.store import Readable
from phala.errors import Invalid
from phala.messages.calls import ERROR_CODE, ERROR_FUEL, SEALED_REPLY, Outcome
from phala.messages.fuel import fuel_known, fuel_of
from phala.messages.payloads.cluster import KIND_PY_SOURCE, ContractDeployed
from phala.messages.payloads.enclave import ContractFailed
from phala.messages.receipts import KIND_DEPLOY
from phala.messages.replies import seal_deployed
from phala.messages.types import CodeId, Epoch, Generation
from phala.primitives.types import Hash


def epoch_of(state: Readable) -> Epoch:
    current = (EPOCHS.get(state) or NO_KEYS).current
    return current.epoch if current else Epoch(0)


def wanted_code(payload: ContractDeployed, runtime_id: Hash, state: Readable) -> CodeId | None:
    """The code that this deployment needs and that is not here yet."""
    if payload.runtime_id != runtime_id or payload.kind != KIND_PY_SOURCE:
        return None  # it fails, whatever the code
    return payload.code_id if CODES.get(state, payload.code_id) is None else None


def deployed(
    step: Step,
    engine: Engine,
    receipts: Receipts,
    turn: Turn,
    payload: ContractDeployed,
    runtime_id: Hash,
) -> None:
    """Instantiate a contract.

    1. This worker serves the cluster and holds the key of its generation.
    2. No contract has this id.
    3. Kind and runtime are what this worker runs, and there is such a class of fuel.
    4. The code is here (the bus took it under its own hash only).
    5. `instantiate` succeeded; else nothing of it stays but the failure.
    """
    own = membership(step.state, turn.cluster)
    key = key_of(step.state, turn.cluster, own.generation)
    if not own.serves or key is None:  # 1
        missed(step, turn, "a deployment without the cluster's key")
        return
    if CONTRACTS.get(step.state, payload.contract) is not None:  # 2
        step.skip(f"contract {payload.contract.hex()} is there already")
        return
    root = step.store.state_of(payload.contract).trie.root
    source = b""
    if payload.kind != KIND_PY_SOURCE or payload.runtime_id != runtime_id:  # 3
        outcome = failed(ERROR_CODE, f"this worker runs the runtime 0x{runtime_id.hex()} only")
    elif not fuel_known(payload.fuel):
        outcome = failed(ERROR_FUEL, f"there is no class {payload.fuel} of fuel")
    else:
        source = CODES.get(step.state, payload.code_id) or step.codes[payload.code_id]  # 4
        outcome, root = _instantiate(step, engine, turn, payload, source, key)
    contract = Contract(
        cluster=turn.cluster,
        code_id=payload.code_id,
        kind=payload.kind,
        deployer=payload.deployer,
        deployed_at=turn.block,
        state=CONTRACT_LIVE if outcome.ok else CONTRACT_FAILED,
        announced=Generation(0),
    )
    CONTRACTS.put(step.state, contract, payload.contract)
    if outcome.ok:
        CODES.put(step.state, source, payload.code_id)
        announce(step, payload.contract, contract, own.generation, key)
    else:
        step.send(ContractFailed(payload.contract))
    _answer(step, receipts, turn, payload, outcome, root, own.generation, key)


def _instantiate(
    step: Step,
    engine: Engine,
    turn: Turn,
    payload: ContractDeployed,
    source: bytes,
    key: Secret,
) -> tuple[Outcome, Hash]:
    """The outcome, and the root of the contract's state after it."""
    found = engine.run(
        EngineCall(
            kind="instantiate",
            contract=payload.contract,
            code_id=payload.code_id,
            source=source,
            method="",
            arguments=payload.arguments,
            caller=payload.deployer,
            place=Place(turn.block, turn.time, turn.head),
            seed=keys.seed(key, payload.contract, turn.count, turn.head),
            fuel=fuel_of(payload.fuel),
        )
    )
    return settle(step, payload.contract, found)  # 5


def _answer(
    step: Step,
    receipts: Receipts,
    turn: Turn,
    payload: ContractDeployed,
    outcome: Outcome,
    root: Hash,
    generation: Generation,
    key: Secret,
) -> None:
    subject = Subject(
        kind=KIND_DEPLOY,
        cluster=turn.cluster,
        contract=payload.contract,
        code_id=payload.code_id,
        call=payload.call,
        generation=generation,
        epoch=epoch_of(step.state),
    )
    reply = receipts.reply(
        subject,
        payload.arguments,
        outcome,
        height=step.target.height,
        block_hash=step.target.hash,
        position=Position(turn.count, turn.head, root),
        root_mac=keys.root_mac(keys.root_key(key), turn.count, root),
    )
    try:
        sealed = seal_deployed(payload.reply_to, step.identity.genesis, payload.call, reply)
    except Invalid as error:
        kept = Kept(turn.block, b"", f"the outcome has no receiver: {error.what}".encode()[:256])
    else:
        kept = Kept(turn.block, SEALED_REPLY.encode(sealed), b"")
    keep(step.state, payload.call, kept)
