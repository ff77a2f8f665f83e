"""From an encrypted question to a call of the engine, and from its result to the answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from phala.codec import Malformed
from phala.crypto import aead, hpke
from phala.enclave.clusters import keys
from phala.enclave.identity import Identity, key_of
from phala.enclave.ports import EngineCall, EngineResult, Entropy, Place, Position
from phala.enclave.query.judge import Judge, QueryRefused
from phala.enclave.records import EpochKey
from phala.enclave.replies import Receipts, Subject, outcome_of, refused
from phala.enclave.view import Live, View
from phala.errors import Invalid, Refused
from phala.messages.calls import (
    CALL_VERSION,
    QUERY_CONTEXT,
    QUERY_ENVELOPE,
    QUERY_TAG,
    SEALED_REPLY,
    SIGNED_QUERY,
    Outcome,
    QueryContext,
    SignedQuery,
)
from phala.messages.padding import unpad
from phala.messages.receipts import KIND_QUERY
from phala.messages.replies import seal_reply
from phala.messages.types import ClusterId, CodeId, Count, Epoch, Generation, SealKey
from phala.primitives.types import Hash

OPENERS_MAX: Final = 3  # of the current key, the one before, the one to come
NOTHING: Final = bytes(32)


class BadQuery(Invalid):
    """The bytes are no query to this worker, and nobody's key to answer it is known."""


class UnknownEpoch(Refused):
    """The query was encrypted to a key that this worker does not have (any more)."""

    def __init__(self, epoch: int, current: int) -> None:
        super().__init__(
            f"the query is encrypted to the key of epoch {epoch}, current is {current}",
            mend="read the worker's encryption key from the chain again",
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that opened."""

    query: SignedQuery
    plaintext: bytes  # SCALE `SignedQuery`, what the receipt is about
    epoch: Epoch
    view: View


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question that may run."""

    asked: Asked
    live: Live
    call: EngineCall


class QueryDoor:
    def __init__(self, identity: Identity, receipts: Receipts, entropy: Entropy) -> None:
        self._identity = identity
        self._receipts = receipts
        self._entropy = entropy
        self._judge = Judge(identity.genesis, identity.worker)
        self._openers: dict[SealKey, tuple[hpke.Opener, bytes]] = {}

    def open(self, view: View, recent: Mapping[bytes, bytes], envelope: bytes) -> Prepared | bytes:
        """The call to run, or SCALE of a `SealedReply` that tells the caller why not.

        Raises:
            BadQuery, UnknownEpoch: there is no caller to tell in secret.
            Behind: the enclave has yet to see what the caller saw.
        """
        asked = self._opened(view, envelope)
        request = asked.query.request
        try:
            judged = self._judge.judge(view, recent, asked.query)
        except QueryRefused as error:
            return self._answer(asked, view.contracts.get(request.contract), refused(str(error)))
        call = EngineCall(
            fuel=None,
            kind="query",
            contract=request.contract,
            code_id=judged.live.contract.code_id,
            source=judged.live.source,
            method=request.method,
            arguments=request.arguments,
            caller=judged.caller,
            place=Place(view.finalized.height, view.finalized.time, view.finalized.hash),
            seed=self._entropy.random_bytes(32),
        )
        return Prepared(asked, judged.live, call)

    def close(self, prepared: Prepared, result: EngineResult) -> bytes:
        """SCALE of the `SealedReply`."""
        return self._answer(
            prepared.asked, prepared.live, outcome_of(result), ran_on=result.position
        )

    def _opened(self, view: View, envelope: bytes) -> Asked:
        """1. A known version. 2. A key of this worker. 3. It opens for this chain, worker and
        epoch. 4. It is padded, and a query."""
        try:
            found = QUERY_ENVELOPE.decode(envelope)
        except Malformed as error:
            raise BadQuery(f"this is no query envelope: {error.what}", mend=error.mend) from None
        if found.version != CALL_VERSION:  # 1
            raise BadQuery(
                f"a query of version {found.version}, known is {CALL_VERSION}",
                mend="use an SDK of this network's release",
            )
        key = key_of(view.epochs, found.epoch)
        if key is None:  # 2
            raise UnknownEpoch(found.epoch, view.epochs.current.epoch if view.epochs.current else 0)
        try:
            opener, info = self._opener(key)
            plaintext = unpad(opener.open(found.sealed, info))
            query = SIGNED_QUERY.decode(plaintext)
        except Invalid:  # 3, 4
            raise BadQuery(
                "the query does not open for this chain, worker and epoch",
                mend="encrypt it to the key that the chain lists for this worker",
            ) from None
        return Asked(query, plaintext, found.epoch, view)

    def _opener(self, key: EpochKey) -> tuple[hpke.Opener, bytes]:
        """Kept, for all queries of an epoch open with it. An old epoch's leaves with the new."""
        if key.public not in self._openers:
            identity = self._identity
            info = QUERY_CONTEXT.encode(
                QueryContext(QUERY_TAG, identity.genesis, identity.worker, key.epoch)
            )
            if len(self._openers) >= OPENERS_MAX:
                self._openers.clear()
            self._openers[key.public] = hpke.Opener(key.secret), info
        return self._openers[key.public]

    def _answer(
        self,
        asked: Asked,
        live: Live | None,
        outcome: Outcome,
        *,
        ran_on: Position | None = None,
    ) -> bytes:
        view, request = asked.view, asked.query.request
        known = live is not None and live.root_key is not None
        position = Position(Count(0), Hash(NOTHING), Hash(NOTHING))
        root_mac = NOTHING
        if live is not None and live.root_key is not None:
            topic = view.topic_of(live.contract.cluster)
            position = Position(topic.count, topic.head, live.root)
            if ran_on is not None and ran_on.root != live.root:  # a command came in between
                position = ran_on
            root_mac = keys.root_mac(live.root_key, position.count, position.root)
        subject = Subject(
            kind=KIND_QUERY,
            cluster=live.contract.cluster if live and known else ClusterId(NOTHING),
            contract=request.contract,
            code_id=live.contract.code_id if live and known else CodeId(NOTHING),
            call=request.id,
            generation=live.member.generation if live and known else Generation(0),
            epoch=asked.epoch,
        )
        reply = self._receipts.reply(
            subject,
            asked.plaintext,
            outcome,
            height=view.finalized.height,
            block_hash=view.finalized.hash,
            position=position,
            root_mac=root_mac,
        )
        nonce = self._entropy.random_bytes(aead.NONCE_BYTES)
        return SEALED_REPLY.encode(seal_reply(request.reply_key, request.id, reply, nonce=nonce))
