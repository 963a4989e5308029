"""Clusters on this machine: Dask's with a scheduler and three workers over TCP, Ray's with two nodes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

SPARE = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "60s",
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "500ms",
    "DASK_DISTRIBUTED__ADMIN__TICK__CYCLE": "5s",
}
"""Dask without what looks at its processes fifty times a second, for a dashboard that nobody looks at."""


class DaskCluster:
    """A scheduler and three workers, each a process of its own, and a client."""

    name = "dask"

    def __init__(self, folder: Path, *, workers: int = 3, threads: int = 2) -> None:
        self.folder = folder
        self.threads = threads
        self.workers: list[subprocess.Popen[bytes]] = []
        self._names = 0
        address = folder / "scheduler.json"
        self.scheduler = self._start("dask_scheduler", "--port", "0", "--scheduler-file", str(address))
        self._file = address
        deadline = time.monotonic() + 60
        while not address.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        for _ in range(workers):
            self.add()
        from distributed import Client

        self.client = Client(scheduler_file=str(address))
        self.client.wait_for_workers(workers, timeout=60)

    def _start(self, what: str, *args: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{what}", "--host", "127.0.0.1", "--no-dashboard", *args],
            stdout=subprocess.DEVNULL,
            stderr=open(self.folder / "log", "ab"),
            cwd=self.folder,
            env={**SPARE, **os.environ, "PYTHONPATH": path},
        )

    @property
    def address(self) -> str:
        """Where the scheduler is."""
        return str(self.client.scheduler.address)

    def add(self, **resources: float) -> None:
        """One more worker."""
        told = ["--resources", " ".join(f"{name}={count}" for name, count in resources.items())] if resources else []
        name = f"w{self._names}"
        self._names += 1
        self.workers.append(
            self._start(
                "dask_worker",
                *("--scheduler-file", str(self._file), "--nthreads", str(self.threads), "--name", name, "--no-nanny"),
                *told,
            )
        )

    def kill(self, which: int = -1) -> None:
        """Kill a worker, and what is below it is left to find out."""
        self.workers.pop(which).kill()

    def retire(self) -> None:
        """Let a worker go, with what it has in its memory kept by others."""
        self.client.retire_workers(names=[f"w{self._names - 1}"])

    def pids(self) -> set[int]:
        """The processes of the workers."""
        return {worker.pid for worker in self.workers}

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        for process in [*self.workers, self.scheduler]:
            process.terminate()
        for process in [*self.workers, self.scheduler]:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:  # those of Dask often miss the signal where its scheduler has ended first
                process.kill()
                process.wait(10)


class RayCluster:
    """A head and one more node, two CPUs each, and this process as driver."""

    name = "ray"

    def __init__(self, folder: Path, *, cpus: int = 2) -> None:
        self._environ = dict(os.environ)
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        import ray
        from ray.cluster_utils import Cluster

        self.cpus = cpus
        # Without the processes that would look after what nobody looks at: a dashboard, logs, and how to grow.
        spare = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, **spare})
        self.workers = [self.cluster.add_node(num_cpus=cpus)]
        ray.init(address=self.cluster.address, logging_level="ERROR", log_to_driver=False)
        self.address = self.cluster.address

    def add(self, **resources: float) -> None:
        """One more node."""
        self.workers.append(self.cluster.add_node(num_cpus=self.cpus, resources=resources, wait=False))

    def kill(self, which: int = -1) -> None:
        """Take a node away, at once."""
        self.cluster.remove_node(self.workers.pop(which), allow_graceful=False)

    def retire(self) -> None:
        """Let a node go."""
        self.cluster.remove_node(self.workers.pop(), allow_graceful=True)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()
        os.environ.clear()
        os.environ.update(self._environ)
        for process in _of_ray():  # they take their time, and the next test looks for what is left of it
            process.kill()
        psutil.wait_procs(_of_ray(), 10)


def _of_ray() -> list[psutil.Process]:
    """The processes below this one that are Ray's."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has just ended
            pass
    return found


CLUSTERS: dict[str, Any] = {"dask": DaskCluster, "ray": RayCluster}


def is_running(pid: int) -> bool:
    """Whether a process is there."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
