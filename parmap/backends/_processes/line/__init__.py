"""The line between the program and one worker: messages over a socket, large payloads over shared memory.

It knows bytes and descriptors, and nothing of tasks. The door is `channel.Channel`.

* `channel`: messages; `quick`: a second line, for single small tasks.
* `segments`: shared memory; `copies`: private memory, used again; `parts`: what a worker keeps until it is told to
  forget.
* `sockets`, `descriptors`: of the system; `lifeline`: how workers notice that the program has ended.
"""
