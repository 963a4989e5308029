"""Dask as a backend: the client that is there, or a cluster on this machine; when it counts as lost.

A chunk is a task of Dask's, so that its scheduler sees what waits, and moves what was on a worker that is gone. In each
process of a worker there is a pilot.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from parmap.backends import is_dask_client
from parmap.backends._base import Broken
from parmap.backends._clusters import pilot
from parmap.backends._clusters.client import PERIOD, Cluster, say
from parmap.backends._clusters.site import NEEDED, Site, check, check_process, facts, fitting
from parmap.backends._clusters.wire import Order, Told, Wire, boxed, unboxed
from parmap.errors import BackendUnavailableError, PoolClosedError

if TYPE_CHECKING:
    from parmap._calls.options import Options

_LARGE = 1 << 20
"""Bytes of a chunk from which on it does not go with its task."""

_LOST = 3.0  # seconds without the scheduler until it counts as lost

_KEPT, _PACE = 10.0, 1e7  # seconds, and bytes a second, in which what the workers keep gets to one that is not stuck

_REACH = 2.0  # seconds in which a worker answers that the client can talk to

_FACTS = 5.0  # seconds in which all workers have said what they can import, unless something has stopped one

_BORN = 60.0  # seconds that a worker of a cluster on this machine looks for its scheduler, which may have ended


class Dask(Site):
    """A Dask cluster as a backend.

    Args:
        client: the `distributed.Client` of the cluster; `None`: that of the caller, as Dask's own functions find it.
            If there is none, and never was one, a cluster is started on this machine.
        resources: what each task needs of what the workers were started with, such as ``{"GPU": 1}``.
        ship: names of modules that the workers lack, to be sent to them.

    Example:
        >>> import parmap.backends
        >>> parmap.backends.Dask(resources={"GPU": 1})
        parmap.backends.Dask(resources={'GPU': 1})
    """

    module = "distributed"
    unit = "workers"
    gone = "there is no Dask client any more; the last one was connected to {}"

    def __init__(
        self, client: Any = None, resources: Mapping[str, float] | None = None, ship: Iterable[str] = ()
    ) -> None:
        super().__init__(resources, ship)
        if client is not None and not is_dask_client(client):
            raise TypeError(f"Dask() takes a distributed.Client, not {client!r}: try Dask(distributed.Client(...))")
        self.client = client

    def _said(self) -> tuple[Any, ...]:
        return *super()._said(), id(self.client)

    def target(self) -> Hashable:
        """The client."""
        client: Any = self.client
        if client is None:
            try:
                client = self.library().get_client()
            except ValueError:  # there is none
                return None
        check_process("this Dask client", client.id)
        return client  # type: ignore[no-any-return]

    def start(self, count: int) -> Any:
        """Processes that start by themselves: a fork, or multiprocessing's spawn, would need a guard in __main__."""
        from distributed.deploy import subprocess

        return subprocess.SubprocessCluster(
            worker_class="distributed.Worker",  # tasks can't end it, and a nanny might start another while all end
            n_workers=count,
            threads_per_worker=1,
            worker_kwargs={"death_timeout": _BORN},
            dashboard_address=None,  # pyright: ignore[reportArgumentType] - annotated by its default, a str
        )

    def pool(self, options: Options, target: Any, own: Any) -> Cluster:
        """Make a pool; nobody else finds the client of a cluster of its own."""
        client = target
        if client is None:
            client = self.library().Client(own, set_as_default=False)
            client.run_on_scheduler(end_with_parent)
        return DaskCluster(options, self, client, own)


