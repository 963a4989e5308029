"""What a function needs besides its arguments, as far as its code tells, and what of that workers will not find.

Only code and names are looked at; nothing of the user's is called. The doors are `variables` for what travels with a
function, `modules.modules_needed` for what is imported before, `search.expected_by` for what stays behind.
"""
