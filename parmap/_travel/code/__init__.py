"""Functions and classes on their way: by name where workers can import them, by value where only the program has them.

What lives here knows how pickles are written, and nothing of items, packs and processes. The door is `by_value`, for
whoever pickles, and `marks`, for whoever must know whether to pickle again.

* `by_name`: which can be imported; `by_value`: the pickler of all others; `functions`, `classes`,
  `instances` of those classes: how each is made again.
* `special`: other objects that pickle refuses.
* `blame`: the message that says which variable can't be pickled.
* `marks`: whether a function has changed since it was sent. `needs`: what it uses besides its arguments.
"""
