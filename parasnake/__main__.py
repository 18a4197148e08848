"""``python -m parasnake``: the ``parasnake`` command."""

from parasnake.cli import command

if __name__ == "__main__":
    command()
