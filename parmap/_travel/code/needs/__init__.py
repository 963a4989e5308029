"""What a function needs besides its arguments, as far as its code tells, and what of that it won't find in workers.

Only code and names are looked at; nothing of the user's is called. The doors are `variables` for what travels with a
function, `modules.modules_needed` for what is imported before, `search.expected_by` for what stays behind, and
`slips.warn_of_slips`.

* `variables`: the globals that it names, and the variables that it captures; `modules`: the modules.
* `search`: what it reads in modules, which workers import as their files are; `readings`: whether that is the same
  there; `texts`: whether a module changes it itself, by the text of its functions.
* `slips`: the warning of what a function does in vain with its copies: a list filled, a lock taken; `uses`: what its
  code does with each variable; `copies`: what sort of a thing that is; `reach`: which other functions may run then.
"""
