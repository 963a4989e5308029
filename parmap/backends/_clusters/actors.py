"""The actors of this program on a Ray cluster, each a worker: all pools that ask for the same share them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from math import inf
from queue import SimpleQueue
from typing import Any

from parmap._travel.failure import encode
from parmap._work.threads import start_thread
from parmap.backends._clusters.actor import Actor
from parmap.backends._clusters.client import say
from parmap.backends._clusters.site import NEEDED, check, facts, fitting
from parmap.backends._clusters.wire import Order, Told
from parmap.errors import BackendUnavailableError

_WORDS = {"num_cpus": "CPU", "num_gpus": "GPU"}  # two names for the same

_IDLE = 5.0  # seconds after which an actor that has nothing to do gives its CPU back

_GRACE = 10.0  # seconds that an actor may take to stop a task

_STARTS = 3  # actors in a row that may fail to start


def session_of(ray: Any) -> str | None:
    """What tells this connection to a cluster from others; `None`: there is none."""
    if not ray.is_initialized():  # asked anything else, it would start a cluster
        return None
    worker = ray.get_runtime_context().worker  # whose own number is the same for each new cluster's first program
    node = getattr(worker, "node", None)  # which Ray's client has not
    return f"{getattr(node, 'session_name', '')} {worker.worker_id.hex()}"


class Task:
    """A chunk that waits for an actor, or has one."""

    def __init__(self, pool: str, number: int, order: Order, hear: Callable[[int, Any], object]) -> None:
        self.pool = pool
        self.number = number
        self.order: Order | None = order
        self.hear = hear
        self.actor: Any = None


class Actors:
    """The actors of this program on one cluster, each a worker: all pools that ask for the same share them."""

    def __init__(self, ray: Any, session: str | None, needs: dict[str, float]) -> None:
        self.needs = needs
        self.pools: set[Hashable] = set()
        self.fitting = 0
        self._ray = ray
        self._session = session
        self._lock = threading.RLock()
        self._free: list[tuple[Any, float]] = []  # and since when
        self._all: dict[Any, None] = {}
        self.latest: Any = None  # what will be there when something has happened
        self._waiting: deque[Task] = deque()
        self._starting: set[Any] = set()
        self._stopping: dict[Task, float] = {}  # and by when it has to be done
        # The thread of Ray's client that calls back brings what all other calls of it wait for.
        is_client = session is not None and "client" in type(ray.get_runtime_context().worker).__module__
        self._told: SimpleQueue[Callable[[], object]] | None = SimpleQueue() if is_client else None
        if is_client:
            start_thread("parmap-ray", self._live)
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
        try:
            return session_of(self._ray) == self._session
        except Exception:  # noqa: BLE001 - Ray's client asks the cluster, which may be gone
            return False

    def give(self, task: Task) -> None:
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
        self._then(self.latest.future(), self._started, actor)

    def _then(self, future: Any, act: Callable[..., object], what: Any) -> None:
        """Do something when a future is there."""
        told = self._told
        do = partial(act, what)
        future.add_done_callback(do if told is None else lambda done: told.put(partial(do, done)))

    def _live(self) -> None:
        while self._told is not None:
            with suppress(Exception):  # whatever the client says where it is cut off: `is_there` tells
                self._told.get()()

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

    def _run(self, task: Task, actor: Any) -> None:
        task.actor = actor
        order, task.order = task.order, None
        self.latest = actor.run.remote(order)
        self._then(self.latest.future(), self._ran, task)

    def _ran(self, task: Task, future: Any) -> None:
        error = future.exception()
        with self._lock:
            self._stopping.pop(task, None)
            if task.actor in self._all:
                if error is None:
                    self._free.append((task.actor, time.monotonic()))
                else:  # Ray has several for one that is gone: where memory runs out, it is not said to have died
                    del self._all[task.actor]
                if self.is_there:
                    self._go_on()
        task.hear(task.number, error or future.result())

    def stop(self, task: Task) -> None:
        """Stop a task."""
        with self._lock:
            if task in self._waiting:
                self._waiting.remove(task)
                task.hear(task.number, Told(stopped=True))
            elif self.is_there:
                self.tell(say, "stop", task.pool, [task.number], to=[task.actor])
                self._stopping[task] = time.monotonic() + _GRACE

    def tell(
        self, then: Callable[[Any], object] | None, what: str, *args: Any, to: Iterable[Any] | None = None
    ) -> None:
        """Call a function of `pilot` in actors, all or those that are named; *then* takes each answer."""
        if not self.is_there:
            return
        for actor in list(self._all) if to is None else to:
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


_known: dict[Any, Actors] = {}


def actors_of(ray: Any, resources: Mapping[str, float]) -> Actors:
    """Those that have *resources* each, on the cluster that this process is connected to."""
    session = session_of(ray)
    needs = {"CPU": 1.0} | {_WORDS.get(name, name): need for name, need in resources.items()}
    key = session, tuple(sorted(needs.items()))
    if key not in _known:
        for old in [each for each in _known if each[0] != session]:
            del _known[old]
        _known[key] = Actors(ray, session, needs)
    return _known[key]
