/** Models: loading, looking without loading, and the engine they run on. */
export { engineInfo } from './engine';
export { inspect, type InspectOptions, type InspectResult, type TensorTypeSummary } from './inspect';
export { loadModel, Model, modelState, type LoadedModelInfo, type LoadModelOptions, type ModelState } from './model';
