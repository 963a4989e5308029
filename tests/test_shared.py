"""Locks, queues and shared memory of multiprocessing: workers of this machine share them with the program."""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import signal
import warnings
import weakref
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from parmap import Executor, Pool, SerializationError, parallel
from parmap._work.threads import HAS_GIL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Script

HAS_DESCRIPTORS = os.path.exists("/proc/self/fd")
CONTEXT = multiprocessing.get_context("forkserver")
SPAWN = multiprocessing.get_context("spawn")

pytestmark = pytest.mark.skipif(not HAS_DESCRIPTORS, reason="descriptors of other processes are not to be seen")

shared: tuple[Any, ...] = ()


@pytest.fixture(autouse=True, scope="module")
def heap() -> Any:
    """Memory, and a process that knows what is to be removed, which multiprocessing then keeps open."""
    return CONTEXT.Value("q", 0)


@pytest.fixture(autouse=True)
def cycles_are_gone() -> Iterator[None]:
    """A queue may be in a cycle, with its descriptors."""
    yield
    gc.collect()


def set_shared(*args: Any) -> None:
    """As programs do in an initializer."""
    global shared  # noqa: PLW0603 - it is what they do
    shared = args


def count(x: int) -> None:
    lock, number, numbers, queue = shared
    with lock:
        number.value += 1
        numbers[x % 2] += x
    queue.put(x)


EVERYTHING = """
import ctypes, multiprocessing, sys
from parmap import Executor, Pool, parallel

class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("y", ctypes.c_int)]

context = multiprocessing.get_context("forkserver")
lock, again, condition, event, few = (
    context.Lock(), context.RLock(), context.Condition(), context.Event(), context.BoundedSemaphore(2)
)
queue, joinable, simple = context.Queue(), context.JoinableQueue(), context.SimpleQueue()
number, letters, point = context.Value("i", 0), context.Array("c", b"none"), context.Value(Point, 0.5, 1)
raw, raw_number, raw_point = context.RawArray("i", 3), context.RawValue("d", 0.5), context.RawValue(Point, 0.5, 1)
reader, writer = context.Pipe(duplex=False)

def use(lock, again, condition, event, few, queue, joinable, simple, number, letters, point, raw, raw_number, raw_point, writer):
    with lock, again, again, few:
        number.value += 1
        letters.value = b"some"
        point.x += 1
        point.y += 1
        raw[1] += 2
        raw_number.value += 1
        raw_point.x, raw_point.y = 7, 8
    event.set()
    queue.put("queue")
    joinable.put("joinable")
    simple.put("simple")
    writer.send("pipe")
    with condition:
        condition.notify_all()

def use_globals(_):
    use(lock, again, condition, event, few, queue, joinable, simple, number, letters, point, raw, raw_number, raw_point, writer)

def set_all(*args):
    global all_of_them
    all_of_them = args

def use_all(_):
    use(*all_of_them)

ALL = lock, again, condition, event, few, queue, joinable, simple, number, letters, point, raw, raw_number, raw_point, writer
METHOD = {method!r}

def as_globals():
    return parallel(use_globals, workers=2, start_method=METHOD).submit(1)

def as_arguments():
    return parallel(use, workers=2, start_method=METHOD).submit(*ALL)

def as_initargs():
    return parallel(use_all, workers=2, start_method=METHOD, initializer=set_all, initargs=ALL).submit(1)

if __name__ == "__main__":
    for way in as_globals, as_arguments, as_initargs:
        before = number.value, point.x, point.y, raw[1], raw_number.value
        event.clear()
        letters.value = b"none"
        raw_point.x = 0
        with condition:
            future = way()
            told = condition.wait(30)
        future.result()
        after = number.value, point.x, point.y, raw[1], raw_number.value
        assert [y - x for x, y in zip(before, after)] == [1, 1, 1, 2, 1], (before, after)
        assert told and event.is_set() and letters.value == b"some" and (raw_point.x, raw_point.y) == (7, 8)
        print(queue.get(timeout=30), joinable.get(), simple.get(), reader.recv())
"""


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_every_kind_every_way(script: Script, method: str):
    """As globals of a script, as arguments, and as those of an initializer, whatever they are."""
    done = script.run(EVERYTHING.replace("{method!r}", repr(method)))

    assert (done.stdout, done.stderr) == (3 * "queue joinable simple pipe\n", "")


