"""Reports: where the time of parallel calls went, on every backend and through every fault; small, and costing nobody."""

from __future__ import annotations

import gc
import io
import json
import logging
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest
from inspection import gathered_of, known_to, told, wait_until_leased
from tasks import fail, fail_once, inverse, square
from tasks_that_die import die_the_first_times
from tasks_that_hang import sleep
from tasks_that_weigh import Heavy, Unloadable, leave, look_at, look_up, make, nap_at_seven, sleep_long, square_serially

import parmap
from conftest import wait_until
from parmap import parallel
from parmap._work.report.clock import Times, bucket
from parmap._work.report.gather import MOST, Function
from parmap._work.report.watch import Open
from parmap.backends._processes.line.quick import HAS_QUICK_LINES

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Script


pytestmark = pytest.mark.usefixtures("pools_stay")


def wait_for(release: Path) -> None:
    """Ends when a file is there."""
    wait_until(release.exists)


# --- what is counted ---


def test_items_errors_and_time(backend: dict[str, Any]) -> None:
    """Every backend tells how many items there were, how many failed, and how long they ran."""
    function = parallel(inverse, **backend)
    with parmap.report() as report:
        function.map([0, 1, 2, 0, 4], return_exceptions=True)
    known = known_to(report).functions["inverse"]

    assert (known.sums["items"], known.sums["errors"]) == (5, 2)
    assert known.sums["running"] > 0
    assert sum(known.spread.values()) == 5
    assert "inverse" in str(report)
    assert repr(report) == str(report)


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_executors(kind: Any) -> None:
    """So do executors, be their workers threads or processes."""
    with kind(2) as executor, parmap.report() as report:
        parallel(inverse, workers=2, backend=executor).map([0, 1, 2, 4], return_exceptions=True)
    known = known_to(report).functions["inverse"]

    assert (known.sums["items"], known.sums["errors"]) == (4, 1)
    assert known.sums["running"] > 0


@pytest.mark.skipif(not HAS_QUICK_LINES, reason="tasks don't go past the engine on this system")
def test_single_tasks(processes: dict[str, Any]) -> None:
    """Each task that goes past the engine counts, also one whose result is read when the report is closed."""
    function = parallel(inverse, **processes)
    function.submit(1).result()
    wait_until_leased(function)
    with parmap.report() as report:
        for _ in range(49):
            function.submit(1).result()
        late = function.submit(0)
    assert isinstance(late.exception(), ZeroDivisionError)
    known = known_to(report).functions["inverse"]

    assert (known.sums["items"], known.sums["errors"]) == (50, 1)
    assert known.slowest[0][1] == -1


def test_a_single_task_that_dies() -> None:
    """A worker that dies in a task which its caller sent is a death, and an error."""
    function = parallel(leave, workers=1)
    function.submit(0).result()
    wait_until_leased(function)
    with parmap.report() as report:
        assert isinstance(function.submit(3).exception(), parmap.WorkerDiedError)
    known = known_to(report).functions["leave"]

    assert [known.sums[name] for name in ("items", "errors", "deaths")] == [1, 1, 1]


def test_retries_deaths_and_timeouts(tmp_path: Path, processes: dict[str, Any]) -> None:
    """What went wrong is counted, and what was tried again is counted once."""
    with parmap.report() as report:
        parallel(die_the_first_times, retries=1, retry_on=parmap.WorkerDiedError, **processes).starmap(
            [(str(tmp_path / "deaths"), 1)]
        )
        parallel(fail_once, retries=1, **processes).map([str(tmp_path / "errors")])
        parallel(sleep, timeout=0.1, **processes).map([1], return_exceptions=True)
    known = known_to(report).functions
    names = ("items", "errors", "retries", "deaths", "timeouts")
    counts = {name: tuple(map(each.sums.__getitem__, names)) for name, each in known.items()}

    assert counts == {
        "die_the_first_times": (1, 0, 1, 1, 0),
        "fail_once": (1, 0, 1, 0, 0),
        "sleep": (1, 1, 0, 0, 1),
    }


