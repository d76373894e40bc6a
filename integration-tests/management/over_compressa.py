"""LangChain's integration of the vendor, unmodified and with its own models' names: makes its calls and prints what it
got as one JSON object. Run with the Python of .venv/clients; the argument is the address that ends with `/v1`."""

import json
import sys
from importlib.metadata import version

from langchain_compressa import ChatCompressa, CompressaEmbeddings, CompressaRerank
from langchain_core.documents import Document

QUESTION = "Which port do you listen on?"
TEXTS = ["a small house", "the red car", "Ein Haus am See, 2024!"]


def main(url: str) -> dict:
    server = {"base_url": url, "api_key": "-"}
    chat = ChatCompressa(temperature=0, **server)
    answer = chat.invoke(QUESTION)
    chunks = [chunk.content for chunk in chat.stream([("system", "Be brief."), ("human", QUESTION)])]
    embeddings = CompressaEmbeddings(**server)
    rerank = CompressaRerank(**server)
    documents = [Document(text, metadata={"at": at}) for at, text in enumerate(TEXTS)]
    ranked = rerank.compress_documents(documents, "a house")
    try:
        ChatCompressa(model="none", **server).invoke(QUESTION)
        refused = None
    except Exception as error:
        refused = {"kinds": [kind.__name__ for kind in type(error).__mro__], "text": str(error)}
    return {
        "version": version("langchain-compressa"),
        "chat": answer.content,
        "usage": answer.usage_metadata,
        "system": chat.invoke([("system", "Be brief."), ("human", QUESTION)]).content,
        "chunks": chunks,
        "documents": embeddings.embed_documents(TEXTS),
        "query": embeddings.embed_query(TEXTS[0]),
        "ranked": [[document.metadata["at"], document.metadata["relevance_score"]] for document in ranked],
        "first": rerank._rerank(documents, "a house", top_n=1),
        "refused": refused,
    }


print(json.dumps(main(sys.argv[1])))
