"""Ways to run chunks: one file each, behind the contract of `base`."""
