"""The proof by simulation: whole jobs, with everything that can go wrong, in one process.

What is real: the server and the agent as they are (``parasnake.server``, ``gate``, ``links``,
``agent``, ``recorder``, ``replay``), the core below them with its handshake, encryption and messages,
payloads, and the journal, a SQLite file in a temporary folder (on a disk in memory it costs a
commit about 30 microseconds, so that there was no need of a virtual one).

What is not: the clock, the event loop's waiting, sockets and processes. There are no threads, and
nothing waits. All that is random, ephemeral keys and node ids too, comes from one
``random.Random(seed)``, so that a seed stands for one history, to the byte.

    world.py       the clock, the events to come, chance, the trace
    network.py     sockets and the loop that waits for them
    job.py         the user's script, and the books that the user keeps
    agents.py      agents and their workers
    servers.py     the life of a server: from its start to its end, however that comes about
    faults.py      what goes wrong, and when
    invariants.py  what must hold after every step
    history.py     one history, from its seed to its verdict
    planted.py     bugs made on purpose, to see that they are found

``python -m tests.simulation --help``, from the folder above ``tests``, says how to run it.
"""