def test_as_with_the_standard_classes():
    """The idiom of programs for `multiprocessing.Pool` and `ProcessPoolExecutor`: a lock and a counter by `initargs`."""
    what = CONTEXT.Lock(), CONTEXT.Value("q", 0, lock=False), CONTEXT.Array("q", 2, lock=False), CONTEXT.Queue()
    with Pool(2, initializer=set_shared, initargs=what) as pool:
        pool.map(count, range(500))
    with Executor(2, initializer=set_shared, initargs=what) as executor:
        list(executor.map(count, range(500)))

    assert what[1].value == 1000
    assert what[2][:] == [2 * sum(range(0, 500, 2)), 2 * sum(range(1, 500, 2))]
    assert sum(what[3].get(timeout=30) for _ in range(1000)) == 2 * sum(range(500))


def test_a_worker_that_comes_later():
    """One that takes the place of another that died has them, too."""
    number = CONTEXT.Value("i", 0)

    @parallel(workers=1, retries=1)
    def die_once(_: int) -> int:
        with number.get_lock():
            number.value += 1
        if number.value == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number.value

    assert die_once.map([0]) == [2]
    assert number.value == 2


def test_log_records_through_a_queue(script: Script):
    """As the cookbook of `logging` has it: a handler that puts into a queue, set in each worker."""
    done = script.run("""
        import logging, logging.handlers, multiprocessing, sys
        from parmap import Pool

        def set_up(queue):
            logging.getLogger().handlers = [logging.handlers.QueueHandler(queue)]

        def work(x):
            logging.getLogger("work").warning("at %d", x)

        if __name__ == "__main__":
            queue = multiprocessing.get_context("forkserver").Queue(-1)
            listener = logging.handlers.QueueListener(queue, logging.StreamHandler(sys.stdout))
            listener.start()
            with Pool(1, initializer=set_up, initargs=(queue,)) as pool:
                pool.map(work, range(3))
            listener.stop()
    """)

    assert (done.stdout, done.stderr) == ("at 0\nat 1\nat 2\n", "")


def test_nothing_of_them_stays():
    """Neither in the program nor, be it a descriptor or memory, in a worker."""

    @parallel(workers=1)
    def use(number: Any, queue: Any, lock: Any) -> int:
        with number.get_lock(), lock:
            number.value += 1
        queue.put(1)
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    few = 10
    number, queue, lock = CONTEXT.Value("i", 0), CONTEXT.SimpleQueue(), CONTEXT.Lock()
    open_there = use.starmap([(number, queue, lock)] * 20 * few)
    open_later = use.starmap([(number, queue, lock)] * 20 * few)
    assert number.value == 40 * few
    assert max(open_later) <= max(open_there)

    gone = [weakref.ref(each) for each in (number, queue, lock)]
    del number, queue, lock
    gc.collect()
    assert [each() for each in gone] == [None] * 3


def test_nothing_stays_of_one_whose_method_is_called():
    """The call holds it, until workers have it, and is kept for the next one only as long as it is there."""
    gone = []
    with Executor(1) as executor:
        for _ in range(3):
            queue = CONTEXT.SimpleQueue()
            gone.append(weakref.ref(queue))
            puts = [executor.submit(queue.put, number) for number in range(20)]
            assert [queue.get() for _ in puts] == [*range(20)]
            assert [put.result() for put in puts] == [None] * 20
            del queue, puts
        executor.submit(abs, 1).result()
        gc.collect()

        assert [each() for each in gone] == [None] * 3


def test_one_that_is_refused_is_let_go():
    """It would stay as long as its thread pickles nothing else."""
    lock = multiprocessing.get_context("fork").Lock()
    gone = weakref.ref(lock)
    with pytest.raises(SerializationError):
        parallel(id, workers=1).map([lock])
    with pytest.raises(SerializationError):
        parallel(lambda _, lock=lock: lock, workers=1).map([1])
    del lock
    gc.collect()

    assert gone() is None


def test_slips_are_not_seen_in_what_is_shared(script: Script):
    """A counter that only grows, an array that is only filled, a lock: all are the program's own."""
    done = script.run("""
        import multiprocessing
        from parmap import parallel

        context = multiprocessing.get_context("forkserver")
        number, numbers, raw, queue, lock = (
            context.Value("i", 0), context.Array("i", 3), context.RawArray("i", 3), context.Queue(), context.Lock()
        )

        @parallel(workers=2)
        def fill(x):
            with lock:
                number.value += 1
                numbers[x] = raw[x] = x
            queue.put(x)

        if __name__ == "__main__":
            fill.map(range(3))
            print(number.value, numbers[:], raw[:], sum(queue.get(timeout=30) for _ in range(3)))
    """)

    assert (done.stdout, done.stderr) == ("3 [0, 1, 2] [0, 1, 2] 3\n", "")


