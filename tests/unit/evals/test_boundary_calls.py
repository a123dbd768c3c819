"""Numbers of system calls in the sandbox's list are the kernel's own, on x86-64 and on AArch64.

Source: linux-libc-dev 6.1.187-1 of Debian, asm/unistd_64.h, and asm-generic/unistd.h preprocessed as AArch64
has it (64 bits, __ARCH_WANT_RENAMEAT, __ARCH_WANT_SET_GET_RLIMIT, __ARCH_WANT_NEW_STAT). fchmodat2 is Linux
6.6's, in both tables the same number.
"""

from __future__ import annotations

import inspect

import pytest

from edgereason.evals import boundary, sandbox

# Name, x86-64, AArch64.
LISTED = """
    read 0 63  write 1 64  readv 19 65  writev 20 66  pread64 17 67  pwrite64 18 68  preadv 295 69
    pwritev 296 70  lseek 8 62  close 3 57  close_range 436 436  open 2 -  openat 257 56  creat 85 -
    dup 32 23  dup2 33 -  dup3 292 24  pipe 22 -  pipe2 293 59  eventfd2 290 19  fsync 74 82
    fdatasync 75 83  ftruncate 77 46  fallocate 285 47  fadvise64 221 223  flock 73 32  sendfile 40 71
    splice 275 76  copy_file_range 326 285  stat 4 -  fstat 5 80  lstat 6 -  newfstatat 262 79
    statx 332 291  access 21 -  faccessat 269 48  faccessat2 439 439  statfs 137 43  fstatfs 138 44
    readlink 89 -  readlinkat 267 78  getdents64 217 61  getcwd 79 17  chdir 80 49  fchdir 81 50
    umask 95 166  mkdir 83 -  mkdirat 258 34  rmdir 84 -  unlink 87 -  unlinkat 263 35  rename 82 -
    renameat 264 38  renameat2 316 276  listxattr 194 11  llistxattr 195 12  flistxattr 196 13
    mmap 9 222  mprotect 10 226  munmap 11 215  brk 12 214  mremap 25 216  msync 26 227  madvise 28 233
    rt_sigaction 13 134  rt_sigprocmask 14 135  rt_sigreturn 15 139  rt_sigpending 127 136
    rt_sigtimedwait 128 137  rt_sigsuspend 130 133  sigaltstack 131 132  pause 34 -
    restart_syscall 219 128  select 23 -  pselect6 270 72  poll 7 -  ppoll 271 73  epoll_create1 291 20
    epoll_ctl 233 21  epoll_wait 232 -  epoll_pwait 281 22  nanosleep 35 101  clock_nanosleep 230 115
    clock_gettime 228 113  clock_getres 229 114  gettimeofday 96 169  time 201 -  times 100 153
    getitimer 36 102  sched_yield 24 124  getpid 39 172  getppid 110 173  gettid 186 178  getpgrp 111 -
    getpgid 121 155  getsid 124 156  getuid 102 174  geteuid 107 175  getgid 104 176  getegid 108 177
    getgroups 115 158  getresuid 118 148  getresgid 120 150  getrlimit 97 163  getrusage 98 165
    uname 63 160  sysinfo 99 179  getrandom 318 278  getcpu 309 168  sched_getaffinity 204 123
    arch_prctl 158 -  futex 202 98  set_robust_list 273 99  set_tid_address 218 96  rseq 334 293
    membarrier 324 283  exit 60 93  exit_group 231 94  chmod 90 -  fchmod 91 52  fchmodat 268 53
    chown 92 -  fchown 93 55  lchown 94 -  fchownat 260 54  utime 132 -  utimes 235 -  futimesat 261 -
    utimensat 280 88  fcntl 72 25  ioctl 16 29  kill 62 129  tkill 200 130  tgkill 234 131
    prlimit64 302 261  landlock_create_ruleset 444 444  landlock_add_rule 445 445
    landlock_restrict_self 446 446
    fchmodat2 452 452
"""
NEVER = """
    clone 56 220  clone3 435 435  fork 57 -  vfork 58 -  execve 59 221  execveat 322 281  ptrace 101 117
    process_vm_readv 310 270  process_vm_writev 311 271  pidfd_open 434 434  pidfd_send_signal 424 424
    pidfd_getfd 438 438  rt_sigqueueinfo 129 138  rt_tgsigqueueinfo 297 240  socket 41 198
    socketpair 53 199  connect 42 203  bind 49 200  sendto 44 206  sendmsg 46 211  recvmsg 47 212
    mknod 133 -  mknodat 259 33  link 86 -  linkat 265 37  symlink 88 -  symlinkat 266 36
    truncate 76 45  setxattr 188 5  lsetxattr 189 6  fsetxattr 190 7  removexattr 197 14  mount 165 40
    umount2 166 39  move_mount 429 429  open_tree 428 428  fsopen 430 430  pivot_root 155 41
    chroot 161 51  unshare 272 97  setns 308 268  keyctl 250 219  add_key 248 217  request_key 249 218
    bpf 321 280  perf_event_open 298 241  userfaultfd 323 282  io_uring_setup 425 425
    memfd_create 319 279  shmget 29 194  msgget 68 186  semget 64 190  mq_open 240 180
    kexec_load 246 104  init_module 175 105  finit_module 313 273  reboot 169 142  setuid 105 146
    setgid 106 144  setreuid 113 145  setresuid 117 147  setgroups 116 159  capset 126 91
    setrlimit 160 164  setpriority 141 140  prctl 157 167  seccomp 317 277  personality 135 92
    swapon 167 224  syslog 103 116  acct 163 89  quotactl 179 60  open_by_handle_at 304 265
    name_to_handle_at 303 264  inotify_init1 294 26  fanotify_init 300 262  timer_create 222 107
    setitimer 38 103  sched_setaffinity 203 122
"""


