"""`phala verify` on certificates, servers and workers: judged like files, and told alike."""

import asyncio
import datetime as dt
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.unit.test_cli_verify_evidence import document, error_of, run
from tests.unit.test_tls import GENESIS, KEY, PLATFORM, WORKER, Enclave

from phala.attest import AttestationError
from phala.attest.errors import PlatformRefused
from phala.cli.main import main
from phala.errors import Invalid, Unavailable
from phala.messages.host import HOST_REPLY, EvidenceReply
from phala.messages.registration import SignedRegistration
from phala.primitives.types import Hash
from phala.sdk.judge import RegistrationForged
from phala.tee.ratls import Binding, make_tls_key
from phala.testing import ratls as kit
from phala.testing.sim_chain import SimChain
from phala.testing.worker import WorkerKeys
from phala.worker.tls import TlsPort

NOW_S = 1_780_000_000
BEGIN = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
ROOT_KEY = KEY.public_root.hex()
OWN = ("--policy", "dev", "--simulated-root", ROOT_KEY, "--now", NOW_S)


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    path = tmp_path / "certificate.pem"
    bound = Binding(GENESIS, WORKER, 300, b"b" * 32)
    made = make_tls_key(PLATFORM, bound, BEGIN, BEGIN + dt.timedelta(days=60), nonce=b"mine")
    path.write_bytes(made.certificate)
    return path


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that made the chain of these certificates itself."""
    home = tmp_path / "home"
    (home / "dev").mkdir(parents=True)
    fields = {"genesis": "0x" + GENESIS.hex(), "name": "own", "policy": "dev",
              "simulatedRoot": "0x" + ROOT_KEY}  # fmt: skip
    (home / "dev" / "trust.json").write_text(json.dumps(fields))
    monkeypatch.setenv("PHALA_HOME", str(home))


@contextmanager
def serving(enclave: Any) -> Iterator[str]:
    """A port whose TLS ends in that enclave, in a thread of its own."""
    started, stop = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        server = await asyncio.start_server(TlsPort(enclave).serve, "127.0.0.1", 0)
        async with server:
            found.append(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(20)
        yield found[0]
    finally:
        stop.set()
        thread.join(20)


def registration() -> SignedRegistration:
    chain = SimChain()
    keys = WorkerKeys(b"s" * 32, GENESIS, PLATFORM, 0, Hash(bytes(32)))
    chain.seal()
    return keys.signed(keys.registration(chain.blocks[-1].header))


# ---- certificates


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_an_own_network_is_told_and_never_green(pem: Path) -> None:
    result = run(pem, "--now", NOW_S, "--nonce", b"mine".hex(), color=True)

    assert result.exit_code == 0, result.exception
    assert "\x1b[32m" not in result.output
    assert "12 form" in result.output
    assert "the claims carry your nonce" in result.output
    assert f"worker      0x{WORKER.hex()}" in result.output
    assert "dev/trust.json on this machine" in result.output
    assert "only a TLS handshake shows" in result.output
    assert "no hardware protection" in result.output.splitlines()[-1]


def test_programs_get_a_certificates_verdict_as_one_object(pem: Path) -> None:
    found = document(run(pem, *OWN, "--json"))

    assert (found["verified"], found["kind"], found["hardware"]) == (True, "certificate", False)
    assert (found["form"], found["seen"]) == ("TCG DICE", None)
    assert found["claims"]["worker"] == "0x" + WORKER.hex()
    assert "no freshness" in found["fresh"]
    assert [each["number"] for each in found["items"][0]["checks"]] == list(range(1, 17))


def test_a_certificate_is_refused_by_production_and_by_another_nonce(pem: Path) -> None:
    assert isinstance(error_of(run(pem, "--now", NOW_S)), PlatformRefused)
    other = run(pem, *OWN, "--nonce", "00")
    assert isinstance(error_of(other), AttestationError)
    assert "16 freshness    FAILED" in other.output
    assert isinstance(error_of(run(pem, *OWN[:-1], NOW_S + 10**8)), AttestationError)
    assert isinstance(error_of(run(pem, *OWN, "--genesis", "00")), Invalid)


def test_the_first_certificate_of_a_chain_is_judged(pem: Path, tmp_path: Path) -> None:
    """As servers keep it: their own, then who issued it; or a key beside it; or dstack's answer."""
    der = kit.certificate_of(kit.new_key(), {})
    above = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
    text = pem.read_text()
    told = run(pem, *OWN).output
    for number, given in enumerate((
        text + above,
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" + text,
        json.dumps({"key": "", "certificate_chain": [text, above]}),
    )):  # fmt: skip
        path = tmp_path / f"chain{number}"
        path.write_text(given)
        assert run(path, *OWN).output == told
    path.write_text(above + text)
    assert "no evidence" in error_of(run(path, *OWN)).mend
    for odd in ("[]", "[7]", '"x"'):
        path.write_text(f'{{"certificate_chain": {odd}}}')
        assert isinstance(error_of(run(path, *OWN)), AttestationError)


