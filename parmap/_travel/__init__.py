"""How functions, classes, items, results and exceptions become bytes, and come back.

It knows pickle and cloudpickle, and nothing of where the bytes go: no socket, no process, no policy.
The door is `payload.pack` and `payload.dump`; `code.by_name.reference` for functions, `failure` for exceptions.
"""
