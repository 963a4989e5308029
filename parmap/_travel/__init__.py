"""How functions, classes, items, results and exceptions become bytes, and come back.

It knows pickle and cloudpickle, and nothing of where the bytes go: no socket, no process, no policy. The door is
`payload.pack` and `payload.dump`; `code.by_name.reference` for functions, `failure` for exceptions.

* `payload`: packs items; `pack`: the result of that, and how it is unpacked. `stream`: what picklers write; large
  buffers, arrays and tensors go beside it, uncopied (and into shared memory in `backends._processes.line.segments`).
* `flat`: items that are numbers and strings, marshalled at once; `apart`: whether items share nothing with each other,
  so that all may be pickled at once; `vocabulary`: classes and functions that many items name, sent once.
* `broadcast`: values sent once to each worker; `memory`: files in memory.
* `failure`: exceptions, also those whose class is missing here; `tie`: which item one is of; `text`: the texts in them.
* `code`: functions and classes.
"""
