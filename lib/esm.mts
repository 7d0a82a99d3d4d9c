/**
 * ES module entry: the names of the one CommonJS instance, so that `import` and `require` share classes and engine. Listed by hand
 * because ES modules must know their names before anything runs; test/cli/entry.test.ts compares the list with index.ts.
 */
export {
  ChatSession,
  Context,
  LowbitError,
  Model,
  convert,
  dryRun,
  engineInfo,
  evaluate,
  inspect,
  loadModel,
  pull,
  quantize,
  renderReport,
} from './index.js';
export type * from './index.js';
