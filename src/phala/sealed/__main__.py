"""`python -m phala.sealed --config FILE`: the enclave, for the worker that started it."""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Final

from phala.confine import harden
from phala.errors import PhalaError
from phala.sealed.boot import Booted, boot
from phala.sealed.config import load_config
from phala.sealed.hardening import take_pipe
from phala.sealed.log import log
from phala.sealed.server import Server
from phala.wasm.job import KEY_BYTES_MAX

BUFFER_BYTES: Final = 1 << 20
READ_BYTES: Final = 64 << 10  # from 128 KiB on, the allocator maps memory for each read
# A contract chooses its keys, so how deep its trie is: a node for each half byte, three calls each.
RECURSION_MAX: Final = 1_000 + 3 * 2 * KEY_BYTES_MAX


async def serve(booted: Booted, reading: int, writing: int) -> None:
    """Until the worker closes the pipe, or asks to stop."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=BUFFER_BYTES)
    source, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
    )
    source.max_size = READ_BYTES  # type: ignore[attr-defined] # asyncio's own, 256 KiB
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(writing, "wb", 0)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    loop.add_signal_handler(signal.SIGTERM, reader.feed_eof)
    warming = loop.run_in_executor(None, booted.pool.start)  # before the first call needs them
    await Server(booted).serve(reader, writer)
    warming.cancel()


def main() -> int:
    parser = argparse.ArgumentParser(prog="phala.sealed", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides when to stop
    sys.setrecursionlimit(RECURSION_MAX)
    reading, writing = take_pipe()
    try:
        harden()
        booted = boot(load_config(arguments.config))
    except PhalaError as error:
        log("cannot start", error=type(error).__name__, what=error.what, mend=error.mend)
        return error.exit_code
    log(
        "started",
        worker=booted.enclave.identity.worker.hex(),
        height=booted.enclave.view.finalized.height,
    )
    asyncio.run(serve(booted, reading, writing))
    booted.pool.close()
    log("stopped")
    sys.stderr.flush()
    os._exit(0)  # a step that still runs is not waited for: the next start resumes before it


if __name__ == "__main__":
    sys.exit(main())
