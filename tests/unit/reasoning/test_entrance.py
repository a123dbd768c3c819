"""The Python entrance: every public function refuses what it can't use, and says what it could."""

from __future__ import annotations

import ast
import asyncio
import inspect
from pathlib import Path

import pytest

import edgereason
from edgereason import AsyncModel, Budget, Message, Model, RequestError, Sampling, ScriptedEngine, errors
from edgereason.reasoning.model import LoadOptions, load
from edgereason.reasoning.request import make_request

FOUR = "2+2 is 4.\n</think>\n\nThe final answer is 4."


def scripted() -> Model:
    return Model(ScriptedEngine([FOUR]))


async def ask_async(*arguments: object, **options: object) -> object:
    async with AsyncModel(scripted()) as model:
        return await model.ask(*arguments, **options)  # type: ignore[arg-type]


ENTRANCES = {
    "make_request": make_request,
    "Model.ask": lambda *a, **o: scripted().ask(*a, **o),
    "Model.stream": lambda *a, **o: scripted().stream(*a, **o),
    "Session.ask": lambda *a, **o: scripted().session().ask(*a, **o),
    "Session.stream": lambda *a, **o: scripted().session().stream(*a, **o),
    "Session.think_harder": lambda *a, **o: scripted().session([Message("user", "q")]).think_harder(**o),
    "Session.stream_harder": lambda *a, **o: scripted().session([Message("user", "q")]).stream_harder(**o),
    "AsyncModel.ask": lambda *a, **o: asyncio.run(ask_async(*a, **o)),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"budjet": 1}, "there is no option 'budjet': did you mean 'budget'?"),
        ({"temprature": 0}, "there is no option 'temprature': did you mean 'temperature'?"),
        ({"xyzzy": 0}, "there is no option 'xyzzy': known: mode, budget, effort"),
        ({"streams": "4"}, "streams must be a whole number, got '4'"),
        ({"temperature": "0"}, "temperature must be a number, got '0'"),
        ({"budget": 200.0}, "budget must be tokens, as 400, seconds, as '5s', or a Budget, got 200.0"),
        ({"mode": "thnik"}, "mode must be one of chat, think, auto; got 'thnik', did you mean 'think'?"),
        ({"sampling": {"top_p": 1}}, "sampling must be of type Sampling, got {'top_p': 1}"),
        ({"top_k": -1}, "top_k must be 0 (off) or more, got -1"),
        ({"stop": [""]}, "a stop string must not be empty"),
    ],
)
def test_an_option_that_is_wrong_is_refused_by_name(entrance: str, options: dict, says: str) -> None:
    with pytest.raises(RequestError) as refused:
        ENTRANCES[entrance]("2+2?", **options)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda model: model.ask(5), "the question must be a text or a sequence of Message, got 5"),
        (
            lambda model: model.ask(b"2+2?"),
            "the question must be a text or a sequence of Message, got b'2+2?'",
        ),
        (lambda model: model.ask([{"role": "user"}]), "must be a text or a sequence of Message"),
        (lambda model: model.ask("  "), "the question is empty"),
        (lambda model: model.ask("2+2?", system=5), "content must be a text, got 5"),
        (lambda model: model.stream("2+2?", should_stop=True), "should_stop must be a function, got True"),
        (lambda model: model.run("2+2?"), "a request must be of type Request, got '2+2?'"),
        (
            lambda model: model.session(sytem="Be brief."),
            "there is no option 'sytem': did you mean 'system'?",
        ),
        (lambda model: model.session(system=0), "content must be a text, got 0"),
        (lambda model: model.ask("2+2?", system=False), "content must be a text, got False"),
        (lambda model: model.session("2+2?"), "messages must be a sequence of Message, got '2+2?'"),
        (lambda model: model.session().ask(5), "content must be a text, got 5"),
        (lambda model: model.session().drop("1"), "a number of turns must be a whole number, got '1'"),
        (lambda model: model.session().save(5), "path must be a path, got 5"),
        (lambda model: model.load_session(None), "path must be a path, got None"),
        (lambda model: AsyncModel(model, max_running="8"), "max_running must be a whole number, got '8'"),
        (lambda _: AsyncModel("a.gguf"), "a model must be of type Model, got 'a.gguf'"),
        (lambda _: Model("a.gguf"), "edgereason.load('a.gguf')"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(act, says: str) -> None:
    with pytest.raises(RequestError) as refused:
        act(scripted())
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((5,), {}, "bundle_or_model must be a path, got 5"),
        ((), {"base": 5}, "base must be a path, got 5"),
        ((), {"threads": 0}, "threads must be at least 1, got 0"),
        ((), {"threads": "4"}, "threads must be a whole number, got '4'"),
        ((), {"kv": "q8"}, "kv must be one of f16, q8_0; got 'q8', did you mean 'q8_0'?"),
        ((), {"context_tokens": True}, "context_tokens must be a whole number, got True"),
        ((), {"context_tokens": -1}, "context_tokens must be at least 1, got -1"),
        ((), {"use_heads": "no"}, "use_heads must be True or False, got 'no'"),
        ((), {"progress": 1}, "progress must be a function, got 1"),
        ((), {"context": 4096}, "there is no option 'context': did you mean 'context_tokens'?"),
    ],
)
def test_load_refuses_what_it_can_not_use_before_it_looks_for_a_file(
    arguments: tuple, options: dict, says: str
) -> None:
    for loading in (
        lambda: edgereason.load(*arguments, **options),
        lambda: asyncio.run(AsyncModel.load(*arguments, **options)),
    ):
        with pytest.raises(RequestError) as refused:
            loading()
        assert says in str(refused.value)


