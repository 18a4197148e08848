"""One task, which prints more than any pipe holds; the file ``printing`` says that it has begun."""

from collections.abc import Iterator
from pathlib import Path

from parasnake import Parasnake

app = Parasnake("flood")
LINES = 20_000


@app.new_data
def once() -> Iterator[int]:
    yield LINES


@app.process
def flood(lines: int) -> int:
    Path("printing").touch()
    for n in range(lines):
        print(f"line {n:020}")
    return lines


@app.result
def merge(result: int) -> None:
    print("merged", result, flush=True)


if __name__ == "__main__":
    app.main()
