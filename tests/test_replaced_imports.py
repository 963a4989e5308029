"""Programs written for the standard library, run as they are and with their imports replaced: they do the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Script

# The example of a pool in the documentation of multiprocessing, in its section "Examples"; its tasks are a tenth as long.
DOCUMENTED_POOL = """
import multiprocessing
import time
import random
import sys

#
# Functions used by test code
#

def calculate(func, args):
    result = func(*args)
    return '%s says that %s%s = %s' % (
        multiprocessing.current_process().name,
        func.__name__, args, result
        )

def calculatestar(args):
    return calculate(*args)

def mul(a, b):
    time.sleep(0.05 * random.random())
    return a * b

def plus(a, b):
    time.sleep(0.05 * random.random())
    return a + b

def f(x):
    return 1.0 / (x - 5.0)

def pow3(x):
    return x ** 3

def noop(x):
    pass

#
# Test code
#

def test():
    PROCESSES = 4
    print('Creating pool with %d processes\\n' % PROCESSES)

    with multiprocessing.Pool(PROCESSES) as pool:
        #
        # Tests
        #

        TASKS = [(mul, (i, 7)) for i in range(10)] + \\
                [(plus, (i, 8)) for i in range(10)]

        results = [pool.apply_async(calculate, t) for t in TASKS]
        imap_it = pool.imap(calculatestar, TASKS)
        imap_unordered_it = pool.imap_unordered(calculatestar, TASKS)

        print('Ordered results using pool.apply_async():')
        for r in results:
            print('\\t', r.get())
        print()

        print('Ordered results using pool.imap():')
        for x in imap_it:
            print('\\t', x)
        print()

        print('Unordered results using pool.imap_unordered():')
        for x in imap_unordered_it:
            print('\\t', x)
        print()

        print('Ordered results using pool.map() --- will block till complete:')
        for x in pool.map(calculatestar, TASKS):
            print('\\t', x)
        print()

        #
        # Test error handling
        #

        print('Testing error handling:')

        try:
            print(pool.apply(f, (5,)))
        except ZeroDivisionError:
            print('\\tGot ZeroDivisionError as expected from pool.apply()')
        else:
            raise AssertionError('expected ZeroDivisionError')

        try:
            print(pool.map(f, list(range(10))))
        except ZeroDivisionError:
            print('\\tGot ZeroDivisionError as expected from pool.map()')
        else:
            raise AssertionError('expected ZeroDivisionError')

        try:
            print(list(pool.imap(f, list(range(10)))))
        except ZeroDivisionError:
            print('\\tGot ZeroDivisionError as expected from list(pool.imap())')
        else:
            raise AssertionError('expected ZeroDivisionError')

        it = pool.imap(f, list(range(10)))
        for i in range(10):
            try:
                x = next(it)
            except ZeroDivisionError:
                if i == 5:
                    pass
            except StopIteration:
                break
            else:
                if i == 5:
                    raise AssertionError('expected ZeroDivisionError')

        assert i == 9
        print('\\tGot ZeroDivisionError as expected from IMapIterator.next()')
        print()

        #
        # Testing timeouts
        #

        print('Testing ApplyResult.get() with timeout:', end=' ')
        res = pool.apply_async(calculate, TASKS[0])
        while 1:
            sys.stdout.flush()
            try:
                sys.stdout.write('\\n\\t%s' % res.get(0.02))
                break
            except multiprocessing.TimeoutError:
                sys.stdout.write('.')
        print()
        print()

        print('Testing IMapIterator.next() with timeout:', end=' ')
        it = pool.imap(calculatestar, TASKS)
        while 1:
            sys.stdout.flush()
            try:
                sys.stdout.write('\\n\\t%s' % it.next(0.02))
            except StopIteration:
                break
            except multiprocessing.TimeoutError:
                sys.stdout.write('.')
        print()
        print()


if __name__ == '__main__':
    multiprocessing.freeze_support()
    test()
"""

# A word count, with a table that each worker loads, callbacks, and workers that are replaced.
POOL = """
import os
import threading
from collections import Counter
from multiprocessing import Pool, TimeoutError
from multiprocessing.pool import AsyncResult

TEXTS = [f"the {word} and the other {word}s" for word in ("cat", "dog", "bird", "fish")]
ignored = None

class Count:
    def __init__(self, words):
        self.words = words

    def __add__(self, other):
        return Count(self.words + other.words)

def load(*words):
    global ignored
    ignored = set(words)

def count(text, *more):
    return Count(Counter(word for part in (text, *more) for word in part.split() if word not in ignored))

def length(text, *, unit="letters"):
    if not text:
        raise ValueError("nothing to measure")
    return f"{len(text) if unit == 'letters' else len(text.split())} {unit}"

