"""System calls that no sandboxed program needs, as a filter for the kernel (classic BPF, seccomp(2)).

Refused are: memory that no process is charged for (memfd, System V segments), the parent's keyrings, and parts of the
kernel that are known above all for their holes. They answer "not implemented", which libraries have a fallback for.
"""

import errno
import os
import platform
import struct

# Architecture: its audit number (linux/audit.h) and the numbers of the refused calls.
_REFUSED = {
    "x86_64": (
        0xC000003E,
        {
            "shmget": 29,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "perf_event_open": 298,
            "open_by_handle_at": 304,
            "setns": 308,
            "memfd_create": 319,
            "bpf": 321,
            "userfaultfd": 323,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "shmget": 194,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "perf_event_open": 241,
            "open_by_handle_at": 265,
            "setns": 268,
            "memfd_create": 279,
            "bpf": 280,
            "userfaultfd": 282,
        },
    ),
}
_ON_BOTH = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "memfd_secret": 447}

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_X32_BIT = 0x40000000


def filter_program(machine: str | None = None) -> bytes | None:
    """The filter as the kernel takes it, or None on an architecture that is not in the table."""
    entry = _REFUSED.get(machine or platform.machine())
    if entry is None:
        return None
    audit_number, calls = entry
    numbers = sorted({*calls.values(), *_ON_BOTH.values()})
    instructions = [
        (_LOAD, 0, 0, 4),  # the architecture: another one would number its calls differently
        (_EQUAL, 1, 0, audit_number),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the call
        (_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
    ]
    for left, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        instructions.append((_EQUAL, left, 0, number))
    instructions += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    return b"".join(struct.pack("HBBI", *each) for each in instructions)


def data_descriptor(name: str, content: bytes) -> int:
    """A descriptor from which a child reads `content`; the caller closes it."""
    descriptor = os.memfd_create(name)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
