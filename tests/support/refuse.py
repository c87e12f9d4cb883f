"""Runs a command for which system calls are refused, as a container's seccomp profile may do, or an
older kernel: refuse.py NUMBER[-][:ERRNO][,NUMBER[-][:ERRNO]...] COMMAND... (EPERM where none is named;
NUMBER- is all from there on)
"""

import ctypes
import errno
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, JUMP_IF_NOT_LESS, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000

refused, command = sys.argv[1].split(","), sys.argv[2:]
steps = [(LOAD, 0, 0, 0)]  # the number of the call
for number, _, name in (one.partition(":") for one in refused):
    jump = JUMP_IF_NOT_LESS if number.endswith("-") else JUMP_IF_EQUAL
    steps.append((jump, 0, 1, int(number.rstrip("-"))))
    steps.append((RETURN, 0, 0, ERRNO | getattr(errno, name or "EPERM")))
steps.append((RETURN, 0, 0, ALLOW))
program = b"".join(struct.pack("=HBBI", *step) for step in steps)
buffer = ctypes.create_string_buffer(program)
header = struct.pack("@HP", len(steps), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
if os.geteuid() != 0:
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(header)) != 0:
    sys.exit(f"no filter: {os.strerror(ctypes.get_errno())}")
os.execvp(command[0], command)
