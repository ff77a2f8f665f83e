"""Blocks of random transfers from one seed: prints hash and state root of the last."""

import sys
from random import Random

from phala.codec import Compact
from phala.primitives.address import MULTI_ADDRESS, MultiAddress, MultiSignature
from phala.primitives.extrinsic import IMMORTAL, Extrinsic, Signature
from phala.primitives.types import BALANCE, AccountId, Balance, Hash
from phala.runtime import DEV_ACCOUNTS, GenesisConfig, InvalidTransaction
from phala.tee.simulated_key import SimulatedKey
from phala.testing.chain import MemoryChain

BLOCKS, EXTRINSICS = 5, 60
CONFIG = GenesisConfig.dev(
    authority=b"g" * 32,
    simulated_root=SimulatedKey(b"\1" * 32, b"\2" * 32).public_root,
    measurement=b"m" * 48,
    runtime_id=Hash(b"r" * 32),
)


def outcome(seed: int) -> str:
    random = Random(seed)
    chain = MemoryChain(CONFIG)
    accounts = [*DEV_ACCOUNTS.values(), *(AccountId(bytes([n]) * 32) for n in range(3))]
    nonces = dict.fromkeys(accounts, 0)
    refused = 0
    for _ in range(BLOCKS):
        builder = chain.open()
        for _ in range(EXTRINSICS):
            who = random.choice(accounts)
            dest = MULTI_ADDRESS.encode(MultiAddress.of(random.choice(accounts)))
            amount = Compact(BALANCE).encode(Balance(random.getrandbits(random.randrange(1, 64))))
            by = Signature(
                MultiAddress.of(who),
                MultiSignature(1, bytes(64)),
                IMMORTAL,
                nonces[who],
                Balance(0),
            )
            call = bytes([5, random.choice([0, 3])]) + dest + amount
            try:
                builder.apply(Extrinsic(by, call).encode(), check_signature=False)
                nonces[who] += 1
            except InvalidTransaction:
                refused += 1
        chain.close(builder)
    return f"{refused} {chain.header.hash().hex()} {chain.header.state_root.hex()}\n"


if __name__ == "__main__":
    sys.stdout.write(outcome(int(sys.argv[1])))
