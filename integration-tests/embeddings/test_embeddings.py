"""Embeddings over every route, against sentence-transformers' vectors of the same tiny models."""

import asyncio
import base64
import json
import math
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ollama
import openai
import pytest
from harness.client import Client
from harness.ollama_api import CLIENTS, conforms
from harness.server import ROOT
from langchain_ollama import OllamaEmbeddings
from tokenizers import Tokenizer

import encoders

BOUND = 1e-5


def unit(vector):
    norm = math.sqrt(sum(x * x for x in vector))
    return [x / norm for x in vector]


def assert_close(ours, theirs):
    assert len(ours) == len(theirs)
    assert max(abs(a - b) for a, b in zip(ours, theirs)) < BOUND


def assert_all_close(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert_close(a, b)


def openai_vectors(client, **body):
    answer = client.post_ok("/v1/embeddings", {"truncate": True, **body})
    assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
    return [entry["embedding"] for entry in answer["data"]]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last"])
def test_vectors_are_those_of_sentence_transformers(serve_encoder, goldens, pooling):
    client = Client(serve_encoder("bert", pooling).port)
    assert_all_close(openai_vectors(client, input=goldens["sentences"]), goldens[pooling])


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("xlm-roberta", "mean"), ("qwen2-embedder", "last"), ("roberta-bytes", "cls"), ("distilbert", "mean")],
)
def test_other_tokenizers_and_a_decoder(serve_encoder, goldens, name, pooling):
    """SentencePiece, RoBERTa's bytes, a model without types, and a decoder whose vector is that of the last token."""
    client, known = Client(serve_encoder(name, pooling).port), goldens[name]
    assert_all_close(openai_vectors(client, input=known["ids"]), known["plain"])
    assert_all_close(openai_vectors(client, input=goldens["others"]), known["plain"])
    assert_all_close(openai_vectors(client, input=goldens["others"], prompt_name="query"), known["prompted"])
    usage = client.post_ok("/v1/embeddings", {"input": goldens["others"], "truncate": True})["usage"]
    assert usage["prompt_tokens"] == sum(map(len, known["ids"]))


def test_sentencepiece_reaches_the_encoder(serve_encoder):
    """Its ids are SentencePiece's own (`make_tokenizers.py`), and what the encoder makes of ids has goldens of its own."""
    client, tokenizer = Client(serve_encoder("xlm-roberta").port), Tokenizer.from_file(str(encoders.UNIGRAM))
    tokenizer.enable_truncation(40)
    texts = ["The cat sat on the mat.", "", "ﬁne  Ｔext\u3000here…", " leading  and trailing ", "Ünïcode: 你好 and 🐈!", "mats " * 40]
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert ids[1] == [0, 2] and 3 in ids[4] and len(ids[5]) == 40
    vectors = openai_vectors(client, input=texts)
    assert_all_close(vectors, openai_vectors(client, input=ids))
    assert len({tuple(vector) for vector in vectors}) == len(texts)
    usage = client.post_ok("/v1/embeddings", {"input": texts, "truncate": True})["usage"]
    assert usage["prompt_tokens"] == sum(len(own) for own in ids)


def test_a_prompt_goes_before_each_text(embedder, goldens):
    vectors = openai_vectors(embedder, input=goldens["sentences"], prompt_name="query")
    assert_all_close(vectors, goldens["prompted"])
    refused = embedder.post("/v1/embeddings", {"input": "x", "prompt_name": "none"})
    assert refused.status == 400 and "prompt_name" in refused.text and "query" in refused.text


def test_a_models_own_prompt_goes_before_texts_that_ask_for_none(serve_encoder, goldens):
    client = Client(serve_encoder("bert", default_prompt="query").port)
    sentences = goldens["sentences"]
    assert_all_close(openai_vectors(client, input=sentences), goldens["prompted"])
    assert_all_close(client.post_ok("/embed", {"inputs": sentences, "truncate": True}), goldens["prompted"])
    body = {"model": "bert", "input": sentences}
    assert_all_close(client.post_ok("/api/embed", body)["embeddings"], goldens["prompted"])
    # Token ids are taken as they are.
    ids = Tokenizer.from_file(str(encoders.TOKENIZER)).encode(sentences[0]).ids
    assert_all_close(openai_vectors(client, input=ids), goldens["mean"][:1])


