"""What is done stays done: results kept in a file as they come, so that the same call goes on where it was stopped.

It may know how things travel and how a batch takes its outcomes. `identity` knows the
function, `keeping` its items. The door is `keeping.Journal` and, for the command line, `command`. It is imported only
when a call has a journal.
"""
