"""Who asks, and whether the question is fresh, new and for a contract here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from phala.crypto.hashes import blake2_256
from phala.crypto.signatures import BadSignature, sr25519_verify
from phala.enclave.records import CONTRACT_LIVE, RECENT, RECENT_BLOCKS
from phala.enclave.view import Live, View
from phala.errors import Refused, Unavailable
from phala.messages.calls import (
    CERTIFICATE,
    QUERY_AGE_MS_MAX,
    QUERY_REQUEST,
    QueryRequest,
    SignedCertificate,
    SignedQuery,
)
from phala.messages.signing import Purpose, signed_bytes, wrapped
from phala.messages.types import CallId, WorkerId
from phala.primitives.types import AccountId, Hash

AHEAD_MS_MAX: Final = 60_000  # a client's block may be that much newer than the enclave's
BEHIND_BLOCKS_MAX: Final = 16  # further ahead, waiting is no use
REMEMBERED_MAX: Final = 500_000  # ids within their age: four thousand queries a second
CERTIFICATES_MAX: Final = 10_000  # verified ones that need no second verification


class QueryRefused(Refused):
    """A rule says no to a question. Its text is for the caller alone."""

    def __init__(self, what: str, *, mend: str) -> None:
        super().__init__(what, mend=mend)


class Behind(Unavailable):
    """The caller has seen more of the chain than the enclave."""

    def __init__(self, what: str) -> None:
        super().__init__(what, mend="ask again in a moment")


class Memory:
    """Ids of queries taken, for as long as they could be sent again.

    It is gone after a restart: a query may then run twice, which harms nobody (DESIGN §5).
    """

    def __init__(self) -> None:
        self._until: dict[CallId, int] = {}

    def add(self, call: CallId, *, until: int, now: int) -> None:
        """Raises `QueryRefused` for an id that is there, `Unavailable` when all is full."""
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] >= now:
                break
            del self._until[oldest]
        if call in self._until:
            raise QueryRefused("this query was taken before", mend="make a new id for each query")
        if len(self._until) >= REMEMBERED_MAX:
            raise Unavailable(
                f"{REMEMBERED_MAX} queries came within two minutes", mend="ask again later"
            )
        self._until[call] = until


@dataclass(frozen=True, slots=True)
class Judged:
    caller: AccountId | None
    live: Live


class Judge:
    def __init__(self, genesis: Hash, worker: WorkerId) -> None:
        self._genesis = genesis
        self._worker = worker
        self._memory = Memory()
        self._verified: dict[bytes, None] = {}

    def judge(self, view: View, recent: Mapping[bytes, bytes], query: SignedQuery) -> Judged:
        """Whether a query may run, and for whom.

        1. It has not expired at the proven block time, and does not live longer than its age.
        2. With a certificate: the certificate has not expired, its account signed it, bare or as a
           browser's wallet does, and its session key signed this query for this worker. Without
           one there is no signature either, and the caller is nobody.
        3. The caller's finalized block is not ahead of the enclave's, and on the same chain.
        4. The contract is live here, this worker serves its cluster and executed all of it.
        5. The enclave has seen as much of the cluster's topic as the caller asks for.
        6. The contract runs the code that the caller means, if one is meant.
        7. The id was not taken before.

        Raises:
            QueryRefused: any of these but 3 and 5.
            Behind: 3 or 5, when the enclave will get there.
        """
        request = query.request
        now = view.finalized.time
        if not now <= request.expires <= now + QUERY_AGE_MS_MAX + AHEAD_MS_MAX:  # 1
            raise QueryRefused(
                f"the query expires at {request.expires}, block time is {now}",
                mend=f"let it expire at most {QUERY_AGE_MS_MAX} ms after the newest block's time",
            )
        caller = self._caller(query, now)  # 2
        self._check_block(view, recent, request)  # 3
        live = self._live(view, request)
        if request.count > (seen := view.topic_of(live.contract.cluster).count):  # 5
            raise Behind(f"{seen} messages of the cluster are applied, {request.count} are asked")
        if request.code_id not in (None, live.contract.code_id):  # 6
            raise QueryRefused(
                f"the contract runs the code 0x{live.contract.code_id.hex()}",
                mend="ask for this code, once you trust it",
            )
        self._memory.add(request.id, until=request.expires, now=now)  # 7
        return Judged(caller, live)

    def _caller(self, query: SignedQuery, now: int) -> AccountId | None:
        certificate, signature = query.certificate, query.signature
        if certificate is None and signature is None:
            return None
        if certificate is None or signature is None:
            raise QueryRefused(
                "a certificate without a signature, or the other way round",
                mend="sign the query with the certificate's session key, or leave both out",
            )
        body = certificate.body
        if now > body.expires:
            raise QueryRefused(
                f"the certificate expired at {body.expires}, block time is {now}",
                mend="sign a new certificate",
            )
        self._verify_certificate(certificate)
        asked = self._worker + QUERY_REQUEST.encode(query.request)
        try:
            sr25519_verify(body.session, self._signed(Purpose.QUERY, asked), signature)
        except BadSignature as error:
            raise QueryRefused(error.what, mend=error.mend) from None
        return body.account

    def _verify_certificate(self, certificate: SignedCertificate) -> None:
        body = CERTIFICATE.encode(certificate.body)
        name = blake2_256(body + certificate.signature)
        if name in self._verified:
            return
        message = self._signed(Purpose.CERTIFICATE, body)
        account = certificate.body.account
        try:
            try:
                sr25519_verify(account, message, certificate.signature)
            except BadSignature:
                sr25519_verify(account, wrapped(message), certificate.signature)
        except BadSignature as error:
            raise QueryRefused(
                f"the certificate is not signed by its account: {error.what}",
                mend="sign it with the account's sr25519 key",
            ) from None
        if len(self._verified) >= CERTIFICATES_MAX:
            del self._verified[next(iter(self._verified))]
        self._verified[name] = None

    def _signed(self, purpose: Purpose, body: bytes) -> bytes:
        return signed_bytes(purpose, self._genesis, body)

    def _check_block(
        self, view: View, recent: Mapping[bytes, bytes], request: QueryRequest
    ) -> None:
        """A block that was passed over, or is long past, is known by nobody here: it is taken."""
        at = view.finalized.height
        if request.height > at + BEHIND_BLOCKS_MAX:
            raise QueryRefused(
                f"the caller is at block {request.height}, the worker at {at}",
                mend="ask another worker, or see why this one does not follow the chain",
            )
        if request.height > at:
            raise Behind(f"the enclave is at block {at}, not {request.height}")
        key = (request.height % RECENT_BLOCKS).to_bytes(4, "big")
        passed = RECENT.get(recent, key)
        if (
            passed is not None
            and passed.number == request.height
            and passed.hash != request.block_hash
        ):
            raise QueryRefused(
                f"block {request.height} is 0x{passed.hash.hex()} here, "
                f"0x{request.block_hash.hex()} for the caller",
                mend="follow the same chain as the worker: one of the two sources lies",
            )

    def _live(self, view: View, request: QueryRequest) -> Live:
        live = view.contracts.get(request.contract)
        if (
            live is None
            or live.contract.state != CONTRACT_LIVE
            or live.root_key is None
            or not live.member.serves
            or not live.member.whole
        ):
            raise QueryRefused(
                f"{request.contract.hex()} is no live contract of this worker",
                mend="ask a worker of the contract's cluster, once it is deployed",
            )
        return live
