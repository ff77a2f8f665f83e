"""Answers: an outcome as it goes on the wire, with its receipt."""

from dataclasses import dataclass
from typing import Final

from phala.enclave.identity import Identity
from phala.enclave.ports import EngineResult, Entropy, Position
from phala.messages.calls import (
    ERROR_NONE,
    ERROR_OUTPUT,
    ERROR_REFUSED,
    EVENTS_MAX,
    OUTCOME,
    RESULT_BYTES_MAX,
    Event,
    Outcome,
    Reply,
)
from phala.messages.padding import CLASSES_BYTES, FRAME_BYTES
from phala.messages.receipts import (
    RECEIPT,
    RECEIPT_VERSION,
    Receipt,
    SignedReceipt,
    blinded,
)
from phala.messages.signing import Purpose
from phala.messages.types import CallId, ClusterId, CodeId, ContractId, Epoch, Generation
from phala.primitives.types import BlockNumber, Hash

ERROR_BYTES_MAX: Final = 4_000
RECEIPT_BYTES: Final = 512  # of a reply: receipt, signature, blinder and frame are less
OUTCOME_BYTES_MAX: Final = CLASSES_BYTES[-1] - FRAME_BYTES - RECEIPT_BYTES


@dataclass(frozen=True, slots=True)
class Subject:
    """What a receipt is about."""

    kind: int
    cluster: ClusterId
    contract: ContractId
    code_id: CodeId
    call: CallId
    generation: Generation
    epoch: Epoch


def outcome_of(found: EngineResult) -> Outcome:
    """As it goes on the wire. What does not fit there is an error of its own, and the same on
    every replica."""
    if not found.ok:
        return failed(found.error_kind, found.error, fuel_class=found.fuel_class)
    events_fit = len(found.events) <= EVENTS_MAX and all(
        len(name.encode()) <= 64 and len(data) <= 4096 for name, data in found.events
    )
    if not events_fit or len(found.result) > RESULT_BYTES_MAX:
        return _too_large(found)
    outcome = Outcome(
        ok=True,
        result=found.result,
        error_kind=ERROR_NONE,
        error="",
        events=tuple(Event(name, data) for name, data in found.events),
        fuel_class=found.fuel_class,
    )
    return outcome if len(OUTCOME.encode(outcome)) <= OUTCOME_BYTES_MAX else _too_large(found)


def failed(kind: int, text: str, *, fuel_class: int = 0) -> Outcome:
    cut = text.encode()[:ERROR_BYTES_MAX].decode(errors="ignore")
    return Outcome(
        ok=False, result=b"", error_kind=kind, error=cut, events=(), fuel_class=fuel_class
    )


def refused(text: str) -> Outcome:
    return failed(ERROR_REFUSED, text)


def _too_large(found: EngineResult) -> Outcome:
    size = len(found.result) + sum(len(data) for _, data in found.events)
    return failed(
        ERROR_OUTPUT,
        f"result and events are {size} bytes; at most {RESULT_BYTES_MAX} of result and "
        f"{EVENTS_MAX} events of 4096 travel in one reply: return less",
        fuel_class=found.fuel_class,
    )


class Receipts:
    """Signs what this worker swears to."""

    def __init__(self, identity: Identity, entropy: Entropy) -> None:
        self._identity = identity
        self._entropy = entropy

    def reply(
        self,
        subject: Subject,
        request: bytes,
        outcome: Outcome,
        *,
        height: BlockNumber,
        block_hash: Hash,
        position: Position,
        root_mac: bytes,
    ) -> Reply:
        """For the caller's eyes alone: it is yet to be sealed."""
        blinder = self._entropy.random_bytes(32)
        body = Receipt(
            version=RECEIPT_VERSION,
            kind=subject.kind,
            genesis=self._identity.genesis,
            cluster=subject.cluster,
            contract=subject.contract,
            code_id=subject.code_id,
            call=subject.call,
            request=blinded(blinder, request),
            response=blinded(blinder, OUTCOME.encode(outcome)),
            height=height,
            block_hash=block_hash,
            count=position.count,
            head=position.head,
            root_mac=root_mac,
            worker=self._identity.worker,
            generation=subject.generation,
            epoch=subject.epoch,
        )
        signature = self._identity.sign(Purpose.RECEIPT, RECEIPT.encode(body))
        return Reply(outcome, blinder, SignedReceipt(body, signature))
