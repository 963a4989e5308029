"""The thread that drives the core and a backend, and the registry of the pools that calls share.

It is the only room that brings core and backends together; whoever calls in parallel comes through it.
Ctrl-C ends a call in `pools` (a stream in `_results.streams`; a single task goes
on, see `leases`), the end of the program is in `registry`; workers take no
notice of either. `lane` has the tasks that `submit` makes of one function.
The doors are `pools` (`submit`, `map`, `map_async`, `stream`) and `registry` (`own_engine`, `shutdown`).
"""
