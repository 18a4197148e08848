"""A job whose one task tells when it began; the script imports nothing but Parasnake."""

import time
from collections.abc import Iterator

from parasnake import Parasnake

app = Parasnake("first task")


@app.new_data
def once() -> Iterator[int]:
    yield 0


@app.process
def now(_: int) -> float:
    return time.monotonic()


@app.result
def tell(began: float) -> None:
    print(began)


if __name__ == "__main__":
    app.main()
