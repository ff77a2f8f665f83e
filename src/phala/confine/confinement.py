"""All layers, one after the other, and an honest word about each."""

from dataclasses import dataclass

from phala.confine.files import Files, restrict_files
from phala.confine.kernel import KernelRefused
from phala.confine.privileges import drop_privileges
from phala.confine.syscalls import Filter, restrict_syscalls


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the kernel put on. What it lacks is missing here, and said in the log."""

    privileges: bool  # no capabilities, and none to be had again
    landlock: int  # the kernel's version; 0: files are as open as the user's rights
    seccomp: bool
    missing: tuple[str, ...]  # a line for each layer that is not there


def confine(files: Files, calls: Filter) -> Confinement:
    """Give up for good all that this process does not need. Call it before threads start.

    A kernel without a layer is no error: the TEE's promise does not rest on it.
    """
    missing: list[str] = []
    try:
        drop_privileges()
    except KernelRefused as error:  # under Gramine there is nothing to drop
        return Confinement(privileges=False, landlock=0, seccomp=False, missing=(error.what,))
    landlock = 0
    try:
        landlock = restrict_files(files)
    except KernelRefused as error:
        missing.append(error.what)
    else:
        if not landlock:
            missing.append("landlock: not in this kernel")
    seccomp = False
    try:
        seccomp = restrict_syscalls(calls)
    except KernelRefused as error:
        missing.append(error.what)
    else:
        if not seccomp:
            missing.append("seccomp: not in this kernel or for this machine")
    return Confinement(privileges=True, landlock=landlock, seccomp=seccomp, missing=tuple(missing))