def test_the_options_of_async_load_are_those_of_load() -> None:
    parameters = inspect.signature(load).parameters
    assert LoadOptions.__annotations__.keys() == parameters.keys() - {"bundle_or_model"}
    assert {name: parameters[name].annotation for name in LoadOptions.__annotations__} == {
        name: hint.__forward_arg__ for name, hint in LoadOptions.__annotations__.items()
    }


def test_a_budget_is_taken_as_it_is() -> None:
    both = Budget(limit_tokens=200, limit_s=5.0)
    assert make_request("q", budget=both).budget == both
    assert make_request("q", budget=200).budget == Budget(limit_tokens=200)
    assert make_request("q", budget="5s").budget == Budget(limit_s=5.0)


def test_values_of_sampling_that_are_named_replace_those_that_are_given() -> None:
    given = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.1)
    assert make_request("q", sampling=given).sampling == given
    asked = make_request("q", sampling=given, temperature=0.5, top_k=7)
    assert asked.sampling == Sampling(temperature=0.5, top_k=7, top_p=1.0, min_p=0.1)
    assert make_request("q", top_p=0.5, min_p=0.2).sampling == Sampling(top_p=0.5, min_p=0.2)


def test_none_is_as_if_an_option_were_left_out() -> None:
    options = dict.fromkeys(edgereason.AskOptions.__annotations__)
    assert make_request("q", **options) == make_request("q")


def test_a_sampling_that_is_given_anew_is_not_mixed_with_what_was_inherited() -> None:
    with scripted().session() as session:
        session.ask("2+2?", mode="think", budget=100, temperature=0, top_k=5)
        assert session.harder_turn({}).request.sampling == Sampling(temperature=0, top_k=5)
        fresh = Sampling(temperature=1.0)
        assert session.harder_turn({"sampling": fresh}).request.sampling == fresh
        assert session.harder_turn({"top_k": 9}).request.sampling == Sampling(temperature=0, top_k=9)


# Notices


def test_every_response_carries_its_own_notices() -> None:
    model = scripted()
    first, second = (model.ask("2+2?", budget=100, streams=2, vote="best") for _ in range(2))
    assert len(first.notices) == 2
    assert second.notices == first.notices
    assert model.ask("2+2?", mode="chat").notices == ()


# Streams


def test_leaving_a_stream_s_with_block_frees_what_it_holds() -> None:
    engine = ScriptedEngine(["hm " * 900])
    model = Model(engine)
    with model.stream("2+2?", mode="think", budget=2000, streams=2) as events:
        next(events)
        assert engine.live_sequences > 0
    assert (engine.live_sequences, engine.used_cells) == (0, 0)
    assert list(events) == []


def test_closing_a_stream_frees_what_it_holds_and_a_second_time_does_nothing() -> None:
    engine = ScriptedEngine(["hm " * 900])
    events = Model(engine).stream("2+2?", mode="think", budget=2000)
    assert iter(events) is events
    next(events)
    events.close()
    events.close()
    assert (engine.live_sequences, engine.used_cells) == (0, 0)


def test_an_error_inside_the_with_block_frees_and_passes_on() -> None:
    engine = ScriptedEngine(["hm " * 900])
    with (
        pytest.raises(ZeroDivisionError),
        Model(engine).session() as session,
        session.stream("2+2?", mode="think", budget=2000) as events,
    ):
        next(events)
        raise ZeroDivisionError
    assert engine.live_sequences == 0


# The package


def test_the_public_names_are_listed_once_everywhere() -> None:
    tree = ast.parse(Path(edgereason.__file__).read_text("utf-8"))
    checked_only = {
        name.asname or name.name: node.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    public = set(edgereason.__all__) - {"__version__"}
    assert checked_only.keys() == public
    for name in public:
        # Literals and unions don't know where they are from.
        home = getattr(getattr(edgereason, name), "__module__", None)
        assert home in (checked_only[name], "types", "typing")
    assert set(edgereason.__all__) <= set(dir(edgereason))
    assert edgereason.__all__ == sorted(edgereason.__all__)


def test_every_error_of_the_tree_is_public() -> None:
    tree = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert tree <= set(edgereason.__all__)
