/**
 * The router: five pages do not need a library. Links are plain `<a href>`; clicks on them are taken over here, so middle clicks,
 * copying and new tabs keep working. `App` moves the focus to the new page's heading.
 */
import { isServerPath, matchRoute, type Route } from './routes';

let url = $state.raw(new URL(location.href));

export const router = {
  get url(): URL {
    return url;
  },
  get route(): Route {
    return matchRoute(url.pathname);
  },
};

/** Scroll positions by history entry, so that going back returns to the same place. */
const scrolls = new Map<number, number>();
const keyOfEntry = () => (history.state as { key?: number } | null)?.key ?? 0;
let shownKey = keyOfEntry();
let newestKey = shownKey;

export function navigate(href: string, { replace = false } = {}): void {
  const target = new URL(href, location.href);
  const samePage = target.pathname === url.pathname;
  if (replace) {
    history.replaceState({ key: shownKey }, '', target);
  } else {
    scrolls.set(shownKey, scrollY);
    newestKey += 1;
    shownKey = newestKey;
    history.pushState({ key: shownKey }, '', target);
  }
  url = target;
  if (!samePage) scrollTo({ top: 0, behavior: 'instant' });
}

/** Where this history entry was scrolled to when it was left; 0 for a new one. */
export function rememberedScroll(): number {
  return scrolls.get(shownKey) ?? 0;
}

function onClick(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = (event.target as Element | null)?.closest?.('a[href]');
  if (!(link instanceof HTMLAnchorElement) || link.target || link.hasAttribute('download')) return;
  if (link.origin !== location.origin || isServerPath(link.pathname)) return;
  const onlyHash = link.hash && link.pathname === location.pathname && link.search === location.search;
  if (onlyHash) return;
  event.preventDefault();
  if (link.href !== location.href) navigate(link.href);
}

function onPop(): void {
  scrolls.set(shownKey, scrollY);
  shownKey = keyOfEntry();
  url = new URL(location.href);
}

/** Starts the router; returns how to stop it. */
export function startRouter(): () => void {
  history.scrollRestoration = 'manual';
  document.addEventListener('click', onClick);
  addEventListener('popstate', onPop);
  return () => {
    document.removeEventListener('click', onClick);
    removeEventListener('popstate', onPop);
  };
}
