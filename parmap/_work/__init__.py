"""Running the items of a chunk, the same in processes, threads, executors and here, and the world that a task sees.

It knows functions, items and the status page on which it says what runs; not who sent them, nor who waits.
`report` measures, while somebody asks where the time goes.
The door is `run.run`.
"""
