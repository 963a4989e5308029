"""The line between the program and one worker: messages over a socket, large payloads over shared memory.

It knows bytes and descriptors, and nothing of tasks.
The door is `channel.Channel`.
"""
