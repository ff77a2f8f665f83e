"""What is judged over the network: a TLS server's certificate, a worker's registration."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from phala.attest import Evidence, Verdict, verify
from phala.attest.envelopes import Opened
from phala.cli import evidence
from phala.cli.evidence_files import read_collateral
from phala.devnet.files import home
from phala.errors import Invalid
from phala.messages.host import HOST_REPLY, EvidenceReply
from phala.messages.registration import SignedRegistration
from phala.messages.types import WorkerId
from phala.sdk.judge import verify_binding, verify_signatures
from phala.sdk.light import LightStart
from phala.sdk.network import Network
from phala.sdk.ratls import fetch_certificate
from phala.sdk.trust import Trust, find_trust
from phala.sdk.view import VerifiedWorker
from phala.sdk.worker import WorkerClient

TIMEOUT_S: Final = 15.0
TLS_SCHEMES: Final = ("https", "ratls")
CHECKS: Final = ("signatures", "binding", "listed")
FIRST: Final = 12


def certificate_at(url: str) -> bytes:
    """What the server shows; the handshake proved that it holds the key."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        host, port = None, 0
    if not host:
        raise Invalid(f"{url!r} is no address", mend="write https://HOST:PORT")
    return asyncio.run(fetch_certificate(host, port, timeout_s=TIMEOUT_S))


def registration_at(url: str) -> SignedRegistration:
    """What a worker says that it registered with: `GET /evidence`."""

    async def fetched() -> SignedRegistration:
        async with WorkerClient(url, timeout_s=TIMEOUT_S) as worker:
            return await worker.registration()

    return asyncio.run(fetched())


def registration_in(data: bytes) -> SignedRegistration | None:
    """The same, saved to a file; None where the file is something else."""
    try:
        reply = HOST_REPLY.decode(data)
    except Invalid:
        return None
    return reply.registration if isinstance(reply, EvidenceReply) else None


def trust_for(signed: SignedRegistration, network: Path | None) -> Trust:
    """What this machine believes of the chain that the registration is for."""
    return find_trust(signed.body.manifest.genesis, home(), network=network)


def judge_registration(signed: SignedRegistration, judge: evidence.Judge) -> evidence.Judged:
    """The evidence, its signatures and that it binds the worker; not whether the chain lists it."""
    body = signed.body
    worker = body.manifest.worker
    verify_signatures(signed, worker, body.manifest.genesis)
    items = read_collateral(judge.files, body.evidence.platform)
    verdict = verify(
        Evidence(body.evidence.platform, body.evidence.blob), judge.policy, items, judge.now
    )
    verify_binding(body, verdict)
    words = (
        f"worker 0x{worker.hex()} signed registration and encryption key",
        f"the evidence is for this worker, its manifest and block {body.height}",
        "NOT checked: whether a chain lists it; phala verify worker:ID asks",
    )
    return _judged(signed, tuple(sorted(items)), verdict, words)


@dataclass(frozen=True, slots=True)
class Listed:
    """A worker that a chain lists, judged again here."""

    verified: VerifiedWorker
    trust: Trust


def verify_listed_worker(
    worker: WorkerId | None,
    nodes: tuple[str, ...],
    address: str,
    trust: Trust,
    began: LightStart | None,
) -> Listed:
    """Ask the chain by proof and the worker itself.

    Raises:
        Invalid: at that address another worker answers.
    """

    async def judged() -> VerifiedWorker:
        async with await Network.connect(nodes, address, trust, began=began) as network:
            return await network.verify_worker()

    verified = asyncio.run(judged())
    if worker is not None and verified.worker != worker:
        raise Invalid(
            f"at {address} worker 0x{verified.worker.hex()} answers, not 0x{worker.hex()}",
            mend="name that worker's own address by --worker",
        )
    return Listed(verified, trust)


def judged_of(listed: Listed) -> evidence.Judged:
    """For people and programs, as other evidence."""
    verified, trust = listed.verified, listed.trust
    height = verified.registration.body.height
    word = f"that of {trust.name} on the word of {trust.origin}"
    words = (
        f"worker 0x{verified.worker.hex()} signed registration and encryption key",
        f"the evidence is for this worker, its manifest and block {height}",
        f"the chain lists exactly this, by proof from 0x{trust.genesis.hex()}, {word}",
    )
    return _judged(verified.registration, (), verified.verdict, words)


def _judged(
    signed: SignedRegistration, items: tuple[str, ...], verdict: Verdict, words: tuple[str, ...]
) -> evidence.Judged:
    body = signed.body
    opened = Opened(
        "registration of a worker", Evidence(body.evidence.platform, body.evidence.blob), {}
    )
    more = tuple((FIRST + at, CHECKS[at], what) for at, what in enumerate(words))
    return evidence.Judged(opened, items, verdict, more)
