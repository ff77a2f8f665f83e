"""`payment_*`, `system_dryRun`: what an extrinsic would cost, and what would become of it."""

from typing import Any

from phala.codec import Reader
from phala.codec.compact import read_compact
from phala.errors import Invalid
from phala.node.rpc.errors import STATE, RpcError
from phala.node.rpc.params import Params, block_hash, hex_bytes, to_hex
from phala.node.rpc.server import Methods
from phala.node.service import Node, now
from phala.primitives.types import BlockNumber
from phala.runtime import InvalidTransaction
from phala.trie import State

CLASSES = ("normal", "operational", "mandatory")


def register(methods: Methods, node: Node) -> None:
    chain = node.chain

    def asked(params: Params, index: int) -> BlockNumber:
        found = params.optional(index, block_hash)
        return chain.head.number if found is None else chain.number_of(found)

    def ask(name: str, params: Params) -> Reader:
        """What the runtime answers about an extrinsic at a block."""
        extrinsic, at = params.needed(0, hex_bytes), asked(params, 1)
        data = extrinsic + len(extrinsic).to_bytes(4, "little")
        state = State(chain.state_at(at))
        try:
            answer = node.runtime_at(at).call(state, chain.header(at).hash(), name, data)
        except Invalid as error:
            raise RpcError(STATE, f"Execution failed: {error.what}", error.mend) from None
        return Reader(answer)

    @methods.add("payment_queryInfo", "payment_queryInfoAt")
    def query_info(params: Params) -> Any:
        """The weight as `sp_weights::Weight` serializes itself: its names are not camel-cased."""
        reader = ask("TransactionPaymentApi_query_info", params)
        ref_time, proof_size = read_compact(reader), read_compact(reader)
        return {
            "weight": {"ref_time": ref_time, "proof_size": proof_size},
            "class": CLASSES[reader.take(1)[0]],
            "partialFee": str(int.from_bytes(reader.take(16), "little")),
        }

    @methods.add("payment_queryFeeDetails")
    def query_fee_details(params: Params) -> Any:
        """Without a tip: that one cannot be told here, says its source."""
        reader = ask("TransactionPaymentApi_query_fee_details", params)
        if not reader.take(1)[0]:
            return {"inclusionFee": None}
        base, length, weight = (int.from_bytes(reader.take(16), "little") for _ in range(3))
        fee = {"baseFee": hex(base), "lenFee": hex(length), "adjustedWeightFee": hex(weight)}
        return {"inclusionFee": fee}

    @methods.add("system_dryRun", "system_dryRunAt", unsafe=True)
    def dry_run(params: Params) -> Any:
        """SCALE of `ApplyExtrinsicResult`, in a block after the asked one that nobody keeps."""
        extrinsic, at = params.needed(0, hex_bytes), asked(params, 1)
        state = State(chain.state_at(at))
        builder = node.runtime_at(at).open_block(state, chain.header(at))
        for inherent in builder.inherents(now()):
            builder.apply(inherent)
        try:
            error = builder.apply(extrinsic).error
        except InvalidTransaction as refusal:
            return to_hex(b"\1" + refusal.encode())
        if error is None:
            return "0x0000"
        return to_hex(b"\0\1" + bytes([error.kind]) + error.detail)
