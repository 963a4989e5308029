"""Worker processes, seen from the program: how they are started, told, heard, stopped and replaced.

It knows descriptors, signals and process numbers; it decides nothing about items. The door is `pool.Processes`.

* `pool`: the backend: sends chunks; `functions`: which functions workers have; `leases`: workers lent to single tasks.
* `staff`: all workers of a pool; `worker`: one of them; `stopping`: how one is terminated or killed; `poller`: waits
  for what they say.
* `launcher`: the template process that forks them; `guess`: what it imports before; `spawning`: how interpreters are
  started, with which environment (`OMP_NUM_THREADS` and the like).
* `line`: what leads to a worker. `child`: what runs in it. What has the same name in these is the two sides of one
  thing.
"""
