// Makes, copies, pushes, pulls and deletes models with Ollama's client for Node, and prints what it got as one JSON
// object. Arguments: host, model to begin with, name at a registry, name at a registry that is slow.
import { Ollama } from "ollama";

import { collect, failure } from "./results.mjs";

const [host, base, remote, slow] = process.argv.slice(2);
const client = new Ollama({ host });

const names = async () => (await client.list()).models.map((model) => model.model);

const results = {
  create: await client.create({ model: "made", from: base, system: "Be brief.", parameters: { num_predict: 3 } }),
  createStream: await collect(await client.create({ model: "made", from: base, system: "Be.", stream: true })),
  show: await client.show({ model: "made" }),
  copy: await client.copy({ source: "made", destination: remote }),
  push: await client.push({ model: remote, insecure: true }),
  pushStream: await collect(await client.push({ model: remote, insecure: true, stream: true })),
  before: await names(),
  delete: await client.delete({ model: remote }),
  after: await names(),
  pull: await client.pull({ model: remote, insecure: true }),
  pullStream: await collect(await client.pull({ model: remote, insecure: true, stream: true })),
  generate: await client.generate({ model: remote, prompt: "Hi", options: { num_predict: 2 } }),
  notFound: await failure(client.delete({ model: "no-such-model" })),
  noSuchPull: await failure(client.pull({ model: remote.replace("library", "none"), insecure: true })),
};
const endless = await client.pull({ model: slow, insecure: true, stream: true });
results.aborted = await failure(
  (async () => {
    let seen = 0;
    for await (const _ of endless) {
      seen += 1;
      if (seen === 2) client.abort();
    }
  })(),
);
console.log(JSON.stringify(results));
