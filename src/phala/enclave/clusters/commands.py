"""Commands: opened for the sender that the chain names, run once, their effect kept on success."""

from dataclasses import dataclass
from typing import Final

from phala.codec import Malformed
from phala.crypto import aead, hpke
from phala.crypto.secret import Secret
from phala.enclave.clusters import keys
from phala.enclave.clusters.deploy import epoch_of
from phala.enclave.clusters.members import key_of, membership, missed
from phala.enclave.clusters.settle import settle
from phala.enclave.clusters.turn import Turn
from phala.enclave.kept import is_seen, keep, see
from phala.enclave.ports import Engine, EngineCall, EngineResult, Place, Position
from phala.enclave.records import CODES, CONTRACT_LIVE, CONTRACTS, Contract, Kept
from phala.enclave.replies import Receipts, Subject
from phala.enclave.step import Step
from phala.errors import Invalid, Refused
from phala.messages.calls import (
    COMMAND_BLOCKS_MAX,
    COMMAND_CONTEXT,
    COMMAND_ENVELOPE,
    COMMAND_REQUEST,
    COMMAND_TAG,
    COMMAND_VERSION,
    SEALED_REPLY,
    CommandContext,
    CommandEnvelope,
    CommandRequest,
    command_id,
)
from phala.messages.fuel import fuel_known, fuel_of
from phala.messages.padding import unpad
from phala.messages.payloads.cluster import CommandQueued
from phala.messages.receipts import KIND_COMMAND
from phala.messages.replies import seal_reply
from phala.messages.types import Generation

NOT_LIVE: Final = "deploy the contract first, and wait until it is live"
SEND_AGAIN: Final = "read the contract's key from the chain and encrypt the command again"


class CommandRefused(Refused):
    """A command was refused before it ran, and nobody's key was known to encrypt the reason to.
    So the reason tells only what the chain shows anyway."""

    def __init__(self, what: str, *, mend: str = SEND_AGAIN) -> None:
        super().__init__(what, mend=mend)


class Repeated(Refused):
    """The very same command was taken before. Its first outcome stays."""

    def __init__(self, payload: CommandQueued) -> None:
        super().__init__(
            f"command {payload.call.hex()} was taken before", mend="encrypt a new command"
        )


@dataclass(frozen=True, slots=True)
class Opened:
    """A command that may run."""

    contract: Contract
    generation: Generation
    key: Secret  # the cluster's, of that generation
    fuel: int
    plaintext: bytes
    request: CommandRequest


def queued(
    step: Step, engine: Engine, receipts: Receipts, turn: Turn, payload: CommandQueued
) -> None:
    own = membership(step.state, turn.cluster)
    if not own.serves or not own.whole:
        missed(step, turn, "a command to a replica that is not whole")
        return
    try:
        opened = verify(step, turn, payload)
    except Repeated as error:
        step.skip(error.what)
        return
    except CommandRefused as error:
        keep(step.state, payload.call, Kept(turn.block, b"", f"{error}".encode()[:256]))
        step.skip(f"command {payload.call.hex()} was refused: {error.what}")
        return
    _run(step, engine, receipts, turn, payload, opened)


