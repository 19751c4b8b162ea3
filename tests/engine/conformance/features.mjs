// Tries the features of OpenAI's SDK for JavaScript: `node features.mjs BASE_URL KEY`.
// Prints a line of JSON for each: {"feature", "outcome"}, where the outcome of a failure begins with "failed".
import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello" }];
const chat = { model: "smollm2", max_tokens: 6, temperature: 0, messages };
const schema = {
  type: "object",
  properties: { colour: { type: "string", enum: ["red", "blue"] } },
  required: ["colour"],
  additionalProperties: false,
};
const named = {
  tools: [{ type: "function", function: { name: "paint", parameters: schema } }],
  tool_choice: { type: "function", function: { name: "paint" } },
  max_tokens: 40,
};

const response = { model: "smollm2", max_output_tokens: 6, temperature: 0, input: "Say hello" };

const create = (fields = {}) => client.chat.completions.create({ ...chat, ...fields });

async function gathered(fields) {
  const chunks = [];
  for await (const chunk of await create({ ...fields, stream: true })) chunks.push(chunk);
  return chunks;
}

const text = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");

const features = {
  "list of models": async () => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert(ids.includes("smollm2"));
  },
  chat: async () => {
    const answer = await create();
    assert(answer.choices[0].message.content);
    assert.equal(answer.choices[0].finish_reason, "length");
    assert.equal(answer.usage.completion_tokens, 6);
  },
  "chat, streamed": async () => {
    const [whole, chunks] = [await create(), await gathered()];
    assert.equal(text(chunks), whole.choices[0].message.content);
    assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
  },
  "usage in a stream, where asked for": async () => {
    const chunks = await gathered({ stream_options: { include_usage: true } });
    assert.equal(chunks.at(-1).usage.completion_tokens, 6);
  },
  "no usage in a stream, where not": async () => {
    assert((await gathered()).every((chunk) => !chunk.usage));
  },
  "JSON schema": async () => {
    const response_format = { type: "json_schema", json_schema: { name: "thing", strict: true, schema } };
    const answer = await client.chat.completions.parse({ ...chat, max_tokens: 40, response_format });
    assert(["red", "blue"].includes(JSON.parse(answer.choices[0].message.content).colour));
  },
  "a function, named in tool_choice": async () => {
    const call = (await create(named)).choices[0].message.tool_calls[0].function;
    assert.equal(call.name, "paint");
    assert(["red", "blue"].includes(JSON.parse(call.arguments).colour));
  },
  "a function, named, streamed": async () => {
    const stream = client.chat.completions.stream({ ...chat, ...named });
    const call = (await stream.finalMessage()).tool_calls[0].function;
    assert.equal(call.name, "paint");
    assert(["red", "blue"].includes(JSON.parse(call.arguments).colour));
  },
  completions: async () => {
    const answer = await client.completions.create({ model: "smollm2", prompt: "One, two,", max_tokens: 3 });
    assert.equal(answer.usage.completion_tokens, 3);
  },
  responses: async () => {
    const answer = await client.responses.create(response);
    assert.equal(answer.status, "incomplete");
    assert(answer.output_text);
    assert.equal(answer.usage.output_tokens, 6);
  },
  "responses, streamed": async () => {
    let said = "";
    let last;
    for await (last of await client.responses.create({ ...response, stream: true }))
      if (last.type === "response.output_text.delta") said += last.delta;
    assert.equal(last.type, "response.incomplete");
    assert.equal(last.response.output[0].content[0].text, said);
  },
  "responses, a function, named, streamed": async () => {
    const tools = [{ type: "function", name: "paint", strict: true, parameters: schema }];
    const tool_choice = { type: "function", name: "paint" };
    const asked = { ...response, max_output_tokens: 40, tools, tool_choice };
    const [call] = (await client.responses.stream(asked).finalResponse()).output;
    assert(["red", "blue"].includes(JSON.parse(call.arguments).colour));
  },
  "responses with previous_response_id": () =>
    client.responses.create({ ...response, previous_response_id: "resp_1" }),
  "embeddings on a chat model": () => client.embeddings.create({ model: "smollm2", input: "Hello" }),
  "a wrong key": async () => {
    const stranger = new OpenAI({ baseURL, apiKey: "sk-llm-" + "b".repeat(49), maxRetries: 0 });
    await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
    await stranger.models.list();
  },
  "an unknown model": async () => {
    await assert.rejects(create({ model: "nosuch" }), OpenAI.NotFoundError);
    await create({ model: "nosuch" });
  },
  "a value out of range": async () => {
    await assert.rejects(create({ temperature: 3 }), OpenAI.BadRequestError);
    await create({ temperature: 3 });
  },
};

for (const [feature, attempt] of Object.entries(features)) {
  let outcome = "works";
  try {
    await attempt();
  } catch (error) {
    const refused = error instanceof OpenAI.APIError && error.status < 500;
    const code = error.code ? ` \`${error.code}\`` : "";
    outcome = refused ? `${error.status}${code}` : `failed: ${error.stack}`;
  }
  console.log(JSON.stringify({ feature, outcome }));
}
