"""Ray as a backend: the cluster that this process is connected to, or one on this machine.

A worker is an actor of Ray's, with a pilot in it.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any

from parmap._travel.failure import encode
from parmap.backends import ALL
from parmap.backends._clusters.actor import Actor
from parmap.backends._clusters.client import PERIOD, Cluster
from parmap.backends._clusters.site import NEEDED, Site, check, check_process, facts, fitting
from parmap.backends._clusters.wire import Order, Told
from parmap.errors import BackendUnavailableError, PoolClosedError

if TYPE_CHECKING:
    from parmap._calls.options import Options

_WORDS = {"num_cpus": "CPU", "num_gpus": "GPU"}  # two names for the same

_IDLE = 5.0  # seconds after which an actor that has nothing to do gives its CPU back

_GRACE = 10.0  # seconds that an actor may take to stop a task

_STARTS = 3  # actors in a row that may fail to start

_own: dict[str | None, int] = {}  # by session, clusters that pools have begun, with how many pools are there
_turn = threading.RLock()


def _session(ray: Any) -> str | None:
    """What tells this connection to a cluster from others; `None`: there is none."""
    if not ray.is_initialized():  # asked anything else, it would start a cluster
        return None
    worker = ray.get_runtime_context().worker  # whose own number is the same for each new cluster's first program
    node = getattr(worker, "node", None)  # which Ray's client has not
    return f"{getattr(node, 'session_name', '')} {worker.worker_id.hex()}"


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
        session = _session(self.library())
        if session is not None:
            check_process("this connection of Ray's", session)
        return None if session in _own else session

    @property
    def is_named(self) -> bool:
        """As Ray takes it: so it is in jobs that are submitted. Or another pool is there."""
        return bool(os.environ.get("RAY_ADDRESS")) or _session(self.library()) in _own

    def start(self, count: int) -> Any:
        """Start it here, or connect, unless another pool has."""
        ray = self.library()
        with _turn:
            if _session(ray) not in _own:
                local = {"address": "local", "num_cpus": count, "include_dashboard": False}
                ray.init(**({} if self.is_named else local), logging_level=logging.ERROR)
            session = _session(ray)
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
        self._actors = _actors_of(ray, site.resources)
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
        task = _Task(self.pool, number, order, self.hear)
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


class _Task:
    """A chunk that waits for an actor, or has one."""

    def __init__(self, pool: str, number: int, order: Order, hear: Callable[[int, Any], object]) -> None:
        self.pool = pool
        self.number = number
        self.order: Order | None = order
        self.hear = hear
        self.actor: Any = None


class _Actors:
    """The actors of this program on one cluster, each a worker: all pools that ask for the same share them."""

    def __init__(self, ray: Any, session: str | None, needs: dict[str, float]) -> None:
        self.needs = needs
        self.pools: set[RayCluster] = set()
        self.fitting = 0
        self._ray = ray
        self._session = session
        self._lock = threading.RLock()
        self._free: list[tuple[Any, float]] = []  # and since when
        self._all: dict[Any, None] = {}
        self.latest: Any = None  # what will be there when something has happened
        self._waiting: deque[_Task] = deque()
        self._starting: set[Any] = set()
        self._stopping: dict[_Task, float] = {}  # and by when it has to be done
        self._chances: float = _STARTS  # to start one, until one has: from then on it is their nodes that go
        self.look()

    def look(self) -> None:
        """Count the workers that find room on the nodes that there are."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self.fitting = sum(fitting(offered, self.needs) for offered in nodes)
        self.cpus = sum(fitting(offered, {"CPU": 1}) for offered in nodes)

    @property
    def count(self) -> int:
        """How many have started."""
        return len(self._all) - len(self._starting)

    @property
    def is_there(self) -> bool:
        """Whether this process is still connected to that cluster."""
        return _session(self._ray) == self._session

    def give(self, task: _Task) -> None:
        """Run a task on the next actor that is free; start one, if there is none and room for it."""
        with self._lock:
            self._waiting.append(task)
            self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._free:
            self._run(self._waiting.popleft(), self._free.pop()[0])
        while len(self._waiting) > len(self._starting) and len(self._all) < max(1, self.fitting):
            self._start()

    def _start(self) -> None:
        needs = dict(self.needs)
        options = {
            "num_cpus": needs.pop("CPU"),
            "num_gpus": needs.pop("GPU", 0),
            "memory": needs.pop("memory", None),
            "resources": needs,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 4,  # a chunk, and what it is told meanwhile: each is a thread, with memory of its own
        }
        try:
            actor = self._ray.remote(**options)(Actor).remote()
        except ValueError as error:  # of one and a half GPUs, say
            why = "".join(map(str, error.args))
            self._refuse(BackendUnavailableError(f"Ray takes no needs such as {self.needs}: {why}"))
            return
        self._all[actor] = None
        self._starting.add(actor)
        self.latest = actor.facts.remote(facts, NEEDED)
        self.latest.future().add_done_callback(lambda future: self._started(actor, future))

    def _started(self, actor: Any, future: Any) -> None:
        error = future.exception()
        if error is None:
            try:
                check("a node of the Ray cluster", future.result())
            except BackendUnavailableError as lack:
                error = lack
        with self._lock:
            self._starting.discard(actor)
            if actor not in self._all:  # nobody needs it any more
                return
            if error is None:
                self._chances = inf
                self._free.append((actor, time.monotonic()))
            else:
                del self._all[actor]  # which ends it; to kill it would wait for this thread, which is Ray's
                self._chances -= 1
                if isinstance(error, BackendUnavailableError):
                    self._refuse(error)
                elif not self._chances:
                    self._refuse(BackendUnavailableError(f"no worker can be started on the Ray cluster: {error}"))
            if self.is_there:
                self._go_on()

    def _refuse(self, told: BackendUnavailableError) -> None:
        """No worker can be had: whoever waits for one is told why."""
        self._chances = _STARTS
        while self._waiting:
            task = self._waiting.popleft()
            task.hear(task.number, Told(broken=encode(told)))

    def _run(self, task: _Task, actor: Any) -> None:
        task.actor = actor
        order, task.order = task.order, None
        self.latest = actor.run.remote(order)
        self.latest.future().add_done_callback(lambda future: self._ran(task, future))

    def _ran(self, task: _Task, future: Any) -> None:
        error = future.exception()
        with self._lock:
            self._stopping.pop(task, None)
            if task.actor in self._all:
                if isinstance(error, self._ray.exceptions.RayActorError):
                    del self._all[task.actor]
                else:
                    self._free.append((task.actor, time.monotonic()))
                if self.is_there:
                    self._go_on()
        task.hear(task.number, error or future.result())

    def stop(self, task: _Task) -> None:
        """Stop a task."""
        with self._lock:
            if task in self._waiting:
                self._waiting.remove(task)
                task.hear(task.number, Told(stopped=True))
            elif self.is_there:
                task.actor.tell.remote("stop", task.pool, [task.number])
                self._stopping[task] = time.monotonic() + _GRACE

    def tell(self, then: Callable[[Any], object] | None, what: str, *args: Any) -> None:
        """Call a function of `pilot` in all actors; *then* takes each answer."""
        if not self.is_there:
            return
        for actor in list(self._all):
            try:
                answer = actor.tell.remote(what, *args)
            except Exception:  # noqa: BLE001 - of a cluster that is shut down just now
                return
            if then is not None:
                answer.future().add_done_callback(lambda done: then(done.result()) if not done.exception() else None)

    def reap(self) -> None:
        """End those that have had nothing to do for a while, since others need their CPUs; and those that are stuck."""
        with self._lock:
            limit = time.monotonic() - _IDLE
            stuck = [task for task, end in self._stopping.items() if end < limit + _IDLE]
            for task in stuck:
                del self._stopping[task]
            late = [actor for actor, since in self._free if since < limit]
            self._free = [(actor, since) for actor, since in self._free if since >= limit]
            for actor in late:
                del self._all[actor]
        self._end([*late, *(task.actor for task in stuck)])

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            actors = list(self._all)
            self._all.clear()
            self._free.clear()
            self._starting.clear()  # those who come next need others
        if self.is_there:
            self._end(actors)

    def _end(self, actors: Iterable[Any]) -> None:
        for actor in actors:
            try:
                self._ray.kill(actor)
            except Exception:  # noqa: BLE001, S110 - it is gone, or the cluster is shut down just now
                pass


_all_actors: dict[Any, _Actors] = {}


def _actors_of(ray: Any, resources: Mapping[str, float]) -> _Actors:
    session = _session(ray)
    needs = {"CPU": 1.0} | {_WORDS.get(name, name): need for name, need in resources.items()}
    key = session, tuple(sorted(needs.items()))
    if key not in _all_actors:
        for old in [each for each in _all_actors if each[0] != session]:
            del _all_actors[old]
        _all_actors[key] = _Actors(ray, session, needs)
    return _all_actors[key]
