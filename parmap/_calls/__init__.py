"""What users write: the decorator, the function object with its methods, and every option.

The room knows the engine's calls and the handles they return, and nothing of processes or of how anything travels.
The door is `decorator.parallel`.

* `decorator`: `parallel`. `function`: what a decorated function is, and does for one item; `batches`: for many.
* `typed`, `methods`: functions as type checkers see them; as methods of classes. `wrapping`: names and metadata.
* `options`: where each is from, and that calls within a worker are serial; `checks`: the table of all options, with
  what each may be; `environment`: those of `PARMAP_...`.
* `first`: what a program's first call does beforehand.
* `dropin`: what `Pool` and `Executor`, which stand in for classes of the standard library, share.
* `journal`: the results of a call in a file, if it has one.
"""
