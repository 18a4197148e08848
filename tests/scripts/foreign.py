"""Data of a class whose module only the server has."""

from collections.abc import Iterator

from parasnake import Parasnake

app = Parasnake("foreign")


@app.new_data
def points() -> Iterator[object]:
    from only_on_the_server import Point  # type: ignore[import-not-found]

    yield Point()


@app.process
def work(data: object) -> None: ...


if __name__ == "__main__":
    app.main()
