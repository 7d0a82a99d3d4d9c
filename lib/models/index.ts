/** models: what the rest of lib/ uses. */
export { type HeadBits, type HeadChoice, chooseHead } from './head';
export { type PlanOptions, architectureNames, buildPlan } from './registry';
export { type LinearGroup, type ModelSummary, modelSummary, quantizableWeights } from './summary';
