"""Which item goes to which worker, when, and what becomes of its outcome: every policy, once, for all backends.

It starts no thread, reads no clock and does no I/O: events and the time go in, decisions come out.
`schedule` decides on chunks, retries and what a death costs; `ledger` on what takes time: limits, idling, leases;
`limits` on those of whole jobs and workers; `elastic` on workers that come and go; `pace` on how large chunks are,
and how long retries wait; `delayed` has what waits for one; `vacancies` finds who may take a chunk. `job` and `states`
are their data. Whether `retry_on` covers an error is judged by `_work.run.Callee`. The door is `elastic.ElasticLedger`,
which is a `ledger.Ledger` with `limits`.
"""
