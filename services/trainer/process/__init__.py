"""The part of a run that needs torch, in a process of its own: `python -m services.trainer.process FOLDER`.

It reads `spec.json` in the folder, says how far it is in lines of JSON on standard output, and
leaves `candidate/` and `result.json`. It speaks to no service and to no database.
"""
