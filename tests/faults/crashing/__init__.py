"""Jobs that come to grief at their k-th effect, for tests/faults/test_every_effect.py.

processes    runs a job in a process of its own, and says how that ended
effects      counts a job's effects, and strikes one of them
jobs         what a job is
appending, sealing, publishing, viewing, signing, migrating    the jobs: whatever writes
"""
