// The loop that OpenAI's client for Node runs by itself. Arguments: base URL, question, the tool's definition as JSON.
import OpenAI from "openai";

const [baseURL, question, definition] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 30000 });

async function loop(stream) {
  const calls = [];
  const weather = ({ city }) => {
    calls.push(["weather", { city }]);
    return city === "Oslo" ? "sunny" : "unknown";
  };
  const tool = { ...JSON.parse(definition), function: weather, parse: JSON.parse };
  const runner = client.chat.completions.runTools({
    model: "tgi",
    messages: [{ role: "user", content: question }],
    tools: [{ type: "function", function: tool }],
    temperature: 0,
    stream,
  });
  return { answer: await runner.finalContent(), calls };
}

console.log(JSON.stringify({ whole: await loop(false), streamed: await loop(true) }));
