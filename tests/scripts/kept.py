"""The image of rows.py, with a checkpoint whenever there is anything new."""

import rows

from parasnake.core import rhythm

rhythm.LEAST_BYTES, rhythm.TIMES_LAST, rhythm.REST = 1, 0, 0


@rows.app.checkpoint
def state() -> dict[int, bytes]:
    return rows.image


rows.app.restore(rows.image.update)

if __name__ == "__main__":
    rows.main()
