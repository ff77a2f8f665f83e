"""The first start of a network: its keys, its genesis, and what this machine believes of it."""

from typing import Any, Final

from phala.devnet.files import NetworkFiles, load_document, save_document
from phala.errors import Refused
from phala.node.keys import create_grandpa_key
from phala.node.spec import load_spec, make_genesis, write_light, write_spec
from phala.primitives.types import Hash
from phala.runtime import GenesisConfig, Runtime
from phala.sealed.measurement import simulated_measurement
from phala.tee.simulated_key import create_simulated_key, load_simulated_key
from phala.wasm.runtime_module import ensure_compiled, load_runtime

GRANDPA_KEY: Final = "grandpa.key"
POLICY: Final = "dev"


class OtherCode(Refused):
    """The network was begun by other code than this; its workers would be refused."""


def ensure_written(files: NetworkFiles) -> dict[str, Any]:
    """The network's files, written at its first start. Call it with the lock held.

    Returns:
        What `network.json` says of the chain.

    Raises:
        OtherCode: the network that is there allows other code than would run now.
        Unavailable: the runtime module was not built, or not compiled.
    """
    module = load_runtime()
    ensure_compiled(module)
    runtime_id = Hash(module.runtime_id)
    measurement = simulated_measurement(runtime_id)
    # The last file that is written says that the others are whole.
    if not files.trust.exists():
        _write(files, runtime_id, measurement)
    config = load_spec(files.spec)
    if runtime_id not in config.runtimes or measurement not in config.measurements:
        raise OtherCode(
            f"the network in {files.folder} was begun by another version of this program",
            mend="begin anew with: phala up --reset, or give another --dir",
        )
    trust = load_document(files.trust)
    return {"name": config.name, "genesis": trust["genesis"], "policy": trust["policy"]}


def _write(files: NetworkFiles, runtime_id: Hash, measurement: bytes) -> None:
    files.folder.mkdir(parents=True, exist_ok=True)
    if files.simulated_key.exists():
        key = load_simulated_key(files.simulated_key)
    else:
        key = create_simulated_key(files.simulated_key)
    authority = create_grandpa_key(files.service("node") / GRANDPA_KEY)
    config = GenesisConfig.dev(
        authority=authority.public,
        simulated_root=key.public_root,
        measurement=measurement,
        runtime_id=runtime_id,
    )
    genesis = make_genesis(config, Runtime())
    write_spec(files.spec, config)
    write_light(files.light, genesis)
    save_document(
        files.trust,
        {
            "genesis": "0x" + genesis.hash.hex(),
            "name": config.name,
            "policy": POLICY,
            "simulatedRoot": "0x" + key.public_root.hex(),
        },
    )
