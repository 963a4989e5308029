"""Which item goes to which worker, when, and what becomes of its outcome: every policy, once, for all backends.

It starts no thread, reads no clock and does no I/O: events and the time go in, decisions come out. The door is
`elastic.ElasticLedger`, which is a `ledger.Ledger` with `limits`.

* `schedule`: cuts chunks and assigns them; retries, and what a death costs.
* `ledger`: what takes time: the `timeout` of items, cancelling, idling, leases.
* `limits`: the `deadline` of a job, and how large a worker may grow; `elastic`: workers that come and go by themselves.
* `pace`: how many items make a chunk, and how long a retry waits; `delayed`: the items that wait for one.
* `vacancies`: which workers may take a chunk. `owners`: what was learnt of a function, as how long its items take.
* `job`, `states`: the data: jobs and chunks; what a worker is.

Whether `retry_on` covers an error is judged by `_work.run.Callee`.
"""
