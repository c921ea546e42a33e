"""A whole cluster in one thread: the real pump and everything below it, the client's real half of the protocol, and a world
that is made up: time, network, disks, clocks and processes.

    randomness.py guard.py     one seed, named streams; nothing ambient
    faults.py scenario.py      what will go wrong and what will be asked, as data that can be printed and shrunk
    disk.py network.py node.py clients.py        the parts of the world
    world.py run.py            time, the two phases, and the verdict
    operator.py late_code.py   moves, handovers and deployments meanwhile; by_hand.py thaws.py repairs, forks, thaws
    sites.py                   what nodes do early, small or at an odd moment
    marks.py paths.py          which rare things a run has been through, and which rare paths of Raft
    batch.py shrink.py report.py                 many seeds, small ones, and how they are told

What it can not show: races of threads, RocksDB, gRPC and the kernel's TCP. Real processes are for that (`chaos.live`).
"""
