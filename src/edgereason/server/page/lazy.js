/**
 * Modules that are loaded when they are first needed, so that the page itself is there at once.
 */
import { useEffect, useState } from './vendor/hooks.js';

/**
 * @template T
 * @param {() => Promise<T>} load
 * @returns {() => T | null} a hook: null until it is loaded
 */
export function lazy(load) {
  /** @type {T | null} */
  let loaded = null;
  /** @type {Promise<void> | null} */
  let loading = null;
  return function useLoaded() {
    const [, draw] = useState(0);
    useEffect(() => {
      if (loaded) return;
      loading ??= load().then((found) => void (loaded = found));
      // What failed is tried again by the next view that needs it.
      loading.then(() => draw(1), () => (loading = null));
    }, []);
    return loaded;
  };
}
