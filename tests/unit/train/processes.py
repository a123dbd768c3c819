"""Work in several processes that train together; what imports torch once and forks is ready at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from torch.multiprocessing.spawn import start_processes


def together(count: int, work: Callable[[], object]) -> None:
    """Forks `count` processes, tells them of each other as torch's launcher does, and waits for them.

    A process that has trained must not be forked: autograd does not survive it.

    Raises:
        ProcessRaisedException: `work` raised in one of them; the others are ended.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}

    def run(rank: int) -> None:
        for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items():
            os.environ[name] = str(value)
        work()

    start_processes(run, nprocs=count, start_method="fork")
