"""Measurements.

Each writes `results/<name>.json`: `machine`, and `rows` of name, value, unit, ratio, goal, met and runs.
"""
