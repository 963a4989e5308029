"""What is done stays done: results kept in a file as they come, so that the same call goes on where it was stopped.

It may know how things travel and how a batch takes its outcomes. Its door: `keep.Journal` and `keep.Keeping`, and
`command` for the command line. It is imported only when a call has a journal.
"""
