import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

/** The node that `npm run dev` talks to: a local cluster's first node. */
const DEVELOPMENT_NODE = 'http://localhost:8080';

export default defineConfig({
  base: '/',
  plugins: [svelte()],
  build: {
    // The gateway embeds `dist/` and serves `/assets/*` as immutable, so every file there must carry a hash in its name.
    assetsDir: 'assets',
    target: ['chrome120', 'edge120', 'firefox121', 'safari17.2'],
    // Nothing inline: a strict content security policy (`script-src 'self'`, no data: fonts) must be possible.
    assetsInlineLimit: 0,
    // The player is one lazy chunk of known size (hls.js is most of it); warn when something else grows like that.
    chunkSizeWarningLimit: 900,
  },
  server: {
    proxy: Object.fromEntries(
      ['/api', '/v/', '/healthz', '/readyz'].map((path) => [
        path,
        { target: DEVELOPMENT_NODE, changeOrigin: true },
      ]),
    ),
  },
  test: {
    include: ['src/**/*.test.ts'],
    environment: 'node',
  },
});