def test_calls_that_fail_fast(backend: dict[str, Any]) -> None:
    """An error that ends a call is in the report, which closes all the same."""
    report = parmap.report()
    with pytest.raises(ValueError, match="no"), report:
        parallel(fail, **backend).map(["no"])

    assert known_to(report).functions["fail"].sums["errors"] == 1
    with parmap.report() as after:
        pass
    assert "nothing ran" in str(after)


@pytest.mark.parametrize("way", ["future", "lent", "stream", "deadline"])
def test_what_is_stopped(tmp_path: Path, way: str) -> None:
    """The time of a task that is cut off, since nobody wants it any more, is not lost; it is no item."""
    begun = tmp_path / "begun"
    function = parallel(sleep_long, workers=1)
    function.submit(None).result()
    if way == "lent":
        wait_until_leased(function)
    with parmap.report() as report:
        if way == "deadline":
            function.options(deadline=2).map([begun], return_exceptions=True)
        elif way == "stream":
            with function.imap([None, begun], chunksize=1) as stream:
                next(stream)
                wait_until(begun.exists)
        else:
            future = function.submit(begun)
            wait_until(begun.exists)
            assert future.cancel()
        wait_until(lambda: "stopped 1" in str(report))
    known = known_to(report).functions["sleep_long"]

    assert (known.sums["items"], known.sums["errors"]) == (way in {"deadline", "stream"}, way == "deadline")
    assert known.sums["running"] > 0


def test_an_item_that_ends_after_the_deadline(tmp_path: Path) -> None:
    """It has failed by then, and is not counted once more."""
    release = tmp_path / "release"
    function = parallel(wait_for, workers=2, backend="threads", deadline=0.1)
    with parmap.report() as report:
        function.map([release] * 3, chunksize=1, return_exceptions=True)
        release.touch()
        function.shutdown()
    known = known_to(report).functions["wait_for"]

    assert (known.sums["items"], known.sums["errors"]) == (3, 3)


def test_bytes_of_both_ways(processes: dict[str, Any]) -> None:
    """Arguments and results are weighed."""
    with parmap.report() as report:
        parallel(bytes, **processes).map([bytes([number]) * 300_000 for number in range(4)])
    known = known_to(report).functions["bytes"]

    assert known.sums["nbytes"] >= 1_200_000
    assert known.sums["result_nbytes"] >= 1_200_000


@pytest.mark.parametrize("chunksize", [None, 10])
def test_slowest_item_is_named(backend: dict[str, Any], chunksize: int | None) -> None:
    """The item that took longest is told by its index."""
    with parmap.report() as report:
        parallel(nap_at_seven, **backend).map(range(20), chunksize=chunksize)
    took, first, count, _ = known_to(report).functions["nap_at_seven"].slowest[0]

    assert (first, count) == (7, 1)
    assert took >= 190_000_000
    assert "index 7" in str(report)


def test_chunks(backend: dict[str, Any]) -> None:
    """Chunks are counted with their sizes."""
    with parmap.report() as report:
        parallel(square, chunksize=8, **backend).map(range(80))
    known = known_to(report).functions["square"]

    assert known.sums["chunks"] == 10
    assert max(known.sizes) == bucket(8)


def test_workers_that_start(processes: dict[str, Any]) -> None:
    """A worker that starts for a call says how long that took, and how long what it needs took to load."""
    parmap.shutdown()
    with parmap.report() as report:
        parallel(lambda x: x, **processes).map(range(10))
    workers = known_to(report).workers.values()

    assert all(worker.sums["starting"] > 0 for worker in workers)
    assert sum(worker.sums["importing"] for worker in workers) > 0


def test_new_workers_take_the_places_of_old_ones() -> None:
    """A report has as many rows as workers live at a time, however many there were."""
    with parmap.report() as report:
        parallel(square, workers=2, max_tasks_per_child=1).map(range(8))

    assert len(known_to(report).workers) <= 4  # one may start before the other has gone


