"""The table of all that is measured."""

from __future__ import annotations

from figures import (
    ARRAY_MB,
    GONE,
    MB,
    NODE_COUNTS,
    PAYLOADS,
    TASK_POWERS,
    Figure,
    Measurement,
)

COMPARED = "Two workers on one machine"
TASKS = "How cost grows with the number of tasks"
PAYLOAD = "How cost grows with the payload"
NODES = "How cost grows with the number of nodes"
GROWS = "main process grows by, MB"
JOURNAL = "What a journal costs"

MEASUREMENTS = {
    "small": Measurement(
        "jobs:small_tasks",
        (
            Figure("rate", "small tasks/s, one at a time", more_is_better=True),
            Figure("processor", "processor time of all processes for a small task, µs", 1),
            Figure("start", "start to first result, s", 2),
        ),
        COMPARED,
        essential=True,
    ),
    "latency": Measurement(
        "jobs:single_task",
        (Figure("latency", "latency of a single task, µs"),),
        COMPARED,
        essential=True,
    ),
    "arrays": Measurement(
        "jobs:arrays",
        tuple(
            Figure(f"array_{size}", f"arrays of {size} MB, out and back, MB/s", more_is_better=True)
            for size in ARRAY_MB
        ),
        COMPARED,
        essential=True,
    ),
    "memory": Measurement(
        "jobs:array_memory",
        (
            Figure(
                "array_memory",
                "memory for one array of 128 MB, main process, arrays",
                2,
                more_is_better=None,
            ),
            Figure(
                "array_memory_others",
                "the same, largest of the other processes, arrays",
                2,
                more_is_better=None,
            ),
        ),
        COMPARED,
    ),
    "mandelbrot": Measurement(
        "jobs:mandelbrot",
        (
            Figure("mandelbrot", "Mandelbrot, share of ideal", 2, more_is_better=True),
            Figure(GONE, "last result to all processes gone, ms"),
        ),
        COMPARED,
    ),
    "killed": Measurement(
        "jobs:killed_worker",
        (Figure("killed", "worker killed: its task runs elsewhere after, ms"),),
        COMPARED,
    ),
    "agent": Measurement(
        "ours:agent_start",
        (Figure("agent", "start of an agent to its first task, ms"),),
        COMPARED,
        only_ours=True,
    ),
    "import": Measurement(
        "jobs:import_time", (Figure("import", "import, ms"),), COMPARED, launched=False
    ),
    "tasks": Measurement(
        "jobs:more_tasks",
        tuple(
            figure
            for power in TASK_POWERS
            for figure in (
                Figure(f"tasks_{power}", f"10^{power} tasks: tasks/s", more_is_better=True),
                Figure(
                    f"tasks_{power}_memory", f"10^{power} tasks: {GROWS}", 1, more_is_better=None
                ),
            )
        ),
        TASKS,
        quick=False,
    ),
    "payloads": Measurement(
        "jobs:larger_payloads",
        tuple(
            figure
            for size, text in PAYLOADS.items()
            for figure in (
                Figure(f"payload_{size}", f"{text}: tasks/s", 2 * (size > MB), more_is_better=True),
                Figure(f"payload_{size}_memory", f"{text}: {GROWS}", 1, more_is_better=None),
            )
        ),
        PAYLOAD,
        quick=False,
    ),
    "nodes": Measurement(
        "ours:more_nodes",
        (
            *(
                figure
                for number in NODE_COUNTS
                for figure in (
                    Figure(f"nodes_{number}", f"nodes: {number}; tasks/s", more_is_better=True),
                    Figure(
                        f"nodes_{number}_own", f"nodes: {number}; server's own time, µs/task", 1
                    ),
                    Figure(f"nodes_{number}_memory", f"nodes: {number}; server grows by, MB", 1),
                )
            ),
            Figure("nodes_each", f"nodes: {NODE_COUNTS[-1]}; server's memory for each, kB", 1),
            Figure("nodes_idle", f"nodes: {NODE_COUNTS[-1]}, all idle; server's load, %", 2),
        ),
        NODES,
        only_ours=True,
        quick=False,
    ),
    "journal": Measurement(
        "ours:journal_price",
        (
            Figure("journal", "a journal: µs/task in all", 2),
            Figure("journal_own", "a journal: µs/task of the server's own time", 2),
        ),
        JOURNAL,
        only_ours=True,
        quick=False,
    ),
}
