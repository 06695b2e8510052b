"""Measurements. Each writes `results/<name>.json`: `machine`, and `rows` (name, value, unit, ratio, goal, met, runs)."""
