"""The frame of `docs/speed/benchmarks.md`: the words around the numbers."""

PAGE = """<!-- Written by benchmarks/report.py: change that, not this page. -->

# Benchmarks

{warning}
![Time of mp.Pool, futures and joblib for the same work, as a multiple of parmap's](benchmarks-summary.svg)

Right of the line parmap is faster. *mp.Pool* is `multiprocessing.Pool`, the faster of fork and forkserver; *futures* is
`concurrent.futures.ProcessPoolExecutor`. All use {workers} workers on {cores} cores, and nothing is tuned for parmap.
Ratios count; seconds are those of this machine.

## When is this faster for me?

* **Items that are short, or many, or uneven, or large**: parmap is faster, by what the table says, and by more where
  your code chooses no chunk size.
* **Items of some milliseconds, all alike, that take and give little**: all libraries keep the cores busy, and the
  difference is a few per cent. Choose by [what else they do](../explanation/why-and-when-not.md).
* **A program that is over in a tenth of a second**: forked workers start sooner, in {fork} against {first}.
  [Start fast](../workers/start-fast.md) says what helps.
* **Items that cost less than their journey**: no library pays. A short string to a worker and a small dict back take
  {journey}; if that is more than the work, a plain loop is faster.

What the others need for the same work, as a multiple of parmap's time. Below 1, in bold, the other one is faster.

{mine}

## Where parmap loses

{losses}

## Side by side

All contestants. In parentheses: time (or size) compared to parmap's. Above 1 parmap is better; below 1, in bold, the
peer is.

### Tasks in a script

{scripts}

![Time of each peer compared to parmap, tasks in a script](benchmarks-scripts.svg)

### Tasks in a module

{design}

![Time of each peer compared to parmap, tasks in a module](benchmarks-ratios.svg)

## Real work

{real}

## As work grows

What an item costs should not depend on how many there are, and a stream should not fill memory.

![Time per item against the number of items](benchmarks-items.svg)

![Growth of the parent against the number of items](benchmarks-memory.svg)

![Time against the number of workers](benchmarks-workers.svg)

![Time of a call against the size of its argument](benchmarks-payload.svg)

{curves}

## How far from the machine's limit

{physical}

## How it is measured

| | |
| --- | --- |
| command | `{command}` ({minutes} minutes, without the set-up of its environment) |
| machine | {processor}, {cores} cores, {memory} of memory, {system} |
| Python | {python} |
| versions | {versions} |
| workers | {workers} |
| rounds | {rounds} |
| date | {date} |

{absent}

Each measurement is a process of its own: one library, one workload. The libraries take turns within a workload, in an
order that rotates. The first round finds the rivals, the two fastest peers of each workload (and whom a goal names); in
the other rounds parmap meets them again. A number is the median over all rounds. Behind it stands the spread, half the
width of the middle half of the rounds. Only who was measured in most rounds can be the best peer. Dask and Ray take
seconds to start, so they run at the end of a round, with all workloads in one process (but for *cold start*, *import*
and *memory*), and only with tasks of a module.

The small tasks are run twice: defined in the script that is run, as users' tasks are, and imported from a module. It is
the same file in both cases. The other rows of scripts are scripts of their own, in `benchmarks/scripts`, with the
classes, tables and imports that their tasks need. Each library is used as its users write it in a script:
`multiprocessing.Pool` once with fork and once with forkserver, where workers run the script again, up to its
`if __name__ == "__main__":`. Workers that were forked, or that have run the script again, never see what the script
changes afterwards: where tasks read a variable of the script, such a number is marked as **stale**. The workers of
parmap and loky see it as it is at each call; what goes through `parmap.broadcast` doesn't change by promise.

Warm-up is the same for all: the pool is started, 100 tiny tasks are run, then a part of the workload (a twentieth, at
least two items for each worker), whose results must be those of a plain loop. Only *cold start*, *import* and the rows
with *first* are measured cold; *cold start* begins after the import of the library, *script to first results* before.

Libraries that choose no chunk size by themselves (concurrent.futures, loky, pebble, Dask, Ray) would look bad on short
tasks. There they get what a knowing user would give them: the rule of `multiprocessing.Pool`, four chunks for each
worker. For the log lines each peer is given the best of several chunk sizes, found on a quarter of the lines just
before. On the other workloads all use their defaults. parmap is never given a chunk size. Where it isn't said,
`multiprocessing.Pool`, concurrent.futures, mpire, pebble and pathos start with the method that is the default of this
Python. The same arrays are sent in each repetition, which suits libraries that keep what they have sent before, such as
joblib. For the closure mpire gets new workers, since living ones can't take it.

A library that lacks what a workload needs, or crashes, or takes too long, is shown with a number in parentheses, which
refers to the notes under the table.

## What was to be reached

Nothing may be more than {behind} slower than the best peer; other goals are higher.

### Tasks in a script

{script_goals}

### Tasks in a module

{goals}
"""
