"""The input of a call, and how it is read so that nothing is held up.

It knows iterables, and who waits for results; no worker. The door is `source.Input`.

* `source`: read by whoever wants the results.
* `reader`: read by a thread, on an event loop or where it may wait for results to be taken.
* `asynchronous`: an asynchronous iterable, read on an event loop by a task of its own.
* `window`: how far is read ahead.
"""
