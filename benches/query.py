"""Private queries end to end, against workerd serving the same function in the clear.

Ours: HPKE to a verified worker, a warm Python contract, an encrypted reply with a signed receipt.
Every reply is opened and its receipt checked, after the clock has stopped.
"""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from tests.e2e.network import Network, running

from benches import peers
from benches.engine import ANSWER, ARGUMENTS, SOURCE, XS
from benches.peers import Load, workerd
from benches.report import Figure, timed, times_of
from phala.devnet.files import NetworkFiles
from phala.messages.calls import QUERY_ENVELOPE
from phala.messages.types import ContractId
from phala.sdk.calls import Pending, open_reply, seal_query
from phala.sdk.http import HttpClient
from phala.sdk.keyring import dev_pair
from phala.sdk.light import load_light_start
from phala.sdk.sync import Phala
from phala.sdk.trust import load_trust

CONNECTIONS = 16
ROUNDS = 3
QUERIES, QUICK_QUERIES = 2_000, 200  # of a round; a prepared query is good for two minutes
PLAIN = 3  # workerd is sent so many times more, or its rounds are over too soon
ONE_BY_ONE, QUICK_ONE_BY_ONE = 300, 50
WARM_UP = 64


def run(*, quick: bool) -> Iterator[Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="phala-bench-") as folder,
        running(Path(folder)) as network,
        connected(network) as phala,
        workerd() as peer,
    ):
        deployed = phala.deploy(SOURCE, signer=dev_pair("Alice"))
        yield from many(phala, network, deployed.contract, peer, quick=quick)
        yield one_by_one(phala, deployed.contract, peer, quick=quick)


@contextmanager
def connected(network: Network) -> Iterator[Phala]:
    files = NetworkFiles(network.folder)
    trust = load_trust(files.trust)
    began = load_light_start(files.light, trust.genesis)
    ready = network.ready
    with Phala.connect(ready["node"], ready["worker"], trust, began=began) as phala:
        yield phala


def many(
    phala: Phala, network: Network, contract: ContractId, peer: str, *, quick: bool
) -> Iterator[Figure]:
    """Sixteen connections, each with one request under way."""
    url = network.ready["worker"] + "/query"
    count = QUICK_QUERIES if quick else QUERIES
    ours: list[Load] = []
    theirs: list[Load] = []
    ask(phala, contract, url, WARM_UP)
    plain(peer, WARM_UP)
    for _ in range(ROUNDS):
        ours.append(ask(phala, contract, url, count))
        theirs.append(plain(peer, count * PLAIN))
    mine, other = middle(ours), middle(theirs)
    yield Figure(
        "private queries, 16 connections", "1/s", mine.per_second,
        "workerd in the clear", other.per_second, better="higher",
        more={"p50_ms": mine.p50_ms, "p99_ms": mine.p99_ms,
              "baseline_p50_ms": other.p50_ms, "baseline_p99_ms": other.p99_ms,
              "queries": count * ROUNDS},
    )  # fmt: skip


def ask(phala: Phala, contract: ContractId, url: str, count: int) -> Load:
    """Send prepared queries; open all that comes back."""
    prepared = prepare(phala, contract, count)
    bodies = [body for body, _ in prepared]
    load, answers = peers.ask(url, bodies, connections=CONNECTIONS, kind="application/octet-stream")
    ensure_whole(load)
    for (_, pending), answer in zip(prepared, answers, strict=True):
        if open_reply(pending, answer).value() != ANSWER:
            raise RuntimeError(f"a query did not answer {ANSWER}")
    return load


def plain(peer: str, count: int) -> Load:
    load, answers = peers.ask(
        peer, [ARGUMENTS] * count, connections=CONNECTIONS, kind="application/json"
    )
    ensure_whole(load)
    if any(json.loads(answer) != ANSWER for answer in answers):
        raise RuntimeError(f"workerd did not answer {ANSWER}")
    return load


def prepare(phala: Phala, contract: ContractId, count: int) -> list[tuple[bytes, Pending]]:
    place = phala.run(phala.network.view.place())
    worker = phala.run(phala.network.view.worker_at(place.now)).addressee
    made = []
    for _ in range(count):
        envelope, pending = seal_query(place, worker, contract, "sums", ARGUMENTS, session=None)
        made.append((QUERY_ENVELOPE.encode(envelope), pending))
    return made


def ensure_whole(load: Load) -> None:
    if load.failed:
        raise RuntimeError(f"{load.failed} of {load.sent} failed: {load.first_failure}")


def middle(loads: list[Load]) -> Load:
    """The medians of the rounds."""
    return replace(
        loads[0],
        per_second=median(each.per_second for each in loads),
        p50_ms=median(each.p50_ms for each in loads),
        p99_ms=median(each.p99_ms for each in loads),
    )


def one_by_one(phala: Phala, contract: ContractId, peer: str, *, quick: bool) -> Figure:
    """One caller who waits, with encryption before and verification after."""
    count = QUICK_ONE_BY_ONE if quick else ONE_BY_ONE
    ours: list[int] = []
    theirs: list[int] = []
    with asyncio.Runner() as runner:
        client = HttpClient(peer, timeout_s=10)

        def private() -> None:
            if phala.query(contract, "sums", {"xs": XS}).value() != ANSWER:
                raise RuntimeError(f"a query did not answer {ANSWER}")

        def clear() -> None:
            _, data = runner.run(client.send("POST", "/", ARGUMENTS, bytes_max=1024))
            if json.loads(data) != ANSWER:
                raise RuntimeError(f"workerd did not answer {ANSWER}")

        for work, into in ((private, ours), (clear, theirs)) * ROUNDS:
            timed(work, 5)
            into.extend(timed(work, count))
        runner.run(client.close())
    mine, other = times_of(ours), times_of(theirs)
    return Figure(
        "private query, one caller, sealed and verified", "us", mine.p50,
        "workerd in the clear", other.p50,
        more={**mine.named, "baseline_p99_us": other.p99},
    )  # fmt: skip