class DaskCluster(Cluster):
    """A pool on the workers of a Dask cluster."""

    overhead: float = 0.005
    gives_up = "KilledWorker"

    def __init__(self, options: Options, site: Dask, client: Any, cluster: Any) -> None:
        """*cluster*: what was started for this."""
        self._client = client
        self._cluster = cluster
        self._resources = {name: need for name, need in site.resources.items() if need}  # 0 asks who has it, too
        self._address = str(getattr(client.scheduler, "address", "?"))
        self._threads = 0
        self._absent = 0.0  # seconds without the scheduler
        self._near: dict[str, bool] = {}  # by address, whether the client itself can talk to a worker
        self._check_status()
        if client.asynchronous:  # this is the thread of its event loop, which has to go on
            self._soon(self._begin)
        else:
            client.sync(self._count)
            with suppress(TimeoutError):
                client.sync(self._check_workers, callback_timeout=_FACTS)
        super().__init__(options, site.ship)

    async def _begin(self) -> None:
        await self._try_to_count()
        try:
            await self._check_workers()
        except BackendUnavailableError as error:
            self.post_event(Broken(error))

    async def _check_workers(self) -> None:
        """Refuse workers that can't run anything."""
        try:
            found = await self._client.run(facts, NEEDED, on_error="return", asynchronous=True)
        except Exception:  # noqa: BLE001 - the first chunk will tell
            return
        for address, told in found.items():
            if not isinstance(told, BaseException):
                check(f"the Dask worker at {address}", told)

    # how large it is

    async def _count(self) -> None:
        if not self._resources:
            workers = await self._client.scheduler.ncores()
            self._threads = sum(workers.values())
        else:
            workers = (await self._client.scheduler.identity())["workers"]
            self._threads = sum(
                min(each["nthreads"], fitting(each["resources"], self._resources)) for each in workers.values()
            )
        new = [address for address in workers if address not in self._near]
        self._near = {address: self._near.get(address, False) for address in workers}
        if new and self._client.direct_to_workers is None:
            self._soon(self._reach, new)

    async def _reach(self, addresses: list[str]) -> None:
        """Find out which workers answer the client itself: it may be elsewhere, where their addresses are others'."""

        async def reach(address: str, name: Any) -> None:
            with suppress(Exception):  # whatever it is, the scheduler can talk to it
                found = await asyncio.wait_for(self._client.rpc(address).identity(), _REACH)
                self._near[address] = found["id"] == name

        try:
            told = await self._client.scheduler.broadcast(msg={"op": "identity"}, workers=addresses, on_error="ignore")
        except Exception:  # noqa: BLE001 - as above
            return
        await asyncio.gather(*(reach(address, found["id"]) for address, found in told.items()))

    @property
    def _direct(self) -> bool | None:
        """Whether what is large goes to workers, and comes from them, without the scheduler; `None`: as Dask has it."""
        return True if self._near and all(self._near.values()) else None

    def size(self) -> int:
        """Its threads."""
        return self._threads

    def let_wait(self, wait: Callable[[float | None], bool], timeout: float | None) -> bool:
        """A task of Dask's leaves the threads of its worker to those that it waits for, and for good."""
        from distributed import secede

        if self._client.asynchronous:
            raise RuntimeError(
                "the event loop of an asynchronous Dask client can't wait for its own work: "
                "await submit or map_async, or iterate over a stream with async for"
            )
        with suppress(ValueError, KeyError, AttributeError):  # it is none, or has left them already
            secede()
        return wait(timeout)

    def missing(self) -> str:
        """What to look at where no worker can be had."""
        if self._threads:
            return ""
        what = f" with {self._resources}" if self._resources else ""
        return f"the Dask cluster at {self._address} has no worker{what}"

    def look(self) -> None:
        """Count its threads; see whether its scheduler is there."""
        status = self._client.status
        self._absent = 0.0 if status == "running" else self._absent + 0.5
        if status in {"closing", "closed"}:
            self.lose(f"the Dask client of the cluster at {self._address} was closed")
        elif self._absent > _LOST:
            self.lose(f"the scheduler of the Dask cluster at {self._address} is gone")
        else:
            self._soon(self._try_to_count)

    async def _try_to_count(self) -> None:
        with suppress(Exception):  # whatever it is, the client's status tells
            await self._count()

    def _check_status(self) -> None:
        if self._client.status in {"closing", "closed"}:
            raise PoolClosedError(f"the Dask client of the cluster at {self._address} was closed")

    # what goes out

    def _soon(self, function: Any, *args: Any) -> None:
        """Have something done by the client's own thread."""
        with suppress(RuntimeError):  # it is closed
            self._client.loop.add_callback(function, *args)

    def put(self, content: bytes | memoryview) -> tuple[Any, Any]:
        """Have some worker keep it; where there is none it goes along, with the task that asks for one."""

        async def keep() -> Any:
            return await self._client.scatter(bytes(content), hash=False, timeout=PERIOD, asynchronous=True)

        try:
            future = self._client.sync(keep, callback_timeout=_KEPT + len(content) / _PACE)
        except TimeoutError:
            return bytes(content), None
        return future.key, future

    def send(self, number: int, order: Order) -> Any:
        """Submit a task."""
        self._check_status()
        futures: list[Any] = []
        self._soon(self._run, number, boxed(order), f"{order.function.name}-{self.pool}-{number}", futures)
        return futures

    async def _run(self, number: int, content: Any, key: str, futures: list[Any]) -> None:
        """In the client's own thread: what is large is on its way while others are packed."""
        from dask.base import annotate

        try:
            if content.__sizeof__() > _LARGE and self._near:  # with no worker, the task asks for one
                content = await self._client.scatter(content, hash=False, direct=self._direct, asynchronous=True)
            if futures:  # it was halted meanwhile
                return
            needs = self._resources or None
            with annotate(span={"name": ("parmap",), "ids": (self.pool,)}):  # one for all: Dask forgets none
                futures.append(self._client.submit(run_order, content, key=key, resources=needs, retries=0, pure=False))
        except OSError as error:  # a worker is gone, or all; that this is true of the scheduler, `look` finds out
            self._near.clear()
            self.hear(number, error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it says where it is closed or broken
            self.lose(f"the Dask cluster at {self._address} takes no more work: {error}", error)
            return
        try:
            told: Told = await self._client.gather(futures[0], direct=self._direct, asynchronous=True)
        except BaseException as error:  # noqa: BLE001 - what Dask says of a task that it has lost
            self.hear(number, error)
        else:
            self.hear(number, told)
        finally:  # at once: an error refers to this frame, which refers to what it is the error of
            futures.pop().release()  # left to the garbage collector, it would be in a `__del__`, where Ctrl-C is lost
            del content

    def halt(self, chunks: dict[int, Any]) -> None:
        """Cancel tasks; those that run are told where they do."""
        self.tell("stop", list(chunks), then=say)  # the answers of their own are cancelled
        self._soon(self._cancel, chunks)

    async def _cancel(self, chunks: dict[int, list[Any]]) -> None:
        futures = [future for sent in chunks.values() for future in sent if future is not None]
        for number, sent in chunks.items():
            if not sent:  # it is still to be submitted: it shall not be, whenever what goes before it has got through
                sent.append(None)
                self.hear(number, Told(stopped=True))
        await self._client.cancel(futures, asynchronous=True, force=True)

    def tell(self, what: str, *args: Any, then: Callable[[Any], object] | None = None) -> None:
        """Call a function of `pilot` in all workers."""
        function, pool = getattr(pilot, what), self.pool

        async def ask() -> None:
            with suppress(Exception):  # who has gone needs nothing
                found = await self._client.run(function, pool, *args, on_error="ignore", asynchronous=True)
                for answer in found.values():
                    if then is not None:
                        then(answer)

        self._soon(ask)

    def finish(self) -> None:
        """Stop the cluster that was started for this."""
        if self._cluster is not None:
            self._client.close()
            self._cluster.close()
            self._cluster = None


# --- in a scheduler that was started for this -----------------------------------------------------------------------


def end_with_parent() -> None:
    """End when this process's parent does, of which nobody else would tell; its workers end with it."""
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


end_with_parent.__module__ = "__main__"  # so that it travels by value: that there is no parmap is told by its workers


# --- in a worker of Dask's ------------------------------------------------------------------------------------------


def run_order(content: bytes | Wire) -> Told:
    """What Dask calls."""
    from distributed import Status, Worker, get_worker

    worker = get_worker()
    task = worker.state.tasks[worker.get_current_task()]  # cancelled: by its client's end, too
    order: Order = unboxed(content)
    return pilot.run(
        order,
        sum(each.state.nthreads for each in [*Worker._instances]),  # noqa: SLF001 - of this process
        _fetch,
        lambda: task.state != "cancelled" and worker.status not in {Status.closing, Status.closed, Status.failed},
    )


def _fetch(key: str) -> bytes:
    from distributed import Future, get_client

    client: Any = get_client()
    known: Any = Future  # its type doesn't know of the states that it takes
    try:
        content: bytes = client.gather(known(key, client, state="memory"))
    except Exception as error:
        raise LookupError(key) from error
    return content
