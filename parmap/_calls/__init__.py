"""What users write: the decorator, the function object with its methods, and every option.

The room knows the engine's calls and the handles they return, and nothing of processes or of how anything travels.
The door is `decorator.parallel`.

* `decorator`: `parallel`. `function`: what a decorated function is, and does for one item; `batches`: for many.
* `typed`: the function as type checkers see it; `methods`: as a method of a class; `wrapping`: its name and metadata.
* `options`: the options of a call, from the decorator, the environment or a default, and that a call within a worker is
  serial; `checks`: the table of all options, with what each may be; `environment`: `PARMAP_...` variables.
* `first`: imports what runs calls, while the first workers start.
* `dropin`: what `Pool` and `Executor`, which stand in for classes of the standard library, share.
* `journal`: the results of a call in a file, if it has one.
"""
