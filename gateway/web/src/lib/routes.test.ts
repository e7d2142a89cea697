import { describe, expect, it } from 'vitest';
import { isServerPath, matchRoute } from './routes';

describe('matchRoute', () => {
  it.each([
    ['/', { page: 'library' }],
    ['/upload', { page: 'upload' }],
    ['/upload/', { page: 'upload' }],
    ['/cluster', { page: 'cluster' }],
    ['/watch/aZ0_-', { page: 'watch', id: 'aZ0_-' }],
    ['/embed/x/', { page: 'embed', id: 'x' }],
    ['/watch/', { page: 'not-found' }],
    ['/watch/a/b', { page: 'not-found' }],
    ['/watch/%2e%2e', { page: 'not-found' }],
    ['/nothing', { page: 'not-found' }],
  ])('%s', (path, route) => expect(matchRoute(path)).toEqual(route));
});

describe('isServerPath', () => {
  it('leaves documents of the server to the browser', () => {
    expect(isServerPath('/api/docs')).toBe(true);
    expect(isServerPath('/v/abc/source')).toBe(true);
    expect(isServerPath('/video')).toBe(false);
    expect(isServerPath('/')).toBe(false);
  });
});
