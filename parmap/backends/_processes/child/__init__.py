"""All that runs inside a worker process and nowhere else.

It knows its line, its page and how to run a chunk; it never looks at the program's side. The door is `serve.serve`.

* `serve`: the main loop, and what comes before it; `quick`: single small tasks.
* `world`: puts the caller's context in force, and calls initializers; `functions`: those that it knows; `output`:
  catches what tasks print and log.
"""
