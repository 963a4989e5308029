"""Functions and classes on their way: by name where workers can import them, by value where only the program has them.

What lives here knows how pickles are written, and nothing of items, packs and processes. The door is `by_value`, for
whoever pickles, and `marks`, for whoever must know whether to pickle again.
"""
