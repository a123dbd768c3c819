"""A process gives up files, processes and signals to the Linux kernel, for good; standard library only.

::

    enter(folder) ─┬─ Landlock: files may be read below Python's own folders, and written below `folder`
                   └─ seccomp:  system calls outside of a list fail with EPERM

Each part is entered where the kernel has it, and `enter` says which were. Both hold for the whole process,
whatever runs in it, native code included, and can't be left again. The source of this module runs in the
sandbox's child, where the package can't be imported: it stands by itself.

What the list leaves out: processes and threads, signals to others, sockets, devices and named pipes, links,
memory of other processes, keys, tracing, mounts. Modes, owners and times can be set but don't change: a file
outside the folder would change with them, and Landlock doesn't watch these.

Sources: Linux 6.18, Documentation/userspace-api/landlock.rst and seccomp_filter.rst; the two unistd tables.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import sys

TYPE_CHECKING = False  # not typing's: importing typing takes longer than all else that is done here
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final

_PERMISSION: Final = 1  # EPERM
_NUMBERS: Final = {"x86_64": 0, "aarch64": 1}
_ARCHITECTURES: Final = (0xC000003E, 0xC00000B7)  # AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64

# Each call's number on x86-64 and on AArch64; "-" where it does not exist.
_ALLOWED: Final = """
    read 0 63  write 1 64  readv 19 65  writev 20 66  pread64 17 67  pwrite64 18 68  preadv 295 69
    pwritev 296 70  lseek 8 62  close 3 57  close_range 436 436  open 2 -  openat 257 56  creat 85 -
    dup 32 23  dup2 33 -  dup3 292 24  pipe 22 -  pipe2 293 59  eventfd2 290 19  fsync 74 82  fdatasync 75 83
    ftruncate 77 46  fallocate 285 47  fadvise64 221 223  flock 73 32  sendfile 40 71  splice 275 76
    copy_file_range 326 285  stat 4 -  fstat 5 80  lstat 6 -  newfstatat 262 79  statx 332 291  access 21 -
    faccessat 269 48  faccessat2 439 439  statfs 137 43  fstatfs 138 44  readlink 89 -  readlinkat 267 78
    getdents64 217 61  getcwd 79 17  chdir 80 49  fchdir 81 50  umask 95 166  mkdir 83 -  mkdirat 258 34
    rmdir 84 -  unlink 87 -  unlinkat 263 35  rename 82 -  renameat 264 38  renameat2 316 276
    listxattr 194 11  llistxattr 195 12  flistxattr 196 13
    mmap 9 222  mprotect 10 226  munmap 11 215  brk 12 214  mremap 25 216  msync 26 227  madvise 28 233
    rt_sigaction 13 134  rt_sigprocmask 14 135  rt_sigreturn 15 139  rt_sigpending 127 136
    rt_sigtimedwait 128 137  rt_sigsuspend 130 133  sigaltstack 131 132  pause 34 -  restart_syscall 219 128
    select 23 -  pselect6 270 72  poll 7 -  ppoll 271 73  epoll_create1 291 20  epoll_ctl 233 21
    epoll_wait 232 -  epoll_pwait 281 22  nanosleep 35 101  clock_nanosleep 230 115  clock_gettime 228 113
    clock_getres 229 114  gettimeofday 96 169  time 201 -  times 100 153  getitimer 36 102  sched_yield 24 124
    getpid 39 172  getppid 110 173  gettid 186 178  getpgrp 111 -  getpgid 121 155  getsid 124 156
    getuid 102 174  geteuid 107 175  getgid 104 176  getegid 108 177  getgroups 115 158  getresuid 118 148
    getresgid 120 150  getrlimit 97 163  getrusage 98 165  uname 63 160  sysinfo 99 179  getrandom 318 278
    getcpu 309 168  sched_getaffinity 204 123  arch_prctl 158 -  futex 202 98  set_robust_list 273 99
    set_tid_address 218 96  rseq 334 293  membarrier 324 283  exit 60 93  exit_group 231 94
"""
_WITHOUT_EFFECT: Final = """
    chmod 90 -  fchmod 91 52  fchmodat 268 53  fchmodat2 452 452  chown 92 -  fchown 93 55  lchown 94 -
    fchownat 260 54  utime 132 -  utimes 235 -  futimesat 261 -  utimensat 280 88
