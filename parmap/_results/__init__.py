"""What a call gives back: futures, batches, streams, progress, and what tasks print.

It knows outcomes as they are delivered, and how to wait for them; not where they come from.
The doors are `futures.Future`, `batch.Batch` and `streams.ResultStream`.
"""
