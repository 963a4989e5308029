"""Objects that pickle refuses, or knows only by a name that workers lack, and how each of them travels all the same.

The door is `remade.remake`.

* `hints`: type variables, aliases, and other hints; `singles`: sentinels, and that of each of these there is but one.
* `lazy`: lazy imports, and annotations that were not asked for yet.
* `shared`: what processes share: locks, queues and memory of `multiprocessing`, arrays and tensors in such memory.
* `remade`: all others, such as a `cached_property`, or a function that `singledispatch` has made.
"""
