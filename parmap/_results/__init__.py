"""What a call gives back, and what is seen of it while it runs.

It knows outcomes as they are delivered, and how to wait for them; not where they come from. The doors are
`futures.Future`, `batch.Batch` and `streams.ResultStream`.

* `futures`: one task, and `as_completed` and `wait` for several; `async_result`: one, as `multiprocessing.Pool` shows
  it.
* `batch`: one call of `map` or its like; `outcomes`: what became of each item; `streams`: results as they come, and
  `order`: those that have come, in order.
* `watched`: waiting; `callbacks`: the thread of done-callbacks; `unheard`: the log is told of failures that nobody
  asked for.
* `input`: how the items of a call are read. `screen`: progress, prints of tasks, and what a notebook shows.
"""
