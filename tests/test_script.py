"""What a spawned child makes of its parent's main module."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from children import (
    RunScript,
    write_script,
)

from parasnake import script


class TestScript:
    """What a spawned child makes of its parent's main module."""

    CODE = """
        import dataclasses, enum, pickle, sys
        from functools import partial
        from parasnake import processes

        counter = 0

        class Colour(enum.Enum):
            RED = 1

        @dataclasses.dataclass
        class Point:
            x: "int"

        def look(colour, point, channel):
            global counter
            counter += 1
            import __main__, __mp_main__
            assert __main__ is __mp_main__ is sys.modules[look.__module__]
            assert __main__.counter == 1
            assert colour is Colour.RED
            assert type(point) is Point and Point.__module__ == "__mp_main__"
            print(__name__, sys.argv[1:], flush=True)

        if __name__ == "__main__":
            child = processes.start(partial(look, Colour.RED, Point(1)), method="spawn")
            print(child.wait(30))
            child.close()
        """

    EXPECTED = ("__mp_main__ ['--option', 'a b']", "exited with status 0")

    @pytest.mark.parametrize("name", ["script.py", "script", "späße.py"])
    def test_a_file(self, run_script: RunScript, name: str, tmp_path: Path) -> None:
        lines = run_script(self.CODE, "--option", "a b", name=name)
        assert tuple(lines) == self.EXPECTED
        assert not (tmp_path / "__pycache__").exists()

    def test_a_module(self, tmp_path: Path) -> None:
        package = tmp_path / "package"
        package.mkdir()
        write_script(package, "", "__init__.py")
        write_script(package, "x = 1", "other.py")
        relative = "from .other import x\n" + textwrap.dedent(self.CODE)
        write_script(package, relative, "module.py")
        output = subprocess.check_output(
            [sys.executable, "-m", "package.module", "--option", "a b"], cwd=tmp_path, text=True
        )
        assert tuple(output.splitlines()) == self.EXPECTED

    @pytest.mark.parametrize("arguments", [["-c"], ["-m", "package"]])
    def test_nothing_to_load(self, tmp_path: Path, arguments: list[str]) -> None:
        code = """
            import sys, entries
            from functools import partial
            from parasnake import processes, script
            assert script.find() is None
            child = processes.start(partial(entries.exit_with, 7), method="spawn")
            print(child.wait(30))
            child.close()
            """
        if arguments == ["-c"]:
            arguments = ["-c", textwrap.dedent(code)]
        else:
            (tmp_path / "package").mkdir()
            write_script(tmp_path / "package", code, "__main__.py")
        output = subprocess.check_output(
            [sys.executable, *arguments],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
            cwd=tmp_path,
            text=True,
        )
        assert output == "exited with status 7\n"

    def test_flags_and_path_of_the_interpreter(self, tmp_path: Path) -> None:
        code = """
            import sys
            from parasnake import processes

            def look(channel):
                print(sys.flags.optimize, sys.flags.dont_write_bytecode, sys.warnoptions,
                      "/no/such/folder" in sys.path, flush=True)

            if __name__ == "__main__":
                sys.path.append("/no/such/folder")
                child = processes.start(look, method="spawn")
                child.wait(30), child.close()
            """
        script = write_script(tmp_path, code)
        output = subprocess.check_output(
            [sys.executable, "-OBWerror", script], text=True, cwd=tmp_path
        )
        assert output == "1 1 ['error'] True\n"

    BROKEN = """
        import json, sys
        import entries
        from parasnake import processes

        def entry(channel): pass

        if __name__ != "__main__":
            {statement}

        if __name__ == "__main__":
            report = getattr(entries, sys.argv[1], None)
            child = processes.start(entry, method="spawn", on_boot_error=report)
            print(child.wait(30), flush=True)
            child.channel.setblocking(True)
            told = child.channel.recv(10_000)
            print("told:" if told else "not told", json.loads(told or '""'), flush=True)
            child.close()
        """

    @pytest.mark.parametrize("report", ["report_boot_error", "fail_to_send", ""])
    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            ("1 / 0", "ZeroDivisionError: division by zero"),
            ("exec('1 +')", "SyntaxError"),
            ("sys.exit(3)", 'belongs under: if __name__ == "__main__":'),
            ("del entry", "entry"),
        ],
    )
    def test_it_cannot_be_loaded(
        self, run_script: RunScript, report: str, statement: str, expected: str
    ) -> None:
        lines = run_script(self.BROKEN.format(statement=statement), report, check=False)
        text = "\n".join(lines)
        assert lines[0] == "exited with status 70"
        assert "could not be loaded in a new process" in text
        assert re.search(re.escape(expected), text)
        assert text.count("could not be loaded") == 1
        assert "parasnake/" not in text
        assert (lines[1].startswith("told")) == (report == "report_boot_error")

    def test_a_missing_module(self) -> None:

        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            script.load(script.Script(module="no_such_module"))

    def test_a_script_that_starts_itself_can_be_told(self, run_script: RunScript) -> None:
        lines = run_script(
            """
            import entries
            from parasnake import processes, script

            if script.being_loaded():
                raise RuntimeError(f"put it under if __name__: {script.being_loaded()}")

            child = processes.start(entries.stay, method="spawn")
            assert script.being_loaded() is None
            print(child.wait(30))
            child.close()
            """,
            check=False,
        )
        assert lines[0] == "exited with status 70"
        assert lines[-1].startswith("RuntimeError: put it under if __name__: /")

    def test_a_syntax_error_is_told_without_the_librarys_frames(self, tmp_path: Path) -> None:
        path = write_script(tmp_path, "1 +")
        text = self.explanation(SyntaxError, script.Script(path=str(path)))
        assert str(path) in text
        assert "parasnake/" not in text

    def test_a_fault_of_the_librarys_keeps_them(self) -> None:
        assert "parasnake/" in self.explanation(AssertionError, script.Script())

    @staticmethod
    def explanation(kind: type[Exception], broken: script.Script) -> str:
        with pytest.raises(kind) as caught:
            script.load(broken)
        trace = caught.value.__traceback__
        assert trace is not None
        # Without the frame of this test, as in a child.
        return script.explain_failure(caught.value.with_traceback(trace.tb_next))

    def test_an_entry_that_does_without_it(self, run_script: RunScript) -> None:
        lines = run_script(
            """
            from functools import partial
            import entries
            from parasnake import processes

            print("loaded", flush=True)
            if __name__ == "__main__":
                for with_script in (True, False):
                    entry = partial(entries.exit_with, 7)
                    child = processes.start(entry, method="spawn", with_script=with_script)
                    print(child.wait(30), flush=True)
                    child.close()
            """
        )
        assert lines == ["loaded", "loaded", *["exited with status 7"] * 2]