"""
_FCNTL: Final = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)  # duplicate, flags, locks; no signals to owners
_IOCTL: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, bytes waiting, flags


def enter(folder: str) -> list[str]:
    """Enter what this kernel has, and return its names: "landlock", "seccomp".

    Args:
        folder: the one folder that may be changed.
    """
    entered: list[str] = []
    if sys.platform != "linux":
        return entered
    # OSError: not in this kernel, or forbidden by the container; the others: no ctypes.
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)

        def call(name: str, *arguments: Any) -> int:
            # As long as registers: a C function with open arguments reads whole ones.
            whole = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
            if (result := getattr(libc, name)(*whole)) < 0:
                raise OSError(ctypes.get_errno(), name)
            return int(result)

        call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, which both need
        for name, restrict in (("landlock", _landlock), ("seccomp", _seccomp)):
            with contextlib.suppress(OSError, KeyError):
                restrict(call, folder)
                entered.append(name)
    return entered


def _landlock(call: Callable[..., int], folder: str) -> None:
    """Files: read Python's own, change those of `folder`; on newer kernels no signal leaves, either."""
    create_ruleset, add_rule, restrict_self = 444, 445, 446  # the same on every architecture
    version = call("syscall", create_ruleset, None, 0, 1)
    # Rights of files by version: 13, then moving between folders, truncation, (4: none) device control.
    handled = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    write_file, read_file, read_folder, truncate = 1 << 1, 1 << 2, 1 << 3, 1 << 14
    # Execute; make device, socket, named pipe, block device, symbolic link; control devices.
    never = 1 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 15
    network, scopes = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    ruleset = call("syscall", create_ruleset, struct.pack("QQQ", handled, network, scopes), 24, 0)
    rights = dict.fromkeys(_readable(), read_file | read_folder)
    rights |= {folder: handled & ~never, os.devnull: read_file | write_file | truncate}
    for path, allowed in rights.items():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if not stat.S_ISDIR(os.fstat(place).st_mode):
                allowed &= write_file | read_file | truncate
            call("syscall", add_rule, ruleset, 1, struct.pack("=Qi", allowed & handled, place), 0)
            os.close(place)
    call("syscall", restrict_self, ruleset, 0)
    os.close(ruleset)


def _readable() -> Iterator[str]:
    """What Python reads: its library, shared libraries, the time zone, random numbers."""
    yield from (*filter(os.path.isabs, sys.path), f"{sys.base_prefix}/lib")
    yield from (
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/nix/store",
        "/etc/ld.so.cache",
    )
    yield from ("/usr/share/zoneinfo", "/etc/localtime", "/etc/mime.types", "/dev/urandom", "/dev/random")


def _seccomp(call: Callable[..., int], _folder: str) -> None:
    """System calls: those of the list; some only with the arguments that concern this process alone."""
    import ctypes

    column = _NUMBERS[os.uname().machine if struct.calcsize("P") == 8 else ""]
    own, as_pid = os.getpid(), 16  # where the first argument's lower half lies
    x86_arm_conditions: tuple[tuple[tuple[int, int], dict[int, tuple[int, ...]]], ...] = (
        ((72, 25), {as_pid + 8: _FCNTL}),
        ((16, 29), {as_pid + 8: _IOCTL}),
        ((62, 129), {as_pid: (own,)}),  # kill
        ((200, 130), {as_pid: (own,)}),  # tkill
        ((234, 131), {as_pid: (own,)}),  # tgkill, for abort
        ((302, 261), {as_pid: (0,), as_pid + 16: (0,), as_pid + 20: (0,)}),  # prlimit64: reading one's own
    )
    load, equal, give = 0x20, 0x15, 0x06
    allow, fail = 0x7FFF0000, 0x00050000
    program = [(load, 0, 0, 4), (equal, 1, 0, _ARCHITECTURES[column]), (give, 0, 0, fail | _PERMISSION)]
    program += [(load, 0, 0, 0)]
    for table, answer in ((_ALLOWED, allow), (_WITHOUT_EFFECT, fail)):  # fail with 0: done, it says
        words = table.split()
        for number in words[1 + column :: 3]:
            if number != "-":
                program += [(equal, 0, 1, int(number)), (give, 0, 0, answer)]
    for numbers, conditions in x86_arm_conditions:
        checks: list[tuple[int, int, int, int]] = []
        for offset, values in conditions.items():
            checks += [(load, 0, 0, offset)]
            checks += [(equal, len(values) - at, 0, value) for at, value in enumerate(values)]
            checks += [(give, 0, 0, fail | _PERMISSION)]
        checks += [(give, 0, 0, allow)]
        program += [(equal, 0, len(checks), numbers[column]), *checks]
    program += [(give, 0, 0, fail | _PERMISSION)]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    whole = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(filters))
    call("prctl", 22, 2, whole, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
