"""The thread that drives the core and a backend, and the registry of the pools that calls share.

It is the only room that brings core and backends together; whoever calls in parallel comes through it. The doors are
`pools` (`submit`, `map`, `map_async`, `stream`) and `registry` (`own_engine`, `shutdown`).

* `pools`: the calls. Here Ctrl-C ends one (a stream: in `_results.streams`; a single task goes on, see
  `backends._processes.leases`; workers take no notice of it).
* `engine`: the thread; `lane`: the tasks that `submit` makes of one function.
* `registry`: which functions share a pool, how many pools may idle, and the end of the program.
* `crews`: tasks on threads that wait for others on threads.
"""
