/** All scenarios in the order they run. */
import { batch } from './batch.mjs';
import { busy } from './busy.mjs';
import { context } from './context.mjs';
import { events } from './events.mjs';
import { gptq } from './gptq.mjs';
import { kernels } from './kernels.mjs';
import { layers } from './layers.mjs';
import { load } from './load.mjs';
import { lookup } from './lookup.mjs';
import { node } from './node.mjs';
import { perplexity } from './perplexity.mjs';
import { speed } from './speed.mjs';
import { torch } from './torch.mjs';

export const scenarios = [speed, node, busy, batch, lookup, context, load, events, layers, torch, kernels, perplexity, gptq];
