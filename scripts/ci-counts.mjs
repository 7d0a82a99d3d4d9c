/**
 * Adds up what .ci/run's steps tested: `ci-counts.mjs COUNTS.jsonl`, one JSON object {name, status} per line.
 *
 * A test that ran more than once (plain, under a sanitizer, with the real model) counts once: failed if it failed anywhere, else
 * passed if it passed anywhere, else skipped; a reason in the name, "(skipped: ...)", is no part of it. Names what failed and what was skipped; the last line stands alone:
 * "N passed, N failed, N skipped". `ci-counts.mjs --native LOG` prints such lines for the output of lowbit_native_tests.
 */
import { readFileSync } from 'node:fs';
import process from 'node:process';

const rank = { skipped: 0, passed: 1, failed: 2 };

if (process.argv[2] === '--native') {
  const text = readFileSync(process.argv[3], 'utf8');
  for (const [, verdict, name] of text.matchAll(/^(ok {4}|FAILED) (\S+)$/gm)) {
    console.log(JSON.stringify({ name: `native: ${name}`, status: verdict === 'FAILED' ? 'failed' : 'passed' }));
  }
  // Without its closing line the program ended early: whatever it did not reach was not tested.
  if (!/^native: \d+ passed, \d+ failed$/m.test(text))
    console.log(JSON.stringify({ name: 'native: the run ended early', status: 'failed' }));
} else {
  const best = new Map();
  for (const line of readFileSync(process.argv[2], 'utf8').split('\n').filter(Boolean)) {
    const { name, status } = JSON.parse(line);
    const key = name.replace(/ \(skipped: [^)]*\)/g, '');
    const before = best.get(key);
    if (!before || rank[status] > rank[before.status]) best.set(key, { name, status });
  }
  const named = (status) => [...best.values()].filter((test) => test.status === status).map((test) => test.name);
  for (const name of named('skipped')) console.log(`skipped ${name}`);
  for (const name of named('failed')) console.log(`FAILED  ${name}`);
  console.log(`${named('passed').length} passed, ${named('failed').length} failed, ${named('skipped').length} skipped`);
  process.exitCode = named('failed').length === 0 && named('passed').length > 0 ? 0 : 1;
}