# --- what is unpacked and packed ---


def test_time_of_unpacking(processes: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Where arguments take longer to unpack than tasks to run, the report says so, and so does a log record."""
    function = parallel(look_at, **processes)
    function.map([Heavy() for _ in range(4)])  # what workers import is not to be what takes longest
    with caplog.at_level(logging.INFO, "parmap"), parmap.report() as report:
        function.map([Heavy() for _ in range(20)])
    known = known_to(report).functions["look_at"].sums

    assert known["unpacking"] > 100_000_000 > known["running"]
    assert "unpacking arguments" in str(report)
    assert [record for record in caplog.records if "unpacking arguments" in record.message]


def test_time_of_packing(processes: dict[str, Any]) -> None:
    """Where results take longer to pack, it says that."""
    function = parallel(make, **processes)
    function.map(range(4))
    with parmap.report() as report:
        function.map(range(20))
    known = known_to(report).functions["make"].sums

    assert known["packing"] > 100_000_000 > known["running"]
    assert "packing results" in str(report)


def test_items_that_cant_be_unpacked(processes: dict[str, Any]) -> None:
    """An item that can't be unpacked is its own error, and its neighbours' values are theirs, as without a report."""
    items = [[number] if number % 3 else Unloadable() for number in range(200)]
    function = parallel(list, **processes)
    plain = function.map(items, return_exceptions=True)
    with parmap.report():
        watched = function.map(items, return_exceptions=True)

    assert list(map(repr, watched)) == list(map(repr, plain))
    assert watched[1:3] == [[1], [2]]


# --- whose calls ---


def test_nested_reports(backend: dict[str, Any]) -> None:
    """An inner report has the calls of its own block, the outer one all."""
    function = parallel(square, **backend)
    with parmap.report() as outer:
        function.map(range(3))
        with parmap.report() as inner:
            function.map(range(4))
        function.map(range(5))
    function.map(range(6))

    assert known_to(outer).functions["square"].sums["items"] == 12
    assert known_to(inner).functions["square"].sums["items"] == 4


def test_a_report_that_is_opened_twice() -> None:
    """It hears of each call once, until it is closed as often as it was opened."""
    with parmap.report() as report:
        with report:
            parallel(square, backend="serial").map(range(4))
        parallel(square, backend="serial").map(range(5))
    parallel(square, backend="serial").map(range(6))

    assert known_to(report).functions["square"].sums["items"] == 9


def test_reports_of_many_threads() -> None:
    """Opened and closed by many threads at once, without the GIL too, each is open until it is closed, and no longer."""
    shared = parmap.report()

    def open_some(_: int) -> bool:
        for _ in range(500):
            with shared, parmap.report() as own:
                if own._gathered not in Open.reports or shared._gathered not in Open.reports:
                    return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(open_some, range(4)))
    assert not Open.reports


def test_errors_are_no_transport() -> None:
    """Where items fail, what it takes to tell of the errors is not taken for results that are worth some advice."""
    with parmap.report() as report:
        parallel(fail, workers=2).map(range(50), return_exceptions=True)

    assert "packing results" not in str(report)
    assert "transport" not in str(report)


def test_a_call_that_goes_on_after_the_end(backend: dict[str, Any]) -> None:
    """A call is in the reports that were open when it began, to its own end."""
    with parmap.report() as report:
        stream = parallel(square, **backend).imap(range(1000), buffersize=10)
        next(stream)
    assert len(list(stream)) == 999

    assert known_to(report).functions["square"].sums["items"] == 1000


def test_calls_of_other_threads() -> None:
    """A report hears of calls from all threads."""
    function = parallel(square, workers=2)
    with parmap.report() as report:
        threads = [threading.Thread(target=function.map, args=(range(50),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert known_to(report).functions["square"].sums["items"] == 200


def test_calls_within_tasks(backend: dict[str, Any]) -> None:
    """A task that calls in parallel itself is one item like any other."""
    with parmap.report() as report:
        parallel(square_serially, **backend).map([1, 2])

    assert known_to(report).functions["square_serially"].sums["items"] == 2


def test_a_fork_of_the_program(script: Script) -> None:
    """A process that the program forks has its own calls, and the report stays its parent's."""
    run = script.run("""
        import os, parmap
        f = parmap.parallel(abs, workers=1)
        with parmap.report() as report:
            f.map([1, 2])
            if os.fork() == 0:
                f.map([1, 2, 3])
                os._exit(0 if "2 items" in str(report) else 1)
            print(os.waitstatus_to_exitcode(os.wait()[1]))
        print(str(report)[:23])
    """)

    assert run.stdout.split("\n")[:2] == ["0", "parmap report: 2 items "], run.stderr


def test_nothing_is_kept() -> None:
    """When a report is dropped it is gone, though functions, futures and pools live on."""
    function = parallel(square, workers=1)
    with parmap.report() as report:
        function.map(range(10))
        futures = [function.submit(1) for _ in range(20)]
        for future in futures:
            future.result()
    gone = ref(gathered_of(report))
    del report
    gc.collect()

    assert gone() is None


# --- small ---


def passage_of(number: int) -> Any:
    """What comes back of a chunk of a hundred items."""
    begin = number * 3_000_000
    times = Times(begin, (0, 10, 1_000_000, 10), 0, {100: 100}, [(1_000_000, 0, 100)])
    facts = {"name": "f", "pool": 1, "kind": "process", "seat": number % 4, "begun": 0, "sent": begin}
    facts |= {
        "handing": 2_000_000,
        "nbytes": 5,
        "first": 100 * number,
        "done": 100,
        "failures": 0,
        "result_nbytes": 0,
        "end": begin + 1_000_020,
    }
    return SimpleNamespace(**facts, lost="", take=lambda: times)


def test_pools_that_work_in_turn() -> None:
    """A worker waits while a call on its own pool goes on, not while others work; nor does who sits in its place later."""
    report = parmap.report()
    for number, (pool, seat) in enumerate([(1, 0), (1, 0), (2, 1), (3, 0), (1, 1)]):
        begin = 1_000_000 * number + 1
        times = Times(begin, (0, 0, 1_000_000, 0), 0, {100: 1}, [(1_000_000, 0, 1)])
        facts = {"pool": pool, "seat": seat, "begun": begin, "sent": begin, "end": begin + 1_000_000}
        told(report, SimpleNamespace(**vars(passage_of(0)) | facts | {"take": lambda times=times: times}))

    assert [worker.spent()["waiting"] for worker in known_to(report).workers.values()] == [0, 0]
    assert "in 5 ms on 2 workers; efficiency 100 %, ideal would be 5 ms" in str(report)


def test_a_cluster_has_more_chunks_than_workers() -> None:
    """What waits there for a worker is none: two that are never idle are two, and are shown so."""
    report = parmap.report()
    late = 1_000_000
    for number in range(40):
        end = 50_000_000 * (number // 2 + 1) + 20_000_000 * (number % 2) + late * (number % 3)
        times = Times(0, (0, 0, 50_000_000, 0), 0, {100: 1}, [(50_000_000, 0, 1)])
        facts = {"kind": "dask", "seat": number % 3, "sent": end - 75_000_000 if number > 1 else 0, "end": end}
        told(report, SimpleNamespace(**vars(passage_of(0)) | facts | {"take": lambda times=times: times}))
    workers = known_to(report).workers.values()

    assert [worker.sums["items"] for worker in workers] == [2000, 2000]
    assert all(worker.spent()["running"] >= 0.95 * worker.spent().total() for worker in workers)


def test_bounded() -> None:
    """Of millions of items it keeps sums, and a timeline that gets coarser."""
    report = parmap.report()
    for number in range(30_000):
        told(report, passage_of(number))
    known = known_to(report)
    bars = [bar for worker in known.workers.values() for bar in worker.bars]

    assert known.functions["f"].sums["items"] == 3_000_000
    assert len(bars) <= MOST
    assert sum(bar.sums["items"] for bar in bars) == 3_000_000
    assert sum(bar.sums["running"] for bar in bars) == known.functions["f"].sums["running"]


def test_advice_on_short_work() -> None:
    """Work that a plain loop would do sooner is told so, and by how much."""
    report = parmap.report()
    for number in range(40):
        told(report, passage_of(number))

    assert "a plain loop would be about 3.0 times faster" in " ".join(str(report).split())


def test_advice_on_large_arguments() -> None:
    """What is large is to be passed in another way, not in larger blocks; a partial has its function's name."""
    with parmap.report() as report:
        parallel(len, workers=1).map([bytes(3_000_000)] * 20)
    arguments = " ".join(str(report).split())
    with parmap.report() as report:
        parallel(look_up, workers=1).partial({1: "one"}).map([1])

    assert "a block of items, as one" not in arguments
    assert list(known_to(report).functions) == ["look_up"]


def test_advice_on_one_item() -> None:
    """One item that all others waited for is named."""
    report = parmap.report()
    for number in range(8):
        told(report, passage_of(number))
    long = passage_of(8)
    long.done, long.end = 1, 80_000_000
    long.take = lambda: Times(24_000_000, (0, 0, 56_000_000, 0), 0, {205: 1}, [(56_000_000, 12, 1)])
    told(report, long)

    assert "One item took 70 % of the whole: index 812 of f" in " ".join(str(report).split())


def test_advice_on_what_goes_wrong(tmp_path: Path) -> None:
    """Deaths and timeouts, which cost more than time, are told with the function's name."""
    with parmap.report() as report:
        parallel(die_the_first_times, workers=1, retries=1, retry_on=parmap.WorkerDiedError).starmap(
            [(str(tmp_path / "deaths"), 1)]
        )
        parallel(sleep, workers=1, timeout=0.1).map([60], return_exceptions=True)
    shown = " ".join(str(report).split())

    assert "1 death of workers in die_the_first_times" in shown
    assert "1 item was stopped in sleep" in shown


# --- how it is shown ---


@pytest.fixture
def report() -> Any:
    """A report of a call whose function has an evil name."""

    def function(x: int) -> int:
        return x

    function.__qualname__ = "</script><b>f"
    with parmap.report() as made:
        parallel(function, workers=2).map(range(100))
    return made


def test_summary(report: Any) -> None:
    """The text is printed where the program says, or to the standard output."""
    file = io.StringIO()
    report.summary(file)

    assert file.getvalue() == f"{report}\n"
    assert "100 items" in str(report)


def test_summary_on_an_old_terminal(report: Any) -> None:
    """What the output has no letters for, as the sign of micro in Japan, is written by an escape."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="cp932")
    known_to(report).functions["µ"] = Function("µ")
    report.summary(file)
    file.seek(0)

    assert "\n\\xb5\n" in file.read()


def test_a_program_with_an_odd_name(report: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program whose name is no text in UTF-8 has a page, too."""
    monkeypatch.setattr(sys, "argv", ["odd\udcff.py"])
    report.save(tmp_path / "x.html")

    assert "odd\\udcff.py" in (tmp_path / "x.html").read_text(encoding="utf-8")


def test_page(report: Any, tmp_path: Path) -> None:
    """The page is one file that loads nothing, and what it shows is in it as data."""
    report.save(tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    _, _, rest = text.partition('<script type="application/json" id="data">')
    data = json.loads(rest.partition("</script>")[0])

    assert [function["name"] for function in data["functions"]] == ["</script><b>f"]
    assert not any(word in text for word in ("http:", "https:", "<link", "src=", "@import", "url("))
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]


def test_trace(report: Any, tmp_path: Path) -> None:
    """The trace has the events that Perfetto and Chrome read, each within the time of the call."""
    report.save(str(tmp_path / "x.json"))
    events = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]

    assert {event["args"]["name"] for event in events if event["ph"] == "M"} >= {"process 1"}
    assert sum(event.get("args", {}).get("items", 0) for event in complete) == 100
    assert all(event["dur"] >= 0 and event["ts"] >= 0 and event["pid"] == 1 for event in complete)


def test_a_name_that_says_nothing(report: Any, tmp_path: Path) -> None:
    """A file of another kind is refused with a sentence, and so is a folder; nothing is left behind."""
    with pytest.raises(ValueError, match=r"\.html \(a page\) or \.json \(a trace\), not as 'x.txt'"):
        report.save(tmp_path / "x.txt")
    with pytest.raises(OSError, match=r"x\.html can't be written: there is no folder .*missing$"):
        report.save(tmp_path / "missing" / "x.html")

    assert list(tmp_path.iterdir()) == []


# --- from outside ---

BODY = """
    import parmap, sys, time

    @parmap.parallel(workers=2)
    def square(x):
        return x * x

    square.map(range(100))
"""


def saved(folder: Path) -> list[Any]:
    """The events of the trace that a script saved."""
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "script.py"]
    events = json.loads((folder / "report.json").read_text())["traceEvents"]
    return [event for event in events if event.get("args", {}).get("items")]


