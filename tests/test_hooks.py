"""What a hook may ask for and how it is called, rule by rule (design, section 3)."""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from parasnake.errors import ConfigurationError
from parasnake.hooks import EXAMPLES, HOOKS, OPTIONS, Hook, HookTable, Role, process_digest

THINGS = {
    "state": "STATE",
    "data": "DATA",
    "init_data": "INIT",
    "node_id": "NODE",
    "result": "RESULT",
    "error": "ERROR",
    "seed": "SEED",
}
"""All that there is: a call may give more than the function asks for."""


def call(name: str, function: Callable[..., Any]) -> Any:
    """What the function returns when it is called as this hook."""
    return Hook(name, function)(**THINGS)


def table(**functions: Callable[..., Any]) -> HookTable:
    """The hooks of an app "squares"."""
    hooks = HookTable("squares")
    for name, function in functions.items():
        hooks.register(name, function)
    return hooks


def refusal(name: str, function: Any, **options: Any) -> str:
    """The text of the error when the function is registered, without its place and name.

    That both stand in front is seen to here, for all errors.
    """
    with pytest.raises(ConfigurationError) as caught:
        HookTable("squares").register(name, function, **options)
    place, found, text = str(caught.value).partition(f": @app.{name} ")
    file, _, line = place.rpartition(":")
    assert found and file == __file__ and int(line) > 0
    return text


def place_of(function: Callable[..., Any]) -> str:
    return f"{__file__}:{function.__code__.co_firstlineno}"


