"""Runs many constrained generations side by side and keeps what is wrong with them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from harness.client import Client

from constrained import cases

HOT = {"temperature": 1.5, "seed": 1}


@dataclass
class Outcome:
    """Counts of generations; a finished one with its violation, if it has one."""

    finished: int = 0
    cut: int = 0
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, finished: bool, violation: str | None):
        if not finished:
            self.cut += 1
            return
        self.finished += 1
        if violation:
            self.wrong.append(violation)


def run(port: int, jobs: list, one, workers: int = 8) -> Outcome:
    """`one(client, number, job)` gives `(finished, violation)`, or a string where the request was refused."""
    outcome = Outcome()

    def attempt(numbered):
        return one(Client(port, timeout=120), *numbered)

    with ThreadPoolExecutor(workers) as pool:
        for result in pool.map(attempt, enumerate(jobs)):
            if isinstance(result, str):
                outcome.refused.append(result)
            else:
                outcome.add(*result)
    return outcome


def grammar(client: Client, number: int, job) -> tuple[bool, str | None] | str:
    """TGI's own route for even numbers, OpenAI's for odd ones."""
    kind, text = job
    native = {"type": kind, "value": text}
    if number % 2 == 0:
        parameters = HOT | {"seed": number, "max_new_tokens": 400, "grammar": native, "details": True}
        answer = client.post("/generate", {"inputs": "Write it: ", "parameters": parameters})
        if answer.status != 200:
            return f"{kind} {text}: {answer.text}"
        details = answer.json()["details"]
        finished, got = details["finish_reason"] == "eos_token", answer.json()["generated_text"]
    else:
        own = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": text}}
        body = {
            "messages": [{"role": "user", "content": "Write it."}],
            "max_tokens": 400,
            "response_format": own if kind == "json" else native,
        }
        answer = client.post("/v1/chat/completions", body | HOT | {"seed": number})
        if answer.status != 200:
            return f"{kind} {text}: {answer.text}"
        choice = answer.json()["choices"][0]
        finished, got = choice["finish_reason"] == "stop", choice["message"]["content"]
    return finished, cases.violation(kind, text, got) if finished else None


def tool_call(client: Client, number: int, job) -> tuple[bool, str | None] | str:
    """A call that must be made; streamed for odd numbers."""
    tools = job
    body = {
        "messages": [{"role": "user", "content": "Do something."}],
        "max_tokens": 500,
        "tools": tools,
        "tool_choice": "required",
        "parallel_tool_calls": number % 3 == 0,
    }
    body |= HOT | {"seed": number}
    if number % 2 == 0:
        answer = client.post("/v1/chat/completions", body)
        if answer.status != 200:
            return answer.text
        choice = answer.json()["choices"][0]
        reason, calls = choice["finish_reason"], choice["message"].get("tool_calls", [])
    else:
        _, events = client.stream("/v1/chat/completions", body | {"stream": True})
        reason, calls = assemble(events)
    if reason != "tool_calls":
        return False, None
    wrong = [violation for call in calls if (violation := cases.call_violation(tools, call))]
    if not calls or len({call["id"] for call in calls}) < len(calls):
        wrong.append(f"calls: {calls}")
    return True, "; ".join(wrong) or None


def assemble(events: list) -> tuple[str | None, list[dict]]:
    """The calls of a stream, put together as clients do, and the reason it ended with."""
    reason, calls = None, []
    for event in events:
        if event == "[DONE]":
            break
        assert "error" not in event, event
        choice = event["choices"][0]
        reason = choice["finish_reason"] or reason
        for piece in choice["delta"].get("tool_calls", []):
            if piece["index"] == len(calls):
                calls.append({"id": piece["id"], "type": piece["type"], "function": {"name": "", "arguments": ""}})
                calls[-1]["function"]["name"] = piece["function"]["name"]
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    return reason, calls
