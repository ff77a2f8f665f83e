"""Room: confine - what this process may still do, given up for good: files, calls, privileges.

In:    the files that the process needs, the kind of process that it is
Out:   a `Confinement`: which layers the kernel really put on
Kind:  io
Below: errors
Not:   a TEE: whoever owns the machine owns the kernel that keeps these promises
"""

from phala.confine.confinement import Confinement, confine
from phala.confine.files import Files
from phala.confine.privileges import die_with_parent, drop_privileges, harden
from phala.confine.syscalls import ENGINE, SEALED, Filter

__all__ = [
    "ENGINE",
    "SEALED",
    "Confinement",
    "Files",
    "Filter",
    "confine",
    "die_with_parent",
    "drop_privileges",
    "harden",
]
