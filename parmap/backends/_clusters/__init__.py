"""Pools on the workers of a cluster, which is Dask's or Ray's: the client's side, and what runs over there.

It knows the worker processes of one machine, and nothing of either library: that is in `backends._dask` and `._ray`.
The doors are `client.Cluster` and, in a process of the cluster, `pilot.run`.
"""
