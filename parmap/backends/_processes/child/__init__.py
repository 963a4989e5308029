"""All that runs inside a worker process and nowhere else.

It knows its line, its page and how to run a chunk; it never looks at the program's side.
The door is `serve.serve`.
"""
