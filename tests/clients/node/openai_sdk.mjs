// OpenAI's SDK for Node. usage: openai_sdk.mjs TASK ADDRESS MODEL; the last line printed is what the model said.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const [task, address, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: 'none' });
const question = 'Look at the sky, wait, and tell me what you saw.';
const messages = [{ role: 'system', content: 'You are brief.' }, { role: 'user', content: question }];
const Person = z.object({ name: z.string(), born: z.int() });
const at = { type: 'object', properties: { at: { type: 'string' } }, required: ['at'] };
const nothing = { type: 'object', properties: {} };
const results = { look: () => 'The sky is blue.', wait: () => 'A moment has passed.' };
const functions = [
  { name: 'look', description: 'What is to be seen there', parameters: at },
  { name: 'wait', description: 'Let a moment pass', parameters: nothing },
];

const tasks = {
  async chat() {
    const answer = await client.chat.completions.create({ model, messages });
    assert.equal(answer.choices[0].finish_reason, 'stop');
    return answer.choices[0].message.content;
  },

  async stream() {
    const events = client.chat.completions.stream({ model, messages, stream_options: { include_usage: true } });
    const pieces = [];
    events.on('content', (piece) => pieces.push(piece));
    const final = await events.finalChatCompletion();
    assert(pieces.length > 1);
    assert.equal(final.usage.completion_tokens, pieces.length);
    return pieces.join('');
  },

  async tools() {
    const called = [];
    const tools = functions.map((described) => ({
      type: 'function',
      function: {
        ...described,
        parse: JSON.parse,
        function: (given) => (called.push([described.name, given]), results[described.name]()),
      },
    }));
    const runner = client.chat.completions.runTools({ model, messages, tools });
    const text = await runner.finalContent();
    assert.deepEqual(called, [['look', { at: 'sky' }], ['wait', {}]]);
    return text;
  },

  async parse() {
    const response_format = zodResponseFormat(Person, 'person');
    const answer = await client.chat.completions.parse({ model, messages, response_format });
    assert.deepEqual(answer.choices[0].message.parsed, { name: 'Ada', born: 1815 });
    return answer.choices[0].message.content;
  },

  async embeddings() {
    const packed = await client.embeddings.create({ model, input: ['one', 'two three'] });
    const plain = await client.embeddings.create({ model, input: ['one', 'two three'], encoding_format: 'float' });
    packed.data[1].embedding.forEach((value, i) => assert(Math.abs(value - plain.data[1].embedding[i]) < 1e-6));
    return `${packed.data.length} vectors`;
  },

  async responses_stream() {
    const events = client.responses.stream({ model, input: question });
    const pieces = [];
    events.on('response.output_text.delta', (event) => pieces.push(event.delta));
    const final = await events.finalResponse();
    assert.equal(pieces.join(''), final.output_text);
    return final.output_text;
  },

  async responses_tools() {
    const tools = functions.map((described) => ({ type: 'function', ...described, strict: false }));
    const first = await client.responses.create({ model, input: question, tools });
    const calls = first.output.filter((item) => item.type === 'function_call');
    assert.deepEqual(calls.map((call) => [call.name, JSON.parse(call.arguments)]), [['look', { at: 'sky' }], ['wait', {}]]);
    const outputs = calls.map((call) => ({
      type: 'function_call_output',
      call_id: call.call_id,
      output: results[call.name](),
    }));
    const second = await client.responses.create({ model, previous_response_id: first.id, input: outputs, tools });
    return second.output_text;
  },

  // Two turns of a conversation with whatever the model says.
  async chat_twice() {
    const tools = functions.map((described) => ({ type: 'function', function: described }));
    const asked = { model, tools, max_tokens: 12, temperature: 0, seed: 1 };
    const first = await client.chat.completions.create({ ...asked, messages });
    const turns = [...messages, first.choices[0].message, { role: 'user', content: 'And now?' }];
    return (await client.chat.completions.create({ ...asked, messages: turns })).choices[0].message.content;
  },

  async responses_parse() {
    const answer = await client.responses.parse({ model, input: question, text: { format: zodTextFormat(Person, 'person') } });
    assert.deepEqual(answer.output_parsed, { name: 'Ada', born: 1815 });
    return answer.output_text;
  },
};

console.log(await tasks[task]());
