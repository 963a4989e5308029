"""The thread that drives the core and a backend, and the registry of the pools that calls share.

It is the only room that knows both the core and the backends; whoever calls in parallel comes through it.
What Ctrl-C and the end of the program stop is said here; workers take no notice of either.
The door is `pools`: `submit`, `map`, `map_async`, `stream`, `shutdown`.
"""
