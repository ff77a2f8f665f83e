"""The runtime module's own program: CPython, a wide standard library and `phat`, run once at build.

componentize-py runs this file's top, then keeps the memory as it stands: every instance starts
from there. So what is not imported here does not exist for a contract.
"""

# mypy: ignore-errors
import sys

sys.modules["_datetime"] = None  # type: ignore[assignment] # its own clock is out of our reach

import abc, array, ast, base64, binascii, bisect, calendar, collections, collections.abc
import colorsys, contextlib, copy, csv, dataclasses, datetime, decimal, difflib, enum
import fractions, functools, gc, graphlib, hashlib, heapq, hmac, html, inspect, io
import ipaddress, itertools, json, keyword, logging, marshal, math, numbers, operator
import os, pprint, random, re, secrets, statistics, string, struct, textwrap, time
import tomllib, traceback, types, typing, unicodedata, urllib.parse, uuid, weakref
import xml.etree.ElementTree, zlib
import concurrent.futures
import encodings.ascii, encodings.idna, encodings.latin_1, encodings.utf_8

import phala.phat
import phala.phat.entry as entry
from phala.phat.host import CURRENT
from componentize_py_types import Err
from wit_world.imports import host

sys.modules["phat"] = phala.phat

LEVEL_PRINT = 1


class Printed(io.TextIOBase):
    """`print` writes lines to the owner's log."""

    def __init__(self):
        self.rest = ""

    def writable(self):
        return True

    def write(self, text):
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            host.log(LEVEL_PRINT, line)
        return len(text)

    def flush(self):
        if self.rest:
            line, self.rest = self.rest, ""
            host.log(LEVEL_PRINT, line)


class World:
    """`phat.host.Host` over the imports of the world."""

    get = staticmethod(host.get)
    set = staticmethod(host.set)
    scan = staticmethod(host.scan)
    log = staticmethod(host.log)
    emit = staticmethod(host.emit)
    caller = staticmethod(host.caller)
    blake2_256 = staticmethod(host.blake2b256)
    sha2_256 = staticmethod(host.sha256)

    @staticmethod
    def block():
        found = host.block()
        return found.number, found.time_ms, found.hash


class Dice:
    """This call's randomness, the same on every replica."""

    def __init__(self):
        self.key = None
        self.count = 0

    def take(self, size):
        if self.key is None:
            self.key = host.seed()
        self.count += 1
        return hashlib.shake_256(self.key + self.count.to_bytes(8, "little")).digest(size)


def refuse(event, _arguments):
    """An audit hook: CPython asks it before it opens a file, its parser's own reads included."""
    if event == "open":
        raise PermissionError("a contract has no files")


def no_files(*_arguments, **_named):
    raise PermissionError("a contract has no files")


def no_sleep(_seconds):
    raise PermissionError("a contract does not sleep: time stands still in a call")


def time_ns():
    return host.block().time_ms * 1_000_000


def seconds():
    return host.block().time_ms / 1000


def close_the_world():
    """WASI is stubbed: whatever reached it would trap. Give the usual ways in an answer instead."""
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        setattr(time, name, seconds)
        setattr(time, name + "_ns", time_ns)
    time.sleep = no_sleep
    os.stat = os.lstat = os.listdir = os.scandir = no_files
    sys.addaudithook(refuse)
    os.urandom = random._urandom = dice.take
    sys.stdout = sys.stderr = printed
    sys.stdin = None
    logging.lastResort.setLevel(logging.NOTSET)
    # On machine-dependent traces of the build: no paths, no file times, no stale floats.
    sys.path.clear()
    sys.path_importer_cache.clear()


dice = Dice()
printed = Printed()
world = World()
owner = None


class WitWorld:
    def compile(self, source):
        try:
            return marshal.dumps(entry.compile_source(source))
        except entry.Failed as error:
            raise Err(error.encode()) from None

    def load(self, code, describe):
        global owner
        if b"random" in code:  # whoever imports it is seeded anew, for all instances start equal
            random.seed(dice.take(32))
        try:
            owner = entry.load(marshal.loads(code))
            if describe:
                return json.dumps(entry.describe(owner)).encode()
        except BaseException as error:
            raise Err(entry.failure_of(error).encode()) from None
        finally:
            sys.stdout.flush()
        return b"warm" if owner.warm is True else b""

    def instantiate(self, request):
        return run("instantiate", request)

    def query(self, request):
        return run("query", request)

    def command(self, request):
        return run("command", request)


def run(kind, request):
    try:
        return entry.call(owner, world, kind, request)
    except entry.Failed as error:
        raise Err(error.encode()) from None
    finally:
        if printed.rest:
            printed.flush()


# Run once what every call runs: caches fill, and the interpreter has specialised its code.
REHEARSAL = """
from phat import Contract, Map, Refused, command, emit, log, query

class Rehearsal(Contract):
    total: int = 0
    names: list[str] = []
    notes: Map[str, str]

    @command
    def add(self, n: int, name: str = "x") -> int:
        self.total += n
        self.names.append(name)
        self.notes[name] = name
        emit("Added", n=n)
        return self.total

    @query
    def value(self) -> int:
        return self.total + len(self.names) + len(list(self.notes.items()))

    @query
    def longer(self, than: list[int]) -> dict:
        return {"longer": self.total > len(than)}
"""


def rehearse():
    from phala.phat.local import LocalHost

    local = LocalHost(bytes(32))
    code = marshal.dumps(entry.compile_source(REHEARSAL.encode()))
    for _ in range(20):
        rehearsed = entry.load(marshal.loads(code))
        entry.call(rehearsed, local, "instantiate", b"{}")
        entry.call(rehearsed, local, "command", b'{"method":"add","args":{"n":2}}')
        entry.call(rehearsed, local, "query", b'{"method":"value"}')
        entry.call(rehearsed, local, "query", b'{"method":"longer","args":{"than":[1,2,3]}}')
        entry.describe(rehearsed)
    del sys.modules["contract"]
    phala.phat.state._hints.clear()
    entry._plans.clear()
    entry.shape_of.cache_clear()
    for kind in (int, str, bool, float, bytes, list, dict, None, typing.Any):
        entry.shape_of(kind)


rehearse()
close_the_world()
gc.collect()
gc.freeze()  # an instance copies a page when it is written to: a collection would touch them all
gc.set_threshold(20_000)
_zeros = [float(at) * 0.0 for at in range(20_000)]  # over what freed floats left in memory
del _zeros
