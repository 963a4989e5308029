"""What users write: the decorator, the function object, its batch methods, every option and where it may come from.

That calls within a worker are serial is an option, too (`options`). The room knows the engine's calls and the handles
they return, and nothing of processes or of how anything travels.
`journal` keeps the results of a call in a file, if it has one.
The door is `decorator.parallel`; what stands in for classes of the standard library uses `dropin`.
"""