def table(text: str, column: int) -> dict[str, int]:
    """Numbers by name; what does not exist on the architecture is left out."""
    words = text.split()
    numbers = dict(zip(words[::3], words[1 + column :: 3], strict=True))
    return {name: int(number) for name, number in numbers.items() if number != "-"}


def allowed(column: int) -> dict[str, int]:
    return table(boundary._ALLOWED, column) | table(boundary._WITHOUT_EFFECT, column)


@pytest.mark.parametrize("column", [0, 1], ids=["x86-64", "aarch64"])
def test_every_call_of_the_list_has_the_kernels_number(column: int) -> None:
    kernel, listed = table(LISTED, column), allowed(column)
    assert {name: kernel.get(name) for name in listed} == listed


@pytest.mark.parametrize("column", [0, 1], ids=["x86-64", "aarch64"])
def test_no_number_is_that_of_a_call_that_reaches_others(column: int) -> None:
    forbidden = table(NEVER, column)
    assert len(forbidden) > 60
    assert not set(forbidden.values()) & set(allowed(column).values())
    assert not set(forbidden) & set(allowed(column))


@pytest.mark.parametrize(
    ("name", "x86", "arm"),
    [
        ("fcntl", 72, 25),
        ("ioctl", 16, 29),
        ("kill", 62, 129),
        ("tkill", 200, 130),
        ("tgkill", 234, 131),
        ("prlimit64", 302, 261),
    ],
)
def test_calls_that_are_allowed_on_a_condition_have_the_kernels_numbers(
    name: str, x86: int, arm: int
) -> None:
    assert (table(LISTED, 0)[name], table(LISTED, 1)[name]) == (x86, arm)
    # In the filter's source, since a filter that is in force can't be read.
    assert f"(({x86}, {arm})," in inspect.getsource(boundary._seccomp)


def test_landlock_and_the_call_by_which_the_child_waits_have_the_kernels_numbers() -> None:
    for column in (0, 1):
        numbers = [
            table(LISTED, column)[f"landlock_{name}"]
            for name in ("create_ruleset", "add_rule", "restrict_self")
        ]
        assert numbers == [444, 445, 446]
    assert {"x86_64": table(LISTED, 0)["read"], "aarch64": table(LISTED, 1)["read"]} == {
        machine: int(number) for machine, number in sandbox._READ.items()
    }
