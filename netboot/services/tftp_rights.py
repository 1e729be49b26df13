"""What the TFTP process may do: more than others for a moment, while it starts, and then nothing but talk.

Strangers talk to it, and files come to it opened: once its ports are bound it needs no right at all.
"""

import contextlib
import ctypes
import os
import resource
import socket
import struct

_SO_RCVBUFFORCE = 33
_REQUEST_BUFFER_BYTES = 4 << 20
_NICE = -10
"""A room that asks block by block waits for this one process each time; what else the machine does waits for nobody."""
_NOBODY = 65534
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522


def take_rights(requests: socket.socket) -> None:
    """What only rights give, as far as they do: many files, a turn before others, room for a room's requests."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)  # a transfer needs two
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    with contextlib.suppress(OSError):
        requests.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _REQUEST_BUFFER_BYTES)


def drop_rights() -> None:
    """Be nobody, for good: no user, no capability, none to be had by starting a program. OSError when refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    _call(libc.prctl, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _call(libc.capset, struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))


def _call(function: "ctypes._NamedFuncPointer", *arguments: int | bytes) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
