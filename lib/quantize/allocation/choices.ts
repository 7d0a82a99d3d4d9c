/**
 * lib/quantize/allocation: a run with what was chosen for its weights: targets, and what configuration files say of them.
 */
import { LowbitError } from '../../errors';
import type { Plan } from '../../graph/plan';
import { DynamicTable, type DynamicOverrides } from '../dynamic';
import type { Target, TargetSettings } from '../layout';
import type { ResolvedOptions } from '../options';
import type { SolveSettings } from '../settings';
import type { Allocated } from './index';

/** The targets with their choices; weights that stay as they are are no targets. @throws {LowbitError} INTERNAL for an allocation of other weights */
export function chosenTargets(targets: ReadonlyMap<number, Target>, { choices }: Allocated, plan: Plan): ReadonlyMap<number, Target> {
  const byWeight = new Map(choices.map((choice) => [choice.weight, choice]));
  return new Map(
    [...targets].flatMap(([weight, target]): [number, Target][] => {
      const choice = byWeight.get(weight);
      if (choice === undefined) throw new LowbitError('INTERNAL', `Nothing was chosen for ${plan.weights[weight]?.name ?? weight}`);
      return choice.settings === null ? [] : [[weight, { ...target, settings: choice.settings, reason: choice.reason }]];
    }),
  );
}

/** Options as if the choices had been given: what most linears have, and a rule for each of the others. For files that other tools read. */
export function chosenOptions(options: ResolvedOptions, targets: ReadonlyMap<number, Target>): ResolvedOptions {
  const linears = [...targets.values()].filter(({ outer }) => outer !== true);
  const shape = ({ settings: { bits, groupSize } }: Target): string => `${bits} ${groupSize}`;
  const most = mostFrequent(linears, shape)?.settings;
  if (most === undefined) return options;
  const type = mostFrequent(linears, ({ settings }) => settings.ggufType ?? '')?.settings.ggufType;
  const usual = `${most.bits} ${most.groupSize}`;
  const rules = Object.fromEntries(
    linears
      .filter((target) => shape(target) !== usual)
      .map(({ name, settings }) => [`${name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`, overrides(settings)]),
  );
  const problems: LowbitError[] = [];
  const dynamic = options.format === 'gguf' ? options.dynamic : options.dynamic.with(DynamicTable.parse(rules, problems));
  if (problems[0]) throw problems[0];
  const settings = { ...options.settings, bits: most.bits, groupSize: most.groupSize } as SolveSettings;
  return { ...options, settings, dynamic, ggufType: type ?? options.ggufType };
}

function overrides({ bits, groupSize }: TargetSettings): DynamicOverrides {
  return { bits, groupSize } as DynamicOverrides;
}

function mostFrequent(targets: readonly Target[], keyOf: (target: Target) => string): Target | undefined {
  const counts = new Map<string, number>();
  for (const target of targets) counts.set(keyOf(target), (counts.get(keyOf(target)) ?? 0) + 1);
  const [most] = [...counts].sort(([, a], [, b]) => b - a);
  return targets.find((target) => keyOf(target) === most?.[0]);
}