def refused_ways(thing: Any) -> list[Callable[[], object]]:
    return [
        lambda: parallel(id, workers=1).map([thing]),
        lambda: parallel(lambda _: thing, workers=1).submit(1).result(),
        lambda: parallel(abs, workers=1, initializer=id, initargs=(thing,)).map([1]),
    ]


@pytest.mark.parametrize("make", ["Lock", "Queue", "Event", "Condition"])
def test_of_a_context_that_forks(make: str):
    """Its semaphores have no name: it is refused, and the message names a context that is not."""
    thing = getattr(multiprocessing.get_context("fork"), make)()
    for way in refused_ways(thing):
        with pytest.raises(SerializationError, match=r'get_context\("forkserver"\), and it can be sent'):
            way()


def test_an_end_of_both_directions():
    """It is a socket, which no other process can open."""
    here, there = multiprocessing.Pipe()
    for way in refused_ways(there):
        with pytest.raises(
            SerializationError, match=r"an end of a pipe; take a Queue of a multiprocessing.Manager\(\)"
        ):
            way()
    there.send("still there")
    assert here.recv() == "still there"


def make_lock() -> Any:
    return CONTEXT.Lock()


def test_where_others_read_them():
    """In the processes of others, which may be on another machine, and as results they mean nothing."""
    told = r"inheritance; take one of a multiprocessing.Manager\(\), which can be sent"
    with ProcessPoolExecutor(1, mp_context=SPAWN) as executor, pytest.raises(SerializationError, match=told):
        parallel(id, backend=executor).map([CONTEXT.Lock()])
    with pytest.raises(SerializationError, match=told):
        parallel(make_lock, workers=1).submit().result()


ARRAYS = """
import multiprocessing, tempfile
import numpy
from multiprocessing.shared_memory import SharedMemory
from parmap import parallel

context = multiprocessing.get_context("forkserver")
raw = numpy.frombuffer(multiprocessing.RawArray("d", 12)).reshape(3, 4)
locked = numpy.frombuffer(context.Array("i", 3).get_obj(), "i4")
as_array = numpy.ctypeslib.as_array(multiprocessing.RawArray("h", 3))
memory = SharedMemory(create=True, size=800)
whole = numpy.ndarray((10, 10), "f8", memory.buf)
part = whole[1::3, ::-2].T
only_read = part.view()
only_read.flags.writeable = False
seen = numpy.asarray(memoryview(whole))[:, 3]
records = numpy.ndarray((3,), [("a", "u1"), ("b", "f4")], memory.buf, 4 * 80)
file = numpy.asarray(numpy.memmap(tempfile.mkdtemp() + "/file", "f4", "w+", shape=(5,)))[1:]

class Model:
    def __init__(self):
        self.weights = whole

    def fill(self, row):
        self.weights[row, 8] = 9

model = Model()

@parallel(workers=2)
def fill(row):
    raw[row] = locked[row] = as_array[row] = file[row] = 1 + row
    part[row, 0] = only_read[row, 0] + 7
    records[row]["b"] = 0.5
    seen[row] = 2
    model.fill(row)
    return only_read.flags.writeable, type(part).__name__, type(file).__name__

@parallel(workers=2)
def look():
    return whole[:, 8].tolist(), raw.shape, whole.sum()

if __name__ == "__main__":
    assert fill.map(range(3)) == [(False, "ndarray", "ndarray")] * 3
    assert raw.tolist() == [[1] * 4, [2] * 4, [3] * 4]
    assert locked.tolist() == as_array.tolist() == file[:3].tolist() == [1, 2, 3]
    assert part[:3, 0].tolist() == whole[1, 9:4:-2].tolist() == [7, 7, 7]
    assert records["b"].tolist() == [0.5] * 3
    assert whole[:3, 8].tolist() == [9, 9, 9] and whole[:3, 3].tolist() == [2, 2, 2]
    before = look.submit().result()
    whole[:] = 1
    raw = raw.reshape(4, 3)
    for after in look.submit().result(), *look.starmap([()]):
        assert after == ([1] * 10, (4, 3), 100), after
    del whole, part, only_read, seen, records, model
    memory.unlink()
"""