def test_openais_object(embedder, goldens):
    sentence = goldens["sentences"][0]
    answer = embedder.post_ok("/v1/embeddings", {"input": sentence, "model": "any"})
    tokens = len(Tokenizer.from_file(str(encoders.TOKENIZER)).encode(sentence).ids)
    assert answer["object"] == "list" and answer["data"][0]["object"] == "embedding"
    assert answer["usage"] == {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    assert_close(answer["data"][0]["embedding"], goldens["mean"][0])


def test_texts_and_token_ids_in_every_form(embedder, goldens):
    tokenizer = Tokenizer.from_file(str(encoders.TOKENIZER))
    first, second = goldens["sentences"][:2]
    ids = [tokenizer.encode(text).ids for text in (first, second)]
    want = goldens["mean"][:2]
    assert_all_close(openai_vectors(embedder, input=[first, second]), want)
    assert_all_close(openai_vectors(embedder, input=ids), want)
    assert_all_close(openai_vectors(embedder, input=ids[0]), want[:1])
    assert_all_close(openai_vectors(embedder, input=first), want[:1])


def test_base64_has_the_same_bits(embedder, goldens):
    numbers = openai_vectors(embedder, input=goldens["sentences"])
    encoded = openai_vectors(embedder, input=goldens["sentences"], encoding_format="base64")
    for vector, text in zip(numbers, encoded):
        assert list(struct.unpack("<36f", base64.b64decode(text))) == [
            struct.unpack("<f", struct.pack("<f", x))[0] for x in vector
        ]


def test_fewer_dimensions_are_cut_and_brought_to_length_one(embedder, goldens):
    cut = openai_vectors(embedder, input=goldens["sentences"], dimensions=7)
    assert_all_close(cut, [unit(vector[:7]) for vector in goldens["mean"]])
    for dimensions in (0, 37):
        refused = embedder.post("/v1/embeddings", {"input": "x", "dimensions": dimensions})
        assert refused.status == 400
        assert "`dimensions` must be >= 1 and <= 36" in refused.text and str(dimensions) in refused.text


def test_what_is_too_long_or_empty_is_refused_unless_it_may_be_cut(embedder, goldens):
    long = goldens["sentences"][4]
    tokens = len(Tokenizer.from_file(str(encoders.TOKENIZER)).encode(long).ids)
    refused = embedder.post("/v1/embeddings", {"input": ["x", long]})
    assert refused.status == 400
    assert f"`input`: text 1 has {tokens} tokens; the limit is 40" in refused.text
    usage = embedder.post_ok("/v1/embeddings", {"input": long, "truncate": True})["usage"]
    assert usage["prompt_tokens"] == 40
    for body in ({"input": []}, {"input": [[]]}, {"input": [[200]]}, {"input": [[-1]]}, {"input": {}}, {}):
        assert embedder.post("/v1/embeddings", body).status == 400, body
    too_many = embedder.post("/v1/embeddings", {"input": ["x"] * 2049})
    assert too_many.status == 400 and "2048" in too_many.text


def test_a_vector_does_not_depend_on_its_company(embedder, goldens):
    sentences = goldens["sentences"]
    alone = [openai_vectors(embedder, input=text)[0] for text in sentences]
    assert openai_vectors(embedder, input=sentences) == alone
    many = openai_vectors(embedder, input=sentences * 40)
    assert many == alone * 40
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda i: openai_vectors(embedder, input=sentences[i % 7])[0], range(160)))
    assert results == [alone[i % 7] for i in range(160)]


