/**
 * The pages of the app. The gateway serves the same document for each of these paths. Pure.
 */
export type Route =
  | { page: 'library' }
  | { page: 'upload' }
  | { page: 'cluster' }
  | { page: 'watch'; id: string }
  | { page: 'embed'; id: string }
  | { page: 'not-found' };

/** Ids are URL-safe; anything else cannot be a video of ours. */
const VIDEO = /^\/(watch|embed)\/([A-Za-z0-9_-]{1,128})$/;

export function matchRoute(pathname: string): Route {
  const path = pathname.length > 1 ? pathname.replace(/\/+$/, '') : pathname;
  if (path === '/' || path === '') return { page: 'library' };
  if (path === '/upload') return { page: 'upload' };
  if (path === '/cluster') return { page: 'cluster' };
  const [, page, id] = VIDEO.exec(path) ?? [];
  if (id !== undefined) return page === 'watch' ? { page: 'watch', id } : { page: 'embed', id };
  return { page: 'not-found' };
}

/** Paths on this origin that are not pages of the app but documents of the server. */
export function isServerPath(pathname: string): boolean {
  return /^\/(api|v|assets|metrics|healthz|readyz)(\/|$)/.test(pathname);
}