def test_another_certificate_is_said_to_carry_no_evidence(tmp_path: Path) -> None:
    path = tmp_path / "plain.der"
    path.write_bytes(kit.certificate_of(kit.new_key(), {}))

    assert "carries no evidence of RA-TLS" in error_of(run(path)).mend


# ---- servers


@pytest.mark.usefixtures("trusted")
def test_a_servers_certificate_is_judged_by_its_address() -> None:
    with serving(Enclave()) as address:
        for scheme in ("https", "ratls"):
            result = run(f"{scheme}://{address}", "--now", NOW_S)
            assert result.exit_code == 0, result.exception
            assert f"the server at {scheme}://{address} holds it" in result.output
        assert isinstance(error_of(run(f"https://{address}", *OWN[:2], *OWN[4:])), AttestationError)


def test_what_does_not_answer_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for scheme in ("https", "ratls", "http"):
            error = error_of(run(f"{scheme}://127.0.0.1:{port}"))
            assert isinstance(error, Unavailable)
            assert error.exit_code == 75


@pytest.mark.parametrize("target", ["https://", "ratls://[", "http://", "worker:12", "worker:"])
def test_an_address_that_is_none_is_a_clear_error(target: str) -> None:
    error = error_of(run(target))
    assert isinstance(error, Invalid)
    assert error.mend


# ---- workers


@pytest.mark.usefixtures("trusted")
def test_a_saved_registration_is_judged_with_its_binding(tmp_path: Path) -> None:
    path = tmp_path / "evidence.bin"
    signed = registration()
    path.write_bytes(HOST_REPLY.encode(EvidenceReply(signed, None)))
    found = document(run(path, "--now", NOW_S, "--json"))

    assert (found["kind"], found["worker"]) == ("worker", "0x" + signed.body.manifest.worker.hex())
    assert not found["hardware"]
    assert "NOT checked" in run(path, "--now", NOW_S).output

    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    assert isinstance(error_of(run(path, "--now", NOW_S)), RegistrationForged)


def test_a_worker_without_anybody_who_has_its_evidence_is_a_clear_error() -> None:
    target = f"worker:{'00' * 32}"
    error = error_of(run(target, "--node", "ws://127.0.0.1:1"))
    assert "--worker" in error.mend
    assert isinstance(error_of(run(target, "--now", "1")), Invalid)


# ---- anything else


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{}",
        b"7",
        b"null",
        b'{"name": "package", "version": "1.0"}',
        b'[{"imr": 0}]',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        bytes(3 << 20),
        b"\x7fELF" + bytes(5000),
        b"\x89PNG\r\n\x1a\n" + bytes(500),
        b"-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"<?xml version='1.0'?><a/>",
        "π".encode() * 1000,
        b"\x06" * 2000,  # the number of `EvidenceReply`
    ],
)
def test_any_other_file_is_a_clear_error_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    monkeypatch.setattr(sys, "argv", ["phala", "verify", str(path)])
    with pytest.raises(SystemExit) as caught:
        main()

    said = capsys.readouterr().err
    assert caught.value.code == 65
    assert said.startswith("phala: ")
    assert "\n  mend: " in said
    assert "Traceback" not in said
