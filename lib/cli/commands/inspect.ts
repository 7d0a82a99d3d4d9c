/** lowbit inspect: what a checkpoint holds, without loading weights. */
import Table from 'cli-table3';
import type { Command } from 'commander';
import { type InspectResult, inspect } from '../../index';
import { formatBytes } from '../../units';
import type { Io } from '../io';
import { toSnakeCase } from '../parse';
import { addHubOptions, examples, hubOptions, type HubFlags } from '../runtime';

export function inspectCommand(command: Command, io: () => Io): void {
  addHubOptions(
    command
      .description('Show architecture, sizes, quantisation and tensor types of a model without loading it')
      .argument('<model>', 'model directory, .gguf file or hf:owner/name'),
  )
    .addHelpText('after', examples('lowbit inspect ./model', 'lowbit inspect model.gguf --json'))
    .action(async (model: string, flags: HubFlags) => {
      const outside = io();
      const hub = hubOptions(outside, flags);
      const result = await inspect(model, { hub: hub.options, signal: outside.signal }).finally(hub.end);
      hub.note(result.hub);
      outside.out(`${tables(result)}\n`);
      outside.result(toSnakeCase(result) as Record<string, unknown>);
    });
}

function tables(model: InspectResult): string {
  const plain = { style: { head: [], border: [] } };
  const facts = new Table(plain);
  const yes = (value: boolean): string => (value ? 'yes' : 'no');
  facts.push(
    ['model', model.path],
    ['format', `${model.kind === 'gguf' ? 'GGUF' : 'Hugging Face'}, ${model.files.length} file${model.files.length === 1 ? '' : 's'}`],
    ['architecture', model.architecture],
    ['parameters', model.parameters.toLocaleString('en')],
    ['layers', model.layers],
    ['hidden size', model.hiddenSize],
    ['heads (key/value)', `${model.nHeads} (${model.nKvHeads}) of ${model.headDim}`],
    ['vocabulary', `${model.vocabSize}${model.tiedHead ? ', head tied to the embedding' : ''}`],
    ['context length', model.contextLength],
    ['linears stored as', model.quantization],
    ['size', formatBytes(model.storedBytes)],
    ['bits per weight', model.bitsPerWeight.toFixed(3)],
    ['tokenizer, chat template', `${yes(model.hasTokenizer)}, ${yes(model.hasChatTemplate)}`],
  );
  const types = new Table({
    ...plain,
    head: ['tensor type', 'tensors', 'elements', 'bytes'],
    colAligns: ['left', 'right', 'right', 'right'],
  });
  for (const { dtype, tensors, elements, bytes } of model.tensorTypes) {
    types.push([dtype, tensors, elements.toLocaleString('en'), bytes.toLocaleString('en')]);
  }
  return `${facts.toString()}\n${types.toString()}`;
}