def test_openais_client(serve_encoder, goldens):
    client = openai.OpenAI(base_url=serve_encoder("bert").url + "/v1", api_key="-")
    for options in ({}, {"encoding_format": "float"}):
        answer = client.embeddings.create(
            model="bert", input=goldens["sentences"], extra_body={"truncate": True}, **options
        )
        assert_all_close([entry.embedding for entry in answer.data], goldens["mean"])
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 0
    small = client.embeddings.create(model="bert", input="a question", dimensions=4)
    assert_close(small.data[0].embedding, unit(goldens["mean"][1][:4]))


@pytest.mark.parametrize("kind", CLIENTS)
def test_ollamas_clients(serve_encoder, goldens, kind):
    client = CLIENTS[kind](serve_encoder("bert").url)
    answer = client.embed(model="bert", input=goldens["sentences"])
    assert_all_close(answer.embeddings, goldens["mean"])
    one = client.embed(model="bert", input="a question")
    four = client.embed(model="bert", input=["a question"] * 4)
    assert four.prompt_eval_count == 4 * one.prompt_eval_count > 0
    assert one.total_duration > 0 and one.load_duration > 0
    assert_close(client.embed(model="bert", input="a question", dimensions=4).embeddings[0], unit(goldens["mean"][1][:4]))
    legacy = client.embeddings(model="bert", prompt="a question").embedding
    assert_close(unit(legacy), goldens["mean"][1])
    assert abs(sum(x * x for x in legacy) - 1) > 0.1, "not brought to length one, as upstream"
    assert client.embed(model="bert", input=[]).embeddings == []
    with pytest.raises(ollama.ResponseError) as too_long:
        client.embed(model="bert", input=goldens["sentences"][4], truncate=False)
    assert too_long.value.status_code == 400
    assert too_long.value.error == "the input length exceeds the context length"
    shorter = client.embed(model="bert", input=goldens["sentences"][4], options={"num_ctx": 10})
    assert shorter.prompt_eval_count == 10
    assert client.show("bert").capabilities == ["embedding"]


def test_ollamas_legacy_answer_is_the_contracts(embedder, goldens):
    for prompt, size in (("a question", len(goldens["mean"][1])), ("", 0)):
        answer = embedder.post_ok("/api/embeddings", {"model": "bert", "prompt": prompt})
        conforms("EmbeddingResponse", answer)
        assert set(answer) == {"embedding"} and len(answer["embedding"]) == size
        assert all(isinstance(number, float) for number in answer["embedding"])


