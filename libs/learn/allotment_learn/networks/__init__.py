"""Neural networks for tables: their form as numbers, their modules, how they are trained.

`spec` needs no torch; `modules` and `fitting` do and are imported when a network is trained.
"""
