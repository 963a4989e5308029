"""Running the items of a chunk, the same in processes, threads, executors and here, and the world that a task sees.

It knows functions, items and the status page on which it says what runs; not who sent them, nor who waits. The door
is `run.run`.

* `run`: runs them; `outcome`: what became of each; `page`: the status page, which the program reads.
* `surroundings`: the caller's directory, environment, `sys.path`, warnings and log levels; `settings`: its arithmetic,
  and settings of libraries; `seeds`: random numbers; `per_worker`: what each worker makes for itself.
* `cpus`: how many there are for us; `threads`: threads of our own; `imports`: modules that come late; `place`: whether
  this is a worker.
* `report`: measures, while somebody asks where the time goes.
"""
