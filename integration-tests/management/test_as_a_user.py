"""All of it as a person does it, over HTTP alone and with the worker that trains: a data set, an adapter, its answers
through three dialects' own clients, and the end of it."""

import ollama
import openai
import pytest
from harness import finetuning
from harness.server import wait_for
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError
from managed import Api

NAME = "lands"
#: Learns a few pairs by heart within seconds.
BY_HEART = {
    "max_steps": 60,
    "alpha": 32,
    "target_modules": "all-linear",
    "learning_rate": 5e-3,
    "batch_size": 8,
    "dropout": 0,
    "seed": 1,
}


@pytest.mark.timeout(120)
def test_what_is_uploaded_is_learned_served_and_forgotten(start_server, tmp_path, reference):
    state = tmp_path / "state"
    server = start_server("--state-dir", str(state))
    api = Api(server.port)
    taught = finetuning.pairs(12, seed=5)
    questions = [question for question, _ in taught]
    clients = {
        "OpenAI": OpenAi(server.url),
        "Ollama": Ollama(server.url),
        "TGI": Tgi(server.url, reference),
    }

    content = finetuning.write_dataset(tmp_path / "lands.jsonl", taught, "bot").read_bytes()
    dataset = api.upload(content, "lands.jsonl", "?description=Lands").json()
    assert "weirgate-demo" in {model["model_id"] for model in api.ok("GET", "finetune/models/")}
    body = {"name": NAME, "model_id": "weirgate-demo", "dataset_id": dataset["id"], "hyperparameters": BY_HEART}
    job = api.ok("POST", "finetune/", body)
    steps, losses = watch(api, job)
    assert steps == sorted(steps) and len(set(steps)) > 2, "told while it went on"
    assert losses[-1] < 0.1 < losses[0]
    assert b"<polyline" in api.request("GET", f"finetune/{job['id']}/curve/").body
    offered = {"model_id": NAME, "adapter": True, "base_model_id": "weirgate-demo"}
    assert offered in api.ok("GET", "models/")
    for name, client in clients.items():
        assert client.is_unknown(NAME), f"{name}: not deployed yet"

    deployment = api.ok("POST", "deploy/", {"model_id": "weirgate-demo", "adapter_ids": [NAME]})
    wait_for(lambda: api.ok("GET", f"jobs/{deployment['id']}/")["progress"] == {"deployed": True}, 20, "deployed")
    assert api.ok("GET", "deploy/") == {"model_id": "weirgate-demo", "adapter_ids": [NAME]}
    for name, client in clients.items():
        answers = [client.ask(question, NAME) for question in questions]
        assert finetuning.right(answers, taught) >= 11, f"{name}: {answers}"
        base = [client.ask(question) for question in questions[:4]]
        assert finetuning.right(base, taught[:4]) == 0, f"{name}: {base}"

    assert api.ok("POST", "deploy/interrupt/")["id"] == deployment["id"]
    api.until(deployment, "KILLED", seconds=1)
    for name, client in clients.items():
        assert wait_for(lambda client=client: client.is_unknown(NAME), 1, f"{name}: undeployed")
        assert client.ask(questions[0]) != taught[0][1]

    api.ok("DELETE", f"models/?model_id={NAME}")
    assert NAME not in {model["model_id"] for model in api.ok("GET", "models/")}
    assert api.request("GET", f"finetune/{job['id']}/curve/").status == 404
    assert [list((state / folder).iterdir()) for folder in ("adapters", "trainings")] == [[], []]


def watch(api: Api, job: dict) -> tuple[list[int], list[float]]:
    """Steps and losses as a person sees them who looks now and then."""
    seen = []

    def ended():
        details = api.ok("GET", f"jobs/{job['id']}/")
        assert details["status"] in ("CREATED", "RUNNING", "FINISHED"), details
        progress = details["progress"] or {}
        if "loss" in progress:
            seen.append((progress["step"], progress["loss"]))
        return details["status"] == "FINISHED"

    wait_for(ended, 90, "trained", interval=0.2)
    return [step for step, _ in seen], [loss for _, loss in seen]


class OpenAi:
    def __init__(self, url: str):
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)

    def ask(self, question: str, model: str = "weirgate-demo") -> str:
        messages = [{"role": "user", "content": question}]
        answer = self.client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=40)
        return answer.choices[0].message.content

    def is_unknown(self, model: str) -> bool:
        try:
            self.ask("Hello", model)
        except openai.NotFoundError:
            return True
        return False


class Ollama:
    def __init__(self, url: str):
        self.client = ollama.Client(host=url)

    def ask(self, question: str, model: str = "weirgate-demo") -> str:
        messages = [{"role": "user", "content": question}]
        # Greedy as the others: Ollama's default penalty is 1.1.
        options = {"temperature": 0, "num_predict": 40, "repeat_penalty": 1.0}
        return self.client.chat(model=model, messages=messages, options=options).message.content

    def is_unknown(self, model: str) -> bool:
        try:
            self.ask("Hello", model)
        except ollama.ResponseError as error:
            return error.status_code == 404
        return False


class Tgi:
    """Renders the chat itself, as users of `/generate` do."""

    def __init__(self, url: str, reference):
        self.client, self.reference = InferenceClient(url, timeout=30), reference

    def ask(self, question: str, adapter: str | None = None) -> str:
        prompt = self.reference.chat_prompt([{"role": "user", "content": question}])
        return self.client.text_generation(prompt, max_new_tokens=40, adapter_id=adapter, return_full_text=False)

    def is_unknown(self, adapter: str) -> bool:
        try:
            self.ask("Hello", adapter)
        except ValidationError as error:
            return "is not loaded" in str(error)
        return False
