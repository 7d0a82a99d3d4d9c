/**
 * A jest reporter: names every skipped test, so that a skip is seen, and prints the counts in one line.
 *
 * With LOWBIT_COUNTS set to a file, one JSON line per test ({name, status}) is appended to it; .ci/run adds runs up from there.
 */
'use strict';
const fs = require('node:fs');
const path = require('node:path');

module.exports = class Counts {
  constructor(globalConfig) {
    this.root = globalConfig.rootDir;
  }

  onRunComplete(_contexts, results) {
    const tests = [];
    for (const suite of results.testResults) {
      const file = path.relative(this.root, suite.testFilePath).split(path.sep).join('/');
      if (suite.testExecError) tests.push({ name: `${file}: does not run`, status: 'failed' });
      for (const test of suite.testResults) {
        const status = test.status === 'passed' || test.status === 'failed' ? test.status : 'skipped';
        tests.push({ name: `${file}: ${test.fullName}`, status });
      }
    }
    const count = (status) => tests.filter((test) => test.status === status).length;
    const skipped = tests.filter((test) => test.status === 'skipped');
    if (skipped.length > 0) console.log(`\nSkipped:\n${skipped.map((test) => `  ${test.name}`).join('\n')}`);
    console.log(`jest: ${count('passed')} passed, ${count('failed')} failed, ${skipped.length} skipped`);
    if (process.env.LOWBIT_COUNTS) fs.appendFileSync(process.env.LOWBIT_COUNTS, tests.map((test) => `${JSON.stringify(test)}\n`).join(''));
  }
};
