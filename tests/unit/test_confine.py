"""What a process gives up stays given up: files, calls, processes, network, privileges."""

import errno
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from phala.confine.syscalls import (
    ARCHITECTURES,
    CLONE,
    CLONE3,
    CLONE_THREAD,
    COMPUTING,
    ENGINE,
    REACHING_OUT,
    SEALED,
    X32,
    Filter,
    program,
)

ALLOWED, KILLED = "allowed", "killed"

# Confines itself as told, tries each thing, and says how that ended.
SCRIPT = """
import ctypes, json, os, socket, subprocess, sys, threading
from pathlib import Path
from phala.confine import ENGINE, SEALED, Files, confine, harden

own, kind = Path(sys.argv[1]), sys.argv[2]
package = Path(sys.argv[3])
system = [Path(each) for each in ("/usr", "/lib", "/lib64", "/bin", "/proc")]
python = [Path(sys.prefix), Path(sys.base_prefix), package]
harden()
got = confine(Files(read=(*python, *system), write=(own,)), ENGINE if kind == "engine" else SEALED)
said = {"landlock": got.landlock, "seccomp": got.seccomp, "missing": list(got.missing)}

def tried(name, act):
    try:
        said[name] = act()
    except OSError as error:
        said[name] = -error.errno

def threads():
    out = []
    thread = threading.Thread(target=lambda: out.append(len(out)))
    thread.start()
    thread.join()
    return len(out)

def status(word):
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith(word)]

def debug():
    libc = ctypes.CDLL(None, use_errno=True)
    return -ctypes.get_errno() if libc.ptrace(0, 0, 0, 0) else 0

tried("written", lambda: (own / "own").write_text("mine"))
tried("read", lambda: len((own / "own").read_text()))
tried("outside", lambda: len((own.parent / "secret").read_text()))
tried("outside written", lambda: (own.parent / "other").write_text("no"))
tried("socket", lambda: socket.socket(socket.AF_INET).close())
tried("spawned", lambda: subprocess.run(["/usr/bin/env", "true"]).returncode)
tried("threads", threads)
tried("debugged", debug)
tried("signalled", lambda: os.kill(os.getppid(), 0))
tried("capabilities", lambda: status("CapEff") + status("CapBnd"))
tried("new privileges", lambda: status("NoNewPrivs"))
print(json.dumps(said))
"""


def confined(folder: Path, kind: str) -> dict[str, object]:
    own = folder / "own"
    own.mkdir()
    (folder / "secret").write_text("not yours")
    package = Path(program.__code__.co_filename).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(own), kind, str(package)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    said: dict[str, object] = json.loads(ended.stdout)
    if not said["landlock"] or not said["seccomp"]:
        pytest.skip(f"this kernel lacks a layer: {said['missing']}")
    return said


def test_an_engine_child_computes_and_reaches_nothing(tmp_path: Path) -> None:
    said = confined(tmp_path, "engine")
    assert said["threads"] == 1
    assert said["outside"] == said["outside written"] == -errno.EACCES
    assert said["socket"] == said["spawned"] == said["debugged"] == -errno.EPERM
    assert said["signalled"] == -errno.EPERM


def test_the_enclave_keeps_its_folder_and_its_children_and_nothing_else(tmp_path: Path) -> None:
    said = confined(tmp_path, "sealed")
    assert (said["written"], said["read"]) == (4, 4)
    assert said["spawned"] == 0
    assert said["threads"] == 1
    assert said["outside"] == said["outside written"] == -errno.EACCES
    assert said["socket"] == said["debugged"] == -errno.EPERM


def test_no_privilege_is_left_nor_comes_back(tmp_path: Path) -> None:
    said = confined(tmp_path, "sealed")
    assert said["capabilities"] == ["0" * 16, "0" * 16]
    assert said["new privileges"] == ["1"]


# ---- the filter itself, as the kernel runs it


def answer(code: bytes, architecture: int, number: int, argument: int = 0) -> str | int:
    """What classic BPF comes to: `ALLOWED`, `KILLED`, or the error's number."""
    data = struct.pack("<iIQQ", number, architecture, 0, argument)
    steps = list(struct.iter_unpack("HBBI", code))
    at = held = 0
    while True:
        what, if_true, if_false, value = steps[at]
        at += 1
        match what:
            case 0x20:
                held = int.from_bytes(data[value : value + 4], "little")
            case 0x15:
                at += if_true if held == value else if_false
            case 0x35:
                at += if_true if held >= value else if_false
            case 0x45:
                at += if_true if held & value else if_false
            case 0x06:
                kind = value & 0xFFFF0000
                named = {0x7FFF0000: ALLOWED, 0x80000000: KILLED}
                return named[kind] if kind in named else value & 0xFFFF
            case other:
                raise AssertionError(f"no instruction of ours: {other:#x}")


@pytest.mark.parametrize("machine", sorted(ARCHITECTURES))
@pytest.mark.parametrize("wanted", [ENGINE, SEALED])
def test_each_call_is_answered_as_the_filter_says(machine: str, wanted: Filter) -> None:
    column, architecture = ARCHITECTURES[machine]
    code = program(wanted, column, architecture)
    named = {numbers[column] for numbers in wanted.named.values()} - {None}
    clones = {CLONE[column], CLONE3[column]} if wanted.threads else set()
    for number in range(600):
        if number in clones:
            continue
        allowed = (number in named) == wanted.named_are_allowed
        assert answer(code, architecture, number) == (ALLOWED if allowed else errno.EPERM), number


@pytest.mark.parametrize("machine", sorted(ARCHITECTURES))
def test_an_engine_child_starts_threads_and_no_processes(machine: str) -> None:
    column, architecture = ARCHITECTURES[machine]
    code = program(ENGINE, column, architecture)
    clone, clone3 = CLONE[column], CLONE3[column]
    assert clone is not None
    assert clone3 is not None
    assert answer(code, architecture, clone, CLONE_THREAD | 0x100) == ALLOWED
    assert answer(code, architecture, clone, 0x11) == errno.EPERM
    assert answer(code, architecture, clone3) == errno.ENOSYS


def test_a_call_by_another_door_of_the_processor_is_not_allowed() -> None:
    column, architecture = ARCHITECTURES["x86_64"]
    for wanted in (ENGINE, SEALED):
        code = program(wanted, column, architecture)
        i386 = 0x40000003
        assert answer(code, i386, 0) == KILLED
        assert answer(code, architecture, X32 | 1) == errno.EPERM


def test_no_call_is_both_needed_and_reaching_out() -> None:
    assert not COMPUTING.keys() & REACHING_OUT.keys()