def test_arrays_over_shared_memory(script: Script):
    """One for all processes: what tasks write, and what the program writes, all see."""
    pytest.importorskip("numpy")
    done = script.run(ARRAYS)

    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.skipif(not HAS_GIL, reason="without the GIL, Python 3.13 frees no function, and what it names")
def test_workers_let_memory_go_that_is_gone(script: Script):
    """Function by function, or one whose global is another array each time: a SharedMemory would stay full."""
    pytest.importorskip("numpy")
    done = script.run("""
        import os, tempfile
        from multiprocessing.shared_memory import SharedMemory

        import numpy
        from parmap import parallel

        def fill(place):
            array[place] = place
            return len(os.listdir("/proc/self/fd"))

        same = parallel(fill, workers=1)

        def use(look):
            assert look.submit(3).result() == 0
            return same.submit(4).result()

        seen = []
        for _ in range(10):
            memory = SharedMemory(create=True, size=800)
            array = numpy.ndarray((100,), "f8", memory.buf)
            seen.append(use(parallel(lambda place: array[place], workers=1)))
            del array
            memory.unlink()
            array = numpy.memmap(tempfile.mkdtemp() + "/file", "f8", "w+", shape=(100,))
            seen.append(use(parallel(lambda place: array[place], workers=1)))
        assert max(seen[2:]) <= max(seen[:2]) + 1, seen
    """)

    assert (done.stdout, done.stderr) == ("", "")


def test_tensors_in_shared_memory(script: Script):
    """As `share_memory_` puts them there, so that all processes train one model."""
    pytest.importorskip("torch")
    done = script.run("""
        import torch
        from parmap import parallel

        shared = torch.zeros(10).share_memory_()
        part = shared[1::2].view(5, 1)
        model = torch.nn.Linear(4, 1).share_memory()
        own = torch.zeros(2)
        turned = torch.complex(torch.ones(2), torch.ones(2)).share_memory_().conj()

        @parallel(workers=2)
        def fill(i):
            with torch.no_grad():
                shared[i] += i
                model.bias.fill_(3.0)
            return own.tolist()

        @parallel(workers=2)
        def look():
            return part.T.tolist(), model.bias.requires_grad, model.bias.item(), own.tolist(), turned.tolist()

        if __name__ == "__main__":
            assert fill.map(range(10)) == [[0.0, 0.0]] * 10
            assert shared.tolist() == [*range(10)] and model.bias.item() == 3
            shared += 1
            own += 1
            assert look.submit().result() == ([[2, 4, 6, 8, 10]], True, 3, [1, 1], [1 - 1j] * 2)
    """)

    assert (done.stdout, done.stderr) == ("", "")


def test_tensors_that_tasks_have_copies_of(script: Script):
    """Of one that has no memory to share; one that is shared by its name stays where other processes share it."""
    pytest.importorskip("torch")
    done = script.run("""
        import torch
        from parmap import parallel

        torch.multiprocessing.set_sharing_strategy("file_system")
        named, sparse = torch.zeros(2).share_memory_(), torch.eye(2).to_sparse()
        place = named.data_ptr()

        @parallel(workers=1)
        def look():
            return named.tolist(), sparse.sum().item()

        assert look.submit().result() == ([0, 0], 2)
        assert named.data_ptr() == place
    """)

    assert (done.stdout, done.stderr) == ("", "")


def test_arrays_that_tasks_have_copies_of(tmp_path: Path):
    """Of memory that no other process can map, and of files whose changes are the program's own."""
    numpy = pytest.importorskip("numpy")
    numpy.zeros(4).tofile(tmp_path / "kept")
    numpy.zeros(4).tofile(tmp_path / "gone")
    own = numpy.asarray(numpy.memmap(tmp_path / "kept", "f8", "c"))
    gone = numpy.asarray(numpy.memmap(tmp_path / "gone", "f8", "r+"))
    (tmp_path / "gone").unlink()
    anonymous = numpy.frombuffer(mmap.mmap(-1, 32))
    plain = numpy.frombuffer(bytearray(32))

    class Image:
        """Has nothing else that arrays have."""

        __array_interface__ = numpy.zeros(4).__array_interface__ | {"data": bytearray(32)}

    arrays = [own, gone, anonymous, plain, numpy.asarray(Image())]

    def fill(n: int) -> list[float]:
        arrays[n][:] += 1.0
        found: list[float] = arrays[n].tolist()
        return found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is in vain
        assert parallel(fill, workers=1).map(range(5)) == [[1.0] * 4] * 5
    assert [each.tolist() for each in arrays] == [[0.0] * 4] * 5
