"""`Network` for programs that do not use asyncio: the same calls, each waiting for its end."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from phala.errors import PhalaError
from phala.messages.fuel import FUEL_DEFAULT
from phala.messages.types import ClusterId, CodeId, ContractId
from phala.sdk.bundle import Bundle
from phala.sdk.calls import Answer
from phala.sdk.chain import Call, Submitted, Wait
from phala.sdk.keyring import Keypair
from phala.sdk.light import LightStart
from phala.sdk.network import OUTCOME_S, Deployed, Network, Sent
from phala.sdk.portable import Value
from phala.sdk.trust import Trust
from phala.sdk.view import VerifiedWorker

T = TypeVar("T")


class Phala:
    """A network in a program without asyncio. Use it in `with`, from one thread."""

    def __init__(self, runner: asyncio.Runner, network: Network) -> None:
        self._runner = runner
        self.network = network

    @classmethod
    def connect(
        cls,
        node: str | Sequence[str],
        worker: str,
        trust: Trust,
        *,
        began: LightStart | None = None,
    ) -> Self:
        """See `Network.connect`."""
        runner = asyncio.Runner()
        try:
            network = runner.run(Network.connect(node, worker, trust, began=began))
        except BaseException:
            runner.close()
            raise
        return cls(runner, network)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.run(self.network.__aexit__(kind, error, trace))
        finally:
            self._runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Any coroutine of `network`, as in `phala.run(phala.network.view.place())`."""
        return self._runner.run(work)

    def verify_worker(self) -> VerifiedWorker:
        return self.run(self.network.verify_worker())

    def query(
        self,
        contract: ContractId,
        method: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        signer: Keypair | None = None,
        code_id: CodeId | None = None,
    ) -> Answer:
        return self.run(
            self.network.query(contract, method, arguments, signer=signer, code_id=code_id)
        )

    def command(
        self,
        contract: ContractId,
        method: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        signer: Keypair,
        code_id: CodeId | None = None,
        fuel: int = FUEL_DEFAULT,
        timeout_s: float = OUTCOME_S,
    ) -> Answer:
        return self.run(
            self.network.command(
                contract,
                method,
                arguments,
                signer=signer,
                code_id=code_id,
                fuel=fuel,
                timeout_s=timeout_s,
            )
        )

    def send_command(
        self,
        contract: ContractId,
        method: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        signer: Keypair,
        code_id: CodeId | None = None,
        fuel: int = FUEL_DEFAULT,
    ) -> Sent:
        return self.run(
            self.network.send_command(
                contract, method, arguments, signer=signer, code_id=code_id, fuel=fuel
            )
        )

    def command_many(
        self,
        contract: ContractId,
        calls: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        signer: Keypair,
        fuel: int = FUEL_DEFAULT,
        timeout_s: float = OUTCOME_S,
    ) -> list[Answer | PhalaError]:
        return self.run(
            self.network.command_many(
                contract, calls, signer=signer, fuel=fuel, timeout_s=timeout_s
            )
        )

    def outcome_of(self, sent: Sent, *, timeout_s: float = OUTCOME_S) -> Answer:
        return self.run(self.network.outcome_of(sent, timeout_s=timeout_s))

    def deploy(
        self,
        source: str | bytes,
        arguments: Mapping[str, Any] | None = None,
        *,
        signer: Keypair,
        cluster: ClusterId | None = None,
        salt: bytes | None = None,
        fuel: int = FUEL_DEFAULT,
        timeout_s: float = OUTCOME_S,
    ) -> Deployed:
        return self.run(
            self.network.deploy(
                source,
                arguments,
                signer=signer,
                cluster=cluster,
                salt=salt,
                fuel=fuel,
                timeout_s=timeout_s,
            )
        )

    def collect_bundle(self, answer: Answer) -> Bundle:
        return self.run(self.network.collect_bundle(answer))

    def submit(
        self, call: Call, signer: Keypair, *, tip: int = 0, wait: Wait | None = "inBlock"
    ) -> Submitted | None:
        return self.run(self.network.chain.submit(call, signer, tip=tip, wait=wait))

    def read(self, pallet: str, item: str, *keys: Value) -> Value:
        """A stored value on the node's word."""
        return self.run(self.network.chain.query(pallet, item, *keys))
