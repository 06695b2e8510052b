"""Training data that people bring: reading it from their files, and the rules that it must keep.

Pure Python without torch. The client checks before it sends, so that lines can be named; the trainer checks what it
is sent by the same rules.
"""
