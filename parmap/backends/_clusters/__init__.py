"""Pools on the workers of a cluster, which is Dask's or Ray's: the client's side, and what runs over there.

It knows the worker processes of one machine, and of the libraries nothing but Ray's actors, in `actor` and `actors`:
all else of them is in `backends._dask` and `._ray`. The doors are `client.Cluster` and, in a process of the cluster,
`pilot.run`.
"""
