"""Ray as a backend: the cluster that this process is connected to, or one on this machine.

A worker is an actor of Ray's, with a pilot in it.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from parmap.backends import ALL
from parmap.backends._clusters.actors import Task, actors_of, session_of
from parmap.backends._clusters.client import PERIOD, Cluster
from parmap.backends._clusters.site import Site, check_process
from parmap.errors import PoolClosedError

if TYPE_CHECKING:
    from parmap._calls.options import Options
    from parmap.backends._clusters.wire import Order

_own: dict[str | None, int] = {}  # by session, clusters that pools have begun, with how many pools are there
_turn = threading.RLock()


def _is_task(ray: Any) -> bool:
    """Whether this is a task of Ray's."""
    return ray.is_initialized() and bool(ray.get_runtime_context().worker.mode == ray.WORKER_MODE)


class Ray(Site):
    """The Ray cluster that this process is connected to, as a backend.

    If it is connected to none, and never was, a cluster is started on this machine.

    Args:
        resources: what each worker needs, such as ``{"num_gpus": 1}`` or ``{"CPU": 2, "special": 1}``; one CPU, unless
            it says so.
        ship: names of modules that the workers lack, to be sent to them.

    Example:
        >>> import parmap.backends
        >>> parmap.backends.Ray(resources={"num_gpus": 1})
        parmap.backends.Ray(resources={'num_gpus': 1})
    """

    module = "ray"
    unit = "CPUs"
    gone = "Ray was shut down: connect to a cluster again, with ray.init()"

    def target(self) -> Hashable:
        """The session, if no pool has begun it."""
        session = session_of(self.library())
        if session is not None:
            check_process("this connection of Ray's", session)
        return None if session in _own else session

    @property
    def is_named(self) -> bool:
        """As Ray takes it: so it is in jobs that are submitted. Or another pool is there."""
        return bool(os.environ.get("RAY_ADDRESS")) or session_of(self.library()) in _own

    def start(self, count: int) -> Any:
        """Start it here, or connect, unless another pool has."""
        ray = self.library()
        with _turn:
            if session_of(ray) not in _own:
                local = {"address": "local", "num_cpus": count, "include_dashboard": False}
                ray.init(**({} if self.is_named else local), logging_level=logging.ERROR)
            session = session_of(ray)
            _own[session] = _own.get(session, 0) + 1
        return session

    def pool(self, options: Options, target: Any, own: Any) -> Cluster:  # noqa: ARG002 - the contract
        """Make a pool."""
        return RayCluster(options, self, self.library(), own)


class RayCluster(Cluster):
    """A pool on the nodes of a Ray cluster."""

    overhead: float = 0.001

    def __init__(self, options: Options, site: Ray, ray: Any, own: str | None) -> None:
        """*own*: the session, if it was begun for this, or for another pool."""
        self._ray = ray
        self._own = own
        self._actors = actors_of(ray, site.resources)
        if _is_task(ray):  # what it started must not hold its CPUs for long
            options = options.replace(idle_timeout=min(1.0, options.idle_timeout or 1.0))
        super().__init__(options, site.ship)

    # how large it is

    def size(self) -> int:
        """Workers that find room on the nodes that there are; where any number does, one for each CPU, or `workers`."""
        return self._actors.cpus if self._actors.fitting >= ALL == self.most else self._actors.fitting

    def let_wait(self, wait: Callable[[float | None], bool], timeout: float | None) -> bool:
        """A task of Ray's leaves its CPU to those that it waits for: Ray takes it for waiting in `ray.wait` only."""
        if not _is_task(self._ray):
            return wait(timeout)
        end = None if timeout is None else time.monotonic() + timeout
        while not wait(0.0):
            if end is not None and time.monotonic() > end:
                return False
            if self._actors.latest is None:
                time.sleep(PERIOD / 10)
            else:
                self._ray.wait([self._actors.latest], timeout=PERIOD / 5)
        return True

    def missing(self) -> str:
        """What to look at where no worker can be had."""
        return "" if self._actors.count else f"the Ray cluster has no free node with {self._actors.needs}"

    def look(self) -> None:
        """See whether it is still the same cluster."""
        if self._actors.is_there:
            self._actors.look()
            self._actors.reap()
        else:
            self.lose("Ray was shut down")

    @property
    def is_busy(self) -> bool:
        """As long as actors have a CPU each, others wait for it: they are looked after."""
        return super().is_busy or bool(self._actors.count)

    # what goes out

    def _check_session(self) -> None:
        if not self._actors.is_there:
            raise PoolClosedError("Ray was shut down")

    def put(self, content: bytes | memoryview) -> tuple[Any, Any]:
        """Have the store of objects keep it."""
        self._check_session()
        place = self._ray.put(pickle.PickleBuffer(content))
        return place, place

    def send(self, number: int, order: Order) -> Any:
        """Give it to the next actor that is free."""
        self._check_session()
        task = Task(self.pool, number, order, self.hear)
        self._actors.give(task)
        return task

    def halt(self, chunks: dict[int, Any]) -> None:
        """Tell actors to stop what they run."""
        for task in chunks.values():
            self._actors.stop(task)

    def tell(self, what: str, *args: Any, then: Callable[[Any], object] | None = None) -> None:
        """Call a function of `pilot` in all actors."""
        self._actors.tell(then, what, self.pool, *args)

    def open(self) -> None:
        """Have a part in the actors."""
        self._actors.pools.add(self)

    def close(self) -> None:
        """Stop what runs, and the actors, if nobody else needs them; the cluster stays."""
        super().close()
        self._actors.pools.discard(self)
        if not self._actors.pools:
            self._actors.close()

    def finish(self) -> None:
        """Stop the cluster that was started for this, if no other pool is there."""
        own, self._own = self._own, None
        with _turn:
            if own is not None:
                _own[own] -= 1
                if not _own[own] and self._actors.is_there:
                    self._ray.shutdown()