def verify(step: Step, turn: Turn, payload: CommandQueued) -> Opened:
    """A command whose sender may be answered.

    1. The contract is live, in this cluster.
    2. The envelope is of a known version, and names a class of fuel.
    3. Its generation is the newest, or the one before within its grace; the key is here.
    4. It has not expired, and does not expire too far ahead.
    5. The contract runs the code that it is meant for.
    6. The chain named it rightly, and it was not taken before.
    7. It opens for exactly this chain, cluster, contract, sender, generation, code, expiry and
       fuel: the sender is the chain's, so a copy by somebody else does not.
    8. It is padded, and a command.

    Raises:
        Repeated: check 6.
        CommandRefused: any other.
    """
    contract = CONTRACTS.get(step.state, payload.contract)
    if contract is None or contract.state != CONTRACT_LIVE or contract.cluster != turn.cluster:
        raise CommandRefused(f"{payload.contract.hex()} is no live contract here", mend=NOT_LIVE)
    try:
        envelope = COMMAND_ENVELOPE.decode(payload.envelope)
    except Malformed as error:
        raise CommandRefused(f"this is no command envelope: {error.what}") from None
    if envelope.version != COMMAND_VERSION:  # 2
        raise CommandRefused(f"version {envelope.version} is not {COMMAND_VERSION}")
    if not fuel_known(envelope.fuel):
        raise CommandRefused(f"there is no class {envelope.fuel} of fuel")
    key = _key(step, turn, envelope)
    if not turn.block <= envelope.expires <= turn.block + COMMAND_BLOCKS_MAX:  # 4
        raise CommandRefused(
            f"it expires in block {envelope.expires}, and this is block {turn.block} "
            f"(at most {COMMAND_BLOCKS_MAX} blocks ahead are allowed)"
        )
    if envelope.code_id not in (None, contract.code_id):  # 5
        raise CommandRefused("the contract runs other code than the command is meant for")
    genesis = step.identity.genesis
    if payload.call != command_id(genesis, payload.contract, payload.sender, envelope):
        raise CommandRefused("its id is not the hash of it")
    if is_seen(step.state, payload.call):  # 6
        raise Repeated(payload)
    see(step.state, payload.call, expires=envelope.expires, now=turn.block)
    context = CommandContext(
        tag=COMMAND_TAG,
        genesis=genesis,
        cluster=turn.cluster,
        contract=payload.contract,
        sender=payload.sender,
        generation=envelope.generation,
        code_id=envelope.code_id,
        expires=envelope.expires,
        fuel=envelope.fuel,
    )
    secret = keys.command_secret(key, payload.contract)
    try:
        plaintext = unpad(
            hpke.open_sealed(secret, envelope.sealed, COMMAND_CONTEXT.encode(context))  # 7
        )
        request = COMMAND_REQUEST.decode(plaintext)  # 8
    except Invalid:
        raise CommandRefused(
            f"it does not open for the sender 0x{payload.sender.hex()}: it is a copy of another "
            "account's command, or was encrypted for something else"
        ) from None
    return Opened(contract, envelope.generation, key, fuel_of(envelope.fuel), plaintext, request)


def _key(step: Step, turn: Turn, envelope: CommandEnvelope) -> Secret:
    own = membership(step.state, turn.cluster)
    in_grace = envelope.generation == own.previous and turn.block <= own.previous_until
    key = key_of(step.state, turn.cluster, envelope.generation)
    if key is None or not (envelope.generation == own.generation or in_grace):  # 3
        raise CommandRefused(
            f"generation {envelope.generation} has ended; {own.generation} is current"
        )
    return key


def _run(
    step: Step,
    engine: Engine,
    receipts: Receipts,
    turn: Turn,
    payload: CommandQueued,
    opened: Opened,
) -> None:
    found = _execute(step, engine, turn, payload, opened)
    outcome, root = settle(step, payload.contract, found)
    subject = Subject(
        kind=KIND_COMMAND,
        cluster=turn.cluster,
        contract=payload.contract,
        code_id=opened.contract.code_id,
        call=payload.call,
        generation=opened.generation,
        epoch=epoch_of(step.state),
    )
    reply = receipts.reply(
        subject,
        opened.plaintext,
        outcome,
        height=step.target.height,
        block_hash=step.target.hash,
        position=Position(turn.count, turn.head, root),
        root_mac=keys.root_mac(keys.root_key(opened.key), turn.count, root),
    )
    nonce = step.entropy.random_bytes(aead.NONCE_BYTES)
    sealed = seal_reply(opened.request.reply_key, payload.call, reply, nonce=nonce)
    keep(step.state, payload.call, Kept(turn.block, SEALED_REPLY.encode(sealed), b""))


def _execute(
    step: Step, engine: Engine, turn: Turn, payload: CommandQueued, opened: Opened
) -> EngineResult:
    source = CODES.get(step.state, opened.contract.code_id)
    assert source is not None, "a live contract's code is kept"
    return engine.run(
        EngineCall(
            kind="command",
            contract=payload.contract,
            code_id=opened.contract.code_id,
            source=source,
            method=opened.request.method,
            arguments=opened.request.arguments,
            caller=payload.sender,
            place=Place(turn.block, turn.time, turn.head),
            seed=keys.seed(opened.key, payload.contract, turn.count, turn.head),
            fuel=opened.fuel,
        )
    )
