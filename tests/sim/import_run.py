"""Imports a file of blocks, in a process that is there to be killed.

`python import_run.py SPEC FILE` loads all once; then each line of standard input, a folder, is one
import of the file in a process forked for it, whose id is the answer: so a life begins within
milliseconds. The next line asks for its exit status, whoever ended it: its id is its own till then.
"""

import os
import sys
from pathlib import Path

import phala.node.chain as chains
from phala.node.runtimes.table import Runtimes
from phala.node.spec import load_chain_spec
from phala.node.store import Store
from phala.node.tools.chainfile import import_chain
from phala.runtime import Runtime


def main() -> None:
    # So that blocks are folded into the flat table while it is killed.
    chains.WINDOW_BLOCKS = 4  # type: ignore[misc] # of this process alone
    spec, file = load_chain_spec(Path(sys.argv[1])), Path(sys.argv[2])
    runtimes = Runtimes(Runtime())
    spec.genesis(runtimes.own)  # what it derives once, before the lives begin
    for line in sys.stdin:
        folder = Path(line.strip())
        child = os.fork()
        if child == 0:
            status = 1
            try:
                store = Store(folder / "db")
                import_chain(store, file, spec, runtimes, archive="archive" in folder.name)
                store.close()
                status = 0
            finally:
                os._exit(status)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        sys.stdin.readline()
        _, ended = os.waitpid(child, 0)
        sys.stdout.write(f"{ended}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
