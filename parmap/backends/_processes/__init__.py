"""Worker processes, seen from the program: how they are started, told, heard, stopped and replaced.

It knows descriptors, signals and process numbers; it decides nothing about items.
What has the same name here or in `line` and in `child` is the two sides of one thing.
The door is `pool.Processes`.
"""
