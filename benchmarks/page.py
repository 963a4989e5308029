"""The frame of `docs/benchmarks.md`: the words around the numbers."""

PAGE = """<!-- Written by benchmarks/report.py: change that, not this page. -->

# Benchmarks

{warning}
parmap beside its peers, on one machine, in one run, taking turns. Ratios count; absolute numbers are this machine's.

| | |
| --- | --- |
| command | `{command}` ({minutes} minutes, without the set-up of its environment) |
| machine | {processor}, {cores} cores, {memory} of memory, {system} |
| Python | {python} |
| versions | {versions} |
| workers | {workers} |
| date | {date} |

{absent}

## How it is measured

Each measurement is a process of its own: one library, one workload. The libraries take turns within a workload, in an
order that rotates, and everything is repeated in rounds as long as the time allows; a number is the median over all
rounds. Who needs more than three times what parmap does in the first round is not measured again. Dask and Ray take
seconds to start, so they run at the end of the first round, with all workloads in one process (but for *cold start*,
*import* and *memory*), and at the end of the others only where they came close to parmap.

Warm-up is the same for all: the pool is started, 100 tiny tasks are run, then a part of the workload (a twentieth, at
least two items for each worker). Only *cold start* and *import* are measured cold; the first begins after the import.

Libraries that choose no chunk size by themselves (concurrent.futures, loky, pebble, Dask, Ray) would look bad on short
tasks. There they get what a knowing user would give them: the rule of `multiprocessing.Pool`, four chunks for each
worker. On the other workloads all use their defaults. parmap is never given a chunk size. `multiprocessing.Pool`,
concurrent.futures, mpire, pebble and pathos start with the method that is the default of this Python. The same arrays
are sent in each repetition, which suits libraries that keep what they have sent before, such as joblib. For the closure
mpire gets new workers, since living ones can't take it.

A library that lacks what a workload needs, or crashes, or takes too long, is shown with a number in parentheses, which
refers to the notes under the table.

## What was to be reached

Nothing may be more than {behind} slower than the best peer; other goals are higher.

{goals}

### Where parmap loses

{losses}

## Side by side

In parentheses: time (or size) compared to parmap's. Above 1 parmap is better; below 1, in bold, the peer is.

{design}

![Time of each peer compared to parmap](benchmarks-ratios.svg)

## Real work

{real}

## How far from the machine's limit

{physical}

## As work grows

What an item costs should not depend on how many there are, and a stream should not fill memory.

![Time per item against the number of items](benchmarks-items.svg)

![Growth of the parent against the number of items](benchmarks-memory.svg)

![Time against the number of workers](benchmarks-workers.svg)

![Time of a call against the size of its argument](benchmarks-payload.svg)

{curves}
"""