@pytest.mark.parametrize("end", ["", "    raise ValueError('no')", "    sys.exit(3)", "    parmap.shutdown()"])
def test_variable(script: Script, end: str) -> None:
    """With PARMAP_REPORT a program that knows nothing of reports leaves one, however it ends."""
    script.environment["PARMAP_REPORT"] = "report.json"
    run = script.run(BODY + end)

    assert sum(event["args"]["items"] for event in saved(script.folder)) == 100, run.stderr


def test_variable_and_unfinished_work(script: Script) -> None:
    """What is finished at the end of the program is in it."""
    script.environment["PARMAP_REPORT"] = "report.json"
    run = script.run(BODY + "    later = square.map_async(range(50))\n")

    assert sum(event["args"]["items"] for event in saved(script.folder)) == 150, run.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_variable_and_ctrl_c(script: Script) -> None:
    """A program that is ended by Ctrl-C leaves its report, too."""
    script.environment["PARMAP_REPORT"] = "report.json"
    program = script.start(
        BODY + "    print('here', flush=True)\n    parmap.parallel(time.sleep, workers=2).map([60])\n"
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "here\n"
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)

    assert "KeyboardInterrupt" in errors
    assert sum(event["args"]["items"] for event in saved(script.folder)) >= 100


def test_variable_with_nested_calls(script: Script) -> None:
    """Only the program writes it: its workers, which have the variable too, don't."""
    script.environment["PARMAP_REPORT"] = "report.json"
    run = script.run(BODY + "    parmap.parallel(lambda x: square.map([x]), workers=2).map([1, 2])\n")

    assert sum(event["args"]["items"] for event in saved(script.folder)) == 102, run.stderr


@pytest.mark.parametrize("name", ["missing/report.html", "report.txt", "."])
def test_variable_that_cant_be_used(script: Script, name: str) -> None:
    """A report that can't be written is an error before any work is done, and says which variable is to blame."""
    script.environment["PARMAP_REPORT"] = name
    run = script.run(BODY + "    print('too late')")

    assert run.returncode == 1
    assert f"PARMAP_REPORT={name}: " in run.stderr
    assert "too late" not in run.stdout


def test_a_folder_is_no_file(report: Any, tmp_path: Path, script: Script) -> None:
    """A report that would have to be a folder's is refused: here by an error, by the variable with a line."""
    folder = tmp_path / "folder.html"
    folder.mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        report.save(folder)
    script.environment["PARMAP_REPORT"] = str(folder)
    run = script.run(BODY)

    assert "is a folder" in run.stderr


def test_variable_without_calls(script: Script) -> None:
    """A program that calls nothing in parallel leaves nothing."""
    script.environment["PARMAP_REPORT"] = "report.json"
    run = script.run("import parmap; parmap.parallel(abs)(1)")

    assert run.returncode == 0, run.stderr
    assert [path.name for path in script.folder.iterdir()] == ["script.py"]
