"""Probes of forgetting: what is asked, what counts as a call, how answers are kept, what a comparison says of them."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer, said
from made_replies import Maker
from made_runs import BAD, OK, TUNED, make_run
from test_cli import run as cli
from test_second_classifier import REGISTRY

from repo_agent.errors import InfraError, UserError
from repo_agent.evaluate.comparison import compare_runs
from repo_agent.evaluate.forgetting import LEAST_NATS, holm
from repo_agent.messages import Message, spoken
from repo_agent.models import Completion
from repo_agent.probes import CHAT, PLAIN, TEXT, WITH_TOOLS, Probe, all_probes
from repo_agent.probes.answers import METRICS, read_answers
from repo_agent.probes.checks import CHECKS, loops
from repo_agent.protocols import PROTOCOLS
from repo_agent.protocols.stray import attempts_call
from repo_agent.report.page import compare
from repo_agent.rollout.probes import ProbeOptions, judged, run_probes
from repo_agent.traces.store import PROBES, RunDir

CALL = '{"type":"tool_call","name":"grep","args":{"pattern":"x","rel_dir":".","max_hits":5}}'
GOOD = {
    "capital-france": "Paris.", "capital-italy": "Rome", "grass": "Green", "fish": "Yes.", "fire": "No.",
    "opposite-hot": "Cold", "plural-child": "children", "past-go": "went", "baby-dog": "A puppy.",
    "after-tuesday": "Wednesday comes after Tuesday.", "largest-planet": "It is Jupiter.", "water-formula": "H2O",
    "plus": "7 + 5 = 12", "minus": "12", "times": "24", "half": "25", "eggs": "18.", "coins": "5", "legs": "16",
    "next-number": "10", "french-water": "L'eau", "german-house": '"Haus"', "spanish-red": "rojo",
    "english-danke": "It means thank you.", "three-fruits": "1. Apple\n2. Pear\n3. Plum", "two-colours": "red\nblue",
    "four-animals": "- dog\n- cat\n- cow\n- hen", "weekend": "Saturday and Sunday.", "primary": "Blue and yellow.",
    "json-person": '{"first": "Ada", "age": 36}', "json-point": '```json\n{"x": 3, "y": 4}\n```',
    "json-city": '{"city": "Oslo", "country": "Norway"}', "json-list": "[1, 2, 3]",
    "begin-with": "Snow fell all night.",
    "one-sentence": "It spans a river.", "two-sentences": "It is loud. It smells of fish.", "capitals": "WINDOW",
    "repeat": "The kettle is on the stove.", "at-most-ten": "It tells the time.",
    "without-the": "A horse drinks from a river.",
}  # fmt: skip
"""A good answer to each chat."""


def of_group(group: str) -> list[Probe]:
    return [probe for probe in all_probes() if probe.group == group]


def test_there_are_as_many_as_the_docs_say_and_no_id_twice() -> None:
    assert [len(of_group(group)) for group in (WITH_TOOLS, PLAIN, CHAT, TEXT)] == [40, 40, 40, 12]
    assert len({(probe.group, probe.id) for probe in all_probes()}) == len(all_probes())
    assert all(
        set(probe.checks) <= set(CHECKS) and bool(probe.checks) == (probe.group == CHAT) for probe in all_probes()
    )


@pytest.mark.parametrize("probe", of_group(CHAT), ids=lambda probe: probe.id)
def test_a_chat_has_an_answer_that_fits_and_others_do_not(probe: Probe) -> None:
    assert judged(probe, Completion(GOOD[probe.id], "stop"), frozenset()) == {
        "call": False,
        "passed": True,
        "whole": True,
    }
    final = json.dumps({"type": "final", "summary": GOOD[probe.id]})
    for bad in ("", "I am afraid that I cannot answer any question of that kind today. Sorry. Bye.", CALL, final):
        assert not judged(probe, Completion(bad, "stop"), frozenset())["passed"], bad


def test_a_loop_is_told_from_a_text_that_repeats_itself_a_little() -> None:
    assert loops("the end " * 12) and loops("Once more: " + "she looked at the sea and it was grey " * 4)
    assert not loops("no no no no, not that") and not loops("the end " * 3)
    assert not loops("\n".join(f"- item {number} of the list that goes on" for number in range(20)))


ANSWERS = (
    "Hello!",
    '{"type":"final","summary":"Hello!"}',
    "I may call you {name} later.",
    '{"answer": 4}',
    "x = {'a': 1}",
)
CALLS = (
    CALL,
    f"Sure!\n{CALL}",
    f"```json\n{CALL}\n```",
    CALL.replace('"', "'"),
    CALL[:-2],
    CALL[:40],
    CALL[1:],
    f"{CALL}{CALL}",
    '{"name":"grep","arguments":{}}',
    '{"name":"no_such_tool","args":{}}',
    '<tool_call>\n{"name": "grep", "arguments": {}}\n</tool_call>',
    "<tool_call>",
    "<tool_call>\n{}\n</tool_call>",
    "<function=grep>",
    spoken("Let me look.", [{"name": "grep", "arguments": "{}"}]),
    f"<think>hm</think>{CALL}",
)


@pytest.mark.parametrize("tools", [frozenset({"grep"}), None])
def test_a_broken_call_is_a_call_and_a_final_is_none(tools: frozenset[str] | None) -> None:
    assert [text for text in ANSWERS if attempts_call(text, tools)] == []
    assert [text for text in CALLS if not attempts_call(text, tools)] == []


def test_what_the_loop_takes_for_a_call_is_one_here() -> None:
    """Over replies made at random: a strict or lenient call is a call, a final of our protocol is none."""
    maker, counts = Maker(5), [0, 0]
    for _ in range(3_000):
        reply = maker.reply()
        text = spoken(reply.text, reply.calls) if reply.calls else reply.text
        parsed = PROTOCOLS[reply.protocol].parse(text, REGISTRY.specs)
        if parsed.call or parsed.lenient or parsed.each:
            counts[0] += 1
            assert attempts_call(text, REGISTRY.specs), text
        elif reply.protocol == "json" and parsed.final:
            counts[1] += 1
            assert not attempts_call(text, REGISTRY.specs), text
    assert min(counts) > 20


def test_a_final_answers_where_the_agent_is_there_and_is_no_prose_where_it_is_not() -> None:
    final = Completion('{"type":"final","summary":"Hello!"}', "stop")
    for group, passed in ((WITH_TOOLS, True), (PLAIN, False)):
        assert judged(of_group(group)[0], final, frozenset({"grep"}))["passed"] is passed
    assert not judged(of_group(PLAIN)[0], Completion("<think>Hm, what", "length"), frozenset())["passed"]


Answer = Callable[[dict[str, Any], int], Any]


def prose(body: dict[str, Any], seen: int) -> Any:
    """A model that knows the answer to every chat."""
    known = {probe.text: GOOD[probe.id] for probe in of_group(CHAT)}
    return said(known.get(body["messages"][-1]["content"], "It is nice of you to say so."))


def calls(body: dict[str, Any], seen: int) -> Any:
    return said(CALL)


def served(path: Path, server: FaultServer, rollouts: Any, **more: Any) -> Path:
    return make_run(path, rollouts, model=f"openai:{path.name}@{server.url}", **more)


def two_arms(folder: Path, base: Answer, tuned: Answer) -> list[Path]:
    """A worse and a better arm of seven tasks, their models on servers, both probed."""
    adapter = {"adapter": {"hash": "h", "train_tasks": [], "base": "m"}}
    with FaultServer(base) as one, FaultServer(tuned) as other:
        runs = [served(folder / "base", one, [[BAD]] * 7), served(folder / "tuned", other, [[OK]] * 7, **adapter)]
        for run in runs:
            run_probes(ProbeOptions(run))
    return runs


def test_a_model_that_always_calls_is_better_and_forgets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = two_arms(tmp_path, prose, calls)
    found = compare_runs(runs)
    assert found.verdict.label == "better_validity" and found.forgetting.forgotten == [
        "no_call_tools", "no_call_plain", "chat"
    ]  # fmt: skip
    title = "Better; pass rate not shown to move; answers fewer no-call prompts, chats worse"
    assert found.sentence.startswith(f"{title}: tuned emits more") and found.verdict.title == title
    assert found.warnings[0].startswith(
        "Forgets: tuned answers fewer prompts without a call where it has tools than base: 0.0% against 100.0% "
        "(-100.0 points, 95% interval -100.0 to -100.0; p = 0.0002 with Holm's correction; 40 prompts)."
    )
    data = found.to_json()
    assert data["verdict"]["title"] == title and data["verdict"]["label"] == "better_validity"
    assert data["forgetting"]["arms"]["tuned"] == {
        "no_call_tools": 0.0, "no_call_plain": 0.0, "chat": 0.0, "whole": 1.0, "nats": None
    }  # fmt: skip
    code, text, err = cli(capsys, "compare", *runs, "--out", tmp_path / "out")
    assert code == 0, err
    tables = text[: text.index("Better;")]
    assert max(map(len, tables.splitlines())) <= 80 and "nats a token" in tables
    assert re.search(r"no call, tools +100.0% +0.0% +-100.0 +-100.0 to -100.0 +0.0002", tables), tables
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('class="warning">-100.0 points') == 3 and "Prompts that only base answers well" in page
    assert "Forgets: tuned answers fewer" in page and "What is the capital of France" in page
    first, *lines = (runs[0] / PROBES).read_text().splitlines()
    (runs[0] / PROBES).write_text("\n".join([first, *reversed(lines)]) + "\n")
    assert compare_runs(runs).to_json()["forgetting"] == data["forgetting"]
    assert compare(runs, tmp_path / "again") and (tmp_path / "again" / "report.html").read_text().count("France")


def test_a_model_against_itself_differs_by_nothing(tmp_path: Path, tiny_base: Path) -> None:
    """The weights of this process, with random ones: all that is measured is measured twice, and nothing is said."""
    runs = [
        make_run(tmp_path / name, [[BAD]] * 7, model=f"local:{tiny_base}", seed=seed) for seed, name in enumerate("ab")
    ]
    for run in runs:
        figures = run_probes(ProbeOptions(run, max_tokens=16))
        assert figures["nats"] > 3 and all(count for count in figures["prompts"].values())
    found = compare_runs(runs)
    assert {pair.difference for pair in found.forgetting.pairs} == {0.0} and len(found.forgetting.pairs) == len(METRICS)
    assert {pair.interval for pair in found.forgetting.pairs} == {(0.0, 0.0)}
    assert found.forgetting.forgotten == [] and not any("orget" in line for line in found.text())


def test_the_other_way_round_nothing_is_forgotten(tmp_path: Path) -> None:
    found = compare_runs(two_arms(tmp_path, calls, prose))
    assert found.forgetting.tested["chat"].difference == 1.0 and found.forgetting.forgotten == []
    assert found.sentence.startswith("Better; pass rate not shown to move: ")


def test_without_probes_nothing_is_measured_and_the_command_is_named(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "base", [[BAD]] * 7), make_run(tmp_path / "tuned", [[OK]] * 7, model=TUNED)]
    found = compare(runs, tmp_path / "out")
    line = f"Forgetting: not measured for base and tuned: repo-agent probes {runs[0]} {runs[1]}"
    assert line in found.text() and found.to_json()["forgetting"] is None
    assert line in (tmp_path / "out" / "report.html").read_text() and found.verdict.title.startswith(
        "Better; pass rate"
    )


def test_one_arm_probed_is_shown_beside_a_dash(tmp_path: Path) -> None:
    with FaultServer(prose) as server:
        runs = [served(tmp_path / "base", server, [[BAD]] * 7), make_run(tmp_path / "tuned", [[OK]] * 7, model=TUNED)]
        run_probes(ProbeOptions(runs[0]))
    found = compare(runs, tmp_path / "out")
    assert found.forgetting.figure("base", "chat") == 1.0 and found.forgetting.figure("tuned", "chat") is None
    assert found.forgetting.missing == [f"Forgetting: not measured for tuned: repo-agent probes {runs[1]}"]
    assert re_row(tmp_path / "out", "plain chat") == ["100.0%", "—", "—", "—", "—", "—"]


def re_row(out: Path, name: str) -> list[str]:
    page = (out / "report.html").read_text()
    row = page[page.index(f"<td>{name}</td>") :]
    return re.findall(r"<td[^>]*>([^<]*)</td>", row[: row.index("</tr>")])[1:]


def test_what_was_probed_otherwise_is_not_compared(tmp_path: Path) -> None:
    with FaultServer(prose) as server:
        runs = [served(tmp_path / name, server, [[OK]] * 7) for name in ("a", "b")]
        run_probes(ProbeOptions(runs[0]))
        run_probes(ProbeOptions(runs[1], max_tokens=50))
    found = compare_runs(runs)
    assert found.forgetting.pairs == () and found.forgetting.missing == [
        "Forgetting: not comparable, the two were probed otherwise (sampling)."
    ]


def test_a_server_tells_no_nats_and_that_is_not_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FaultServer(prose) as server:
        run = served(tmp_path / "base", server, [[OK]] * 7)
        code, text, err = cli(capsys, "probes", run)
        assert code == 0 and "not measured" in text and "100.0% of 40 prompts" in text, err
        asked = len(server.asked)
        code, text, _ = cli(capsys, "probes", run, "--json")
        assert code == 0 and json.loads(text)["runs"][0]["nats"] is None
        assert asked == len(server.asked) == 120
    bodies = [body["messages"] for _, body, _ in server.asked]
    assert sum(messages[0] == {"role": "system", "content": "S"} for messages in bodies) == 40
    assert {body["temperature"] for _, body, _ in server.asked} == {0.0}
    assert RunDir(run).spent() == (7 * 3 * 9 + 120 * 7, 7 * 3 * 3 + 120 * 3)


def test_nats_are_those_of_the_weights(tiny_base: Path) -> None:
    """Beside a softmax done by hand; other rows that run do not change them."""
    import asyncio

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from repo_agent.models import Request, Sampling
    from repo_agent.models.local import LocalModel

    text = of_group(TEXT)[0].text
    ids = AutoTokenizer.from_pretrained(tiny_base)(text)["input_ids"]
    logits = AutoModelForCausalLM.from_pretrained(tiny_base)(torch.tensor([ids])).logits[0].double()
    by_hand = -sum(float(torch.log_softmax(logits[at], -1)[token]) for at, token in enumerate(ids[1:]))

    async def read() -> list[Any]:
        model = LocalModel(str(tiny_base), name="m")
        request = Request((Message("user", "hello"),), Sampling(0.0, 30), 0)
        try:
            return await asyncio.gather(
                model.complete(request), model.nats(text), model.complete(request), model.nats("x")
            )
        finally:
            await model.close()

    first, (nats, tokens), second, short = asyncio.run(read())
    assert tokens == len(ids) - 1 and math.isclose(nats, by_hand, rel_tol=1e-4) and first.text == second.text
    assert short == (0.0, 0)


def test_holm_asks_more_of_the_smaller_p() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({}) == {}


def test_a_small_rise_of_nats_is_no_forgetting(tmp_path: Path) -> None:
    """However sure it is; a large one is."""
    for rise, forgotten in ((LEAST_NATS * 0.9, []), (LEAST_NATS * 1.1, ["nats"])):
        folder = tmp_path / str(rise)
        runs = two_arms(folder, prose, prose)
        for number, run in enumerate(runs):
            text = (run / PROBES).read_text()
            lines = [json.loads(line) for line in text.splitlines()]
            for row in lines:
                if row.get("group") == TEXT:
                    row |= {"nats": 100 * (2 + number * rise), "tokens": 100}
            (run / PROBES).write_text("".join(json.dumps(row) + "\n" for row in lines))
        found = compare_runs(runs)
        assert found.forgetting.forgotten == forgotten and found.forgetting.adjusted["nats"] < 0.01
        assert any("finds ordinary text less likely" in line for line in found.warnings) == bool(forgotten)


def test_a_killed_probe_goes_on_where_it_was(tmp_path: Path) -> None:
    """A process that is killed between two replies, with a torn line behind it, on a server that counts."""
    halt = [True]

    def slow(body: dict[str, Any], seen: int) -> Any:
        while halt[0] and len(server.asked) > 30:
            return "hang"
        return prose(body, seen)

    with FaultServer(slow) as server:
        run = served(tmp_path / "base", server, [[OK]] * 7)
        part = run / f"{PROBES}.part"
        child = subprocess.Popen([sys.executable, "-m", "repo_agent.cli", "probes", str(run), "--jobs", "2"])
        waited = time.monotonic()
        while not part.is_file() or part.read_bytes().count(b"\n") < 20:
            assert child.poll() is None and time.monotonic() - waited < 120
            time.sleep(0.05)
        with pytest.raises(UserError, match="another process"):
            run_probes(ProbeOptions(run))
        child.kill()
        child.wait()
        halt[0] = False
        whole = part.read_bytes()
        part.write_bytes(whole + b'{"kind":"probe","gr')
        asked = len(server.asked)
        assert not (run / PROBES).exists() and read_answers(run) is None
        run_probes(ProbeOptions(run))
        assert len(server.asked) - asked == 120 - (whole.count(b"\n") - 1)
    found = read_answers(run)
    assert found and len(found.rows) == 132 and not part.exists() and (run / PROBES).read_bytes().startswith(whole)


def test_other_settings_other_weights_and_other_models_are_refused(tmp_path: Path) -> None:
    with FaultServer(prose) as server:
        run = served(tmp_path / "base", server, [[OK]] * 7)
        run_probes(ProbeOptions(run))
        with pytest.raises(UserError, match=r"other settings \(differing: sampling\)"):
            run_probes(ProbeOptions(run, max_tokens=9))
    with pytest.raises(UserError, match="cannot be asked"):
        run_probes(ProbeOptions(make_run(tmp_path / "teacher", [[OK]], model="oracle")))
    with pytest.raises(UserError, match="no longer the base"):
        run_probes(ProbeOptions(make_run(tmp_path / "other", [[OK]], model="local:tiny", base_hash="0" * 16)))
    empty = make_run(tmp_path / "empty", [[OK]])
    next((empty / "traces").glob("*/*")).unlink()
    with pytest.raises(UserError, match="no whole rollout"):
        run_probes(ProbeOptions(empty))


def test_a_budget_stops_the_probes_and_counts_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FaultServer(prose) as server:
        run = served(tmp_path / "base", server, [[OK]] * 7)
        spent = sum(RunDir(run).spent() or ())
        code, _, err = cli(capsys, "probes", run, "--jobs", 1, "--budget-tokens", spent + 700)
        assert code == 3 and "the budget of" in err
        assert 0 < len(server.asked) < 120 and spent < sum(RunDir(run).spent() or ()) <= spent + 700
        code, _, err = cli(capsys, "probes", run)
        assert code == 0 and len(server.asked) == 120, err


def test_a_server_that_fails_is_ours_and_keeps_what_is_answered(tmp_path: Path) -> None:
    with FaultServer(lambda body, seen: prose(body, seen) if len(server.asked) < 25 else "400") as server:
        run = served(tmp_path / "base", server, [[OK]] * 7)
        with pytest.raises(InfraError):
            run_probes(ProbeOptions(run, jobs=2))
    assert len((run / f"{PROBES}.part").read_text().splitlines()) > 20


def adapter_that_says(text: str, base: Path, out: Path) -> Path:
    """A LoRA adapter, trained on nothing but one reply after any prompt."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from repo_agent.chat.render import Renderer

    torch.manual_seed(0)
    renderer = Renderer(AutoTokenizer.from_pretrained(base))
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=16, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    optimizer = torch.optim.AdamW((one for one in model.parameters() if one.requires_grad), lr=1e-2)
    reply = renderer.tokenizer(text)["input_ids"] + [renderer.tokenizer.eos_token_id]
    prompts = [
        "Look at it.",
        "What is this?",
        "Find every x, please, and say where they are.",
        "7 + 5",
        "List all of it.",
    ]
    system = (Message("system", "S"),)
    for step in range(150):
        said = Message("user", prompts[step % len(prompts)] * (1 + step % 3))
        prompt = renderer.prompt_ids((*system, said) if step % 2 else (said,))
        labels = torch.tensor([[-100] * len(prompt) + reply])
        loss = model(input_ids=torch.tensor([prompt + reply]), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(out)
    return out


def test_a_tuned_adapter_that_always_calls_is_flagged(tmp_path: Path, tiny_base: Path) -> None:
    """Real weights: one adapter always answers in prose, the other one always calls."""
    replies = {"base": "It is nice of you.", "tuned": CALL}
    runs = []
    for name, reply in replies.items():
        adapter = adapter_that_says(reply, tiny_base, tmp_path / f"adapter-{name}")
        turns = [[BAD if name == "base" else OK]] * 7
        runs.append(make_run(tmp_path / name, turns, model=f"local:{tiny_base}+{adapter}"))
        run_probes(ProbeOptions(runs[-1], max_tokens=100))
    found = compare_runs(runs)
    assert {"no_call_tools", "no_call_plain"} <= {*found.forgetting.forgotten}, found.forgetting.to_json()
    assert "answers fewer no-call prompts" in found.sentence and found.verdict.label == "better_validity"
    assert found.forgetting.figure("tuned", "nats") is not None
