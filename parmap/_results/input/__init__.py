"""The input of a call, and how it is read so that nothing is held up.

By whoever wants the results (`source`); by a thread, on an event loop or where it may wait for results to be taken
(`reader`); on an event loop by a task of its own, if the input is asynchronous (`asynchronous`). The door is
`source.Input`; how far is read, `window` says.
"""