def everything(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return (*args, kwargs)


def passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as people write it."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def plain() -> None:
    """Nothing asked, nothing given."""


def generator() -> Iterator[int]:
    yield 1


# The table


def test_the_table_of_hooks() -> None:
    assert HOOKS == {
        "init_data": ("node_id",),
        "new_data": ("node_id",),
        "process": ("data", "init_data", "node_id", "seed"),
        "result": ("result", "data", "node_id"),
        "job_done": (),
        "node_init": ("init_data", "node_id"),
        "node_timeout": ("node_id",),
        "failed": ("data", "error", "node_id"),
        "finish": (),
        "checkpoint": (),
        "restore": ("state",),
    }
    assert OPTIONS == {"new_data": ("total",), "result": ("ordered",)}


@pytest.mark.parametrize(("name", "thing"), [(n, t) for n, things in HOOKS.items() for t in things])
def test_a_hook_may_ask_by_name_for_each_thing_in_its_row(name: str, thing: str) -> None:
    function = eval(f"lambda {thing}: {thing}")
    hook = Hook(name, function)
    assert hook.asks_for == {thing}
    assert hook(**THINGS) == THINGS[thing]


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_may_ask_for_nothing(name: str) -> None:
    hook = Hook(name, lambda: "called")
    assert hook.asks_for == frozenset()
    assert hook(**THINGS) == "called"


# Which parameter gets what


@pytest.mark.parametrize("name", [name for name, things in HOOKS.items() if things])
def test_one_parameter_gets_the_main_thing_whatever_it_is_called(name: str) -> None:
    hook = Hook(name, lambda anything: anything)
    main = HOOKS[name][0]
    assert hook.asks_for == {main}
    assert hook(**THINGS) == THINGS[main]


def test_one_parameter_with_the_name_of_another_thing_gets_that() -> None:
    assert call("process", lambda node_id: node_id) == "NODE"
    assert call("result", lambda data: data) == "DATA"


def test_the_name_of_a_thing_that_only_other_hooks_get_means_nothing() -> None:
    assert call("process", lambda error: error) == "DATA"


def test_several_parameters_go_by_name_in_any_order() -> None:
    hook = Hook("process", lambda node_id, data, init_data: (node_id, data, init_data))
    assert hook.asks_for == {"data", "init_data", "node_id"}
    assert hook(**THINGS) == ("NODE", "DATA", "INIT")


def test_parameters_with_defaults_and_other_names_keep_their_defaults() -> None:
    def process(n: Any, scale: int = 2, *, offset: int = 3) -> Any:
        return n, scale, offset

    assert call("process", process) == ("DATA", 2, 3)
    assert Hook("process", process).asks_for == {"data"}
    assert call("finish", lambda file="out.png": file) == "out.png"
    assert call("process", lambda scale=2: scale) == 2


def test_a_parameter_with_a_default_and_the_name_of_a_thing_is_passed() -> None:
    def process(n: Any, scale: int = 2, node_id: Any = None, init_data: Any = None) -> Any:
        return n, scale, node_id, init_data

    assert call("process", process) == ("DATA", 2, "NODE", "INIT")
    assert Hook("process", process).asks_for == {"data", "node_id", "init_data"}


def test_the_one_thing_that_a_function_asks_for_may_be_given_to_it_directly() -> None:
    assert Hook("process", lambda n: n).only == "data"
    assert Hook("process", lambda n, scale=2: n).only == "data"
    assert Hook("result", lambda node_id: node_id).only == "node_id"
    assert Hook("process", lambda data, node_id: data).only is None
    assert Hook("process", lambda *, data: data).only is None
    assert Hook("finish", lambda: None).only is None


def test_positional_only_and_keyword_only_parameters() -> None:
    def by_position(data: Any, node_id: Any = None, scale: int = 2, /) -> Any:
        return data, node_id, scale

    def by_name(*, data: Any, node_id: Any) -> Any:
        return data, node_id

    def one_by_name(*, n: Any) -> Any:
        return n

    assert call("process", by_position) == ("DATA", "NODE", 2)
    assert call("process", by_name) == ("DATA", "NODE")
    assert call("process", one_by_name) == "DATA"


def test_what_the_function_raises_comes_through_unchanged() -> None:
    error = ZeroDivisionError("mine")

    def process(n: Any) -> None:
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        call("process", process)
    assert caught.value is error


# All that can be called


class Spiral:
    """Has a method of each kind, and can be called itself."""

    def method(self, n: Any) -> Any:
        return "method", n

    @classmethod
    def class_method(cls, n: Any, node_id: Any) -> Any:
        return cls.__name__, n, node_id

    @staticmethod
    def static_method(n: Any) -> Any:
        return "static", n

    @passing_on
    def decorated(self, data: Any, node_id: Any) -> Any:
        return data, node_id

    def __call__(self, data: Any, init_data: Any) -> Any:
        return data, init_data


def test_methods_and_objects_that_can_be_called() -> None:
    assert call("process", Spiral().method) == ("method", "DATA")
    assert call("process", Spiral.static_method) == ("static", "DATA")
    assert call("process", Spiral().decorated) == ("DATA", "NODE")
    assert call("process", Spiral()) == ("DATA", "INIT")
    with pytest.raises(ConfigurationError, match="cannot ask for 'n'"):
        Hook("process", Spiral.class_method)


def test_a_class_is_called_by_its_constructor() -> None:
    class Task:
        def __init__(self, data: Any, node_id: Any = None) -> None:
            self.seen = data, node_id

    assert call("process", Task).seen == ("DATA", "NODE")


def test_partial_functions() -> None:
    def process(scale: int, data: Any, init_data: Any = None) -> Any:
        return scale, data, init_data

    assert call("process", functools.partial(process, 3)) == (3, "DATA", "INIT")
    assert call("process", functools.partial(process, scale=3)) == (3, "DATA", "INIT")


def test_what_a_partial_has_bound_by_name_stays_bound() -> None:
    def process(n: Any, init_data: Any) -> Any:
        return n, init_data

    hook = Hook("process", functools.partial(process, init_data="mine"))
    assert hook.asks_for == {"data"}
    assert hook(**THINGS) == ("DATA", "mine")


def test_a_decorated_function_asks_for_what_it_asked_for_before() -> None:
    @passing_on
    def process(data: Any, node_id: Any) -> Any:
        return data, node_id

    hook = Hook("process", process)
    assert hook(**THINGS) == ("DATA", "NODE")
    assert hook.where == place_of(inspect.unwrap(process))
    assert call("process", functools.lru_cache(lambda n: n)) == "DATA"


def test_a_wrapper_that_names_its_parameters_speaks_for_itself() -> None:
    def with_table(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(n: Any) -> Any:
            return function("table", n)

        return wrapper

    assert call("process", with_table(lambda lookup, n: (lookup, n))) == ("table", "DATA")


def test_a_wrapper_need_not_take_keywords() -> None:
    def positional(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    assert call("process", positional(lambda data, node_id: (data, node_id))) == ("DATA", "NODE")


@pytest.mark.parametrize(
    ("function", "data", "result"),
    [
        pytest.param(math.sqrt, 9.0, 3.0, id="one parameter"),
        pytest.param(math.log, 1, 0.0, id="no signature"),
        pytest.param(int, "7", 7, id="class without a signature"),
        pytest.param(float, "7", 7.0, id="its parameter has a default"),
        pytest.param(np.sqrt, 9.0, 3.0, id="numpy"),
        pytest.param(functools.partial(operator.add, 2), 5, 7, id="partial"),
    ],
)
def test_a_builtin_gets_the_main_thing(function: Any, data: Any, result: Any) -> None:
    hook = Hook("process", function)
    assert hook.asks_for == {"data"}
    assert hook(data=data) == result


def test_builtins_as_other_hooks(capsys: pytest.CaptureFixture[str]) -> None:
    results: list[Any] = []
    call("result", results.append)
    assert results == ["RESULT"]
    call("result", print)
    assert capsys.readouterr().out == "RESULT\n"
    call("finish", results.clear)
    assert results == []
    with pytest.raises(ConfigurationError, match="cannot ask for 'x', 'y'"):
        Hook("process", math.pow)
    with pytest.raises(ConfigurationError, match="it gets no arguments"):
        Hook("finish", math.sqrt)


def test_a_builtin_that_gives_new_data_is_not_asked_by_node() -> None:
    # node_id would end all prefetching, and popleft has a signature on some Pythons only.
    assert call("new_data", deque(["first"]).popleft) == "first"
    assert call("new_data", ["first", "last"].pop) == "last"
    assert Hook("new_data", int).asks_for == frozenset()
    assert call("new_data", {"NODE": "first"}.get) == "first"


# What else a hook knows


def test_a_hook_knows_its_place_and_cannot_be_changed() -> None:
    hook = Hook("finish", plain)
    assert (hook.name, hook.function, hook.where) == ("finish", plain, place_of(plain))
    assert hook.where in repr(hook)
    with pytest.raises(FrozenInstanceError):
        hook.name = "result"  # type: ignore[misc]


def test_the_place_of_a_builtin_is_where_it_is_registered() -> None:
    here = place_of(lambda: None)
    before, _, line = here.rpartition(":")
    assert Hook("process", math.sqrt).where == f"{before}:{int(line) + 2}"


class Numbers:
    def each(self) -> Iterator[int]:
        yield 1

    def __call__(self) -> Iterator[int]:
        yield 2


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(generator, id="function"),
        pytest.param(Numbers().each, id="method"),
        pytest.param(Numbers(), id="object"),
        pytest.param(functools.partial(generator), id="partial"),
        pytest.param(passing_on(generator), id="decorated"),
        pytest.param(passing_on(Numbers().each), id="decorated method"),
    ],
)
def test_new_data_may_be_a_generator_function(function: Callable[..., Any]) -> None:
    hook = Hook("new_data", function)
    assert hook.is_generator
    assert len(list(hook())) == 1


def test_a_plain_function_is_no_generator() -> None:
    assert not Hook("new_data", plain).is_generator
    assert not Hook("process", passing_on(generator)).is_generator


# What is refused, and what the errors say


def test_refused_a_name_that_the_hook_cannot_ask_for() -> None:
    text = refusal("process", lambda dta, node_id: None)
    assert text == (
        "cannot ask for 'dta' (did you mean 'data'?); with several parameters it may "
        "ask for data, init_data, node_id, seed by name; others need a default"
    )
    assert "cannot ask for 'x', 'y'; " in refusal("result", lambda x, y: None)
    text = refusal("node_timeout", lambda node, node_id: None)
    assert text.endswith("it may ask for node_id; other parameters need a default")


@pytest.mark.parametrize("name", ["job_done", "finish"])
def test_refused_a_parameter_where_there_is_nothing_to_ask_for(name: str) -> None:
    text = refusal(name, lambda result: None)
    assert text == (
        "cannot ask for 'result'; it gets no arguments, so that each parameter needs a default"
    )


def test_refused_a_method_without_its_object() -> None:
    text = refusal("process", Spiral.method)
    assert "cannot ask for 'self', 'n'; " in text
    assert text.endswith(
        "a method is registered through its object, my_object.method, after the class"
    )


def test_refused_parameters_that_take_anything() -> None:
    text = refusal("process", everything)
    assert "takes *args and **kwargs, which does not tell what it needs" in text
    assert "it may ask for data, init_data, node_id, seed by name" in text
    assert "functools.wraps" in text
    assert "takes *rest, " in refusal("result", lambda result, *rest: None)
    assert "takes **rest, " in refusal("finish", lambda **rest: None)


def test_refused_async_functions() -> None:
    async def coroutine(n: Any) -> None: ...

    async def asynchronous_generator() -> AsyncIterator[int]:
        yield 1

    class Asynchronous:
        async def __call__(self, n: Any) -> None: ...

    for function in coroutine, functools.partial(coroutine), Asynchronous():
        text = refusal("process", function)
        assert text.startswith("is an async function")
        assert "make it a plain function" in text
    assert refusal("new_data", asynchronous_generator).startswith("is an async function")


@pytest.mark.parametrize("name", [name for name in HOOKS if name != "new_data"])
def test_refused_a_generator_function_for_any_hook_but_new_data(name: str) -> None:
    text = "is a generator function: return its value (a list, say) instead of yielding"
    assert refusal(name, generator) == text


def test_refused_a_generator_function_that_asks_for_node_id() -> None:
    def numbers(n: Any) -> Iterator[Any]:
        yield n

    def numbers_of(node_id: Any = None) -> Iterator[Any]:
        yield node_id

    for function in numbers, numbers_of, passing_on(numbers):
        text = refusal("new_data", function)
        assert "a generator runs once for the whole job" in text
        assert "ask for node_id in a plain function" in text


def test_refused_what_cannot_be_called() -> None:
    text = refusal("new_data", generator())
    assert text == (
        "needs a function, and an object of type 'generator' cannot be called; "
        "pass the function itself, without calling it"
    )


def test_refused_a_positional_only_parameter_that_cannot_be_reached() -> None:
    def process(data: Any, scale: int = 2, node_id: Any = None, /) -> None: ...

    text = refusal("process", process)
    assert text.startswith("cannot get node_id, a positional-only parameter")
    assert text.endswith("move node_id to the front")


def test_the_place_in_an_error_is_that_of_the_function() -> None:
    def process(dta: Any, node_id: Any) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        Hook("process", process)
    assert str(caught.value).startswith(f"{place_of(process)}: @app.process cannot ask for 'dta'")


# The hooks of an app


def test_a_table_gives_each_hook_by_its_name() -> None:
    hooks = table(process=math.sqrt)
    assert isinstance(hooks.process, Hook)
    assert hooks.process is hooks.get("process")
    assert hooks.process.function is math.sqrt
    assert hooks.result is hooks.get("result") is None
    with pytest.raises(AttributeError, match="there is no hook 'proces'"):
        hooks.proces  # noqa: B018


def test_refused_a_hook_registered_twice() -> None:
    hooks = table(finish=plain)

    def finish_again() -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        hooks.register("finish", finish_again)
    assert str(caught.value) == (
        f"{place_of(finish_again)}: @app.finish is registered twice, first at {place_of(plain)}; "
        "an app has one finish hook, so remove one of the two"
    )
    assert hooks.finish is not None and hooks.finish.function is plain


def test_refused_a_hook_after_the_run_has_begun() -> None:
    hooks = table()
    hooks.freeze()
    with pytest.raises(ConfigurationError) as caught:
        hooks.register("finish", plain)
    assert str(caught.value) == (
        f"{place_of(plain)}: @app.finish comes too late: app 'squares' has begun to run and will "
        "not call it; register every hook before app.run() or app.main()"
    )
    assert hooks.finish is None


@pytest.mark.parametrize(
    ("total", "known"), [(None, None), (0, 0), (1000, 1000), (np.int64(7), 7)], ids=repr
)
def test_new_data_may_be_registered_with_a_total(total: Any, known: int | None) -> None:
    hooks = HookTable("squares")
    assert hooks.total is None
    hooks.register("new_data", generator, total=total)
    assert hooks.total == known
    hooks.register("finish", plain)
    assert hooks.total == known


def test_result_may_be_registered_in_order() -> None:
    hooks = HookTable("squares")
    assert not hooks.ordered
    hooks.register("result", plain, ordered=True)
    assert hooks.ordered
    assert not table(result=plain).ordered
    hooks.register("new_data", generator)
    hooks.register("process", plain)
    hooks.check(Role.LOCAL)


@pytest.mark.parametrize("ordered", [1, "yes", None], ids=repr)
def test_refused_an_odd_order(ordered: Any) -> None:
    assert refusal("result", plain, ordered=ordered) == (
        f"has ordered={ordered!r}; it is True or False"
    )


def test_refused_results_in_order_where_data_is_for_certain_nodes() -> None:
    hooks = table(new_data=lambda node_id: None, job_done=plain, process=plain)
    hooks.register("result", plain, ordered=True)
    hooks.check(Role.NODE)
    with pytest.raises(
        ConfigurationError, match=r"ordered=True, but new_data \(.*asks for node_id"
    ):
        hooks.check(Role.SERVER)


@pytest.mark.parametrize("total", [-1, 2.5, "1000", True], ids=repr)
def test_refused_a_wrong_total(total: Any) -> None:
    text = refusal("new_data", generator, total=total)
    assert f"has total={total!r}; " in text
    assert text.endswith("an int of 0 or more, or None if nobody knows")


def test_refused_an_unknown_option() -> None:
    text = refusal("new_data", generator, totl=3)
    assert text == "has no option 'totl' (did you mean 'total'?); it has total"
    assert refusal("process", plain, total=3) == "has no option 'total'; it takes no options"


def test_a_refused_hook_leaves_no_trace() -> None:
    hooks = HookTable("squares")
    with pytest.raises(ConfigurationError):
        hooks.register("new_data", generator, total=-1)
    assert hooks.new_data is None
    assert hooks.total is None


# What a role needs


@pytest.mark.parametrize(
    ("role", "functions"),
    [
        (Role.SERVER, {"new_data": generator}),
        (Role.SERVER, {"new_data": plain, "job_done": plain}),
        (Role.NODE, {"process": math.sqrt}),
        (Role.LOCAL, {"new_data": generator, "process": math.sqrt}),
        (Role.LOCAL, {"new_data": plain, "job_done": plain, "process": math.sqrt}),
    ],
)
def test_enough_for_a_role(role: Role, functions: dict[str, Any]) -> None:
    table(**functions).check(role)


@pytest.mark.parametrize(
    ("role", "functions", "missing"),
    [
        (Role.SERVER, {"process": math.sqrt}, ["new_data"]),
        (Role.SERVER, {"new_data": plain}, ["job_done"]),
        (Role.NODE, {"new_data": generator}, ["process"]),
        (Role.LOCAL, {}, ["new_data", "process"]),
        (Role.LOCAL, {"new_data": plain}, ["job_done", "process"]),
    ],
)
def test_the_error_names_all_that_a_role_misses(
    role: Role, functions: dict[str, Any], missing: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        table(**functions).check(role)
    text = str(caught.value)
    for name in HOOKS:
        told = f"app 'squares' has no {name} hook, which {role.value} needs" in text
        assert told == (name in missing)


def test_the_error_shows_what_to_add() -> None:
    with pytest.raises(ConfigurationError) as caught:
        table().check(Role.NODE)
    assert str(caught.value) == (
        "app 'squares' has no process hook, which a node needs. Add one, for example:\n\n"
        "    @app.process\n"
        "    def square(n): return n * n\n"
    )


def test_the_error_says_why_job_done_is_needed() -> None:
    with pytest.raises(ConfigurationError) as caught:
        table(new_data=plain).check(Role.SERVER)
    assert (
        "has no job_done hook, which a server needs to know when the job has ended, "
        f"since new_data ({place_of(plain)}) is a plain function and not a generator. Add one"
    ) in str(caught.value)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_in_errors_are_right(name: str) -> None:
    class App:
        def __getattr__(self, name: str) -> Any:
            return lambda function: hooks.register(name, function)

    hooks = HookTable("squares")
    exec(EXAMPLES[name], {"app": App()})
    assert hooks.get(name) is not None


# What the hooks mean for the scheduler


def test_new_data_with_node_id_hands_out_by_node() -> None:
    assert not table().by_node
    assert not table(new_data=plain).by_node
    assert not table(new_data=generator).by_node
    assert table(new_data=lambda node_id: None).by_node
    assert table(new_data=lambda n: None).by_node


def test_the_user_reassigns_with_new_data_by_node_and_a_node_timeout_hook() -> None:
    assert table(new_data=lambda node_id: None, node_timeout=plain).user_reassigns
    assert not table(new_data=lambda node_id: None).user_reassigns
    assert not table(new_data=plain, node_timeout=plain).user_reassigns


def test_init_data_with_node_id_is_made_for_each_node() -> None:
    assert table(init_data=lambda node_id: None).init_per_node
    assert not table(init_data=plain).init_per_node
    assert not table().init_per_node


# The same code on both sides?


def test_the_digest_of_process_tells_two_functions_apart() -> None:
    def square(n: int) -> int:
        return n * n

    def cube(n: int) -> int:
        return n * n * n

    digest = process_digest(Hook("process", square))
    assert len(digest) == 16
    assert digest == process_digest(Hook("process", passing_on(square)))
    assert digest != process_digest(Hook("process", cube))
    assert process_digest(Hook("process", math.sqrt)) == b""
