"""The simulation: a whole deployment at work on real servers, and everything that can go wrong going wrong by a seed.

    make simulate SEEDS=10           seeds 1 to 10; also 4-9, or 3,14,15
    make simulate MINUTES=30         fresh seeds for so long
    make simulate SEED=14            that one again

A seed is some episodes. In each the crew (appenders, recorders, sealers, relays, projectors, readers, an eraser, a
rebuilder, a signer, all processes of their own) works for some seconds by way of proxies, while faults are injected;
then everything heals, the workers must catch up by themselves, and the whole ledger is checked (check.py).

A seed decides which faults happen when, with which parameters, and what the crew draws. It does not decide how threads,
processes and servers interleave: that is real time, so a seed that failed may pass when it is run again. What it did is
in its trace, and in the folder that is kept.

    schedule.py   which faults when: the seed alone decides
    faults.py     what each fault does, and how it is seen that it really hit
    world.py      the servers, the proxies before them, backups; disk.py: small disks to fill
    crew.py       the processes; life.py: what each of them has; notes.py: what they write down
    appenders.py transactions.py recorders.py readers.py workers.py steward.py    what they do
    restore.py    a database set back to an older backup, and what must happen then
    episode.py    one after the other; check.py, outbox.py and views.py: what must hold after each
    report.py     the table at the end
"""
