"""The parsers under inputs that nobody would write down: nothing but the package's own errors may come out of them.

mutations.py        strategies that change sound bytes
seeds.py            the sound bytes that they start from
targets.py          the parsers of bytes and texts, each with what must hold of whatever it accepts
corpus/<target>/    inputs that broke a target once; each is tried in every run
test_*.py           the targets, and what needs folders, servers or the command line

The suite runs a short profile. `make fuzz MINUTES=10` goes on with fresh examples, and prints how to repeat what fails.
"""
