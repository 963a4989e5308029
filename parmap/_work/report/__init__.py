"""Where the time goes: what is measured of chunks while a report is open, and how it is told.

Nobody pays for it otherwise: a job without a `watch` is not measured. It knows what travels and what runs, and no
engine; calls, backends and workers tell it what they see. The doors are `watch` for them, `report` for the user.
"""
