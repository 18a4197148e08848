"""The command: see ``python -m tests.simulation --help``."""

from .command import main

raise SystemExit(main())
