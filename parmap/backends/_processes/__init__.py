"""Worker processes, seen from the program: how they are started, told, heard, stopped and replaced.

It knows descriptors, signals and process numbers; it decides nothing about items.
The door is `pool.Processes`.
"""
