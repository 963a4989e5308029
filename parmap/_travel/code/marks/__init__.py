"""Marks: whether a function that travels by value is still what it was when it was packed, answered without packing.

A mark looks at all that a function can reach: its code, defaults, attributes and annotations, what its cells hold,
the globals that its code and the code in it name, and the same of the functions and classes by value among these.
What travels by name (importable functions and classes, modules) is the same as long as it is the same object: what is
in it, workers know by its name.

The rule: *unchanged* is said only where it is proven. *Changed* may be wrong, and costs a pack.

* What never changes, such as atoms, is compared by identity, since `1 == True` and `0.0 == -0.0`. The mark holds those
  it compares with.
* Lists, dicts, sets and small arrays are compared entry by entry with a copy that holds what never changes, not the
  container; and so is what is in them, and in plain objects, as long as there is little of it.
* Anything else is pickled, without the functions and classes in it, and the streams are compared; large arrays, and
  what else goes beside a stream, with the copy that was sent.

`mark` compares; `walk` finds all that is to be compared, `parts` what each thing is made of; `frozen` knows what
never changes; `kept` is what a mark keeps of the rest.

A mark holds no function, class, module, container or object of the user's: of those it knows weak references. What it
holds has a bound; beyond it streams are compared. The door is `walk`, which makes one.
"""