def main():
    lock, notes = threading.Lock(), []
    def note(value):
        with lock:
            notes.append(value)

    with Pool(2, initializer=load, initargs=("the", "and"), maxtasksperchild=10) as pool:
        print(sorted(sum(pool.map(count, TEXTS), Count(Counter())).words.items()))
        print([sorted(each.words) for each in pool.imap(count, TEXTS, chunksize=2)])
        print(sorted(sorted(each.words) for each in pool.imap_unordered(count, iter(TEXTS))))
        print([sorted(each.words) for each in pool.starmap(count, zip(TEXTS, TEXTS[1:]), chunksize=1)])
        print(pool.apply(length, (TEXTS[0],), {"unit": "words"}))
        result = pool.apply_async(length, ("",), callback=note, error_callback=lambda error: note(repr(error)))
        result.wait(60)
        print(isinstance(result, AsyncResult), result.ready(), result.successful(), notes)
        try:
            pool.map(length, ["a", ""])
        except ValueError as error:
            print("failed:", error)
        batch = pool.starmap_async(length, [("a",), ("bb",)], callback=note)
        print(batch.get(timeout=60), notes[-1])
    try:
        pool.apply(length, ("a",))
    except ValueError as error:
        print(error)

    pool = Pool(processes=2)
    results = [pool.apply_async(os.path.basename, (f"/some/{name}",)) for name in "abc"]
    pool.close()
    pool.join()
    print([result.get() for result in results])

if __name__ == "__main__":
    main()
"""

# The same for futures: with waiting in all ways, cancelling, and a loop of asyncio.
FUTURES = """
import asyncio
import concurrent.futures
import multiprocessing
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ProcessPoolExecutor, TimeoutError, as_completed, wait
from concurrent.futures.process import BrokenProcessPool

greeting = None

def learn(word):
    global greeting
    greeting = word

def greet(name, *, mark="!"):
    if not name:
        raise LookupError("nobody to greet")
    return f"{greeting}, {name}{mark}"

def both(first, second):
    return greet(first), greet(second)

def leave():
    import os
    os._exit(1)

async def meet(executor):
    loop = asyncio.get_running_loop()
    return await asyncio.gather(*(loop.run_in_executor(executor, greet, name) for name in ("Ada", "Alan")))

def main():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=learn, initargs=("Hello",), max_tasks_per_child=50) as executor:
        names = {executor.submit(greet, name, mark="?"): name for name in ("Ada", "Grace", "Alan")}
        print(sorted(f"{names[future]}: {future.result()}" for future in as_completed(names, timeout=60)))
        print(list(executor.map(both, ["Ada", "Grace"], ("Alan", "Kurt", "left out"), timeout=60, chunksize=2)))
        failed = executor.submit(greet, "")
        done, not_done = wait([failed], timeout=60, return_when=FIRST_EXCEPTION)
        print(done == {failed}, not_done, repr(failed.exception()))
        called = []
        good = executor.submit(greet, "Emmy")
        good.add_done_callback(lambda future: called.append(future.result()))
        good.result()
        print(good.done(), good.running(), good.cancel(), good.cancelled())
        print(asyncio.run(meet(executor)))
        results = executor.map(greet, ["Ada", "", "Alan"])
        print(next(results))
        try:
            next(results)
        except LookupError as error:
            print("failed:", error)
    print(called)
    try:
        executor.submit(greet, "Ada")
    except RuntimeError as error:
        print(error)

    with ProcessPoolExecutor(max_workers=1) as executor:
        try:
            executor.submit(leave).result()
        except BrokenProcessPool:
            print("broken")

if __name__ == "__main__":
    main()
"""

REPLACED = {
    "from multiprocessing import Pool, ": "from parmap import Pool\nfrom multiprocessing import ",
    "import multiprocessing\nimport time": "import multiprocessing, parmap\nimport time",
    "multiprocessing.Pool(": "parmap.Pool(",
    "CancelledError, ProcessPoolExecutor, ": "CancelledError, ",
    "import asyncio\n": "import asyncio\nfrom parmap import Executor as ProcessPoolExecutor\n",
}


def outputs(script: Script, program: str) -> list[str]:
    """What a program prints with the standard classes, and what with parmap's."""
    ours = program
    for standard, replacement in REPLACED.items():
        ours = ours.replace(standard, replacement)
    printed = []
    script.environment["PYTHONUNBUFFERED"] = (
        "1"  # the standard pool may fork between a print and its flush: then it is twice
    )
    for text in (program, ours):
        run = script.run(text, timeout=100)
        assert (run.returncode, run.stderr) == (0, "")
        printed.append(run.stdout)
    assert ours != program
    return printed


def test_documented_pool(script: Script):
    """The example of the documentation prints the same, but for names of processes, impatience and lack of order."""

    def settled(output: str) -> list[str]:
        text = re.sub(r"[\w-]+ says", "somebody says", output.replace(".", ""))
        head, unordered, rest = re.split(r"(?s)(?<=imap_unordered\(\):\n)(.*?)\n\n", text, maxsplit=1)
        return [head, *sorted(unordered.splitlines()), rest]

    standard, ours = map(settled, outputs(script, DOCUMENTED_POOL))

    assert len(standard) == 22
    assert ours == standard


def test_pool(script: Script):
    """A program for `multiprocessing.Pool` prints the same."""
    standard, ours = outputs(script, POOL)

    assert len(standard.splitlines()) == 10
    assert ours == standard


def test_executor(script: Script):
    """A program for `ProcessPoolExecutor` prints the same."""
    standard, ours = outputs(script, FUTURES)

    assert len(standard.splitlines()) == 10
    assert ours == standard
