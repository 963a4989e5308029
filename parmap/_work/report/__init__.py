"""Where the time goes: what is measured of chunks while a report is open, and how it is told.

Nobody pays for it otherwise: a job without a `watch` is not measured. It knows what travels and what runs, and no
engine; calls, backends and workers tell it what they see. The doors are `watch` for them, `report` for the user.

* `clock`: measures a chunk, in its worker; `watch`: hears that; `gather`: adds it up.
* `report`: the user's object; `pages`: as text, as a page, as a trace (`page.html` is its frame); `advice`: in
  sentences.
"""
