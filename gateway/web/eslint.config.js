import prettier from 'eslint-config-prettier';
import svelte from 'eslint-plugin-svelte';
import globals from 'globals';
import ts from 'typescript-eslint';
import svelteConfig from './svelte.config.js';

/** Only `src/lib/api.ts` speaks to the network, so that every request survives the death of a node. */
const network = ['fetch', 'XMLHttpRequest', 'EventSource'].map((name) => ({
  name,
  message: 'Go through src/lib/api.ts: it retries at another node.',
}));

export default ts.config(
  { ignores: ['dist/', 'node_modules/'] },
  ...ts.configs.strict,
  ...ts.configs.stylistic,
  ...svelte.configs.recommended,
  prettier,
  ...svelte.configs.prettier,
  {
    languageOptions: { globals: { ...globals.browser } },
    rules: {
      eqeqeq: 'error',
      'no-console': 'error',
      'no-restricted-globals': ['error', ...network],
    },
  },
  {
    files: ['**/*.svelte', '**/*.svelte.ts'],
    languageOptions: {
      parserOptions: { parser: ts.parser, extraFileExtensions: ['.svelte'], svelteConfig },
    },
    rules: {
      // Links are ordinary `href`s that the router intercepts; there is no SvelteKit here.
      'svelte/no-navigation-without-resolve': 'off',
      // State is raw here and replaced as a whole; sets and maps beside it are bookkeeping that no component reads.
      'svelte/prefer-svelte-reactivity': 'off',
    },
  },
  { files: ['src/lib/api.ts'], rules: { 'no-restricted-globals': 'off' } },
);
