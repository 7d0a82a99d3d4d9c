/**
 * lib/quantize/outputs: the format of a run's output from its options. A new format is a file of its own here and a case below.
 */
import { checkpointFormat, type Target } from '../layout';
import type { ResolvedOptions } from '../options';
import { ggufFormat } from './gguf';
import { gptqFormat } from './gptq';
import { lowbitFormat } from './lowbit';
import type { OutputFormat } from './output';

export type { Output, OutputFormat, OutputSource, PartTensor } from './output';

/** 'gptq' means version 1 where that holds all zero points, which it does for symmetric grids, and version 2 otherwise. */
export function outputFormat({ format, ggufType }: ResolvedOptions, targets: readonly Target[]): OutputFormat {
  switch (format) {
    case 'gptq':
      return gptqFormat(checkpointFormat(targets));
    case 'gptq_v2':
      return gptqFormat('gptq_v2');
    case 'gguf':
      return ggufFormat(ggufType);
    case 'lowbit':
      return lowbitFormat;
  }
}
