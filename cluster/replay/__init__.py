"""What a document's history is good for, without a cluster: its state follows from its commands, so all of its past is there.

    file.py       a history as a file
    verify.py     run it again and compare: every outcome, every answer, the chain
    timeline.py   the document at any of its positions: what it showed whom, what changed, and why a value is what it is
    seen.py       a history's end as one principal saw it, and nothing else of it
    shadow.py     what it would have come to under other code
    audit.py      what a viewer could not have learnt: a secret is changed, and everything that reached the viewer is compared

Invariant: nothing here changes anything but memory.
"""
