// Makes the calls of Ollama's client for Node whose answers a script decides, and prints what it got as one JSON object.
// Arguments: host and model of one that calls tools, of one that thinks, and of one that is loaded and unloaded.
import { Ollama } from "ollama";

import { collect, failure } from "./results.mjs";

const [callerHost, caller, thinkerHost, thinker, shelfHost, stored] = process.argv.slice(2);
const client = new Ollama({ host: callerHost });
const options = { temperature: 0 };
const asked = (end) => [{ role: "user", content: `Tell me${end}` }];
const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: ["Lima", "Oslo", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", description: "The weather", parameters } }];
const schema = { type: "object", properties: { large: { type: "boolean" } }, required: ["large"], additionalProperties: false };
const image = Buffer.from("89504e470d0a1a0a", "hex");

const first = await client.generate({ model: caller, prompt: "Tell me!", options });
const thoughts = new Ollama({ host: thinkerHost });
const shelf = new Ollama({ host: shelfHost });
const resident = async () => (await shelf.ps()).models.map((model) => model.model).sort();

const results = {
  json: await client.generate({ model: caller, prompt: "Tell me#", format: "json", options }),
  schema: await client.chat({ model: caller, messages: asked("!"), format: schema, options }),
  call: await client.chat({ model: caller, messages: asked("?"), tools, options }),
  callStream: await collect(await client.chat({ model: caller, messages: asked("?"), tools, options, stream: true })),
  logprobs: await client.chat({ model: caller, messages: asked("!"), logprobs: true, top_logprobs: 2, options }),
  first,
  again: await client.generate({ model: caller, prompt: "Tell me!", context: first.context, options }),
  raw: await client.generate({ model: caller, prompt: "Tell me!", raw: true, options }),
  image: await failure(client.generate({ model: caller, prompt: "What is it?", images: [image] })),
  chatImage: await failure(client.chat({ model: caller, messages: [{ role: "user", content: "?", images: [image] }] })),
  think: await thoughts.chat({ model: thinker, messages: asked("."), think: true, options }),
  thinkNot: await thoughts.chat({ model: thinker, messages: asked("."), think: false, options }),
  thinkStream: await collect(await thoughts.generate({ model: thinker, prompt: "Well", think: true, stream: true, options })),
  cannotThink: await failure(client.chat({ model: caller, messages: asked("!"), think: true })),
  load: await shelf.generate({ model: stored, prompt: "" }),
  loaded: await resident(),
  unload: await shelf.generate({ model: stored, prompt: "", keep_alive: 0 }),
  unloaded: await resident(),
};
console.log(JSON.stringify(results));
