// Makes vectors with Ollama's client for Node and prints them as one JSON object. Arguments: host, model, texts as JSON.
import { Ollama } from "ollama";

import { failure } from "./results.mjs";

const [host, model, texts] = process.argv.slice(2);
const client = new Ollama({ host });
const input = JSON.parse(texts);

const results = {
  embed: await client.embed({ model, input }),
  one: await client.embed({ model, input: input[0], dimensions: 4 }),
  embeddings: await client.embeddings({ model, prompt: input[0] }),
  refused: await failure(client.generate({ model, prompt: "x" })),
};
console.log(JSON.stringify(results));
