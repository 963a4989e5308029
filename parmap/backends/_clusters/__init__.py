"""Pools on the workers of a cluster, which is Dask's or Ray's: the client's side, and what runs over there.

It knows the worker processes of one machine, and of the libraries nothing but Ray's actors: all else of them is in
`backends._dask` and `._ray`. The doors are `client.Cluster` and, in a process of the cluster, `pilot.run`.

* The client's side: `client`: its chunks, and how much the cluster takes; `outgoing`: what goes there besides items;
  `site`: which cluster, as the user gives it; `actors`: the processes that it has on Ray.
* Over there: `pilot`: runs chunks on worker processes of its own, which are in `local`; `sink`: keeps outcomes until
  the client has them; `actor`: the process that Ray runs for it.
* `wire`: what travels between the two.
"""
