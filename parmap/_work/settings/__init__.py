"""What a program has chosen for all that it does, and its tasks get as well.

It knows nobody who calls or runs. Each module tells whether something was chosen since, quickly, as it is asked for
each call, and puts that in force. The doors are `arithmetic.arithmetic` and `libraries.State`.

* `arithmetic`: the context of `decimal`, and how numpy takes errors of floats.
* `libraries`: options of libraries, as pandas' or matplotlib's.
"""
