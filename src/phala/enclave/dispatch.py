"""Who acts on a message: one handler for each kind of payload."""

from typing import Final, assert_never

from phala.enclave.bus import Message
from phala.enclave.clusters import commands, deploy, members
from phala.enclave.clusters.turn import Turn
from phala.enclave.gatekeeper import duty
from phala.enclave.ports import Engine
from phala.enclave.records import TOPICS
from phala.enclave.replies import Receipts
from phala.enclave.step import Step
from phala.errors import Invalid, Refused
from phala.messages.bus import Envelope
from phala.messages.payloads.cluster import (
    ClusterPayload,
    CommandQueued,
    ContractDeployed,
    GenerationRaised,
    PartialGiven,
    Skipped,
    WorkerAdded,
)
from phala.messages.payloads.system import (
    GatekeeperAppointed,
    GroupKeySet,
    KeyDue,
    SystemPayload,
    WorkerRegistered,
    WorkerRemoved,
)
from phala.messages.types import ClusterId
from phala.primitives.types import Hash

CLUSTER_PREFIX: Final = b"cluster/"


class Handlers:
    """Topics are written by pallets alone, so a payload's word is the chain's."""

    def __init__(self, engine: Engine, receipts: Receipts, runtime_id: Hash) -> None:
        self._engine = engine
        self._receipts = receipts
        self._runtime_id = runtime_id

    def apply(self, step: Step, message: Message) -> None:
        """One message and the topic's progress, in one step. What cannot be read, or a rule
        refuses, changes nothing but the progress.

        Raises:
            Unavailable: the engine decided nothing; the step must be tried again.
        """
        TOPICS.put(step.state, message.state, message.topic)
        if message.payload is None or message.envelope is None:
            step.skip(f"{_place(message)}: {message.why}")
            return
        step.state.begin()
        try:
            self._hand(step, message, message.envelope, message.payload)
        except (Invalid, Refused) as error:
            step.state.rollback()
            step.contracts.clear()
            step.skip(f"{_place(message)}: {type(error).__name__}")  # its text may hold secrets
        except BaseException:
            step.state.rollback()
            raise
        else:
            step.state.commit()

    def _hand(
        self,
        step: Step,
        message: Message,
        envelope: Envelope,
        payload: SystemPayload | ClusterPayload,
    ) -> None:
        match payload:
            case WorkerRegistered():
                pass  # the proven state says it, too
            case GatekeeperAppointed():
                duty.appointed(step, payload)
            case GroupKeySet():
                duty.group_key_set(step, payload)
            case KeyDue():
                duty.key_due(step, payload)
            case WorkerRemoved():
                duty.removed(step, payload)
            case (
                WorkerAdded()
                | PartialGiven()
                | ContractDeployed()
                | CommandQueued()
                | GenerationRaised()
                | Skipped()
            ):
                self._to_cluster(step, _turn(message, envelope), payload)
            case _:
                assert_never(payload)

    def _to_cluster(self, step: Step, turn: Turn, payload: ClusterPayload) -> None:
        members.erase_expired(step, turn)
        match payload:
            case WorkerAdded():
                members.worker_added(step, turn, payload)
            case PartialGiven():
                members.partial_given(step, turn, payload)
            case ContractDeployed():
                deploy.deployed(step, self._engine, self._receipts, turn, payload, self._runtime_id)
            case CommandQueued():
                commands.queued(step, self._engine, self._receipts, turn, payload)
            case GenerationRaised():
                members.generation_raised(step, turn, payload)
            case Skipped():
                pass  # the bus passed that message over
            case _:
                assert_never(payload)


def _turn(message: Message, envelope: Envelope) -> Turn:
    return Turn(
        cluster=cluster_of(message.topic),
        block=envelope.block,
        time=envelope.time,
        count=message.state.count,
        head=message.state.head,
    )


def cluster_of(topic: bytes) -> ClusterId:
    """The bus reads topics that `cluster_topic` made, and `system`."""
    return ClusterId(bytes.fromhex(topic.removeprefix(CLUSTER_PREFIX).decode()))


def _place(message: Message) -> str:
    return f"message {message.state.count - 1} of {message.topic.decode(errors='replace')}"
