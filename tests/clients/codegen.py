"""Types of our chain, as `papi add` writes them."""

import json
import subprocess
from pathlib import Path

from tests.clients import tools

# Without the option `papi add` adds a dependency and runs `npm install`, which leaves the machine.
CONFIG = {
    "version": 0,
    "descriptorPath": ".papi/descriptors",
    "entries": {},
    "options": {"noDescriptorsPackage": True},
}


def generate(folder: Path, metadata: bytes) -> None:
    """Fill a folder with the types of a chain of this metadata (V15, bare)."""
    (folder / ".papi").mkdir(parents=True)
    (folder / ".papi" / "polkadot-api.json").write_text(json.dumps(CONFIG))
    (folder / "package.json").write_text('{"name": "codegen", "type": "module"}')
    (folder / "node_modules").symlink_to(tools.HERE / "node_modules")
    source = folder / "metadata.scale"
    source.write_bytes(metadata)
    program = tools.HERE / "node_modules" / ".bin" / "papi"
    done = subprocess.run(
        [tools.node_js(), str(program), "add", "chain", "--file", str(source)],
        cwd=folder, capture_output=True, text=True, timeout=tools.SECONDS_MAX, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
