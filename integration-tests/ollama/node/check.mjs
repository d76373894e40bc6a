// Makes the calls of Ollama's client for Node and prints what it got as one JSON object. Arguments: host, model.
import { Ollama } from "ollama";

import { collect, failure } from "./results.mjs";

const [host, model] = process.argv.slice(2);
const client = new Ollama({ host });
const options = { temperature: 0, num_predict: 24 };
const messages = [{ role: "user", content: "Which port do you listen on?" }];

const results = {
  version: await client.version(),
  list: await client.list(),
  ps: await client.ps(),
  show: await client.show({ model }),
  generate: await client.generate({ model, prompt: "Once upon a time", options }),
  chat: await client.chat({ model, messages, options }),
  chatStream: await collect(await client.chat({ model, messages, options, stream: true })),
  notFound: await failure(client.chat({ model: "no-such-model", messages })),
};
// A form that does not let the model end.
const format = { type: "array", items: { type: "string" }, minItems: 100000 };
const endless = await client.generate({ model, prompt: "Count:", stream: true, format, options: { num_predict: 100000 } });
let received = 0;
results.aborted = await failure(
  (async () => {
    for await (const _ of endless) {
      received += 1;
      if (received === 3) client.abort();
    }
  })(),
);
results.received = received;
console.log(JSON.stringify(results));
