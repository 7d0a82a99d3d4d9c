/**
 * lib/quantize/allocation: why a weight got its form, in words and figures.
 */
import type { AllocationItem } from './candidates';
import type { Probed } from './probe';
import { formatBytes } from '../../units';

const nats = (value: number): string => (value === 0 ? '0' : value.toExponential(1));

/**
 * What the chosen form is estimated to cost, what the next step up would gain, and what one step down would lose; figures the budget was shared out by.
 *
 * @param wish bits of the closed form
 */
export function reasonOf({ candidates }: AllocationItem, probed: Probed, chosen: number, wish: number | undefined): string {
  const own = candidates[chosen] as AllocationItem['candidates'][number];
  const loss = probed.losses[chosen] as number;
  const others = candidates.map(({ bytes, label }, c) => ({ bytes, label, loss: probed.losses[c] as number }));
  const larger = others.filter((other) => other.bytes > own.bytes && other.loss < loss).sort((a, b) => a.bytes - b.bytes)[0];
  const smaller = others.filter((other) => other.bytes < own.bytes && other.loss > loss).sort((a, b) => b.bytes - a.bytes)[0];
  const parts = [`${own.label}: estimated to cost ${nats(loss)} nats per token`];
  if (wish !== undefined) parts.push(`the closed form asks for ${wish.toFixed(1)} bits`);
  if (larger) parts.push(`${larger.label} would take ${formatBytes(larger.bytes - own.bytes)} more and gain ${nats(loss - larger.loss)}`);
  if (smaller) parts.push(`${smaller.label} would save ${formatBytes(own.bytes - smaller.bytes)} and lose ${nats(smaller.loss - loss)}`);
  return parts.join('; ');
}
