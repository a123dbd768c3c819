"""Runs commands side by side and shows their lines as they come, with the seconds since the start.

usage: python tools/together.py NAME COMMAND [NAME COMMAND …]   (by the Makefile; COMMANDs go to the shell)

All run to their ends, though one of them failed. The exit status is that of the first in order which failed.
A command is not given a terminal, so it should show its progress in lines.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time


def main(arguments: list[str]) -> int:
    names, commands = arguments[0::2], arguments[1::2]
    started, width = time.monotonic(), max(map(len, names))

    def follow(name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                print(f"{time.monotonic() - started:4.0f} s  {name:{width}}  {line.strip()}", flush=True)

    processes = [
        subprocess.Popen(
            command, shell=True, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for command in commands
    ]
    followers = [threading.Thread(target=follow, args=pair) for pair in zip(names, processes, strict=True)]
    for follower in followers:
        follower.start()
    try:
        statuses = [process.wait() for process in processes]
    except KeyboardInterrupt:  # the terminal told them, too
        statuses = [process.wait() or 130 for process in processes]
    for follower in followers:
        follower.join()
    return next((abs(status) for status in statuses if status), 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
