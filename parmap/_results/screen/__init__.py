"""What is seen of a call while it runs: on a terminal, in a notebook, in a log.

It knows numbers and lines, not where they come from. The doors are `progress.meter`, `relay.Relay` and
`display.card`.

* `progress`: how far a batch is: a bar, on a terminal or in a notebook, or a call of the user's function.
* `relay`: what tasks print and log, written out in whole lines, above the bars.
* `display`: what a notebook shows of a function, a future or a pool under its cell.
"""
