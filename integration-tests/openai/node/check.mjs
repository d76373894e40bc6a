// OpenAI's client for Node, unmodified: makes the calls and prints what it got as one JSON object.
// Arguments: base URL, API key.
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 30000 });
const messages = [{ role: "user", content: "Which port do you listen on?" }];
const chat = { model: "tgi", messages, temperature: 0, max_tokens: 24 };
const text = { model: "tgi", prompt: ["Once upon a time", "Hello"], temperature: 0, max_tokens: 8 };

const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const tool = { ...chat, max_tokens: 100, tools, tool_choice: "required" };

async function refusal(call) {
  try {
    await call();
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
  return null;
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const helper = client.chat.completions.stream({ ...chat, n: 2 });
const results = {
  chat: await client.chat.completions.create(chat),
  chatStream: await collect(
    await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } }),
  ),
  helper: await helper.finalChatCompletion(),
  choices: await client.chat.completions.create({ ...chat, n: 3, temperature: 1.5, seed: 5 }),
  logprobs: await client.chat.completions.create({ ...chat, logprobs: true, top_logprobs: 2 }),
  tool: await client.chat.completions.create(tool),
  toolStream: await client.chat.completions.stream(tool).finalChatCompletion(),
  completion: await client.completions.create(text),
  completionStream: await collect(await client.completions.create({ ...text, stream: true })),
  models: await collect(client.models.list()),
  badRequest: await refusal(() => client.chat.completions.create({ ...chat, top_p: 1.5 })),
  badStream: await refusal(() => client.chat.completions.create({ ...chat, top_p: 1.5, stream: true })),
  notFound: await refusal(() => client.models.retrieve("none")),
};
console.log(JSON.stringify(results));
