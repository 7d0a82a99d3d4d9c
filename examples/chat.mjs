/** A conversation of two turns; the second one reuses what the context holds. Needs a chat model. node examples/chat.mjs <model> */
import process from 'node:process';
import { ChatSession, LowbitError, loadModel } from 'lowbit';

const model = await loadModel(process.argv[2]);
try {
  const context = await model.createContext({ contextSize: Math.min(2048, model.contextLength) });
  const chat = new ChatSession(context, { systemPrompt: 'You answer in one sentence.' });
  for (const question of ['Why is the sky blue?', 'And at sunset?']) {
    console.log(`> ${question}`);
    await chat.prompt(question, { maxTokens: 100, onText: (piece) => process.stdout.write(piece) });
    const { promptTokens, reusedTokens } = chat.lastResult.timing;
    console.log(`\n(${promptTokens} tokens of conversation, ${reusedTokens} of them reused)\n`);
  }
} catch (error) {
  if (!(error instanceof LowbitError)) throw error;
  console.error(error.message); // a model without chat template ends here
  process.exitCode = 1;
} finally {
  await model.dispose();
}
