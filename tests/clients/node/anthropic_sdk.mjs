// Anthropic's SDK for Node. usage: anthropic_sdk.mjs TASK ADDRESS MODEL; the last line printed is what the model said.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';
import { betaZodTool } from '@anthropic-ai/sdk/helpers/beta/zod';
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';
import { z } from 'zod';

const [task, baseURL, model] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey: 'none' });
const messages = [{ role: 'user', content: 'Look at the sky, wait, and tell me what you saw.' }];
const asked = { model, max_tokens: 200, system: 'You are brief.' };
const results = { look: 'The sky is blue.', wait: 'A moment has passed.' };
const tools = [
  {
    name: 'look',
    description: 'What is to be seen there',
    input_schema: { type: 'object', properties: { at: { type: 'string' } }, required: ['at'] },
  },
  { name: 'wait', description: 'Let a moment pass', input_schema: { type: 'object', properties: {} } },
];

const tasks = {
  async messages() {
    const answer = await client.messages.create({ ...asked, messages });
    assert.equal(answer.stop_reason, 'end_turn');
    return answer.content[0].text;
  },

  async stream() {
    const events = client.messages.stream({ ...asked, messages });
    const pieces = [];
    events.on('text', (piece) => pieces.push(piece));
    const final = await events.finalMessage();
    assert(pieces.length > 1);
    assert.equal(pieces.join(''), final.content[0].text);
    return final.content[0].text;
  },

  async tools_streamed() {
    const first = await client.messages.stream({ ...asked, messages, tools }).finalMessage();
    assert.deepEqual(first.content.map((block) => block.type), ['thinking', 'tool_use', 'tool_use']);
    const calls = first.content.filter((block) => block.type === 'tool_use');
    assert.deepEqual(calls.map((call) => [call.name, call.input]), [['look', { at: 'sky' }], ['wait', {}]]);
    const content = calls.map((call) => ({ type: 'tool_result', tool_use_id: call.id, content: results[call.name] }));
    const turns = [...messages, { role: 'assistant', content: first.content }, { role: 'user', content }];
    const second = await client.messages.create({ ...asked, messages: turns, tools });
    return second.content.at(-1).text;
  },

  async tool_runner() {
    const look = betaZodTool({
      name: 'look',
      description: 'What is to be seen there',
      inputSchema: z.object({ at: z.string() }),
      run: ({ at }) => (at === 'sky' ? results.look : 'Nothing.'),
    });
    const wait = betaZodTool({
      name: 'wait',
      description: 'Let a moment pass',
      inputSchema: z.object({}),
      run: () => results.wait,
    });
    const final = await client.beta.messages.toolRunner({ ...asked, messages, tools: [look, wait] }).runUntilDone();
    return final.content.at(-1).text;
  },

  async parse() {
    const output_config = { format: zodOutputFormat(z.object({ name: z.string(), born: z.int() })) };
    const answer = await client.messages.parse({ ...asked, messages, output_config });
    assert.deepEqual(answer.parsed_output, { name: 'Ada', born: 1815 });
    return answer.content[0].text;
  },

  // Two turns of a conversation with whatever the model says.
  async messages_twice() {
    const short = { ...asked, max_tokens: 12, tools };
    const first = await client.messages.create({ ...short, messages });
    const turns = [...messages, { role: 'assistant', content: first.content }, { role: 'user', content: 'And now?' }];
    return (await client.messages.create({ ...short, messages: turns })).content[0].text;
  },

  async count_tokens() {
    const counted = await client.messages.countTokens({ model, system: asked.system, messages, tools });
    const { usage } = await client.messages.create({ ...asked, messages, tools });
    assert.equal(counted.input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
    return 'counted';
  },
};

console.log(await tasks[task]());
