/** lowbit pull: brings a model from a hub into the cache and prints where it is. */
import type { Command } from 'commander';
import { pull } from '../../index';
import type { Io } from '../io';
import { toSnakeCase } from '../parse';
import { addHubOptions, examples, hubOptions, type HubFlags } from '../runtime';

export function pullCommand(command: Command, io: () => Io): void {
  addHubOptions(
    command
      .description("Fetch a model from a Hugging Face hub into the cache that Hugging Face's Python tools share, and print its path")
      .argument('<model>', 'hf:owner/name, hf:owner/name@revision or hf:owner/name/file.gguf'),
  )
    .addHelpText(
      'after',
      examples(
        'lowbit pull hf:HuggingFaceTB/SmolLM2-135M-Instruct',
        'lowbit pull hf:owner/name/model-Q4_K_M.gguf@refs/pr/1 --json',
        'lowbit generate hf:HuggingFaceTB/SmolLM2-135M-Instruct --offline --prompt "Once upon a time"',
      ),
    )
    .action((model: string, flags: HubFlags) => run(io(), model, flags));
}

async function run(io: Io, model: string, flags: HubFlags): Promise<void> {
  const hub = hubOptions(io, flags);
  const result = await pull(model, { ...hub.options, signal: io.signal }).finally(hub.end);
  hub.note(result);
  io.out(`${result.path}\n`);
  io.result(toSnakeCase(result) as Record<string, unknown>);
}
