"""What a function needs besides its arguments, as far as its code tells, and what of that it won't find in workers.

Only code and names are looked at; nothing of the user's is called. The doors are `variables` for what travels with a
function, `modules.modules_needed` for what is imported before, `search.expected_by` for what stays behind, and
`slips.warn_of_slips`.

* `variables`: the globals that it names, and the variables that it captures; `modules`: the modules.
* `search`: the variables of modules that it reads; `readings`: whether such a variable is the same in workers, which
  import modules as their files are; `texts`: whether functions of a module set its variables themselves.
* `slips`: the warning of what a function does in vain with its copies: a list filled, a lock taken; `uses`: what its
  code does with each variable; `copies`: what sort of a thing that is; `reach`: which other functions may run then.
"""
