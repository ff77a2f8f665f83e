"""TLS to an enclave, without a certificate authority: the peer's evidence is judged by policy.

The handshake proves that the peer holds the certificate's key; the certificate proves where the key
was made. So nothing is sent before it was judged. An enclave that calls another uses the same
context and the same rules: the caller verifies, so two who must know each other both call.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from phala.attest import Policy, TlsRules, TlsVerdict, verify_certificate
from phala.attest.ratls import claimed_binding
from phala.errors import Refused, Unavailable
from phala.messages.types import WorkerId
from phala.primitives.types import Moment
from phala.sdk.trust import Trust

SCHEME: Final = "ratls"  # of addresses: nobody's authority is asked, the policy is


class PeerRefused(Refused):
    """The peer is another enclave than the one that was asked for, or shows no certificate."""


@dataclass(slots=True)
class TlsPeer:
    """Judges each certificate that a server shows, and keeps the last verdict.

    Once a worker was seen behind the address, another one is refused.
    """

    policy: Policy
    clock: Callable[[], Moment]
    collateral: Mapping[str, bytes] | None = None
    rules: TlsRules | None = None
    found: TlsVerdict | None = None
    # What a chain keeps of the vendor of a worker's platform; asked before each judgement.
    kept: Callable[[WorkerId], Awaitable[Mapping[str, bytes]]] | None = None

    @classmethod
    def of(cls, trust: Trust, clock: Callable[[], Moment]) -> "TlsPeer":
        """By the policy that this machine has for the chain, for a worker of that chain."""
        return cls(trust.policy, clock, rules=TlsRules(genesis=trust.genesis))

    async def judged(self, certificate: bytes | None) -> TlsVerdict:
        """The verdict, by the collateral of whatever worker the certificate says that it is of: a
        lie about that finds other collateral, and is refused by its rules. Raises the same."""
        binding = None if certificate is None else claimed_binding(certificate)
        if self.kept is not None and binding is not None:
            self.collateral = await self.kept(WorkerId(binding.worker))
        return self(certificate)

    def __call__(self, certificate: bytes | None) -> TlsVerdict:
        """The verdict.

        Raises:
            PeerRefused, AttestationError: nothing may be sent to this peer.
        """
        if certificate is None:
            raise PeerRefused("the server shows no certificate", mend="ask another worker")
        found = verify_certificate(
            certificate, self.policy, self.collateral or {}, self.clock(), self.rules
        )
        if self.found is not None and found.binding is not None:
            self.ensure_worker(found.binding.worker)
        self.found = found
        return found

    def ensure_worker(self, worker: bytes) -> bytes:
        """The worker, when the certificate's enclave says that it is this one."""
        binding = None if self.found is None else self.found.binding
        if binding is None or binding.worker != worker:
            who = "nobody" if binding is None else f"worker 0x{binding.worker.hex()}"
            raise PeerRefused(
                f"TLS ends in the enclave of {who}, not in that of 0x{worker.hex()}",
                mend="ask the worker at its own address",
            )
        return worker


def client_context() -> ssl.SSLContext:
    """TLS 1.3 alone, and no word of an authority: `TlsPeer` judges what it lets through."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def fetch_certificate(host: str, port: int, *, timeout_s: float) -> bytes:
    """What a TLS server shows, in DER; nothing is judged, and nothing is sent.

    Raises:
        Unavailable: no server speaks TLS there.
    """
    context = client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # other people's enclaves may be older
    writer = None
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
            shown: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    except (OSError, TimeoutError, UnicodeError) as error:
        raise Unavailable(
            f"{host}:{port} does not answer over TLS: {type(error).__name__} {error}".rstrip(),
            mend="see whether it runs, and whether its port speaks TLS",
        ) from None
    finally:
        if writer is not None:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    if shown is None:
        raise PeerRefused("the server shows no certificate", mend="ask another server")
    return shown
