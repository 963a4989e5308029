"""Objects that pickle refuses, or knows only by a name that workers lack, and how each of them travels all the same.

Type hints (`hints`); lazy imports, and annotations that were not asked for yet (`lazy`); what there is one of, such as
sentinels (`singles`); locks, queues and shared memory of `multiprocessing` (`primitives`); all others (`remade`). The
door is `remade.remake`.
"""
