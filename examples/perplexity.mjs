/** Perplexity of one or more models on a text, as llama.cpp measures it. node examples/perplexity.mjs <text file> <model> [<model> ...] */
import { readFile } from 'node:fs/promises';
import process from 'node:process';
import { evaluate, loadModel } from 'lowbit';

const [file, ...paths] = process.argv.slice(2);
const text = await readFile(file, 'utf8');
for (const path of paths) {
  const model = await loadModel(path, { precision: 'exact' });
  try {
    const { perplexity, standardError, chunks, contextSize } = await evaluate.perplexity(model, { text, contextSize: 512, chunks: 8 });
    console.log(
      `${path}: ${perplexity.toFixed(4)} +/- ${standardError.toFixed(4)} (${chunks} chunks of ${contextSize}, ${model.info.bitsPerWeight.toFixed(2)} bits per weight)`,
    );
  } finally {
    await model.dispose();
  }
}
