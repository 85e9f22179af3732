"""Stops every thread of a name in a process, and nothing else of it, until standard input ends: stop_threads.py PID NAME."""

import ctypes
import os
import sys

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4


def ptrace(request, thread):
    if libc.ptrace(request, thread, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"thread {thread}: {os.strerror(ctypes.get_errno())}")


def name(thread):
    with open(f"/proc/{process}/task/{thread}/comm", encoding="utf-8") as file:
        return file.read().strip()


process, wanted = int(sys.argv[1]), sys.argv[2]
threads = [int(thread) for thread in os.listdir(f"/proc/{process}/task")]
threads = [thread for thread in threads if name(thread) == wanted]
if not threads:
    sys.exit(f"no thread is called {wanted}: {sorted({name(each) for each in os.listdir(f'/proc/{process}/task')})}")
for thread in threads:
    ptrace(PTRACE_SEIZE, thread)
    ptrace(PTRACE_INTERRUPT, thread)
    os.waitpid(thread, WALL)
sys.stdout.write("stopped")
sys.stdout.flush()
sys.stdin.read()
for thread in threads:
    try:
        ptrace(PTRACE_DETACH, thread)
    except ProcessLookupError:
        pass