def test_ollamas_client_for_node(serve_encoder, goldens):
    node, script = Path(sys.executable).with_name("node"), ROOT / "integration-tests/ollama/node/embed.mjs"
    command = [node, script, serve_encoder("bert").url, "bert", json.dumps(goldens["sentences"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert_all_close(got["embed"]["embeddings"], goldens["mean"])
    assert_all_close(got["one"]["embeddings"], [unit(goldens["mean"][0][:4])])
    assert_close(unit(got["embeddings"]["embedding"]), goldens["mean"][0])
    assert got["refused"]["status"] == 400 and "does not support generate" in got["refused"]["message"]


def test_langchains_integration_of_ollama(serve_encoder, goldens):
    embeddings = OllamaEmbeddings(model="bert", base_url=serve_encoder("bert").url, validate_model_on_init=True)
    assert_all_close(embeddings.embed_documents(goldens["sentences"]), goldens["mean"])
    assert_close(embeddings.embed_query("a question"), goldens["mean"][1])
    vectors = asyncio.run(embeddings.aembed_documents(goldens["sentences"]))
    assert_all_close(vectors, goldens["mean"])


def test_teis_embed(embedder, goldens):
    sentences = goldens["sentences"]
    assert_all_close(embedder.post_ok("/embed", {"inputs": sentences, "truncate": True}), goldens["mean"])
    raw = embedder.post_ok("/embed", {"inputs": sentences[0], "normalize": False})[0]
    assert abs(sum(x * x for x in raw) - 1) > 0.1
    assert_close(unit(raw), goldens["mean"][0])
    refused = embedder.post("/embed", {"inputs": sentences[4]})
    assert refused.status == 413 and refused.json()["error_type"] == "Validation"
    assert embedder.post("/embed", {"inputs": []}).status == 422


@pytest.mark.parametrize("name", ["bert-ranker", "xlm-roberta-ranker", "roberta-bytes-ranker"])
def test_scores_are_those_of_the_cross_encoder(serve_encoder, goldens, name):
    """Pairs with one end between the texts and a type for each, or with two ends and no types."""
    ranker = Client(serve_encoder(name, None).port)
    documents, scores = goldens["sentences"], goldens[name]["scores"]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    body = {"model": "any", "query": goldens["query"], "documents": documents}
    for path in ("/rerank", "/v1/rerank"):
        answer = ranker.post_ok(path, body)
        assert [result["index"] for result in answer["results"]] == order
        assert_close([result["relevance_score"] for result in answer["results"]], [scores[i] for i in order])
        assert "document" not in answer["results"][0]
    best = ranker.post_ok("/rerank", {**body, "top_n": 2, "return_documents": True})["results"]
    assert [result["document"]["text"] for result in best] == [documents[i] for i in order[:2]]
    objects = ranker.post_ok("/rerank", {**body, "documents": [{"text": text} for text in documents]})
    assert [result["index"] for result in objects["results"]] == order
    tei = ranker.post_ok("/rerank", {"query": goldens["query"], "texts": documents, "truncate": True, "return_text": True})
    assert [(rank["index"], rank["text"]) for rank in tei] == [(i, documents[i]) for i in order]
    raw = ranker.post_ok(
        "/rerank", {"query": goldens["query"], "texts": documents, "truncate": True, "raw_scores": True}
    )
    assert_close([rank["score"] for rank in raw], [goldens[name]["raw"][i] for i in order])


def test_what_is_no_ranking_is_refused(ranker, goldens):
    query = goldens["query"]
    for body, what in [
        ({"query": query}, "documents"),
        ({"query": query, "documents": []}, "documents"),
        ({"query": query, "documents": [3]}, "documents"),
        ({"query": query, "documents": ["x"], "texts": ["x"]}, "documents"),
        ({"query": query, "documents": ["x"], "top_n": 0}, "top_n"),
        ({"documents": ["x"]}, "query"),
    ]:
        refused = ranker.post("/rerank", body)
        assert refused.status == 422 and what in refused.json()["error"], (body, refused.text)


def test_models_refuse_what_they_are_not_made_for(embedder, ranker, client):
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    texts = [
        ("/generate", {"inputs": "x"}, 422),
        ("/v1/chat/completions", chat, 400),
        ("/v1/completions", {"prompt": "x"}, 400),
        ("/api/generate", {"model": "bert", "prompt": "x"}, 400),
        ("/api/chat", {"model": "bert", **chat}, 400),
    ]
    rank = ("/rerank", {"query": "x", "documents": ["y"]}, 422)
    embed = [("/v1/embeddings", {"input": "x"}, 400), ("/embed", {"inputs": "x"}, 422)]
    for server, requests in [(embedder, [*texts, rank]), (ranker, [*texts[:3], *embed]), (client, [*embed, rank])]:
        for path, body, status in requests:
            refused = server.post(path, body)
            assert refused.status == status and "does not support" in refused.text, (path, refused.text)


def test_health_info_and_metrics(embedder):
    embedder.post_ok("/v1/embeddings", {"input": "a question"})
    assert embedder.get("/health").status == 200
    info = embedder.get("/info").json()
    assert info["max_input_tokens"] == 40
    text = embedder.get("/metrics").text
    value = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    assert value["tgi_request_success"] >= 1
    assert value["tgi_request_count"] >= value["tgi_request_success"]
    assert value['tgi_batch_inference_count{method="prefill"}'] >= 1
    assert value["tgi_queue_size"] == 0
