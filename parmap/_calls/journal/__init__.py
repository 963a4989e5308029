"""What is done stays done: results kept in a file as they come, so that the same call goes on where it was stopped.

It may know how things travel and how a batch takes its outcomes, and is imported only when a call has a journal. The
door is `keeping.Journal` and, for the command line, `command`.

* `keeping`: which items are done, and what gets done; `file`: the SQLite file that has it.
* `identity`: which function it is; `digest`: of which values, the same in each run.
* `sink`: sends only what is not done, and takes in what comes.
"""
