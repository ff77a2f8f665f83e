"""A second release of the chain, made of this one's sources: another spec version, a migration,
a call and a storage item more.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import phala
from phala.codec import Bytes
from phala.crypto.hashes import blake2_256
from phala.frame import Block, Root
from phala.frame.manifest import Manifest
from phala.node.spec import ChainSpec, raw_document, read_chain_spec
from phala.primitives.types import BlockNumber, Hash
from phala.runtime import Runtime
from phala.runtime.attestation import AttestVerifier
from phala.runtime.world import CALLS, World
from phala.trie import DictBase, State

# file, what stands there, what stands there in the second release
EDITS = (
    ("runtime/version.py", "SPEC_VERSION: Final = 1\n", "SPEC_VERSION: Final = 2\n"),
    ("runtime/version.py", 'RELEASE: Final = "phala 0.1.0"', 'RELEASE: Final = "phala 0.2.0"'),
    (
        "pallets/timestamp.py",
        "    calls: ClassVar = {",
        '''    migrated = StorageValue(
        U32, default=0, doc="How often this release's migration ran."
    )
    began = StorageValue(MOMENT, default=Moment(0), doc="The time when it did.")
    marked = StorageValue(U32, default=0, doc="What the last mark said.")

    def on_runtime_upgrade(self, since: int) -> int:
        assert since == 1
        self.migrated.put(self.migrated.get() + 1)
        self.began.put(self.now.get())
        return 1_000

    @call(1_000)
    def mark(self, origin: Origin, number: Annotated[int, U32]) -> None:
        """Keep a number."""
        ensure_signed(origin)
        self.marked.put(number)

    calls: ClassVar = {
        9: mark,
        ''',
    ),
)
IMPORTS = """
from phala.codec import U32
from phala.frame import ensure_signed
"""
MARK = bytes([3, 9])


def edited(folder: Path) -> Path:
    """The whole package as the second release; the folder to put into `PYTHONPATH`."""
    source = Path(phala.__file__).parent
    target = folder / "phala"
    leave_out = shutil.ignore_patterns("__pycache__", "*.so", "*.wasm", "web")
    shutil.copytree(source, target, ignore=leave_out)
    for name, before, after in EDITS:
        path = target / name
        text = path.read_text()
        assert text.count(before) == 1, (name, before)
        path.write_text(text.replace(before, after))
    path = target / "pallets/timestamp.py"
    text = path.read_text()
    head, quotes, rest = text.partition('"""\n')
    path.write_text(head + quotes + IMPORTS + rest)
    return folder


def released(folder: Path, file: Path) -> Manifest:
    """Its archive; the manifest that names it on a chain."""
    program = (
        "import sys, pathlib;"
        "from phala.node.runtimes.archive import own_release, save_release;"
        "from phala.runtime import Runtime;"
        "found = own_release(Runtime().manifest);"
        "save_release(found, pathlib.Path(sys.argv[1]));"
        "sys.stdout.write(found.pinned.encode().decode())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return Manifest.decode(ran.stdout.encode())


def spec_with(
    spec: ChainSpec, runtime: Runtime, code: bytes, *, when: int | None = None
) -> ChainSpec:
    """The spec's chain, with the code authorized for whoever applies it or, where a height is
    said, set by root at that height."""
    genesis = spec.genesis(runtime)
    state = State(DictBase(dict(genesis.state)))
    world = World(Block(BlockNumber(0), state), AttestVerifier())
    if when is None:
        world.system.authorize_upgrade(Root(), Hash(blake2_256(code)))
    else:
        call = CALLS.decode(bytes([0, 2]) + Bytes(bytes_max=len(code)).encode(code))
        world.scheduler.schedule(Root(), BlockNumber(when), None, 0, call)
    changed = {key: value for key, value in state.changes() if value is not None}
    document = raw_document(spec, genesis)
    document["genesis"]["raw"]["top"] |= {
        "0x" + key.hex(): "0x" + value.hex() for key, value in changed.items()
    }
    del document["genesisHash"]
    return read_chain_spec(json.dumps(document))
