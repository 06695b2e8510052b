"""A crash test of search: real processes, a real engine, a real catalog, killed at random moments.

`seeds.py` runs a seed, `driver.py` starts and kills; `writing.py`, `searching.py`, `moving.py` and `aside.py` are
what goes on meanwhile, `checking.py` looks at everything after each restart. `oracle.py` and `routes.py` know what
may be and what must be, and `planted.py` makes vectors whose scores tell their versions.
"""
