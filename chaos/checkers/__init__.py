"""What must hold of a cluster, said by objects that only look.

violation.py history.py    what a broken promise is, and what clients asked and were told
consensus.py               Raft's safety properties, over all replicas and their disks
configurations.py          who votes, and whether configurations that follow each other overlap
commands.py                what ran: each command once, the same everywhere
answers.py                 what clients were told: acknowledgements, reads, order
ledgers.py                 what is in the simulator's own documents, and one order of calls that explains all answers
linearizability.py         the search for such an order
listings.py                what listings showed
watches.py                 what viewers were shown
secrets.py                 what they must never be shown
passing.py                 what is shown and said in passing
replicas.py                equal positions, equal records
"""
