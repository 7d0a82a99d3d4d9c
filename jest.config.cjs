/** Tests import the TypeScript sources; the binary is the one lib/native.ts finds (build/Release, else prebuilds/). */
'use strict';

module.exports = {
  testEnvironment: 'node',
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  transform: {
    '^.+\\.m?ts$': [
      '@swc/jest',
      {
        jsc: { target: 'es2022', parser: { syntax: 'typescript', decorators: false } },
        module: { type: 'commonjs' },
        sourceMaps: 'inline',
      },
    ],
  },
  // Copies of package.json below these folders would collide with ours.
  modulePathIgnorePatterns: ['<rootDir>/(build|dist|prebuilds|coverage|\\.models)'],
  // A test that needs longer says so itself; slow shared machines are the reason it is not 5 s.
  testTimeout: 60_000,
  reporters: ['default', '<rootDir>/scripts/jest-counts.cjs'],
};
