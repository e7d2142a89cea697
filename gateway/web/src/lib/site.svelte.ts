/**
 * What the operator decided about this site. Asked once; asked again when the first answer did not come.
 */
import { getSite } from './api';
import type { Site } from './types';

/** As in index.html. */
const DEFAULT_NAME = 'Reelraft';

let site = $state.raw<Site | null>(null);
let pending: Promise<void> | null = null;

export const siteView = {
  get site(): Site | null {
    return site;
  },
  get name(): string {
    return site?.name ?? DEFAULT_NAME;
  },
};

/** For the window: what this page is, then where. */
export function pageTitle(what = ''): string {
  return what ? `${what} · ${siteView.name}` : siteView.name;
}

export function loadSite(): Promise<void> {
  if (site) return Promise.resolve();
  pending ??= getSite()
    .then((answer) => {
      site = answer;
    })
    .catch(() => {
      // The limits are then unknown here, and the server alone enforces them.
    })
    .finally(() => {
      pending = null;
    });
  return pending;
}
